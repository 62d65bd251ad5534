"""Recipes become images."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from invoke import task

from bake.cli.command import raise_for, running
from bake.cli.context import MANIFESTS, invoke_word, new_console, only
from bake.cli.options import COMMAND, RECIPE
from bake.cli.orders import chosen_recipes, orders_for


@task(
    positional=["recipe"],
    help={
        **RECIPE,
        "all": "every recipe of manifests/",
        "name": "the image's name (default: bake/RECIPE/DATE-DIGEST)",
        "jobs": "with several recipes: how many machines at a time",
        "fresh": "as if nothing were there: no image, no checkpoint",
        "keep_on_failure": "leave the machine up when the bake fails, and say how to reach it",
        "shell_on_failure": "open a shell on the machine when the bake fails",
    },
    **COMMAND,
)
def bake(
    _context: Any,
    recipe: Any = None,
    all: bool = False,
    cuda: str | None = None,
    framework: str | None = None,
    region: str | None = None,
    instance_type: str | None = None,
    spot: bool = False,
    no_spot: bool = False,
    name: str | None = None,
    jobs: int = 4,
    fresh: bool = False,
    no_lock: bool = False,
    keep_on_failure: bool = False,
    shell_on_failure: bool = False,
    local: bool = False,
    stand_in: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Bake recipes into verified machine images; what is there already is not baked again."""
    console = new_console(json, quiet, verbose)
    with running(console):
        chosen = chosen_recipes(
            recipe,
            everything=all,
            cuda=cuda,
            framework=framework,
            instance_type=instance_type,
            spot=spot,
            no_spot=no_spot,
            local=local,
        )
        from bake.cli.views import bakes
        from bake.pipeline import bake as pipeline
        from bake.pipeline.builder import OnFailure

        options = pipeline.Options(
            name=name,
            fresh=fresh,
            on_failure=OnFailure(keep=keep_on_failure, shell=shell_on_failure),
            machines=jobs,
        )
        options.check(len(chosen), interactive=sys.stdin.isatty())
        orders, refused = orders_for(
            console, chosen, local=local, stand_in=stand_in, region=region, no_lock=no_lock
        )
        if len(chosen) > 1:
            outcomes = pipeline.bake_all(orders, options, refused)
            bakes.show_outcomes(console, outcomes)
            raise_for(outcomes)
            return
        ((context, only),) = orders
        console.note(f"{only.name}: {only.description}")
        outcome = pipeline.bake(context, only, options)
        bakes.show_outcome(console, outcome, f"{invoke_word()} launch-from-ami {context.here}")


@task(
    positional=["recipe"],
    help={**RECIPE, "all": "every recipe of manifests/", "fresh": "as if nothing were there"},
    **COMMAND,
)
def plan(
    _context: Any,
    recipe: Any = None,
    all: bool = False,
    cuda: str | None = None,
    framework: str | None = None,
    region: str | None = None,
    instance_type: str | None = None,
    spot: bool = False,
    no_spot: bool = False,
    fresh: bool = False,
    no_lock: bool = False,
    local: bool = False,
    stand_in: bool = False,
    json: bool = False,
) -> None:
    """Show what a bake would do, why, and what it takes; nothing is started or changed."""
    console = new_console(json)
    with running(console):
        chosen = chosen_recipes(
            recipe,
            everything=all,
            cuda=cuda,
            framework=framework,
            instance_type=instance_type,
            spot=spot,
            no_spot=no_spot,
            local=local,
        )
        from functools import partial

        from bake.cli.views import bakes, plans
        from bake.pipeline import bake as pipeline
        from bake.pipeline.preview import preview

        orders, refused = orders_for(
            console, chosen, local=local, stand_in=stand_in, region=region, no_lock=no_lock
        )
        if len(chosen) == 1:
            previews = [preview(*orders[0], fresh=fresh)]
        else:
            found, failed = pipeline.for_each(orders, partial(preview, fresh=fresh))
            previews, refused = [each for _, each in found], refused + failed
        plans.show_plans(console, previews)
        bakes.show_failures(console, refused)
        raise_for(refused)


@task(
    positional=["recipe"],
    help={
        "recipe": "recipes of manifests/ (default: all of them)",
        "matrix": "only print the groups that have something to do, as a matrix for GitHub Actions",
        "jobs": "how many machines at a time",
        "give_up_after": "failures in a row, after which a recipe is not tried any more",
        "retry": "try those too that were given up",
        "summary": "a file for the summary, in Markdown (also written to $GITHUB_STEP_SUMMARY)",
        "stand_in": RECIPE["stand_in"],
    },
    **COMMAND,
)
def rebuild(
    _context: Any,
    recipe: Any = None,
    matrix: bool = False,
    jobs: int = 4,
    give_up_after: int = 3,
    retry: bool = False,
    region: str | None = None,
    summary: str | None = None,
    local: bool = False,
    stand_in: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Bake what has changed since the last image of each recipe, and nothing else."""
    console = new_console(json, quiet, verbose)
    with running(console):
        from bake.cli.views import bakes, github
        from bake.pipeline import bake as pipeline
        from bake.pipeline import rebuild as schedule

        chosen = chosen_recipes(recipe, everything=not recipe, local=local)
        options = pipeline.Options(machines=jobs)
        options.check(len(chosen), interactive=False)
        limit = None if retry else give_up_after
        schedule.check(limit, summary)
        orders, refused = orders_for(console, chosen, local=local, stand_in=stand_in, region=region)
        candidates, unknown = schedule.look(orders)
        if matrix:
            given_up = schedule.given_up_of(candidates, limit)
            if given_up:
                github.write_summary(github.summary(given_up), os.environ)
                bakes.show_reports(console, given_up)
            # The one thing for a program to read, and so for stdout.
            print(schedule.matrix(candidates, refused + unknown, limit=limit))
            return
        reports = schedule.rebuild(candidates, refused + unknown, options, limit=limit)
        text = github.summary(reports)
        github.write_summary(text, os.environ)
        if summary:
            Path(summary).write_text(f"{text}\n")
        bakes.show_reports(console, reports)
        raise_for(reports)


@task(
    positional=["recipe"],
    help={
        "recipe": "recipes of manifests/ that were baked here",
        "record": "the bake's record.json (default: that of the recipe's newest bake here)",
        "stand_in": "of a bake with stand-ins",
    },
    **COMMAND,
)
def lock(
    _context: Any,
    recipe: Any = None,
    record: str | None = None,
    stand_in: bool = False,
    json: bool = False,
) -> None:
    """Write manifests/RECIPE.lock: what a bake has installed is what every one installs."""
    console = new_console(json)
    with running(console):
        from bake import files
        from bake.cli.views import bakes
        from bake.errors import RequestError
        from bake.plan import lock as locks
        from bake.recipe import recipe as recipe_module

        if not recipe or (record and len(recipe) > 1):
            raise RequestError("Which recipe?", hint="Name one, or without --record several")
        payload = "stand-in" if stand_in else "upstream"
        written = []
        for name in recipe:
            recipe_module.find(name, MANIFESTS)
            found = Path(record) if record else locks.newest_record(files.builds(), name, payload)
            path = MANIFESTS / f"{name}.lock"
            made = locks.from_record(found, name, locks.earlier(path))
            locks.write(made, path)
            written.append((path, made))
        bakes.show_locks(console, written)


@task(
    positional=["which"],
    help={
        "which": "a run, a recipe (its newest bake here) or a record.json (default: the newest)",
        "browser": "open it, too",
    },
    **COMMAND,
)
def report(_context: Any, which: Any = None, browser: bool = False, json: bool = False) -> None:
    """Make the page of a bake again, report.html beside its record, and say where it is."""
    console = new_console(json)
    with running(console):
        from bake import files
        from bake.machine.browser import opens
        from bake.record import builds
        from bake.record.report import report as reports

        path = reports.make(builds.find(files.builds(), only(which, "bake") or ""))
        console.result({"path": str(path)}, str(path))
        if browser and not opens(path):
            console.warn(f"No browser is to be had here: open {path.absolute().as_uri()}")


@task(**COMMAND)
def recipes(_context: Any, json: bool = False) -> None:
    """List the recipes that there are."""
    console = new_console(json)
    with running(console):
        from bake.recipe import recipe as recipe_module

        known = recipe_module.all_recipes(MANIFESTS)
        console.table(
            ["recipe", "OS", "driver", "CUDA", "Python", "framework"],
            [
                [
                    each.name,
                    each.base,
                    each.driver.branch,
                    each.cuda.version,
                    f"{each.python.version} {each.python.manager}",
                    f"{each.framework.name} {each.framework.version}",
                ]
                for each in known
            ],
            empty=f"No recipes in {MANIFESTS}.",
        )
        if json:
            console.result([each.model_dump(mode="json") for each in known])
