from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from bake.cli.views import gallery
from bake.cli.views.gallery import Proof, add_proofs, entries, pages, read_proofs
from bake.recipe.project import built_in
from bake.record import CheckRecord, Inventory, Record
from tests.support.environment import REPOSITORY

FOLDER = REPOSITORY / "docs" / "recipes"
PROOF = Proof(
    recipe="pytorch-cu126",
    date="2026-11-30",
    where="the local cloud",
    payload="stand-in",
    verified="cpu",
    passed=8,
    skipped=10,
    took_s=77,
)


def test_the_pages_in_the_repository_are_current() -> None:
    made = pages(entries(built_in(), read_proofs(FOLDER)))
    assert {path.name: path.read_text() for path in FOLDER.glob("*.md")} == made, (
        "run: make gallery"
    )


def page_with(*proofs: Proof) -> str:
    return pages(entries(built_in(), proofs))["pytorch-cu126.md"]


def test_a_page_shows_what_the_recipe_has_its_size_its_time_and_its_cost() -> None:
    page = page_with()
    for row in (
        "| NVIDIA driver | 580, open modules, held with the kernel |",
        "| CUDA | 12.6 |",
        "| size of the contents | 25 GB |",
        "| time of a bake | about 18 min (14 to 30 min) |",
        "| cost of a bake | $0.13 to $0.26 on a `g6.xlarge` at $0.8048 an hour |",
    ):
        assert row in page
    assert "No bake of this recipe is on record here yet." in page


def test_a_page_says_what_was_proved_and_that_no_gpu_was_there() -> None:
    page = page_with(PROOF, PROOF.model_copy(update={"recipe": "mxnet-cu101", "passed": 99}))
    row = "stand-ins | on a CPU only, with stand-ins | 8 passed, 10 skipped | 1 min 17 s |"
    assert f"| 2026-11-30 | the local cloud | {row}" in page
    assert "99" not in page
    assert "No bake on a machine with a GPU is on record here." in page
    on_gpu = PROOF.model_copy(update={"verified": "gpu", "payload": "upstream"})
    assert "No bake on a machine with a GPU" not in page_with(PROOF, on_gpu)


def test_the_record_of_a_bake_is_a_proof_without_the_search_for_leftovers() -> None:
    checks = [("proof", "passed"), ("proof", "skipped"), ("leftovers", "passed")]
    record = Record(
        run="20261130-215519-abcdef",
        recipe="pytorch-cu126",
        digest="d" * 64,
        payload="stand-in",
        verified="cpu",
        here="--local",
        image_id="ami-1",
        image_name="bake/pytorch-cu126",
        base_image_id="ami-0",
        instance_type="g6.xlarge",
        zone="us-east-1a",
        market="on-demand",
        stages=(),
        checks=tuple(
            CheckRecord.model_validate(
                {"part": part, "name": "any", "outcome": outcome, "detail": "", "seconds": 0}
            )
            for part, outcome in checks
        ),
        inventory=Inventory(kernel="6.1"),
        started_at=datetime(2026, 11, 30, 21, 55, 19, tzinfo=UTC),
        ended_at=datetime(2026, 11, 30, 21, 56, 36, tzinfo=UTC),
    )
    made = Proof.of_record(record)
    assert made == PROOF.model_copy(update={"passed": 1, "skipped": 1})
    on_aws = record.model_copy(update={"here": "--region us-west-2", "region": "us-west-2"})
    assert Proof.of_record(on_aws).where == "us-west-2, g6.xlarge"


def test_a_proof_of_a_part_of_a_recipe_says_how_it_differed() -> None:
    part = PROOF.model_copy(update={"payload": "upstream", "variant": "on Debian 13"})
    assert "| the original software, on Debian 13 | on a CPU only |" in page_with(part)


def test_the_newest_proof_of_each_kind_is_kept() -> None:
    newer = PROOF.model_copy(update={"date": "2026-12-01"})
    real = PROOF.model_copy(update={"payload": "upstream"})
    assert add_proofs([PROOF, real], [newer]) == (newer, real)
    assert add_proofs([newer], [PROOF]) == (newer,)


def test_writing_removes_the_page_of_a_recipe_that_is_no_longer_there(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("")
    (tmp_path / gallery.PROOFS).write_text("[]")
    gallery.write(tmp_path, [])
    written = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert written == {path.name for path in FOLDER.iterdir()}
