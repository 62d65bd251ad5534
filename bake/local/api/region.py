"""Refuse requests to a region that does not exist, whatever the service."""

from __future__ import annotations

import json
import re

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from werkzeug.wrappers import Request, Response

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
_SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/aws4_request")


def exists(region: str) -> bool:
    return region in ec2_backends[DEFAULT_ACCOUNT_ID].regions


def refusal(request: Request) -> Response | None:
    """Return the response to a request whose signature names an unknown region, or None.

    Each service has its own code and format for it; the message is the same.
    """
    scope = _SCOPE.search(request.headers.get("Authorization", ""))
    if scope is None or exists(scope[1]):
        return None
    message = f"Credential should be scoped to a valid region, not '{scope[1]}'. "
    if "X-Amz-Target" in request.headers:
        error = {"__type": "InvalidSignatureException", "message": message}
        return Response(json.dumps(error), 400, content_type="application/x-amz-json-1.1")
    if scope[2] == "ec2":
        inner = (
            f"<Errors><Error><Code>AuthFailure</Code><Message>{message}</Message></Error></Errors>"
        )
        body = f"<Response>{inner}<RequestID>r</RequestID></Response>"
        return Response(body, 401, content_type="text/xml")
    inner = f"<Code>SignatureDoesNotMatch</Code><Message>{message}</Message>"
    body = f"<ErrorResponse><Error>{inner}</Error><RequestId>r</RequestId></ErrorResponse>"
    return Response(body, 403, content_type="text/xml")
