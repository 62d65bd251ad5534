"""A scheduled rebuild: which recipes go together, which are given up, what came of them.

Plain values in and out; whoever bakes fills them in. The words of machines and of AWS end up in
Markdown that GitHub renders: nothing in them may become a table, a link or a mention there.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bake.aws.failures import Failures
from bake.console.console import duration
from bake.errors import BakeError

Status = Literal["baked", "there already", "failed", "not tried"]

# GitHub, "Actions limits": "a maximum of 256 jobs per workflow run" out of a matrix.
MOST_JOBS = 256
# GitHub, "Workflow commands", "Step isolation and limits": "a maximum size of 1MiB" per step.
MOST_BYTES = 1024 * 1024

_LONGEST_CELL = 600
_MOST_DETAILS, _LONGEST_DETAIL = 40, 300
_SPOKEN: Mapping[Status, str] = {
    "baked": "baked",
    "there already": "nothing to do",
    "failed": "**failed**",
    "not tried": "**not tried**",
}
_COLUMNS = ("recipe", "what happened", "why", "image", "proved", "time", "cost")


# Before ------------------------------------------------------------------------------------------


def groups(to_run: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Recipes that share a stage which is still to run, together; so each group can be baked on
    a computer of its own, and nothing is done twice.

    `to_run` gives the digests of the stages that a recipe would run now; a recipe without any is
    in no group. The order is that of the recipes.
    """
    found: list[tuple[list[str], set[str]]] = []
    for recipe, digests in to_run.items():
        names, stages = [recipe], set(digests)
        if not stages:
            continue
        shared = [group for group in found if group[1] & stages]
        for group in shared:
            found.remove(group)
            names += group[0]
            stages |= group[1]
        found.append((names, stages))
    order = {recipe: place for place, recipe in enumerate(to_run)}
    together = [tuple(sorted(names, key=order.__getitem__)) for names, _ in found]
    return sorted(together, key=lambda names: order[names[0]])


def matrix(groups: Sequence[tuple[str, ...]]) -> str:
    """A matrix of GitHub Actions, a job for each group, in one line; `{"include":[]}` for none.

    More groups than a matrix may have jobs share jobs.
    """
    jobs = [
        [recipe for group in groups[first::MOST_JOBS] for recipe in group]
        for first in range(min(len(groups), MOST_JOBS))
    ]
    include = [{"group": recipes[0], "recipes": " ".join(recipes)} for recipes in jobs]
    return json.dumps({"include": include}, separators=(",", ":"))


def due(failures: Failures, limit: int | None, identity: str) -> bool:
    """Whether a recipe is still tried: not after `limit` failures in a row of just what it asks
    for now, which `identity` says. None: it always is."""
    return limit is None or failures.count < limit or failures.identity != identity


# Afterwards --------------------------------------------------------------------------------------


class _Image(Protocol):
    @property
    def image_id(self) -> str: ...
    @property
    def verified(self) -> str: ...


class Outcome(Protocol):
    """What came of one bake, as the pipeline says it."""

    @property
    def recipe(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def seconds(self) -> float: ...
    @property
    def image(self) -> _Image | None: ...
    @property
    def error(self) -> BakeError | None: ...


@dataclass(frozen=True)
class Report:
    """One recipe's row. `why` are the reasons for which it was to be baked, or is not tried."""

    recipe: str
    status: Status
    seconds: float | None = None
    why: tuple[str, ...] = ()
    image_id: str = ""
    proved: str = ""
    cost: str = ""
    error: BakeError | None = None


def report(outcome: Outcome, *, why: Sequence[str] = (), cost: str = "") -> Report:
    image = outcome.image
    return Report(
        recipe=outcome.recipe,
        status=outcome.status,
        seconds=outcome.seconds,
        why=tuple(why),
        image_id=image.image_id if image else "",
        proved=image.verified if image else "",
        cost=cost,
        error=outcome.error,
    )


def given_up(recipe: str, failures: Failures) -> Report:
    """A recipe that is not tried, and what became of it the last times."""
    since = f" since {failures.since:%Y-%m-%d}" if failures.since else ""
    again = "Change the recipe, or try it all the same: invoke rebuild --retry"
    failed = "1 failure" if failures.count == 1 else f"{failures.count} failures in a row"
    times = f"{failed}{since}"
    why = (times, *([f"the last one: {failures.reason}"] if failures.reason else []), again)
    return Report(recipe, "not tried", why=why)


def summary(reports: Sequence[Report]) -> str:
    """Markdown for people: a row for each recipe, and below it the failures in full."""
    lines = [f"## Rebuild: {headline(reports)}", ""]
    if reports:
        lines += [_row(_COLUMNS), _row("---" for _ in _COLUMNS), *map(_report_row, reports), ""]
    for each in reports:
        if each.error is not None:
            lines += [f"### {_escaped(each.recipe)}", "", *_failure(each.error), ""]
    return "\n".join(lines)


def headline(reports: Sequence[Report]) -> str:
    """`2 baked, 1 failed, 3 with nothing to do`."""
    counts = Counter(each.status for each in reports)
    words: Mapping[Status, str] = {**_SPOKEN, "there already": "with nothing to do"}
    said = [f"{counts[s]} {words[s].strip('*')}" for s in words if counts[s]]
    return ", ".join(said) or "no recipes"


def write_summary(text: str, environ: Mapping[str, str]) -> None:
    """Append it to `$GITHUB_STEP_SUMMARY`; nothing where that is not set.

    Too long a text is cut: GitHub shows nothing at all of a summary that is.
    """
    if name := environ.get("GITHUB_STEP_SUMMARY"):
        path = Path(name)
        there = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as file:
            file.write(cut(text, MOST_BYTES - there))


def cut(text: str, size: int) -> str:
    """The whole lines of Markdown that fit into so many bytes of UTF-8, and a word on the rest."""
    if len(text.encode()) < size:
        return f"{text}\n"
    close, more = "\n</pre>\n", "\n… and more, which does not fit in here.\n"
    room = size - len(f"{close}{more}".encode())
    if room < 0:
        return ""
    whole = text.encode()[:room].rpartition(b"\n")[0].decode()
    is_open = whole.count("<pre>") > whole.count("</pre>")
    return whole + (close if is_open else "\n") + more


def _report_row(each: Report) -> str:
    return _row(
        (
            _cell(each.recipe),
            _SPOKEN[each.status] + (f"<br>{_said(each.error)}" if each.error else ""),
            "<br>".join(map(_cell, each.why)),
            _cell(each.image_id),
            _cell(each.proved),
            duration(each.seconds) if each.seconds is not None else "",
            _cell(each.cost),
        )
    )


def _said(error: BakeError) -> str:
    return _cell(error.message) + (f"<br>→ {_cell(error.hint)}" if error.hint else "")


def _failure(error: BakeError) -> list[str]:
    """Not Markdown but HTML, up to its `</pre>`: blank lines and marks of Markdown mean nothing."""
    said = ": ".join(filter(None, (error.code, error.reason)))
    details = [line for detail in error.details for line in detail.splitlines()]
    lines = [
        error.message,
        *([f"AWS says: {said}"] if said else []),
        *details[-_MOST_DETAILS:],
        *([f"→ {error.hint}"] if error.hint else []),
    ]
    shown = (html.escape(_printable(line, _LONGEST_DETAIL), quote=False) for line in lines)
    return ["<pre>", *shown, "</pre>"]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A text of machines in a table. As code, GitHub makes no mention and no reference of it."""
    words = _printable(" ".join(text.split()), _LONGEST_CELL)
    return f"<code>{_escaped(words)}</code>" if words else ""


def _escaped(text: str) -> str:
    """With every mark of Markdown and HTML as a character reference, which is never a mark.

    A dot is one where GitHub would make a link of it: `www.…`.
    """
    return re.sub(r"[!-+:-@\[-`{-~]|\.(?=[A-Za-z])", lambda mark: f"&#{ord(mark[0])};", text)


def _printable(text: str, longest: int) -> str:
    """Without the control characters that a terminal's output may have."""
    plain = re.sub(
        r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "", text
    )
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
