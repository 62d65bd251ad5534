"""The connection to one AWS account in one region; every call of the product goes through it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError
from botocore.parsers import ResponseParserError

from bake import __version__
from bake.aws.client.cloud_time import CloudTime
from bake.aws.client.denial import decoded, not_found
from bake.aws.client.errors import DENIED, refusal
from bake.aws.client.response import Response
from bake.aws.client.retry import retry
from bake.aws.client.undo import Leftover
from bake.aws.client.wait import Clock
from bake.errors import AccessError, CloudError

__all__ = ["Cloud", "Response", "connect", "enabled_regions", "pages"]

# Many bakes of one process share their clients: a thread of each may be in a call.
_BASE = Config(
    connect_timeout=10,
    read_timeout=60,
    user_agent_extra=f"bake/{__version__}",
    max_pool_connections=50,
)
# "Standard" is the mode that AWS recommends, and 3 attempts its own number ("adaptive" would slow
# every operation of a client down where one is throttled). What boto repeats is over in a second or
# two, or is given up early when much fails, so `Cloud.ec2` goes on from there (patience.py).
_PATIENT = _BASE.merge(Config(retries={"mode": "standard", "total_max_attempts": 3}))
# Who cannot even say who he is hears of it within seconds: nothing has been started.
_FIRST = _BASE.merge(Config(retries={"mode": "standard", "total_max_attempts": 6}))
# EC2 answers "no capacity" with status 500, which boto takes for a passing fault and asks again,
# in vain. The next zone is the better answer, so nothing is retried here (order.py does it for
# what does pass).
_AT_ONCE = _BASE.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
# A lease has to be renewed in time: an attempt that hangs is given up early, and made again.
_PROMPT = _BASE.merge(
    Config(
        connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 4}
    )
)
# The Price List API answers in three regions only, for all. A bake goes on without its answer.
_PRICING = _BASE.merge(
    Config(
        region_name="us-east-1",
        connect_timeout=5,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
)


class Cloud:
    """One account in one region. Every refusal comes out as a CloudError with AWS's own words.

    Operations are named as in AWS's API reference and in IAM policies: `ec2("RunInstances", …)`.
    `leftovers` gathers what could not be removed (see undo.py).
    """

    def __init__(
        self,
        session: boto3.Session,
        account_id: str,
        *,
        clock: Clock | None = None,
        time: CloudTime | None = None,
        caller: str = "",
    ):
        self.session = session
        self.region: str = session.region_name
        self.account_id = account_id
        self.caller = caller  # an ARN
        self.clock = clock or Clock()
        self.leftovers: list[Leftover] = []
        self._time = time or CloudTime()
        self._clients: dict[tuple[str, Config], Any] = {}
        self._making = threading.Lock()

    def separate(self) -> Cloud:
        """The same account for another bake of this process, with leftovers of its own."""
        other = copy.copy(self)
        other.leftovers = []
        return other

    def in_region(self, region: str) -> Cloud:
        """The same account in another region, with leftovers of its own."""
        other = self.separate()
        other.region = region
        other._clients = {}
        return other

    def now(self) -> datetime:
        """AWS's time, by its own answers; this computer's clock may be wrong.

        For every time that is written into a tag, or compared with one or with a time of AWS's.
        """
        return self._time.now()

    def ec2(self, operation: str, **params: Any) -> Response:
        """Asked again for a minute and a half where AWS is busy, or not to be reached."""
        ask = partial(_call, self._client("ec2", _PATIENT), operation, params)
        try:
            return retry(ask, self.clock)
        except CloudError as error:
            if error.code in DENIED:
                found = not_found(self.ec2, operation, params, error)
                raise decoded(self.sts, found) from None
            raise

    def ec2_once(self, operation: str, **params: Any) -> Response:
        """The same, asked once."""
        try:
            return _call(self._client("ec2", _AT_ONCE), operation, params)
        except CloudError as error:
            if error.code in DENIED:
                raise decoded(self.sts, error) from None
            raise

    def quotas(self, operation: str, **params: Any) -> Response:
        return _call(self._client("service-quotas", _PATIENT), operation, params)

    def ssm(self, operation: str, **params: Any) -> Response:
        return _call(self._client("ssm", _PROMPT), operation, params)

    def sts(self, operation: str, **params: Any) -> Response:
        return _call(self._client("sts", _PROMPT), operation, params)

    def iam(self, operation: str, **params: Any) -> Response:
        return _call(self._client("iam", _PROMPT), operation, params)

    def secrets(self, operation: str, **params: Any) -> Response:
        return _call(self._client("secretsmanager", _PROMPT), operation, params)

    def pricing(self, operation: str, **params: Any) -> Response:
        return _call(self._client("pricing", _PRICING), operation, params)

    def pages(self, operation: str, key: str, **params: Any) -> Iterator[Response]:
        """Every item under `key` of an EC2 call, over all of its pages."""
        return pages(self.ec2, operation, key, **params)

    def _client(self, service: str, config: Config) -> Any:
        # A client is for many threads; making one is not (boto3's guide, "Multithreading").
        with self._making:
            key = service, config
            if key not in self._clients:
                region = config.region_name or self.region
                self._clients[key] = self.session.client(service, region_name=region, config=config)
            return self._clients[key]


def enabled_regions(cloud: Cloud) -> list[str]:
    """Those that this account may use, by name."""
    return sorted(region["RegionName"] for region in cloud.ec2("DescribeRegions")["Regions"])


def connect(
    region: str | None = None,
    *,
    session: boto3.Session | None = None,
    clock: Clock | None = None,
) -> Cloud:
    """The account that the environment's credentials belong to.

    The region is the given one, else AWS_DEFAULT_REGION's or the profile's. Raises AccessError
    when there are no credentials, they are not accepted, or there is no region.
    """
    try:
        session = session or boto3.Session(region_name=region)
        if not session.region_name:
            raise NoRegionError()
        time = CloudTime()
        session.events.register("after-call", time.observe)
        identity = _call(session.client("sts", config=_FIRST), "GetCallerIdentity", {})
    except CloudError as error:
        raise _no_access(error) from None
    except (ClientError, BotoCoreError) as error:
        raise _no_access(refusal(error, "sts:GetCallerIdentity")) from None
    who = identity.get("Arn", "")
    return Cloud(session, identity["Account"], clock=clock, time=time, caller=who)


def pages(ask: Callable[..., Response], operation: str, key: str, **params: Any) -> Iterator[Any]:
    """Every item under `key` of a call, over all of its pages; `ask` is a method of `Cloud`."""
    token: dict[str, str] = {}
    while True:
        answer = ask(operation, **params, **token)
        yield from answer.get(key, [])
        if not answer.get("NextToken"):
            return
        token = {"NextToken": answer["NextToken"]}


def _no_access(error: CloudError) -> AccessError:
    return AccessError("No access to AWS", hint=error.hint, code=error.code, reason=error.reason)


def _call(client: Any, operation: str, params: dict[str, Any]) -> Response:
    action = f"{client.meta.service_model.signing_name}:{operation}"
    try:
        # boto3's methods are in snake case; what AWS, IAM and the errors say is not.
        answer = getattr(client, xform_name(operation))(**params)
    except (ClientError, BotoCoreError, ResponseParserError) as error:
        raise refusal(error, action) from None
    return Response(answer, action)
