"""A known failure: the pattern that recognises it, its cause, and its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Diagnosis:
    """One fault, its cause, and a hint about what to do."""

    what: str
    why: str = ""
    what_to_do: str = ""

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}. {self.what_to_do}" if self.what_to_do else text


@dataclass(frozen=True)
class Known:
    """A known failure, and the regular expression that recognises it.

    `pattern` is searched in text on one line, without the kernel's time stamps. Its named groups
    replace the fields in `what` and `why`. `exit_status` is nvidia-smi's (its manual page, RETURN
    VALUE).
    """

    what: str
    why: str
    what_to_do: str
    pattern: str
    exit_status: int | None = None

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.IGNORECASE)

    def find_all(self, text: str) -> Iterator[Diagnosis]:
        """Yield a diagnosis for each time that the text, on one line, shows this failure."""
        for match in self._compiled.finditer(text):
            yield self._diagnosis(match.groupdict())

    def from_exit_status(self) -> Diagnosis:
        """Return the diagnosis for a failed program if only its exit status is known."""
        return self._diagnosis(dict.fromkeys(self._compiled.groupindex))

    def _diagnosis(self, groups: dict[str, str | None]) -> Diagnosis:
        values = {name: value or "unknown" for name, value in groups.items()}
        return Diagnosis(self.what.format_map(values), self.why.format_map(values), self.what_to_do)


ANOTHER_MACHINE = (
    "Bake again, which starts another machine. If it happens again, report the instance id to AWS."
)
REBOOT = "Reboot the machine. If the fault remains, bake again, which starts another machine."
READ_THE_LOG = "The reason is in the kernel's log: run `sudo dmesg | grep NVRM` on the machine."
DRIVERS_LOG = "Read the log of the stage drivers."
CUDA_LOG = "Read the log of the stage cuda."
FRAMEWORK_LOG = "Read the log of the stage that installs the framework."
