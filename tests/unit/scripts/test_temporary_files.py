"""Temporary files that the login user owns, on a kernel that protects files in /tmp."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.shell import SCRIPTS


@pytest.mark.parametrize("script", sorted(SCRIPTS.rglob("*.sh")), ids=lambda path: path.stem)
def test_root_does_not_write_into_a_file_of_the_login_user(script: Path) -> None:
    """systemd sets fs.protected_regular, with which the kernel refuses it even to root."""
    text = script.read_text()
    owned = re.findall(r"(\w+)=\$\(as_login_user mktemp\)", text)
    written = [name for name in owned if re.search(rf'>\s*"\${name}"', text)]
    assert written == []
