"""Charts of a page: plotly's figures, in the page's own colours, dark or light."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from bake.console.console import visible

# The page's, in style.css: a colour of a figure may be any `var(--…)` of these.
COLOURS = tuple(f"var(--chart-{number})" for number in range(1, 7))
_MARKUP = {"hovertemplate", "texttemplate"}  # ours, and not the words of machines

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
        "showlegend": False,  # the page has one, which wraps on a phone
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        # A finger on a chart scrolls the page.
        "dragmode": False,
        "xaxis": {**_axis, "fixedrange": True},
        "yaxis": {**_axis, "fixedrange": True},
    }
)


@dataclass(frozen=True)
class Chart:
    """As a page shows it. `alt` says in words what can be seen; the figures stand in a table.

    `legend` is name and colour of each trace, where there are several.
    """

    title: str
    alt: str
    height: int
    legend: tuple[tuple[str, str], ...]
    spec: dict[str, Any]


def chart(figure: go.Figure, *, title: str, alt: str, height: int = 320) -> Chart:
    """Of a figure without template; `height` is in CSS pixels, the width is the page's.

    Texts in it are texts: of plotly's own markup (`<b>`, links) nothing has a meaning, but in the
    templates `hovertemplate` and `texttemplate`.
    """
    themed = go.Figure(figure).update_layout(template=_TEMPLATE)
    spec = json.loads(themed.to_json())
    return Chart(title, alt, height, _legend(spec["data"]), _as_text(spec))


def _legend(traces: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Of those that have a name; a trace without a colour has the next one of the page's."""
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
