"""An SSH connection to one machine: its host key known beforehand, its end not the end."""

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
from bake.ssh.command import BROKEN, SLICE_S, OverdueError, RemoteCommand
from bake.ssh.endpoint import Endpoint, reason

# cloud-init may bring the key some seconds after sshd answers; pam_nologin refuses while booting.
REFUSED_FOR_S = 60.0
_ATTEMPT_S = 10.0
# A proxy is a program to be started, and a call to its server, which may count them.
_PROXY_ATTEMPT_S, _PROXY_PAUSE_S = 30.0, 2.0
_SHOWN_LINES = 20


@dataclass(frozen=True)
class CommandResult:
    """What a command said, and its status; what is not UTF-8 is replaced, a signal is -1."""

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
    """Wait until SSH answers, and accept `host_key` (OpenSSH's public format, ed25519) alone.

    HostKeyError at once for another key. A refused login is tried again for REFUSED_FOR_S, all
    else until `timeout_s` is over; then ConnectError with the last reason, which `on_wait` is
    told after each try. Cancelled, between two tries, when this thread's work is called off.
    A connection that gives no sign of life for `silence_s` is closed. No agent, no key file
    and no SSH configuration of this computer is looked at. `proxy`: a program whose stdin and
    stdout are the connection, as with ssh's ProxyCommand.
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
    """An SSH connection that several threads may use at once. Made by `connect`.

    What starts anew on a connection known to be broken (a command, a file) first makes a new one;
    what was under way when it broke raises ConnectError: only the caller knows what that means.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self.user = endpoint.user
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._fabric: fabric.Connection | None = None
        self._boot_id = ""
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self._endpoint)

    @property
    def alive(self) -> bool:
        """Whether the connection is not known to be broken."""
        return self._fabric is not None and self._fabric.is_connected

    def boot_id(self) -> str:
        """The kernel's id of the boot at which this was first asked: a connection is to one boot.

        After a reboot the machine has another, which this does not tell. See `rebooted`.
        """
        self._boot_id = (
            self._boot_id or self.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
        )
        return self._boot_id

    def rebooted(self, boot_id: str) -> None:
        """It was meant to be, and this is its boot now."""
        self._boot_id = boot_id

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Run a line of shell as the login user, without a terminal.

        RemoteError for a status other than 0 (unless `check` is False) and when `timeout_s` is
        over, ConnectError when the connection breaks: the command may or may not have run.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        stdout, stderr = bytearray(), bytearray()
        with self.start(command, data) as running:
            try:
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
        """Write a file as the login user: whole or not at all, and never more open than `mode`."""
        target, size = shlex.quote(path), len(data)
        # The size is compared because a broken connection is just an end of file over there.
        self.run(
            f"new=$(mktemp -- {target}.XXXXXX) && {{ "
            f'head -c {size} >"$new" && test "$(wc -c <"$new")" -eq {size} '
            f'&& chmod {mode:o} "$new" && mv -f -T -- "$new" {target} '
            '|| { rm -f -- "$new"; false; }; }',
            stdin=data,
        )

    def start(self, command: str, stdin: bytes = b"", *, hold_stdin: bool = False) -> RemoteCommand:
        """Start a command and follow it oneself; `hold_stdin` leaves its stdin open for more."""
        return RemoteCommand(self.open_channel("session"), command, stdin, hold_stdin=hold_stdin)

    def open_channel(
        self, kind: str, destination: tuple[str, int] | None = None
    ) -> paramiko.Channel:
        """A channel, on a new connection if need be: "session", or "direct-tcpip" to a port."""
        self.reconnect()
        opened = self._fabric  # another thread may close it at any time
        if opened is None:
            raise ConnectError(f"the connection to {self} was closed")
        source = None if destination is None else ("127.0.0.1", 0)
        try:
            return opened.transport.open_channel(
                kind, destination, source, timeout=self._endpoint.silence_s
            )
        except BROKEN as error:
            raise ConnectError(f"{self} opened no channel: {reason(error)}") from error

    def reconnect(
        self,
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """Make a new connection where the last one is broken. Raises like `connect`."""
        with self._turn():
            if self.alive:
                return
            self._close()
            self._fabric = self._wait_until_open(
                self._timeout_s if timeout_s is None else timeout_s, on_wait
            )

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Another thread may be waiting for the machine, for minutes."""
        while not self._lock.acquire(timeout=SLICE_S):
            threads.check()
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._fabric is not None:
            # Not Fabric's close, which does nothing for a connection that the other side ended.
            self._fabric.client.close()
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

        def given_up(error: BaseException) -> ConnectError:
            waited_s = time.monotonic() - began
            return ConnectError(
                f"no SSH connection to {self} after {waited_s:.0f} s: {reason(error)}",
                hint="The machine's console output says how far it came; a firewall or security "
                "group between here and there shows as no answer at all.",
            )

        def attempt() -> fabric.Connection:
            nonlocal refused_at
            threads.check()
            left_s = timeout_s - (time.monotonic() - began)
            attempt_s = _PROXY_ATTEMPT_S if self._endpoint.proxy else _ATTEMPT_S
            try:
                return self._endpoint.open(
                    min(attempt_s, self._endpoint.silence_s, max(left_s, 1.0))
                )
            except paramiko.AuthenticationException as error:
                refused_at = refused_at or time.monotonic()
                if time.monotonic() - refused_at >= REFUSED_FOR_S:
                    raise given_up(error) from error
                raise

        def tell(state: tenacity.RetryCallState) -> None:
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
                before_sleep=tell,
                reraise=True,
            )(attempt)
        except BROKEN as error:
            raise given_up(error) from error


def _login_key(text: str) -> paramiko.PKey:
    """Ours are ed25519; one that a person brings may be of any kind that AWS takes, or made."""
    kinds: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.RSAKey)
    for kind in kinds:
        with contextlib.suppress(paramiko.SSHException):
            return kind.from_private_key(io.StringIO(text))
    raise RequestError(
        "The private key is neither ed25519 nor RSA: AWS has no other kinds",
        hint="Give the name of another one with --key, or of a new one, which is made",
    )


def _last_lines(*streams: bytearray) -> list[str]:
    text = "\n".join(stream.decode(errors="replace") for stream in streams)
    return [line for line in text.splitlines() if line.strip()][-_SHOWN_LINES:]
