from __future__ import annotations

import subprocess
from pathlib import Path

from bake.ssh import keys


def test_repr_hides_the_private_half() -> None:
    pair = keys.generate()
    assert "PRIVATE" in pair.private_openssh
    assert "PRIVATE" not in repr(pair)
    assert pair.private_openssh.splitlines()[1] not in repr(pair)


def test_each_key_pair_is_different() -> None:
    assert keys.generate() != keys.generate()


def test_openssh_derives_the_public_half_from_the_private_half(tmp_path: Path) -> None:
    pair = keys.generate()
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(pair.private_openssh)
    found = subprocess.run(
        ["ssh-keygen", "-y", "-f", file], check=True, capture_output=True, text=True
    )
    assert found.stdout.split()[:2] == pair.public_openssh.split()
