"""A builder in the in-process cloud, for tests that make an image of it."""

from __future__ import annotations

from typing import Any

from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from bake.aws.security_group import create_security_group
from tests.support.aws_in_process import ACCOUNT, Aws


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
