#!/usr/bin/env python3
"""Find, start or end Jupyter on this machine, as the login user.

    python -c "$(cat jupyter_server.py)" start    < TOKEN     returns when it answers
    python -c "$(cat jupyter_server.py)" stop                 ends the running server

Run by the environment's own Python, 3.6 or later. The last line of stdout is one JSON document. The
data of a server is in Jupyter's own file about it, which only its user can read.
"""

import contextlib
import fcntl
import glob
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

from jupyter_core.paths import jupyter_runtime_dir

PORT = 8888
# The first start reads gigabytes from a disk that is still being loaded from S3.
STARTS_S = 600
ENDS_S = 60
LOOK_S = 0.2


def start(token):
    with lock():
        for about in running_servers():
            return result(about, again=True)
        with open_private(token_file()) as file:
            file.write(token)
        try:
            process = launch()
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < STARTS_S:
                for about in running_servers():
                    if about["pid"] == process.pid:
                        return result(about, again=False)
                time.sleep(LOOK_S)
        finally:
            os.unlink(token_file())  # the server has read it
        process.kill()
        with open(log_file(), errors="replace") as log:
            return {"error": "Jupyter does not start", "log": log.read().splitlines()[-20:]}


def launch():
    """Start the server detached, so that it runs on after this program and the connection."""
    kernel = os.path.basename(sys.prefix)
    arguments, app = [sys.executable, "-m", "jupyterlab"], "ServerApp"
    if importlib.util.find_spec("jupyterlab") is None:
        arguments = [sys.executable, "-m", "notebook"]
        if importlib.util.find_spec("notebook.notebookapp"):  # before version 7
            app = "NotebookApp"
    folder = {"ServerApp": "root_dir", "NotebookApp": "notebook_dir"}[app]
    arguments += ["--no-browser", "--%s.ip=127.0.0.1" % app]
    arguments += ["--%s.port=%d" % (app, PORT), "--%s.port_retries=50" % app]
    arguments += ["--%s.%s=%s" % (app, folder, os.path.expanduser("~"))]
    if os.path.isdir(os.path.join(sys.prefix, "share", "jupyter", "kernels", kernel)):
        arguments.append("--MultiKernelManager.default_kernel_name=" + kernel)
    if os.geteuid() == 0:
        arguments.append("--allow-root")
    # A cell that calls `!pip` gets the environment's pip, too.
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    variables = dict(os.environ, PATH=path, JUPYTER_TOKEN_FILE=token_file())
    # A kernel that crashes writes the stacks of its threads to the log.
    variables["PYTHONFAULTHANDLER"] = "1"
    variables.pop("JUPYTER_TOKEN", None)
    with open_private(log_file()) as log:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=os.path.expanduser("~"),
            env=variables,
        )


def running_servers():
    """Yield Jupyter's data of each server that answers to its own token, the newest first.

    Old versions of Jupyter let other users read the file, so its mode is changed.
    """
    pattern = os.path.join(glob.escape(jupyter_runtime_dir()), "*server-*.json")
    for path in sorted(glob.glob(pattern), key=modified, reverse=True):
        try:
            with open(path) as file:
                about = json.load(file)
            if is_answering(about):
                os.chmod(path, 0o600)
                yield dict(about, page=page(os.path.basename(path)))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # the server has ended, or does not answer


def page(name):
    """Return the first page: an old server would log the token when it redirects to it."""
    new = name.startswith("jpserver") and importlib.util.find_spec("jupyterlab")
    return "lab" if new else "tree"


def modified(path):
    with contextlib.suppress(OSError):
        return os.path.getmtime(path)
    return 0


def is_answering(about):
    if about["secure"] or not about["token"] or not is_alive(about["pid"]):
        return False
    server = http.client.HTTPConnection("127.0.0.1", about["port"], timeout=10)
    try:
        header = {"Authorization": "token " + about["token"]}
        server.request("GET", about["base_url"] + "api/status", headers=header)
        return server.getresponse().status == 200
    except http.client.HTTPException:
        return False
    finally:
        server.close()


def is_alive(pid):
    """Return True for a process of this user that has not ended."""
    try:
        os.kill(pid, 0)
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop():
    with lock():
        for about in running_servers():
            os.kill(about["pid"], signal.SIGTERM)
            began = time.monotonic()
            while is_alive(about["pid"]):
                if time.monotonic() - began > ENDS_S:
                    return {"error": "Jupyter does not end", "log": []}
                time.sleep(LOOK_S)
            return {"stopped": True}
        return {"stopped": False}


def result(about, again):
    document = {key: about[key] for key in ("port", "token", "base_url", "page")}
    return dict(document, again=again)


@contextlib.contextmanager
def lock():
    """A lock, so that two calls at the same time find or start the same server."""
    os.makedirs(jupyter_runtime_dir(), exist_ok=True)
    os.chmod(jupyter_runtime_dir(), 0o700)
    with open_private(os.path.join(jupyter_runtime_dir(), "bake.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_private(path):
    """Open a file for writing that only its user can read."""
    with contextlib.suppress(OSError):
        os.chmod(path, 0o600)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")


def token_file():
    return os.path.join(jupyter_runtime_dir(), "bake-token")


def log_file():
    return os.path.join(jupyter_runtime_dir(), "bake-jupyter.log")


VERBS = {
    "start": lambda: start(sys.stdin.read().strip()),
    "stop": stop,
}
print(json.dumps(VERBS[sys.argv[1]]()))
