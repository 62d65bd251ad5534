"""Whether a machine is what was asked for: its GPUs, what is installed, what it computes."""

from bake.verify.check import Check
from bake.verify.clean import check_clean, find_secrets
from bake.verify.expectation import Expectation, accepted, expect
from bake.verify.proof import Proof, prove

__all__ = [
    "Check",
    "Expectation",
    "Proof",
    "accepted",
    "check_clean",
    "expect",
    "find_secrets",
    "prove",
]
