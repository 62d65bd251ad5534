"""Images and machines as people read them, and as documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bake.aws.image import Image
from bake.aws.machine import Machine
from bake.console import Console, duration


def show_images(console: Console, images: Sequence[Image]) -> None:
    console.table(
        ["image", "recipe", "proved", "disk", "age"],
        [
            [
                image.image_id,
                image.recipe,
                _proved(image) if image.state == "available" else image.state,
                f"{image.size_gb} GB",
                _age(image.created_at),
            ]
            for image in images
        ],
        empty="You have no images here. Make one: invoke bake --cuda 10.1",
    )
    if console.json:
        console.result([image_document(image) for image in images])


def show_machines(console: Console, machines: Sequence[Machine]) -> None:
    console.table(
        ["machine", "state", "type", "address", "since"],
        [
            [
                machine.name or machine.instance_id,
                machine.state,
                machine.instance_type + (" spot" if machine.market == "spot" else ""),
                machine.address or "-",
                _age(machine.launched_at),
            ]
            for machine in machines
        ],
        empty="You have no machines here. Start one: invoke launch-from-ami",
    )
    if console.json:
        console.result([machine_document(machine) for machine in machines])


def image_document(image: Image) -> dict[str, Any]:
    derived = {"recipe": image.recipe, "verified": image.verified, "payload": image.payload}
    return asdict(image) | derived


def machine_document(machine: Machine) -> dict[str, Any]:
    return asdict(machine) | {"recipe": machine.recipe}


def _proved(image: Image) -> str:
    return image.verified + (", stand-in" if image.payload == "stand-in" else "")


def _age(moment: datetime) -> str:
    return duration((datetime.now(UTC) - moment).total_seconds())
