"""Leases: of several runs for the same image one bakes, others wait, and a dead one is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bake import threads
from bake.aws import lease_holder, parameter
from bake.aws.client.session import Cloud
from bake.aws.client.wait import Clock
from bake.aws.lease import RENEW_S, TAKEOVER_S, Lease, lease
from bake.aws.tags import Run, new_run
from bake.errors import CloudError, LeaseError
from bake.threads import TaskGroup
from tests.support.aws_in_process import Aws, aws_in_process

DIGEST = "d" * 64
PATH = f"/bake/lease/{DIGEST}"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def a_run(recipe: str = "mxnet-cu101") -> Run:
    return new_run(recipe, lifetime=timedelta(hours=4), tags={"owner": "me", "cost": "5 & more"})


def nothing() -> None:
    return None


def names(cloud: Cloud) -> list[str]:
    return [one.name for one in parameter.list_below(cloud, PATH)]


class Computer:
    """Another computer that uses the account, with its own clock.

    `nap` is called for each second that it sleeps.
    """

    def __init__(self, aws: Aws, during: Callable[[float], None] = lambda now: None) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.cloud = aws.cloud.separate()
        self.cloud.clock = Clock(lambda: self.now, self.sleep)
        self.during = during

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.during(self.now)


def killed(aws: Aws, run: Run | None = None) -> Lease:
    """Return a lease whose holder has stopped working."""
    first = Lease(aws.cloud.separate(), run or a_run(), DIGEST)
    assert first.wait(nothing, pytest.fail) is None
    return first


def test_a_lease_is_a_parameter_that_names_its_holder_and_is_deleted_at_the_end(aws: Aws) -> None:
    run = a_run()
    with lease(aws.cloud, run, DIGEST, found=nothing) as ours:
        assert isinstance(ours, Lease)
        ours.check()
        (one,) = parameter.list_below(aws.cloud, PATH)
        assert (one.name, one.version) == (f"{PATH}/1", 1)
        said = json.loads(one.value)
        assert (said["run"], said["recipe"]) == (run.id, "mxnet-cu101")
        assert said["host"]
        assert said["process"].split()[-2] == str(os.getpid())
    (asked,) = aws.params("PutParameter")
    assert asked["Type"] == "String"
    assert asked["Tier"] == "Standard"
    assert "Overwrite" not in asked
    tags = {pair["Key"]: pair["Value"] for pair in asked["Tags"]}
    assert tags["bake:run"] == run.id
    assert "bake:expires" in tags
    assert tags["owner"] == "me"
    assert "cost" not in tags  # EC2 allows this value in a tag, SSM does not
    assert names(aws.cloud) == []
    assert aws.cloud.leftovers == []


def test_one_thread_renews_all_leases_and_ends_with_them(aws: Aws) -> None:
    def renewers() -> int:
        return sum(thread.name == "leases" for thread in threading.enumerate())

    with ExitStack() as stack:
        for number in range(3):
            digest = f"{number}" * 64
            stack.enter_context(lease(aws.cloud, a_run(), digest, found=nothing, renew_s=0.01))
        assert renewers() == 1
        until = time.monotonic() + 10
        for number in range(3):
            name = f"/bake/lease/{f'{number}' * 64}/1"
            while parameter.read(aws.cloud, name).version < 3:
                assert time.monotonic() < until
    while renewers():
        assert time.monotonic() < until
        time.sleep(0.01)
    renewal = next(asked for asked in aws.params("PutParameter") if asked.get("Overwrite"))
    assert "Tags" not in renewal
    assert "Type" not in renewal  # so that a deleted parameter is not created again
    assert renewal["Tier"] == "Standard"


def test_a_failed_renewal_is_retried_soon(aws: Aws) -> None:
    aws.refuse("GetParametersByPath", "ThrottlingException", times=0)
    fault = aws.faults[-1]
    with lease(aws.cloud, a_run(), DIGEST, found=nothing, renew_s=0.01) as ours:
        fault.times = 4  # as many as boto's attempts
        until = time.monotonic() + 30
        while fault.times or parameter.read(aws.cloud, f"{PATH}/1").version < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert isinstance(ours, Lease)
        ours.check()


def test_a_second_run_waits_and_learns_who_holds_the_lease(aws: Aws) -> None:
    run = a_run("first")
    first = killed(aws, run)
    other = Computer(aws)
    told: list[str] = []
    answers = iter([None, None, None, "ami-1"])
    with lease(
        other.cloud, a_run(), DIGEST, found=lambda: next(answers), on_wait=told.append
    ) as answer:
        assert answer == "ami-1"
    (text,) = told
    assert text.startswith(f"for run {run.id} (recipe first) on ")
    assert "since 20" in text
    assert names(aws.cloud) == [f"{PATH}/1"]
    assert first.renew() is True


def test_a_live_holder_is_waited_for_with_long_pauses(aws: Aws) -> None:
    first = killed(aws)
    renewed = [1000.0]

    def during(now: float) -> None:
        if now - renewed[0] >= RENEW_S:
            renewed[0] = now
            assert first.renew() is True
        if now > 1000 + 2 * 3600:
            first.release()

    other = Computer(aws, during)
    with lease(other.cloud, a_run(), DIGEST, found=nothing) as ours:
        assert isinstance(ours, Lease)
        assert ours.generation == 2  # not the name that was just deleted
        assert other.now > 1000 + 2 * 3600
    assert max(other.slept) == 15
    assert len(other.slept) < 2 * 3600 / 15 + 120
    assert names(aws.cloud) == []


def test_a_holder_that_does_not_renew_is_replaced(aws: Aws) -> None:
    first = killed(aws)
    other = Computer(aws)
    with lease(other.cloud, a_run(), DIGEST, found=nothing) as ours:
        assert isinstance(ours, Lease)
        assert ours.generation == 2
        assert TAKEOVER_S <= other.now - 1000 < TAKEOVER_S + 20
        assert names(aws.cloud) == [f"{PATH}/2"]
        assert first.renew() is False
        with pytest.raises(LeaseError, match="Another run has taken this bake over: run") as caught:
            first.check()
        assert "Repeat the command" in caught.value.hint
        first.release()
        ours.check()
        assert names(aws.cloud) == [f"{PATH}/2"]
    assert names(aws.cloud) == []


def test_a_process_of_this_computer_that_has_ended_is_not_waited_for(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with monkeypatch.context() as there:
            there.setattr(os, "getpid", lambda: child.pid)
            killed(aws)
        (one,) = parameter.list_below(aws.cloud, PATH)
        assert not lease_holder.read(one.value).has_ended()
        child.kill()
        while lease_holder._stat(child.pid)[0] != "Z":
            time.sleep(0.01)
        assert lease_holder.read(one.value).has_ended()  # a zombie: its exit status was not read
    other = Computer(aws)
    with lease(other.cloud, a_run(), DIGEST, found=nothing) as ours:
        assert isinstance(ours, Lease)
        assert other.slept == []


@pytest.mark.parametrize(
    ("change", "ended"),
    [
        (lambda boot, ns, pid, start: [boot, ns, pid, start], False),
        (lambda boot, ns, pid, start: [boot, ns, pid, "1"], True),
        (lambda boot, ns, pid, start: [boot, ns, "4194305", start], True),
        (lambda boot, ns, pid, start: ["other-boot", ns, "4194305", start], False),
        (lambda boot, ns, pid, start: [boot, "pid:[1]", "4194305", start], False),
        (lambda boot, ns, pid, start: [boot, ns, "9" * 30, start], False),
        (lambda boot, ns, pid, start: [boot, ns, "x", start], False),
        (lambda boot, ns, pid, start: ["nonsense"], False),
    ],
)
def test_only_a_process_of_this_boot_and_namespace_is_known_to_have_ended(
    change: Callable[..., list[str]], ended: bool
) -> None:
    process = lease_holder.this_process(a_run(), datetime.now(UTC)).process
    assert lease_holder._has_ended(" ".join(change(*process.split(" ")))) is ended


def test_an_image_found_while_waiting_is_returned_and_the_lease_released(
    aws: Aws,
) -> None:
    with lease(aws.cloud, a_run(), DIGEST, found=lambda: "ami-2") as answer:
        assert answer == "ami-2"
        assert names(aws.cloud) == []
    assert aws.sent.count("PutParameter") == 1


def test_an_error_while_looking_for_the_image_leaves_no_lease(aws: Aws) -> None:
    def found() -> None:
        raise CloudError("no")

    with pytest.raises(CloudError, match="no"), lease(aws.cloud, a_run(), DIGEST, found=found):
        pytest.fail("not held")
    assert names(aws.cloud) == []


def test_an_error_inside_is_raised_and_the_lease_released(aws: Aws) -> None:
    with pytest.raises(ZeroDivisionError), lease(aws.cloud, a_run(), DIGEST, found=nothing):
        raise ZeroDivisionError
    assert names(aws.cloud) == []


def test_a_takeover_is_reported_by_check_and_on_leaving(aws: Aws) -> None:
    held = lease(aws.cloud, a_run(), DIGEST, found=nothing, renew_s=0.01)
    with pytest.raises(LeaseError), held as ours:
        assert isinstance(ours, Lease)
        note = lease_holder.this_process(a_run(), datetime.now(UTC)).encode(0)
        parameter.create(aws.cloud, f"{PATH}/2", note, {})
        until = time.monotonic() + 10
        with pytest.raises(LeaseError):
            while time.monotonic() < until:
                ours.check()
                time.sleep(0.01)
    assert names(aws.cloud) == [f"{PATH}/2"]


def test_a_lost_response_is_not_mistaken_for_another_holder(aws: Aws) -> None:
    aws.lose_answer("PutParameter")
    with lease(aws.cloud, a_run(), DIGEST, found=nothing) as ours:
        assert isinstance(ours, Lease)
        assert aws.slept == []
        assert aws.sent.count("PutParameter") == 2
    assert names(aws.cloud) == []


def test_a_call_interrupted_after_it_took_effect_is_recognized(aws: Aws) -> None:
    aws.cut("PutParameter", ConnectionClosedError(endpoint_url="https://ssm"), times=1)
    with lease(aws.cloud, a_run(), DIGEST, found=nothing) as ours:
        assert isinstance(ours, Lease)
        assert ours.generation == 1
        assert aws.sent.count("PutParameter") == 1
    assert names(aws.cloud) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), threads.Cancelled()])
def test_an_interrupt_in_the_creating_call_leaves_nothing(aws: Aws, error: BaseException) -> None:
    aws.cut("PutParameter", error, times=1)
    with pytest.raises(type(error)), lease(aws.cloud, a_run(), DIGEST, found=nothing):
        pytest.fail("not held")
    assert names(aws.cloud) == []


def test_a_lease_that_is_not_visible_yet_is_released(aws: Aws) -> None:
    aws.cut("PutParameter", KeyboardInterrupt(), times=1)
    aws.alter("GetParametersByPath", lambda answer: answer.update(Parameters=[]), times=3)
    with pytest.raises(KeyboardInterrupt), lease(aws.cloud, a_run(), DIGEST, found=nothing):
        pytest.fail("not held")
    assert names(aws.cloud) == []


def test_a_throttled_release_is_retried(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease(aws.cloud, a_run(), DIGEST, found=nothing):
        monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
        aws.refuse("DeleteParameter", "ThrottlingException", times=9)
    assert names(aws.cloud) == []
    assert aws.cloud.leftovers == []


def test_a_missing_permission_is_reported_at_once(aws: Aws) -> None:
    aws.refuse("PutParameter", "AccessDeniedException", "not authorized")
    with pytest.raises(CloudError) as caught, lease(aws.cloud, a_run(), DIGEST, found=nothing):
        pytest.fail("not held")
    assert "ssm:PutParameter" in caught.value.hint
    assert aws.slept == []


def test_a_lease_that_cannot_be_deleted_is_reported_with_a_command(aws: Aws) -> None:
    aws.refuse("DeleteParameter", "AccessDeniedException", "not authorized")
    with lease(aws.cloud, a_run(), DIGEST, found=nothing):
        pass
    (left,) = aws.cloud.leftovers
    assert left.command == f"aws ssm delete-parameter --region us-east-1 --name {PATH}/1"
    assert left.reason.startswith("AccessDeniedException")


def test_a_lease_deleted_by_hand_is_created_again(aws: Aws) -> None:
    first = killed(aws)
    parameter.delete(aws.cloud, f"{PATH}/1")
    assert first.renew() is True
    assert first.generation == 2  # AWS requires a pause before a deleted name is used again
    assert names(aws.cloud) == [f"{PATH}/2"]
    assert first.renew() is True
    first.release()
    assert names(aws.cloud) == []
    assert first.renew() is False
    assert names(aws.cloud) == []


def test_a_lease_deleted_by_hand_may_be_taken_by_another_run(aws: Aws) -> None:
    first = killed(aws)
    parameter.delete(aws.cloud, f"{PATH}/1")
    second = killed(aws)
    (before,) = parameter.list_below(aws.cloud, PATH)
    assert first.renew() is False
    with pytest.raises(LeaseError):
        first.check()
    first.release()
    assert parameter.list_below(aws.cloud, PATH) == [before]
    assert second.renew() is True


def test_an_unreadable_lease_is_waited_for_like_any_other(aws: Aws) -> None:
    parameter.create(aws.cloud, f"{PATH}/7", "somebody was here", {})
    parameter.create(aws.cloud, f"{PATH}/readme", "no generation", {})
    told: list[str] = []
    other = Computer(aws)
    with lease(other.cloud, a_run(), DIGEST, found=nothing, on_wait=told.append) as ours:
        assert isinstance(ours, Lease)
        assert ours.generation == 8
        assert other.now - 1000 >= TAKEOVER_S
    assert told == ["for a run whose lease cannot be read"]
    assert names(aws.cloud) == [f"{PATH}/readme"]


def test_waiting_can_be_cancelled(aws: Aws) -> None:
    first = killed(aws)
    cloud = aws.cloud.separate()
    cloud.clock = Clock()
    waiting = threading.Event()

    def wait() -> None:
        with lease(cloud, a_run(), DIGEST, found=nothing, on_wait=lambda text: waiting.set()):
            pytest.fail("not held")

    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError), TaskGroup[str, None]() as group:
        group.start("waiter", wait)
        assert waiting.wait(10)
        raise ZeroDivisionError
    assert time.monotonic() - begun < 60
    assert names(aws.cloud) == [f"{PATH}/1"]
    assert first.renew() is True


# Every order of calls


class Stop(BaseException):
    """Raised at the end of the schedule."""


class Actor(threading.Thread):
    """A run that requests the lease repeatedly; it makes one call to AWS in each turn."""

    def __init__(self, aws: Aws, now: Callable[[], float], crashes: bool) -> None:
        super().__init__(daemon=True)
        self.cloud = aws.cloud.separate()
        self.cloud.clock = Clock(now, lambda seconds: None)
        self.cloud.ssm = self._ssm  # type: ignore[method-assign]
        self._call = aws.cloud.ssm
        self.crashes = crashes
        self.held: Lease | None = None
        self.stopping = False
        self.error: BaseException | None = None
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        try:
            while not self.crashes or self.held is None:
                ours = Lease(self.cloud, a_run(), DIGEST)
                while not ours._claim():
                    self._turn()  # the pause
                self.held = ours
                for _ in range(1 if self.crashes else 3):
                    if not ours.renew():
                        break
                    self._turn()
                if self.crashes:
                    return
                self.held = None
                ours.release()
        except Stop:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.stopping = True
            self.waits.release()

    def _ssm(self, operation: str, **params: Any) -> Any:
        self._turn()
        return self._call(operation, **params)

    def _turn(self) -> None:
        self.waits.release()
        self.go.acquire()
        if self.stopping:
            raise Stop

    def step(self) -> None:
        if not self.stopping:
            self.go.release()
            self.waits.acquire()

    def in_time(self, now: float) -> bool:
        ours = self.held
        return ours is not None and not ours._taken_by and now - ours._renewed_at < TAKEOVER_S

    def end(self) -> None:
        while not self.stopping:
            self.stopping = True
            self.go.release()
            self.join()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 2), st.integers(1, 6)),  # so many turns of one actor
        st.tuples(st.just(-1), st.sampled_from([40, 100, 200])),  # time passes
    ),
    min_size=20,
    max_size=60,
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS, crashes=st.booleans())
def test_never_two_holders_whose_renewals_are_in_time(
    aws: Aws, steps: list[tuple[int, int]], crashes: bool
) -> None:
    now = [0.0]
    actors = [Actor(aws, lambda: now[0], crashes and number == 0) for number in range(3)]
    for actor in actors:
        actor.start()
        actor.waits.acquire()
    try:
        for who, much in steps:
            if who < 0:
                now[0] += much
                continue
            for _ in range(much):
                actors[who].step()
                holders = [actor for actor in actors if actor.in_time(now[0])]
                assert len(holders) <= 1
        assert [actor.error for actor in actors if actor.error] == []
    finally:
        for actor in actors:
            actor.end()
        for one in parameter.list_below(aws.cloud, PATH):
            parameter.delete(aws.cloud, one.name)


def test_two_that_create_different_generations_do_not_both_hold(aws: Aws) -> None:
    first = killed(aws)
    late = Computer(aws).cloud
    waiter = Lease(late, a_run(), DIGEST)
    assert waiter._claim() is False
    newcomer: list[Lease] = []
    call = late.ssm

    def create(operation: str, **params: Any) -> Any:
        if operation == "PutParameter" and not newcomer:
            # It was released after it was read; a run that has never seen it starts with 1.
            newcomer.append(killed(aws))
        return call(operation, **params)

    first.release()
    late.ssm = create  # type: ignore[method-assign]
    assert waiter._claim() is False
    assert names(aws.cloud) == [f"{PATH}/1"]
    assert newcomer[0].renew() is True
    assert waiter._claim() is False


def test_a_late_renewal_notices_a_takeover_at_once(aws: Aws) -> None:
    slow = Computer(aws)
    first = Lease(slow.cloud, a_run(), DIGEST)
    assert first._claim()
    other = Computer(aws)
    second = Lease(other.cloud, a_run(), DIGEST)
    assert second._claim() is False
    slow.now = other.now = 1000 + TAKEOVER_S
    call = slow.cloud.ssm

    def overwrite(operation: str, **params: Any) -> Any:
        if operation == "PutParameter":
            aws.refuse("DeleteParameter", "AccessDeniedException", times=1)
            assert second._claim() is True
        return call(operation, **params)

    slow.cloud.ssm = overwrite  # type: ignore[method-assign]
    assert first.renew() is False
    assert second.renew() is True
