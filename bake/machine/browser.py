"""Open this computer's browser at an address that contains a token."""

from __future__ import annotations

import html
import os
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bake.files import home, make_folder, write_file

# The command that starts a browser may run as long as the browser is open.
_STARTS_S = 10.0


@contextmanager
def redirect_page(name: str, url: str) -> Iterator[Path]:
    """Write a temporary page that redirects to `url` and that only its owner can read.

    The browser is started with the page's path, because every user of this computer can see a
    browser's arguments, and `url` contains a token.
    """
    path = home() / f"jupyter-{name}.html"
    make_folder(path.parent, mode=0o700)
    target = html.escape(url)
    write_file(
        path,
        f'<!doctype html><meta charset="utf-8"><title>Jupyter</title>'
        f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Jupyter</a>\n',
    )
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def open_page(page: Path) -> bool:
    """Open a page. Return False if no browser is found, or only one that needs this terminal."""
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
