"""A lease between real processes on the local cloud."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from bake.aws import parameter
from bake.aws.client.session import connect
from tests.support.environment import REPOSITORY

# Processes

HOLD = """
import sys, time
from datetime import UTC, datetime, timedelta
from bake.aws import lease_holder
from bake.aws.lease import Lease, lease
from bake.aws.client.session import connect
from bake.aws.tags import new_run
elsewhere, takeover_s = sys.argv[1] == "elsewhere", float(sys.argv[2])
if elsewhere:
    lease_holder._pid_space = lambda: "another-computer pid:[1]"
run = new_run("mxnet-cu101", lifetime=timedelta(hours=1))
told = lambda text: print("waits", text, flush=True)
with lease(connect(), run, "e" * 64, found=lambda: None, on_wait=told,
           takeover_s=takeover_s, renew_s=takeover_s / 4) as ours:
    print("holds", ours.generation, flush=True)
    sys.stdin.read()
print("left", flush=True)
"""


def contender(where: str = "here", takeover_s: float = 180) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, where, str(takeover_s)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY)


@pytest.mark.parametrize(("where", "takeover_s"), [("here", 180.0), ("elsewhere", 3.0)])
def test_a_process_that_is_killed_is_replaced_by_the_one_that_waits(
    local_cloud: object, where: str, takeover_s: float
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(contender(where, takeover_s))
        stack.callback(first.kill)
        assert first.stdout
        assert first.stdout.readline() == "holds 1\n"
        second = stack.enter_context(contender("here", takeover_s))
        stack.callback(second.kill)
        assert second.stdout
        assert second.stdin
        assert second.stdout.readline().startswith("waits for run ")
        first.kill()
        begun = time.monotonic()
        assert second.stdout.readline() == "holds 2\n"
        took = time.monotonic() - begun
        assert took < 10 if where == "here" else takeover_s / 2 < took < takeover_s + 15
        second.stdin.close()
        assert second.stdout.readline() == "left\n"
        assert second.wait(10) == 0
    assert parameter.list_below(connect(), f"/bake/lease/{'e' * 64}") == []
