"""Requests about volumes. A machine of the local cloud has one, its root device."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError

from bake.local.api.snapshot_backend import NO_DATA_DISKS
from bake.local.api.volumes import check_volume

_TYPE, _SIZE, _IOPS, _THROUGHPUT = "VolumeType", "VolumeSize", "Iops", "Throughput"


class VolumeResponse:
    """The requests that moto executes without EC2's checks."""

    def create_volume(self: Any) -> ActionResult:
        request = self._get_params()
        self._tags_for("volume")
        size = request.get("Size")
        if size is None and request.get("SnapshotId"):
            size = self.ec2_backend.get_snapshot(request["SnapshotId"]).volume_size
        if size is None:
            raise EC2ClientError(
                "MissingParameter", "The request must contain the parameter size or snapshotId"
            )
        check_volume({_TYPE: "gp2", **request, _SIZE: size})
        return super().create_volume()  # type: ignore[misc]

    def detach_volume(self: Any) -> ActionResult:
        self.error_on_dryrun()
        volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
        attachment = volume.attachment
        if attachment is None:
            raise EC2ClientError(
                "IncorrectState", f"Volume '{volume.id}' is in the 'available' state."
            )
        wanted = {"InstanceId": attachment.instance.id, "Device": attachment.device}
        for name, value in wanted.items():
            if self._get_param(name) not in (None, value):
                raise EC2ClientError(
                    "InvalidAttachment.NotFound",
                    f"Volume '{volume.id}' is not attached to {self._get_param(name)}",
                )
        if attachment.instance.state != "stopped":
            raise EC2ClientError(
                "OperationNotPermitted",
                f"Unable to detach root volume '{volume.id}' from instance "
                f"'{attachment.instance.id}'",
            )
        raise EC2ClientError("UnsupportedOperation", f"{NO_DATA_DISKS}: it cannot be detached.")

    def modify_volume(self: Any) -> ActionResult:
        request = self._get_params()
        volume = self.ec2_backend.get_volume(request["VolumeId"])
        size = request.get("Size", volume.size)
        if int(size) < int(volume.size):
            raise EC2ClientError(
                "InvalidParameterValue", "New size cannot be smaller than existing size"
            )
        kind = request.get(_TYPE, volume.volume_type)
        kept = {_IOPS: volume.iops, _THROUGHPUT: volume.throughput}
        if kind != volume.volume_type:
            kept = {}
        check_volume({**kept, **request, _TYPE: kind, _SIZE: size})
        return super().modify_volume()  # type: ignore[misc]
