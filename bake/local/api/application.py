"""What the local cloud's server answers: AWS's APIs, and a door of our own for its owner."""

from __future__ import annotations

import fnmatch
import io
import json
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.utils import random_ami_id, random_snapshot_id
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.secretsmanager.models import secretsmanager_backends
from moto.ssm.models import ssm_backends
from werkzeug.wrappers import Request, Response

from bake.errors import LocalCloudError
from bake.local.api import capacity, price_list, service_quotas
from bake.local.api.ec2_backend import LocalEC2Backend
from bake.local.api.image import LocalImage, LocalSnapshot
from bake.local.api.store import Store
from bake.local.site import Site

# The services whose answers mean something here. The rest of what moto can imitate is not offered.
SERVICES = ("ec2", "sts", "service-quotas", "servicequotas", "ssm", "secretsmanager", "iam")


# How long an answer waits for a machine to stand still.
MOMENT_TIMEOUT_S = 30

# What a client on this computer calls it; any other name is a web page's trick.
_OUR_NAMES = ("127.0.0.1", "localhost")


class Application:
    """EC2's API, and a door of our own at /_bake/ for what a cloud's owner does."""

    def __init__(self, site: Site, store: Store) -> None:
        self.site = site
        self.store = store
        self._api = DomainDispatcherApplication(_service)
        self._doors: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "/_bake/status": self.status,
            "/_bake/os-images": self.add_os_image,
            "/_bake/quotas": self.set_quotas,
            "/_bake/interrupt": self.interrupt,
            "/_bake/erase": self.erase,
        }

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        body = request.get_data()
        environ["wsgi.input"] = io.BytesIO(body)
        responder: Any
        # A web page in this computer's browser can send requests to loopback too.
        if "Origin" in request.headers or request.host.partition(":")[0] not in _OUR_NAMES:
            responder = Response("not for web pages", 403)
        elif request.path.startswith("/moto-api"):
            responder = Response("not in the local cloud", 404)
        elif request.headers.get("X-Amz-Target", "").startswith(price_list.TARGET):
            responder = price_list.answer
        else:
            responder = self._own_door if request.path in self._doors else self._api
        time.sleep(self.site.delays.api_s)
        with self.site.lock:
            answer: Iterable[bytes] = responder(environ, start_response)
            if not _only_looks(request, body):
                self.store.keep()
            moments, self.site.moments = self.site.moments, []
        for moment in moments:
            moment.wait(MOMENT_TIMEOUT_S)
        return answer

    def _own_door(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        asked = request.get_json() if request.method == "POST" else {}
        try:
            answer, status = self._doors[request.path](asked), 200
        except LocalCloudError as error:
            answer, status = {"error": error.message}, 400
        response = Response(json.dumps(answer), status, content_type="application/json")
        return list(response(environ, start_response))

    def status(self, _: dict[str, Any]) -> dict[str, Any]:
        backends = [backend for _, _, backend in ec2_backends.iter_backends()]
        engine = self.site.engine
        return {
            "cloud_id": self.site.cloud_id,
            "engine": engine.program,
            "engine_note": engine.note,
            "computer_address": engine.computer_address,
            "ssh_port": self.site.ssh_port,
            "images": sum(len(backend.amis) for backend in backends),
            "machines": len(self.site.machines),
            "memory_mib": _peak_memory_mib(),
            "delays": self.site.delays.name,
        }

    def add_os_image(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Offer an operating system's root file system as a public image of its maker's.

        The same one twice is one image; a newer one replaces what matches `replaces`.
        """
        backend: LocalEC2Backend = ec2_backends[DEFAULT_ACCOUNT_ID][asked["region"]]
        for image in list(backend.amis.values()):
            if image.owner_id != asked["owner"]:
                continue
            sound = backend.get_snapshot(image.root_device["SnapshotId"]).status == "completed"
            if image.name == asked["name"] and sound:
                return {"image_id": image.id}
            if fnmatch.fnmatch(image.name, asked["replaces"]):
                backend.withdraw(image)
        snapshot = LocalSnapshot(
            ec2_backend=backend,
            id=random_snapshot_id(),
            owner_id=asked["owner"],
            volume_id="vol-ffffffff",
            volume_size=asked["size_gb"],
            status="completed",
        )
        self.site.engine.tag(asked["layer"], self.site.layer(snapshot.id))
        backend.snapshots[snapshot.id] = snapshot
        ebs = {
            "SnapshotId": snapshot.id,
            "VolumeSize": asked["size_gb"],
            "VolumeType": "gp3",
            "DeleteOnTermination": True,
            "Encrypted": False,
        }
        image = LocalImage(
            ec2_backend=backend,
            id=random_ami_id(),
            owner_id=asked["owner"],
            name=asked["name"],
            description=asked["description"],
            state="available",
            public=True,
            root_device_name=asked["root_device_name"],
            block_device_mappings=[{"DeviceName": asked["root_device_name"], "Ebs": ebs}],
            boot_mode="legacy-bios",
            deprecation_time=asked.get("deprecation_time"),
        )
        backend.amis[image.id] = image
        return {"image_id": image.id}

    def set_quotas(self, asked: dict[str, Any]) -> dict[str, Any]:
        unknown = set(asked) - set(capacity.VCPU_QUOTAS)
        if unknown:
            raise LocalCloudError(f"There is no quota {', '.join(sorted(unknown))}")
        return service_quotas.set_values(asked)

    def interrupt(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The spot market takes a machine away: notice at once, its end `after_s` later."""
        which = asked["instance_id"]
        for _, _, backend in ec2_backends.iter_backends():
            for instance in backend.all_instances():
                if instance.id == which:
                    return {"time": f"{instance.interrupt(asked['after_s']):%Y-%m-%dT%H:%M:%SZ}"}
        raise LocalCloudError(f"There is no instance {which}")

    def erase(self, _: dict[str, Any]) -> dict[str, Any]:
        """Remove every machine, image, snapshot, key pair and parameter, and every layer."""
        self.site.clear_machines()
        for _, _, backend in ec2_backends.iter_backends():
            for books in (backend.amis, backend.snapshots, backend.key_pairs, backend.reservations):
                books.clear()
        for _, _, parameters in ssm_backends.iter_backends():
            parameters._parameters.clear()
            parameters._resource_tags.clear()
        for _, _, kept in secretsmanager_backends.iter_backends():
            kept.secrets.clear()
        self.site.erase_layers()
        return {}


def _only_looks(request: Request, body: bytes) -> bool:
    """Whether nothing has to be written down after this request. Most ask how things are."""
    query = re.search(rb"(?:^|&)Action=(\w+)", body)
    action = query[1].decode() if query else request.headers.get("X-Amz-Target", "").split(".")[-1]
    return action.startswith(("Describe", "Get", "List"))


def _service(name: str) -> Any:
    if name in SERVICES:
        return create_backend_app(name)
    return Response(f"The local cloud has no {name}", 501)


def _peak_memory_mib() -> int:
    """Of this process alone: getrusage's figure also counts what was here before its exec."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0]) // 1024
