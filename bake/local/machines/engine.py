"""Podman or Docker, called through the same few commands.

Several ways to call them are tried, because they do not work on every computer: the kernel's cgroup
setup may refuse Podman's default runtime, and Podman's default limits may be higher than this user
may set.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import resource
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bake import files as folders
from bake.errors import LocalCloudError

COMMAND_TIMEOUT_S = 600

# The commands of Podman that make, read or remove layers.
_OF_LAYERS = {"commit", "create", "image", "images", "import", "run", "tag", "untag"}

_UPPER = "{{.GraphDriver.Data.UpperDir}}"
_DEPTH = "{{len .RootFS.Layers}}"
UNIFIED_CGROUPS = Path("/sys/fs/cgroup/cgroup.controllers")

# A machine does more than an application: it powers itself off and reboots (SYS_BOOT), sudo and
# sshd write audit records (AUDIT_WRITE), and users run ping (NET_RAW).
CAPABILITIES = ("SYS_BOOT", "AUDIT_WRITE", "NET_RAW")

_INSTALL = (
    "Install Podman (Debian and Ubuntu: sudo apt-get install podman slirp4netns runc) or Docker"
)
_FREE_SPACE = "Free space on the full disk, or set TMPDIR to a folder on another one"


@dataclass(frozen=True)
class Engine:
    """One way to run containers that was tried on this computer and works."""

    program: str
    global_arguments: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    rootless: bool = False
    note: str = ""
    # Whether a layer, and the files that a machine has written, are folders that this process may
    # read and replace.
    layers_are_folders: bool = False

    @property
    def _podman(self) -> bool:
        return Path(self.program).name == "podman"

    @property
    def network_arguments(self) -> tuple[str, ...]:
        """The arguments for a network in which a machine reaches this computer.

        With Podman, 10.0.2.2 is the computer's loopback. Docker has no such network: its machines
        are on a bridge, and reach only the services that the computer offers there, at
        `host.docker.internal`.
        """
        if self._podman:
            return ("--network", "slirp4netns:allow_host_loopback=true")
        return ("--add-host", "host.docker.internal:host-gateway")

    @property
    def computer_address(self) -> str:
        """The address at which a machine reaches this computer's loopback (Docker: its bridge)."""
        return "10.0.2.2" if self._podman else "host.docker.internal"

    def command(self, *arguments: str) -> list[str]:
        return [self.program, *self.global_arguments, *arguments]

    def call(
        self,
        *arguments: str,
        check: bool = True,
        stdin: bytes | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command. Raises LocalCloudError with the engine's error output."""
        try:
            with self._no_prune_meanwhile(arguments):
                done = subprocess.run(
                    self.command(*arguments), input=stdin, capture_output=True, timeout=timeout_s
                )
        except subprocess.TimeoutExpired as error:
            raise LocalCloudError(
                f"{self.program} {arguments[0]} did not end in {timeout_s:g} s"
            ) from error
        if check and done.returncode:
            output = done.stderr.decode(errors="replace").strip()
            raise LocalCloudError(f"{self.program} {arguments[0]} failed: {output}")
        return done

    @contextlib.contextmanager
    def _no_prune_meanwhile(self, arguments: Sequence[str]) -> Iterator[None]:
        """Let Podman's `image prune` run alone; other commands on layers run at the same time.

        This holds for all processes of this user. Podman names a new layer a moment after it was
        made, and `prune` removes layers without a name. A command that reads one layer also fails
        if another layer is removed meanwhile.
        """
        if not self._podman or arguments[0] not in _OF_LAYERS:
            yield
            return
        folders.make_folder(folders.cache())
        # flock(2) itself: many commands share this lock, and filelock has exclusive locks only.
        with (folders.cache() / "layers.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if "prune" in arguments else fcntl.LOCK_SH)
            yield

    def run_arguments(
        self,
        name: str,
        image: str,
        *,
        hostname: str,
        address: str,
        port: int,
        labels: Mapping[str, str],
        mounts: Mapping[Path, str],
        command: Sequence[str],
        start: bool = True,
    ) -> list[str]:
        """Return the arguments of the command that makes a container which is a machine."""
        temporary = "rw,exec,mode=755,notmpcopyup" if self._podman else "rw,exec,mode=755"
        arguments = ["run", "--detach"] if start else ["create"]
        arguments += ["--pull", "never", "--tty", "--name", name, "--hostname", hostname]
        arguments += ["--stop-signal", "SIGPWR", "--tmpfs", f"/run:{temporary}"]
        arguments += ["--publish", f"{address}:{port}:22", *self.network_arguments, *self.limits]
        for capability in CAPABILITIES:
            arguments += ["--cap-add", capability]
        for key, value in labels.items():
            arguments += ["--label", f"{key}={value}"]
        for source, target in mounts.items():
            arguments += ["--volume", f"{source}:{target}:ro"]
        return [*arguments, image, *command]

    def start(self, name: str) -> None:
        """Start a machine that was only created, or that has ended.

        Podman removes a container's network in a separate process after the container has ended,
        and `podman wait` waits for that for 20 s at most. `podman start` before that keeps the
        old network, whose slirp4netns has ended with the machine: then nothing answers on the
        SSH port. So a container that is not cleaned up ("exited") yet is cleaned up here.
        """
        if self._podman and self._inspect(name, "{{.State.Status}}") not in ("created", "exited"):
            self.wait(name)
            self.call("container", "cleanup", name)
        self.call("start", name)

    def stop(self, name: str, *, timeout_s: int) -> None:
        """Press the power button; kill the machine if it is not off after `timeout_s`."""
        self.call("stop", "--time", str(timeout_s), name, timeout_s=timeout_s + 30)

    def kill(self, name: str) -> None:
        self.call("kill", "--signal", "KILL", name, check=False)

    def remove(self, name: str) -> None:
        # Podman sends a signal first and waits ten seconds; Docker does not.
        at_once = ("--time", "0") if self._podman else ()
        self.call("rm", "--force", *at_once, "--volumes", name, check=False)

    def process_id(self, name: str) -> int:
        """Return the id that the machine's process 1 has on this computer; 0 if it is off."""
        done = self.call("inspect", "--format", "{{.State.Pid}}", name)
        return int(done.stdout)

    def mount_over(self, name: str, source: str, target: str) -> None:
        """Mount one file of a running machine over another, read-only.

        mount(8) enters the machine's mount namespace, so no program of the machine takes part.
        Raises LocalCloudError if this user may not enter the namespace, as with Docker.
        """
        as_its_root = [self.program, "unshare"] if self._podman and self.rootless else []
        namespace = ["--namespace", str(self.process_id(name))]
        command = [*as_its_root, "mount", "--no-canonicalize", *namespace, "--options", "bind,ro"]
        done = subprocess.run([*command, source, target], capture_output=True)
        if done.returncode:
            raise LocalCloudError(done.stderr.decode(errors="replace").strip())

    def wait(self, name: str) -> int:
        """Wait until the container has ended. Return its exit status."""
        return int(self.call("wait", name).stdout)

    def console(self, name: str) -> bytes:
        done = self.call("logs", name, check=False)
        return done.stdout

    def pause(self, name: str) -> bool:
        """Pause the machine. Return False if that is not possible.

        A machine that is off cannot be paused, nor can Podman without root on cgroups version 1.
        """
        if self._podman and self.rootless and not UNIFIED_CGROUPS.exists():
            return False
        return self.call("pause", name, check=False).returncode == 0

    def unpause(self, name: str) -> None:
        self.call("unpause", name)

    def create(self, name: str, image: str, *, labels: Mapping[str, str]) -> None:
        """Create a container that is never started."""
        arguments = ["create", "--pull", "never", "--network", "none", "--name", name]
        arguments += [f"--label={key}={value}" for key, value in labels.items()]
        self.call(*arguments, image, "true")

    def commit(
        self, name: str, reference: str, *, labels: Mapping[str, str], squash: bool = False
    ) -> None:
        """Save the machine's disk as a layer. `squash` merges it with the layers below it.

        The layer may contain files that a running machine writes meanwhile: see `pause`.
        """
        options = [f"--change=LABEL {key}={value}" for key, value in labels.items()]
        if squash and self._podman:
            options.append("--squash")  # Docker cannot
        options.append("--pause=false")
        self.call("commit", *options, name, reference, timeout_s=3600)

    def image_of(self, name: str) -> str:
        """Return the id of the machine's image, which may have lost its names."""
        return self._inspect(name, "{{.Image}}")

    def depth(self, name: str) -> int:
        """Return the number of layers of a machine's image."""
        image = self.image_of(name)
        return int(self.call("image", "inspect", "--format", _DEPTH, image).stdout)

    def written_by(self, name: str) -> tuple[Path, int]:
        """Return the folder of files that a machine has written (overlayfs), and its process 1."""
        folder, process_id = self._inspect(name, f"{_UPPER}\n{{{{.State.Pid}}}}").splitlines()
        return Path(folder), int(process_id)

    def layer_folder(self, reference: str) -> Path:
        """Return the folder of an image's topmost layer."""
        found = self.call("image", "inspect", "--format", _UPPER, reference).stdout
        return Path(found.decode().strip())

    def _inspect(self, name: str, template: str) -> str:
        found = self.call("container", "inspect", "--format", template, name).stdout
        return found.decode().strip()

    def import_root(self, archive: Path, reference: str, *, label: str) -> None:
        change = f"--change=LABEL {label}"
        self.call("import", change, str(archive), reference, timeout_s=1800)

    def tag(self, reference: str, other: str) -> None:
        self.call("tag", reference, other)

    def forget(self, reference: str) -> None:
        """Remove one name from a layer. `prune` removes the layer if nothing else uses it."""
        if self._podman:
            # The name stands twice: with one argument, `untag` removes all names of the layer.
            self.call("untag", reference, reference, check=False)
        else:
            self.call("rmi", "--force", "--no-prune", reference, check=False)

    def prune(self, label: str) -> None:
        """Remove the layers with this label that have no name and that nothing else uses."""
        self.call("image", "prune", "--force", "--filter", f"label={label}", check=False)

    def has_image(self, reference: str) -> bool:
        return self.call("image", "inspect", reference, check=False).returncode == 0

    def references(self, repository: str) -> list[str]:
        """Return the names of layers in one repository. The engine lists their other names, too."""
        done = self.call("images", "--format", "{{.Repository}}:{{.Tag}}", repository)
        names = done.stdout.decode().split()
        return [name for name in names if name.startswith(f"{repository}:")]

    def containers(self, label: str) -> list[str]:
        done = self.call("ps", "--all", "--filter", f"label={label}", "--format", "{{.Names}}")
        return done.stdout.decode().split()


@functools.cache
def find_engine() -> Engine:
    """Try the ways to run containers, the simplest first, and return the first that works.

    `BAKE_ENGINE` (podman or docker) selects the engine. Raises LocalCloudError if no engine is
    installed, or if none of the ways works, with the reason of each.
    """
    wanted = os.environ.get("BAKE_ENGINE", "")
    reasons: list[str] = []
    for name in [wanted] if wanted else ["podman", "docker"]:
        program = shutil.which(name)
        if program is None:
            reasons.append(f"{name}: not installed")
            continue
        for engine in _ways_to_call(program):
            problem = _try_out(engine)
            if not problem:
                return replace(engine, layers_are_folders=_layers_are_folders(engine))
            reasons.append(f"{engine.note}: {problem}")
    is_full = any(os.strerror(errno.ENOSPC).lower() in reason.lower() for reason in reasons)
    raise LocalCloudError(
        "No container engine works on this computer",
        hint=_FREE_SPACE if is_full else _INSTALL,
        details=reasons,
    )


def _layers_are_folders(engine: Engine) -> bool:
    """Return whether Podman stores layers as plain overlayfs folders that this user may write.

    Podman itself reads a layer's folder only if "Native Overlay Diff" is true.
    """
    if not engine._podman or engine.rootless:
        return False
    template = '{{.Store.GraphDriverName}} {{index .Store.GraphStatus "Native Overlay Diff"}}'
    output = engine.call("info", "--format", template, check=False).stdout
    return output.decode().split() == ["overlay", "true"]


def _ways_to_call(program: str) -> list[Engine]:
    """Return the ways to call the engine, the simplest first."""
    name = Path(program).name
    if name == "docker":
        return [Engine(program, note="docker")]
    rootless = os.geteuid() != 0
    note = "podman with its default runtime"
    ways = [Engine(program, rootless=rootless, note=note)]
    limits = _limits()
    ways.append(Engine(program, (), limits, rootless, f"{note} and explicit limits"))
    for runtime in ("crun", "runc"):
        if shutil.which(runtime, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            note = f"podman with {runtime} and explicit limits"
            ways.append(Engine(program, ("--runtime", runtime), limits, rootless, note))
    return ways


def _limits() -> tuple[str, ...]:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    hard_files = 1048576 if files == resource.RLIM_INFINITY else files
    hard_processes = 30000 if processes == resource.RLIM_INFINITY else min(processes, 30000)
    return (
        *("--ulimit", f"nofile={min(1024, hard_files)}:{hard_files}"),
        *("--ulimit", f"nproc={min(4096, hard_processes)}:{hard_processes}"),
    )


def _try_out(engine: Engine) -> str:
    """Run a tiny container. Return the error message, or an empty text if it works."""
    image = f"localhost/bake-try:{os.getpid()}"
    try:
        engine.call("import", "-", image, stdin=_tiny_root(), timeout_s=60)
        try:
            arguments = ["run", "--rm", *engine.network_arguments, *engine.limits]
            engine.call(*arguments, "--cap-add", CAPABILITIES[0], image, "/true", timeout_s=60)
        finally:
            engine.call("rmi", "--force", image, check=False)
    except (LocalCloudError, OSError) as error:
        return str(error)
    return ""


def _tiny_root() -> bytes:
    """Return a root file system whose only program is exit(0), as a 64-bit ELF for x86-64."""
    code = bytes.fromhex("b83c000000 31ff 0f05")  # mov eax, 60; xor edi, edi; syscall
    base, start = 0x400000, 64 + 56
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0, 0, 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    size = start + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("true")
        entry.mode, entry.size = 0o755, size
        tar.addfile(entry, io.BytesIO(header + segment + code))
    return archive.getvalue()
