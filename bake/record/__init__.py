"""What is in an image, and how it came to be."""

from bake.record.installed import Installed, Wheel
from bake.record.inventory import Inventory, inventory
from bake.record.record import (
    CheckRecord,
    Failure,
    Record,
    StageRecord,
    read,
    read_failure,
)
from bake.record.timeline import MachineRecord, StepRecord, Timeline

__all__ = [
    "CheckRecord",
    "Failure",
    "Installed",
    "Inventory",
    "MachineRecord",
    "Record",
    "StageRecord",
    "StepRecord",
    "Timeline",
    "Wheel",
    "inventory",
    "read",
    "read_failure",
]
