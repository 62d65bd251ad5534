"""Random responses of AWS within its models: any member may be missing or have an odd value.

botocore's models define the members of a response, but not which of them are present. The
responses follow from a seed, so that a failure can be reproduced.
"""

from __future__ import annotations

import random
import re
import string
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
from botocore import xform_name
from botocore.model import ServiceModel, Shape

from bake.aws.client.session import Cloud
from bake.aws.client.wait import Clock
from tests.support.environment import REPOSITORY
from tests.support.hostile import KNOWN

_SESSION = botocore.session.Session()
_SOURCE = "".join(path.read_text() for path in Path(REPOSITORY, "bake", "aws").rglob("*.py"))
# The members that the code reads; of all others, a few are present, too.
_NAMED = set(re.findall(r"[\"']([A-Z][A-Za-z]+)[\"']", _SOURCE))

# Typical values of AWS, so that the code gets beyond its first check of a value.
_PLAIN = (
    *("available", "pending", "completed", "running", "stopped", "terminated", "failed", "error"),
    *("ami-0123456789abcdef0", "snap-0123456789abcdef0", "i-0123456789abcdef0", "vol-1", "r"),
    *("/dev/sda1", "us-east-1a", "x86_64", "mxnet-cu101", "g4dn.xlarge", "gpu", "upstream", "1.5"),
    *(
        "2026-11-21T06:30:00.000Z",
        "2026-11-21",
        "9999-12-31T23:59:59-14:00",
        "64",
        "5",
        "supported",
    ),
)
_KEYS = (
    *("bake:run", "bake:recipe", "bake:digest", "bake:expires", "bake:checkpoint", "bake:verified"),
    *("bake:stage:base", "bake:seconds", "bake:plan:0", "bake:payload", "bake:login-user", "Name"),
)
_DOCUMENT = (
    '{"product":{"attributes":{"usagetype":"EBS:SnapshotUsage","operation":"RunInstances"}},'
    '"terms":{"OnDemand":{"x":{"priceDimensions":{"y":{"unit":%s,"pricePerUnit":{"USD":%s}}}}}}}'
)


class Imagination:
    """The responses of one account. `present` is the probability of each member."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.present = self.random.choice([0.5, 0.9, 0.99, 1])
        self.plain = self.random.choice([0.3, 0.8, 0.97, 1])
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def answer(self, service: ServiceModel, operation: str) -> Any:
        with self._lock:
            self._asked[operation] += 1
            shape = service.operation_model(operation).output_shape
            found = self._member("", shape, ()) if shape else {}
            if self._asked[operation] % 3 == 0:
                found.pop("NextToken", None)  # so that the pages end
            return found

    def _member(self, name: str, shape: Shape, above: tuple[str, ...]) -> Any:
        chance = self.random.random
        match shape.type_name:
            case "structure":
                if shape.name in above or len(above) > 6:
                    return {}
                members = {
                    key: self._member(key, member, (*above, shape.name))
                    for key, member in shape.members.items()
                    if (key in _NAMED or chance() < 0.05) and chance() < self.present
                }
                return members | ({"OfANewerApi": "x"} if chance() < 0.1 else {})
            case "list":
                count = self.random.choice([0, 1, 1, 2, 4]) if name != "Tags" else 8
                return [self._member(name, shape.member, above) for _ in range(count)]
            case "map":
                return {self._text(name, ()): self._member(name, shape.value, above)}
            case "integer" | "long":
                return self.random.choice([0, 1, 4, 8, 64, -1, 2**31, -(2**31), 2**62])
            case "double" | "float":
                return self.random.choice([0.0, 4.0, 96.0, -1.0, 1e308, 0.5])
            case "boolean":
                return chance() < 0.5
            case "timestamp":
                days = self.random.choice([0, 1, 40, 10_000, -3000])
                return datetime.now(UTC) - timedelta(days=days)
            case "blob":
                return self.random.randbytes(8)
            case _:
                return self._text(name, getattr(shape, "enum", ()))

    def _text(self, name: str, enum: Any) -> str:
        pick = self.random.choice
        if self.random.random() >= self.plain:
            return pick(KNOWN)[:1000]
        if name in ("State", "Name") and self.plain == 1:
            return pick(["available", "completed", "running"])  # so that most waits end
        if enum:
            return str(pick(list(enum)))
        if name == "Key":
            return pick(_KEYS)
        if name == "PriceList":
            return _DOCUMENT % (pick(['"GB-Mo"', '"Hrs"', "1"]), pick(['"0.05"', '"x"', "null"]))
        if "Date" in name or "Time" in name:
            return pick(_PLAIN[-6:])
        return pick(_PLAIN) if self.random.random() < 0.9 else pick(string.ascii_letters)


class ImaginedCloud(Cloud):
    """A cloud that answers every call. No time passes while it waits."""

    def __init__(self, seed: int) -> None:
        time = [0.0]

        def sleep(seconds: float) -> None:
            time[0] += seconds

        session = boto3.Session("a", "b", region_name="us-east-1", botocore_session=_SESSION)
        super().__init__(session, "123456789012", clock=Clock(lambda: time[0], sleep))
        self.imagination = Imagination(seed)

    def _client(self, service: str, config: Any) -> Any:
        model = _SESSION.get_service_model(service)
        operations = {xform_name(operation): operation for operation in model.operation_names}
        answer = self.imagination.answer

        class Client:
            meta = SimpleNamespace(service_model=model)

            def __getattr__(self, name: str) -> Any:
                return lambda **_: answer(model, operations[name])

        return Client()
