"""Environment variables that a stage can be given: their names, and how long a value may be."""

from __future__ import annotations

import re

LONGEST_B = 128 * 1024  # Linux' MAX_ARG_STRLEN: of "NAME=value" and the zero byte that ends it

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
# Set by us; computed, protected or obeyed by bash; obeyed by the loader and by the C library.
_TAKEN = re.compile(
    r"PATH|HOME|LANG|BAKE_LIB|IFS|PWD|OLDPWD|SHLVL|UID|EUID|PPID|RANDOM|SRANDOM|SECONDS|LINENO"
    r"|GROUPS|DIRSTACK|FUNCNAME|PIPESTATUS|SHELLOPTS|OPTIND|OPTARG|OPTERR|HISTCMD|PS4|ENV|TMOUT|CDPATH"
    r"|GLOBIGNORE|EXECIGNORE|FIGNORE|CHILD_MAX|POSIXLY_CORRECT"
    r"|(?:BASH|EPOCH|COMP_|LD_|LC_|GLIBC_|MALLOC_)\w*"
)


def is_free(name: str) -> bool:
    """Whether it is the name of a variable, and none that the shell itself uses."""
    return bool(_NAME.fullmatch(name)) and not _TAKEN.fullmatch(name)
