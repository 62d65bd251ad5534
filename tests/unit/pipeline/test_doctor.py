"""The doctor reports exactly the prerequisites that are missing, and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.session
import pytest
from botocore.validate import ParamValidator

from bake.aws import permission
from bake.aws.checkpoint import create_checkpoint
from bake.aws.client.credentials import CredentialsEnd
from bake.aws.client.session import Cloud
from bake.aws.image_creation import create_image
from bake.aws.key_pair import import_key_pair
from bake.aws.launch import run_machine
from bake.aws.permission import permissions
from bake.aws.policy_simulator import SEVERAL, principal
from bake.aws.security_group import create_security_group
from bake.aws.tags import new_run, specifications
from bake.cli.views.doctor import show_diagnosis
from bake.console.console import Console
from bake.errors import (
    AccessError,
    BakeError,
    CloudError,
    LocalCloudError,
    NoAnswerError,
    PreflightError,
)
from bake.local.api.iam_policy import Need, allows
from bake.pipeline import doctor
from bake.pipeline.doctor import DoctorResult, Wanted, examine
from bake.pipeline.preflight import preflight
from bake.recipe import recipes
from bake.recipe.project import built_in
from bake.recipe.recipe import BaseSection
from bake.recipe.resolved import resolve
from tests.support.aws_in_process import public_key
from tests.support.documents import checked, document_of
from tests.support.environment import REPOSITORY
from tests.support.iam_account import ACTIONS, POLICY, Account, an_account, without
from tests.support.terminal import shown_in_terminal

RECIPE = resolve(recipes.find("mxnet-cu101", built_in()))
KEY_POLICY = json.loads((REPOSITORY / "docs" / "iam-policy-disk-key.json").read_text())
# AWS's examples of key policies name EC2 in full.
EXACT = json.loads(json.dumps(KEY_POLICY).replace("ec2.*", "ec2.us-east-1.amazonaws.com"))
KEY = "arn:aws:kms:us-east-1:123456789012:key/0a1b2c3d"
# Only with another call (tags, the role for spot machines), or by changing something.
# Used by EC2 for the caller, to find what refers to an image. One call shows them all.
VIA_EC2 = set(permission._REFERENCES)
NEVER_ALONE = {
    "ec2:CreateTags",
    "iam:CreateServiceLinkedRole",
    "servicequotas:RequestServiceQuotaIncrease",
    "ssm:AddTagsToResource",
    "ssm:DeleteParameter",
    "ssm:PutParameter",
}


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with an_account() as account:
        yield account


@pytest.fixture
def of_ours(account: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    """An account with one resource of each kind that bake has made."""
    monkeypatch.setenv("BAKE_CALLER_CIDR", "192.0.2.1/32")
    account.begin(POLICY)
    cloud = account.cloud()
    run = new_run("mxnet-cu101", lifetime=timedelta(hours=4))
    checked = preflight(cloud, RECIPE)
    group = create_security_group(
        cloud, run, run.temporary(), vpc_id=checked.placements[0].vpc_id, cidr="192.0.2.1/32"
    )
    import_key_pair(cloud, "ours", public_key(), run.temporary())
    spec = account.aws.order("ours", group)
    machine = run_machine(cloud, run, spec, checked.placements[:1])
    expires_at = run.started_at
    create_checkpoint(cloud, run, machine, stages={"a": "a"}, seconds={}, expires_at=expires_at)
    tags = run.finished(name="one", digest="d", stages={}, verified="gpu", payload="upstream")
    create_image(cloud, machine, name="one", description="", tags=tags)
    account.aws.cloud.ec2(
        "RequestSpotInstances",
        LaunchSpecification={"ImageId": spec.image_id, "InstanceType": "g4dn.xlarge"},
        TagSpecifications=specifications(run.temporary(), "spot-instances-request"),
    )
    account.aws.calls.clear()
    return account


def diagnosis(account: Account) -> DoctorResult:
    """Return the doctor's result for this user, after a check that it changed nothing."""
    before = account.aws.remains()
    found = examine(Wanted(RECIPE, POLICY, KEY_POLICY, account.cloud))
    assert account.aws.remains() == before
    changing = [
        (name, params)
        for name, params in account.aws.calls
        if not name.startswith(("Describe", "Get"))
    ]
    assert changing
    assert all(params.get("DryRun") for _, params in changing), changing
    return found


def outcomes(found: DoctorResult, outcome: str) -> set[str]:
    return {check.subject for check in found.checks if check.outcome == outcome}


def test_nothing_is_missing_under_the_policy(of_ours: Account) -> None:
    found = diagnosis(of_ours)
    assert found.well
    assert outcomes(found, "missing") == set()
    assert outcomes(found, "not checked") == NEVER_ALONE
    assert {
        "Python",
        "credentials",
        "region",
        "clock",
        "base image",
        "machines",
        "disk key",
    } <= outcomes(found, "ok")
    assert found.statements == []


@pytest.mark.parametrize("half", [0, 1])
def test_what_is_not_allowed_is_named_and_nothing_else_is(of_ours: Account, half: int) -> None:
    askable = [action for action in ACTIONS if action not in NEVER_ALONE | VIA_EC2]
    taken = set(askable[half::2])
    of_ours.allow(without(lambda _, action: action in taken))
    with everything_is_there(of_ours):
        found = diagnosis(of_ours)
    assert not found.well
    assert {subject for subject in outcomes(found, "missing") if ":" in subject} == taken
    added = {action for each in found.statements for action in each["Action"]}
    assert added == taken
    of_ours.allow(POLICY)


@pytest.mark.parametrize("action", sorted(VIA_EC2))
def test_a_permission_that_ec2_uses_for_the_caller_is_named(of_ours: Account, action: str) -> None:
    of_ours.allow(without(lambda _, each: each == action))
    found = diagnosis(of_ours)
    assert {subject for subject in outcomes(found, "missing") if ":" in subject} == {action}
    of_ours.allow(POLICY)


@contextmanager
def everything_is_there(account: Account) -> Iterator[None]:
    """Let the account's owner look up the resources that the user may not look up."""
    checked = preflight(account.aws.cloud, RECIPE)
    ours = permission._find_own_resources(account.aws.cloud)
    with (
        mock.patch.object(permission, "_find_own_resources", return_value=ours),
        mock.patch.object(doctor, "preflight", return_value=checked),
    ):
        yield


def test_without_anything_of_ours_less_can_be_asked_and_that_is_said(of_ours: Account) -> None:
    of_ours.begin(POLICY)
    found = diagnosis(of_ours)
    assert found.well
    unknown = outcomes(found, "not checked")
    assert unknown > NEVER_ALONE
    assert {"ec2:TerminateInstances", "ec2:RunInstances", "ec2:DeleteKeyPair"} <= unknown
    assert not {"ec2:ImportKeyPair", "ec2:CreateSecurityGroup", "ec2:CopyImage"} & unknown


@pytest.mark.parametrize(
    ("sids", "outcome"),
    [
        ((), "not checked"),
        (("StartOnlyWhatCarriesOurTag",), "missing"),
        (("StartFromAnyImageInAnySubnet",), "missing"),
        (("StartBehindOurGroupsAlone",), "not checked"),
    ],
)
def test_a_start_is_tried_without_a_group_of_ours_too(
    of_ours: Account, sids: tuple[str, ...], outcome: str
) -> None:
    """The default group is refused in any case; another refusal is still recognized."""
    of_ours.begin(without(lambda each, _: each["Sid"] in sids))
    assert "ec2:RunInstances" in outcomes(diagnosis(of_ours), outcome)


def test_a_start_that_may_be_behind_any_group_is_known_to_be_allowed(of_ours: Account) -> None:
    anything = {"Sid": "A", "Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "*"}
    of_ours.begin({**POLICY, "Statement": [*POLICY["Statement"], anything]})
    found = diagnosis(of_ours)
    assert "ec2:RunInstances" not in outcomes(found, "not checked") | outcomes(found, "missing")


def test_tags_that_may_not_be_given_are_what_is_missing(of_ours: Account) -> None:
    of_ours.allow(without(lambda _, action: action == "ec2:CreateTags"))
    found = diagnosis(of_ours)
    assert outcomes(found, "missing") == {"ec2:CreateTags"}
    assert "ec2:ImportKeyPair" in outcomes(found, "not checked")


# IAM's simulator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [set(), NEVER_ALONE, {"ec2:TerminateInstances"}])
def test_what_cannot_be_tried_is_asked_of_the_simulator(of_ours: Account, taken: set[str]) -> None:
    of_ours.begin(POLICY)
    theirs = without(lambda _, action: action in taken)
    shape = botocore.session.Session().get_service_model("iam")
    model = shape.operation_model("SimulatePrincipalPolicy").input_shape

    def simulate(cloud: Cloud, operation: str, **params: Any) -> Any:
        assert not ParamValidator().validate(params, model).has_errors()
        assert params["PolicySourceArn"] == "arn:aws:iam::123456789012:user/baker"
        keys = {e["ContextKeyName"]: e["ContextKeyValues"][0] for e in params["ContextEntries"]}
        several = {key: [keys.pop(key)] for key in SEVERAL & set(keys)}
        needs = [
            Need(params["ActionNames"][0], arn, keys, several) for arn in params["ResourceArns"]
        ]
        words = ["allowed" if allows([theirs], need) else "implicitDeny" for need in needs]
        return {"EvaluationResults": [{"EvalDecision": word} for word in words]}

    with mock.patch.object(Cloud, "iam", simulate):
        found = permissions(of_ours.cloud(), POLICY)
    assert {each.action for each in found if each.outcome == "not checked"} == set()
    assert {each.action for each in found if each.outcome == "missing"} == taken


@pytest.mark.parametrize(
    ("allowed", "outcome", "detail"),
    [
        (KEY_POLICY["Statement"], "ok", KEY),
        (EXACT["Statement"], "ok", KEY),
        (KEY_POLICY["Statement"][:1], "warning", "not allowed by a policy: kms:CreateGrant"),
        (None, "warning", "whether it may be used is unknown"),
    ],
)
def test_a_customer_managed_key_needs_permissions(
    of_ours: Account,
    monkeypatch: pytest.MonkeyPatch,
    allowed: list[dict[str, Any]] | None,
    outcome: str,
    detail: str,
) -> None:
    """EC2 uses the key through grants, in the caller's name: no dry run shows a denial."""
    of_ours.begin(POLICY)
    monkeypatch.setattr(of_ours.aws, "disk_key", KEY)

    def simulate(cloud: Cloud, operation: str, **params: Any) -> Any:
        if allowed is None:
            raise CloudError("No", code="AccessDenied")
        assert params["ResourceArns"] == [KEY]
        entries = {each["ContextKeyName"]: each for each in params["ContextEntries"]}
        types = {name: each["ContextKeyType"] for name, each in entries.items()}
        assert types.pop("kms:GrantIsForAWSResource", "boolean") == "boolean"
        assert types == {"kms:ViaService": "string"}
        keys = {name: each["ContextKeyValues"][0] for name, each in entries.items()}
        text = json.dumps([{**each, "Resource": KEY} for each in allowed])
        theirs = {"Statement": json.loads(text.replace('"Bool"', '"StringEquals"'))}
        need = Need(params["ActionNames"][0], KEY, keys)
        decision = "allowed" if allows([theirs], need) else "implicitDeny"
        return {"EvaluationResults": [{"EvalDecision": decision}]}

    nothing = mock.patch.object(doctor, "permissions", return_value=[])
    with mock.patch.object(Cloud, "iam", simulate), nothing:
        found = examine(Wanted(RECIPE, POLICY, KEY_POLICY, of_ours.cloud))
    [check] = [check for check in found.checks if check.subject == "disk key"]
    assert check.outcome == outcome
    assert detail in check.detail
    assert bool(check.advice) == (outcome == "warning")
    assert found.well


def test_statements_have_the_arns_of_the_partition() -> None:
    found = permission.in_partition(POLICY, "aws-us-gov")
    added = permission.statements(found, {"ec2:TerminateInstances"})
    assert added[0]["Resource"] == "arn:aws-us-gov:ec2:*:*:instance/*"
    assert "arn:aws:" not in json.dumps(found)


@pytest.mark.parametrize(
    ("caller", "source"),
    [
        ("arn:aws:iam::123456789012:user/baker", "arn:aws:iam::123456789012:user/baker"),
        ("arn:aws:sts::123456789012:assumed-role/ci/run", "arn:aws:iam::123456789012:role/ci"),
        (
            "arn:aws-us-gov:sts::123456789012:assumed-role/ci/run",
            "arn:aws-us-gov:iam::123456789012:role/ci",
        ),
        ("arn:aws:iam::123456789012:root", ""),
        ("arn:aws:sts::123456789012:federated-user/me", ""),
        ("", ""),
    ],
)
def test_policies_are_a_users_or_a_roles(caller: str, source: str) -> None:
    assert principal(caller) == source


# The rest ----------------------------------------------------------------------------------------


def test_without_credentials_nothing_else_is_asked() -> None:
    def connect() -> Cloud:
        raise AccessError("No access to AWS", hint="Give credentials", code="NoCredentials")

    found = examine(Wanted(RECIPE, POLICY, KEY_POLICY, connect))
    assert not found.well
    first = found.checks[0]
    assert (first.subject, first.outcome) == ("credentials", "missing")
    assert first.advice == "Give credentials"
    here = {"Python", "ssh", "rsync", "Session Manager"}
    assert {check.subject for check in found.checks} == {"credentials", *here}


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (NoAnswerError("AWS cannot be reached", hint="Check the network"), "network"),
        (AccessError("No access to AWS", hint="Give --region", code="NoRegionError"), "region"),
        (AccessError("No access to AWS", hint="Sign in", code="ExpiredToken"), "credentials"),
    ],
)
def test_what_keeps_from_aws_is_named_and_credentials_are_not_blamed_for_it(
    error: BakeError, missing: str
) -> None:
    def connect() -> Cloud:
        raise error

    found = examine(Wanted(RECIPE, POLICY, KEY_POLICY, connect))
    assert outcomes(found, "missing") == {missing}
    assert ("credentials" in outcomes(found, "not checked")) == (missing != "credentials")


def test_programs_that_commands_start_here_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = examine(None)
    assert found.well  # a bake needs none of them
    assert outcomes(found, "warning") == {"ssh", "rsync"}
    advice = {check.subject: check.advice for check in found.checks}
    assert "apt-get install openssh-client" in advice["ssh"]
    [ssm] = [check for check in found.checks if check.subject == "Session Manager"]
    assert ssm.detail == "aws and session-manager-plugin not installed: only --via ssm needs that"
    for name in ("ssh", "rsync", "aws", "session-manager-plugin"):
        (tmp_path / name).touch(mode=0o755)
    found = examine(None)
    assert outcomes(found, "warning") == set()
    assert {"ssh", "rsync", "Session Manager"} <= outcomes(found, "ok")


@pytest.mark.parametrize(("behind_s", "outcome"), [(0, "ok"), (-45, "missing"), (400, "missing")])
def test_a_clock_that_is_wrong_is_found(of_ours: Account, behind_s: int, outcome: str) -> None:
    cloud = of_ours.cloud()
    said = cloud.now() + timedelta(seconds=behind_s)
    nothing = mock.patch.object(doctor, "permissions", return_value=[])
    with mock.patch.object(Cloud, "now", return_value=said), nothing:
        found = examine(Wanted(RECIPE, POLICY, KEY_POLICY, lambda: cloud))
    [clock] = [check for check in found.checks if check.subject == "clock"]
    assert clock.outcome == outcome
    assert bool(clock.advice) == (outcome == "missing")


def test_credentials_of_unknown_end_are_a_warning() -> None:
    [check] = doctor.check_credentials_end(CredentialsEnd(None))
    assert check.outcome == "warning"
    assert "AWS_CREDENTIAL_EXPIRATION" in check.advice
    assert doctor.check_credentials_end(None) == []


def test_no_base_image_and_no_quota_are_found(of_ours: Account) -> None:
    of_ours.aws.quotas["L-DB2E81BA"] = 0
    try:
        strange = resolve(RECIPE.recipe.model_copy(update={"base": BaseSection(os="debian-12")}))
        found = examine(Wanted(strange, POLICY, KEY_POLICY, of_ours.cloud))
    finally:
        of_ours.aws.quotas["L-DB2E81BA"] = 64
    assert {"base", "quota"} <= outcomes(found, "missing")


def test_what_is_worst_is_first_and_all_fits_into_80_columns(
    of_ours: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    of_ours.allow(without(lambda _, action: action == "ec2:TerminateInstances"))
    found = examine(Wanted(RECIPE, POLICY, KEY_POLICY, of_ours.cloud))
    shown = shown_in_terminal(lambda: show_diagnosis(Console(), found))
    table, _, advice = shown.partition("→")
    lines = table.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith("ec2:TerminateInstances")
    policy = json.loads(advice[advice.index("{") : advice.rindex("}") + 1])
    [statement] = policy["Statement"]
    assert statement["Action"] == ["ec2:TerminateInstances"]
    assert statement["Condition"] == {"StringLike": {"aws:ResourceTag/bake:run": "*"}}
    document = document_of(lambda console: show_diagnosis(console, found), capsys)
    assert document["is_ready"] is False
    assert document["missing_policy"] == policy
    of_ours.allow(POLICY)


def test_what_the_computer_lacks_is_found() -> None:
    def engine() -> str:
        raise LocalCloudError("No container engine works here", hint="Install Podman")

    found = examine(None, {"containers": engine, "local cloud": lambda: "does not run"})
    assert outcomes(found, "missing") == {"containers"}
    assert found.checks[0].subject == "containers"
    assert "local cloud" in outcomes(found, "ok")
    assert not found.well


def test_a_call_that_is_denied_points_to_the_doctor(account: Account) -> None:
    account.begin(without(lambda _, action: action == "ec2:DescribeSubnets"))
    with pytest.raises(CloudError) as caught:
        account.cloud().ec2("DescribeSubnets")
    assert "ec2:DescribeSubnets" in caught.value.hint
    assert "invoke doctor" in caught.value.hint


def test_the_command_says_it_and_ends_with_1() -> None:
    command = [Path(sys.executable).parent / "invoke", "doctor", "--region", "us-east-1", "--json"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1, run.stderr
    document = checked("doctor", run.stdout)
    assert "credentials" in document["error"]["details"][0]
    assert document["checks"][0]["subject"] == "credentials"
    assert document["checks"][0]["outcome"] == "missing"


# What AWS says of a denial in its own code -------------------------------------------------------

BLOB = "Encoded authorization failure message: 8sJ2k_x-9"


def test_an_encoded_message_is_decoded_for_who_may(account: Account) -> None:
    account.begin(without(lambda _, action: action == "ec2:RunInstances"))
    told = {"explicitDeny": False, "context": {"action": "ec2:RunInstances", "resource": "arn:x"}}
    account.aws.refuse("RunInstances", "UnauthorizedOperation", f"No. {BLOB}", times=1)

    def decode(cloud: Cloud, operation: str, **params: Any) -> Any:
        assert (operation, params) == ("DecodeAuthorizationMessage", {"EncodedMessage": BLOB[39:]})
        return {"DecodedMessage": json.dumps(told)}

    cloud = account.cloud()
    with mock.patch.object(Cloud, "sts", decode), pytest.raises(CloudError) as caught:
        cloud.ec2_once("RunInstances", MinCount=1, MaxCount=1)
    assert caught.value.reason == "No. Decoded: no policy allows ec2:RunInstances on arn:x"
    assert caught.value.message == "AWS refused ec2:RunInstances"


def test_who_may_not_decode_it_sees_it_as_it_is(account: Account) -> None:
    """The policy does not allow decoding, and the error still contains AWS's own text."""
    account.begin(POLICY)
    account.aws.refuse("DescribeSubnets", "UnauthorizedOperation", f"No. {BLOB}", times=1)
    with pytest.raises(CloudError) as caught:
        account.cloud().ec2("DescribeSubnets")
    assert caught.value.reason == f"No. {BLOB}"
    assert account.needed[-1].action == "sts:DecodeAuthorizationMessage"


def test_a_bake_whose_first_question_is_denied_points_to_the_doctor(account: Account) -> None:
    account.begin(without(lambda _, action: action == "ec2:DescribeImages"))
    with pytest.raises(PreflightError) as caught:
        preflight(account.cloud(), RECIPE)
    assert any(
        "ec2:DescribeImages" in str(each) and "invoke doctor" in str(each)
        for each in caught.value.findings
    )
