"""A page: one self-contained HTML file with its style, scripts and data.

Every value in a template is escaped. The page's policy lets the browser run only our two scripts,
named by their sha256, and fetch nothing (Content Security Policy, Level 3).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bake.console.format import duration
from bake.console.program import typed
from bake.console.text import visible
from bake.files import write_file
from bake.record.report.charts import Chart

FOLDER = Path(__file__).parent


def render(
    template: str, *, title: str, charts: Mapping[str, Chart] | None = None, **data: Any
) -> str:
    """Return the HTML that a template of this folder makes; it extends `base.html.j2`.

    The template shows the chart NAME by `parts.chart(charts.NAME)`. Raises jinja2's UndefinedError
    if the template uses a variable that is missing.
    """
    charts = charts or {}
    script = (FOLDER / "page.js").read_text()
    allowed = [_sha256(script), *([plotly_script()[1]] if charts else [])]
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            charts=charts,
            style=Markup((FOLDER / "style.css").read_text()),  # noqa: S704  (made by bake)
            script=Markup(script),  # noqa: S704  (made by bake)
            plotly=plotly_script()[0] if charts else "",
            script_sources=" ".join(f"'{each}'" for each in allowed),
            **data,
        )
    )


def write(path: Path, template: str, *, title: str, **data: Any) -> Path:
    """Render a template into a file, completely or not at all, and return the file's path.

    FileError if it cannot be written.
    """
    write_file(path, render(template, title=title, **data), mode=0o666)
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "typed": typed}
    return environment


def _visible(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def plotly_script() -> tuple[str, str]:
    """Return plotly.js, compressed from 4.8 MB to about 2 MB in base64, and its hash."""
    source = get_plotlyjs()
    packed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode(), _sha256(source)


def _sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
