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


def invoke(*words: str) -> str:
    run = subprocess.run(
        [BIN / "invoke", *words, "--local", "--json"],
        cwd=REPOSITORY,
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
