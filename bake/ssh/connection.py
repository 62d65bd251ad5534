"""An SSH connection to one machine. Only the machine's known host key is accepted.

A broken connection is made again when the next command or file needs it.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import fabric
import paramiko
import tenacity

from bake import threads
from bake.errors import ConnectError, RemoteError, RequestError
from bake.ssh.boot_id import with_boot_id
from bake.ssh.command import BROKEN, SLICE_S, OverdueError, RemoteCommand, slice_s
from bake.ssh.endpoint import Endpoint, reason
from bake.ssh.sessions import Sessions

# sshd may answer some seconds before cloud-init has installed the key, and pam_nologin refuses
# logins while the machine boots.
REFUSED_FOR_S = 60.0
_ATTEMPT_S = 10.0
# With a proxy, each attempt starts a program and calls a server that may limit the rate of calls.
_PROXY_ATTEMPT_S, _PROXY_PAUSE_S = 30.0, 2.0
# A shorter attempt would end before a proxy like the AWS CLI can report why it fails.
_LEAST_ATTEMPT_S, _LEAST_PROXY_ATTEMPT_S = 1.0, 5.0
_PAUSE_S = 0.2  # before a session that sshd refused is requested again
_SHOWN_LINES = 20


@dataclass(frozen=True)
class CommandResult:
    """The output of a command and its exit status; -1 when a signal ended it.

    Bytes that are not UTF-8 are replaced.
    """

    stdout: str
    stderr: str
    exit_status: int


def connect(
    host: str,
    *,
    port: int,
    user: str,
    private_key: str,
    host_key: str,
    timeout_s: float,
    on_wait: Callable[[str], None] | None = None,
    silence_s: float = 30.0,
    proxy: Sequence[str] = (),
) -> Connection:
    """Wait until the machine accepts a login over SSH, and return the connection.

    Only `host_key` (OpenSSH's public format, ed25519) is accepted: any other key raises
    HostKeyError at once. A refused login is retried for REFUSED_FOR_S, any other failure until
    `timeout_s` is over; then ConnectError with the last reason is raised. `on_wait` gets the
    reason after each failed attempt. Raises Cancelled between two attempts when this thread's
    work is called off.

    The connection is closed when the machine sends nothing for `silence_s`. The SSH agent, key
    files and SSH configuration of this computer are not used. `proxy` is a program whose stdin and
    stdout carry the connection, as with ssh's ProxyCommand.
    """
    endpoint = Endpoint(
        host,
        port,
        user,
        login_key=_login_key(private_key),
        host_key=paramiko.Ed25519Key(data=b64decode(host_key.split()[1])),
        silence_s=silence_s,
        proxy=tuple(proxy),
    )
    connection = Connection(endpoint, timeout_s)
    connection.reconnect(on_wait=on_wait)
    return connection


class Connection:
    """An SSH connection that several threads may use at the same time. Made by `connect`.

    If the connection is known to be broken, the next command or file first makes a new one. A
    command that was running when the connection broke raises ConnectError, because only the
    caller knows whether it may be repeated.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self.user, self.port = endpoint.user, endpoint.port
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._fabric: fabric.Connection | None = None
        self._sessions = Sessions()
        self._boot_id = ""
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self._endpoint)

    @property
    def alive(self) -> bool:
        """False if the connection is known to be broken or closed."""
        opened = self._fabric  # another thread may close it at any time
        return opened is not None and opened.is_connected

    def boot_id(self) -> str:
        """Return the id of the boot that this connection belongs to.

        It is read once. After an intended reboot, `expect_boot` sets the new id.
        """
        self._boot_id = self._boot_id or self.run(with_boot_id("boot_id")).stdout.strip()
        return self._boot_id

    def expect_boot(self, boot_id: str) -> None:
        """Set the boot id after a reboot that was intended."""
        self._boot_id = boot_id

    def as_root(self, *command: str) -> str:
        """Return a line of shell that runs `command` as root, with sudo unless root is logged in.

        sudo fails if it needs a password.
        """
        sudo = [] if self.user == "root" else ["sudo", "-n"]
        return shlex.join([*sudo, *command])

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Run a line of shell as the login user, without a terminal.

        Raises RemoteError when the exit status is not 0 (unless `check` is False) or when
        `timeout_s` is over. Raises ConnectError when the connection breaks: whether the command
        has run is then unknown.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        stdout, stderr = bytearray(), bytearray()
        try:
            with self.start(command, data, deadline=deadline) as running:
                for out, err in running.chunks(deadline=deadline):
                    stdout += out
                    stderr += err
                status = running.exit_status(deadline=deadline)
        except OverdueError:
            raise RemoteError(
                f"a command did not end within {timeout_s:g} s: {command}",
                details=_last_lines(stdout, stderr),
            ) from None
        if check and status != 0:
            ended = "was ended by a signal" if status == -1 else f"ended with status {status}"
            raise RemoteError(
                f"a command {ended}: {command}",
                details=_last_lines(stdout, stderr),
            )
        return CommandResult(
            stdout.decode(errors="replace"), stderr.decode(errors="replace"), status
        )

    def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        """Write a file as the login user, in one step and with no more permissions than `mode`.

        When it fails, an existing file stays as it was.
        """
        target, size = shlex.quote(path), len(data)
        # The size is compared, because the machine sees a broken connection as an end of file.
        self.run(
            f"new=$(mktemp -- {target}.XXXXXX) && {{ "
            f'head -c {size} >"$new" && test "$(wc -c <"$new")" -eq {size} '
            f'&& chmod {mode:o} "$new" && mv -f -T -- "$new" {target} '
            '|| { rm -f -- "$new"; false; }; }',
            stdin=data,
        )

    def start(
        self,
        command: str,
        stdin: bytes = b"",
        *,
        hold_stdin: bool = False,
        deadline: float | None = None,
    ) -> RemoteCommand:
        """Start a command, which the caller reads and closes.

        Waits while too many sessions are open on this connection; OverdueError when `deadline`
        (of time.monotonic) passes meanwhile. `hold_stdin` leaves stdin open for more input: it is
        for a command that ends only on request, or after a long time.
        """
        channel, give_back = self._open_session(lasting=hold_stdin, deadline=deadline)
        return RemoteCommand(channel, command, stdin, hold_stdin=hold_stdin, on_close=give_back)

    def _open_session(
        self, *, lasting: bool, deadline: float | None
    ) -> tuple[paramiko.Channel, Callable[[], None]]:
        """Wait for a free session, open it, and return its channel and a function to release it.

        An abandoned command occupies its session in sshd until it ends, so sshd may refuse a
        session that is free on this side. The request is then retried for a while.
        """
        began = time.monotonic()
        while True:
            threads.check()
            self.reconnect()
            sessions = self._sessions
            give_back = sessions.take(lasting=lasting, timeout_s=slice_s(deadline))
            if give_back is None:
                continue
            try:
                return self._open_channel("session"), give_back
            except ConnectError:
                give_back()
                if not self.alive or time.monotonic() - began > self._endpoint.silence_s:
                    raise
                threads.pause(_PAUSE_S)
            except BaseException:
                give_back()
                raise

    def open_tunnel(self, port: int) -> paramiko.Channel:
        """Open a channel to a port of the machine itself. A broken connection stays broken."""
        return self._open_channel("direct-tcpip", ("127.0.0.1", port))

    def _open_channel(
        self, kind: str, destination: tuple[str, int] | None = None
    ) -> paramiko.Channel:
        opened = self._fabric  # another thread may close it at any time
        if opened is None:
            raise ConnectError(f"the connection to {self} was closed")
        source = None if destination is None else ("127.0.0.1", 0)
        try:
            return opened.transport.open_channel(
                kind, destination, source, timeout=self._endpoint.silence_s
            )
        except BROKEN as error:
            raise ConnectError(f"{self} did not open a channel: {reason(error)}") from error

    def reconnect(
        self,
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """Make a new connection if the last one is broken. Raises the same errors as `connect`."""
        with self._exclusive():
            if self.alive:
                return
            self._close()
            opened = self._wait_until_open(
                self._timeout_s if timeout_s is None else timeout_s, on_wait
            )
            self._sessions = Sessions()
            self._fabric = opened

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock without which no thread may make or close the connection.

        Another thread may hold it for minutes while it waits for the machine.
        """
        while not self._lock.acquire(timeout=SLICE_S):
            threads.check()
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; when this returns, the program of a proxy has ended."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._fabric is None:
            return
        transport = self._fabric.transport
        # Not Fabric's close, which does nothing for a connection that the other side ended.
        self._fabric.client.close()
        # Paramiko's close returns at once for a transport that has ended by itself, while its
        # thread may still be closing the socket, and with it the program of a proxy.
        if transport is not None:
            transport.sock.close()
        self._fabric = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_until_open(
        self, timeout_s: float, on_wait: Callable[[str], None] | None
    ) -> fabric.Connection:
        began = time.monotonic()
        refused_at: float | None = None

        def timeout_error(error: BaseException) -> ConnectError:
            waited_s = time.monotonic() - began
            return ConnectError(
                f"No SSH connection to {self} after {waited_s:.0f} s: {reason(error)}",
                hint="The machine's console output shows how far it has booted. If it does not "
                "answer at all, a firewall or a security group may block the connection.",
            )

        def attempt() -> fabric.Connection:
            nonlocal refused_at
            threads.check()
            left_s = timeout_s - (time.monotonic() - began)
            try:
                return self._endpoint.open(_attempt_s(self._endpoint, left_s))
            except paramiko.AuthenticationException as error:
                refused_at = refused_at or time.monotonic()
                if time.monotonic() - refused_at >= REFUSED_FOR_S:
                    raise timeout_error(error) from error
                raise

        def report(state: tenacity.RetryCallState) -> None:
            if on_wait is not None and state.outcome is not None:
                on_wait(reason(state.outcome.exception()))

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(BROKEN),
                stop=tenacity.stop_after_delay(timeout_s),
                wait=tenacity.wait_exponential(
                    multiplier=0.1, max=_PROXY_PAUSE_S if self._endpoint.proxy else 0.2
                ),
                sleep=threads.pause,
                before_sleep=report,
                reraise=True,
            )(attempt)
        except BROKEN as error:
            raise timeout_error(error) from error


def _attempt_s(endpoint: Endpoint, left_s: float) -> float:
    """Return how long one attempt may last; a proxy's program needs longer to connect."""
    proxied = bool(endpoint.proxy)
    longest_s = _PROXY_ATTEMPT_S if proxied else _ATTEMPT_S
    least_s = _LEAST_PROXY_ATTEMPT_S if proxied else _LEAST_ATTEMPT_S
    return min(longest_s, endpoint.silence_s, max(left_s, least_s))


def _login_key(text: str) -> paramiko.PKey:
    """Read a private key of a kind that EC2 key pairs can have."""
    kinds: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.RSAKey)
    for kind in kinds:
        with contextlib.suppress(paramiko.SSHException):
            return kind.from_private_key(io.StringIO(text))
    raise RequestError(
        "The private key is neither ed25519 nor RSA, and EC2 key pairs have no other kinds",
        hint="Give another key pair with --key, or leave out --key to use your own",
    )


def _last_lines(*streams: bytearray) -> list[str]:
    text = "\n".join(stream.decode(errors="replace") for stream in streams)
    return [line for line in text.splitlines() if line.strip()][-_SHOWN_LINES:]
