"""Why a stage has to run: what has changed since the last image of its recipe.

A digest says that something differs, and not what. So an image carries what its plan's digests are
over: compressed, in a few tags, long values as a hash, and without anything that opens a door.
Pure: what an image carries is tags, and what they are called may be handed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bake.plan.description import (
    _MASK,
    PLAN_KEY,
    Description,
    Hash,
    StageDescription,
    _hash,
    description,
    read,
)
from bake.plan.plan import Plan

State = Literal["done", "from checkpoint", "to run"]


STAGE_KEY = "bake:stage:"


@dataclass(frozen=True)
class Reason:
    """`why` is empty where nothing has to be done; each entry may have several lines."""

    state: State
    why: tuple[str, ...] = ()


# Tags ----------------------------------------------------------------------------------------


# Reasons -------------------------------------------------------------------------------------


def reasons(
    plan: Plan,
    states: Mapping[str, State],
    last: Mapping[str, str] | None,
    *,
    base_image_name: str = "",
    fresh: bool = False,
    plan_key: str = PLAN_KEY,
    stage_key: str = STAGE_KEY,
) -> dict[str, Reason]:
    """Each stage's state, and for those that are to run: why.

    `last` are the tags of the recipe's newest image, None where there is none. `fresh`: checkpoints
    are not used because a person does not want them.
    """
    tags = last or {}
    then, now = read(tags, key=plan_key), description(plan, base_image_name)
    told_digests = any(key.startswith(stage_key) for key in tags)
    changed: set[str] = set()
    found: dict[str, Reason] = {}
    for stage in plan.stages:
        name, digest = stage.name, tags.get(stage_key + stage.name)
        own = _own_changes(then, now, name) if then else []
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
            why = ["unchanged, but all is to run (--fresh)" if fresh else _UNHELD]
        elif then is None:
            new = told_digests and digest is None
            why = [_NEW if new else "changed: the last image's tags do not say in what"]
        else:
            why = own + _because_of(below, own, plan, changed, now, then)
            why = why or [_hidden(now.stages[name])]
        found[name] = Reason("to run", tuple(why))
    return found


def changes_of_the_image(
    plan: Plan, last: Mapping[str, str] | None, *, plan_key: str = PLAN_KEY
) -> tuple[str, ...]:
    """What makes another image of the same stages."""
    then, disk_gb = read(last or {}, key=plan_key), plan.recipe.builder.disk_gb
    if then is None or then.disk_gb == disk_gb:
        return ()
    return (f"disk {then.disk_gb} GB → {disk_gb} GB",)


_NEW = "new in this recipe"
_UNHELD = "unchanged, but no checkpoint holds it"


def _own_changes(then: Description, now: Description, name: str) -> list[str]:
    """What differs in the stage itself; the stages that it needs apart."""
    before, after = then.stages.get(name), now.stages[name]
    if before is None:
        return [_NEW]
    found: list[str] = []
    if not after.needs and then.base_image_id != now.base_image_id:
        found.append(f"base image {_base(then)} → {_base(now)}")
    if before.script != after.script:
        found.append(f"scripts/stages/{name}.sh changed ({before.script} → {after.script})")
    if then.lib != now.lib:
        found.append(_lib(then, now))
    came, left = _without(after.needs, before.needs), _without(before.needs, after.needs)
    found += [f"needs {', '.join(came)} now"] if came else []
    found += [f"needs {', '.join(left)} no longer"] if left else []
    for key in sorted(before.inputs.keys() | after.inputs.keys()):
        if key not in after.inputs:
            found.append(f"{key} is not read any more")
        elif key not in before.inputs:
            found.append(f"{key} is read now: {_short(after.inputs[key])}")
        else:
            found += _value_change(key, before.inputs[key], after.inputs[key])
    return found


def _because_of(
    below: list[str],
    own: list[str],
    plan: Plan,
    changed: set[str],
    now: Description,
    then: Description,
) -> list[str]:
    """Of the changed stages below, those at which it begins: the others only follow from them."""
    if not below or own == [_NEW] or own == [_lib(then, now)]:
        return []
    needs = {stage.name: stage.needs for stage in plan.stages}
    first = [name for name in below if not changed.intersection(needs[name])] or below
    if len(first) == 1:
        return [f"{first[0]} runs again, and this needs it"]
    return [f"{', '.join(first)} run again, and this needs them"]


def _lib(then: Description, now: Description) -> str:
    return f"scripts/lib.sh changed ({then.lib} → {now.lib})"


def _hidden(stage: StageDescription) -> str:
    """Why it differs where nothing is seen to: what is masked is not kept, not even as a hash."""
    masked = [name for name, value in stage.inputs.items() if _MASK in str(value)]
    if masked:
        return f"what is hidden of {', '.join(masked)} may have changed"
    return "changed: the last image's tags do not say in what"


def _value_change(name: str, before: str | Hash, after: str | Hash) -> list[str]:
    if isinstance(before, Hash) or isinstance(after, Hash):
        old, new = (_hashed(value) if value else "nothing" for value in (before, after))
        return [f"{name} changed ({old} → {new})"] if old != new else []
    if before == after:
        return []
    blank = "\n" if "\n" in before + after else " "
    old_items, new_items = (value.split(blank) if value else [] for value in (before, after))
    if blank == " " and len(before) + len(after) <= 60:
        return [f"{name} {before or '(nothing)'} → {after or '(nothing)'}"]
    if max(len(old_items), len(new_items)) == 1:
        return [f"{name}\n{before or '(nothing)'}\n→ {after or '(nothing)'}"]
    lines = [f"- {item}" for item in _without(old_items, new_items)]
    lines += [f"+ {item}" for item in _without(new_items, old_items)]
    return ["\n".join([name, *lines])] if lines else [f"{name}: the same in another order"]


def _without(these: Iterable[str], those: Iterable[str]) -> list[str]:
    """One for one: what stands twice in these, and once in those, is left once."""
    return list((Counter(these) - Counter(those)).elements())


def _short(value: str | Hash) -> str:
    text = value.hash if isinstance(value, Hash) else value.replace("\n", ", ")
    return f"{text[:59]}…" if len(text) > 60 else text or "(nothing)"


def _base(described: Description) -> str:
    name = described.base_image_name.rpartition("/")[2]  # before it stands what all of them share
    return described.base_image_id + (f" ({name})" if name else "")


def _hashed(value: str | Hash) -> str:
    return value.hash if isinstance(value, Hash) else _hash(value.encode())
