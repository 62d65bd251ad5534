"""The description of a plan in the tags of an image: what its digests are computed from."""

from __future__ import annotations

import base64
import re
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake.aws import tags as aws_tags
from bake.plan import description
from bake.plan.plan import Plan
from tests.support.plans import (
    BASE,
    RECIPES,
    Parts,
    changed,
    plan_of,
    plans,
    real_plan,
)

UBUNTU = "ubuntu/images/hvm-ssd/ubuntu-bionic-18.04-amd64-server-20230607"


def test_plan_and_aws_agree_on_the_longest_value_of_a_tag() -> None:
    assert description.LONGEST_VALUE == aws_tags.LONGEST_VALUE


@pytest.mark.parametrize("name", RECIPES)
def test_the_full_description_of_an_included_recipe_fits_into_its_tags(name: str) -> None:
    plan = real_plan(RECIPES[name])
    tags = description.describe(plan, base_image_name=UBUNTU)
    assert 1 <= len(tags) <= description.MOST_PIECES
    assert all(re.fullmatch(r"[A-Za-z0-9+/=]{1,256}", value) for value in tags.values())
    assert description.read(tags) == description.description(plan, UBUNTU)


@settings(deadline=None, max_examples=50)
@given(plans(), st.text(st.characters(exclude_categories=["Cs"]), max_size=128))
def test_the_description_of_a_plan_of_any_size_can_be_read(plan: Plan, name: str) -> None:
    tags = description.describe(plan, base_image_name=name)
    assert set(tags) == {f"bake:plan:{n}" for n in range(len(tags))}
    assert len(tags) <= description.MOST_PIECES
    assert all(1 <= len(value) <= 256 for value in tags.values())
    assert tags == description.describe(plan, base_image_name=name)
    found = description.read({"other": "x", **tags})
    possible = [description.description(plan, name, kept=kept) for kept in description._KEPT]
    if tags:
        assert found in possible
    else:
        assert found is None
        assert all(len(description._pack(each)) > 6 * 256 for each in possible)


def test_an_image_with_many_tags_has_a_shorter_description() -> None:
    for room in range(description.MOST_PIECES):
        tags = description.describe(real_plan(), room=room)
        assert len(tags) <= room
        assert (description.read(tags) is not None) == bool(tags)
    assert description.describe(real_plan(), room=5)


def test_a_plan_that_is_too_large_has_no_description() -> None:
    parts: Parts = {f"stage-{n}": (str(n).encode(), (), {}) for n in range(400)}
    assert description.describe(plan_of(parts)) == {}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("https://me:s3cr3t@pypi.example.org/simple", "https://***@pypi.example.org/simple"),
        ("https://me:s3@cr3t@pypi.example.org", "https://***@pypi.example.org"),
        ("x @ git+https://s3cr3t@example.org/x.git@v1", "x @ git+https://***@example.org/x.git@v1"),
        (
            "x @ https://example.org/x.whl?sig=s3cr3t#sha256=ab",
            "x @ https://example.org/x.whl?***#sha256=ab",
        ),
        ("a\nhttps://u:s3cr3t@h/p?k=s3cr3t\nb", "a\nhttps://***@h/p?***\nb"),
        ("pip==1; python_version<'3.8'", "pip==1; python_version<'3.8'"),
    ],
)
def test_a_description_contains_no_secret(value: str, kept: str) -> None:
    plan = plan_of(changed(BASE, "conda", inputs={"URL": value}))
    tags = description.describe(plan)
    assert b"s3cr3t" not in zlib.decompress(base64.b64decode("".join(tags.values())))
    found = description.read(tags)
    assert found is not None
    assert found.stages["conda"].inputs == {"URL": kept}


def test_the_stages_of_the_base_image_are_described_too() -> None:
    """A recipe whose base is another recipe's image has what that image has, also in a launch."""
    base_tags = description.describe(real_plan())
    own = plan_of({"team": (b"team", (), {"GREETING": "hello"})})
    found = description.read(description.describe(own, base_tags=base_tags))
    assert found
    assert set(found.stages) == {"team"}
    assert {"drivers", "cuda", "d2l"} <= set(found.base)
    assert description.installed_stages(description.describe(own, base_tags=base_tags)) == {
        *found.stages,
        *found.base,
    }
    assert description.installed_stages({}) == frozenset()


def test_the_description_of_a_base_gets_shorter_as_well() -> None:
    base_tags = description.describe(real_plan())
    own = plan_of({"team": (b"team", (), {})})
    tags = description.describe(own, base_tags=base_tags, room=5)
    found = description.read(tags)
    assert found
    assert len(tags) <= 5
    assert "drivers" in found.base
