"""Launches in the local cloud: what EC2 refuses is refused, and then nothing was made."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from bake.errors import LocalCloudError
from bake.local.api import capacity
from bake.local.api.launch.parameters import with_override, with_template
from tests.support.local_api import SIZE_GB, LocalApi

UNKNOWN = "0123456789abcdef0"


def root(**ebs: Any) -> dict[str, Any]:
    return {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": ebs}]}


def device(name: str, **more: Any) -> dict[str, Any]:
    return {"BlockDeviceMappings": [{"DeviceName": name, **more}]}


def tagged(*tags: tuple[str, str], kind: str = "instance") -> dict[str, Any]:
    specification = {"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in tags]}
    return {"TagSpecifications": [specification]}


def interface(**more: Any) -> dict[str, Any]:
    return {"NetworkInterfaces": [{"DeviceIndex": 0, **more}]}


def spot(**options: Any) -> dict[str, Any]:
    return {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": options}}


TWICE = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 10}}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (root(VolumeType="gp2", Throughput=500), "InvalidParameterCombination"),
        (root(VolumeType="gp2", Iops=3000), "InvalidParameterCombination"),
        (root(VolumeType="io1", VolumeSize=20), "InvalidParameterCombination"),
        (root(VolumeType="gp9"), "UnknownVolumeType"),
        (root(VolumeType="gp3", Iops=90000), "InvalidParameterValue"),
        (root(VolumeType="io1", VolumeSize=10, Iops=600), "InvalidParameterValue"),
        (root(VolumeType="gp3", Throughput=5), "InvalidParameterValue"),
        (root(VolumeType="gp2", VolumeSize=20000), "InvalidParameterValue"),
        (root(VolumeType="st1", VolumeSize=200), "InvalidBlockDeviceMapping"),
        (root(VolumeSize=1), "InvalidBlockDeviceMapping"),
        (root(SnapshotId=f"snap-{UNKNOWN}"), "InvalidBlockDeviceMapping"),
        (root(Encrypted=False, KmsKeyId="alias/nope"), "InvalidParameterDependency"),
        (root(KmsKeyId="alias/nope"), "InvalidParameterDependency"),
        (device("/dev/xvda", NoDevice=""), "InvalidBlockDeviceMapping"),
        ({"BlockDeviceMappings": [TWICE, TWICE]}, "InvalidBlockDeviceMapping"),
        (device("/dev/sdb", VirtualName="floppy0"), "InvalidBlockDeviceMapping"),
        (device("/dev/sdf", Ebs={"VolumeSize": 1}), "UnsupportedOperation"),
        (interface(NetworkInterfaceId=f"eni-{UNKNOWN}"), "InvalidNetworkInterfaceID.NotFound"),
        (interface(Groups=[f"sg-{UNKNOWN}"]), "InvalidGroup.NotFound"),
        (interface(SubnetId=f"subnet-{UNKNOWN}"), "InvalidSubnetID.NotFound"),
        ({**interface(), "SecurityGroups": ["default"]}, "InvalidParameterCombination"),
        ({"NetworkInterfaces": [{"DeleteOnTermination": True}]}, "MissingParameter"),
        ({"NetworkInterfaces": [{"DeviceIndex": 1}]}, "InvalidParameterValue"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0}, {"DeviceIndex": 1}]}, "UnsupportedOperation"),
        ({"SecurityGroups": ["nope"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroupIds": ["default"]}, "InvalidGroupId.Malformed"),
        ({"MinCount": 0}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"Placement": {"GroupName": "nope"}}, "InvalidPlacementGroup.Unknown"),
        ({"Placement": {"Tenancy": "bogus"}}, "InvalidParameterValue"),
        ({"Placement": {"Tenancy": "dedicated"}}, "UnsupportedOperation"),
        ({"Placement": {"AvailabilityZone": "us-east-1z"}}, "InvalidParameterValue"),
        ({"LaunchTemplate": {"LaunchTemplateName": "nope"}},
         "InvalidLaunchTemplateName.NotFoundException"),
        ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue"),
        ({"HibernationOptions": {"Configured": True}}, "UnsupportedOperation"),
        (tagged(*((f"k{i}", "v") for i in range(51))), "TagLimitExceeded"),
        (tagged(("k", "v" * 300)), "InvalidParameterValue"),
        (tagged(("k" * 129, "v")), "InvalidParameterValue"),
        (tagged(("aws:k", "v")), "InvalidParameterValue"),
        (tagged(("k", "v"), ("k", "w")), "InvalidParameterValue"),
        (tagged(("k", "v"), kind="image"), "InvalidParameterValue"),
        ({"IamInstanceProfile": {"Name": "none"}}, "InvalidParameterValue"),
        ({"IamInstanceProfile": {"Arn": "arn:aws:iam::123456789012:instance-profile/none"}},
         "InvalidParameterValue"),
        (spot(InstanceInterruptionBehavior="stop"), "InvalidParameterCombination"),
        (spot(SpotInstanceType="persistent"), "UnsupportedOperation"),
        (spot(MaxPrice="cheap"), "InvalidParameterValue"),
        ({**spot(), "DisableApiTermination": True}, "InvalidParameterCombination"),
        ({"InstanceMarketOptions": {"MarketType": "capacity-block"}}, "UnsupportedOperation"),
        ({"ImageId": f"ami-{UNKNOWN}"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "debian"}, "InvalidAMIID.Malformed"),
        ({"ImageId": ""}, "MissingParameter"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)  # fmt: skip
def test_wrong_launch_is_refused_with_ec2s_code_and_makes_nothing(
    api: LocalApi, changed: dict[str, Any], code: str
) -> None:
    before = api.everything()
    request = {"ImageId": api.base, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    assert api.refusal("run_instances", **request | changed) == code
    assert api.everything() == before


def test_group_named_beside_a_subnet_is_refused(api: LocalApi) -> None:
    subnet = api.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    request = {"ImageId": api.base, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    refused = api.refusal("run_instances", **request, SubnetId=subnet, SecurityGroups=["default"])
    assert refused == "InvalidParameterCombination"


def test_group_of_another_network_is_refused(api: LocalApi) -> None:
    vpc = api.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = api.ec2.create_security_group(GroupName="g", Description="-", VpcId=vpc)["GroupId"]
    request = {"ImageId": api.base, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    assert api.refusal("run_instances", **request, SecurityGroupIds=[group]) == "InvalidParameter"


def test_user_data_that_is_not_base64_is_refused(api: LocalApi) -> None:
    # boto3 encodes user data itself, so the request is changed after that.
    client = api.client("ec2")
    client.meta.events.register(
        "before-call.ec2.RunInstances",
        lambda params, **_: params["body"].update(UserData="not base64!"),
    )
    request = {"ImageId": api.base, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    assert api.refusal("run_instances", client, **request, UserData="x") == "InvalidParameterValue"


def test_failure_while_instances_are_made_leaves_none_of_them(
    api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = api.site.new_machine, []

    def second_fails(instance_id: str) -> Any:
        if made:
            raise LocalCloudError("All 254 loopback addresses of this local cloud are in use")
        made.append(make(instance_id))
        return made[0]

    monkeypatch.setattr(api.site, "new_machine", second_fails)
    before = api.everything()
    request = {"ImageId": api.base, "InstanceType": "g4dn.xlarge", "MinCount": 2, "MaxCount": 2}
    assert api.refusal("run_instances", **request, **spot()) == "InstanceLimitExceeded"
    assert api.everything() == before
    assert api.ec2.describe_tags()["Tags"] == []


def test_refused_launch_counts_no_vcpus(api: LocalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capacity.quota_values, "L-DB2E81BA", 4.0)
    request = {"ImageId": api.base, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    wrong = root(VolumeType="gp2", Throughput=500)
    assert api.refusal("run_instances", **request, **wrong) == "InvalidParameterCombination"
    first = api.run()
    assert api.refusal("run_instances", **request) == "VcpuLimitExceeded"
    api.ec2.terminate_instances(InstanceIds=[first])


def test_instance_whose_volume_has_an_unknown_key_ends_at_once_with_the_reason(
    api: LocalApi,
) -> None:
    instance_id = api.run(**root(Encrypted=True, KmsKeyId="alias/nope"))
    instance = api.wait_for(instance_id, "terminated")
    assert instance["StateReason"]["Code"] == "Client.InvalidKMSKey.InvalidState"


def test_parameters_that_a_client_sends_empty_are_not_given(api: LocalApi) -> None:
    # As Packer 1.6 does.
    instance_id = api.run(
        IamInstanceProfile={"Name": ""},
        Placement={"AvailabilityZone": "", "Tenancy": ""},
        KeyName="",
        UserData="",
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": "", "Groups": []}],
    )
    assert "IamInstanceProfile" not in api.instance(instance_id)


def test_root_volume_is_as_requested(api: LocalApi) -> None:
    instance_id = api.run(
        **root(VolumeSize=30, VolumeType="gp3", Iops=4000, Throughput=200, Encrypted=True)
    )
    [volume] = api.ec2.describe_volumes()["Volumes"]
    shown = {name: volume[name] for name in ("Size", "VolumeType", "Iops", "Throughput")}
    assert shown == {"Size": 30, "VolumeType": "gp3", "Iops": 4000, "Throughput": 200}
    assert volume["Encrypted"]
    assert [each["InstanceId"] for each in volume["Attachments"]] == [instance_id]


def test_instance_store_is_accepted_and_ignored_as_on_nitro_instances(api: LocalApi) -> None:
    instance = api.instance(api.run(**device("/dev/sdb", VirtualName="ephemeral0")))
    assert [each["DeviceName"] for each in instance["BlockDeviceMappings"]] == ["/dev/xvda"]
    [volume] = api.ec2.describe_volumes()["Volumes"]
    assert volume["Size"] == SIZE_GB


def test_image_may_be_named_by_a_parameter(api: LocalApi) -> None:
    api.client("ssm").put_parameter(Name="/my/image", Type="String", Value=api.base)
    instance = api.instance(api.run(ImageId="resolve:ssm:/my/image"))
    assert instance["ImageId"] == api.base
    request = {"InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    unknown = api.refusal("run_instances", ImageId="resolve:ssm:/none", **request)
    assert unknown == "InvalidParameterValue"


def template(api: LocalApi, **data: Any) -> dict[str, str]:
    """Make a launch template whose second version has this data; the first is the default."""
    api.ec2.create_launch_template(
        LaunchTemplateName="mine", LaunchTemplateData={"EbsOptimized": True}
    )
    api.ec2.create_launch_template_version(LaunchTemplateName="mine", LaunchTemplateData=data)
    return {"LaunchTemplateName": "mine", "Version": "2"}


def test_launch_is_what_the_version_of_its_template_says(api: LocalApi) -> None:
    named = template(
        api,
        ImageId=api.base,
        InstanceType="g4dn.xlarge",
        UserData=base64.b64encode(b"#!/bin/sh\n").decode(),
        **root(VolumeSize=31, VolumeType="gp3"),
        **tagged(("from", "template"), ("also", "this")),
        MetadataOptions={"HttpTokens": "required"},
        Placement={"AvailabilityZone": "us-east-1b"},
        DisableApiTermination=True,
    )
    [instance] = api.ec2.run_instances(
        LaunchTemplate=named, MinCount=1, MaxCount=1, **tagged(("from", "request"))
    )["Instances"]
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert (tags["from"], tags["also"]) == ("request", "this")
    assert tags["aws:ec2launchtemplate:version"] == "2"
    [volume] = api.ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["VolumeType"]) == (31, "gp3")
    protected = api.refusal("terminate_instances", InstanceIds=[instance["InstanceId"]])
    assert protected == "OperationNotPermitted"


@pytest.mark.parametrize("version", ["3", "0", "-1", "newest"])
def test_version_that_a_template_does_not_have_is_refused(api: LocalApi, version: str) -> None:
    named = {**template(api, ImageId=api.base), "Version": version}
    refused = api.refusal("run_instances", LaunchTemplate=named, MinCount=1, MaxCount=1)
    assert refused == "InvalidLaunchTemplateId.VersionNotFound"


def test_request_replaces_the_devices_of_the_template_that_it_names() -> None:
    ours, theirs = TWICE, {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}
    both = {"BlockDeviceMappings": [{**ours, "Ebs": {"VolumeSize": 99}}, theirs]}
    merged = with_template({"BlockDeviceMappings": [ours]}, both)
    assert merged["BlockDeviceMappings"] == [theirs, ours]


def test_override_moves_the_interface_of_the_template_to_its_subnet() -> None:
    groups = interface(Groups=["sg-1"])
    merged = with_override(groups, {"SubnetId": "subnet-2", "MaxPrice": "0.5"})
    assert merged["NetworkInterfaces"] == [
        {"DeviceIndex": 0, "Groups": ["sg-1"], "SubnetId": "subnet-2"}
    ]
    assert "SubnetId" not in merged


def test_spot_request_of_the_older_kind_has_all_that_it_specifies(api: LocalApi) -> None:
    group = api.ec2.create_security_group(GroupName="g", Description="-")["GroupId"]
    [request] = api.ec2.request_spot_instances(
        SpotPrice="0.7",
        LaunchSpecification={
            "ImageId": api.base,
            "InstanceType": "g4dn.xlarge",
            "SecurityGroupIds": [group],
            "Placement": {"AvailabilityZone": "us-east-1c"},
            **root(VolumeSize=25, VolumeType="gp3"),
        },
    )["SpotInstanceRequests"]
    assert (request["SpotPrice"], request["State"]) == ("0.7", "active")
    instance = api.instance(request["InstanceId"])
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1c"
    assert [each["GroupId"] for each in instance["SecurityGroups"]] == [group]
    [volume] = api.ec2.describe_volumes()["Volumes"]
    assert volume["Size"] == 25
