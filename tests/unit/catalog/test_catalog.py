from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from bake import catalog as catalogs
from bake.catalog import Catalog, distance, facts, nearest, numbers, runs_on
from bake.errors import RecipeError
from bake.recipe import compatibility
from bake.recipe import recipe as recipes
from bake.recipe.compatibility import numpy_of
from bake.recipe.recipe import Recipe
from tests.support.environment import REPOSITORY

MANIFESTS = REPOSITORY / "manifests"
RECIPES = {recipe.name: recipe for recipe in recipes.all_recipes(MANIFESTS)}
TABLES = ("cuda", "drivers", "frameworks", "installers", "instances", "os_images")


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
    found = compatibility.check(
        catalogs.load(), wanted, tuple(instance_types or wanted.builder.instance_types)
    )
    by_place = itertools.groupby(sorted(found, key=lambda f: f.place), key=lambda f: f.place)
    return {place: "\n".join(str(finding) for finding in group) for place, group in by_place}


# ---- the facts


def leaves(table: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The tables that hold facts, and not only other tables."""
    if any(not isinstance(value, dict) for value in table.values()):
        yield table
        return
    for inner in table.values():
        yield from leaves(inner)


@pytest.mark.parametrize("name", TABLES)
def test_each_fact_says_how_sure_it_is_and_where_it_is_from(name: str) -> None:
    whole = facts.read(name)
    listed = [t for value in whole.values() if isinstance(value, list) for t in value]
    nested = list(leaves({k: v for k, v in whole.items() if isinstance(v, dict)}))
    assert listed or nested
    for table in [*listed, *nested]:
        assert table["sure"] in {"verified", "found", "inferred", "memory"}, table
        assert table["source"], table


def test_what_is_only_inferred_is_marked_so(catalog: Catalog) -> None:
    assert catalog.left_out["418"].sure == "inferred"
    assert catalog.driver("ubuntu-18.04", "470", "proprietary").sure == "inferred"  # type: ignore[union-attr]
    assert catalog.build("mxnet", "1.7.0", "10.0").sure == "inferred"  # type: ignore[union-attr]


def test_the_catalog_loads_quickly(catalog: Catalog) -> None:
    def seconds() -> float:
        catalogs.load.cache_clear()
        start = time.perf_counter()
        catalogs.load()
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.05


def test_the_parts_of_the_catalog_know_each_other(catalog: Catalog) -> None:
    for cuda in catalog.cuda.values():
        assert set(cuda.on) <= set(catalog.os_images)
    for driver in catalog.drivers:
        assert driver.os in catalog.os_images
        assert driver.version.startswith(f"{driver.branch}.")
    for build in catalog.builds:
        assert set(build.cuda) <= set(catalog.cuda)
    families = {machine.family for machine in catalog.instance_types.values()}
    for machine in catalog.instance_types.values():
        assert machine.gpu in catalog.gpus
        assert machine.replaced_by in families | {""}
        assert bool(machine.replaced_by) == (machine.status == "retired")
    for os_image in catalog.os_images.values():
        toolkits = [c.on[os_image.key] for c in catalog.cuda.values() if os_image.key in c.on]
        needed = any(toolkit.archive == "nvidia" for toolkit in toolkits)
        assert needed == bool(os_image.nvidia_repository)


def test_no_two_builds_or_drivers_answer_one_question(catalog: Catalog) -> None:
    builds = [(b.name, b.version, cuda) for b in catalog.builds for cuda in b.cuda]
    drivers = [(d.os, d.branch, d.modules) for d in catalog.drivers]
    assert len(set(builds)) == len(builds)
    assert len(set(drivers)) == len(drivers)


def test_no_package_pulls_nvidias_own_driver(catalog: Catalog) -> None:
    toolkits = [t for cuda in catalog.cuda.values() for t in cuda.on.values()]
    names = [name for toolkit in toolkits for name in toolkit.packages]
    names += [name for d in catalog.drivers for name in (*d.userland, *d.kernel)]
    assert "cuda-toolkit-10-1" in names
    pulling = re.compile(r"cuda(-\d+-\d+)?|cuda-(runtime|drivers)(-.+)?")
    assert not [name for name in names if pulling.fullmatch(name)]


def test_cublas_of_cuda_10_1_is_pinned_to_cuda_10_1(catalog: Catalog) -> None:
    toolkit = catalog.cuda["10.1"].on["ubuntu-18.04"]
    assert toolkit.pins == ("libcublas10=10.2.1.243-1", "libcublas-dev=10.2.1.243-1")


def test_every_hash_is_one(catalog: Catalog) -> None:
    for installer in catalog.installers:
        assert re.fullmatch(r"[0-9a-f]{64}", installer.sha256)
        assert installer.version in installer.file
    for d2l in catalog.d2l.values():
        for _, commit in d2l.notebooks.values():
            assert re.fullmatch(r"[0-9a-f]{40}", commit)


def test_a_slice_of_a_gpu_is_no_gpu(catalog: Catalog) -> None:
    assert catalog.instance_type("g6f.large").gpus == 0
    assert catalog.instance_type("g6f.large").fractional


def test_only_machines_with_several_gpus_have_a_switch(catalog: Catalog) -> None:
    assert catalog.instance_type("p5.48xlarge").fabric_manager
    assert not catalog.instance_type("p5.4xlarge").fabric_manager
    assert not catalog.instance_type("g5.48xlarge").fabric_manager


def test_debians_image_is_debians(catalog: Catalog) -> None:
    debian = catalog.os_image("debian-12")
    assert (debian.owner, debian.ssh_user) == ("136693071363", "admin")
    assert debian.name_pattern == "debian-12-amd64-*"


def test_unknown_names_are_refused_with_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(RecipeError) as caught:
        catalog.os_image("ubuntu-18.4")
    assert "ubuntu-18.04" in caught.value.hint
    with pytest.raises(RecipeError) as caught:
        catalog.instance_type("g4dn.xlrge")
    assert "g4dn.xlarge" in caught.value.hint


# ---- pins


def pins(lines: Iterable[str], python: str) -> dict[str, str]:
    wanted = (Requirement(line) for line in lines)
    return {
        r.name: str(r.specifier)
        for r in wanted
        if r.marker is None or r.marker.evaluate({"python_version": python})
    }


def test_mxnet_never_gets_numpy_1_24(catalog: Catalog) -> None:
    for build in catalog.builds:
        if build.name == "mxnet":
            for python in build.python:
                assert numbers(numpy_of(build, python) or "99") < (1, 24)


def test_numpy_is_pinned_to_what_each_python_has(catalog: Catalog) -> None:
    build = catalog.build("mxnet", "1.7.0", "10.1")
    assert build is not None
    assert pins(build.numpy, "3.7") == {"numpy": "==1.21.6"}
    assert pins(build.numpy, "3.8") == {"numpy": "==1.23.5"}
    assert pins(build.numpy, "3.11") == {"numpy": "==1.23.5"}


def test_wheels_that_need_cudnn_and_nccl_from_outside_get_them(catalog: Catalog) -> None:
    outside = catalog.build("mxnet", "1.9.1", "11.2")
    inside = catalog.build("mxnet", "1.7.0", "10.1")
    assert outside is not None
    assert inside is not None
    assert {"nvidia-cudnn-cu11", "nvidia-nccl-cu11"} <= set(pins(outside.requirements, "3.9"))
    assert set(pins(inside.requirements, "3.7")) == {"mxnet-cu101"}


def test_d2l_and_framework_of_our_recipes_agree_on_numpy(catalog: Catalog) -> None:
    for ours in RECIPES.values():
        build = catalog.build(ours.framework.name, ours.framework.version, ours.cuda.version)
        assert build is not None
        pinned = catalog.d2l[ours.d2l.version].numpy
        assert pinned in ("", numpy_of(build, ours.python.version))


# ---- what cannot work


@pytest.mark.parametrize("name", RECIPES)
def test_our_recipes_can_work(name: str) -> None:
    assert refusals(RECIPES[name]) == {}


def test_cuda_10_1_on_an_a100() -> None:
    found = refusals(RECIPES["mxnet-cu101"], "p4d.24xlarge")
    assert "CUDA 10.1 has no code for the A100 (8.0)" in found["cuda.version"]
    assert "nearest that has is CUDA 11.0, or take a g4dn (T4)" in found["cuda.version"]


def test_mxnet_1_7_with_python_3_12() -> None:
    found = refusals(recipe("mxnet-cu101", python__version="3.12"))
    assert "mxnet 1.7.0 does not work with Python 3.12" in found["python.version"]
    assert "The nearest that does is Python 3.11" in found["python.version"]


def test_a_driver_too_old_for_the_toolkit() -> None:
    found = refusals(recipe("pytorch-cu126", driver__branch="470"))["driver.branch"]
    assert "driver 470.256.02 is too old for CUDA 12.6, which needs 525.60.13" in found
    assert "Take branch 535 with proprietary modules, or CUDA 11.8" in found


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
    assert "driver 410.48 does not know the T4: the first that does is 410.78" in found
    assert "Take branch 450" in found


def test_the_driver_that_cuda_10_1_bundles_is_not_offered_and_why() -> None:
    found = refusals(recipe("mxnet-cu101", driver__branch="418"))["driver.branch"]
    assert "does not build on the 5.4 kernel of AWS's Ubuntu 18.04" in found
    assert "470 (proprietary)" in found


def test_a_k80_with_a_driver_that_has_dropped_it() -> None:
    found = refusals(recipe("mxnet-cu112"), "p2.xlarge")
    dropped = "driver 535 has dropped the K80: its last branch is 470. Take branch 470"
    assert dropped in found["driver.branch"]


def test_volta_ends_with_580() -> None:
    newer = recipe("pytorch-cu126", base="ubuntu-24.04", driver__branch="595")
    found = refusals(newer, "p3dn.24xlarge")
    assert "driver 595 has dropped the V100: its last branch is 580" in found["driver.branch"]


def test_open_kernel_modules_on_volta() -> None:
    found = refusals(RECIPES["pytorch-cu126"], "p3dn.24xlarge")["driver.modules"]
    assert "the open kernel modules do not know the V100: they begin with Turing" in found
    assert "Take branch 580 with proprietary modules" in found


def test_blackwell_needs_the_open_kernel_modules() -> None:
    blackwell = recipe("pytorch-cu126", cuda__version="12.8", driver__modules="proprietary")
    found = refusals(blackwell, "p6-b200.48xlarge")
    assert "works with the open kernel modules alone" in found["driver.modules"]
    assert refusals(recipe("pytorch-cu126", cuda__version="12.8"), "p6-b200.48xlarge") == {}


def test_open_kernel_modules_that_are_older_than_the_gpu() -> None:
    found = refusals(
        recipe("pytorch-cu126", driver__branch="535", cuda__version="12.8"), "p6-b200.48xlarge"
    )
    assert "driver 535.183.01 does not know the B200" in found["driver.branch"]


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
    assert "For CUDA 11.2 there is mxnet 1.9.1, or take CUDA 10.0, 10.1, 10.2" in found


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
    assert "the OS's own Python, which is 3.11 on debian-12" in found["python.version"]
    assert "take ubuntu-20.04" in found["python.version"]


def test_cuda_that_the_os_has_no_packages_of() -> None:
    found = refusals(recipe("mxnet-cu101", base="ubuntu-22.04"))["cuda.version"]
    assert "CUDA 10.1 has no packages for ubuntu-22.04" in found
    assert "The nearest that has is CUDA 11.7, or take ubuntu-18.04" in found


def test_d2l_that_the_python_or_the_framework_does_not_fit() -> None:
    found = refusals(recipe("mxnet-cu101", d2l__version="1.0.3"))
    assert "d2l 1.0.3 does not work with Python 3.7. D2l 0.17.0 does" in found["d2l.version"]
    found = refusals(recipe("pytorch-cu126", d2l__version="0.17.0"))
    assert "has no notebooks for pytorch" in found["d2l.version"]
    without = recipe("pytorch-cu126", d2l__version="0.17.0", d2l__notebooks=False)
    assert refusals(without) == {}


@pytest.mark.parametrize("name", ["g2.2xlarge", "p2.xlarge", "g3.4xlarge", "p3.2xlarge"])
def test_retired_families_are_refused_with_what_replaces_them(name: str) -> None:
    found = refusals(RECIPES["mxnet-cu101"], name)["builder.instance_types"]
    assert f"{name} (" in found
    assert "is no longer offered" in found
    assert re.search(r"Take (g4dn|g5) in its place", found)


def test_machines_that_no_image_of_ours_starts_on() -> None:
    found = refusals(RECIPES["mxnet-cu101"], "g5g.xlarge", "g6f.large")["builder.instance_types"]
    assert "g5g.xlarge is arm64, and ubuntu-18.04 is x86_64" in found
    assert "g6f.large has a slice of a GPU" in found
    assert "Take a g6 (L4)" in found


def test_a_disk_that_cuda_does_not_fit_on() -> None:
    found = refusals(recipe("mxnet-cu101", builder__disk_gb=8))["builder.disk_gb"]
    assert "8 GB are too small" in found
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
    for finding in compatibility.check(known, wanted, tuple(types)):
        assert finding.place
        assert finding.message
        assert finding.hint[:1].isupper()


# ---- versions


@pytest.mark.parametrize(
    ("code", "capability", "runs"),
    [
        (["7.0"], "7.5", True),
        (["7.5"], "7.0", False),
        (["8.0"], "8.9", True),
        (["8.6"], "9.0", False),
        ([], "7.5", False),
    ],
)
def test_code_runs_on_later_gpus_of_its_generation(
    code: list[str], capability: str, runs: bool
) -> None:
    assert runs_on(code, capability) is runs


def test_versions_compare_as_numbers() -> None:
    assert numbers("10.10") > numbers("10.9")
    assert numbers("418.87.00") < numbers("418.113")


def test_the_nearest_version_is_the_nearest_number() -> None:
    known = ["10.0", "10.1", "10.2", "11.0", "11.8", "12.4"]
    assert min(known, key=lambda version: distance(version, "10.9")) == "10.2"
    assert min(known, key=lambda version: distance(version, "9.2")) == "10.0"
    assert min(known, key=lambda version: distance(version, "13.0")) == "12.4"
    assert nearest("10.4", known) == "Did you mean 10.2 or 10.1?"
