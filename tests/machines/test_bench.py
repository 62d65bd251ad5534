"""Benches on real machines of the local cloud."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from bake.aws.client.session import connect
from bake.aws.machine import machines
from bake.aws.tags import new_run
from bake.machine import launch
from tests.support.documents import checked
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen
from tests.support.leftovers import held

# ---- on real machines ----

HANGS = """\
mkdir --parents /opt/venvs/d2l/bin /opt/hangs/mxnet
echo 'import time; time.sleep(1000)' >/opt/hangs/mxnet/__init__.py
printf '#!/bin/sh\\nPYTHONPATH=/opt/hangs exec python3 "$@"\\n' >/opt/venvs/d2l/bin/python
chmod 755 /opt/venvs/d2l/bin/python
"""


@pytest.fixture
def own_key(local_cloud: Path) -> None:
    """The key pair of whoever runs the tests, which stays: it is not of one machine."""
    launch.ensure_key_pair(connect(), new_run("none"), None)


@pytest.fixture
def image(own_key: None, kitchen: Kitchen) -> str:
    """In whose environment what is called mxnet never ends to import."""
    kitchen.stage("hangs", body=HANGS)
    kitchen.recipe("tiny", "hangs", checkpoints={"after": ()})
    (outcome,) = kitchen.bake("tiny")
    assert outcome.image
    return outcome.image.image_id


@contextmanager
def benching(image: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The command, once its program hangs on the machine."""
    words = [
        "bench",
        "--local",
        "--quick",
        "--ami",
        image,
        "--unverified",
        "--instance-type",
        "g4dn.xlarge",
        *more,
    ]
    running = subprocess.Popen(
        [Path(sys.executable).parent / "invoke", *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert running.stderr
        said = ""
        while "Measuring" not in said:
            line = running.stderr.readline()
            assert line, said
            said += line
        time.sleep(3)
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_ends_what_was_launched(
    image: str, local_cloud: Path, number: signal.Signals
) -> None:
    before = held()
    with benching(image) as running:
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Interrupted; what was launched for it has been terminated" in said
    assert held() == before


@pytest.mark.soak
def test_a_machine_that_is_lost_is_said_and_written_down(
    image: str, local_cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path / "benches"))
    with benching(image, "--json") as running:
        cloud = connect()
        (machine,) = machines(cloud)
        boto3.client("ec2").terminate_instances(InstanceIds=[machine.instance_id])
        began = time.monotonic()
        out, said = running.communicate(timeout=120)
    print(f"known after {time.monotonic() - began:.0f} s")
    assert running.returncode == 1, said
    assert "Traceback" not in said
    failure = checked("bench", out)["machines"][0]["failure"]
    assert f"{machine.instance_id} (g4dn.xlarge in us-east-1a, on-demand) is lost" in failure
    assert list((tmp_path / "benches").glob("*/report.html"))
    assert machines(cloud) == []


@pytest.mark.soak
def test_an_image_without_a_framework_is_told_so(own_key: None, kitchen: Kitchen) -> None:
    kitchen.line("empty")
    kitchen.recipe("bare", "empty", checkpoints={"after": ()})
    kitchen.bake("bare")
    words = ["bench", "--local", "--ami", "bare", "--unverified", "--instance-type", "g4dn.xlarge"]
    run = subprocess.run(
        [Path(sys.executable).parent / "invoke", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    assert "neither mxnet nor torch is installed for /usr/bin/python3" in run.stderr
    assert max(len(line) for line in run.stderr.splitlines() if "✔" in line) <= 80
    assert machines(kitchen.cloud) == []
