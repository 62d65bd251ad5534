"""The command line: `invoke --list` shows it, `invoke COMMAND --help` explains one."""

from __future__ import annotations

from invoke import Collection

from bake.cli.bake import bake, lock, plan, rebuild, recipes, report
from bake.cli.bench import bench
from bake.cli.completion.command import completion
from bake.cli.connect import connect, get, jupyter, put, run, ssh_config
from bake.cli.doctor import doctor
from bake.cli.gpus import gpus, quota
from bake.cli.images import copy, images, prune
from bake.cli.launch import launch_from_ami
from bake.cli.local import down, env, interrupt, status, up
from bake.cli.machines import extend, machines, start, stop, terminate
from bake.cli.parser import section
from bake.cli.reap import checkpoints, reap

namespace = Collection(
    *section("Bake images", bake, plan, rebuild, recipes, lock, report, gpus, quota),
    *section("Use images", launch_from_ami, jupyter, connect, run, put, get, ssh_config, bench),
    *section("Look after machines", machines, extend, start, stop, terminate),
    *section("Look after images", images, copy, prune, checkpoints, reap),
    *section("Set up", doctor, completion),
)
namespace.add_collection(
    Collection("local", *section("Local cloud", up, down, status, env, interrupt))
)
