"""The commands that bake recipes, plan bakes, and read what a bake has recorded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bake.cli.command import command, raise_for
from bake.cli.environment import at_most_one, project, project_of, this_command, this_program
from bake.cli.options import CommonOptions, RecipeOptions, explained
from bake.cli.recipes import chosen_recipes, requests_for, selected_recipes, warn_about

if TYPE_CHECKING:
    from bake.console.console import Console


@command(
    "region",
    "local",
    "json",
    "quiet",
    "verbose",
    group=RecipeOptions,
    positional=["recipe"],
    help={
        "name": "the image's name (default: bake/RECIPE/DATE-DIGEST)",
        "jobs": "with several recipes: how many machines at a time",
        "fresh": "bake everything again; ignore existing images and checkpoints",
        "keep_on_failure": "keep the machine when the bake fails, and show how to reach it",
        "shell_on_failure": "open a shell on the machine when the bake fails",
    },
    arguments="[RECIPE …]",
    examples=[
        "invoke bake pytorch-cu126 --region us-west-2",
        "invoke bake --cuda 10.1 --local --stand-in",
    ],
    document="bakes.BakeDocument",
)
def bake(
    console: Console,
    common: CommonOptions,
    selection: RecipeOptions,
    name: str | None = None,
    jobs: int = 4,
    fresh: bool = False,
    keep_on_failure: bool = False,
    shell_on_failure: bool = False,
) -> None:
    """Bake recipes into verified machine images; an image that exists is not baked again."""
    chosen = chosen_recipes(console, selection, local=common.local)
    from bake import files
    from bake.cli.views import bakes
    from bake.pipeline import bake as pipeline
    from bake.pipeline.builder import OnFailure

    options = pipeline.Options(
        name=name,
        fresh=fresh,
        on_failure=OnFailure(
            keep=keep_on_failure,
            shell=shell_on_failure,
            again=this_command("--keep-on-failure") if len(chosen) == 1 else "",
        ),
        machines=jobs,
    )
    options.check(len(chosen), interactive=sys.stdin.isatty() and not console.json)
    requests, failures = requests_for(
        console, common, chosen, stand_in=selection.stand_in, no_lock=selection.no_lock
    )
    if len(chosen) != 1 or failures:
        outcomes = pipeline.bake_all(requests, options, failures)
        bakes.show_outcomes(console, outcomes, files.builds())
        raise_for(console, {each.recipe: each.error for each in outcomes})
        return
    ((context, only),) = requests
    console.note(f"{only.name}: {only.recipe.description}")
    outcome = pipeline.bake(context, only, options)
    if name and outcome.image and outcome.image.name != name:
        console.warn(
            f"--name {name} was not used: the image exists already, as {outcome.image.name}. "
            "To bake it again with this name, add --fresh"
        )
    launch = f"{this_program()} launch-from-ami {context.here}"
    bakes.show_outcome(console, outcome, files.builds(), launch)


@command(
    "region",
    "local",
    "json",
    group=RecipeOptions,
    positional=["recipe"],
    help={"fresh": "bake everything again; ignore existing images and checkpoints"},
    arguments="[RECIPE …]",
    examples=["invoke plan pytorch-cu126 --region us-west-2", "invoke plan --all --json"],
    document="plans.PlanDocument",
)
def plan(
    console: Console, common: CommonOptions, selection: RecipeOptions, fresh: bool = False
) -> None:
    """Show what a bake would do, why, and what it takes; nothing is started or changed."""
    chosen = chosen_recipes(console, selection, local=common.local)
    from functools import partial

    from bake.cli.views import bakes, plans
    from bake.pipeline import bake as pipeline
    from bake.pipeline.preview import preview

    requests, failures = requests_for(
        console, common, chosen, stand_in=selection.stand_in, no_lock=selection.no_lock
    )
    if len(chosen) == 1 and requests:
        previews = [preview(*requests[0], fresh=fresh)]
    else:
        found, failed = pipeline.for_each(requests, partial(preview, fresh=fresh))
        previews, failures = found, failures + failed
    plans.show_plans(console, previews, failures)
    bakes.show_failures(console, failures)
    planned = {each.job.name: None for each in previews}
    raise_for(console, planned | {each.recipe: each.error for each in failures})


@command(
    "region",
    "local",
    "json",
    "quiet",
    "verbose",
    positional=["recipe"],
    help={
        "recipe": "recipes (default: all of your project; without one, all of bake)",
        "matrix": "only print the groups that have something to do, as a matrix for GitHub Actions",
        "jobs": "how many machines at a time",
        "give_up_after": "failures in a row after which a recipe is no longer tried",
        "retry": "also try recipes that failed too often",
        "summary": "a file for the summary, in Markdown (also written to $GITHUB_STEP_SUMMARY)",
        "stand_in": explained(RecipeOptions)["stand_in"][1],
    },
    arguments="[RECIPE …]",
    examples=["invoke rebuild --region us-west-2", "invoke rebuild mxnet-cu101 --retry"],
    document="bakes.RebuildDocument",
)
def rebuild(
    console: Console,
    common: CommonOptions,
    recipe: tuple[str, ...] = (),
    matrix: bool = False,
    jobs: int = 4,
    give_up_after: int = 3,
    retry: bool = False,
    summary: str | None = None,
    stand_in: bool = False,
) -> None:
    """Bake what has changed since the last image of each recipe, and nothing else."""
    from bake import files
    from bake.cli.views import bakes, github
    from bake.pipeline import bake as pipeline
    from bake.pipeline import rebuild as rebuilding

    chosen = selected_recipes(console, recipe, local=common.local)
    options = pipeline.Options(machines=jobs)
    options.check(len(chosen), interactive=False)
    limit = None if retry else give_up_after
    rebuilding.check_options(limit, summary)
    requests, failures = requests_for(console, common, chosen, stand_in=stand_in)
    if matrix:
        groups, given_up = rebuilding.plan_groups(requests, failures, limit)
        if given_up:
            github.write_summary(github.summary(given_up), os.environ)
            bakes.show_problems(console, given_up)
        matrix_text = github.matrix(groups)
        if console.json:
            console.result(bakes.rebuild_document(given_up, matrix_text))
        else:
            console.output(matrix_text)
        return
    reports = rebuilding.rebuild_all(requests, failures, options, limit)
    console.result(bakes.rebuild_document(reports))
    bakes.show_reports(console, reports)
    text = github.summary(reports)
    github.write_summary(text, os.environ)
    if summary:
        with files.writing(Path(summary)):
            Path(summary).write_text(f"{text}\n")
    raise_for(console, {each.recipe: each.error for each in reports})


@command(
    "json",
    positional=["recipe"],
    help={
        "recipe": "recipes that were baked on this computer",
        "record": "the bake's record.json (default: the one of the recipe's newest bake here)",
        "stand_in": "use a bake with stand-ins",
    },
    arguments="RECIPE …",
    examples=["invoke lock mxnet-cu101", "invoke lock mxnet-cu101 --record record.json"],
    document="recipes.LockDocument",
)
def lock(
    console: Console,
    common: CommonOptions,
    recipe: tuple[str, ...] = (),
    record: str | None = None,
    stand_in: bool = False,
) -> None:
    """Write manifests/RECIPE.lock: later bakes install the same versions as this bake did."""
    from bake import files
    from bake.cli.views import bakes
    from bake.errors import RequestError
    from bake.plan import lock as locks
    from bake.recipe import recipes
    from bake.recipe.recipe_files import is_path, new_lock_path

    if not recipe:
        raise RequestError(
            "No recipe was named", hint="invoke lock RECIPE; `invoke recipes` lists the recipes"
        )
    if record and len(recipe) > 1:
        raise RequestError(
            f"--record belongs to one recipe, but {len(recipe)} were named",
            hint="Name one recipe, or leave out --record",
        )
    own = project_of(recipe)
    if own.is_installed and not all(map(is_path, recipe)):
        raise RequestError(
            f"The recipes of the installed bake cannot be locked: {own.manifests} belongs to it",
            hint="Make a project of your own, and lock them there: invoke init FOLDER",
        )
    payload = "stand-in" if stand_in else "upstream"
    written = []
    for named in recipe:
        name = recipes.find(named, own).name
        found = Path(record) if record else locks.newest_record(files.builds(), name, payload)
        path = new_lock_path(named, name, own)
        made = locks.from_record(found, name, locks.read_if_valid(path))
        locks.write(made, path)
        written.append((path, made))
    bakes.show_locks(console, written)


@command(
    "json",
    positional=["which"],
    help={
        "which": "a run, a recipe (its newest bake here) or a record.json (default: the newest)",
        "all": "write the pages of all builds on this computer, and an index of them",
        "browser": "open it in the browser, too",
    },
    arguments="[RUN]",
    examples=["invoke report pytorch-cu126", "invoke report --all --browser"],
    document="recipes.ReportDocument",
)
def report(
    console: Console,
    common: CommonOptions,
    which: tuple[str, ...] = (),
    all: bool = False,
    browser: bool = False,
) -> None:
    """Write the page of a bake again (report.html, next to its record) and print its path."""
    from bake import files
    from bake.cli.documents.recipes import ReportDocument
    from bake.cli.views.index_page import write_index
    from bake.errors import RequestError
    from bake.machine.browser import open_page
    from bake.record import builds
    from bake.record.report import report as reports

    name = at_most_one(which, "bake") or ""
    if name and all:
        raise RequestError(
            f"--all means all builds, but {name} was named", hint="Leave out the name, or --all"
        )
    folder = files.builds()
    path = write_index(folder) if all else reports.make(builds.find(folder, name))
    console.result(ReportDocument(path=path), str(path))
    if browser and not open_page(path):
        console.warn(f"No browser found. Open the page yourself: {path.absolute().as_uri()}")


@command(
    "json",
    examples=["invoke recipes", "invoke recipes --json"],
    document="recipes.RecipesDocument",
)
def recipes(console: Console, common: CommonOptions) -> None:
    """List the recipes: their GPUs and contents. --cuda selects a default one."""
    from bake.cli.views.recipes import show_recipes
    from bake.recipe.recipes import read_all

    found, broken = read_all(project())
    warn_about(console, broken)
    show_recipes(console, found, broken, project())
