"""The inventory holds what a machine's own package managers list, read in one session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest

from bake.errors import RemoteError
from bake.verify import inventory, read_inventory


class Here:
    """This computer as the machine. It counts the commands that it runs."""

    def __init__(self) -> None:
        self.commands = 0

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        self.commands += 1
        done: Any = subprocess.run(["bash", "-c", command], input=stdin, capture_output=True)
        done.exit_status = done.returncode
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        if check and done.returncode:
            raise RemoteError(done.stderr)
        return done


class Answering:
    """A machine on which the commands print these texts; those of `failing` fail."""

    def __init__(self, texts: dict[str, str], failing: dict[str, int] | None = None) -> None:
        self.texts = texts
        self.failing = failing or {}
        self.printed_before = ""

    def run(self, command: str, **_: Any) -> Any:
        names = (
            "dpkg",
            "rpm",
            "pip",
            "stages",
            "os",
            "kernel",
            "driver",
            "cuda",
            "python",
            "conda",
        )
        results = {
            name: {
                "exit_status": self.failing.get(name, 0),
                "stdout": self.texts.get(name, ""),
                "stderr": f"{name} is broken" if name in self.failing else "",
            }
            for name in names
        }
        done: Any = subprocess.CompletedProcess(
            [], 0, self.printed_before + json.dumps(results), ""
        )
        done.exit_status = 0
        return done


def test_the_inventory_of_this_computer_is_what_its_package_managers_list() -> None:
    found = read_inventory(Here(), sys.prefix)
    assert found.python == "{}.{}.{}".format(*sys.version_info[:3])
    assert found.pip["pydantic"] == pydantic.VERSION
    assert found.dpkg["bash"]
    assert found.kernel
    assert found.os
    assert found.conda == {}


def test_everything_is_read_in_one_session() -> None:
    machine = Here()
    read_inventory(machine, sys.prefix)
    assert machine.commands == 1


def test_an_environment_that_does_not_exist_has_no_packages() -> None:
    found = read_inventory(Here(), "/nowhere")
    assert (found.python, found.pip, found.conda) == ("", {}, {})
    assert found.dpkg["bash"]


def test_an_environment_whose_pip_fails_is_an_error_that_names_the_command(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho no module named pip >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(RemoteError, match=r"exit status 3 of .* -m pip list") as caught:
        read_inventory(Here(), str(tmp_path))
    assert caught.value.details == ("no module named pip",)


def test_a_command_that_hangs_is_killed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_TIMEOUT_S", 21)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\ncase $1 in -m) echo '[]' ;; *) sleep 60 ;; esac\n")
    python.chmod(0o755)
    with pytest.raises(RemoteError, match=r"exit status 124 of .*python_version"):
        read_inventory(Here(), str(tmp_path))


@pytest.mark.parametrize("name", ["dpkg", "pip", "stages"])
def test_what_every_machine_must_answer_is_an_error_if_it_fails(name: str) -> None:
    with pytest.raises(RemoteError) as caught:
        read_inventory(Answering({}, {name: 2}), "/opt/d2l")
    assert caught.value.details == (f"{name} is broken",)


@pytest.mark.parametrize("name", ["os", "kernel", "driver", "cuda", "python", "conda"])
def test_what_a_machine_may_lack_is_empty_if_it_fails(name: str) -> None:
    found = read_inventory(Answering({name: "half an answer"}, {name: 2}), "/opt/d2l")
    assert not getattr(found, name)


def test_text_that_the_login_shell_prints_first_changes_nothing() -> None:
    machine = Answering({"kernel": "6.1\n"})
    machine.printed_before = 'Welcome!\n{"kernel": {}}\n'
    assert read_inventory(machine, "/opt/d2l").kernel == "6.1"


def test_a_session_that_prints_no_result_is_an_error() -> None:
    class Silent:
        def run(self, command: str, **_: Any) -> Any:
            done: Any = subprocess.CompletedProcess([], 0, "Welcome!\n", "")
            done.exit_status = 0
            return done

    with pytest.raises(RemoteError, match="printed no result"):
        read_inventory(Silent(), "/opt/d2l")


def test_a_package_that_was_removed_is_not_listed() -> None:
    machine = Answering(
        {
            "dpkg": "ii \tbash\t5.1\nrc \tnano\t7\nhi \tnvidia-utils-470\t470.1\n",
            "cuda": "Cuda compilation tools, release 10.1, V10.1.243",
            "conda": '[{"name": "python", "version": "3.7.16", "channel": "x"}]',
            "pip": "[]",
        }
    )
    found = read_inventory(machine, "/opt/conda/envs/d2l")
    assert found.dpkg == {"bash": "5.1", "nvidia-utils-470": "470.1"}
    assert found.cuda == "10.1"
    assert found.conda == {"python": "3.7.16"}


def test_packages_of_rpm_are_listed_without_its_keys() -> None:
    listing = "ii\tbash\t5.2.15-1.amzn2023\nii\tgpg-pubkey\tc87f5b1a-593863f8\n"
    found = read_inventory(Answering({"dpkg": "", "pip": "[]", "rpm": listing}), "/opt/conda")
    assert found.rpm == {"bash": "5.2.15-1.amzn2023"}
    assert found.dpkg == {}
