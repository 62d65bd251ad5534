"""The HTML page of a benchmark: speed per GPU, speed per dollar, and scaling over several GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from bake.machine.bench.figures import (
    Bench,
    Figure,
    Measured,
    Precision,
    What,
    format_quartiles,
    format_spread,
    format_value,
    scale,
    three_digits,
)
from bake.record.report.charts import Chart, chart
from bake.record.report.page import render, write
from bake.record.report.report import FILE, INDEX, files_beside

TEMPLATE = "speed.html.j2"

_A_BAR, _BESIDES = 28, 76  # the heights of a bar, and of the rest of a chart, in CSS pixels
_PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")
_MOVED: Mapping[What, str] = {
    "copy": "memory, copied",
    "add": "memory, added",
    "to-device": "host to GPU",
    "from-device": "GPU to host",
}


def page(bench: Bench) -> str:
    """Return the page as HTML, without links to files."""
    return render(TEMPLATE, **_data(bench))


def write_page(bench: Bench, folder: Path) -> Path:
    """Write the page into `folder`, with links to the files there. FileError if that fails."""
    links = files_beside(folder)
    index = (folder.parent / INDEX).is_file()
    return write(folder / FILE, TEMPLATE, **_data(bench) | {"files": links, "index": index})


def _data(bench: Bench) -> dict[str, Any]:
    shown = [each for each in bench.machines if each.figures]
    return {
        "title": f"How fast {bench.recipe or bench.image_id} is",
        "charts": charts(bench.machines),
        "bench": bench,
        "files": {},
        "index": False,
        "on_gpu": any(each.on_gpu for each in bench.machines),
        "machines": bench.machines,
        "summary": [_summary(each) for each in shown],
        "figures": {each.instance_type: [_row(f) for f in each.figures] for each in shown},
        "facts": {each.instance_type: _facts(each) for each in shown},
    }


def charts(machines: Sequence[Measured]) -> Mapping[str, Chart]:
    """Return the charts for which at least one figure was measured, by name."""
    made = {
        "products": _products(machines),
        "moved": _moved(machines),
        "training": _training(machines),
        "per_dollar": _per_dollar(machines),
        "scaling": _scaling(machines),
    }
    return {name: each for name, each in made.items() if each is not None}


def _products(machines: Sequence[Measured]) -> Chart | None:
    bars = {
        each.instance_type: {
            p.upper().replace("FP", "fp").replace("BF", "bf"): each.figure("multiply", p)
            for p in _PRECISIONS
        }
        for each in machines
    }
    return _bars(bars, f"Matrix products, on {_one(machines)}")


def _moved(machines: Sequence[Measured]) -> Chart | None:
    bars = {
        each.instance_type: {name: each.figure(what) for what, name in _MOVED.items()}
        for each in machines
    }
    return _bars(bars, f"Memory of {_one(machines)}, and the way to it")


def _training(machines: Sequence[Measured]) -> Chart | None:
    counts = sorted({count for each in machines for count in each.trained})
    bars = {
        each.instance_type: {
            (f"{n} GPUs" if n > 1 else _one(machines)): each.figure("train", devices=n)
            for n in counts
        }
        for each in machines
    }
    return _bars(bars, "Training a small convolutional network")


def _one(machines: Sequence[Measured]) -> str:
    on_gpu = [each.on_gpu for each in machines if each.figures]
    return "one GPU" if all(on_gpu) else "one GPU (or the CPU)" if any(on_gpu) else "the CPU"


def _bars(bars: Mapping[str, Mapping[str, Figure | None]], title: str) -> Chart | None:
    """Return a chart: a group of bars for each figure, one bar with quartiles for each machine.

    A single bar compares nothing, so it gets no chart: its figure is in the table.
    """
    measured = {
        machine: {name: each for name, each in found.items() if each is not None}
        for machine, found in bars.items()
        if any(found.values())
    }
    figures = [each for found in measured.values() for each in found.values()]
    if len(figures) < 2:
        return None
    factor, prefix = scale(max(each.value or 0 for each in figures), figures[0].unit)
    unit = prefix + figures[0].unit
    places, marks = _places(measured)
    chart_, texts = go.Figure(), []
    ends: dict[float, float] = {}
    for machine, found in measured.items():
        low, values, high = (
            [(getattr(each, name) or 0) / factor for each in found.values()]
            for name in ("low", "value", "high")
        )
        heights = [places[machine, name] for name in found]
        chart_.add_bar(
            name=machine,
            orientation="h",
            x=values,
            y=heights,
            width=0.75,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [h - v for h, v in zip(high, values, strict=True)],
                "arrayminus": [v - each for v, each in zip(values, low, strict=True)],
                "color": "var(--text)",
                "thickness": 1,
            },
            customdata=list(found),
            hovertemplate=f"%{{customdata}}: %{{x:.3~g}} {unit}",
        )
        ends |= dict(zip(heights, high, strict=True))
        texts += [three_digits(value) for value in values]
    _write_beside(chart_, ends, texts)
    chart_.update_layout(
        barmode="overlay",  # each bar has its own place
        xaxis={"title": {"text": unit}},
        yaxis={
            "tickvals": list(marks.values()),
            "ticktext": list(marks),
            "range": [-0.6, max(ends) + 0.6],
            "ticklabelstandoff": 6,
            "showgrid": False,
        },
    )
    alt = "; ".join(f"{machine}: {_listed(found)}" for machine, found in measured.items())
    return chart(chart_, title=title, alt=alt, height=round(_BESIDES + _A_BAR * (max(ends) + 1)))


def _places(
    measured: Mapping[str, Mapping[str, Figure]],
) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Return the height of each bar, by machine and figure, and the middle of each figure's group.

    The distance of two bars of a group is 1; the first group is at the top.
    """
    names = list(dict.fromkeys(name for found in measured.values() for name in found))
    places, marks, height = {}, {}, 0.0
    for name in reversed(names):
        machines = [machine for machine, found in measured.items() if name in found]
        for number, machine in enumerate(reversed(machines)):
            places[machine, name] = height + number
        marks[name] = height + (len(machines) - 1) / 2
        height += len(machines) + 0.5
    return places, marks


def _write_beside(figure: go.Figure, ends: Mapping[float, float], texts: Sequence[str]) -> None:
    """Write each text to the right of the end of its bar (and of its error bar), by its height."""
    figure.add_scatter(
        mode="text",
        x=list(ends.values()),
        y=list(ends),
        text=[f"\u00a0{text}" for text in texts],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(
        margin={"r": 16 + 8 * max(map(len, texts))}, xaxis={"range": [0, max(ends.values())]}
    )


def _listed(figures: Mapping[str, Figure]) -> str:
    return ", ".join(f"{name} {format_value(f.value, f.unit)}" for name, f in figures.items())


def _per_dollar(machines: Sequence[Measured]) -> Chart | None:
    """Return the chart of machines that have a GPU and a price, the best one first."""
    found = {m.instance_type: m.images_per_usd for m in machines if m.images_per_usd}
    if len(found) < 2:
        return None
    names = sorted(found, key=lambda name: found[name] or 0)
    values = [(found[name] or 0) / 1e6 for name in names]
    heights = range(len(names))
    figure = go.Figure(
        go.Bar(
            x=values,
            y=list(heights),
            width=0.75,
            orientation="h",
            customdata=names,
            hovertemplate="%{customdata}: %{x:.3~g} million images for 1 USD",
        )
    )
    _write_beside(figure, dict(zip(heights, values, strict=True)), list(map(three_digits, values)))
    figure.update_layout(
        xaxis={"title": {"text": "million images for 1 USD"}},
        yaxis={
            "tickvals": list(heights),
            "ticktext": names,
            "range": [-0.6, len(names) - 0.4],
            "ticklabelstandoff": 6,
            "showgrid": False,
        },
    )
    words = [f"{name} {three_digits(value)}" for name, value in zip(names, values, strict=True)]
    return chart(
        figure,
        title="Training per dollar, with all GPUs of the machine",
        alt=f"Million images for 1 USD: {', '.join(reversed(words))}",
        height=_BESIDES + _A_BAR * len(names),
    )


def _scaling(machines: Sequence[Measured]) -> Chart | None:
    figure, words = go.Figure(), []
    for each in machines:
        parts = each.efficiency
        if len(parts) < 2:
            continue
        counts = sorted(parts)
        figure.add_scatter(
            name=each.instance_type,
            x=counts,
            y=[100 * parts[n] for n in counts],
            mode="lines+markers",
            hovertemplate="%{x} GPUs: %{y:.0f} %",
        )
        listed = ", ".join(f"{n} GPUs {parts[n]:.0%}" for n in counts if n > 1)
        words.append(f"{each.instance_type}: {listed}")
    if not words:
        return None
    figure.update_layout(
        xaxis={"title": {"text": "GPUs"}, "dtick": 1},
        yaxis={"title": {"text": "% of n times one GPU"}, "rangemode": "tozero"},
    )
    title = "Scaling efficiency of training"
    if len(words) == 1:  # without a legend, which is for several machines
        title += f", {figure.data[0].name}"
    return chart(figure, title=title, alt="; ".join(words))


def _summary(each: Measured) -> list[str]:
    """Return a machine's row in the table of all machines."""
    best = max(
        (f for f in each.figures if f.what == "multiply" and f.value),
        key=lambda f: f.value or 0,
        default=None,
    )
    rate = each.trained.get(max(len(each.machine.gpus), 1))
    per_usd = each.images_per_usd
    return [
        each.instance_type,
        each.machine.device,
        f"{format_value(best.value, best.unit)} ({best.precision})" if best else "–",
        format_value(rate, "images/s"),
        "–" if each.usd_per_hour is None else f"${each.usd_per_hour:.3f}",
        "–" if per_usd is None else f"{three_digits(per_usd / 1e6)} million",
    ]


def _row(figure: Figure) -> list[str]:
    if figure.failure:
        return [figure.name, "failed", "", "", "", figure.failure]
    notes = ", ".join(figure.watched.slowed) if figure.watched else ""
    return [
        figure.name,
        format_value(figure.value, figure.unit),
        format_quartiles(figure),
        format_spread(figure),
        str(len(figure.runs)),
        "; ".join(filter(None, (figure.size, f"slowed: {notes}" if notes else ""))),
    ]


def _facts(each: Measured) -> list[tuple[str, str]]:
    machine = each.machine
    gpu = machine.gpus[0] if machine.gpus else None
    watts = [f.watched.watts for f in each.figures if f.watched and f.watched.watts]
    clocks = [f.watched.sm_mhz for f in each.figures if f.watched and f.watched.sm_mhz]
    pairs = [
        ("Computed on", machine.device),
        ("Framework", f"{machine.framework} {machine.version}"),
        ("CUDA", machine.cuda),
        ("Driver", gpu and gpu.driver),
        ("GPU memory", gpu and gpu.memory_mib and f"{gpu.memory_mib:.0f} MiB"),
        ("Power limit", gpu and gpu.power_limit_watts and f"{gpu.power_limit_watts:.0f} W"),
        ("Most power seen", f"{max(watts):.0f} W" if watts else None),
        ("Highest clock", gpu and gpu.max_sm_mhz and f"{gpu.max_sm_mhz:.0f} MHz"),
        ("Clock seen", f"{min(clocks):.0f} to {max(clocks):.0f} MHz" if clocks else None),
        ("CPU", f"{machine.cpus} × {machine.cpu}"),
        ("Python", machine.python),
        ("Where", " ".join(filter(None, (each.zone, each.market)))),
    ]
    return [(name, str(value)) for name, value in pairs if value]
