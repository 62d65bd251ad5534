"""Which image a launch takes, whose key it uses, and what is left when it fails."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aws_in_process import ACCOUNT, REGION, Aws, aws_in_process

from bake import launch
from bake.aws.image import Image
from bake.aws.key_pair import find_key_pair
from bake.aws.machine import machines
from bake.aws.tags import RECIPE, RUN, VERIFIED
from bake.console import Console
from bake.errors import ConnectError, RequestError
from bake.key_store import key_path, public_half, save_key
from bake.remote import keys


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("BAKE_CALLER_CIDR", "203.0.113.7/32")
    with aws_in_process() as aws:
        yield aws


def an_image(image_id: str, *, day: int, verified: str, recipe: str = "mxnet-cu101") -> Image:
    return Image(
        image_id=image_id,
        name=f"bake/{recipe}/{day}",
        state="available",
        architecture="x86_64",
        root_device_name="/dev/sda1",
        boot_mode=None,
        ena=True,
        size_gb=64,
        snapshot_ids=("snap-1",),
        created_at=datetime(2026, 11, day, tzinfo=UTC),
        reason_code="",
        reason="",
        tags={RUN: "r", RECIPE: recipe, VERIFIED: verified},
    )


PROVED = an_image("ami-0000000000000002", day=10, verified="gpu")


def test_a_key_pair_is_made_once_and_used_again(aws: Aws) -> None:
    name, path = launch.own_key_pair(aws.cloud, aws.run, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    before = path.read_bytes()
    assert launch.own_key_pair(aws.cloud, aws.run, None) == (name, path)
    assert path.read_bytes() == before
    there = find_key_pair(aws.cloud, name)
    assert there is not None
    assert there.public_key.split()[:2] == public_half(path).split()[:2]
    assert len(aws.params("ImportKeyPair")) == 1


def test_a_key_that_is_only_here_is_imported_by_its_public_half(aws: Aws) -> None:
    path = key_path(ACCOUNT, REGION, "mine")
    pair = keys.generate()
    save_key(path, pair.private_openssh)
    launch.own_key_pair(aws.cloud, aws.run, "mine")
    (sent,) = aws.params("ImportKeyPair")
    assert sent["PublicKeyMaterial"].split()[:2] == pair.public_openssh.encode().split()[:2]


def test_a_key_pair_of_aws_without_its_private_half_here_is_refused(aws: Aws) -> None:
    aws.cloud.ec2("ImportKeyPair", KeyName="mine", PublicKeyMaterial=keys.generate().public_openssh)
    with pytest.raises(RequestError, match="private half is not") as refused:
        launch.own_key_pair(aws.cloud, aws.run, "mine")
    assert "--key" in refused.value.hint
    assert not key_path(ACCOUNT, REGION, "mine").exists()


def test_a_key_pair_of_that_name_that_is_another_is_refused(aws: Aws) -> None:
    aws.cloud.ec2("ImportKeyPair", KeyName="mine", PublicKeyMaterial=keys.generate().public_openssh)
    save_key(key_path(ACCOUNT, REGION, "mine"), keys.generate().private_openssh)
    with pytest.raises(RequestError, match="private half of another"):
        launch.own_key_pair(aws.cloud, aws.run, "mine")


def start(aws: Aws, **more: Any) -> launch.Launched:
    image = replace(PROVED, image_id=aws.base_image(owner_id=ACCOUNT, name="bake/x/1"))
    wish = launch.Wish(**{"instance_types": ("g4dn.xlarge",), "name": "mine"} | more)
    return launch.launch(aws.cloud, image, wish, ssh_port=22, console=Console())


def test_a_machine_that_does_not_answer_is_removed_with_its_group(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise ConnectError("no SSH connection")

    monkeypatch.setattr(launch, "wait_until_reached", never)
    with pytest.raises(ConnectError):
        start(aws)
    assert machines(aws.cloud) == []
    groups = aws.cloud.ec2("DescribeSecurityGroups")["SecurityGroups"]
    assert [group["GroupName"] for group in groups] == ["default"]


def test_a_machine_that_answers_stays_and_its_host_key_is_known(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answers:
        def close(self) -> None:
            pass

    monkeypatch.setattr(launch, "wait_until_reached", lambda *_, **__: Answers())
    launched = start(aws)
    (machine,) = machines(aws.cloud)
    assert machine.instance_id == launched.machine.instance_id
    assert machine.name == "mine"
    assert launched.ssh[0] == "ssh"
    (request,) = aws.params("RunInstances")
    assert request["InstanceInitiatedShutdownBehavior"] == "stop"
    assert request["MetadataOptions"]["HttpTokens"] == "required"
    with pytest.raises(RequestError, match="There is a machine named mine"):
        start(aws)
