"""A proxy on loopback that breaks connections on purpose: now, or after a number of bytes."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    import paramiko

    from bake.ssh.connection import Connection

T = TypeVar("T")

# How it can be broken. "Stall": bytes are taken and go nowhere, for good, and both ends stay open.
# "Freeze": they are not even taken. "Pause": nothing goes on for PAUSE_S, then all of it does; that
# is no break, and may not become one. "Garble", "lose": a bit is another one, a byte is missing.
CUTS = (
    "drop",
    "reset",
    "freeze",
    "stall",
    "stall towards the client",
    "stall towards the machine",
    "half-close towards the client",
    "half-close towards the machine",
    "pause",
    "garble",
    "lose",
)
PAUSE_S = 0.3
# What each side says before all is sealed. A bit of that which changes may be one of the host key.
_UNSEALED_B = 4096


class Proxy:
    """A proxy to a port, which cuts connections in the ways of CUTS.

    `done` lists the cuts so far, `connections` counts them all; `refuse` closes new ones.
    """

    def __init__(self, target: int, *, host: str = "127.0.0.1", seed: int = 0) -> None:
        self.target = target
        self.host = host
        self.refuse = False
        self.connections = 0
        self.done: list[str] = []
        self.chance = random.Random(seed)
        self.wires: list[_Wire] = []
        self._armed: tuple[str, int] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._do(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def cuts(self) -> int:
        return len(self.done)

    def cut(self, how: str) -> bool:
        """Cut the open connections. Return False if none is open."""

        async def cut() -> bool:
            whole = [wire for wire in self.wires if wire.whole]
            for wire in whole:
                wire.cut(how)
            return bool(whole)

        return self._do(cut())

    def arm(self, how: str, after_bytes: int) -> None:
        """Cut the connection that carries this byte, counted from now over all connections."""

        async def arm() -> None:
            self._armed = (how, after_bytes)

        self._do(arm())

    def comes_within(self, size: int) -> int | None:
        """Return after how many of these bytes the armed cut comes, or None if later."""
        if self._armed is None:
            return None
        how, left = self._armed
        if left > size:
            self._armed = (how, left - size)
            return None
        return left

    def strike(self, wire: _Wire) -> None:
        assert self._armed is not None
        how, _ = self._armed
        self._armed = None
        wire.cut(how)

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(lambda: _Wire(self).client, "127.0.0.1", 0)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            for wire in self.wires:
                wire.abort()
            await asyncio.sleep(0.01)  # the transports end in the loop's next round

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Wire:
    """A connection through the proxy, with its two ends."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.broken = False
        self.client, self.machine = _End(self), _End(self)
        self.client.other, self.machine.other = self.machine, self.client

    @property
    def joined(self) -> bool:
        return self.client.made and self.machine.made

    @property
    def whole(self) -> bool:
        ended = self.client.has_ended or self.machine.has_ended
        return self.joined and not ended and not self.broken

    def begin(self) -> None:
        """Connect to the machine when the client has connected."""
        if self.proxy.refuse:
            self.client.transport.abort()
            return
        self.proxy.wires.append(self)
        self.client.fault = "pause"
        loop = asyncio.get_running_loop()
        self._leading = loop.create_task(self._lead_on(loop))

    async def _lead_on(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await loop.create_connection(lambda: self.machine, self.proxy.host, self.proxy.target)
        except OSError:
            self.abort()
        else:
            self.proxy.connections += 1
            self.client.go_on()

    def cut(self, how: str) -> None:
        ends = {"client": self.client, "machine": self.machine}
        match how.split():
            case ["drop"]:
                for end in ends.values():
                    end.close()
            case ["reset"]:
                self.abort()
            case ["freeze"]:
                for end in ends.values():
                    end.freeze()
            case ["stall", *way]:
                for name, end in ends.items():
                    if not way or way[-1] != name:
                        end.fault = "stall"
            case ["half-close", *_, name]:
                ends[name].tell_end()
            case ["pause"]:
                for end in ends.values():
                    if not end.fault:
                        end.fault = "pause"
                        asyncio.get_running_loop().call_later(PAUSE_S, end.go_on)
            case _:
                if sound := [end for end in ends.values() if not end.fault]:
                    self.proxy.chance.choice(sound).fault = how
                return  # it is done when there is something to spoil
        self.broken = self.broken or how != "pause"
        self.proxy.done.append(how)

    def abort(self) -> None:
        for end in (self.client, self.machine):
            end.abort()


class _End(asyncio.Protocol):
    """One end of a wire: it passes data to the other end, as far as its fault permits."""

    other: _End
    transport: asyncio.Transport

    def __init__(self, wire: _Wire) -> None:
        self.fault = ""
        self._wire = wire
        self._held = b""
        self._said = 0
        self.has_ended = self._was_told = self.made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.made = transport, True
        if self is self._wire.client:
            self._wire.begin()

    def data_received(self, data: bytes) -> None:
        at = self._wire.proxy.comes_within(len(data)) if self._wire.whole else None
        self._pass_on(data[:at])
        if at is not None:
            self._wire.proxy.strike(self._wire)
            self._pass_on(data[at:])

    def eof_received(self) -> bool:
        self.has_ended = True
        if self.fault not in ("pause", "stall"):
            self.other.tell_end()
        return True  # the other way stays open

    def connection_lost(self, error: Exception | None) -> None:
        self.has_ended = True
        if self.fault != "stall":
            (self.other.abort if error else self.other.close)()

    def _pass_on(self, data: bytes) -> None:
        if self.fault == "pause":
            self._held += data
        elif data and self.fault != "stall":
            if self.fault and self._said > _UNSEALED_B:
                data = self._spoilt(data)
            self._said += len(data)
            self.other.hear(data)

    def _spoilt(self, data: bytes) -> bytes:
        proxy = self._wire.proxy
        how, self.fault = self.fault, ""
        proxy.done.append(how)
        self._wire.broken = True
        at = proxy.chance.randrange(len(data))
        instead = b"" if how == "lose" else bytes([data[at] ^ 1 << proxy.chance.randrange(8)])
        return data[:at] + instead + data[at + 1 :]

    def go_on(self) -> None:
        """Continue after a pause."""
        if self.fault == "pause":
            self.fault = ""
            held, self._held = self._held, b""
            self._pass_on(held)
            if self.has_ended:
                self.other.tell_end()

    def freeze(self) -> None:
        self.fault = "stall"
        if self.made and not self.transport.is_closing():
            self.transport.pause_reading()

    def hear(self, data: bytes) -> None:
        if self.made and not self._was_told and not self.transport.is_closing():
            self.transport.write(data)

    def tell_end(self) -> None:
        if self.made and not self._was_told and not self.transport.is_closing():
            self._was_told = True
            self.transport.write_eof()

    def close(self) -> None:
        if self.made:
            self.transport.close()

    def abort(self) -> None:
        """Close with a reset, so that no data stays in buffers."""
        if self.made and not self.transport.is_closing():
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


def break_at_next_tunnel(monkeypatch: pytest.MonkeyPatch, ssh: Connection, way: Proxy) -> None:
    """Let the connection, which goes through the proxy, break as its next tunnel is opened."""
    open_tunnel = ssh.open_tunnel

    def open_on_a_connection_that_breaks(port: int) -> paramiko.Channel:
        monkeypatch.setattr(ssh, "open_tunnel", open_tunnel)
        way.cut("drop")
        while ssh.alive:
            time.sleep(0.01)
        return open_tunnel(port)

    monkeypatch.setattr(ssh, "open_tunnel", open_on_a_connection_that_breaks)
