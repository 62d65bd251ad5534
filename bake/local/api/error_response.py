"""Error responses in the format of the service that a request is for."""

from __future__ import annotations

import json
import re
from xml.sax.saxutils import escape

from werkzeug.wrappers import Request, Response

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
_SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/aws4_request")


def scope_of(request: Request) -> tuple[str, str]:
    """Return the region and the service that a request's signature names, or empty texts."""
    scope = _SCOPE.search(request.headers.get("Authorization", ""))
    return (scope[1], scope[2]) if scope else ("", "")


def error_response(request: Request, code: str, message: str, status: int = 400) -> Response:
    """Return an error as the service's protocol has it: JSON, EC2's XML, or the other XML."""
    if "X-Amz-Target" in request.headers:
        error = {"__type": code, "message": message}
        return Response(json.dumps(error), status, content_type="application/x-amz-json-1.1")
    inner = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    if scope_of(request)[1] == "ec2":
        body = f"<Response><Errors>{inner}</Errors><RequestID>r</RequestID></Response>"
    else:
        body = f"<ErrorResponse>{inner}<RequestId>r</RequestId></ErrorResponse>"
    return Response(body, status, content_type="text/xml")
