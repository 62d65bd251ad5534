"""The requests that launch instances: RunInstances and RequestSpotInstances."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError

from bake.local.api import user_data
from bake.local.api.client_tokens import check_same, fingerprint
from bake.local.api.launch.parameters import of_spot_request


class LaunchResponse:
    """The requests for instances. `LaunchBackend` launches them."""

    def run_instances(self: Any) -> ActionResult:
        """Launch MaxCount instances. A second request with the same ClientToken launches none."""
        self.error_on_dryrun()
        request = self._get_params()
        self._tags_for("instance", "volume", "network-interface", "spot-instances-request")
        token, parameters = request.get("ClientToken"), fingerprint(request)
        if token in self.ec2_backend.client_tokens:
            return ActionResult(_reservation_of(self.ec2_backend, token, parameters))
        reservation = self.ec2_backend.launch(request)
        if token:
            self.ec2_backend.client_tokens[token] = (parameters, reservation.id)
        return ActionResult(reservation)

    def request_spot_instances(self: Any) -> ActionResult:
        self.error_on_dryrun()
        self._tags_for("spot-instances-request")
        reservation = self.ec2_backend.launch(of_spot_request(self._get_params()))
        requests = [self.ec2_backend.spot_request_of(each) for each in reservation.instances]
        return ActionResult({"SpotInstanceRequests": requests})

    def create_launch_template(self: Any) -> ActionResult:
        self._check_template()
        return super().create_launch_template()  # type: ignore[misc]

    def create_launch_template_version(self: Any) -> ActionResult:
        self._check_template()
        return super().create_launch_template_version()  # type: ignore[misc]

    def _check_template(self: Any) -> None:
        encoded = self._get_param("LaunchTemplateData.UserData")
        user_data.decoded(encoded, code="InvalidUserData.Malformed")

    def request_spot_fleet(self) -> ActionResult:
        raise EC2ClientError(
            "UnsupportedOperation",
            "The local cloud has no Spot Fleets. Use CreateFleet with the type instant.",
        )


def _reservation_of(backend: Any, token: str, parameters: str) -> Any:
    """Return the reservation that the first request with this token made."""
    first, reservation_id = backend.client_tokens[token]
    check_same(token, first, parameters)
    reservation = backend.reservations[reservation_id]
    if any(instance.state == "terminated" for instance in reservation.instances):
        raise EC2ClientError(
            "IdempotentInstanceTerminated",
            "The instance that was launched with this client token has been terminated.",
        )
    return reservation
