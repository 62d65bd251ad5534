"""The machines on which an image works, according to its tags."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bake import catalog as catalogs
from bake.errors import RequestError
from bake.machine import fit
from bake.machine.fit import Contents
from bake.plan import description
from bake.recipe.compatibility import check
from bake.recipe.resolved import resolve
from tests.support.plans import RECIPES, real_plan

CATALOG = catalogs.load()
TYPES = CATALOG.instance_types


def inside(recipe: str) -> Contents:
    """Return the contents that the tags of the recipe's image describe."""
    tags = description.describe(real_plan(RECIPES[recipe]))
    assert tags
    architecture = CATALOG.os_image(RECIPES[recipe].base.os).architecture
    return fit.read_contents(CATALOG, tags, architecture)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_tags_of_an_image_contain_its_driver_cuda_and_framework(name: str) -> None:
    recipe, found = RECIPES[name], inside(name)
    driver, cuda, build = found.driver, found.cuda, found.build
    assert (driver and (driver.os, driver.branch, driver.modules)) == (
        recipe.driver and (recipe.base.os, recipe.driver.branch, recipe.driver.modules)
    )
    if recipe.cuda and "cuda" in recipe.stages:
        assert cuda is not None
        assert cuda.version == recipe.cuda.version
    assert (build and (build.name, build.version)) == (
        recipe.framework and (recipe.framework.name, recipe.framework.version)
    )


@pytest.mark.parametrize("name", sorted(n for n, each in RECIPES.items() if each.gpu != "none"))
def test_an_image_works_on_the_machines_on_which_its_recipe_can_be_baked(name: str) -> None:
    """On every machine of the catalog, the result is the same as before a bake."""
    recipe, found = RECIPES[name], inside(name)
    # An image has Fabric Manager only if a builder of its recipe needs it: told apart below.
    found = replace(found, fabric_manager=True)
    for machine in TYPES.values():
        findings = check(replace(resolve(recipe), machines=(machine,)))
        others = [each for each in findings if "Fabric Manager" not in each.message]
        assert bool(fit.find_problem(CATALOG, found, machine)) == bool(others), machine.name


@pytest.mark.parametrize("kept", [20, 0])
def test_a_part_that_is_described_by_its_hash_is_recognised(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = inside("mxnet-cu101")
    monkeypatch.setattr(description, "_KEPT", (kept,))  # as of a plan too large for longer values
    tags = description.describe(real_plan())
    described = description.read(tags)
    assert described
    assert isinstance(
        described.stages["drivers"].inputs["DRIVER_KERNEL_PACKAGES"], description.Hash
    )
    assert fit.read_contents(CATALOG, tags, "x86_64") == whole


@pytest.mark.parametrize("tags", [{}, {"bake:plan:0": "bm8="}])
def test_an_image_without_a_description_is_refused_on_no_machine(tags: dict[str, str]) -> None:
    found = fit.read_contents(CATALOG, tags, "x86_64")
    assert not found.known
    fit.check_types(CATALOG, found, ["t3.micro", "p5.48xlarge"])
    assert fit.default_types(CATALOG, found, ("g4dn.xlarge",), None) == ("g4dn.xlarge",)
    assert fit.default_types(CATALOG, found, (), None) == ()


@pytest.mark.parametrize(
    ("recipe", "asked", "says"),
    [
        (
            "mxnet-cu101",
            "g6.xlarge",
            ("CUDA 10.1 does not support", "works is g4dn.xlarge"),
        ),
        ("mxnet-cu101", "g5.2xlarge", ("A10G", "works is g4dn.2xlarge")),
        ("mxnet-cu101", "p2.xlarge", ("no longer offered", "g4dn.xlarge")),
        ("mxnet-cu101", "g5g.xlarge", ("its CPU is arm64, but the image is x86_64", "g4dn.xlarge")),
        ("mxnet-cu101", "g6f.large", ("a slice of a GPU", "g4dn.xlarge")),
        ("pytorch-cu126", "p6-b200.48xlarge", ("nvlsm", "works is p5.48xlarge")),
        ("mxnet-cu101", "t3.none", ("does not offer this instance type here",)),
        ("mxnet-cu101", "g4dn.xlarg", ("Did you mean g4dn.xlarge",)),
        ("mxnet-cu118-debian12", "p4d.24xlarge", ("is not in the image", "works is g5.48xlarge")),
    ],
)
def test_an_unsuitable_machine_is_refused_and_the_nearest_suitable_one_suggested(
    recipe: str, asked: str, says: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as refused:
        fit.check_types(CATALOG, inside(recipe), [asked])
    [detail] = refused.value.details
    assert asked in detail
    for words in says:
        assert words in detail
    assert RECIPES[recipe].cuda.version in refused.value.hint


def test_all_unsuitable_types_are_reported_at_once_and_no_others() -> None:
    with pytest.raises(RequestError, match="not work on some") as refused:
        fit.check_types(CATALOG, inside("mxnet-cu101"), ["g4dn.xlarge", "g5.xlarge", "g6.xlarge"])
    assert [detail.split()[0] for detail in refused.value.details] == ["g5.xlarge", "g6.xlarge"]


def test_open_and_proprietary_modules_of_a_branch_are_distinguished() -> None:
    """Only the proprietary modules of the branch support a V100."""
    proprietary = inside("mxnet-cu112")
    assert proprietary.driver
    assert proprietary.driver.modules == "proprietary"
    assert fit.find_problem(CATALOG, proprietary, TYPES["p3dn.24xlarge"]) == ""
    other = CATALOG.driver(proprietary.driver.os, proprietary.driver.branch, "open")
    problem = fit.find_problem(CATALOG, replace(proprietary, driver=other), TYPES["p3dn.24xlarge"])
    assert "open kernel modules" in problem


def test_the_default_types_are_the_suitable_ones_of_the_recipe_or_of_the_catalog() -> None:
    found = inside("mxnet-cu101")
    recipes_own = ("g5.xlarge", "g4dn.2xlarge", "none.such")
    assert fit.default_types(CATALOG, found, recipes_own, None) == ("g4dn.2xlarge",)
    from_the_catalog = fit.default_types(CATALOG, found, (), None)
    assert from_the_catalog[0] == "g4dn.xlarge"
    assert all(TYPES[name].gpus == 1 for name in from_the_catalog)
    assert all(not fit.find_problem(CATALOG, found, TYPES[name]) for name in from_the_catalog)
    assert "g4dn.12xlarge" in fit.default_types(CATALOG, found, recipes_own, 4)
    assert fit.default_types(CATALOG, found, recipes_own, 3) == ()


# Types that only EC2 describes.
CPU = replace(
    TYPES["g4dn.xlarge"], name="m7i.large", family="m7i", gpu="", gpus=0, capability="", vcpus=2
)
NEW = replace(TYPES["g5.xlarge"], name="g9.xlarge", family="g9", gpu="L900", capability="")
WITH_EC2 = replace(CATALOG, instance_types={**TYPES, CPU.name: CPU, NEW.name: NEW})


def test_an_image_for_gpus_works_on_a_machine_without_one_and_the_user_is_told() -> None:
    [warning] = fit.check_types(WITH_EC2, inside("mxnet-cu101"), ["m7i.large", "g4dn.xlarge"])
    assert str(warning) == "m7i.large: it has no NVIDIA GPU, so the image works without one"


def test_a_gpu_that_the_catalog_does_not_know_is_refused_unless_unchecked() -> None:
    found = inside("pytorch-cu126")
    with pytest.raises(RequestError, match=r"does not work on g9\.xlarge") as refused:
        fit.check_types(WITH_EC2, found, ["g9.xlarge"])
    assert "bake does not know its GPU, the L900" in refused.value.details[0]
    assert "--unchecked" in refused.value.details[0]
    [warning] = fit.check_types(WITH_EC2, found, ["g9.xlarge"], unchecked=True)
    assert "L900" in warning.message
    with pytest.raises(RequestError, match="does not work on"):
        fit.check_types(WITH_EC2, inside("mxnet-cu101"), ["g6.xlarge"], unchecked=True)


def test_an_image_for_the_cpu_is_launched_on_the_types_of_its_recipe() -> None:
    build = inside("pytorch-cu126").build
    for found in (Contents("x86_64", build=build), Contents("x86_64")):
        assert not found.uses_gpu
        assert fit.default_types(WITH_EC2, found, ("m7i.large",), None) == ("m7i.large",)
        assert fit.default_types(WITH_EC2, found, (), None) == ()
        assert fit.check_types(WITH_EC2, found, ["m7i.large", "g9.xlarge"]) == []


def test_only_gpu_machines_are_suggested_for_an_image_with_a_driver() -> None:
    names = [each.name for each in fit.fitting_types(WITH_EC2, inside("pytorch-cu126"))]
    assert "g5.xlarge" in names
    assert not {"m7i.large", "g9.xlarge"} & set(names)
