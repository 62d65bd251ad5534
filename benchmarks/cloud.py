"""A local cloud for the benchmark, and a record of how long its machines exist."""

from __future__ import annotations

import os
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from bake import catalog
from bake.local import control
from bake.local.delays import PROFILES
from bake.local.machines import os_images
from bake.threads import held_back
from benchmarks.work import BASE

_GONE = {"terminated"}


class LocalCloud:
    def __init__(self, endpoint: control.LocalCloud, base_image_id: str) -> None:
        self.url, self.ssh_port, self.base_image_id = endpoint.url, endpoint.ssh_port, base_image_id
        self.environment = control.environment(endpoint)
        self.region = self.environment["AWS_DEFAULT_REGION"]
        access = {name.lower(): self.environment[name] for name in _CREDENTIALS}
        self.ec2 = boto3.client("ec2", endpoint_url=self.url, region_name=self.region, **access)

    def instances(self) -> dict[str, str]:
        """Return the state of each instance by its id, terminated ones included."""
        pages = self.ec2.get_paginator("describe_instances").paginate()
        return {
            instance["InstanceId"]: instance["State"]["Name"]
            for page in pages
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
        }

    def sweep(self) -> None:
        """Delete all images and snapshots except the base image: the next bake starts cold."""
        for image in self.ec2.describe_images(Owners=["self"])["Images"]:
            self.ec2.deregister_image(ImageId=image["ImageId"])
        for snapshot in self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]:
            self.ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])

    @contextmanager
    def books(self) -> Iterator[Books]:
        """Record the machines that the block starts; leaving it waits until all have ended."""
        books = Books(self)
        thread = threading.Thread(target=books.keep, daemon=True)
        thread.start()
        try:
            yield books
        finally:
            books.closing.set()
            thread.join()
        if books.failure:
            raise books.failure


class Books:
    """The machines of one measurement.

    `machine_seconds` is the time from RunInstances to `terminated`, summed over all machines, to
    a tenth of a second.
    """

    PERIOD_S = 0.1
    PATIENCE_S = 120

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self._before = set(cloud.instances())
        self._since: dict[str, float] = {}
        self._until: dict[str, float] = {}
        self.closing = threading.Event()
        self.failure: Exception | None = None

    @property
    def machines(self) -> int:
        return len(self._since)

    @property
    def machine_seconds(self) -> float:
        return sum(self._until[name] - since for name, since in self._since.items())

    def keep(self) -> None:
        try:
            closed_at: float | None = None
            while True:
                # Read this first: the response that follows then includes all that has ended.
                if closed_at is None and self.closing.is_set():
                    closed_at = time.monotonic()
                self._look()
                if closed_at is not None:
                    if self._since.keys() == self._until.keys():
                        return
                    if time.monotonic() - closed_at > self.PATIENCE_S:
                        raise TimeoutError("A machine was left running")
                self.closing.wait(self.PERIOD_S) if closed_at is None else time.sleep(self.PERIOD_S)
        except Exception as error:
            self.failure = error

    def _look(self) -> None:
        now = time.monotonic()
        for instance_id, state in self._cloud.instances().items():
            if instance_id in self._before:
                continue
            self._since.setdefault(instance_id, now)
            if state in _GONE:
                self._until.setdefault(instance_id, now)


_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def scrub() -> None:
    """Remove the user's credentials and settings from the environment.

    Python may keep its compiled modules, as it does for users: without them, every command would
    compile them again.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("BAKE_CACHE", str(Path.home() / ".cache" / "bake"))
    for name in list(os.environ):
        if name.startswith(("AWS_", "BAKE_", "PKR_", "PACKER_")) and name not in (
            "AWS_CA_BUNDLE",
            "BAKE_CACHE",
        ):
            del os.environ[name]


@contextmanager
def a_local_cloud(home: Path, like_ec2: float | None) -> Iterator[LocalCloud]:
    """Start a local cloud in `home` and erase it afterwards.

    If `like_ec2` is given, the cloud has EC2's delays, multiplied by it.
    """
    os.environ["BAKE_HOME"] = str(home)
    try:
        endpoint = control.up(profile=_profile(home, like_ec2) if like_ec2 else "")
        image = os_images.provide(endpoint, catalog.load().os_image(BASE), stand_in=False)
        yield LocalCloud(endpoint, image)
    finally:
        with held_back():
            control.down(erase=True)


def _profile(home: Path, scale: float) -> str:
    delays = tomllib.loads((PROFILES / "ec2.toml").read_text())
    delays["scale"] = delays.get("scale", 1) * scale
    path = home / "ec2.toml"
    home.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} = {value}\n" for name, value in delays.items()))
    return str(path)
