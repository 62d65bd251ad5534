"""Requests about existing instances: power, protection and attributes as on EC2."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from bake.local.api import capacity
from tests.support.local_api import ACCOUNT, REGION, LocalApi

UNKNOWN = "i-0123456789abcdef0"


@pytest.fixture
def running(api: LocalApi) -> str:
    instance_id = api.run()
    api.wait_for(instance_id, "running")
    return instance_id


@pytest.fixture
def stopped(api: LocalApi, running: str) -> str:
    api.ec2.stop_instances(InstanceIds=[running])
    api.wait_for(running, "stopped")
    return running


def seed(api: LocalApi, instance_id: str) -> bytes:
    """Return the user data that cloud-init reads at the machine's next boot."""
    return (api.site.home / "machines" / instance_id / "seed" / "user-data").read_bytes()


def states(change: dict[str, Any]) -> tuple[str, str]:
    return change["PreviousState"]["Name"], change["CurrentState"]["Name"]


def test_response_has_the_state_after_the_request(api: LocalApi, running: str) -> None:
    [change] = api.ec2.start_instances(InstanceIds=[running])["StartingInstances"]
    assert states(change) == ("running", "running")
    [change] = api.ec2.stop_instances(InstanceIds=[running])["StoppingInstances"]
    assert states(change) == ("running", "stopping")
    api.wait_for(running, "stopped")
    [change] = api.ec2.stop_instances(InstanceIds=[running])["StoppingInstances"]
    assert states(change) == ("stopped", "stopped")
    [change] = api.ec2.start_instances(InstanceIds=[running])["StartingInstances"]
    assert states(change) == ("stopped", "pending")
    api.ec2.terminate_instances(InstanceIds=[running])
    api.wait_for(running, "terminated")
    [change] = api.ec2.terminate_instances(InstanceIds=[running])["TerminatingInstances"]
    assert states(change) == ("terminated", "terminated")


@pytest.mark.parametrize("operation", ["start", "stop", "reboot", "terminate"])
def test_request_that_names_an_unknown_instance_changes_none(
    api: LocalApi, running: str, operation: str
) -> None:
    refused = api.refusal(f"{operation}_instances", InstanceIds=[running, UNKNOWN])
    assert refused == "InvalidInstanceID.NotFound"
    assert api.instance(running)["State"]["Name"] == "running"
    assert api.refusal(f"{operation}_instances", InstanceIds=[]) == "InvalidParameterCombination"


def test_request_that_one_instance_refuses_changes_none(api: LocalApi, stopped: str) -> None:
    ended = api.run()
    api.ec2.terminate_instances(InstanceIds=[ended])
    api.wait_for(ended, "terminated")
    assert api.refusal("start_instances", InstanceIds=[stopped, ended]) == "IncorrectInstanceState"
    assert api.refusal("reboot_instances", InstanceIds=[stopped]) == "IncorrectInstanceState"
    assert api.instance(stopped)["State"]["Name"] == "stopped"


@pytest.mark.parametrize("operation", ["stop", "terminate"])
def test_instance_can_be_protected_when_it_is_launched(api: LocalApi, operation: str) -> None:
    attribute = {"stop": "DisableApiStop", "terminate": "DisableApiTermination"}[operation]
    instance_id = api.run(**{attribute: True})
    refused = api.refusal(f"{operation}_instances", InstanceIds=[instance_id])
    assert refused == "OperationNotPermitted"
    api.ec2.modify_instance_attribute(
        InstanceId=instance_id, Attribute=attribute[0].lower() + attribute[1:], Value="false"
    )
    assert api.refusal(f"{operation}_instances", InstanceIds=[instance_id]) == "accepted"


def test_protected_instance_keeps_the_others_of_the_request(api: LocalApi, running: str) -> None:
    protected = api.run(DisableApiTermination=True)
    both = [running, protected]
    assert api.refusal("terminate_instances", InstanceIds=both) == "OperationNotPermitted"
    assert api.instance(running)["State"]["Name"] == "running"


def test_one_time_spot_instance_cannot_be_stopped(api: LocalApi) -> None:
    instance_id = api.run(InstanceMarketOptions={"MarketType": "spot"})
    assert api.refusal("stop_instances", InstanceIds=[instance_id]) == "UnsupportedOperation"


@pytest.mark.parametrize(
    "attribute",
    [
        {"InstanceType": {"Value": "g4dn.2xlarge"}},
        {"UserData": {"Value": b"#!/bin/sh\n"}},
        {"EbsOptimized": {"Value": True}},
    ],
    ids=lambda attribute: next(iter(attribute)),
)
def test_some_attributes_change_only_while_the_instance_is_stopped(
    api: LocalApi, running: str, attribute: dict[str, Any]
) -> None:
    request = {"InstanceId": running, **attribute}
    assert api.refusal("modify_instance_attribute", **request) == "IncorrectInstanceState"
    api.ec2.stop_instances(InstanceIds=[running])
    api.wait_for(running, "stopped")
    assert api.refusal("modify_instance_attribute", **request) == "accepted"


@pytest.mark.parametrize(
    ("attribute", "code"),
    [
        ({"InstanceType": {"Value": "g99.xlarge"}}, "InvalidParameterValue"),
        ({"InstanceType": {"Value": "t4g.micro"}}, "InvalidParameterValue"),
        ({"InstanceInitiatedShutdownBehavior": {"Value": "explode"}}, "InvalidParameterValue"),
        ({"Groups": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"UserData": {"Value": b"x" * 16385}}, "InvalidParameterValue"),
        ({"Kernel": {"Value": "aki-1"}}, "UnsupportedOperation"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sdx", "Ebs": {}}]},
         "InvalidInstanceAttributeValue"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)  # fmt: skip
def test_wrong_attribute_is_refused(
    api: LocalApi, stopped: str, attribute: dict[str, Any], code: str
) -> None:
    assert api.refusal("modify_instance_attribute", InstanceId=stopped, **attribute) == code


def test_groups_of_an_instance_are_those_of_its_interface(api: LocalApi, running: str) -> None:
    group = api.ec2.create_security_group(GroupName="g", Description="-")["GroupId"]
    api.ec2.modify_instance_attribute(InstanceId=running, Groups=[group])
    instance = api.instance(running)
    assert [each["GroupId"] for each in instance["SecurityGroups"]] == [group]
    [interface] = instance["NetworkInterfaces"]
    assert [each["GroupId"] for each in interface["Groups"]] == [group]


def test_compressed_user_data_arrives_byte_for_byte(api: LocalApi) -> None:
    data = gzip.compress(b"#!/bin/sh\n", mtime=0)
    assert b"\x8b" in data  # no text
    instance_id = api.run(UserData=data)
    api.wait_for(instance_id, "running")
    assert seed(api, instance_id) == data
    [instance] = ec2_backends[ACCOUNT][REGION].all_instances()
    assert instance._metadata()["user-data"] == data


def test_new_user_data_is_read_at_the_next_boot(api: LocalApi, stopped: str) -> None:
    api.ec2.modify_instance_attribute(InstanceId=stopped, UserData={"Value": b"#!/bin/sh\n# 2\n"})
    assert seed(api, stopped) == b"#!/bin/sh\n# 2\n"
    shown = api.ec2.describe_instance_attribute(InstanceId=stopped, Attribute="userData")
    assert base64.b64decode(shown["UserData"]["Value"]) == b"#!/bin/sh\n# 2\n"
    encoded = base64.b64encode(b"#!/bin/sh\n# 3\n").decode()
    api.ec2.modify_instance_attribute(InstanceId=stopped, Attribute="userData", Value=encoded)
    assert seed(api, stopped) == b"#!/bin/sh\n# 3\n"


def test_instance_that_is_named_twice_is_described_once(api: LocalApi, running: str) -> None:
    found = api.ec2.describe_instances(InstanceIds=[running, running])["Reservations"]
    assert [each["InstanceId"] for each in found[0]["Instances"]] == [running]
    found = api.ec2.describe_instance_status(InstanceIds=[running, running])["InstanceStatuses"]
    assert [each["InstanceId"] for each in found] == [running]
    refused = api.refusal("describe_instances", NextToken="no token")
    assert refused == "InvalidPaginationToken"


def test_status_is_filtered_or_the_filter_is_refused(api: LocalApi, running: str) -> None:
    def found(**filters: str) -> int:
        given = [{"Name": name.replace("_", "-"), "Values": [filters[name]]} for name in filters]
        return len(api.ec2.describe_instance_status(Filters=given)["InstanceStatuses"])

    assert found(availability_zone="us-east-1?", instance_state_name="running") == 1
    assert found(availability_zone="us-west-*") == 0
    unknown = [{"Name": "event.code", "Values": ["x"]}]
    assert api.refusal("describe_instance_status", Filters=unknown) == "UnsupportedOperation"


def test_quota_is_enforced_when_an_instance_is_started(
    api: LocalApi, stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(capacity.quota_values, "L-DB2E81BA", 4.0)
    other = api.run()
    assert api.refusal("start_instances", InstanceIds=[stopped]) == "VcpuLimitExceeded"
    api.ec2.terminate_instances(InstanceIds=[other])
    assert api.refusal("start_instances", InstanceIds=[stopped]) == "accepted"
