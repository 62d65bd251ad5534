"""Failures of the local cloud itself: an EC2 error, with the traceback in its log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bake.errors import LocalCloudError
from bake.local.api.ec2_response import LocalEC2Response
from tests.support.local_api import REGION, LocalApi


@pytest.mark.parametrize("error", [AttributeError, IndexError, KeyError, TypeError, ValueError])
def test_python_error_is_an_unsupported_request_and_its_traceback_is_logged(
    api: LocalApi,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    def fail(_: Any) -> None:
        raise error("'NoneType' object")

    monkeypatch.setattr(LocalEC2Response, "describe_images", fail)
    with caplog.at_level(logging.ERROR), pytest.raises(ClientError) as caught:
        api.ec2.describe_images()
    shown = caught.value.response["Error"]
    assert shown["Code"] == "UnsupportedOperation"
    assert "DescribeImages" in shown["Message"]
    assert error.__name__ not in shown["Message"]
    assert "NoneType" not in shown["Message"]
    assert error.__name__ in caplog.text


def test_failure_of_the_computer_is_an_internal_error(
    api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise LocalCloudError("podman images failed: no space left")

    monkeypatch.setattr(LocalEC2Response, "describe_images", fail)
    assert api.refusal("describe_images") == "InternalError"


def test_operation_that_is_missing_is_unsupported(api: LocalApi) -> None:
    instance_id = api.run()
    refused = api.refusal("get_console_screenshot", InstanceId=instance_id)
    assert refused == "UnsupportedOperation"


@pytest.mark.parametrize(
    ("service", "operation"),
    [("iam", "list_service_specific_credentials"), ("ssm", "describe_activations")],
)
def test_operation_that_another_service_lacks_is_refused_and_not_repeated(
    api: LocalApi, service: str, operation: str
) -> None:
    client = api.client(service)
    with pytest.raises(ClientError) as caught:
        getattr(client, operation)()
    assert caught.value.response["Error"]["Code"] == "UnsupportedOperation"
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 0


@pytest.mark.parametrize(
    ("service", "operation", "request_", "code"),
    [
        ("ec2", "describe_images", {}, "AuthFailure"),
        ("sts", "get_caller_identity", {}, "SignatureDoesNotMatch"),
        ("ssm", "get_parameter", {"Name": "x"}, "InvalidSignatureException"),
    ],
)
def test_region_that_does_not_exist_is_a_wrong_request(
    api: LocalApi, service: str, operation: str, request_: dict[str, Any], code: str
) -> None:
    client = api.client(service, "mars-1")
    assert api.refusal(operation, client, **request_) == code


def test_base_image_in_a_region_that_does_not_exist_is_refused(api: LocalApi) -> None:
    with pytest.raises(LocalCloudError, match="mars-1"):
        api.application.add_os_image({"region": "mars-1"})


def test_image_is_copied_once_for_a_token(api: LocalApi) -> None:
    request = {
        "SourceImageId": api.base,
        "SourceRegion": REGION,
        "Name": "copy",
        "ClientToken": "t",
    }
    first = api.ec2.copy_image(**request)["ImageId"]
    assert api.ec2.copy_image(**request)["ImageId"] == first
    other = api.refusal("copy_image", **{**request, "Name": "another"})
    assert other == "IdempotentParameterMismatch"
    [image] = api.ec2.describe_images(Owners=["self"])["Images"]
    assert image["ImageId"] == first


@pytest.mark.parametrize(
    ("changed", "code"),
    [({"Action": "DescribeMoons"}, "InvalidAction"), ({"MaxResults": "x"}, "MalformedQueryString")],
)
def test_request_that_cannot_be_parsed_is_refused(
    api: LocalApi, changed: dict[str, str], code: str
) -> None:
    client = api.client("ec2")
    client.meta.events.register(
        "before-call.ec2.DescribeImages", lambda params, **_: params["body"].update(changed)
    )
    assert api.refusal("describe_images", client) == code


def test_second_request_with_the_same_token_launches_none(api: LocalApi) -> None:
    first = api.run(ClientToken="a token")
    assert api.run(ClientToken="a token") == first
    request = {"ImageId": api.base, "MinCount": 1, "MaxCount": 1, "ClientToken": "a token"}
    other = api.refusal("run_instances", InstanceType="g4dn.2xlarge", **request)
    assert other == "IdempotentParameterMismatch"
    api.ec2.terminate_instances(InstanceIds=[first])
    api.wait_for(first, "terminated")
    ended = api.refusal("run_instances", InstanceType="g4dn.xlarge", **request)
    assert ended == "IdempotentInstanceTerminated"
