"""Measured speeds: the figures of one machine, and the document with the figures of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bake.files import write_file

FILE = "bench.json"

What = Literal["multiply", "copy", "add", "to-device", "from-device", "train"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]

# Why a GPU's clock is not higher (NVML API reference, "NvmlClocksEventReasons"). Idle (0x1) and
# clocks that were set by hand are left out: the load is not their cause.
SLOWED: Mapping[str, str] = {
    "0x4": "power cap",
    "0x8": "hardware slowdown",
    "0x20": "heat (driver)",
    "0x40": "heat (hardware)",
    "0x80": "power brake",
}


class Value(BaseModel):
    """A value read from a machine's output; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)


class Watched(Value):
    """The GPU's state during a measurement, in `looks` samples.

    `reasons` maps a bit of the clock event reasons to the number of samples with that bit.
    """

    looks: Annotated[int, Field(ge=0)] = 0
    sm_mhz: float | None = None
    degrees: float | None = None
    watts: float | None = None
    reasons: Mapping[str, int] = {}

    @property
    def slowed(self) -> tuple[str, ...]:
        """The reasons that limited the clock in at least a tenth of the samples."""
        return tuple(
            name
            for bit, name in SLOWED.items()
            if self.looks and self.reasons.get(bit, 0) >= self.looks / 10
        )


class Figure(Value):
    """One figure: the median of several runs in SI units, and its quartiles.

    `devices` is the number of GPUs used at the same time. `failure` is the reason why `value` is
    None. `error` is the relative error of the computed result.
    """

    what: What
    precision: Precision | None = None
    device: Literal["gpu", "cpu"]
    devices: Annotated[int, Field(ge=1)] = 1
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    runs: tuple[float, ...] = Field((), description="every run's, in `unit`")
    size: str = ""
    error: float | None = None
    took_s: float = 0.0
    watched: Watched | None = None
    failure: str | None = None

    @property
    def name(self) -> str:
        plain = {
            "multiply": f"matrix product {(self.precision or '').upper()}",
            "copy": "memory, copied",
            "add": "memory, added",
            "to-device": "host to GPU",
            "from-device": "GPU to host",
            "train": "training",
        }[self.what]
        if self.what == "train" and self.devices > 1:
            plain += f" on {self.devices} GPUs"
        return plain.replace("FP", "fp").replace("BF", "bf")

    @property
    def spread(self) -> float | None:
        """Half the distance between the quartiles, relative to the median."""
        if not self.value or self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / self.value


class MeasuredGpu(Value):
    """A GPU that was measured, as its driver describes it; None for unknown values.

    `busy_percent` is its load before the measurement.
    """

    index: int
    name: str | None = None
    capability: tuple[int, int] | None = None
    driver: str | None = None
    memory_mib: float | None = None
    power_limit_watts: float | None = None
    max_sm_mhz: float | None = None
    max_memory_mhz: float | None = None
    busy_percent: float | None = None


class MeasuredMachine(Value):
    """The machine that ran the benchmark.

    `gpus` are the GPUs that the framework can use, `driver_sees` the number of GPUs of the driver.
    `load` is the load average of the minute before the measurement.
    """

    framework: str | None = None
    version: str | None = None
    python: str | None = None
    cuda: str | None = None
    cpu: str = ""
    cpus: Annotated[int, Field(ge=1)] = 1
    load: float = 0.0
    driver_sees: Annotated[int, Field(ge=0)] = 0
    gpus: tuple[MeasuredGpu, ...] = ()
    failure: str | None = None

    @property
    def device(self) -> str:
        """The device that computes, like `4 × Tesla T4` or `CPU`."""
        if not self.gpus:
            return "CPU"
        name = (self.gpus[0].name or "GPU").removeprefix("NVIDIA ")
        return f"{len(self.gpus)} × {name}" if len(self.gpus) > 1 else name


class Measured(Value):
    """One machine and its figures. `failure` is the reason why figures are missing.

    `usd_per_hour` is the price of the whole machine in its market when it was measured.
    """

    instance_type: str
    instance_id: str = ""
    name: str = ""
    zone: str = ""
    market: str = ""
    usd_per_hour: float | None = None
    image_id: str = ""
    machine: MeasuredMachine = MeasuredMachine()
    figures: tuple[Figure, ...] = ()
    seconds: float = 0.0
    failure: str | None = None

    def figure(
        self, what: What, precision: Precision | None = None, devices: int = 1
    ) -> Figure | None:
        """Return the figure, or None when it was not measured or has failed."""
        for each in self.figures:
            if (each.what, each.precision, each.devices) == (what, precision, devices):
                return each if each.value is not None else None
        return None

    @property
    def on_gpu(self) -> bool:
        return bool(self.machine.gpus)

    @property
    def trained(self) -> dict[int, float]:
        """Trained images per second, by the number of devices."""
        return {
            each.devices: each.value for each in self.figures if each.what == "train" and each.value
        }

    @property
    def efficiency(self) -> dict[int, float]:
        """Scaling efficiency: the rate of n devices / (n x the rate of one), by n."""
        rates = self.trained
        return {n: rate / (n * rates[1]) for n, rate in rates.items()} if 1 in rates else {}

    @property
    def images_per_usd(self) -> float | None:
        """Images trained for 1 USD with all GPUs; None without a price or for a CPU."""
        if not (self.usd_per_hour and self.on_gpu):
            return None
        rate = self.trained.get(len(self.machine.gpus))
        return rate * 3600 / self.usd_per_hour if rate else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Circumstances that make the figures differ from the machine's usual speed."""
        found = []
        if self.machine.framework and not self.on_gpu:
            found.append("No GPU: these are figures of the CPU")
            if self.machine.driver_sees:
                found[0] = (
                    f"The driver finds {self.machine.driver_sees} GPUs, "
                    f"but {self.machine.framework} finds none: these are figures of the CPU"
                )
        found += [
            f"GPU {gpu.index} was {gpu.busy_percent:.0f} % busy before: other processes use it, too"
            for gpu in self.machine.gpus
            if gpu.busy_percent
        ]
        if self.machine.framework and not self.on_gpu and self.machine.load > self.machine.cpus / 2:
            found.append(f"The CPU was busy before: load {self.machine.load:.1f}")
        slowed = {
            reason: [
                figure.name
                for figure in self.figures
                if figure.watched and reason in figure.watched.slowed
            ]
            for reason in SLOWED.values()
        }
        found += [
            f"The GPU was slowed down ({reason}): {', '.join(names)}"
            for reason, names in slowed.items()
            if names
        ]
        return tuple(found)


class Bench(Value):
    """The document of one run: several machines. `version` is the version of its format."""

    version: Literal[1] = 1
    run: str
    region: str = ""
    image_id: str = ""
    image_name: str = ""
    recipe: str = ""
    quick: bool = False
    machines: tuple[Measured, ...]
    started_at: AwareDatetime
    ended_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    def write(self, folder: Path) -> Path:
        path = folder / FILE
        write_file(path, self.model_dump_json(indent=2) + "\n", mode=0o666)
        return path


def read(path: Path) -> Bench:
    """Read a document. Raises OSError, and ValueError for an invalid document."""
    return Bench.model_validate_json(path.read_text())


def format_value(value: float | None, unit: str) -> str:
    """Format a speed, like `7.91 TFLOP/s`, `301 GB/s`, `2310 images/s`; a dash for None."""
    if value is None:
        return "–"
    factor, prefix = scale(value, unit)
    return f"{three_digits(value / factor)} {prefix}{unit}"


def format_quartiles(figure: Figure) -> str:
    """Format the quartiles, like `7.85 – 8.02`, in the unit in which the median is shown."""
    if figure.value is None or figure.low is None or figure.high is None:
        return ""
    factor, _ = scale(figure.value, figure.unit)
    return f"{three_digits(figure.low / factor)} – {three_digits(figure.high / factor)}"


def format_spread(figure: Figure) -> str:
    """Format the spread, like `± 1.5%`; a dash if it is not known."""
    return "–" if figure.spread is None else f"± {figure.spread:.1%}"


def scale(value: float, unit: str) -> tuple[float, str]:
    """Return the divisor and the unit's prefix with which the value is shown."""
    if unit == "images/s":
        return 1.0, ""
    scales = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
    return next((scale for scale in scales if value >= scale[0]), scales[-1])


def three_digits(value: float) -> str:
    """Format with three significant digits, like `0.0791`, `7.91`, `301`, `12300`."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def failures(figures: Iterable[Figure]) -> list[str]:
    """Return `NAME: REASON` for each figure that has failed."""
    return [f"{each.name}: {each.failure}" for each in figures if each.failure]
