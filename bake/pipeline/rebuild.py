"""A scheduled rebuild: which recipes go together, which are given up, what came of them.

Plain values in and out; whoever bakes fills them in. The words of machines and of AWS end up in
Markdown that GitHub renders: nothing in them may become a table, a link or a mention there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from bake import catalog
from bake.aws.recipe_failures import RecipeFailures, clear_failures, read_failures, record_failure
from bake.errors import BakeError, CloudError, RequestError
from bake.pipeline.bake import BakeRequest, Options, Outcome, bake_jobs, for_each
from bake.pipeline.job import Context
from bake.pipeline.preview import Preview, preview
from bake.plan.forecast import money
from bake.plan.plan import make_plan
from bake.recipe.recipe import Recipe

Status = Literal["baked", "there already", "failed", "not tried"]

# GitHub, "Actions limits": "a maximum of 256 jobs per workflow run" out of a matrix.
MOST_JOBS = 256


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


def as_matrix(groups: Sequence[tuple[str, ...]]) -> str:
    """A matrix of GitHub Actions, a job for each group, in one line; `{"include":[]}` for none.

    More groups than a matrix may have jobs share jobs.
    """
    jobs = [
        [recipe for group in groups[first::MOST_JOBS] for recipe in group]
        for first in range(min(len(groups), MOST_JOBS))
    ]
    include = [{"group": recipes[0], "recipes": " ".join(recipes)} for recipes in jobs]
    return json.dumps({"include": include}, separators=(",", ":"))


def due(failures: RecipeFailures, limit: int | None, identity: str) -> bool:
    """Whether a recipe is still tried: not after `limit` failures in a row of just what it asks
    for now, which `identity` says. None: it always is."""
    return limit is None or failures.count < limit or failures.identity != identity


# Afterwards --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecipeReport:
    """One recipe's row. `why` are the reasons for which it was to be baked, or is not tried."""

    recipe: str
    status: Status
    seconds: float | None = None
    why: tuple[str, ...] = ()
    image_id: str = ""
    proved: str = ""
    cost: str = ""
    error: BakeError | None = None


def report(outcome: Outcome, *, why: Sequence[str] = (), cost: str = "") -> RecipeReport:
    image = outcome.image
    return RecipeReport(
        recipe=outcome.recipe,
        status=outcome.status,
        seconds=outcome.seconds,
        why=tuple(why),
        image_id=image.image_id if image else "",
        proved=image.verified if image else "",
        cost=cost,
        error=outcome.error,
    )


def given_up(recipe: str, failures: RecipeFailures) -> RecipeReport:
    """A recipe that is not tried, and what became of it the last times."""
    since = f" since {failures.since:%Y-%m-%d}" if failures.since else ""
    again = "Change the recipe, or try it all the same: invoke rebuild --retry"
    failed = "1 failure" if failures.count == 1 else f"{failures.count} failures in a row"
    times = f"{failed}{since}"
    why = (times, *([f"the last one: {failures.reason}"] if failures.reason else []), again)
    return RecipeReport(recipe, "not tried", why=why)


@dataclass(frozen=True)
class Candidate:
    """A recipe before its rebuild. `identity` says what it asks for, whatever the base image."""

    context: Context
    preview: Preview
    failures: RecipeFailures
    identity: str

    @property
    def name(self) -> str:
        return self.preview.plan.recipe.name

    def is_due(self, limit: int | None) -> bool:
        return self.preview.job.there or due(self.failures, limit, self.identity)


def look(orders: Sequence[BakeRequest]) -> tuple[list[Candidate], list[Outcome]]:
    """What there would be to do for each; and those of which even that cannot be said."""
    found, refused = for_each(orders, _candidate)
    return [candidate for _, candidate in found], refused


def check(limit: int | None, summary: str | None) -> None:
    """RequestError now rather than after hours."""
    if limit is not None and limit < 1:
        raise RequestError(
            f"--give-up-after {limit}: after no failure at all, nothing would ever be tried",
            hint="Give a number from 1 on, or --retry to try everything",
        )
    if summary and not Path(summary).absolute().parent.is_dir():
        raise RequestError(f"The summary cannot be written to {summary}: no such folder")


def given_up_of(candidates: Sequence[Candidate], limit: int | None) -> list[RecipeReport]:
    """Those that are not tried any more."""
    return [given_up(c.name, c.failures) for c in candidates if not c.is_due(limit)]


def rebuild(
    candidates: Sequence[Candidate],
    refused: Sequence[Outcome],
    options: Options,
    *,
    limit: int | None,
) -> list[RecipeReport]:
    """Bakes what has changed, and notes what fails. A recipe is given up after `limit` failures in
    a row, until it asks for something else; None: never."""
    began = monotonic()
    tried = [candidate for candidate in candidates if candidate.is_due(limit)]
    reports = given_up_of(candidates, limit)
    reports += [report(outcome) for outcome in refused]
    outcomes = bake_jobs([(c.context, c.preview.job) for c in tried], options, began)
    by_name = {outcome.recipe: outcome for outcome in outcomes}
    for candidate in tried:
        outcome = by_name[candidate.name]
        _note(candidate, outcome)
        cost = _cost(candidate.preview, outcome)
        reports.append(report(outcome, why=candidate.preview.why, cost=cost))
    return sorted(reports, key=lambda each: each.recipe)


def matrix(
    candidates: Sequence[Candidate], refused: Sequence[Outcome], *, limit: int | None
) -> str:
    """The groups that have something to do, for GitHub Actions. What cannot even be looked at is a
    group of its own, so that its job fails and says why."""
    to_run = {
        candidate.name: candidate.preview.to_run
        for candidate in candidates
        if candidate.is_due(limit) and not candidate.preview.job.there
    }
    return as_matrix(groups(to_run | {outcome.recipe: (outcome.recipe,) for outcome in refused}))


def _candidate(context: Context, recipe: Recipe) -> Candidate:
    plan = make_plan(
        recipe,
        catalog=catalog.load(),
        payload=context.payload,
        base_image_id="",
        scripts=context.scripts,
        lock=context.lock,
    )
    found = preview(context, recipe)
    return Candidate(context, found, read_failures(context.cloud, recipe.name), plan.digest)


def _note(candidate: Candidate, outcome: Outcome) -> None:
    cloud, job = candidate.context.cloud, candidate.preview.job
    try:
        if outcome.error is not None:
            record_failure(cloud, job.run, candidate.identity, _said(outcome.error))
        elif candidate.failures.count:
            clear_failures(cloud, candidate.name)
    except CloudError as error:
        candidate.context.console.warn(f"The failures could not be noted: {error.message}")


def _said(error: BakeError) -> str:
    return ": ".join(part for part in (error.message, error.code, error.reason) if part)


def _cost(preview: Preview, outcome: Outcome) -> str:
    """Of the machine, by the clock and the list; its snapshots cost as long as they are kept."""
    record = outcome.record
    if record is None:
        return ""
    usd = [
        price
        for place, price in preview.usd_per_hour.items()
        if price is not None
        and (place.instance_type, place.zone) == (record.instance_type, record.zone)
    ]
    hours = (record.ended_at - record.started_at).total_seconds() / 3600
    return money(usd[0] * hours, usd[0] * hours) if usd else ""
