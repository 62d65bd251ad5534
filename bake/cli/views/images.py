"""Images, their copies and their removal: tables and JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bake.aws.image import Image
from bake.catalog import Catalog
from bake.console.console import Console
from bake.console.format import duration, money, money_if_known, rounded_duration
from bake.errors import error_document
from bake.images.copies import Copied
from bake.images.retention import ImageRemoval, Verdict
from bake.machine import fit


def show_images(
    console: Console,
    known: Catalog,
    images: Sequence[Image],
    now: datetime | None = None,
    usd_per_gb_month: float | None = None,
) -> None:
    """Show images. `now` is AWS's time, for their ages.

    `usd_per_gb_month` is the price of a snapshot; None if it is not known.
    """
    now = now or datetime.now(UTC)
    console.table(
        ["image", "recipe", "in it", "proved", "GB", "$/month", "age", "name"],
        [_row(known, image, now, usd_per_gb_month) for image in images],
        empty="You have no images here. Make one: invoke bake --cuda 10.1",
        right=("GB", "$/month"),
        fold=("recipe", "proved"),
        optional=1,
    )
    if console.json:
        console.result(
            [
                image_document(image)
                | {"usd_per_month_at_most": usd_per_month_at_most(image.size_gb, usd_per_gb_month)}
                for image in images
            ]
        )
    elif images:
        console.note("$/month is the highest possible cost: EBS bills only the blocks in use.")


def _row(known: Catalog, image: Image, now: datetime, usd_per_gb_month: float | None) -> list[str]:
    state = proved(image) if image.state == "available" else image.state
    return [
        image.image_id,
        image.recipe,
        "\n".join(_inside(known, image)) or "-",
        state,
        str(image.size_gb),
        money_if_known(usd_per_month_at_most(image.size_gb, usd_per_gb_month)),
        rounded_duration(now - image.created_at),
        image.name,
    ]


def _inside(known: Catalog, image: Image) -> list[str]:
    """Return CUDA and the framework in the image, as far as its tags name them."""
    inside = fit.read_contents(known, image.tags, image.architecture)
    cuda = [f"CUDA {inside.cuda.version}"] if inside.cuda else []
    return cuda + ([f"{inside.build.name} {inside.build.version}"] if inside.build else [])


def usd_per_month_at_most(size_gb: int, usd_per_gb_month: float | None) -> float | None:
    """Return the highest possible cost of a snapshot, or None if the price is not known."""
    return None if usd_per_gb_month is None else round(size_gb * usd_per_gb_month, 2)


def show_copies(console: Console, outcomes: Sequence[Copied]) -> None:
    """Show the failures in full, then a table with a row for each region."""
    for each in outcomes:
        if each.error is not None and not console.json:
            (console.named(each.region) if len(outcomes) > 1 else console).failure(each.error)
    console.gap()
    console.result([copy_document(each) for each in outcomes])
    console.table(
        ["region", "what", "image", "time"],
        [
            [
                each.region,
                each.status,
                each.image.image_id if each.image else "-",
                duration(each.seconds),
            ]
            for each in outcomes
        ],
        empty="No regions.",
    )


def copy_document(copied: Copied) -> dict[str, Any]:
    """Return one region's JSON document."""
    return {
        "region": copied.region,
        "status": copied.status,
        "seconds": round(copied.seconds, 1),
        "image_id": copied.image.image_id if copied.image else None,
        "image_name": copied.image.name if copied.image else None,
        "error": error_document(copied.error),
    }


def show_verdicts(
    console: Console,
    verdicts: Sequence[Verdict],
    removals: Sequence[ImageRemoval] | None,
    usd_per_gb_month: float | None,
) -> None:
    """Show the failed removals in full, then which images are kept, removed or removable.

    `removals` is None if none was requested.
    """
    errors = {removal.image.image_id: removal.error for removal in removals or ()}
    if not console.json:
        for failed in filter(None, errors.values()):
            console.failure(failed)
    rows, documents = [], []
    for verdict in verdicts:
        image, error = verdict.image, errors.get(verdict.image.image_id)
        what = "kept" if verdict.why else "removable" if removals is None else "removed"
        what = "not removed" if error else what
        why = verdict.why or (error.message if error else "")
        usd = usd_per_month_at_most(image.size_gb, usd_per_gb_month)
        shown = "will be removed" if what == "removable" else what
        rows.append(
            [
                image.image_id,
                image.recipe,
                rounded_duration(datetime.now(UTC) - image.created_at),
                money_if_known(usd),
                f"{shown} ({why})" if why else shown,
            ]
        )
        documents.append(
            image_document(image) | {"what": what, "why": why, "usd_per_month_at_most": usd}
        )
    columns = ["image", "recipe", "age", "USD/month", "what"]
    console.table(columns, rows, empty="No finished images found.", fold=("recipe", "what"))
    console.result(documents)
    _note_sizes(console, verdicts, usd_per_gb_month, done=removals is not None)


def _note_sizes(
    console: Console, verdicts: Sequence[Verdict], usd_per_gb_month: float | None, *, done: bool
) -> None:
    """Note how much the images that are not kept take up, and how to remove them."""
    sizes = [verdict.image.size_gb for verdict in verdicts if not verdict.why]
    if not sizes:
        return
    usd = usd_per_month_at_most(sum(sizes), usd_per_gb_month)
    cost = "" if usd is None else f" and ${money(usd)} a month"
    which = f"{len(sizes)} image{'s' if len(sizes) > 1 else ''}"
    console.note(f"{which}: at most {sum(sizes)} GB{cost}. EBS bills only blocks in use.")
    if not done:
        console.note("Nothing was removed. To remove them, add --yes.")


def image_document(image: Image) -> dict[str, Any]:
    """Return an image's JSON document."""
    derived = {"recipe": image.recipe, "verified": image.verified, "payload": image.payload}
    return asdict(image) | derived


def proved(image: Image) -> str:
    """Return where the image was proved, and whether it contains stand-ins."""
    return image.verified + (", stand-in" if image.payload == "stand-in" else "")
