"""The distribution's own image from which a bake starts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bake.aws.client.response import Response
from bake.aws.client.session import Cloud
from bake.aws.tags import parse_time
from bake.catalog import OsImage
from bake.errors import Finding, PreflightError


@dataclass(frozen=True)
class BaseImage:
    """`boot_mode` is None where the image does not say; EC2 then takes the architecture's own.

    `sriov` ("simple") and `tpm` ("v2.0") are EC2's words, None where the image has no such support.
    An image's UEFI variables only its owner may read; Ubuntu's and Debian's bring none.
    """

    image_id: str
    name: str
    architecture: str
    root_device_name: str
    size_gb: int
    created_at: datetime
    deprecated: bool
    boot_mode: str | None
    ena: bool | None
    sriov: str | None = None
    tpm: str | None = None


def find_base_image(
    cloud: Cloud, os_image: OsImage, owner: str | None = None, *, locked: str = ""
) -> BaseImage:
    """The newest available one of that owner and name; `owner` takes the catalog's place.

    `locked` is the id or the name of the only one that will do, as a lock has it.
    Deprecated images are asked for too: an Ubuntu whose standard support has ended is published
    only as such, and DescribeImages hides it otherwise. PreflightError when there is none.
    """
    owner = owner or os_image.owner
    wanted = {
        "image-id" if locked.startswith("ami-") else "name": locked or os_image.name_pattern,
        "architecture": os_image.architecture,
        "state": "available",
        "root-device-type": "ebs",
        "virtualization-type": "hvm",
    }
    found = cloud.pages(
        "DescribeImages",
        "Images",
        Owners=[owner],
        IncludeDeprecated=True,
        Filters=[{"Name": name, "Values": [value]} for name, value in wanted.items()],
    )
    newest = max(found, key=lambda image: image["CreationDate"], default=None)
    if newest is None and locked:
        raise PreflightError(
            f"The base image of the lock is not in {cloud.region}, or not any more",
            findings=[
                Finding(
                    "base",
                    f"{locked} of owner {owner} is locked, and there is none",
                    "Bake on the newest one (--no-lock), then lock that: invoke lock",
                )
            ],
        )
    if newest is None:
        raise PreflightError(
            f"There is no base image for {os_image.key} in {cloud.region}",
            findings=[
                Finding(
                    "base",
                    f"no available {os_image.architecture} image of owner {owner} is named "
                    f"{os_image.name_pattern} in {cloud.region}",
                    "Look with `aws ec2 describe-images --include-deprecated "
                    f"--owners {owner} --filters 'Name=name,Values={os_image.name_pattern}' "
                    f"--region {cloud.region}`; try another region, or another `base`",
                )
            ],
        )
    return _base_image(newest, cloud.now())


def _base_image(image: Response, now: datetime) -> BaseImage:
    mappings = image["BlockDeviceMappings"]
    roots = [m for m in mappings if m.get("DeviceName") == image["RootDeviceName"]]
    if not roots:
        raise image.illegible("BlockDeviceMappings")
    deprecated_at = parse_time(image.get("DeprecationTime", ""))
    return BaseImage(
        image_id=image["ImageId"],
        name=image["Name"],
        architecture=image["Architecture"],
        root_device_name=image["RootDeviceName"],
        size_gb=roots[0]["Ebs"]["VolumeSize"],
        created_at=image.time("CreationDate"),
        deprecated=deprecated_at is not None and deprecated_at <= now,
        boot_mode=image.get("BootMode"),
        ena=image.get("EnaSupport"),
        sriov=image.get("SriovNetSupport"),
        tpm=image.get("TpmSupport"),
    )
