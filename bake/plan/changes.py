"""The reasons why a stage has to run: what has changed since the last image of its recipe.

The last image's tags hold a description of its plan (`bake.plan.description`). Pure.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bake.plan.description import (
    MASK,
    Description,
    Hash,
    StageDescription,
    description,
    read,
    short_hash,
)
from bake.plan.lock import UNLOCKED
from bake.plan.lock_changes import listed, lock_changes
from bake.plan.plan import Plan

State = Literal["done", "from checkpoint", "to run"]

# The keys of the tags that hold the stages' digests, as in bake/aws/tags.py.
STAGE_KEY = "bake:stage:"

_NEW = "new in this recipe"
_NO_CHECKPOINT = "unchanged, but no checkpoint holds it"
_UNKNOWN = "changed: the tags of the last image do not say what"


@dataclass(frozen=True)
class Reason:
    """A stage's state, and the reasons why it has to run.

    `why` is empty if the stage does not have to run. Each entry may have several lines.
    """

    state: State
    why: tuple[str, ...] = ()


def reasons(
    plan: Plan,
    states: Mapping[str, State],
    last: Mapping[str, str] | None,
    *,
    base_image_name: str = "",
    fresh: bool = False,
) -> dict[str, Reason]:
    """Return each stage's state, and the reasons why it has to run.

    `last` are the tags of the recipe's newest image, None if it has no image. `fresh` is True if
    the user does not want checkpoints to be used.
    """
    tags = last or {}
    then, now = read(tags), description(plan, base_image_name, kept=sys.maxsize)
    has_digests = any(key.startswith(STAGE_KEY) for key in tags)
    changed: set[str] = set()
    found: dict[str, Reason] = {}
    for stage in plan.stages:
        name, digest = stage.name, tags.get(STAGE_KEY + stage.name)
        own = _changes_of_stage(then, now, name) if then else []
        below = [need for need in stage.needs if need in changed]
        if digest != stage.digest and (digest or then is None or own or below):
            changed.add(name)
        if states[name] != "to run":
            found[name] = Reason(states[name])
            continue
        why: list[str]
        if last is None:
            why = ["never baked here"]
        elif name not in changed:
            why = ["unchanged, but everything runs again (--fresh)" if fresh else _NO_CHECKPOINT]
        elif then is None:
            why = [_NEW if has_digests and digest is None else _UNKNOWN]
        else:
            why = own + _change_of_needed_stage(below, own, plan, changed, now, then)
            why = why or [_invisible_change(now.stages[name])]
        found[name] = Reason("to run", tuple(why))
    return found


def unchanged_stages(plan: Plan, last: Mapping[str, str], held: Collection[str]) -> frozenset[str]:
    """Return the stages that have to run again although they are the same as in the last image.

    `last` maps the stages of that image to their digests, `held` are the stages of the start point.
    A bake runs these before the changed ones. So a checkpoint holds them when a changed stage
    fails, or changes again. Without checkpoints after each wave of stages there are none.
    """
    if plan.recipe.checkpoints.after is not None:
        return frozenset()
    same = {stage.name for stage in plan.stages[:-1] if last.get(stage.name) == stage.digest}
    return frozenset(same.difference(held))


def changes_of_the_image(plan: Plan, last: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the changes that no stage shows but that lead to another image: disk and checks."""
    then, now = read(last or {}), description(plan, kept=sys.maxsize)
    if then is None:
        return ()
    disk = () if then.disk_gb == now.disk_gb else (f"disk {then.disk_gb} GB → {now.disk_gb} GB",)
    return (*disk, *_check_changes(then, now))


def _check_changes(then: Description, now: Description) -> list[str]:
    found = []
    for name in sorted({*then.checks, *now.checks}):
        before, after = then.checks.get(name), now.checks.get(name)
        if before is None:
            found.append(f"the check {name} is new")
        elif after is None:
            found.append(f"the check {name} is no longer made")
        elif before.script != after.script:
            found.append(f"scripts/checks/{name}.sh changed ({before.script} → {after.script})")
        else:
            changes = _input_changes(before.inputs, after.inputs)
            found += [f"the check {name}: {change}" for change in changes]
    return found


def _changes_of_stage(then: Description, now: Description, name: str) -> list[str]:
    """Return the differences of the stage itself, not of the stages that it needs."""
    before, after = then.stages.get(name), now.stages[name]
    if before is None:
        return [_NEW]
    found: list[str] = []
    if not after.needs and then.base_image_id != now.base_image_id:
        found.append(f"base image {_base_image_text(then)} → {_base_image_text(now)}")
    if before.script != after.script:
        found.append(f"scripts/stages/{name}.sh changed ({before.script} → {after.script})")
    if then.lib != now.lib:
        found.append(_lib_change(then, now))
    found += _file_changes(before.files, after.files)
    added, removed = _difference(after.needs, before.needs), _difference(before.needs, after.needs)
    found += [f"now needs {', '.join(added)}"] if added else []
    found += [f"no longer needs {', '.join(removed)}"] if removed else []
    found += lock_changes(before.inputs, after.inputs)
    return found + _input_changes(before.inputs, after.inputs)


def _input_changes(before: Mapping[str, str | Hash], after: Mapping[str, str | Hash]) -> list[str]:
    """Return the differences of inputs, except of those that a lock gives."""
    found = []
    for key in sorted((before.keys() | after.keys()) - UNLOCKED.keys()):
        if key not in after:
            found.append(f"{key} is no longer read")
        elif key not in before:
            found.append(f"{key} is now read: {_shortened(after[key])}")
        else:
            found += _value_change(key, before[key], after[key])
    return found


def _file_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    found = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old is None:
            found.append(f"files/{path} is now given")
        elif new is None:
            found.append(f"files/{path} is no longer given")
        elif old != new:
            found.append(f"files/{path} changed ({old} → {new})")
    return found


def _change_of_needed_stage(
    below: list[str],
    own: list[str],
    plan: Plan,
    changed: set[str],
    now: Description,
    then: Description,
) -> list[str]:
    """Return a reason that names the changed stages that this stage needs.

    A needed stage is left out if it, too, runs only because of another changed stage.
    """
    if not below or own == [_NEW] or own == [_lib_change(then, now)]:
        return []
    needs = {stage.name: stage.needs for stage in plan.stages}
    first = [name for name in below if not changed.intersection(needs[name])] or below
    if len(first) == 1:
        return [f"{first[0]} runs again, and this needs it"]
    return [f"{', '.join(first)} run again, and this needs them"]


def _lib_change(then: Description, now: Description) -> str:
    return f"scripts/lib.sh changed ({then.lib} → {now.lib})"


def _invisible_change(stage: StageDescription) -> str:
    """Return the reason if no difference is visible. Masked parts are not kept, even as a hash."""
    masked = [name for name, value in stage.inputs.items() if MASK in str(value)]
    if masked:
        return f"the masked part of {', '.join(masked)} may have changed"
    return _UNKNOWN


def _value_change(name: str, before: str | Hash, after: str | Hash) -> list[str]:
    if isinstance(before, Hash) or isinstance(after, Hash):
        old, new = (_as_hash(value) if value else "nothing" for value in (before, after))
        return [f"{name} changed ({old} → {new})"] if old != new else []
    if before == after:
        return []
    blank = "\n" if "\n" in before + after else " "
    old_items, new_items = (value.split(blank) if value else [] for value in (before, after))
    if blank == " " and len(before) + len(after) <= 60:
        return [f"{name} {before or '(nothing)'} → {after or '(nothing)'}"]
    if max(len(old_items), len(new_items)) == 1:
        return [f"{name}\n{before or '(nothing)'}\n→ {after or '(nothing)'}"]
    lines = [f"- {item}" for item in _difference(old_items, new_items)]
    lines += [f"+ {item}" for item in _difference(new_items, old_items)]
    return [listed(name, lines)] if lines else [f"{name}: the same in another order"]


def _difference(these: Iterable[str], those: Iterable[str]) -> list[str]:
    """Subtract lists as multisets: each item of the second list is removed once from the first."""
    return list((Counter(these) - Counter(those)).elements())


def _shortened(value: str | Hash) -> str:
    text = value.hash if isinstance(value, Hash) else value.replace("\n", ", ")
    return f"{text[:59]}…" if len(text) > 60 else text or "(nothing)"


def _base_image_text(described: Description) -> str:
    name = described.base_image_name.rpartition("/")[2]  # without the part that all names share
    return described.base_image_id + (f" ({name})" if name else "")


def _as_hash(value: str | Hash) -> str:
    return value.hash if isinstance(value, Hash) else short_hash(value.encode())
