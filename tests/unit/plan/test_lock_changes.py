"""A changed lock is described in few lines: counts if it is new, else packages and versions."""

from __future__ import annotations

from bake.plan.description import Hash
from bake.plan.lock_changes import MOST_LINES, Value, listed, lock_changes

SHA = "a" * 64


def inputs(
    apt: list[str] | None = None, conda: list[str] | None = None, pip: list[str] | None = None
) -> dict[str, Value]:
    """The inputs of a stage with a lock, as in Lock.inputs."""
    lines = {"LOCKED_APT": apt, "LOCKED_CONDA": conda, "LOCKED_PIP": pip}
    return {name: "\n".join(["# locked", *(each or [])]) for name, each in lines.items()}


FREE: dict[str, Value] = {"LOCKED_APT": "", "LOCKED_CONDA": "", "LOCKED_PIP": "", "OTHER": "1"}
LOCKED = inputs(
    apt=["base curl 7.88", "base htop 3.2"],
    conda=[f"pkgs/main/linux-64/python-3.11.4-h7a1cb2a_0.conda {SHA}"],
    pip=[f"numpy==1.23.5 --hash=sha256:{SHA} # numpy.whl", f"d2l @ https://x/d2l --hash={SHA}"],
)


def test_a_new_lock_is_one_line_with_the_number_of_packages() -> None:
    said = ["locked now: 2 apt packages, 1 conda package, 2 wheels"]
    assert lock_changes(FREE, LOCKED) == said
    assert lock_changes({}, LOCKED) == said


def test_a_new_lock_without_packages_of_the_stage_is_named_too() -> None:
    assert lock_changes(FREE, inputs()) == ["locked now: no packages"]


def test_a_removed_lock_is_one_line() -> None:
    said = ["no longer locked: 2 apt packages, 1 conda package, 2 wheels"]
    assert lock_changes(LOCKED, FREE) == said


def test_the_same_lock_is_no_change() -> None:
    assert lock_changes(LOCKED, LOCKED) == []
    assert lock_changes(FREE, FREE) == []


def test_packages_of_another_lock_are_shown_with_their_versions_and_without_hashes() -> None:
    other = inputs(
        apt=["base curl 8.1", "cuda less 590"],
        conda=[f"pkgs/main/linux-64/python-3.11.9-h7a1cb2a_0.conda {SHA}"],
        pip=[
            f"numpy==1.23.5 --hash=sha256:{'b' * 64} # numpy.whl",
            f"d2l @ https://y --hash={SHA}",
        ],
    )
    assert lock_changes(LOCKED, other) == [
        "locked apt packages\ncurl 7.88 → 8.1\n- htop 3.2\n+ less 590",
        "locked conda packages\npython 3.11.4 → 3.11.9",
        "locked wheels\nd2l https://x/d2l → https://y",
    ]


def test_other_files_of_the_same_versions_are_a_change() -> None:
    other = LOCKED | {"LOCKED_PIP": str(LOCKED["LOCKED_PIP"]).replace(SHA, "b" * 64)}
    assert lock_changes(LOCKED, other) == ["other files of the same wheels are locked"]


def test_a_list_that_is_only_known_by_its_hash_is_named_without_a_number() -> None:
    hashed = LOCKED | {"LOCKED_APT": Hash(hash="12345678")}
    assert lock_changes(FREE, hashed) == ["locked now: apt packages, 1 conda package, 2 wheels"]
    assert lock_changes(hashed, LOCKED) == ["other apt packages are locked"]


def test_of_many_lines_the_first_ones_are_shown() -> None:
    many = inputs(apt=[f"base package{number:02} 1" for number in range(60)])
    said = lock_changes(LOCKED, many)[0].splitlines()
    assert len(said) == MOST_LINES + 1
    assert said[-1] == "… and 55 more"
    assert listed("title", ["x"] * MOST_LINES).count("\n") == MOST_LINES
