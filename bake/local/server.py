"""The local cloud's process: `python -m bake.local.server --home FOLDER --port N`.

`control.py` starts and ends it. It serves the API on loopback until SIGTERM, and removes its
machines before it ends.
"""

from __future__ import annotations

import argparse
import errno
import functools
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

# moto reads these variables when it is imported. Without them it would offer images that cannot
# be booted, and let web pages read its responses.
os.environ.update(
    MOTO_EC2_LOAD_DEFAULT_AMIS="false",
    MOTO_DISABLE_GLOBAL_CORS="true",
    MOTO_ENABLE_KEYPAIR_VALIDATION="true",
)

import moto.ec2.urls
import moto.servicequotas.urls
from filelock import FileLock, Timeout
from moto.moto_server.werkzeug_app import MotoRequestHandler
from moto.servicequotas.models import servicequotas_backends
from werkzeug.serving import BaseWSGIServer, make_server

from bake import files
from bake.errors import BakeError, LocalCloudError
from bake.local.api import authorization, ec2_backend, session_manager
from bake.local.api.application import Application
from bake.local.api.ec2_response import LocalEC2Response
from bake.local.api.service_quotas import LocalServiceQuotas, LocalServiceQuotasResponse
from bake.local.api.store import Store
from bake.local.delays import NONE, Delays, load
from bake.local.machines import inherited_settings
from bake.local.machines.engine import find_engine
from bake.local.machines.machine import ssh_port
from bake.local.site import Site, register

log = logging.getLogger("bake.local")

HOST = "127.0.0.1"
PORTS_TRIED = 100
HOME_CHECK_S = 5


def _listen(application: Application, port: int) -> BaseWSGIServer:
    """Return a server on the first free port, beginning with `port`."""
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
    raise LocalCloudError(f"All ports from {port} to {port + PORTS_TRIED - 1} are in use")


def build(home: Path, delays: Delays = NONE) -> tuple[Site, Application]:
    """Return the site as the last server left it, without machines, and its application."""
    engine = find_engine()
    settings = functools.cache(lambda: inherited_settings.write_settings(home / "computer"))
    site = Site(engine=engine, home=home, ssh_port=ssh_port(), inherited=settings, delays=delays)
    ec2_backend.install(site)
    servicequotas_backends.backend = LocalServiceQuotas
    moto.ec2.urls.url_paths["{0}/"] = LocalEC2Response.dispatch
    moto.servicequotas.urls.url_paths["{0}/$"] = LocalServiceQuotasResponse.dispatch
    session_manager.install()
    authorization.install()
    site.clear_machines()
    store = Store(home / "store.json", site)
    store.load()
    store.keep()
    site.on_change = store.keep
    return site, Application(site, store)


def serve(home: Path, port: int, delays: Delays = NONE) -> None:
    """Serve until SIGTERM or SIGINT. Return at once if another process serves this home."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    # `control.py` takes the lock for a moment to find out whether a server runs: hence the timeout.
    lock = FileLock(home / "server.lock", timeout=0.2, poll_interval=0.01)
    try:
        lock.acquire()
    except Timeout:
        return
    (home / "server.json").unlink(missing_ok=True)  # a killed server leaves it behind
    site, application = build(home, delays)
    server = _listen(application, port)
    threading.Thread(target=site.inherited, daemon=True).start()
    site.workers.submit(register, site, files.cache() / "clouds")
    threading.Thread(target=_end_with_home, args=(home, application), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    state = {"url": f"http://{HOST}:{server.port}", "pid": os.getpid(), "wanted_port": port}
    state |= {"ssh_port": site.ssh_port, "profile": delays.name}
    files.write_file(home / "server.json", json.dumps(state))
    log.info("serving on %s with %s", state["url"], site.engine.note)
    server.serve_forever()
    (home / "server.json").unlink(missing_ok=True)
    with site.lock:
        application.store.keep()
    site.clear_machines()
    sys.stderr.flush()
    # Workers may still wait for machines that are gone, and must not delay the end. The kernel
    # releases the lock with the process.
    os._exit(0)


def _end_with_home(home: Path, application: Application) -> None:
    """Erase everything and end when the home folder is deleted: no later start would find it."""
    while (home / "server.lock").exists():
        time.sleep(HOME_CHECK_S)
    with application.site.lock:
        application.erase({})
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--profile", default="")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        serve(arguments.home, arguments.port, load(arguments.profile))
    except BakeError as error:
        # control.py reads this file and shows the error to the user.
        failure = {"message": error.message, "hint": error.hint, "details": error.details}
        (arguments.home / "failure.json").write_text(json.dumps(failure))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
