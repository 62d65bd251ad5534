"""What `invoke put` and `invoke get` copy, and from or to which machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from bake.errors import RequestError
from bake.machine.ssh_config import Host
from bake.machine.transfer import Transfer, failure, read_get, read_put, split_machine


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("notebooks/", (None, "notebooks/")),
        ("lab1:notebooks/", ("lab1", "notebooks/")),
        ("lab1:", ("lab1", "")),
        (":notebooks", (None, "notebooks")),
        ("./a:b", (None, "./a:b")),
        ("/data/a:b", (None, "/data/a:b")),
        ("i-0123:a:b", ("i-0123", "a:b")),
    ],
)
def test_a_machine_is_named_before_a_colon_as_for_scp(
    path: str, split: tuple[str | None, str]
) -> None:
    assert split_machine(path) == split


def test_put_names_the_machine_at_the_place_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a:b", "c"):
        Path(name).touch()
    assert read_put(["a:b", "c", "lab1:d/"]) == Transfer("put", "lab1", ("d/",), ("a:b", "c"))
    assert read_put(["c", "d/"]) == Transfer("put", None, ("d/",), ("c",))


def test_get_names_the_machine_at_each_place_on_it_or_once() -> None:
    wanted = Transfer("get", "lab1", ("a", "b"), (".",))
    assert read_get(["lab1:a", "lab1:b", "."]) == wanted
    assert read_get(["lab1:a", "b", "."]) == wanted
    assert read_get(["a", "b", "./c:d"]) == Transfer("get", None, ("a", "b"), ("./c:d",))


@pytest.mark.parametrize(
    ("read", "paths", "message", "hint"),
    [
        (read_put, ["lonely"], "at least two paths", "invoke put LOCAL"),
        (read_get, ["lonely"], "at least two paths", "invoke get [MACHINE:]REMOTE"),
        (
            read_put,
            ["lab1", "nosuch", "x"],
            "Not found on this computer: lab1, nosuch",
            "MACHINE:x",
        ),
        (read_get, ["lab1:a", "lab2:b", "."], "several are named: lab1, lab2", "each machine"),
        (read_get, ["a", "lab1:b"], "get copies to this computer", "./lab1:b"),
    ],
)
def test_a_transfer_that_could_be_misunderstood_is_refused(
    read: Callable[[list[str]], Transfer], paths: list[str], message: str, hint: str
) -> None:
    with pytest.raises(RequestError) as refused:
        read(paths)
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("status", "advice"), [(23, "check their names and permissions"), (30, "Repeat the command")]
)
def test_the_advice_after_a_failed_transfer_fits_the_status(status: int, advice: str) -> None:
    machine = Mock(instance_id="i-0123456789abcdef0")
    machine.name = "lab1"
    host = Host("bake-lab1", machine.instance_id, "192.0.2.7", 22, "ubuntu", Path("key"))
    assert advice in failure(host, machine, status).hint
