"""The steps of a bake as a chart and as a table: what ran when, and side by side."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import NamedTuple

import plotly.graph_objects as go

from bake.console.format import duration
from bake.record import Failure, Record, StageRecord, StepRecord
from bake.record.report.charts import COLOURS, Chart, chart

_PIXELS_A_ROW, _PIXELS_BESIDES = 30, 80
_LONGEST_LABEL = 28  # what a phone has room for
# The chart's legend, in this order.
_GROUPS = {
    "machine": (("start", "reboot"), COLOURS[5]),
    "stage": (("stage",), COLOURS[0]),
    "checkpoint": (("checkpoint",), COLOURS[4]),
    "proof": (("proof", "inventory", "clean"), COLOURS[2]),
    "image": (("image",), COLOURS[3]),
}
# Between two marks of the axis, in seconds; four at most, for a phone.
_MARKS = (1, 2, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 4 * 3600, 8 * 3600)
_MOST_MARKS = 4


class Row(NamedTuple):
    """`began` is since the bake began; `kind` is how it ended, as a badge is coloured."""

    name: str
    wave: str
    began: str
    took: str
    kind: str
    outcome: str
    detail: str


def rows(run: Record | Failure) -> list[Row]:
    """Stages that came with a checkpoint first. Of an older record the stages, without times."""
    found, timed = [], {step.name for step in run.steps if step.kind == "stage"}
    for stage in run.stages if isinstance(run, Record) else ():
        if stage.checkpoint:
            when = f"took {duration(stage.seconds)} when it ran" if stage.seconds else ""
            said = f"from checkpoint {stage.checkpoint}"
            found.append(Row(stage.name, "", "", "", "none", said, when))
        elif stage.name not in timed:
            found.append(Row(stage.name, "", "", duration(stage.seconds), "none", "", ""))
    labels = _labels(run.steps)
    for step, label in zip(run.steps, labels, strict=True):
        began = duration(_since(run, step.began_at))
        kind = {"done": "good", "failed": "bad", "stopped": "mind"}[step.outcome]
        wave = str(step.wave or "")
        took = duration(step.seconds)
        found.append(Row(label, wave, began, took, kind, step.outcome, step.detail))
    begun = timed | {row.name for row in found}
    for name in run.stages if isinstance(run, Failure) else ():
        if name not in begun:
            found.append(Row(name, "", "", "", "none", "not run here", ""))
    return found


def charts(run: Record | Failure) -> dict[str, Chart]:
    """`timeline`; nothing where it is not on record when the steps began."""
    if not run.steps:
        return {}
    held = [each for each in run.stages if isinstance(each, StageRecord) and each.checkpoint]
    labels = [*(f"{_short(each.name)} " for each in held), *_labels(run.steps)]  # no name is twice
    steps = list(zip(run.steps, labels[len(held) :], strict=True))
    figure = go.Figure()
    if held:
        figure.add_bar(
            name="came with a checkpoint",
            orientation="h",
            y=labels[: len(held)],
            base=[0] * len(held),
            x=[0] * len(held),
            text=["from a checkpoint"] * len(held),
            marker={"color": "var(--muted)"},
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        )
    for group, (kinds, colour) in _GROUPS.items():
        mine = [each for each in steps if each[0].kind in kinds and each[0].outcome == "done"]
        _add(figure, run, group, colour, mine)
    ill = [each for each in steps if each[0].outcome != "done"]
    _add(figure, run, "did not end well", "var(--bad)", ill, pattern="/")
    end = max(_since(run, step.ended_at) for step in run.steps)
    apart = next((each for each in _MARKS if each * _MOST_MARKS >= end), end / _MOST_MARKS)
    marks = [apart * number for number in range(_MOST_MARKS + 1) if apart * number <= end]
    longest = max(len(_brief(step.seconds)) for step in run.steps)
    figure.update_layout(
        barmode="overlay",
        bargap=0.3,
        margin={"r": 12 + 7 * longest},  # for what stands beside the last bar
        xaxis={
            "range": [0, end],
            "tickvals": marks,
            "ticktext": [_clock(mark) for mark in marks],
            "tickangle": 0,
            "title": {"text": "since the bake began", "font": {"size": 12}},
        },
        yaxis={
            "categoryorder": "array",
            "categoryarray": labels[::-1],
            "range": [-0.6, len(labels) - 0.4],
            "ticklabelstandoff": 6,
        },
    )
    height = _PIXELS_BESIDES + _PIXELS_A_ROW * len(labels)
    title = "Each bar is a step, from when it began until it ended"
    return {"timeline": chart(figure, title=title, alt=_in_words(run, held), height=height)}


def _add(
    figure: go.Figure,
    run: Record | Failure,
    name: str,
    colour: str,
    steps: list[tuple[StepRecord, str]],
    pattern: str = "",
) -> None:
    if steps:
        figure.add_bar(
            name=name,
            orientation="h",
            y=[label for _, label in steps],
            base=[_since(run, step.began_at) for step, _ in steps],
            x=[step.seconds for step, _ in steps],
            text=[_brief(step.seconds) for step, _ in steps],
            hovertext=[duration(step.seconds) for step, _ in steps],
            marker={"color": colour, "pattern": {"shape": pattern}},
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{hovertext}<extra></extra>",
        )


def _labels(steps: tuple[StepRecord, ...]) -> list[str]:
    """The steps' names; a second one of a name has its number, another machine's that one's."""
    seen: Counter[str] = Counter()
    found = []
    for step in steps:
        name = step.name if step.machine <= 1 else f"{step.name}, machine {step.machine}"
        name = _short(name)
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"


def _clock(seconds: float) -> str:
    """`6:08`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _brief(seconds: float) -> str:
    return duration(seconds) if seconds < 59.5 else _clock(seconds)


def _since(run: Record | Failure, moment: datetime) -> float:
    """Seconds after the bake began."""
    return (moment - run.started_at).total_seconds()


def _in_words(run: Record | Failure, held: list[StageRecord]) -> str:
    steps, labels = run.steps, _labels(run.steps)
    longest, label = max(zip(steps, labels, strict=True), key=lambda each: each[0].seconds)
    end = max(step.ended_at for step in steps)
    took = duration(_since(run, end))
    waves: dict[tuple[int, int | None], list[str]] = {}
    for step, name in zip(steps, labels, strict=True):
        if step.kind == "stage":
            waves.setdefault((step.machine, step.wave), []).append(name)
    together = [" and ".join(names) for names in waves.values() if len(names) > 1]
    words = [
        f"{len(steps)} steps in {took}.",
        f"The longest was {label} with {duration(longest.seconds)}.",
        *([f"From a checkpoint came {', '.join(each.name for each in held)}."] if held else []),
        *([f"Side by side ran {'; '.join(together)}."] if together else []),
        *(f"{n}: {s.outcome}." for s, n in zip(steps, labels, strict=True) if s.outcome != "done"),
    ]
    return " ".join(words)
