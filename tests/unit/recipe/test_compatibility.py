"""What a recipe's parts need from each other, and what is suggested where they do not fit."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake import catalog as catalogs
from bake.catalog import Catalog, numbers
from bake.recipe import recipe as recipes
from bake.recipe.compatibility import check, pinned_numpy
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY

RECIPES = {recipe.name: recipe for recipe in recipes.all_recipes(REPOSITORY / "manifests")}


@pytest.fixture
def catalog() -> Catalog:
    return catalogs.load()


def recipe(name: str, **changes: Any) -> Recipe:
    """One of ours with other values: driver__branch="410" is driver.branch."""
    document = RECIPES[name].model_dump(exclude_unset=True)
    for place, value in changes.items():
        table, _, key = place.rpartition("__")
        (document[table] if table else document)[key] = value
    return Recipe.model_validate(document)


def refusals(wanted: Recipe, *instance_types: str) -> dict[str, str]:
    """What is refused, by its place; several of one place are joined."""
    resolved = resolve(wanted)
    if instance_types:
        machines = tuple(map(resolved.catalog.instance_type, instance_types))
        resolved = replace(resolved, machines=machines)
    found = check(resolved)
    by_place = itertools.groupby(sorted(found, key=lambda f: f.place), key=lambda f: f.place)
    return {place: "\n".join(str(finding) for finding in group) for place, group in by_place}


@pytest.mark.parametrize("name", RECIPES)
def test_our_recipes_can_work(name: str) -> None:
    assert refusals(RECIPES[name]) == {}


def test_cuda_10_1_on_an_a100() -> None:
    found = refusals(RECIPES["mxnet-cu101"], "p4d.24xlarge")
    assert "CUDA 10.1 has no code for the A100 (8.0)" in found["cuda.version"]
    assert "Use CUDA 11.0, or use a g4dn (T4)" in found["cuda.version"]


def test_mxnet_1_7_with_python_3_12() -> None:
    found = refusals(recipe("mxnet-cu101", python__version="3.12"))
    assert "mxnet 1.7.0 does not work with Python 3.12" in found["python.version"]
    assert "The nearest version that it works with is Python 3.11" in found["python.version"]


def test_a_driver_too_old_for_the_toolkit() -> None:
    found = refusals(recipe("pytorch-cu126", driver__branch="470"))["driver.branch"]
    assert "driver 470.256.02 is too old for CUDA 12.6, which needs 525.60.13 or newer" in found
    assert "Use branch 535 with proprietary modules, or use CUDA 11.8" in found


def test_minor_version_compatibility_counts() -> None:
    """CUDA 11.8's own minimum is 520.61.05; 450.80.02 is enough for every 11.x."""
    old = recipe(
        "mxnet-cu101",
        cuda__version="11.8",
        framework__version="1.9.1",
        builder__instance_types=["g4dn.xlarge"],
    )
    assert numbers(catalogs.load().cuda["11.8"].min_driver) > (470, 256)
    assert refusals(old) == {}


def test_no_minor_version_compatibility_before_cuda_11() -> None:
    cuda = catalogs.load().cuda["10.2"]
    assert catalogs.load().min_driver(cuda) == cuda.min_driver == "440.33"


def test_driver_410_48_does_not_know_the_t4() -> None:
    found = refusals(recipe("mxnet-cu100", driver__branch="410"))["driver.branch"]
    assert "driver 410.48 does not support the T4: the first version that does is 410.78" in found
    assert "Use branch 450" in found


def test_the_driver_that_cuda_10_1_bundles_is_not_offered_and_why() -> None:
    found = refusals(recipe("mxnet-cu101", driver__branch="418"))["driver.branch"]
    assert "does not build on the 5.4 kernel of AWS's Ubuntu 18.04" in found
    assert "470 (proprietary)" in found


def test_a_k80_with_a_driver_that_has_dropped_it() -> None:
    found = refusals(recipe("mxnet-cu112"), "p2.xlarge")
    dropped = (
        "driver 535 no longer supports the K80: the last branch that does is 470. Use branch 470"
    )
    assert dropped in found["driver.branch"]


def test_volta_ends_with_580() -> None:
    newer = recipe("pytorch-cu126", base="ubuntu-24.04", driver__branch="595")
    found = refusals(newer, "p3dn.24xlarge")
    assert (
        "driver 595 no longer supports the V100: the last branch that does is 580"
        in found["driver.branch"]
    )


def test_open_kernel_modules_on_volta() -> None:
    found = refusals(RECIPES["pytorch-cu126"], "p3dn.24xlarge")["driver.modules"]
    assert "the open kernel modules do not support the V100: they support Turing and later" in found
    assert "Use branch 580 with proprietary modules" in found


def test_blackwell_needs_the_open_kernel_modules() -> None:
    blackwell = recipe("pytorch-cu126", cuda__version="12.8", driver__modules="proprietary")
    found = refusals(blackwell, "p6-b200.48xlarge")
    assert "works only with the open kernel modules" in found["driver.modules"]
    assert refusals(recipe("pytorch-cu126", cuda__version="12.8"), "p6-b200.48xlarge") == {}


def test_open_kernel_modules_that_are_older_than_the_gpu() -> None:
    found = refusals(
        recipe("pytorch-cu126", driver__branch="535", cuda__version="12.8"), "p6-b200.48xlarge"
    )
    assert "driver 535.183.01 does not support the B200" in found["driver.branch"]


def test_debian_has_no_open_modules_of_its_libraries_version() -> None:
    found = refusals(recipe("mxnet-cu118-debian12", driver__modules="open"))
    assert "debian-12 has no open modules of driver 535" in found["driver.modules"]


def test_debian_has_no_fabric_manager() -> None:
    found = refusals(RECIPES["mxnet-cu118-debian12"], "p4d.24xlarge")
    assert "needs NVIDIA's Fabric Manager" in found["builder.instance_types"]


def test_the_mxnet_wheel_has_no_code_for_the_h100() -> None:
    found = refusals(RECIPES["mxnet-cu118-debian12"], "p5.4xlarge")
    assert "no code for the H100 (9.0)" in found["framework.version"]
    assert "pytorch 2.9.1 for CUDA 12.6" in found["framework.version"]


def test_a_framework_without_a_wheel_for_the_cuda() -> None:
    found = refusals(recipe("mxnet-cu101", cuda__version="11.2"))["framework.version"]
    assert "mxnet 1.7.0 has no wheel for CUDA 11.2" in found
    assert "Use mxnet 1.9.1, or use CUDA 10.0 or CUDA 10.1 or CUDA 10.2" in found


def test_an_installer_that_needs_a_newer_glibc() -> None:
    found = refusals(recipe("mxnet-cu101", python__installer="py312_25.9.1-3"))
    expected = "py312_25.9.1-3 needs glibc 2.28, and ubuntu-18.04 has 2.27"
    assert expected in found["python.installer"]
    assert "py312_24.9.2-0" in found["python.installer"]


def test_miniforge_needs_no_newer_glibc() -> None:
    forge = recipe("mxnet-cu101", python__manager="miniforge", python__installer="26.3.2-3")
    assert refusals(forge) == {}


def test_a_venv_of_another_python_than_the_systems() -> None:
    found = refusals(recipe("mxnet-cu118-debian12", python__version="3.8"))
    assert (
        "the operating system's own Python, which is 3.11 on debian-12" in found["python.version"]
    )
    assert "use ubuntu-20.04" in found["python.version"]


def test_cuda_that_the_os_has_no_packages_of() -> None:
    found = refusals(recipe("mxnet-cu101", base="ubuntu-22.04"))["cuda.version"]
    assert "CUDA 10.1 has no packages for ubuntu-22.04" in found
    assert "Use CUDA 11.7, or use ubuntu-18.04" in found


def test_d2l_that_the_python_or_the_framework_does_not_fit() -> None:
    found = refusals(recipe("mxnet-cu101", d2l__version="1.0.3"))
    assert "d2l 1.0.3 does not work with Python 3.7. Use d2l 0.17.0" in found["d2l.version"]
    found = refusals(recipe("pytorch-cu126", d2l__version="0.17.0"))
    assert "has no notebooks for pytorch" in found["d2l.version"]
    without = recipe("pytorch-cu126", d2l__version="0.17.0", d2l__notebooks=False)
    assert refusals(without) == {}


@pytest.mark.parametrize("name", ["g2.2xlarge", "p2.xlarge", "g3.4xlarge", "p3.2xlarge"])
def test_retired_families_are_refused_with_what_replaces_them(name: str) -> None:
    found = refusals(RECIPES["mxnet-cu101"], name)["builder.instance_types"]
    assert f"{name} (" in found
    assert "is no longer offered" in found
    assert re.search(r"Use (g4dn|g5) instead", found)


def test_machines_that_no_image_of_ours_starts_on() -> None:
    found = refusals(RECIPES["mxnet-cu101"], "g5g.xlarge", "g6f.large")["builder.instance_types"]
    assert "g5g.xlarge is arm64, and ubuntu-18.04 is x86_64" in found
    assert "g6f.large has a slice of a GPU" in found
    assert "Use a g6 (L4)" in found


def test_a_disk_that_cuda_does_not_fit_on() -> None:
    found = refusals(recipe("mxnet-cu101", builder__disk_gb=8))["builder.disk_gb"]
    assert "a disk of 8 GB is too small" in found
    assert "CUDA 10.1 5" in found


def test_all_that_cannot_work_is_said_at_once() -> None:
    wrong = recipe(
        "mxnet-cu101",
        python__version="3.12",
        python__installer="py312_25.9.1-3",
        builder__disk_gb=8,
        driver__branch="410",
    )
    places = set(refusals(wrong, "p4d.24xlarge"))
    assert places >= {
        "cuda.version",
        "driver.branch",
        "python.version",
        "python.installer",
        "builder.disk_gb",
        "framework.version",
    }


@given(st.data())
def test_every_combination_is_answered_and_every_refusal_has_a_way_out(data: st.DataObject) -> None:
    known = catalogs.load()
    name = data.draw(st.sampled_from(sorted(RECIPES)))
    build = data.draw(st.sampled_from(known.builds))
    wanted = recipe(
        name,
        base=data.draw(st.sampled_from(sorted(known.os_images))),
        cuda__version=data.draw(st.sampled_from(sorted(known.cuda))),
        driver__branch=data.draw(st.sampled_from(known.branches())),
        driver__modules=data.draw(st.sampled_from(["proprietary", "open"])),
        python__version=data.draw(st.sampled_from(["3.6", "3.7", "3.9", "3.11", "3.12"])),
        d2l__version=data.draw(st.sampled_from(sorted(known.d2l))),
        builder__disk_gb=data.draw(st.sampled_from([8, 64])),
        framework={"name": build.name, "version": build.version},
        stages=["base", "seal"],
    )
    types = data.draw(st.lists(st.sampled_from(sorted(known.instance_types)), min_size=1))
    machines = tuple(map(known.instance_type, types))
    for finding in check(replace(resolve(wanted), machines=machines)):
        assert finding.place
        assert finding.message
        assert finding.hint[:1].isupper()


# ---- numpy


def test_mxnet_never_gets_numpy_1_24(catalog: Catalog) -> None:
    for build in catalog.builds:
        if build.name == "mxnet":
            for python in build.python:
                assert numbers(pinned_numpy(build, python) or "99") < (1, 24)


def test_d2l_and_framework_of_our_recipes_agree_on_numpy(catalog: Catalog) -> None:
    for ours in RECIPES.values():
        build = catalog.build(ours.framework.name, ours.framework.version, ours.cuda.version)
        assert build is not None
        pinned = catalog.d2l[ours.d2l.version].numpy
        assert pinned in ("", pinned_numpy(build, ours.python.version))
