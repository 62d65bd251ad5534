"""The checks of a bake, in the parts and with the numbers that the terminal shows."""

from __future__ import annotations

from typing import Any

from bake.record import CheckRecord
from bake.record.report.checks import check_groups


def check(name: str, **values: Any) -> CheckRecord:
    known = {"part": "proof", "outcome": "passed", "detail": "", "seconds": 0}
    return CheckRecord.model_validate({"name": name, **known, **values})


def skipped(name: str, why: str) -> CheckRecord:
    return check(name, outcome="skipped", detail=why)


def test_the_proof_and_the_leftover_check_are_counted_apart() -> None:
    proof, leftovers = check_groups(
        [
            check("nvcc"),
            skipped("driver", "no GPU"),
            check("host key", part="leftovers", detail="none found"),
            check("secrets", part="leftovers", outcome="skipped", detail="no secrets"),
        ]
    )
    assert [proof.title, leftovers.title] == ["Proof", "Leftover check"]
    assert proof.summary == leftovers.summary == "1 passed, 1 skipped"
    assert [proof.clean, leftovers.clean] == [False, True]
    assert [row.badge for row in leftovers.rows] == [("good", "clean"), ("none", "skipped")]


def test_checks_that_were_skipped_for_one_reason_are_one_row_at_the_end() -> None:
    checks = [
        skipped("a", "no GPU"),
        check("b"),
        skipped("c", "no GPU"),
        skipped("d", "no d2l"),
        check("e", outcome="failed"),
    ]
    (group,) = check_groups(checks)
    assert [(row.name, row.badge[1]) for row in group.rows] == [
        ("e", "failed"),
        ("b", "passed"),
        ("a, c", "skipped"),
        ("d", "skipped"),
    ]
    assert group.summary == "1 failed, 1 passed, 3 skipped"


def test_the_checks_of_an_older_record_are_one_group() -> None:
    (group,) = check_groups([check("nvcc", part=None), check("host key", part=None)])
    assert (group.title, group.summary, group.clean) == ("Checks", "2 passed", False)
