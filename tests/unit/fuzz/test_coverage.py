"""The parsers under a fuzzer that watches which code an input reaches."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import REPOSITORY
from tests.support.nvidia_smi import document, gpu
from tests.support.proved_machine import DRIVER, T4
from tests.support.tensor_reports import figures

SECONDS = 60
# What each begins with: a good one.
SEEDS = {
    "recipe": (REPOSITORY / "manifests" / "mxnet-cu101.toml").read_text(),
    "header": (REPOSITORY / "scripts" / "stages" / "cuda.sh").read_text(),
    "lock": 'format = 1\nrecipe = "mxnet-cu101"\n[base_image]\nname = "n"\nids = {}\n',
    "record": '{"run": "r", "recipe": "mxnet-cu101", "stages": [], "checks": []}',
    "tags": "2026-11-21T06:30:00Z",
    "nvidia-smi": document(gpu()),
    "hardware": T4.format(slot="1e") + DRIVER,
    "tensors": json.dumps(figures()),
    "packages": '[{"name": "mxnet", "version": "1.7.0"}]\nii \tbash\t5.1',
}


@pytest.mark.soak
@pytest.mark.parametrize("parser", SEEDS)
def test_a_minute_of_each_parser(parser: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install --editable '.[fuzz]'")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_text(SEEDS[parser])
    program = REPOSITORY / "tests" / "support" / "coverage_fuzzer.py"
    options = [f"-max_total_time={SECONDS}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"]
    run = subprocess.run(
        [sys.executable, program, parser, *options, corpus],
        cwd=tmp_path,  # what made it fail is written there
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS * 5,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    (runs,) = re.findall(r"Done (\d+) runs", run.stderr)
    covered = re.findall(r"\bcov: (\d+)", run.stderr)[-1]
    print(f"\n| {parser} | {runs} inputs in {SECONDS} s | {covered} edges |")
    assert int(runs) > 100
