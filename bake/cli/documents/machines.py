"""The documents of machines: listed, launched, started, stopped, extended, terminated, reached."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from bake.aws.machine import Machine
from bake.cli.documents.document import (
    Document,
    Market,
    Part,
    PathText,
    TextOrNull,
    Time,
    Usd,
)
from bake.machine import lifetime
from bake.machine.cost import Cost
from bake.machine.ssh_config import Host


class MachineEntry(Part):
    """A machine."""

    instance_id: str = Field(description="EC2's id")
    name: TextOrNull = Field(description="its name")
    state: str = Field(description="EC2's state: `pending`, `running`, `stopping`, `stopped`, …")
    state_reason: TextOrNull = Field(description="AWS's explanation of the last change of state")
    state_reason_code: TextOrNull = Field(description="its code")
    recipe: TextOrNull = Field(description="the recipe of its image")
    run_id: TextOrNull = Field(description="the run that has started it")
    used_by: TextOrNull = Field(
        description="`bake` or `bench`, which started it for itself; null for your own machine"
    )
    instance_type: str = Field(description="EC2's instance type")
    market: Market = Field(description="how it is paid for")
    zone: str = Field(description="its availability zone")
    address: str | None = Field(description="its public address")
    image_id: str = Field(description="the image that it was started from")
    root_volume_id: TextOrNull = Field(description="its first disk")
    network_interface_id: TextOrNull = Field(description="its first network interface")
    key_name: str | None = Field(description="its key pair at AWS")
    launched_at: Time = Field(description="its last start")
    time_left_s: int | None = Field(
        description="the time after which it ends by itself; null if it does not, or is not running"
    )
    is_prepaid: bool = Field(description="true in a Capacity Block: nothing is billed by the hour")
    price_is_approximate: bool = Field(description="true for a spot machine: its price changes")
    usd_per_hour: Usd | None = Field(description="the present price, also of a stopped machine")
    usd_since_launch: Usd | None = Field(description="its cost since its last start")
    disks_gb: int | None = Field(description="the size of its disks")
    disks_usd_per_month: Usd | None = Field(description="what its disks cost, also while stopped")
    tags: dict[str, str] = Field(description="its tags")

    @classmethod
    def of_machine(cls, machine: Machine, cost: Cost | None, now: datetime) -> MachineEntry:
        """Make it of a machine and its cost. `now` is AWS's time."""
        left = lifetime.time_left(machine, now)
        return cls.of(
            machine,
            state_reason=machine.reason,
            state_reason_code=machine.reason_code,
            time_left_s=None if left is None else round(left.total_seconds()),
            is_prepaid=machine.prepaid,
            price_is_approximate=bool(cost and cost.about),
            usd_per_hour=cost and cost.per_hour,
            usd_since_launch=cost and cost.since_launch,
            disks_gb=cost and cost.disks_gb,
            disks_usd_per_month=cost and cost.disks_per_month,
            tags=dict(machine.tags),
        )


class MachinesDocument(Document):
    """Machines: all of the region, or those that the command has changed."""

    machines: tuple[MachineEntry, ...] = Field(description="the machines, the newest first")


class JupyterPart(Part):
    """Jupyter on a machine, reached through a tunnel."""

    url: str = Field(description="its address here, with its token: keep it secret")
    port: int = Field(description="the tunnel's port on this computer")
    remote_port: int = Field(description="its port on the machine")


class LaunchDocument(Document):
    """A new machine. With `--jupyter`, it is written when Jupyter can be reached."""

    machine: MachineEntry = Field(description="the machine")
    image_name: str = Field(description="the name of its image")
    ssh: tuple[str, ...] = Field(description="the command that opens a shell on it, in words")
    jupyter: JupyterPart | None = Field(description="null without `--jupyter`")


class JupyterDocument(Document):
    """Jupyter on a machine. It is written when Jupyter can be reached, before the command ends."""

    instance_id: str = Field(description="the machine")
    name: TextOrNull = Field(description="the machine's name")
    jupyter: JupyterPart | None = Field(description="null with `--stop`")
    was_stopped: bool | None = Field(
        description="with `--stop`: true if Jupyter was running; null without `--stop`"
    )


class HostEntry(Part):
    """The SSH settings of a machine."""

    instance_id: str = Field(description="the machine")
    alias: str = Field(description="`bake-NAME`, for `ssh bake-NAME`")
    address: str = Field(description="the address that ssh connects to")
    user: str = Field(description="the login user")
    port: int = Field(description="the port of SSH")
    key_path: PathText = Field(description="the file of the private key")
    proxy: tuple[str, ...] = Field(description="the words of the ProxyCommand, if there is one")
    configuration: str = Field(description="the section for OpenSSH's client configuration")

    @classmethod
    def of_host(cls, host: Host) -> HostEntry:
        return cls.of(host, key_path=host.key, configuration=host.configuration())


class SshConfigDocument(Document):
    """The SSH settings of machines."""

    hosts: tuple[HostEntry, ...] = Field(description="the machines that can be reached")
