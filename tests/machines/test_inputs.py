"""Hostile inputs arrive at real stages byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake.errors import BakeError
from bake.plan.inputs import inputs_file
from bake.recipe.recipe import Recipe
from bake.ssh import keys, runner
from tests.support.hostile import KNOWN
from tests.support.recipes import DOCUMENTS, packages, plan_of, urls
from tests.support.sshd import Machine, sshd

# On a real machine -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid() != 0 and subprocess.run(["sudo", "-n", "true"], check=False).returncode != 0:
        pytest.skip("stages run as root: needs root, or sudo without a password")
    with sshd(tmp_path_factory.mktemp("sshd"), keys.generate()) as running:
        yield running


def arrived(machine: Machine, folder: Path, inputs: dict[str, str]) -> dict[str, str]:
    """The sha256 of each as a stage has it, by name."""
    script = "#!/bin/bash\nset -o errexit -o nounset -o pipefail\n" + "".join(
        f'printf "{name} "; printf "%s" "${{{name}}}" | sha256sum\n' for name in inputs
    )
    with machine.connect() as connection:
        runner.run_stage(
            connection,
            "hostile",
            script=script.encode(),
            lib=b"",
            inputs=inputs_file("hostile", inputs),
            log=folder / "log",
            timeout_s=100,
            run_id=f"test-{uuid.uuid4().hex[:12]}",
        )
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return {name: digest for name, digest, _ in lines}


def test_every_known_value_arrives_at_a_stage_byte_for_byte(
    machine: Machine, tmp_path: Path
) -> None:
    inputs = {f"V{n}": text for n, text in enumerate(KNOWN) if "\x00" not in text}
    assert arrived(machine, tmp_path, inputs) == {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in inputs.items()
    }


def test_what_recipes_were_let_through_arrives_byte_for_byte(
    machine: Machine, tmp_path: Path
) -> None:
    """The inputs of many recipes' stages, as the plan makes them, through one real stage."""
    inputs: dict[str, str] = {}
    seen: set[str] = set()

    @settings(max_examples=400, database=None, derandomize=True)
    @given(text=st.one_of(urls, st.text(max_size=80).map("https://{}".format)), pip=packages)
    def gather(text: str, pip: str) -> None:
        document = deepcopy(DOCUMENTS["mxnet-cu101"])
        document |= {"mirrors": {"pypi": text}, "packages": {"pip": [pip]}}
        try:
            plan = plan_of(Recipe.model_validate(document))
        except (BakeError, ValueError):
            return  # it was refused
        for name in ("PYPI_MIRROR", "PIP_PACKAGES"):
            value = next(s.inputs[name] for s in plan.stages if name in s.inputs)
            if value not in seen and sum(map(len, seen)) < 500_000:
                seen.add(value)
                inputs[f"V{len(inputs)}"] = value

    gather()
    assert len(inputs) > 10
    assert arrived(machine, tmp_path, inputs) == {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in inputs.items()
    }
