"""The reference pages agree with the code: commands, messages, variables, functions, inputs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks
from bake.plan import script
from bake.plan.forecast import forecast
from bake.plan.variables import variables
from bake.recipe.compatibility import check
from bake.recipe.payload import UPSTREAM
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from tests.support.commands import parse
from tests.support.documented import PAGES, blocks, command_lines, invocations
from tests.support.environment import REPOSITORY
from tests.support.recipes import DOCUMENTS, RECIPES, plan_of
from tests.support.source_texts import FILES, PYTHON, texts

DOCS = REPOSITORY / "docs"
STAGES, ENVIRONMENT = DOCS / "stages.md", DOCS / "environment.md"
TROUBLESHOOTING, GLOSSARY = DOCS / "troubleshooting.md", DOCS / "glossary.md"
LIB = REPOSITORY / "scripts" / "lib.sh"
SHELL = [LIB, *sorted((REPOSITORY / "scripts" / "stages").glob("*.sh"))]


def named(text: str) -> set[str]:
    """Return the first words of what is between backticks."""
    return {each.split()[0] for each in re.findall(r"`([^`]+)`", text)}


def first_cells(page: Path) -> str:
    """Return the first cells of all rows of a page's tables."""
    return "\n".join(re.findall(r"^\| (.*?) \|", page.read_text(), re.MULTILINE))


# Commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_bake_in_a_page_is_accepted_by_its_parser(page: Path) -> None:
    refused = {}
    for words in invocations(page):
        # A pattern, as in `invoke COMMAND --help`, is not a command.
        if words and not words[0].startswith(("-", "…", "COMMAND")):
            given = [re.sub(r"^\[|\]$", "", word) for word in words]
            if message := parse(*(word for word in given if word != "…")):
                refused[" ".join(words)] = message
    assert not refused


def test_each_command_of_bake_in_a_message_is_accepted_by_its_parser() -> None:
    refused = {}
    # The end of a command in a sentence.
    end = re.compile(r"[`;,()\n]|: |   | → | (?:starts|lists|shows|or|and|to|finds|then)\b")
    for path in PYTHON:
        for line, text, is_docstring in texts(path):
            for command in () if is_docstring else re.findall(r"\binvoke ([a-z][^\n]*)", text):
                words = end.split(command)[0].rstrip(".: ").split()
                words = [word.strip("…") or "value" for word in words]
                if message := parse(*words):
                    refused[f"{path.name}:{line}: {command}"] = message
    assert not refused


def test_the_recipe_in_the_readme_is_the_built_in_one_with_more_packages() -> None:
    [shown] = blocks(REPOSITORY / "README.md", "toml")
    document = tomllib.loads(shown)
    assert not list(check(resolve(Recipe.model_validate(document))))
    del document["packages"]
    assert document == DOCUMENTS["pytorch-cu126"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_toml_and_json_in_a_page_can_be_read(page: Path) -> None:
    for text in blocks(page, "toml"):
        tomllib.loads(text)
    for text in blocks(page, "json"):
        json.loads(text)


def test_every_command_is_in_the_table_of_the_readme() -> None:
    section = (REPOSITORY / "README.md").read_text().partition("\n## Commands")[2]
    cells = "\n".join(re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE))
    shown = {each.removeprefix("invoke ").split()[0] for each in re.findall(r"`([^`]+)`", cells)}
    assert set(tasks.namespace.task_names) - shown == set()


def test_there_are_commands_in_the_pages() -> None:
    assert sum(len(list(invocations(page))) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_shell_accepts_each_line_that_a_reader_types(page: Path) -> None:
    lines = "\n".join(command_lines(page))
    # A reader replaces <this repository>.
    done = subprocess.run(
        ["bash", "-n"], input=re.sub(r"<[a-z ]+>", "it", lines), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_each_target_of_make_in_a_page_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        used = re.findall(r"^make ([a-z-]+)", "\n".join(command_lines(page)), re.MULTILINE)
        used += re.findall(r"`make ([a-z-]+)", page.read_text())
        assert set(used) <= targets, page.name


def test_the_estimate_in_the_readme_is_the_one_of_the_catalog() -> None:
    plan = plan_of(RECIPES["pytorch-cu126"])
    everything = [stage.name for stage in plan.stages]
    expected = forecast(
        plan, everything, [], [0.8048], usd_per_gb_month=0.08, stopped_for_image=True
    )
    text = (REPOSITORY / "README.md").read_text()
    assert f"| {expected.time} | {expected.cost} |" in text
    parts = resolve(RECIPES["pytorch-cu126"])
    assert parts.toolkit
    assert parts.build
    size_gb = parts.os_image.size_gb + parts.toolkit.disk_gb + parts.build.size_gb
    assert f"about ${size_gb * 0.05:.2f} a month ({size_gb:.0f} GB)" in text


# Stages -------------------------------------------------------------------------------------------


def test_every_function_of_lib_sh_is_in_the_page_about_stages() -> None:
    functions = set(re.findall(r"^([a-z_]+)\(\)", LIB.read_text(), re.MULTILINE))
    public = named(first_cells(STAGES))
    parts = named(
        STAGES.read_text().partition("### Parts of the functions above")[2].partition("\n## ")[0]
    )
    assert functions <= public | parts
    assert parts <= functions
    assert not public & parts
    # A function that a stage calls is not an inner part.
    called = {word for path in SHELL[1:] for word in re.findall(r"[a-z_]+", path.read_text())}
    assert not parts & called


def test_every_input_of_a_stage_is_in_the_page_about_stages_and_no_other() -> None:
    section = STAGES.read_text().partition("\n## Inputs")[2].partition("\n## ")[0]
    cells = "\n".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))
    known = set(variables(resolve(RECIPES["mxnet-cu101"]), UPSTREAM))
    assert named(cells) == known | {"STAGE", script.ALWAYS_GIVEN, script.FILES_FOLDER}


def test_every_field_of_a_header_is_in_the_page_about_stages() -> None:
    assert {f"{field}:" for field in script.FIELDS} <= named(first_cells(STAGES))


def test_the_stage_in_the_page_is_a_valid_one(tmp_path: Path) -> None:
    example, _ = (text for text in blocks(STAGES, "bash") if text.startswith("#!"))
    read = read_example(example, tmp_path / "motd.sh", "stage")
    assert (read.needs, read.inputs) == (("base",), ("FRAMEWORK", "FRAMEWORK_VERSION"))
    assert read.used() <= {*read.inputs, script.ALWAYS_GIVEN}


def test_the_check_in_the_page_is_a_valid_one(tmp_path: Path) -> None:
    _, example = (text for text in blocks(STAGES, "bash") if text.startswith("#!"))
    read = read_example(example, tmp_path / "motd.sh", "check")
    assert (read.inputs, read.used()) == (("FRAMEWORK",), {"FRAMEWORK"})


def read_example(text: str, path: Path, kind: script.Kind) -> script.Script:
    """Read the script of a page, which shellcheck must accept."""
    path.write_text(text)
    command = [
        str(Path(sys.executable).parent / "shellcheck"),
        "--external-sources",
        f"--source-path={LIB.parent}",
        str(path),
    ]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    return script.read_script(path, kind)


# Environment variables ----------------------------------------------------------------------------


def variables_read(path: Path) -> Iterator[str]:
    """Yield the names that a file reads from the environment, or passes to a function that does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called.endswith(("environ.get", "getenv")) or called == "_folder":
                yield str(node.args[0].value)
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield from re.findall("^'(.*)'$", ast.unparse(node.slice))


def test_every_environment_variable_that_bake_reads_is_in_its_page_and_no_other_of_bake() -> None:
    here = [path for path in PYTHON if not {"on_machine", "benchmarks"} & {*path.parts}]
    read = {name for path in here for name in variables_read(path)}
    # Passed through other functions, for example as a key of a mapping.
    read |= {name for path in here for name in re.findall(r'"(BAKE_[A-Z_]+)"', path.read_text())}
    read |= set(re.findall(r"^([A-Z]+) \?=", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    read -= {*script.GIVEN_TO}  # of stages and checks
    documented = set(re.findall(r"`([A-Za-z_]+)`", first_cells(ENVIRONMENT)))
    assert {name.upper() for name in read} - documented == set()
    assert {name for name in documented if name.startswith("BAKE_")} <= read


def test_the_variables_of_local_env_are_in_the_page_about_the_environment() -> None:
    from bake.local.control import LocalCloud, environment

    text = ENVIRONMENT.read_text()
    names = environment(LocalCloud(url="http://127.0.0.1:1", ssh_port=22, pid=1))
    assert [name for name in names if f"`{name}`" not in text] == []


# Messages -----------------------------------------------------------------------------------------


def messages() -> list[str]:
    """Return the texts of the code, each variable part as `…`."""
    found = (each for path in FILES for each in texts(path) if not each.is_docstring)
    return [" ".join(each.text.split()) for each in found]


def test_each_heading_of_the_page_about_failures_is_a_message_of_the_code() -> None:
    known = messages()
    headings = re.findall(r"^### (.+)$", TROUBLESHOOTING.read_text(), re.MULTILINE)
    assert len(headings) > 40
    for heading in headings:
        parts = [re.escape(part.strip()) for part in heading.split("…") if part.strip(" :")]
        pattern = re.compile(".*".join(parts))
        assert any(pattern.search(text) for text in known), heading


# Words --------------------------------------------------------------------------------------------


def test_the_glossary_is_in_alphabetical_order() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\*", GLOSSARY.read_text(), re.MULTILINE)
    assert len(words) > 40
    assert words == sorted(words, key=str.lower)
