"""The base image: the distribution's own image from which a bake starts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bake.aws.client.commands import aws_command, filters
from bake.aws.client.response import Response
from bake.aws.client.session import Cloud, filters_for
from bake.aws.tags import parse_time
from bake.catalog import OsImage
from bake.errors import Finding, PreflightError


@dataclass(frozen=True)
class BaseImage:
    """An image of the distribution, with the attributes that an image made from it has to repeat.

    `boot_mode` is None if the image does not specify it; EC2 then uses the architecture's default.
    `sriov` ("simple") and `tpm` ("v2.0") have EC2's values, None without such support. Only the
    owner can read the UEFI variables of an image; Ubuntu's and Debian's images have none.
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
    """Return the newest available image of the catalog's name pattern and owner, or of `owner`.

    `locked` is the id or the name of the only acceptable image, from a lock file. Deprecated images
    are included: Ubuntu publishes a release whose standard support has ended only as deprecated,
    and DescribeImages hides those by default. PreflightError if no image is found.
    """
    owner = owner or os_image.owner_in(cloud.partition)
    if not owner:
        raise _no_owner(cloud, os_image)
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
        Filters=filters_for(wanted),
    )
    newest = max(found, key=lambda image: image["CreationDate"], default=None)
    if newest is None:
        raise _not_found(cloud.region, os_image, owner, locked)
    return _base_image(newest, cloud.now())


def _no_owner(cloud: Cloud, os_image: OsImage) -> PreflightError:
    finding = Finding(
        "base",
        f"the owner of the images of {os_image.key} in {cloud.partition} is not known",
        "Use another `base`, such as ubuntu-22.04, or another region",
    )
    return PreflightError(f"No base image for {os_image.key} in {cloud.region}", findings=[finding])


def _not_found(region: str, os_image: OsImage, owner: str, locked: str) -> PreflightError:
    if locked:
        finding = Finding(
            "base",
            f"no available image {locked} of owner {owner}",
            "Bake from the newest base image with --no-lock, then run invoke lock",
        )
        message = f"The locked base image {locked} was not found in {region}"
        return PreflightError(message, findings=[finding])
    command = aws_command(
        "ec2",
        "describe-images",
        region=region,
        include_deprecated=True,
        owners=owner,
        filters=filters({"name": os_image.name_pattern}),
    )
    finding = Finding(
        "base",
        f"no available {os_image.architecture} image of owner {owner} is named "
        f"{os_image.name_pattern} in {region}",
        f"Try another region or another `base`. To list the available images: {command}",
    )
    return PreflightError(f"No base image for {os_image.key} in {region}", findings=[finding])


def _base_image(image: Response, now: datetime) -> BaseImage:
    mappings = image["BlockDeviceMappings"]
    roots = [m for m in mappings if m.get("DeviceName") == image["RootDeviceName"]]
    if not roots:
        raise image.unreadable("BlockDeviceMappings")
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
