"""The commands as two programs: `invoke` in a checkout (tasks.py), and `bake` once installed."""

from __future__ import annotations

from collections.abc import Sequence

from invoke import Collection

from bake import __version__
from bake.cli.bake import bake, lock, plan, rebuild, recipes, report
from bake.cli.bench import bench
from bake.cli.completion.command import completion
from bake.cli.connect import connect, get, jupyter, put, run, ssh_config
from bake.cli.doctor import doctor
from bake.cli.gpus import gpus, quota
from bake.cli.images import copy, images, prune
from bake.cli.init import init, schema
from bake.cli.launch import launch_from_ami
from bake.cli.local import down, env, interrupt, status, up
from bake.cli.machines import extend, machines, start, stop, terminate
from bake.cli.parser import BakeProgram, ParsedTask, section
from bake.cli.reap import checkpoints, reap
from bake.console.program import BAKE, typed_verb


def commands() -> Collection:
    """Return all commands, with the names that the program that was typed gives them."""
    tasks: Sequence[ParsedTask] = [
        *section("Bake images", bake, plan, rebuild, recipes, lock, report, gpus, quota),
        *section("Use images", launch_from_ami, jupyter, connect, run, put, get, ssh_config, bench),
        *section("Look after machines", machines, extend, start, stop, terminate),
        *section("Look after images", images, copy, prune, checkpoints, reap),
        *section("Set up", init, doctor, schema, completion),
    ]
    found = Collection()
    for task in tasks:
        found.add_task(task, name=typed_verb(task.name))
    local = section("Local cloud", up, down, status, env, interrupt)
    found.add_collection(Collection("local", *local))
    return found


def main() -> None:
    """Run the command line of `bake`."""
    BakeProgram(__version__, commands(), name=BAKE, binary=BAKE).run()
