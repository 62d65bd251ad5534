"""The summary of a rebuild for GitHub Actions, in Markdown."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bake import files
from bake.console.format import duration, money_range
from bake.errors import BakeError
from bake.pipeline.rebuild import RecipeReport, Status

# GitHub, "Workflow commands", "Step isolation and limits": "a maximum size of 1MiB" per step.
MOST_BYTES = 1024 * 1024
# GitHub, "Actions limits": "a maximum of 256 jobs per workflow run" out of a matrix.
MOST_JOBS = 256

_LONGEST_CELL = 600
_MOST_DETAILS, _LONGEST_DETAIL = 40, 300

_STATUS_TEXT: Mapping[Status, str] = {
    "baked": "baked",
    "up to date": "nothing to do",
    "failed": "**failed**",
    "not tried": "**not tried**",
}
_COLUMNS = ("recipe", "what happened", "why", "image", "proved", "time", "cost")


def summary(reports: Sequence[RecipeReport]) -> str:
    """Return Markdown: a table with a row for each recipe, then the failures in full."""
    lines = [f"## Rebuild: {headline(reports)}", ""]
    if reports:
        lines += [_row(_COLUMNS), _row("---" for _ in _COLUMNS), *map(_report_row, reports), ""]
    for each in reports:
        if each.error is not None:
            lines += [f"### {_escaped(each.recipe)}", "", *_failure(each.error), ""]
    return "\n".join(lines)


def headline(reports: Sequence[RecipeReport]) -> str:
    """Return how many recipes had each result: `2 baked, 1 failed, 3 with nothing to do`."""
    counts = Counter(each.status for each in reports)
    words: Mapping[Status, str] = {**_STATUS_TEXT, "up to date": "with nothing to do"}
    shown = [f"{counts[s]} {words[s].strip('*')}" for s in words if counts[s]]
    return ", ".join(shown) or "no recipes"


def matrix(groups: Sequence[tuple[str, ...]]) -> str:
    """Return a matrix for GitHub Actions in one line, with a job for each group of recipes.

    It is `{"include":[]}` without groups. If there are more groups than jobs allowed, they share.
    """
    jobs = [
        [recipe for group in groups[first::MOST_JOBS] for recipe in group]
        for first in range(min(len(groups), MOST_JOBS))
    ]
    include = [{"group": recipes[0], "recipes": " ".join(recipes)} for recipes in jobs]
    return json.dumps({"include": include}, separators=(",", ":"))


def write_summary(text: str, environ: Mapping[str, str]) -> None:
    """Append the text to the file `$GITHUB_STEP_SUMMARY`, if that is set.

    A text that is too long is cut, because GitHub shows nothing of it otherwise.
    """
    if name := environ.get("GITHUB_STEP_SUMMARY"):
        path = Path(name)
        size = path.stat().st_size if path.exists() else 0
        with files.writing(path), path.open("a", encoding="utf-8") as file:
            file.write(cut(text, MOST_BYTES - size))


def cut(text: str, size: int) -> str:
    """Return the lines of Markdown that fit into `size` bytes of UTF-8, and a note on the rest."""
    if len(text.encode()) < size:
        return f"{text}\n"
    close, more = "\n</pre>\n", "\n… and more, which is too long for this summary.\n"
    room = size - len(f"{close}{more}".encode())
    if room < 0:
        return ""
    whole = text.encode()[:room].rpartition(b"\n")[0].decode()
    is_open = whole.count("<pre>") > whole.count("</pre>")
    return whole + (close if is_open else "\n") + more


def _report_row(each: RecipeReport) -> str:
    return _row(
        (
            _cell(each.recipe),
            _STATUS_TEXT[each.status] + (f"<br>{_short(each.error)}" if each.error else ""),
            "<br>".join(map(_cell, each.why)),
            _cell(each.image_id),
            _cell(each.proved),
            duration(each.seconds) if each.seconds is not None else "",
            _cell("" if each.usd is None else money_range(each.usd, each.usd)),
        )
    )


def _short(error: BakeError) -> str:
    return _cell(error.message) + (f"<br>→ {_cell(error.hint)}" if error.hint else "")


def _failure(error: BakeError) -> list[str]:
    """Return lines of HTML. Inside `<pre>`, blank lines and Markdown have no meaning."""
    details = [line for detail in error.details for line in detail.splitlines()]
    lines = [
        error.message,
        *([f"Reason: {error.cloud_words}"] if error.cloud_words else []),
        *details[-_MOST_DETAILS:],
        *([f"→ {error.hint}"] if error.hint else []),
    ]
    shown = (html.escape(_printable(line, _LONGEST_DETAIL), quote=False) for line in lines)
    return ["<pre>", *shown, "</pre>"]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Return a cell of a table. It is code, so that GitHub makes no mention or reference of it."""
    words = _printable(" ".join(text.split()), _LONGEST_CELL)
    return f"<code>{_escaped(words)}</code>" if words else ""


def _escaped(text: str) -> str:
    """Return the text with all of Markdown's and HTML's marks as character references.

    So is a dot from which GitHub would make a link: `www.…`.
    """
    return re.sub(r"[!-+:-@\[-`{-~]|\.(?=[A-Za-z])", lambda mark: f"&#{ord(mark[0])};", text)


def _printable(text: str, longest: int) -> str:
    """Return the text without control characters, and cut to the longest allowed length."""
    plain = re.sub(
        r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "", text
    )
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
