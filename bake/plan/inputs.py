"""The file of shell assignments that carries a stage's inputs, byte for byte."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bake.errors import StageError
from bake.recipe.variable import LONGEST_B, is_free


def inputs_file(stage: str, inputs: Mapping[str, str]) -> bytes:
    """Return a line `export NAME='value'` for each input.

    StageError for a name or a value that a variable cannot have. Bytes that are not UTF-8 are
    restored from Python's `surrogateescape`.
    """
    return b"".join(_assignment(stage, name, inputs[name]) for name in sorted(inputs))


def _assignment(stage: str, name: str, value: str) -> bytes:
    if not is_free(name):
        raise StageError(
            f"stage {stage} cannot have an input named {name!r}",
            hint="Names are capitals, digits and underscores, and not one that the shell uses.",
        )
    # The messages omit the value, because it may be a secret.
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise StageError(
            f"the input {name} of stage {stage} holds a lone surrogate at {error.start}, "
            "which is not valid text"
        ) from None
    if b"\0" in raw:
        raise StageError(
            f"the input {name} of stage {stage} holds a zero byte, which a variable cannot hold"
        )
    if len(name) + len(raw) + 2 > LONGEST_B:
        raise StageError(
            f"the input {name} of stage {stage} is {len(raw)} bytes long; "
            f"Linux allows {LONGEST_B - len(name) - 2}"
        )
    quoted = shlex.quote(value).encode("utf-8", "surrogateescape")
    return b"export " + name.encode() + b"=" + quoted + b"\n"
