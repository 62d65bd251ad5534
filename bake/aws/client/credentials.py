"""The caller's credentials: loading them, and the time at which they end."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime
from getpass import GetPassWarning
from typing import Any

import boto3
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from bake.aws.client.errors import DENIED, cloud_error
from bake.errors import CloudError

# Settings of a profile that only a person can renew: a role's MFA code, and a session token.
_BY_PERSON = {"mfa_serial", "aws_session_token"}


@dataclass(frozen=True)
class CredentialsEnd:
    """The end of credentials that only a person can renew; `at` is None if AWS does not tell it."""

    at: datetime | None


def load_credentials(session: boto3.Session) -> None:
    """Load the caller's credentials for the first time. CloudError if that is not possible.

    If a role of the profile needs an MFA code, botocore requests it in the terminal.
    """
    with warnings.catch_warnings():
        # Without a terminal, getpass would read the code from stdin, and show it.
        warnings.simplefilter("error", GetPassWarning)
        refresh_credentials(session)


def refresh_credentials(session: boto3.Session) -> None:
    """Renew the caller's credentials if they end within minutes. CloudError if that fails."""
    try:
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError()
        credentials.get_frozen_credentials()
    except (ClientError, BotoCoreError) as error:
        raise _not_loaded(session, error) from None
    # The profile names programs and files. botocore lets their errors pass, of whatever class.
    except Exception as error:
        no_terminal = isinstance(error, GetPassWarning)
        raise CloudError(
            "The AWS credentials could not be loaded",
            hint=_hint(session, error),
            code="" if no_terminal else type(error).__name__,
            reason="An MFA code is needed, but it cannot be entered without a terminal"
            if no_terminal
            else str(error),
        ) from None


def credentials_end(session: boto3.Session) -> CredentialsEnd | None:
    """Return when the caller's credentials end; None if they do not, or are renewed by botocore.

    Variables with a session token are renewed by a person, and so is a session with an MFA code.
    botocore renews a role only as long as the credentials of its source profile last, whose end is
    not known here.
    """
    credentials = session.get_credentials()
    if not isinstance(credentials, RefreshableCredentials):
        return CredentialsEnd(None) if credentials and credentials.token else None
    own, *sources = _profiles(session)
    if credentials.method == "env" or "mfa_serial" in own:
        return CredentialsEnd(credentials._expiry_time)
    if credentials.method == "assume-role" and any(_BY_PERSON & set(each) for each in sources):
        return CredentialsEnd(None)
    return None


def _not_loaded(session: boto3.Session, error: ClientError | BotoCoreError) -> CloudError:
    if not isinstance(error, ClientError):
        return cloud_error(error, "sts:GetCallerIdentity")
    refused = cloud_error(error, f"sts:{error.operation_name}")
    if refused.code in DENIED:
        refused.hint = (
            f"Check role_arn, source_profile and credential_source of {_profile_name(session)}, "
            "and the trust policy of the role"
        )
    return refused


def _hint(session: boto3.Session, error: Exception) -> str:
    if isinstance(error, GetPassWarning):
        return (
            f"The role of {_profile_name(session)} needs an MFA code. Run the command in a "
            "terminal, or get a session first: aws sts get-session-token --help"
        )
    if isinstance(error, RuntimeError):
        return "The credentials have expired. Sign in again, or get a new session token"
    return (
        f"Check {_profile_name(session)} in ~/.aws/config (credential_process, "
        "web_identity_token_file) and the variables AWS_…. `aws sts get-caller-identity` tests them"
    )


def _profile_name(session: boto3.Session) -> str:
    return f"the profile {session.profile_name}"


def _profiles(session: boto3.Session) -> list[dict[str, Any]]:
    """Return the settings of the session's profile, then those of each source profile."""
    known = session._session.full_config["profiles"]
    names = [session.profile_name]
    while (source := known.get(names[-1], {}).get("source_profile")) and source not in names:
        names.append(source)
    return [known.get(name, {}) for name in names]
