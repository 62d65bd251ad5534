"""The document of `invoke bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bake.cli.documents.document import (
    Document,
    Market,
    Part,
    PathText,
    Seconds,
    Snake,
    TextOrNull,
    Time,
    Usd,
)
from bake.machine.bench.figures import Bench, Figure, Measured, MeasuredGpu


class FigureEntry(Part):
    """A measured speed: the median of several runs, and its quartiles, in `unit`."""

    name: str = Field(description="its name, as on the page")
    what: Annotated[
        Literal["multiply", "copy", "add", "to_device", "from_device", "train"], Snake
    ] = Field(description="what was measured")
    precision: Literal["fp32", "tf32", "fp16", "bf16"] | None = Field(
        description="the numbers' format"
    )
    device: Literal["gpu", "cpu"] = Field(description="where it was computed")
    device_count: int = Field(description="how many GPUs computed at the same time")
    unit: str = Field(description="the unit of the values: `FLOP/s`, `B/s` or `images/s`")
    value: float | None = Field(description="the median; null if the measurement failed")
    low: float | None = Field(description="the lower quartile")
    high: float | None = Field(description="the upper quartile")
    runs: tuple[float, ...] = Field(description="the value of each run")
    size: str = Field(description="the size of the task")
    relative_error: float | None = Field(description="the relative error of the computed result")
    duration_s: Seconds = Field(description="how long the measurement took")
    failure: str | None = Field(description="why it failed")

    @classmethod
    def of_figure(cls, figure: Figure) -> FigureEntry:
        return cls.of(
            figure,
            device_count=figure.devices,
            relative_error=figure.error,
            duration_s=figure.took_s,
        )


class MeasuredGpuEntry(Part):
    """A GPU that was measured."""

    index: int = Field(description="its number")
    name: str | None = Field(description="its name")
    compute_capability: str | None = Field(description="its compute capability")
    driver_version: str | None = Field(description="the driver's version")
    memory_mib: float | None = Field(description="its memory")
    power_limit_w: float | None = Field(description="its power limit")
    sm_clock_mhz: float | None = Field(description="the highest clock of its multiprocessors")
    memory_clock_mhz: float | None = Field(description="the highest clock of its memory")
    busy_percent: float | None = Field(description="its load before the measurement")

    @classmethod
    def of_gpu(cls, gpu: MeasuredGpu) -> MeasuredGpuEntry:
        return cls.of(
            gpu,
            compute_capability=gpu.capability and ".".join(map(str, gpu.capability)),
            driver_version=gpu.driver,
            power_limit_w=gpu.power_limit_watts,
            sm_clock_mhz=gpu.max_sm_mhz,
            memory_clock_mhz=gpu.max_memory_mhz,
        )


class MeasuredEntry(Part):
    """A machine that was measured."""

    instance_type: str = Field(description="EC2's instance type")
    instance_id: TextOrNull = Field(description="EC2's id")
    name: TextOrNull = Field(description="its name")
    zone: TextOrNull = Field(description="its availability zone")
    market: Market | None = Field(description="how it is paid for")
    usd_per_hour: Usd | None = Field(description="its price when it was measured")
    image_id: TextOrNull = Field(description="its image")
    device: str = Field(description="what computes, such as `4 × Tesla T4` or `CPU`")
    cpu: TextOrNull = Field(description="its CPU")
    cpu_count: int = Field(description="how many CPUs it has")
    framework: str | None = Field(description="the framework")
    framework_version: str | None = Field(description="the framework's version")
    python_version: str | None = Field(description="the version of Python")
    cuda_version: str | None = Field(description="the CUDA release of the framework")
    gpus: tuple[MeasuredGpuEntry, ...] = Field(description="the GPUs that the framework can use")
    figures: tuple[FigureEntry, ...] = Field(description="what was measured")
    images_per_usd: float | None = Field(
        description="images trained for 1 USD with all GPUs; null without a price or a GPU"
    )
    warnings: tuple[str, ...] = Field(description="why the figures may not be the usual ones")
    duration_s: Seconds = Field(description="how long it took")
    failure: str | None = Field(description="why figures are missing")

    @classmethod
    def of_measured(cls, measured: Measured) -> MeasuredEntry:
        machine = measured.machine
        return cls.of(
            measured,
            market=measured.market or None,
            device=machine.device,
            cpu=machine.cpu,
            cpu_count=machine.cpus,
            framework=machine.framework,
            framework_version=machine.version,
            python_version=machine.python,
            cuda_version=machine.cuda,
            gpus=[MeasuredGpuEntry.of_gpu(gpu) for gpu in machine.gpus],
            figures=[FigureEntry.of_figure(figure) for figure in measured.figures],
            duration_s=measured.seconds,
            failure=measured.failure or machine.failure,
        )


class BenchDocument(Document):
    """The measured speed of machines."""

    run_id: str = Field(description="the run")
    region: TextOrNull = Field(description="the region")
    recipe: TextOrNull = Field(description="the recipe of the image")
    image_id: TextOrNull = Field(description="the image")
    image_name: TextOrNull = Field(description="its name")
    is_quick: bool = Field(description="true with `--quick`: the runs were short")
    started_at: Time = Field(description="when it began")
    ended_at: Time = Field(description="when it ended")
    page_path: PathText = Field(description="the page with the charts")
    figures_path: PathText = Field(description="the file with all figures, bench.json")
    machines: tuple[MeasuredEntry, ...] = Field(description="the machines")

    @classmethod
    def of_bench(cls, bench: Bench, page: Path, figures: Path) -> BenchDocument:
        return cls.of(
            bench,
            run_id=bench.run,
            is_quick=bench.quick,
            page_path=page,
            figures_path=figures,
            machines=[MeasuredEntry.of_measured(each) for each in bench.machines],
        )
