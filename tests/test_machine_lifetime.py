"""How long a machine lives: what may be asked for, what tags say, and the timer on machines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.aws.machine import Machine
from bake.errors import RequestError
from bake.machine.lifetime import (
    LONGEST,
    SHORTEST,
    Lifetime,
    end,
    left,
    read_lifetime,
    read_time,
    write_time,
)

START = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def a_machine(*, launched_at: datetime = START, state: str = "running", **tags: str) -> Machine:
    return Machine(
        instance_id="i-1",
        name="mine",
        state=state,
        instance_type="g4dn.xlarge",
        zone="us-east-1a",
        market="on-demand",
        address="192.0.2.1",
        launched_at=launched_at,
        image_id="ami-1",
        key_name="k",
        reason_code="",
        reason="",
        tags={f"bake:{key}": value for key, value in tags.items()},
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("8h", 8 * HOUR),
        ("90m", 1.5 * HOUR),
        ("90min", 1.5 * HOUR),
        ("1h30m", 1.5 * HOUR),
        ("1.5h", 1.5 * HOUR),
        ("2d", 48 * HOUR),
        ("600s", HOUR / 6),
        (" 8H ", 8 * HOUR),
        ("365d", 365 * 24 * HOUR),
        ("never", None),
        ("Never", None),
    ],
)
def test_a_length_of_time_is_read(text: str, time: timedelta | None) -> None:
    assert read_time(text, "--ttl") == time


@pytest.mark.parametrize(
    "text",
    [
        *["", "abc", "8", "h", "-8h", "+8h", "1e9h", "nan", "inf", "infh", "0x8h", "8h!", "8 h"],
        *["٣h", "8h never", "9" * 5000 + "h", "99999999h", "1h" * 4000, "1_0h"],
    ],
)
def test_what_is_no_length_of_time_is_refused_in_words(text: str) -> None:
    with pytest.raises(RequestError, match="no length of time") as refused:
        read_time(text, "--ttl")
    assert len(refused.value.message) < 80
    assert "8h" in refused.value.hint


@pytest.mark.parametrize("text", ["0h", "1s", "9m", "599s", "0.1h"])
def test_what_would_end_a_machine_that_still_starts_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="too short: it takes at least 10m"):
        read_time(text, "--idle")


@pytest.mark.parametrize("text", ["366d", "9999999h", "9999999d9999999d"])
def test_what_is_nearly_never_has_to_be_said(text: str) -> None:
    with pytest.raises(RequestError, match="more than a year") as refused:
        read_time(text, "--ttl")
    assert refused.value.hint.endswith("--ttl never")


@given(st.timedeltas(min_value=SHORTEST, max_value=LONGEST))
def test_what_is_written_is_read(time: timedelta) -> None:
    whole = timedelta(seconds=round(time.total_seconds()))
    assert read_time(write_time(time), "--ttl") == whole


@given(st.text(alphabet="0123456789.hdmsine -", max_size=40))
def test_whatever_is_typed_is_read_or_refused(text: str) -> None:
    try:
        time = read_time(text, "--ttl")
    except RequestError:
        return
    assert time is None or SHORTEST <= time <= LONGEST


def test_a_spot_machine_that_is_to_be_stopped_is_refused() -> None:
    asked = read_lifetime(ttl="8h", idle="never", at_end="stop")
    assert asked == Lifetime(8 * HOUR, None, "stop")
    asked.check(["on-demand"])
    with pytest.raises(RequestError, match="EC2 terminates it"):
        asked.check(["spot", "on-demand"])
    Lifetime().check(["spot"])
    Lifetime(at_end="terminate").check(["spot"])
    with pytest.raises(RequestError, match="--at-end hibernate"):
        read_lifetime(ttl="8h", idle="never", at_end="hibernate")


def test_tags_say_how_long_it_lives() -> None:
    assert Lifetime().tags(START) == {
        "bake:ttl": "12h",
        "bake:idle": "never",
        "bake:ends": "2026-11-21T20:00:00Z",
    }
    assert Lifetime(None, HOUR).tags(START) == {
        "bake:ttl": "never",
        "bake:idle": "1h",
        "bake:ends": "never",
    }


@pytest.mark.parametrize(
    ("machine", "ends"),
    [
        # EC2's launch is a little later than the tag's.
        (a_machine(ttl="8h", ends="2026-11-21T15:59:40Z"), START + 8 * HOUR),
        # It was extended.
        (a_machine(ttl="8h", ends="2026-11-21T18:00:00Z"), START + 10 * HOUR),
        # It was stopped and is started again, from the console: the tag is stale.
        (
            a_machine(ttl="8h", ends="2026-11-21T16:00:00Z", launched_at=START + 24 * HOUR),
            START + 32 * HOUR,
        ),
        # It was extended by so much that it has more than its TTL also after that.
        (
            a_machine(ttl="8h", ends="2026-11-25T08:00:00Z", launched_at=START + 24 * HOUR),
            START + 96 * HOUR,
        ),
        (a_machine(ttl="never", ends="never"), None),
        (a_machine(ttl="8h", ends="never"), None),
        (a_machine(), None),
        (a_machine(state="stopped", ttl="8h", ends="2026-11-21T16:00:00Z"), None),
        # What a hand has made of one tag, the other still says.
        (a_machine(ttl="long", ends="2026-11-21T18:00:00Z"), START + 10 * HOUR),
        (a_machine(ttl="8h", ends="soon"), START + 8 * HOUR),
        (a_machine(ttl="9999999d", ends="soon"), None),
    ],
)
def test_when_a_machine_ends(machine: Machine, ends: datetime | None) -> None:
    assert end(machine) == ends
    assert left(machine, START) == (None if ends is None else ends - START)


def test_a_builder_ends_with_its_run() -> None:
    builder = a_machine(expires="2026-11-21T10:00:00Z")
    assert left(builder, START) == 2 * HOUR


def test_there_is_never_less_than_no_time_left() -> None:
    assert left(a_machine(ttl="1h"), START + 5 * HOUR) == timedelta(0)
