"""The stand-ins for download servers: their files, signatures and checks, and their notices."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement

from bake.errors import LocalCloudError
from bake.local import standin
from bake.local.machines.engine import Engine
from bake.local.standin import mirror, names, trust, upstreams, wheels
from bake.local.standin.archive import Package
from bake.local.standin.trust import Trust
from bake.plan.variables import variables
from bake.recipe import recipes
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import built_in
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from bake.verify.tensors import compute, judge
from tests.support.environment import REPOSITORY
from tests.support.frameworks import Here, environment, expectation

RECIPES = recipes.all_recipes(built_in())


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return trust.establish(tmp_path_factory.mktemp("trust"))


@pytest.fixture(scope="module")
def tree(trusted: Trust, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    upstreams.write(root, trusted, {"ubuntu-18.04": ["sl", "jq=1.6"], "conda": ["ffmpeg>=6,<7"]})
    return root


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / "state" / "mirror.json"
    yield state
    mirror.stop(state)


def get(port: int, path: str, ca: Path | None) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has ended meanwhile
            yield path.read_bytes()


def verify(keyring: Path, signed: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["gpgv", "--keyring", str(keyring), str(signed)], capture_output=True)


# ---- trust ----


def test_trust_is_made_once(trusted: Trust) -> None:
    again = trust.establish(trusted.folder)
    assert again == trusted
    assert again.ca_certificate == trusted.ca_certificate
    assert len(again.fingerprint) == 40


def test_secrets_are_for_their_owner_alone(trusted: Trust) -> None:
    trusted.server_certificate(("127.0.0.1",))
    secrets = [trusted.folder / "ca.key", trusted.folder / "archive.key"]
    for secret in [*secrets, *trusted.folder.glob("server-*.pem")]:
        assert secret.stat().st_mode & 0o077 == 0, secret


def test_no_agent_of_gpg_is_left(
    trusted: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes: list[str] = []

    def make_home(*, prefix: str, dir: str) -> str:
        homes.append(tempfile.mkdtemp(prefix=prefix, dir=dir))
        return homes[-1]

    monkeypatch.setattr(trust, "tempfile", SimpleNamespace(mkdtemp=make_home))
    with trusted.signer() as sign:
        sign(b"text\n")
    commands = list(command_lines())
    assert homes
    assert not any(Path(home).exists() for home in homes)
    assert not any(home.encode() in command for home in homes for command in commands)


def test_without_gpg_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalCloudError, match="gpg") as caught:
        trust.establish(tmp_path / "trust")
    assert "gnupg" in caught.value.hint


# ---- packages and archives ----


def test_a_package_is_the_same_byte_for_byte() -> None:
    package = Package("one", "1.0", "two", {"/usr/bin/one": b"#!/bin/sh\n"})
    assert package.deb() == Package("one", "1.0", "two", {"/usr/bin/one": b"#!/bin/sh\n"}).deb()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is Debian's")
def test_dpkg_reads_a_package(tmp_path: Path) -> None:
    deb = tmp_path / "one.deb"
    deb.write_bytes(Package("one", "1:2-3", "two", {"/usr/bin/one": b"#!/bin/sh\n"}).deb())
    fields = subprocess.run(
        ["dpkg-deb", "--field", str(deb)], capture_output=True, text=True, check=True
    ).stdout
    assert "Version: 1:2-3\n" in fields
    assert "Depends: two\n" in fields
    assert "Description: stand-in for one" in fields
    contents = subprocess.run(
        ["dpkg-deb", "--contents", str(deb)], capture_output=True, text=True, check=True
    ).stdout
    assert "-rwxr-xr-x 0/0" in contents.split("./usr/bin/one")[0].splitlines()[-1]


def test_every_archive_is_signed_by_the_key_that_machines_trust(trusted: Trust, tree: Path) -> None:
    signed = sorted(tree.rglob("InRelease"))
    suites = {path.parent.name for path in signed}
    assert {"bionic", "focal-updates", "jammy-security", "noble", "bookworm-security"} <= suites
    for path in signed:
        assert verify(trusted.folder / "archive.gpg", path).returncode == 0, path


def test_a_changed_archive_is_no_longer_signed(trusted: Trust, tree: Path, tmp_path: Path) -> None:
    text = (tree / "ubuntu/dists/bionic/InRelease").read_text()
    changed = tmp_path / "InRelease"
    changed.write_text(text.replace("Label: Ubuntu", "Label: Ubunta"))
    assert verify(trusted.folder / "archive.gpg", changed).returncode != 0


def test_an_archives_index_is_right_about_its_packages(tree: Path) -> None:
    for index in [
        *tree.glob("ubuntu/dists/*/*/binary-amd64/Packages"),
        *tree.rglob("x86_64/Packages"),
    ]:
        root = tree / "ubuntu" if "dists" in index.parts else index.parent
        for stanza in filter(None, index.read_text().split("\n\n")):
            fields = dict(line.split(": ", 1) for line in stanza.strip().splitlines())
            data = (root / fields["Filename"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == fields["SHA256"], fields["Package"]
            assert str(len(data)) == fields["Size"]


@pytest.mark.parametrize("wanted", RECIPES, ids=lambda found: found.name)
def test_every_package_that_a_recipe_names_is_there(wanted: Recipe, tree: Path) -> None:
    inputs = variables(resolve(wanted), UPSTREAM)
    os_image = resolve(wanted).os_image
    distribution, codename = os_image.os_id.partition("-")[0], os_image.codename
    os_index = "".join(
        path.read_text()
        for path in (tree / distribution / "dists" / codename).rglob("binary-amd64/Packages")
    )
    nvidia = tree / "compute/cuda/repos" / inputs["NVIDIA_REPOSITORY"] / "Packages"
    sources = {"os": os_index, "nvidia": nvidia.read_text() if nvidia.is_file() else ""}
    for name in inputs.get("DRIVER_USERLAND_PACKAGES", "").split():
        assert f"Package: {name}\n" in sources["os"]
    for name in inputs.get("CUDA_PACKAGES", "").split():
        assert f"Package: {name}\n" in sources[inputs["CUDA_SOURCE"]]
    for name, version in (pin.split("=") for pin in inputs.get("CUDA_PINS", "").split()):
        assert f"Package: {name}\nVersion: {version}\n" in sources["nvidia"]


def test_the_packages_of_the_base_stage_are_there(tree: Path) -> None:
    script = (REPOSITORY / "scripts/stages/base.sh").read_text()
    named = script.split("packages=(")[1].split(")")[0]
    index = (tree / "ubuntu/dists/bionic/main/binary-amd64/Packages").read_text()
    for name in [*named.split(), "libquadmath0"]:
        assert f"Package: {name}\n" in index


def test_an_archive_has_what_recipes_request_of_it_and_what_is_known(tree: Path) -> None:
    ubuntu = (tree / "ubuntu/dists/bionic/main/binary-amd64/Packages").read_text()
    debian = (tree / "debian/dists/bookworm/main/binary-amd64/Packages").read_text()
    for package in ("sl\nVersion: 0", "jq\nVersion: 1.6", "jq\nVersion: 0", "tmux\nVersion: 0"):
        assert f"Package: {package}\n" in ubuntu
    assert "Package: tmux\n" in debian
    assert "Package: sl\n" not in debian


def test_what_one_recipe_asked_for_stays_for_the_next(trusted: Trust, tmp_path: Path) -> None:
    upstreams.write(tmp_path, trusted, {"debian-12": ["sl"]})
    upstreams.write(tmp_path, trusted, {"debian-12": ["cowsay"]})
    index = (tmp_path / "debian/dists/bookworm/main/binary-amd64/Packages").read_text()
    assert "Package: sl\n" in index
    assert "Package: cowsay\n" in index


def test_nvidia_smi_fails_as_where_no_driver_is_loaded(tree: Path) -> None:
    script = REPOSITORY / "bake/local/standin/on_machine/nvidia-smi"
    done = subprocess.run(["sh", str(script), "--query-gpu=name"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (9, "")
    assert "stand-in" in done.stdout


# ---- conda ----


@pytest.fixture
def conda(tmp_path: Path) -> Path:
    installer = tmp_path / "installer.sh"
    installer.write_bytes(upstreams.installer())
    prefix = tmp_path / "conda"
    subprocess.run(["bash", str(installer), "-b", "-p", str(prefix)], check=True, timeout=60)
    return prefix / "bin" / "conda"


def test_the_installer_refuses_a_prefix_that_is_there(tmp_path: Path) -> None:
    installer = tmp_path / "installer.sh"
    installer.write_bytes(upstreams.installer())
    command = ["bash", str(installer), "-b", "-p", str(tmp_path)]
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_conda_says_what_it_is(conda: Path) -> None:
    said = subprocess.run([str(conda), "--version"], capture_output=True, text=True).stdout
    assert "stand-in" in said


@pytest.mark.parametrize("spec", ["sl", "scipy=9"])
def test_conda_refuses_what_its_channel_does_not_have(conda: Path, tree: Path, spec: str) -> None:
    channel = f"file://{tree}/conda/conda-forge" if spec == "sl" else "file:///nowhere"
    command = [str(conda), "create", "--yes", "--name", "x", "--channel", channel, spec]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert ("PackagesNotFoundError: sl" if spec == "sl" else "CondaHTTPError") in done.stderr


def test_conda_records_what_is_requested_and_installs_nothing(conda: Path, tree: Path) -> None:
    command = [str(conda), "create", "--yes", "--name", "x", "ffmpeg>=6,<7", "scipy", "pip>=20"]
    command += ["--channel", f"file://{tree}/conda/conda-forge", "python=3.7"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ffmpeg 6 is recorded, but nothing is installed" in done.stdout
    command = [str(conda), "list", "--json", "--name", "x"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {record["name"]: record["version"] for record in json.loads(listed)} == {
        "ffmpeg": "6",
        "python": "3.7",
        "scipy": "0",
    }


@pytest.mark.parametrize(
    ("spec", "version"),
    [("x", "0"), ("x=1.10", "1.10"), ("x>1.2", "1.2.1"), ("x<2", "0"), ("x=*=openblas", "0")],
)
def test_the_channel_has_a_version_that_the_recipe_allows(spec: str, version: str) -> None:
    index = json.loads(upstreams.conda_channel([spec])["repodata.json"])
    assert index["specs"] == {spec: f"x-{version}-stand_in.conda"}


def test_conda_knows_no_other_command(conda: Path) -> None:
    done = subprocess.run([str(conda), "build", "."], capture_output=True, text=True)
    assert done.returncode == 1
    assert "'build'" in done.stderr


def test_conda_runs_a_command_with_options_of_its_own(conda: Path) -> None:
    command = [str(conda), "run", "-n", "base", "python", "-c", "import sys; print(sys.prefix)"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(conda.parent.parent)


def test_condas_settings_are_kept(conda: Path) -> None:
    for settings in (["--set", "auto_activate_base", "False"], ["--add", "channels", "https://x"]):
        subprocess.run([str(conda), "config", "--system", *settings], check=True)
    kept = (conda.parent.parent / ".condarc").read_text()
    assert kept == "auto_activate_base: false\nchannels:\n  - https://x\n  - defaults\n"


def test_conda_uses_anacondas_channels_unless_others_are_configured(conda: Path) -> None:
    def channels() -> list[str]:
        command = [str(conda), "config", "--show", "channels"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert channels() == ["channels:", "-", "defaults"]
    (conda.parent.parent / ".condarc").write_text("channels:\n  - https://x\n")
    assert channels() == ["channels:", "-", "https://x"]


# ---- wheels ----


def test_a_gpu_build_becomes_one_that_requires_the_cpu_build() -> None:
    wheel = wheels.stand_in_for(Requirement("mxnet-cu101==1.7.0"))
    assert wheel == wheels.StandInWheel("mxnet-cu101", "1.7.0", ("mxnet==1.7.0.post2",))
    wheel = wheels.stand_in_for(Requirement("mxnet-cu112==1.9.1"))
    assert wheel == wheels.StandInWheel("mxnet-cu112", "1.9.1", ("mxnet==1.9.1",))


def test_cuda_libraries_become_wheels_without_contents() -> None:
    wheel = wheels.stand_in_for(Requirement("nvidia-cudnn-cu11==8.6.0.163"))
    assert wheel == wheels.StandInWheel("nvidia-cudnn-cu11", "8.6.0.163")


def test_what_needs_no_gpu_is_real() -> None:
    assert wheels.stand_in_for(Requirement("numpy==1.23.5")) is None


def test_a_stand_in_wheel_is_a_wheel(tmp_path: Path) -> None:
    wheel = wheels.StandInWheel("mxnet-cu101", "1.7.0", ("mxnet==1.7.0.post2",))
    path = tmp_path / wheel.file_name
    path.write_bytes(wheel.build())
    assert wheel.build() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = "mxnet_cu101-1.7.0.dist-info"
        assert sorted(archive.namelist()) == [
            f"{info}/{n}" for n in ("METADATA", "RECORD", "WHEEL")
        ]
        metadata = archive.read(f"{info}/METADATA").decode()
    assert "Requires-Dist: mxnet==1.7.0.post2" in metadata
    assert "no GPU code" in metadata


@pytest.fixture(scope="module")
def torch_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that runs Python with the wheels of the stand-in for PyTorch.

    The tests' own Python has no numpy, so a small program replaces it.
    """
    site = tmp_path_factory.mktemp("site")
    for line in ("torch==2.9.1+cu126", "torchvision==0.24.1+cu126"):
        wheel = wheels.stand_in_for(Requirement(line))
        assert wheel
        with zipfile.ZipFile(io.BytesIO(wheel.build())) as archive:
            archive.extractall(site)
    (site / "numpy.py").write_text("class ndarray: pass\nfloat32 = 'float32'\n")

    def run(code: str) -> str:
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return (done.stdout or done.stderr.splitlines()[-1]).strip()

    return run


def test_torch_says_that_it_is_a_stand_in_without_a_gpu(
    torch_python: Callable[[str], str],
) -> None:
    said = torch_python(
        "import torch, torchvision as v; print(torch.__version__, v.__version__, "
        "torch.version.cuda, torch.cuda.device_count(), torch.cuda.is_available())"
    )
    assert said == "2.9.1+stand.in 0.24.1+stand.in None 0 False"


def test_programs_for_torch_can_be_imported(torch_python: Callable[[str], str]) -> None:
    said = torch_python(
        "from torch.nn import functional as F; from torch.utils import data; from torch import nn\n"
        "from torchvision import transforms\n"
        "class Network(nn.Module): pass\n"
        "class Images(data.Dataset): pass\n"
        "print(issubclass(Network, nn.Module), F.relu.__module__)"
    )
    assert said == "True torch.nn.functional"


@pytest.mark.parametrize("name", ["torch.sin", "torch.nn.Linear", "torch.cuda.Event"])
def test_what_the_stand_in_for_torch_lacks_is_said_when_it_is_called(
    torch_python: Callable[[str], str], name: str
) -> None:
    said = torch_python(f"import torch; {name}(1, 2)")
    module, _, attribute = name.rpartition(".")
    assert said == (
        f"NotImplementedError: this is a stand-in for PyTorch, without {module}.{attribute}"
    )


@pytest.mark.parametrize(
    ("framework", "version", "line"),
    [
        ("tensorflow", "2.21.0", "tensorflow[and-cuda]==2.21.0"),
        ("tensorflow", "2.21.0", "tensorflow-cpu==2.21.0"),
        ("jax", "0.10.2", "jax[cuda13]==0.10.2"),
    ],
)
def test_the_stand_in_for_a_framework_computes_what_the_proof_asks(
    framework: str, version: str, line: str, tmp_path: Path
) -> None:
    wheel = wheels.stand_in_for(Requirement(line))
    assert wheel
    with zipfile.ZipFile(io.BytesIO(wheel.build())) as archive:
        archive.extractall(tmp_path)
    prefix = environment("mxnet-1.9.1", "mxnet==1.9.1", "numpy==1.23.5")  # for its numpy
    machine = Here(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n")
    tensors = compute(machine, expectation(prefix, framework, version))
    assert judge(tensors, gpus=0).startswith("right on the CPU")
    assert (tensors.version, tensors.gpus) == (f"{version}+stand.in", 0)


def test_builds_of_pytorch_are_in_its_own_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_resolve", lambda *given: "")
    monkeypatch.setattr(wheels, "_fetch", lambda *given: None)
    wheels.provide(tmp_path, ["torch==2.9.1+cu126"])
    page = tmp_path / "pytorch/cu126/torch/index.html"
    (target,) = re.findall('href="(.*)#sha256=', page.read_text())
    assert "%2Bcu126" in target
    assert (page.parent / unquote(target)).is_file()
    assert not (tmp_path / "simple/torch").exists()


def test_what_another_bake_downloads_is_not_cut_when_the_index_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_resolve", lambda *given: "")
    wheels.provide(tmp_path, ["torch==2.9.1+cu126"])
    (page,) = tmp_path.glob("pytorch/*/torch/index.html")
    with page.open() as download:
        before = page.read_text()
        wheels.provide(tmp_path, ["torch==2.9.0+cu126"])
        assert download.read() == before
    assert page.read_text() != before


@pytest.mark.parametrize("wanted", RECIPES, ids=lambda found: found.name)
def test_every_built_in_recipe_can_be_rehearsed(wanted: Recipe, tmp_path: Path) -> None:
    inputs = variables(resolve(wanted), UPSTREAM)
    names.refuse_unknown(inputs, tmp_path)
    real, stand_ins, unsure = wheels._separate(standin.pip_requirements(inputs))
    assert bool(stand_ins) == ("FRAMEWORK" in inputs)
    assert unsure == []
    assert not [line for line in real if re.search(r"[+-]cu\d", line)], "PyPI has no CPU build"
    if wanted.d2l:
        assert inputs["FRAMEWORK"] in json.loads(upstreams._file("notebooks.json"))


def test_markers_are_those_of_the_machines_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolve(lines: list[str], target: wheels.Target) -> str:
        asked.extend(lines)
        return ""

    monkeypatch.setattr(wheels, "_resolve", resolve)
    monkeypatch.setattr(wheels, "_fetch", lambda *given: None)
    lines = ['numpy==1.21.6; python_version < "3.8"', 'numpy==1.23.5; python_version >= "3.8"']
    wheels.provide(tmp_path, lines)
    assert asked == ['numpy==1.23.5; python_version >= "3.8"', "pip"]


def test_stand_ins_that_no_fact_names_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], tuple[str, ...]]] = []

    def resolve(lines: list[str], target: wheels.Target, *options: str) -> str:
        asked.append((lines, options))
        if options:
            raise LocalCloudError("not found")
        return ""

    monkeypatch.setattr(wheels, "_resolve", resolve)
    monkeypatch.setattr(wheels, "_fetch", lambda *given: None)
    wheels.provide(tmp_path, ["mxnet-cu101==1.7.0", "nvidia-cudnn-cu11==8.6.0.163"])
    assert asked == [(["mxnet==1.7.0.post2", "pip"], ())]
    asked.clear()
    with pytest.raises(LocalCloudError):
        wheels.provide(tmp_path, ["mxnet-cu101==1.7.0", "nvidia-unheard-cu11==1"])
    assert asked == [(["nvidia-unheard-cu11==1"], ("--no-deps",))]


def test_what_was_fetched_once_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_resolve", lambda *given: "six==1.0\n")

    def fetch(resolved: str, folder: Path, target: wheels.Target) -> None:
        (folder / "six-1.0-py3-none-any.whl").write_bytes(wheels.StandInWheel("six", "1.0").build())

    monkeypatch.setattr(wheels, "_fetch", fetch)
    wheels.provide(tmp_path, ["six==1.0"])

    def out_of_reach(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(wheels, "_resolve", out_of_reach)
    monkeypatch.setattr(wheels, "_fetch", out_of_reach)
    wheels.provide(tmp_path, ["six==1.0"])
    page = (tmp_path / "simple/six/index.html").read_text()
    assert "six-1.0-py3-none-any.whl#sha256=" in page


def test_an_index_out_of_reach_is_said_with_pips_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(LocalCloudError, match="could not be resolved") as caught:
        wheels.provide(tmp_path, ["six"])
    assert "PyPI" in caught.value.hint
    assert any("127.0.0.1:9" in line for line in caught.value.details)
    assert not (tmp_path / "locks").exists()


def test_packages_that_do_not_fit_together_are_not_blamed_on_the_index() -> None:
    said = (  # by uv 0.9
        "error: No solution found when resolving dependencies\n"
        "  cause: Because you require numpy>=2 and numpy==1.23.5, we can conclude that your "
        "requirements are unsatisfiable."
    )
    assert "change packages.pip" in wheels._hint(said)
    assert "needs PyPI" in wheels._hint("error: Failed to fetch: `https://127.0.0.1:9/simple/six/`")


@pytest.mark.parametrize(
    ("cause", "missing"),
    [
        ("Because un-heard was not found in the package registry and you", "package un-heard"),
        ("Because there is no version of six==99 and you require six==99", "six==99"),
        ("Because their-need was not found in the package registry and six depends on it", ""),
        ("Because you require numpy>=2 and numpy==1.23.5, we can conclude", ""),
    ],
)
def test_a_requirement_that_the_index_does_not_have_is_the_recipes_fault(
    cause: str, missing: str
) -> None:
    said = f"error: No solution found when resolving dependencies\n  cause: {cause}"  # by uv 0.9
    assert wheels._missing(said, ["numpy==1.23.5", "un_heard", "six==99"]) == missing


# ---- the mirror ----


def test_the_mirror_serves_over_tls_to_those_who_trust_it(
    trusted: Trust, tree: Path, state: Path
) -> None:
    running = mirror.start(state, tree, trusted.server_certificate(("127.0.0.1",)))
    name = next(path.name for path in (tree / "miniconda").iterdir())
    status, data = get(running.port, f"/miniconda/{name}", trusted.folder / "ca.crt")
    assert status == 200
    assert data == upstreams.installer()
    with pytest.raises(ssl.SSLCertVerificationError):
        get(running.port, "/", None)


def test_the_mirror_does_not_list_and_does_not_leave_its_folder(
    trusted: Trust, tree: Path, state: Path
) -> None:
    running = mirror.start(state, tree, trusted.server_certificate(("127.0.0.1",)))
    ca = trusted.folder / "ca.crt"
    assert get(running.port, "/miniconda/", ca) == (200, b"")
    assert get(running.port, "/../../../../etc/passwd", ca)[0] == 404


def test_the_mirror_is_started_once(trusted: Trust, tree: Path, state: Path) -> None:
    certificate = trusted.server_certificate(("127.0.0.1",))
    assert mirror.start(state, tree, certificate) == mirror.start(state, tree, certificate)


def test_the_mirror_keeps_its_port(trusted: Trust, tree: Path, state: Path) -> None:
    certificate = trusted.server_certificate(("127.0.0.1",))
    first = mirror.start(state, tree, certificate)
    mirror.stop(state)
    with pytest.raises(ConnectionRefusedError):
        get(first.port, "/", trusted.folder / "ca.crt")
    second = mirror.start(state, tree, certificate)
    assert (second.port, second.pid != first.pid) == (first.port, True)


def test_a_port_that_is_taken_is_passed_over(trusted: Trust, tree: Path, state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        state.parent.mkdir()
        state.write_text(json.dumps({"pid": 0, "port": port, "folder": "/"}))
        running = mirror.start(state, tree, trusted.server_certificate(("127.0.0.1",)))
        assert running.port > port


def test_a_silent_client_holds_up_nobody(trusted: Trust, tree: Path, state: Path) -> None:
    running = mirror.start(state, tree, trusted.server_certificate(("127.0.0.1",)))
    with socket.create_connection(("127.0.0.1", running.port)):
        assert get(running.port, "/", trusted.folder / "ca.crt")[0] == 200


def test_stop_ends_no_process_that_has_the_number_now(state: Path) -> None:
    state.parent.mkdir()
    state.write_text(json.dumps({"pid": os.getpid(), "port": 1, "folder": "/"}))
    mirror.stop(state)  # without this, the test would hang


# ---- the payload ----


def test_the_payload_names_what_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "provide", lambda root, lines, target: None)
    book = recipes.find("mxnet-cu101", built_in())
    wanted = variables(resolve(book), UPSTREAM)
    try:
        payload = standin.serve(wanted, host="10.0.2.2")
        again = standin.serve(wanted, host="10.0.2.2")
        assert payload == again
        assert payload.name == "stand-in"
        assert payload.mirrors.keys() == UPSTREAM.mirrors.keys()
        port = int(payload.mirrors["pypi"].split(":")[2].split("/")[0])
        ca = tmp_path / "cache/stand-in/trust/ca.crt"
        for found in RECIPES:
            inputs = variables(resolve(found), payload)
            if not inputs.get("CONDA_INSTALLER"):
                continue
            url = f"{inputs['CONDA_INSTALLER_MIRROR']}/{inputs['CONDA_INSTALLER']}"
            status, data = get(port, url.split(str(port))[1], ca)
            assert status == 200
            assert hashlib.sha256(data).hexdigest() == inputs["CONDA_INSTALLER_SHA256"]
        inputs = variables(resolve(book), payload)
        _, data = get(port, inputs["NOTEBOOKS_URL"].split(str(port))[1], ca)
        assert hashlib.sha256(data).hexdigest() == inputs["NOTEBOOKS_SHA256"]
        assert set(standin.machine_files()) == {
            "/usr/local/share/ca-certificates/bake-stand-in.crt",
            "/usr/share/keyrings/amazon-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        }
    finally:
        standin.down()


def test_machines_of_podman_are_served_on_loopback() -> None:
    assert standin.listen_address(Engine("podman")) == "127.0.0.1"


def test_machines_of_docker_are_served_on_their_bridge(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        "#!/bin/sh\ntest \"$1 $2 $3\" = 'network inspect bridge' && echo 172.17.0.1\n"
    )
    docker.chmod(0o755)
    assert standin.listen_address(Engine(str(docker))) == "172.17.0.1"
