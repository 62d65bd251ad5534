"""Session Manager of the local cloud: SSH to machines that have no public address.

https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_StartSession.html

Which sessions there are, and what they are refused for, is AWS's; what carries them is not: the
stream's URL is `tcp://ADDRESS:PORT`, the machine's SSH port itself. AWS's plugin takes wss alone.
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
    """moto's Systems Manager has no sessions."""
    moto.ssm.urls.url_paths["{0}/$"] = LocalSessionResponse.dispatch


class LocalSessionResponse(SimpleSystemManagerResponse):  # type: ignore[misc]
    """One request."""

    def start_session(self) -> ActionResult:
        asked = json.loads(self.body)
        if asked.get("DocumentName") != _DOCUMENT:
            raise JsonRESTError("InvalidDocument", f"The local cloud has {_DOCUMENT} alone.")
        backend = ec2_backends[self.current_account][self.region]
        target = asked["Target"]
        instance = next((each for each in backend.all_instances() if each.id == target), None)
        if instance is None or not _has_an_agent_that_answers(instance):
            raise JsonRESTError("TargetNotConnected", f"{target} is not connected.")
        machine = instance.machine
        (port,) = asked.get("Parameters", {}).get("portNumber", ["22"])
        return ActionResult(
            {
                "SessionId": f"local-{secrets.token_hex(9)}",
                "TokenValue": secrets.token_urlsafe(32),
                "StreamUrl": f"tcp://{machine.address}:{port}",
            }
        )

    def terminate_session(self) -> ActionResult:
        return ActionResult({"SessionId": json.loads(self.body)["SessionId"]})


def _has_an_agent_that_answers(instance: Any) -> bool:
    """It may do so by its instance profile; none here has Default Host Management."""
    profiles = instance.ec2_backend.iam_instance_profile_associations
    return instance.state == "running" and instance.reachable and instance.id in profiles
