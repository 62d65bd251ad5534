"""What the commands' options say."""

from __future__ import annotations

from bake.cli.command import Command

COMMAND = {"klass": Command, "auto_shortflags": False}
RECIPE = {
    "recipe": "recipes of manifests/ (default: one, by --cuda and --framework; see invoke recipes)",
    "cuda": "CUDA version, like 10.1",
    "framework": "mxnet or pytorch",
    "instance_type": "an EC2 instance type instead of the recipe's",
    "spot": "a spot machine",
    "no_spot": "an on-demand machine, whatever the recipe says",
    "stand_in": "with --local: small stand-ins for NVIDIA's, Anaconda's and Ubuntu's servers",
    "no_lock": "install what there is now, and not what the recipe's lock says",
}
MACHINE = {"machine": "id or name of a machine (default: the only one)"}
NO_BROWSER = "print the address of Jupyter, with its token, instead of opening it (as --json does)"
