"""A bake on real machines: it makes an image, and however it ends, it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke.exceptions import Exit

from bake.aws import key_pair
from bake.aws.client.session import connect
from bake.aws.image import delete_image, find_image
from bake.cli.command import running
from bake.console.console import Console
from bake.console.screen import Step
from bake.errors import (
    BakeError,
    CloudError,
    ConnectError,
    FileError,
    HostKeyError,
    RequestError,
    StageError,
)
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.pipeline import bake, builder, finish
from bake.pipeline.job import Context
from bake.recipe import recipes
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import Project, built_in
from bake.recipe.recipe import SOFTWARE
from bake.recipe.resolved import Resolved, resolve
from bake.record import Inventory
from bake.ssh import keys
from bake.verify import Proof
from tests.support.leftovers import held

SCRIPT = """\
#!/usr/bin/env bash
# A quick stage.
# Needs:{needs}
set -o errexit -o nounset -o pipefail
source "${{BAKE_LIB:?}}"
{body}
"""


@pytest.fixture
def recipe() -> Resolved:
    """The default recipe with two stages, and without its software."""
    whole = recipes.find("mxnet-cu101", built_in())
    none = whole.checkpoints.model_copy(update={"after": ()})
    changed = {"stages": ("base", "seal"), "gpu": "none", "checkpoints": none}
    return resolve(whole.model_copy(update={**dict.fromkeys(SOFTWARE), **changed}))


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    stages = tmp_path / "scripts" / "stages"
    stages.mkdir(parents=True)
    (stages.parent / "lib.sh").write_text("# nothing\n")
    write(tmp_path, "base", "echo here")
    (stages / "seal.sh").write_text(SCRIPT.format(needs="  *", body="echo sealed"))
    return stages.parent


def write(project: Path, name: str, body: str) -> None:
    (project / "scripts" / "stages" / f"{name}.sh").write_text(SCRIPT.format(needs="", body=body))


@pytest.fixture(autouse=True)
def nothing_is_left(local_cloud: Path) -> Iterator[None]:
    """Check that each test leaves the cloud as it was before."""
    before = held()
    yield
    assert held() == before


@pytest.fixture
def context(local_cloud: Path, scripts: Path, tmp_path: Path) -> Context:
    return Context(
        cloud=connect(),
        payload=replace(UPSTREAM, name="stand-in", image_owner=STAND_IN_OWNER),
        project=Project(scripts.parent),
        builds=tmp_path / "builds",
        console=Console(),
        ssh_port=int(os.environ["BAKE_SSH_PORT"]),
    )


def test_a_failed_stage_shows_its_last_lines_and_leaves_nothing(
    context: Context, recipe: Resolved
) -> None:
    write(context.project.folder, "base", 'echo "E: Unable to locate package nvidia"; exit 100')
    with pytest.raises(StageError) as failure:
        bake.bake(context, recipe)
    assert "base ended with status 100" in failure.value.message
    *_, last, again, resumes = failure.value.details
    assert last == "E: Unable to locate package nvidia"
    command = f"invoke bake {recipe.name} --stand-in --keep-on-failure"
    assert again == f"To look at the machine, keep it: {command}"
    assert resumes.startswith("The next bake starts from the base image: ")
    (log,) = context.builds.glob("*/base.log")
    assert log.read_text() == "E: Unable to locate package nvidia\n"


def test_a_cut_connection_neither_ends_nor_repeats_a_stage(
    context: Context, recipe: Resolved
) -> None:
    body = """
        mkdir /root/ran-once  # fails when it is there
        for number in $(seq 1 40); do
            echo "line $number"
            if ((number == 20)); then
                pkill --full 'sshd: ubuntu@notty'
            fi
            sleep 0.05
        done
        exit 7"""
    write(context.project.folder, "base", body)
    with pytest.raises(StageError, match="status 7"):
        bake.bake(context, recipe)
    (log,) = context.builds.glob("*/base.log")
    assert log.read_text().splitlines() == [f"line {number}" for number in range(1, 41)]


def test_a_machine_with_another_host_key_is_refused(
    context: Context, recipe: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builder.user_data
    monkeypatch.setattr(builder, "user_data", lambda host_key, end: real(keys.generate(), end))
    with pytest.raises(HostKeyError):
        bake.bake(context, recipe)


def test_a_machine_that_never_answers_shows_its_console(context: Context, recipe: Resolved) -> None:
    with pytest.raises(ConnectError) as failure:
        bake.bake(replace(context, ssh_port=2222, boot_timeout_s=15), recipe)
    details = "\n".join(failure.value.details)
    assert "Its console said:" in details
    assert "Cloud-init v." in details


def test_a_machine_that_is_not_what_was_asked_for_gives_no_image(
    context: Context, recipe: Resolved
) -> None:
    header = "\n# Inputs: FRAMEWORK PYTHON_VERSION ENVIRONMENT"
    script = SCRIPT.format(needs=header, body="echo nothing is installed")
    (context.project.folder / "scripts" / "stages" / "mxnet.sh").write_text(script)
    whole = recipes.find("mxnet-cu101", built_in())
    software = {name: getattr(whole, name) for name in ("cuda", "python", "framework")}
    stages = ("base", "mxnet", "seal")
    changed = recipe.recipe.model_copy(update={"stages": stages, **software})
    with pytest.raises(BakeError, match="not what the recipe promises") as failure:
        bake.bake(context, resolve(changed))
    assert failure.value.details


def test_cloud_init_finds_no_fault_in_what_the_builder_is_told(
    context: Context, recipe: Resolved
) -> None:
    write(context.project.folder, "base", "cloud-init schema --system && exit 7")
    with pytest.raises(StageError, match="status 7"):
        bake.bake(context, recipe)
    (log,) = context.builds.glob("*/base.log")
    assert "Valid cloud-config: system userdata" in log.read_text()


def test_a_full_disk_is_said_with_what_to_change(context: Context, recipe: Resolved) -> None:
    write(context.project.folder, "base", "echo data > /dev/full")
    with pytest.raises(StageError) as failure:
        bake.bake(context, recipe)
    assert any("No space left on device" in line for line in failure.value.details)
    assert "disk_gb" in failure.value.hint


class InterruptedIn(Console):
    """Sends SIGINT when a step begins, or when it shows `word`.

    `to_thread` sends it to the thread of the step: the kernel may choose any thread of a process.
    """

    def __init__(self, phase: str, word: str = "", *, to_thread: bool = False) -> None:
        super().__init__()
        self.phase = phase
        self.word = word
        self.to_thread = to_thread

    def interrupt(self) -> None:
        if self.to_thread:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    @contextmanager
    def step(self, title: str, **more: Any) -> Iterator[Step]:
        with super().step(title, **more) as step:
            if title == self.phase and not self.word:
                self.interrupt()
            elif title == self.phase:
                step.verbose = self.listen
            yield step

    def listen(self, step: Step, line: str) -> None:
        if self.word in line:
            self.interrupt()


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the proof and the inventory pass: they have tests of their own."""
    monkeypatch.setattr(finish, "prove", lambda *_, **__: Proof("cpu", (), (), ()))
    monkeypatch.setattr(bake, "read_inventory", lambda *_: Inventory())
    monkeypatch.setattr(finish, "check_clean", lambda *_, **__: ())


@pytest.mark.parametrize(
    "phase",
    [
        ("Preflight",),
        ("Builder",),
        ("Builder", "pending"),
        ("SSH",),
        ("base",),
        ("base", "here"),
        ("Reboot",),
        ("Proof",),
        ("seal",),
        ("Leftover check",),
        ("Image",),
        ("Image", "stopping"),
        ("Image", "pending"),
        ("Removing the builder",),
    ],
    ids=" ".join,
)
def test_ctrl_c_in_any_phase_exits_with_130_and_leaves_nothing(
    context: Context,
    recipe: Resolved,
    phase: tuple[str, ...],
    proved: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = InterruptedIn(*phase)
    with pytest.raises(Exit) as end, running(console):
        bake.bake(replace(context, console=console), recipe)
    assert end.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("phase", ["Proof", "Removing the builder"])
def test_ctrl_c_that_another_thread_receives_leaves_nothing_either(
    context: Context, recipe: Resolved, phase: str, proved: None
) -> None:
    console = InterruptedIn(phase, to_thread=True)
    with pytest.raises(Exit) as end, running(console):
        bake.bake(replace(context, console=console), recipe)
    assert end.value.code == 130


def test_a_folder_for_the_logs_that_cannot_be_made_is_said_before_anything_starts(
    context: Context, recipe: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path / "file"))
    with pytest.raises(RequestError, match="Cannot create the folder") as refused:
        bake.bake(replace(context, builds=tmp_path / "file"), recipe)
    assert "BAKE_BUILDS" in refused.value.hint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 pages of 4 KB, which only root can mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_of_logs_ends_the_bake_and_nothing_is_left(
    context: Context, recipe: Resolved, small_disk: Path
) -> None:
    write(context.project.folder, "base", "seq 1 20000")
    with pytest.raises(FileError, match=r"Cannot write .*/base\.log: No space left on device"):
        bake.bake(replace(context, builds=small_disk), recipe)


def test_an_image_stays_if_only_its_record_cannot_be_written(
    context: Context, recipe: Resolved, small_disk: Path, proved: None
) -> None:
    write(context.project.folder, "base", "seq 1 12000")  # 60 KB: beside the logs, no page is left
    with pytest.raises(FileError, match=r"Cannot write .*/record\.json: No space left") as failure:
        bake.bake(replace(context, builds=small_disk), recipe)
    (detail,) = failure.value.details
    image_id = detail.split()[2]
    assert detail == f"The image {image_id} is finished, and it stays"
    image = find_image(context.cloud, image_id)
    assert image is not None
    assert image.finished
    delete_image(context.cloud, image)


@pytest.mark.parametrize("end", ["failure", "interrupt", "success"])
def test_what_cannot_be_removed_is_named_with_its_command_however_the_bake_ends(
    context: Context,
    recipe: Resolved,
    proved: None,
    end: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(cloud: object, name: str) -> None:
        raise CloudError("ec2:DeleteKeyPair was refused", code="UnauthorizedOperation")

    console = InterruptedIn("base" if end == "interrupt" else "")
    if end == "failure":
        write(context.project.folder, "base", "exit 1")
    record = None
    with monkeypatch.context() as broken:
        broken.setattr(key_pair, "delete_key_pair", refuse)
        try:
            with running(console):
                record = bake.bake(replace(context, console=console), recipe).record
        except Exit:
            assert end != "success"
    said = capsys.readouterr().err
    (name,) = held()["key pairs"][-1:]
    context.cloud.ec2("DeleteKeyPair", KeyName=name)
    assert f"left behind: key pair {name} (UnauthorizedOperation)" in said
    assert re.search(f"aws ec2 delete-key-pair .*--key-name {name}", said)
    if record:
        image = find_image(context.cloud, record.image_id)
        assert image is not None
        delete_image(context.cloud, image)


def test_the_image_is_kept_when_all_is_well(
    context: Context, recipe: Resolved, proved: None
) -> None:
    record = bake.bake(context, recipe).record
    assert record is not None
    assert record.image_id in held()["images"]
    assert (context.builds / record.run / "record.json").is_file()
    image = find_image(context.cloud, record.image_id)
    assert image is not None
    delete_image(context.cloud, image)
