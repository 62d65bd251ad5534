"""Machines that are rebooted by a bake, and those that reboot without being asked to."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bake.errors import ConnectError, StageError
from bake.machine import boot
from bake.ssh.boot_id import with_boot_id
from tests.support.kitchen import Kitchen, Witness, machines_ever
from tests.support.systemd_machines import base_layer, systemd_machines

BOOT_ID = "/proc/sys/kernel/random/boot_id"
# What only a machine that was rebooted in between can say, of two stages.
BEFORE = f"cp {BOOT_ID} /opt/boot-id; touch /run/before /tmp/before"
AFTER = f"""\
[[ $(<{BOOT_ID}) != "$(</opt/boot-id)" ]]
[[ ! -e /run/before && ! -e /tmp/before ]]
"""


def test_a_stage_that_reboots_runs_alone_and_is_done_when_the_machine_is_back(
    kitchen: Kitchen, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a machine that does not come back fails the bake; what was done before is kept."""
    kitchen.stage("first", body=BEFORE)
    kitchen.stage("kernel", "first", body=f"[[ $(<{BOOT_ID}) == $(</opt/boot-id) ]]", reboots="yes")
    kitchen.stage("beside", "first", body=AFTER)
    kitchen.stage("last", "kernel beside", body=f"{AFTER} chmod -x /usr/sbin/sshd", reboots="yes")
    kitchen.recipe("one", "first", "kernel", "beside", "last")

    def reboot(*arguments: Any, **more: Any) -> None:
        if witness.said.count("last begins") == 1:
            more["timeout_s"] = 4.0
        boot.reboot(*arguments, **more)

    monkeypatch.setattr("bake.pipeline.stages.reboot", reboot)
    with pytest.raises(ConnectError, match="did not come back within 4 s of its reb") as caught:
        kitchen.bake("one")
    assert "Its console said:" in caught.value.details
    assert any(" is running" in line for line in caught.value.details)
    assert caught.value.details[-1].startswith("The next bake resumes from ")
    assert witness.began() == ["first", "kernel", "beside", "last"]
    assert witness.said.index("kernel ends") == witness.said.index("kernel begins") + 1

    kitchen.stage("last", "kernel beside", body=AFTER)
    [outcome] = kitchen.bake("one")
    assert outcome.record
    assert witness.began() == ["first", "kernel", "beside", "last", "last"]
    kept = {stage.name for stage in outcome.record.stages if stage.checkpoint}
    assert kept == {"first", "kernel", "beside"}


def test_the_machine_reboots_if_a_stage_requires_it_and_before_the_proof(
    kitchen: Kitchen, witness: Witness
) -> None:
    required = f"{BEFORE}; touch /run/reboot-required"
    kitchen.stage("first", body=required, reboots="when-required")
    kitchen.stage("second", "first", body=f"{AFTER}{BEFORE}", reboots="when-required")
    kitchen.stage("third", "second", body=f"[[ $(<{BOOT_ID}) == $(</opt/boot-id) ]]")
    kitchen.recipe("one", "first", "second", "third")
    [outcome] = kitchen.bake("one")
    assert outcome.record
    assert witness.began() == ["first", "second", "third"]
    steps = [step.name for step in outcome.record.steps if step.kind in ("stage", "reboot")]
    assert steps == ["first", "Reboot", "second", "third", "Reboot", "seal"]
    for step in outcome.record.steps:
        print(f"{step.name:10} {(step.ended_at - step.began_at).total_seconds():5.1f} s")


def test_a_reboot_is_seen_where_a_machine_has_the_boot_id_of_this_computer() -> None:
    """As in a container of Docker without root."""
    with systemd_machines() as machines:
        machine = machines.disk(base_layer(machines.engine))
        first = machine.read(with_boot_id("boot_id"))
        as_user = f"runuser --user nobody -- sh -c {shlex.quote(with_boot_id('boot_id'))}"
        again = machine.read(as_user)
        machines.engine.call("restart", "--time", "0", machine.name)
        after = machine.read(with_boot_id("boot_id"))
    assert again == first
    assert after != first
    assert after.split()[0] == first.split()[0] == Path(BOOT_ID).read_text().strip()


@pytest.mark.soak
def test_a_stage_whose_machine_was_rebooting_when_the_client_was_killed_runs_again(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.stage("first", body=BEFORE)
    kitchen.stage("kernel", "first", reboots="yes")
    kitchen.stage("after", "kernel", body=AFTER)
    kitchen.recipe("one", "first", "kernel", "after")
    with kitchen.baking("one") as process:
        witness.wait_for("kernel ends")
        time.sleep(0.7)  # it is shutting down
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    [outcome] = kitchen.bake("one")
    assert outcome.status == "baked"
    assert witness.began() == ["first", "kernel", "kernel", "after"]


@pytest.mark.soak
def test_a_machine_that_reboots_by_itself_fails_the_stage_that_ran(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("first", "second")
    kitchen.stage("second", "first", body="ask 'stay up' || { shutdown -r now; sleep 60; }")
    kitchen.recipe("one", "first", "second")
    witness.refused.add("stay up")
    known = machines_ever()
    with pytest.raises(StageError, match="was rebooted before stage second had ended"):
        kitchen.bake("one")
    assert len(machines_ever() - known) == 1
    witness.refused.clear()
    [outcome] = kitchen.bake("one")
    assert outcome.status == "baked"
    assert witness.began() == ["first", "second", "second"]
