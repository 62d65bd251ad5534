"""The page of one bake: what was asked, what came of it, when what ran, and what it cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name

from bake.record import Failure, Inventory, Record, builds, difference
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
_LEAST_S = 60  # "billed per second, with a minimum of 60 seconds" (Amazon EC2, "On-Demand Pricing")


def make(folder: Path) -> Path:
    """Written into the folder of a run, from its record and its logs.

    RequestError without a record that can be read; OSError where it cannot be written.
    """
    run = builds.of_run(folder)
    common = {
        "run": run,
        "steps_known": bool(run.steps),
        "asked": _asked(run),
        "charts": timeline.charts(run),
        "steps": timeline.rows(run),
        "machines": _machines(run),
        "usd": _usd(run),
        "took": (run.ended_at - run.started_at).total_seconds(),
    }
    if isinstance(run, Failure):
        return page.write(
            folder / FILE,
            "failure.html.j2",
            title=f"{run.recipe}: the bake failed",
            ends=list(_ends(run, folder)),
            **common,
        )
    earlier = builds.before(run, folder.resolve().parent)
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
    """What a recipe asks for beside what the image has; "" where it is not known."""

    name: str
    asked: str
    found: str


def _asked(run: Record | Failure) -> list[Part]:
    """Nothing for a record from before what was asked was written."""
    asked, there = run.asked, run.inventory if isinstance(run, Record) else Inventory()
    if not asked:
        return []
    pip = {str(canonicalize_name(name)): version for name, version in there.pip.items()}
    framework = _words(asked, "framework.name", "framework.version")
    package = re.escape({"pytorch": "torch"}.get(name := framework.partition(" ")[0], name))
    found = [f"{n} {v}" for n, v in pip.items() if re.fullmatch(rf"{package}(-cu\d+)?", n)]
    parts = [
        Part("operating system", _words(asked, "base"), there.os),
        Part(
            "driver",
            _words(asked, "driver.branch", "driver.modules"),
            there.driver or "not loaded: no GPU there",
        ),
        Part("CUDA", _words(asked, "cuda.version"), there.cuda),
        Part("Python", _words(asked, "python.version", "python.manager"), there.python),
        Part("framework", framework, ", ".join(found)),
        Part("d2l", _words(asked, "d2l.version"), pip.get("d2l", "")),
        *(
            Part(f"more by {kind}", ", ".join(wanted), _versions(wanted, packages))
            for kind, packages in (("apt", there.dpkg), ("conda", there.conda), ("pip", pip))
            if (wanted := [str(each) for each in asked.get(f"packages.{kind}") or ()])
        ),
    ]
    return [part._replace(found=part.found or "–") for part in parts if part.asked]


def _versions(wanted: Sequence[str], packages: Mapping[str, str]) -> str:
    """Of packages that were asked for, maybe with a version: `wandb>=0.16`."""
    names = [re.split(r"[^\w.+-]", each)[0] for each in wanted]
    return ", ".join(f"{name} {packages[name]}" for name in names if name in packages)


def _words(asked: Any, *names: str) -> str:
    return " ".join(str(asked[name]) for name in names if asked.get(name))


@dataclass(frozen=True)
class BakeCost:
    """Of one machine; None where the price is not known."""

    instance_id: str
    what: str
    seconds: float
    usd_per_hour: float | None
    still_there: bool

    @property
    def usd(self) -> float | None:
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour * max(self.seconds, _LEAST_S) / 3600


def _machines(run: Record | Failure) -> list[BakeCost]:
    """An on-demand machine is stopped for the image, and costs nothing from then on."""
    stopped = {s.machine: s.began_at for s in run.steps if s.kind == "image"}
    found = []
    for number, machine in enumerate(run.machines, start=1):
        end = machine.ended_at or run.ended_at
        if machine.market == "on-demand":
            end = min(end, stopped.get(number, end))
        found.append(
            BakeCost(
                machine.instance_id,
                f"{machine.instance_type} in {machine.zone}, {machine.market}",
                max((end - machine.began_at).total_seconds(), 0.0),
                machine.usd_per_hour,
                isinstance(run, Failure) and machine.ended_at is None,
            )
        )
    return found


def _usd(run: Record | Failure) -> float | None:
    """All of them together; None where one is not known, or none is on record."""
    costs = [cost.usd for cost in _machines(run)]
    known = [usd for usd in costs if usd is not None]
    return sum(known) if costs and len(known) == len(costs) else None


class Listing(NamedTuple):
    """One kind of what is in an image: rows of name, version and who brought it."""

    kind: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _installed(run: Record) -> Iterator[Listing]:
    there, stages = run.inventory, run.inventory.stages
    by: dict[str, dict[str, str]] = {
        "apt": {name: stage for stage, held in stages.items() for name in held.apt},
        "pip": {
            str(canonicalize_name(n)): stage for stage, held in stages.items() for n in held.pip
        },
        "conda": {
            _conda_name(path): stage for stage, held in stages.items() for path in held.conda
        },
    }
    tables = {"apt": there.dpkg, "conda": there.conda, "pip": there.pip}
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
        for stage, held in sorted(stages.items())
        for name, digest in [*held.files.items(), *held.conda.items()]
    ]
    if files:
        yield Listing("files", ("file", "sha256 or commit", "installed by"), files)


def _conda_name(path: str) -> str:
    """`linux-64/python-3.7.16-h7a1cb2a_0.conda`: the version and the build have no hyphen."""
    return path.rpartition("/")[2].rsplit("-", 2)[0]


class End(NamedTuple):
    """The last lines of what a stage has printed; `more` is how many there are before them."""

    stage: str
    lines: str
    more: int


def _ends(run: Failure, folder: Path) -> Iterator[End]:
    """Of the stages that have not ended well on the last machine. Their logs hold no secret."""
    for step in run.steps:
        if step.kind != "stage" or step.outcome == "done" or step.machine != len(run.machines):
            continue
        log = folder / f"{Path(step.name).name}.log"
        if log.is_file():
            # Not read_text: it makes a new line of each \r, with which a progress bar begins anew.
            text = _CONTROL.sub("", log.read_bytes().decode(errors="replace"))
            lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
            shown = lines[-_LAST_LINES - 1 :]
            yield End(step.name, "\n".join(shown).strip("\n"), len(lines) - len(shown))
