"""The tree of errors.

BakeError                     exit 1: the work failed
├── RequestError              exit 2: the request was wrong, and nothing was started
│   ├── RecipeError           a recipe is invalid (all findings at once)
│   ├── IncompatibleError     the requested versions cannot work together
│   ├── PreflightError        the cloud cannot fulfil this request
│   └── AccessError           credentials or region missing, or an expired token
├── CloudError                an API call failed, or a resource did
│   ├── NoAnswerError         AWS sent no response: the request may have succeeded
│   ├── CapacityError         no capacity in any zone for any requested type
│   ├── MachineError          an instance ended, or never became reachable
│   │   └── LostError         AWS or a person interrupted, stopped or ended it
│   ├── ImageError            an image or a snapshot failed
│   ├── CheckpointError       a checkpoint failed or was removed: use another start
│   └── LeaseError            another run has taken over this bake
├── RemoteError               SSH
│   ├── ConnectError          no connection was possible, or it was lost for good
│   ├── HostKeyError          the machine has another host key than expected
│   └── StageError            a stage ended with a status other than 0
├── VerificationError         the machine is not as its recipe says: no image is made
├── FileError                 a file on this computer cannot be read or written
├── LocalCloudError           the local cloud cannot be started or used here
└── InterruptError            exit 130: the user interrupted a command (only for --json)

Only a command (`bake/cli/command.py`) turns one of these into an exit code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One problem in a request: its place, what is wrong, and what would be right.

    `unknown`: bake does not know whether it is a problem, and `--unchecked` accepts it.
    """

    place: str
    message: str
    hint: str = ""
    unknown: bool = False

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        return f"{text}. {self.hint}" if self.hint else text


class BakeError(Exception):
    """A failure that a person can resolve.

    `hint` says what to do next. `code` and `reason` are the cloud's own words, unchanged.
    `details` are further lines to show: findings, or the last lines of a log.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        reason: str = "",
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.reason = reason
        self.details = tuple(details)

    @property
    def cloud_words(self) -> str:
        """The cloud's own words, `code: reason`; empty if the cloud did not cause the failure."""
        code = (
            "" if self.reason.startswith(f"{self.code}: ") else self.code
        )  # a StateReason repeats it
        return ": ".join(part for part in (code, self.reason) if part)

    @property
    def full_message(self) -> str:
        """`message: code: reason`, in one line: for a log, a table's cell, another error's text."""
        return ": ".join(part for part in (self.message, self.cloud_words) if part)


def error_document(error: BakeError | None) -> dict[str, Any] | None:
    """Return an error as a part of a JSON document, always in this shape. None without an error."""
    if error is None:
        return None

    def text(words: str) -> str:
        """Replace the parts of a file's name that are not UTF-8, which JSON cannot have."""
        return words.encode(errors="replace").decode()

    return {
        "type": type(error).__name__,
        "message": text(error.message),
        "code": text(error.code) or None,
        "reason": text(error.reason) or None,
        "details": [text(line) for line in error.details],
        "hint": text(error.hint) or None,
    }


class RequestError(BakeError):
    exit_code = 2

    def __init__(self, message: str, *, findings: Sequence[Finding] = (), **more: object) -> None:
        more.setdefault("details", [str(finding) for finding in findings])
        super().__init__(message, **more)  # type: ignore[arg-type]
        self.findings = tuple(findings)


class RecipeError(RequestError):
    pass


class IncompatibleError(RequestError):
    pass


class PreflightError(RequestError):
    pass


class AccessError(RequestError):
    pass


class CloudError(BakeError):
    pass


class NoAnswerError(CloudError):
    pass


class CapacityError(CloudError):
    pass


class MachineError(CloudError):
    pass


class LostError(MachineError):
    pass


class ImageError(CloudError):
    pass


class CheckpointError(CloudError):
    pass


class LeaseError(CloudError):
    pass


class RemoteError(BakeError):
    pass


class ConnectError(RemoteError):
    pass


class HostKeyError(RemoteError):
    pass


class StageError(RemoteError):
    pass


class VerificationError(BakeError):
    pass


class FileError(BakeError):
    pass


class LocalCloudError(BakeError):
    pass


class InterruptError(BakeError):
    exit_code = 130
