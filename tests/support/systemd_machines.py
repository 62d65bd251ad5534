"""Machines that systemd starts and shuts down, as on EC2: Debian 12 with real services."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from bake.local.machines.engine import Engine, find_engine
from tests.support.debian_roots import debian_layer
from tests.support.stage_machines import Machine

PACKAGES = (
    *("systemd-sysv", "dbus", "openssh-server", "procps", "python3", "rsyslog"),
    *("unattended-upgrades", "fwupd", "snapd", "open-iscsi"),
    *("dkms", "gcc", "make", "linux-headers-cloud-amd64"),
)
# Services that Debian does not start in a container.
ALSO_HERE = ("systemd-random-seed", "fwupd")
_HOOK = f"""
for unit in {" ".join(ALSO_HERE)}; do
    mkdir --parents "$1/etc/systemd/system/$unit.service.d"
    printf '[Unit]\\nConditionVirtualization=\\n' >"$1/etc/systemd/system/$unit.service.d/here.conf"
done
"""


@dataclass(frozen=True)
class RootShell:
    """A shell as root on a machine, for the search of `bake.verify`."""

    machine: Machine

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        assert not isinstance(stdin, str)
        done: Any = self.machine.run(command, stdin=stdin or b"")
        done.exit_status = done.returncode
        return done

    def as_root(self, *command: str) -> str:
        return shlex.join(command)


def base_layer(engine: Engine) -> str:
    """Return the layer with the root file system of a machine that systemd starts."""
    return debian_layer(engine, "systemd", PACKAGES, _HOOK)


class Machines:
    """The machines of a test module, and the images that were made of their disks."""

    def __init__(self, engine: Engine, undo: ExitStack) -> None:
        self.engine = engine
        self._undo = undo

    def boot(self, image: str = "", options: Iterable[str] = ()) -> Machine:
        """Start a machine, of the base layer if no image is given, and wait until it is up.

        `options` are more options for the container engine.
        """
        name = self._new_name()
        arguments = ["run", "--detach", "--pull", "never", "--name", name, "--systemd", "always"]
        arguments += ["--tmpfs", "/run:rw,exec,mode=755,notmpcopyup", "--hostname", "builder"]
        arguments += ["--stop-signal", "SIGRTMIN+3", "--cap-add", "SYS_BOOT,SYS_ADMIN"]
        arguments += [*self.engine.network_arguments, *self.engine.limits, *options]
        self.engine.call(*arguments, image or base_layer(self.engine), "/sbin/init")
        machine = Machine(self.engine, name, {"LOGIN_USER": "root"})
        machine.read(
            "timeout 60 bash -c 'until [[ $(systemctl is-system-running 2>/dev/null) =~ "
            "^(running|degraded)$ ]]; do sleep 0.1; done'"
        )
        return machine

    def shut_down(self, machine: Machine) -> str:
        """Shut the machine down, as EC2 does before it makes an image; return its disk's image."""
        self.engine.stop(machine.name, timeout_s=60)
        image = f"localhost/{machine.name}:disk"
        self.engine.commit(machine.name, image, labels={})
        self._undo.callback(self.engine.call, "rmi", "--force", image, check=False)
        return image

    def disk(self, image: str) -> Machine:
        """Return a machine on which nothing runs, so that the image's disk can be searched."""
        name = self._new_name()
        command = ["run", "--detach", "--pull", "never", "--network", "none", "--name", name]
        self.engine.call(*command, *self.engine.limits, image, "sleep", "infinity")
        return Machine(self.engine, name, {})

    def _new_name(self) -> str:
        name = f"bake-test-systemd-{uuid4().hex[:8]}"
        self._undo.callback(self.engine.remove, name)
        self._undo.callback(self.engine.kill, name)
        return name


@contextmanager
def systemd_machines() -> Iterator[Machines]:
    """Yield a way to start machines; remove all of them afterwards."""
    with ExitStack() as undo:
        yield Machines(find_engine(), undo)
