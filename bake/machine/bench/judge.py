"""What the program on a machine says of its speed (`on_machine/`), read and judged.

It says figures and no verdict. What was computed wrong, in another precision than asked for or on
another device has no speed: it is a figure that failed.
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

# How far off a product of random matrices is, in parts of its norm. In fp32 3e-7; TF32 has 10 bits
# behind the point, which makes 3e-4, and is no fp32 nor the other way round. fp16 makes 3e-4 where
# it is added up in fp32, and up to 2e-2 where it is not; bf16 2e-3.
ERRORS: Mapping[str, tuple[float, float]] = {
    "fp32": (0.0, 1e-5),
    "tf32": (1e-5, 1e-3),
    "fp16": (1e-5, 5e-2),
    "bf16": (1e-4, 5e-2),
}
# What is moved arrives as it is; a sum is rounded once.
MOST_OFF: Mapping[str, float] = {"add": 1e-6}

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Taken(Value):
    """A line `figure` of the program."""

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

    def judged(self) -> Figure:
        failure = self.failure[:600] if self.failure else self._fault()
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

    def _fault(self) -> str | None:
        expected = "cpu" if self.device is None else "gpu"
        if self.kind != expected:
            return f"it was computed on a {self.kind or 'device unknown'}, not on the {expected}"
        if self.work is None or len(self.seconds) < 2:
            return "it was not timed"
        if self.what == "train":
            return self._fault_of_training()
        least, most = ERRORS.get(self.precision or "", (0.0, MOST_OFF.get(self.what, 0.0)))
        if self.error is None or not 0 <= self.error <= most:
            return f"the result is wrong: off by {self.error} (allowed: {most:g})"
        if self.error < least:
            return f"it was not computed in {self.precision}: off by {self.error:.1e} only"
        return None

    def _fault_of_training(self) -> str | None:
        if self.losses is None or not all(map(math.isfinite, self.losses)):
            return f"the loss is no number: {self.losses}"
        if self.losses[1] >= self.losses[0]:
            return "it does not learn: the loss went from {:.3g} to {:.3g}".format(*self.losses)
        return None


class Judge:
    """Takes the program's lines as they come. What is no document of ours is left out."""

    def __init__(self) -> None:
        self.machine = MeasuredMachine()
        self.figures: list[Figure] = []
        self.doing: str | None = None
        self.ended = False

    def take(self, line: str) -> Figure | None:
        """The figure that it tells, if it does."""
        try:
            said = files.parse_json(line) if line.startswith("{") else None
        except ValueError:
            return None
        if not isinstance(said, dict):
            return None
        try:
            match said.get("line"):
                case "machine":
                    self.machine = MeasuredMachine.model_validate(said)
                case "begins":
                    begun = _Taken.model_validate({**said, "failure": "it has not ended"})
                    self.doing = begun.judged().name
                case "figure":
                    figure = _Taken.model_validate(said).judged()
                    self.doing = None
                    self.figures.append(figure)
                    return figure
                case "end":
                    self.ended = True
        except ValidationError:
            pass
        return None
