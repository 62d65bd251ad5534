"""No work is done twice: the stages on real machines report to a witness when they run."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import boto3
import pytest

from bake.aws.checkpoint import Checkpoint, checkpoints
from bake.aws.client.session import Cloud, connect
from bake.aws.image import find_image
from bake.errors import RequestError, StageError
from bake.pipeline.builder import OnFailure
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen, Witness, machines_ever
from tests.support.leftovers import held


def snapshots() -> list[str]:
    return [checkpoint.snapshot_id for checkpoint in checkpoints(connect())]


def test_what_is_baked_is_not_baked_again(kitchen: Kitchen, witness: Witness) -> None:
    kitchen.line("a")
    kitchen.recipe("one", "a")
    [first] = kitchen.bake("one")
    before = machines_ever()
    [second] = kitchen.bake("one")
    assert (first.status, second.status) == ("baked", "up to date")
    assert first.image
    assert second.image
    assert second.image.image_id == first.image.image_id
    assert machines_ever() == before
    assert witness.began() == ["a"]
    [third] = kitchen.bake("one", fresh=True)
    assert third.image
    assert third.image.image_id != first.image.image_id
    assert witness.began() == ["a", "a"]


def test_a_bake_that_failed_goes_on_with_the_stage_that_failed(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a", "b", "c")
    kitchen.recipe("one", "a", "b", "c")
    witness.refused.add("c ends")
    with pytest.raises(StageError, match="stage c "):
        kitchen.bake("one")
    assert witness.began() == ["a", "b", "c"]
    witness.refused.clear()
    [outcome] = kitchen.bake("one")
    assert witness.began() == ["a", "b", "c", "c"]
    record = outcome.record
    assert record is not None
    assert [bool(stage.checkpoint) for stage in record.stages] == [True, True, False, False]
    assert all(stage.seconds > 0 for stage in record.stages)


def test_a_bake_that_was_killed_in_its_third_stage_goes_on_there(
    kitchen: Kitchen, witness: Witness, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what the killed one had is gone: the kitchen looks for it at the end."""
    kitchen.line("a", "b", "c")
    kitchen.recipe("one", "a", "b", "c")
    witness.held.add("c begins")
    with kitchen.baking("one") as process:
        witness.wait_for("c begins")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    witness.held.clear()
    [outcome] = kitchen.bake("one")
    assert outcome.status == "baked"
    assert witness.began() == ["a", "b", "c", "c"]
    assert "1 machine, 1 security group, 1 key pair" in capsys.readouterr().err


def test_stages_that_do_not_need_each_other_run_at_the_same_time(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.stage("base")
    kitchen.stage("left", "base")
    kitchen.stage("right", "base")
    kitchen.recipe("one", "base", "left", "right")
    witness.held |= {"left ends", "right ends"}

    def let_both_end() -> None:
        witness.wait_for("left ends")
        witness.wait_for("right ends")
        witness.let_go("left ends")
        witness.let_go("right ends")

    referee = threading.Thread(target=let_both_end)
    referee.start()
    [outcome] = kitchen.bake("one")
    referee.join(5)
    assert outcome.status == "baked"
    both = next(c for c in checkpoints(connect()) if len(c.stages) == 3)
    assert both.stages.keys() == {"base", "left", "right"}


def test_what_has_not_changed_runs_first_and_is_not_repeated_when_a_changed_stage_fails(
    kitchen: Kitchen, witness: Witness
) -> None:
    """No checkpoint of the first bake holds `left` without `right`: both ran at the same time."""
    kitchen.stage("base")
    kitchen.stage("left", "base")
    kitchen.stage("right", "base")
    kitchen.recipe("one", "base", "left", "right")
    kitchen.bake("one")
    kitchen.stage("right", "base", body="echo changed")
    witness.refused.add("right ends")
    with pytest.raises(StageError, match="stage right ") as caught:
        kitchen.bake("one")
    assert witness.began()[3:] == ["left", "right"]
    assert re.search("resumes from snap-[0-9a-f]+: base, left$", caught.value.details[-1])
    kitchen.stage("right", "base", body="echo changed again")
    witness.refused.clear()
    kitchen.bake("one")
    assert witness.began()[5:] == ["right"]


def test_one_that_fails_stops_the_other_and_both_logs_are_kept(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.stage("base")
    kitchen.stage("slow", "base", body="echo 'slow says something'; sleep 300")
    kitchen.stage("bad", "base", body="echo 'bad says why'; exit 3")
    kitchen.recipe("one", "base", "slow", "bad")
    witness.held.add("bad begins")

    def when_both_run() -> None:
        witness.wait_for("slow begins")
        witness.let_go("bad begins")

    threading.Thread(target=when_both_run).start()
    with pytest.raises(StageError, match="stage bad ended with status 3"):
        kitchen.bake("one")
    logs = {path.name: path.read_text() for path in kitchen.folder.glob("builds/*/*.log")}
    assert "bad says why" in logs["bad.log"]
    assert "slow says something" in logs["slow.log"]


def test_recipes_that_share_a_beginning_run_it_once_and_one_failure_stops_no_other(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a", "b")
    for name in ("x", "y", "z"):
        kitchen.stage(name, "b")
        kitchen.recipe(f"with-{name}", "a", "b", name)
    witness.refused.add("y ends")
    outcomes = kitchen.bake("with-x", "with-y", "with-z", machines=2)
    assert {outcome.recipe: outcome.status for outcome in outcomes} == {
        "with-x": "baked",
        "with-y": "failed",
        "with-z": "baked",
    }
    assert Counter(witness.began()) == dict.fromkeys("abxyz", 1)
    witness.refused.clear()
    before = len(machines_ever())
    outcomes = kitchen.bake("with-x", "with-y", "with-z")
    assert [o.status for o in outcomes] == ["up to date", "baked", "up to date"]
    assert Counter(witness.began())["y"] == 2
    assert Counter(witness.began())["b"] == 1
    assert len(machines_ever()) == before + 1


def test_an_image_is_what_its_recipe_says_wherever_it_started(
    kitchen: Kitchen, witness: Witness
) -> None:
    """Check that the image has the file of each stage, and none of another recipe's stages."""
    kitchen.line("a", "b")
    kitchen.stage("x", "b", body="[[ $(ls /opt/stages) == $'a\\nb\\nx' ]]")
    kitchen.stage("y", "b", body="[[ $(ls /opt/stages) == $'a\\nb\\ny' ]]")
    kitchen.recipe("with-x", "a", "b", "x")
    kitchen.recipe("with-y", "a", "b", "y")
    outcomes = kitchen.bake("with-x", "with-y")
    assert [outcome.status for outcome in outcomes] == ["baked", "baked"]


def test_of_two_runs_at_once_one_bakes_and_the_other_takes_its_image(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a")
    kitchen.recipe("one", "a")
    witness.held.add("a begins")
    with kitchen.baking("one") as first:
        witness.wait_for("a begins")
        with kitchen.baking("one") as second:
            witness.let_go("a begins")
            said = [process.communicate(timeout=90)[0] for process in (first, second)]
    assert "one baked ami-" in said[0]
    assert "one up to date ami-" in said[1]
    assert witness.began() == ["a"]


def test_when_the_first_of_two_dies_the_other_takes_over(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a", "b")
    kitchen.recipe("one", "a", "b")
    witness.held.add("b begins")
    with kitchen.baking("one") as first:
        witness.wait_for("b begins")
        with kitchen.baking("one") as second:
            first.send_signal(signal.SIGKILL)
            first.wait(10)
            witness.let_go("b begins")
            said = second.communicate(timeout=90)[0]
    assert "one baked ami-" in said, said
    assert witness.began() == ["a", "b", "b"]
    assert "1 machine, 1 security group, 1 key pair" in said


def bake_that_fails_in_its_second_stage(kitchen: Kitchen, witness: Witness) -> None:
    """The first stage is in a checkpoint then."""
    kitchen.line("a", "b")
    kitchen.recipe("one", "a", "b")
    witness.refused.add("b ends")
    with pytest.raises(StageError):
        kitchen.bake("one")
    witness.refused.clear()


def test_a_checkpoint_that_is_gone_when_it_is_needed_is_passed_over(
    kitchen: Kitchen, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bake.pipeline import bake

    bake_that_fails_in_its_second_stage(kitchen, witness)

    def and_then_it_is_deleted(cloud: Cloud) -> list[Checkpoint]:
        found = checkpoints(cloud)
        for checkpoint in found:
            boto3.client("ec2").delete_snapshot(SnapshotId=checkpoint.snapshot_id)
        return found

    monkeypatch.setattr(bake, "checkpoints", and_then_it_is_deleted)
    [outcome] = kitchen.bake("one")
    assert outcome.status == "baked"
    assert witness.began() == ["a", "b", "a", "b"]


def test_a_checkpoint_whose_tags_a_hand_has_changed_is_not_used(
    kitchen: Kitchen, witness: Witness
) -> None:
    bake_that_fails_in_its_second_stage(kitchen, witness)
    [checkpoint] = checkpoints(connect())
    lie = {"Key": "bake:stage:extra", "Value": "0" * 64}
    boto3.client("ec2").create_tags(Resources=[checkpoint.snapshot_id], Tags=[lie])
    kitchen.bake("one")
    assert witness.began() == ["a", "b", "a", "b"]


def test_what_was_planned_is_what_runs_whatever_becomes_of_the_scripts(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a", "b")
    kitchen.recipe("one", "a", "b")
    witness.held.add("a begins")

    def change_the_script() -> None:
        witness.wait_for("a begins")
        kitchen.stage("b", "a", body="exit 9")
        witness.let_go("a begins")

    threading.Thread(target=change_the_script).start()
    [outcome] = kitchen.bake("one")
    assert outcome.status == "baked"
    with pytest.raises(StageError, match="status 9"):
        kitchen.bake("one")
    assert Counter(witness.began()) == {"a": 1, "b": 2}


def test_only_a_few_checkpoints_are_kept_and_none_where_none_are_wanted(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a", "b", "c")
    kitchen.recipe("few", "a", "b", "c", checkpoints={"keep": 1})
    kitchen.bake("few")
    [kept] = checkpoints(connect())
    assert kept.stages.keys() == {"a", "b", "c"}
    kitchen.recipe("none", "a", "b", "c", checkpoints={"after": []})
    kitchen.bake("none", fresh=True)
    assert snapshots() == [kept.snapshot_id]
    kitchen.recipe("some", "a", "b", "c", checkpoints={"after": ["b"]})
    kitchen.bake("some", fresh=True)
    [of_some] = checkpoints(connect(), "some")
    assert of_some.stages.keys() == {"a", "b"}


def test_a_machine_that_is_kept_on_failure_can_be_reached_and_ended(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.stage("bad", body="exit 5")
    kitchen.recipe("one", "bad")
    before = held()
    with pytest.raises(StageError) as failed:
        kitchen.bake("one", on_failure=OnFailure(keep=True))
    said = failed.value.details
    [ssh] = [line for line in said if line.startswith("ssh ")]
    shown = subprocess.run(
        [*shlex.split(ssh), "cat /opt/stages/bad"], capture_output=True, text=True, timeout=30
    )
    assert shown.stdout == "bad\n", shown.stderr
    kept = held()
    assert len(kept["machines"]) == len(before.get("machines", [])) + 1
    assert kept.get("key pairs") == before.get("key pairs"), "a builder's key is kept here alone"
    [terminate] = [line for line in said if line.startswith("invoke terminate i-")]
    invoke = Path(sys.executable).parent / "invoke"
    subprocess.run(
        [invoke, *terminate.split()[1:], "--yes"], cwd=REPOSITORY, check=True, capture_output=True
    )
    assert not Path(shlex.split(ssh)[2]).exists(), "the key of a machine that is gone"
    assert held() == before


def test_no_two_recipes_of_one_name(kitchen: Kitchen) -> None:
    kitchen.line("a")
    kitchen.recipe("one", "a")
    with pytest.raises(RequestError, match="Two recipes are named one"):
        kitchen.bake("one", "one")


def test_ctrl_c_among_many_ends_them_all(kitchen: Kitchen, witness: Witness) -> None:
    for name in ("x", "y"):
        kitchen.stage(name)
        kitchen.recipe(f"with-{name}", name)
    witness.held |= {"x begins", "y begins"}
    with kitchen.baking("with-x", "with-y") as process:
        witness.wait_for("x begins")
        witness.wait_for("y begins")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    assert find_image(connect(), "ami-none") is None
