"""Start, stop and reach the local cloud. The functions have the names of its commands."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock

from bake import files
from bake.errors import LocalCloudError
from bake.local.machines.engine import find_engine

DEFAULT_PORT = 4747
# Generous: the engine runs one command at a time, and may be committing another user's image.
START_TIMEOUT_S = 300
END_TIMEOUT_S = 300
# Those of the extra `local` in setup.cfg, by the names of their modules.
_LIBRARIES = ("jmespath", "moto", "trustme", "uv", "werkzeug")
_LEAST_FREE_BYTES = 64 * 1024  # for a server that has only started


# Variables of AWS's clients that do not decide where a request is sent, and with which keys.
_KEPT = ("AWS_PAGER", "AWS_DEFAULT_OUTPUT", "AWS_CLI_")


# The servers that this process started. It polls them, so that none stays behind as a zombie.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class LocalCloud:
    """A running local cloud."""

    url: str
    ssh_port: int
    pid: int
    note: str = ""  # a difference from the request, such as another port; often empty
    profile: str = ""  # the name of the delay profile; empty if nothing is delayed

    def request(self, path: str, document: Any = None) -> dict[str, Any]:
        """Send a request to the owner's API (`/_bake/`): GET, or POST with a document.

        Raises LocalCloudError with the server's error message.
        """
        host, _, port = self.url.removeprefix("http://").partition(":")
        # The server is on loopback. http.client uses no proxy, whatever the environment says.
        connection = http.client.HTTPConnection(host, int(port), timeout=120)
        body = None if document is None else json.dumps(document)
        try:
            connection.request(
                "GET" if body is None else "POST",
                f"/_bake/{path}",
                body,
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            content = response.read()
        except OSError as error:
            raise LocalCloudError(f"The local cloud at {self.url} does not answer") from error
        finally:
            connection.close()
        if response.status == 500:
            raise LocalCloudError("The local cloud failed", hint=f"See its log: {log_path()}")
        parsed: dict[str, Any] = json.loads(content)
        if response.status != 200:
            raise LocalCloudError(f"The local cloud refused the request: {parsed['error']}")
        return parsed


def log_path() -> Path:
    return _home() / "server.log"


def check_computer() -> None:
    """Raise LocalCloudError if this computer, or what is installed on it, cannot run the cloud."""
    if sys.platform != "linux":
        raise LocalCloudError(
            f"The local cloud needs Linux, and this computer runs {platform.system()}",
            hint="Use AWS: leave out --local",
        )
    missing = [name for name in _LIBRARIES if not importlib.util.find_spec(name)]
    if missing:
        raise LocalCloudError(
            f"The local cloud needs Python packages that are missing: {', '.join(missing)}",
            hint="Install bake with its extra `local`: pip install 'bake[local]'",
        )


def up(port: int = DEFAULT_PORT, *, profile: str | None = None) -> LocalCloud:
    """Return the running local cloud; start it first if it does not run.

    `profile` is the name of a file in `profiles/`, or the path of a TOML file; the default is the
    value of BAKE_LOCAL_PROFILE. Raises LocalCloudError if the cloud cannot be started, or if
    `profile` is given and the cloud runs with another profile.
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
            hint="Run `invoke local.down`, then run the command again",
        )
    if running:
        return running
    check_computer()
    failure, log = home / "failure.json", log_path()
    process = _start_server(home, port, wanted, failure, log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = process.poll()
        if ended:
            raise _failure(failure, log)
        running = status()
        # Status 0: another process was faster, and its server answers.
        if running and (running.pid == process.pid or ended == 0):
            return running
        time.sleep(0.05)
    raise LocalCloudError(
        f"The local cloud did not answer within {START_TIMEOUT_S} s", hint=f"See its log: {log}"
    )


def _start_server(
    home: Path, port: int, profile: str, failure: Path, log: Path
) -> subprocess.Popen[bytes]:
    files.make_folder(home, mode=0o700)
    files.make_folder(files.cache())
    with files.writing(failure):
        failure.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bake.local.server", "--home", str(home), "--port", str(port)]
    command += ["--profile", profile]
    with files.writing(log), log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment_without_aws(),
            start_new_session=True,
        )
    _started.append(process)
    return process


def down(*, erase: bool = False) -> bool:
    """End the local cloud and its machines. Return False if no cloud was running.

    Images, snapshots and key pairs are kept for the next start, unless `erase` is set.
    """
    running = status()
    if running is None and not erase:
        return False
    running = running or up()
    if erase:
        running.request("erase", {})
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < deadline:
        if not _is_served(_home()):
            status()  # polls the process, so that it does not stay behind as a zombie
            return True
        time.sleep(0.05)
    raise LocalCloudError(
        f"The local cloud (process {running.pid}) did not end within {END_TIMEOUT_S} s",
        hint=f"Run `kill -9 {running.pid}`",
    )


def status() -> LocalCloud | None:
    """Return the running local cloud of this BAKE_HOME; None if it does not run."""
    home = _home()
    _started[:] = [process for process in _started if process.poll() is None]
    if not _is_served(home):
        return None
    try:
        state = json.loads((home / "server.json").read_text())
        os.kill(state["pid"], 0)
    except (OSError, ValueError):
        return None  # the cloud is starting or ending, or a killed one left the file behind
    wanted = state["wanted_port"]
    moved = not state["url"].endswith(f":{wanted}")
    return LocalCloud(
        url=state["url"],
        ssh_port=state["ssh_port"],
        pid=state["pid"],
        profile=state.get("profile", ""),
        note=f"port {wanted} is in use: the local cloud is at {state['url']}" if moved else "",
    )


def _described(profile: str) -> str:
    return f"the delays of {profile}" if profile else "no delays"


def use(cloud: LocalCloud) -> None:
    """Make this process and its children use the local cloud, without the caller's AWS settings."""
    variables = environment(cloud)
    for name in foreign_settings(os.environ):
        del os.environ[name]
    os.environ.update(variables)


def foreign_settings(names: Iterable[str]) -> list[str]:
    """Return the variables that would send a client elsewhere, or make it fail: most of AWS_…."""
    return sorted(name for name in names if name.startswith("AWS_") and not name.startswith(_KEPT))


def environment(cloud: LocalCloud) -> dict[str, str]:
    """Return the environment variables with which any EC2 client reaches the local cloud.

    They work only without the `foreign_settings` of the caller.
    """
    no_proxy = _without_proxy(cloud.url)
    return {
        "AWS_ENDPOINT_URL": cloud.url,
        # A profile may name endpoints, proxies and certificates; none of the caller's is read.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",  # not secret: the signatures of this key are not checked
        "AWS_EC2_METADATA_DISABLED": "true",
        "BAKE_CALLER_CIDR": "127.0.0.1/32",
        "BAKE_SSH_PORT": str(cloud.ssh_port),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def packer_builder(cloud: LocalCloud) -> dict[str, object]:
    """Return the keys with which a Packer builder (amazon-ebs) uses the local cloud.

    Packer 1.6 uses an SDK that does not read AWS_ENDPOINT_URL. It also needs the variables of
    `environment`.
    """
    return {"custom_endpoint_ec2": cloud.url, "ssh_port": cloud.ssh_port}


def _without_proxy(url: str) -> str:
    """Return the hosts that are reached without a proxy: the caller's, and that of the URL."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [*known.split(","), str(urlsplit(url).hostname)]
    return ",".join(dict.fromkeys(host.strip() for host in hosts if host.strip()))


def _home() -> Path:
    return files.home() / "local"


def _is_served(home: Path) -> bool:
    """Return whether a server runs. It holds the lock until its process ends, in whatever way."""
    lock = home / "server.lock"
    # filelock would create the file, and a server whose home was deleted would never end.
    if not lock.exists():
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
        written = json.loads(failure.read_text())
        return LocalCloudError(written["message"], hint=written["hint"], details=written["details"])
    except (OSError, ValueError):
        if shutil.disk_usage(log.parent).free < _LEAST_FREE_BYTES:
            return LocalCloudError(
                f"The local cloud cannot be started: the disk of {log.parent} is full",
                hint="Free space on that disk, or choose another folder: BAKE_HOME=FOLDER",
            )
        last_lines = log.read_text(errors="replace").splitlines()[-20:]
        return LocalCloudError(
            "The local cloud cannot be started", hint=f"See its log: {log}", details=last_lines
        )


def needs() -> Mapping[str, Callable[[], str]]:
    """Map the name of each requirement of the local cloud to the function that checks it.

    The function returns a description, or raises LocalCloudError if the requirement is not met.
    """
    return {"containers": _check_engine, "local cloud": _check_cloud}


def _check_engine() -> str:
    return find_engine().note


def _check_cloud() -> str:
    check_computer()
    cloud = status()
    return f"runs at {cloud.url}" if cloud else "does not run; it is started when needed"
