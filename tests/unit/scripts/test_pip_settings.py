"""The settings that a framework's stage leaves for pip, read by the real pip."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

from tests.support.shell import run_function

PYTORCH = "https://download.pytorch.org/whl/cu126"


def settings(folder: Path, requirements: str, **variables: str) -> list[str]:
    """Let the stages' function write the settings, and return what pip reads from them."""
    given = {
        "ENVIRONMENT_PREFIX": str(folder),
        "FRAMEWORK_REQUIREMENTS": requirements,
        "LOGIN_USER": getpass.getuser(),
    }
    before = "\n".join(f"{name}='{value}'" for name, value in (given | variables).items())
    done = run_function("lib.sh", "configure_pip", folder, before=before)
    assert done.returncode == 0, done.stderr
    environment = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": f"{folder}/pip.conf"}
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_the_requirements_of_the_framework_stay_in_force(tmp_path: Path) -> None:
    lines = 'mxnet-cu101==1.7.0\nnumpy==1.23.5; python_version >= "3.8"'
    assert f"install.constraint='{tmp_path}/constraints.txt'" in settings(tmp_path, lines)
    assert (tmp_path / "constraints.txt").read_text() == lines + "\n"


def test_the_index_in_which_torch_is_found_again_stays_configured(tmp_path: Path) -> None:
    found = settings(tmp_path, "torch==2.9.1+cu126", PYTORCH_MIRROR=PYTORCH)
    assert f"global.extra-index-url='{PYTORCH}'" in found
    assert f"install.constraint='{tmp_path}/constraints.txt'" in found


def test_other_frameworks_get_no_second_index(tmp_path: Path) -> None:
    assert not [line for line in settings(tmp_path, "x==1") if "PYTORCH" in line or "torch" in line]


def test_a_constraint_has_no_extras_because_pip_refuses_them(tmp_path: Path) -> None:
    settings(tmp_path, 'jax[cuda13]==0.10.2\nnumpy==1.23.5; python_version >= "3.8"')
    constraints = tmp_path / "constraints.txt"
    assert constraints.read_text() == 'jax==0.10.2\nnumpy==1.23.5; python_version >= "3.8"\n'
