"""The base image, from which a bake starts: the distribution's own, or one that a recipe names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from bake.aws.client.commands import aws_command, filters
from bake.aws.client.response import Response
from bake.aws.client.session import Cloud, enabled_regions, filters_for
from bake.aws.image import NOT_FOUND, images
from bake.aws.parameter import read as read_parameter
from bake.aws.tags import Tags, parse_time
from bake.aws.tags import read as read_tags
from bake.catalog import OsImage
from bake.errors import CloudError, Finding, PreflightError
from bake.threads import together

_IMAGE_ID = re.compile(r"ami-[0-9a-f]+")
_LOCK = "invoke lock"


@dataclass(frozen=True)
class BaseImage:
    """An image from which a bake starts, with the attributes that its own image has to repeat.

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
    tags: Tags = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True)
class ImageSource:
    """The place of a base image that a recipe names: an id, owner and name, or an SSM parameter.

    Exactly one is set. `name` may have the wildcards * and ?; with a name alone and no owner, any
    account could offer an image that matches.
    """

    image_id: str = ""
    owner: str = ""
    name: str = ""
    parameter: str = ""


def find_base_image(
    cloud: Cloud,
    os_image: OsImage,
    owner: str | None = None,
    *,
    locked: str = "",
    source: ImageSource | None = None,
) -> BaseImage:
    """Return the base image of the source, or without one the newest that the catalog describes.

    `owner` replaces the owner. `locked` is the id or the name of the only acceptable image, from a
    lock file. PreflightError if the image is not found, or if it cannot be a base image of this
    operating system.
    """
    if source and source.image_id:
        return _of_id(cloud, os_image, source.image_id, "base.ami")
    if source and source.parameter:
        return _of_parameter(cloud, os_image, source.parameter, locked)
    owner = owner or (source.owner if source else os_image.owner_in(cloud.partition))
    if not owner:
        raise _no_owner(cloud, os_image)
    if source and not locked:
        return _of_name(cloud, os_image, source, owner)
    wanted = {
        "image-id" if locked.startswith("ami-") else "name": locked or os_image.name_pattern,
        "architecture": os_image.architecture,
        "state": "available",
        "root-device-type": "ebs",
        "virtualization-type": "hvm",
    }
    newest = max(_described(cloud, owner, wanted), key=_creation, default=None)
    if newest is None:
        raise _not_found(cloud.region, os_image, owner, locked)
    return _base_image(newest, cloud.now())


def find_image_of_recipe(
    cloud: Cloud,
    recipe: str,
    os_image: OsImage,
    *,
    accepted: Collection[str],
    payload: str,
    bake: str,
    locked: str = "",
) -> BaseImage:
    """Return the newest finished image of another recipe, as the base image of a bake.

    `accepted` are the values of `bake:verified` that are good enough, and `payload` is where its
    downloads must come from. `locked` is the id or the name of the only acceptable image, and
    `bake` is the command that makes one, for the hint. PreflightError if there is no such image.
    """
    known = [image for image in images(cloud, recipe) if locked in ("", image.image_id, image.name)]
    for image in known:
        if image.finished and image.verified in accepted and image.payload == payload:
            return _of_id(cloud, os_image, image.image_id, "base.recipe")
    what = f"the recipe {recipe} has no finished image in {cloud.region}"
    if locked:
        what = f"the locked image {locked} of {recipe} not found in {cloud.region}"
    elif other := next((i for i in known if i.finished), None):
        proof = f"proved: {other.verified}, downloads: {other.payload or 'unknown'}"
        what = f"{what} that fits: the newest is {other.image_id} ({proof})"
    raise _refused(cloud, "base.recipe", what, f"Bake it first: {bake}")


def _of_parameter(cloud: Cloud, os_image: OsImage, name: str, locked: str) -> BaseImage:
    image_id = locked or _read_parameter(cloud, name)
    if not _IMAGE_ID.fullmatch(image_id):
        message = f"the value of {name} is not an image's id: {image_id[:80]!r}"
        hint = "Name a parameter whose value is like ami-0123456789abcdef0"
        if locked:
            message = f"the lock has no id of {locked} in {cloud.region}"
            hint = f"Bake with --no-lock, then lock the result: {_LOCK}"
        raise _refused(cloud, "base.ssm_parameter", message, hint)
    return _of_id(cloud, os_image, image_id, "base.ssm_parameter")


def _of_id(cloud: Cloud, os_image: OsImage, image_id: str, place: str) -> BaseImage:
    try:
        found = cloud.ec2("DescribeImages", ImageIds=[image_id], IncludeDeprecated=True)["Images"]
    except CloudError as error:
        if error.code not in {*NOT_FOUND, "InvalidAMIID.Malformed"}:
            raise
        found = []
    if not found:
        raise _refused(cloud, place, *_not_here(cloud, image_id))
    if problem := _problem(found[0], os_image):
        named = f"{image_id} ({found[0].get('Name', '')}) {problem[0]}"
        raise _refused(cloud, place, named, problem[1])
    return _base_image(found[0], cloud.now())


def _of_name(cloud: Cloud, os_image: OsImage, source: ImageSource, owner: str) -> BaseImage:
    """Return the newest usable image; PreflightError with the newest one's reason without any."""
    found = sorted(_described(cloud, owner, {"name": source.name}), key=_creation, reverse=True)
    problems = [_problem(image, os_image) for image in found]
    for image, problem in zip(found, problems, strict=True):
        if problem is None:
            return _base_image(image, cloud.now())
    if problems and problems[0]:
        message, hint = problems[0]
        named = f"{found[0]['ImageId']} ({found[0]['Name']}) {message}"
        raise _refused(cloud, "base.name", named, hint)
    command = _list_images(cloud.region, owner, source.name)
    raise _refused(
        cloud,
        "base.name",
        f"{owner} has no image named {source.name} in {cloud.region} that you may use",
        f"Check owner and name, or use another region. To list the images: {command}",
    )


def _problem(image: Response, os_image: OsImage) -> tuple[str, str] | None:
    """Return why an image cannot be a base image, and the hint; None if it can be one. Pure."""
    choose = "Name another image"
    if (architecture := image["Architecture"]) != os_image.architecture:
        own = f"{os_image.key} is {os_image.architecture} (base.os)"
        return f"is {architecture}, but {own}", f"{choose}, or another base.os"
    if image.get("Platform", "").lower() == "windows":
        return "has Windows", f"{choose}: the stages need Linux"
    if (kind := image.get("RootDeviceType", "ebs")) != "ebs":
        return f"has its root device in the {kind}", f"{choose}, whose root device is in EBS"
    if (kind := image.get("VirtualizationType", "hvm")) != "hvm":
        return f"has the virtualization type {kind}", f"{choose}, of the type hvm"
    if (state := image["State"]) != "available":
        return f"is {state}", f"{choose}, or wait until it is available"
    return None


def _not_here(cloud: Cloud, image_id: str) -> tuple[str, str]:
    """Return the message and the hint for an id that EC2 does not know in this region."""
    message = f"{image_id} not found in {cloud.region}: it does not exist or is not shared with you"
    if regions := _regions_of(cloud, image_id):
        copy = aws_command(
            "ec2",
            "copy-image",
            region=cloud.region,
            source_region=regions[0],
            source_image_id=image_id,
            name="NAME",
        )
        return (
            f"{image_id} is in {', '.join(regions)}, but not in {cloud.region}",
            f'Bake there (region = "{regions[0]}" in the recipe, or --region {regions[0]}), or '
            f"copy it and name the copy: {copy}",
        )
    return message, f"An image's id is valid in one region. Check it for {cloud.region}"


def _regions_of(cloud: Cloud, image_id: str) -> list[str]:
    """Return the other regions that have the image. It is for a hint: errors are ignored."""

    def look(region: str) -> list[str]:
        try:
            request = {"ImageIds": [image_id], "IncludeDeprecated": True}
            return (
                [region]
                if cloud.in_region(region).ec2_once("DescribeImages", **request)["Images"]
                else []
            )
        except CloudError:
            return []

    try:
        others = [region for region in enabled_regions(cloud) if region != cloud.region]
    except CloudError:
        return []
    return [each for some in together(*(partial(look, r) for r in others)) for each in some]


def _read_parameter(cloud: Cloud, name: str) -> str:
    try:
        return read_parameter(cloud, name).value.strip()
    except CloudError as error:
        if error.code != "ParameterNotFound":
            raise
    command = aws_command("ssm", "get-parameter", region=cloud.region, name=name)
    hint = f"A public parameter may differ from region to region. To look: {command}"
    raise _refused(
        cloud, "base.ssm_parameter", f"parameter {name} not found in {cloud.region}", hint
    )


def _described(cloud: Cloud, owner: str, wanted: Mapping[str, str]) -> Iterator[Response]:
    """Yield the images of an owner, also deprecated ones.

    Ubuntu publishes a release whose standard support has ended only as deprecated, and
    DescribeImages hides those by default.
    """
    return cloud.pages(
        "DescribeImages",
        "Images",
        Owners=[owner],
        IncludeDeprecated=True,
        Filters=filters_for(wanted),
    )


def _creation(image: Response) -> str:
    return str(image["CreationDate"])


def _refused(cloud: Cloud, place: str, message: str, hint: str) -> PreflightError:
    finding = Finding(place, message, hint)
    return PreflightError(f"No base image in {cloud.region}", findings=[finding])


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
            f"Bake from the newest base image with --no-lock, then run {_LOCK}",
        )
        message = f"The locked base image {locked} was not found in {region}"
        return PreflightError(message, findings=[finding])
    command = _list_images(region, owner, os_image.name_pattern)
    finding = Finding(
        "base",
        f"no available {os_image.architecture} image of owner {owner} is named "
        f"{os_image.name_pattern} in {region}",
        f"Try another region or another `base`. To list the available images: {command}",
    )
    return PreflightError(f"No base image for {os_image.key} in {region}", findings=[finding])


def _list_images(region: str, owner: str, name: str) -> str:
    return aws_command(
        "ec2",
        "describe-images",
        region=region,
        include_deprecated=True,
        owners=owner,
        filters=filters({"name": name}),
    )


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
        tags=read_tags(image.get("Tags")),
    )
