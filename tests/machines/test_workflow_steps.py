"""The scheduled rebuild's steps, run in order with the environment that the workflow gives.

The repository is a project that `bake init` has made. Its workflow has the steps of this one's
(tests/project/test_workflows.py).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from bake.cli.init import write_project
from tests.support.environment import REPOSITORY
from tests.support.leftovers import held
from tests.support.tiny_recipes import add_recipe

BIN = Path(sys.executable).parent
TEMPLATE = REPOSITORY / "bake" / "cli" / "template"
WORKFLOW = yaml.safe_load((TEMPLATE / "dot_github" / "workflows" / "rebuild.yml").read_text())

# The local cloud in place of AWS, and what GitHub's own command line was asked to do.
BAKE = """#!/bin/bash
[[ ${{1:-}} != rebuild ]] || set -- "$@" --local --stand-in
[[ ${{1:-}} != reap ]] || set -- "$@" --local
exec {bin}/bake "$@"
"""
GH = """#!/bin/bash
echo "$*" >>{folder}/gh
case $1-$2 in
    issue-list) cat {folder}/open 2>/dev/null ;;
    issue-create) cat body.md >>{folder}/bodies && echo 7 >{folder}/open ;;
    issue-comment) cat body.md >>{folder}/bodies ;;
esac
exit 0
"""


@dataclass
class Runner:
    """The part of GitHub's runner that the workflow needs: expressions, outputs and `if`."""

    checkout: Path
    folder: Path
    contexts: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def value(self, expression: str) -> str:
        """Evaluate an operand, `a || b` or `a != b`; an unset context is empty, as on GitHub."""
        for operator in (" || ", " != "):
            if operator in expression:
                left, right = map(self.value, expression.split(operator, 1))
                return (left or right) if operator == " || " else str(left != right).lower()
        if expression.startswith("'"):
            return expression.strip("'")
        assert re.fullmatch(r"[\w.-]+", expression), f"cannot evaluate {expression}"
        return self.contexts.get(expression, "")

    def fill(self, text: object) -> str:
        return re.sub(r"\$\{\{ *(.*?) *\}\}", lambda match: self.value(match[1]), str(text))

    def run_job(self, name: str) -> int:
        """Run the steps until one fails, then those of `always()`; return the exit code."""
        status = 0
        for step in WORKFLOW["jobs"][name]["steps"]:
            if "run" in step and step.get("name") != "Install" and not status:
                status = self._run(step)
        return status

    def _run(self, step: Mapping[str, Any]) -> int:
        files = {
            kind: self.folder / f"{step.get('id', 'step')}-{kind}"
            for kind in ("OUTPUT", "STEP_SUMMARY")
        }
        environment = {name: self.fill(value) for name, value in step.get("env", {}).items()}
        run = subprocess.run(
            # What `shell: bash` means there.
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.checkout,
            env={name: value for name, value in os.environ.items() if name != "BAKE_BUILDS"}
            | environment
            | {f"GITHUB_{kind}": str(path) for kind, path in files.items()}
            | {"PATH": f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=500,
        )
        self.log.append(run.stdout + run.stderr)
        assert "Traceback" not in self.log[-1], self.log[-1]
        if files["OUTPUT"].exists() and "id" in step:
            for line in files["OUTPUT"].read_text().splitlines():
                name, _, value = line.partition("=")
                self.contexts[f"steps.{step['id']}.outputs.{name}"] = value
        return run.returncode

    def run(self, **inputs: str) -> dict[str, str]:
        """Return the result of each job; the matrix's jobs run one after the other."""
        for path in self.folder.glob("*-*"):
            path.unlink()
        shutil.rmtree(self.checkout / "reports", ignore_errors=True)
        self.contexts = {f"inputs.{name}": value for name, value in inputs.items()}
        self.contexts |= {"github.repository": "a/b", "github.run_id": "1"}
        self.contexts["github.server_url"] = "https://github.example"
        results = {"plan": "failure" if self.run_job("plan") else "success"}
        jobs = WORKFLOW["jobs"]
        for name, output in jobs["plan"]["outputs"].items():
            self.contexts[f"needs.plan.outputs.{name}"] = self.fill(output)
        results["bake"] = "skipped"
        if results["plan"] == "success" and self.value(jobs["bake"]["if"]) == "true":
            results["bake"] = "success"
            matrix = yaml.safe_load(self.contexts["needs.plan.outputs.matrix"])
            for entry in matrix["include"]:
                self.contexts |= {f"matrix.{name}": value for name, value in entry.items()}
                if self.run_job("bake"):
                    results["bake"] = "failure"
                kept = self.checkout / "reports" / f"rebuild-{entry['group']}"
                kept.mkdir(parents=True, exist_ok=True)
                (self.checkout / "summary.md").rename(kept / "summary.md")
        results["reap"] = "failure" if self.run_job("reap") else "success"
        if "failure" in results.values():
            results["report"] = "failure" if self.run_job("report") else "success"
        return results

    def add(self, recipe: str, body: str) -> None:
        add_recipe(self.checkout, recipe, body)


@pytest.fixture
def runner(local_cloud: Path, tmp_path: Path) -> Runner:
    checkout, folder = tmp_path / "checkout", tmp_path / "runner"
    write_project(checkout, None)
    (checkout / "manifests" / "hello.toml").unlink()
    (folder / "bin").mkdir(parents=True)
    for name, text in (("bake", BAKE), ("gh", GH)):
        program = folder / "bin" / name
        program.write_text(text.format(bin=BIN, folder=folder))
        program.chmod(0o755)
    return Runner(checkout, folder)


ONE_FAILED = {"plan": "success", "bake": "failure", "reap": "success"}


def leave_an_expired_group() -> str:
    """Resources of a run that was killed long ago."""
    tags = [
        {"Key": "bake:run", "Value": "20200101-000000-abcdef"},
        {"Key": "bake:expires", "Value": "2020-01-01T04:00:00Z"},
    ]
    made = boto3.client("ec2").create_security_group(
        GroupName="bake-20200101-000000-abcdef",
        Description="left",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
    )
    return str(made["GroupId"])


@pytest.mark.timeout(900)
def test_the_workflow_bakes_what_has_changed_and_opens_one_issue_for_what_fails(
    runner: Runner,
) -> None:
    expired = leave_an_expired_group()
    runner.add("tiny-good", "true")
    runner.add("tiny-bad", "echo 'no | such package' >&2; exit 7")

    first = runner.run()
    assert first == {**ONE_FAILED, "report": "success"}, runner.log
    bodies = (runner.folder / "bodies").read_text()
    assert "https://github.example/a/b/actions/runs/1" in bodies
    assert expired not in held().get("groups", []), "reaped, though a bake has failed"
    assert "tiny-bad" in bodies.replace("&#45;", "-")
    assert "no | such package" in bodies
    assert len(list(runner.checkout.glob("builds/*/record.json"))) == 1

    # The good one is there now; the bad one is tried again, and told where it was told before.
    second = runner.run()
    assert second == {**ONE_FAILED, "report": "success"}, runner.log
    assert runner.contexts["needs.plan.outputs.matrix"].count("tiny-good") == 0
    asked = [line.split()[:2] for line in (runner.folder / "gh").read_text().splitlines()]
    assert asked.count(["issue", "create"]) == 1
    assert asked.count(["issue", "comment"]) == 1

    third = runner.run(recipes="tiny-good")
    assert third == {"plan": "success", "bake": "skipped", "reap": "success"}, runner.log
    assert len(list(runner.checkout.glob("builds/*/record.json"))) == 1
