"""The documents of the local cloud."""

from __future__ import annotations

from pydantic import Field

from bake.cli.documents.document import Document, Part, TextOrNull, Time


class LocalUpDocument(Document):
    """The local cloud, which runs now."""

    url: str = Field(description="the address of its API")
    ssh_port: int = Field(description="the port of SSH on its machines")
    delays: TextOrNull = Field(description="the profile of its delays; null: nothing is delayed")
    note: TextOrNull = Field(description="a difference from the request, such as another port")


class LocalDownDocument(Document):
    """The end of the local cloud."""

    was_running: bool = Field(description="false if it did not run")


class LocalStatusPart(Part):
    """The running local cloud."""

    url: str = Field(description="the address of its API")
    cloud_id: str = Field(description="its id, which its machines' containers carry")
    engine: str = Field(description="the program that runs its machines")
    engine_note: TextOrNull = Field(description="how that program runs")
    computer_address: TextOrNull = Field(description="this computer's address for its machines")
    ssh_port: int = Field(description="the port of SSH on its machines")
    image_count: int = Field(description="how many images it has, with those of distributions")
    machine_count: int = Field(description="how many machines it has")
    memory_mib: int = Field(description="the most memory that its server has used")
    delays: TextOrNull = Field(description="the profile of its delays; null: nothing is delayed")


class LocalStatusDocument(Document):
    """The state of the local cloud."""

    is_running: bool = Field(description="true if it runs")
    cloud: LocalStatusPart | None = Field(description="null if it does not run")


class InterruptedEntry(Part):
    """A spot machine that is interrupted."""

    instance_id: str = Field(description="the machine")
    ends_at: Time = Field(description="when it is terminated")


class LocalInterruptDocument(Document):
    """The spot machines that are interrupted."""

    machines: tuple[InterruptedEntry, ...] = Field(description="one for each named machine")


class LocalEnvDocument(Document):
    """The environment with which an EC2 client uses the local cloud."""

    variables: dict[str, str] = Field(description="the variables to set")
    unset: tuple[str, ...] = Field(description="variables that must not be set")
    packer: dict[str, object] | None = Field(
        description="the keys of a Packer builder; null without `--packer`"
    )
