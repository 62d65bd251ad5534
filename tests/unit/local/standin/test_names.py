"""A rehearsal refuses packages that the real archive does not have."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bake import catalog
from bake.catalog import facts
from bake.errors import RecipeError
from bake.local.standin import names
from bake.recipe.conda_spec import read_conda_spec

Find = Callable[..., list[str]]
INDEX = """\
Package: htop
Version: 3.0.5-7

Package: postfix
Version: 3.5.6-1
Provides: mail-transport-agent, default-mta (= 1)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of Debian's format, and a channel of conda, in a folder."""
    for suite in ("bookworm", "bookworm-updates", "bookworm-security"):
        index = tmp_path / "archive/dists" / suite / "main/binary-amd64/Packages.xz"
        index.parent.mkdir(parents=True)
        text = INDEX.replace("3.0.5-7", "3.0.6-1") if "security" in suite else INDEX
        index.write_bytes(lzma.compress(text.encode()))
    for folder, name in (("linux-64", "tiny-tool"), ("noarch", "numpydoc")):
        channel = tmp_path / "archive/conda-forge" / folder / "current_repodata.json"
        channel.parent.mkdir(parents=True)
        records = {"x.conda": {"name": name, "version": "1"}}
        channel.write_text(json.dumps({"packages": {}, "packages.conda": records}))
    return tmp_path / "archive"


@pytest.fixture
def find(archive: Path, tmp_path: Path) -> Find:
    """Return a function that returns what is refused of these packages."""

    def refused(apt: str = "", conda: str = "", mirror: str = f"file://{archive}") -> list[str]:
        inputs = {
            "OS_ID": "debian-12",
            "OS_MIRROR": mirror,
            "OS_SECURITY_MIRROR": mirror,
            "CONDA_CHANNEL": f"{mirror}/conda-forge",
            "APT_PACKAGES": apt,
            "CONDA_PACKAGES": conda,
        }
        try:
            names.refuse_unknown(inputs, tmp_path / "indices")
        except RecipeError as error:
            return list(error.details)
        return []

    return refused


def test_names_that_are_facts_need_no_network(find: Find) -> None:
    assert find(apt="tmux ffmpeg", conda="scipy>=1 FFmpeg", mirror="file:///nowhere") == []


def test_each_name_that_is_a_fact_belongs_to_a_known_archive() -> None:
    packages = facts.read("packages")
    systems = catalog.load().os_images.values()
    for manager in ("apt", "dnf"):
        own = {each.os_id for each in systems if each.package_manager == manager}
        assert packages[manager].keys() == own
    for kind in packages.values():
        for table in kind.values():
            assert table["names"] == sorted(set(table["names"]))


@pytest.mark.parametrize("apt", ["htop", "htop=3.0.5-7", "htop:amd64=3.0.6-1", "default-mta"])
def test_what_the_archive_has_is_accepted(find: Find, apt: str) -> None:
    assert find(apt=apt) == []


def test_what_the_archive_does_not_have_is_refused_with_the_nearest_name(find: Find) -> None:
    assert find(apt="postfxi htop=9 htop", conda="tiny-tol>=1 numpydoc") == [
        "packages.apt: the archive of debian-12 has no package postfxi. Did you mean postfix?",
        "packages.apt: the archive of debian-12 has no htop 9. It has 3.0.5-7, 3.0.6-1",
        "packages.conda: conda-forge has no package tiny-tol. Did you mean tiny-tool?",
    ]


def test_without_the_archive_an_unknown_name_is_refused_with_the_reason(find: Find) -> None:
    [refused] = find(apt="tmxu", mirror="http://127.0.0.1:9")
    assert "it is not known whether the archive of debian-12 has tmxu" in refused
    assert "Connection refused" in refused
    assert "Did you mean tmux?" in refused


def test_an_answer_that_is_no_index_is_no_index(find: Find, archive: Path) -> None:
    for index in [*archive.rglob("Packages.xz"), *archive.rglob("*.json")]:
        index.write_text("<html>Log in to the network of this hotel</html>")
    refused = find(apt="unheard", conda="unheard")
    assert len(refused) == 2
    assert all("not an index" in line for line in refused)


def test_a_version_of_what_is_real_on_the_machines_is_refused(find: Find) -> None:
    [refused] = find(apt="curl=7.58.0-2ubuntu3")
    assert "curl is a real package of the stand-in machines" in refused


def test_the_index_is_kept_for_a_day_and_as_long_as_it_answers(
    find: Find, archive: Path, tmp_path: Path
) -> None:
    assert find(apt="default-mta") == []
    for index in archive.rglob("Packages.xz"):
        index.unlink()
    assert "has no package unheard" in find(apt="unheard")[0]
    [copy] = (tmp_path / "indices").iterdir()
    os.utime(copy, (0, 0))
    assert find(apt="default-mta") == []
    assert "is not known" in find(apt="unheard")[0]


def test_names_of_conda_are_read_as_conda_reads_them() -> None:
    for name in facts.read("packages")["conda"]["conda-forge"]["names"]:
        assert read_conda_spec(name).name == name
