"""Credentials: profiles that are wrong are wrong requests, and sessions have an end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import RefreshableCredentials

from bake.aws.client.credentials import credentials_end, refresh_credentials
from bake.aws.client.session import connect
from bake.errors import AccessError, CloudError
from tests.support.commands import invoke

ROLE = "role_arn = arn:aws:iam::123456789012:role/x"
KEYS = "aws_access_key_id = AKIA\naws_secret_access_key = secret"
WithProfile = Callable[[str], None]

# Settings of the default profile, and the code of the error.
WRONG = [
    ("credential_process = /nonexistent/tool", "FileNotFoundError"),
    ("credential_process = /bin/echo hello", "JSONDecodeError"),
    ("credential_process = /bin/echo []", "AttributeError"),
    ('credential_process = /bin/echo "hello', "ValueError"),
    ("credential_process = /bin/false", "CredentialRetrievalError"),
    (f"{ROLE}\nweb_identity_token_file = /nonexistent/token", "FileNotFoundError"),
    ("login_session = arn:aws:iam::123456789012:user/me", "MissingDependencyException"),
    (f"{ROLE}\nsource_profile = nowhere", "InvalidConfigError"),
    (
        f"{ROLE}\nsource_profile = loop\n[profile loop]\n{ROLE}\nsource_profile = default",
        "Infinite",
    ),
    (f"{ROLE}\ncredential_source = Nonsense", "InvalidConfigError"),
    (f"{KEYS}\ndefaults_mode = bogus", "InvalidDefaultsMode"),
    (f"{KEYS}\nendpoint_url = nowhere", "ValueError"),
    (f"{KEYS}\nservices = nowhere", "InvalidConfigError"),
]


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WithProfile:
    """Write the default profile of ~/.aws/config."""

    def write(text: str) -> None:
        path = tmp_path / "config"
        path.write_text(f"[default]\nregion = us-west-2\n{text}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    return write


@pytest.mark.parametrize(("settings", "code"), WRONG)
def test_wrong_settings_are_an_access_error_with_a_hint(
    profile: WithProfile, settings: str, code: str
) -> None:
    profile(settings)
    with pytest.raises(AccessError) as caught:
        connect()
    assert caught.value.code.startswith(code)
    assert caught.value.hint
    assert caught.value.__suppress_context__


def test_wrong_settings_are_one_document_with_json(profile: WithProfile) -> None:
    profile("credential_process = /nonexistent/tool")
    ended = invoke("images", "--json")
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["error"]["code"] == "FileNotFoundError"
    assert "Traceback" not in ended.stderr


def test_a_role_with_an_mfa_code_needs_a_terminal(profile: WithProfile, tmp_path: Path) -> None:
    profile(f"{ROLE}\nsource_profile = base\nmfa_serial = m\n[profile base]\n{KEYS}")
    # In a session of its own, a process has no terminal.
    script = """
from bake.aws.client.session import connect
from bake.errors import AccessError
try:
    connect()
except AccessError as error:
    print(error.exit_code, error.reason, error.hint, sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.stdout.split("|")[:2] == [
        "2",
        "An MFA code is needed, but it cannot be entered without a terminal",
    ]
    assert "Enter MFA code" not in done.stdout + done.stderr


def test_a_role_that_may_not_be_assumed_is_named(profile: WithProfile) -> None:
    profile(f"{ROLE}\nsource_profile = base\n[profile base]\n{KEYS}")

    def refuse(**_: object) -> AWSResponse:
        body = "<Error><Code>AccessDenied</Code><Message>Not authorized</Message></Error>"
        response = AWSResponse("https://sts.amazonaws.com", 403, {}, None)
        response._content = f"<ErrorResponse>{body}</ErrorResponse>".encode()
        return response

    session = boto3.Session()
    session.events.register("before-send.sts", refuse)
    with pytest.raises(CloudError) as caught:
        refresh_credentials(session)
    assert caught.value.message == "AWS refused sts:AssumeRole"
    assert "the trust policy of the role" in caught.value.hint


# The end of credentials ---------------------------------------------------------------------------


IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)


def assumed(monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    """Return a session of the default profile, as botocore has it after AssumeRole."""
    held = RefreshableCredentials("A", "s", "t", IN_AN_HOUR, dict, "assume-role")
    session = boto3.Session()
    monkeypatch.setattr(session, "get_credentials", lambda: held)
    return session


def test_keys_of_a_user_do_not_end() -> None:
    assert credentials_end(boto3.Session("AKIA", "secret")) is None


def test_a_session_token_ends_at_an_unknown_time() -> None:
    end = credentials_end(boto3.Session("ASIA", "secret", "token"))
    assert end is not None
    assert end.at is None


def test_variables_may_tell_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    keys = {"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    for name, value in {**keys, "AWS_CREDENTIAL_EXPIRATION": at.isoformat()}.items():
        monkeypatch.setenv(name, value)
    end = credentials_end(boto3.Session())
    assert end is not None
    assert end.at == at


def test_credentials_of_a_process_are_renewed(profile: WithProfile, tmp_path: Path) -> None:
    at = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
    document = {"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s", "SessionToken": "t"}
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({**document, "Expiration": at}))
    profile(f"credential_process = /bin/cat {answer}")
    assert credentials_end(boto3.Session()) is None


def test_a_session_with_an_mfa_code_is_not_renewed(
    profile: WithProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(f"{ROLE}\nsource_profile = base\nmfa_serial = m\n[profile base]\n{KEYS}")
    session = assumed(monkeypatch)
    end = credentials_end(session)
    assert end is not None
    assert end.at == IN_AN_HOUR


@pytest.mark.parametrize(
    "source",
    [
        f"{KEYS}\naws_session_token = t",
        f"{ROLE}\nmfa_serial = m\nsource_profile = user\n[profile user]\n{KEYS}",
        f"{ROLE}\nsource_profile = user\n[profile user]\n{KEYS}\naws_session_token = t",
    ],
    ids=["a session token", "a role with an MFA code", "a role of a session token"],
)
def test_a_role_ends_with_the_session_from_which_it_is_assumed(
    profile: WithProfile, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    profile(f"{ROLE}\nsource_profile = base\n[profile base]\n{source}")
    end = credentials_end(assumed(monkeypatch))
    assert end is not None
    assert end.at is None


@pytest.mark.parametrize("base", [KEYS, f"{ROLE}\nsource_profile = default", "sso_session = s"])
def test_a_role_of_credentials_that_are_renewed_does_not_end(
    profile: WithProfile, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    profile(f"{ROLE}\nsource_profile = base\n[profile base]\n{base}")
    assert credentials_end(assumed(monkeypatch)) is None


def test_expired_variables_end_a_running_command_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    for name, value in {**keys, "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CloudError) as caught:
        refresh_credentials(boto3.Session())
    assert "have expired" in caught.value.hint
