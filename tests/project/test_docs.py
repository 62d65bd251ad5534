"""The pages: what they name exists, their links lead somewhere, and their prose is wrapped."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.environment import REPOSITORY

# It has the same headings for each version.
CHANGELOG = REPOSITORY / "CHANGELOG.md"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    CHANGELOG,
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
GALLERY = sorted((REPOSITORY / "docs" / "recipes").glob("*.md"))
LONGEST = 100
NAMED = re.compile(r"`((?:bake|tests|scripts|docs|manifests|benchmarks|requirements)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def prose(page: Path) -> list[str]:
    """The lines outside of code blocks, tables and headings."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line for line in text.splitlines() if not line.startswith(("|", "#", "<"))]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(NAMED.findall(page.read_text()))
    examples = {
        *("scripts/stages/NAME.sh", "manifests/NAME.toml", "manifests/RECIPE.lock"),
        # docs/tutorial.md and docs/stages.md make them
        *("manifests/hello.toml", "manifests/lab.toml", "scripts/checks/motd.sh"),
        *("scripts/stages/motd.sh", "scripts/stages/tools.sh", "scripts/checks/NAME.sh"),
    }
    assert [name for name in sorted(named - examples) if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, *GALLERY], ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for name, anchor in LINK.findall(page.read_text()):
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


@pytest.mark.parametrize("page", sorted({*PAGES} - {CHANGELOG}), ids=lambda page: page.name)
def test_each_heading_of_a_page_is_there_once(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = Counter(re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    assert [heading for heading, times in headings.items() if times > 1] == []


def test_the_readme_leads_to_every_page() -> None:
    linked = {name for name, _ in LINK.findall((REPOSITORY / "README.md").read_text())}
    assert {str(page.relative_to(REPOSITORY)) for page in PAGES} - {"README.md"} <= linked
    assert "docs/recipes/README.md" in linked


@pytest.mark.parametrize("page", [*PAGES, *GALLERY], ids=lambda page: page.name)
def test_prose_is_wrapped(page: Path) -> None:
    assert [line for line in prose(page) if len(line) > LONGEST and " " in line.strip()] == []


def test_the_architecture_is_read_in_ten_minutes() -> None:
    words = (REPOSITORY / "docs" / "architecture.md").read_text().split()
    assert len(words) < 2500  # at 250 words a minute
