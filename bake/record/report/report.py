"""The HTML page of one bake: its request, its result, its timeline and its cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name

from bake.record import Failure, Inventory, Record, builds, difference
from bake.record.cost import machine_costs, total_usd
from bake.record.report import page, timeline

FILE = "report.html"

_LAST_LINES = 60
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROVED = {
    "gpu": ("good", "verified on a GPU"),
    "cpu": ("mind", "verified on the CPU alone"),
    "no": ("bad", "not verified"),
}
_OUTCOMES = {"failed": 0, "passed": 1, "skipped": 2}


def make(folder: Path) -> Path:
    """Write the page into the folder of a run, from its record and its logs; return its path.

    RequestError if the folder has no record that can be read; FileError if writing fails.
    """
    run = builds.read_run(folder)
    common = {
        "run": run,
        "steps_known": bool(run.steps),
        "asked": _requested_parts(run),
        "charts": timeline.charts(run),
        "steps": timeline.rows(run),
        "machines": machine_costs(run),
        "usd": total_usd(run),
        "took": (run.ended_at - run.started_at).total_seconds(),
    }
    if isinstance(run, Failure):
        return page.write(
            folder / FILE,
            "failure.html.j2",
            title=f"{run.recipe}: the bake failed",
            ends=list(_log_ends(run, folder)),
            **common,
        )
    earlier = builds.previous_record(run, folder.resolve().parent)
    return page.write(
        folder / FILE,
        "report.html.j2",
        title=f"{run.recipe}: {run.image_id}",
        proved=_PROVED[run.verified],
        run_checks=sorted(run.checks, key=lambda check: _OUTCOMES[check.outcome]),
        counts={o: sum(check.outcome == o for check in run.checks) for o in _OUTCOMES},
        installed=list(_installed(run)),
        earlier=earlier,
        changes=difference(earlier.inventory, run.inventory) if earlier else (),
        **common,
    )


class Part(NamedTuple):
    """One setting of the recipe, and its counterpart in the image ("" if it is not known)."""

    name: str
    asked: str
    found: str


def _requested_parts(run: Record | Failure) -> list[Part]:
    """Return the parts that the recipe requests; empty for an old record without them."""
    asked, inventory = run.asked, run.inventory if isinstance(run, Record) else Inventory()
    if not asked:
        return []
    pip = {str(canonicalize_name(name)): version for name, version in inventory.pip.items()}
    framework = _requested_values(asked, "framework.name", "framework.version")
    package = re.escape({"pytorch": "torch"}.get(name := framework.partition(" ")[0], name))
    found = [f"{n} {v}" for n, v in pip.items() if re.fullmatch(rf"{package}(-cu\d+)?", n)]
    parts = [
        Part("operating system", _requested_values(asked, "base"), inventory.os),
        Part(
            "driver",
            _requested_values(asked, "driver.branch", "driver.modules"),
            inventory.driver or "not loaded: the machine had no GPU",
        ),
        Part("CUDA", _requested_values(asked, "cuda.version"), inventory.cuda),
        Part(
            "Python", _requested_values(asked, "python.version", "python.manager"), inventory.python
        ),
        Part("framework", framework, ", ".join(found)),
        Part("d2l", _requested_values(asked, "d2l.version"), pip.get("d2l", "")),
        *(
            Part(f"more by {kind}", ", ".join(wanted), _versions(wanted, packages))
            for kind, packages in (
                ("apt", inventory.dpkg),
                ("conda", inventory.conda),
                ("pip", pip),
            )
            if (wanted := [str(each) for each in asked.get(f"packages.{kind}") or ()])
        ),
    ]
    return [part._replace(found=part.found or "–") for part in parts if part.asked]


def _versions(wanted: Sequence[str], packages: Mapping[str, str]) -> str:
    """Return the versions of the requested packages, such as `wandb` for `wandb>=0.16`."""
    names = [re.split(r"[^\w.+-]", each)[0] for each in wanted]
    return ", ".join(f"{name} {packages[name]}" for name in names if name in packages)


def _requested_values(asked: Any, *names: str) -> str:
    return " ".join(str(asked[name]) for name in names if asked.get(name))


class Listing(NamedTuple):
    """One table of an image's contents: rows of name, version and the stage that installed it."""

    kind: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _installed(run: Record) -> Iterator[Listing]:
    inventory, stages = run.inventory, run.inventory.stages
    by: dict[str, dict[str, str]] = {
        "apt": {name: stage for stage, own in stages.items() for name in own.apt},
        "pip": {str(canonicalize_name(n)): stage for stage, own in stages.items() for n in own.pip},
        "conda": {_conda_name(path): stage for stage, own in stages.items() for path in own.conda},
    }
    tables = {"apt": inventory.dpkg, "conda": inventory.conda, "pip": inventory.pip}
    for kind, packages in tables.items():
        rows = []
        for name, version in sorted(packages.items()):
            key = canonicalize_name(name) if kind == "pip" else name.partition(":")[0]
            origin = by[kind].get(name) or by[kind].get(key) or ""
            rows.append(
                (name, version, origin or ("base image" if kind == "apt" and stages else ""))
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
