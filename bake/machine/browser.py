"""This computer's browser, opened at an address that opens doors."""

from __future__ import annotations

import html
import os
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bake.files import home

# A browser that is started by a command may stay in it for as long as it is open.
_STARTS_S = 10.0


@contextmanager
def redirect_page(name: str, url: str) -> Iterator[Path]:
    """A page that leads there, and that only its owner can read; gone afterwards.

    Everybody on this computer sees a browser's argument list, and so no token belongs there.
    """
    path = home() / f"jupyter-{name}.html"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left by one that was killed
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        target = html.escape(url)
        file.write(
            f'<!doctype html><meta charset="utf-8"><title>Jupyter</title>'
            f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Jupyter</a>\n'
        )
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def open_page(page: Path) -> bool:
    """Open it; False when there is no browser but one of the terminal, which is in use."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    in_terminal = type(browser) is webbrowser.GenericBrowser
    if in_terminal and not os.environ.get("BROWSER"):
        return False
    outcome: list[bool] = []
    opening = threading.Thread(
        target=lambda: outcome.append(browser.open(page.absolute().as_uri())), daemon=True
    )
    opening.start()
    opening.join(_STARTS_S)
    return outcome != [False]
