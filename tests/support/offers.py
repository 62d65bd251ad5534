"""Offers of GPU machines."""

from __future__ import annotations

from bake import catalog
from bake.aws.placement import Market
from bake.machine.gpus import (
    Offer,
    cuda_versions,
)

CATALOG = catalog.load()
TYPES = CATALOG.instance_types


# ---- order


def offer(
    name: str, on_demand: float | None = None, spot: float | None = None, left: int | None = 0
) -> Offer:
    machine = TYPES[name]
    limits: dict[Market, int | None] = {"on-demand": left, "spot": left}
    prices = {} if spot is None else {"us-east-1a": spot, "us-east-1b": spot + 1}
    return Offer(
        machine, cuda_versions(CATALOG, machine), ("us-east-1a",), limits, on_demand, prices
    )
