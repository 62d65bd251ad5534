"""The local cloud's server application: AWS's APIs, and the owner's API at /_bake/."""

from __future__ import annotations

import fnmatch
import io
import json
import logging
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
from moto.ssm.models import Parameter, ssm_backends
from werkzeug.wrappers import Request, Response

from bake.errors import LocalCloudError
from bake.local.api import capacity, price_list, region, service_quotas
from bake.local.api.ec2_backend import LocalEC2Backend
from bake.local.api.error_response import error_response
from bake.local.api.image import LocalImage, LocalSnapshot, now, root_mapping
from bake.local.api.store import Store
from bake.local.site import Site

log = logging.getLogger(__name__)

# The services that behave as on AWS. The other services of moto are not offered.
SERVICES = ("ec2", "sts", "service-quotas", "servicequotas", "ssm", "secretsmanager", "iam")

# How long a response waits until a machine is paused.
MOMENT_TIMEOUT_S = 30

# The host names that a client on this computer uses. A web page that uses DNS rebinding to reach
# the server sends another name.
_OUR_NAMES = ("127.0.0.1", "localhost")


class Application:
    """AWS's APIs, and at /_bake/ the owner's API: operations that AWS's customers do not have."""

    def __init__(self, site: Site, store: Store) -> None:
        self.site = site
        self.store = store
        self._api = DomainDispatcherApplication(_service)
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
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
        # A web page in a browser on this computer can send requests to loopback, too.
        if "Origin" in request.headers or request.host.partition(":")[0] not in _OUR_NAMES:
            responder = Response("Requests of web pages are refused", 403)
        elif request.path.startswith("/moto-api"):
            responder = Response("Not in the local cloud", 404)
        elif refused := region.refusal(request):
            responder = refused
        elif request.headers.get("X-Amz-Target", "").startswith(price_list.TARGET):
            responder = price_list.respond
        else:
            responder = self._owner_api if request.path in self._operations else self._api
        time.sleep(self.site.delays.api_s)
        with self.site.lock:
            response: Iterable[bytes]
            try:
                response = responder(environ, start_response)
            except Exception:
                # Not an HTTP 500: clients repeat it, and the reason would be lost in HTML.
                log.exception("%s failed", request.path)
                message = "The local cloud cannot answer this request: its log has the reason"
                refused = error_response(request, "UnsupportedOperation", message)
                response = refused(environ, start_response)
            if not _only_reads(request, body):
                self.store.keep()
            moments, self.site.moments = self.site.moments, []
        for moment in moments:
            moment.wait(MOMENT_TIMEOUT_S)
        return response

    def _owner_api(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        parameters = request.get_json() if request.method == "POST" else {}
        try:
            document, status = self._operations[request.path](parameters), 200
        except LocalCloudError as error:
            document, status = {"error": error.message}, 400
        response = Response(json.dumps(document), status, content_type="application/json")
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

    def add_os_image(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Offer an operating system's root file system as a public image of its publisher.

        A second request with the same name returns the same image. A new image replaces those
        whose name matches the pattern `replaces`. It gets the id `image_id`, and `parameter` of the
        Parameter Store contains its id; what a user has made under these names stays as it is.
        """
        if not region.exists(parameters["region"]):
            raise LocalCloudError(f"The region {parameters['region']} does not exist")
        backend: LocalEC2Backend = ec2_backends[DEFAULT_ACCOUNT_ID][parameters["region"]]
        stored = ssm_backends[DEFAULT_ACCOUNT_ID][parameters["region"]]._parameters
        image_id, parameter = parameters.get("image_id"), parameters.get("parameter")
        if parameter and not parameter.startswith("/aws/") and stored.get(parameter):
            return {"image_id": stored[parameter][-1].value}
        if image_id in backend.amis and backend.amis[image_id].owner_id == DEFAULT_ACCOUNT_ID:
            return {"image_id": image_id}
        made = self._os_image(backend, parameters)
        if parameter:
            stored[parameter] = [_image_parameter(parameter, made)]
        return {"image_id": made}

    def _os_image(self, backend: LocalEC2Backend, parameters: dict[str, Any]) -> str:
        for image in list(backend.amis.values()):
            if image.owner_id != parameters["owner"]:
                continue
            sound = backend.get_snapshot(image.root_device["SnapshotId"]).status == "completed"
            if image.name == parameters["name"] and sound:
                return str(image.id)
            if fnmatch.fnmatch(image.name, parameters["replaces"]):
                backend.withdraw(image)
        snapshot = LocalSnapshot(
            ec2_backend=backend,
            id=random_snapshot_id(),
            owner_id=parameters["owner"],
            volume_id="vol-ffffffff",
            volume_size=parameters["size_gb"],
            status="completed",
        )
        self.site.engine.tag(parameters["layer"], self.site.layer(snapshot.id))
        backend.snapshots[snapshot.id] = snapshot
        image = LocalImage(
            ec2_backend=backend,
            id=parameters.get("image_id") or random_ami_id(),
            owner_id=parameters["owner"],
            name=parameters["name"],
            description=parameters["description"],
            state="available",
            public=True,
            root_device_name=parameters["root_device_name"],
            block_device_mappings=[
                root_mapping(parameters["root_device_name"], snapshot, volume_type="gp3")
            ],
            boot_mode="legacy-bios",
            deprecation_time=parameters.get("deprecation_time"),
        )
        backend.amis[image.id] = image
        return image.id

    def set_quotas(self, parameters: dict[str, Any]) -> dict[str, Any]:
        unknown = set(parameters) - set(capacity.VCPU_QUOTAS)
        if unknown:
            raise LocalCloudError(f"Quota {', '.join(sorted(unknown))} not found")
        return service_quotas.set_values(parameters)

    def interrupt(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Interrupt a spot machine: the notice comes at once, its end `after_s` seconds later."""
        instance_id = parameters["instance_id"]
        for _, _, backend in ec2_backends.iter_backends():
            for instance in backend.all_instances():
                if instance.id == instance_id:
                    end = instance.interrupt(parameters["after_s"])
                    return {"time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        raise LocalCloudError(f"Instance {instance_id} not found")

    def erase(self, _: dict[str, Any]) -> dict[str, Any]:
        """Remove every machine, image, snapshot, key pair and parameter, and every layer."""
        self.site.clear_machines()
        for _, _, backend in ec2_backends.iter_backends():
            backend.amis.clear()
            backend.snapshots.clear()
            backend.key_pairs.clear()
            backend.reservations.clear()
        for _, _, parameters in ssm_backends.iter_backends():
            parameters._parameters.clear()
            parameters._resource_tags.clear()
        for _, _, secrets in secretsmanager_backends.iter_backends():
            secrets.secrets.clear()
        self.site.erase_layers()
        return {}


def _image_parameter(name: str, image_id: str) -> Parameter:
    """Return a parameter with an image's id, as a publisher of images offers it."""
    return Parameter(
        account_id=DEFAULT_ACCOUNT_ID,
        name=name,
        value=image_id,
        parameter_type="String",
        description=None,
        allowed_pattern=None,
        keyid=None,
        last_modified_date=now(),
        version=1,
        data_type="aws:ec2:image",
    )


def _only_reads(request: Request, body: bytes) -> bool:
    """Return whether the request changes nothing, so that the store need not be written."""
    query = re.search(rb"(?:^|&)Action=(\w+)", body)
    action = query[1].decode() if query else request.headers.get("X-Amz-Target", "").split(".")[-1]
    return action.startswith(("Describe", "Get", "List"))


def _service(name: str) -> Any:
    if name in SERVICES:
        return create_backend_app(name)
    return Response(f"The local cloud does not offer the service {name}", 501)


def _peak_memory_mib() -> int:
    """Return this process's peak memory; getrusage would include the time before its exec."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0]) // 1024
