"""The identity of a local cloud."""

from __future__ import annotations

import os
from pathlib import Path

from bake.local.site import cloud_id


def test_a_home_folder_may_have_any_name(tmp_path: Path) -> None:
    ids = {cloud_id(tmp_path / os.fsdecode(name)) for name in (b"a", b"\xff", b"\xe4")}
    assert len(ids) == 3
