"""The session: errors of calls to AWS with their hints, retries and pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from botocore import exceptions as boto
from botocore.awsrequest import AWSResponse
from botocore.exceptions import BotoCoreError, ClientError
from moto import mock_aws

from bake.aws.client.errors import HINTS, cloud_error, was_refused
from bake.aws.client.session import Cloud, connect
from bake.aws.client.undo import Leftover
from bake.errors import AccessError, CloudError, NoAnswerError, RequestError
from tests.support.aws_in_process import Aws, aws_in_process


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write ~/.aws/config."""

    def write(text: str) -> None:
        path = tmp_path / "config"
        path.write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    return write


def test_a_connection_knows_its_account_and_region(aws: Aws) -> None:
    assert (aws.cloud.account_id, aws.cloud.region) == ("123456789012", "us-east-1")


def test_missing_credentials_are_an_error() -> None:
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert caught.value.exit_code == 2
    assert caught.value.code == "NoCredentialsError"
    assert "aws configure" in caught.value.hint
    assert caught.value.__suppress_context__


def test_partial_credentials_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert caught.value.code == "PartialCredentialsError"


def test_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(AccessError) as caught:
        connect()
    assert caught.value.code == "NoRegionError"
    assert caught.value.message == "No AWS region is set"
    assert "--region" in caught.value.hint


def test_the_region_may_come_from_the_profile(profile: Any) -> None:
    profile("[default]\nregion = eu-west-1\n")
    with mock_aws():
        assert connect().region == "eu-west-1"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AWS_REGION": "eu-west-2"}, "eu-west-2"),  # the variable of most SDKs, and of CLI v2
        ({"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "eu-west-3"}, "eu-west-2"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-3"}, "eu-west-3"),
    ],
)
def test_variables_name_the_region(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        assert connect().region == expected
        assert connect("us-east-2").region == "us-east-2"


@pytest.mark.parametrize("region", ["not a region", "mars-1"])
def test_an_unknown_region_is_an_error(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(AccessError) as caught:
        connect(region)
    assert caught.value.code == "UnknownRegionError"
    assert "us-west-2" in caught.value.hint


def test_a_region_with_a_typo_is_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Any, **_: Any) -> None:
        raise boto.EndpointConnectionError(endpoint_url=request.url)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for region, kind in (("us-west-22", AccessError), ("us-west-2", NoAnswerError)):
        session = boto3.Session("AKIA", "secret", region_name=region)
        session.events.register("before-send.sts", fail)
        with pytest.raises(kind) as caught:
            connect(session=session)
        question = f"Is {region} the name of a region? Did you mean us-west-2?"
        assert (question in caught.value.hint) is (kind is AccessError)


def test_a_network_that_cannot_be_reached_is_not_a_matter_of_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(request: Any, **_: Any) -> None:
        raise boto.ConnectTimeoutError(endpoint_url=request.url)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    session = boto3.Session("AKIA", "secret", region_name="us-west-2")
    session.events.register("before-send.sts", fail)
    with pytest.raises(NoAnswerError, match="AWS cannot be reached") as caught:
        connect(session=session)
    assert caught.value.exit_code == 1
    assert caught.value.code == "ConnectTimeoutError"
    assert "network" in caught.value.hint


def test_a_profile_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert caught.value.code == "ProfileNotFound"
    assert "work" in caught.value.reason
    assert "list-profiles" in caught.value.hint


def test_a_configuration_that_cannot_be_read(profile: Any) -> None:
    profile("[default\nregion")
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert "~/.aws/config" in caught.value.hint


def test_an_expired_sign_in_is_an_error(profile: Any) -> None:
    profile(
        "[default]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
        "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://example.com/start\n"
    )
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert "aws sso login" in caught.value.hint


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch"])
def test_credentials_that_are_not_accepted(code: str) -> None:
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>The security token</Message>"
    body += "</Error></ErrorResponse>"
    session = boto3.Session("AKIA", "secret", "token", region_name="us-east-1")
    session.events.register("before-send.sts", lambda **_: answer(403, body))
    with pytest.raises(AccessError) as caught:
        connect(session=session)
    assert (caught.value.code, caught.value.reason) == (code, "The security token")
    assert caught.value.hint == HINTS[code]


def test_a_token_that_expires_later_is_a_cloud_error(aws: Aws) -> None:
    aws.refuse("DescribeVpcs", "ExpiredToken", "The provided token has expired.")
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert not isinstance(caught.value, RequestError)
    assert caught.value.exit_code == 1
    assert "aws sso login" in caught.value.hint


# Each service's error for a request with a wrong time.
SKEWED = [
    ("sts", "SignatureDoesNotMatch", "Signature not yet current: 20261121T164500Z is still", 17),
    ("ec2", "AuthFailure", "AWS was not able to validate the provided access credentials", 17),
    ("ec2", "RequestExpired", "Request has expired.", -90),
    ("ssm", "InvalidSignatureException", "Signature expired: 20261121T161100Z is now", -17),
]


@pytest.mark.parametrize(("service", "code", "message", "minutes"), SKEWED)
def test_a_wrong_clock_is_reported_with_its_difference(
    service: str, code: str, message: str, minutes: int
) -> None:
    error = refused(service, code, message, date=datetime.now(UTC) - timedelta(minutes=minutes))
    where = "ahead of" if minutes > 0 else "behind"
    assert (error.code, error.reason) == (code, message)
    assert f"clock is {abs(minutes)} minutes {where} AWS's" in error.hint
    assert "timedatectl set-ntp true" in error.hint


@pytest.mark.parametrize(("service", "code", "message", "minutes"), SKEWED)
def test_a_correct_clock_is_not_reported(
    service: str, code: str, message: str, minutes: int
) -> None:
    a_moment_ago = datetime.now(UTC) - timedelta(minutes=2)
    # A response from a proxy may have no date.
    date = a_moment_ago if minutes == 17 else None
    assert refused(service, code, message, date=date).hint == HINTS[code]


def refused(service: str, code: str, message: str, *, date: datetime | None) -> CloudError:
    """Return the error of a first call that the service refuses with this code, at that time."""
    if service == "ssm":
        body = json.dumps({"__type": code, "message": message})
    else:
        body = f"<Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        body = f"<Response>{body}</Response>" if service == "ec2" else body[8:-9]
        body = f"<ErrorResponse>{body}</ErrorResponse>" if service == "sts" else body
    session = boto3.Session("AKIA", "secret", region_name="us-east-1")
    headers = {"Date": format_datetime(date, usegmt=True)} if date else {}
    session.events.register(f"before-send.{service}", lambda **_: answer(403, body, headers))
    with pytest.raises(CloudError if service != "sts" else AccessError) as caught:
        {
            "sts": lambda: connect(session=session),
            "ec2": lambda: Cloud(session, "1").ec2("DescribeVpcs"),
            "ssm": lambda: Cloud(session, "1").ssm("GetParameter", Name="/bake/x"),
        }[service]()
    assert isinstance(caught.value, CloudError | AccessError)
    return caught.value  # type: ignore[return-value]


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AccessDenied"])
def test_a_missing_permission_is_named(aws: Aws, code: str) -> None:
    aws.refuse("DescribeVpcs", code, "Encoded authorization failure message: abc")
    refused = CloudError("AWS refused sts:DecodeAuthorizationMessage", code="AccessDenied")
    with mock.patch.object(Cloud, "sts", side_effect=refused), pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert "ec2:DescribeVpcs" in caught.value.hint
    assert "decode-authorization-message" in caught.value.hint
    assert "abc" in caught.value.reason


def test_an_explicit_denial_is_not_a_missing_permission(aws: Aws) -> None:
    reason = "You are not authorized to perform this operation: with an explicit deny in a "
    aws.refuse("DescribeVpcs", "UnauthorizedOperation", reason + "service control policy")
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert "service control policy of the organization" in caught.value.hint
    assert "invoke doctor" not in caught.value.hint


@pytest.mark.parametrize(
    "code",
    [
        "AuthFailure",
        "RequestExpired",
        "VcpuLimitExceeded",
        "InsufficientInstanceCapacity",
        "Unsupported",
        "InvalidAMIID.NotFound",
        "OptInRequired",
        "InvalidAMIName.Duplicate",
    ],
)
def test_each_known_error_has_a_hint_and_awss_reason(aws: Aws, code: str) -> None:
    aws.refuse("DescribeVpcs", code, "AWS's words")
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    error = caught.value
    assert (error.code, error.reason) == (code, "AWS's words")
    assert error.hint


def test_an_unknown_error_has_awss_reason(aws: Aws) -> None:
    aws.refuse("DescribeVpcs", "SomethingNew", "AWS's words")
    with pytest.raises(CloudError, match="AWS refused ec2:DescribeVpcs") as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert (caught.value.code, caught.value.reason) == ("SomethingNew", "AWS's words")


def test_transient_errors_are_retried(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    aws.refuse("DescribeVpcs", "RequestLimitExceeded", status=503, times=2)
    assert aws.cloud.ec2("DescribeVpcs")["Vpcs"]
    assert aws.sent.count("DescribeVpcs") == 3


def test_errors_that_last_longer_than_botos_retries_are_retried(aws: Aws) -> None:
    aws.refuse("DescribeVpcs", "InternalError", status=500, times=9)
    assert aws.cloud.ec2("DescribeVpcs")["Vpcs"]
    assert aws.sent.count("DescribeVpcs") == 10
    assert len(aws.slept) == 3


def test_a_lasting_error_is_raised_after_a_minute_or_two(aws: Aws) -> None:
    aws.refuse("DescribeVpcs", "Unavailable", status=503)
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert caught.value.code == "Unavailable"
    assert 60 < sum(aws.slept) < 120


def test_an_error_of_a_load_balancer_is_retried(aws: Aws) -> None:
    pages = [answer(502, "<html>Bad Gateway</html>") for _ in range(4)]
    aws.cloud.session.events.register(
        "before-send.ec2.DescribeVpcs", lambda **_: pages.pop() if pages else None
    )
    aws.cloud._clients.clear()
    assert aws.cloud.ec2("DescribeVpcs")["Vpcs"]
    assert pages == []


def test_a_response_that_is_not_from_aws_is_a_cloud_error(aws: Aws) -> None:
    page = "<html><title>Sign in to the hotel's network"
    aws.cloud.session.events.register("before-send.ec2", lambda **_: answer(200, page))
    aws.cloud._clients.clear()
    with pytest.raises(NoAnswerError, match="AWS did not answer ec2:DescribeVpcs") as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert caught.value.code == "ResponseParserError"
    assert "HTTPS_PROXY" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "said_no"),
    [
        (boto.ReadTimeoutError(endpoint_url="https://ec2"), False),
        (boto.SSLError(endpoint_url="https://ec2", error="EOF"), False),
        (boto.HTTPClientError(error="?"), False),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), False),
        (boto.NoCredentialsError(), True),
        (boto.ParamValidationError(report="Colour"), True),
        (ClientError({"Error": {"Code": "InternalError"}}, "RunInstances"), False),
        (ClientError({"Error": {"Code": "503"}}, "RunInstances"), False),
        (ClientError({"Error": {"Code": "VcpuLimitExceeded"}}, "RunInstances"), True),
    ],
)
def test_only_a_refused_request_certainly_had_no_effect(
    error: BotoCoreError | ClientError, said_no: bool
) -> None:
    assert was_refused(cloud_error(error, "ec2:RunInstances")) is said_no


def test_every_page_is_read(aws: Aws) -> None:
    for number in range(7):
        name = f"group-{number}"
        aws.cloud.ec2("CreateSecurityGroup", GroupName=name, Description=name)
    asked: list[dict[str, Any]] = []

    def page(parsed: dict[str, Any]) -> None:
        # moto returns everything at once; EC2 returns at most 1000 items and a token.
        asked.append(parsed)
        start = 3 * (len(asked) - 1)
        everything = parsed["SecurityGroups"]
        parsed["SecurityGroups"] = everything[start : start + 3]
        if start + 3 < len(everything):
            parsed["NextToken"] = "more"

    aws.alter("DescribeSecurityGroups", page)
    found = list(aws.cloud.pages("DescribeSecurityGroups", "SecurityGroups"))
    assert len(found) == len({group["GroupId"] for group in found}) == 8
    tokens = [params.get("NextToken") for params in aws.params("DescribeSecurityGroups")]
    assert tokens == [None, "more", "more"]


def test_an_invalid_request_is_a_cloud_error(aws: Aws) -> None:
    with pytest.raises(CloudError, match="ec2:DescribeVpcs was not sent to AWS") as caught:
        aws.cloud.ec2("DescribeVpcs", Colour="red")
    assert "Colour" in caught.value.reason


def test_the_more_specific_of_two_hints_is_used() -> None:
    expired = boto.UnauthorizedSSOTokenError()
    assert "aws sso login" in cloud_error(expired, "ec2:RunInstances").hint
    proxy = boto.ProxyConnectionError(proxy_url="http://proxy", error="refused")
    assert "HTTPS_PROXY" in cloud_error(proxy, "ec2:RunInstances").hint
    tls = boto.SSLError(endpoint_url="https://ec2", error="self-signed")
    assert "AWS_CA_BUNDLE" in cloud_error(tls, "ec2:RunInstances").hint


def test_another_bake_has_its_own_leftovers_in_the_same_account(aws: Aws) -> None:
    other = aws.cloud.separate()
    other.leftovers.append(Leftover("image", "aws …", "no"))
    assert aws.cloud.leftovers == []
    assert (other.account_id, other.region) == (aws.cloud.account_id, aws.cloud.region)
    assert other.clock is aws.cloud.clock


def answer(status: int, body: str, headers: dict[str, str] | None = None) -> AWSResponse:
    response = AWSResponse("https://aws.amazon.com", status, headers or {}, None)
    response._content = body.encode()
    return response


@pytest.mark.parametrize(
    ("operation", "params", "size"),
    [
        ("DescribeImages", {"Owners": ["self"]}, 1000),
        ("DescribeSnapshots", {"OwnerIds": ["self"]}, 1000),
        ("DescribeInstances", {"Filters": [{"Name": "tag-key", "Values": ["bake:run"]}]}, 1000),
        ("DescribeInstanceTypes", {}, 100),
        ("DescribeKeyPairs", {}, None),  # has no pages
        ("DescribeSubnets", {"SubnetIds": ["subnet-1"]}, None),
        ("DescribeVolumes", {"MaxResults": 5}, 5),
    ],
)
def test_pages_are_as_large_as_the_call_allows(
    aws: Aws, operation: str, params: dict[str, Any], size: int | None
) -> None:
    with suppress(CloudError):
        list(aws.cloud.pages(operation, "Items", **params))
    assert aws.params(operation)[0].get("MaxResults") == size


# Denials of calls about a new resource, whose tags EC2 may not know yet ---------------------------


def new_group(aws: Aws) -> str:
    group_id: str = aws.cloud.ec2(
        "CreateSecurityGroup", GroupName="g", Description="d", VpcId=aws.placement().vpc_id
    )["GroupId"]
    return group_id


@pytest.mark.parametrize("method", ["ec2", "ec2_once"])
def test_a_denied_call_about_a_new_resource_is_repeated(aws: Aws, method: str) -> None:
    group_id = new_group(aws)
    aws.refuse("DeleteSecurityGroup", "UnauthorizedOperation", times=4)
    getattr(aws.cloud, method)("DeleteSecurityGroup", GroupId=group_id)
    assert aws.sent.count("DeleteSecurityGroup") == 5
    assert sum(aws.slept) == 12


def test_a_lasting_denial_is_an_error_after_15_seconds(aws: Aws) -> None:
    group_id = new_group(aws)
    aws.refuse("DeleteSecurityGroup", "UnauthorizedOperation")
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DeleteSecurityGroup", GroupId=group_id)
    assert caught.value.code == "UnauthorizedOperation"
    assert sum(aws.slept) == 15


@pytest.mark.parametrize("age_s", [61, 3600])
def test_a_denied_call_about_an_old_resource_is_an_error_at_once(aws: Aws, age_s: float) -> None:
    group_id = new_group(aws)
    aws.cloud.clock.sleep(age_s)
    aws.slept.clear()
    aws.refuse("DeleteSecurityGroup", "UnauthorizedOperation")
    with pytest.raises(CloudError):
        aws.cloud.ec2("DeleteSecurityGroup", GroupId=group_id)
    assert aws.slept == []


def test_a_denied_call_about_the_resource_of_others_is_an_error_at_once(aws: Aws) -> None:
    new_group(aws)
    vpc_id = aws.placement().vpc_id
    aws.refuse("DeleteVpc", "UnauthorizedOperation")
    with pytest.raises(CloudError):
        aws.cloud.ec2("DeleteVpc", VpcId=vpc_id)
    assert aws.slept == []


def test_credentials_that_cannot_be_renewed_for_a_moment_are_waited_for(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages = iter([boto.EndpointConnectionError(endpoint_url="https://sts")] * 3)
    get_credentials = aws.cloud.session.get_credentials

    def renew() -> Any:
        if outage := next(outages, None):
            raise outage
        return get_credentials()

    monkeypatch.setattr(aws.cloud.session, "get_credentials", renew)
    assert list(aws.cloud.pages("DescribeVpcs", "Vpcs"))
    assert sum(aws.slept) > 1
