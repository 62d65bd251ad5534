"""Lists as people read them, on 80 columns, and as documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from bake.aws.checkpoint import Checkpoint
from bake.cli.views.checkpoints import show_checkpoints
from bake.cli.views.images import show_copies, show_verdicts
from bake.console.console import Console
from bake.errors import CloudError, ImageError
from bake.images.copies import Copied
from bake.images.retention import ImageRemoval, Verdict
from tests.support.documents import document_of
from tests.support.finished_images import IMAGE, NOW
from tests.support.terminal import shown_in_terminal

ONE = Checkpoint(
    snapshot_id="snap-0123456789abcdef0",
    state="completed",
    progress="100%",
    size_gb=64,
    started_at=NOW - timedelta(hours=5),
    expires_at=NOW + timedelta(days=29, hours=3),
    recipe="mxnet-cu101",
    run_id="20261121-013000-abcdef",
    stages={"cuda": "c", "base": "b", "drivers": "d"},
    seconds={"base": 12.0, "drivers": 70.3, "cuda": 300.0},
    sound=True,
)


def lines_of(show: Callable[[], None]) -> list[str]:
    lines = shown_in_terminal(show).splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    return lines


def shown(*found: Checkpoint, price: float | None) -> list[str]:
    return lines_of(lambda: show_checkpoints(Console(), found, price, NOW))


def test_a_checkpoint_is_shown_with_what_it_holds_and_costs_at_most() -> None:
    lines = shown(ONE, price=0.05)
    assert lines[0].split() == ["checkpoint", "recipe", "holds", "age", "expires", "$/month"]
    assert lines[1].split() == [
        *("snap-0123456789abcdef0", "mxnet-cu101"),
        *("base", "drivers", "cuda"),  # in the order in which they ran
        *("5", "h", "29", "d", "3.20"),
    ]
    assert "the highest possible cost" in " ".join(lines[2:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sound": False}, "(tags changed by hand)"),
        ({"state": "pending", "progress": "42%"}, "(pending 42%)"),
        ({"state": "error"}, "(error)"),
        ({"expires_at": NOW}, "now"),
        ({"expires_at": None}, "never"),
        ({"expires_at": NOW + timedelta(minutes=3)}, "3 min"),
        ({"recipe": "mxnet-cu118-debian12-for-everybody"}, "mxnet-cu118- everybody"),
        ({"stages": {}, "seconds": {}}, "?"),
    ],
)
def test_what_is_unusual_is_said_on_80_columns_too(change: dict[str, object], says: str) -> None:
    lines = shown(replace(ONE, **change), price=None)  # type: ignore[arg-type]
    assert set(says.split()) <= {word for line in lines for word in line.split()}
    assert lines[1].startswith(ONE.snapshot_id)
    assert lines[1].endswith("?"), "the price is not known"


def test_no_checkpoints_are_said() -> None:
    [line] = shown(price=0.05)
    assert "You have no checkpoints here" in line


def test_the_document_has_all_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    found = document_of(lambda console: show_checkpoints(console, [ONE], 0.05, NOW), capsys)
    [document] = found["checkpoints"]
    assert document["snapshot_id"] == ONE.snapshot_id
    assert document["stages"] == {"cuda": "c", "base": "b", "drivers": "d"}
    assert document["usd_per_month_at_most"] == 3.2
    found = document_of(lambda console: show_checkpoints(console, [ONE], None, NOW), capsys)
    assert found["checkpoints"][0]["usd_per_month_at_most"] is None


KEPT = Verdict(replace(IMAGE, image_id="ami-00000000000000001"), "one of the 3 newest")


def test_what_may_go_is_shown_with_what_it_frees_and_how_to_remove_it() -> None:
    lines = lines_of(lambda: show_verdicts(Console(), [KEPT, Verdict(IMAGE)], None, 0.05))
    text = " ".join(" ".join(lines).split())
    assert "kept (one of the 3" in text
    assert "1 image: at most 64 GB and $3.20 a month" in text
    assert text.endswith("Nothing was removed. To remove them, add --yes.")


def test_what_was_not_removed_says_why() -> None:
    failed = ImageRemoval(IMAGE, ImageError("Not all of the image could be removed"))
    lines = lines_of(lambda: show_verdicts(Console(), [Verdict(IMAGE)], [failed], None))
    text = " ".join(" ".join(lines).split())
    assert "✘ Not all of the image could be removed" in text
    assert "not removed (Not" in text
    assert "--yes" not in text
    done = [ImageRemoval(IMAGE)]
    assert lines_of(lambda: show_verdicts(Console(), [Verdict(IMAGE)], done, None))[1].endswith(
        "  removed"
    )


def test_the_documents_of_what_may_go_and_of_copies(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [KEPT, Verdict(IMAGE)]
    found = document_of(lambda console: show_verdicts(console, verdicts, None, 0.05), capsys)
    kept, old = found["images"]
    assert (kept["decision"], kept["why"]) == ("kept", "one of the 3 newest")
    assert (old["decision"], old["why"], old["usd_per_month_at_most"]) == ("removable", None, 3.2)
    failed = Copied("eu-central-1", "failed", 1.25, error=CloudError("No", hint="Ask again"))
    outcomes = [Copied("us-west-2", "copied", 61, IMAGE), failed]
    copied, failure = document_of(lambda console: show_copies(console, outcomes), capsys)["copies"]
    assert (copied["region"], copied["image_id"]) == ("us-west-2", IMAGE.image_id)
    assert (failure["status"], failure["error"]["hint"]) == ("failed", "Ask again")
    lines = lines_of(lambda: show_copies(Console(), outcomes))
    assert any("Ask again" in line for line in lines)
