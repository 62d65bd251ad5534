"""Single functions of the stage scripts, run by bash on this computer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.environment import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"
# On a machine, this function changes the user; here, the test's own user runs the command.
_AS_THIS_USER = 'as_login_user() { "$@"; }\n'


def run_function(
    script: str, call: str, folder: Path, *, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Call a function of a script (`stages/d2l.sh`) in `folder`, after the lines `before`.

    The functions of lib.sh are defined, except that nothing runs as another user.
    """
    name = call.split()[0]
    function = re.search(
        rf"^{name}\(\) \{{\n.*?^\}}\n", (SCRIPTS / script).read_text(), re.DOTALL | re.MULTILINE
    )
    assert function, f"{script} has no function {name}"
    lib = f"source '{SCRIPTS}/lib.sh'\ncd '{folder}'\n"
    program = f"set -euo pipefail\n{lib}{_AS_THIS_USER}{before}\n{function[0]}{call}\n"
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=30)
