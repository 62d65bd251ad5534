#!/usr/bin/env python3
"""Jupyter on this machine: found or started, and ended. As the login user.

    python -c "$(cat server.py)" start    < TOKEN     until it answers
    python -c "$(cat server.py)" stop                 the one that `start` would find

Run by the environment's own Python, 3.6 or later. The last line of stdout is one JSON document.
What is known of a server is in Jupyter's own file about it, which only its user can read.
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
# A first start reads gigabytes from a disk that is still being filled from S3.
STARTS_S = 600
ENDS_S = 60
LOOK_S = 0.2


def start(token):
    with alone():
        for about in running():
            return answer(about, again=True)
        with private(token_file()) as file:
            file.write(token)
        try:
            process = launch()
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < STARTS_S:
                for about in running():
                    if about["pid"] == process.pid:
                        return answer(about, again=False)
                time.sleep(LOOK_S)
        finally:
            os.unlink(token_file())  # it has been read
        process.kill()
        with open(log_file(), errors="replace") as log:
            return {"error": "Jupyter does not start", "log": log.read().splitlines()[-20:]}


def launch():
    """Detached: it outlives this program, the connection and the session."""
    kernel = os.path.basename(sys.prefix)
    arguments, app = [sys.executable, "-m", "jupyterlab"], "ServerApp"
    if importlib.util.find_spec("jupyterlab") is None:
        arguments = [sys.executable, "-m", "notebook"]
        if importlib.util.find_spec("notebook.notebookapp"):  # before 7, a server of its own
            app = "NotebookApp"
    folder = {"ServerApp": "root_dir", "NotebookApp": "notebook_dir"}[app]
    arguments += ["--no-browser", "--%s.ip=127.0.0.1" % app]
    arguments += ["--%s.port=%d" % (app, PORT), "--%s.port_retries=50" % app]
    arguments += ["--%s.%s=%s" % (app, folder, os.path.expanduser("~"))]
    if os.path.isdir(os.path.join(sys.prefix, "share", "jupyter", "kernels", kernel)):
        arguments.append("--MultiKernelManager.default_kernel_name=" + kernel)
    if os.geteuid() == 0:
        arguments.append("--allow-root")
    # What a cell calls by `!pip` shall be the environment's, too.
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    variables = dict(os.environ, PATH=path, JUPYTER_TOKEN_FILE=token_file())
    variables.pop("JUPYTER_TOKEN", None)
    with private(log_file()) as log:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=os.path.expanduser("~"),
            env=variables,
        )


def running():
    """What Jupyter says of each server that answers to its own token, the newest first.

    Old ones let everybody read that who may enter the folder.
    """
    pattern = os.path.join(glob.escape(jupyter_runtime_dir()), "*server-*.json")
    for path in sorted(glob.glob(pattern), key=modified, reverse=True):
        try:
            with open(path) as file:
                about = json.load(file)
            if answers(about):
                os.chmod(path, 0o600)
                yield dict(about, page=page(os.path.basename(path)))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # of one that is gone, or that cannot be asked


def page(name):
    """Where it has its first page: an old server logs the token of who is sent on to it."""
    new = name.startswith("jpserver") and importlib.util.find_spec("jupyterlab")
    return "lab" if new else "tree"


def modified(path):
    with contextlib.suppress(OSError):
        return os.path.getmtime(path)
    return 0


def answers(about):
    if about["secure"] or not about["token"] or not lives(about["pid"]):
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


def lives(pid):
    """Whether it is a process of ours that has not ended."""
    try:
        os.kill(pid, 0)
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop():
    with alone():
        for about in running():
            os.kill(about["pid"], signal.SIGTERM)
            began = time.monotonic()
            while lives(about["pid"]):
                if time.monotonic() - began > ENDS_S:
                    return {"error": "Jupyter does not end", "log": []}
                time.sleep(LOOK_S)
            return {"stopped": True}
        return {"stopped": False}


def answer(about, again):
    document = {key: about[key] for key in ("port", "token", "base_url", "page")}
    return dict(document, again=again)


@contextlib.contextmanager
def alone():
    """Two who ask at the same time get one server."""
    os.makedirs(jupyter_runtime_dir(), exist_ok=True)
    os.chmod(jupyter_runtime_dir(), 0o700)
    with private(os.path.join(jupyter_runtime_dir(), "bake.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def private(path):
    """A file to write that only its user can read."""
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
