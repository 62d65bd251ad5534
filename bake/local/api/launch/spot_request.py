"""The spot request that a launch in the spot market makes for each instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import random_spot_request_id

from bake.local.api.image import now
from bake.local.api.instance import LocalInstance


@dataclass(eq=False, kw_only=True)
class SpotRequest(TaggedEC2Resource):  # type: ignore[misc]
    """The request of one spot instance. It ends with the instance."""

    ec2_backend: Any = field(repr=False)
    instance: LocalInstance
    price: str = ""
    interruption: str = "terminate"
    id: str = field(default_factory=random_spot_request_id)
    create_time: datetime = field(default_factory=now)

    type = "one-time"
    product_description = "Linux/UNIX"

    def set_options(self, spot_options: Mapping[str, Any]) -> None:
        self.price = spot_options.get("MaxPrice", "")
        self.interruption = spot_options.get("InstanceInterruptionBehavior", "terminate")

    @property
    def spot_instance_request_id(self) -> str:
        return self.id

    @property
    def spot_price(self) -> str:
        return self.price

    @property
    def instance_id(self) -> str:
        return str(self.instance.id)

    @property
    def instance_interruption_behavior(self) -> str:
        return self.interruption

    @property
    def state(self) -> str:
        return "closed" if self.instance.state == "terminated" else "active"

    @property
    def status(self) -> dict[str, Any]:
        """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html"""
        marked = self.instance.interrupted_at
        if self.state == "active":
            code = "marked-for-termination" if marked else "fulfilled"
        else:
            by_market = self.instance.state_reason.code.startswith("Server.Spot")
            code = f"instance-terminated-{'no-capacity' if by_market else 'by-user'}"
        return {"Code": code, "Message": "", "UpdateTime": marked or self.create_time}

    @property
    def launch_specification(self) -> dict[str, Any]:
        instance = self.instance
        return {"ImageId": instance.image_id, "InstanceType": instance.instance_type}
