"""AWS's bad days: what is done to a session's calls where botocore sends and receives.

A real server answers whatever is not harmed. `Faults` counts every call, so that the calls of a
bake are known from the bake itself, and harms those of one operation (or of each) in one way.
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

# How each service says the same thing: status and code.
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


# What is older than this is everywhere known.
YOUNG_S = 3.0


@dataclass(frozen=True)
class Made:
    """What a creating call has made: where its answer names it; how the service says that it does
    not know it; and the key of its name where such things are listed."""

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
    """Of one session, whose clients are made after it. Each kind of harm is a method."""

    session: boto3.Session
    calls: Counter[Call] = field(default_factory=Counter)
    met: Counter[Call] = field(default_factory=Counter)  # how often it was harmed
    looked: Counter[tuple[Call, str]] = field(default_factory=Counter)  # at what is young
    _acts: list[Callable[[Call, AWSPreparedRequest], AWSResponse | None]] = field(
        default_factory=list
    )
    _unknown_to: Callable[[Call], bool] = lambda call: False
    _looks: int = 0
    _made: dict[str, tuple[Made, float]] = field(default_factory=dict)  # and since when
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        events = self.session.events
        events.register("before-call", self._counted)
        events.register("before-send", self._sent)
        events.register("after-call", self._answered)

    # What can be done

    def throttle(self, call: Call | None, times: int) -> None:
        self._first(call, times, partial(_refusal, BUSY))

    def break_(self, call: Call | None, times: int) -> None:
        """In turn the service's own error, and that of what stands before it, in HTML."""
        turn = iter(range(times))

        def act(call: Call, request: AWSPreparedRequest) -> AWSResponse:
            if next(turn, 0) % 2:
                return _response(request, 502, "<html><h1>Bad Gateway</h1></html>", "text/html")
            return _refusal(BROKEN, call, request)

        self._first(call, times, act)

    def reset(self, call: Call | None, times: int) -> None:
        """The connection is gone before the request has arrived."""

        def act(call: Call, request: AWSPreparedRequest) -> AWSResponse:
            raise ConnectionClosedError(endpoint_url=request.url)

        self._first(call, times, act)

    def lose(self, call: Call | None, times: int) -> None:
        """The request takes effect, and its answer never comes."""

        def act(call: Call, request: AWSPreparedRequest) -> AWSResponse:
            URLLib3Session().send(request)
            raise ReadTimeoutError(endpoint_url=request.url)

        self._first(call, times, act)

    def deny(self, call: Call) -> None:
        def act(this: Call, request: AWSPreparedRequest) -> AWSResponse | None:
            return _refusal(DENIED, this, request) if this == call else None

        self._acts.append(self._noted(act))

    def hide(self, call: Call | None, looks: int) -> None:
        """What this session makes is unknown to the call for its first looks, while it is young.

        Asked by its name it does not exist, and where things are listed it is left out.
        """
        self._unknown_to = lambda this: call in (None, this)
        self._looks = looks

    def _first(
        self,
        call: Call | None,
        times: int,
        act: Callable[[Call, AWSPreparedRequest], AWSResponse],
    ) -> None:
        """`times` of that call's requests, or of each call's."""
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
        """Whether it is young, and this one of the first looks at it."""
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
    """What a request is about; what it gives as a tag, a filter or a new name is not."""
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
    return _error(call, request, status, code, f"{code}, says the test, to {call}")


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
