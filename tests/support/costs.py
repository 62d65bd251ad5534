"""A machine, and its costs by its history."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bake.aws.machine import Machine
from bake.machine.cost import Cost, Disk, compute_cost

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
MACHINE = Machine(
    instance_id="i-0123456789abcdef0",
    name="mine",
    state="running",
    instance_type="g4dn.xlarge",
    zone="us-east-1a",
    market="on-demand",
    address="203.0.113.5",
    launched_at=NOW - timedelta(hours=3),
    image_id="ami-0123456789abcdef0",
    key_name="key",
    reason_code="",
    reason="",
    tags={},
)
DISKS = [Disk("gp3", 64), Disk("gp3", 8)]
RATES = {"gp3": 0.08}


def of(usd: float | None = 0.526, disks: Any = DISKS, **more: Any) -> Cost:
    return compute_cost(replace(MACHINE, **more), NOW, usd, disks, RATES.get)
