"""The timeline of a bake as a chart and as a table."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import NamedTuple

import plotly.graph_objects as go

from bake.console.format import duration
from bake.record import Failure, Record, StageRecord, StepRecord
from bake.record.report.charts import COLOURS, Chart, chart

_PIXELS_A_ROW, _PIXELS_BESIDES = 30, 80
_LONGEST_LABEL = 28  # longer labels do not fit on a phone
# The chart's legend, in this order.
_GROUPS = {
    "machine": (("start", "reboot"), COLOURS[5]),
    "stage": (("stage",), COLOURS[0]),
    "checkpoint": (("checkpoint",), COLOURS[4]),
    "proof": (("proof", "inventory", "clean"), COLOURS[2]),
    "image": (("image",), COLOURS[3]),
}
# The possible distances of two marks on the axis, in seconds. Four marks fit on a phone.
_MARKS = (1, 2, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 4 * 3600, 8 * 3600)
_MOST_MARKS = 4


class Row(NamedTuple):
    """A row of the table. `began` is the time since the bake began; `kind` colours the outcome.

    `stage` is the name of the stage that ran; empty for other rows.
    """

    name: str
    wave: str
    began: str
    took: str
    kind: str
    outcome: str
    detail: str
    stage: str = ""


def rows(run: Record | Failure) -> list[Row]:
    """Return the rows: stages from a checkpoint first, then the steps in their order.

    An older record has no steps: its stages are listed without times.
    """
    found, timed = [], {step.name for step in run.steps if step.kind == "stage"}
    for stage in run.stages if isinstance(run, Record) else ():
        if stage.checkpoint:
            when = f"took {duration(stage.seconds)} when it ran" if stage.seconds else ""
            source = f"from checkpoint {stage.checkpoint}"
            found.append(Row(stage.name, "", "", "", "none", source, when))
        elif stage.name not in timed:
            found.append(Row(stage.name, "", "", duration(stage.seconds), "none", "", ""))
    labels = _labels(run.steps)
    for step, label in zip(run.steps, labels, strict=True):
        began = duration(_since(run, step.began_at))
        kind = {"done": "good", "failed": "bad", "stopped": "mind"}[step.outcome]
        wave = str(step.wave or "")
        took = duration(step.seconds)
        ran = step.name if step.kind == "stage" else ""
        found.append(Row(label, wave, began, took, kind, step.outcome, step.detail, ran))
    begun = timed | {row.name for row in found}
    for name in run.stages if isinstance(run, Failure) else ():
        if name not in begun:
            found.append(Row(name, "", "", "", "none", "did not run", ""))
    return found


def charts(run: Record | Failure) -> dict[str, Chart]:
    """Return the chart `timeline`, or none if the record has no steps."""
    if not run.steps:
        return {}
    held = [each for each in run.stages if isinstance(each, StageRecord) and each.checkpoint]
    labels = [
        *(f"{_short(each.name)} " for each in held),
        *_labels(run.steps),
    ]  # the space makes the labels unique
    steps = list(zip(run.steps, labels[len(held) :], strict=True))
    figure = go.Figure()
    _add_from_checkpoint(figure, labels[: len(held)])
    for group, (kinds, colour) in _GROUPS.items():
        mine = [each for each in steps if each[0].kind in kinds and each[0].outcome == "done"]
        _add(figure, run, group, colour, mine)
    ill = [each for each in steps if each[0].outcome != "done"]
    _add(figure, run, "failed", "var(--bad)", ill, pattern="/")
    end = max(_since(run, step.ended_at) for step in run.steps)
    marks = _axis_marks(end)
    longest = max(len(_brief(step.seconds)) for step in run.steps)
    figure.update_layout(
        barmode="overlay",
        bargap=0.3,
        margin={"r": 12 + 7 * longest},  # for the text beside the last bar
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
    title = "Each bar is one step, from its beginning to its end"
    return {"timeline": chart(figure, title=title, alt=_describe(run, held), height=height)}


def _axis_marks(end_s: float) -> list[float]:
    """Return where the time axis has its marks, in seconds."""
    distance = next((each for each in _MARKS if each * _MOST_MARKS >= end_s), end_s / _MOST_MARKS)
    return [distance * number for number in range(_MOST_MARKS + 1) if distance * number <= end_s]


def _add_from_checkpoint(figure: go.Figure, labels: list[str]) -> None:
    """Add a text, and no bar, for each stage that came from a checkpoint."""
    if labels:
        figure.add_bar(
            name="from a checkpoint",
            orientation="h",
            y=labels,
            base=[0] * len(labels),
            x=[0] * len(labels),
            text=["from a checkpoint"] * len(labels),
            marker={"color": "var(--muted)"},
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        )


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
    """Return a unique label for each step, with the number of the machine after the first one."""
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
    """Return the time like `6:08` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _brief(seconds: float) -> str:
    return duration(seconds) if seconds < 59.5 else _clock(seconds)


def _since(run: Record | Failure, moment: datetime) -> float:
    """Return the seconds since the bake began."""
    return (moment - run.started_at).total_seconds()


def _describe(run: Record | Failure, held: list[StageRecord]) -> str:
    """Return the chart's description for readers who cannot see it."""
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
        *([f"From a checkpoint: {', '.join(each.name for each in held)}."] if held else []),
        *([f"At the same time ran {'; '.join(together)}."] if together else []),
        *(f"{n}: {s.outcome}." for s, n in zip(steps, labels, strict=True) if s.outcome != "done"),
    ]
    return " ".join(words)
