"""Groups of recipes, recipes that are given up, and a summary that no error text can break."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.aws.recipe_failures import RecipeFailures
from bake.cli.views import github
from bake.errors import BakeError, StageError
from bake.pipeline import bake, rebuild
from bake.pipeline.bake import BakeRequest
from bake.pipeline.rebuild import RecipeReport, Status
from bake.recipe.resolved import Resolved, resolve
from tests.support.recipes import RECIPES

# Groups ------------------------------------------------------------------------------------------


def test_recipes_that_share_what_is_still_to_run_are_together() -> None:
    to_run = {
        "a": ["base", "cuda-a", "seal-a"],
        "b": ["other", "seal-b"],
        "c": ["cuda-c", "seal-c", "cuda-d"],
        "d": ["cuda-d", "base", "seal-d"],  # joins a and c
    }
    assert rebuild.groups(to_run) == [("a", "c", "d"), ("b",)]


def test_what_is_already_done_joins_nobody_and_needs_no_job() -> None:
    assert rebuild.groups({"a": ["seal-a"], "b": [], "c": ["seal-c"]}) == [("a",), ("c",)]
    assert rebuild.groups({"a": []}) == []


@given(st.dictionaries(st.text("abcdef", min_size=1), st.sets(st.integers(0, 12), max_size=4)))
def test_groups_are_a_partition_that_no_stage_crosses(to_run: dict[str, set[int]]) -> None:
    stages = {recipe: {str(digest) for digest in found} for recipe, found in to_run.items()}
    groups = rebuild.groups(stages)
    assert sorted(sum(groups, ())) == sorted(name for name, found in stages.items() if found)
    held = [set[str]().union(*(stages[name] for name in group)) for group in groups]
    for one, digests in enumerate(held):
        for other in held[:one]:
            assert not digests & other
    for group in groups:  # and none is larger than it has to be
        reached = {group[0]}
        while more := {
            name
            for name in group
            if name not in reached and any(stages[name] & stages[other] for other in reached)
        }:
            reached |= more
        assert reached == set(group)


def test_a_matrix_is_one_line_of_json_that_github_reads() -> None:
    text = github.matrix([("mxnet-cu101", "mxnet-cu112"), ("pytorch-cu126",)])
    assert "\n" not in text
    assert json.loads(text) == {
        "include": [
            {"group": "mxnet-cu101", "recipes": "mxnet-cu101 mxnet-cu112"},
            {"group": "pytorch-cu126", "recipes": "pytorch-cu126"},
        ]
    }
    assert github.matrix([]) == '{"include":[]}'


def test_a_matrix_never_has_more_jobs_than_github_takes() -> None:
    groups = [(f"r{number}",) for number in range(600)]
    jobs = json.loads(github.matrix(groups))["include"]
    assert len(jobs) == 256
    assert sorted(" ".join(job["recipes"] for job in jobs).split()) == sorted(n for (n,) in groups)


# Giving up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "identity", "limit", "due"),
    [
        (0, "", 3, True),
        (2, "now", 3, True),
        (3, "now", 3, False),
        (9, "before", 3, True),  # the recipe has been changed since
        (9, "now", None, True),  # --retry
    ],
)
def test_a_recipe_is_given_up_after_so_many_failures_of_the_same(
    count: int, identity: str, limit: int | None, due: bool
) -> None:
    assert rebuild.is_due(RecipeFailures(count, identity), limit, "now") is due


# The summary -------------------------------------------------------------------------------------

HOSTILE = (
    "E: a | b\n\nc <img src=x onerror=alert(1)> </code></pre> `x` **bold** [l](http://e.x) "
    "@someone #12 https://e.x www.example.com \x1b[31mred\x1b[0m \\| &lt; ~~~ ``` | --- |"
)


def cells(row: str) -> list[str]:
    """Split a row as GFM does: at each pipe that is not escaped."""
    assert row.startswith("| ")
    assert row.endswith(" |")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def table(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [cells(row) for row in rows]


def test_the_summary_has_a_row_for_each_recipe() -> None:
    failures = RecipeFailures(3, "x", datetime(2026, 3, 1, tzinfo=UTC), "cuda ended with 100")
    text = github.summary(
        [
            RecipeReport("a", "baked", 754.0, ("base image: ami-1 → ami-2",), "ami-9", "gpu", 0.22),
            RecipeReport("b", "up to date", 2.0, (), "ami-8", "gpu"),
            RecipeReport(
                "c", "failed", 61.0, error=StageError("cuda ended with 100", hint="See c.log")
            ),
            rebuild.given_up("d", failures),
        ]
    )
    head, line, *rows = table(text)
    assert head[:3] == ["recipe", "what happened", "why"]
    assert set(line) == {"---"}
    assert {len(row) for row in (head, line, *rows)} == {7}
    shown = [html.unescape(" ; ".join(row)) for row in rows]
    assert re.search("baked.*ami-1 → ami-2.*ami-9.*gpu.*12 min 34 s.*0.22", shown[0])
    assert re.search("nothing to do.*ami-8.*2.0 s", shown[1])
    assert re.search("failed.*cuda ended with 100.*→ .*See c.log", shown[2])
    assert re.search("not tried.*3 failures in a row since 2026-03-01.*ended.*--retry", shown[3])
    first = text.splitlines()[0]
    assert first == "## Rebuild: 1 baked, 1 with nothing to do, 1 failed, 1 not tried"


def test_nothing_in_an_error_is_a_table_a_tag_a_mention_or_a_link() -> None:
    error = BakeError(HOSTILE, hint=HOSTILE, reason=HOSTILE, code="X|Y", details=[HOSTILE])
    text = github.summary(
        [
            RecipeReport("a|b", "failed", 1.0, why=(HOSTILE,), error=error),
            RecipeReport("c", "baked", 1.0),
        ]
    )
    rows = table(text)
    assert {len(row) for row in rows} == {7}
    assert len(rows) == 4
    in_table = "\n".join(" ".join(row) for row in rows)
    tags = set(re.findall(r"<[^>]*>", in_table))
    assert tags == {"<code>", "</code>", "<br>"}
    assert not re.search(r"[@#`\[\]\\~](?!\d+;)", in_table.replace("**failed**", ""))
    assert "www." not in in_table
    assert "://" not in in_table
    assert "\x1b" not in text
    # Below the table: nothing but text until the </pre> of our own.
    (pre,) = re.findall(r"^<pre>\n(.*?)\n</pre>$", text, re.MULTILINE | re.DOTALL)
    assert "<" not in pre
    assert "E: a | b" in html.unescape(pre)
    assert "</code></pre>" in html.unescape(pre)


def test_a_long_log_is_shown_by_its_end() -> None:
    error = BakeError("failed", details=[f"line {n} {'x' * 1000}" for n in range(500)])
    text = github.summary([RecipeReport("a", "failed", 1.0, error=error)])
    assert "line 499" in text
    assert "line 100" not in text
    assert len(text) < 20_000


def test_a_summary_is_written_where_github_wants_it_and_nowhere_else(tmp_path: Path) -> None:
    github.write_summary("text", {})
    file = tmp_path / "summary"
    file.write_text("before\n")
    github.write_summary("## A\n\n| a |", {"GITHUB_STEP_SUMMARY": str(file)})
    assert file.read_text() == "before\n## A\n\n| a |\n"


@given(st.text(), st.integers(0, 120))
def test_what_is_cut_fits_and_is_whole_text(text: str, size: int) -> None:
    assert len(github.cut(text, size).encode()) <= size


def test_too_long_a_summary_is_cut_where_it_can_still_be_read(tmp_path: Path) -> None:
    error = BakeError("ä" * 200, details=["ö" * 290] * 40)
    text = github.summary([RecipeReport(f"r{n}", "failed", 1.0, error=error) for n in range(100)])
    assert len(text.encode()) > github.MOST_BYTES
    file = tmp_path / "summary"
    file.write_text("x" * 5000)
    github.write_summary(text, {"GITHUB_STEP_SUMMARY": str(file)})
    shown = file.read_text()
    assert github.MOST_BYTES - 1000 < file.stat().st_size <= github.MOST_BYTES
    assert shown.count("<pre>") == shown.count("</pre>")
    assert shown.endswith("… and more, which is too long for this summary.\n")


@dataclass(frozen=True)
class Image:
    image_id: str = "ami-1"
    verified: str = "gpu"


@dataclass(frozen=True)
class Outcome:
    recipe: str
    status: Status
    seconds: float
    image: Image | None = None
    error: BakeError | None = None


def test_a_report_says_what_the_bake_says() -> None:
    assert rebuild.report(
        Outcome("a", "baked", 3.0, Image()), why=["new"], usd=1.0
    ) == RecipeReport("a", "baked", 3.0, ("new",), "ami-1", "gpu", 1.0)
    error = BakeError("no")
    assert rebuild.report(Outcome("a", "failed", 3.0, error=error)).error is error


# ---- recipes whose image is the base of others

SMALL = resolve(RECIPES["mxnet-cu101"])


def request_of(name: str, base: Resolved | None = None) -> BakeRequest:
    recipe = SMALL.recipe.model_copy(update={"name": name})
    context: Any = None
    return context, replace(SMALL, recipe=recipe, base=base)


def test_a_base_comes_before_the_recipes_that_are_based_on_it() -> None:
    one = request_of("one")
    two = request_of("two", one[1])
    three, alone = request_of("three", two[1]), request_of("alone")
    groups = list(bake.after_their_bases([three, alone, two, one]))
    names = [[resolved.name for _, resolved in group] for group in groups]
    assert names == [["alone", "one"], ["two"], ["three"]]
    # A base that is not requested has its image already.
    assert list(bake.after_their_bases([three, alone])) == [[three, alone]]
    # A recipe may have the name of a built-in one that is its base's base: none waits forever.
    same = request_of("one", two[1])
    assert list(bake.after_their_bases([same, two])) == [[same, two]]


def test_recipes_are_rebuilt_on_the_computer_that_bakes_their_base() -> None:
    one = request_of("one")
    two, other = request_of("two", one[1]), request_of("other")
    joined, left = rebuild.split_joined([two, other], [("zero",), ("one",)])
    assert joined == [("zero",), ("one", "two")]
    assert left == [other]
