"""Starting, ending and reaching the local cloud."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from bake import files
from bake.errors import LocalCloudError
from bake.local.machines.engine import find_engine

DEFAULT_PORT = 4747
# Generous: the engine does one thing at a time, and may be in the middle of somebody's image.
START_TIMEOUT_S = 300
END_TIMEOUT_S = 300


# Servers outlive the process that starts them; one that lives as long asks after them here.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class LocalCloud:
    """A running local cloud. `note` says what is not as it was asked for; often empty."""

    url: str
    ssh_port: int
    pid: int
    note: str = ""
    profile: str = ""  # of EC2's delays that it imitates; empty: none

    def ask(self, path: str, document: Any = None) -> dict[str, Any]:
        """Its owner's door: GET, or POST with a document.

        Raises LocalCloudError with what it answers.
        """
        host, _, port = self.url.removeprefix("http://").partition(":")
        # http.client and nothing that would ask a proxy: it is on loopback.
        connection = http.client.HTTPConnection(host, int(port), timeout=120)
        body = None if document is None else json.dumps(document)
        try:
            connection.request(
                "GET" if body is None else "POST",
                f"/_bake/{path}",
                body,
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            said = answer.read()
        except OSError as error:
            raise LocalCloudError(f"The local cloud at {self.url} does not answer") from error
        finally:
            connection.close()
        if answer.status == 500:
            raise LocalCloudError("The local cloud failed", hint=f"Its log is {log_path()}")
        parsed: dict[str, Any] = json.loads(said)
        if answer.status != 200:
            raise LocalCloudError(f"The local cloud refuses: {parsed['error']}")
        return parsed


def log_path() -> Path:
    return _home() / "server.log"


def up(port: int = DEFAULT_PORT, *, profile: str | None = None) -> LocalCloud:
    """Start it, or find it running. Raises LocalCloudError: why it cannot run here, what to do.

    `profile`: a name of `profiles/` or a TOML file, as in BAKE_LOCAL_PROFILE. LocalCloudError when
    it is said here and the cloud runs with another.
    """
    home = _home()
    wanted = os.environ.get("BAKE_LOCAL_PROFILE", "") if profile is None else profile
    if Path(wanted).suffix:
        wanted = str(Path(wanted).resolve())
    running = status()
    if running and profile is not None and running.profile != wanted:
        raise LocalCloudError(
            f"The local cloud runs with {_described(running.profile)}, "
            f"not with {_described(wanted)}",
            hint="invoke local.down, then again",
        )
    if running:
        return running
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    failure = home / "failure.json"
    failure.unlink(missing_ok=True)
    log = log_path()
    command = [sys.executable, "-m", "bake.local.server", "--home", str(home), "--port", str(port)]
    command += ["--profile", wanted]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment_without_aws(),
            start_new_session=True,
        )
    _started.append(process)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = process.poll()
        if ended:
            raise _failure(failure, log)
        running = status()
        # 0: another one was first, and is the one that answers.
        if running and (running.pid == process.pid or ended == 0):
            return running
        time.sleep(0.05)
    raise LocalCloudError(
        f"The local cloud did not answer within {START_TIMEOUT_S} s", hint=f"Its log is {log}"
    )


def down(*, erase: bool = False) -> bool:
    """End it and its machines; whether one was running.

    Images, snapshots and key pairs are kept for the next time, unless they are to be erased too.
    """
    running = status()
    if running is None and not erase:
        return False
    running = running or up()
    if erase:
        running.ask("erase", {})
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < deadline:
        if not _is_served(_home()):
            status()  # asks after it, so that it does not stay behind as a zombie
            return True
        time.sleep(0.05)
    raise LocalCloudError(
        f"The local cloud (process {running.pid}) does not end", hint=f"kill -9 {running.pid}"
    )


def status() -> LocalCloud | None:
    """The running local cloud of this home, if there is one."""
    home = _home()
    _started[:] = [process for process in _started if process.poll() is None]
    if not _is_served(home):
        return None
    try:
        state = json.loads((home / "server.json").read_text())
        os.kill(state["pid"], 0)
    except (OSError, ValueError):
        return None  # it is starting, or ending; the file may be of one that was killed
    wanted = state["wanted_port"]
    moved = not state["url"].endswith(f":{wanted}")
    return LocalCloud(
        url=state["url"],
        ssh_port=state["ssh_port"],
        pid=state["pid"],
        profile=state.get("profile", ""),
        note=f"port {wanted} is taken: the local cloud is at {state['url']}" if moved else "",
    )


def _described(profile: str) -> str:
    return f"the delays of {profile}" if profile else "no delays"


def environment(endpoint: LocalCloud) -> dict[str, str]:
    """What any EC2 client needs to reach it."""
    return {
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",  # nothing is secret here: signatures are not checked
        "AWS_EC2_METADATA_DISABLED": "true",
        "BAKE_CALLER_CIDR": "127.0.0.1/32",
        "BAKE_SSH_PORT": str(endpoint.ssh_port),
    }


def _home() -> Path:
    return files.home() / "local"


def _is_served(home: Path) -> bool:
    """Whether a server lives: it holds the lock as long as it does, however it ends."""
    lock = home / "server.lock"
    if not lock.exists():  # filelock would make it, and the server of a deleted home would go on
        return False
    try:
        with filelock.FileLock(lock, blocking=False):
            return False
    except filelock.Timeout:
        return True


def _environment_without_aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _failure(failure: Path, log: Path) -> LocalCloudError:
    try:
        known = json.loads(failure.read_text())
        return LocalCloudError(known["message"], hint=known["hint"], details=known["details"])
    except (OSError, ValueError):
        last = log.read_text(errors="replace").splitlines()[-20:]
        return LocalCloudError(
            "The local cloud cannot be started", hint=f"Its log is {log}", details=last
        )


def needs() -> Mapping[str, Callable[[], str]]:
    """What says how each of them is; LocalCloudError where it is missing."""
    return {"containers": _containers, "local cloud": _cloud}


def _containers() -> str:
    return find_engine().note


def _cloud() -> str:
    endpoint = status()
    return f"runs at {endpoint.url}" if endpoint else "does not run; it is started when needed"
