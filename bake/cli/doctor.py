"""The command that finds what is missing before a bake: here, and at AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from bake.cli.command import command
from bake.cli.environment import open_cloud, project
from bake.cli.options import CommonOptions, RecipeOptions
from bake.cli.recipes import chosen_recipes

if TYPE_CHECKING:
    from bake.console.console import Console


@command(
    "region",
    "local",
    "json",
    positional=["recipe"],
    help={
        "recipe": "the recipe that you want to bake "
        "(default: the first one of your project, else the one for CUDA 10.1)"
    },
    arguments="[RECIPE]",
    examples=["invoke doctor --region us-west-2", "invoke doctor mxnet-cu101 --local"],
    document="doctor.DoctorDocument",
)
def doctor(console: Console, common: CommonOptions, recipe: tuple[str, ...] = ()) -> None:
    """Check this computer and the AWS account before a bake; nothing is changed."""
    import json
    from functools import partial

    from bake.cli.views.doctor import show_diagnosis
    from bake.errors import BakeError
    from bake.pipeline import doctor as checks
    from bake.recipe.project import docs
    from bake.recipe.recipe_files import own_names

    if common.local:
        from bake.local.control import needs

        if recipe:
            chosen_recipes(console, RecipeOptions(recipe=recipe), local=True)
        diagnosis = checks.examine(None, needs())
    else:
        names = recipe or tuple(sorted(own_names(project()))[:1])
        selection = RecipeOptions(recipe=names, cuda=None if names else "10.1")
        [chosen] = chosen_recipes(console, selection, local=False).recipes
        policy, key_policy = (
            json.loads((docs() / name).read_text())
            for name in ("iam-policy.json", "iam-policy-disk-key.json")
        )
        connect = partial(open_cloud, console, common, common.region or chosen.recipe.region)
        diagnosis = checks.examine(checks.Wanted(chosen, policy, key_policy, connect))
    show_diagnosis(console, diagnosis)
    if missing := diagnosis.missing:
        what = "prerequisite is" if len(missing) == 1 else "prerequisites are"
        console.fail(BakeError(f"{len(missing)} {what} missing", details=missing))
        raise Exit(code=1)
