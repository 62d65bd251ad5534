"""Unit tests need no machine and no network: a test that tries to reach one fails.

A server on loopback that the test itself runs, in a thread, is allowed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader
from moto.kms import models as kms

PROGRAMS = frozenset(
    ("podman", "docker", "sshd", "ssh", "qemu-system-x86_64", "chromium", "chromedriver", "packer")
)
LOOPBACK = ("127.0.0.1", "::1", "localhost", b"localhost", b"127.0.0.1")


class OutsideError(BaseException):
    """A unit test has opened a connection, or started a program that does."""


_attempts: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _attempts is None:
        return
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        address = arguments[1] if event != "socket.getaddrinfo" else arguments
        if not isinstance(address, tuple) or address[0] in LOOPBACK:
            return  # a Unix socket is not a tuple
        attempt = f"{event} {arguments[:2]}"
    elif event == "subprocess.Popen":
        command = arguments[1]
        first = command if isinstance(command, (str, bytes)) else command[0]
        program = os.fsdecode(first)
        name = os.path.basename(program)  # noqa: PTH119  (it may be bytes)
        # A program in the temporary folder is a test's own, in the place of the real one.
        if name not in PROGRAMS or program.startswith(tempfile.gettempdir()):
            return
        attempt = f"{event} {name}"
    else:
        return
    _attempts.append(attempt)
    raise OutsideError(f"unit tests reach nothing outside their process: {attempt}")


sys.addaudithook(_watch)


@pytest.fixture(scope="session", autouse=True)
def libraries_do_their_work_once() -> Iterator[None]:
    """Let botocore read each of its data files once, and moto make one key pair for all KMS keys.

    Each test has AWS sessions and KMS keys of its own, and no test looks at these key pairs.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        load = cache(JSONFileLoader().load_file)
        monkeypatch.setattr(JSONFileLoader, "load_file", lambda _, path: load(path))
        monkeypatch.setattr(kms, "generate_private_key", cache(kms.generate_private_key))
        yield


@pytest.fixture(autouse=True)
def nothing_outside_is_reached() -> Iterator[None]:
    """Fail the test that tries, even where the error is caught by the code under test."""
    global _attempts
    _attempts = attempts = []
    yield
    _attempts = None
    assert not attempts, f"unit tests reach nothing outside their process: {attempts}"
