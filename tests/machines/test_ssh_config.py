"""OpenSSH's own client and rsync reach a real machine by what we write for them, and no other."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bake.aws.client.session import Cloud, connect
from bake.aws.machine import Machine, find_machine, start, stop
from bake.errors import HostKeyError, RequestError
from bake.files import home
from bake.machine import key_store, ssh_config, transfer
from bake.machine import run as shell
from bake.machine import ssh_config as include
from bake.machine.key_store import KnownHostKey
from bake.machine.ssh_config import Host
from bake.ssh import keys
from tests.support.documents import checked
from tests.support.environment import REPOSITORY, scrub, use_local_cloud
from tests.support.launched import launched
from tests.support.sshd import sshd

BIN = Path(sys.executable).parent


def a_host(**different: Any) -> Host:
    host = Host("bake-mine", "i-1", "192.0.2.7", "ubuntu", 22, home() / "keys" / "mine.pem")
    return replace(host, **different)


def understood(command: list[str], *names: str) -> list[str]:
    """What `ssh -G` makes of its configuration."""
    told = subprocess.run([command[0], "-G", *command[1:]], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    options = dict(line.split(" ", 1) for line in told.stdout.splitlines() if " " in line)
    return [options[name] for name in names]


def test_ssh_understands_the_configuration_and_reads_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ssh_config.ssh_arguments(a_host(port=2222))
    known = str(home() / "known_hosts")
    assert understood(
        command, "hostname", "user", "port", "hostkeyalias", "userknownhostsfile", "identityfile"
    ) == ["192.0.2.7", "ubuntu", "2222", "i-1", known, str(home() / "keys" / "mine.pem")]
    strict, only = understood(command, "stricthostkeychecking", "identitiesonly")
    assert (strict, only) == ("true", "yes")


@pytest.mark.parametrize(
    "name", ["a b", 'quo"te', "back\\slash", "100%h", "it's", "#no comment", "*?[x]", "~", "ä €"]
)
def test_paths_are_quoted_by_openssh_s_own_rules(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    monkeypatch.setenv("BAKE_HOME", str(folder))
    command = ssh_config.ssh_arguments(a_host(key=folder / name))
    (known,) = understood(command, "userknownhostsfile")
    assert known == str(folder / "known_hosts")
    # A key's name is filled in only when it is read.
    (key,) = understood(command, "identityfile")
    assert key.replace("%%", "%") == str(folder / name)
    config = tmp_path / "config"
    config.write_text(f"{include.include_line()}\n")
    assert understood(["ssh", "-F", str(config), "bake-mine"], "hostname") == ["192.0.2.7"]
    assert understood(["ssh", "-F", str(config), "bake-other"], "hostname") == ["bake-other"]


def test_a_path_that_openssh_cannot_name_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot name this path") as refused:
        ssh_config.ssh_arguments(a_host(key=Path("/tmp/${HOME}/k")))
    assert "BAKE_HOME" in refused.value.hint


@pytest.mark.parametrize("name", ["mine", "a.b_c-1", "7", "x" * 128])
def test_a_name_that_ssh_can_take_is_one(name: str) -> None:
    ssh_config.check_name(name)
    assert understood(ssh_config.ssh_arguments(a_host(alias=f"bake-{name}")), "hostname") == [
        "192.0.2.7"
    ]


@pytest.mark.parametrize("name", ["", "a b", "*", "!x", "a,b", "-x", "a\nHost *", "ü", "x" * 129])
def test_a_name_that_ssh_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="Invalid name for a machine"):
        ssh_config.check_name(name)


def test_a_new_machine_of_a_name_takes_the_place_of_the_old_one() -> None:
    ssh_config.ssh_arguments(a_host(instance_id="i-1"))
    ssh_config.ssh_arguments(a_host(instance_id="i-2", address="192.0.2.8"))
    ssh_config.ssh_arguments(a_host(instance_id="i-3", alias="bake-other"))
    assert sorted(path.name for path in ssh_config.folder().iterdir()) == ["i-2.conf", "i-3.conf"]
    ssh_config.forget_machine("i-2")
    assert [path.name for path in ssh_config.folder().iterdir()] == ["i-3.conf"]


def test_the_person_s_own_configuration_is_added_to_once_and_left_as_it_is(tmp_path: Path) -> None:
    config = Path.home() / ".ssh" / "config"
    assert not include.is_included()
    include.include()
    assert config.read_text() == f"{include.include_line()}\n"
    assert config.stat().st_mode & 0o777 == 0o600
    assert config.parent.stat().st_mode & 0o777 == 0o700
    theirs = tmp_path / "dotfiles"
    theirs.write_bytes(b"Host *\n  User me\n# caf\xe9\n")
    config.unlink()
    config.symlink_to(theirs)
    for _ in range(2):
        include.include()
    assert config.is_symlink()
    line = include.include_line().encode()
    assert theirs.read_bytes() == line + b"\nHost *\n  User me\n# caf\xe9\n"
    ssh_config.write(a_host())
    command = ["ssh", "-F", str(config)]
    assert understood([*command, "bake-mine"], "user", "hostname") == ["ubuntu", "192.0.2.7"]
    assert understood([*command, "elsewhere"], "user") == ["me"]


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "pem"])
def test_a_key_of_any_kind_that_aws_has_is_used(kind: str, tmp_path: Path) -> None:
    """AWS makes RSA keys by default, and gives them out as PEM."""
    key = tmp_path / "key"
    options = ["-t", "rsa", "-m", "PEM"] if kind == "pem" else ["-t", kind]
    subprocess.run(["ssh-keygen", "-q", *options, "-N", "", "-f", key], check=True)
    with sshd(tmp_path, keys.generate()) as server:
        server.authorized_keys.write_text(key.with_suffix(".pub").read_text())
        with server.connect(private_key=key.read_text()) as connection:
            assert connection.run("echo there").stdout == "there\n"


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key], check=True)
    public = keys.generate().public_openssh
    key_store.save_host_keys("i-1", KnownHostKey(public))
    with pytest.raises(RequestError, match="neither ed25519 nor RSA"):
        ssh_config.connect(a_host(key=key))


# On a real machine -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(local_home: Path) -> Iterator[tuple[Cloud, Machine, Path]]:
    """A machine of this module, launched as `launch` does."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        scrub(monkeypatch, local_home.parent)
        endpoint = use_local_cloud(monkeypatch, local_home)
        cloud = connect()
        with launched(cloud, "reach-me", ssh_port=endpoint.ssh_port) as machine:
            yield cloud, machine, local_home


@pytest.fixture
def host(ours: tuple[Cloud, Machine, Path], local_cloud: Path) -> Host:
    cloud, machine, _ = ours
    now = find_machine(cloud, machine.instance_id)
    assert now is not None
    return ssh_config.find_host(cloud, now, ssh_port=int(os.environ["BAKE_SSH_PORT"]))


def run(*words: str, stdin: str | bytes = b"", cwd: Path = REPOSITORY) -> Any:
    """`invoke`, on the module's machine unless another is named."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    verb, *arguments = words
    command = [BIN / "invoke", "--search-root", REPOSITORY, verb, "--local", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, timeout=120, cwd=cwd)
    assert b"Traceback" not in done.stderr
    return done


def there(host: Host, words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """What `invoke run` starts."""
    command = shell.command(host, words, terminal=False)
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60)


def test_a_command_has_the_person_s_words_input_output_and_status(host: Host) -> None:
    words = (
        """printf '%s|' "a  b" 'it'\\''s' '$HOME' "$(id -un)" '!!' \\*; cat; echo to >&2; exit 7"""
    )
    done = run("run", "reach-me", "--", words, stdin="in\n")
    assert done.stdout == b"a  b|it's|$HOME|ubuntu|!!|*|in\n"
    assert done.stderr == b"to\n"
    assert done.returncode == 7
    raw = bytes(range(256)) * 4096
    assert there(host, "cat", raw).stdout == raw
    assert there(host, "kill -TERM $$").returncode == 143
    assert there(host, "if").returncode == 2


ENVIRONMENT = """
set -e
mkdir -p env/bin
printf '%s\\n' '#!/bin/sh' 'echo the environment: "$@"' >env/bin/python
chmod +x env/bin/python
cat >>.bashrc <<EOF
echo "noise of $-"
read -r swallowed
PATH=$HOME/env/bin:$PATH
EOF
"""


def test_a_command_runs_in_the_environment_that_a_shell_has(host: Host) -> None:
    """As the stages leave it: activated by the login user's .bashrc, for shells alone."""
    assert there(host, f"cp .bashrc kept; {ENVIRONMENT}").returncode == 0
    try:
        done = there(host, "python -c 'import sys'; cat", b"mine")
        assert done.stdout == b"the environment: -c import sys\nmine"
        assert done.stderr == b""
    finally:
        subprocess.run([*ssh_config.ssh_arguments(host), "mv kept .bashrc; rm -r env"], check=True)


def test_files_go_there_and_come_back_whatever_they_are_called(host: Host, tmp_path: Path) -> None:
    names = ["plain", "two words", "a:b", "-dash", "new\nline", "$HOME", "*", "ü'\"", "back\\slash"]
    there = tmp_path / "there"
    (there / "folder" / "deep").mkdir(parents=True)
    for name in names:
        (there / name).write_text(name)
    (there / "folder" / "deep" / "file").write_bytes(os.urandom(100_000))
    (there / "folder" / "script").write_text("#!/bin/sh\n")
    (there / "folder" / "script").chmod(0o755)
    sent = [name for name in names if not name.startswith("-")]
    done = run("put", "--", *sent, "-dash", "folder", "reach-me:a place/", cwd=there)
    assert (done.returncode, done.stderr) == (0, b"")
    back = tmp_path / "back"
    command = transfer.command(host, transfer.read_get(["a place/", f"{back}/"]), progress=False)
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert {path.name for path in back.iterdir()} == {*names, "folder"}
    assert [(back / name).read_text() for name in names] == names
    deep = Path("folder", "deep", "file")
    assert (back / deep).read_bytes() == (there / deep).read_bytes()
    assert (back / "folder" / "script").stat().st_mode & 0o777 == 0o755
    one = tmp_path / "one"
    one.mkdir()
    done = run("get", "reach-me:~/a place/new\nline", "reach-me:a place/tw*", ".", cwd=one)
    assert (done.returncode, done.stderr) == (0, b"")
    assert {path.name for path in one.iterdir()} == {"new\nline", "two words"}
    subprocess.run([*ssh_config.ssh_arguments(host), "rm -r 'a place'"], check=True)


def test_a_transfer_that_was_broken_off_goes_on_where_it_was(host: Host, tmp_path: Path) -> None:
    data = os.urandom(32 << 20)
    (tmp_path / "large").write_bytes(data)
    request = transfer.Transfer("put", None, remote=("large",), local=("large",))
    command = transfer.command(host, request, progress=False)
    slowly = [*command[:1], "--bwlimit=8m", *command[1:]]
    broken = subprocess.Popen(slowly, cwd=tmp_path, stderr=subprocess.PIPE)
    time.sleep(1.5)
    broken.send_signal(signal.SIGINT)
    broken.communicate(timeout=20)
    assert broken.returncode == 20
    look = "test ! -e large && stat -c %s .rsync-partial/large"
    kept = int(
        subprocess.run(
            [*ssh_config.ssh_arguments(host), look], stdout=subprocess.PIPE, check=True
        ).stdout
    )
    assert 1 << 20 < kept < 32 << 20
    counted = [*command[:1], "--stats", *command[1:]]
    done = subprocess.run(counted, cwd=tmp_path, capture_output=True, text=True, check=True)
    (matched,) = [line for line in done.stdout.splitlines() if line.startswith("Matched data")]
    assert int(matched.split()[2].replace(",", "")) > 1 << 20
    sum_there = subprocess.run(
        [*ssh_config.ssh_arguments(host), "sha256sum large && rm large"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert sum_there.decode().split()[0] == sha256(data).hexdigest()


def test_where_rsync_is_missing_it_is_said_how_to_get_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert there(host, "sudo mv /usr/bin/rsync /usr/bin/rsync.away").returncode == 0
    try:
        done = run("put", str(Path(__file__)), ".", "--machine", "reach-me")
        assert done.returncode == 1
        assert b"invoke run reach-me --local -- sudo apt-get install --yes rsync" in done.stderr
    finally:
        assert there(host, "sudo mv /usr/bin/rsync.away /usr/bin/rsync").returncode == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="rsync is not installed on this computer"):
        transfer.command(host, transfer.read_get(["a", "b"]), progress=False)


def test_any_program_finds_a_machine_by_its_name(host: Host, tmp_path: Path) -> None:
    shown = run("ssh-config")
    assert shown.stdout.decode() == host.configuration()
    ssh_config.remove_file(host.instance_id)
    written = run("ssh-config", "--write")
    assert shown.returncode == written.returncode == 0
    assert include.include_line() in written.stderr.decode()
    config = tmp_path / "config"
    config.write_text(f"{include.include_line()}\n")
    for program in (["ssh", "-F", config, "bake-reach-me", "id -un"],
                    ["sftp", "-q", "-b", "/dev/null", "-F", config, "bake-reach-me"]):  # fmt: skip
        done = subprocess.run(program, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
    said = run("ssh-config", "reach-me", "--json").stdout
    (document,) = checked("ssh-config", said)["hosts"]
    assert document["alias"] == "bake-reach-me"
    assert document["configuration"] == host.configuration()


def test_our_own_client_has_the_same_facts(host: Host) -> None:
    with ssh_config.connect(host) as connection:
        assert connection.run("id -un").stdout == "ubuntu\n"


def test_a_machine_with_another_host_key_is_not_spoken_to(
    ours: tuple[Cloud, Machine, Path], host: Host
) -> None:
    [true] = key_store.read_host_keys(host.instance_id)
    key_store.save_host_keys(host.instance_id, KnownHostKey(keys.generate().public_openssh))
    try:
        done = there(host, "id")
        assert done.returncode == 255
        assert done.stdout == b""
        assert b"Host key verification failed" in done.stderr
        with pytest.raises(HostKeyError):
            ssh_config.connect(host)
        key_store.remove_host_keys(host.instance_id)
        with pytest.raises(RequestError, match="host key of"):
            ssh_config.find_host(ours[0], ours[1], ssh_port=host.port)
        assert there(host, "id").returncode == 255
    finally:
        key_store.save_host_keys(host.instance_id, true)
    assert there(host, "true").returncode == 0


def test_a_key_that_is_not_here_or_that_ssh_would_refuse_is_said(
    ours: tuple[Cloud, Machine, Path], host: Host
) -> None:
    host.key.chmod(0o644)
    away = host.key.with_suffix(".away")
    try:
        with pytest.raises(RequestError, match="Other users can read the private key") as refused:
            ssh_config.find_host(ours[0], ours[1], ssh_port=host.port)
        assert refused.value.hint == f"chmod 400 {host.key}"
        host.key.chmod(0o400)
        host.key.rename(away)
        with pytest.raises(RequestError, match="is not on this computer") as refused:
            ssh_config.find_host(ours[0], ours[1], ssh_port=host.port)
        assert str(host.key) in refused.value.hint
    finally:
        if away.exists():
            away.rename(host.key)
        host.key.chmod(0o400)


def test_a_machine_that_goes_while_one_is_connected_is_said_to_be_gone(
    ours: tuple[Cloud, Machine, Path], host: Host
) -> None:
    cloud, machine, _ = ours
    command = [BIN / "invoke", "run", "echo there; sleep 60", "--machine", "reach-me", "--local"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"there\n"
        stop(cloud, machine.instance_id)
        _, said = session.communicate(timeout=60)
    assert session.returncode == 255
    assert b"no longer runs: it is stop" in said
    assert b"invoke start reach-me" in said
    done = run("connect", "reach-me")
    assert done.returncode == 2
    assert b"reach-me cannot be reached: it is stopped" in done.stderr
    assert b"invoke start reach-me" in done.stderr
    now = start(cloud, machine.instance_id)
    with ssh_config.connect(ssh_config.find_host(cloud, now, ssh_port=host.port)) as connection:
        assert connection.run("id -un").stdout == "ubuntu\n"


def test_an_interrupted_command_ends_as_one(host: Host) -> None:
    command = [BIN / "invoke", "run", "echo there; sleep 60", "--machine", "reach-me", "--local"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, start_new_session=True) as session:  # fmt: skip
        assert session.stdout is not None
        assert session.stdout.readline() == b"there\n"
        os.killpg(session.pid, signal.SIGINT)  # as a terminal does
        _, said = session.communicate(timeout=20)
    assert session.returncode == 130
    assert said == b""


def test_on_a_terminal_a_command_has_one_and_its_interrupt_reaches_it(host: Host) -> None:
    words = (
        "test -t 0 && test -t 1 && echo there; trap 'echo interrupted; exit 9' INT; sleep 60 & wait"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.execv(BIN / "invoke", ["invoke", "run", words, "--machine", "reach-me", "--local"])
    said = b""
    while b"there" not in said:
        said += os.read(terminal, 1024)
    time.sleep(0.3)
    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # the terminal's end
        while more := os.read(terminal, 1024):
            said += more
    _, status = os.waitpid(pid, 0)
    assert b"interrupted" in said
    assert os.waitstatus_to_exitcode(status) == 9
