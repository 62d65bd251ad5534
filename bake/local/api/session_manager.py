"""Session Manager of the local cloud: SSH to machines that have no public address.

https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_StartSession.html

The requests and their errors are AWS's, but not the connection: the stream's URL is
`tcp://ADDRESS:PORT`, the machine's SSH port itself. AWS's plugin accepts only wss.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import moto.ssm.urls
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.ec2.models import ec2_backends
from moto.ssm.responses import SimpleSystemManagerResponse

_DOCUMENT = "AWS-StartSSHSession"


def install() -> None:
    """Add sessions to moto's Systems Manager."""
    moto.ssm.urls.url_paths["{0}/$"] = LocalSessionResponse.dispatch


class LocalSessionResponse(SimpleSystemManagerResponse):  # type: ignore[misc]
    """One request to Systems Manager, and its response."""

    def start_session(self) -> ActionResult:
        parameters = json.loads(self.body)
        if parameters.get("DocumentName") != _DOCUMENT:
            raise JsonRESTError("InvalidDocument", f"Only {_DOCUMENT} is supported.")
        backend = ec2_backends[self.current_account][self.region]
        target = parameters["Target"]
        instance = next((each for each in backend.all_instances() if each.id == target), None)
        if instance is None or not _is_connected(instance):
            raise JsonRESTError("TargetNotConnected", f"{target} is not connected.")
        machine = instance.machine
        (port,) = parameters.get("Parameters", {}).get("portNumber", ["22"])
        return ActionResult(
            {
                "SessionId": f"local-{secrets.token_hex(9)}",
                "TokenValue": secrets.token_urlsafe(32),
                "StreamUrl": f"tcp://{machine.address}:{port}",
            }
        )

    def terminate_session(self) -> ActionResult:
        return ActionResult({"SessionId": json.loads(self.body)["SessionId"]})


def _is_connected(instance: Any) -> bool:
    """Return whether the instance runs and has a profile, with which an agent may connect."""
    profiles = instance.ec2_backend.iam_instance_profile_associations
    return instance.state == "running" and instance.reachable and instance.id in profiles
