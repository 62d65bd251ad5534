"""Choosing an image, and the message if none or several match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from bake.aws.image import Image, images
from bake.aws.tags import DIGEST, RECIPE, RUN, VERIFIED
from bake.errors import CloudError, RequestError
from bake.images import selection
from bake.images.selection import choose_image
from tests.support.aws_in_process import ACCOUNT, REGION, Aws, aws_in_process
from tests.support.proved_images import an_image as proved_image

GPU = ("gpu",)
ANYTHING = ("gpu", "cpu", "no")
ELSEWHERE = "eu-west-1"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def an_image(number: int, *, day: int, recipe: str = "mxnet-cu101", verified: str = "gpu") -> Image:
    image = proved_image(f"ami-{number:017x}", day=day, verified=verified, recipe=recipe)
    name = f"bake/{recipe}/202611{day:02}-120000-{number:08x}"
    return replace(image, name=name, imdsv2=True)


NEW = an_image(3, day=20, verified="cpu")
PROVED = an_image(2, day=10)
OTHER = an_image(4, day=5, recipe="pytorch-cu126")
OLD = an_image(1, day=1)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    """The account's images in every region, the newest first, as `images` returns them."""
    there = [NEW, PROVED, OTHER, OLD]
    monkeypatch.setattr(
        selection, "images", lambda cloud, once=False: there if cloud.region == REGION else []
    )
    monkeypatch.setattr(
        selection,
        "find_image",
        lambda cloud, image_id: next((i for i in there if i.image_id == image_id), None),
    )
    return there


@pytest.mark.parametrize(
    ("asked", "proved", "taken"),
    [
        ("mxnet-cu101", GPU, PROVED),
        ("mxnet-cu101", ANYTHING, NEW),
        ("pytorch-cu126", GPU, OTHER),
        (OLD.name, GPU, OLD),
        (OLD.name.removeprefix("bake/"), GPU, OLD),
        ("mxnet-cu101/202611", ("cpu",), NEW),
        ("mxnet-cu101/20261101", GPU, OLD),
        ("pytorch", GPU, OTHER),
        (OLD.image_id, GPU, OLD),
    ],
)
def test_an_image_is_meant_by_id_recipe_name_or_its_beginning(
    aws: Aws, there: list[Image], asked: str | None, proved: tuple[str, ...], taken: Image
) -> None:
    assert choose_image(aws.cloud, asked, proved=proved) == taken


@pytest.mark.parametrize(("proved", "taken"), [(GPU, PROVED), (("gpu", "cpu"), NEW)])
def test_without_a_name_the_newest_of_the_only_recipe_is_meant(
    aws: Aws, there: list[Image], proved: tuple[str, ...], taken: Image
) -> None:
    there.remove(OTHER)
    assert choose_image(aws.cloud, None, proved=proved) == taken


def test_a_recipe_without_an_image_of_the_required_proof_does_not_count(
    aws: Aws, there: list[Image]
) -> None:
    there[:] = [replace(OTHER, tags={**OTHER.tags, VERIFIED: "no"}), OLD]
    assert choose_image(aws.cloud, None, proved=GPU) == OLD


def test_without_a_name_the_newest_of_several_recipes_is_not_guessed(
    aws: Aws, there: list[Image]
) -> None:
    with pytest.raises(RequestError, match="2 recipes have images in us-east-1") as refused:
        choose_image(aws.cloud, None, proved=GPU)
    listed = [detail.split()[0] for detail in refused.value.details]
    assert listed == [PROVED.image_id, OTHER.image_id]  # the newest of each
    assert "--ami mxnet-cu101" in refused.value.hint
    asked: list[list[Image]] = []

    def ask(images: Sequence[Image]) -> Image:
        asked.append(list(images))
        return images[1]

    assert choose_image(aws.cloud, None, proved=GPU, ask=ask) == OTHER
    assert asked == [[PROVED, OTHER]]


@pytest.mark.parametrize("asked", ["mxnet", "bake/mxnet-cu101/2026"])
def test_several_that_match_a_name_are_listed(aws: Aws, there: list[Image], asked: str) -> None:
    with pytest.raises(RequestError, match="is ambiguous") as refused:
        choose_image(aws.cloud, asked, proved=GPU)
    assert [detail.split()[0] for detail in refused.value.details] == [
        PROVED.image_id,
        OLD.image_id,
    ]
    assert "a recipe" in refused.value.hint


def test_one_on_which_less_was_proved_is_refused_even_by_its_id_unless_that_is_asked_for(
    aws: Aws, there: list[Image]
) -> None:
    with pytest.raises(RequestError, match="bake:verified=gpu") as refused:
        choose_image(aws.cloud, NEW.image_id, proved=GPU)
    assert refused.value.details == (f"{NEW.image_id}  {NEW.name}: cpu",)
    assert "--unverified" in refused.value.hint
    assert choose_image(aws.cloud, NEW.image_id, proved=ANYTHING) == NEW


def test_without_a_verified_image_all_that_there_are_are_listed(
    aws: Aws, there: list[Image]
) -> None:
    there[:] = [NEW, replace(OTHER, tags={**OTHER.tags, VERIFIED: "no"})]
    with pytest.raises(RequestError, match="No image with the required proof") as refused:
        choose_image(aws.cloud, None, proved=GPU)
    assert [detail.rpartition(" ")[2] for detail in refused.value.details] == ["cpu", "no"]


@pytest.mark.parametrize(
    ("asked", "listed"), [(None, 0), ("tensorflow", 1), ("ami-0000000000000009", 1)]
)
def test_without_an_image_it_says_which_there_are_and_how_one_is_made(
    aws: Aws, there: list[Image], asked: str | None, listed: int
) -> None:
    there[:] = [PROVED][:listed]
    with pytest.raises(RequestError, match="No available image") as refused:
        choose_image(aws.cloud, asked, proved=GPU)
    assert len(refused.value.details) == listed
    assert refused.value.hint.endswith("invoke bake pytorch-cu126")


def test_an_image_of_a_recipe_is_made_by_its_bake(aws: Aws, there: list[Image]) -> None:
    there[:] = []
    with pytest.raises(RequestError, match="No available image") as refused:
        choose_image(aws.cloud, "tensorflow", proved=GPU, recipes=["tensorflow"])
    assert refused.value.hint == "Bake one: invoke bake tensorflow"


@pytest.mark.parametrize("by", ["id", "name"])
@pytest.mark.parametrize("state", ["pending", "failed"])
def test_an_image_that_is_not_available_is_refused_with_its_state(
    aws: Aws, there: list[Image], by: str, state: str
) -> None:
    reason = "The snapshot failed" if state == "failed" else ""
    there[:] = [replace(OLD, state=state, reason=reason)]
    with pytest.raises(RequestError, match=f"{OLD.image_id} is {state}") as refused:
        choose_image(aws.cloud, OLD.image_id if by == "id" else OLD.name, proved=GPU)
    assert refused.value.reason == reason
    assert "invoke images" in refused.value.hint


def test_the_newest_is_the_newest_that_is_finished(aws: Aws, there: list[Image]) -> None:
    """One bake was killed before it required IMDSv2 for its image; another image is pending."""
    there[:] = [replace(PROVED, imdsv2=False), replace(PROVED, state="pending"), OLD]
    assert choose_image(aws.cloud, None, proved=GPU) == OLD
    del there[2]
    with pytest.raises(RequestError, match="These images are not available") as refused:
        choose_image(aws.cloud, "mxnet-cu101", proved=GPU)
    assert len(refused.value.details) == 2


# In other regions ---------------------------------------------------------------------------------


def in_region(aws: Aws, region: str, name: str) -> str:
    """Make an image in the region, and return its id."""
    cloud = aws.cloud.in_region(region)
    source = aws.base_image(owner_id=ACCOUNT, name=name, region_name=region)
    copied = cloud.ec2(
        "CopyImage", Name=name, SourceImageId=source, SourceRegion=REGION, ClientToken=name
    )["ImageId"]
    tags = {RUN: "r", DIGEST: "d", RECIPE: "mxnet-cu101", VERIFIED: "gpu"}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    cloud.ec2("CreateTags", Resources=[copied], Tags=pairs)
    # Three regions are as good as all of them, and sooner asked.
    few = [{"RegionName": each} for each in (REGION, ELSEWHERE, "ap-south-1")]
    aws.alter("DescribeRegions", lambda answer: answer.update(Regions=few))
    return str(copied)


@pytest.mark.parametrize("by", ["id", "name", "recipe", "nothing"])
def test_an_image_of_another_region_is_named_with_the_command_that_copies_it(
    aws: Aws, by: str
) -> None:
    image_id = in_region(aws, ELSEWHERE, "bake/mxnet-cu101/1")
    asked = {"id": image_id, "name": "bake/mxnet-cu101/1", "recipe": "mxnet-cu101", "nothing": None}
    with pytest.raises(RequestError, match=f"in {REGION}, but in {ELSEWHERE}") as refused:
        choose_image(aws.cloud, asked[by], proved=GPU)
    copy = f"invoke copy {image_id} --region {ELSEWHERE} --to {REGION}"
    assert copy in refused.value.hint
    assert f"{ELSEWHERE}  {image_id}  bake/mxnet-cu101/1" in refused.value.details


def test_other_regions_are_a_hint_and_not_asked_twice(aws: Aws) -> None:
    """If another region cannot be searched, the message is about this region alone."""
    in_region(aws, ELSEWHERE, "bake/mxnet-cu101/1")
    aws.refuse("DescribeRegions", "UnauthorizedOperation", times=1)
    with pytest.raises(RequestError, match="No available image"):
        choose_image(aws.cloud, "mxnet-cu101", proved=GPU)
    before = aws.sent.count("DescribeImages")
    with pytest.raises(RequestError, match="but in"):
        choose_image(aws.cloud, "mxnet-cu101", proved=GPU)
    assert aws.sent.count("DescribeImages") - before == 3
    aws.refuse("DescribeImages", "Unavailable", status=503)
    before = aws.sent.count("DescribeImages")
    with pytest.raises(CloudError):
        images(aws.cloud.in_region(ELSEWHERE), once=True)
    assert aws.sent.count("DescribeImages") - before == 1
