"""An interrupt after the proof leaves no image: it comes before and after each request."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake import threads
from bake.aws.base_image import find_base_image
from bake.aws.image import images
from bake.aws.launch import run_machine
from bake.aws.security_group import create_security_group
from bake.aws.tags import new_run
from bake.console.console import Console
from bake.errors import FileError, VerificationError
from bake.files import home
from bake.machine.key_store import KNOWN_HOSTS
from bake.pipeline import bake, builder, finish
from bake.pipeline.bake import Options, Outcome
from bake.pipeline.builder import Builder, OnFailure
from bake.pipeline.job import Context, Job
from bake.pipeline.preflight import PreflightResult
from bake.plan.plan import make_plan
from bake.recipe import recipes
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import built_in
from bake.recipe.resolved import resolve
from bake.record import Inventory, StageRecord
from bake.threads import one_interrupt
from bake.verify import Proof
from tests.support.aws_in_process import Aws, aws_in_process

RECIPE = recipes.find("mxnet-cu101", built_in())


class Bake:
    """A bake in this process whose machine is proved at once. Its requests are counted from then.

    `interrupt_at` is the number of a request and "before" or "after" it: then SIGINT is sent, and
    the bake goes on when the main thread has called it off. Nothing is called off while it waits,
    because no time passes here: each check has to be one that the bake makes by itself.
    """

    def __init__(self, aws: Aws, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aws = aws
        self.folder = folder
        self.proved = False
        self.sent: list[str] = []
        self.interrupt_at: tuple[int, str] | None = None
        self._scope: threads.Scope | None = None
        self._send = aws.send
        monkeypatch.setattr(aws, "send", self.send)
        monkeypatch.setattr(bake, "running_builder", self.builder)
        monkeypatch.setattr(bake, "run_stages", lambda run, *_: (self.stages(run.job), 0.0))
        monkeypatch.setattr(bake, "run_one", lambda job, *_: self.stages(job)[-1])
        monkeypatch.setattr(bake, "read_inventory", lambda *_: Inventory())
        monkeypatch.setattr(bake, "write_report", lambda *_: None)
        monkeypatch.setattr(finish, "prove", self.prove)
        monkeypatch.setattr(finish, "check_clean", lambda *_, **__: ())

    def run(self, interrupt_at: tuple[int, str] | None = None) -> Outcome:
        self.proved, self.sent, self.interrupt_at = False, [], interrupt_at
        cloud = self.aws.cloud.separate()
        context = Context(cloud, UPSTREAM, built_in(), self.folder, Console(quiet=True))
        resolved = resolve(RECIPE)
        base_image = find_base_image(cloud, resolved.os_image)
        plan = make_plan(
            resolved,
            payload=UPSTREAM,
            base_image_id=base_image.image_id,
            project=context.project,
            lock=None,
        )
        run = new_run(RECIPE.name, lifetime=timedelta(hours=4))
        preflight = PreflightResult(base_image, (self.aws.placement(),))
        job = Job(context, run, preflight, plan, f"bake/{run.id}", self.folder / run.id)
        with one_interrupt():
            [outcome] = bake.bake_jobs([job], Options(fresh=True), 0)
        return outcome

    @contextmanager
    def builder(self, job: Job, *_: Any, **__: Any) -> Iterator[Builder]:
        self._scope = threads.scope()
        group_id = create_security_group(
            job.cloud,
            job.run,
            job.run.temporary(),
            vpc_id=self.aws.placement().vpc_id,
            cidr="203.0.113.7/32",
        )
        spec = self.aws.order("k", group_id, tags=job.run.temporary() | {"bake:user": "ubuntu"})
        machine = run_machine(job.cloud, job.run, spec, [self.aws.placement()])
        self.aws.at_first |= self.aws.remains()
        connection: Any = SimpleNamespace(
            alive=True, close=lambda: None, reconnect=lambda: None, run=lambda *_, **__: None
        )
        yield Builder(machine, connection, None, 1.0, lambda: None)

    def stages(self, job: Job) -> list[StageRecord]:
        return [StageRecord(name=s.name, digest=s.digest, seconds=1) for s in job.plan.stages]

    def prove(self, *_: Any, **__: Any) -> Proof:
        self.proved = True
        return Proof("gpu", (), (), ())

    def send(self, stubber: Any, event_name: str, request: Any, **more: Any) -> Any:
        if not self.proved:
            return self._send(stubber, event_name, request, **more)
        self.sent.append(event_name.rpartition(".")[2])
        number = len(self.sent)
        self._interrupt((number, "before"))
        response = self._send(stubber, event_name, request, **more)
        self._interrupt((number, "after"))
        return response

    def _interrupt(self, point: tuple[int, str]) -> None:
        if point == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
            if threading.current_thread() is not threading.main_thread():
                assert self._scope
                assert self._scope.wait(10), "the main thread has not heard the interrupt"


@pytest.fixture
def a_bake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bake]:
    with aws_in_process() as aws:
        yield Bake(aws, tmp_path, monkeypatch)


def test_an_interrupt_at_any_request_after_the_proof_leaves_no_image(a_bake: Bake) -> None:
    outcome = a_bake.run()
    assert outcome.status == "baked"
    assert outcome.image
    requests = list(a_bake.sent)
    assert {"StopInstances", "CreateImage", "ModifyImageAttribute"} <= {*requests}
    a_bake.aws.at_first |= a_bake.aws.remains()
    created = requests.index("CreateImage") + 1
    kept = []
    for number, operation in enumerate(requests, 1):
        for moment in ("before", "after"):
            with pytest.raises(KeyboardInterrupt) as interrupt:
                a_bake.run((number, moment))
            if notes := getattr(interrupt.value, "__notes__", []):
                kept.append((operation, notes))
                a_bake.aws.at_first |= a_bake.aws.remains()
            point = f"{moment} {operation}, request {number} of {requests}"
            assert a_bake.aws.remains() == set(), point
            if number < created:
                assert "CreateImage" not in a_bake.sent, point
    # The bake had ended; the main thread removed old checkpoints.
    assert {operation for operation, _ in kept} <= {"DescribeSnapshots", "DeleteSnapshot"}
    for _, notes in kept:
        assert all("was already finished: it stays" in note for note in notes)


@pytest.mark.parametrize("step", ["prove", "check_clean", "write_record"])
def test_an_interrupt_at_a_step_without_requests_leaves_no_image(
    a_bake: Bake, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = bake if step == "write_record" else finish
    monkeypatch.setattr(owner, step, after_sigint(a_bake, getattr(owner, step)))
    with pytest.raises(KeyboardInterrupt):
        a_bake.run()
    assert a_bake.aws.remains() == set()
    assert list(a_bake.folder.glob("*/record.json")) == []


def test_an_image_stays_and_is_named_if_its_record_cannot_be_written(
    a_bake: Bake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    outcome = a_bake.run()
    assert isinstance(outcome.error, FileError)
    assert "record.json: No space left on device" in outcome.error.message
    [image] = images(a_bake.aws.cloud)
    assert outcome.error.details == (f"The image {image.image_id} is finished, and it stays",)


def test_a_full_disk_of_a_library_is_the_failure_of_one_recipe(
    a_bake: Bake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bake, "prove_it", full)
    outcome = a_bake.run()
    assert outcome.status == "failed"
    assert isinstance(outcome.error, FileError)


def test_a_machine_whose_key_cannot_be_saved_is_not_kept_and_the_reason_of_the_failure_stays(
    a_bake: Bake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise VerificationError("the machine is not sound")

    @contextmanager
    def kept(job: Job, points: Any, _: Any, **more: Any) -> Iterator[Builder]:
        with builder.running_builder(job, points, OnFailure(keep=True), **more) as started:
            yield started

    connection = SimpleNamespace(alive=True, close=lambda: None)
    monkeypatch.setattr(builder, "_connect", lambda *_: nullcontext(connection))
    monkeypatch.setattr(bake, "running_builder", kept)
    monkeypatch.setattr(bake, "prove_it", fail)
    monkeypatch.setenv("BAKE_CALLER_CIDR", "203.0.113.7/32")
    (home() / KNOWN_HOSTS).mkdir(parents=True)
    outcome = a_bake.run()
    assert outcome.error
    assert outcome.error.message == "the machine is not sound"
    assert f"cannot be kept: Cannot read {home()}/{KNOWN_HOSTS}" in outcome.error.details[0]
    assert a_bake.aws.remains() == set()


def after_sigint(a_bake: Bake, work: Callable[..., Any]) -> Callable[..., Any]:
    def interrupted(*arguments: Any, **more: Any) -> Any:
        a_bake.interrupt_at = (0, "now")
        a_bake._interrupt((0, "now"))
        return work(*arguments, **more)

    return interrupted
