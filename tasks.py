"""The command line: `invoke --list` shows it, `invoke --help COMMAND` explains one."""

from __future__ import annotations

from invoke import Collection

from bake.cli.bake import bake, lock, plan, rebuild, recipes, report
from bake.cli.bench import bench
from bake.cli.connect import connect, get, jupyter, put, run, ssh_config
from bake.cli.doctor import doctor
from bake.cli.gpus import gpus, quota
from bake.cli.images import copy, images, prune
from bake.cli.launch import launch_from_ami
from bake.cli.local import down, env, interrupt, status, up
from bake.cli.machines import extend, machines, start, stop, terminate
from bake.cli.reap import checkpoints, reap

namespace = Collection(
    bake,
    plan,
    rebuild,
    lock,
    report,
    recipes,
    doctor,
    checkpoints,
    reap,
    launch_from_ami,
    gpus,
    quota,
    images,
    copy,
    prune,
    machines,
    start,
    stop,
    extend,
    terminate,
    connect,
    run,
    put,
    get,
    ssh_config,
    jupyter,
    bench,
)
namespace.add_collection(Collection("local", up, down, status, env, interrupt))
