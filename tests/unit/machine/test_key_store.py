"""Only the owner can read private keys, none is overwritten; hosts are known by instance id."""

from __future__ import annotations

import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bake.errors import FileError, RequestError
from bake.files import home
from bake.machine import key_store, ssh_config
from bake.machine.key_store import KnownHostKey
from bake.ssh import keys


def test_a_private_key_is_readable_by_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = key_store.key_path("123456789012", "us-east-1", "mine")
    key_store.save_key(path, "first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(FileError, match="File exists"):
        key_store.save_key(path, "second")
    assert path.read_text() == "first"


def test_keys_of_two_accounts_or_regions_have_different_files() -> None:
    paths = {
        key_store.key_path(account, region, "mine")
        for account in ("1", "2")
        for region in ("us-east-1", "us-west-2")
    }
    assert len(paths) == 4


def test_a_key_that_others_can_read_is_refused_with_the_command_that_corrects_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.pem"
    path.write_text("key")
    path.chmod(0o644)
    with pytest.raises(RequestError) as refused:
        key_store.check_key(path)
    assert refused.value.hint == f"chmod 400 {path}"


def test_the_public_half_is_the_same_as_ssh_keygen_prints(tmp_path: Path) -> None:
    pair = keys.generate()
    path = tmp_path / "mine.pem"
    key_store.save_key(path, pair.private_openssh)
    said = subprocess.run(
        ["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True
    ).stdout
    assert key_store.read_public_key(path).split()[:2] == said.split()[:2]


def test_a_file_that_is_not_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pem"
    path.write_text("no key")
    with pytest.raises(RequestError, match="is not a private key"):
        key_store.read_public_key(path)


def test_a_terminated_machine_is_forgotten_and_others_are_not() -> None:
    public = keys.generate().public_openssh
    path = key_store.save_host_keys("i-1", KnownHostKey(public))
    key_store.save_host_keys("i-2", KnownHostKey(public))
    key_store.remove_host_keys("i-1")
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["i-2"]
    key_store.remove_host_keys("i-3")


def test_only_the_host_key_of_the_last_start_is_known() -> None:
    first, second = keys.generate().public_openssh, keys.generate().public_openssh
    key_store.save_host_keys("i-1", KnownHostKey(first))
    path = key_store.save_host_keys("i-1", KnownHostKey(second))
    assert key_store.read_host_keys("i-1") == [KnownHostKey(" ".join(second.split()[:2]))]
    assert len(path.read_text().splitlines()) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(RequestError, match="host key of i-2 is not known") as refused:
        key_store.read_host_keys("i-2")
    assert str(path) in refused.value.hint


def test_a_key_from_user_data_is_known_as_such_beside_the_one_that_replaces_it() -> None:
    first, second = (" ".join(keys.generate().public_openssh.split()[:2]) for _ in range(2))
    old, new = KnownHostKey(first, from_user_data=True), KnownHostKey(second)
    path = key_store.save_host_keys("i-1", old, new)
    assert key_store.read_host_keys("i-1") == [new, old]
    assert path.read_text() == f"i-1 {first} from-user-data\ni-1 {second}\n"
    key_store.save_host_keys("i-1", new)
    assert key_store.read_host_keys("i-1") == [new]


def test_hosts_that_are_added_and_removed_at_the_same_time_are_recorded_correctly() -> None:
    public = keys.generate().public_openssh

    def come_and_go(number: int) -> None:
        key_store.save_host_keys(f"i-{number}", KnownHostKey(public))
        key_store.save_host_keys(f"i-gone-{number}", KnownHostKey(public))
        key_store.remove_host_keys(f"i-gone-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(24)))
    known = (home() / key_store.KNOWN_HOSTS).read_text().splitlines()
    assert {line.split()[0] for line in known} == {f"i-{number}" for number in range(24)}
    assert len(known) == 24


def test_the_lines_of_others_in_known_hosts_stay_whatever_their_encoding() -> None:
    known = home() / key_store.KNOWN_HOSTS
    known.parent.mkdir(parents=True)
    known.write_bytes(b"# caf\xe9\n\ni-1 cut-off\nother ssh-ed25519 AAAA")
    public = keys.generate().public_openssh
    key_store.save_host_keys("i-1", KnownHostKey(public))
    assert key_store.read_host_keys("i-1") == [KnownHostKey(" ".join(public.split()[:2]))]
    key_store.remove_host_keys("i-1")
    assert known.read_bytes() == b"# caf\xe9\n\nother ssh-ed25519 AAAA\n"


def test_a_folder_in_place_of_a_file_is_one_sentence() -> None:
    (home() / key_store.KNOWN_HOSTS).mkdir(parents=True)
    public = keys.generate().public_openssh
    for attempt in (
        lambda: key_store.read_host_keys("i-1"),
        lambda: key_store.save_host_keys("i-1", KnownHostKey(public)),
        lambda: key_store.read_public_key(home() / key_store.KNOWN_HOSTS),
    ):
        with pytest.raises(FileError, match=f"{key_store.KNOWN_HOSTS}: Is a directory"):
            attempt()


def test_a_machine_that_has_ended_is_forgotten_as_far_as_its_files_can_be_changed() -> None:
    (home() / key_store.KNOWN_HOSTS).mkdir(parents=True)
    (home() / "ssh").mkdir()
    (home() / "ssh" / "i-1.conf").write_text("Host bake-mine\n")
    ssh_config.forget_machine("i-1")
    assert list((home() / "ssh").iterdir()) == []
