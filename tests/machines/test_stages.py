"""The stage scripts, run for real on machines, against the stand-in upstreams."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from bake.local import standin
from bake.local.standin import upstreams
from bake.recipe.payload import Payload
from bake.recipe.project import built_in
from bake.recipe.resolved import resolve
from bake.threads import together
from bake.verify import expect, prove
from tests.support.environment import CACHE
from tests.support.recipes import changed_recipe
from tests.support.stage_machines import LIB, SCRIPTS, LoginShell, Machine, find, machines

UBUNTU, DEBIAN = "mxnet-cu101", "mxnet-cu118-debian12"
PYTORCH = changed_recipe("pytorch-cu126", packages={"apt": ["htop"], "conda": ["ffmpeg>=6"]})
PREFIX = "/opt/conda/envs/d2l"
# What a login by `ssh host command` starts from: pam_env reads the file, and no profile is.
AS_SSH_COMMAND = "set -a; . /etc/environment; cd; "

# Every file with its size, rights and owner; of what a stage writes by itself, the content too.
FILES = """
find /usr /opt /var/lib -path /var/lib/apt -prune -o -path /var/lib/dpkg -prune -o \\
    -name __pycache__ -prune -o -type f -printf '%p %s %m %u\\n'
find /etc /home /root /opt -path '*/lib/python*' -prune -o -type f -exec sha256sum {} +
"""


def notebook_archive() -> Iterator[bytes]:
    with zipfile.ZipFile(io.BytesIO(upstreams.notebooks("mxnet"))) as archive:
        yield from (archive.read(name) for name in archive.namelist())


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKE_CACHE", str(CACHE))
        patch.setenv("BAKE_HOME", str(tmp_path_factory.mktemp("bake")))
        yield patch
        standin.down()


@pytest.fixture(scope="module")
def payloads(state: pytest.MonkeyPatch) -> dict[str, Payload]:
    return {name: standin.up(resolve(find(name)), built_in()) for name in (UBUNTU, DEBIAN)}


@pytest.fixture(scope="module")
def start(payloads: dict[str, Payload]) -> Iterator[Callable[[str], Machine]]:
    """Return a function that starts a stand-in machine for a recipe."""
    with machines() as start:
        yield lambda name: start(find(name), payloads[name])


@pytest.fixture(scope="module")
def baked(start: Callable[[str], Machine]) -> Machine:
    """A machine with all stages of the default recipe except the seal."""
    machine = start(UBUNTU)
    machine.bake("base", "drivers", "cuda", "conda", "mxnet", "d2l")
    return machine


@pytest.fixture(scope="module")
def debian(start: Callable[[str], Machine]) -> Machine:
    """A machine with Debian's own packages: no conda, no repository of NVIDIA."""
    machine = start(DEBIAN)
    machine.bake("base", "drivers", "cuda", "venv")
    return machine


@pytest.fixture(scope="module")
def torch(payloads: dict[str, Payload]) -> Iterator[Machine]:
    """A machine with PyTorch and with packages of each kind, of which conda's have no content."""
    payload = standin.up(resolve(PYTORCH), built_in())
    with machines() as start:
        machine = start(PYTORCH, payload)
        machine.bake("base", "conda", "pytorch", "d2l")
        yield machine


@pytest.fixture(scope="module")
def prepared(start: Callable[[str], Machine]) -> Machine:
    """A machine with the system and the driver, for what `cuda` and `drivers` refuse."""
    machine = start(UBUNTU)
    machine.bake("base", "drivers")
    return machine


@pytest.fixture
def fresh(start: Callable[[str], Machine]) -> Machine:
    return start(UBUNTU)


# ---- what a stage leaves ----


def test_the_second_run_changes_no_file(baked: Machine) -> None:
    before = baked.read(FILES).splitlines()
    baked.bake("base", "drivers", "cuda", "conda", "mxnet", "d2l")
    changed = set(baked.read(FILES).splitlines()) ^ set(before)
    # Built anew from the same, with their times in them.
    of_itself = ("/etc/ld.so.cache", "/var/cache", "/var/lib/apt/", "nbsignatures.db", "/etc/pam.d")
    assert not [line for line in changed if not any(name in line for name in of_itself)]


def test_the_toolkit_is_found_without_a_login_shell(baked: Machine) -> None:
    told = baked.read(f"{AS_SSH_COMMAND} nvcc --version; echo $LD_LIBRARY_PATH", user="ubuntu")
    assert "release 10.1," in told
    assert told.endswith("/usr/local/cuda/lib64")


def test_the_toolkit_is_found_in_a_login_shell(baked: Machine) -> None:
    told = baked.read("bash -lc 'nvcc --version; echo $LD_LIBRARY_PATH'", user="ubuntu")
    assert "release 10.1," in told
    assert told.endswith("/usr/local/cuda/lib64")


def test_the_toolkits_libraries_are_found_by_services(baked: Machine) -> None:
    assert "/usr/local/cuda/lib64" in baked.read("cat /etc/ld.so.conf.d/bake-cuda.conf")


def test_the_toolkit_alone_sets_no_library_path(fresh: Machine) -> None:
    fresh.bake("base", "cuda")
    told = fresh.read(f"{AS_SSH_COMMAND} nvcc --version; echo $LD_LIBRARY_PATH.", user="ubuntu")
    assert told.endswith("\n.")
    assert fresh.read("bash -lc 'echo $LD_LIBRARY_PATH.'", user="ubuntu") == "."


def test_the_loader_knows_no_folder_in_which_the_login_user_can_write(baked: Machine) -> None:
    listing = baked.read("/sbin/ldconfig --verbose 2>/dev/null | grep '^/'").splitlines()
    folders = [line.split(":")[0] for line in listing]
    assert "/usr/local/cuda/lib64" in folders
    tests = "; ".join(f"test ! -w {folder} || echo {folder}" for folder in folders)
    assert not baked.read(f"{tests}; true", user="ubuntu")


def test_the_login_users_folders_are_searched_last(baked: Machine) -> None:
    """The programs of root are looked for in the same folders."""
    for shell in (f"{AS_SSH_COMMAND} echo $PATH", "bash -lc 'echo $PATH'"):
        path = baked.read(shell).split(":")
        assert path[0] == "/usr/local/cuda/bin"
        assert path[-1] == "/opt/conda/condabin"
        tests = "; ".join(f"test ! -w {folder} || echo {folder}" for folder in path)
        assert baked.read(f"{tests}; true", user="ubuntu") == "/opt/conda/condabin"


def test_cudnn_and_nccl_are_found_beside_mxnet(fresh: Machine) -> None:
    """The stand-in's wheels contain no libraries, so this environment has some of its own."""
    packages = "/opt/venvs/d2l/lib/python3.11/site-packages"
    fresh.read(f"mkdir -p {packages}/mxnet {packages}/nvidia/{{cudnn,nccl}}/lib")
    fresh.read(f"touch {packages}/nvidia/cudnn/lib/libcudnn{{,_ops_infer}}.so.8")
    fresh.read(f"touch {packages}/nvidia/nccl/lib/libnccl.so.2; chown -R ubuntu /opt/venvs")
    stage = (SCRIPTS / "stages" / "mxnet.sh").read_text()
    link = stage[stage.index("shopt") : stage.index("# The book sets")]
    done = fresh.script(f". $BAKE_LIB; packages={packages}\n{link}", LOGIN_USER="ubuntu")
    assert done.returncode == 0, done.stderr
    found = fresh.read(f"cd {packages}/mxnet; ls; readlink libcudnn.so.8").split()
    assert found[:3] == ["libcudnn.so.8", "libcudnn_ops_infer.so.8", "libnccl.so.2"]
    assert found[3] == "../nvidia/cudnn/lib/libcudnn.so.8"


def test_stages_that_run_at_the_same_time_lose_no_folder_of_the_path(fresh: Machine) -> None:
    fresh.bake("base")
    folders = [f"/opt/{number}/bin" for number in range(12)]
    use = f"export STAGE=base LOCKED_APT=; . {LIB}; prepend_path"
    together(*(partial(fresh.read, f"{use} {folder}") for folder in folders))
    path = fresh.read("cat /etc/environment")
    assert [folder for folder in folders if folder not in path] == []


def test_cublas_of_the_next_release_stays_out(baked: Machine) -> None:
    assert "10.2.2.89" in baked.read("apt-cache policy libcublas10"), "the trap is not set"
    assert baked.read("ls -d /usr/local/cuda-*") == "/usr/local/cuda-10.1"
    baked.read("apt-get --yes upgrade")
    assert baked.read("dpkg-query -Wf '${Version}' libcublas10") == "10.2.1.243-1"


def test_the_driver_is_held(baked: Machine) -> None:
    held = baked.read("apt-mark showhold").split()
    assert {"nvidia-utils-470-server", "nvidia-headless-no-dkms-470-server"} <= set(held)
    assert {"libcublas10", "libcublas-dev"} <= set(held)


def test_a_container_gets_no_kernel_module_and_hears_why(baked: Machine) -> None:
    told = baked.stage("drivers").stdout
    assert "This machine is a container" in told
    assert not baked.run("dpkg-query --show 'nvidia-dkms*'").stdout


def test_no_gpu_is_pretended(baked: Machine) -> None:
    done = baked.run("nvidia-smi")
    assert (done.returncode, done.stderr) == (9, "")
    assert "stand-in" in done.stdout


def test_mxnet_computes_by_conda_run_without_a_login_shell(baked: Machine) -> None:
    program = "import mxnet; print(mxnet.__version__, mxnet.nd.ones((2, 3)).sum().asscalar())"
    command = f"{AS_SSH_COMMAND} conda run -n d2l python -c {shlex.quote(program)}"
    assert baked.read(command, user="ubuntu") == "1.7.0 6.0"


def test_an_interactive_login_has_the_environment(baked: Machine) -> None:
    command = "bash -lic 'command -v python; echo $CONDA_DEFAULT_ENV' 2>/dev/null"
    assert baked.read(command, user="ubuntu").split() == [f"{PREFIX}/bin/python", "d2l"]


def test_the_environment_can_be_left_and_entered(baked: Machine) -> None:
    told = baked.read(
        "bash -lic 'conda deactivate; command -v python || echo none; conda activate d2l; "
        "command -v python; conda env list' 2>/dev/null",
        user="ubuntu",
    )
    assert told.splitlines()[:2] == ["none", f"{PREFIX}/bin/python"]
    assert PREFIX in told.splitlines()[-1]


def test_conda_installs_from_conda_forge_alone(baked: Machine) -> None:
    shown = baked.read("/opt/conda/bin/conda config --show channels", user="ubuntu")
    assert shown.splitlines() == ["channels:", f"  - {baked.inputs['CONDA_CHANNEL']}"]


def test_anacondas_channels_are_refused(fresh: Machine) -> None:
    done = fresh.stage("conda", CONDA_CHANNEL="defaults")
    assert done.returncode == 1
    assert "Anaconda's must not be among them" in done.stderr


def test_the_environment_is_the_login_users(baked: Machine) -> None:
    baked.read(f"touch {PREFIX}/lib/mine && rm {PREFIX}/lib/mine", user="ubuntu")


def test_the_pins_hold_for_what_a_person_installs_later(baked: Machine) -> None:
    command = f"{PREFIX}/bin/python -m pip install --dry-run --no-index 'numpy>=1.24'"
    done = baked.run(command, user="ubuntu")
    assert done.returncode != 0
    assert "1.23.5" in done.stdout + done.stderr


def test_the_notebooks_run(baked: Machine) -> None:
    notebook = "chapter_linear-networks/linear-regression.ipynb"
    baked.read(f"cd d2l-en && {PREFIX}/bin/jupyter execute --inplace {notebook}", user="ubuntu")
    assert '"execution_count": 3' in baked.read(f"cat /home/ubuntu/d2l-en/{notebook}")


def test_notebooks_lose_the_lines_that_would_replace_the_framework(baked: Machine) -> None:
    assert b"!pip install -U mxnet-cu92" in b"".join(notebook_archive())
    assert (
        baked.run("grep --recursive '!pip install .*mxnet' d2l-en", user="ubuntu").returncode == 1
    )
    assert baked.read("grep --recursive 'pip install pandas' d2l-en", user="ubuntu")


def test_a_notebook_that_is_empty_upstream_is_left_out(baked: Machine) -> None:
    assert b"" in notebook_archive()
    assert not baked.read("find d2l-en -empty", user="ubuntu")


def test_a_notebook_that_cannot_be_read_is_reported_and_left_as_it_is(baked: Machine) -> None:
    path = "chapter_recommender-systems/deepfm.ipynb"
    assert "DOCTYPE" in baked.read(f"cat d2l-en/{path}", user="ubuntu")
    baked.read("mv d2l-en aside", user="ubuntu")
    said = baked.stage("d2l").stdout
    baked.read("rm -rf d2l-en; mv aside d2l-en", user="ubuntu")
    assert f"warning: the notebook {path} cannot be read: JSONDecodeError" in said
    assert "gp-priors.ipynb is empty upstream: left out" in said


def test_jupyter_lists_the_environments_kernel(baked: Machine) -> None:
    assert f"{PREFIX}/share/jupyter/kernels/d2l" in baked.read(
        f"{PREFIX}/bin/jupyter kernelspec list"
    )


def test_notebooks_that_a_person_changed_are_left_alone(baked: Machine) -> None:
    baked.read("echo mine > d2l-en/mine.txt", user="ubuntu")
    baked.bake("d2l")
    assert baked.read("cat /home/ubuntu/d2l-en/mine.txt") == "mine"


def test_the_stand_in_for_pytorch_passes_the_proof(torch: Machine) -> None:
    expectation = expect(resolve(PYTORCH), "g6.xlarge", stand_in=True)
    without_gpu = replace(expectation, gpu=None, cuda_release=None)
    proof = prove(LoginShell(torch), without_gpu)
    outcomes = {check.name: (check.outcome, check.detail) for check in proof.checks}
    assert proof.verified == "cpu"
    assert outcomes["framework"] == ("passed", "torch 2.9.1")
    assert outcomes["d2l"] == ("passed", "d2l 1.0.3")
    assert outcomes["packages"] == ("passed", "2 packages, by name only: stand-ins")
    assert "right on the CPU" in outcomes["tensors"][1]
    assert "2.9.1+stand.in" in outcomes["tensors"][1]


def test_the_notebooks_are_those_of_the_framework(torch: Machine) -> None:
    notebook = "chapter_preliminaries/ndarray.ipynb"
    torch.read(f"cd d2l-en && {PREFIX}/bin/jupyter execute --inplace {notebook}", user="ubuntu")
    assert '"execution_count": 3' in torch.read(f"cat /home/ubuntu/d2l-en/{notebook}")


def test_debians_own_toolkit_and_driver(debian: Machine) -> None:
    assert debian.read("command -v nvcc") == "/usr/bin/nvcc"
    assert "release 11.8," in debian.read("nvcc --version")
    assert "non-free" in debian.read("cat /etc/apt/sources.list.d/bake-os.sources")
    assert debian.run("ls /etc/apt/sources.list.d/bake-nvidia.list").returncode != 0


def test_a_venv_is_entered_at_login_like_conda(debian: Machine) -> None:
    told = debian.read("bash -lic 'command -v python; echo $VIRTUAL_ENV' 2>/dev/null", user="admin")
    assert told.split() == ["/opt/venvs/d2l/bin/python", "/opt/venvs/d2l"]


def test_sources_of_the_image_are_put_aside_for_a_mirror(fresh: Machine) -> None:
    fresh.read("echo 'deb http://elsewhere.invalid/debian x main' > /etc/apt/sources.list")
    fresh.bake("base")
    assert "elsewhere" in fresh.read("cat /etc/apt/before-bake/sources.list")
    assert "preserve_sources_list: true" in fresh.read("cat /etc/cloud/cloud.cfg.d/90-bake-apt.cfg")


def test_a_package_that_apt_does_not_install_is_reported(fresh: Machine) -> None:
    """A name with `-` at its end is apt's command to remove the package."""
    done = fresh.stage("base", APT_PACKAGES="awk wget-")  # mawk provides awk
    assert done.returncode == 1
    assert "wget- is not installed" in done.stderr


def test_seal_takes_out_what_belongs_to_one_machine(fresh: Machine) -> None:
    planted = {
        "/root/.ssh/authorized_keys": "ssh-ed25519 AAAA builder",
        "/home/ubuntu/.ssh/authorized_keys": "ssh-ed25519 AAAA builder",
        "/home/ubuntu/.bash_history": "export TOKEN=1",
        "/root/.local/share/fish/fish_history": "export TOKEN=1",
        "/var/lib/systemd/random-seed": "a seed",
        "/etc/netplan/50-cloud-init.yaml": "macaddress: 00:11:22:33:44:55",
        "/etc/ssh/ssh_host_ed25519_key": "a private key",
        # As Ubuntu's update-secureboot-policy makes them for DKMS
        "/var/lib/shim-signed/mok/MOK.priv": "a private key",
        "/var/lib/shim-signed/mok/MOK.der": "its certificate",
        "/var/lib/shim-signed/mok/.rnd": "a seed",
        "/var/lib/landscape/landscape-sysinfo.cache": "IPv4 address for ens5: 172.31.7.9",
        "/var/lib/ubuntu-advantage/private/machine-token.json": "a token of Ubuntu Pro",
        "/etc/apt/auth.conf.d/90ubuntu-advantage": "machine esm.ubuntu.com/ login bearer",
        "/etc/nvme/hostnqn": "nqn.2014-08.org.nvmexpress:uuid:ec2f5d0a",
        "/var/lib/cloud/scripts/per-boot/power-off": "#!/bin/sh",
        "/var/lib/cloud/instances/i-1/user-data.txt": "ssh_keys: secret",
        "/var/lib/apt/lists/partial/x": "x",
        "/var/log/old.1": "x",
        "/tmp/left": "x",
        "/var/tmp/left": "x",
    }
    emptied = {"/etc/machine-id": "0123456789abcdef", "/var/log/auth.log": "Accepted publickey"}
    # Who has left these is told so, by the check that follows.
    kept = {"/home/ubuntu/.aws/credentials": "aws_secret_access_key = x", "/root/.netrc": "x"}
    for path, text in {**planted, **emptied, **kept}.items():
        fresh.read(f"mkdir -p $(dirname {path}); echo {shlex.quote(text)} > {path}")
    assert "sealed" in fresh.bake("seal")
    left = [path for path in planted if fresh.run(f"test -e {path}").returncode == 0]
    assert not left
    assert not fresh.read(f"cat {' '.join(emptied)}")
    assert fresh.read(f"cat {' '.join(kept)}")
    assert "sealed" in fresh.bake("seal")
    # The home itself, and what a person finds in it, stay.
    assert ".bashrc" in fresh.read("ls -A /home/ubuntu")


def test_seal_fails_for_what_is_there_again(fresh: Machine) -> None:
    script = (SCRIPTS / "stages" / "seal.sh").read_text()
    last_step = "in_container || sync"
    assert last_step in script
    body = script.replace(last_step, "touch /tmp/again").encode()
    fresh.run(f"mkdir -p /run/bake; cat > {LIB}", stdin=(SCRIPTS / "lib.sh").read_bytes())
    done = fresh.run(f"BAKE_LIB={LIB} LOGIN_USER=ubuntu bash -s", stdin=body)
    assert done.returncode == 1
    assert "not removed: /tmp/again" in done.stderr


# ---- what a stage refuses ----


def test_an_unknown_operating_system_is_refused(fresh: Machine) -> None:
    assert "unknown operating system plan-9" in fresh.stage("base", OS_ID="plan-9").stderr


def test_an_archive_signed_by_another_key_is_refused(fresh: Machine) -> None:
    fresh.read("rm /usr/share/keyrings/ubuntu-archive-keyring.gpg")
    done = fresh.stage("base")
    assert done.returncode != 0
    assert "not signed" in done.stderr or "NO_PUBKEY" in done.stderr


def test_a_repository_with_another_key_is_refused(prepared: Machine) -> None:
    right = prepared.inputs["NVIDIA_KEY_FINGERPRINT"]
    wrong = "A" * 32 + right[32:]  # the same file name
    done = prepared.stage("cuda", NVIDIA_KEY_FINGERPRINT=wrong)
    assert done.returncode == 1
    assert f"contains {right}, and not the key {wrong}" in done.stderr
    assert prepared.run("ls /etc/apt/sources.list.d/bake-nvidia.list").returncode != 0


def test_nvcc_of_another_release_is_refused(debian: Machine) -> None:
    done = debian.stage("cuda", CUDA_VERSION="11.2")
    assert done.returncode == 1
    assert "nvcc is of release 11.8 instead of 11.2" in done.stderr


def test_a_driver_of_another_branch_is_refused(prepared: Machine) -> None:
    done = prepared.stage("drivers", DRIVER_BRANCH="535")
    assert done.returncode == 1
    assert "is of driver 470.182.03 instead of branch 535" in done.stderr


def test_a_toolkit_without_its_pins_is_refused(prepared: Machine) -> None:
    done = prepared.stage("cuda", CUDA_PINS="")
    assert done.returncode == 1
    assert "/usr/local/cuda-10.2 was installed together" in done.stderr


def test_two_versions_of_the_driver_are_refused(debian: Machine) -> None:
    # As after a partial upgrade: dpkg's record of one package is an older one.
    debian.read("cp /var/lib/dpkg/status /root/status")
    debian.read(
        "sed -i '/^Package: libcuda1$/,/^$/s/^Version: 535/Version: 536/' /var/lib/dpkg/status"
    )
    done = debian.stage("drivers")
    debian.read("mv /root/status /var/lib/dpkg/status")
    assert done.returncode == 1
    assert "libcuda1 is 536.309.01, but nvidia-smi is 535.309.01" in done.stderr


def test_a_changed_installer_is_refused_and_not_run(fresh: Machine) -> None:
    done = fresh.stage("conda", CONDA_INSTALLER_SHA256="0" * 64)
    assert done.returncode == 1
    assert f"instead of {'0' * 64}" in done.stderr
    assert fresh.run("test -e /opt/conda").returncode != 0


def test_an_installation_of_conda_that_was_broken_off_is_done_again(fresh: Machine) -> None:
    fresh.read(
        "mkdir -p /opt/conda/bin && touch /opt/conda/bin/conda && chown -R ubuntu /opt/conda"
    )
    assert "d2l: python 3.7" in fresh.bake("conda")


def test_an_environment_of_another_python_is_refused(baked: Machine) -> None:
    done = baked.stage("conda", PYTHON_VERSION="3.9")
    assert done.returncode == 1
    assert "instead of 3.9" in done.stderr


def test_a_venv_of_another_python_is_refused(debian: Machine) -> None:
    done = debian.stage("venv", PYTHON_VERSION="3.7")
    assert done.returncode == 1
    assert "this system's python3 is 3.11, but the recipe requires 3.7" in done.stderr


def test_downloads_without_tls_are_refused(debian: Machine) -> None:
    plain = debian.inputs["PYPI_MIRROR"].replace("https:", "http:")
    done = debian.stage("venv", PYPI_MIRROR=plain)
    assert done.returncode == 1
    assert "downloads use TLS only" in done.stderr


def test_another_version_of_the_framework_is_refused(baked: Machine) -> None:
    done = baked.stage("mxnet", FRAMEWORK_VERSION="1.6.0")
    assert done.returncode == 1
    assert f"mxnet 1.6.0 is not installed in {PREFIX}" in done.stderr


def test_changed_notebooks_are_refused(baked: Machine) -> None:
    baked.read("mv d2l-en aside", user="ubuntu")
    done = baked.stage("d2l", NOTEBOOKS_SHA256="0" * 64)
    left = baked.run("test -e /home/ubuntu/d2l-en").returncode
    baked.read("rm -rf d2l-en; mv aside d2l-en", user="ubuntu")
    assert done.returncode == 1
    assert left != 0


# ---- apt ----


def test_a_held_lock_is_waited_for(fresh: Machine) -> None:
    # Another process of the machine holds the lock until the stage waits for it: the kernel lists
    # a waiter with an arrow.
    program = """
import fcntl, os, time
lock = open("/var/lib/apt/lists/lock", "a")
fcntl.lockf(lock, fcntl.LOCK_EX)
open("/run/held", "w").close()
inode = ":%d " % os.fstat(lock.fileno()).st_ino
while not any("->" in line and inode in line for line in open("/proc/locks")):
    time.sleep(0.05)
os.rename("/run/held", "/run/waited-for")
"""
    fresh.read(f"mkdir -p /var/lib/apt/lists; python3 -c {shlex.quote(program)} >/dev/null 2>&1 &")
    fresh.read("until test -e /run/held; do sleep 0.05; done")
    fresh.bake("base")
    assert fresh.read("ls /run/waited-for")


def test_stages_that_run_at_the_same_time_use_apt_one_after_the_other(fresh: Machine) -> None:
    fresh.bake("base")
    use = "apt_get update; apt_get install --reinstall unzip; install_packages unzip"
    use = f"export STAGE=base LOCKED_APT=; set -e; . {LIB}; {use}"
    together(*[partial(fresh.read, use)] * 4)


def test_a_package_that_was_left_half_configured_is_finished(fresh: Machine) -> None:
    fresh.bake("base")
    fresh.read(
        "sed -i '/^Package: unzip$/,/^$/s/ok installed/ok half-configured/' /var/lib/dpkg/status"
    )
    fresh.bake("base")
    assert "installed" in fresh.read("dpkg-query -Wf '${Status}' unzip")
