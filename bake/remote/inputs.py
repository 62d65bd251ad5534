"""A stage's inputs, as a file of shell assignments that gives back every value byte for byte."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from bake.errors import StageError

LONGEST_B = 128 * 1024  # Linux' MAX_ARG_STRLEN: of "NAME=value" and the zero byte that ends it

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
# Set by us; computed, protected or obeyed by bash; obeyed by the loader and by the C library.
_TAKEN = re.compile(
    r"PATH|HOME|LANG|BAKE_LIB|IFS|PWD|OLDPWD|SHLVL|UID|EUID|PPID|RANDOM|SRANDOM|SECONDS|LINENO"
    r"|GROUPS|DIRSTACK|FUNCNAME|PIPESTATUS|SHELLOPTS|OPTIND|OPTARG|OPTERR|HISTCMD|PS4|ENV|TMOUT|CDPATH"
    r"|GLOBIGNORE|EXECIGNORE|FIGNORE|CHILD_MAX|POSIXLY_CORRECT"
    r"|(?:BASH|EPOCH|COMP_|LD_|LC_|GLIBC_|MALLOC_)\w*"
)


def inputs_file(stage: str, inputs: Mapping[str, str]) -> bytes:
    """`export NAME='value'` for each; StageError for what would not arrive as it is.

    Bytes that are not UTF-8 are written as Python's `surrogateescape` has them.
    """
    return b"".join(_assignment(stage, name, inputs[name]) for name in sorted(inputs))


def _assignment(stage: str, name: str, value: str) -> bytes:
    if not _NAME.fullmatch(name) or _TAKEN.fullmatch(name):
        raise StageError(
            f"stage {stage} cannot have an input named {name!r}",
            hint="Names are capitals, digits and underscores, and none that the shell itself uses.",
        )
    # The messages leave the value out: it may be a secret.
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise StageError(
            f"the input {name} of stage {stage} holds a lone surrogate at {error.start}, "
            "which is no text"
        ) from None
    if b"\0" in raw:
        raise StageError(
            f"the input {name} of stage {stage} holds a zero byte, which no variable can"
        )
    if len(name) + len(raw) + 2 > LONGEST_B:
        raise StageError(
            f"the input {name} of stage {stage} is {len(raw)} bytes long; "
            f"Linux allows {LONGEST_B - len(name) - 2}"
        )
    quoted = shlex.quote(value).encode("utf-8", "surrogateescape")
    return b"export " + name.encode() + b"=" + quoted + b"\n"
