"""EC2's delays: profiles, and the states during a delay."""

from __future__ import annotations

from pathlib import Path

import pytest

from bake.errors import LocalCloudError
from bake.local import delays


def test_profile_of_ec2_is_whole_and_scaled(tmp_path: Path) -> None:
    ec2 = delays.load("ec2")
    assert all(getattr(ec2, name) > 0 for name in vars(ec2) if name != "name")
    tenth = tmp_path / "tenth.toml"
    tenth.write_text(
        (delays.PROFILES / "ec2.toml").read_text().replace("scale = 1.0", "scale = 0.1")
    )
    assert delays.load(str(tenth)).boot_s == pytest.approx(ec2.boot_s / 10)
    assert delays.load("") == delays.NONE == delays.Delays()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("boot_s = -1", "invalid number for boot_s"),
        ("boot_s = true", "invalid number for boot_s"),
        ("boots = 1", "unknown delay boots"),
        ("scale = 'x'", "invalid number for scale"),
        ("scale =", "cannot be read"),
    ],
)
def test_an_invalid_profile_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(LocalCloudError, match=says):
        delays.load(str(path))


def test_an_unknown_profile_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(LocalCloudError) as caught:
        delays.load("azure")
    assert "ec2" in caught.value.hint
