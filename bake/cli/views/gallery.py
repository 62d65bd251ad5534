"""The pages of the built-in recipes, docs/recipes/, made from recipes, stages and facts.

Run as a program, in the folder of tasks.py, it writes them: `make gallery`. A recipe's proofs are
in docs/recipes/proofs.json. Records of bakes that are named as arguments are added to it.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from bake.catalog import facts
from bake.console.format import duration, money, rate
from bake.plan.duration import Span
from bake.plan.forecast import Forecast, forecast
from bake.plan.plan import Plan, make_plan
from bake.recipe.based import resolve_in
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import Project, built_in
from bake.recipe.recipe import Recipe, environment_name
from bake.recipe.recipes import all_recipes
from bake.recipe.resolved import Resolved
from bake.record import record as records
from bake.record.record import Record
from bake.verify.expectation import expect

FOLDER = Path("docs/recipes")
PROOFS = "proofs.json"
# A plan needs the id of a base image. No page shows it.
_NO_IMAGE = "ami-00000000000000000"
_INDEX = """\
# The built-in recipes

What each recipe makes, how large it is, how long it takes and what it costs, and how it was proved.
Each is a start for a recipe of your own: `extends = "NAME"`
([recipes](../recipes.md)). `make gallery` writes these pages.

Times are typical durations of the stages, and costs are list prices of us-east-1; your own bakes
and AWS's prices of the day replace both in `invoke plan NAME`.
"""


class Proof(BaseModel):
    """A bake that proved a recipe, or a part of one: `variant` says how that recipe differed.

    `took_s` is the time of the whole bake, None if it is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    date: str
    where: str
    payload: Literal["upstream", "stand-in"]
    verified: Literal["gpu", "cpu", "no"]
    passed: int
    skipped: int
    took_s: int | None = None
    variant: str = ""

    @classmethod
    def of_record(cls, record: Record) -> Proof:
        outcomes = [check.outcome for check in record.checks if check.part != "leftovers"]
        local = "--local" in record.here
        return cls(
            recipe=record.recipe,
            date=f"{record.ended_at:%Y-%m-%d}",
            where="the local cloud" if local else f"{record.region}, {record.instance_type}",
            payload=record.payload,
            verified=record.verified,
            passed=outcomes.count("passed"),
            skipped=outcomes.count("skipped"),
            took_s=round((record.ended_at - record.started_at).total_seconds()),
        )

    @property
    def kind(self) -> tuple[str, ...]:
        """The recipe and the kind of proof; the newest one of each kind is kept."""
        return (self.recipe, self.payload, self.verified, self.variant)


_PROOFS = TypeAdapter(tuple[Proof, ...])


@dataclass(frozen=True)
class Entry:
    """A built-in recipe with what its page shows about it."""

    resolved: Resolved
    plan: Plan
    expected: Forecast
    proofs: tuple[Proof, ...]

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    @property
    def size_gb(self) -> float:
        """The expected size of the contents of the disk."""
        parts = self.resolved
        toolkit = parts.toolkit.disk_gb if parts.toolkit and "cuda" in parts.all_stages else 0
        return parts.os_image.size_gb + toolkit + (parts.build.size_gb if parts.build else 0)


def entries(project: Project, proofs: Sequence[Proof]) -> list[Entry]:
    """Return the recipes of a project by their names, each with its plan and its proofs."""
    found = []
    for recipe in sorted(all_recipes(project), key=lambda each: each.name):
        resolved = resolve_in(project, recipe)
        plan = make_plan(resolved, payload=UPSTREAM, base_image_id=_NO_IMAGE, project=project)
        own = tuple(proof for proof in proofs if proof.recipe == recipe.name)
        found.append(Entry(resolved, plan, _expected(plan), own))
    return found


def _expected(plan: Plan) -> Forecast:
    prices = facts.read("prices")
    known = prices["usd_per_hour"]["types"]
    return forecast(
        plan,
        [stage.name for stage in plan.stages],
        [],
        [known.get(plan.recipe.builder.instance_types[0])],
        usd_per_gb_month=prices["usd_per_gb_month"]["disk"],
        stopped_for_image=True,
    )


def pages(found: Sequence[Entry]) -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    return {"README.md": _index(found)} | {f"{each.recipe.name}.md": _page(each) for each in found}


def _index(found: Sequence[Entry]) -> str:
    rows = [
        (
            f"[{each.recipe.name}]({each.recipe.name}.md)",
            each.recipe.description,
            f"{each.size_gb:.0f} GB",
            each.expected.time,
            each.expected.cost,
            "; ".join(sorted({_proved(proof) for proof in each.proofs})) or "not yet",
        )
        for each in found
    ]
    head = ("recipe", "what it makes", "size", "time of a bake", "cost of a bake", "proved")
    return f"{_INDEX}\n{_table(head, rows)}"


def _page(entry: Entry) -> str:
    recipe, name = entry.recipe, entry.recipe.name
    stages = [
        (f"`{each.name}`", _first_sentence(each.script.description), str(_time(entry, each.name)))
        for each in entry.plan.stages
    ]
    blocks = [
        f"# {name}",
        f"{recipe.description.rstrip('.')}.",
        f"[The recipe](../../manifests/{name}.toml), [all recipes](README.md)",
        f"```console\n$ invoke plan {name}\n$ invoke bake {name}\n```",
        "## Contents",
        _table(("part", "version"), _contents(entry.resolved)),
        "## Stages",
        _table(("stage", "what it installs", "typical time"), stages),
        "## Size, time and cost",
        _table(("", "estimate"), _estimates(entry)),
        "## The proof",
        "Each bake checks, before the image is made:",
        "\n".join(_wrapped(f"* {each}") for each in _checks(entry)),
        *_proof(entry.proofs),
    ]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _contents(parts: Resolved) -> list[tuple[str, str]]:
    """Return the parts of the image, each with its version."""
    recipe, os_image = parts.recipe, parts.os_image
    rows = [("operating system", f"{recipe.base}, supported until {os_image.security_until}")]
    if recipe.driver:
        held = ", held with the kernel" if recipe.driver.hold_kernel else ""
        rows.append(
            ("NVIDIA driver", f"{recipe.driver.branch}, {recipe.driver.modules} modules{held}")
        )
    if recipe.cuda:
        rows.append(("CUDA", recipe.cuda.version))
    if python := recipe.python:
        rows.append(
            (
                "Python",
                f"{python.version} ({python.manager}), environment `{environment_name(recipe)}`",
            )
        )
    if recipe.framework:
        rows.append((recipe.framework.name, recipe.framework.version))
    if recipe.d2l:
        notebooks = " with the book's notebooks" if recipe.d2l.notebooks else ""
        rows.append(("d2l", f"{recipe.d2l.version}{notebooks}"))
    for kind in ("apt", "dnf", "conda", "pip"):
        if packages := getattr(recipe.packages, kind):
            rows.append((f"{kind} packages", ", ".join(f"`{each}`" for each in packages)))
    machines = ", ".join(f"`{name}`" for name in recipe.builder.instance_types)
    rows.append(("machines that build it", machines))
    if gpus := ", ".join(gpu.name for gpu in parts.gpus):
        rows.append(("their GPUs", gpus))
    return rows


def _estimates(entry: Entry) -> list[tuple[str, str]]:
    prices = facts.read("prices")
    per_month = entry.size_gb * prices["usd_per_gb_month"]["snapshot"]
    first = entry.recipe.builder.instance_types[0]
    usd = prices["usd_per_hour"]["types"].get(first)
    at = f" at ${rate(usd)} an hour" if usd is not None else ""
    return [
        ("size of the contents", f"{entry.size_gb:.0f} GB"),
        ("time of a bake", entry.expected.time),
        ("cost of a bake", f"{entry.expected.cost} on a `{first}`{at}"),
        ("to keep the image", f"about ${money(per_month)} a month"),
    ]


def _wrapped(item: str) -> str:
    return textwrap.fill(item, 100, subsequent_indent="  ", break_on_hyphens=False)


def _checks(entry: Entry) -> Iterator[str]:
    """Yield what the proof checks, in words."""
    promised = expect(entry.resolved, entry.recipe.builder.instance_types[0])
    parts: list[tuple[object, str]] = [
        (promised.gpu, "driver, model, number, memory and health of the GPUs"),
        (promised.cuda_release, "the CUDA toolkit's compiler and libraries"),
        (promised.environment, "the environment's Python"),
        (promised.framework, "the framework, and its results on every GPU, or else on the CPU"),
        (promised.d2l, "the d2l package"),
        (promised.jupyter, "Jupyter and its kernel"),
        (promised.notebooks, "the notebooks"),
        (promised.packages, "that each requested package is there"),
    ]
    yield from (text for promise, text in parts if promise)
    for check in entry.plan.checks:
        yield f"`{check.name}`: {_first_sentence(check.script.description)}"
    yield "that no credentials, keys and traces of the bake are left"


def _time(entry: Entry, stage: str) -> Span:
    return entry.expected.stages[stage]


def _proof(proofs: Sequence[Proof]) -> Iterator[str]:
    if not proofs:
        yield "No bake of this recipe is on record here yet."
        return
    rows = [
        (
            proof.date,
            proof.where,
            _software(proof),
            _proved(proof),
            f"{proof.passed} passed, {proof.skipped} skipped",
            "–" if proof.took_s is None else duration(proof.took_s),
        )
        for proof in proofs
    ]
    yield _table(("date", "where", "with", "result", "checks", "took"), rows)
    if all(proof.verified != "gpu" for proof in proofs):
        yield "No bake on a machine with a GPU is on record here."


def _software(proof: Proof) -> str:
    """Return what was baked, in words."""
    software = "the original software" if proof.payload == "upstream" else "stand-ins"
    return f"{software}, {proof.variant}" if proof.variant else software


def _proved(proof: Proof) -> str:
    """Return what a bake has proved, in words."""
    on = {"gpu": "on a GPU", "cpu": "on a CPU only", "no": "its stages only"}[proof.verified]
    return on if proof.payload == "upstream" else f"{on}, with stand-ins"


def _first_sentence(text: str) -> str:
    """Return the first sentence of a description, as a cell of a table."""
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0].replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def read_proofs(folder: Path) -> tuple[Proof, ...]:
    """Read the proofs that are on record."""
    return _PROOFS.validate_json((folder / PROOFS).read_bytes())


def add_proofs(known: Sequence[Proof], more: Sequence[Proof]) -> tuple[Proof, ...]:
    """Return the newest proof of each kind."""
    newest = {each.kind: each for each in sorted((*known, *more), key=lambda each: each.date)}
    return tuple(newest[kind] for kind in sorted(newest))


def write(folder: Path, new: Sequence[Path]) -> None:
    """Write all pages, and the proofs with those of new records."""
    made = [Proof.of_record(records.read(path)) for path in new]
    proofs = add_proofs(read_proofs(folder), made)
    lines = ",\n".join(f" {proof.model_dump_json(exclude_defaults=True)}" for proof in proofs)
    (folder / PROOFS).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    made_pages = pages(entries(built_in(), proofs))
    for path in folder.glob("*.md"):
        if path.name not in made_pages:
            path.unlink()
    for name, text in made_pages.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER, [Path(word) for word in sys.argv[1:]])
