from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bake.errors import StageError
from bake.plan.inputs import inputs_file
from bake.recipe.variable import LONGEST_B

values = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.binary().map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")),
    st.text(alphabet="'\"\\$`!(){}[]*?~#&|;<> \t\r\n=", max_size=60),
)
names = st.from_regex(r"[A-Z][A-Z0-9_]{0,12}", fullmatch=True).map("X_".__add__)


def read_by_bash(file: Path, name: str) -> bytes:
    """Return the variable as a program gets it that a script starts: from its environment."""
    return (
        subprocess.run(
            ["bash", "--norc", "-c", 'source "$0" && exec env --null', file],
            check=True,
            capture_output=True,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        .stdout.split(f"{name}=".encode(), 1)[1]
        .split(b"\0")[0]
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=names, value=values)
def test_any_value_arrives_unchanged(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "inputs"
    file.write_bytes(inputs_file("cuda", {name: value}))
    assert read_by_bash(file, name) == value.encode("utf-8", "surrogateescape")


def test_the_longest_value_that_linux_takes_arrives(tmp_path: Path) -> None:
    file, value = tmp_path / "inputs", "ä" * ((LONGEST_B - 6) // 2)
    file.write_bytes(inputs_file("cuda", {"NAME": value}))
    assert read_by_bash(file, "NAME") == value.encode()


@pytest.mark.parametrize("value", ["secret\0secret", "secret\ud800secret", "secret" * 30_000])
def test_a_value_that_bash_cannot_hold_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(StageError, match="the input TOKEN of stage cuda") as caught:
        inputs_file("cuda", {"TOKEN": value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lower",
        "A-B",
        "A B",
        "1A",
        "A=B",
        "A\nB",
        "A$(id)",
        "Ä",
        "PATH",
        "HOME",
        "LANG",
        "BAKE_LIB",
        "BASH_ENV",
        "IFS",
        "UID",
        "RANDOM",
        "LD_PRELOAD",
        "LC_ALL",
        "SHELLOPTS",
    ],
)
def test_a_name_that_means_something_to_the_shell_is_refused(name: str) -> None:
    with pytest.raises(StageError, match="input named"):
        inputs_file("cuda", {name: "x"})
