"""The process's stdout and stderr, which may be full, closed, or without a reader."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from bake.errors import FileError


class NoReaderError(Exception):
    """The program that read stdout has ended, such as `head`."""


def write_stdout(text: str) -> None:
    """Write a result. FileError if it cannot be written; NoReaderError if nothing reads it."""
    if sys.stdout is None:
        raise FileError("The result cannot be written to stdout: it is closed")
    try:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:  # the name of a file, which may have any bytes
            sys.stdout.buffer.write(os.fsencode(text))
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
        raise NoReaderError from None
    except OSError as error:
        _discard(sys.stdout)
        raise FileError(f"The result cannot be written to stdout: {error.strerror}") from None


def stdin_is_terminal() -> bool:
    """Return True if a person can type an answer; stdin may be closed."""
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:
        return False


class Stdout(io.TextIOBase):
    """The process's stdout. A result that cannot be written is an error."""

    def write(self, text: str) -> int:
        write_stdout(text)
        return len(text)

    def isatty(self) -> bool:
        try:
            return sys.stdout is not None and sys.stdout.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        if sys.stdout is None:
            raise io.UnsupportedOperation("fileno")
        return sys.stdout.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


class Stderr(io.TextIOBase):
    """The process's stderr. What cannot be written is dropped: a message never ends the work."""

    def write(self, text: str) -> int:
        if stream := _stderr():
            try:
                stream.write(text)
            except (OSError, ValueError):
                _discard(stream)
        return len(text)

    def flush(self) -> None:
        if stream := _stderr():
            try:
                stream.flush()
            except (OSError, ValueError):
                _discard(stream)

    def isatty(self) -> bool:
        stream = _stderr()
        return stream is not None and stream.isatty()

    def fileno(self) -> int:
        stream = _stderr()
        if stream is None:
            raise io.UnsupportedOperation("fileno")
        return stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(_stderr(), "encoding", None) or "utf-8"


def _stderr() -> TextIO | None:
    """Return stderr itself, also while rich shows live lines on it; None if it was closed."""
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def _discard(stream: TextIO) -> None:
    """Redirect a stream to nowhere. Python writes what is left in its buffer when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
