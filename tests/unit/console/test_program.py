"""Commands are written as the program that was typed calls them."""

from __future__ import annotations

import sys

import pytest

from bake.console.program import program_name, typed, typed_verb


@pytest.mark.parametrize(
    ("program", "text", "shown"),
    [
        ("/a/bin/invoke", "Run invoke bake, then `invoke images`", None),
        ("/a/bin/inv", "Run invoke bake", None),
        ("/a/bin/bake", "Run invoke bake, or `invoke run`", "Run bake build, or `bake run`"),
        ("bake", 'eval "$(invoke local.env)"', 'eval "$(bake local.env)"'),
        ("bake", "the commands: invoke --list", "the commands: bake --help"),
        ("bake", "invoke COMMAND --help", "bake COMMAND --help"),
        ("bake", ".venv/bin/invoke bake, to invoke", None),
    ],
)  # fmt: skip
def test_a_text_names_the_commands_of_the_program(
    program: str, text: str, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert typed(text) == (shown or text)


def test_only_bake_calls_a_command_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/bin/bake"])
    assert (program_name(), typed_verb("bake"), typed_verb("plan")) == ("bake", "build", "plan")
    monkeypatch.setattr(sys, "argv", ["/a/bin/invoke"])
    assert (program_name(), typed_verb("bake")) == ("invoke", "bake")
