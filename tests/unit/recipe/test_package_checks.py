"""A recipe's own packages that contradict its other parts are refused, each with its place."""

from __future__ import annotations

from typing import Any

import pytest

from bake.recipe.conda_spec import read_conda_spec
from tests.support.recipes import changed_recipe, findings_of


def found(recipe: str, **packages: list[str]) -> dict[str, str]:
    changes: dict[str, Any] = {f"packages__{kind}": names for kind, names in packages.items()}
    return findings_of(changed_recipe(recipe, **changes))


# ---- pip


@pytest.mark.parametrize(
    ("recipe", "line", "says"),
    [
        ("mxnet-cu101", "numpy>=2", "contradicts mxnet 1.7.0, which needs numpy 1.21.6"),
        ("mxnet-cu112", "NumPy<1.20", "contradicts mxnet 1.9.1, which needs numpy 1.23.5"),
        ("pytorch-cu126", "numpy>=2", "contradicts d2l 1.0.3, which needs numpy 1.23.5"),
        ("pytorch-cu126", "torch==2.8.0", "which needs torch 2.9.1+cu126"),
        ("pytorch-cu126", "torch==2.9.1+cu128", "which needs torch 2.9.1+cu126"),
        ("pytorch-cu126", "torch @ https://example.org/torch-2.9.1.whl", "which needs torch"),
        ("pytorch-cu126", "pandas>=2.1", "contradicts d2l 1.0.3, which needs pandas 2.0.3"),
        ("mxnet-cu101", "mxnet", "mxnet and mxnet-cu101 contain the same files"),
        ("mxnet-cu101", "mxnet_cu112==1.9.1", "and mxnet-cu101 contain the same files"),
        ("mxnet-cu101", "d2l==1.0.3", "which needs d2l 0.17.0"),
    ],
)
def test_a_pip_package_that_contradicts_a_pin_is_refused(recipe: str, line: str, says: str) -> None:
    assert says in found(recipe, pip=["six", line])["packages.pip[1]"]


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        ("mxnet-cu101", "numpy"),
        ("mxnet-cu101", "numpy>=1.20"),
        ("mxnet-cu101", "numpy>=2; python_version >= '3.8'"),  # the recipe has Python 3.7
        ("mxnet-cu101", "pandas>=2.1; python_version >= '3.9'"),
        ("pytorch-cu126", "torch"),
        ("pytorch-cu126", "torch==2.9.1"),
        ("pytorch-cu126", "torchaudio"),
        ("pytorch-cu126", "scipy==1.10.1"),
        ("mxnet-cu112", "torch"),
    ],
)
def test_a_pip_package_that_contradicts_nothing_is_accepted(recipe: str, line: str) -> None:
    assert found(recipe, pip=[line]) == {}


# ---- conda


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("python=3.9", "python=3.9 contradicts Python 3.7"),
        ("python>=3.8", "contradicts Python 3.7"),
        ("python==3.6.15", "contradicts Python 3.7"),
        ("python!=3.7.*", "contradicts Python 3.7"),
        ("numpy=1.24", "contradicts mxnet 1.7.0, which needs numpy 1.21.6"),
        ("mxnet", "would be a second build of mxnet 1.7.0"),
    ],
)
def test_a_conda_package_that_contradicts_the_recipe_is_refused(line: str, says: str) -> None:
    assert says in found("mxnet-cu101", conda=["ffmpeg", line])["packages.conda[1]"]


@pytest.mark.parametrize(
    "line",
    ["python", "python=3.7", "python=3.7.16", "python>=3.6,<3.8", "python=3.9|3.7", "numpy<1.22"],
)
def test_a_conda_package_that_allows_what_the_recipe_has_is_accepted(line: str) -> None:
    assert found("mxnet-cu101", conda=[line]) == {}


def test_the_framework_is_not_taken_from_conda() -> None:
    refused = found("pytorch-cu126", conda=["pytorch=2.5"])["packages.conda[0]"]
    assert "would be a second build of pytorch 2.9.1" in refused


def test_a_venv_gets_no_conda_package() -> None:
    refused = found("mxnet-cu118-debian12", conda=["ffmpeg"])["packages.conda[0]"]
    assert "a venv contains no conda package: ffmpeg" in refused


@pytest.mark.parametrize(
    ("spec", "version", "allowed"),
    [
        ("x", "1.0", True),
        ("x=1.10", "1.10.3", True),
        ("x=1.1", "1.10.3", False),
        ("x==1.10", "1.10.0", True),
        ("x==1.10", "1.10.3", False),
        ("x=1.10.*", "1.10.3", True),
        ("x=1.10=h1_0", "1.10.3", True),
        ("x=1.10=h1_0", "1.9.3", False),
        ("x>=1.8,<2", "1.10", True),
        ("x>=1.8,<1.10", "1.10", False),
        ("x~=1.8.1", "1.8.3", True),
        ("x~=1.8.1", "1.9", False),
        ("x!=1.10", "1.10", False),
        ("x>1.10", "1.10", False),
        ("x<=1.10", "1.10", True),
        ("x=1.8|1.10", "1.10", True),
        ("x=1.8|>=1.11", "1.10", False),
        ("x=a_b!c", "1.10", True),  # conda itself reports what cannot be read
        ("x>=2023a_x", "1.10", True),
    ],
)
def test_condas_conditions_are_read(spec: str, version: str, allowed: bool) -> None:
    assert read_conda_spec(spec).allows(version) is allowed


# ---- apt


@pytest.mark.parametrize(
    ("recipe", "package", "says"),
    [
        ("mxnet-cu101", "nvidia-driver-535", "is of driver 535, and the recipe has 470"),
        ("mxnet-cu101", "libnvidia-compute-450-server:amd64=450.1", "is of driver 450"),
        ("mxnet-cu101", "nvidia-headless-no-dkms-535-server-open", "is of driver 535"),
        ("mxnet-cu101", "cuda", "would replace driver 470"),
        ("mxnet-cu101", "cuda-10-1", "would replace driver 470"),
        ("mxnet-cu101", "cuda-drivers-535", "would replace driver 470"),
        ("pytorch-cu126", "nvidia-open", "would replace driver 580"),
        ("mxnet-cu101", "cuda-toolkit-12-6", "is of CUDA 12.6, and the recipe has 10.1"),
        ("mxnet-cu101", "nvidia-cuda-toolkit", "is another CUDA toolkit in addition to"),
        ("mxnet-cu101", "linux-image-generic", "is another kernel"),
        ("mxnet-cu101", "linux-image-5.4.0-1103-aws", "is another kernel"),
        ("mxnet-cu118-debian12", "linux-image-amd64", "is another kernel"),
    ],
)
def test_an_apt_package_that_contradicts_the_recipe_is_refused(
    recipe: str, package: str, says: str
) -> None:
    assert says in found(recipe, apt=["htop", package])["packages.apt[1]"]


@pytest.mark.parametrize(
    ("recipe", "package"),
    [
        ("mxnet-cu101", "nvidia-utils-470-server"),
        ("mxnet-cu101", "libnvidia-gl-470-server"),
        ("mxnet-cu101", "linux-image-aws"),
        ("mxnet-cu101", "linux-modules-extra-aws"),
        ("pytorch-cu126", "nvidia-container-toolkit"),
        ("pytorch-cu126", "cuda-toolkit-12-6"),
        ("mxnet-cu118-debian12", "nvidia-cuda-toolkit"),
        ("mxnet-cu118-debian12", "linux-image-cloud-amd64"),
        ("mxnet-cu118-debian12", "nvidia-driver"),
    ],
)
def test_an_apt_package_that_contradicts_nothing_is_accepted(recipe: str, package: str) -> None:
    assert found(recipe, apt=[package]) == {}


# ---- dnf


def test_packages_are_named_for_the_systems_own_package_manager() -> None:
    refused = found("pytorch-cu126", dnf=["htop"])["packages.dnf"]
    assert "ubuntu-22.04 has no dnf" in refused
    amazon = {"base": "amazon-linux-2023", "driver__branch": "580", "driver__modules": "open"}
    assert findings_of(changed_recipe("pytorch-cu126", packages__dnf=["htop"], **amazon)) == {}
    refused = findings_of(changed_recipe("pytorch-cu126", packages__apt=["htop"], **amazon))
    assert refused.keys() == {"packages.apt"}
    assert "Name them in packages.dnf" in refused["packages.apt"]
