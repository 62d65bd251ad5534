"""Which recipes are meant, and where each is baked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bake.cli.context import MANIFESTS, SCRIPTS, open_cloud, ssh_port

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.console.console import Console
    from bake.pipeline.bake import Outcome
    from bake.pipeline.job import Context
    from bake.recipe.recipe import Recipe


def chosen_recipes(
    names: tuple[str, ...],
    *,
    everything: bool = False,
    cuda: str | None = None,
    framework: str | None = None,
    instance_type: str | None = None,
    spot: bool = False,
    no_spot: bool = False,
    local: bool,
) -> list[Recipe]:
    """Those that are meant, each as it shall be baked. Whatever cannot work is refused here."""
    from bake import catalog
    from bake.errors import RequestError
    from bake.recipe import recipe as recipes
    from bake.recipe.compatibility import refuse_what_cannot_work

    if spot and no_spot:
        raise RequestError("--spot and --no-spot exclude each other", hint="Give one of them")
    if everything and (names or cuda or framework):
        raise RequestError("--all means all recipes", hint="Leave out the names, or --all")
    if len(names) > 1 and (cuda or framework):
        raise RequestError("--cuda and --framework are for one recipe", hint="Leave them out")
    market = True if spot else False if no_spot else None
    if everything:
        chosen = recipes.all_recipes(MANIFESTS)
    else:
        chosen = [
            recipes.choose(MANIFESTS, name=name, cuda=cuda, framework=framework)
            for name in dict.fromkeys(names or (None,))
        ]
    # Without a name they have chosen the recipe; with one, they change it.
    change = {"cuda": cuda, "framework": framework} if names else {}
    ready = []
    for recipe in chosen:
        changed = recipes.override(recipe, instance_type=instance_type, spot=market, **change)
        refuse_what_cannot_work(changed, catalog.load())
        # A GPU is what an image on AWS is for; a computer of one's own need not have one.
        policy = changed.gpu or ("if-present" if local else "required")
        ready.append(changed.model_copy(update={"gpu": policy}))
    return ready


def _workshop(
    console: Console,
    recipe: Recipe,
    clouds: dict[str | None, Cloud],
    *,
    local: bool,
    stand_in: bool,
    region: str | None,
    no_lock: bool,
) -> Context:
    from bake import catalog, files
    from bake.errors import RequestError
    from bake.pipeline.job import Context
    from bake.plan import lock as locks
    from bake.recipe import payload

    if stand_in and not local:
        raise RequestError(
            "--stand-in is for the local cloud: an image of stand-ins is of no use on AWS",
            hint="Add --local, or leave out --stand-in",
        )
    downloads = payload.UPSTREAM
    lock = None if no_lock else locks.beside(MANIFESTS, recipe.name)
    cloud = clouds.get(region or recipe.region)
    if cloud is None:
        cloud = open_cloud(console, local=local, region=region or recipe.region)
        clouds[region or recipe.region] = cloud
    if local:
        from bake.local import control, standin
        from bake.local.machines import os_images

        if stand_in:
            with console.step("Stand-in upstreams") as step:
                downloads = standin.up(recipe)
                step.done(downloads.mirrors["nvidia"].partition("/compute")[0])
        with console.step("Base image") as step:
            step.done(
                os_images.provide(
                    control.up(),
                    catalog.load().os_image(recipe.base),
                    stand_in=stand_in,
                    region=cloud.region,
                    files=standin.machine_files() if stand_in else None,
                )
            )
    return Context(
        cloud=cloud,
        payload=downloads,
        scripts=SCRIPTS,
        builds=files.builds(),
        console=console,
        lock=lock,
        ssh_port=ssh_port(),
        here="--local" if local else f"--region {cloud.region}",
    )


def orders_for(
    console: Console,
    recipes: list[Recipe],
    *,
    local: bool,
    stand_in: bool,
    region: str | None,
    no_lock: bool = False,
) -> tuple[list[tuple[Context, Recipe]], list[Outcome]]:
    """Each recipe with where it is baked; and those for which there is no such place."""
    from bake.errors import BakeError
    from bake.pipeline.bake import Outcome

    orders, refused = [], []
    clouds: dict[str | None, Cloud] = {}
    # All of them first: what they write is as wide as the longest name.
    several = len(recipes) > 1
    consoles = [console.named(recipe.name) if several else console for recipe in recipes]
    for recipe, mine in zip(recipes, consoles, strict=True):
        try:
            context = _workshop(
                mine,
                recipe,
                clouds,
                local=local,
                stand_in=stand_in,
                region=region,
                no_lock=no_lock,
            )
            orders.append((context, recipe))
        except BakeError as error:
            if len(recipes) == 1:
                raise
            refused.append(Outcome(recipe.name, "failed", 0, error=error))
    return orders, refused


def types_of(recipe: str) -> tuple[str, ...]:
    """On which machines it is baked; none where it is not here."""
    from bake.errors import RecipeError
    from bake.recipe import recipe as recipes

    try:
        return recipes.find(recipe, MANIFESTS).builder.instance_types
    except RecipeError:
        return ()
