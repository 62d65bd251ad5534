"""A stage with files of its project, and checks of one's own, on a real machine."""

from __future__ import annotations

import pytest

from bake.errors import VerificationError
from bake.record.record import FILE, read
from tests.support.kitchen import Kitchen

LOGIN = """
[[ $(id --user --name) == "$LOGIN_USER" && $PATH == *:/opt/greeter/bin && $PWD == "$HOME" ]] || {
    echo "$(id --user --name) in $PWD with $PATH"
    exit 1
}
ls "$BAKE_FILES" 2>/dev/null && exit 1
echo "$(greet) on $BAKE_GPUS GPUs"
"""


def test_what_a_stage_made_of_its_files_is_proved_by_a_check(kitchen: Kitchen) -> None:
    files = kitchen.folder / "files" / "greeter"
    files.mkdir(parents=True)
    (files / "greet").write_text("#!/bin/sh\necho hello\n")
    (files / "greet").chmod(0o755)
    (files / "link").symlink_to("greet")
    install = """
        mkdir --parents /opt/greeter
        cp --recursive "$BAKE_FILES/greeter" /opt/greeter/bin
        echo 'export PATH="$PATH:/opt/greeter/bin"' >/etc/profile.d/greeter.sh
    """
    kitchen.stage("greeter", body=install, files="greeter")
    kitchen.check("greeter", "echo 'it greets nobody'; exit 1", "LOGIN_USER")
    kitchen.check("network", "echo 'no network to test'; exit 77")
    kitchen.check("unused", "exit 1")
    kitchen.recipe("greeter", "greeter", checks=("network",), gpu="none")

    with pytest.raises(VerificationError) as caught:
        kitchen.bake("greeter")
    assert caught.value.message == "The machine is not what the recipe promises: greeter"
    why = "greeter: it greets nobody: exit status 1. Read scripts/checks/greeter.sh"
    assert caught.value.details[0] == why
    assert kitchen.witness.began() == ["greeter"]

    # The stage is in a checkpoint: only the proof runs again.
    kitchen.check("greeter", LOGIN, "LOGIN_USER")
    [outcome] = kitchen.bake("greeter")
    assert kitchen.witness.began() == ["greeter"]
    assert outcome.image is not None
    assert outcome.image.verified == "cpu"
    [folder] = (path.parent for path in (kitchen.folder / "builds").glob(f"*/{FILE}"))
    checks = {check.name: (check.outcome, check.detail) for check in read(folder / FILE).checks}
    assert checks["greeter"] == ("passed", "hello on 0 GPUs")
    assert checks["network"] == ("skipped", "no network to test")
    assert "unused" not in checks

    # Nothing has changed, so the image is taken; a changed file runs the stage again.
    [outcome] = kitchen.bake("greeter")
    assert outcome.status == "up to date"
    (files / "greet").write_text("#!/bin/sh\necho welcome\n")
    [outcome] = kitchen.bake("greeter")
    assert kitchen.witness.began() == ["greeter", "greeter"]
