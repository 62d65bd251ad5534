"""What is in an image, and how it came to be."""

from bake.record.installed import Installed, Wheel
from bake.record.inventory import Inventory, inventory
from bake.record.record import CheckRecord, Record, StageRecord, read

__all__ = [
    "CheckRecord",
    "Installed",
    "Inventory",
    "Record",
    "StageRecord",
    "Wheel",
    "inventory",
    "read",
]
