"""The surroundings of a command: its cloud, the folders of recipes and scripts, the SSH port.

Only this module starts the local cloud. For everything else it is a cloud like any other.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from bake.console.program import program_name
from bake.errors import RequestError
from bake.recipe.project import (
    Project,
    built_in,
    named_project,
    nearest_project,
    project_in,
)

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.cli.options import CommonOptions
    from bake.console.console import Console


# The folder that --project names in the command that runs.
_named: ContextVar[str | None] = ContextVar("project", default=None)


def use_project(named: str | None) -> None:
    """Choose the project of the command that runs, by the value of --project.

    RequestError if it is named and has no recipes. If the project that is found without a name
    cannot be used, only a command that needs its recipes fails.
    """
    from bake import catalog

    _named.set(named)
    folder = None
    try:
        folder = project().catalog
    except RequestError:
        if named or os.environ.get("BAKE_PROJECT"):
            raise
    catalog.use(folder)


def project() -> Project:
    """Return the project: --project, BAKE_PROJECT, tasks.py's, the nearest, else the built-in.

    tasks.py is the one that Invoke has loaded; the program `bake` loads none. The nearest project
    is the one in this folder or else above it. RequestError if it cannot be used.
    """
    if named := _named.get():
        return named_project(Path(named), "--project")
    if named := os.environ.get("BAKE_PROJECT"):
        return named_project(Path(named), "The environment variable BAKE_PROJECT")
    tasks = sys.modules.get("tasks")
    if tasks and (beside := project_in(Path(str(tasks.__file__)).parent)).own_recipes:
        return beside
    with suppress(FileNotFoundError):  # this folder was removed
        return nearest_project(Path.cwd()) or built_in()
    return built_in()


def project_of(recipes: Iterable[str]) -> Project:
    """Return the project of the recipes that a command names, some of them perhaps by their paths.

    Without --project and BAKE_PROJECT, it is the one that the path belongs to. RequestError if
    these are several.
    """
    from bake.recipe.recipe_files import is_path

    if _named.get() or os.environ.get("BAKE_PROJECT"):
        return project()
    folders = {Path(name).absolute().parent for name in recipes if is_path(name)}
    owners = {found.folder for folder in folders if (found := nearest_project(folder))}
    if len(owners) > 1:
        raise RequestError(
            f"These recipes belong to several projects: {', '.join(map(str, sorted(owners)))}",
            hint="Name recipes of one project, or choose one by --project",
        )
    for owner in owners:
        use_project(str(owner))
    return project()


def open_cloud(console: Console, common: CommonOptions, region: str | None = None) -> Cloud:
    """Connect to AWS, or with --local to the local cloud, which is started if needed.

    `region` is used instead of the one in the options.
    """
    from bake.aws.client.session import connect

    if common.local:
        from bake.local import control

        endpoint = control.status()
        if endpoint is None:
            with console.step("Local cloud") as step:
                endpoint = control.up()
                step.done(endpoint.url)
            console.note("The local cloud keeps running until: invoke local.down")
            if endpoint.note:
                console.warn(endpoint.note)
        control.use(endpoint)
    return connect(region or common.region)


def this_program() -> str:
    """Return how to call this program here: by its path if its name alone does not find it."""
    import shutil

    name, running = program_name(), Path(sys.argv[0])
    found = shutil.which(name)
    if found and running.exists() and Path(found).samefile(running):
        return name
    return min(os.path.relpath(running), str(running.absolute()), key=len)


def this_command(*more: str) -> str:
    """Return this command line with more words, so that it can be pasted."""
    import shlex

    return shlex.join([this_program(), *sys.argv[1:], *more])


def ssh_port() -> int:
    """The port of SSH on the machines: `BAKE_SSH_PORT`, else 22. RequestError if it is invalid."""
    text = os.environ.get("BAKE_SSH_PORT") or "22"
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise RequestError(
            f"Invalid value of the environment variable BAKE_SSH_PORT: {text}",
            hint="Set it to a port, such as 22, or unset it",
        )
    return int(text)


def at_most_one(words: tuple[str, ...], what: str) -> str | None:
    """Return the only word, or None without any. Several are a RequestError."""
    if len(words) > 1:
        raise RequestError(
            f"This command takes one {what}, not several: {' '.join(words)}",
            hint=f"Name one {what}",
        )
    return words[0] if words else None


def machine_named(word: str | None, option: str | None) -> str | None:
    """Return the machine that a word or `--machine` names. RequestError if they differ."""
    if word and option and word != option:
        raise RequestError(
            f"Two machines are named: {word}, and --machine {option}", hint="Name one machine"
        )
    return word or option
