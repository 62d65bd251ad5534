"""Checks that are scripts: run as a login shell runs them, and judged by their exit status."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bake.errors import ConnectError, RemoteError, VerificationError
from bake.plan.inputs import inputs_file
from bake.verify import CheckScript, Expectation, prove
from bake.verify.check import Failed, Skipped
from bake.verify.scripted import run_script

NOTHING = Expectation(gpu=None, min_driver="")


class Here:
    """The login user's shell on this computer; `profile` is the user's login profile."""

    def __init__(self, home: Path, profile: str = "") -> None:
        self.home = home
        (home / ".bash_profile").write_text(profile)

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        done: Any = subprocess.run(
            ["bash", "-c", command],
            input=stdin or b"",
            capture_output=True,
            env=environment,
            cwd=self.home,
            timeout=timeout_s,
        )
        done.exit_status = done.returncode
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def run(here: Here, body: str, *, gpus: int = 0, limit_s: float = 20, **inputs: str) -> str:
    script = CheckScript("docker", body.encode(), inputs_file("docker", inputs))
    return run_script(here, script, gpus=gpus, limit_s=limit_s)


def left() -> set[Path]:
    return set(Path("/dev/shm").glob("bake-check.*"))


def test_the_last_line_of_the_output_is_the_detail(here: Here) -> None:
    before = left()
    assert run(here, "echo first; echo; printf ' Docker 27 \\033[1m\\n\\n'") == "Docker 27"
    assert run(here, "exit 0") == "passed without a word"
    assert left() == before


def test_a_check_has_its_inputs_and_the_number_of_gpus(here: Here) -> None:
    value = 'it\'s $HOME `x`\n  "2"'
    body = 'printf %s "$GREETING" >value; echo "$BAKE_GPUS GPUs"'
    assert run(here, body, gpus=8, GREETING=value) == "8 GPUs"
    assert (here.home / "value").read_text() == value
    # cat does not find the script or the inputs: a check has no stdin.
    assert run(here, "cat; echo empty") == "empty"


def test_a_check_runs_in_the_environment_of_a_login_shell(tmp_path: Path) -> None:
    here = Here(tmp_path, "export PATH=$PATH:/opt/own/bin FROM_PROFILE=yes; echo welcome")
    assert run(here, 'echo "${PATH##*:} $FROM_PROFILE $PWD"') == f"/opt/own/bin yes {tmp_path}"


def test_a_check_that_does_not_apply_is_skipped(here: Here) -> None:
    with pytest.raises(Skipped, match=r"^no GPU to give to a container$"):
        run(here, "echo no GPU to give to a container; exit 77")
    with pytest.raises(Skipped, match="does not apply"):
        run(here, "exit 77")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("echo Docker 20; echo too old >&2; exit 3", "Docker 20: exit status 3, and it printed: "),
        ("echo too old >&2; exit 3", "too old: exit status 3. Read"),
        ("exit 3", "it failed without a word: exit status 3. Read"),
        ("kill -9 $$", "it failed without a word: exit status 137. Read"),
        ("echo over; exit 124", "over: exit status 124. Read"),
        ("if", "syntax error"),
        ("nosuch-program --version", "docker.sh: line 1: nosuch-program: command not found"),
    ],
)
def test_any_other_status_is_a_failure_with_the_evidence(here: Here, body: str, says: str) -> None:
    with pytest.raises(Failed) as caught:
        run(here, body)
    assert says in str(caught.value)
    assert "Read scripts/checks/docker.sh" in str(caught.value)


def test_a_check_that_hangs_is_ended_with_everything_that_it_has_started(here: Here) -> None:
    before, began = left(), time.monotonic()
    body = f"sleep 300 & echo $! >{here.home}/pid; echo waiting; wait"
    with pytest.raises(Failed, match="waiting: it did not end within 1 s"):
        run(here, body, limit_s=1)
    assert time.monotonic() - began < 10
    pid = int((here.home / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
    assert left() == before


def test_a_process_that_is_left_behind_does_not_delay_the_result(here: Here) -> None:
    began = time.monotonic()
    assert run(here, "setsid sleep 20 & echo done") == "done"
    assert time.monotonic() - began < 10


def test_a_broken_connection_proves_nothing(here: Here) -> None:
    class Broken(Here):
        def run(self, command: str, **_: Any) -> Any:
            raise ConnectError("the connection broke")

    with pytest.raises(ConnectError):
        run(Broken(here.home), "true")


def test_a_connection_that_gives_up_is_a_failure(here: Here) -> None:
    class Slow(Here):
        def run(self, command: str, **_: Any) -> Any:
            raise RemoteError("too slow")

    with pytest.raises(Failed, match="did not finish"):
        run(Slow(here.home), "true")


# The proof ----------------------------------------------------------------------------------------


def scripts(**bodies: str) -> list[CheckScript]:
    return [CheckScript(name, body.encode()) for name, body in bodies.items()]


def test_a_recipe_of_own_stages_is_proved_by_its_own_checks(here: Here) -> None:
    proof = prove(here, NOTHING, scripts(motd="echo it greets", other="echo no; exit 77"))
    assert proof.verified == "cpu"
    own = [(check.name, check.outcome, check.detail) for check in proof.checks[-2:]]
    assert own == [("motd", "passed", "it greets"), ("other", "skipped", "no")]


def test_checks_that_are_all_skipped_prove_nothing(here: Here) -> None:
    assert prove(here, NOTHING, scripts(motd="exit 77", packages="exit 77")).verified == "no"
    assert prove(here, NOTHING).verified == "no"


def test_the_proof_names_each_check_that_failed(here: Here) -> None:
    with pytest.raises(VerificationError) as caught:
        prove(here, NOTHING, scripts(one="exit 1", two="echo fine", three="echo broken; exit 2"))
    assert caught.value.message.endswith(": one, three")
    assert "three: broken: exit status 2" in "\n".join(caught.value.details)
