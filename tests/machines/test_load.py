"""Many bakes at once while AWS throttles some requests: all succeed, and nothing is left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.awsrequest import AWSRequest
from botocore.parsers import create_parser

from benchmarks.many import Throttle
from tests.support.environment import CACHE, REPOSITORY

BAKES = 40
PERCENT = 5


@pytest.mark.parametrize(
    ("event", "protocol", "code"),
    [
        ("before-send.ec2.DescribeInstances", "ec2", "RequestLimitExceeded"),
        ("before-send.ssm.PutParameter", "json", "ThrottlingException"),
    ],
)
def test_what_is_throttled_is_refused_as_by_aws(event: str, protocol: str, code: str) -> None:
    answer = Throttle(100)(AWSRequest("POST", "https://aws").prepare(), event)
    assert answer is not None
    parsed = create_parser(protocol).parse(
        {"body": answer.content, "headers": answer.headers, "status_code": answer.status_code},
        None,
    )
    assert parsed["Error"]["Code"] == code


def test_as_many_are_throttled_as_were_asked_for() -> None:
    throttle = Throttle(PERCENT)
    request = AWSRequest("POST", "https://aws").prepare()
    for _ in range(4000):
        throttle(request, "before-send.ec2.DescribeImages")
    assert throttle.sent == 4000
    assert throttle.refused / 40 == pytest.approx(PERCENT, abs=1)


@pytest.mark.soak
def test_forty_bakes_at_once_with_a_twentieth_of_all_requests_throttled(tmp_path: Path) -> None:
    log = tmp_path / "bakes.log"
    command = [sys.executable, "-m", "benchmarks.many", "--json", "--log", str(log)]
    command += ["--recipes", str(BAKES), "--machines", str(BAKES), "--seconds", "1"]
    command += ["--throttled", str(PERCENT)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "BAKE_CACHE": str(CACHE)},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    said = f"{done.stderr}\n{log.read_text()[-20000:] if log.exists() else ''}"
    assert done.stdout, said
    taken = json.loads(done.stdout)
    calls = sum(taken["calls"].values())
    print("| bakes | wall | calls | requests | throttled | memory | processor time |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {BAKES} | {taken['wall_s']:.0f} s | {calls} | {taken['sent']} | {taken['throttled']} "
        f"| {taken['memory_mib']:.0f} MiB | {taken['cpu_s']:.0f} s |"
    )
    assert taken["outcomes"] == {"baked": BAKES}, said
    assert taken["faults"] == [], said
    assert done.returncode == 0, said
    assert taken["throttled"] > taken["sent"] * PERCENT / 200
