"""Images as people read them, on 80 columns, and as documents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bake.aws.image import Image
from bake.cli.views.images import show_images
from bake.console.console import Console
from bake.plan import description
from tests.support.documents import document_of
from tests.support.finished_images import IMAGE, NOW
from tests.support.offers import CATALOG
from tests.support.plans import RECIPES, real_plan
from tests.support.terminal import shown_in_terminal


def image_of(recipe: str, **more: str) -> Image:
    plan = description.describe(real_plan(RECIPES[recipe]))
    tags = {**plan, "bake:recipe": recipe, "bake:verified": "gpu", **more}
    return replace(IMAGE, tags=tags)


def shown(*images: Image, usd: float | None = 0.05, columns: int = 80) -> list[str]:
    lines = shown_in_terminal(
        lambda: show_images(Console(), CATALOG, images, NOW, usd), columns
    ).splitlines()
    assert all(len(line) <= columns for line in lines), lines
    return lines


def test_an_image_is_shown_with_what_is_in_it_and_costs() -> None:
    lines = shown(image_of("mxnet-cu101"))
    assert lines == [
        "image                  recipe       in it        proved  GB  $/month  age",
        "ami-0123456789abcdef0  mxnet-cu101  CUDA 10.1    gpu     64     3.20  60 d",
        "                                    mxnet 1.7.0",
        "$/month is the highest possible cost: EBS bills only the blocks in use.",
    ]


def test_what_is_long_is_folded_and_ids_stay_whole() -> None:
    stand_in = image_of("mxnet-cu118-debian12", **{"bake:payload": "stand-in"})
    pending = replace(image_of("pytorch-cu126"), state="pending", size_gb=1024)
    unknown = replace(IMAGE, tags={"bake:recipe": "r" * 60})
    lines = shown(stand_in, pending, unknown)
    text = "\n".join(lines)
    assert text.count(IMAGE.image_id) == 3
    recipes = [line[lines[0].index("recipe") : lines[0].index("in it")] for line in lines[1:-1]]
    assert "mxnet-cu118-debian12" in "".join(part.strip() for part in recipes)
    assert "".join(recipes).count("r" * 5) > 1
    for whole in ("gpu,", "pytorch 2.9.1", "CUDA 12.6", "pending", "51.20", "1024"):
        assert whole in text, whole


def test_a_price_that_is_not_known_is_a_question_mark() -> None:
    assert shown(image_of("mxnet-cu101"), usd=None)[1].split()[-3:] == ["?", "60", "d"]


def test_a_wide_terminal_shows_the_name_too() -> None:
    assert IMAGE.name in shown(image_of("mxnet-cu101"), columns=140)[1]


def test_the_document_has_the_price(capsys: pytest.CaptureFixture[str]) -> None:
    images = [image_of("mxnet-cu101")]
    found = document_of(lambda console: show_images(console, CATALOG, images, NOW, 0.05), capsys)
    [document] = found["images"]
    assert (document["image_id"], document["usd_per_month_at_most"]) == (IMAGE.image_id, 3.2)
