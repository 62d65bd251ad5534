"""A builder in the in-process cloud, for tests that make an image of it."""

from __future__ import annotations

from typing import Any

from bake.aws.image_creation import create_image
from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from bake.aws.security_group import create_security_group
from tests.support.aws_in_process import ACCOUNT, Aws

NAME = "bake/mxnet-cu101/20261121-063000-0123abcd"


def a_builder(aws: Aws, **more: Any) -> Machine:
    placement = aws.placement(**more)
    group_id = create_security_group(
        aws.cloud, aws.run, aws.run.temporary(), vpc_id=placement.vpc_id, cidr="203.0.113.7/32"
    )
    machine = run_machine(aws.cloud, aws.run, aws.order("k", group_id), [placement])
    aws.at_first |= aws.remains()
    return machine


def set_state(state: str, **more: Any) -> Any:
    def act(answer: dict[str, Any]) -> None:
        for image in answer["Images"]:
            if image["OwnerId"] == ACCOUNT:
                image.update(State=state, **more)

    return act


def take(aws: Aws, machine: Machine, **more: Any) -> Any:
    """Create an image of the machine, with the tags of a finished one."""
    tags = aws.run.finished(
        name=NAME,
        digest="0123abcd" * 8,
        stages={"base": "b", "cuda": "c"},
        verified="gpu",
        payload="upstream",
    )
    return create_image(aws.cloud, machine, name=NAME, description="d2l", tags=tags, **more)
