"""Errors: what is shown of the cloud's own words."""

from __future__ import annotations

import pytest

from bake.errors import BakeError


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        ("", "", ""),
        ("", "It is full.", "It is full."),
        ("Full", "", "Full"),
        ("Full", "It is full.", "Full: It is full."),
        # As EC2 writes a StateReason.
        ("Client.Stopped", "Client.Stopped: User stopped it", "Client.Stopped: User stopped it"),
    ],
)
def test_the_cloud_s_words_have_their_code_once(code: str, reason: str, words: str) -> None:
    error = BakeError("It failed", code=code, reason=reason)
    assert error.cloud_words == words
    assert error.full_message == ("It failed: " + words if words else "It failed")
