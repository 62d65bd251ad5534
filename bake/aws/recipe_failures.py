"""Consecutive failures of a recipe, counted so that a schedule stops retrying it.

A recipe that has changed since it failed starts at zero again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bake.aws import parameter
from bake.aws.client.session import Cloud
from bake.aws.tags import Run, parse_time, rfc3339
from bake.errors import CloudError


@dataclass(frozen=True)
class RecipeFailures:
    """`count` consecutive failures since `since`, all with the same `identity`.

    `reason` and `run` belong to the last failure.
    """

    count: int = 0
    identity: str = ""
    since: datetime | None = None
    reason: str = ""
    run: str = ""


def read_failures(cloud: Cloud, recipe: str) -> RecipeFailures:
    """Return the recorded failures; none if nothing is recorded or the record is invalid."""
    try:
        record = parameter.decode(parameter.read(cloud, _name(recipe)).value)
    except CloudError as error:
        if error.code == "ParameterNotFound":
            return RecipeFailures()
        raise
    count, since = record.get("count"), parse_time(str(record.get("since")))
    if not isinstance(count, int) or count < 1 or since is None:
        return RecipeFailures()
    text = {key: str(record.get(key, "")) for key in ("identity", "reason", "run")}
    return RecipeFailures(count, text["identity"], since, text["reason"], text["run"])


def record_failure(cloud: Cloud, run: Run, identity: str, reason: str) -> RecipeFailures:
    """Record one more failure of `run.recipe`, and return the new count.

    The count starts again at 1 when `identity` differs from the recorded one. `identity` is the
    digest of the request without the base image: a new base image alone does not justify a retry.
    `reason` is shown to people and must not contain a secret.
    """
    before = read_failures(cloud, run.recipe)
    same = before.identity == identity
    now = cloud.now().replace(microsecond=0)
    since = before.since if same and before.since else now
    after = RecipeFailures(before.count + 1 if same else 1, identity, since, reason, run.id)
    while len(value := _encode(after)) > parameter.MOST_CHARACTERS:
        reason = reason[: len(reason) * 9 // 10]
        after = RecipeFailures(after.count, identity, since, f"{reason} …", run.id)
    name = _name(run.recipe)
    try:
        parameter.create(cloud, name, value, run.lasting(f"bake-failures-{run.recipe}"))
    except CloudError as error:
        if error.code != "ParameterAlreadyExists":
            raise
        parameter.overwrite(cloud, name, value)
    return after


def clear_failures(cloud: Cloud, recipe: str) -> None:
    """Delete the record, if there is one, because the recipe works again."""
    parameter.delete(cloud, _name(recipe))


def _name(recipe: str) -> str:
    return f"/bake/failures/{recipe}"


def _encode(failures: RecipeFailures) -> str:
    since = rfc3339(failures.since) if failures.since else ""
    return parameter.encode({**vars(failures), "since": since})
