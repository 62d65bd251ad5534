"""Checks that a machine is as its recipe promises, and the inventory of its software."""

from bake.verify.check import Check
from bake.verify.clean import check_clean, find_secrets
from bake.verify.expectation import Expectation, accepted, expect
from bake.verify.inventory import read_inventory
from bake.verify.proof import Proof, prove
from bake.verify.scripted import CheckScript

__all__ = [
    "Check",
    "CheckScript",
    "Expectation",
    "Proof",
    "accepted",
    "check_clean",
    "expect",
    "find_secrets",
    "prove",
    "read_inventory",
]
