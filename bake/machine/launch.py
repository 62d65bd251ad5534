"""Launch a machine from a verified image."""

from __future__ import annotations

import getpass
import os
import platform
import re
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bake.aws.client.caller import caller_cidr
from bake.aws.client.commands import removal_command
from bake.aws.client.session import Cloud
from bake.aws.client.undo import clean_up
from bake.aws.image import Image
from bake.aws.key_pair import find_key_pair, import_key_pair, lasting_key_pairs
from bake.aws.launch import LaunchSpec, remove_machine, run_machine
from bake.aws.machine import Machine, machines
from bake.aws.placement import Placement
from bake.aws.price import prices
from bake.aws.security_group import create_security_group, remove_security_groups
from bake.aws.tags import LOGIN_USER, USED_BY, VIA, Run, Tags, new_run
from bake.aws.user_data import user_data
from bake.console.console import Console
from bake.console.format import rate
from bake.console.screen import Step
from bake.errors import RequestError
from bake.machine import host_key, session_manager
from bake.machine.boot import login_user, wait_until_reached
from bake.machine.key_store import (
    KnownHostKey,
    check_key,
    key_path,
    read_private_key,
    read_public_key,
    save_host_keys,
    save_key,
)
from bake.machine.request import LaunchRequest, choose_placements
from bake.machine.ssh_config import ALIAS, check_name, find_host, ssh_arguments
from bake.ssh import keys
from bake.ssh.keys import KeyPair

__all__ = ["LaunchRequest", "Launched", "launch"]


@dataclass(frozen=True)
class Launched:
    """A launched machine. `ssh` is the command that connects to it, as a list of arguments."""

    machine: Machine
    image: Image
    ssh: list[str]


def launch(
    cloud: Cloud,
    image: Image,
    request: LaunchRequest,
    *,
    usual: Sequence[str] = (),
    ssh_port: int,
    console: Console,
) -> Launched:
    """Launch a machine and wait until it answers SSH. When this raises, nothing is left running.

    `usual` are the instance types of the image's recipe, used when the request names none.
    """
    proxied = request.via is not None
    if proxied:
        session_manager.check_via(request.via)
    run = new_run(image.recipe, now=cloud.now())
    name = _free_name(cloud, request.name or f"{image.recipe or 'machine'}-{run.id[-6:]}")
    disk_gb = _disk_gb(image, request.disk_gb)
    placements = choose_placements(cloud, image, request, usual, console)
    request.lifetime.check(placement.market for placement in placements)
    cidr = None if proxied else caller_cidr()
    key_name, key_file = ensure_key_pair(cloud, run, request.key)
    private_key = read_private_key(key_file)
    first_key = keys.generate()
    tags = _tags(image, request, run, name, cloud.now())

    with clean_up(cloud.leftovers) as stack:
        with console.step("Machine") as step:
            vpc_id = placements[0].vpc_id
            group_id = _group(stack, cloud, run, name, vpc_id, cidr, ssh_port)
            data = user_data(first_key, files=request.lifetime.files(run.id, name))
            spec = _spec(image, request, disk_gb, key_name, group_id, data, tags)
            machine = run_machine(
                cloud,
                run,
                spec,
                placements,
                on_state=step.update,
                on_no_capacity=lambda place, error: console.note(f"  {place}: {error.code}"),
            )
            stack.callback(remove_machine, cloud, run, machine.instance_id)
            step.done(_place_and_price(cloud, machine, placements))
        with console.step("SSH") as step:
            known = KnownHostKey(first_key.public_openssh, from_user_data=True)
            save_host_keys(machine.instance_id, known)
            _wait_for_ssh(cloud, machine, ssh_port, private_key, first_key, step, proxied)
            host = find_host(cloud, machine, ssh_port=ssh_port)
            host_key.complete(host, console.warn)
        launched = Launched(machine, image, ssh_arguments(host))
        stack.pop_all()  # the launch has succeeded, so nothing is undone
    return launched


def _spec(
    image: Image,
    request: LaunchRequest,
    disk_gb: int,
    key_name: str,
    group_id: str,
    data: str,
    tags: Tags,
) -> LaunchSpec:
    """Return the properties of a machine that stays. `data` is its user data."""
    return LaunchSpec(
        image_id=image.image_id,
        root_device_name=image.root_device_name,
        disk_gb=disk_gb,
        key_name=key_name,
        security_group_id=group_id,
        user_data=data,
        tags=tags,
        stays=True,
        at_end=request.lifetime.at_end or "stop",
        public_address=request.via is None,
        instance_profile=request.instance_profile or "",
    )


def _tags(image: Image, request: LaunchRequest, run: Run, name: str, now: datetime) -> Tags:
    """Return the tags of the machine, which later commands read."""
    return {
        **run.lasting(name),
        LOGIN_USER: login_user(image.tags),
        **request.lifetime.tags(now),
        **({VIA: session_manager.SSM} if request.via is not None else {}),
        **({USED_BY: request.used_by} if request.used_by else {}),
    }


def _wait_for_ssh(
    cloud: Cloud,
    machine: Machine,
    port: int,
    private_key: str,
    first_key: KeyPair,
    step: Step,
    proxied: bool,
) -> None:
    """Wait until the machine answers SSH; with `proxied`, through Session Manager."""
    proxy = session_manager.proxy_command(cloud.region) if proxied else ()
    with session_manager.hint_on_failure(proxied):
        wait_until_reached(
            cloud,
            machine,
            port=port,
            private_key=private_key,
            host_key=first_key,
            on_wait=step.update,
            proxy=session_manager.fill_in(proxy, machine.instance_id, port),
        ).close()


def _disk_gb(image: Image, wanted: int | None) -> int:
    if wanted is not None and wanted < image.size_gb:
        raise RequestError(
            f"{wanted} GB are too small: the image's disk has {image.size_gb} GB",
            hint=f"Give at least --disk-gb {image.size_gb}, or leave it out",
        )
    return wanted or image.size_gb


def _place_and_price(cloud: Cloud, machine: Machine, where: Sequence[Placement]) -> str:
    got = (machine.instance_type, machine.zone, machine.market)
    place = next((p for p in where if (p.instance_type, p.zone, p.market) == got), None)
    if place is None:
        return f"{machine.instance_type} in {machine.zone}"
    if place.reservation and place.reservation.block:
        return f"{place}, paid for in advance"
    usd = prices(cloud, [place])[place]
    return f"{place}, {'price unknown' if usd is None else f'${rate(usd)}/h'}"


def ensure_key_pair(cloud: Cloud, run: Run, wanted: str | None) -> tuple[str, Path]:
    """Return a key pair's name at AWS and its private key's path.

    With None, it is the user's own key pair, which is created if it does not exist. If AWS does not
    have it, but this computer has its private key, it is imported. Raises RequestError if a wanted
    key pair exists neither at AWS nor here, or if AWS's key pair does not match the file.
    """
    name = wanted or default_key_name()
    path = key_path(cloud.account_id, cloud.region, name)
    existing = find_key_pair(cloud, name)
    if path.exists():
        check_key(path)
        public = read_public_key(path)
        if existing is None:
            import_key_pair(cloud, name, public, run.lasting(name))
        elif existing.public_key.split()[:2] != public.split()[:2]:
            raise _another_key(cloud, name, f"{path} is the private half of another")
    elif existing is not None:
        raise _another_key(cloud, name, f"its private half is not at {path}")
    elif name != default_key_name():
        raise _unknown_key(cloud, name, path)
    else:
        made = keys.generate()
        save_key(path, made.private_openssh)
        import_key_pair(cloud, name, made.public_openssh, run.lasting(name))
    return name, path


def default_key_name() -> str:
    """Return the name for this user and computer, because private keys are not copied."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name: a container that runs as any user id
        user = str(os.getuid())
    return re.sub(r"[^A-Za-z0-9-]", "-", f"bake-{user}-{platform.node()}")[:255]


def _free_name(cloud: Cloud, name: str) -> str:
    check_name(name)
    for machine in machines(cloud):
        if machine.name.removeprefix(ALIAS) == name.removeprefix(ALIAS):  # one Host of ssh's
            raise RequestError(
                f"A machine named {machine.name} exists already: {machine.instance_id} "
                f"({machine.state})",
                hint="Give another name with --name, or use that machine: "
                f"invoke connect {machine.name}",
            )
    return name


def _group(
    stack: ExitStack, cloud: Cloud, run: Run, name: str, vpc_id: str, cidr: str | None, port: int
) -> str:
    group_id = create_security_group(
        cloud, run, run.lasting(name), vpc_id=vpc_id, cidr=cidr, port=port
    )
    stack.callback(remove_security_groups, cloud, run.id, {group_id})
    return group_id


def _another_key(cloud: Cloud, name: str, why: str) -> RequestError:
    return RequestError(
        f"AWS has a key pair named {name} in {cloud.region}, and {why}",
        hint="Give another key pair with --key NAME, or delete that one if it is not needed: "
        + removal_command("key pair", name, region=cloud.region),
    )


def _unknown_key(cloud: Cloud, name: str, path: Path) -> RequestError:
    known = [
        each
        if key_path(cloud.account_id, cloud.region, each).exists()
        else f"{each}  (its private key is not on this computer)"
        for each in lasting_key_pairs(cloud)
    ]
    folder, file = shlex.quote(str(path.parent)), shlex.quote(str(path))
    return RequestError(
        f"Key pair {name} not found in {cloud.region}",
        details=[f"Key pairs in {cloud.region}:", *known] if known else (),
        hint="Leave out --key to use your own key pair. To make a key for that name: "
        f"mkdir -p {folder} && ssh-keygen -t ed25519 -N '' -f {file}",
    )
