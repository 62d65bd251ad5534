"""The HTML page of one bake: its request, its result, its timeline and its cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from bake.record import Failure, Record, builds, difference
from bake.record.cost import machine_costs, total_usd
from bake.record.report import page, timeline
from bake.record.report.checks import check_groups
from bake.record.report.requested import requested_parts

FILE = "report.html"
INDEX = "index.html"  # of all builds, in the folder above

_LAST_LINES = 60
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PLAIN_NAME = re.compile(r"[\w+-][\w.+-]*")
PROVED = {
    "gpu": ("good", "verified on a GPU"),
    "cpu": ("mind", "verified on the CPU alone"),
    "no": ("bad", "not verified"),
}


def make(folder: Path) -> Path:
    """Write the page into the folder of a run, from its record and its logs; return its path.

    RequestError if the folder has no record that can be read; FileError if writing fails.
    """
    return write(folder, builds.read_run(folder), builds.read_all(folder.resolve().parent))


def write(
    folder: Path, run: Record | Failure, runs: Sequence[tuple[Path, Record | Failure]]
) -> Path:
    """Write the page of a run into its folder, and return its path; FileError if that fails.

    `runs` are all runs, the newest first: an image is compared with the one before it.
    """
    common = {
        "run": run,
        "steps_known": bool(run.steps),
        "asked": requested_parts(run),
        "charts": timeline.charts(run),
        "steps": timeline.rows(run),
        "machines": machine_costs(run),
        "usd": total_usd(run),
        "took": (run.ended_at - run.started_at).total_seconds(),
        "files": files_beside(folder),
        "index": (folder.resolve().parent / INDEX).is_file(),
    }
    if isinstance(run, Failure):
        return page.write(
            folder / FILE,
            "failure.html.j2",
            title=f"{run.recipe}: the bake failed",
            ends=list(_log_ends(run, folder)),
            resumes_from=_newest_checkpoint(run),
            **common,
        )
    earlier = builds.previous_record(run, runs)
    return page.write(
        folder / FILE,
        "report.html.j2",
        title=f"{run.recipe}: {run.image_id}",
        proved=PROVED[run.verified],
        checks=check_groups(run.checks),
        installed=list(_installed(run)),
        earlier=earlier,
        changes=difference(earlier.inventory, run.inventory) if earlier else (),
        **common,
    )


def files_beside(folder: Path) -> dict[str, int]:
    """Map the name of each log and record in the folder of a run to its size in bytes."""
    return {
        path.name: path.stat().st_size
        for pattern in ("*.log", "*.json")
        for path in sorted(folder.glob(pattern))
        if _PLAIN_NAME.fullmatch(path.name) and path.is_file()
    }


class Listing(NamedTuple):
    """One table of an image's contents: rows of name, version and the stage that installed it."""

    kind: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _installed(run: Record) -> Iterator[Listing]:
    inventory, stages = run.inventory, run.inventory.stages
    by: dict[str, dict[str, str]] = {
        "apt": {name: stage for stage, own in stages.items() for name in own.apt},
        "dnf": {name: stage for stage, own in stages.items() for name in own.dnf},
        "pip": {str(canonicalize_name(n)): stage for stage, own in stages.items() for n in own.pip},
        "conda": {_conda_name(path): stage for stage, own in stages.items() for path in own.conda},
    }
    tables = {
        "apt": inventory.dpkg,
        "dnf": inventory.rpm,
        "conda": inventory.conda,
        "pip": inventory.pip,
    }
    for kind, packages in tables.items():
        rows = []
        for name, version in sorted(packages.items()):
            key = canonicalize_name(name) if kind == "pip" else name.partition(":")[0]
            origin = by[kind].get(name) or by[kind].get(key) or ""
            rows.append(
                (
                    name,
                    version,
                    origin or ("base image" if kind in ("apt", "dnf") and stages else ""),
                )
            )
        if rows:
            yield Listing(kind, ("package", "version", "installed by"), rows)
    files = [
        (Path(name).name, digest, stage)
        for stage, installed in sorted(stages.items())
        for name, digest in [*installed.files.items(), *installed.conda.items()]
    ]
    if files:
        yield Listing("files", ("file", "sha256 or commit", "installed by"), files)


def _conda_name(path: str) -> str:
    """Return the package of a file such as `linux-64/python-3.7.16-h7a1cb2a_0.conda`.

    Version and build contain no hyphen.
    """
    return path.rpartition("/")[2].rsplit("-", 2)[0]


def _newest_checkpoint(run: Failure) -> str:
    """Return the id of the last checkpoint that the bake made; empty if it made none."""
    made = [each for each in run.steps if each.kind == "checkpoint" and each.outcome == "done"]
    return made[-1].detail if made else ""


class LogEnd(NamedTuple):
    """The last lines that a stage printed; `more` is the number of lines before them."""

    stage: str
    lines: str
    more: int


def _log_ends(run: Failure, folder: Path) -> Iterator[LogEnd]:
    """Yield the ends of the logs of the stages that failed on the last machine.

    The logs contain no secret.
    """
    for step in run.steps:
        if step.kind != "stage" or step.outcome == "done" or step.machine != len(run.machines):
            continue
        log = folder / f"{Path(step.name).name}.log"
        if log.is_file():
            # Not read_text, which turns each \r into a newline: progress bars print many of them.
            text = _CONTROL.sub("", log.read_bytes().decode(errors="replace"))
            lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
            shown = lines[-_LAST_LINES - 1 :]
            yield LogEnd(step.name, "\n".join(shown).strip("\n"), len(lines) - len(shown))
