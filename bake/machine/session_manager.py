"""Session Manager: SSH to a machine without a public address, through AWS's API.

AWS Systems Manager User Guide, "Allow and control permissions for SSH connections through Session
Manager": the AWS CLI starts a session with the document AWS-StartSSHSession, and its plugin carries
the bytes. An agent must run on the machine (Ubuntu's images contain it, Debian's do not). It needs
the permissions of AmazonSSMManagedInstanceCore and must be able to reach Systems Manager.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from bake.errors import ConnectError, RequestError

SSM = "ssm"
_PROGRAMS = {
    "aws": "the AWS CLI: https://aws.amazon.com/cli/",
    "session-manager-plugin": "the plugin of the AWS CLI: https://docs.aws.amazon.com/"
    "systems-manager/latest/userguide/session-manager-working-with-install-plugin.html",
}
HINT = (
    "Session Manager needs its agent on the machine: the image must contain the agent (Debian's "
    "images do not), the machine needs an --instance-profile with AmazonSSMManagedInstanceCore, "
    "and its subnet a route to AWS (a NAT gateway, or endpoints for ssm, ssmmessages and "
    "ec2messages)"
)


def check_via(via: str | None = SSM) -> None:
    """Raise RequestError when `via` is not "ssm", or a required program is not installed here."""
    if via != SSM:
        raise RequestError(
            f"Invalid --via {via}",
            hint="--via ssm uses Session Manager; without --via, the machine's own address is used",
        )
    if missing := missing_programs():
        raise RequestError(
            f"Session Manager needs {' and '.join(missing)} on this computer",
            hint="Install " + ", and ".join(_PROGRAMS[name] for name in missing),
        )


def missing_programs() -> list[str]:
    """Return the names of the programs that Session Manager needs here and that are missing."""
    return [name for name in _PROGRAMS if shutil.which(name) is None]


@contextmanager
def hint_on_failure(proxied: bool) -> Iterator[None]:
    """Add a hint to a ConnectError of the block, if `proxied` is True.

    AWS does not report which of the requirements is missing.
    """
    try:
        yield
    except ConnectError as error:
        if proxied:
            error.hint = HINT
        raise


def proxy_command(region: str) -> tuple[str, ...]:
    """Return the arguments of the ProxyCommand: %h is the instance's id, %p its SSH port.

    Region, profile and endpoint are included, because an editor may lack this environment.
    """
    arguments = ["aws", "ssm", "start-session", "--region", region]
    # Keys in the environment override AWS_PROFILE, but not --profile.
    if os.environ.get("AWS_PROFILE") and not os.environ.get("AWS_ACCESS_KEY_ID"):
        arguments += ["--profile", os.environ["AWS_PROFILE"]]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_SSM") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        arguments += ["--endpoint-url", endpoint]
    arguments = [word.replace("%", "%%") for word in arguments]
    return (
        *arguments,
        *("--target", "%h", "--document-name", "AWS-StartSSHSession"),
        *("--parameters", "portNumber=%p"),
    )


def shell_line(arguments: tuple[str, ...]) -> str:
    """Return the ProxyCommand as a line of shell, in which ssh still replaces %h, %p and %%."""
    return shlex.join(arguments)


def fill_in(arguments: tuple[str, ...], address: str, port: int) -> tuple[str, ...]:
    """Replace %h, %p and %% in the arguments, as ssh does."""
    return tuple(
        "%".join(part.replace("%h", address).replace("%p", str(port)) for part in word.split("%%"))
        for word in arguments
    )
