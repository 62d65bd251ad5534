"""Requests about images, snapshots, volumes and tags: as on EC2, or refused with its code."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.local_api import REGION, SIZE_GB, LocalApi

UNKNOWN = "0123456789abcdef0"


@pytest.fixture
def running(api: LocalApi) -> str:
    instance_id = api.run(
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 9}}]
    )
    api.wait_for(instance_id, "running")
    return instance_id


@pytest.fixture
def image(api: LocalApi, running: str) -> str:
    image_id = api.ec2.create_image(InstanceId=running, Name="mine", NoReboot=True)["ImageId"]
    assert api.wait_for_image(image_id)["State"] == "available"
    return str(image_id)


@pytest.fixture
def volume(api: LocalApi, running: str) -> str:
    [volume] = api.ec2.describe_volumes()["Volumes"]
    return str(volume["VolumeId"])


def mapping(name: str = "/dev/xvda", **more: Any) -> dict[str, Any]:
    return {"BlockDeviceMappings": [{"DeviceName": name, **more}]}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"Name": "bad*name?"}, "InvalidAMIName.Malformed"),
        ({"Name": "n" * 200}, "InvalidAMIName.Malformed"),
        ({"Description": "d" * 300}, "InvalidParameterValue"),
        (mapping(Ebs={"VolumeSize": 1}), "InvalidBlockDeviceMapping"),
        (mapping(Ebs={"VolumeSize": 99}), "InvalidBlockDeviceMapping"),
        (mapping(Ebs={"Encrypted": True}), "InvalidBlockDeviceMapping"),
        (mapping(Ebs={"SnapshotId": f"snap-{UNKNOWN}"}), "InvalidBlockDeviceMapping"),
        (mapping(NoDevice=""), "InvalidBlockDeviceMapping"),
        (mapping("/dev/sdf", Ebs={"VolumeSize": 1}), "UnsupportedOperation"),
        ({"TagSpecifications": [{"ResourceType": "image", "Tags": [{"Key": "aws:k"}]}]},
         "InvalidParameterValue"),
        ({"InstanceId": "mine"}, "InvalidInstanceID.Malformed"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)  # fmt: skip
def test_image_that_ec2_would_not_make_is_refused_and_leaves_nothing(
    api: LocalApi, running: str, changed: dict[str, Any], code: str
) -> None:
    before = api.everything()
    request = {"InstanceId": running, "Name": "an image", "NoReboot": True, **changed}
    assert api.refusal("create_image", **request) == code
    assert api.everything() == before
    assert api.ec2.describe_images(Owners=["self"])["Images"] == []


def test_image_has_the_size_of_its_machine_s_disk_and_can_be_launched(
    api: LocalApi, running: str
) -> None:
    instance_store = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}
    kept = {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": False}}
    image_id = api.ec2.create_image(
        InstanceId=running, Name="mine", NoReboot=True, BlockDeviceMappings=[instance_store, kept]
    )["ImageId"]
    root, other = api.wait_for_image(image_id)["BlockDeviceMappings"]
    assert (root["Ebs"]["VolumeSize"], root["Ebs"]["DeleteOnTermination"]) == (9, False)
    assert other == instance_store
    assert api.refusal("run_instances", ImageId=image_id, InstanceType="g4dn.xlarge",
                       MinCount=1, MaxCount=1) == "accepted"  # fmt: skip


@pytest.mark.parametrize(
    ("ebs", "code"),
    [
        ({"VolumeSize": 1}, "InvalidBlockDeviceMapping"),
        ({"Encrypted": True}, "InvalidBlockDeviceMapping"),
        ({"VolumeType": "gp2", "Throughput": 500}, "InvalidParameterCombination"),
        ({"SnapshotId": f"snap-{UNKNOWN}"}, "InvalidSnapshot.NotFound"),
    ],
)
def test_image_of_a_snapshot_is_checked(
    api: LocalApi, image: str, ebs: dict[str, Any], code: str
) -> None:
    [snapshot] = api.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    disk = {"SnapshotId": snapshot["SnapshotId"], **ebs}
    request = {"Name": "registered", "RootDeviceName": "/dev/xvda", **mapping(Ebs=disk)}
    assert api.refusal("register_image", **request) == code


@pytest.mark.parametrize(
    ("operation", "request_", "code"),
    [
        ("copy_image", {"SourceRegion": "mars-1"}, "InvalidParameterValue"),
        ("copy_image", {"SourceImageId": f"ami-{UNKNOWN}"}, "InvalidAMIID.NotFound"),
        ("copy_image", {"Name": "mine"}, "InvalidAMIName.Duplicate"),
    ],
)
def test_wrong_copy_is_refused(
    api: LocalApi, image: str, operation: str, request_: dict[str, Any], code: str
) -> None:
    request = {"SourceImageId": image, "SourceRegion": REGION, "Name": "copy", **request_}
    assert api.refusal(operation, **request) == code


def test_every_attribute_of_an_image_is_described_or_refused(api: LocalApi, image: str) -> None:
    model = api.ec2.meta.service_model.operation_model("DescribeImageAttribute").input_shape
    codes = {
        name: api.refusal("describe_image_attribute", ImageId=image, Attribute=name)
        for name in model.members["Attribute"].enum
    }
    assert codes.pop("blockDeviceMapping") == "AuthFailure"
    assert set(codes.values()) == {"accepted"}
    api.run(ImageId=image)
    described = api.ec2.describe_image_attribute(ImageId=image, Attribute="lastLaunchedTime")
    assert described["LastLaunchedTime"]["Value"].endswith("Z")


def test_image_that_is_shared_with_all_is_public(api: LocalApi, image: str) -> None:
    def is_public() -> tuple[bool, int]:
        public = [{"Name": "is-public", "Values": ["true"]}]
        found = api.ec2.describe_images(ImageIds=[image], Filters=public)["Images"]
        [shown] = api.ec2.describe_images(ImageIds=[image])["Images"]
        return shown["Public"], len(found)

    everyone = [{"Group": "all"}]
    assert is_public() == (False, 0)
    api.ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": everyone})
    assert is_public() == (True, 1)
    api.ec2.modify_image_attribute(
        ImageId=image, Attribute="launchPermission", OperationType="remove", UserGroups=["all"]
    )
    assert is_public() == (False, 0)


def test_launch_permission_of_a_wrong_account_is_refused(api: LocalApi, image: str) -> None:
    wrong = {"Add": [{"UserId": "me"}]}
    refused = api.refusal("modify_image_attribute", ImageId=image, LaunchPermission=wrong)
    assert refused == "InvalidAMIAttributeItemValue"


@pytest.mark.parametrize("operation", ["deregister_image", "modify_image_attribute"])
def test_image_of_another_account_is_not_changed(api: LocalApi, operation: str) -> None:
    more = {} if operation == "deregister_image" else {"Description": {"Value": "mine now"}}
    assert api.refusal(operation, ImageId=api.base, **more) == "AuthFailure"


@pytest.mark.parametrize(
    "change",
    [
        {"CreateVolumePermission": {"Add": [{"UserId": "111122223333"}]}},
        {"OperationType": "add", "UserIds": ["111122223333"]},
    ],
    ids=["structure", "earlier form"],
)
def test_snapshot_is_shared_in_either_form_and_after_a_restart(
    api: LocalApi, image: str, change: dict[str, Any]
) -> None:
    [snapshot] = api.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    named = {"SnapshotId": snapshot["SnapshotId"], "Attribute": "createVolumePermission"}
    api.ec2.modify_snapshot_attribute(**named, **change)
    shared = [{"UserId": "111122223333"}]
    described = api.ec2.describe_snapshot_attribute(**named)
    assert described["CreateVolumePermissions"] == shared
    assert '"111122223333"' in (api.site.home / "store.json").read_text()
    api.ec2.reset_snapshot_attribute(**named)
    assert api.ec2.describe_snapshot_attribute(**named)["CreateVolumePermissions"] == []


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"creation-date": ["20*"]}, 1),
        ({"creation-date": ["19*", "20??-*"]}, 1),
        ({"name": ["m*"]}, 1),
        ({"name": ["M*"]}, 0),
        ({"name": ["m[a-z]ne"]}, 0),
        (
            {
                "block-device-mapping.volume-size": ["9"],
                "block-device-mapping.encrypted": ["false"],
            },
            1,
        ),
        ({"block-device-mapping.volume-size": ["8", "9"]}, 1),
        ({"state": ["pending"]}, 0),
    ],
)
def test_filters_find_images_by_values_of_any_type(
    api: LocalApi, image: str, filters: dict[str, list[str]], found: int
) -> None:
    given = [{"Name": name, "Values": values} for name, values in filters.items()]
    assert len(api.ec2.describe_images(Owners=["self"], Filters=given)["Images"]) == found


def test_filter_of_instances_knows_wildcards(api: LocalApi, running: str) -> None:
    def found(value: str) -> int:
        filters = [{"Name": "instance-type", "Values": [value]}]
        return len(api.ec2.describe_instances(Filters=filters)["Reservations"])

    assert (found("g4dn.*"), found("g5.*")) == (1, 0)


@pytest.mark.parametrize(
    "operation", ["describe_images", "describe_instances", "describe_volumes", "describe_snapshots"]
)
def test_unknown_filter_is_refused(api: LocalApi, operation: str) -> None:
    refused = api.refusal(operation, Filters=[{"Name": "bogus", "Values": ["x"]}])
    assert refused == "InvalidParameterValue"


def test_images_come_in_pages(api: LocalApi, running: str) -> None:
    for number in range(4):
        api.ec2.create_image(InstanceId=running, Name=f"image {number}", NoReboot=True)
    first = api.ec2.describe_images(Owners=["self"], MaxResults=3)
    assert len(first["Images"]) == 3
    rest = api.ec2.describe_images(Owners=["self"], MaxResults=3, NextToken=first["NextToken"])
    assert len(rest["Images"]) == 1
    assert "NextToken" not in rest
    pages = api.ec2.get_paginator("describe_images").paginate(
        Owners=["self"], PaginationConfig={"PageSize": 2}
    )
    assert len([image for page in pages for image in page["Images"]]) == 4
    assert api.refusal("describe_images", NextToken="?") == "InvalidPaginationToken"
    assert api.refusal("describe_instances", MaxResults=2) == "InvalidParameterValue"
    both = api.refusal("describe_instances", MaxResults=5, InstanceIds=[running])
    assert both == "InvalidParameterCombination"


def test_root_volume_stays_attached(api: LocalApi, running: str, volume: str) -> None:
    assert api.refusal("detach_volume", VolumeId=volume) == "OperationNotPermitted"
    wrong = api.refusal("detach_volume", VolumeId=volume, Device="/dev/sdz")
    assert wrong == "InvalidAttachment.NotFound"
    api.ec2.stop_instances(InstanceIds=[running])
    api.wait_for(running, "stopped")
    assert api.refusal("detach_volume", VolumeId=volume) == "UnsupportedOperation"
    free = api.ec2.create_volume(Size=1, AvailabilityZone=f"{REGION}a")["VolumeId"]
    assert api.refusal("detach_volume", VolumeId=free) == "IncorrectState"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Size": 1}, "InvalidParameterValue"),
        ({"VolumeType": "gp9"}, "UnknownVolumeType"),
        ({"VolumeType": "io2"}, "InvalidParameterCombination"),
        ({"VolumeType": "gp2", "Iops": 3000}, "InvalidParameterCombination"),
        ({"Size": 30, "VolumeType": "gp3"}, "accepted"),
    ],
)
def test_volume_is_changed_only_as_its_type_allows(
    api: LocalApi, volume: str, change: dict[str, Any], code: str
) -> None:
    assert api.refusal("modify_volume", VolumeId=volume, **change) == code


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        (f"i-{UNKNOWN}", "InvalidInstanceID.NotFound"),
        (f"ami-{UNKNOWN}", "InvalidAMIID.NotFound"),
        (f"snap-{UNKNOWN}", "InvalidSnapshot.NotFound"),
        (f"vol-{UNKNOWN}", "InvalidVolume.NotFound"),
        (f"eni-{UNKNOWN}", "InvalidNetworkInterfaceID.NotFound"),
        (f"sg-{UNKNOWN}", "InvalidGroup.NotFound"),
        ("bogus", "InvalidID"),
    ],
)
def test_tags_need_a_resource(api: LocalApi, resource: str, code: str) -> None:
    tags = [{"Key": "k", "Value": "v"}]
    assert api.refusal("create_tags", Resources=[resource], Tags=tags) == code


@pytest.mark.parametrize("key", ["", "aws:k", "k" * 129])
def test_wrong_tag_is_refused(api: LocalApi, image: str, key: str) -> None:
    tags = [{"Key": key, "Value": "v"}]
    assert api.refusal("create_tags", Resources=[image], Tags=tags) == "InvalidParameterValue"


def test_account_attributes_name_the_default_network(api: LocalApi) -> None:
    [attribute] = api.ec2.describe_account_attributes(AttributeNames=["default-vpc"])[
        "AccountAttributes"
    ]
    [vpc] = api.ec2.describe_vpcs()["Vpcs"]
    assert attribute["AttributeValues"] == [{"AttributeValue": vpc["VpcId"]}]
    assert SIZE_GB < 9
