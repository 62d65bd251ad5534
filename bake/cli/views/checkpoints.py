"""Checkpoints as a table and as JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bake.aws.checkpoint import Checkpoint
from bake.cli.documents.images import CheckpointEntry, CheckpointsDocument, usd_at_most
from bake.console.console import Console
from bake.console.format import money_if_known, rounded_duration


def show_checkpoints(
    console: Console,
    checkpoints: Sequence[Checkpoint],
    usd_per_gb_month: float | None,
    now: datetime,
    recipe: str | None = None,
) -> None:
    """Show checkpoints. `usd_per_gb_month` is the price of a snapshot; None if it is not known."""
    console.table(
        ["checkpoint", "recipe", "holds", "age", "expires", "$/month"],
        [
            [
                checkpoint.snapshot_id,
                checkpoint.recipe,
                " ".join(filter(None, _contents(checkpoint))),
                rounded_duration(now - checkpoint.started_at),
                _expires(checkpoint, now),
                money_if_known(usd_at_most(checkpoint.size_gb, usd_per_gb_month)),
            ]
            for checkpoint in checkpoints
        ],
        empty=f"You have no checkpoints {f'of {recipe} ' if recipe else ''}here. "
        "A bake makes them, and removes expired ones.",
        fold=("recipe", "holds"),
    )
    entries = (CheckpointEntry.of_checkpoint(each, usd_per_gb_month) for each in checkpoints)
    console.result(CheckpointsDocument(checkpoints=tuple(entries)))
    if checkpoints and not console.json:
        console.note(
            "$/month is the highest possible cost, for a full disk: EBS bills only the blocks "
            "that an older snapshot does not contain."
        )


def _contents(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return the names of the stages, in the order in which they ran if known, and any problem."""
    names = [name for name in checkpoint.seconds if name in checkpoint.stages]
    names += sorted(checkpoint.stages.keys() - set(names))
    wrong = "" if checkpoint.sound else "(tags changed by hand)"
    if checkpoint.state != "completed":
        progress = checkpoint.progress if checkpoint.state == "pending" else ""
        wrong = f"({checkpoint.state} {progress}".rstrip() + ")"
    return " ".join(names), wrong


def _expires(checkpoint: Checkpoint, now: datetime) -> str:
    if checkpoint.expires_at is None:
        return "never"
    return "now" if checkpoint.has_expired(now) else rounded_duration(checkpoint.expires_at - now)
