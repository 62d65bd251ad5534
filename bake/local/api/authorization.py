"""Authorization in the local cloud: whether IAM's policies allow a request of a user or role.

moto only checks the action: for it each statement with an ARN denies, and each condition is true.
Here a request is checked as on AWS, on each resource that it names or makes, with the tags that
the resource has or gets (`authorization.toml`). An access key that IAM did not make (`local`)
belongs to the account's owner, who may do everything.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jmespath  # type: ignore[import-untyped]
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.exceptions import JsonRESTError, _RESTError
from moto.ec2.models import ec2_backends
from moto.iam.access_control import IAMPolicy, IAMRequest
from moto.iam.models import iam_backends
from moto.utilities.utils import get_partition

from bake.local.api.iam_policy import Document, Need, allows, as_list

TagsOf = Callable[[str, str], Mapping[str, str]]

SPOT_ROLE = "role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"

_IAM_KEY_ID = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}")
_WITHOUT_ACCOUNT = {"image", "snapshot"}
# What EC2 reads with the caller's permissions for DescribeImageReferences (EC2 User Guide,
# "Identify your resources referencing specified AMIs").
_REFERENCES = (
    "ec2:DescribeInstances",
    "ec2:DescribeLaunchTemplates",
    "ec2:DescribeLaunchTemplateVersions",
    "ssm:DescribeParameters",
    "ssm:GetParameters",
    "imagebuilder:ListImageRecipes",
    "imagebuilder:ListContainerRecipes",
    "imagebuilder:GetContainerRecipe",
)
# Allowed whatever a policy says (STS API reference, GetCallerIdentity).
_ALWAYS_ALLOWED = {"sts:GetCallerIdentity"}


def install() -> None:
    """Make moto authorize each request in this process."""
    ActionAuthenticatorMixin._authenticate_and_authorize_normal_action = authorize


@cache
def facts() -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Read `authorization.toml`: for each EC2 action, the resource types and their rows."""
    table = tomllib.loads(Path(__file__).with_name("authorization.toml").read_text())
    return {
        action: [(kind, row) for kind, rows in kinds.items() for row in as_list(rows)]
        for action, kinds in table.items()
    }


def authorize(response: Any, _resource: str = "*") -> None:
    """Check a request before moto executes it. EC2 answers a dry run only if this succeeds."""
    if _IAM_KEY_ID.fullmatch(response.get_access_key()):
        request = _AuthorizedRequest(
            account_id=response.current_account,
            method=response.method,
            path=response.raw_path,
            data=response.data,
            body=response.raw_body,
            headers=response.headers,
            action=response._get_action(),
        )
        request.check_signature()
        request.check(response)
    if response.boto3_service_name == "ec2" and response._get_param("DryRun", False):
        raise _EC2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")


def needs(
    service: str,
    operation: str,
    params: Mapping[str, Any],
    *,
    region: str,
    account: str,
    tags_of: TagsOf = lambda kind, name: {},
) -> Iterator[Need]:
    """Yield each permission that a request needs.

    `tags_of` returns the tags of an existing resource, by its type and name.
    """
    arn = f"arn:{get_partition(region)}"
    if service == "ec2":
        given = {
            each["ResourceType"]: {tag["Key"]: tag["Value"] for tag in each.get("Tags", ())}
            for each in params.get("TagSpecifications", ())
        }
        yield from _ec2_needs(operation, params, given, region, account, tags_of)
    elif service == "ssm" and operation == "StartSession":
        target = params.get("Target", "")
        tags = tags_of("instance", target)
        keys = {f"ssm:resourceTag/{key}": value for key, value in tags.items()}
        yield Need("ssm:StartSession", f"{arn}:ec2:{region}:{account}:instance/{target}", keys)
        document = params.get("DocumentName", "SSM-SessionManagerRunShell")
        yield Need("ssm:StartSession", f"{arn}:ssm:{region}:{account}:document/{document}")
    elif service == "ssm" and (name := params.get("Name") or params.get("Path")):
        owner = "" if name.startswith("/aws/service/") else account  # a public parameter
        parameter = f"{arn}:ssm:{region}:{owner}:parameter/{name.strip('/')}"
        yield Need(f"ssm:{operation}", parameter)
        if params.get("Tags"):
            yield Need("ssm:AddTagsToResource", parameter)
    elif service == "servicequotas" and "QuotaCode" in params:
        quota = f"{params.get('ServiceCode')}/{params['QuotaCode']}"
        yield Need(f"{service}:{operation}", f"{arn}:{service}:{region}:{account}:{quota}")
    else:
        yield Need(f"{service}:{operation}")


def _ec2_needs(
    operation: str,
    params: Mapping[str, Any],
    given: Mapping[str, Mapping[str, str]],
    region: str,
    account: str,
    tags_of: TagsOf,
) -> Iterator[Need]:
    def arn(kind: str, name: str, where: str = region) -> str:
        owner = "" if kind in _WITHOUT_ACCOUNT else account
        return f"arn:{get_partition(where)}:ec2:{where}:{owner}:{kind}/{name}"

    if operation not in facts():
        yield Need(f"ec2:{operation}")
    for kind, row in facts().get(operation, ()):
        if "when" in row and not jmespath.search(row["when"], params):
            continue
        where = jmespath.search(row["region"], params) if "region" in row else region
        names = list(_flatten(jmespath.search(row["of"], params))) if "of" in row else ["*"]
        for name in names or ([] if row.get("optional") else ["*"]):
            which = row.get("tags", "")
            tags = given.get(kind, {}) if which == "request" else tags_of(kind, name)
            several = {"aws:TagKeys": [tag["Key"] for tag in params.get("Tags", ())]}
            yield Need(f"ec2:{operation}", arn(kind, name, where), _keys(which, tags), several)
    if operation == "DescribeImageReferences":
        via = {"aws:CalledVia": ["ec2-images.amazonaws.com"]}
        yield from (Need(action, several=via) for action in _REFERENCES)
    for kind, tags in given.items():
        keys = {**_keys("request", tags), "ec2:CreateAction": operation}
        yield Need("ec2:CreateTags", arn(kind, "*"), keys)


def _keys(which: str, tags: Mapping[str, str]) -> dict[str, str]:
    return {f"aws:{which.capitalize()}Tag/{k}": tags[k] for k in tags} if which else {}


def _flatten(found: Any) -> Iterator[str]:
    if isinstance(found, list):
        for each in found:
            yield from _flatten(each)
    elif found:
        yield str(found)


class _AuthorizedRequest(IAMRequest):  # type: ignore[misc]
    """moto's request, which finds the caller's policies; `check` evaluates them."""

    def check(self, response: Any) -> None:
        service, _, operation = self._action.partition(":")
        backend = ec2_backends[response.current_account][response.region]
        # moto stores policies in several forms.
        documents = [IAMPolicy(each)._policy_json for each in self._access_key.collect_policies()]
        for need in needs(
            service,
            operation,
            response.params if service == "ec2" else _json(response.body),
            region=response.region,
            account=response.current_account,
            tags_of=lambda kind, name: _tags(backend, kind, name),
        ):
            if need.action not in _ALWAYS_ALLOWED and not allows(documents, need):
                raise _denial(service, self._access_key.arn, need)
        if service == "ec2" and response._get_param("InstanceMarketOptions"):
            self._ensure_spot_role(documents, response.current_account)

    def _ensure_spot_role(self, documents: list[Document], account: str) -> None:
        """Make the role with the first spot machine, as EC2 does with the caller's permission."""
        backend = iam_backends[account]["aws"]
        if any("spot.amazonaws.com" in role.path for role in backend.roles.values()):
            return
        keys = {"iam:AWSServiceName": "spot.amazonaws.com"}
        arn = f"arn:aws:iam::{account}:{SPOT_ROLE}"
        if not allows(documents, Need("iam:CreateServiceLinkedRole", arn, keys)):
            raise _EC2Error(
                "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
                "The provided credentials do not have permission to create the service-linked "
                "role for EC2 Spot Instances.",
            )
        backend.create_service_linked_role("spot.amazonaws.com", "", "")


class _EC2Error(_RESTError):  # type: ignore[misc]
    """An error in EC2's format. moto's own error has the format of the other services."""

    code = 403

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self.description = f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"


def _denial(service: str, who: str, need: Need) -> Exception:
    why = (
        f"User: {who} is not authorized to perform: {need.action} on resource: {need.resource} "
        f"because no identity-based policy allows the {need.action} action"
    )
    if service == "ec2":
        return _EC2Error("UnauthorizedOperation", f"You are not authorized to perform this. {why}")
    error: Exception = JsonRESTError("AccessDeniedException", why)
    return error


def _tags(backend: Any, kind: str, name: str) -> Mapping[str, str]:
    if kind == "key-pair" and name in backend.key_pairs:
        name = backend.key_pairs[name].id
    tags: Mapping[str, str] = backend.tags.get(name, {})
    return tags


def _json(body: Any) -> dict[str, Any]:
    try:
        parsed = json.loads(body or "{}")
    except ValueError:  # a service with another protocol, whose parameters are not checked
        return {}
    return parsed if isinstance(parsed, dict) else {}
