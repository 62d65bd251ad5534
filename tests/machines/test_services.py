"""The stages of services (Docker, DCGM, NCCL, EFA) and their checks, against stand-in upstreams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bake import catalog
from bake.local import standin
from bake.local.machines.engine import find_engine
from bake.plan.variables import variables
from bake.recipe.payload import UPSTREAM
from bake.recipe.resolved import resolve
from tests.support.environment import CACHE, REPOSITORY
from tests.support.stage_machines import Machine, find, machines

SERVICES = ("docker", "nvidia-container-toolkit", "dcgm", "nccl", "efa")
SKIPPED = 77
BUILD = catalog.load().build("vllm", "0.33.0", "13.0")
assert BUILD
VLLM = {
    "FRAMEWORK_VERSION": BUILD.version,
    "FRAMEWORK_REQUIREMENTS": "\n".join(BUILD.requirements),
    "PYTORCH_MIRROR": "",
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with all services, whose stages have run twice, and vLLM."""
    with pytest.MonkeyPatch.context() as patch, machines() as start:
        patch.setenv("BAKE_CACHE", str(CACHE))
        patch.setenv("BAKE_HOME", str(tmp_path_factory.mktemp("bake")))
        try:
            recipe = find("pytorch-cu126")
            inputs = variables(resolve(recipe), UPSTREAM) | VLLM
            machine = start(recipe, standin.serve(inputs, host=find_engine().computer_address))
            machine.bake("base", "drivers", "cuda", *SERVICES, "conda")
            machine.bake("vllm", **VLLM)
            machine.bake(*SERVICES)
            yield machine
        finally:
            standin.down()


def check(machine: Machine, name: str, gpus: int = 0, **inputs: str) -> tuple[int, str]:
    """Run a check as the proof does; return its exit status and its last line."""
    body = (REPOSITORY / "scripts/checks" / f"{name}.sh").read_bytes()
    given = " ".join(f"{key}={value}" for key, value in inputs.items())
    done = machine.run(f"export BAKE_GPUS={gpus} {given}; bash -s", user="ubuntu", stdin=body)
    return done.returncode, (done.stdout.splitlines() or [done.stderr])[-1]


def test_the_login_user_may_use_docker_with_the_runtime_of_nvidia(machine: Machine) -> None:
    assert "docker" in machine.read("id --name --groups ubuntu").split()
    assert "nvidia-container-runtime" in machine.read("cat /etc/docker/daemon.json")


def test_nccl_is_the_build_for_the_toolkit_and_an_upgrade_keeps_it(machine: Machine) -> None:
    versions = machine.read("dpkg-query --show --showformat '${Version} ' libnccl2 libnccl-dev")
    assert {version.partition("+")[2] for version in versions.split()} == {"cuda12.6"}
    assert "+cuda12.9" in machine.read("apt-cache madison libnccl2")
    assert {"libnccl2", "libnccl-dev"} <= set(machine.read("apt-mark showhold").split())


def test_dcgm_is_the_build_for_the_cuda_of_the_driver(machine: Machine) -> None:
    assert "datacenter-gpu-manager-4-cuda13" in machine.read(
        "cat /usr/share/bake/installed/dcgm/apt"
    )


def test_the_installer_of_efa_is_not_in_a_lock_and_its_dependencies_are(machine: Machine) -> None:
    assert "pciutils" in machine.read("cat /usr/share/bake/installed/efa/apt")
    assert "aws-efa-installer" in machine.read("cat /usr/share/bake/installed/efa/files")


@pytest.mark.parametrize("name", ["docker", "nvidia-container-toolkit", "dcgm"])
def test_a_check_of_a_service_that_cannot_run_here_is_skipped(machine: Machine, name: str) -> None:
    status, last = check(machine, name)
    assert status == SKIPPED
    assert last


def test_the_check_of_efa_says_that_the_machine_has_no_device(machine: Machine) -> None:
    assert check(machine, "efa") == (
        0,
        "libfabric 0-stand-in and /opt/amazon/ofi-nccl/lib/"
        "x86_64-linux-gnu/libnccl-net.so; this machine has no EFA device",
    )


def test_a_check_fails_if_a_container_does_not_get_the_gpus(machine: Machine) -> None:
    status, last = check(machine, "nvidia-container-toolkit", gpus=1)
    assert status not in (0, SKIPPED), last


def test_vllm_is_installed_with_its_pytorch_and_needs_a_gpu(machine: Machine) -> None:
    prefix = machine.inputs["ENVIRONMENT_PREFIX"]
    constraints = machine.read(f"cat {prefix}/constraints.txt")
    assert constraints.splitlines() == ["vllm==0.33.0", "torch==2.14.0"]
    inputs = {"ENVIRONMENT_PREFIX": prefix, "FRAMEWORK_VERSION": "0.33.0"}
    status, last = check(machine, "vllm", **inputs)
    assert status == SKIPPED
    assert last == "vLLM 0.33.0 needs a GPU, which this machine does not have"
    assert check(machine, "vllm", gpus=1, **inputs)[0] not in (0, SKIPPED)


def test_packages_are_held_after_another_stage_has_used_dpkg(machine: Machine) -> None:
    lock = "import fcntl, time; file = open('/var/lib/dpkg/lock', 'a'); "
    lock += "fcntl.lockf(file, fcntl.LOCK_EX); time.sleep(2)"
    use = 'source "${BAKE_LIB:?}"; sleep 0.5; hold_packages tcl; apt-mark showhold'
    done = machine.script(f'python3 -c "{lock}" & {use}')
    assert "tcl" in done.stdout.split(), done.stderr
