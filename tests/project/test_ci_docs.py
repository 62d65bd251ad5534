"""The AWS CLI and IAM's grammar accept the commands and policies of docs/ci.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import awscli
import pytest
import yaml
from awscli.clidriver import create_clidriver
from moto.server import ThreadedMotoServer

from tests.support.environment import REPOSITORY

TEXT = (REPOSITORY / "docs" / "ci.md").read_text()
POLICY = REPOSITORY / "docs" / "iam-policy.json"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", TEXT, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line[:4] == "aws "]
# In the order in which the text names them.
NAMES = [name for name in re.findall(r"`([a-z-]+\.json)`", TEXT) if name != POLICY.name]
DOCUMENTS = dict(zip(NAMES, blocks("json"), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text)
    (folder / "docs").mkdir()
    (folder / "docs" / POLICY.name).write_text(POLICY.read_text())
    return folder


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 10


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_aws_takes_the_commands(
    folder: Path,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The AWS CLI checks the parameters against the API's model, moto the policies' grammar."""
    monkeypatch.setenv("AWS_DATA_PATH", str(Path(awscli.__file__).parent / "data"))
    monkeypatch.chdir(folder)
    made = set()
    for command in COMMANDS:
        if "create-role --role-name bake-rebuild " in command and "bake-rebuild" in made:
            continue  # the other way's role of the same name
        words = [*shlex.split(command)[1:], "--endpoint-url", endpoint]
        assert create_clidriver().main(words) == 0, command + capsys.readouterr().err
        made.update(re.findall(r"--(?:role-)?name ([\w-]+)", command))
    assert {"bake-rebuild", "bake-rebuild-scheduler"} <= made


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_document_is_a_policy_of_the_kind_that_its_name_says(name: str) -> None:
    document = json.loads(DOCUMENTS[name])
    assert document["Version"] == "2012-10-17"
    (statement,) = document["Statement"]
    assert statement["Effect"] == "Allow"
    if name.endswith("-trust.json"):
        # Somebody, under a condition; a resource has no place here.
        assert statement.keys() == {"Effect", "Action", "Principal", "Condition"}
        assert statement["Action"].startswith("sts:AssumeRole")
    else:
        assert statement.keys() == {"Effect", "Action", "Resource"}


def test_the_least_policy_fits_into_a_role() -> None:
    # IAM, "IAM and AWS STS quotas": 10,240 characters of inline policies for a role, blanks apart.
    assert len(re.sub(r"\s", "", POLICY.read_text() + DOCUMENTS["codebuild-logs.json"])) < 10_240


def test_the_role_lets_credentials_live_as_long_as_the_workflow_asks_for() -> None:
    workflow = (REPOSITORY / ".github" / "workflows" / "rebuild.yml").read_text()
    (asked,) = re.findall(r"role-duration-seconds: (\d+)", workflow)
    assert f"--max-session-duration {asked}" in TEXT
    assert set(re.findall(r"vars\.(\w+)", workflow)) == set(
        re.findall(r"gh variable set (\w+)", TEXT)
    )


def test_the_buildspec_ends_as_the_rebuild_ends(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (command,) = yaml.safe_load(text)["phases"]["build"]["commands"]
    invoke = tmp_path / "invoke"
    for status in (0, 1):
        invoke.write_text(f"#!/bin/sh\necho '## Rebuild' >$3\nexit {status}\n")
        invoke.chmod(0o755)
        run = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert (run.returncode, run.stdout) == (status, "## Rebuild\n")
