"""Pages of reports: their text, and inputs that attack them."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from bake.record.report import report


def text_of(folder: Path, run: Any = None) -> str:
    """Return the text of the page, with single spaces."""
    if run is not None:
        run.write(folder)
    return bare_text(report.make(folder).read_text())


def bare_text(page: str) -> str:
    """Return the text of an HTML page, with single spaces."""
    bare = re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(bare).split())


def text_after(heading: str, text: str) -> str:
    assert heading in text, text
    return text.partition(heading)[2]


# What a page of ours must not let happen, in the ways in which texts come into it.
ATTACKS = (
    "<script>window.hit = 1</script>",
    "</script><script>window.hit = 2</script>",
    "</style><script>window.hit = 3</script>",
    "<img src=x onerror='window.hit = 4'>",
    '" onmouseover="window.hit = 5" autofocus onfocus="window.hit = 5',
    "<a href='javascript:window.hit = 6'>click</a>",
    "<svg onload=window.hit=7>",
    "<!-- ",
    "]]>",
    "{{ 7 * 7 }}",
    "%{customdata}<b>bold</b>",
    "<link rel=stylesheet href=http://127.0.0.1:1/x.css>",
    "<iframe srcdoc='<script>parent.hit = 8</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:1/'>",
)


def made(folder: Path, run: Any) -> Path:
    run.write(folder)
    return report.make(folder)
