from __future__ import annotations

from types import SimpleNamespace

import pytest

from bake.ssh.connection import Connection


def test_a_connection_may_be_closed_by_another_thread_while_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = iter([SimpleNamespace(is_connected=True), None])
    monkeypatch.setattr(Connection, "_fabric", property(lambda _: next(looks)), raising=False)
    connection = Connection.__new__(Connection)
    assert connection.alive
    assert not connection.alive
