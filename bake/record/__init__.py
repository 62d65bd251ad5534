"""The record of a bake: the contents of its image, and the course of the bake."""

from bake.record.inventory import Change, Installed, Inventory, Wheel, difference
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
    "Change",
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
    "difference",
    "read",
    "read_failure",
]
