"""EC2 (moto) as a server in a thread, for programs that a test starts, and machines and images."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock
from urllib.request import Request, urlopen

import boto3
from moto.server import ThreadedMotoServer

from bake.aws import tags


@contextmanager
def ec2_server() -> Iterator[str]:
    """A context in which the environment leads to the server; gives its URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    # moto's state is one for all servers of this process.
    with urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")):
        pass
    with mock.patch.dict(os.environ, environment):
        yield environment["AWS_ENDPOINT_URL"]
    server.stop()


def make_machine(name: str, **more: str) -> str:
    """Start a machine with the tags of one that bake made, and `more`; return its id."""
    ec2 = boto3.client("ec2")
    given = {"Name": name, tags.RUN: f"run-{name}", **more}
    image = ec2.register_image(Name=f"base of {name} {secrets.token_hex(4)}")
    made = ec2.run_instances(
        ImageId=image["ImageId"],
        InstanceType="g4dn.xlarge",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[_tags("instance", given)],
    )
    return str(made["Instances"][0]["InstanceId"])


def make_image(machine_id: str, name: str) -> str:
    """Make an image of a machine with the tags of one that bake made; return its id."""
    made = boto3.client("ec2").create_image(
        InstanceId=machine_id,
        Name=name,
        TagSpecifications=[_tags("image", {tags.RUN: "run-1", tags.DIGEST: "1"})],
    )
    return str(made["ImageId"])


def _tags(kind: str, given: dict[str, str]) -> dict[str, object]:
    return {
        "ResourceType": kind,
        "Tags": [{"Key": key, "Value": value} for key, value in given.items()],
    }
