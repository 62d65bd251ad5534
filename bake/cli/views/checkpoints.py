"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from textwrap import wrap
from typing import Any

from bake.aws.checkpoint import Checkpoint
from bake.console.console import Console
from bake.console.format import in_short


def show_checkpoints(
    console: Console,
    checkpoints: Sequence[Checkpoint],
    usd_per_gb_month: float | None,
    now: datetime,
    recipe: str | None = None,
) -> None:
    """`usd_per_gb_month` is what a snapshot costs; None where that is not known."""
    # Folded here, at blanks and hyphens, so that the ids stay in one piece on 80 columns.
    console.table(
        ["checkpoint", "recipe", "holds", "age", "expires", "USD/month"],
        [
            [
                checkpoint.snapshot_id,
                "\n".join(wrap(checkpoint.recipe, 12)),
                "\n".join(line for part in _contents(checkpoint) for line in wrap(part, 14)),
                in_short(now - checkpoint.started_at),
                _expires(checkpoint, now),
                _cost(checkpoint, usd_per_gb_month),
            ]
            for checkpoint in checkpoints
        ],
        empty=f"You have no checkpoints {f'of {recipe} ' if recipe else ''}here. "
        "A bake makes them, and removes them in time",
    )
    if console.json:
        console.result([checkpoint_document(c, usd_per_gb_month) for c in checkpoints])
    elif checkpoints:
        console.note(
            "USD/month is the most that it can be, for a full disk: EBS bills only the blocks "
            "that an older snapshot does not hold."
        )


def checkpoint_document(
    checkpoint: Checkpoint, usd_per_gb_month: float | None = None
) -> dict[str, Any]:
    usd = None if usd_per_gb_month is None else round(checkpoint.size_gb * usd_per_gb_month, 2)
    return asdict(checkpoint) | {"usd_per_month_at_most": usd}


def _contents(checkpoint: Checkpoint) -> tuple[str, str]:
    """The stages in the order in which they ran, as far as that is known; and what is wrong."""
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
    return "now" if checkpoint.has_expired(now) else in_short(checkpoint.expires_at - now)


def _cost(checkpoint: Checkpoint, usd_per_gb_month: float | None) -> str:
    if usd_per_gb_month is None:
        return "?"
    return f"{checkpoint.size_gb * usd_per_gb_month:.2f}"
