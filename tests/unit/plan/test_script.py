from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.errors import RecipeError
from bake.plan import script as stage
from tests.support.environment import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"

GOOD = """\
#!/usr/bin/env bash
# What it does,
# in two lines.
# Needs:  conda|venv drivers
# Inputs: LOGIN_USER CUDA_VERSION
#         PYPI_MIRROR
# shellcheck source=lib.sh
# A comment about what follows.
set -o errexit
source "${BAKE_LIB:?}"
echo "$CUDA_VERSION ${LOGIN_USER} ${#PYPI_MIRROR}" # $APART
# $COMMENTED
"""


def read(folder: Path, text: str, name: str = "good.sh") -> stage.Script:
    (folder / name).write_text(text)
    return stage.read_script(folder / name)


def refused(folder: Path, text: str, name: str = "good.sh") -> str:
    with pytest.raises(RecipeError) as caught:
        read(folder, text, name)
    return "\n".join(caught.value.details) or caught.value.message


def test_a_header_is_read(tmp_path: Path) -> None:
    script = read(tmp_path, GOOD)
    assert script.name == "good"
    assert script.description == "What it does, in two lines."
    assert script.needs == ("conda|venv", "drivers")
    assert script.inputs == ("LOGIN_USER", "CUDA_VERSION", "PYPI_MIRROR")
    assert script.body == GOOD.encode()


@pytest.mark.parametrize("text", ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n")])
def test_a_script_that_bash_cannot_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "good.sh").write_bytes(text.encode())
    with pytest.raises(RecipeError, match="byte-order mark or Windows line endings") as caught:
        stage.read_script(tmp_path / "good.sh")
    assert "Unix line endings" in caught.value.hint


def test_the_variables_that_a_body_reads_are_found_without_the_comments(tmp_path: Path) -> None:
    used = read(tmp_path, GOOD).used()
    assert used >= {"CUDA_VERSION", "LOGIN_USER", "PYPI_MIRROR", "BAKE_LIB"}
    assert "COMMENTED" not in used


@pytest.mark.parametrize("path", sorted((SCRIPTS / "stages").glob("*.sh")), ids=lambda p: p.stem)
def test_the_included_stages_have_valid_headers(path: Path) -> None:
    script = stage.read_script(path)
    assert script.name == path.stem
    assert script.description
    assert script.inputs


@pytest.mark.parametrize(
    ("line", "reboots"),
    [
        ("# Reboots: yes\n", "yes"),
        ("# Reboots: when-required\n", "when-required"),
        ("# Reboots: no\n", "no"),
        ("", "no"),
    ],
)
def test_a_stage_declares_a_reboot(tmp_path: Path, line: str, reboots: str) -> None:
    assert read(tmp_path, GOOD.replace("# Needs:", f"{line}# Needs:")).reboots == reboots


def test_a_header_without_needs_and_inputs_is_valid(tmp_path: Path) -> None:
    script = read(tmp_path, "#!/bin/sh\n# Does nothing.\n# Needs:\ntrue\n")
    assert (script.needs, script.inputs) == ((), ())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("env bash", "env python3", "good.sh:1: bash cannot run a script for #!/usr/bin/env"),
        ("# Needs:", "# Need:", "good.sh:4: unknown field Need. Did you mean Needs?"),
        ("# Inputs:", "# Input:", "Did you mean Inputs?"),
        (
            "# shellcheck",
            "# Reboots: maybe\n",
            "header: invalid Reboots: maybe. Write one of no, when-required, yes",
        ),
        ("# shellcheck", "# Reboots: yes no\n", "invalid Reboots: yes no"),
        ("# shellcheck", "# Reboots:\n", "invalid Reboots: nothing"),
        ("# shellcheck", "# Reboot: yes\n", "Did you mean Reboots?"),
        ("# shellcheck", "# Needs: base\n# shellcheck", "Needs is declared twice"),
        ("drivers", "Drivers", "Needs: Drivers is not a stage"),
        ("drivers", "drivers, x", "Needs: drivers, is not a stage. Write one, one|other or *"),
        ("drivers", "a||b", "Needs: a||b is not a stage"),
        ("LOGIN_USER CUDA", "login CUDA", "Inputs: login is not a variable"),
        ("LOGIN_USER CUDA", "BAKE_LIB CUDA", "BAKE_LIB is given to every stage"),
        ("LOGIN_USER CUDA", "BAKE_FILES CUDA", "given to every stage that declares Files"),
        ("LOGIN_USER CUDA", "BAKE_GPUS=1 CUDA", "BAKE_GPUS is given to every check"),
        ("LOGIN_USER CUDA", "PATH=/bin CUDA", "Inputs: the shell uses PATH"),
        ("LOGIN_USER CUDA", "=x CUDA", "Inputs:  is not a variable"),
        ("LOGIN_USER CUDA", "CUDA_VERSION=1 CUDA", "CUDA_VERSION is declared twice"),
        ("LOGIN_USER CUDA", "A=\x1b[0m CUDA", "the default of A has a control character"),
        ("LOGIN_USER CUDA", 'A="x" CUDA', "the quotes would be a part of the default of A"),
        ("# shellcheck", "# Files: /etc/passwd\n", "Files: /etc/passwd is not a path below files/"),
        ("# shellcheck", "# Files: a ../b\n", "Files: ../b is not a path below files/"),
        ("# shellcheck", "# Files: a/../../b\n", "a/../../b is not a path below files/"),
        ("# shellcheck", "# Files: .\n", "Files: . is not a path below files/"),
        ("# shellcheck", "# File: a\n", "Did you mean Files?"),
        (
            "# shellcheck",
            "# Replaces: conda\n",
            "invalid Replaces: conda. Write Replaces: built-in",
        ),
        ("# shellcheck", "# Replaces:\n", "invalid Replaces: nothing"),
        ("# What it does,\n# in two lines.\n", "", "no description"),
    ],
)
def test_an_invalid_header_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert GOOD.count(old) >= 1
    assert says in refused(tmp_path, GOOD.replace(old, new, 1))


def test_all_errors_of_a_header_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("drivers", "Drivers").replace("LOGIN_USER CUDA", "login CUDA")
    found = refused(tmp_path, text, "Bad.sh")
    assert "Drivers" in found
    assert "login" in found
    assert "small letters" in found


def test_a_script_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read"):
        stage.read_script(tmp_path / "x.sh")
    with pytest.raises(RecipeError, match="cannot be read"):
        stage.read_script(tmp_path / "none.sh")


@given(text=st.text())
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    path = folder / "any.sh"
    path.write_bytes(("#!/bin/sh\n# " + text).encode("utf-8", "surrogatepass"))
    try:
        assert stage.read_script(path).description
    except RecipeError as error:
        assert error.message  # noqa: PT017


def test_secrets_are_declared_in_their_own_line(tmp_path: Path) -> None:
    script = read(tmp_path, GOOD.replace("# shellcheck", "# Secrets: TOKEN OTHER\n# shellcheck"))
    assert script.secrets == ("TOKEN", "OTHER")
    assert read(tmp_path, GOOD).secrets == ()


@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        ("token", "token is not allowed"),
        ("PATH", "PATH is not allowed"),
        ("BAKE_LIB", "BAKE_LIB is not allowed"),
        ("LOGIN_USER", "LOGIN_USER is both an input and a secret"),
    ],
)
def test_an_invalid_declaration_of_a_secret_is_refused(
    tmp_path: Path, secrets: str, says: str
) -> None:
    assert says in refused(
        tmp_path, GOOD.replace("# shellcheck", f"# Secrets: {secrets}\n# shellcheck")
    )


def test_inputs_have_defaults_and_files_have_paths(tmp_path: Path) -> None:
    header = "# Inputs: LOGIN_USER GREETING=a=b\n#         EMPTY=\n# Files: a.txt ./b//c/\n"
    script = read(tmp_path, f"#!/bin/sh\n# It.\n{header}# Replaces: built-in\ntrue\n")
    assert script.inputs == ("LOGIN_USER", "GREETING", "EMPTY")
    assert script.defaults == {"GREETING": "a=b", "EMPTY": ""}
    assert script.files == ("a.txt", "b/c")
    assert script.replaces_built_in
    assert not read(tmp_path, GOOD).replaces_built_in
    assert (read(tmp_path, GOOD).defaults, read(tmp_path, GOOD).files) == ({}, ())


CHECK = """\
#!/usr/bin/env bash
# What it checks.
# Inputs: GREETING=hello
echo "$GREETING"
"""


def test_a_check_has_a_description_and_inputs(tmp_path: Path) -> None:
    (tmp_path / "greeting.sh").write_text(CHECK)
    check = stage.read_script(tmp_path / "greeting.sh", "check")
    assert (check.name, check.description) == ("greeting", "What it checks.")
    assert (check.inputs, check.defaults) == (("GREETING",), {"GREETING": "hello"})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("# Inputs:", "# Needs: base\n# Inputs:", "greeting.sh:3: a check has no Needs"),
        ("# Inputs:", "# Input:", "Did you mean Inputs?"),
        ("GREETING=hello", "BAKE_GPUS", "BAKE_GPUS is given to every check"),
        ("# What it checks.\n", "", "no description. Describe the check in its first lines"),
    ],
)
def test_an_invalid_header_of_a_check_is_refused(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    (tmp_path / "greeting.sh").write_text(CHECK.replace(old, new))
    with pytest.raises(RecipeError, match="has a bad header") as caught:
        stage.read_script(tmp_path / "greeting.sh", "check")
    assert says in "\n".join(caught.value.details)
