"""The command line. `invoke --list` shows it, `invoke --help COMMAND` explains one.

Everything of ours is imported when a command runs, so that the list answers at once. This is the
only place that starts the local cloud; from there on it is a cloud like any other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, task
from invoke.exceptions import Exit

from bake.command import Command, raise_for, running

if TYPE_CHECKING:
    from bake.aws.machine import Machine
    from bake.aws.session import Cloud
    from bake.console import Console
    from bake.job import Workshop
    from bake.machine.reach import Host
    from bake.pipeline import Outcome
    from bake.recipe import Recipe

ROOT = Path(__file__).parent
MANIFESTS = ROOT / "manifests"
SCRIPTS = ROOT / "scripts"

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


# What the commands share -------------------------------------------------------------------------


def _console(json: bool = False, quiet: bool = False, verbose: bool = False) -> Console:
    from bake.console import Console

    return Console(json=json, quiet=quiet, verbose=verbose)


def _cloud(console: Console, *, local: bool, region: str | None) -> Cloud:
    """AWS; or the local cloud, which is started when it does not run."""
    from bake.aws.session import connect

    if local:
        from bake.local import control

        endpoint = control.status()
        if endpoint is None:
            with console.step("Local cloud") as step:
                endpoint = control.up()
                step.done(endpoint.url)
            if endpoint.note:
                console.warn(endpoint.note)
        os.environ.update(control.environment(endpoint))
    return connect(region)


def _invoke() -> str:
    """What a person types for `invoke` here: the virtual environment may not be activated."""
    import shutil

    found, running = shutil.which("invoke"), Path(sys.argv[0])
    if found and running.exists() and Path(found).samefile(running):
        return "invoke"
    return os.path.relpath(running)


def _ssh_port() -> int:
    return int(os.environ.get("BAKE_SSH_PORT") or 22)


def _recipes(
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
    from bake import recipe as recipes
    from bake.errors import RequestError
    from bake.plan import refuse_what_cannot_work

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
) -> Workshop:
    from bake import catalog, folders, payload
    from bake import lock as locks
    from bake.errors import RequestError
    from bake.job import Workshop

    if stand_in and not local:
        raise RequestError(
            "--stand-in is for the local cloud: an image of stand-ins is of no use on AWS",
            hint="Add --local, or leave out --stand-in",
        )
    downloads = payload.UPSTREAM
    lock = None if no_lock else locks.beside(MANIFESTS, recipe.name)
    cloud = clouds.get(region or recipe.region)
    if cloud is None:
        cloud = _cloud(console, local=local, region=region or recipe.region)
        clouds[region or recipe.region] = cloud
    if local:
        from bake.local import control, os_images, standin

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
    return Workshop(
        cloud=cloud,
        payload=downloads,
        scripts=SCRIPTS,
        builds=folders.builds(),
        console=console,
        lock=lock,
        ssh_port=_ssh_port(),
        here="--local" if local else f"--region {cloud.region}",
    )


def _orders(
    console: Console,
    recipes: list[Recipe],
    *,
    local: bool,
    stand_in: bool,
    region: str | None,
    no_lock: bool = False,
) -> tuple[list[tuple[Workshop, Recipe]], list[Outcome]]:
    """Each recipe with where it is baked; and those for which there is no such place."""
    from bake.errors import BakeError
    from bake.pipeline import Outcome

    orders, refused = [], []
    clouds: dict[str | None, Cloud] = {}
    # All of them first: what they write is as wide as the longest name.
    several = len(recipes) > 1
    consoles = [console.named(recipe.name) if several else console for recipe in recipes]
    for recipe, mine in zip(recipes, consoles, strict=True):
        try:
            workshop = _workshop(
                mine,
                recipe,
                clouds,
                local=local,
                stand_in=stand_in,
                region=region,
                no_lock=no_lock,
            )
            orders.append((workshop, recipe))
        except BakeError as error:
            if len(recipes) == 1:
                raise
            refused.append(Outcome(recipe.name, "failed", 0, error=error))
    return orders, refused


# Baking ------------------------------------------------------------------------------------------


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
    console = _console(json, quiet, verbose)
    with running(console):
        chosen = _recipes(
            recipe,
            everything=all,
            cuda=cuda,
            framework=framework,
            instance_type=instance_type,
            spot=spot,
            no_spot=no_spot,
            local=local,
        )
        from bake import listing, pipeline
        from bake.builder import OnFailure

        options = pipeline.Options(
            name=name,
            fresh=fresh,
            on_failure=OnFailure(keep=keep_on_failure, shell=shell_on_failure),
            machines=jobs,
        )
        options.check(len(chosen), interactive=sys.stdin.isatty())
        orders, refused = _orders(
            console, chosen, local=local, stand_in=stand_in, region=region, no_lock=no_lock
        )
        if len(chosen) > 1:
            outcomes = pipeline.bake_all(orders, options, refused)
            listing.show_outcomes(console, outcomes)
            raise_for(outcomes)
            return
        ((workshop, only),) = orders
        console.note(f"{only.name}: {only.description}")
        outcome = pipeline.bake(workshop, only, options)
        listing.show_outcome(console, outcome, f"{_invoke()} launch-from-ami {workshop.here}")


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
    console = _console(json)
    with running(console):
        chosen = _recipes(
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

        from bake import listing, pipeline
        from bake.preview import preview

        orders, refused = _orders(
            console, chosen, local=local, stand_in=stand_in, region=region, no_lock=no_lock
        )
        if len(chosen) == 1:
            previews = [preview(*orders[0], fresh=fresh)]
        else:
            found, failed = pipeline.for_each(orders, partial(preview, fresh=fresh))
            previews, refused = [each for _, each in found], refused + failed
        listing.show_plans(console, previews)
        listing.show_failures(console, refused)
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
    console = _console(json, quiet, verbose)
    with running(console):
        from bake import listing, pipeline, schedule
        from bake import rebuild as rebuilding

        chosen = _recipes(recipe, everything=not recipe, local=local)
        options = pipeline.Options(machines=jobs)
        options.check(len(chosen), interactive=False)
        limit = None if retry else give_up_after
        schedule.check(limit, summary)
        orders, refused = _orders(console, chosen, local=local, stand_in=stand_in, region=region)
        candidates, unknown = schedule.look(orders)
        if matrix:
            given_up = schedule.given_up_of(candidates, limit)
            if given_up:
                rebuilding.write_summary(rebuilding.summary(given_up), os.environ)
                listing.show_reports(console, given_up)
            # The one thing for a program to read, and so for stdout.
            print(schedule.matrix(candidates, refused + unknown, limit=limit))
            return
        reports = schedule.rebuild(candidates, refused + unknown, options, limit=limit)
        text = rebuilding.summary(reports)
        rebuilding.write_summary(text, os.environ)
        if summary:
            Path(summary).write_text(f"{text}\n")
        listing.show_reports(console, reports)
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
    console = _console(json)
    with running(console):
        from bake import folders, listing
        from bake import lock as locks
        from bake import recipe as recipe_module
        from bake.errors import RequestError

        if not recipe or (record and len(recipe) > 1):
            raise RequestError("Which recipe?", hint="Name one, or without --record several")
        payload = "stand-in" if stand_in else "upstream"
        written = []
        for name in recipe:
            recipe_module.find(name, MANIFESTS)
            found = Path(record) if record else locks.newest_record(folders.builds(), name, payload)
            path = MANIFESTS / f"{name}.lock"
            made = locks.from_record(found, name, locks.earlier(path))
            locks.write(made, path)
            written.append((path, made))
        listing.show_locks(console, written)


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
    console = _console(json)
    with running(console):
        from bake import folders
        from bake.machine.browser import opens
        from bake.page import report as reports
        from bake.record import kept

        path = reports.make(kept.find(folders.builds(), _only(which, "bake") or ""))
        console.result({"path": str(path)}, str(path))
        if browser and not opens(path):
            console.warn(f"No browser is to be had here: open {path.absolute().as_uri()}")


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
    console = _console(json)
    with running(console):
        import json as json_library
        from functools import partial

        from bake import doctor as doctors

        if local:
            from bake.local.needs import needs

            diagnosis = doctors.examine(None, needs())
        else:
            [chosen] = _recipes(recipe, cuda=None if recipe else "10.1", local=False)
            policy = json_library.loads((ROOT / "docs" / "iam-policy.json").read_text())
            connect = partial(_cloud, console, local=False, region=region or chosen.region)
            diagnosis = doctors.examine(doctors.Wanted(chosen, policy, connect))
        doctors.show(console, diagnosis)
        if not diagnosis.well:
            raise Exit(code=1)


@task(help={"recipe": "only this recipe's"}, **COMMAND)
def checkpoints(
    _context: Any,
    recipe: str | None = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List the checkpoints from which bakes can start, and what they cost."""
    console = _console(json)
    with running(console):
        from bake import listing
        from bake.aws.checkpoint import checkpoints as find_checkpoints
        from bake.aws.price import snapshot_price

        cloud = _cloud(console, local=local, region=region)
        found = find_checkpoints(cloud, recipe)
        listing.show_checkpoints(console, found, snapshot_price(cloud), cloud.now(), recipe)


@task(
    help={
        "recipe": "only this recipe's",
        "region": "AWS regions, with commas (default: your configuration's, and those of recipes)",
        "all_regions": "every region that the account may use",
        "yes": "remove it; without it, it is only shown",
    },
    **COMMAND,
)
def reap(
    _context: Any,
    recipe: str | None = None,
    region: str | None = None,
    all_regions: bool = False,
    yes: bool = False,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Remove what killed runs have left behind, by its tags; shows it first."""
    console = _console(json, quiet)
    with running(console, interrupted="what is still there, the same command finds"):
        import shlex

        from bake import reaping
        from bake import recipe as recipes
        from bake.errors import RecipeError

        first = region.replace(",", " ").split()[:1] if region else []
        cloud = _cloud(console, local=local, region=first[0] if first else None)
        try:
            usual = [each.region for each in recipes.all_recipes(MANIFESTS) if each.region]
        except RecipeError as error:
            console.warn(f"{error.message}: the regions that recipes name are not looked at")
            usual = []
        regions = reaping.regions_of(cloud, region, all_regions, usual)
        reaped = reaping.reap(cloud, regions, console, recipe=recipe, act=yes)
        where = ["--all-regions"] if all_regions else ["--region", ",".join(regions)]
        which = ["--recipe", recipe] if recipe else []
        words = [_invoke(), "reap", *where, *which, "--yes", *(["--local"] if local else [])]
        reaping.show(console, reaped, shlex.join(words))
        raise_for(reaped)


@task(**COMMAND)
def recipes(_context: Any, json: bool = False) -> None:
    """List the recipes that there are."""
    console = _console(json)
    with running(console):
        from bake import recipe as recipe_module

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


# Images and machines -----------------------------------------------------------------------------


@task(
    help={
        "ami": "id, recipe, name or its beginning of the image (default: the newest verified one)",
        "unverified": "also an image that was not proved on a GPU",
        "instance_type": "EC2 instance types in order of preference: g4dn.xlarge,g5.xlarge "
        "(default: the recipe's, as far as the image works on them)",
        "market": "spot, on-demand (the default), or spot,on-demand: all types and zones as spot "
        "first, then on demand",
        "spot": "the same as --market spot",
        "cheapest": "whatever has the lowest price per GPU and hour now, of all types on which the "
        "image works (or those named), spot included unless --market says otherwise",
        "gpus": "how many GPUs, where no type is named (default: as the recipe's types; with "
        "--cheapest 1)",
        "reservation": "a capacity reservation or Capacity Block to start it in: cr-...",
        "subnet": "a subnet to start it in (default: those of the default VPC)",
        "disk_gb": "size of its disk (default: the image's)",
        "key": "name of an SSH key pair (default: your own, made when there is none)",
        "name": "the machine's name",
        "ttl": "how long it runs before it ends by itself: 8h, 90m, 2d, never",
        "idle": "how long nobody may use it before it does: 1h, never",
        "at_end": "what it does then: stop (the default, except on spot) or terminate",
        "via": "ssm: without a public address, reached by AWS's Session Manager",
        "instance_profile": "what the machine may do at AWS: name of an IAM instance profile "
        "(Session Manager's agent needs one with AmazonSSMManagedInstanceCore)",
        "connect": "open a shell on it",
        "jupyter": "open Jupyter on it in the browser, through a tunnel until Ctrl-C",
        "no_browser": NO_BROWSER,
    },
    **COMMAND,
)
def launch_from_ami(
    _context: Any,
    ami: str | None = None,
    unverified: bool = False,
    instance_type: str | None = None,
    market: str | None = None,
    spot: bool = False,
    cheapest: bool = False,
    gpus: int = 0,
    reservation: str | None = None,
    subnet: str | None = None,
    disk_gb: int = 0,
    region: str | None = None,
    key: str | None = None,
    name: str | None = None,
    ttl: str = "12h",
    idle: str = "never",
    at_end: str | None = None,
    via: str | None = None,
    instance_profile: str | None = None,
    connect: bool = False,
    jupyter: bool = False,
    no_browser: bool = False,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Start a machine from the newest verified image, and say how to reach it."""
    console = _console(json, quiet)
    with running(console):
        import shlex
        from functools import partial

        from bake import launch as launching
        from bake import listing
        from bake.errors import RequestError
        from bake.machine import cost, lifetime, selection
        from bake.machine.jupyter import check_image
        from bake.machine.wish import read_markets, read_types

        if connect and jupyter:
            raise RequestError("--connect and --jupyter exclude each other", hint="Give one")
        wish = launching.Wish(
            instance_types=read_types(instance_type),
            markets=read_markets(market, spot=spot),
            cheapest=cheapest,
            gpus=gpus or None,
            reservation_id=reservation,
            subnet_id=subnet,
            disk_gb=disk_gb or None,
            key=key,
            name=name,
            lifetime=lifetime.read_lifetime(ttl=ttl, idle=idle, at_end=at_end),
            via=via,
            instance_profile=instance_profile,
        )
        cloud = _cloud(console, local=local, region=region)
        # On a computer without a GPU there is no more to prove than what the CPU can do.
        enough = ("gpu", "cpu") if local else ("gpu",)
        proved = ("gpu", "cpu", "no") if unverified else enough
        flag = " --local" if local else ""
        image = selection.choose_image(cloud, ami, proved=proved, flags=flag)
        flag += f" --region {region}" if region else ""
        if jupyter:
            check_image(image)
        launched = launching.launch(
            cloud,
            image,
            wish,
            usual=_types_of(image.recipe),
            console=console,
            ssh_port=_ssh_port(),
        )
        paid = cost.of(cloud, launched.machine)
        document = listing.machine_document(launched.machine, paid) | {"ssh": launched.ssh}
        # One document: with Jupyter, when it answers.
        tell = partial(console.result, document) if not jupyter else console.print
        tell(
            "",
            f"Image    {image.image_id}  {image.name}",
            f"Machine  {launched.machine.name}  {launched.machine.instance_id}",
            f"Shell    {_invoke()} connect {launched.machine.name}{flag}   which is",
            shlex.join(launched.ssh),
            f"Costs    {cost.in_words(paid)}",
            f"Ends     {lifetime.describe(launched.machine, cloud.now())}",
            f"Longer   {_invoke()} extend {launched.machine.name} 2h{flag}",
            f"End it   {_invoke()} terminate {launched.machine.name}{flag}",
        )
    if jupyter:
        with running(console, interrupted=f"{launched.machine.name} runs on"):
            _use_jupyter(
                console,
                cloud,
                launched.machine,
                browser=not (no_browser or json),
                local=local,
                region=region,
                known=document,
            )
    if connect:
        os.execvp(launched.ssh[0], launched.ssh)  # noqa: S606


def _types_of(recipe: str) -> tuple[str, ...]:
    """On which machines it is baked; none where it is not here."""
    from bake import recipe as recipes
    from bake.errors import RecipeError

    try:
        return recipes.find(recipe, MANIFESTS).builder.instance_types
    except RecipeError:
        return ()


@task(
    help={
        "gpu": "only these GPUs: t4,a10g",
        "count": "only with so many GPUs",
        "cuda": "only those on which this CUDA works: 10.1",
        "min_memory": "only GPUs with at least so many GB each: 24",
        "max_price": "only what costs at most so many USD an hour, on demand or on the spot market",
        "offered": "only what this region has",
        "recipe": "only those on which this recipe works",
        "ami": "only those on which this image works: its id, recipe or name",
        "all": "also families that AWS has retired",
        "sort": "by price, spot, memory, gpu, left or type",
    },
    **COMMAND,
)
def gpus(
    _context: Any,
    gpu: str | None = None,
    count: int = 0,
    cuda: str | None = None,
    min_memory: str | None = None,
    max_price: str | None = None,
    offered: bool = False,
    recipe: str | None = None,
    ami: str | None = None,
    all: bool = False,
    sort: str = "price",
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List GPU machines: which CUDA works, how many you may start here, and what they cost."""
    console = _console(json)
    with running(console):
        from bake import catalog, choosing
        from bake import gpus as machines
        from bake import recipe as recipes

        known = catalog.load()
        works = None
        if recipe:
            works = machines.works_for_recipe(known, recipes.find(recipe, MANIFESTS))
        wanted = machines.read_filter(
            known,
            gpu=gpu,
            count=count,
            cuda=cuda,
            min_memory=min_memory,
            max_price=max_price,
            offered=offered,
            retired=all,
            only=works,
            order=sort,
        )
        cloud = _cloud(console, local=local, region=region)
        if ami:
            from bake.machine import selection

            image = selection.choose_image(cloud, ami, proved=("gpu", "cpu", "no"))
            wanted = machines.narrowed(wanted, machines.works_for_image(known, image))
        found = machines.survey(cloud, known, wanted)
        choosing.show_gpus(console, found, f"{_invoke()} quota{_where(local, region)}")


@task(
    help={
        "type": "that which counts this instance type, or this family: g4dn.xlarge, p4d",
        "spot": "of the spot market",
        "raise_": "ask AWS that it be raised to so many vCPUs (without --type: g4dn's)",
    },
    **COMMAND,
)
def quota(
    _context: Any,
    type: str | None = None,
    spot: bool = False,
    raise_: int = 0,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List your quotas of GPU machines, or ask AWS to raise one."""
    console = _console(json)
    with running(console):
        from bake import catalog, choosing
        from bake.aws import quota as quotas

        known, command = catalog.load(), f"{_invoke()} quota{_where(local, region)}"
        machine = choosing.meant(known, type) if type else None
        if raise_:
            machine = machine or choosing.meant(known, choosing.USUAL)
            again = f"{command} --type {machine.name}{' --spot' * spot}"
            code = choosing.quota_to_raise(machine, raise_, again, spot=spot)
            cloud = _cloud(console, local=local, region=region)
            now = quotas.read_quota(cloud, code, "spot" if spot else "on-demand")
            asked = quotas.ask_for_more(cloud, now, raise_)
            choosing.show_asked(console, asked, now, machine)
            return
        cloud = _cloud(console, local=local, region=region)
        codes = choosing.codes_of(machine, spot=spot)
        found = quotas.read_quotas(cloud, codes)
        requests = quotas.read_requests(cloud, codes)
        choosing.show_quotas(console, known, found, requests, cloud.now(), machine, command)


def _where(local: bool, region: str | None) -> str:
    """The options of a command that is shown, which say of which cloud it is."""
    return (" --local" if local else "") + (f" --region {region}" if region else "")


@task(help={"recipe": "only this recipe's"}, **COMMAND)
def images(
    _context: Any,
    recipe: str | None = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List your images, and what was proved on each."""
    console = _console(json)
    with running(console):
        from bake import listing
        from bake.aws.image import images as find_images
        from bake.aws.price import refusals, snapshot_price
        from bake.machine.table import show_unknown

        cloud = _cloud(console, local=local, region=region)
        found = find_images(cloud, recipe)
        usd = snapshot_price(cloud) if found else None
        listing.show_images(console, found, cloud.now(), usd)
        show_unknown(console, refusals(cloud))


@task(
    positional=["image"],
    help={
        "image": "id, recipe, name or its beginning of the image (default: the newest verified "
        "one)",
        "to": "regions, with commas: us-west-2,eu-central-1",
        "name": "the copies' name (default: the image's)",
        "unverified": "also an image on which nothing was proved",
    },
    **COMMAND,
)
def copy(
    _context: Any,
    image: Any = None,
    to: str | None = None,
    name: str | None = None,
    unverified: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Copy an image to other regions; a copy that is there already is not made again."""
    console = _console(json, quiet)
    with running(console):
        from bake import copies, listing
        from bake.machine import selection

        cloud = _cloud(console, local=local, region=region)
        wanted = copies.regions(to, cloud.region)
        proved = ("gpu", "cpu", *(("no",) if unverified else ()))
        flag = " --local" if local else ""
        chosen = selection.choose_image(cloud, _only(image, "image"), proved=proved, flags=flag)
        outcomes = copies.copy_everywhere(
            chosen,
            cloud.region,
            wanted,
            lambda there: _cloud(console, local=local, region=there),
            console,
            name=name,
        )
        listing.show_copies(console, outcomes)
        raise_for(outcomes)


@task(
    positional=["recipe"],
    help={
        "recipe": "only this recipe's images",
        "keep": "how many of the newest verified images of each recipe stay",
        "older_than": "only those that are that old: 30d, 12h, 2w",
        "yes": "remove them; without it, they are only shown",
    },
    **COMMAND,
)
def prune(
    _context: Any,
    recipe: Any = None,
    keep: int = 3,
    older_than: str | None = None,
    yes: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Remove old images that nothing uses, with their snapshots; shows them first."""
    console = _console(json)
    with running(console):
        from bake import listing
        from bake.aws import retention
        from bake.aws.price import snapshot_price

        age = retention.read_age(older_than)
        retention.check(keep)
        cloud = _cloud(console, local=local, region=region)
        verdicts = retention.judge(cloud, _only(recipe, "recipe"), keep=keep, older_than=age)
        removals = None
        if yes:
            with console.step("Removing") as step:
                removals = retention.remove(cloud, verdicts, on_image=step.update)
        listing.show_verdicts(console, verdicts, removals, snapshot_price(cloud))
        raise_for(removals or ())


def _only(words: tuple[str, ...] | None, what: str) -> str | None:
    """The one that was given, if any; RequestError for several."""
    from bake.errors import RequestError

    if words and len(words) > 1:
        raise RequestError(f"One {what} at a time: {' '.join(words)}", hint=f"Name one {what}")
    return words[0] if words else None


@task(**COMMAND)
def machines(
    _context: Any, region: str | None = None, local: bool = False, json: bool = False
) -> None:
    """List your machines: how long they live, and what they cost."""
    console = _console(json)
    with running(console):
        from bake.aws.machine import machines as find_machines
        from bake.machine.cost import costs
        from bake.machine.table import show_machines

        cloud = _cloud(console, local=local, region=region)
        found = find_machines(cloud)
        show_machines(console, found, cloud.now(), costs(cloud, found))


@task(positional=["machine"], help=MACHINE, **COMMAND)
def start(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Start a stopped machine again."""
    _change("start", "Starting", machine, region=region, local=local, json=json)


@task(positional=["machine"], help=MACHINE, **COMMAND)
def stop(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Stop a machine; its disk stays, and goes on costing."""
    _change("stop", "Stopping", machine, region=region, local=local, json=json)


@task(
    positional=["machine"],
    help={"machine": "id or name of a machine (default: the only one), then 2h, 1d … or never"},
    **COMMAND,
)
def extend(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Put the end of a machine off: invoke extend NAME 2h."""
    console = _console(json)
    with running(console):
        from bake import listing
        from bake.errors import RequestError
        from bake.machine import cost, lifetime, reach, selection

        if not 1 <= len(machine) <= 2:
            raise RequestError("By how long?", hint="invoke extend NAME 2h")
        *names, time = machine
        by = lifetime.read_time(time, "extend")
        cloud = _cloud(console, local=local, region=region)
        found = selection.find_ours(cloud, names[0] if names else None)
        host = reach.host_of(cloud, found, ssh_port=_ssh_port())
        with console.step(f"Extending {found.name}"), reach.connection(host) as connection:
            extended = lifetime.extend(cloud, found, connection, by)
        paid = cost.of(cloud, extended)
        console.result(
            listing.machine_document(extended, paid, cloud.now()),
            f"Ends     {lifetime.describe(extended, cloud.now())}",
            f"Costs    {cost.in_words(paid)}",
        )


@task(positional=["machine"], help=MACHINE, **COMMAND)
def terminate(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """End a machine for good, with its disk."""
    _change("terminate", "Ending", machine, region=region, local=local, json=json)


def _change(
    verb: str, doing: str, names: tuple[str, ...], *, region: str | None, local: bool, json: bool
) -> None:
    console = _console(json)
    with running(console):
        from bake import listing
        from bake.aws import machine as machines
        from bake.key_store import forget_key, key_path
        from bake.machine import cost, lifetime, reach, selection

        cloud = _cloud(console, local=local, region=region)
        changed = []
        for name in names or (None,):
            found = selection.find_ours(cloud, name)
            # Of one that ends, what it has cost until now: afterwards nobody can tell.
            before = cost.of(cloud, found) if verb == "terminate" else None
            with console.step(f"{doing} {found.name or found.instance_id}") as step:
                getattr(machines, verb)(cloud, found.instance_id, on_state=step.update)
            if verb == "terminate":
                reach.forget(found.instance_id)
                if found.key_name == f"bake-{found.run_id}":  # a builder's that was kept
                    forget_key(key_path(cloud.account_id, cloud.region, found.key_name))
            now = machines.find_machine(cloud, found.instance_id) or found
            paid = before or cost.of(cloud, now)
            console.print(f"{'Cost    ' if before else 'Costs   '} {cost.in_words(paid)}")
            if verb == "start":
                console.print(f"Ends     {lifetime.describe(now, cloud.now())}")
                # `ssh bake-NAME` finds it at its new address.
                for host in reach.hosts_of(cloud, [now], ssh_port=_ssh_port())[0]:
                    reach.write(host)
            changed.append(listing.machine_document(now, paid))
        console.result(changed)


@task(positional=["machine"], help=MACHINE, **COMMAND)
def connect(
    _context: Any, machine: Any = None, region: str | None = None, local: bool = False
) -> None:
    """Open a shell on a machine."""
    from bake.machine import reach

    found = _only(machine, "machine")
    with _reached(found, region=region, local=local, priced=True) as (host, call):
        call(reach.ssh(host))


@task(
    positional=["command"],
    help={**MACHINE, "command": "a line of shell: it runs in the image's Python environment"},
    **COMMAND,
)
def run(
    _context: Any,
    command: Any = None,
    machine: str | None = None,
    region: str | None = None,
    local: bool = False,
) -> None:
    """Run a command on a machine: its output, input and exit status are this one's."""
    from bake.machine import shell

    with _reached(machine, region=region, local=local) as (host, call):
        call(shell.command(host, " ".join(command or ()), terminal=shell.on_a_terminal()))


@task(
    positional=["paths"],
    help={**MACHINE, "paths": "files and folders here, and last where to put them there"},
    **COMMAND,
)
def put(
    _context: Any,
    paths: Any = None,
    machine: str | None = None,
    region: str | None = None,
    local: bool = False,
) -> None:
    """Copy files and folders to a machine (rsync): invoke put LOCAL... REMOTE."""
    _transfer("put", paths, machine, region=region, local=local)


@task(
    positional=["paths"],
    help={**MACHINE, "paths": "files and folders there, and last where to put them here"},
    **COMMAND,
)
def get(
    _context: Any,
    paths: Any = None,
    machine: str | None = None,
    region: str | None = None,
    local: bool = False,
) -> None:
    """Copy files and folders from a machine (rsync): invoke get REMOTE... LOCAL."""
    _transfer("get", paths, machine, region=region, local=local)


def _transfer(
    verb: str,
    paths: tuple[str, ...] | None,
    machine: str | None,
    *,
    region: str | None,
    local: bool,
) -> None:
    from bake.machine import transfer

    with _reached(machine, region=region, local=local, advice=transfer.advice) as (host, call):
        *what, where = transfer.check(verb, paths or ())
        call(getattr(transfer, verb)(host, what, where, progress=sys.stderr.isatty()))


@contextmanager
def _reached(
    machine: str | None,
    *,
    region: str | None,
    local: bool,
    priced: bool = False,
    advice: Callable[[Host, int], str] = lambda host, status: "",
) -> Iterator[tuple[Host, Callable[[list[str]], None]]]:
    """A machine's Host, and what runs a program that goes there and ends as that one did.

    `priced`: what it costs is said before that.
    """
    console = _console()
    with running(console, interrupted="the machine runs on"):
        from bake.machine import cost, reach, selection, shell

        cloud = _cloud(console, local=local, region=region)
        found = selection.find_ours(cloud, machine)

        host = reach.host_of(cloud, found, ssh_port=_ssh_port())
        if priced:
            console.note(f"{found.name}: {cost.in_words(cost.of(cloud, found))}")

        def call(words: list[str]) -> None:
            status = shell.call(words)
            lost = shell.loss(cloud, found) if status in shell.NO_CONNECTION else None
            if lost:
                console.failure(lost)
            elif said := advice(host, status):
                console.warn(said)
            if status:
                raise Exit(code=status)

        yield host, call


@task(
    name="ssh-config",
    positional=["machine"],
    help={
        "machine": "ids or names of machines (default: all that run)",
        "write": "keep it in files of ours, for ssh, rsync, VS Code and other programs",
        "include": "and have ~/.ssh/config include them",
    },
    **COMMAND,
)
def ssh_config(
    _context: Any,
    machine: Any = None,
    write: bool = False,
    include: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Print what makes `ssh bake-NAME` work, and with --write, make it."""
    console = _console(json)
    with running(console):
        from bake.aws.machine import machines as find_machines
        from bake.machine import include as includes
        from bake.machine import reach, selection

        cloud = _cloud(console, local=local, region=region)
        if machine:
            hosts = [
                reach.host_of(cloud, selection.find_ours(cloud, name), ssh_port=_ssh_port())
                for name in machine
            ]
        else:
            hosts, others = reach.hosts_of(cloud, find_machines(cloud), ssh_port=_ssh_port())
            for error in others:
                console.warn(error.message)
            if not hosts:
                console.note("No machine runs that could be reached from here.")
        if write or include:
            for host in hosts:
                reach.write(host)
            if not machine:
                reach.keep_only(cloud, hosts)
            if include:
                includes.include()
            included = includes.is_included()
            console.result(
                [host.document() for host in hosts],
                *(f"{host.alias}  {host.instance_id}" for host in hosts),
                "They are reached as: ssh bake-NAME"
                if included
                else "`ssh bake-NAME` works with this at the top of ~/.ssh/config (--include):",
                *(() if included else (includes.include_line(),)),
            )
        elif json:
            console.result([host.document() for host in hosts])
        else:
            # For a program to read, and so for stdout.
            print("\n".join(host.configuration() for host in hosts), end="")


@task(
    positional=["machine"],
    help={
        **MACHINE,
        "port": "on this computer; the next free one where it is taken",
        "no_browser": NO_BROWSER,
        "stop": "end Jupyter and its kernels on the machine, which runs on",
    },
    **COMMAND,
)
def jupyter(
    _context: Any,
    machine: Any = None,
    port: int = 8889,
    no_browser: bool = False,
    stop: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Open Jupyter on a machine in the browser, through a tunnel until Ctrl-C."""
    console = _console(json, quiet)
    with running(console, interrupted="the machine runs on"):
        from bake.machine import cost, jupyter, lifetime, reach, selection

        jupyter.check_port(port)
        cloud = _cloud(console, local=local, region=region)
        found = selection.find_ours(cloud, _only(machine, "machine"))
        host = reach.host_of(cloud, found, ssh_port=_ssh_port())
        if not stop:
            console.print(
                f"Costs    {cost.in_words(cost.of(cloud, found))}",
                f"Ends     {lifetime.describe(found, cloud.now())}",
            )
            browser = not (no_browser or json)
            _use_jupyter(
                console, cloud, found, port=port, browser=browser, local=local, region=region
            )
            return
        with reach.connection(host) as connection:
            stopped = jupyter.stop(connection)
        console.result(
            {"stopped": stopped}, "Jupyter has ended." if stopped else "There is none that runs."
        )


def _use_jupyter(
    console: Console,
    cloud: Cloud,
    machine: Machine,
    *,
    port: int = 8889,
    browser: bool,
    local: bool,
    region: str | None,
    known: dict[str, Any] | None = None,
) -> None:
    import shlex

    from bake.machine import jupyter, reach

    def words(verb: str, *more: str) -> str:
        there = [*(["--local"] if local else []), *(["--region", region] if region else [])]
        name = machine.name or machine.instance_id
        return shlex.join([_invoke(), verb, name, *more, *there])

    with reach.connection(reach.host_of(cloud, machine, ssh_port=_ssh_port())) as connection:
        jupyter.use(
            cloud,
            machine,
            connection,
            console,
            port=port,
            words=words,
            open_browser=browser,
            known=known,
        )


@task(
    positional=["machine"],
    help={
        "machine": "id or name of a machine that runs (default: the only one); it goes on running",
        "ami": "launch from this image instead: its id, name or recipe (default: the newest one)",
        "unverified": "also an image that was not proved on a GPU",
        "instance_type": "launch one of each of these: g4dn.xlarge,g5.xlarge (default: the "
        "recipe's first); each is terminated when it has been measured",
        "spot": "spot machines",
        "jobs": "how many machines at a time",
        "quick": "short runs: less exact",
    },
    **COMMAND,
)
def bench(
    _context: Any,
    machine: Any = None,
    ami: str | None = None,
    unverified: bool = False,
    instance_type: str | None = None,
    spot: bool = False,
    jobs: int = 4,
    quick: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Measure how fast a machine, or each kind of machine, is with an image's framework."""
    console = _console(json, quiet, verbose)
    with running(console, interrupted="what was launched for it has been terminated"):
        from bake import folders, speed
        from bake.errors import RequestError
        from bake.machine import selection
        from bake.machine.wish import read_types

        name = _only(machine, "machine")
        launches = bool(ami or instance_type or spot)
        if name and launches:
            raise RequestError(
                f"{name} runs already, and nothing has to be launched",
                hint="Give a machine, or --ami and --instance-type",
            )
        cloud = _cloud(console, local=local, region=region)
        how: dict[str, Any] = {"builds": folders.builds(), "ssh_port": _ssh_port(), "quick": quick}
        if launches:
            # On a computer without a GPU there is no more to prove than what the CPU can do.
            proved = ("gpu", *(("cpu",) if local or unverified else ()), *(("no",) * unverified))
            image = selection.choose_image(cloud, ami, proved=proved)
            done = speed.bench_image(
                cloud,
                image,
                read_types(instance_type) or _types_of(image.recipe)[:1],
                speed.a_course(cloud, image.recipe, **how),
                console,
                market="spot" if spot else "on-demand",
                jobs=jobs,
            )
        else:
            found = selection.find_ours(cloud, name)
            course = speed.a_course(cloud, found.recipe, **how)
            done = speed.bench_machine(cloud, found, course, console)
        speed.show(console, done, folders.builds())
        if any(each.failure or not each.figures for each in done.machines):
            raise Exit(code=1)


# The local cloud ---------------------------------------------------------------------------------


@task(help={"like_ec2": "with EC2's delays (BAKE_LOCAL_PROFILE: those of a file)"}, **COMMAND)
def up(_context: Any, like_ec2: bool = False, json: bool = False) -> None:
    """Start the local cloud (every command with --local does so by itself)."""
    console = _console(json)
    with running(console):
        from bake.local import control

        with console.step("Local cloud"):
            endpoint = control.up(profile="ec2" if like_ec2 else None)
        console.result(
            {"url": endpoint.url, "ssh_port": endpoint.ssh_port},
            f"EC2's API is at {endpoint.url}",
            endpoint.note or 'For any EC2 client: eval "$(invoke local.env)"',
        )


@task(**COMMAND)
def down(_context: Any, json: bool = False) -> None:
    """End the local cloud and its machines; images, snapshots and keys are kept."""
    console = _console(json)
    with running(console):
        from bake.local import control, standin

        with console.step("Ending the local cloud"):
            ended = control.down()
            standin.down()
        console.result({"ended": ended}, "" if ended else "It was not running.")


@task(**COMMAND)
def status(_context: Any, json: bool = False) -> None:
    """Say whether the local cloud runs, where, and by what."""
    console = _console(json)
    with running(console):
        from bake.local import control

        endpoint = control.status()
        if endpoint is None:
            console.result({"running": False}, "It does not run. Start it: invoke local.up")
            return
        told = endpoint.ask("status")
        console.result(
            {"running": True, "url": endpoint.url, **told},
            f"EC2's API   {endpoint.url}",
            f"engine      {told['engine']} ({told['engine_note']})",
            f"machines    {told['machines']}, SSH on port {endpoint.ssh_port}",
            f"images      {told['images']}",
            f"memory      {told['memory_mib']} MiB",
        )


@task(
    positional=["machine"],
    help={"machine": "its instance id", "after": "seconds from notice to end (on EC2: 120)"},
    **COMMAND,
)
def interrupt(_context: Any, machine: Any = None, after: int = 120, json: bool = False) -> None:
    """Take a spot machine of the local cloud away, as EC2's market does: notice, then its end."""
    console = _console(json)
    with running(console):
        from bake.errors import RequestError
        from bake.local import control

        endpoint = control.status()
        if endpoint is None or not machine:
            missing = "a machine's id" if endpoint else "a local cloud that runs"
            raise RequestError(f"There is no machine to interrupt: this needs {missing}")
        for each in machine:
            told = endpoint.ask("interrupt", {"instance_id": each, "after_s": after})
            console.result({"machine": each, **told}, f"{each} is terminated at {told['time']}")


@task(**COMMAND)
def env(_context: Any, json: bool = False) -> None:
    """Print what makes any EC2 client use it: eval "$(invoke local.env)"."""
    console = _console(json)
    with running(console):
        import shlex

        from bake.local import control

        variables = control.environment(control.up())
        if json:
            console.result(variables)
        else:
            # The one thing for a shell to read, and so for stdout.
            for name, value in variables.items():
                print(f"export {name}={shlex.quote(value)}")


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
