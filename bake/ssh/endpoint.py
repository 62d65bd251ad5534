"""A machine's address, login and host key, and one attempt to connect to it."""

from __future__ import annotations

import functools
import logging
import re
import socket
from dataclasses import dataclass

import fabric
import paramiko

from bake.errors import ConnectError, HostKeyError
from bake.ssh.heartbeat import Line
from bake.ssh.proxy import ProxyLine

# A booting machine does not answer at first. The kernel repeats a connection request after 1, 3 and
# 7 s (tcp(7)), so a longer timeout would notice the machine only seconds after it is ready.
_NO_ANSWER_S = 2.0
# Errors of a proxy that do not disappear with a retry.
_PERMANENT = re.compile(
    r"AccessDenied|ExpiredToken|UnrecognizedClient|Unable to locate credentials"
)

# The bytes and packets after which new keys are exchanged (RFC 4344, section 3, for ciphers with
# blocks of 16 bytes). Paramiko's default is 512 MiB, and it hangs when a channel is closed during
# an exchange.
_REKEY = (2**32 * 16, 2**31)

# Without a handler of its own, Python prints paramiko's warnings and tracebacks to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Endpoint:
    """A machine's SSH server, and the login to it.

    A connection is closed when the machine sends nothing for `silence_s`. `proxy` is a program
    whose stdin and stdout carry the connection, instead of TCP to `host`.
    """

    host: str
    port: int
    user: str
    login_key: paramiko.PKey
    host_key: paramiko.Ed25519Key
    silence_s: float
    proxy: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"

    def open(self, timeout_s: float) -> fabric.Connection:
        """Connect and log in. Only the host key is accepted.

        The SSH agent, key files and SSH configuration of this computer are not used. Raises
        HostKeyError, ConnectError if a retry would not help against the failure of a proxy, and
        paramiko's own exceptions for every other failure.
        """
        sock = self._line(timeout_s)
        opened = fabric.Connection(
            self.host,
            user=self.user,
            port=self.port,
            config=fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig()),
            connect_kwargs={
                "sock": sock,
                "pkey": self.login_key,
                "look_for_keys": False,
                "allow_agent": False,
                "timeout": timeout_s,
                "banner_timeout": timeout_s,
                "auth_timeout": timeout_s,
                "transport_factory": functools.partial(_ed25519_transport, timeout_s),
            },
        )
        # Fabric sets AutoAddPolicy, which accepts any host key at the first connection.
        opened.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        opened.client.get_host_keys().add(name, self.host_key.get_name(), self.host_key)
        try:
            opened.open()
        except BaseException as error:
            failure = self._proxy_failure(sock, error)
            opened.client.close()
            sock.close()
            if _is_host_key_refusal(error):
                raise self._host_key_error(error) from error
            if failure:
                raise failure from error
            raise
        sock.watch(opened.transport, self.silence_s)
        return opened

    def _line(self, timeout_s: float) -> Line:
        if self.proxy:
            try:
                return ProxyLine(self.proxy)
            except OSError as error:
                raise ConnectError(f"{self.proxy[0]} cannot be started: {error.strerror}") from None
        sock = Line(socket.create_connection((self.host, self.port), min(timeout_s, _NO_ANSWER_S)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _proxy_failure(self, sock: Line, error: BaseException) -> Exception | None:
        """Return the error that a proxy printed when it ended; it is more precise than `error`."""
        refused = isinstance(error, paramiko.AuthenticationException) or _is_host_key_refusal(error)
        if refused or not isinstance(sock, ProxyLine) or not (failure := sock.failure()):
            return None
        if _PERMANENT.search(failure):
            return ConnectError(f"{self.proxy[0]} cannot reach {self.host}", details=[failure])
        return OSError(0, failure)

    def _host_key_error(self, error: BaseException) -> HostKeyError:
        shown = (
            f"it showed {error.key.fingerprint}"
            if isinstance(error, paramiko.BadHostKeyException)
            else "it has no ed25519 host key"
        )
        return HostKeyError(
            f"{self.host}:{self.port} is not the machine that was started: "
            f"{shown}, the expected host key is {self.host_key.fingerprint}",
            hint="Either the address now belongs to another machine, or the machine has lost the "
            "host key that it got at its launch, or the connection is intercepted. "
            "Nothing was sent to it.",
        )


def _ed25519_transport(
    timeout_s: float, sock: socket.socket, **options: object
) -> paramiko.Transport:
    transport = paramiko.Transport(sock, **options)
    transport.handshake_timeout = timeout_s
    transport.get_security_options().key_types = ("ssh-ed25519",)
    transport.packetizer.REKEY_BYTES, transport.packetizer.REKEY_PACKETS = _REKEY
    return transport


def _is_host_key_refusal(error: BaseException) -> bool:
    return isinstance(error, paramiko.BadHostKeyException) or (
        isinstance(error, paramiko.ssh_exception.IncompatiblePeer) and "host key" in str(error)
    )


def reason(error: BaseException | None) -> str:
    """Return why an attempt failed, as a phrase for messages."""
    match error:
        case paramiko.AuthenticationException():
            return "the machine refused the login key"
        case TimeoutError():
            return "no answer"
        case EOFError():
            return "the connection was closed"
        case paramiko.SSHException() if re.search("banner|No existing session", str(error)):
            return "the port is open, but no SSH server answers"
        case OSError(strerror=str(text)):
            return text
        case _:
            return str(error)
