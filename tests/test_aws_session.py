"""What people are told when AWS cannot be asked, or says no."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from aws_in_process import Aws, aws_in_process
from botocore import exceptions as boto
from botocore.awsrequest import AWSResponse
from moto import mock_aws

from bake.aws.refusal import HINTS, refusal
from bake.aws.session import connect
from bake.aws.undo import Leftover
from bake.errors import AccessError, CloudError, RequestError
from bake.task_group import together


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes ~/.aws/config."""

    def write(text: str) -> None:
        path = tmp_path / "config"
        path.write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    return write


def test_a_connection_knows_its_account_and_region(aws: Aws) -> None:
    assert (aws.cloud.account_id, aws.cloud.region) == ("123456789012", "us-east-1")


def test_no_credentials_is_said_before_anything_is_started() -> None:
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert caught.value.exit_code == 2
    assert caught.value.code == "NoCredentialsError"
    assert "aws configure" in caught.value.hint
    assert caught.value.__suppress_context__


def test_half_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "--region" in caught.value.hint


def test_the_region_may_come_from_the_profile(profile: Any) -> None:
    profile("[default]\nregion = eu-west-1\n")
    with mock_aws():
        assert connect().region == "eu-west-1"


def test_a_region_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(AccessError) as caught:
        connect("not a region")
    assert caught.value.code == "InvalidRegionError"


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


def test_a_sign_in_that_has_expired(profile: Any) -> None:
    profile(
        "[default]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
        "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://example.com/start\n"
    )
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert "aws sso login" in caught.value.hint


def test_an_endpoint_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(AccessError) as caught:
        connect("us-east-1")
    assert caught.value.code == "EndpointConnectionError"
    assert "AWS_ENDPOINT_URL" in caught.value.hint


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


def test_a_token_that_expires_during_the_work_is_no_wrong_request(aws: Aws) -> None:
    aws.refuse("DescribeVpcs", "ExpiredToken", "The provided token has expired.")
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert not isinstance(caught.value, RequestError)
    assert caught.value.exit_code == 1
    assert "aws sso login" in caught.value.hint


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AccessDenied"])
def test_a_missing_permission_is_named(aws: Aws, code: str) -> None:
    aws.refuse("DescribeVpcs", code, "Encoded authorization failure message: abc")
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert "ec2:DescribeVpcs" in caught.value.hint
    assert "decode-authorization-message" in caught.value.hint
    assert "abc" in caught.value.reason


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
def test_each_refusal_says_what_to_do_next_with_awss_own_words(aws: Aws, code: str) -> None:
    aws.refuse("DescribeVpcs", code, "AWS's words")
    with pytest.raises(CloudError) as caught:
        aws.cloud.ec2("DescribeVpcs")
    error = caught.value
    assert (error.code, error.reason) == (code, "AWS's words")
    assert error.hint


def test_a_refusal_nobody_has_met_still_carries_awss_words(aws: Aws) -> None:
    aws.refuse("DescribeVpcs", "SomethingNew", "AWS's words")
    with pytest.raises(CloudError, match="AWS refused ec2:DescribeVpcs") as caught:
        aws.cloud.ec2("DescribeVpcs")
    assert (caught.value.code, caught.value.reason) == ("SomethingNew", "AWS's words")


def test_passing_faults_are_asked_again(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    aws.refuse("DescribeVpcs", "RequestLimitExceeded", status=503, times=2)
    assert aws.cloud.ec2("DescribeVpcs")["Vpcs"]
    assert aws.sent.count("DescribeVpcs") == 3


def test_every_page_is_read(aws: Aws) -> None:
    for number in range(7):
        name = f"group-{number}"
        aws.cloud.ec2("CreateSecurityGroup", GroupName=name, Description=name)
    asked: list[dict[str, Any]] = []

    def page(parsed: dict[str, Any]) -> None:
        # moto gives all at once; EC2 gives at most 1000 and a token.
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


def test_a_request_of_the_wrong_shape_is_an_error_of_ours_too(aws: Aws) -> None:
    with pytest.raises(CloudError, match="ec2:DescribeVpcs could not be asked of AWS") as caught:
        aws.cloud.ec2("DescribeVpcs", Colour="red")
    assert "Colour" in caught.value.reason


def test_the_nearer_of_two_hints_is_given() -> None:
    expired = boto.UnauthorizedSSOTokenError()
    assert "aws sso login" in refusal(expired, "ec2:RunInstances").hint
    proxy = boto.ProxyConnectionError(proxy_url="http://proxy", error="refused")
    assert "HTTPS_PROXY" in refusal(proxy, "ec2:RunInstances").hint
    tls = boto.SSLError(endpoint_url="https://ec2", error="self-signed")
    assert "AWS_CA_BUNDLE" in refusal(tls, "ec2:RunInstances").hint


def test_another_bake_has_leftovers_of_its_own_and_the_same_account(aws: Aws) -> None:
    other = aws.cloud.apart()
    other.leftovers.append(Leftover("image", "aws …", "no"))
    assert aws.cloud.leftovers == []
    assert (other.account_id, other.region) == (aws.cloud.account_id, aws.cloud.region)
    assert other.clock is aws.cloud.clock


def test_many_bakes_of_one_process_share_their_clients_and_no_connection_is_thrown_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = threading.Barrier(50)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if "GetCallerIdentity" in asked:
                body = (
                    "<R><GetCallerIdentityResult><Account>1</Account></GetCallerIdentityResult></R>"
                )
            else:
                here.wait(30)
                body = "<R><vpcSet/></R>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 100
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        cloud = connect("us-east-1")
        made: list[str] = []
        make = cloud.session.client

        def client(name: str, **more: Any) -> Any:
            made.append(name)
            return make(name, **more)

        def bake() -> None:
            cloud.apart().ec2("DescribeVpcs")

        monkeypatch.setattr(cloud.session, "client", client)
        # Each call is answered when all fifty have come.
        together(*[bake] * 50)
        server.shutdown()
    assert made == ["ec2"]
    assert "pool is full" not in caplog.text


def answer(status: int, body: str) -> AWSResponse:
    response = AWSResponse("https://sts.amazonaws.com", status, {}, None)
    response._content = body.encode()
    return response
