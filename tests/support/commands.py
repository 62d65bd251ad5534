"""Commands as people type them, without a process for each: starting one takes half a second."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

from invoke.exceptions import Exit
from invoke.program import Program

import tasks
from tests.support.documents import checked
from tests.support.environment import REPOSITORY


@dataclass(frozen=True)
class Ended:
    """What a command has printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def invoke(*words: str) -> Ended:
    """Run `invoke WORDS` in this process, without a terminal; with --json, check its document."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(REPOSITORY),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO()),
        mock.patch.object(sys, "argv", ["invoke", *words]),
        # Invoke changes these.
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.object(sys, "dont_write_bytecode", sys.dont_write_bytecode),
        _module_kept("tasks"),
    ):
        try:
            Program().run(["invoke", *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
    options = words[: words.index("--")] if "--" in words else words
    if "--json" in options and not {"-h", "--help"} & set(options):
        document = checked(words[0], out.getvalue())
        assert (document["error"] is None) == (code == 0), document["error"]
    return Ended(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _module_kept(name: str) -> Iterator[None]:
    before = sys.modules.get(name)
    yield
    sys.modules.pop(name, None)
    if before is not None:
        sys.modules[name] = before


def parse(*words: str) -> str:
    """Parse `invoke WORDS` without running anything; return the message if that is refused."""
    program = Program(namespace=tasks.namespace)
    try:
        program.create_config()
        program.parse_core(["invoke", *words])
        program.parse_collection()
        program.parse_tasks()
    except Exit as refused:
        return str(refused.message or "") if refused.code else ""
    return ""
