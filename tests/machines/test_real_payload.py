"""The real payload: gigabytes from Debian and PyPI, onto a real machine and into an image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import checked
from tests.support.environment import REPOSITORY

pytestmark = pytest.mark.soak

BIN = Path(sys.executable).parent


def invoke(*words: str, folder: Path = REPOSITORY) -> str:
    run = subprocess.run(
        [BIN / "bake", *words, "--local", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_cuda_11_8_and_mxnet_of_debian_and_pypi_work_on_a_machine_from_the_image(
    local_cloud: Path,
) -> None:
    [bake] = checked("bake", invoke("bake", "mxnet-cu118-debian12"))["bakes"]
    assert bake["baked"]["payload"] == "upstream"
    assert bake["proved"] in ("cpu", "gpu")
    for stage in bake["baked"]["stages"]:
        print(f"{stage['name']:8} {stage['duration_s']:6.1f} s")
    machine = json.loads(invoke("launch-from-ami", "--ami", bake["image_id"], "--name", "real"))
    try:
        said = subprocess.run(
            [*machine["ssh"], "nvcc --version; /opt/venvs/d2l/bin/python -c 'import mxnet'"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert said.returncode == 0, said.stderr
        assert "release 11.8" in said.stdout
    finally:
        invoke("terminate", "real", "--yes")


# The built-in recipes, on Debian and without what only a machine with a GPU has. PyTorch's build
# for the CPU is not on PyPI, so the one for CUDA 13.0 is taken, with 3 GB of CUDA's wheels.
RECIPES = {
    "pytorch": ("pytorch-cu130", '["driver"]', "2.14.0+cu130"),
    "tensorflow": ("tensorflow-cu129", '["driver", "cuda"]', "2.21.0"),
    "jax": ("jax-cu130", '["driver", "cuda"]', "0.10.2"),
}


@pytest.mark.parametrize("framework", RECIPES)
def test_the_real_wheels_of_a_framework_are_proved_on_the_cpu_without_the_book(
    framework: str, local_cloud: Path, tmp_path: Path
) -> None:
    parent, without, version = RECIPES[framework]
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / f"{framework}-real.toml").write_text(f"""
name = "{framework}-real"
extends = "{parent}"
without = {without}
base = "debian-13"
gpu = "none"
stages = ["base", "venv", "{framework}", "jupyter", "seal"]
[builder]
instance_types = ["m5.large"]
[checkpoints]
after = [] # each would be a copy of gigabytes
[python]
manager = "venv"
version = "3.13"
""")
    said = invoke("build", f"{framework}-real", folder=tmp_path)
    [bake] = checked("bake", said)["bakes"]
    assert (bake["baked"]["payload"], bake["proved"]) == ("upstream", "cpu")
    for stage in bake["baked"]["stages"]:
        print(f"{stage['name']:10} {stage['duration_s']:6.1f} s")
    tensors = [c for c in bake["baked"]["checks"] if c["name"] == "tensors"]
    print(tensors)
    assert "right on the CPU" in tensors[0]["detail"]
    assert f"({version}, " in tensors[0]["detail"]
