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
from bake.machine import selection
from bake.remote import keys

GPU = ("gpu",)


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


NEW = an_image("ami-0000000000000003", day=20, verified="cpu")
PROVED = an_image("ami-0000000000000002", day=10, verified="gpu")
OLD = an_image("ami-0000000000000001", day=1, verified="gpu")
OTHER = an_image("ami-0000000000000004", day=5, verified="gpu", recipe="pytorch-cu126")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    """The account's images, the newest first, as `images` gives them."""
    there = [NEW, PROVED, OTHER, OLD]
    monkeypatch.setattr(selection, "images", lambda cloud: there)
    by_id = {image.image_id: image for image in there}
    monkeypatch.setattr(selection, "find_image", lambda cloud, image_id: by_id.get(image_id))
    return there


@pytest.mark.parametrize(
    ("asked", "proved", "taken"),
    [
        (None, GPU, PROVED),
        (None, ("gpu", "cpu"), NEW),
        ("mxnet-cu101", GPU, PROVED),
        ("pytorch-cu126", GPU, OTHER),
        ("bake/mxnet-cu101/1", GPU, OLD),
        ("ami-0000000000000001", GPU, OLD),
    ],
)
def test_the_newest_image_on_which_enough_was_proved_is_taken(
    aws: Aws, there: list[Image], asked: str | None, proved: tuple[str, ...], taken: Image
) -> None:
    assert selection.choose_image(aws.cloud, asked, proved=proved) == taken


def test_an_image_on_which_less_was_proved_is_refused_even_by_its_id(
    aws: Aws, there: list[Image]
) -> None:
    with pytest.raises(RequestError, match="bake:verified=gpu") as refused:
        selection.choose_image(aws.cloud, NEW.image_id, proved=GPU)
    assert refused.value.details == (f"{NEW.image_id}  {NEW.name}: cpu",)


@pytest.mark.parametrize("asked", [None, "mxnet", "ami-0000000000000009"])
def test_without_such_an_image_those_that_there_are_are_listed(
    aws: Aws, there: list[Image], asked: str | None
) -> None:
    if asked is None:
        there.clear()
    else:
        there[:] = [replace(PROVED, state="available")]
    with pytest.raises(RequestError, match="no available image") as refused:
        selection.choose_image(aws.cloud, asked, proved=GPU)
    assert len(refused.value.details) == len(there)
    assert "invoke bake" in refused.value.hint


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


def test_which_machine_is_asked_where_there_are_several(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = launch.Machine(
        instance_id="i-1",
        name="one",
        state="running",
        instance_type="g4dn.xlarge",
        zone="us-east-1a",
        market="on-demand",
        address="192.0.2.1",
        launched_at=datetime(2026, 11, 1, tzinfo=UTC),
        image_id="ami-1",
        key_name="k",
        reason_code="",
        reason="",
        tags={},
    )
    two = replace(one, instance_id="i-2", name="two")
    monkeypatch.setattr(selection, "machines", lambda cloud: [one, two])
    assert selection.find_ours(aws.cloud, "two") == two
    assert selection.find_ours(aws.cloud, "i-1") == one
    with pytest.raises(RequestError, match="Which machine") as refused:
        selection.find_ours(aws.cloud, None)
    assert len(refused.value.details) == 2
    with pytest.raises(RequestError, match="no machine three"):
        selection.find_ours(aws.cloud, "three")
