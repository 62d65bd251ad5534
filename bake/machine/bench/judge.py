"""Read and judge the output of the benchmark program (`on_machine/`).

The program prints figures and no judgement. A wrong result, and one that was computed in another
precision or on another device than requested, gives a failed figure without a speed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, ValidationError

from bake import files
from bake.machine.bench.figures import Figure, MeasuredMachine, Precision, Value, Watched, What

UNITS: Mapping[str, str] = {"multiply": "FLOP/s", "train": "images/s"}  # or bytes

# The smallest and largest relative error of a product of random matrices. Usual errors: fp32 3e-7;
# TF32, with 10 bits of mantissa, 3e-4, so that the two cannot be confused; fp16 3e-4 when it is
# accumulated in fp32 and up to 2e-2 otherwise; bf16 2e-3.
ERRORS: Mapping[str, tuple[float, float]] = {
    "fp32": (0.0, 1e-5),
    "tf32": (1e-5, 1e-3),
    "fp16": (1e-5, 5e-2),
    "bf16": (1e-4, 5e-2),
}
# Copied data must be identical; a sum is rounded once.
MOST_OFF: Mapping[str, float] = {"add": 1e-6}

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _FigureLine(Value):
    """A line of the program's output that describes a figure."""

    what: What
    precision: Precision | None = None
    device: int | None
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    kind: str = ""
    work: _Positive | None = None
    seconds: Annotated[tuple[_Positive, ...], Field(max_length=1000)] = ()
    error: float | None = None
    losses: tuple[float, float] | None = None
    size: str = ""
    took_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    watched: Watched | None = None
    failure: str | None = None

    def judge(self) -> Figure:
        failure = self.failure[:600] if self.failure else self._find_error()
        runs = tuple(self.work / each for each in self.seconds) if self.work else ()
        low, middle, high = (
            statistics.quantiles(runs, n=4, method="inclusive")
            if failure is None
            else (None, None, None)
        )
        return Figure(
            what=self.what,
            precision=self.precision,
            device="cpu" if self.device is None else "gpu",
            devices=self.devices,
            unit=UNITS.get(self.what, "B/s"),
            value=middle,
            low=low,
            high=high,
            runs=runs if failure is None else (),
            size=self.size[:60],
            error=self.error if self.error is not None and math.isfinite(self.error) else None,
            took_s=self.took_s,
            watched=self.watched,
            failure=failure,
        )

    def _find_error(self) -> str | None:
        expected = "cpu" if self.device is None else "gpu"
        if self.kind != expected:
            return f"it was computed on: {self.kind or 'unknown'}; expected: {expected}"
        if self.work is None or len(self.seconds) < 2:
            return "it was not timed"
        if self.what == "train":
            return self._find_training_error()
        least, most = ERRORS.get(self.precision or "", (0.0, MOST_OFF.get(self.what, 0.0)))
        if self.error is None or not 0 <= self.error <= most:
            return f"the result is wrong: relative error {self.error} (allowed: {most:g})"
        if self.error < least:
            return f"it was not computed in {self.precision}: its error is only {self.error:.1e}"
        return None

    def _find_training_error(self) -> str | None:
        if self.losses is None or not all(map(math.isfinite, self.losses)):
            return f"the loss is not a finite number: {self.losses}"
        if self.losses[1] >= self.losses[0]:
            return "it does not learn: the loss changed from {:.3g} to {:.3g}".format(*self.losses)
        return None


class Judge:
    """The figures of one machine, collected from the program's lines. Other lines are ignored."""

    def __init__(self) -> None:
        self.machine = MeasuredMachine()
        self.figures: list[Figure] = []
        self.doing: str | None = None
        self.ended = False

    def take(self, line: str) -> Figure | None:
        """Read a line; return its figure if it contains one."""
        try:
            document = files.parse_json(line) if line.startswith("{") else None
        except ValueError:
            return None
        if not isinstance(document, dict):
            return None
        try:
            match document.get("line"):
                case "machine":
                    self.machine = MeasuredMachine.model_validate(document)
                case "begins":
                    begun = _FigureLine.model_validate({**document, "failure": "it has not ended"})
                    self.doing = begun.judge().name
                case "figure":
                    figure = _FigureLine.model_validate(document).judge()
                    self.doing = None
                    self.figures.append(figure)
                    return figure
                case "end":
                    self.ended = True
        except ValidationError:
            pass
        return None
