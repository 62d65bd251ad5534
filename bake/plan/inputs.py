"""A stage's inputs, as a file of shell assignments that gives back every value byte for byte."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bake.errors import StageError
from bake.recipe.variable import LONGEST_B, is_free


def inputs_file(stage: str, inputs: Mapping[str, str]) -> bytes:
    """`export NAME='value'` for each; StageError for what would not arrive as it is.

    Bytes that are not UTF-8 are written as Python's `surrogateescape` has them.
    """
    return b"".join(_assignment(stage, name, inputs[name]) for name in sorted(inputs))


def _assignment(stage: str, name: str, value: str) -> bytes:
    if not is_free(name):
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
