"""Bakes onto a base of one's own: an image's id, a parameter, and another recipe's image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.aws.client.session import Cloud, connect
from bake.aws.image import Image, delete_image, images
from bake.plan import description
from tests.support.commands import invoke

AMI = "ami-0123456789abcdef0"
PARAMETER = "/aws/service/debian/release/12/latest/amd64"
RECIPE = """name = "{name}"
base = {base}
stages = [{stages}, "seal"]
[builder]
instance_types = ["m7i.large"]
disk_gb = 16
"""
STAGE = """#!/usr/bin/env bash
# {about}.
# Needs: {needs}
set -o errexit -o nounset -o pipefail
source "${{BAKE_LIB:?}}"
{body}
"""


@pytest.fixture
def cloud(local_cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """The local cloud, and a project for it. Its images are removed."""
    monkeypatch.setenv("BAKE_PROJECT", str(tmp_path))
    stages, manifests = tmp_path / "scripts/stages", tmp_path / "manifests"
    stages.mkdir(parents=True)
    manifests.mkdir()
    for name, needs, body in (
        ("mark", "", "echo marked >/usr/share/mark"),
        ("look", "mark", '[[ $(cat /usr/share/mark) == marked ]] || fail "it is another image"'),
    ):
        (stages / f"{name}.sh").write_text(STAGE.format(about=name, needs=needs, body=body))
    for name, base, stage in (
        ("own-small", '"debian-12"', '"mark"'),
        ("own-based", '{ recipe = "own-small" }', '"look"'),
        ("own-ami", f'{{ ami = "{AMI}", os = "debian-12" }}', '"mark"'),
        ("own-parameter", f'{{ ssm_parameter = "{PARAMETER}", os = "debian-12" }}', '"mark"'),
    ):
        text = RECIPE.format(name=name, base=base, stages=stage)
        (manifests / f"{name}.toml").write_text(text)
    cloud = connect()
    yield cloud
    for image in images(cloud):
        if image.recipe.startswith("own-"):
            delete_image(cloud, image)


def baked(cloud: Cloud, name: str) -> Image:
    done = invoke("bake", name, "--local")
    assert done.returncode == 0, done.stderr
    return next(image for image in images(cloud) if image.recipe == name)


def base_of(image: Image) -> str:
    described = description.read(image.tags)
    assert described is not None
    return described.base_image_id


def test_a_recipe_is_baked_onto_the_image_of_another_one(cloud: Cloud) -> None:
    refused = invoke("bake", "own-based", "--local")
    assert refused.returncode == 2
    assert "the recipe own-small has no finished image" in " ".join(refused.stderr.split())
    # Both at once, and the base first: the other one's stage looks for what it has left.
    together = invoke("bake", "own-based", "own-small", "--local")
    assert together.returncode == 0, together.stderr
    made = {image.recipe: image for image in images(cloud)}
    small, based = made["own-small"], made["own-based"]
    assert base_of(based) == small.image_id
    assert description.installed_stages(based.tags) == {"mark", "look", "seal"}
    again = invoke("bake", "own-based", "--local")
    assert "Up to date" in again.stderr


def test_a_recipe_is_baked_onto_the_image_that_it_names(cloud: Cloud) -> None:
    assert base_of(baked(cloud, "own-ami")) == AMI
    used = base_of(baked(cloud, "own-parameter"))
    assert cloud.ssm("GetParameter", Name=PARAMETER)["Parameter"]["Value"] == used != AMI
