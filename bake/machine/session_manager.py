"""Session Manager: SSH to a machine that nobody can reach, through AWS's API and its own agent.

AWS Systems Manager User Guide, "Allow and control permissions for SSH connections through Session
Manager": the AWS CLI starts a session with the document AWS-StartSSHSession, and its plugin carries
the bytes. On the machine the agent has to run (Ubuntu's images have it, Debian's do not), may do
what AmazonSSMManagedInstanceCore allows, and has to reach Systems Manager itself.
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
# Of what there is to do when it is not reached so.
HINT = (
    "Session Manager has to reach the machine's agent: the image has to have it (Debian's have "
    "not), the machine needs an --instance-profile with AmazonSSMManagedInstanceCore, and its "
    "subnet a way out (a NAT gateway, or endpoints for ssm, ssmmessages and ec2messages)"
)


def check_via(via: str | None = SSM) -> None:
    """RequestError when one of the programs is missing that have to be on this computer.

    Also for another word than "ssm".
    """
    if via != SSM:
        raise RequestError(
            f"There is no way {via} to a machine",
            hint="--via ssm is by Session Manager; without it, it is by the machine's own address",
        )
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        raise RequestError(
            f"Session Manager needs {' and '.join(missing)} on this computer",
            hint="Install " + ", and ".join(_PROGRAMS[name] for name in missing),
        )


@contextmanager
def hint_on_failure(proxied: bool) -> Iterator[None]:
    """A machine that is not reached so may lack any of three things, and AWS does not say which."""
    try:
        yield
    except ConnectError as error:
        if proxied:
            error.hint = HINT
        raise


def proxy_command(region: str) -> tuple[str, ...]:
    """The words of the ProxyCommand: %h is the instance's id, %p its SSH port.

    The region, a profile and an endpoint are said, since an editor may not have our environment.
    """
    words = ["aws", "ssm", "start-session", "--region", region]
    # Keys in the environment come before a profile that is named there, and after one that is said.
    if os.environ.get("AWS_PROFILE") and not os.environ.get("AWS_ACCESS_KEY_ID"):
        words += ["--profile", os.environ["AWS_PROFILE"]]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_SSM") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        words += ["--endpoint-url", endpoint]
    words = [word.replace("%", "%%") for word in words]
    return (
        *words,
        *("--target", "%h", "--document-name", "AWS-StartSSHSession"),
        *("--parameters", "portNumber=%p"),
    )


def shell_line(words: tuple[str, ...]) -> str:
    """For ssh, which gives it to the user's shell when it has filled in what begins with %."""
    return shlex.join(words)


def fill_in(words: tuple[str, ...], address: str, port: int) -> tuple[str, ...]:
    """As ssh fills them in."""
    return tuple(
        "%".join(part.replace("%h", address).replace("%p", str(port)) for part in word.split("%%"))
        for word in words
    )
