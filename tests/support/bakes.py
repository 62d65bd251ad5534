"""Records of bakes, for pages: as on AWS, and with hostile texts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

from bake.record import (
    CheckRecord,
    Failure,
    Installed,
    Inventory,
    MachineRecord,
    Record,
    StageRecord,
    StepRecord,
    Wheel,
)

BEGAN = datetime(2026, 11, 21, 4, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def step(kind: str, name: str, began: float, ended: float, **more: Any) -> StepRecord:
    values = {"machine": 1, "began_at": at(began), "ended_at": at(ended), **more}
    return StepRecord.model_validate({"kind": kind, "name": name, **values})


STEPS = (
    step("start", "Builder", 4, 71, detail="i-0a1b2c3d4e5f60718"),
    step("checkpoint", "Checkpoint", 402, 409, detail="snap-0c0ffee0000000001"),
    step("stage", "drivers", 71, 402, wave=1),
    step("stage", "conda", 72, 154, wave=1),
    step("stage", "cuda", 409, 777, wave=2),
    step("stage", "mxnet", 409, 655, wave=2),
    step("stage", "d2l", 655, 801, wave=2),
    step("proof", "Proof", 801, 849, detail="gpu: 14 passed"),
    step("inventory", "Inventory", 849, 852),
    step("stage", "seal", 852, 859, wave=3),
    step("clean", "Leftover check", 859, 877),
    step("image", "Image", 877, 1420, detail="ami-0123456789abcdef0"),
)
MACHINE = MachineRecord(
    instance_id="i-0a1b2c3d4e5f60718",
    instance_type="g4dn.xlarge",
    zone="us-west-2a",
    market="on-demand",
    checkpoint="snap-0badcafe000000001",
    usd_per_hour=0.526,
    began_at=at(17),
)
INVENTORY = Inventory(
    os="Ubuntu 18.04.6 LTS",
    kernel="5.4.0-1103-aws",
    driver="470.256.02",
    cuda="10.1",
    python="3.7.16",
    dpkg={f"package-{number}": f"{number}.0-1ubuntu1" for number in range(240)}
    | {"bash": "4.4.18-2ubuntu1.3", "cuda-toolkit-10-1": "10.1.243-1"},
    pip={"mxnet-cu101": "1.7.0", "d2l": "0.17.0", "numpy": "1.18.5", "Jinja2": "3.1.6"},
    conda={"python": "3.7.16", "openssl": "1.1.1w"},
    stages={
        "cuda": Installed(apt={"cuda-toolkit-10-1": "10.1.243-1"}),
        "conda": Installed(
            conda={"linux-64/python-3.7.16-hf27a42d_0_cpython.conda": "a" * 64},
            files={"Miniconda3-py310_24.9.2-0-Linux-x86_64.sh": "b" * 64},
        ),
        "mxnet": Installed(
            pip={"mxnet-cu101": Wheel(version="1.7.0", sha256="c" * 64, file="mxnet.whl")}
        ),
    },
)
CHECKS = tuple(
    CheckRecord.model_validate(
        {"part": part, "name": name, "outcome": outcome, "detail": detail, "seconds": 0.1}
    )
    for part, name, outcome, detail in (
        ("proof", "GPU present", "passed", "1 × Tesla T4"),
        ("proof", "nvcc", "passed", "release 10.1"),
        ("proof", "persistence mode", "skipped", "the daemon runs on the host of this container"),
        ("leftovers", "credentials", "passed", "none found"),
        ("leftovers", "traces of the builder", "skipped", "no traces are known"),
    )
)
ASKED = {
    "base": "ubuntu-18.04",
    "driver.branch": "470",
    "driver.modules": "proprietary",
    "cuda.version": "10.1",
    "python.manager": "miniconda",
    "python.version": "3.7",
    "framework.name": "mxnet",
    "framework.version": "1.7.0",
    "d2l.version": "0.17.0",
    "packages.pip": ["wandb"],
}
STAGES = ("base", "drivers", "cuda", "conda", "mxnet", "d2l", "seal")


def record(**changes: Any) -> Record:
    """Return the record of a bake on AWS that began with a checkpoint of `base`."""
    values: dict[str, Any] = {
        "run": "20261121-040000-abcdef",
        "recipe": "mxnet-cu101",
        "asked": ASKED,
        "digest": "d" * 64,
        "payload": "upstream",
        "verified": "gpu",
        "region": "us-west-2",
        "image_id": "ami-0123456789abcdef0",
        "image_name": "bake/mxnet-cu101/20261121-040000-dddddddd",
        "snapshot_ids": ("snap-0123456789abcdef0",),
        "base_image_id": "ami-0fedcba9876543210",
        "base_image_name": "ubuntu/images/hvm-ssd/ubuntu-bionic-18.04-amd64-server-20230607",
        "instance_type": "g4dn.xlarge",
        "zone": "us-west-2a",
        "market": "on-demand",
        "stages": tuple(
            StageRecord(
                name=name,
                digest="e" * 64,
                seconds=60,
                checkpoint="snap-0badcafe000000001" if name == "base" else None,
            )
            for name in STAGES
        ),
        "steps": tuple(sorted(STEPS, key=lambda each: each.began_at)),
        "machines": (MACHINE,),
        "checks": CHECKS,
        "inventory": INVENTORY,
        "started_at": BEGAN,
        "ended_at": at(1423),
    }
    return Record.model_validate(values | changes)


def failure(**changes: Any) -> Failure:
    """Return the record of a bake whose first machine was lost and whose second one failed."""
    spot = {"market": "spot", "usd_per_hour": 0.1578}
    values: dict[str, Any] = {
        "run": "20261121-040000-abcdef",
        "recipe": "mxnet-cu101",
        "asked": ASKED,
        "digest": "d" * 64,
        "payload": "upstream",
        "region": "us-west-2",
        "base_image_id": "ami-0fedcba9876543210",
        "stages": STAGES,
        "steps": (
            step("start", "Builder", 4, 70, detail="i-1"),
            step("stage", "base", 70, 130, wave=1),
            step("checkpoint", "Checkpoint", 130, 134, detail="snap-1"),
            step("stage", "drivers", 134, 250, wave=2, outcome="stopped"),
            step("start", "Builder", 260, 340, machine=2, detail="i-2"),
            step("stage", "drivers", 340, 600, machine=2, wave=3, outcome="failed"),
            step("stage", "conda", 340, 420, machine=2, wave=3),
        ),
        "machines": (
            MACHINE.model_copy(update={**spot, "ended_at": at(255)}),
            MACHINE.model_copy(update={**spot, "began_at": at(262), "ended_at": at(604)}),
        ),
        "error": "StageError",
        "message": "stage drivers ended with status 100",
        "hint": "Look at its log",
        "details": ("E: Unable to locate package nvidia-headless-no-dkms-470-server",),
        "started_at": BEGAN,
        "ended_at": at(610),
    }
    return Failure.model_validate(values | changes)


def with_texts(made: Any, texts: Iterable[str]) -> Any:
    """Return the record with these texts in all places that a machine or AWS fills."""
    found = cycle(texts)
    changes: dict[str, Any] = {
        "steps": tuple(
            each.model_copy(update={"name": next(found), "detail": next(found)})
            for each in made.steps
        ),
        "machines": tuple(
            each.model_copy(update={"instance_id": next(found), "instance_type": next(found)})
            for each in made.machines
        ),
        "asked": dict.fromkeys(made.asked, next(found)),
        "region": next(found),
        "base_image_name": next(found),
    }
    if isinstance(made, Failure):
        changes |= {name: next(found) for name in ("message", "hint", "code", "reason")}
        return made.model_copy(update=changes | {"details": tuple(texts)})
    checks = tuple(
        CheckRecord(name=text, outcome="passed", detail=next(found), seconds=0) for text in texts
    )
    packages = {text: next(found) for text in texts}
    inventory = made.inventory.model_copy(
        update={
            "os": next(found),
            "kernel": next(found),
            "driver": next(found),
            "dpkg": packages,
            "pip": packages,
            "conda": packages,
        }
    )
    changes |= {name: next(found) for name in ("image_id", "image_name", "zone", "market")}
    return made.model_copy(update=changes | {"checks": checks, "inventory": inventory})
