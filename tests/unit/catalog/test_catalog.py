from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from packaging.requirements import Requirement

from bake import catalog as catalogs
from bake.catalog import Catalog, facts
from bake.errors import RecipeError
from bake.recipe import recipes
from bake.recipe.project import built_in
from tests.support.environment import REPOSITORY

MANIFESTS = REPOSITORY / "manifests"
RECIPES = {recipe.name: recipe for recipe in recipes.all_recipes(built_in())}
TABLES = (
    "cuda",
    "drivers",
    "durations",
    "frameworks",
    "installers",
    "instances",
    "os_images",
    "xids",
)


@pytest.fixture
def catalog() -> Catalog:
    return catalogs.load()


# ---- the facts


def leaves(table: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the tables that contain facts, and not only other tables."""
    if any(not isinstance(value, dict) for value in table.values()):
        yield table
        return
    for inner in table.values():
        yield from leaves(inner)


@pytest.mark.parametrize("name", TABLES)
def test_each_fact_has_a_source_and_a_degree_of_certainty(name: str) -> None:
    whole = facts.read(name)
    listed = [t for value in whole.values() if isinstance(value, list) for t in value]
    nested = list(leaves({k: v for k, v in whole.items() if isinstance(v, dict)}))
    assert listed or nested
    for table in [*listed, *nested]:
        assert table["sure"] in {"verified", "found", "inferred", "memory"}, table
        assert table["source"], table


def test_inferred_facts_are_marked(catalog: Catalog) -> None:
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


def test_each_name_that_a_fact_refers_to_is_in_the_catalog(catalog: Catalog) -> None:
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
        assert needed == bool(re.fullmatch(r"[0-9A-Fa-f]{40}", os_image.nvidia_key))


def test_an_image_like_another_has_its_packages(catalog: Catalog) -> None:
    pro, plain = catalog.os_image("ubuntu-18.04-pro"), catalog.os_image("ubuntu-18.04")
    assert (pro.os_id, pro.codename, pro.python) == (plain.key, "bionic", "3.6")
    assert pro.name_pattern != plain.name_pattern
    assert pro.security_until == plain.pro_until
    assert (pro.pro_until, pro.owner_in("aws-cn")) == (None, "")
    assert catalog.cuda["10.1"].on[pro.key] == catalog.cuda["10.1"].on[plain.key]
    driver = catalog.driver(pro.key, "470", "proprietary")
    assert driver is not None
    assert replace(driver, os=plain.key) == catalog.driver(plain.key, "470", "proprietary")


def test_no_repository_of_nvidia_is_trusted_with_the_revoked_key(catalog: Catalog) -> None:
    keys = {image.key: image.nvidia_key for image in catalog.os_images.values()}
    assert "7FA2AF80" not in {key[-8:].upper() for key in keys.values()}
    # The key's file has this name, in this case; Debian 13 does not accept the older key.
    assert keys["debian-13"].endswith("8793F200")
    assert keys["ubuntu-24.04"].endswith("3bf863cc")


def test_a_build_for_no_cuda_is_the_one_for_the_cpu(catalog: Catalog) -> None:
    for name, version in (("pytorch", "2.15.0"), ("tensorflow", "2.21.0"), ("jax", "0.10.2")):
        build = catalog.build(name, version, None)
        assert build is not None
        assert (build.cuda, build.capabilities) == ((), ())
    assert catalog.build("mxnet", "1.9.1", None) is None


def test_the_action_of_each_xid_is_explained() -> None:
    xids = facts.read("xids")
    assert {xid["action"] for xid in xids["xid"].values()} == set(xids["action"])


def test_builds_and_drivers_are_unique(catalog: Catalog) -> None:
    builds = [(b.name, b.version, cuda) for b in catalog.builds for cuda in b.cuda or (None,)]
    drivers = [(d.os, d.branch, d.modules) for d in catalog.drivers]
    assert len(set(builds)) == len(builds)
    assert len(set(drivers)) == len(drivers)


def test_each_driver_decodes_and_encodes_video(catalog: Catalog) -> None:
    """torchcodec loads libnvcuvid; NVIDIA's headless metapackages contain neither library."""
    for driver in catalog.drivers:
        names = " ".join(driver.userland)
        if names == "nvidia-driver-cuda":  # NVIDIA's own package, which requires both libraries
            continue
        assert re.search(r"libnvidia-decode-|libnvcuvid", names), (driver.os, driver.branch)
        assert "libnvidia-encode" in names, (driver.os, driver.branch)


def test_no_cuda_package_installs_another_driver(catalog: Catalog) -> None:
    toolkits = [t for cuda in catalog.cuda.values() for t in cuda.on.values()]
    names = [name for toolkit in toolkits for name in toolkit.packages]
    names += [name for d in catalog.drivers for name in (*d.userland, *d.kernel)]
    assert "cuda-toolkit-10-1" in names
    pulling = re.compile(r"cuda(-\d+-\d+)?|cuda-(runtime|drivers)(-.+)?")
    assert not [name for name in names if pulling.fullmatch(name)]


def test_cublas_of_cuda_10_1_is_pinned_to_cuda_10_1(catalog: Catalog) -> None:
    toolkit = catalog.cuda["10.1"].on["ubuntu-18.04"]
    assert toolkit.pins == ("libcublas10=10.2.1.243-1", "libcublas-dev=10.2.1.243-1")


def test_each_hash_is_a_sha256(catalog: Catalog) -> None:
    for installer in catalog.installers:
        assert re.fullmatch(r"[0-9a-f]{64}", installer.sha256)
        assert installer.version in installer.file
    for d2l in catalog.d2l.values():
        for _, commit in d2l.notebooks.values():
            assert re.fullmatch(r"[0-9a-f]{40}", commit)


def test_a_slice_of_a_gpu_does_not_count_as_a_gpu(catalog: Catalog) -> None:
    assert catalog.instance_type("g6f.large").gpus == 0
    assert catalog.instance_type("g6f.large").fractional


def test_only_machines_with_several_gpus_have_a_switch(catalog: Catalog) -> None:
    assert catalog.instance_type("p5.48xlarge").fabric_manager
    assert not catalog.instance_type("p5.4xlarge").fabric_manager
    assert not catalog.instance_type("g5.48xlarge").fabric_manager


def test_the_base_image_of_debian_is_owned_by_debian(catalog: Catalog) -> None:
    debian = catalog.os_image("debian-12")
    assert (debian.owner, debian.ssh_user) == ("136693071363", "admin")
    assert debian.name_pattern == "debian-12-amd64-*"


def test_an_unknown_name_is_refused_and_the_nearest_one_suggested(catalog: Catalog) -> None:
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


def test_numpy_is_pinned_to_what_each_python_has(catalog: Catalog) -> None:
    build = catalog.build("mxnet", "1.7.0", "10.1")
    assert build is not None
    assert pins(build.numpy, "3.7") == {"numpy": "==1.21.6"}
    assert pins(build.numpy, "3.8") == {"numpy": "==1.23.5"}
    assert pins(build.numpy, "3.11") == {"numpy": "==1.23.5"}


def test_wheels_without_their_own_cudnn_and_nccl_get_them_as_packages(catalog: Catalog) -> None:
    outside = catalog.build("mxnet", "1.9.1", "11.2")
    inside = catalog.build("mxnet", "1.7.0", "10.1")
    assert outside is not None
    assert inside is not None
    assert {"nvidia-cudnn-cu11", "nvidia-nccl-cu11"} <= set(pins(outside.requirements, "3.9"))
    assert set(pins(inside.requirements, "3.7")) == {"mxnet-cu101"}
