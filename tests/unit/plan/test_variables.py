"""Every input that a stage may declare has a value that fits the recipe."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from packaging.requirements import Requirement

from bake.plan.variables import OF_PAYLOAD, OF_SECTION, variables
from bake.recipe.payload import UPSTREAM, Payload
from bake.recipe.resolved import resolve
from tests.support.recipes import COMPLETE, RECIPES, changed_recipe


def values(name: str, payload: Payload = UPSTREAM, **changes: Any) -> dict[str, str]:
    return variables(resolve(changed_recipe(name, **changes)), payload)


def test_a_recipe_without_a_section_has_none_of_its_inputs() -> None:
    every = values("mxnet-cu101")
    for section, names in OF_SECTION.items():
        assert set(names) <= every.keys()
        recipe = RECIPES["mxnet-cu101"].model_copy(update={section: None})
        left = variables(resolve(recipe), UPSTREAM)
        assert left.keys().isdisjoint(names)
    bare = RECIPES["mxnet-cu101"].model_copy(update=dict.fromkeys(OF_SECTION))
    everybody = every.keys() - {name for names in OF_SECTION.values() for name in names}
    assert variables(resolve(bare), UPSTREAM).keys() == everybody


def test_every_complete_recipe_has_the_same_inputs() -> None:
    names = {name for recipe in COMPLETE for name in values(recipe)}
    for recipe in COMPLETE:
        assert set(values(recipe)) == names
        assert all(isinstance(value, str) for value in values(recipe).values())


def test_the_inputs_that_differ_between_payloads_are_known() -> None:
    """A stand-in differs from the real hosts in every one of them."""
    differ = set()
    for name, recipe in COMPLETE.items():
        archives = {resolve(recipe).d2l.archive(recipe.framework.name): "0" * 64}
        installers = dict.fromkeys(UPSTREAM.sha256, "1" * 64)
        stand_in = Payload(
            name="stand-in",
            mirrors={key: f"https://127.0.0.1:1/{key}" for key in UPSTREAM.mirrors},
            key_fingerprints=dict.fromkeys(UPSTREAM.mirrors, "2" * 40),
            sha256=archives | installers,
            venv_python="3.0",
        )
        one, other = values(name), values(name, stand_in)
        differ |= {key for key in one if one[key] != other[key]}
    assert differ == OF_PAYLOAD


def test_cuda_10_1_is_pinned_to_its_own_cublas() -> None:
    given_ = values("mxnet-cu101")
    assert given_["CUDA_PACKAGES"] == "cuda-toolkit-10-1"
    assert given_["CUDA_PINS"] == "libcublas10=10.2.1.243-1 libcublas-dev=10.2.1.243-1"
    assert given_["CUDA_SOURCE"] == "nvidia"
    assert given_["NVIDIA_REPOSITORY"] == "ubuntu1804/x86_64"


def test_packages_of_a_debian_image_come_from_debian() -> None:
    given_ = values("mxnet-cu118-debian12")
    assert given_["CUDA_SOURCE"] == "os"
    assert given_["CUDA_PACKAGES"] == "nvidia-cuda-toolkit"
    assert given_["OS_SECURITY_MIRROR"] == "https://deb.debian.org/debian-security"
    assert given_["LOGIN_USER"] == "admin"
    assert given_["ENVIRONMENT_PREFIX"] == "/opt/venvs/d2l"
    assert given_["CONDA_INSTALLER"] == ""


def test_d2l_cannot_replace_the_numpy_of_its_framework() -> None:
    lines = values("mxnet-cu101")["D2L_REQUIREMENTS"].splitlines()
    assert 'numpy==1.21.6; python_version < "3.8"' in lines
    assert "d2l==0.17.0" in lines


def test_requirements_are_requirements_one_a_line() -> None:
    for name in COMPLETE:
        given_ = values(name, packages__pip=["scipy", "x; python_version < '3.8'"])
        for key in ("FRAMEWORK_REQUIREMENTS", "D2L_REQUIREMENTS", "PIP_PACKAGES"):
            assert [Requirement(line) for line in given_[key].splitlines()]


def test_lists_of_packages_are_words_without_quotes() -> None:
    given_ = values("mxnet-cu112", packages__apt=["htop", "jq=1.6-1"])
    assert given_["APT_PACKAGES"] == "htop jq=1.6-1"
    for key, value in given_.items():
        if key.endswith("_PACKAGES") and key != "PIP_PACKAGES":
            assert shlex.split(value) == value.split()


def test_the_conda_channel_is_one_without_terms_to_accept() -> None:
    for name in RECIPES:
        assert values(name)["CONDA_CHANNEL"] == "https://conda.anaconda.org/conda-forge"


def test_an_installer_has_its_own_mirror_and_its_hash() -> None:
    forge = values("pytorch-cu126")
    assert forge["CONDA_INSTALLER_MIRROR"].endswith("/download/26.3.2-3")
    assert forge["CONDA_INSTALLER"] == "Miniforge3-26.3.2-3-Linux-x86_64.sh"
    assert len(forge["CONDA_INSTALLER_SHA256"]) == 64
    conda = values("mxnet-cu101")
    assert conda["CONDA_INSTALLER_MIRROR"] == "https://repo.anaconda.com/miniconda"
    assert conda["CONDA_INSTALLER_SHA256"] == UPSTREAM.sha256[conda["CONDA_INSTALLER"]]


def test_the_hashes_of_the_payload_are_used() -> None:
    name = "Miniconda3-py310_24.9.2-0-Linux-x86_64.sh"
    ours = replace(UPSTREAM, sha256={name: "0" * 64})
    assert values("mxnet-cu101", ours)["CONDA_INSTALLER_SHA256"] == "0" * 64


def test_pytorch_comes_from_its_own_index_for_its_cuda() -> None:
    given_ = values("pytorch-cu126")
    assert given_["PYTORCH_MIRROR"] == "https://download.pytorch.org/whl/cu126"
    assert "torch==2.9.1+cu126" in given_["FRAMEWORK_REQUIREMENTS"].splitlines()


def test_a_build_that_is_on_pypi_needs_no_other_index() -> None:
    given_ = values("mxnet-cu101")
    assert given_["PYTORCH_MIRROR"] == ""


def test_nvidias_repository_is_trusted_with_the_key_of_the_operating_system() -> None:
    assert values("mxnet-cu101")["NVIDIA_KEY_FINGERPRINT"].endswith("3bf863cc")
    ours = replace(UPSTREAM, key_fingerprints=UPSTREAM.key_fingerprints | {"nvidia": "2" * 40})
    assert values("mxnet-cu101", ours)["NVIDIA_KEY_FINGERPRINT"] == "2" * 40


def test_a_pro_image_is_the_same_operating_system() -> None:
    pro, plain = values("mxnet-cu101", base="ubuntu-18.04-pro"), values("mxnet-cu101")
    assert pro == plain
    assert pro["OS_ID"] == "ubuntu-18.04"


def test_numpy_is_a_constraint_only_for_a_framework_that_needs_one() -> None:
    torch, mxnet = values("pytorch-cu126"), values("mxnet-cu112")
    assert "numpy" not in torch["FRAMEWORK_REQUIREMENTS"]
    assert torch["D2L_NUMPY"] == "1.23.5"
    assert 'numpy==1.23.5; python_version >= "3.8"' in mxnet["FRAMEWORK_REQUIREMENTS"].splitlines()


def test_notebooks_without_a_published_hash_come_by_commit() -> None:
    given_ = values("mxnet-cu101")
    assert given_["NOTEBOOKS_URL"] == "https://github.com/d2l-ai/d2l-en-colab.git"
    assert len(given_["NOTEBOOKS_COMMIT"]) == 40
    assert given_["NOTEBOOKS_SHA256"] == ""


def test_notebooks_whose_archive_the_payload_knows_come_by_hash() -> None:
    mirrors = {**UPSTREAM.mirrors, "notebooks": "https://here"}
    archive = "d2l-en-colab-c10026a.zip"
    given_ = values("mxnet-cu101", replace(UPSTREAM, mirrors=mirrors, sha256={archive: "ab"}))
    assert given_["NOTEBOOKS_URL"] == f"https://here/{archive}"
    assert (given_["NOTEBOOKS_SHA256"], given_["NOTEBOOKS_COMMIT"]) == ("ab", "")


def test_notebooks_are_never_fetched_unchecked() -> None:
    for name in COMPLETE:
        given_ = values(name, d2l__notebooks=True)
        assert given_["NOTEBOOKS_URL"]
        assert given_["NOTEBOOKS_SHA256"] or given_["NOTEBOOKS_COMMIT"]
        assert values(name, d2l__notebooks=False)["NOTEBOOKS_URL"] == ""


def test_an_image_of_a_machine_without_switches_serves_those_that_have_them() -> None:
    assert values("mxnet-cu112")["FABRIC_MANAGER_PACKAGES"] == "nvidia-fabricmanager-535"
    assert values("pytorch-cu126")["FABRIC_MANAGER_PACKAGES"] == "nvidia-fabricmanager-580"
    # CUDA 10.1 has no code for the GPUs of such machines.
    assert values("mxnet-cu101")["FABRIC_MANAGER_PACKAGES"] == ""


def test_the_kernel_is_held_with_the_driver_unless_the_recipe_says_otherwise() -> None:
    assert values("mxnet-cu101")["DRIVER_HOLD_KERNEL"] == "yes"
    assert values("mxnet-cu101", driver__hold_kernel=False)["DRIVER_HOLD_KERNEL"] == "no"


def test_mirrors_of_the_recipe_replace_those_of_the_payload() -> None:
    given_ = values("mxnet-cu101", mirrors={"ubuntu": "http://mirror.example.org/ubuntu/"})
    assert given_["OS_MIRROR"] == "http://mirror.example.org/ubuntu"
    assert given_["OS_SECURITY_MIRROR"] == "http://mirror.example.org/ubuntu"
