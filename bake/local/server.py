"""The local cloud's process: `python -m bake.local.server --home FOLDER --port N`.

`control.py` starts and ends it. It serves the API on loopback until SIGTERM, and takes its
machines with it when it goes.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import fnmatch
import functools
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

# moto reads these when it is imported: no images that cannot be booted, no answers to web pages.
os.environ.update(
    MOTO_EC2_LOAD_DEFAULT_AMIS="false",
    MOTO_DISABLE_GLOBAL_CORS="true",
    MOTO_ENABLE_KEYPAIR_VALIDATION="true",
)

import moto.ec2.urls
import moto.servicequotas.urls
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.servicequotas.models import servicequotas_backends
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request, Response

from bake.errors import LocalCloudError
from bake.local import capacity, computer
from bake.local.api import LocalEC2Response, LocalServiceQuotasResponse
from bake.local.ec2 import LocalEC2Backend
from bake.local.engine import find_engine
from bake.local.image import LocalImage, LocalSnapshot
from bake.local.machine import ssh_port
from bake.local.site import Site
from bake.local.store import Store

log = logging.getLogger("bake.local")

HOST = "127.0.0.1"
PORTS_TRIED = 100

# The services whose answers mean something here. The rest of what moto can imitate is not offered.
SERVICES = ("ec2", "sts", "service-quotas", "servicequotas", "ssm", "iam")


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
        }

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        # A web page in this computer's browser can send requests to loopback too.
        if "Origin" in request.headers or request.host.partition(":")[0] not in _OUR_NAMES:
            return Response("not for web pages", 403)(environ, start_response)
        with self.site.lock:
            if request.path.startswith("/moto-api"):
                return Response("not in the local cloud", 404)(environ, start_response)
            if request.path in self._doors:
                return self._own_door(request)(environ, start_response)
            answer: Iterable[bytes] = self._api(environ, start_response)
            self.store.keep()
            return answer

    def _own_door(self, request: Request) -> Response:
        asked = request.get_json() if request.method == "POST" else {}
        try:
            answer, status = self._doors[request.path](asked), 200
        except LocalCloudError as error:
            answer, status = {"error": error.message}, 400
        self.store.keep()
        return Response(json.dumps(answer), status, content_type="application/json")

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
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
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
            id=moto.ec2.utils.random_snapshot_id(),
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
            id=moto.ec2.utils.random_ami_id(),
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
        capacity.quota_values.update(asked)
        return dict(capacity.quota_values)


_OUR_NAMES = ("127.0.0.1", "localhost")


def _service(name: str) -> Any:
    if name in SERVICES:
        return create_backend_app(name)  # type: ignore[arg-type]
    return Response(f"The local cloud has no {name}", 501)


def _listen(application: Application, port: int) -> BaseWSGIServer:
    """A server on the first port from `port` on that is free."""
    for candidate in range(port, port + PORTS_TRIED):
        try:
            listener = socket.create_server((HOST, candidate))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        with listener:
            return make_server(
                HOST,
                candidate,
                application,
                threaded=True,
                request_handler=MotoRequestHandler,
                fd=listener.fileno(),
            )
    raise LocalCloudError(f"All ports from {port} to {port + PORTS_TRIED - 1} are taken")


def build(home: Path) -> tuple[Site, Application]:
    """The site as it was left, without its machines, and the application that serves it."""
    engine = find_engine()
    settings = functools.cache(lambda: computer.write_settings(home / "computer"))
    site = Site(engine=engine, home=home, ssh_port=ssh_port(), given=settings)
    ec2_backends.backend = functools.partial(LocalEC2Backend, site)
    servicequotas_backends.backend = capacity.LocalServiceQuotas
    moto.ec2.urls.url_paths["{0}/"] = LocalEC2Response.dispatch
    moto.servicequotas.urls.url_paths["{0}/$"] = LocalServiceQuotasResponse.dispatch
    site.clear_machines()
    store = Store(home / "store.json", site)
    store.load()
    store.keep()
    site.on_change = store.keep
    return site, Application(site, store)


def serve(home: Path, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Returns at once when another process serves this home."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "server.lock").open("w") as lock:
        if not _take(lock):
            return
        site, application = build(home)
        server = _listen(application, port)
        threading.Thread(target=site.given, daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        state = {"url": f"http://{HOST}:{server.port}", "pid": os.getpid(), "wanted_port": port}
        state["ssh_port"] = site.ssh_port
        (home / "server.json").write_text(json.dumps(state))
        log.info("serving on %s with %s", state["url"], site.engine.note)
        server.serve_forever()
        (home / "server.json").unlink(missing_ok=True)
        with site.lock:
            application.store.keep()
        site.clear_machines()
        # Workers may still wait for machines that are gone; nothing of theirs is needed any more.
        sys.stderr.flush()
        os._exit(0)


def _take(lock: IO[str]) -> bool:
    """Whether this process is the one that serves. Others hold the lock for a moment to look."""
    for _ in range(40):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        serve(arguments.home, arguments.port)
    except LocalCloudError as error:
        # control.py shows it to the person who wanted the cloud.
        failure = {"message": error.message, "hint": error.hint, "details": error.details}
        (arguments.home / "failure.json").write_text(json.dumps(failure))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
