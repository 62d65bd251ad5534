"""The checks of a bake as a page shows them: the proof, and the search for leftover files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bake.record import CheckRecord
from bake.record.report.requested import Badge

Outcome = Literal["passed", "failed", "skipped"]

_TITLES = {
    "proof": ("Proof", "The machine is what the recipe promises, before it was sealed"),
    "leftovers": ("Leftover check", "The files that an image must not contain, after the sealing"),
    None: ("Checks", "Performed on the machine before and after it was sealed"),
}
_BADGES: dict[Outcome, Badge] = {
    "failed": ("bad", "failed"),
    "passed": ("good", "passed"),
    "skipped": ("none", "skipped"),
}
_CLEAN: Badge = ("good", "clean")


class Row(NamedTuple):
    """The result of a check, or of several that were skipped for the same reason."""

    name: str
    badge: Badge
    detail: str


class Group(NamedTuple):
    """The checks of one part of a bake. `summary` is like `14 passed, 3 skipped`.

    A search that found nothing is `clean`, and a page shows it in one line.
    """

    title: str
    caption: str
    summary: str
    clean: bool
    rows: list[Row]


def check_groups(checks: Sequence[CheckRecord]) -> list[Group]:
    """Return the groups that have checks, with failed checks first and skipped ones last."""
    groups = []
    for part, (title, caption) in _TITLES.items():
        own = [check for check in checks if check.part == part]
        counts = Counter(check.outcome for check in own)
        clean = part == "leftovers" and not counts["failed"]
        summary = ", ".join(f"{counts[each]} {each}" for each in _BADGES if counts[each])
        if own:
            groups.append(Group(title, caption, summary, clean, _rows(own, clean)))
    return groups


def _rows(checks: Sequence[CheckRecord], clean: bool) -> list[Row]:
    ran = sorted(
        (check for check in checks if check.outcome != "skipped"),
        key=lambda check: check.outcome,  # failed, then passed
    )
    rows = [
        Row(check.name, _CLEAN if clean else _BADGES[check.outcome], check.detail) for check in ran
    ]
    skipped: dict[str, list[str]] = {}
    for check in checks:
        if check.outcome == "skipped":
            skipped.setdefault(check.detail, []).append(check.name)
    return rows + [Row(", ".join(names), _BADGES["skipped"], why) for why, names in skipped.items()]
