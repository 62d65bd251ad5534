"""The names that a stage's environment variables may have, and the limit of their length."""

from __future__ import annotations

import re

LONGEST_B = 128 * 1024  # Linux's MAX_ARG_STRLEN, for "NAME=value" and the zero byte at its end

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
# Set by the runner of stages, or used by bash, the dynamic loader or the C library.
_RESERVED = re.compile(
    r"PATH|HOME|LANG|BAKE_LIB|BAKE_FILES|BAKE_GPUS"
    r"|IFS|PWD|OLDPWD|SHLVL|UID|EUID|PPID|RANDOM|SRANDOM|SECONDS|LINENO|GROUPS|DIRSTACK|FUNCNAME|PIPESTATUS|SHELLOPTS|OPTIND|OPTARG|OPTERR|HISTCMD|PS4|ENV|TMOUT|CDPATH"
    r"|GLOBIGNORE|EXECIGNORE|FIGNORE|CHILD_MAX|POSIXLY_CORRECT"
    r"|(?:BASH|EPOCH|COMP_|LD_|LC_|GLIBC_|MALLOC_)\w*"
)


def is_free(name: str) -> bool:
    """Tell whether a stage may have a variable with this name: valid, and not used by the shell."""
    return bool(_NAME.fullmatch(name)) and not _RESERVED.fullmatch(name)
