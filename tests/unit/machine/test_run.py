"""What `invoke run` runs, and on which machine."""

from __future__ import annotations

import pytest

from bake.errors import RequestError
from bake.machine.run import read_request


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (("nvidia-smi",), (None, "nvidia-smi")),
        (("--", "nvidia-smi"), (None, "nvidia-smi")),
        (("cd a && ls *",), (None, "cd a && ls *")),
        (("lab1", "--", "cd a && ls *"), ("lab1", "cd a && ls *")),
        (("lab1", "--", "python", "-c", "print(1, 2)"), ("lab1", "python -c 'print(1, 2)'")),
        (("--", "ls", "a b", "*", ""), (None, "ls 'a b' '*' ''")),
        (("lab1", "--", "git", "checkout", "--", "file"), ("lab1", "git checkout -- file")),
    ],
)
def test_the_machine_is_before_the_dashes_and_the_command_behind_them(
    words: tuple[str, ...], request_: tuple[str | None, str]
) -> None:
    assert read_request(words) == request_


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ((), "No command given", "invoke run -- nvidia-smi"),
        ((" ",), "No command given", "invoke run -- nvidia-smi"),
        (("lab1", "--"), "No command given for the machine lab1", "invoke run lab1 -- nvidia-smi"),
        (("lab1", "hostname"), "There must be -- in front", "invoke run lab1 -- hostname"),
        (("ls", "a b"), "There must be -- in front", "invoke run -- ls 'a b'"),
        (("lab1", "lab2", "--", "ls"), "several are named: lab1 lab2", "Name one machine"),
    ],
)
def test_a_request_that_could_be_misunderstood_is_refused(
    words: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        read_request(words)
    assert hint in refused.value.hint
