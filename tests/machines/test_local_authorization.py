"""IAM in the local cloud: a user with keys may do what the policies allow, and nothing else."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from bake.aws.checkpoint import checkpoints
from bake.aws.client.session import connect
from bake.errors import CloudError, StageError
from tests.support.documents import checked
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen
from tests.support.leftovers import held

POLICY = json.loads((REPOSITORY / "docs" / "iam-policy.json").read_text())


@contextmanager
def a_user(policy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    """Return the environment of a new user with this policy."""
    iam, name = boto3.Session().client("iam"), f"user-{secrets.token_hex(4)}"
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="bake", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    with monkeypatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        environment.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        yield boto3.Session()


def less(action: str) -> Any:
    policy = json.loads(json.dumps(POLICY))
    for statement in policy["Statement"]:
        actions = statement["Action"]
        actions = actions if isinstance(actions, list) else [actions]
        statement["Action"] = [each for each in actions if each != action] or "none:Whatever"
    return policy


def test_a_bake_and_the_one_that_resumes_it_run_under_the_policy(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitchen.line("one", "two")
    kitchen.recipe("allowed", "one", "two")
    kitchen.witness.refused.add("two ends")
    with a_user(POLICY, monkeypatch):
        assert connect().account_id == "123456789012"
        with pytest.raises(StageError) as caught:
            kitchen.bake("allowed")
        assert not caught.value.details or "left behind" not in "".join(caught.value.details)
        assert [each.stages.keys() for each in checkpoints(connect(), "allowed")] == [{"one"}]
        kitchen.witness.refused.clear()
        [outcome] = kitchen.bake("allowed")
        assert outcome.status == "baked"
    assert kitchen.witness.began() == ["one", "two", "two"]


@pytest.mark.parametrize("action", ["ec2:RunInstances", "ec2:CreateTags"])
def test_a_bake_that_is_denied_something_says_what_and_leaves_nothing(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr("bake.aws.client.session._TAGS_PAUSE_S", 0.1)
    kitchen.line("one")
    kitchen.recipe("mine", "one")
    with a_user(less(action), monkeypatch), pytest.raises(CloudError) as caught:
        kitchen.bake("mine")
    assert caught.value.code == "UnauthorizedOperation"
    assert action in f"{caught.value.message} {caught.value.reason}"
    assert kitchen.witness.said == []


def test_a_policy_that_allows_an_action_on_ours_refuses_it_on_others(
    local_cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2 = boto3.Session().client("ec2")
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    name = f"theirs-{secrets.token_hex(4)}"
    group = ec2.create_security_group(GroupName=name, Description="not ours", VpcId=vpc["VpcId"])
    try:
        with a_user(POLICY, monkeypatch) as session:
            with pytest.raises(ClientError, match="UnauthorizedOperation"):
                session.client("ec2").delete_security_group(GroupId=group["GroupId"])
            with pytest.raises(ClientError, match="AccessDeniedException"):
                session.client("ssm").get_parameter(Name="/theirs")
    finally:
        ec2.delete_security_group(GroupId=group["GroupId"])


def test_keys_that_nobody_was_given_and_wrong_secrets_are_refused(
    local_cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = boto3.Session("AKIA0123456789ABCDEF", "secret", region_name="us-east-1")
    with pytest.raises(ClientError, match="AuthFailure"):
        unknown.client("ec2").describe_images()
    with a_user(POLICY, monkeypatch) as session:
        assert session.client("ec2").describe_images()
        key = session.get_credentials().access_key
        wrong = boto3.Session(key, "wrong", region_name="us-east-1")
        with pytest.raises(ClientError, match="AuthFailure"):
            wrong.client("ec2").describe_images()


@pytest.mark.parametrize("taken", ["", "ec2:ImportKeyPair"])
def test_the_doctor_asks_a_cloud_and_changes_nothing(
    local_cloud: Any, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    before = held()
    with a_user(less(taken), monkeypatch):
        said = doctor("--region", "us-east-1")
    assert held() == before
    missing = {each["subject"] for each in said["checks"] if each["outcome"] == "missing"}
    # `base` is missing, too: it is the distribution's own image, and here are only stand-ins.
    assert missing == {"base", taken} - {""}
    assert "iam:CreateServiceLinkedRole" in {
        each["subject"] for each in said["checks"] if each["outcome"] == "not_checked"
    }


def test_the_doctor_says_what_the_local_cloud_needs(local_cloud: Any) -> None:
    said = doctor("--local", status=0)
    assert said["is_ready"] is True
    programs = {"ssh", "rsync", "Session Manager"}
    parts = {"Python", "containers", "local cloud"}
    assert {each["subject"] for each in said["checks"]} == parts | programs


def doctor(*words: str, status: int = 1) -> Any:
    command = [Path(sys.executable).parent / "invoke", "doctor", *words, "--json"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert run.returncode == status, run.stderr
    return checked("doctor", run.stdout)


def test_a_dry_run_is_answered_only_when_it_would_be_allowed(
    local_cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dry runs are answered for each call, also for those that moto would execute."""
    vpc = {"CidrBlock": "10.9.0.0/16", "DryRun": True}
    with a_user(POLICY, monkeypatch) as session:
        with pytest.raises(ClientError, match="DryRunOperation"):
            session.client("ec2").describe_snapshots(DryRun=True)
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            session.client("ec2").create_vpc(**vpc)
    owner = boto3.Session().client("ec2")
    before = owner.describe_vpcs()["Vpcs"]
    with pytest.raises(ClientError, match="DryRunOperation"):
        owner.create_vpc(**vpc)
    assert owner.describe_vpcs()["Vpcs"] == before
