"""Finished images that can be copied."""

from __future__ import annotations

from bake.aws.image import Image
from bake.aws.image_creation import create_image
from bake.aws.launch import run_machine
from bake.aws.security_group import create_security_group
from tests.support.aws_in_process import Aws

NAME = "bake/mxnet-cu101/20261121-063000-0123abcd"


def an_image(aws: Aws, *, name: str = NAME, digest: str = "0123abcd" * 8) -> Image:
    placement = aws.placement()
    group_id = create_security_group(
        aws.cloud, aws.run, aws.run.temporary(), vpc_id=placement.vpc_id, cidr="203.0.113.7/32"
    )
    machine = run_machine(aws.cloud, aws.run, aws.order("k", group_id), [placement])
    tags = aws.run.finished(
        name=name, digest=digest, stages={"base": "b"}, verified="gpu", payload="upstream"
    )
    return create_image(aws.cloud, machine, name=name, description="d2l", tags=tags)
