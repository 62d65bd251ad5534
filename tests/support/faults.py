"""Faults of AWS, injected into the calls of a session where botocore sends and receives.

A real server answers all other calls. `Faults` counts every call, so that a bake itself shows which
calls it makes, and injects one kind of fault into those of one operation, or of each.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

import boto3
import botocore.loaders
import botocore.session
import jmespath
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError
from botocore.httpsession import URLLib3Session

Answer = dict[str, Any]

# The status and the code of each service for the same error.
BUSY = {
    "ec2": (503, "RequestLimitExceeded"),
    "ssm": (400, "ThrottlingException"),
    "service-quotas": (400, "TooManyRequestsException"),
    "pricing": (400, "ThrottlingException"),
    "sts": (400, "Throttling"),
}
BROKEN = {
    "ec2": (500, "InternalError"),
    "ssm": (500, "InternalServerError"),
    "service-quotas": (500, "ServiceException"),
    "pricing": (500, "InternalErrorException"),
    "sts": (500, "InternalFailure"),
}
DENIED = {
    "ec2": (403, "UnauthorizedOperation"),
    "ssm": (400, "AccessDeniedException"),
    "service-quotas": (400, "AccessDeniedException"),
    "pricing": (400, "AccessDeniedException"),
    "sts": (403, "AccessDenied"),
}


# A resource that is older than this is known to every server.
YOUNG_S = 3.0


@dataclass(frozen=True)
class Made:
    """A resource that a call has created.

    `place` is the path of its id in the response, `unknown` the code of the error if it is not
    found, and `key` the key of its id in lists.
    """

    place: str
    unknown: str
    key: str


MADE = {
    "RunInstances": Made("Instances[0].InstanceId", "InvalidInstanceID.NotFound", "InstanceId"),
    "ImportKeyPair": Made("KeyName", "InvalidKeyPair.NotFound", "KeyName"),
    "CreateSecurityGroup": Made("GroupId", "InvalidGroup.NotFound", "GroupId"),
    "CreateImage": Made("ImageId", "InvalidAMIID.NotFound", "ImageId"),
    "RegisterImage": Made("ImageId", "InvalidAMIID.NotFound", "ImageId"),
    "CreateSnapshot": Made("SnapshotId", "InvalidSnapshot.NotFound", "SnapshotId"),
    "PutParameter": Made("Name", "ParameterNotFound", "Name"),
}


@dataclass(frozen=True)
class Call:
    """One operation of one service, by their names in botocore: ec2 and RunInstances."""

    service: str
    operation: str

    def __str__(self) -> str:
        return f"{self.service}:{self.operation}"


@dataclass
class Faults:
    """The faults of one session; its clients are made afterwards. Each kind of fault is a method.

    `met` counts how often a fault was injected, `looked` the requests about a new resource.
    """

    session: boto3.Session
    calls: Counter[Call] = field(default_factory=Counter)
    met: Counter[Call] = field(default_factory=Counter)
    looked: Counter[tuple[Call, str]] = field(default_factory=Counter)
    _acts: list[Callable[[Call, AWSPreparedRequest], AWSResponse | None]] = field(
        default_factory=list
    )
    _unknown_to: Callable[[Call], bool] = lambda call: False
    _looks: int = 0
    _made: dict[str, tuple[Made, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        events = self.session.events
        events.register("before-call", self._counted)
        events.register("before-send", self._sent)
        events.register("after-call", self._answered)

    # The kinds of fault

    def throttle(self, call: Call | None, times: int) -> None:
        self._first(call, times, partial(_refusal, BUSY))

    def break_(self, call: Call | None, times: int) -> None:
        """Return in turn the service's own error and a proxy's error page in HTML."""
        turn = iter(range(times))

        def act(call: Call, request: AWSPreparedRequest) -> AWSResponse:
            if next(turn, 0) % 2:
                return _response(request, 502, "<html><h1>Bad Gateway</h1></html>", "text/html")
            return _refusal(BROKEN, call, request)

        self._first(call, times, act)

    def reset(self, call: Call | None, times: int) -> None:
        """Close the connection before the request has arrived."""

        def act(call: Call, request: AWSPreparedRequest) -> AWSResponse:
            raise ConnectionClosedError(endpoint_url=request.url)

        self._first(call, times, act)

    def lose(self, call: Call | None, times: int) -> None:
        """Let the request take effect, and never return its response."""

        def act(call: Call, request: AWSPreparedRequest) -> AWSResponse:
            URLLib3Session().send(request)
            raise ReadTimeoutError(endpoint_url=request.url)

        self._first(call, times, act)

    def deny(self, call: Call) -> None:
        def act(this: Call, request: AWSPreparedRequest) -> AWSResponse | None:
            return _refusal(DENIED, this, request) if this == call else None

        self._acts.append(self._noted(act))

    def hide(self, call: Call | None, looks: int) -> None:
        """Hide the resources that this session creates from the call's first `looks`.

        A request for the resource fails with "not found", and lists do not contain it.
        """
        self._unknown_to = lambda this: call in (None, this)
        self._looks = looks

    def _first(
        self,
        call: Call | None,
        times: int,
        act: Callable[[Call, AWSPreparedRequest], AWSResponse],
    ) -> None:
        """Inject a fault into the first `times` requests of the call, or of each call."""
        left: Counter[Call] = Counter()

        def harm(this: Call, request: AWSPreparedRequest) -> AWSResponse | None:
            with self._lock:
                if call not in (None, this) or left[this] >= times:
                    return None
                left[this] += 1
            return act(this, request)

        self._acts.append(self._noted(harm))

    def _noted(self, act: Callable[[Call, AWSPreparedRequest], AWSResponse | None]) -> Any:
        def noted(call: Call, request: AWSPreparedRequest) -> AWSResponse | None:
            try:
                answer = act(call, request)
            except Exception:
                self.met[call] += 1
                raise
            self.met[call] += answer is not None
            return answer

        return noted

    # Where botocore sends and receives

    def _counted(self, event_name: str, **_: Any) -> None:
        with self._lock:
            self.calls[_call(event_name)] += 1

    def _sent(self, request: AWSPreparedRequest, event_name: str, **_: Any) -> AWSResponse | None:
        call = _call(event_name)
        answers = (act(call, request) for act in (*self._acts, self._unknown))
        answer = next((answer for answer in answers if answer is not None), None)
        if call.operation == "PutParameter" and answer is None:
            self._remember(call, next(_named(request)))  # its answer does not name it
        return answer

    def _unknown(self, call: Call, request: AWSPreparedRequest) -> AWSResponse | None:
        if not self._unknown_to(call):
            return None
        for name in _named(request):
            if name in self._made and self._is_unknown(call, name):
                code = self._made[name][0].unknown
                return _error(call, request, 400, code, f"'{name}' does not exist")
        return None

    def _answered(self, parsed: Answer, event_name: str, params: Any = None, **_: Any) -> None:
        call = _call(event_name)
        if "Error" in parsed:
            return
        made = MADE.get(call.operation)
        if made and (name := jmespath.search(made.place, parsed)):
            self._remember(call, name)
        if call.operation.startswith(("Describe", "Get")) and self._unknown_to(call):
            self._leave_out(call, parsed)

    def _remember(self, call: Call, name: str) -> None:
        with self._lock:
            self._made.setdefault(name, (MADE[call.operation], time.monotonic()))

    def _leave_out(self, call: Call, answer: Answer) -> None:
        for listed in answer.values():
            if isinstance(listed, list):
                for item in listed:
                    if "Instances" in item:  # a reservation
                        item["Instances"] = [i for i in item["Instances"] if self._shown(call, i)]
                listed[:] = [item for item in listed if self._shown(call, item)]

    def _shown(self, call: Call, item: Any) -> bool:
        # The first of these keys is the item's own name: an instance names its image, too.
        keys = ("InstanceId", "SnapshotId", "ImageId", "GroupId", "KeyName", "Name")
        key = next((key for key in keys if key in item), None)
        if key is None:
            return bool(item.get("Instances", True))
        made = self._made.get(item[key])
        return made is None or made[0].key != key or not self._is_unknown(call, item[key])

    def _is_unknown(self, call: Call, name: str) -> bool:
        """Tell if the resource is new, and this is one of the first requests about it."""
        if time.monotonic() - self._made[name][1] > YOUNG_S:
            return False
        with self._lock:
            self.looked[call, name] += 1
            unknown = self.looked[call, name] <= self._looks
            self.met[call] += unknown
        return unknown


def new_session() -> tuple[boto3.Session, Faults]:
    botocore_session = botocore.session.Session()
    botocore_session.register_component("data_loader", _LOADER)
    session = boto3.Session(botocore_session=botocore_session)
    return session, Faults(session)


# One for all: reading EC2's model takes a third of a second.
_LOADER = botocore.loaders.create_loader()


def _call(event_name: str) -> Call:
    _, service, operation = event_name.split(".")
    return Call(service, operation)


def _named(request: AWSPreparedRequest) -> Iterator[str]:
    """Yield the resources that a request names, without its tags, filters and new names."""
    body = request.body.decode() if isinstance(request.body, bytes) else str(request.body)
    if body.startswith("{"):
        document = json.loads(body)
        yield str(document.get("Name"))
        return
    for key, value in parse_qsl(body):
        if not key.startswith(("TagSpecification", "Filter", "GroupName", "Description", "Name")):
            yield value


def _refusal(said: dict[str, tuple[int, str]], call: Call, request: AWSPreparedRequest) -> Any:
    status, code = said[call.service]
    return _error(call, request, status, code, f"{code}, injected by the test into {call}")


def _error(
    call: Call, request: AWSPreparedRequest, status: int, code: str, message: str
) -> AWSResponse:
    if call.service == "ec2":
        body = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return _response(request, status, f"{body}</Errors></Response>", "text/xml")
    if call.service == "sts":
        body = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return _response(request, status, f"{body}</ErrorResponse>", "text/xml")
    body = json.dumps({"__type": code, "message": message})
    return _response(request, status, body, "application/x-amz-json-1.1")


def _response(request: AWSPreparedRequest, status: int, body: str, kind: str) -> AWSResponse:
    headers = {"Date": formatdate(usegmt=True), "Content-Type": kind}
    raw = BytesIO(body.encode())
    raw.stream = lambda *_, **__: iter([body.encode()])  # type: ignore[attr-defined]
    return AWSResponse(request.url, status, headers, raw)
