"""How often in a row a recipe has failed, so that a schedule does not try for ever.

A recipe that asks for something else than when it failed has not failed yet.
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
    """`count` in a row since `since`, all with one `identity`; reason and run of the last one."""

    count: int = 0
    identity: str = ""
    since: datetime | None = None
    reason: str = ""
    run: str = ""


def read_failures(cloud: Cloud, recipe: str) -> RecipeFailures:
    """None at all where nothing is noted, or what a hand has made of it cannot be read."""
    try:
        noted = parameter.decode(parameter.read(cloud, _name(recipe)).value)
    except CloudError as error:
        if error.code == "ParameterNotFound":
            return RecipeFailures()
        raise
    count, since = noted.get("count"), parse_time(str(noted.get("since")))
    if not isinstance(count, int) or count < 1 or since is None:
        return RecipeFailures()
    text = {key: str(noted.get(key, "")) for key in ("identity", "reason", "run")}
    return RecipeFailures(count, text["identity"], since, text["reason"], text["run"])


def record_failure(cloud: Cloud, run: Run, identity: str, reason: str) -> RecipeFailures:
    """One more of `run.recipe`, or the first where `identity` is another than the noted one.

    `identity` is the digest of what was asked for, without the base image: a new one of these
    is no reason to hope. `reason` is shown to people, and must hold no secret.
    """
    before = read_failures(cloud, run.recipe)
    same = before.identity == identity
    now = cloud.now().replace(microsecond=0)
    since = before.since if same and before.since else now
    after = RecipeFailures(before.count + 1 if same else 1, identity, since, reason, run.id)
    while len(note := _note(after)) > parameter.MOST_CHARACTERS:
        reason = reason[: len(reason) * 9 // 10]
        after = RecipeFailures(after.count, identity, since, f"{reason} …", run.id)
    name = _name(run.recipe)
    try:
        parameter.create(cloud, name, note, run.lasting(f"bake-failures-{run.recipe}"))
    except CloudError as error:
        if error.code != "ParameterAlreadyExists":
            raise
        parameter.overwrite(cloud, name, note)
    return after


def clear_failures(cloud: Cloud, recipe: str) -> None:
    """It works again; no error where nothing was noted."""
    parameter.delete(cloud, _name(recipe))


def _name(recipe: str) -> str:
    return f"/bake/failures/{recipe}"


def _note(noted: RecipeFailures) -> str:
    since = rfc3339(noted.since) if noted.since else ""
    return parameter.encode({**vars(noted), "since": since})
