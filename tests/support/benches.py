"""Results of benches, as the machines report them and as they are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bake.machine.bench.figures import (
    Bench,
    Figure,
    Measured,
    MeasuredGpu,
    MeasuredMachine,
    Watched,
)

# ---- what they say together ----


def a_figure(
    what: Any, value: float, precision: Any = None, devices: int = 1, **more: Any
) -> Figure:
    unit = {"multiply": "FLOP/s", "train": "images/s"}.get(what, "B/s")
    return Figure(
        what=what,
        precision=precision,
        device="gpu",
        devices=devices,
        unit=unit,
        value=value,
        low=value * 0.98,
        high=value * 1.01,
        runs=(value,) * 15,
        **more,
    )


def measured(kind: str, gpus: int, usd: float | None, *figures: Figure, **more: Any) -> Measured:
    return Measured(
        instance_type=kind,
        usd_per_hour=usd,
        machine=MeasuredMachine(
            framework="mxnet",
            version="1.9.1",
            cpu="a CPU",
            cpus=4,
            driver_sees=gpus,
            gpus=tuple(
                MeasuredGpu(index=index, name="Tesla T4", driver="470.82") for index in range(gpus)
            ),
        ),
        figures=figures,
        **more,
    )


ONE = measured(
    "g4dn.xlarge",
    1,
    0.5,
    a_figure("multiply", 8e12, "fp32"),
    a_figure("multiply", 5e13, "fp16", watched=Watched(looks=10, reasons={"0x4": 9, "0x1": 10})),
    Figure(
        what="multiply",
        precision="bf16",
        device="gpu",
        unit="FLOP/s",
        failure="<b>out</b> of memory",
    ),
    a_figure("copy", 240e9),
    a_figure("add", 230e9),
    a_figure("train", 3000),
)
FOUR = measured(
    "g4dn.12xlarge",
    4,
    4.0,
    a_figure("train", 3000),
    a_figure("train", 5700, devices=2),
    a_figure("train", 9600, devices=4),
)
GONE = Measured(instance_type="g5.xlarge", failure="InsufficientInstanceCapacity")


def a_bench(*found: Measured) -> Bench:
    return Bench(
        run="20261121-000000-abcdef",
        region="us-east-1",
        image_id="ami-1",
        recipe="mxnet-cu112",
        machines=found,
        started_at=datetime(2026, 11, 21, tzinfo=UTC),
    )
