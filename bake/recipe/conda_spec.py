"""The version constraint of a conda package, such as `python>=3.8,<3.10` or `scipy=1.10`.

Source: conda documentation, "Package match specifications". An alternative (`|`) is a list of
conditions (`,`) that must all hold. A condition that cannot be read allows every version, because
conda itself reports it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

_SPEC = re.compile(r"(?P<name>\w[\w.-]*)(?P<constraint>[=<>!~].*)?")
_CONDITION = re.compile(r"(?P<operator>==|!=|>=|<=|~=|=|>|<|)(?P<version>[\w.+]+?)(?P<any>\.?\*)?")


@dataclass(frozen=True)
class CondaSpec:
    name: str
    alternatives: tuple[tuple[str, ...], ...] = ()

    def allows(self, version: str) -> bool:
        """Tell whether the package may have this version."""
        return not self.alternatives or any(
            all(_holds(condition, version) for condition in conditions)
            for conditions in self.alternatives
        )


def read_conda_spec(text: str) -> CondaSpec:
    """Read `NAME`, `NAME=VERSION`, `NAME=VERSION=BUILD` or `NAME` with other conditions."""
    match = _SPEC.fullmatch(text)
    if match is None or match["constraint"] is None:
        return CondaSpec(match["name"] if match else text)
    # A single = is followed by a version and, after another one, by a build.
    constraint = re.sub(r"^(=[^=<>!~,|]+)=.*", r"\1", match["constraint"])
    alternatives = tuple(tuple(part.split(",")) for part in constraint.split("|"))
    return CondaSpec(match["name"].lower(), alternatives)


def _holds(condition: str, version: str) -> bool:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        return True
    try:
        wanted, found = Version(match["version"]), Version(version)
    except InvalidVersion:
        return True
    begins = found.release[: len(wanted.release)] == wanted.release
    match match["operator"], bool(match["any"]):
        case "=" | "", _:
            return begins
        case "==", starred:
            return begins if starred else found.public == wanted.public or found == wanted
        case "!=", starred:
            return not begins if starred else found != wanted
        case "~=", _:
            shortened = wanted.release[:-1]
            return found >= wanted and found.release[: len(shortened)] == shortened
        case ">=", _:
            return found >= wanted
        case "<=", _:
            return found <= wanted
        case ">", _:
            return found > wanted
        case "<", _:
            return found < wanted
    return True
