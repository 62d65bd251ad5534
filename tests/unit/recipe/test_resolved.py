"""A resolved recipe holds the catalog's facts about each of its parts."""

from __future__ import annotations

import pytest

from bake.recipe.resolved import resolve
from tests.support.recipes import RECIPES, changed_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_part_of_an_included_recipe_is_found(name: str) -> None:
    recipe = RECIPES[name]
    resolved = resolve(recipe)
    assert resolved.name == name
    known = recipe.gpu != "none"  # the catalog has the types with GPUs
    assert tuple(e.name for e in resolved.machines) == recipe.builder.instance_types * known
    assert resolved.os_image.key == recipe.base.os
    assert (resolved.driver and resolved.driver.branch) == (recipe.driver and recipe.driver.branch)
    assert not resolved.driver or resolved.driver_version == resolved.driver.version
    assert (resolved.cuda and resolved.cuda.version) == (recipe.cuda and recipe.cuda.version)
    assert (resolved.toolkit is None) == (recipe.cuda is None)
    framework = recipe.framework
    assert (resolved.build and resolved.build.version) == (framework and framework.version)
    with_conda = recipe.python is not None and recipe.python.manager != "venv"
    assert (resolved.installer is not None) == with_conda


def test_a_part_that_does_not_fit_the_others_is_none() -> None:
    other_os = resolve(changed_recipe("mxnet-cu101", base="ubuntu-22.04"))
    assert other_os.toolkit is None
    other_cuda = resolve(changed_recipe("mxnet-cu101", cuda__version="11.2"))
    assert other_cuda.build is None
    other_modules = resolve(changed_recipe("mxnet-cu118-debian12", driver__modules="open"))
    assert other_modules.driver is None


def test_gpus_are_listed_once_in_the_order_of_the_machines() -> None:
    types = ["g5.xlarge", "g4dn.xlarge", "g5.2xlarge"]
    resolved = resolve(changed_recipe("mxnet-cu118-debian12", builder__instance_types=types))
    assert [gpu.name for gpu in resolved.gpus] == ["A10G", "T4"]
    assert {driver.os for driver in resolved.drivers_of_os} == {"debian-12"}
