"""The index: one HTML page that lists all builds, with links to their pages."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from bake.errors import FileError, RequestError
from bake.record import Failure, Record, builds
from bake.record.cost import total_usd
from bake.record.report import page, report
from bake.record.report.requested import Badge

_RUN = re.compile(r"(\d{8}-\d{6})-[0-9a-f]+")  # a run's id begins with its time
_FAILED: Badge = ("bad", "failed")
_NO_RECORD: Badge = ("mind", "no record")
_KILLED = "The bake was killed, or it still runs"


class Build(NamedTuple):
    """One bake. `link` is relative to the index; None stands for an unknown value."""

    link: str
    began: datetime
    recipe: str = ""
    badge: Badge = _NO_RECORD
    stand_in: bool = False
    message: str = ""
    image_id: str = ""
    machine: str = ""
    took_s: float | None = None
    usd: float | None = None


class Benchmark(NamedTuple):
    """One benchmark of an image, in a folder of its own. `machines` names the instance types."""

    folder: str
    began: datetime
    image: str
    machines: str
    complete: bool

    @property
    def link(self) -> str:
        """The page of the benchmark, relative to the index."""
        return f"{_quoted(self.folder)}/{report.FILE}"


def make(folder: Path, benchmarks: Sequence[Benchmark] = ()) -> tuple[Path, list[FileError]]:
    """Write the index of the folder of builds, and the page of each bake.

    RequestError if the folder has no builds; FileError if the index cannot be written.

    A page that cannot be written is a problem of its own: the others are written.
    """
    runs = builds.read_all(folder)
    entries = [_build(each, run) for each, run in runs]
    known = {each.name for each, _ in runs} | {each.folder for each in benchmarks}
    entries += _without_record(folder, known)
    if not entries and not benchmarks:
        raise RequestError(f"No builds found in {folder}", hint="`invoke bake RECIPE` makes one")
    entries.sort(key=lambda each: each.began, reverse=True)
    costs = [entry.usd for entry in entries if entry.usd is not None]
    path = page.write(
        folder / report.INDEX,
        "index.html.j2",
        title="Builds",
        entries=entries,
        newest=_newest_images(entries),
        images=sum(bool(entry.image_id) for entry in entries),
        failed=sum(entry.badge == _FAILED for entry in entries),
        lost=sum(entry.badge == _NO_RECORD for entry in entries),
        usd=sum(costs) if costs else None,
        unknown=len(entries) - len(costs),
        benchmarks=benchmarks,
        written=datetime.now(UTC),
    )
    # The pages are written after the index, so that they have a link to it.
    return path, _write_pages(runs)


def _newest_images(entries: Sequence[Build]) -> list[Build]:
    """Return the first entry of each recipe that has an image; rehearsals are separate."""
    newest: dict[tuple[str, bool], Build] = {}
    for entry in entries:
        if entry.image_id:
            newest.setdefault((entry.recipe, entry.stand_in), entry)
    return list(newest.values())


def _write_pages(runs: Sequence[tuple[Path, Record | Failure]]) -> list[FileError]:
    problems = []
    for folder, run in runs:
        try:
            report.write(folder, run, runs)
        except FileError as error:
            problems.append(error)
    return problems


def _build(folder: Path, run: Record | Failure) -> Build:
    last = run.machines[-1] if run.machines else None
    entry = Build(
        link=f"{_quoted(folder.name)}/{report.FILE}",
        began=run.started_at,
        recipe=run.recipe,
        stand_in=run.payload == "stand-in",
        machine=f"{last.instance_type}, {last.market}" if last else "",
        took_s=(run.ended_at - run.started_at).total_seconds(),
        usd=total_usd(run),
    )
    if isinstance(run, Failure):
        return entry._replace(badge=_FAILED, message=run.message)
    return entry._replace(badge=report.PROVED[run.verified], image_id=run.image_id)


def _without_record(folder: Path, known: set[str]) -> list[Build]:
    """Return the runs that have logs and no record: they were killed, or still run."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        began = _RUN.fullmatch(path.name)
        if began and path.name not in known and any(path.glob("*.log")):
            unreadable = any(path.glob("*.json"))
            found.append(
                Build(
                    link=f"{_quoted(path.name)}/",
                    began=datetime.strptime(began[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC),
                    message="The record cannot be read" if unreadable else _KILLED,
                )
            )
    return found


def _quoted(name: str) -> str:
    """Return the name of a file or folder as a part of a URL."""
    return quote(os.fsencode(name))
