"""A scheduled rebuild: which recipes have changed, which are given up, and the result of each.

A recipe is given up after several failures in a row, until it changes: a schedule must not pay for
the same failure every night.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from bake.aws.recipe_failures import RecipeFailures, clear_failures, read_failures, record_failure
from bake.errors import BakeError, CloudError, RequestError
from bake.pipeline.bake import BakeRequest, Options, Outcome, after_their_bases, bake_jobs, for_each
from bake.pipeline.job import Context
from bake.pipeline.preview import Preview, preview
from bake.plan.plan import make_plan
from bake.recipe.resolved import Resolved

Status = Literal["baked", "up to date", "failed", "not tried"]


@dataclass(frozen=True)
class Candidate:
    """A recipe before its rebuild. `identity` is the digest of its plan without the base image."""

    preview: Preview
    failures: RecipeFailures
    identity: str

    @property
    def name(self) -> str:
        return self.preview.job.name

    def is_due(self, limit: int | None) -> bool:
        """Tell if it is tried. One whose image exists is not given up: nothing can fail."""
        return self.preview.job.nothing_to_do or is_due(self.failures, limit, self.identity)


@dataclass(frozen=True)
class RecipeReport:
    """The result of one recipe. `why` are the reasons why it was to be baked, or was not tried.

    `proved` says what was proved on the image: "gpu", "cpu" or "no".
    """

    recipe: str
    status: Status
    seconds: float | None = None
    why: tuple[str, ...] = ()
    image_id: str = ""
    proved: str = ""
    usd: float | None = None
    error: BakeError | None = None


def check_options(limit: int | None, summary: str | None) -> None:
    """Raise RequestError for a wrong limit or summary file now, and not after hours of baking."""
    if limit is not None and limit < 1:
        raise RequestError(
            f"--give-up-after {limit}: no recipe would ever be tried",
            hint="Give 1 or more, or --retry to try everything",
        )
    if summary and not Path(summary).absolute().parent.is_dir():
        raise RequestError(
            f"The summary cannot be written to {summary}: no such folder",
            hint="Create the folder, or give another --summary",
        )


def find_candidates(requests: Sequence[BakeRequest]) -> tuple[list[Candidate], list[Outcome]]:
    """Find out what each recipe needs; return also the failures of those that cannot be baked."""
    return for_each(requests, _candidate)


def _candidate(context: Context, resolved: Resolved) -> Candidate:
    plan = make_plan(
        resolved,
        payload=context.payload,
        base_image_id="",
        project=context.project,
        lock=context.lock,
    )
    found = preview(context, resolved)
    return Candidate(found, read_failures(context.cloud, resolved.name), plan.digest)


def is_due(failures: RecipeFailures, limit: int | None, identity: str) -> bool:
    """Tell if a recipe is still tried. Pure.

    It is not after `limit` failures in a row with the same `identity`; None: it always is.
    """
    return limit is None or failures.count < limit or failures.identity != identity


def rebuild_all(
    requests: Sequence[BakeRequest],
    refused: Sequence[Outcome],
    options: Options,
    limit: int | None,
) -> list[RecipeReport]:
    """Bake what has changed. A recipe whose image is the base of others is baked before them."""
    reports = [report(outcome) for outcome in refused]
    for ready in after_their_bases(requests):
        candidates, failed = find_candidates(ready)
        reports += rebuild(candidates, failed, options, limit=limit)
    return sorted(reports, key=lambda each: each.recipe)


def plan_groups(
    requests: Sequence[BakeRequest], refused: Sequence[Outcome], limit: int | None
) -> tuple[list[tuple[str, ...]], list[RecipeReport]]:
    """Return the groups of recipes to bake, and the reports of those that are not tried."""
    found = groups_to_bake((), refused, limit)
    given_up: list[RecipeReport] = []
    for ready in after_their_bases(requests):
        found, others = split_joined(ready, found)
        candidates, failed = find_candidates(others)
        given_up += reports_given_up(candidates, limit)
        found += groups_to_bake(candidates, failed, limit)
    return found, given_up


def groups_to_bake(
    candidates: Sequence[Candidate], refused: Sequence[Outcome], limit: int | None
) -> list[tuple[str, ...]]:
    """Return the groups of recipes that have to be baked, each for a computer of its own.

    A recipe that was refused is a group of its own, so that its job fails and shows why.
    """
    to_run: dict[str, Iterable[str]] = {
        candidate.name: candidate.preview.digests_to_run
        for candidate in candidates
        if candidate.is_due(limit) and not candidate.preview.job.nothing_to_do
    }
    return groups(to_run | {outcome.recipe: (outcome.recipe,) for outcome in refused})


def split_joined(
    requests: Sequence[BakeRequest], groups: Sequence[tuple[str, ...]]
) -> tuple[list[tuple[str, ...]], list[BakeRequest]]:
    """Add the recipes to the groups that bake their base recipes; return also the other recipes.

    Their base images do not exist yet, so what they need is not known before. Pure.
    """
    joined, others = [*groups], list[BakeRequest]()
    for request in requests:
        based = (n for n, group in enumerate(joined) if request[1].is_based_on(group))
        place = next(based, None)
        if place is None:
            others.append(request)
        else:
            joined[place] = (*joined[place], request[1].name)
    return joined, others


def groups(to_run: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Group the recipes that share a stage which has to run, so that it runs only once. Pure.

    `to_run` maps each recipe to the digests of the stages that it would run; a recipe without any
    is in no group. The order of the recipes is kept.
    """
    found: list[tuple[list[str], set[str]]] = []
    for recipe, digests in to_run.items():
        names, stages = [recipe], set(digests)
        if not stages:
            continue
        for group in [group for group in found if group[1] & stages]:
            found.remove(group)
            names += group[0]
            stages |= group[1]
        found.append((names, stages))
    place = {recipe: number for number, recipe in enumerate(to_run)}
    together = [tuple(sorted(names, key=place.__getitem__)) for names, _ in found]
    return sorted(together, key=lambda names: place[names[0]])


def rebuild(
    candidates: Sequence[Candidate],
    refused: Sequence[Outcome],
    options: Options,
    *,
    limit: int | None,
) -> list[RecipeReport]:
    """Bake what has changed, and count failures. A recipe is given up after `limit` failures."""
    began = monotonic()
    tried = [candidate for candidate in candidates if candidate.is_due(limit)]
    reports = reports_given_up(candidates, limit)
    reports += [report(outcome) for outcome in refused]
    outcomes = bake_jobs([candidate.preview.job for candidate in tried], options, began)
    by_name = {outcome.recipe: outcome for outcome in outcomes}
    for candidate in tried:
        outcome = by_name[candidate.name]
        _count_failure(candidate, outcome)
        usd = _usd(candidate.preview, outcome)
        reports.append(report(outcome, why=candidate.preview.why, usd=usd))
    return sorted(reports, key=lambda each: each.recipe)


def reports_given_up(candidates: Sequence[Candidate], limit: int | None) -> list[RecipeReport]:
    """Return the reports of the candidates that are not tried any more."""
    return [given_up(each.name, each.failures) for each in candidates if not each.is_due(limit)]


def given_up(recipe: str, failures: RecipeFailures) -> RecipeReport:
    """Return the report of a recipe that is not tried: how often it failed, and why. Pure."""
    since = f" since {failures.since:%Y-%m-%d}" if failures.since else ""
    count = "1 failure" if failures.count == 1 else f"{failures.count} failures in a row"
    last = [f"the last one: {failures.reason}"] if failures.reason else []
    retry = "Change the recipe, or try it again without a change: invoke rebuild --retry"
    return RecipeReport(recipe, "not tried", why=(f"{count}{since}", *last, retry))


def report(outcome: Outcome, *, why: Sequence[str] = (), usd: float | None = None) -> RecipeReport:
    """Return the report of a recipe that was tried. Pure."""
    image = outcome.image
    return RecipeReport(
        recipe=outcome.recipe,
        status=outcome.status,
        seconds=outcome.seconds,
        why=tuple(why),
        image_id=image.image_id if image else "",
        proved=image.verified if image else "",
        usd=usd,
        error=outcome.error,
    )


def _count_failure(candidate: Candidate, outcome: Outcome) -> None:
    """Record a failure in the account; after a success, remove the record of earlier ones."""
    job = candidate.preview.job
    try:
        if outcome.error is not None:
            record_failure(job.cloud, job.run, candidate.identity, outcome.error.full_message)
        elif candidate.failures.count:
            clear_failures(job.cloud, candidate.name)
    except CloudError as error:
        job.console.warn(f"The failures could not be recorded: {error.message}")


def _usd(preview: Preview, outcome: Outcome) -> float | None:
    """Return what the machine cost, by its time and list price; None if that is not known.

    The image's snapshots are not included: they cost as long as they are kept.
    """
    record = outcome.record
    if record is None:
        return None
    usd = [
        price
        for place, price in preview.usd_per_hour.items()
        if price is not None
        and (place.instance_type, place.zone) == (record.instance_type, record.zone)
    ]
    hours = (record.ended_at - record.started_at).total_seconds() / 3600
    return usd[0] * hours if usd else None
