"""Stages over connections that break in every way: each runs once, and is what it says it is.

A stage here writes lines that are known beforehand, quickly, and notes on the machine that it has
begun, and that it has ended. So what was lost, said twice, or run twice shows.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bake.errors import ConnectError, RemoteError, StageError
from bake.plan.inputs import inputs_file
from bake.ssh import keys, runner, spot
from bake.ssh.connection import Connection
from bake.threads import together
from tests.support.proxy import CUTS, Proxy
from tests.support.sshd import Machine, sshd

SILENCE_S = 1.0
LINES = 3000
SCRIPT = f"""
echo begun >>"$NOTES"
for number in {{1..{LINES}}}; do
    echo "line $number of $NAME: ${{NAME//-/ }}"
    ((number % 150)) || sleep 0.02
done
echo ended >>"$NOTES"
exit "$STATUS"
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid() != 0 and subprocess.run(["sudo", "-n", "true"], check=False).returncode != 0:
        pytest.skip("stages run as root: needs root, or sudo without a password")
    with sshd(tmp_path_factory.mktemp("sshd"), keys.generate()) as running:
        yield running


class Stage:
    """One run of the script, with a name that no other has."""

    def __init__(self, folder: Path, status: int = 0) -> None:
        self.name = f"test-{uuid.uuid4()}"
        self.status = status
        self.log = folder / f"{self.name}.log"
        self.notes = folder / f"{self.name}.notes"

    def run(self, ssh: Connection, on_line: Callable[[str], None] | None = None) -> None:
        """And see that it was one run, told in full and in order, with its own status."""
        fails = pytest.raises(StageError, match=f"^stage stage ended with status {self.status}$")
        with fails if self.status else contextlib.nullcontext():
            inputs = {"NAME": self.name, "NOTES": str(self.notes), "STATUS": str(self.status)}
            runner.run_stage(
                ssh,
                "stage",
                script=SCRIPT.encode(),
                lib=b"",
                inputs=inputs_file("stage", inputs),
                log=self.log,
                on_line=on_line,
                timeout_s=100,
                run_id=self.name,
            )
        assert self.notes.read_text() == "begun\nended\n"
        text = "".join(
            f"line {number} of {self.name}: {self.name.replace('-', ' ')}\n"
            for number in range(1, LINES + 1)
        )
        assert self.log.read_bytes() == text.encode()
        shutil.rmtree(f"/run/bake/{self.name}", ignore_errors=True)


@dataclass
class Ordeal:
    """Stages one after the other, over a connection that is cut all the time."""

    machine: Machine
    folder: Path
    seed: int
    cuts: list[str]
    stages: int = 0
    tried: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)

    def __call__(self) -> None:
        chance = random.Random(self.seed)
        enough = threading.Event()
        with Proxy(self.machine.port, seed=self.seed) as proxy:
            cutter = threading.Thread(target=self._cut, args=(proxy, chance, enough))
            cutter.start()
            self.tried = proxy.done
            try:
                with self.machine.connect(port=proxy.port, silence_s=SILENCE_S) as ssh:
                    cutting = True
                    while cutting:  # the last one is after all cuts
                        cutting = cutter.is_alive()
                        Stage(self.folder, status=self.stages % 2 * 3).run(ssh)
                        self.stages += 1
                        self.survived = proxy.done[:]
            finally:
                enough.set()
                cutter.join()

    def _cut(self, proxy: Proxy, chance: random.Random, enough: threading.Event) -> None:
        for how in self.cuts:
            done = proxy.cuts
            while proxy.cuts == done:
                # As keys are exchanged, as the stage is started, anywhere in what it says.
                begin, end = chance.choice([(1, 6_000), (6_000, 20_000), (1, 250_000)])
                proxy.arm(how, chance.randint(begin, end))
                deadline = time.monotonic() + 3
                while proxy.cuts == done and time.monotonic() < deadline:
                    if enough.wait(0.01):
                        return


def survive(
    machine: Machine, folder: Path, seed: int, cuts: int, *, lanes: int
) -> tuple[Counter[str], Counter[str], int]:
    """Cuts of each kind equally often, in several connections at once: survived, tried; stages."""
    chance = random.Random(seed)
    kinds = [CUTS[number % len(CUTS)] for number in range(cuts)]
    chance.shuffle(kinds)
    ordeals = [
        Ordeal(machine, folder, chance.randrange(2**32), kinds[lane::lanes])
        for lane in range(lanes)
    ]
    print(f"seed {seed}")
    try:
        together(*ordeals)
    finally:
        tried = Counter(how for ordeal in ordeals for how in ordeal.tried)
        survived = Counter(how for ordeal in ordeals for how in ordeal.survived)
        print(f"{survived.total()} of {tried.total()} cuts survived")
    return survived, tried, sum(ordeal.stages for ordeal in ordeals)


@pytest.mark.parametrize("seed", [1, None], ids=["the same seed", "another seed"])
def test_cuts_at_random_moments_change_nothing(
    machine: Machine, tmp_path: Path, seed: int | None
) -> None:
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    survived, tried, _ = survive(machine, tmp_path, seed, len(CUTS), lanes=4)
    assert survived == tried >= Counter(CUTS)


@pytest.mark.soak
def test_two_hundred_cuts_change_nothing(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    survived, tried, stages = survive(machine, tmp_path, seed, 200, lanes=4)
    with capsys.disabled():
        print(f"\n\n{stages} stages over connections that were cut; seed {seed}\n")
        print("| cut | survived / tried |\n|---|---|")
        for how in CUTS:
            print(f"| {how} | {survived[how]} / {tried[how]} |")
        print(f"| all | {survived.total()} / {tried.total()} |")
    assert survived == tried
    assert tried.total() >= 200


def test_each_kind_of_cut_breaks_the_connection_once_and_a_pause_does_not(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def one(how: str) -> None:
        def cut_in_the_middle(line: str) -> None:
            if line.startswith("line 1000 of "):
                proxy.cut(how)

        with (
            Proxy(machine.port) as proxy,
            machine.connect(port=proxy.port, silence_s=3) as ssh,  # also where all is slow
        ):
            Stage(tmp_path).run(ssh, on_line=cut_in_the_middle)
            ssh.run("true")
            assert proxy.done == [how]
            assert (how, proxy.connections) == (how, 1 if how == "pause" else 2)

    together(*(lambda how=how: one(how) for how in CUTS))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_an_ssh_server_that_is_restarted_in_the_middle_of_a_stage_changes_nothing(
    tmp_path: Path, how: str
) -> None:
    """Where it is only restarted, its sessions go on; where it is killed, they are gone too."""
    connections: list[bool] = []

    def restart(line: str) -> None:
        if line.startswith("line 1000 of "):
            if how == "killed":
                server.kill()
            else:
                server.stop()
            threading.Timer(0.5, server.start).start()
        if line.startswith("line 2900 of "):
            connections.append(ssh.alive)

    with sshd(tmp_path, keys.generate()) as machine, machine.connect(silence_s=SILENCE_S) as ssh:
        server = machine.server
        before = ssh._fabric
        Stage(tmp_path).run(ssh, on_line=restart)
        assert (ssh._fabric is before) == (how == "restarted")
        assert connections == [True]
        assert ssh.run("echo fine").stdout == "fine\n"
        with machine.connect(silence_s=SILENCE_S) as another:  # the same key, the same server
            assert another.boot_id() == ssh.boot_id()


def test_a_shutdown_ends_the_wait_for_a_spot_notice_as_a_broken_connection_does(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the wait starts again after a reboot; a machine that cannot read a notice is an error."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    with machine.connect() as ssh:
        monkeypatch.setattr(spot, "_program", lambda: program)
        with pytest.raises(ConnectError, match="ended the program that waits"):
            spot.wait_for_notice(ssh)
        monkeypatch.setattr(spot, "_program", lambda: "raise SystemExit('no such module')")
        with pytest.raises(RemoteError, match="cannot read the spot") as caught:
            spot.wait_for_notice(ssh)
    assert not isinstance(caught.value, ConnectError)
    assert caught.value.details == ("no such module",)
