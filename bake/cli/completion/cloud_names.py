"""The names and ids of machines and images, for completion: a shell must not wait for AWS.

A process in the background gets them from AWS and remembers them in a file. The shell waits for it
a moment; after that, it takes what was remembered before. Nothing here prints, starts or asks.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bake import files
from bake.cli.completion.candidate import Candidate

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud

FRESH_S = 20  # remembered names that are younger are not requested again
WAIT_S = 1.5  # how long the shell waits for new names
LIMIT_S = 30  # how long the background process may take
KEPT_S = 7 * 24 * 3600
_SECRET = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def machine_names(word: str, *, local: bool, region: str | None) -> list[Candidate]:
    """Return the ids of machines if `word` begins like one, else their names.

    A machine without a name of its own, and one that a bake uses, is selected by its id.
    """

    def find() -> list[Candidate]:
        from bake.aws.machine import machines

        found = machines(_connect(local, region))
        names = [each.name for each in found]
        answer = []
        for each in found:
            text = f"{each.instance_type}, {each.state}"
            text += f" ({each.used_by})" if each.used_by else ""
            answer.append(Candidate(each.instance_id, f"{each.name}: {text}"))
            if each.name and names.count(each.name) == 1 and not each.used_by:
                answer.append(Candidate(each.name, text))
        return answer

    known = _names("machines", find, local=local, region=region)
    own = [each for each in known if not each.name.startswith("i-")]
    return known if word.startswith("i-") or not own else own


def image_names(word: str, *, local: bool, region: str | None) -> list[Candidate]:
    """Return the ids of images if `word` begins like one, else their names."""

    def find() -> list[Candidate]:
        from bake.aws.image import images

        found = images(_connect(local, region))
        ids = [Candidate(each.image_id, each.name) for each in found]
        return ids + [Candidate(each.name, each.image_id) for each in found]

    known = _names("images", find, local=local, region=region)
    return [each for each in known if each.name.startswith("ami-") == word.startswith("ami-")]


def _connect(local: bool, region: str | None) -> Cloud:
    from bake.aws.client.session import connect
    from bake.errors import LocalCloudError
    from bake.local import control

    if local:
        endpoint = control.status()
        if endpoint is None:
            raise LocalCloudError("The local cloud does not run")
        control.use(endpoint)
    return connect(region)


def _names(
    kind: str, find: Callable[[], list[Candidate]], *, local: bool, region: str | None
) -> list[Candidate]:
    path = files.cache() / "completion" / f"{kind}-{_account(local, region)}.json"
    if not _is_fresh(path):
        _refresh_in_background(path, find)
    return _read(path)


def _account(local: bool, region: str | None) -> str:
    """Return a digest of all settings that select an account and a region."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("AWS_") and name not in _SECRET
    }
    chosen = [str(files.home()) if local else settings, region]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def _is_fresh(path: Path) -> bool:
    try:
        return 0 <= time.time() - path.stat().st_mtime < FRESH_S
    except OSError:
        return False


def _read(path: Path) -> list[Candidate]:
    try:
        return [Candidate(str(name), str(text)) for name, text in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def refresh(path: Path, find: Callable[[], Iterable[Candidate]]) -> None:
    """Remember the names that `find` returns; none if it fails, so that it is not repeated soon."""
    try:
        names = [list(each) for each in find()]
    except Exception:
        names = []
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_file(path, json.dumps(names))
    for other in path.parent.glob("*.json"):
        if time.time() - other.stat().st_mtime > KEPT_S:
            other.unlink(missing_ok=True)


def _refresh_in_background(path: Path, find: Callable[[], list[Candidate]]) -> None:
    child = os.fork()
    if child == 0:
        try:
            _leave_the_shell()
            refresh(path, find)
        finally:
            os._exit(0)
    ends = time.monotonic() + WAIT_S
    with suppress(ChildProcessError):
        while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < ends:
            time.sleep(0.02)


def _leave_the_shell() -> None:
    """Give up the terminal, so that nothing asks for a code there, and the streams of the shell."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    signal.alarm(LIMIT_S)
