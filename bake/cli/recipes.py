"""Which recipes a command is about, and the context in which each one is baked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bake.cli.command import completion
from bake.cli.environment import open_cloud, project, project_of, ssh_port
from bake.cli.options import CommonOptions, RecipeOptions

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.aws.image import Image
    from bake.console.console import Console
    from bake.errors import Finding
    from bake.pipeline.bake import Outcome
    from bake.pipeline.job import Context
    from bake.plan.lock import Lock
    from bake.recipe.payload import Payload
    from bake.recipe.project import Project
    from bake.recipe.recipe import Recipe
    from bake.recipe.recipes import BrokenRecipe
    from bake.recipe.resolved import Resolved


@dataclass(frozen=True)
class Chosen:
    """The recipes of a command, and the failures of those that are broken and left out.

    `named` maps the name of a recipe to the words by which the user has named it.
    """

    project: Project
    recipes: list[Resolved]
    failures: list[Outcome]
    named: Mapping[str, str] = field(default_factory=dict)

    def lock(self, recipe: str) -> Lock | None:
        """Return the lock of one of the recipes; None if it has none."""
        from bake.plan import lock as locks
        from bake.recipe.recipe_files import lock_path

        return locks.read_if_exists(
            lock_path(self.named.get(recipe, recipe), recipe, self.project), recipe
        )

    def __len__(self) -> int:
        return len(self.recipes) + len(self.failures)


def chosen_recipes(console: Console, options: RecipeOptions, *, local: bool) -> Chosen:
    """Return the selected recipes, resolved, each with the changes that the options make to it.

    Raises a RequestError if the options contradict each other, or if a recipe that was named or
    selected cannot work. With `--all`, such a recipe is a failure, and the others are returned.
    """
    from bake import catalog
    from bake.recipe import recipes

    _check(options)
    catalog.accept_unknown(options.unchecked)
    found = project_of(options.recipe)
    names, cuda, framework = options.recipe, options.cuda, options.framework
    if options.all:
        return _all_recipes(found, options, local=local)
    if not names:
        warn_about(console, recipes.read_all(found)[1])
    with _hint_of_unchecked(options):
        chosen = {
            name: recipes.choose(found, name=name, cuda=cuda, framework=framework)
            for name in names or (None,)
        }
    named = {recipe.name: name for name, recipe in chosen.items() if name}
    _refuse_twice(chosen.values())
    ready = [_ready(found, recipe, options, local=local) for recipe in chosen.values()]
    return Chosen(found, ready, [], named)


# The places of a recipe that may name what the catalog does not know (bake.catalog.assumed).
_MAY_BE_UNKNOWN = {"driver.branch", "cuda.version", "framework.version"}


@contextmanager
def _hint_of_unchecked(options: RecipeOptions) -> Iterator[None]:
    """A context whose errors mention `--unchecked` if it would accept each of their findings."""
    from bake.errors import RecipeError

    try:
        yield
    except RecipeError as error:
        places = {each.place for each in error.findings if each.message.startswith("unknown ")}
        if not options.unchecked and places and places <= _MAY_BE_UNKNOWN:
            error.hint = error.hint or "To go on with what bake does not know, add --unchecked"
        raise


def selected_recipes(console: Console, names: tuple[str, ...], *, local: bool) -> Chosen:
    """Return the named recipes as they are; without names, all of the project's own."""
    return chosen_recipes(console, RecipeOptions(recipe=names, all=not names), local=local)


def _refuse_twice(recipes: Iterable[Recipe]) -> None:
    """Raise RequestError if two of the recipes have one name, which identifies an image."""
    from collections import Counter

    from bake.errors import RequestError

    for name, times in Counter(recipe.name for recipe in recipes).items():
        if times > 1:
            raise RequestError(
                f"Two of these recipes have the name {name}", hint="Name only one of them"
            )


def _all_recipes(project: Project, options: RecipeOptions, *, local: bool) -> Chosen:
    from bake.errors import RequestError
    from bake.pipeline.bake import Outcome
    from bake.recipe import recipes

    valid, broken = recipes.read_own(project)
    failures = [Outcome(each.name, "failed", 0, error=each.error) for each in broken]
    ready = []
    for recipe in valid:
        try:
            ready.append(_ready(project, recipe, options, local=local))
        except RequestError as error:
            failures.append(Outcome(recipe.name, "failed", 0, error=error))
    return Chosen(project, ready, failures)


def warn_about(console: Console, broken: list[BrokenRecipe]) -> None:
    """Show a warning for each recipe that is left out because it is broken."""
    for each in broken:
        first, *more = each.error.details or ("",)
        others = f" ({len(more)} more: invoke plan {each.name})" if more else ""
        reason = f": {first}" if first else ""
        console.warn(f"{each.name}.toml is left out: {each.error.message}{reason}{others}")


def _check(options: RecipeOptions) -> None:
    from bake.errors import RequestError

    names, version = options.recipe, options.cuda or options.framework
    if options.spot and options.no_spot:
        raise RequestError("--spot and --no-spot exclude each other", hint="Give one of them")
    if options.all and (names or version):
        raise RequestError("--all means all recipes", hint="Leave out the names, or --all")
    if len(names) > 1 and version:
        raise RequestError("--cuda and --framework are for one recipe", hint="Leave them out")


def _ready(project: Project, recipe: Recipe, options: RecipeOptions, *, local: bool) -> Resolved:
    from bake.machine.request import read_types
    from bake.plan.plan import make_plan
    from bake.recipe.based import resolve_in
    from bake.recipe.override import override
    from bake.recipe.payload import UPSTREAM
    from bake.recipe.recipes import place_in_files

    market = True if options.spot else False if options.no_spot else None
    # Without a name, CUDA and the framework have selected the recipe; with one, they change it.
    change = {"cuda": options.cuda, "framework": options.framework} if options.recipe else {}
    types = read_types(options.instance_type)
    with _places_of_values(options, place_in_files(recipe, project)):
        recipe = override(recipe, instance_types=types, spot=market, **change)
        resolved = _with_gpu_policy(resolve_in(project, recipe), local=local)
        resolved = replace(resolved, unchecked=options.unchecked)
        # Refuse what is certain to fail before a cloud, a stand-in or a base image is prepared.
        make_plan(resolved, payload=UPSTREAM, base_image_id="", project=project)
    return resolved


def _with_gpu_policy(resolved: Resolved, *, local: bool) -> Resolved:
    """Return the recipe, and that of its base image, with a value for `gpu` if they set none."""
    recipe = resolved.recipe
    # An image on AWS must work on a GPU; a local computer may have none.
    with_driver = "if-present" if local else "required"
    policy = recipe.gpu or (with_driver if recipe.driver else "none")
    base = _with_gpu_policy(resolved.base, local=local) if resolved.base else None
    return replace(resolved, recipe=recipe.model_copy(update={"gpu": policy}), base=base)


@contextmanager
def _places_of_values(options: RecipeOptions, in_file: Callable[[str], str]) -> Iterator[None]:
    """A context whose errors name the option that gives a value, or else the recipe's file.

    `in_file` puts the name of another recipe's file in front of a key, if that one gives its value.
    """
    from bake.errors import RequestError

    given = {"builder.instance_types": options.instance_type and "--instance-type"}
    if options.recipe:
        given |= {
            "cuda.version": options.cuda and "--cuda",
            "framework": options.framework and "--framework",
        }

    def place(finding: Finding) -> str:
        key = re.sub(r"\[[0-9]+\]$", "", finding.place)
        parent = key.rpartition(".")[0]
        return given.get(key) or given.get(parent) or in_file(finding.place)

    try:
        yield
    except RequestError as error:
        error.findings = tuple(replace(each, place=place(each)) for each in error.findings)
        if error.findings:
            error.details = tuple(map(str, error.findings))
        raise


def requests_for(
    console: Console,
    common: CommonOptions,
    chosen: Chosen,
    *,
    stand_in: bool,
    no_lock: bool = False,
) -> tuple[list[tuple[Context, Resolved]], list[Outcome]]:
    """Return each recipe with its context, and the outcomes of recipes that have failed already.

    A single recipe's failure is raised instead.
    """
    from bake.errors import BakeError, RequestError
    from bake.pipeline.bake import Outcome

    if stand_in and not common.local:
        raise RequestError(
            "--stand-in works only in the local cloud: an image of stand-ins is useless on AWS",
            hint="Add --local, or leave out --stand-in",
        )
    requests, failed = [], list(chosen.failures)
    recipes = chosen.recipes
    clouds: dict[str | None, Cloud] = {}
    # All consoles first: the prefix of their lines is as wide as the longest name.
    several = len(chosen) > 1
    consoles = [console.named(recipe.name) if several else console for recipe in recipes]
    for resolved, own in zip(recipes, consoles, strict=True):
        region = common.region or resolved.recipe.region
        own.complete = completion(replace(common, region=region), chooses_payload=True)
        try:
            lock = None if no_lock else chosen.lock(resolved.name)
            if region not in clouds:
                clouds[region] = open_cloud(own, common, region)
            context = _context(
                own, resolved, clouds[region], common, chosen.project, lock, stand_in=stand_in
            )
            requests.append((context, resolved))
        except BakeError as error:
            if not several:
                raise
            failed.append(Outcome(resolved.name, "failed", 0, error=error))
    return requests, failed


def _context(
    console: Console,
    resolved: Resolved,
    cloud: Cloud,
    common: CommonOptions,
    project: Project,
    lock: Lock | None,
    *,
    stand_in: bool,
) -> Context:
    from bake import files
    from bake.pipeline.job import Context
    from bake.recipe import payload

    downloads = payload.UPSTREAM
    if common.local:
        downloads = _prepare_local(console, resolved, cloud.region, stand_in=stand_in) or downloads
    return Context(
        cloud=cloud,
        payload=downloads,
        project=project,
        builds=files.builds(),
        console=console,
        lock=lock,
        ssh_port=ssh_port(),
        here="--local" if common.local else f"--region {cloud.region}",
    )


def _prepare_local(
    console: Console, resolved: Resolved, region: str, *, stand_in: bool
) -> Payload | None:
    """Provide the base image in the local cloud; with stand-ins, return where they are."""
    from bake.local import control, standin
    from bake.local.machines import os_images

    downloads = None
    if stand_in:
        with console.step("Stand-in servers") as step:
            downloads = standin.up(resolved, project())
            step.done(downloads.mirrors["nvidia"].partition("/compute")[0])
    base = resolved.recipe.base
    if base.recipe or base.owner == "self":
        return downloads  # images that a user has made in this local cloud
    published = os_images.Publication(
        image_id=base.ami or "",
        owner=base.owner or "",
        name=base.name or "",
        parameter=base.ssm_parameter or "",
    )
    with console.step("Base image") as step:
        image = os_images.provide(
            control.up(),
            resolved.os_image,
            stand_in=stand_in,
            region=region,
            files=standin.machine_files() if stand_in else None,
            published=published,
        )
        step.done(image)
    return downloads


def instance_types_of(recipe: str) -> tuple[str, ...]:
    """Return the instance types on which a recipe is baked; none if the recipe does not exist."""
    from bake.errors import RecipeError
    from bake.recipe import recipes

    try:
        return recipes.find(recipe, project()).builder.instance_types
    except RecipeError:
        return ()


def check_recipe(name: str | None, used: Iterable[str] = ()) -> None:
    """Raise RequestError for a name of no recipe; None is right. `used` are names of resources."""
    from bake.catalog import nearest
    from bake.errors import RecipeError, RequestError
    from bake.recipe.recipes import read_all

    if name is None:
        return
    known = set(used)
    with suppress(RecipeError):
        found, broken = read_all(project())
        known |= {recipe.name for recipe in found} | {each.name for each in broken}
    if name not in known:
        raise RequestError(f"Unknown recipe: {name}", hint=nearest(name, sorted(known)))


def current_images() -> Callable[[Image], bool]:
    """Return the function that tells whether an image is what its recipe makes now."""
    from bake.errors import RequestError
    from bake.plan import lock as locks
    from bake.plan.current import is_current
    from bake.recipe.based import resolve_in
    from bake.recipe.recipe_files import lock_path
    from bake.recipe.recipes import read_all

    recipes, own = {}, project()
    with suppress(RequestError):
        recipes = {each.name: each for each in read_all(own)[0]}

    def check(image: Image) -> bool:
        if image.recipe not in recipes:
            return False
        try:
            return is_current(
                image.tags,
                image.digest,
                resolve_in(own, recipes[image.recipe]),
                stand_in=image.payload == "stand-in",
                project=own,
                lock=locks.read_if_exists(lock_path(image.recipe, image.recipe, own), image.recipe),
            )
        except RequestError:  # the recipe cannot be baked as it is now
            return False

    return check
