"""Resources that runs leave in an account."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest
from moto.ec2.responses.amis import AmisResponse

from bake.aws import lease_holder
from bake.aws.key_pair import import_key_pair
from bake.aws.launch import run_machine
from bake.aws.lease import Lease
from bake.aws.machine import Machine
from bake.aws.security_group import create_security_group
from bake.aws.tags import Run, new_run
from tests.support.aws_in_process import Aws, aws_in_process, public_key
from tests.support.checkpoints import register_image
from tests.support.cloud_clock import put_wrong

DIGEST = "d" * 64
DAY = timedelta(days=1)


@contextmanager
def an_account() -> Iterator[Aws]:
    """An account whose clock can be set to a later time."""
    with (
        aws_in_process() as aws,
        mock.patch.object(AmisResponse, "register_image", register_image),
    ):
        aws.put_off = put_wrong(aws.cloud.session)  # type: ignore[attr-defined]
        yield aws


def a_run(aws: Aws, recipe: str = "mxnet-cu101", ends_in: timedelta = DAY) -> Run:
    return new_run(recipe, lifetime=ends_in, now=aws.cloud.now())


def ended() -> str:
    """Return a process of this computer that has ended."""
    with subprocess.Popen(["true"]) as child:
        pass
    return f"{lease_holder._pid_space()} {child.pid} 1"


def lease(aws: Aws, run: Run, process: str, digest: str = DIGEST) -> Lease:
    """Make the lease of a killed run, or of a run that works in the given process."""
    ours = Lease(aws.cloud.separate(), run, digest)
    ours._holder = replace(ours._holder, process=process)
    assert ours.wait(lambda: None, pytest.fail) is None
    return ours


def a_builder(aws: Aws, run: Run) -> Machine:
    """Start a builder with all resources that belong to it."""
    import_key_pair(aws.cloud, f"bake-{run.id}", public_key(), run.temporary())
    where = aws.placement()
    group = create_security_group(
        aws.cloud, run, run.temporary(), vpc_id=where.vpc_id, cidr="192.0.2.1/32"
    )
    order = aws.order(f"bake-{run.id}", group, tags=run.temporary())
    return run_machine(aws.cloud, run, order, [where])


def a_machine(aws: Aws, name: str, **more: str) -> Machine:
    """Launch a machine as a person does, of an image that was not baked here."""
    run = new_run("mxnet-cu101")
    tags = run.lasting(name) | more
    where = aws.placement()
    group = create_security_group(aws.cloud, run, tags, vpc_id=where.vpc_id, cidr="192.0.2.1/32")
    order = aws.order("mine", group, tags=tags, stays=True)
    return run_machine(aws.cloud, run, order, [where])


def later(aws: Aws, **more: float) -> None:
    aws.put_off(timedelta(**more))  # type: ignore[attr-defined]
    aws.cloud.ec2("DescribeVpcs")
