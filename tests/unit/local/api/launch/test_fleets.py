"""CreateFleet of the type instant: as the launch template and its overrides say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.local_api import LocalApi

SPOT = {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"}


@pytest.fixture(autouse=True)
def template(api: LocalApi) -> None:
    api.ec2.create_launch_template(
        LaunchTemplateName="mine",
        LaunchTemplateData={
            "ImageId": api.base,
            "InstanceType": "g4dn.xlarge",
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 31, "VolumeType": "gp3"}}
            ],
            "MetadataOptions": {"HttpTokens": "required"},
        },
    )


def request(*overrides: dict[str, Any], **more: Any) -> dict[str, Any]:
    template = {"LaunchTemplateName": "mine", "Version": "$Latest"}
    config = {"LaunchTemplateSpecification": template, "Overrides": list(overrides)}
    return {
        "Type": "instant",
        "TargetCapacitySpecification": SPOT,
        "LaunchTemplateConfigs": [config],
        **more,
    }


def test_spot_machine_of_a_fleet_is_as_its_template_and_override_say(api: LocalApi) -> None:
    override = {"InstanceType": "g4dn.2xlarge", "AvailabilityZone": "us-east-1b", "MaxPrice": "2"}
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "packer"}]}]
    answer = api.ec2.create_fleet(**request(override, TagSpecifications=tags))
    [launched] = answer["Instances"]
    assert launched["Lifecycle"] == "spot"
    assert launched["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"] == "us-east-1b"
    instance = api.instance(launched["InstanceIds"][0])
    assert instance["InstanceType"] == launched["InstanceType"] == "g4dn.2xlarge"
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert {"Key": "Name", "Value": "packer"} in instance["Tags"]
    [volume] = api.ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["VolumeType"]) == (31, "gp3")
    [spot] = api.ec2.describe_spot_instance_requests(
        SpotInstanceRequestIds=[instance["SpotInstanceRequestId"]]
    )["SpotInstanceRequests"]
    assert (spot["State"], spot["SpotPrice"]) == ("active", "2")


def test_spot_request_of_a_fleet_closes_with_its_machine(api: LocalApi) -> None:
    [launched] = api.ec2.create_fleet(**request())["Instances"]
    [instance_id] = launched["InstanceIds"]
    api.ec2.terminate_instances(InstanceIds=[instance_id])
    api.wait_for(instance_id, "terminated")
    [spot] = api.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert (spot["State"], spot["Status"]["Code"]) == ("closed", "instance-terminated-by-user")


def test_fleet_takes_the_next_override_and_reports_the_refusal(api: LocalApi) -> None:
    zone = {"AvailabilityZone": "us-east-1z", "Priority": 1.0}
    answer = api.ec2.create_fleet(**request({"InstanceType": "g4dn.xlarge", "Priority": 2.0}, zone))
    [error] = answer["Errors"]
    assert error["ErrorCode"] == "InvalidParameterValue"
    assert error["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"] == "us-east-1z"
    assert len(answer["Instances"]) == 1


def test_fleet_in_which_nothing_can_be_launched_makes_nothing(api: LocalApi) -> None:
    before = api.everything()
    answer = api.ec2.create_fleet(**request({"InstanceType": "t4g.micro"}))
    assert [each["ErrorCode"] for each in answer["Errors"]] == ["InvalidParameterValue"]
    assert not answer.get("Instances")
    assert api.everything() == before


def test_target_capacity_is_split_between_the_markets(api: LocalApi) -> None:
    target = {
        "TotalTargetCapacity": 3,
        "OnDemandTargetCapacity": 1,
        "DefaultTargetCapacityType": "spot",
    }
    answer = api.ec2.create_fleet(**request(TargetCapacitySpecification=target))
    counts = {each["Lifecycle"]: len(each["InstanceIds"]) for each in answer["Instances"]}
    assert counts == {"spot": 2, "on-demand": 1}


def test_fleet_is_described_and_deleted_with_its_machines(api: LocalApi) -> None:
    fleet_id = api.ec2.create_fleet(**request())["FleetId"]
    [fleet] = api.ec2.describe_fleets(FleetIds=[fleet_id])["Fleets"]
    assert (fleet["Type"], fleet["FleetState"]) == ("instant", "active")
    [instance_id] = fleet["Instances"][0]["InstanceIds"]
    [deleted] = api.ec2.delete_fleets(FleetIds=[fleet_id], TerminateInstances=True)[
        "SuccessfulFleetDeletions"
    ]
    assert deleted["CurrentFleetState"] == "deleted_terminating"
    api.wait_for(instance_id, "terminated")


@pytest.mark.parametrize("kind", ["maintain", "request"])
def test_fleet_that_would_replace_machines_is_refused(api: LocalApi, kind: str) -> None:
    assert api.refusal("create_fleet", **request(Type=kind)) == "UnsupportedOperation"
