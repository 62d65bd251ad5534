"""The facts of a project: they join the built-in ones, or take their place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from bake import catalog
from bake.errors import RecipeError
from tests.support.projects import FAMILY

BUILD = """\
[[build]]
name = "mxnet"
version = "9.9.9"
cuda = ["10.1"]
python = ["3.7"]
capabilities = ["7.5"]
requirements = ["mxnet-cu101==9.9.9"]
size_gb = 4
sure = "found"
source = "for a test"
"""


@pytest.fixture(autouse=True)
def only_for_a_test() -> Iterator[None]:
    yield
    catalog.use(None)


def test_facts_of_a_project_join_the_built_in_ones(tmp_path: Path) -> None:
    before = catalog.load()
    (tmp_path / "instances.toml").write_text(FAMILY)
    (tmp_path / "frameworks.toml").write_text(BUILD)
    (tmp_path / "README.md").touch()
    catalog.use(tmp_path)
    found = catalog.load()
    assert {*found.instance_types} - {*before.instance_types} == {"g9.xlarge"}
    assert found.instance_type("g9.xlarge").capability == "7.5"
    assert found.builds[1:] == before.builds
    assert found.build("mxnet", "9.9.9", "10.1") == found.builds[0]
    catalog.use(None)
    assert catalog.load() == before


def test_a_fact_of_a_project_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    before = catalog.load().os_image("ubuntu-18.04")
    (tmp_path / "os_images.toml").write_text('["ubuntu-18.04"]\nsize_gb = 99\n')
    catalog.use(tmp_path)
    found = catalog.load().os_image("ubuntu-18.04")
    assert (found.size_gb, found.codename) == (99, before.codename)


def test_a_fact_that_is_written_as_text_has_the_type_of_its_field(tmp_path: Path) -> None:
    text = '["ubuntu-18.04"]\nsize_gb = "99"\nsecurity_until = "2030-01-31"\n'
    (tmp_path / "os_images.toml").write_text(text)
    catalog.use(tmp_path)
    found = catalog.load().os_image("ubuntu-18.04")
    assert (found.size_gb, found.security_until) == (99, date(2030, 1, 31))


def test_a_folder_that_does_not_exist_changes_nothing(tmp_path: Path) -> None:
    before = catalog.load()
    catalog.use(tmp_path / "catalog")
    assert catalog.load() == before


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("instance", "", r"instance\.toml: unknown file of facts\. Did you mean instances"),
        ("instances", "= 1", r"instances\.toml cannot be read"),
        ("instances", FAMILY.replace('"T4"', '"T5"'), "T5"),
        ("instances", FAMILY.replace('gpu = "T4"\n', ""), "gpu"),
        ("instances", FAMILY.replace("vcpus = 4, ", ""), r"InstanceType g9\.xlarge: vcpus"),
        ("instances", FAMILY.replace("vcpus = 4", 'vcpus = "four"'), "vcpus: Input should be a"),
        ("instances", "family = 3", r"instances\.toml cannot be used: family must be a table"),
        ("os_images", '["mine"]\nowner = "1"\n', "OsImage mine: .*name_pattern: Field required"),
        ("cuda", '[release."99.0"]\n', r"CUDA 99\.0: 'operating_systems' is a key that is missing"),
        ("cuda", '[release."99.0"]\noperating_systems = ["x"]\n', r"CUDA 99\.0: Toolkit: sure"),
        ("frameworks", BUILD.replace('cuda = ["10.1"]', "cuda = 10.1"), "Build mxnet: cuda"),
        ("frameworks", BUILD.replace('"7.5"', '"7"'), "Build mxnet: capabilities: '7' is not a"),
        ("frameworks", BUILD.replace('["3.7"]', "[]"), "Build mxnet: python: it works with at le"),
        ("drivers", 'gpu.T4.first_driver = "new"', "Gpu T4: first_driver: 'new' is not a version"),
        ("cuda", 'minor_version_compatibility.12 = "x"', "minor_version_compatibility.12: 'x'"),
        ("cuda", "minor_version_compatibility.12 = 525", "minor_version_compatibility.12: 525"),
    ],
)
def test_facts_that_are_wrong_are_refused(name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.toml").write_text(text)
    catalog.use(tmp_path)
    with pytest.raises(RecipeError) as caught:
        catalog.load()
    said = f"{caught.value.message} {' '.join(caught.value.details)}"
    assert re.search(says, said), said
    assert str(tmp_path) in said
