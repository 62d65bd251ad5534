"""Results of `invoke bench`: tables and the JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bake.cli.documents.bench import BenchDocument
from bake.console.console import Console
from bake.machine.bench import figures
from bake.machine.bench.figures import Bench, Measured, format_quartiles, format_value, three_digits
from bake.record.report.report import FILE as PAGE


def show_bench(console: Console, bench: Bench, folder: Path) -> None:
    """Show all figures of one machine, or one row for each of several machines."""
    measured = [each for each in bench.machines if each.figures]
    if len(measured) == 1:
        _show_one(console, measured[0])
    elif measured:
        _show_several(console, measured)
    where = folder / bench.run
    console.result(
        BenchDocument.of_bench(bench, where / PAGE, where / figures.FILE),
        f"Page     {where / PAGE}",
        f"Figures  {where / figures.FILE}",
    )


def _show_one(console: Console, measured: Measured) -> None:
    rows = [
        [
            figure.name,
            format_value(figure.value, figure.unit),
            "failed" if figure.failure else format_quartiles(figure),
            figure.size,
        ]
        for figure in measured.figures
    ]
    per_usd = measured.images_per_usd
    if per_usd:
        rows.append(["images for 1 USD", f"{three_digits(per_usd / 1e6)} million", "", ""])
    rows += [
        [f"scaling to {count} GPUs", f"{part:.0%}", "", ""]
        for count, part in measured.efficiency.items()
        if count > 1
    ]
    columns = [measured.machine.device, "median", "quartiles", "size"]
    console.table(columns, rows, empty="", fold=columns)


def _show_several(console: Console, measured: Sequence[Measured]) -> None:
    """Show one row per machine: TFLOP/s and GB/s of one GPU, and images with all GPUs."""

    def cell(value: float | None, factor: float = 1.0) -> str:
        return "–" if value is None else three_digits(value / factor)

    rows = []
    for each in measured:
        products = [
            f.value if (f := each.figure("multiply", p)) else None
            for p in ("fp32", "tf32", "fp16", "bf16")
        ]
        copied = each.figure("copy")
        rows.append(
            [
                each.instance_type,
                each.machine.device,
                *(cell(value, 1e12) for value in products),
                cell(copied.value if copied else None, 1e9),
                cell(each.trained.get(max(len(each.machine.gpus), 1))),
                cell(each.images_per_usd, 1e6),
            ]
        )
    columns = ["machine", "on", "fp32", "TF32", "fp16", "bf16", "GB/s", "img/s", "M img/$"]
    console.table(columns, rows, empty="", fold=("on",))
    console.note("For one GPU: matrix products in TFLOP/s, and memory in GB/s.")
    console.note("For all GPUs: images trained per second, and millions of images per USD.")
