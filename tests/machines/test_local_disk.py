"""Saving a machine's disk: the layer's content, the copied bytes, and the duration of the pause."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bake import catalog
from bake.local import control
from bake.local.machines import os_images
from bake.local.machines.disk import MachineDisk
from bake.local.machines.engine import Engine, find_engine

pytestmark = [
    pytest.mark.skipif(
        not find_engine().layers_are_folders, reason="Layers are made by the engine's commit here"
    ),
]

LABEL = {"bake.test": str(os.getpid())}
REPOSITORY = f"localhost/bake-test-{os.getpid()}/layer"
# Files that are new, replaced, removed, made again, with holes, and with two names.
FIRST = """
mkdir -p /opt/a/b; echo one > /opt/a/b/one; echo two > /opt/two; ln /opt/two /opt/two-again
mkdir /opt/old; echo old > /opt/old/gone; truncate --size=1G /opt/holes; echo end >> /opt/holes
ln -s one /opt/link; mkfifo /opt/fifo; chown -R 1000:1000 /opt/a
head -c 20M /dev/urandom > /opt/big
"""
THEN = """
rm -rf /usr/share/perl5 /opt/old; mkdir /opt/old /usr/share/perl5; echo new > /usr/share/perl5/only
rm /opt/two; echo more >> /opt/a/b/one; chmod 700 /opt/a; mv /opt/a /opt/moved; rm /etc/motd
"""
LIST = """
find / -xdev \\( -type d -printf '%p %m %U\\n' -o -printf '%p %s %m %U %l %T@\\n' \\) |
    grep -v -E '^/(proc|sys|dev|run)|^/etc/(hosts|hostname|resolv.conf|mtab)|^/ ' | sort
find /opt /usr/share/perl5 -type f -size -30M -exec md5sum {} + | sort
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The layer of a base image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKE_HOME", str(tmp_path_factory.mktemp("home")))
        endpoint = control.up()
        os_images.provide(endpoint, catalog.load().os_image("debian-12"), stand_in=False)
        name = f"{REPOSITORY}:root"
        engine = find_engine()
        (there,) = engine.references(
            f"localhost/bake-{endpoint.request('status')['cloud_id']}/snapshot"
        )
        engine.tag(there, name)
        control.down(erase=True)
    yield name
    for reference in engine.references(REPOSITORY):
        engine.forget(reference)
    engine.prune("bake.test=" + LABEL["bake.test"])


Start = Callable[..., tuple[MachineDisk, str]]


@pytest.fixture
def start(root: str) -> Iterator[Start]:
    engine = find_engine()
    names: list[str] = []

    def started(image: str = root, command: str = "sleep 1000") -> tuple[MachineDisk, str]:
        names.append(f"bake-test-{os.getpid()}-{len(names)}")
        arguments = ["run", "--detach", "--network=none", "--name", names[-1], *engine.limits]
        engine.call(*arguments, image, "sh", "-c", command)
        return MachineDisk(engine, names[-1], LABEL), names[-1]

    yield started
    for name in names:
        engine.remove(name)


def inside(name: str, script: str) -> str:
    return find_engine().call("exec", name, "sh", "-ec", script).stdout.decode()


def nothing() -> None:
    pass


def reference(name: str) -> str:
    return f"{REPOSITORY}:{name}"


def test_layer_holds_what_the_machine_has_and_shares_what_has_not_changed(start: Start) -> None:
    disk, name = start()
    inside(name, FIRST)
    copied = disk.keep(reference("first"), nothing)
    assert 20e6 < copied < 25e6
    first = inside(name, LIST)
    inside(name, THEN)
    again = disk.keep(reference("then"), nothing)
    assert again < 1e6
    folder = find_engine().layer_folder
    big = [folder(reference(which)) / "opt" / "big" for which in ("first", "then")]
    assert big[0].samefile(big[1])

    _, from_first = start(reference("first"))
    _, from_then = start(reference("then"))
    assert inside(from_first, LIST) == first
    assert inside(from_then, LIST) == inside(name, LIST) != first


def test_layer_outlives_the_one_that_it_shares_with(start: Start) -> None:
    disk, name = start()
    inside(name, FIRST)
    disk.keep(reference("gone"), nothing)
    gone = find_engine().layer_folder(reference("gone"))
    find_engine().forget(reference("gone"))
    find_engine().prune("bake.test=" + LABEL["bake.test"])
    assert not gone.exists()
    copied = disk.keep(reference("stays"), nothing)
    assert copied > 20e6
    _, other = start(reference("stays"))
    assert inside(other, LIST) == inside(name, LIST)


def test_layer_is_of_the_moment_from_which_the_machine_stands_still(start: Start) -> None:
    disk, name = start(command="while :; do echo line >> /opt/log; done")
    inside(name, "head -c 50M /dev/urandom > /opt/big")
    log = find_engine().written_by(name)[0] / "opt" / "log"
    sizes: list[int] = []
    disk.keep(reference("moment"), lambda: sizes.append(log.stat().st_size))
    kept = find_engine().layer_folder(reference("moment")) / "opt" / "log"
    assert [kept.stat().st_size] == sizes
    inside(name, f"test $(stat --format=%s /opt/log) -gt {sizes[0]}")  # and the machine continues


def test_writes_by_a_shared_mapping_are_not_missed(start: Start) -> None:
    disk, name = start()
    program = (
        "import mmap, os, time\n"
        "file = open('/opt/mapped', 'w+b'); file.truncate(1 << 20)\n"
        "memory = mmap.mmap(file.fileno(), 1 << 20); memory[:3] = b'one'\n"
        "while not os.path.exists('/opt/go'): time.sleep(0.02)\n"
        "memory[:3] = b'two'; open('/opt/done', 'w').close(); time.sleep(1000)\n"
    )
    find_engine().call("exec", "--detach", name, "python3", "-c", program)
    inside(name, "until grep --quiet one /opt/mapped; do sleep 0.1; done; sleep 0.1")
    disk.keep(reference("one"), nothing)
    inside(name, "touch /opt/go; until [ -e /opt/done ]; do sleep 0.1; done")
    disk.keep(reference("two"), nothing)
    kept = find_engine().layer_folder(reference("two")) / "opt" / "mapped"
    assert kept.read_bytes()[:3] == b"two"


def test_layers_do_not_pile_up_without_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = find_engine()
    disk, name = start()
    monkeypatch.setattr("bake.local.machines.disk.MAX_DEPTH", engine.depth(name))
    inside(name, "echo mine > /opt/mine; rm /etc/motd")
    disk.keep(reference("flat"), nothing)
    _, other = start(reference("flat"))
    assert engine.depth(other) == 1
    assert inside(other, "cat /opt/mine; ls /etc/motd || true").strip() == "mine"


def test_what_the_file_system_neither_links_nor_shares_is_copied(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, name = start()
    inside(name, FIRST)
    disk.keep(reference("before"), nothing)
    before = str(find_engine().layer_folder(reference("before")))
    link = os.link

    def far(source: str, *others: Any, **options: Any) -> None:
        if source.startswith(before):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, *others, **options)

    def unshared(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", far)
    monkeypatch.setattr(os, "copy_file_range", unshared)
    assert disk.keep(reference("copied"), nothing) > 20e6
    monkeypatch.undo()
    _, other = start(reference("copied"))
    assert inside(other, LIST) == inside(name, LIST)


def test_failure_leaves_the_machine_running_and_nothing_behind(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, name = start()
    inside(name, FIRST)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bake.local.machines.disk._copy_data", full)
    with pytest.raises(OSError, match="No space"):
        disk.keep(reference("never"), nothing)
    assert inside(name, "echo goes on") == "goes on\n"
    written, _ = find_engine().written_by(name)
    assert not list(written.parent.glob("bake-*"))
    assert not find_engine().has_image(reference("never"))


def test_machine_of_an_engine_without_folders_stands_still_for_a_commit(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\necho 1\n')
    program.chmod(0o755)
    disk = MachineDisk(Engine(str(program)), "m", {"a": "b"})

    def moment() -> None:
        with calls.open("a") as noted:
            noted.write("moment\n")

    disk.keep("ref", moment)
    assert [line.split()[0] for line in calls.read_text().splitlines()] == [
        *("pause", "moment", "commit", "unpause"),
    ]
    assert "commit --change=LABEL a=b --pause=false m ref" in calls.read_text()
