"""The charts of a page: plotly's figures in the page's own colours, dark or light."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from bake.console.text import visible

# The colours of style.css. A figure may use any `var(--…)` of that file.
COLOURS = tuple(f"var(--chart-{number})" for number in range(1, 7))
_MARKUP = {"hovertemplate", "texttemplate"}  # written by us: they contain no text of a machine

_axis = {"gridcolor": "var(--line)", "zerolinecolor": "var(--line)", "automargin": True}
_TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--text)", "family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line)",
            "font": {"color": "var(--text)"},
        },
        "showlegend": False,  # the page shows its own, which wraps on a phone
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        # On a touch screen, a drag across a chart must scroll the page.
        "dragmode": False,
        "xaxis": {**_axis, "fixedrange": True},
        "yaxis": {**_axis, "fixedrange": True},
    }
)


@dataclass(frozen=True)
class Chart:
    """A chart as a page shows it.

    `alt` describes the chart in words; the numbers themselves are in a table. `legend` holds name
    and colour of each trace, or nothing if there is only one. `height` is in CSS pixels.
    """

    title: str
    alt: str
    height: int
    legend: tuple[tuple[str, str], ...]
    spec: dict[str, Any]


def chart(figure: go.Figure, *, title: str, alt: str, height: int = 320) -> Chart:
    """Return the chart of a figure. `height` is in CSS pixels; the width is the page's.

    plotly's markup (`<b>`, links) is escaped everywhere, except in the figure's `hovertemplate` and
    `texttemplate`.
    """
    themed = go.Figure(figure).update_layout(template=_TEMPLATE)
    spec = json.loads(themed.to_json())
    return Chart(title, alt, height, _legend(spec["data"]), _as_text(spec))


def _legend(traces: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Return name and colour of each named trace, if there are several.

    A trace without a colour of its own has the page's next one.
    """
    found = []
    for number, trace in enumerate(traces):
        own = [trace.get(part, {}).get("color") for part in ("marker", "line")]
        colour = next((each for each in own if isinstance(each, str)), None)
        if trace.get("name") and trace.get("showlegend", True):
            found.append((trace["name"], colour or COLOURS[number % len(COLOURS)]))
    return tuple(found) if len(found) > 1 else ()


def _as_text(value: Any, name: str = "") -> Any:
    match value:
        case str() if name not in _MARKUP:
            return html.escape(visible(value), quote=False)
        case list():
            return [_as_text(each, name) for each in value]
        case dict():
            return {key: _as_text(each, key) for key, each in value.items()}
    return value
