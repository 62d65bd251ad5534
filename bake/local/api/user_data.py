"""User data as EC2 takes it: in base64, and 16 KB at most before that."""

from __future__ import annotations

import base64
import binascii

from moto.ec2.exceptions import EC2ClientError

# "User data is limited to 16 KB, in raw form, before it is base64-encoded",
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html
MOST_BYTES = 16 * 1024


def decoded(encoded: str | None, *, code: str = "InvalidParameterValue") -> bytes:
    """Return user data byte for byte. Raises EC2's error, with `code`, if it is not allowed."""
    try:
        data = base64.b64decode("".join((encoded or "").split()), validate=True)
    except (binascii.Error, ValueError):
        raise EC2ClientError(code, "Invalid BASE64 encoding of user data.") from None
    return checked(data, code=code)


def checked(data: bytes, *, code: str = "InvalidParameterValue") -> bytes:
    """Return user data that is not too long. Raises EC2's error, with `code`, if it is."""
    if len(data) > MOST_BYTES:
        raise EC2ClientError(code, f"User data is limited to {MOST_BYTES} bytes")
    return data
