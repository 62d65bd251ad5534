"""IAM's policy simulator, which tells whether the caller has the permissions of a policy.

https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
It includes service control policies, but not the policies of resources.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from bake.aws.client.session import Cloud
from bake.errors import CloudError

Policy = Mapping[str, Any]
Params = dict[str, Any]

# The condition keys with more than one value (IAM User Guide, "AWS global condition context keys").
SEVERAL = {"aws:CalledVia", "aws:TagKeys"}

_NAME = "bake-doctor"


def simulate_policy(cloud: Cloud, policy: Policy, wanted: Collection[str]) -> dict[str, bool]:
    """Return for each action whether the caller has it, for all resources of the policy.

    Empty if the caller may not use the simulator, or IAM does not know the caller.
    """
    source = principal(cloud.caller)
    found: dict[str, bool] = {}
    for request in _requests(cloud, policy, wanted) if source else ():
        [action] = request["ActionNames"]
        if not found.get(action, True):
            continue
        try:
            response = cloud.iam("SimulatePrincipalPolicy", PolicySourceArn=source, **request)
        except CloudError:
            return {}
        decisions = {
            each["EvalDecision"]
            for result in response["EvaluationResults"]
            for each in (result, *map(_specific, result.get("ResourceSpecificResults", ())))
        }
        found[action] = decisions == {"allowed"}
    return found


def principal(caller: str) -> str:
    """Return the ARN of the user or role of this caller; "" for other callers.

    The ARN of a session does not contain the path of its role, so IAM does not find such a role.
    """
    role = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.*", caller)
    if role:
        return f"arn:{role[1]}:iam::{role[2]}:role/{role[3]}"
    return caller if ":user/" in caller else ""


def _specific(result: Params) -> Params:
    return {"EvalDecision": result["EvalResourceDecision"]}


def _requests(cloud: Cloud, policy: Policy, wanted: Collection[str]) -> Iterator[Params]:
    """Yield a request to the simulator for each grant of these actions, with its conditions."""
    for statement in policy["Statement"]:
        for action in [each for each in as_list(statement["Action"]) if each in wanted]:
            resources = [_example(cloud, each) for each in as_list(statement["Resource"])]
            condition = statement.get("Condition", {})
            kinds = dict.fromkeys(SEVERAL, "stringList")
            kinds |= dict.fromkeys(condition.get("Bool", {}), "boolean")
            for keys in _contexts(condition):
                entries = [
                    {
                        "ContextKeyName": key,
                        "ContextKeyValues": [value],
                        "ContextKeyType": kinds.get(key, "string"),
                    }
                    for key, value in keys.items()
                ]
                yield {
                    "ActionNames": [action],
                    "ResourceArns": resources,
                    "ContextEntries": entries,
                }


def _example(cloud: Cloud, resource: str) -> str:
    """Return the ARN of one resource that matches the pattern."""
    parts = resource.split(":", 5)
    if len(parts) < 6:
        return resource
    arn, partition, service, region, account, name = parts
    region = cloud.region if region == "*" else region
    account = cloud.account_id if account == "*" else account
    return ":".join((arn, partition, service, region, account, name.replace("*", _NAME)))


def _contexts(condition: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the contexts that fulfil the condition, one for each combination of its values."""
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
    """Return a list: most elements of a policy may be one value or a list of values."""
    return value if isinstance(value, list) else [value]
