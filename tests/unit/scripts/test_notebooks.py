"""What the stage d2l changes in the notebooks: everything that a repository really contains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.shell import run_function


def cell(source: str | list[str], kind: str = "code") -> dict[str, Any]:
    more = {"outputs": [{"text": "1"}], "execution_count": 1} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source, **more}


def prepare(folder: Path, files: dict[str, str]) -> str:
    """Write the files, run the stage's function on them, and return what it printed."""
    for name, text in files.items():
        (folder / name).write_text(text)
    call = f"prepare_notebooks '{folder}'"
    done = run_function("stages/d2l.sh", call, folder, before="python=python3")
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepared(folder: Path, *cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of a notebook, after the stage's function has changed it."""
    prepare(folder, {"one.ipynb": json.dumps({"cells": cells})})
    kept: list[dict[str, Any]] = json.loads((folder / "one.ipynb").read_text())["cells"]
    return kept


def test_an_empty_notebook_is_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "chapter").mkdir()
    said = prepare(tmp_path, {"chapter/mf.ipynb": "", "chapter/blank.ipynb": " \n"})
    assert not (tmp_path / "chapter").exists()
    assert "chapter/mf.ipynb is empty upstream: left out" in said


@pytest.mark.parametrize(
    "text", ["<!DOCTYPE html>", "[]", "7", '{"cells": 1}', '{"cells": [{}]}', "[" * 100_000]
)
def test_a_notebook_that_cannot_be_read_is_reported_and_kept(tmp_path: Path, text: str) -> None:
    good = json.dumps({"cells": [cell("!pip install d2l==1.0.3\n")]})
    said = prepare(tmp_path, {"a-bad.ipynb": text, "good.ipynb": good})
    assert "warning: the notebook a-bad.ipynb cannot be read" in said
    assert (tmp_path / "a-bad.ipynb").read_text() == text
    assert "!pip" not in (tmp_path / "good.ipynb").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "!pip install d2l==1.0.3\n",
        "!pip install -U mxnet-cu112==1.9.1\n",
        '!pip install "torch==2.0.0" torchvision\n',
    ],
)
def test_a_line_that_would_replace_the_framework_is_removed(tmp_path: Path, line: str) -> None:
    (kept,) = prepared(tmp_path, cell([line]))
    assert (kept["source"], kept["outputs"]) == ([], [])


def test_other_lines_and_cells_stay(tmp_path: Path) -> None:
    cells = [
        cell("# !pip install pandas\nimport pandas as pd"),
        cell(
            ["!pip install d2l==1.0.3\n", '!pip install "gym==0.21.0"\n', "!pip install torch-x\n"]
        ),
        cell("    !pip install d2l==1.0.3", "markdown"),
    ]
    kept = prepared(tmp_path, *cells)
    assert kept[0] == cells[0]
    assert kept[1]["source"] == ['!pip install "gym==0.21.0"\n', "!pip install torch-x\n"]
    assert kept[2] == cells[2]
