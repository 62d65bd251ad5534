"""What IAM's policy simulator says of the caller: whether a policy's grants are allowed to him.

https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
It takes service control policies into account, but nothing of a resource's own policy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from bake.aws.client.session import Cloud
from bake.errors import CloudError

Policy = Mapping[str, Any]
Params = dict[str, Any]

_NAME = "bake-doctor"


def simulate_policy(cloud: Cloud, policy: Policy, wanted: Collection[str]) -> dict[str, bool]:
    """Whether these actions of the policy are allowed to the caller, each on all that it is for.

    Nothing where IAM may not be asked, or does not know the caller.
    """
    source = principal(cloud.caller)
    found: dict[str, bool] = {}
    for question in _scenes(cloud, policy, wanted) if source else ():
        [action] = question["ActionNames"]
        if not found.get(action, True):
            continue
        try:
            answer = cloud.iam("SimulatePrincipalPolicy", PolicySourceArn=source, **question)
        except CloudError:
            return {}
        decisions = {
            each["EvalDecision"]
            for result in answer["EvaluationResults"]
            for each in (result, *map(_specific, result.get("ResourceSpecificResults", ())))
        }
        found[action] = decisions == {"allowed"}
    return found


def principal(caller: str) -> str:
    """The ARN whose policies count for this caller; "" where there is none to be asked about.

    A role's path is not in its sessions' names: one with a path IAM does not find by this.
    """
    role = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.*", caller)
    if role:
        return f"arn:{role[1]}:iam::{role[2]}:role/{role[3]}"
    return caller if ":user/" in caller else ""


def _specific(result: Params) -> Params:
    return {"EvalDecision": result["EvalResourceDecision"]}


def _scenes(cloud: Cloud, policy: Policy, wanted: Collection[str]) -> Iterator[Params]:
    """Each grant of these actions as the simulator is asked about it, under its own conditions."""
    for statement in policy["Statement"]:
        for action in [each for each in as_list(statement["Action"]) if each in wanted]:
            resources = [_named(cloud, each) for each in as_list(statement["Resource"])]
            for keys in _contexts(statement.get("Condition", {})):
                entries = [
                    {"ContextKeyName": k, "ContextKeyValues": [v], "ContextKeyType": "string"}
                    for k, v in keys.items()
                ]
                yield {
                    "ActionNames": [action],
                    "ResourceArns": resources,
                    "ContextEntries": entries,
                }


def _named(cloud: Cloud, resource: str) -> str:
    """A resource's pattern as the name of one."""
    parts = resource.split(":", 5)
    if len(parts) < 6:
        return resource
    arn, partition, service, region, account, name = parts
    region = cloud.region if region == "*" else region
    account = cloud.account_id if account == "*" else account
    return ":".join((arn, partition, service, region, account, name.replace("*", _NAME)))


def _contexts(condition: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Every way to fulfil it: one for each value of those that have several."""
    contexts: list[dict[str, str]] = [{}]
    for keys in condition.values():
        for key, values in keys.items():
            contexts = [
                {**context, key: value.replace("*", _NAME)}
                for context in contexts
                for value in as_list(values)
            ]
    return contexts


def as_list(value: Any) -> list[Any]:
    """Most elements of a policy may be one thing or a list of them."""
    return value if isinstance(value, list) else [value]
