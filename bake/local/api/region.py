"""Refuse requests to a region that does not exist, whatever the service."""

from __future__ import annotations

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from werkzeug.wrappers import Request, Response

from bake.local.api.error_response import error_response, scope_of


def exists(region: str) -> bool:
    return region in ec2_backends[DEFAULT_ACCOUNT_ID].regions


def refusal(request: Request) -> Response | None:
    """Return the response to a request whose signature names an unknown region, or None.

    Each service has its own code for it; the message is the same.
    """
    region, service = scope_of(request)
    if not region or exists(region):
        return None
    message = f"Credential should be scoped to a valid region, not '{region}'. "
    if "X-Amz-Target" in request.headers:
        return error_response(request, "InvalidSignatureException", message)
    if service == "ec2":
        return error_response(request, "AuthFailure", message, 401)
    return error_response(request, "SignatureDoesNotMatch", message, 403)
