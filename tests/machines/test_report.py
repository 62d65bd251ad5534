"""The pages of real bakes."""

from __future__ import annotations

import pytest

from bake.errors import StageError
from bake.record import (
    read,
    read_failure,
)
from tests.support.kitchen import Kitchen, Witness
from tests.support.pages import text_after, text_of

TOKEN = "s3cr3t-t0k3n-of-a-test"


def test_a_bake_that_fails_and_one_that_goes_on_from_there_have_pages_of_what_happened(
    kitchen: Kitchen, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    kitchen.stage("a")
    kitchen.stage("b", "a", body="sleep 0.5")
    kitchen.stage("c", "a", body='ask begun; echo "it is $TOKEN"; exit 3', secrets="TOKEN")
    kitchen.recipe("one", "a", "b", "c", secrets={"TOKEN": {"env": "MY_TOKEN"}})
    witness.held |= {"b ends"}  # so that both run when c fails
    with pytest.raises(StageError):
        kitchen.bake("one")
    [failed] = (kitchen.folder / "builds").iterdir()
    of_failure = read_failure(failed / "failure.json")
    ended = {each.name: each.outcome for each in of_failure.steps if each.kind == "stage"}
    assert ended == {"a": "done", "b": "stopped", "c": "failed"}
    said = (failed / "report.html").read_text() + (failed / "failure.json").read_text()
    assert TOKEN not in said
    said = text_of(failed)
    assert "stage c ended with status 3" in said
    assert "it is ***" in text_after("The last lines of c", said)
    [machine] = of_failure.machines
    assert machine.ended_at is not None
    assert of_failure.started_at < machine.began_at < machine.ended_at <= of_failure.ended_at

    witness.held.clear()
    kitchen.stage("c", "a", body="sleep 0.5", secrets="TOKEN")
    [outcome] = kitchen.bake("one")
    made = outcome.record
    assert made is not None
    stages = [each for each in made.steps if each.kind == "stage"]
    assert {(each.name, each.wave) for each in stages} == {("b", 1), ("c", 1), ("seal", 2)}
    b, c = (next(each for each in stages if each.name == name) for name in "bc")
    assert max(b.began_at, c.began_at) < min(b.ended_at, c.ended_at)
    kinds = [each.kind for each in made.steps if each.kind != "stage"]
    assert kinds == ["start", "checkpoint", "reboot", "proof", "inventory", "clean", "image"]
    [machine] = made.machines
    assert machine.usd_per_hour == 0  # what the local cloud asks for
    assert machine.checkpoint == made.stages[0].checkpoint
    folder = kitchen.folder / "builds" / made.run
    assert read(folder / "record.json") == made
    said = text_of(folder)
    assert f"from checkpoint {machine.checkpoint}" in said
    assert "At the same time ran b and c" in said
    assert "A rehearsal with stand-ins" in said
    assert "Cost nothing" in said
