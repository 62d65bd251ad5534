"""Base images of the local cloud: an operating system's root file system, made on this computer.

Debian's root is made from Debian's archive with `mmdebstrap`. The root of another system is not
made: a stand-in replaces it, which is Debian with the names and the login user of that system, and
says so.
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

from bake import catalog
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
    # The stand-in for Miniconda makes environments with the machine's own Python, and a real MXNet
    # loads libraries that the stand-ins for their packages do not contain.
    *("python3", "python3-venv", "libgomp1", "libquadmath0"),
)
# An account that nobody owns, so that a stand-in is never mistaken for an image of Canonical.
STAND_IN_OWNER = "000000000001"

ROOT_LABEL = "bake.root=yes"

BUILD_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Publication:
    """The id, the owner and name, or the parameter with which a recipe names its base image.

    The local cloud's image has them, so that it is found like the real one.
    """

    image_id: str = ""
    owner: str = ""
    name: str = ""
    parameter: str = ""


@dataclass(frozen=True)
class _Root:
    """A root file system, as a layer in the container engine's storage."""

    layer: str
    made_at: datetime


def provide(
    cloud: LocalCloud,
    os_image: OsImage,
    *,
    stand_in: bool,
    region: str = "us-east-1",
    files: Mapping[str, bytes] | None = None,
    published: Publication | None = None,
) -> str:
    """Return the id of the base image in the local cloud. Make the image if needed.

    `files` (absolute path → content) are added to a stand-in's root file system, for example the
    certificates that it trusts. Raises PreflightError if this computer cannot make a root file
    system of this operating system, and LocalCloudError if making it fails.
    """
    if not os_image.key.startswith("debian-") and not stand_in:
        raise PreflightError(
            f"The root file system of {os_image.key} cannot be made on this computer: "
            "the distribution publishes it only as cloud images",
            hint="Add --stand-in to rehearse on a machine that is Debian with other names, "
            "or bake on AWS (without --local)",
        )
    if platform.machine() != "x86_64":
        raise LocalCloudError(
            f"{os_image.key} is an image for x86_64; this computer is {platform.machine()}"
        )
    engine = find_engine()
    with _one_at_a_time():
        debian = _debian(engine, underneath(os_image).codename)
        root = _variant(engine, debian, os_image, stand_in, files or {})
        # Registered with the lock held: it gives the layer a second name, in this cloud, so that
        # another process does not remove it.
        published = published or Publication()
        return _register(cloud, os_image, root, published, region=region, stand_in=stand_in)


def underneath(os_image: OsImage) -> OsImage:
    """Return the system whose root is used for a stand-in: a Debian, or Debian 12 for another."""
    return os_image if os_image.key.startswith("debian-") else catalog.load().os_image("debian-12")


def _name(os_image: OsImage) -> str:
    return underneath(os_image).key.replace("debian-", "Debian ")


def _register(
    cloud: LocalCloud,
    os_image: OsImage,
    root: _Root,
    published: Publication,
    *,
    region: str,
    stand_in: bool,
) -> str:
    day = root.made_at.strftime("%Y%m%d")
    serial = root.layer.rpartition(":")[2][:8]
    pattern = published.name or os_image.name_pattern
    if alone := published.image_id or published.parameter:
        pattern = f"bake-local/{alone.strip('/')}-*"  # the catalog's own images stay
    about = f"stand-in: {_name(os_image)} underneath" if stand_in else "made from Debian's archive"
    response = cloud.request(
        "os-images",
        {
            "region": region,
            "layer": root.layer,
            "owner": STAND_IN_OWNER if stand_in else published.owner or os_image.owner,
            "name": pattern.replace("?", "0").replace("*", f"{day}-{int(serial, 16) % 10000:04}"),
            "replaces": pattern,
            "image_id": published.image_id,
            "parameter": published.parameter,
            "description": f"{os_image.key}, {about}",
            "root_device_name": "/dev/xvda" if os_image.key.startswith("debian") else "/dev/sda1",
            "size_gb": os_image.size_gb,
        },
    )
    return str(response["image_id"])


def _debian(engine: Engine, suite: str) -> _Root:
    """Return the root of a Debian. It is made again only if the way of making it has changed."""
    recipe = hashlib.sha256(repr((suite, PACKAGES)).encode())
    for path in folders.programs_of("bake.local.machines"):
        recipe.update(path.name.encode() + path.read_bytes())
    layer = f"localhost/bake/root-{suite}:{recipe.hexdigest()[:12]}"
    if not engine.has_image(layer):
        with tempfile.TemporaryDirectory(prefix="bake-root-") as folder:
            archive = Path(folder, "root.tar")
            _bootstrap(archive, suite)
            engine.import_root(archive, layer, label=ROOT_LABEL)
        _forget_others(engine, layer)
    return _Root(layer, _made_at(engine, layer))


def _forget_others(engine: Engine, layer: str) -> None:
    """Forget the layers of earlier versions. A cloud that uses one has its own name for it."""
    for other in engine.references(layer.rpartition(":")[0]):
        if other != layer:
            engine.forget(other)
    engine.prune(ROOT_LABEL)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold a lock, so that two bakes at the same time make a root file system once."""
    folders.make_folder(folders.cache())
    with FileLock(folders.cache() / "root.lock"):
        yield


def _bootstrap(archive: Path, suite: str) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise LocalCloudError(
            "mmdebstrap is needed to make a Debian root file system, and is not installed",
            hint="Install it: sudo apt-get install mmdebstrap",
        )
    command = [program, "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [f"--customize-hook={FILES / 'finish-root'}", suite, str(archive), MIRROR]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise LocalCloudError(f"mmdebstrap did not end in {BUILD_TIMEOUT_S} s") from error
    if done.returncode:
        raise LocalCloudError(
            "The Debian root file system could not be made",
            hint=f"Check that this computer reaches {MIRROR}",
            details=done.stderr.splitlines()[-10:],
        )


def _variant(
    engine: Engine, debian: _Root, os_image: OsImage, stand_in: bool, files: Mapping[str, bytes]
) -> _Root:
    """Return the root with that system's login user and, for a stand-in, its files and notices."""
    contents = {**files, **_notices(os_image, stand_in)}
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


def _notices(os_image: OsImage, stand_in: bool) -> dict[str, bytes]:
    """Return the files that name the login user and, on a stand-in, say that it is one."""
    user = (
        "#cloud-config\n"
        "# The login user, as in the images of the real operating system.\n"
        f"system_info: {{default_user: {{name: {os_image.ssh_user}}}}}\n"
    )
    notices = {"/etc/cloud/cloud.cfg.d/91_login_user.cfg": user.encode()}
    if stand_in:
        text = f"This is not {os_image.key}: it is a stand-in, {_name(os_image)} underneath.\n"
        notices["/etc/bake-stand-in"] = f"{os_image.key}\n{text}".encode()
        notices["/etc/motd"] = f"\n{text}\n".encode()
    return notices


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
