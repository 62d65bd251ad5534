"""The API of the local cloud in this process, with machines that exist on paper only."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import moto.ec2.models.instances
import moto.ec2.urls
import moto.ec2.utils
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from moto.ec2.models import ec2_backends
from moto.ssm.models import ssm_backends
from werkzeug.test import Client

from bake.errors import LocalCloudError
from bake.local.api import ec2_backend
from bake.local.api.application import Application
from bake.local.api.ec2_response import LocalEC2Response
from bake.local.api.store import Store
from bake.local.delays import NONE, Delays
from bake.local.machines.engine import Engine
from bake.local.machines.machine import LocalMachine
from bake.local.site import Site

ACCOUNT = "123456789012"
REGION = "us-east-1"
PUBLISHER = "136693071363"
SIZE_GB = 4  # of the base image


@dataclass(frozen=True)
class PaperEngine(Engine):
    """A container engine that keeps a list of its containers and layers, and runs nothing."""

    program: str = "paper"
    off: dict[str, threading.Event] = field(default_factory=dict)  # name → set if it is off
    layers: set[str] = field(default_factory=set)

    def call(self, *arguments: str, **_: Any) -> subprocess.CompletedProcess[bytes]:
        output = b""
        if arguments[0] in ("run", "create"):
            self.off[arguments[arguments.index("--name") + 1]] = ended = threading.Event()
            if arguments[0] == "create":
                ended.set()
        elif arguments[0] == "start":
            self._ended(arguments[-1]).clear()
        elif arguments[0] in ("stop", "kill"):
            self._ended(arguments[-1]).set()
        elif arguments[0] == "rm":
            self.off.pop(arguments[-1], threading.Event()).set()
        elif arguments[0] == "wait":
            self._ended(arguments[-1]).wait()
            output = b"0"
        elif arguments[0] == "inspect":
            self._ended(arguments[-1])
            output = b"0"  # the id of process 1
        elif arguments[0] in ("tag", "commit"):
            self.layers.add(arguments[-1])
        elif arguments[0] == "images":
            output = "\n".join(self.layers).encode()
        elif arguments[0] == "ps":
            output = "\n".join(self.off).encode()
        return subprocess.CompletedProcess(arguments, 0, output, b"")

    def _ended(self, name: str) -> threading.Event:
        if name not in self.off:
            raise LocalCloudError(f"no container {name}")
        return self.off[name]

    def mount_over(self, name: str, source: str, target: str) -> None:
        pass


class PaperMachine(LocalMachine):
    def answers(self, *, within_s: float) -> bool:
        return True


class PaperSite(Site):
    def new_machine(self, instance_id: str) -> LocalMachine:
        """Return a machine with an address of its own, which nothing listens on."""
        self.machines[instance_id] = machine = PaperMachine(
            self.engine,
            instance_id,
            folder=self.home / "machines" / instance_id,
            address=f"127.0.1.{len(self.machines) + 1}",
            port=self.ssh_port,
            labels=self.labels,
        )
        return machine


@dataclass
class LocalApi:
    """The clients with which a test uses the API, and its base image."""

    site: Site
    application: Application
    ec2: Any
    base: str = ""

    def client(self, service: str, region: str = REGION) -> Any:
        """Return a new client, which takes some time to make."""
        return _client(service, region, lambda request, **_: self.send(request))

    def send(self, request: Any) -> AWSResponse:
        response = Client(self.application).open(
            "/",
            method=request.method,
            base_url="http://127.0.0.1",
            data=request.body,
            headers={
                name: value.decode() if isinstance(value, bytes) else value
                for name, value in request.headers.items()
            },
        )
        raw = BytesIO(response.data)
        raw.stream = lambda *_, **__: iter([response.data])  # type: ignore[attr-defined]
        return AWSResponse(request.url, response.status_code, dict(response.headers), raw)

    def run(self, **more: Any) -> str:
        [instance_id] = self.run_all(**more)
        return instance_id

    def run_all(self, **more: Any) -> list[str]:
        request = {"ImageId": self.base, "InstanceType": "g4dn.xlarge", "MinCount": 1, **more}
        request.setdefault("MaxCount", request["MinCount"])
        answer = self.ec2.run_instances(**request)
        return [instance["InstanceId"] for instance in answer["Instances"]]

    def instance(self, instance_id: str) -> dict[str, Any]:
        [reservation] = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        [instance] = reservation["Instances"]
        return dict(instance)

    def wait_for(self, instance_id: str, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while (instance := self.instance(instance_id))["State"]["Name"] != state:
            assert time.monotonic() < deadline, instance
            time.sleep(0.01)
        return instance

    def wait_for_image(self, image_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while (image := self.ec2.describe_images(ImageIds=[image_id])["Images"][0])[
            "State"
        ] == "pending":
            assert time.monotonic() < deadline, image
            time.sleep(0.01)
        return dict(image)

    def refusal(self, operation: str, client: Any = None, **request: Any) -> str:
        """Return the code with which EC2 refuses the request, or "accepted"."""
        try:
            getattr(client or self.ec2, operation)(**request)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "accepted"

    def everything(self) -> set[str]:
        """Return the ids of all resources that a launch makes, and the names of all machines."""
        backend = ec2_backends[ACCOUNT][REGION]
        kinds = (backend.enis, backend.volumes, backend.spot_instance_requests, backend.snapshots)
        instances = (i.id for i in backend.all_instances() if i.state != "terminated")
        return {*instances, *(id for kind in kinds for id in kind), *self.site.machines}


@contextmanager
def local_api(home: Path, delays: Delays = NONE) -> Iterator[LocalApi]:
    """Offer the API with one base image of another account. Nothing of it remains afterwards."""
    with ExitStack() as stack:
        for table, values in (
            (moto.ec2.urls.url_paths, {"{0}/": LocalEC2Response.dispatch}),
            (moto.ec2.utils.filter_dict_attribute_mapping, {}),
        ):
            stack.enter_context(mock.patch.dict(table, values))
        stack.enter_context(mock.patch.dict(os.environ, MOTO_EC2_LOAD_DEFAULT_AMIS="false"))
        original = (ec2_backends.backend, moto.ec2.models.instances.Instance)
        _forget_regions()
        site = PaperSite(PaperEngine(), home, 22, inherited=dict, delays=delays)
        ec2_backend.install(site)
        try:
            application = Application(site, Store(home / "store.json", site))
            api = LocalApi(site, application, _shared_client())
            _present.append(api)
            api.base = application.add_os_image(
                {
                    "region": REGION,
                    "owner": PUBLISHER,
                    "name": "debian-12-amd64",
                    "description": "A base image",
                    "replaces": "debian-12-amd64*",
                    "layer": "localhost/base",
                    "size_gb": SIZE_GB,
                    "root_device_name": "/dev/xvda",
                }
            )["image_id"]
            yield api
        finally:
            _present.clear()
            site.clear_machines()
            ec2_backends.backend, moto.ec2.models.instances.Instance = original
            _forget_regions()


_present: list[LocalApi] = []


@cache
def _shared_client() -> Any:
    """Return the client that all tests use, because it takes longer to make than most tests."""
    return _client("ec2", REGION, lambda request, **_: _present[0].send(request))


def _client(service: str, region: str, send: Callable[..., AWSResponse]) -> Any:
    client = boto3.Session("local", "local", region_name=region).client(service)
    client.meta.events.register("before-send", send)
    return client


def _forget_regions() -> None:
    for backends in (ec2_backends, ssm_backends):
        for account in list(backends):
            del backends[account]
