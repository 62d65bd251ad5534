"""The clouds of the commands: the local one is started when needed, and the user learns of it."""

from __future__ import annotations

import pytest

import tasks  # noqa: F401  (bake.cli finds the checkout by this module)
from bake.aws.client import session
from bake.cli.environment import open_cloud, ssh_port
from bake.cli.options import CommonOptions
from bake.console.console import Console
from bake.errors import RequestError
from bake.local import control

ENDPOINT = control.LocalCloud("http://127.0.0.1:4747", 22, 1)


@pytest.mark.parametrize(("running", "says"), [(None, True), (ENDPOINT, False)])
def test_a_local_cloud_that_is_started_for_a_command_is_said_to_keep_running(
    running: control.LocalCloud | None,
    says: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(control, "status", lambda: running)
    monkeypatch.setattr(control, "up", lambda: ENDPOINT)
    monkeypatch.setattr(control, "use", lambda _: None)
    monkeypatch.setattr(session, "connect", lambda _: None)
    open_cloud(Console(), CommonOptions(local=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("The local cloud keeps running until: " in err) == says
    assert err.rstrip().endswith("invoke local.down") == says


@pytest.mark.parametrize("text", ["abc", "-5", "0", "65536", "22.0", "²²", "9" * 5000])
def test_an_invalid_port_is_a_wrong_request(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_SSH_PORT", text)
    with pytest.raises(RequestError, match="BAKE_SSH_PORT"):
        ssh_port()


@pytest.mark.parametrize(("text", "port"), [("", 22), ("2222", 2222)])
def test_the_port_of_ssh_can_be_set(text: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_SSH_PORT", text)
    assert ssh_port() == port
