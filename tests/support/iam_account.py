"""An account in this process with IAM: actions, resources and tags are checked as at AWS."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import boto3
import botocore.session
import pytest
from moto.core.authorization import ActionAuthenticatorMixin
from moto.ec2.models import ec2_backends
from moto.ec2.responses.amis import AmisResponse
from moto.iam.models import iam_backends
from moto.ssm.models import ssm_backends

from bake.aws import price
from bake.aws.client.session import Cloud, connect
from bake.local.api import authorization
from bake.local.api.authorization import needs
from bake.local.api.iam_policy import Need, allows, as_list
from tests.support.aws_in_process import _LOADER, ACCOUNT, REGION, Aws, _answer, aws_in_process
from tests.support.checkpoints import register_image
from tests.support.environment import REPOSITORY

Policy = dict[str, Any]

POLICY: Policy = json.loads((REPOSITORY / "docs" / "iam-policy.json").read_text())
ACTIONS = sorted({action for each in POLICY["Statement"] for action in as_list(each["Action"])})
OTHER_REGION = "us-west-2"


@dataclass
class Account:
    """An account whose user has one policy; `needed` are the permissions that its calls needed."""

    aws: Aws
    iam: Any
    policy: Policy = field(default_factory=dict)
    needed: list[Need] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.iam.create_user(UserName="baker")
        key = self.iam.create_access_key(UserName="baker")["AccessKey"]
        self._clouds: dict[str, Cloud] = {}
        for region in (REGION, OTHER_REGION):
            inner = botocore.session.Session()
            inner.register_component("data_loader", _LOADER)
            session = boto3.Session(
                key["AccessKeyId"],
                key["SecretAccessKey"],
                region_name=region,
                botocore_session=inner,
            )
            self.aws.listen(session)
            self._clouds[region] = connect(session=session, clock=self.aws.cloud.clock)

    def begin(self, policy: Policy) -> None:
        """Reset the account to the base image, with this policy for the user."""
        for region in (REGION, OTHER_REGION):
            ec2_backends[ACCOUNT][region].reset()
            ssm_backends[ACCOUNT][region].reset()
        self.aws.base_image()
        iam_backends[ACCOUNT]["aws"].roles.clear()
        price._caches.clear()
        self.aws.requests.clear()
        self.needed = []
        self.allow(policy)

    def allow(self, policy: Policy) -> None:
        """Replace the policy of the user."""
        self.policy, text = policy, json.dumps(policy)
        self.iam.put_user_policy(UserName="baker", PolicyName="bake", PolicyDocument=text)

    def cloud(self, region: str = REGION) -> Cloud:
        """Return the account as that user sees it."""
        return self._clouds[region].separate()

    def allows(self, documents: Any, need: Need) -> bool:
        self.needed.append(need)
        return allows(documents, need)

    def send(self, whole: Callable[..., Any], stubber: Any, event_name: str, request: Any) -> Any:
        """Check the permission for calls that the tests answer in place of moto."""
        _, service, operation = event_name.split(".")
        if service in ("service-quotas", "pricing"):
            name, asked = service.replace("-", ""), json.loads(request.body)
            for need in needs(name, operation, asked, region=REGION, account=ACCOUNT):
                if not self.allows([self.policy], need):
                    denied = {"__type": "AccessDeniedException", "Message": f"no {need.action}"}
                    return _answer(400, json.dumps(denied))
        if service == "pricing":
            return _answer(200, json.dumps({"PriceList": []}))
        return whole(stubber, event_name, request)


@contextmanager
def an_account() -> Iterator[Account]:
    """One account for all tests of a module, because creating clients takes time."""
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        aws_in_process() as aws,
        mock.patch.object(AmisResponse, "register_image", register_image),
    ):
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        account = Account(aws, aws.cloud.session.client("iam", region_name=REGION))
        whole = aws.send
        with (
            mock.patch.object(aws, "send", lambda *a: account.send(whole, *a)),
            mock.patch.object(authorization, "allows", account.allows),
            mock.patch.object(
                ActionAuthenticatorMixin,
                "_authenticate_and_authorize_normal_action",
                authorization.authorize,
            ),
        ):
            yield account


def without(drop: Callable[[Policy, str], bool]) -> Policy:
    """Return the policy without the dropped actions."""
    policy = copy.deepcopy(POLICY)
    for statement in policy["Statement"]:
        statement["Action"] = [a for a in as_list(statement["Action"]) if not drop(statement, a)]
    policy["Statement"] = [each for each in policy["Statement"] if each["Action"]]
    return policy
