"""A temporary image: registered from a snapshot while a machine is started from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bake.aws.base_image import BaseImage
from bake.aws.client.commands import removal_command, run_resources
from bake.aws.client.errors import was_refused
from bake.aws.client.session import Cloud
from bake.aws.client.undo import undo
from bake.aws.client.wait import MINUTE, poll, wait_until
from bake.aws.image import Image, deregister_image, find_image, find_image_by_name
from bake.aws.snapshot import BAKE_AGAIN
from bake.aws.tags import Run, specifications, temporary_name
from bake.errors import CheckpointError, CloudError

# Registering copies no data, so it takes seconds.
_REGISTERED_S = 15 * MINUTE
# How long a new image may be unknown to some of EC2's servers.
_KNOWN_S = 15.0
_PENDING = {"pending", "transient"}


@contextmanager
def temporary_image(
    cloud: Cloud, run: Run, snapshot_id: str, base_image: BaseImage
) -> Iterator[str]:
    """Register an image of the snapshot, yield its id, and deregister it at the end.

    The image has the attributes of the base image. A machine that was started from it continues to
    run. CheckpointError if the snapshot was deleted or cannot be used.
    """
    # The same for a repeated request, different for each snapshot that this run tries.
    name = temporary_name(run.id, snapshot_id)
    image_id = ""
    try:
        image_id = _register(cloud, run, name, snapshot_id, base_image)
        _wait_until_registered(cloud, image_id)
    except BaseException as error:
        if image_id or not was_refused(error):
            _deregister(cloud, run, name, image_id)
        raise
    try:
        yield image_id
    finally:
        _deregister(cloud, run, name, image_id)


def _register(cloud: Cloud, run: Run, name: str, snapshot_id: str, base_image: BaseImage) -> str:
    request = _request(run, name, snapshot_id, base_image)
    try:
        image_id: str = cloud.ec2("RegisterImage", **request)["ImageId"]
    except CloudError as error:
        # RegisterImage has no ClientToken, so boto may have repeated a successful request.
        if error.code == "InvalidAMIName.Duplicate" and (mine := _find(cloud, run, name)):
            return mine.image_id
        if error.code.startswith(("InvalidSnapshot", "IncorrectState")):
            raise CheckpointError(
                f"The checkpoint {snapshot_id} cannot be used",
                hint=BAKE_AGAIN,
                code=error.code,
                reason=error.reason,
            ) from None
        raise
    return image_id


def _request(run: Run, name: str, snapshot_id: str, base_image: BaseImage) -> dict[str, Any]:
    """Return the parameters of RegisterImage: the base image's attributes, the snapshot's disk."""
    flags = {
        "BootMode": base_image.boot_mode,
        "EnaSupport": base_image.ena,
        "SriovNetSupport": base_image.sriov,
        "TpmSupport": base_image.tpm,
    }
    # Encryption must not be specified: a volume of an encrypted snapshot is always encrypted.
    disk = {"SnapshotId": snapshot_id, "VolumeType": "gp3", "DeleteOnTermination": True}
    return {
        "Name": name,
        "Description": f"{snapshot_id}, while a machine is started from it",
        "Architecture": base_image.architecture,
        "VirtualizationType": "hvm",
        "RootDeviceName": base_image.root_device_name,
        "BlockDeviceMappings": [{"DeviceName": base_image.root_device_name, "Ebs": disk}],
        "ImdsSupport": "v2.0",
        "TagSpecifications": specifications(run.temporary(), "image"),
        **{flag: value for flag, value in flags.items() if value},
    }


def _wait_until_registered(cloud: Cloud, image_id: str) -> Image:
    def probe() -> Image | None:
        image = find_image(cloud, image_id)
        if image and image.state not in _PENDING | {"available"}:
            raise CheckpointError(
                f"The image {image_id} of a checkpoint went into the state {image.state}",
                hint=BAKE_AGAIN,
                code=image.reason_code,
                reason=image.reason,
            )
        return image if image and image.state == "available" else None

    return wait_until(
        probe,
        what=f"The image {image_id} of a checkpoint is still being registered",
        timeout_s=_REGISTERED_S,
        clock=cloud.clock,
        failure=CheckpointError,
        hint=BAKE_AGAIN,
    )


def _deregister(cloud: Cloud, run: Run, name: str, image_id: str) -> None:
    """Deregister the image. An interrupted call may have made it, so look for `name` without id."""
    ids = image_id or run_resources("image", run.id, region=cloud.region, also={"name": name})
    command = removal_command("image", ids, region=cloud.region)
    with undo(cloud.leftovers, f"image {image_id or name}", command):
        if not image_id:
            image = _find(cloud, run, name)
            image_id = image.image_id if image else ""
        if image_id:
            deregister = partial(deregister_image, cloud, image_id)
            poll(deregister, timeout_s=_KNOWN_S, clock=cloud.clock)


def _find(cloud: Cloud, run: Run, name: str) -> Image | None:
    look = partial(find_image_by_name, cloud, name, run.id)
    return poll(look, timeout_s=_KNOWN_S, clock=cloud.clock)
