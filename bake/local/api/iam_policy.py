"""Evaluate IAM policies, as far as bake uses them.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Need:
    """A permission that a request needs: an action on a resource, with its condition keys.

    `several` contains the condition keys with more than one value (aws:TagKeys, aws:CalledVia).
    """

    action: str
    resource: str = "*"
    keys: Mapping[str, str] = field(default_factory=dict)
    several: Mapping[str, Sequence[str]] = field(default_factory=dict)


def allows(documents: Iterable[Document], need: Need) -> bool:
    """Return whether a statement allows the action, and none denies it."""
    effects = {
        statement["Effect"]
        for document in documents
        for statement in as_list(document["Statement"])
        if _applies(statement, need)
    }
    return effects == {"Allow"}


def as_list(value: Any) -> list[Any]:
    """Return an element of a policy as a list: most may be one value or a list."""
    return list(value) if isinstance(value, list) else [value]


def _applies(statement: Document, need: Need) -> bool:
    return (
        _names(statement, "Action", need.action.lower(), str.lower)
        and _names(statement, "Resource", need.resource, str)
        and all(
            _holds(operator, key, as_list(wanted), need)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _names(statement: Document, element: str, value: str, form: Callable[[str], str]) -> bool:
    if f"Not{element}" in statement:
        return not any(_like(form(p), value) for p in as_list(statement[f"Not{element}"]))
    return any(_like(form(pattern), value) for pattern in as_list(statement[element]))


def _holds(operator: str, key: str, wanted: list[str], need: Need) -> bool:
    if operator.startswith("ForAllValues:"):
        single = operator.removeprefix("ForAllValues:")
        return all(
            _holds(single, key, wanted, Need(need.action, keys={key: value}))
            for value in need.several.get(key, ())
        )
    if operator.startswith("ForAnyValue:"):
        single = operator.removeprefix("ForAnyValue:")
        return any(
            _holds(single, key, wanted, Need(need.action, keys={key: value}))
            for value in need.several.get(key, ())
        )
    keys = need.keys
    plain = operator.removesuffix("IfExists")
    if plain not in _OPERATORS:
        raise NotImplementedError(f"The condition operator {operator} is not supported")
    if key not in keys:
        return plain != operator or "Not" in plain
    found = any(_OPERATORS[plain](pattern, keys[key]) for pattern in wanted)
    return not found if "Not" in plain else found


def _like(pattern: str, value: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, value, re.DOTALL) is not None


_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": str.__eq__,
    "StringNotEquals": str.__eq__,
    "StringLike": _like,
    "StringNotLike": _like,
    "ArnLike": _like,
}
