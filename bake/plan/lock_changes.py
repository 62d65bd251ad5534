"""The changes in the inputs of a stage that carry a lock, in few lines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bake.plan.description import Hash
from bake.plan.lock import UNLOCKED

Value = str | Hash
MOST_LINES = 8

_KINDS = {"LOCKED_APT": "apt packages", "LOCKED_CONDA": "conda packages", "LOCKED_PIP": "wheels"}
_ONE = {"apt packages": "1 apt package", "conda packages": "1 conda package", "wheels": "1 wheel"}


def lock_changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[str]:
    """Return the changes of a stage's locked packages; a new or removed lock is one line.

    A description may have a hash instead of a long list; then only the kind of package is known.
    """
    was, now = ({name: each.get(name, "") for name in UNLOCKED} for each in (before, after))
    if not any(was.values()):
        return [f"locked now: {_counts(now)}"] if any(now.values()) else []
    if not any(now.values()):
        return [f"no longer locked: {_counts(was)}"]
    return [
        line
        for name in UNLOCKED
        if was[name] != now[name]
        for line in _changes(_KINDS[name], name, was[name], now[name])
    ]


def _counts(values: Mapping[str, Value]) -> str:
    """Return for example `17 apt packages, 1 wheel`."""
    found = []
    for name, value in values.items():
        kind = _KINDS[name]
        if isinstance(value, Hash):
            found.append(kind)
        elif count := len(_items(value)):
            found.append(_ONE[kind] if count == 1 else f"{count} {kind}")
    return ", ".join(found) or "no packages"


def _changes(kind: str, name: str, before: Value, after: Value) -> list[str]:
    if isinstance(before, Hash) or isinstance(after, Hash):
        return [f"other {kind} are locked"]
    old, new = (dict(_package(name, item) for item in _items(value)) for value in (before, after))
    lines = [
        f"{package} {old[package]} → {new[package]}"
        for package in sorted(old.keys() & new.keys())
        if old[package] != new[package]
    ]
    lines += [f"- {package} {old[package]}" for package in sorted(old.keys() - new.keys())]
    lines += [f"+ {package} {new[package]}" for package in sorted(new.keys() - old.keys())]
    if not lines:
        return [f"other files of the same {kind} are locked"]
    return [listed(f"locked {kind}", lines)]


def listed(title: str, lines: Sequence[str]) -> str:
    """Return a title and the lines below it; of many lines the first ones, and how many more."""
    shown = lines if len(lines) <= MOST_LINES else lines[: MOST_LINES - 1]
    more = [f"… and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
    return "\n".join([title, *shown, *more])


def _items(value: str) -> list[str]:
    return value.splitlines()[1:]  # the first line only says that there is a lock


def _package(name: str, item: str) -> tuple[str, str]:
    """Return the name and the version of a locked package (see Lock.inputs)."""
    words = item.split()
    if name == "LOCKED_APT":  # stage, package, version
        return words[1], words[2]
    if name == "LOCKED_CONDA":  # …/name-version-build.conda, hash
        file = words[0].rpartition("/")[2]
        package, _, version = file.rpartition("-")[0].rpartition("-")
        return (package, version) if package else (file, "")
    package, _, version = words[0].partition("==")
    return package, version or words[2]  # a URL: name @ URL
