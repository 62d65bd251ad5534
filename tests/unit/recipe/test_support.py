"""The warning about an operating system without security updates."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from bake import catalog
from bake.recipe.support import check_support

CANONICAL = "099720109477"


@pytest.mark.parametrize("key", catalog.load().os_images)
def test_the_warning_begins_on_the_day_after_the_last_updates(key: str) -> None:
    os_image = catalog.load().os_image(key)
    last, day = os_image.security_until, timedelta(days=1)
    assert check_support(os_image, last) == []
    [after] = check_support(os_image, last + day)
    assert ("Ubuntu Pro has updates until" in after.hint) == (os_image.pro_until is not None)
    assert (os_image.pro_until is not None) == (os_image.owner == CANONICAL and not os_image.like)
    [later] = check_support(os_image, date(2050, 1, 1))
    assert "Ubuntu Pro" not in later.hint
