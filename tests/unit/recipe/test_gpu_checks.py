"""A recipe against the GPUs of its builder: is the combination refused, and what is suggested?"""

from __future__ import annotations

import re

import pytest

from tests.support.recipes import RECIPES, changed_recipe, findings_of


def test_cuda_10_1_is_refused_on_an_a100() -> None:
    found = findings_of(RECIPES["mxnet-cu101"], "p4d.24xlarge")
    assert "CUDA 10.1 does not support the A100 (8.0)" in found["cuda.version"]
    assert "Use CUDA 11.0, or use a g4dn (T4)" in found["cuda.version"]


def test_a_driver_that_is_older_than_the_t4_is_refused() -> None:
    found = findings_of(changed_recipe("mxnet-cu100", driver__branch="410"))["driver.branch"]
    assert "driver 410.48 does not support the T4: the first version that does is 410.78" in found
    assert "Use branch 450" in found


def test_a_driver_that_no_longer_supports_the_k80_is_refused() -> None:
    found = findings_of(changed_recipe("mxnet-cu112"), "p2.xlarge")
    dropped = (
        "driver 535 no longer supports the K80: the last branch that does is 470. Use branch 470"
    )
    assert dropped in found["driver.branch"]


def test_a_driver_after_580_is_refused_on_volta() -> None:
    newer = changed_recipe("pytorch-cu126", base="ubuntu-24.04", driver__branch="595")
    found = findings_of(newer, "p3dn.24xlarge")
    assert (
        "driver 595 no longer supports the V100: the last branch that does is 580"
        in found["driver.branch"]
    )


def test_open_kernel_modules_are_refused_on_volta() -> None:
    found = findings_of(RECIPES["pytorch-cu126"], "p3dn.24xlarge")["driver.modules"]
    assert "the open kernel modules do not support the V100: they support Turing and later" in found
    assert "Use branch 580 with proprietary modules" in found


def test_blackwell_needs_the_open_kernel_modules() -> None:
    blackwell = changed_recipe("pytorch-cu126", cuda__version="12.8", driver__modules="proprietary")
    found = findings_of(blackwell, "g7e.2xlarge")
    assert "works only with the open kernel modules" in found["driver.modules"]
    assert findings_of(changed_recipe("pytorch-cu126", cuda__version="12.8"), "g7e.2xlarge") == {}


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("p6-b200.48xlarge", "nvlsm, libibumad and the kernel module ib_umad"),
        ("p6-b300.48xlarge", "nvlsm, libibumad and the kernel module ib_umad"),
    ],
)
def test_a_machine_that_needs_parts_which_no_stage_installs_is_refused(
    name: str, needs: str
) -> None:
    found = findings_of(changed_recipe("pytorch-cu126", cuda__version="12.8"), name)
    assert f"no image works on {name}" in found["builder.instance_types"]
    assert needs in found["builder.instance_types"]
    assert "Use a p5 (H100)" in found["builder.instance_types"]


def test_an_ultraserver_is_refused() -> None:
    found = findings_of(changed_recipe("pytorch-cu126", cuda__version="13.0"), "p6e-gb200.36xlarge")
    assert "p6e-gb200.36xlarge is arm64" in found["builder.instance_types"]


def test_open_kernel_modules_that_are_older_than_the_gpu_are_refused() -> None:
    found = findings_of(
        changed_recipe("pytorch-cu126", base="ubuntu-20.04", driver__branch="535"),
        "p6-b200.48xlarge",
    )
    assert "driver 535.230.02 does not support the B200" in found["driver.branch"]


def test_a_machine_that_needs_fabric_manager_is_refused_on_debian() -> None:
    found = findings_of(RECIPES["mxnet-cu118-debian12"], "p4d.24xlarge")
    assert "needs NVIDIA's Fabric Manager" in found["builder.instance_types"]


def test_a_framework_without_code_for_the_gpu_is_refused() -> None:
    found = findings_of(RECIPES["mxnet-cu118-debian12"], "p5.4xlarge")
    assert "does not support the H100 (9.0)" in found["framework.version"]
    assert "pytorch 2.9.1 for CUDA 12.6" in found["framework.version"]


@pytest.mark.parametrize("name", ["g2.2xlarge", "p2.xlarge", "g3.4xlarge", "p3.2xlarge"])
def test_retired_instance_families_are_refused_and_their_successors_suggested(name: str) -> None:
    found = findings_of(RECIPES["mxnet-cu101"], name)["builder.instance_types"]
    assert f"{name} (" in found
    assert "is no longer offered" in found
    assert re.search(r"Use (g4dn|g5) instead", found)


def test_machines_of_another_architecture_or_with_a_slice_of_a_gpu_are_refused() -> None:
    found = findings_of(RECIPES["mxnet-cu101"], "g5g.xlarge", "g6f.large")["builder.instance_types"]
    assert "g5g.xlarge is arm64, and ubuntu-18.04 is x86_64" in found
    assert "g6f.large has a slice of a GPU" in found
    assert "Use a g6 (L4)" in found
