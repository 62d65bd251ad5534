from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bake import threads as interrupts
from bake.errors import ConnectError, StageError
from bake.plan.inputs import inputs_file
from bake.plan.stage_files import StageFile, archive
from bake.ssh import keys, runner
from bake.ssh.command import RemoteCommand
from bake.ssh.connection import Connection
from bake.threads import TaskGroup, together
from tests.support.proxy import Proxy
from tests.support.sshd import Machine, sshd

LIB = b'greet() { echo "hello from the library"; }\n'


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid() != 0 and subprocess.run(["sudo", "-n", "true"], check=False).returncode != 0:
        pytest.skip("stages run as root: needs root, or sudo without a password")
    with sshd(tmp_path_factory.mktemp("sshd"), keys.generate()) as running:
        yield running


@pytest.fixture(scope="module")
def ssh(machine: Machine) -> Iterator[Connection]:
    with machine.connect() as connected:
        yield connected


@pytest.fixture
def proxy(machine: Machine) -> Iterator[Proxy]:
    with Proxy(machine.port) as running:
        yield running


class Run:
    """A run of which the test can see what it leaves on the machine."""

    def __init__(self, folder: Path) -> None:
        self.run_id = f"test-{uuid.uuid4().hex[:12]}"
        self.folder = Path("/run/bake") / self.run_id
        self.log = folder / "log"
        self.counter = folder / "counter"
        self.lines: list[str] = []
        self.seconds = 0.0

    def stage(
        self,
        ssh: Connection,
        script: str | bytes,
        inputs: dict[str, str] | None = None,
        *,
        name: str = "cuda",
        timeout_s: float = 100,
        on_line: Callable[[str], None] | None = None,
        archive: bytes = b"",
    ) -> bytes:
        body = script.encode() if isinstance(script, str) else script
        self.seconds = runner.run_stage(
            ssh,
            name,
            script=body.replace(b"@counter", str(self.counter).encode()),
            lib=LIB,
            inputs=inputs_file(name, inputs or {}),
            archive=archive,
            log=self.log,
            on_line=on_line or self.lines.append,
            timeout_s=timeout_s,
            run_id=self.run_id,
        )
        return self.log.read_bytes()

    @property
    def times_run(self) -> int:
        return len(self.counter.read_text().splitlines()) if self.counter.exists() else 0

    def left_on_the_machine(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


def wait_until(what: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid_file: Path) -> bool:
    """Whether it has ended; who reaps it may take a second or two."""
    try:
        about = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return about.rpartition(")")[2].split()[0] == "Z"


# A stage


def test_a_stage_gives_its_output_and_leaves_nothing(ssh: Connection, run: Run) -> None:
    said = run.stage(ssh, 'source "${BAKE_LIB:?}"; greet; echo to stderr >&2; echo end')
    assert said == b"hello from the library\nto stderr\nend\n"
    assert run.lines == ["hello from the library", "to stderr", "end"]
    assert 0 < run.seconds < 30
    assert run.left_on_the_machine() == []


def test_a_stage_finds_its_files_with_their_paths_modes_and_bytes(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    everything = bytes(range(256)) * 1000
    wanted = [
        StageFile("greeter/bin/greet", 0o755, b"#!/bin/sh\necho hello\n"),
        StageFile("greeter/data", 0o644, everything),
        StageFile("greeter/it's \u00e4 \u0027file", 0o644, b""),
        StageFile("greeter/" + "long/" * 60 + "name", 0o644, b"deep"),
    ]
    script = f"""
        cd "${{BAKE_FILES:?}}"
        greeter/bin/greet
        cat greeter/{"long/" * 60}name; echo
        sha256sum <greeter/data | cut -c 1-64
        find . -printf '%m %U:%G %y\\n' | sort | uniq -c
        stat --format %s "greeter/it's \u00e4 'file"
    """
    said = run.stage(ssh, script, archive=archive(wanted)).decode().split("\n")
    assert said[:3] == ["hello", "deep", hashlib.sha256(everything).hexdigest()]
    assert [" ".join(line.split()) for line in said[3:]] == [
        *("3 644 0:0 f", "63 755 0:0 d", "1 755 0:0 f", "0", "")
    ]
    assert run.left_on_the_machine() == []
    assert run.stage(ssh, 'echo "${BAKE_FILES-none}"', name="other") == b"none\n"


def test_files_that_cannot_be_unpacked_end_the_stage_before_it_starts(
    ssh: Connection, run: Run
) -> None:
    with pytest.raises(StageError, match="could not be started") as caught:
        run.stage(ssh, "echo never", archive=b"this is no archive")
    assert "tar" in "\n".join(caught.value.details)
    assert run.left_on_the_machine() == []


def test_its_environment_holds_its_inputs_and_nothing_of_the_login(
    ssh: Connection, run: Run
) -> None:
    said = run.stage(
        ssh, "env --null; pwd; tty; cat; umask; id -u; ps -o pgid= -p $$", {"CUDA_VERSION": "10.1"}
    )
    *variables, rest = said.split(b"\0")
    by_bash = {b"PWD", b"SHLVL", b"_", b"OLDPWD"}
    found = dict(variable.split(b"=", 1) for variable in variables)
    assert {name: found[name] for name in found.keys() - by_bash} == {
        b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        b"HOME": b"/root",
        b"LANG": b"C.UTF-8",
        b"BAKE_LIB": f"{run.folder}/cuda/lib.sh".encode(),
        b"CUDA_VERSION": b"10.1",
    }
    assert rest.split()[:7] == [b"/", b"not", b"a", b"tty", b"0022", b"0", rest.split()[6]]


def test_hostile_inputs_arrive_byte_for_byte_and_in_no_argument_list(
    ssh: Connection, run: Run
) -> None:
    marker = uuid.uuid4().hex
    values = {
        "QUOTES": f"{marker}'\"`'",
        "COMMANDS": f"{marker} $(touch /tmp/{marker}); `touch /tmp/{marker}` && ${{HOME}}",
        "LINES": f"\n{marker}\r\n\n\t  end \n",
        "WORDS": f"* ? [a-z] ~ # ! -n -e \\ \\n %s {marker}",
        "UNICODE": f"grüße 😀 \u202e {marker}",
        "BYTES": bytes(range(1, 256)).decode("utf-8", "surrogateescape") + marker,
        "EMPTY": "",
        "LONG": (marker + "'x") * 3000,
    }
    script = "".join(f'printf "%s\\0" "${name}"\n' for name in values) + (
        f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' "
        f"| grep --text --count '[{marker[0]}]{marker[1:]}'"
    )
    said = run.stage(ssh, script + " || true", values)
    *arrived, count = said.split(b"\0")
    assert arrived == [value.encode("utf-8", "surrogateescape") for value in values.values()]
    assert count == b"0\n"
    assert not Path(f"/tmp/{marker}").exists()


def test_inputs_and_script_are_readable_by_root_alone_and_gone_at_the_end(
    ssh: Connection, run: Run
) -> None:
    said = run.stage(
        ssh,
        'stat --format="%a %U %n" /run/bake ${BAKE_LIB%/*}/{script,inputs,lib.sh,output}',
        {"TOKEN": "secret"},
    ).decode()
    for name in ("script", "inputs", "lib.sh", "output"):
        assert f"600 root {run.folder}/cuda/{name}\n" in said
    assert "700 root /run/bake\n" in said


def test_any_bytes_reach_the_log_unchanged_and_a_megabyte_takes_no_time(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "data").write_bytes(data)
    assert run.stage(ssh, f"cat {tmp_path}/data") == data
    assert run.seconds < 30


def test_output_is_seen_while_the_stage_runs(ssh: Connection, run: Run) -> None:
    seen: list[float] = []
    run.stage(ssh, "echo a; sleep 0.6; echo b", on_line=lambda _: seen.append(time.monotonic()))
    assert seen[1] - seen[0] > 0.4


def test_an_empty_stage_costs_little(ssh: Connection, run: Run) -> None:
    took = []
    for _ in range(3):
        assert run.stage(ssh, "") == b""
        took.append(run.seconds)
    assert min(took) < 15  # 0.2 s on an idle computer


def test_a_stage_takes_one_channel_and_its_machine_is_asked_once_for_its_boot(
    machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    start = Connection.start

    def note(self: Connection, command: str, *arguments: Any, **more: Any) -> RemoteCommand:
        commands.append(command)
        return start(self, command, *arguments, **more)

    monkeypatch.setattr(Connection, "start", note)
    with machine.connect() as ssh:
        for _ in range(3):
            run.stage(ssh, "echo said")
    assert [" bake start " in command for command in commands] == [False, True, True, True]


def test_the_same_stage_can_run_again_once_it_was_read(ssh: Connection, run: Run) -> None:
    for _ in range(2):
        run.stage(ssh, "echo once >>@counter")
    assert run.times_run == 2


def test_stages_at_the_same_time_share_a_connection(ssh: Connection, tmp_path: Path) -> None:
    runs = [Run(tmp_path / str(number)) for number in range(5)]
    said: dict[int, bytes] = {}

    def one(number: int, run: Run) -> None:
        said[number] = run.stage(ssh, f"for i in 1 2 3; do echo {number}; sleep 0.1; done")

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in runs:
        shutil.rmtree(run.folder, ignore_errors=True)
    assert said == {number: b"%d\n" % number * 3 for number in range(5)}


def test_two_stages_at_the_same_time_both_come_whole_and_in_order(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    other = Run(tmp_path / "other")
    other.run_id, other.folder = run.run_id, run.folder
    count = "for i in $(seq 2000); do echo {0} $i; ((i % 400)) || sleep 0.05; done"
    with TaskGroup[str, bytes]() as group:
        group.start("cuda", lambda: run.stage(ssh, count.format("cuda"), name="cuda"))
        group.start("conda", lambda: other.stage(ssh, count.format("conda"), name="conda"))
        said = dict(group.next() for _ in range(2))
    for name, made in (("cuda", run), ("conda", other)):
        assert said[name] == b"".join(b"%s %d\n" % (name.encode(), i) for i in range(1, 2001))
        assert made.lines == said[name].decode().splitlines()
    assert run.left_on_the_machine() == []


def test_a_stage_that_fails_ends_the_other_on_the_machine_and_both_logs_are_kept(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    other = Run(tmp_path / "other")
    other.run_id, other.folder = run.run_id, run.folder
    begun = threading.Event()
    long = f"sleep 60 & echo $! >{tmp_path}/pid; echo begun; wait"
    with (
        pytest.raises(StageError, match="stage conda ended with status 3"),
        TaskGroup[str, bytes]() as group,
    ):
        group.start("cuda", lambda: run.stage(ssh, long, on_line=lambda _: begun.set()))
        assert begun.wait(10)
        group.start("conda", lambda: other.stage(ssh, "echo why; exit 3", name="conda"))
        group.next()
    wait_until(lambda: is_gone(tmp_path / "pid"), timeout_s=20)
    took = time.time() - other.log.stat().st_mtime  # since conda's last word
    print(f"ended after {took:.2f} s")
    assert took < 30  # 0.5 s on an idle computer; the other stage would take 60 s
    assert run.log.read_bytes() == b"begun\n"
    assert other.log.read_bytes() == b"why\n"
    assert run.left_on_the_machine() == []


def test_a_stage_that_is_called_off_as_it_starts_does_not_run_on(
    ssh: Connection, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would stop it comes to the machine while it still takes in the stage's files."""
    sent = threading.Event()
    start = Connection.start

    def start_and_be_called_off(
        self: Connection, command: str, *arguments: Any, **more: Any
    ) -> RemoteCommand:
        if " bake start " not in command:
            return start(self, command, *arguments, **more)
        command = command.replace("start() {", "start() {\n    sleep 0.5")
        started = start(self, command, *arguments, **more)
        sent.set()
        scope = interrupts.scope()
        assert scope is not None
        assert scope.wait(10)
        return started

    def fail() -> None:
        assert sent.wait(10)
        raise ZeroDivisionError

    def work() -> None:
        run.stage(ssh, f"{marker} & wait")

    marker = f"sleep 61.{uuid.uuid4().int % 10**9}"
    monkeypatch.setattr(Connection, "start", start_and_be_called_off)
    with pytest.raises(ZeroDivisionError):
        together(work, fail)
    time.sleep(1)  # what was under way would have begun by now
    running = subprocess.run(["pgrep", "--full", marker], capture_output=True, text=True)
    assert running.stdout == ""
    assert run.left_on_the_machine() == []


def test_a_stage_out_of_reach_is_not_waited_for_when_it_is_called_off(
    machine: Machine, proxy: Proxy, run: Run
) -> None:
    lost = threading.Event()

    def vanish(line: str) -> None:
        if line == "line 10":
            proxy.refuse = True
            proxy.cut("drop")
            lost.set()

    def fail() -> None:
        assert lost.wait(10)
        time.sleep(0.5)
        raise ZeroDivisionError

    began = time.monotonic()
    with machine.connect(port=proxy.port) as lossy, pytest.raises(ZeroDivisionError):

        def work() -> None:
            run.stage(lossy, SLOW, on_line=vanish)

        together(work, fail)
    assert time.monotonic() - began < 30


# How it fails


def test_a_stage_that_fails_tells_its_status_last_lines_and_log(ssh: Connection, run: Run) -> None:
    with pytest.raises(StageError, match=r"^stage cuda ended with status 3$") as caught:
        run.stage(ssh, "seq 100; echo 'the reason' >&2; exit 3")
    assert caught.value.details == (*map(str, range(82, 101)), "the reason")
    assert str(run.log) in caught.value.hint
    assert run.log.read_bytes().endswith(b"\n100\nthe reason\n")
    assert run.left_on_the_machine() == []


@pytest.mark.parametrize(
    ("script", "hint"),
    [
        ("echo x >/dev/full", "disk_gb"),
        ("echo 'E: Could not get lock /var/lib/dpkg/lock-frontend.'; exit 100", "apt's lock"),
        (
            "echo 'curl: (6) Could not resolve host: example.invalid'; exit 6",
            "route to the internet",
        ),
        ("kill -KILL $$", "memory"),
    ],
)
def test_usual_causes_are_named(ssh: Connection, run: Run, script: str, hint: str) -> None:
    with pytest.raises(StageError) as caught:
        run.stage(ssh, script)
    assert hint in caught.value.hint


def test_an_error_and_its_log_hold_no_secret(ssh: Connection, run: Run) -> None:
    with pytest.raises(StageError) as caught:
        runner.run_stage(
            ssh,
            "cuda",
            script=b'echo "a $TOKEN z"; base64 <<<"$TOKEN"; printf %s "${TOKEN:0:9}"; exit 3',
            lib=LIB,
            inputs=inputs_file("cuda", {"TOKEN": "not-to-be-seen"}),
            log=run.log,
            on_line=run.lines.append,
            timeout_s=100,
            run_id=run.run_id,
            secrets=["not-to-be-seen"],
        )
    assert caught.value.details == ("a *** z", "***", "***")
    assert run.log.read_text() == "a *** z\n***\n***"
    assert "not-to" not in f"{caught.value} {caught.value.hint} {run.lines}"


def test_a_stage_that_a_signal_ends_has_failed(ssh: Connection, run: Run) -> None:
    with pytest.raises(StageError, match=r"status 143 \(SIGTERM\)"):
        run.stage(ssh, "echo begun; kill -TERM $$; sleep 5")


def test_a_stage_whose_supervisor_is_killed_has_failed_and_is_ended(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="it has no exit status"):
        run.stage(
            ssh,
            f"echo $$ >{tmp_path}/pid; kill -KILL $(ps -o ppid= -p $PPID); sleep 60",
        )
    wait_until(lambda: is_gone(tmp_path / "pid"))


def test_what_a_stage_leaves_running_ends_with_it(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    assert run.stage(ssh, f"sleep 60 & echo $! >{tmp_path}/pid") == b""
    assert run.seconds < 30
    wait_until(lambda: is_gone(tmp_path / "pid"))


def test_a_daemon_that_goes_on_writing_does_not_hold_the_stage_up(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    daemon = f"echo $$ >{tmp_path}/pid; while echo more; do sleep 0.001; done"
    run.stage(ssh, f"echo begun; setsid bash -c '{daemon}' & sleep 0.3")
    assert run.seconds < 30
    assert run.log.read_bytes().startswith(b"begun\nmore\n")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_follower_left_behind_does_no_harm_to_the_next_stage_of_that_name(
    machine: Machine, ssh: Connection, proxy: Proxy, run: Run
) -> None:
    """Over there it is still following when its client has gone on over another connection."""
    with machine.connect(port=proxy.port, silence_s=1.0) as stalling:

        def stall(line: str) -> None:
            if line == "line 2":
                proxy.cut("stall")

        assert run.stage(stalling, SLOW, on_line=stall) == SLOW_SAYS
    assert run.stage(ssh, f"sleep 1; {SLOW}") == SLOW_SAYS
    assert run.times_run == 2


def test_a_stage_that_takes_too_long_is_ended_with_its_children(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="did not end within 1 s, and was ended") as caught:
        run.stage(
            ssh,
            f"echo begun; (trap '' TERM; sleep 60 & echo $! >{tmp_path}/pid; wait) & sleep 60",
            timeout_s=1,
        )
    assert caught.value.details == ("begun",)
    wait_until(lambda: is_gone(tmp_path / "pid"))
    assert run.left_on_the_machine() == []


def test_a_machine_that_does_not_end_an_overdue_stage_is_told_to(
    ssh: Connection, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_OVERTIME_S", 0.5)
    with pytest.raises(StageError, match="did not end within 1 s"):
        run.stage(
            ssh,
            # stopped, the stage's own time limit cannot act
            f"echo $$ >{tmp_path}/pid; kill -STOP $PPID; sleep 60",
            timeout_s=1,
        )
    wait_until(lambda: is_gone(tmp_path / "pid"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_on_this_side_ends_the_stage(
    ssh: Connection, run: Run, tmp_path: Path, error: type[BaseException]
) -> None:
    def interrupt(_: str) -> None:
        raise error

    with pytest.raises(error):
        run.stage(ssh, f"sleep 60 & echo $! >{tmp_path}/pid; echo go; wait", on_line=interrupt)
    wait_until(lambda: is_gone(tmp_path / "pid"))
    assert run.left_on_the_machine() == []


def test_names_that_would_leave_the_folder_are_refused(ssh: Connection, run: Run) -> None:
    for name in ("../up", "a/b", "", "-x", "a b"):
        with pytest.raises(StageError, match="cannot be part"):
            run.stage(ssh, "true", name=name)


# Once, whatever happens to the connection


SLOW = "echo once >>@counter; for i in $(seq 25); do echo line $i; sleep 0.03; done"
SLOW_SAYS = b"".join(b"line %d\n" % number for number in range(1, 26))


def test_a_start_whose_answer_was_lost_is_not_repeated(
    machine: Machine, proxy: Proxy, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that the machine answers to the first start is lost on the way."""
    with machine.connect(port=proxy.port, silence_s=1.0) as ssh:
        start = Connection.start

        def lose_the_answer(self: Connection, *arguments: object, **more: object) -> object:
            monkeypatch.setattr(Connection, "start", start)
            command = start(self, *arguments, **more)  # type: ignore[arg-type]
            proxy.cut("stall")
            return command

        ssh.boot_id()
        monkeypatch.setattr(Connection, "start", lose_the_answer)
        assert run.stage(ssh, SLOW) == SLOW_SAYS
    assert (run.times_run, proxy.cuts) == (1, 1)


def start_and_kill_the_client(machine: Machine, run: Run, script: str) -> None:
    client = f"""
from pathlib import Path
from bake.ssh import connection, runner
with connection.connect("127.0.0.1", port={machine.port}, user={machine.user!r}, timeout_s=20,
        private_key={machine.login.private_openssh!r}, host_key={machine.host_key!r}) as ssh:
    runner.run_stage(ssh, "cuda", script={script.replace("@counter", str(run.counter)).encode()!r},
        lib={LIB!r}, inputs=b"", log=Path({str(run.log)!r}), timeout_s=100, run_id={run.run_id!r},
        on_line=lambda line: print(line, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", client], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"line 1\n"
        killed.send_signal(signal.SIGKILL)


def test_a_stage_whose_client_was_killed_is_followed_by_the_next(
    machine: Machine, ssh: Connection, run: Run
) -> None:
    start_and_kill_the_client(machine, run, SLOW)
    assert run.stage(ssh, SLOW) == SLOW_SAYS
    assert run.times_run == 1


def test_the_end_of_a_stage_whose_client_was_killed_is_kept(
    machine: Machine, ssh: Connection, run: Run
) -> None:
    start_and_kill_the_client(machine, run, f"{SLOW}; exit 7")
    wait_until((run.folder / "cuda" / "status").is_symlink)
    with pytest.raises(StageError, match="status 7"):
        run.stage(ssh, f"{SLOW}; exit 7")
    assert run.log.read_bytes() == SLOW_SAYS
    assert run.times_run == 1
    assert run.left_on_the_machine() == []


def test_another_script_under_the_name_of_a_running_stage_is_refused(
    ssh: Connection, run: Run, tmp_path: Path
) -> None:
    other = Run(tmp_path / "other")
    other.run_id, other.folder = run.run_id, run.folder
    begun = threading.Event()
    first = threading.Thread(
        target=run.stage, args=(ssh, SLOW), kwargs={"on_line": lambda _: begun.set()}
    )
    first.start()
    assert begun.wait(5)
    with pytest.raises(StageError, match="another stage cuda of the same run"):
        other.stage(ssh, "echo something else")
    first.join()
    assert run.log.read_bytes() == SLOW_SAYS


def test_a_rebooted_machine_is_not_waited_for_and_nothing_starts_again(
    machine: Machine, proxy: Proxy, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "boot_id", lambda _: "of the boot before")
    with (
        machine.connect(port=proxy.port) as ssh,
        pytest.raises(StageError, match="was rebooted before stage cuda had ended"),
    ):
        run.stage(ssh, SLOW)
    assert run.times_run == 0


def test_a_machine_that_has_forgotten_the_stage_does_not_start_it_again(
    machine: Machine, proxy: Proxy, run: Run
) -> None:
    def forget(line: str) -> None:
        if line == "line 10":
            shutil.rmtree(run.folder)
            proxy.cut("drop")

    with (
        machine.connect(port=proxy.port) as ssh,
        pytest.raises(StageError, match="no trace of stage cuda was found"),
    ):
        run.stage(ssh, SLOW, on_line=forget)
    assert run.times_run == 1


def test_a_machine_that_stays_out_of_reach_is_given_up(
    machine: Machine, proxy: Proxy, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "OUT_OF_REACH_S", 1.0)

    def vanish(line: str) -> None:
        if line == "line 10":
            proxy.refuse = True
            proxy.cut("drop")

    began = time.monotonic()
    with (
        machine.connect(port=proxy.port) as ssh,
        pytest.raises(ConnectError, match="out of reach for 1 s during stage cuda") as caught,
    ):
        run.stage(ssh, SLOW, on_line=vanish)
    assert time.monotonic() - began < 30
    assert caught.value.details[-1] == "line 10"
    assert "No SSH connection" in caught.value.message


def test_a_machine_on_which_nothing_can_be_written_says_so(ssh: Connection, run: Run) -> None:
    run.folder.parent.mkdir(exist_ok=True)
    run.folder.write_text("in the way")
    with pytest.raises(StageError, match="could not be started") as caught:
        run.stage(ssh, "true")
    assert "Not a directory" in caught.value.details[0]
    run.folder.unlink()
