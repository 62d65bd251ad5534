"""The least policy in docs/ allows every call that the code makes, and no other."""

from __future__ import annotations

import json
import re

import botocore.session
from conftest import REPOSITORY

# Asked for by AWS itself when another call has tags, and on an account's first spot machine.
IMPLIED = {"ec2:CreateTags", "iam:CreateServiceLinkedRole", "ssm:AddTagsToResource"}
# IAM's name of a service, and botocore's.
SERVICES = {
    "ec2": "ec2",
    "pricing": "pricing",
    "servicequotas": "service-quotas",
    "ssm": "ssm",
    "sts": "sts",
}


def test_the_policy_allows_what_the_code_calls_and_nothing_else() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "bake" / "aws").glob("*.py"))
    words = set(re.findall(r'"([A-Z][A-Za-z]+)"', source))
    session = botocore.session.Session()
    called = {
        f"{prefix}:{operation}"
        for prefix, service in SERVICES.items()
        for operation in words & set(session.get_service_model(service).operation_names)
    }
    policy = json.loads((REPOSITORY / "docs" / "iam-policy.json").read_text())
    allowed: set[str] = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        allowed.update([actions] if isinstance(actions, str) else actions)
    assert allowed - IMPLIED == called


def test_parameters_outside_of_ours_are_out_of_reach() -> None:
    policy = json.loads((REPOSITORY / "docs" / "iam-policy.json").read_text())
    reached = {
        statement["Resource"]
        for statement in policy["Statement"]
        if any(action.startswith("ssm:") for action in statement["Action"])
    }
    assert reached == {"arn:aws:ssm:*:*:parameter/bake/*"}
