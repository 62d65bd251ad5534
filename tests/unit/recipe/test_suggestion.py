"""Hints for a recipe that cannot work name the nearest part that can."""

from __future__ import annotations

from bake import catalog
from bake.recipe.suggestion import (
    alternatives,
    suggest,
    suggest_cuda,
    suggest_driver,
    suggest_machine,
)

FACTS = catalog.load()


def test_alternatives_become_one_sentence_without_the_empty_ones() -> None:
    assert (
        alternatives("", "use CUDA 11.0", [], "use a g4dn (T4)")
        == "Use CUDA 11.0, or use a g4dn (T4)"
    )
    assert alternatives("", []) == ""
    assert suggest(["ubuntu-18.04", "debian-12"]) == "use ubuntu-18.04 or debian-12"
    assert suggest([]) == ""


def test_the_nearest_cuda_release_is_suggested() -> None:
    known = FACTS.cuda
    far_and_near = (known["12.6"], known["10.2"], known["11.8"])
    assert suggest_cuda(known["10.1"], far_and_near) == "use CUDA 10.2"
    assert suggest_cuda(known["12.8"], far_and_near) == "use CUDA 12.6"
    assert suggest_cuda(known["10.1"], ()) == ""


def test_the_driver_of_the_nearest_branch_is_suggested() -> None:
    drivers = [driver for driver in FACTS.drivers if driver.os == "ubuntu-18.04"]
    assert suggest_driver("471", drivers) == "use branch 470 with proprietary modules"
    assert suggest_driver("470", ()) == ""


def test_the_first_whole_machine_in_use_whose_gpu_suits_is_suggested() -> None:
    assert suggest_machine(FACTS, lambda gpu: gpu.name == "T4") == "use a g4dn (T4)"
    assert (
        suggest_machine(FACTS, lambda gpu: gpu.name == "K80") == ""
    )  # only retired machines have it
    assert suggest_machine(FACTS, lambda gpu: gpu.name == "T4G") == ""  # arm64
    assert suggest_machine(FACTS, lambda gpu: False) == ""
