"""Base images of the local cloud: an operating system's root file system, made on this computer.

Debian's is made from Debian's own archive (`mmdebstrap`). Ubuntu's cannot be: its archive and its
images are not asked for here. A stand-in takes its place, which is Debian underneath and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from bake import files as folders
from bake.catalog import OsImage
from bake.errors import LocalCloudError, PreflightError
from bake.local.control import LocalCloud
from bake.local.machines.engine import Engine, find_engine

FILES = Path(__file__).with_name("on_machine")

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = (
    *("openssh-server", "cloud-init", "sysvinit-core", "sysv-rc", "sudo"),
    *("ca-certificates", "curl", "wget", "gnupg", "bzip2", "xz-utils", "less", "kmod"),
    *("iproute2", "procps", "netbase", "lsb-release", "rsync"),
    # Stand-in Minicondas make environments of the machine's own Python, and a stand-in libgfortran
    # brings nothing of what a real MXNet loads.
    *("python3", "python3-venv", "libgomp1", "libquadmath0"),
)
# Nobody's account: an image of it can never be taken for Canonical's or Debian's.
STAND_IN_OWNER = "000000000001"

ROOT_LABEL = "bake.root=yes"

BUILD_TIMEOUT_S = 1800


@dataclass(frozen=True)
class _Root:
    """A root file system, as a layer of the container engine's."""

    layer: str
    made_at: datetime


def provide(
    endpoint: LocalCloud,
    os_image: OsImage,
    *,
    stand_in: bool,
    region: str = "us-east-1",
    files: Mapping[str, bytes] | None = None,
) -> str:
    """The id of the base image in the local cloud, made when it is not there yet.

    `files` (absolute path → content) are put into a stand-in's root file system: what it has to
    trust, say. PreflightError where there can be none of this OS here, LocalCloudError when
    making it fails.
    """
    if os_image.key != "debian-12" and not stand_in:
        raise PreflightError(
            f"The root file system of {os_image.key} cannot be made on this computer: "
            "it is published as cloud images only",
            hint="Add --stand-in for a rehearsal on a machine that is Debian underneath, "
            "or bake it on AWS (without --local)",
        )
    if platform.machine() != "x86_64":
        raise LocalCloudError(f"{os_image.key} is an image for x86_64, and this computer is not")
    engine = find_engine()
    with _one_at_a_time():
        debian = _debian(engine)
        root = _variant(engine, debian, os_image, stand_in, files or {})
        # Before the lock is let go: from here on the layer has a name in this cloud too.
        return _register(endpoint, os_image, root, region=region, stand_in=stand_in)


def _register(
    endpoint: LocalCloud, os_image: OsImage, root: _Root, *, region: str, stand_in: bool
) -> str:
    day = root.made_at.strftime("%Y%m%d")
    serial = root.layer.rpartition(":")[2][:8]
    about = "stand-in: Debian 12 underneath" if stand_in else "made from Debian's archive"
    answer = endpoint.request(
        "os-images",
        {
            "region": region,
            "layer": root.layer,
            "owner": STAND_IN_OWNER if stand_in else os_image.owner,
            "name": os_image.name_pattern.replace("*", f"{day}-{int(serial, 16) % 10000:04}"),
            "replaces": os_image.name_pattern,
            "description": f"{os_image.key}, {about}",
            "root_device_name": "/dev/xvda" if os_image.key.startswith("debian") else "/dev/sda1",
            "size_gb": os_image.size_gb,
        },
    )
    return str(answer["image_id"])


def _debian(engine: Engine) -> _Root:
    """Debian 12 as a machine of the local cloud; made once for each way of making it."""
    recipe = hashlib.sha256(repr((SUITE, PACKAGES)).encode())
    for path in sorted(FILES.iterdir()):
        recipe.update(path.name.encode() + path.read_bytes())
    layer = f"localhost/bake/root:{recipe.hexdigest()[:12]}"
    if not engine.has_image(layer):
        with tempfile.TemporaryDirectory(prefix="bake-root-") as folder:
            archive = Path(folder, "root.tar")
            _bootstrap(archive)
            engine.import_root(archive, layer, label=ROOT_LABEL)
        _forget_others(engine, layer)
    return _Root(layer, _made_at(engine, layer))


def _forget_others(engine: Engine, layer: str) -> None:
    """What an earlier version of this made. Clouds that still use it have names of their own."""
    for other in engine.references(layer.rpartition(":")[0]):
        if other != layer:
            engine.forget(other)
    engine.prune(ROOT_LABEL)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two bakes that start at once do not make the same root file system twice."""
    folders.cache().mkdir(parents=True, exist_ok=True)
    with FileLock(folders.cache() / "root.lock"):
        yield


def _bootstrap(archive: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise LocalCloudError(
            "mmdebstrap is needed to make a Debian root file system, and is not installed",
            hint="sudo apt-get install mmdebstrap",
        )
    command = [program, "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [f"--customize-hook={FILES / 'finish-root'}", SUITE, str(archive), MIRROR]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise LocalCloudError(f"mmdebstrap did not end in {BUILD_TIMEOUT_S} s") from error
    if done.returncode:
        raise LocalCloudError(
            "The Debian root file system could not be made",
            hint=f"It is made from {MIRROR}: can that be reached?",
            details=done.stderr.splitlines()[-10:],
        )


def _variant(
    engine: Engine, debian: _Root, os_image: OsImage, stand_in: bool, files: Mapping[str, bytes]
) -> _Root:
    """The root with the login user's name of that OS, and a stand-in's files and signs."""
    contents = {**files, **_signs(os_image, stand_in)}
    digest = hashlib.sha256(debian.layer.encode())
    for path, content in sorted(contents.items()):
        digest.update(path.encode() + b"\0" + content + b"\0")
    kind = "stand-in" if stand_in else "os"
    layer = f"localhost/bake/{kind}-{os_image.key}:{digest.hexdigest()[:12]}"
    if not engine.has_image(layer):
        name = f"bake-variant-{digest.hexdigest()[:12]}"
        engine.remove(name)
        unpack = "tar --extract --directory=/ && update-ca-certificates > /dev/null"
        arguments = ["run", "--interactive", "--name", name, *engine.network_arguments]
        arguments += [*engine.limits, debian.layer, "sh", "-c", unpack]
        try:
            engine.call(*arguments, stdin=_archive(contents))
            engine.commit(name, layer, labels={"bake.root": "yes"})
        finally:
            engine.remove(name)
        _forget_others(engine, layer)
    return _Root(layer, _made_at(engine, layer))


def _signs(os_image: OsImage, stand_in: bool) -> dict[str, bytes]:
    user = (
        "#cloud-config\n"
        "# The login user, as in the images of the real operating system.\n"
        f"system_info: {{default_user: {{name: {os_image.ssh_user}}}}}\n"
    )
    signs = {"/etc/cloud/cloud.cfg.d/91_login_user.cfg": user.encode()}
    if stand_in:
        says = f"This is not {os_image.key}: it is a stand-in, Debian 12 underneath.\n"
        signs["/etc/bake-stand-in"] = f"{os_image.key}\n{says}".encode()
        signs["/etc/motd"] = f"\n{says}\n".encode()
    return signs


def _archive(contents: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content in contents.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _made_at(engine: Engine, layer: str) -> datetime:
    done = engine.call("image", "inspect", "--format", "{{.Created.Unix}}", layer)
    return datetime.fromtimestamp(int(done.stdout), UTC)
