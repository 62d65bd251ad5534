"""Charts of a page: plotly's figures, in the page's own colours, dark or light."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from bake.console import visible

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
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        # A finger on a chart scrolls the page.
        "dragmode": False,
        "xaxis": {**_axis, "fixedrange": True},
        "yaxis": {**_axis, "fixedrange": True},
    }
)


@dataclass(frozen=True)
class Chart:
    """As a page shows it. `alt` says in words what can be seen; the figures stand in a table."""

    title: str
    alt: str
    height: int
    spec: dict[str, Any]


def chart(figure: go.Figure, *, title: str, alt: str, height: int = 320) -> Chart:
    """Of a figure without template; `height` is in CSS pixels, the width is the page's.

    Texts in it are texts: of plotly's own markup (`<b>`, links) nothing has a meaning, but in the
    templates `hovertemplate` and `texttemplate`.
    """
    themed = go.Figure(figure).update_layout(template=_TEMPLATE)
    return Chart(title, alt, height, _as_text(json.loads(themed.to_json())))


def _as_text(value: Any, name: str = "") -> Any:
    match value:
        case str() if name not in _MARKUP:
            return html.escape(visible(value), quote=False)
        case list():
            return [_as_text(each, name) for each in value]
        case dict():
            return {key: _as_text(each, key) for key, each in value.items()}
    return value
