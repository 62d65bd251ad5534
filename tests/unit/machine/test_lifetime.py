"""The lifetime of a machine: valid durations, the tags, and the timer on the machine."""

from __future__ import annotations

import ast
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.aws.launch import run_machine
from bake.aws.machine import Machine, find_machine
from bake.aws.security_group import create_security_group
from bake.aws.user_data import user_data
from bake.errors import RemoteError, RequestError
from bake.machine.lifetime import (
    LONGEST,
    SHORTEST,
    TIMER,
    AtEnd,
    Lifetime,
    describe,
    end_time,
    extend,
    read_lifetime,
    read_time,
    time_left,
    write_time,
)
from bake.machine.on_machine import lifetime_facts
from bake.ssh.connection import CommandResult, Connection
from bake.ssh.keys import generate
from tests.support.aws_in_process import Aws, aws_in_process

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
        tags={f"bake:{key.replace('_', '-')}": value for key, value in tags.items()},
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
def test_a_duration_is_read(text: str, time: timedelta | None) -> None:
    assert read_time(text, "--ttl") == time


@pytest.mark.parametrize(
    "text",
    [
        *["", "abc", "8", "h", "-8h", "+8h", "1e9h", "nan", "inf", "infh", "0x8h", "8h!", "8 h"],
        *["٣h", "8h never", "9" * 5000 + "h", "99999999h", "1h" * 4000, "1_0h"],
    ],
)
def test_an_invalid_duration_is_refused_with_an_explanation(text: str) -> None:
    with pytest.raises(RequestError, match="Invalid duration") as refused:
        read_time(text, "--ttl")
    assert len(refused.value.message) < 80
    assert "8h" in refused.value.hint


@pytest.mark.parametrize("text", ["0h", "1s", "9m", "599s", "0.1h"])
def test_a_duration_that_ends_before_the_machine_has_started_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="too short: it takes at least 10m"):
        read_time(text, "--idle")


@pytest.mark.parametrize("text", ["366d", "9999999h", "9999999d9999999d"])
def test_a_very_long_duration_is_refused_in_favour_of_never(text: str) -> None:
    with pytest.raises(RequestError, match="more than a year") as refused:
        read_time(text, "--ttl")
    assert refused.value.hint.endswith("--ttl never")


@given(st.timedeltas(min_value=SHORTEST, max_value=LONGEST))
def test_a_written_duration_can_be_read(time: timedelta) -> None:
    whole = timedelta(seconds=round(time.total_seconds()))
    assert read_time(write_time(time), "--ttl") == whole


@given(st.text(alphabet="0123456789.hdmsine -", max_size=40))
def test_any_text_is_read_as_a_duration_or_refused(text: str) -> None:
    try:
        time = read_time(text, "--ttl")
    except RequestError:
        return
    assert time is None or SHORTEST <= time <= LONGEST


def test_stopping_a_spot_machine_at_its_end_is_refused() -> None:
    asked = read_lifetime(ttl="8h", idle="never", at_end="stop")
    assert asked == Lifetime(8 * HOUR, None, "stop")
    asked.check(["on-demand"])
    with pytest.raises(RequestError, match="EC2 terminates it"):
        asked.check(["spot", "on-demand"])
    Lifetime().check(["spot"])
    Lifetime(at_end="terminate").check(["spot"])
    with pytest.raises(RequestError, match="--at-end hibernate"):
        read_lifetime(ttl="8h", idle="never", at_end="hibernate")


def test_tags_contain_the_lifetime_of_a_machine() -> None:
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
    assert end_time(machine) == ends
    assert time_left(machine, START) == (None if ends is None else ends - START)


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (
            a_machine(ttl="8h", at_end="stop"),
            "in 8 h 00 min: it is stopped, and its disk stays",
        ),
        (
            a_machine(ttl="8h", idle="1h", at_end="terminate"),
            "in 8 h 00 min or when idle for 1h: it is terminated, with its disk",
        ),
        (
            a_machine(ttl="never", ends="never", idle="90m", at_end="stop"),
            "when idle for 1h30m: it is stopped, and its disk stays",
        ),
        (a_machine(ttl="never", ends="never", idle="never"), "never by itself"),
    ],
)
def test_when_a_machine_ends_in_words(machine: Machine, says: str) -> None:
    assert describe(machine, START) == says
    assert len(f"Ends     {says}") <= 80


def test_a_builder_ends_with_its_run() -> None:
    builder = a_machine(expires="2026-11-21T10:00:00Z")
    assert time_left(builder, START) == 2 * HOUR


def test_the_time_left_is_never_negative() -> None:
    assert time_left(a_machine(ttl="1h"), START + 5 * HOUR) == timedelta(0)


class Says:
    """A machine whose timer prints this text."""

    def __init__(self, stdout: str) -> None:
        self.stdout = stdout

    def as_root(self, *command: str) -> str:
        return " ".join(command)

    def run(self, command: str, *, timeout_s: float) -> CommandResult:
        return CommandResult(self.stdout, "", 0)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (a_machine(ttl="8h", ends="never"), "has no end"),
        (a_machine(), "has no end"),
        (a_machine(expires="2026-11-21T10:00:00Z"), "builder of a bake"),
    ],
)
def test_a_machine_without_an_end_and_a_builder_cannot_be_extended(
    aws: Aws, machine: Machine, why: str
) -> None:
    with pytest.raises(RequestError, match=why):
        extend(aws.cloud, machine, cast(Connection, Says("60\n")), HOUR)
    assert aws.params("CreateTags") == []


@pytest.mark.parametrize("answer", ["", "-5", "soon", "9" * 5000, "1\n2"])
def test_an_invalid_answer_of_the_timer_is_not_written_into_the_tag(aws: Aws, answer: str) -> None:
    with pytest.raises(RemoteError, match="instead of a time"):
        extend(aws.cloud, a_machine(ttl="8h"), cast(Connection, Says(answer)), HOUR)
    assert aws.params("CreateTags") == []


@pytest.mark.parametrize("at_end", ["stop", "terminate"])
def test_an_extension_sets_the_tags_and_what_ec2_does_at_the_end(aws: Aws, at_end: AtEnd) -> None:
    tags = aws.run.lasting("mine") | Lifetime().tags(aws.cloud.now())
    placement = aws.placement()
    group_id = create_security_group(
        aws.cloud, aws.run, tags, vpc_id=placement.vpc_id, cidr="203.0.113.7/32"
    )
    order = aws.order("mine", group_id, tags=tags, stays=True, at_end=at_end)
    instance = run_machine(aws.cloud, aws.run, order, [placement])
    [request] = aws.params("RunInstances")
    assert request["InstanceInitiatedShutdownBehavior"] == at_end
    assert instance.tags["bake:at-end"] == at_end
    assert end_time(instance) == instance.launched_at + 12 * HOUR
    extended = extend(aws.cloud, instance, cast(Connection, Says("never\n")), None)
    assert end_time(extended) is None
    found = find_machine(aws.cloud, instance.instance_id)
    assert found
    assert found.tags["bake:ends"] == "never"


# The timer, in parts -----------------------------------------------------------------------------


def test_the_timer_has_its_settings_and_fits_into_the_user_data() -> None:
    name = "it's \\1 $HOME"
    timer, facts = Lifetime(8 * HOUR, HOUR).files("20261121-080000-abcdef", name)
    assert (timer.path, timer.mode) == (TIMER, "0755")
    assert facts.mode == "0644", "cloud-init runs what is executable there"
    settings = timer.content[: timer.content.index("\nself=")]
    said = subprocess.run(
        ["sh", "-c", settings + '\nprintf "%s|" "$owner" "$name" "$ttl" "$ttl_s" "$idle_s"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"20261121-080000-abcdef|{name}|8h|28800|3600|"
    assert len(user_data(generate(), files=(timer, facts))) < 15 * 1024
    assert Lifetime(None).files("r", "n") == ()


def test_the_timer_with_its_settings_is_valid_shell() -> None:
    timer, _ = Lifetime(8 * HOUR, HOUR).files("20261121-080000-abcdef", "it's mine")
    shellcheck = Path(sys.executable).parent / "shellcheck"
    answer = subprocess.run(
        [str(shellcheck), "-"], input=timer.content, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout


def test_the_programs_for_old_machines_are_python_3_6() -> None:
    ast.parse(Path(lifetime_facts.__file__).read_text(), feature_version=(3, 6))


@pytest.fixture
def jupyter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Run a Jupyter server that reports these kernels and terminals to the bearer of "token"."""
    said: dict[str, Any] = {"kernels": [], "terminals": [], "token": "secret"}

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == f"token {said['token']}"
            body = json.dumps(
                said[self.path.removeprefix("/lab/api/")] if known else {"message": "Forbidden"}
            ).encode()
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        about = {"port": server.server_port, "base_url": "/lab/", "token": "secret"}
        (tmp_path / "server-1.json").write_text(json.dumps(about))
        monkeypatch.setattr(lifetime_facts, "runtime_files", lambda: [tmp_path / "server-1.json"])
        # What else runs on this computer is no matter here.
        monkeypatch.setattr(lifetime_facts, "all_processes", dict)
        monkeypatch.setattr(lifetime_facts, "find_gpu_use", lambda running: "")
        yield said
        server.shutdown()


def test_a_kernel_keeps_the_machine_while_it_executes_and_is_used(
    jupyter: dict[str, Any], tmp_path: Path
) -> None:
    look = partial(lifetime_facts.in_use, tmp_path / "memory")
    kernel = {"id": "k1", "last_activity": "2026-11-21T08:00:00Z", "execution_state": "idle"}
    assert look() == ""
    jupyter["kernels"] = [kernel]
    assert look() == "Jupyter: k1", "it is new"
    assert look() == ""
    kernel["execution_state"] = "busy"
    assert look() == look() == "Jupyter: k1"
    kernel |= {"execution_state": "idle", "last_activity": "2026-11-21T09:00:00Z"}
    assert look() == "Jupyter: k1"
    assert look() == ""
    jupyter["terminals"] = [{"name": "1", "last_activity": "2026-11-21T08:00:00Z"}]
    assert (look(), look()) == ("Jupyter: 1", "")
    jupyter["token"] = "another's"
    assert look() == ""
    (tmp_path / "server-1.json").write_text("{")
    assert look() == ""
