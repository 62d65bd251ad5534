"""A launch: its image, its key, its placement, and that a failed one leaves nothing."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bake.aws.image import Image
from bake.aws.key_pair import find_key_pair, import_key_pair
from bake.aws.machine import machines
from bake.console.console import Console
from bake.errors import CapacityError, ConnectError, FileError, PreflightError, RequestError
from bake.files import home
from bake.machine import launch
from bake.machine.key_store import KNOWN_HOSTS, key_path, read_public_key, save_key
from bake.machine.launch import default_key_name
from bake.machine.request import read_markets
from bake.plan import description
from bake.ssh import keys
from tests.support.aws_in_process import ACCOUNT, REGION, Aws, aws_in_process
from tests.support.plans import RECIPES, real_plan
from tests.support.proved_images import PROVED


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("BAKE_CALLER_CIDR", "203.0.113.7/32")
    with aws_in_process() as aws:
        yield aws


def test_a_key_pair_is_made_once_and_used_again(aws: Aws) -> None:
    name, path = launch.ensure_key_pair(aws.cloud, aws.run, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    before = path.read_bytes()
    assert launch.ensure_key_pair(aws.cloud, aws.run, None) == (name, path)
    assert path.read_bytes() == before
    there = find_key_pair(aws.cloud, name)
    assert there is not None
    assert there.public_key.split()[:2] == read_public_key(path).split()[:2]
    assert len(aws.params("ImportKeyPair")) == 1


def test_a_key_that_aws_does_not_have_is_imported_by_its_public_half(aws: Aws) -> None:
    path = key_path(ACCOUNT, REGION, "mine")
    pair = keys.generate()
    save_key(path, pair.private_openssh)
    launch.ensure_key_pair(aws.cloud, aws.run, "mine")
    (sent,) = aws.params("ImportKeyPair")
    assert sent["PublicKeyMaterial"].split()[:2] == pair.public_openssh.encode().split()[:2]


def test_a_key_pair_without_a_private_half_on_this_computer_is_refused(aws: Aws) -> None:
    aws.cloud.ec2("ImportKeyPair", KeyName="mine", PublicKeyMaterial=keys.generate().public_openssh)
    with pytest.raises(RequestError, match="private half is not") as refused:
        launch.ensure_key_pair(aws.cloud, aws.run, "mine")
    assert "--key" in refused.value.hint
    assert not key_path(ACCOUNT, REGION, "mine").exists()


def test_an_unknown_key_pair_is_refused_with_the_names_of_the_others(aws: Aws) -> None:
    stays, leaves = aws.run.lasting("x"), aws.run.temporary()
    for name, tags in (("elsewhere", stays), ("mine", stays), ("bake-r1", leaves)):
        import_key_pair(aws.cloud, name, keys.generate().public_openssh, tags)
    save_key(key_path(ACCOUNT, REGION, "mine"), keys.generate().private_openssh)
    with pytest.raises(RequestError, match="Key pair nosuch not found in us-east-1") as refused:
        launch.ensure_key_pair(aws.cloud, aws.run, "nosuch")
    assert refused.value.details == (
        "Key pairs in us-east-1:",
        "elsewhere  (its private key is not on this computer)",
        "mine",
    )
    assert find_key_pair(aws.cloud, "nosuch") is None
    assert not key_path(ACCOUNT, REGION, "nosuch").exists()


def test_the_command_in_the_hint_makes_the_key_that_was_missing(aws: Aws) -> None:
    with pytest.raises(RequestError) as refused:
        launch.ensure_key_pair(aws.cloud, aws.run, "the lab's")
    command = refused.value.hint.partition("To make a key for that name: ")[2]
    subprocess.run(command, shell=True, check=True, capture_output=True)
    name, path = launch.ensure_key_pair(aws.cloud, aws.run, "the lab's")
    there = find_key_pair(aws.cloud, name)
    assert there is not None
    assert there.public_key.split()[:2] == read_public_key(path).split()[:2]


def test_the_name_of_one_s_own_key_pair_may_be_given(aws: Aws) -> None:
    name, path = launch.ensure_key_pair(aws.cloud, aws.run, default_key_name())
    assert (name, path.exists()) == (default_key_name(), True)


def test_another_key_pair_with_the_same_name_is_refused(aws: Aws) -> None:
    aws.cloud.ec2("ImportKeyPair", KeyName="mine", PublicKeyMaterial=keys.generate().public_openssh)
    save_key(key_path(ACCOUNT, REGION, "mine"), keys.generate().private_openssh)
    with pytest.raises(RequestError, match="private half of another"):
        launch.ensure_key_pair(aws.cloud, aws.run, "mine")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let machines answer by SSH: EC2 in this process has no real ones."""

    class Answers:
        def close(self) -> None:
            pass

    monkeypatch.setattr(launch, "wait_until_reached", lambda *_, **__: Answers())
    monkeypatch.setattr(launch.host_key, "complete", lambda *_: None)


def an_image_there(aws: Aws, recipe: str = "") -> Image:
    """Make an image; with a recipe, its tags describe its contents, as after a bake."""
    image = replace(PROVED, image_id=aws.base_image(owner_id=ACCOUNT, name="bake/x/1"))
    described = description.describe(real_plan(RECIPES[recipe])) if recipe else {}
    return replace(image, tags=image.tags | described)


def start(
    aws: Aws, recipe: str = "", usual: tuple[str, ...] = (), **wishes: Any
) -> launch.Launched:
    request = launch.LaunchRequest(**{"instance_types": ("g4dn.xlarge",), "name": "mine"} | wishes)
    return launch.launch(
        aws.cloud, an_image_there(aws, recipe), request, usual=usual, ssh_port=22, console=Console()
    )


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


def test_a_machine_that_answers_stays_and_its_host_key_is_known(aws: Aws, answering: None) -> None:
    launched = start(aws)
    (machine,) = machines(aws.cloud)
    assert machine.instance_id == launched.machine.instance_id
    assert machine.name == "mine"
    assert launched.ssh[0] == "ssh"
    (request,) = aws.params("RunInstances")
    assert request["InstanceInitiatedShutdownBehavior"] == "stop"
    assert request["MetadataOptions"]["HttpTokens"] == "required"
    with pytest.raises(RequestError, match="A machine named mine exists already"):
        start(aws)


@pytest.mark.parametrize("name", [KNOWN_HOSTS, "ssh"])
def test_a_machine_whose_files_cannot_be_written_is_removed(
    aws: Aws, answering: None, name: str
) -> None:
    home().mkdir(parents=True, exist_ok=True)
    if name == KNOWN_HOSTS:
        (home() / name).mkdir()
    else:
        (home() / name).write_text("a file where a folder is expected")
    with pytest.raises((FileError, RequestError), match=f"Cannot .*{name}"):
        start(aws)
    assert machines(aws.cloud) == []
    groups = aws.cloud.ec2("DescribeSecurityGroups")["SecurityGroups"]
    assert [group["GroupName"] for group in groups] == ["default"]


def test_a_user_id_without_a_name_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", unknown)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert default_key_name().startswith("bake-12345-")


def tried(aws: Aws) -> list[str]:
    """Return type, zone and market of each RunInstances, in order."""
    zones = {
        subnet["SubnetId"]: subnet["AvailabilityZone"].removeprefix(REGION)
        for subnet in aws.cloud.ec2("DescribeSubnets")["Subnets"]
    }
    return [
        f"{request['InstanceType']} {zones[request['NetworkInterfaces'][0]['SubnetId']]} "
        + ("spot" if "InstanceMarketOptions" in request else "on-demand")
        for request in aws.params("RunInstances")
    ]


FULL = "InsufficientInstanceCapacity"


def test_all_types_and_zones_are_tried_as_spot_and_then_on_demand_each_once(
    aws: Aws, answering: None, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.refuse("RunInstances", FULL, "None.", status=500)
    types = ("g4dn.xlarge", "g4dn.2xlarge")
    with pytest.raises(CapacityError) as caught:
        start(aws, instance_types=types, markets=("spot", "on-demand"))
    offered = {place.partition(" ")[2] for place in tried(aws) if place.startswith(types[0])}
    zones = sorted({place.split()[0] for place in offered})
    assert len(zones) >= 3
    assert tried(aws) == [
        f"{name} {zone} {market}"
        for market in ("spot", "on-demand")
        for name in types
        for zone in zones
    ]
    assert aws.sent.count("RunInstances") == len(tried(aws)), "neither boto nor we ask again"
    said = capsys.readouterr().err
    for detail in caught.value.details:
        place = detail.partition(":")[0]
        assert f"{place}: {FULL}" in said, "as it happens"
    assert len(caught.value.details) == len(tried(aws)), "and all of them at the end"
    assert "--market spot,on-demand" in caught.value.hint
    assert aws.remains() <= {default_key_name()}


def test_without_spot_capacity_an_on_demand_machine_is_started_and_its_price_shown(
    aws: Aws, answering: None, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.usd["g4dn.xlarge"] = 0.526
    aws.refuse("RunInstances", "MaxSpotInstanceCountExceeded", times=1)
    launched = start(aws, markets=("spot", "on-demand"))
    assert launched.machine.market == "on-demand"
    said = capsys.readouterr().err
    assert "g4dn.xlarge in us-east-1a (spot): MaxSpotInstanceCountExceeded" in said
    assert "g4dn.xlarge in us-east-1a (on-demand), $0.526/h" in said
    assert len(tried(aws)) == 2, "a limit of the account holds in the other zones too"


def spot_prices(aws: Aws, usd: dict[tuple[str, str], float]) -> None:
    history = [
        {
            "InstanceType": name,
            "AvailabilityZone": REGION + zone,
            "SpotPrice": str(price),
            "Timestamp": datetime(2026, 11, 1, tzinfo=UTC),
        }
        for (name, zone), price in usd.items()
    ]
    aws.alter("DescribeSpotPriceHistory", lambda answer: answer.update(SpotPriceHistory=history))


def test_the_cheapest_machine_per_gpu_of_all_types_zones_and_markets_is_started(
    aws: Aws, answering: None, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.quotas |= {"L-DB2E81BA": 512, "L-3819A6DF": 512}
    aws.usd = {"g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752, "g4dn.12xlarge": 3.912}
    spot_prices(
        aws, {("g4dn.xlarge", "a"): 0.53, ("g4dn.xlarge", "b"): 0.17, ("g4dn.12xlarge", "a"): 0.6}
    )
    types = ("g4dn.2xlarge", "g4dn.xlarge", "g4dn.12xlarge")
    aws.refuse("RunInstances", FULL, status=500, times=3)
    start(aws, instance_types=types, cheapest=True)
    first, second, third, fourth = tried(aws)
    assert first == "g4dn.12xlarge a spot", "0.15 for each of its four GPUs"
    assert second == "g4dn.xlarge b spot"
    assert (third, fourth) == ("g4dn.xlarge a on-demand", "g4dn.xlarge b on-demand")
    said = " ".join(capsys.readouterr().err.split())
    assert "No price is known for g4dn.2xlarge (spot): tried last" in said


def test_the_cheapest_of_all_suitable_types_has_one_gpu_unless_more_are_requested(
    aws: Aws, answering: None
) -> None:
    aws.quotas |= {"L-DB2E81BA": 512, "L-3819A6DF": 512}
    # A g5 is cheaper, and CUDA 10.1 does not know it.
    spot_prices(
        aws,
        {("g5.xlarge", "a"): 0.01, ("g4dn.4xlarge", "c"): 0.02, ("g4dn.12xlarge", "b"): 0.04},
    )
    own = ("g4dn.xlarge",)
    start(aws, "mxnet-cu101", own, instance_types=(), cheapest=True, name="one")
    start(aws, "mxnet-cu101", own, instance_types=(), cheapest=True, gpus=4, name="four")
    start(aws, "mxnet-cu101", own, instance_types=(), name="usual")
    assert tried(aws) == [
        "g4dn.4xlarge c spot",
        "g4dn.12xlarge b spot",
        "g4dn.xlarge a on-demand",
    ]


def test_for_an_image_without_a_description_the_types_of_the_recipe_are_ranked(
    aws: Aws, answering: None
) -> None:
    spot_prices(aws, {("g4dn.2xlarge", "b"): 0.02})
    start(aws, usual=("g4dn.xlarge", "g4dn.2xlarge"), instance_types=(), cheapest=True)
    assert tried(aws) == ["g4dn.2xlarge b spot"]


def test_the_requested_subnet_and_disk_are_used(aws: Aws, answering: None) -> None:
    subnet = aws.placement(zone="c").subnet_id
    start(aws, subnet_id=subnet, disk_gb=100)
    [request] = aws.params("RunInstances")
    assert request["NetworkInterfaces"][0]["SubnetId"] == subnet
    assert request["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 100


def test_the_end_of_a_capacity_block_is_shown(
    aws: Aws, answering: None, capsys: pytest.CaptureFixture[str]
) -> None:
    reservation_id = aws.cloud.ec2(
        "CreateCapacityReservation",
        InstanceType="g4dn.xlarge",
        InstancePlatform="Linux/UNIX",
        AvailabilityZone=f"{REGION}b",
        InstanceCount=1,
    )["CapacityReservation"]["CapacityReservationId"]
    block = {
        "ReservationType": "capacity-block",
        "EndDate": datetime(2026, 12, 1, 11, 30, tzinfo=UTC),
    }
    aws.alter(
        "DescribeCapacityReservations",
        lambda answer: answer["CapacityReservations"][0].update(block),
    )
    aws.alter(
        "DescribeInstanceTypes",
        lambda answer: [
            each.update(SupportedUsageClasses=["capacity-block"])
            for each in answer["InstanceTypes"]
        ],
    )

    def as_ec2_has_it(answer: dict[str, Any]) -> None:  # moto takes every market for spot
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                instance["InstanceLifecycle"] = "capacity-block"

    aws.alter("DescribeInstances", as_ec2_has_it)
    start(aws, instance_types=(), reservation_id=reservation_id)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{reservation_id} ends at 2026-12-01T11:30:00Z" in said
    assert f"g4dn.xlarge in us-east-1b ({reservation_id}), paid for in advance" in said


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"disk_gb": 63}, "63 GB are too small: the image's disk has 64 GB"),
        ({"disk_gb": -1}, "too small"),
        ({"instance_types": ("g6.xlarge",)}, "does not work on g6.xlarge"),
        ({"instance_types": ("t3.none",)}, "does not work on t3.none"),
        ({"instance_types": (), "gpus": 3}, "no type with 3 GPUs is known"),
        ({"instance_types": (), "gpus": -1}, "--gpus"),
        ({"gpus": 1}, "--gpus"),
        ({"subnet_id": "subnet-0123456789abcdef0"}, "No machine can be started"),
        ({"reservation_id": "cr-1", "markets": ("spot",)}, "A reservation is"),
        ({"reservation_id": "cr-1", "cheapest": True}, "A reservation is"),
        ({"name": "a b"}, "Invalid name for a machine"),
    ],
)
def test_an_invalid_request_is_refused_before_anything_is_created(
    aws: Aws, wishes: dict[str, Any], says: str
) -> None:
    image = an_image_there(aws, "mxnet-cu101")
    request = launch.LaunchRequest(**{"instance_types": ("g4dn.xlarge",)} | wishes)
    with pytest.raises(RequestError, match=re.escape(says)):
        launch.launch(aws.cloud, image, request, ssh_port=22, console=Console())
    assert aws.remains() == set()


def test_a_quota_that_is_too_small_is_reported_before_anything_is_created(aws: Aws) -> None:
    aws.quotas["L-DB2E81BA"] = 0
    with pytest.raises(PreflightError) as refused:
        start(aws)
    [finding] = refused.value.findings
    assert finding.message.startswith("g4dn.xlarge (on-demand) needs 4 vCPUs of the quota")
    assert "L-DB2E81BA" in finding.message
    assert "To request more" in finding.hint
    assert aws.remains() == set()


def test_a_type_that_is_not_offered_is_reported_and_the_next_one_started(
    aws: Aws, answering: None, capsys: pytest.CaptureFixture[str]
) -> None:
    start(aws, instance_types=("g99.xlarge", "g4dn.xlarge"))
    assert "g99.xlarge is not offered in us-east-1" in capsys.readouterr().err
    assert tried(aws) == ["g4dn.xlarge a on-demand"]


def test_without_a_recipe_and_a_description_the_instance_type_must_be_given(aws: Aws) -> None:
    with pytest.raises(RequestError, match="No instance type given") as refused:
        start(aws, instance_types=())
    assert "--instance-type" in refused.value.hint


@pytest.mark.parametrize(
    ("words", "spot", "markets"),
    [
        (None, False, ()),
        (None, True, ("spot",)),
        ("spot,on-demand", False, ("spot", "on-demand")),
        ("on-demand, spot", False, ("on-demand", "spot")),
    ],
)
def test_markets_are_read_in_their_order(
    words: str | None, spot: bool, markets: tuple[str, ...]
) -> None:
    assert read_markets(words, spot=spot) == markets


@pytest.mark.parametrize(("words", "spot"), [("spot", True), ("cheap", False), ("spot;on", False)])
def test_another_market_is_refused(words: str, spot: bool) -> None:
    with pytest.raises(RequestError, match="market"):
        read_markets(words, spot=spot)


@pytest.mark.parametrize(
    ("here", "says"), [(0o644, "Other users can read"), (None, "private half is not")]
)
def test_an_unusable_key_is_reported_before_anything_is_created(
    aws: Aws, here: int | None, says: str
) -> None:
    pair, path = keys.generate(), key_path(ACCOUNT, REGION, "mine")
    if here:
        save_key(path, pair.private_openssh)
        path.chmod(here)
    aws.cloud.ec2("ImportKeyPair", KeyName="mine", PublicKeyMaterial=pair.public_openssh)
    image = an_image_there(aws)
    request = launch.LaunchRequest(instance_types=("g4dn.xlarge",), key="mine")
    with pytest.raises(RequestError, match=says) as refused:
        launch.launch(aws.cloud, image, request, ssh_port=22, console=Console())
    assert aws.remains() == set()
    assert (f"chmod 400 {path}" if here else "--key") in refused.value.hint
