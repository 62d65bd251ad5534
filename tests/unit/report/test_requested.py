"""Each part that a recipe requests is compared with what the image contains."""

from __future__ import annotations

from typing import Any

import pytest

from bake.record import CheckRecord, Inventory
from bake.record.report.requested import requested_parts
from tests.support.bakes import ASKED, CHECKS, INVENTORY, failure, record

PACKAGES = CheckRecord(part="proof", name="packages", outcome="passed", detail="", seconds=0)


def compared(run: Any) -> dict[str, str]:
    return {part.name: part.compared[1] for part in requested_parts(run)}


def changed(asked: dict[str, Any] | None = None, **inventory: Any) -> Any:
    return record(asked=ASKED | (asked or {}), inventory=INVENTORY.model_copy(update=inventory))


def test_what_is_as_requested_is_marked_the_same() -> None:
    assert compared(changed({"packages.pip": []})) == dict.fromkeys(
        ("operating system", "driver", "CUDA", "Python", "framework", "d2l"), "same"
    )


@pytest.mark.parametrize(
    ("part", "inventory", "mark"),
    [
        ("operating system", {"os": "Ubuntu 20.04.1 LTS"}, "differs"),
        ("operating system", {"os": "Debian GNU/Linux 18.04"}, "differs"),
        ("operating system", {"os": ""}, "missing"),
        ("driver", {"driver": "535.1"}, "differs"),
        ("driver", {"driver": "4701.1"}, "differs"),
        ("driver", {"driver": ""}, "not compared"),  # it is loaded only if the machine has a GPU
        ("CUDA", {"cuda": "10.10"}, "differs"),
        ("CUDA", {"cuda": ""}, "missing"),
        ("Python", {"python": "3.70"}, "differs"),
        ("framework", {"pip": {"mxnet_cu101": "1.7.0.post2"}}, "same"),
        ("framework", {"pip": {"mxnet": "1.9.1"}}, "differs"),
        ("framework", {"pip": {"mxnet-other": "1.7.0"}}, "missing"),
        ("d2l", {"pip": {}}, "missing"),
    ],
)
def test_a_difference_is_marked(part: str, inventory: dict[str, Any], mark: str) -> None:
    assert compared(changed(**inventory))[part] == mark


def test_pytorch_is_the_package_torch_of_any_build() -> None:
    asked = {"framework.name": "pytorch", "framework.version": "2.9.1"}
    assert compared(changed(asked, pip={"torch": "2.9.1+cu126"}))["framework"] == "same"


def test_a_part_that_no_stage_installs_is_not_requested() -> None:
    parts = compared(changed({"stages": ["base", "venv", "seal"], "packages.pip": []}))
    assert list(parts) == ["operating system", "Python"]


def test_a_package_has_a_row_of_its_own_and_the_proof_compares_it() -> None:
    asked = {
        "packages.apt": ["htop=3.0", "libc6", "libc6:i386"],
        "packages.conda": ["conda-forge::Zlib>=1"],
        "packages.pip": ["Wandb[media]>=0.16"],
    }
    inventory = {
        "dpkg": {"htop": "3.0", "libc6:amd64": "2.27"},
        "conda": {"zlib": "1.3"},
        "pip": {"wandb": "0.17"},
    }
    found = {part.name: part for part in requested_parts(changed(asked, **inventory))}
    assert found["apt: htop"][1:3] == ("htop=3.0", "3.0")
    assert found["apt: libc6"].found == "2.27"
    assert found["apt: libc6:i386"].compared[1] == "missing"
    assert found["conda: Zlib"].found == "1.3"
    assert found["pip: Wandb"].found == "0.17"
    assert found["pip: Wandb"].compared[1] == "not compared"
    proved = changed(asked, **inventory).model_copy(update={"checks": (*CHECKS, PACKAGES)})
    assert compared(proved)["pip: Wandb"] == "same"


def test_a_package_that_is_not_there_is_missing_unless_it_was_proved() -> None:
    assert compared(record())["pip: wandb"] == "missing"
    (part,) = requested_parts(record(checks=(PACKAGES,)))[-1:]
    assert (part.found, part.compared[1]) == ("proved without this name", "same")


def test_a_rehearsal_claims_nothing_about_versions() -> None:
    run = record(payload="stand-in", checks=(PACKAGES,), inventory=Inventory(python="3.11"))
    found = compared(run)
    assert found["Python"] == found["CUDA"] == found["framework"] == "stand-in"
    assert found["driver"] == "not compared"
    assert found["pip: wandb"] == "only its name"


def test_a_failed_bake_and_an_old_record_have_the_request_alone() -> None:
    assert {part.name: part.asked for part in requested_parts(failure())}["CUDA"] == "10.1"
    assert requested_parts(record(asked={})) == []
