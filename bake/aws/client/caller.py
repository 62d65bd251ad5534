"""The address from which this computer reaches AWS: machines allow SSH from it alone."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from http.client import HTTPException

from bake.errors import PreflightError

CHECK_IP = "https://checkip.amazonaws.com"
_HINT = (
    "Set BAKE_CALLER_CIDR to the public address of this computer, for example: "
    "export BAKE_CALLER_CIDR=203.0.113.7/32"
)


def caller_cidr() -> str:
    """Return BAKE_CALLER_CIDR if it is set, otherwise this computer's public IPv4 address as a /32.

    The address is requested from AWS over HTTPS. Behind a proxy for HTTPS the result is the address
    of the proxy, but SSH comes from another one: BAKE_CALLER_CIDR has to be set then.
    PreflightError if the variable is invalid or the address cannot be determined.
    """
    value = os.environ.get("BAKE_CALLER_CIDR")
    return _checked(value) if value else _public_address()


def _checked(text: str) -> str:
    try:
        network = ipaddress.IPv4Network(text.strip())
    except ValueError as error:
        raise PreflightError(
            f"Invalid BAKE_CALLER_CIDR, not an IPv4 network: {error}", hint=_HINT
        ) from None
    if network.prefixlen == 0:
        raise PreflightError("BAKE_CALLER_CIDR would allow SSH from the whole Internet", hint=_HINT)
    return str(network)


def _public_address() -> str:
    try:
        with urllib.request.urlopen(CHECK_IP, timeout=5) as response:
            text = response.read(64).decode("ascii", "replace").strip()
    except (OSError, HTTPException) as error:
        raise PreflightError(
            f"{CHECK_IP} did not return the address of this computer: {error}", hint=_HINT
        ) from None
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        address = None
    if address is None or not address.is_global:
        raise PreflightError(
            f"{CHECK_IP} returned {text!r}, which is not a public IPv4 address", hint=_HINT
        )
    return f"{address}/32"
