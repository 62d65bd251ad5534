"""The Xids of a project's own facts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bake import catalog
from bake.errors import RecipeError
from bake.verify.kernel_log import xid_faults


@pytest.fixture(autouse=True)
def only_for_a_test() -> Iterator[None]:
    yield
    catalog.use(None)


@pytest.mark.parametrize(
    "text",
    ['[xid.13]\nwhat = "a fault"\n', '[xid.13]\nwhat = "a fault"\naction = "none"\n', "xid.13 = 1"],
)
def test_xids_of_a_project_that_cannot_be_used_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "xids.toml").write_text(text)
    catalog.use(tmp_path)
    with pytest.raises(RecipeError, match=r"xids\.toml cannot be used: "):
        xid_faults()
