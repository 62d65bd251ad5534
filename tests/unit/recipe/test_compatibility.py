"""The parts of a recipe that cannot work together are refused, and what can work is suggested."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake import catalog as catalogs
from bake.catalog import Catalog, numbers
from bake.plan.variables import variables
from bake.recipe.compatibility import check, pinned_numpy
from bake.recipe.payload import UPSTREAM
from bake.recipe.resolved import resolve
from tests.support.recipes import COMPLETE, RECIPES, changed_recipe, findings_of


@pytest.fixture
def catalog() -> Catalog:
    return catalogs.load()


@pytest.mark.parametrize("name", RECIPES)
def test_the_parts_of_the_included_recipes_work_together(name: str) -> None:
    assert findings_of(RECIPES[name]) == {}


def test_mxnet_1_7_is_refused_with_python_3_12() -> None:
    found = findings_of(changed_recipe("mxnet-cu101", python__version="3.12"))
    assert "mxnet 1.7.0 does not work with Python 3.12" in found["python.version"]
    assert "The nearest version that it works with is Python 3.11" in found["python.version"]


def test_a_driver_that_is_too_old_for_the_toolkit_is_refused() -> None:
    found = findings_of(changed_recipe("pytorch-cu126", driver__branch="470"))["driver.branch"]
    assert "driver 470.256.02 is too old for CUDA 12.6, which needs 525.60.13 or newer" in found
    assert "Use branch 580 with proprietary modules, or use CUDA 11.8" in found


def test_a_driver_for_cuda_11_0_is_accepted_for_every_cuda_11() -> None:
    """CUDA 11.8's own minimum is 520.61.05; 450.80.02 is enough for every 11.x."""
    old = changed_recipe(
        "mxnet-cu101",
        cuda__version="11.8",
        framework__version="1.9.1",
        builder__instance_types=["g4dn.xlarge"],
    )
    assert numbers(catalogs.load().cuda["11.8"].min_driver) > (470, 256)
    assert findings_of(old) == {}


def test_before_cuda_11_each_release_has_its_own_oldest_driver() -> None:
    cuda = catalogs.load().cuda["10.2"]
    assert catalogs.load().min_driver(cuda) == cuda.min_driver == "440.33"


def test_a_driver_that_does_not_build_on_the_kernel_is_refused_with_the_reason() -> None:
    found = findings_of(changed_recipe("mxnet-cu101", driver__branch="418"))["driver.branch"]
    assert "does not build on the 5.4 kernel of AWS's Ubuntu 18.04" in found
    assert "470 (proprietary)" in found


def test_open_modules_are_refused_on_debian() -> None:
    found = findings_of(changed_recipe("mxnet-cu118-debian12", driver__modules="open"))
    assert "debian-12 has no open modules of driver 535" in found["driver.modules"]


def test_a_framework_without_a_wheel_for_the_cuda_is_refused() -> None:
    found = findings_of(changed_recipe("mxnet-cu101", cuda__version="11.2"))["framework.version"]
    assert "mxnet 1.7.0 has no wheel for CUDA 11.2" in found
    assert "Use mxnet 1.9.1, or use CUDA 10.0 or CUDA 10.1 or CUDA 10.2" in found


def test_an_installer_that_needs_a_newer_glibc_is_refused() -> None:
    found = findings_of(changed_recipe("mxnet-cu101", python__installer="py312_25.9.1-3"))
    expected = "py312_25.9.1-3 needs glibc 2.28, and ubuntu-18.04 has 2.27"
    assert expected in found["python.installer"]
    assert "py312_24.9.2-0" in found["python.installer"]


def test_miniforge_works_with_an_old_glibc() -> None:
    forge = changed_recipe("mxnet-cu101", python__manager="miniforge", python__installer="26.3.2-3")
    assert findings_of(forge) == {}


def test_a_venv_needs_the_python_of_the_operating_system() -> None:
    found = findings_of(changed_recipe("mxnet-cu118-debian12", python__version="3.8"))
    assert (
        "the operating system's own Python, which is 3.11 on debian-12" in found["python.version"]
    )
    assert "use ubuntu-20.04" in found["python.version"]


def test_a_cuda_without_packages_for_the_operating_system_is_refused() -> None:
    found = findings_of(changed_recipe("mxnet-cu101", base="ubuntu-22.04"))["cuda.version"]
    assert "CUDA 10.1 has no packages for ubuntu-22.04" in found
    assert "Use CUDA 11.7, or use ubuntu-18.04" in found


def test_a_d2l_that_does_not_fit_the_python_or_the_framework_is_refused() -> None:
    found = findings_of(changed_recipe("mxnet-cu101", d2l__version="1.0.3"))
    assert "d2l 1.0.3 does not work with Python 3.7. Use d2l 0.17.0" in found["d2l.version"]
    found = findings_of(changed_recipe("pytorch-cu126", d2l__version="0.17.0"))
    assert "has no notebooks for pytorch" in found["d2l.version"]
    without = changed_recipe("pytorch-cu126", d2l__version="0.17.0", d2l__notebooks=False)
    assert findings_of(without) == {}


def test_a_disk_that_is_too_small_for_cuda_is_refused() -> None:
    found = findings_of(changed_recipe("mxnet-cu101", builder__disk_gb=8))["builder.disk_gb"]
    assert "a disk of 8 GB is too small" in found
    assert "CUDA 10.1 5" in found


def test_an_operating_system_without_a_known_archive_is_refused() -> None:
    resolved = resolve(RECIPES["mxnet-cu101"])
    own = replace(resolved.os_image, key="company")
    found = check(replace(resolved, os_image=own))
    assert "bake knows no package archive of company" in [each.message for each in found]
    like = replace(own, like="ubuntu-18.04")
    assert "company" not in "".join(map(str, check(replace(resolved, os_image=like))))
    made = variables(replace(resolved, os_image=like), UPSTREAM)
    assert made["OS_MIRROR"] == variables(resolved, UPSTREAM)["OS_MIRROR"]


def test_all_findings_come_at_once() -> None:
    wrong = changed_recipe(
        "mxnet-cu101",
        python__version="3.12",
        python__installer="py312_25.9.1-3",
        builder__disk_gb=8,
        driver__branch="410",
    )
    places = set(findings_of(wrong, "p4d.24xlarge"))
    assert places >= {
        "cuda.version",
        "driver.branch",
        "python.version",
        "python.installer",
        "builder.disk_gb",
        "framework.version",
    }


@given(st.data())
def test_every_finding_has_a_place_a_message_and_a_hint(
    data: st.DataObject,
) -> None:
    known = catalogs.load()
    name = data.draw(st.sampled_from(sorted(COMPLETE)))
    build = data.draw(st.sampled_from(known.builds))
    wanted = changed_recipe(
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


def test_mxnet_is_pinned_to_a_numpy_before_1_24(catalog: Catalog) -> None:
    for build in catalog.builds:
        if build.name == "mxnet":
            for python in build.python:
                assert numbers(pinned_numpy(build, python) or "99") < (1, 24)


def test_d2l_and_framework_of_the_included_recipes_need_the_same_numpy(catalog: Catalog) -> None:
    for ours in COMPLETE.values():
        build = catalog.build(ours.framework.name, ours.framework.version, ours.cuda.version)
        assert build is not None
        of_d2l, of_framework = (
            catalog.d2l[ours.d2l.version].numpy,
            pinned_numpy(build, ours.python.version),
        )
        assert not of_d2l or of_framework in (None, of_d2l)
