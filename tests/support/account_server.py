"""An account that commands in processes of their own reach over HTTP, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer

from tests.support.aws_in_process import REGION, Aws
from tests.support.runs import an_account


@contextmanager
def account_server() -> Iterator[tuple[Aws, dict[str, str]]]:
    """An account in this process, and the environment with which any AWS client uses it."""
    with an_account() as aws:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        try:
            yield (
                aws,
                {
                    "AWS_ENDPOINT_URL": f"http://{host}:{port}",
                    "AWS_ACCESS_KEY_ID": "testing",
                    "AWS_SECRET_ACCESS_KEY": "testing",
                    "AWS_REGION": REGION,
                },
            )
        finally:
            server.stop()
