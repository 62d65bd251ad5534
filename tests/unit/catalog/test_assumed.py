"""Facts that are assumed for what the catalog does not know, when a user accepts this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bake import catalog as catalogs
from bake.catalog import ASSUMED
from bake.catalog.assumed import Named, read_named, with_assumed

CATALOG = catalogs.load()
RECIPE: dict[str, Any] = {
    "base": "ubuntu-24.04",
    "driver": {"branch": "640", "modules": "open"},
    "cuda": {"version": "13.9"},
    "framework": {"name": "pytorch", "version": "2.99.0"},
}


@pytest.fixture
def accepting() -> Iterator[None]:
    catalogs.accept_unknown()
    yield
    catalogs.accept_unknown(False)


def test_an_unknown_driver_has_the_packages_of_the_nearest_branch() -> None:
    found = with_assumed(CATALOG, Named(os="ubuntu-24.04", branch="640", modules="open"))
    driver = found.driver("ubuntu-24.04", "640", "open")
    assert driver is not None
    assert (driver.sure, driver.version) == (ASSUMED, "640")
    near = CATALOG.driver("ubuntu-24.04", driver.source.removeprefix("as driver "), "open")
    assert near is not None
    assert any("640" in name for name in driver.userland)
    assert [name.replace("640", near.branch) for name in driver.userland] == list(near.userland)


def test_an_unknown_cuda_release_has_the_packages_of_the_nearest_one() -> None:
    cuda = with_assumed(CATALOG, Named(cuda="13.9")).cuda["13.9"]
    assert cuda.on["ubuntu-24.04"].packages == ("cuda-toolkit-13-9",)
    assert (cuda.sure, cuda.source) == (ASSUMED, "as CUDA 13.3")
    assert "99.0" not in with_assumed(CATALOG, Named(cuda="99.0")).cuda


def test_an_unknown_version_of_a_framework_is_installed_like_the_nearest_one() -> None:
    named = Named(framework="pytorch", version="2.99.0", cuda="13.2")
    build = with_assumed(CATALOG, named).build("pytorch", "2.99.0", "13.2")
    assert build is not None
    assert build.sure == ASSUMED
    assert any(r == "torch==2.99.0" for r in build.requirements)
    assert not any("torchvision==" in r for r in build.requirements), "pip chooses its version"


def test_an_unknown_version_keeps_its_local_version_and_markers() -> None:
    named = Named(framework="pytorch", version="2.99.0", cuda="12.6")
    build = with_assumed(CATALOG, named).build("pytorch", "2.99.0", "12.6")
    assert build is not None
    assert "torch==2.99.0+cu126" in build.requirements


@pytest.mark.parametrize(
    "named",
    [
        Named(),
        Named(os="ubuntu-24.04", branch="580", modules="open"),
        Named(os="debian-12", branch="580", modules="open"),  # known, and not on this system
        Named(os="nosuch", branch="640"),
        Named(framework="nosuch", version="1.0"),
        Named(framework="pytorch", version="2.9.1"),
        Named(framework="pytorch", version="2.99.0", cuda="10.0"),
    ],
)
def test_nothing_is_assumed_about_what_the_catalog_knows_or_has_nothing_like(named: Named) -> None:
    assert with_assumed(CATALOG, named) is CATALOG


@pytest.mark.parametrize(
    "document",
    [None, [], "", {"base": 7, "driver": "640", "cuda": {"version": 13.9}}, {"base": {"os": []}}],
)
def test_a_recipe_that_is_not_valid_names_nothing(document: object) -> None:
    assert read_named(document) == Named()


def test_the_operating_system_of_a_table_is_read_too() -> None:
    assert read_named({**RECIPE, "base": {"ami": "ami-1", "os": "debian-12"}}).os == "debian-12"


def test_nothing_is_assumed_unless_a_user_accepts_it() -> None:
    catalogs.assume(RECIPE)
    assert "13.9" not in catalogs.load().cuda


@pytest.mark.usefixtures("accepting")
def test_what_a_recipe_names_is_in_the_catalog_once_a_user_accepts_it() -> None:
    catalogs.assume(RECIPE)
    found = catalogs.load()
    assert found.driver("ubuntu-24.04", "640", "open")
    assert "13.9" in found.cuda
    assert found.build("pytorch", "2.99.0", "13.9") is not None
    catalogs.assume(RECIPE)
    assert catalogs.load() is found
    catalogs.accept_unknown(False)
    assert catalogs.load() == CATALOG
