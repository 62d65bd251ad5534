"""The address from which a machine allows SSH."""

from __future__ import annotations

import urllib.request
from http.client import IncompleteRead
from io import BytesIO
from typing import Any
from urllib.error import URLError

import pytest

from bake.aws.client.caller import CHECK_IP, caller_cidr
from bake.errors import PreflightError


def answering(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> list[Any]:
    asked: list[Any] = []

    def urlopen(url: str, *, timeout: float) -> BytesIO:
        asked.append((url, timeout))
        if isinstance(answer, Exception):
            raise answer
        return BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_the_address_is_requested_from_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, b"93.184.216.34\n")
    assert caller_cidr() == "93.184.216.34/32"
    assert asked == [(CHECK_IP, 5)]


def test_the_environment_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, b"")
    monkeypatch.setenv("BAKE_CALLER_CIDR", "127.0.0.1/32")
    assert caller_cidr() == "127.0.0.1/32"
    monkeypatch.setenv("BAKE_CALLER_CIDR", "198.51.100.7")
    assert caller_cidr() == "198.51.100.7/32"
    assert asked == []


@pytest.mark.parametrize("text", ["0.0.0.0/0", "198.51.100.7/8", "::1/128", "office", "1.2.3"])
def test_an_invalid_network_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BAKE_CALLER_CIDR", text)
    with pytest.raises(PreflightError, match="BAKE_CALLER_CIDR"):
        caller_cidr()


@pytest.mark.parametrize(
    "answer", [b"<html>sign in</html>", b"", b"10.0.0.1", b"127.0.0.1", b"\xff\xfe", b"2001:db8::1"]
)
def test_a_response_without_a_public_address_is_an_error(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(PreflightError, match="not a public IPv4 address") as caught:
        caller_cidr()
    assert "BAKE_CALLER_CIDR" in caught.value.hint


@pytest.mark.parametrize("fault", [URLError("no route"), TimeoutError(), IncompleteRead(b"1")])
def test_no_response_is_an_error(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    answering(monkeypatch, fault)
    with pytest.raises(PreflightError, match="did not return the address") as caught:
        caller_cidr()
    assert "BAKE_CALLER_CIDR" in caught.value.hint
