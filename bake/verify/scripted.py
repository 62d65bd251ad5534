"""The checks that are scripts: those in `scripts/checks`, which recipes and their stages choose."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from time import monotonic

from bake import files
from bake.verify.check import Failed, Shell, Skipped, run_command
from bake.verify.diagnosis import verbatim
from bake.verify.known import Diagnosis

# A check may load a large model from a disk whose blocks are still in S3.
CHECK_TIMEOUT_S = 900
# The machine ends a check at its time limit. If that fails, this side gives up this much later.
_OVERTIME_S = 60
SKIPPED = 77  # as in Automake's tests
_TIMED_OUT = (124, 137)  # of the program `timeout`; 137 if the check ignored the signal to end

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[@-_])|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class CheckScript:
    """A script that checks a machine. `inputs` are shell assignments (`bake.plan.inputs`)."""

    name: str
    body: bytes
    inputs: bytes = b""


def run_script(
    shell: Shell, script: CheckScript, *, gpus: int, limit_s: float = CHECK_TIMEOUT_S
) -> str:
    """Run a check on the machine, and return the last line of its output.

    Skipped if its exit status is 77; Failed for any other status than 0. `gpus` is the number of
    the machine's NVIDIA GPUs.
    """
    program = (files.on_machine("bake.verify") / "check.sh").read_text()
    arguments = [script.name, f"{limit_s:g}", str(gpus), str(len(script.inputs))]
    began = monotonic()
    done = run_command(
        shell,
        shlex.join(["bash", "--norc", "-c", program, "bake", *arguments]),
        stdin=script.inputs + script.body,
        timeout_s=limit_s + _OVERTIME_S,
    )
    said = _last_line(done.stdout)
    if done.exit_status == 0:
        return said or "passed without a word"
    if done.exit_status == SKIPPED:
        raise Skipped(said or "it does not apply to this machine")
    why = f"exit status {done.exit_status}"
    if done.exit_status in _TIMED_OUT and monotonic() - began >= limit_s:
        why = f"it did not end within {limit_s:g} s"
    what = said or _last_line(done.stderr) or "it failed without a word"
    errors = verbatim(_ESCAPE.sub("", done.stderr))
    if errors not in ("", what):
        why += f", and it printed: {errors}"
    raise Failed(Diagnosis(what, why, f"Read scripts/checks/{script.name}.sh"))


def _last_line(output: str) -> str:
    lines = [line.strip() for line in _ESCAPE.sub("", output).splitlines()]
    return next((verbatim(line) for line in reversed(lines) if line), "")
