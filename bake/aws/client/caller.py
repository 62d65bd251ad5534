"""The address that machines of ours let in, as AWS sees this computer."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from http.client import HTTPException

from bake.errors import PreflightError

CHECK_IP = "https://checkip.amazonaws.com"
_HINT = "Set BAKE_CALLER_CIDR to this computer's address on the Internet, like 203.0.113.7/32"


def caller_cidr() -> str:
    """BAKE_CALLER_CIDR where it is set, else this computer's public IPv4 address as a /32.

    Asked of AWS over HTTPS. Behind a proxy that only carries HTTPS the answer is the proxy's
    address, and SSH comes from another: then the variable is the way. PreflightError otherwise.
    """
    given = os.environ.get("BAKE_CALLER_CIDR")
    return _given(given) if given else _asked()


def _given(text: str) -> str:
    try:
        network = ipaddress.IPv4Network(text.strip())
    except ValueError as error:
        raise PreflightError(
            f"BAKE_CALLER_CIDR is not an IPv4 network: {error}", hint=_HINT
        ) from None
    if network.prefixlen == 0:
        raise PreflightError("BAKE_CALLER_CIDR would let the whole Internet in", hint=_HINT)
    return str(network)


def _asked() -> str:
    try:
        with urllib.request.urlopen(CHECK_IP, timeout=5) as answer:
            text = answer.read(64).decode("ascii", "replace").strip()
    except (OSError, HTTPException) as error:
        raise PreflightError(
            f"{CHECK_IP} does not say which address this computer has: {error}", hint=_HINT
        ) from None
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        address = None
    if address is None or not address.is_global:
        raise PreflightError(
            f"{CHECK_IP} answered {text!r}, which is no public IPv4 address", hint=_HINT
        )
    return f"{address}/32"
