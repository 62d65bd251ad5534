"""The session with one AWS account in one region. Every call to AWS goes through it."""

from __future__ import annotations

import copy
import difflib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError
from botocore.model import OperationModel
from botocore.parsers import ResponseParserError

from bake import __version__
from bake.aws.client.cloud_time import CloudTime
from bake.aws.client.credentials import (
    CredentialsEnd,
    credentials_end,
    load_credentials,
    refresh_credentials,
)
from bake.aws.client.denial import as_not_found, decode
from bake.aws.client.errors import DENIED, cloud_error
from bake.aws.client.recently_made import RecentlyMade
from bake.aws.client.response import Response
from bake.aws.client.retry import retry
from bake.aws.client.undo import Leftover
from bake.aws.client.wait import Clock
from bake.errors import AccessError, CloudError, NoAnswerError, RequestError

__all__ = ["Cloud", "Response", "check_regions", "connect", "enabled_regions", "pages"]

# The bakes of one process share their clients, and each may be in a call at the same time.
_BASE = Config(
    connect_timeout=10,
    read_timeout=60,
    user_agent_extra=f"bake/{__version__}",
    max_pool_connections=50,
)
# AWS recommends the mode "standard" with 3 attempts ("adaptive" slows down all operations of a
# client when one is throttled). boto's retries end after a second or two, or earlier when many
# calls fail, so `Cloud.ec2` continues with its own (retry.py).
_PATIENT = _BASE.merge(Config(retries={"mode": "standard", "total_max_attempts": 3}))
# The first call, which checks the credentials: it should fail within seconds.
_FIRST = _BASE.merge(Config(retries={"mode": "standard", "total_max_attempts": 6}))
# EC2 reports "no capacity" with status 500, and boto would retry such a request without success.
# Another zone is the better choice, so boto does not retry; launch.py retries transient errors.
_ONCE = _BASE.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
# A lease has to be renewed in time, so an attempt that hangs is ended early and repeated.
_PROMPT = _BASE.merge(
    Config(
        connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 4}
    )
)
# The Price List API is served from three regions only, for all. A bake works without its prices.
_PRICING = _BASE.merge(
    Config(
        region_name="us-east-1",
        connect_timeout=5,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
)
# Together 15 seconds: for so long, EC2's servers may not know the tags of a new resource.
_UNTIL_TAGS_ARE_KNOWN, _TAGS_PAUSE_S = 6, 3.0
# The limit of most of EC2's calls. botocore's model has the smaller limit of DescribeInstanceTypes.
_LARGEST_PAGE = 1000


class Cloud:
    """One account in one region. Its methods call AWS and raise CloudError with AWS's own reason.

    Operations have the names of AWS's API reference and of IAM policies: `ec2("RunInstances", …)`.
    `leftovers` collects the resources that could not be removed (see undo.py).
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
        self._creating = threading.Lock()
        self._made = RecentlyMade(self.clock.now)

    @property
    def partition(self) -> str:
        """The part of AWS to which the region belongs: aws, aws-us-gov or aws-cn."""
        partition: str = self.session.get_partition_for_region(self.region)
        return partition

    def separate(self) -> Cloud:
        """Return the same account for another bake of this process, with its own leftovers."""
        other = copy.copy(self)
        other.leftovers = []
        return other

    def in_region(self, region: str) -> Cloud:
        """Return the same account in another region, with its own leftovers."""
        other = self.separate()
        other.region = region
        other._clients = {}
        return other

    def now(self) -> datetime:
        """Return AWS's time; this computer's clock may be wrong.

        Use it for every time that is written into a tag, or compared with a tag or a time of AWS.
        """
        return self._time.now()

    def credentials_end(self) -> CredentialsEnd | None:
        """Return when the caller's credentials end; None if they do not, or are renewed."""
        return credentials_end(self.session)

    def ec2(self, operation: str, **params: Any) -> Response:
        """Call EC2; retry for a minute and a half while AWS is busy or not reachable."""
        call = partial(self._send, "ec2", _PATIENT, operation, params)

        def attempt() -> Response:
            try:
                return retry(call, self.clock)
            except CloudError as error:
                if error.code in DENIED:
                    raise as_not_found(self.ec2, operation, params, error) from None
                raise

        return self._when_tags_are_known(operation, params, attempt)

    def ec2_once(self, operation: str, **params: Any) -> Response:
        """Call EC2 without any retry, unless it denies a call about a resource that is new."""
        call = partial(self._send, "ec2", _ONCE, operation, params)
        return self._when_tags_are_known(operation, params, call)

    def _when_tags_are_known(
        self, operation: str, params: dict[str, Any], call: Callable[[], Response]
    ) -> Response:
        """Make a call; repeat one that is denied while EC2 may not know yet the tags of its target.

        A denial that lasts is raised with its decoded reason.
        """
        attempts = _UNTIL_TAGS_ARE_KNOWN if self._made.is_named_in(params) else 1
        try:
            response = retry(
                call, self.clock, codes=DENIED, attempts=attempts, pause_s=_TAGS_PAUSE_S
            )
        except CloudError as error:
            if error.code in DENIED:
                raise decode(self.sts, error) from None
            raise
        self._made.note(operation, params, response)
        return response

    def quotas(self, operation: str, **params: Any) -> Response:
        return self._send("service-quotas", _PATIENT, operation, params)

    def ssm(self, operation: str, **params: Any) -> Response:
        return self._send("ssm", _PROMPT, operation, params)

    def sts(self, operation: str, **params: Any) -> Response:
        return self._send("sts", _PROMPT, operation, params)

    def iam(self, operation: str, **params: Any) -> Response:
        return self._send("iam", _PROMPT, operation, params)

    def secrets(self, operation: str, **params: Any) -> Response:
        return self._send("secretsmanager", _PROMPT, operation, params)

    def pricing(self, operation: str, **params: Any) -> Response:
        return self._send("pricing", _PRICING, operation, params)

    def pages(self, operation: str, key: str, **params: Any) -> Iterator[Response]:
        """Yield every item of an EC2 call's list `key`, from all pages, which are large.

        Without a size, EC2 throttles a call in an account with many resources, or cuts it off.
        """
        model = self._client("ec2", _PATIENT).meta.service_model.operation_model(operation)
        return pages(self.ec2, operation, key, **_page_size(model, params), **params)

    def _send(self, service: str, config: Config, operation: str, params: Any) -> Response:
        """Send one request, with credentials that are renewed before, if they need to be."""
        refresh_credentials(self.session)
        return _call(self._client(service, config), operation, params)

    def _client(self, service: str, config: Config) -> Any:
        # Threads may share a client, but not create one (boto3's guide, "Multithreading").
        with self._creating:
            key = service, config
            if key not in self._clients:
                region = config.region_name or self.region
                self._clients[key] = _make_client(self.session, service, region, config)
            return self._clients[key]


def enabled_regions(cloud: Cloud) -> list[str]:
    """Return the names of the regions that this account can use, sorted."""
    return sorted(region["RegionName"] for region in cloud.ec2("DescribeRegions")["Regions"])


def connect(
    region: str | None = None,
    *,
    session: boto3.Session | None = None,
    clock: Clock | None = None,
) -> Cloud:
    """Return the account of the credentials that the environment provides.

    If `region` is None, AWS_REGION (as in other SDKs), AWS_DEFAULT_REGION or the profile names the
    region. AccessError when credentials or region are missing or unknown, or when AWS does not
    accept the credentials. NoAnswerError when AWS cannot be reached.
    """
    try:
        region = region or os.environ.get("AWS_REGION") or None
        session = session or boto3.Session(region_name=region)
        if not session.region_name:
            raise NoRegionError()
        session.get_partition_for_region(session.region_name)
        load_credentials(session)
        time = CloudTime()
        session.events.register("after-call", time.observe)
        client = _make_client(session, "sts", session.region_name, _FIRST)
        identity = _call(client, "GetCallerIdentity", {})
    except CloudError as error:
        # AWS has no endpoint in an unknown region; the local cloud refuses the signature for it.
        advice = {"EndpointConnectionError": f" {error.hint}", "SignatureDoesNotMatch": ""}
        if session and error.code in advice and (question := _region_question(session)):
            error.hint = question + advice[error.code]
        elif isinstance(error, NoAnswerError):
            message = "AWS cannot be reached from this computer"
            raise NoAnswerError(
                message, hint=error.hint, code=error.code, reason=error.reason
            ) from None
        raise _no_access(error) from None
    except (ClientError, BotoCoreError) as error:
        raise _no_access(cloud_error(error, "sts:GetCallerIdentity")) from None
    arn = identity.get("Arn", "")
    return Cloud(session, identity["Account"], clock=clock, time=time, caller=arn)


def _region_question(session: boto3.Session) -> str:
    """Return a question about the session's region if botocore does not list it; else "".

    A new region is not in an old list.
    """
    region: str = session.region_name
    partition = session.get_partition_for_region(region)
    known = session.get_available_regions("ec2", partition)
    return "" if region in known else f"Is {region} the name of a region?{_nearest(region, known)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def check_regions(cloud: Cloud, names: Iterable[str]) -> None:
    """Raise RequestError for the first of these regions that this account cannot use."""
    known = enabled_regions(cloud)
    for name in names:
        if name not in known:
            raise RequestError(
                f"Region {name} not found in this account",
                hint=_nearest(name, known).strip() or "List them: aws ec2 describe-regions",
            )


def pages(call: Callable[..., Response], operation: str, key: str, **params: Any) -> Iterator[Any]:
    """Yield every item of a call's list `key`, from all pages; `call` is a method of `Cloud`."""
    token: dict[str, str] = {}
    while True:
        response = call(operation, **params, **token)
        yield from response.get(key, [])
        if not response.get("NextToken"):
            return
        token = {"NextToken": response["NextToken"]}


def _page_size(model: OperationModel, params: Mapping[str, Any]) -> dict[str, int]:
    """Return MaxResults for a request: the most that the call allows, and 1,000 at most.

    Nothing for a call without pages, and for a request with ids: EC2 refuses both together.
    """
    size = model.input_shape.members.get("MaxResults")
    has_ids = any(name.endswith("Ids") and name != "OwnerIds" for name in params)
    if size is None or has_ids or "MaxResults" in params:
        return {}
    return {"MaxResults": min(size.metadata.get("max", _LARGEST_PAGE), _LARGEST_PAGE)}


def filters_for(wanted: Mapping[str, str | Sequence[str]]) -> list[dict[str, Any]]:
    """Return the parameter `Filters` of an EC2 call. Several values of a name are alternatives."""
    return [
        {"Name": name, "Values": [values] if isinstance(values, str) else list(values)}
        for name, values in wanted.items()
    ]


def _make_client(session: boto3.Session, service: str, region: str, config: Config) -> Any:
    try:
        return session.client(service, region_name=region, config=config)
    except BotoCoreError as error:
        raise cloud_error(error, service) from None
    except ValueError as error:  # botocore's for an endpoint that is not a URL
        raise CloudError(
            f"No client for {service} can be made",
            hint="Check AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_… and endpoint_url in ~/.aws/config",
            code=type(error).__name__,
            reason=str(error),
        ) from None


def _no_access(error: CloudError) -> AccessError:
    message = "No AWS region is set" if error.code == "NoRegionError" else "No access to AWS"
    return AccessError(message, hint=error.hint, code=error.code, reason=error.reason)


def _call(client: Any, operation: str, params: dict[str, Any]) -> Response:
    action = f"{client.meta.service_model.signing_name}:{operation}"
    try:
        # boto3's methods are in snake case, the names in the API reference and in IAM are not.
        response = getattr(client, xform_name(operation))(**params)
    except (ClientError, BotoCoreError, ResponseParserError) as error:
        raise cloud_error(error, action) from None
    return Response(response, action)
