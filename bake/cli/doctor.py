"""What the account has, may do and still holds."""

from __future__ import annotations

from typing import Any

from invoke import task
from invoke.exceptions import Exit

from bake.cli.command import running
from bake.cli.context import ROOT, new_console, open_cloud
from bake.cli.options import COMMAND
from bake.cli.orders import chosen_recipes


@task(
    positional=["recipe"],
    help={"recipe": "what is to be baked (default: the recipe for CUDA 10.1)"},
    **COMMAND,
)
def doctor(
    _context: Any,
    recipe: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Say what is missing here, and at AWS, before anything is started; nothing is changed."""
    console = new_console(json)
    with running(console):
        import json as json_library
        from functools import partial

        from bake.cli.views import doctor as doctors_doctor
        from bake.pipeline import doctor as doctors

        if local:
            from bake.local.control import needs

            diagnosis = doctors.examine(None, needs())
        else:
            [chosen] = chosen_recipes(recipe, cuda=None if recipe else "10.1", local=False)
            policy = json_library.loads((ROOT / "docs" / "iam-policy.json").read_text())
            connect = partial(open_cloud, console, local=False, region=region or chosen.region)
            diagnosis = doctors.examine(doctors.Wanted(chosen, policy, connect))
        doctors_doctor.show(console, diagnosis)
        if not diagnosis.well:
            raise Exit(code=1)
