"""Images, their copies and their removal: tables and JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from bake.aws.image import Image
from bake.catalog import Catalog
from bake.cli.documents.images import (
    CopyDocument,
    CopyEntry,
    ImageEntry,
    ImagesDocument,
    PruneDocument,
    PruneEntry,
    usd_at_most,
)
from bake.console.console import Console
from bake.console.format import duration, money, money_if_known, rounded_duration
from bake.images.copies import Copied
from bake.images.retention import ImageRemoval, Verdict
from bake.machine import fit

_DECISIONS = {"failed": "not removed", "removable": "will be removed"}


def show_images(
    console: Console,
    known: Catalog,
    images: Sequence[Image],
    now: datetime | None = None,
    usd_per_gb_month: float | None = None,
    recipe: str | None = None,
) -> None:
    """Show images. `now` is AWS's time, for their ages.

    `usd_per_gb_month` is the price of a snapshot; None if it is not known.
    """
    now = now or datetime.now(UTC)
    console.table(
        ["image", "recipe", "in it", "proved", "GB", "$/month", "age", "name"],
        [_row(known, image, now, usd_per_gb_month) for image in images],
        empty=f"You have no images {f'of {recipe} ' if recipe else ''}here. Make one: "
        f"invoke bake {recipe or 'pytorch-cu126'}",
        right=("GB", "$/month"),
        fold=("recipe", "proved"),
        optional=1,
    )
    entries = (ImageEntry.of_image(image, usd_per_gb_month) for image in images)
    console.result(ImagesDocument(images=tuple(entries)))
    if images and not console.json:
        console.note("$/month is the highest possible cost: EBS bills only the blocks in use.")


def _row(known: Catalog, image: Image, now: datetime, usd_per_gb_month: float | None) -> list[str]:
    state = proved(image) if image.state == "available" else image.state
    return [
        image.image_id,
        image.recipe,
        "\n".join(_inside(known, image)) or "-",
        state,
        str(image.size_gb),
        money_if_known(usd_at_most(image.size_gb, usd_per_gb_month)),
        rounded_duration(now - image.created_at),
        image.name,
    ]


def _inside(known: Catalog, image: Image) -> list[str]:
    """Return CUDA and the framework in the image, as far as its tags name them."""
    inside = fit.read_contents(known, image.tags, image.architecture)
    cuda = [f"CUDA {inside.cuda.version}"] if inside.cuda else []
    return cuda + ([f"{inside.build.name} {inside.build.version}"] if inside.build else [])


def show_copies(console: Console, outcomes: Sequence[Copied]) -> None:
    """Show the failures in full, then a table with a row for each region."""
    for each in outcomes:
        if each.error is not None and not console.json:
            (console.named(each.region) if len(outcomes) > 1 else console).failure(each.error)
    console.gap()
    console.result(CopyDocument(copies=tuple(map(CopyEntry.of_copy, outcomes))))
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


def show_verdicts(
    console: Console,
    verdicts: Sequence[Verdict],
    removals: Sequence[ImageRemoval] | None,
    usd_per_gb_month: float | None,
) -> None:
    """Show the failed removals in full, then which images are kept, removed or removable.

    `removals` is None if none was requested.
    """
    by_id = {removal.image.image_id: removal for removal in removals or ()}
    if not console.json:
        for failed in filter(None, (removal.error for removal in by_id.values())):
            console.failure(failed)
    entries = [
        PruneEntry.of_verdict(verdict, by_id.get(verdict.image.image_id), usd_per_gb_month)
        for verdict in verdicts
    ]
    rows = []
    for entry in entries:
        why = entry.why or (entry.error.message if entry.error else "")
        shown = _DECISIONS.get(entry.decision, entry.decision)
        rows.append(
            [
                entry.image_id,
                entry.recipe or "",
                rounded_duration(datetime.now(UTC) - entry.created_at),
                money_if_known(entry.usd_per_month_at_most),
                f"{shown} ({why})" if why else shown,
            ]
        )
    columns = ["image", "recipe", "age", "$/month", "what"]
    console.table(columns, rows, empty="No finished images found.", fold=("recipe", "what"))
    console.result(PruneDocument(images=tuple(entries)))
    _note_sizes(console, verdicts, usd_per_gb_month, done=removals is not None)


def _note_sizes(
    console: Console, verdicts: Sequence[Verdict], usd_per_gb_month: float | None, *, done: bool
) -> None:
    """Note how much the images that are not kept take up, and how to remove them."""
    sizes = [verdict.image.size_gb for verdict in verdicts if not verdict.why]
    if not sizes:
        return
    usd = usd_at_most(sum(sizes), usd_per_gb_month)
    cost = "" if usd is None else f" and ${money(usd)} a month"
    which = f"{len(sizes)} image{'s' if len(sizes) > 1 else ''}"
    console.note(f"{which}: at most {sum(sizes)} GB{cost}. EBS bills only blocks in use.")
    if not done:
        console.note("Nothing was removed. To remove them, add --yes.")


def proved(image: Image) -> str:
    """Return where the image was proved, and whether it contains stand-ins."""
    return image.verified + (", stand-in" if image.payload == "stand-in" else "")
