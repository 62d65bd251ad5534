"""Evidence of why a page of JupyterLab does not get ready: browser, tunnel, server and kernel.

The page shows "Connecting" while the WebSocket of its kernel is not open. Each part between the
page and the kernel can be the reason, and later nothing is left of them:

* Chromium has not sent the handshake, because it opens one WebSocket at a time to a port;
* the tunnel has not passed it on, or the server has not answered it;
* the kernel does not answer the server: the first handshake is then answered after 60 s, the
  connection is closed after 120 s, and the second handshake is answered after 180 s;
* the command that holds the tunnel has ended, or does not reconnect.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from selenium.webdriver import Chrome

# Run here, through the tunnel, and on the machine, without it.
_ASK = """
import http.client, json, time

def ask(path, **headers):
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    try:
        headers["Authorization"] = "token " + TOKEN
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = "" if answer.status == 101 else answer.read().decode()
        said = "%d %s" % (answer.status, body)
    except (OSError, http.client.HTTPException) as error:
        body, said = "[]", repr(error)
    connection.close()
    print("%6.1f s  %s: %s" % (time.monotonic() - began, path, said))
    return body

def open_websocket(path):
    ask(path, Connection="Upgrade", Upgrade="websocket", **{
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})

ask("/api/status")
ask("/api/sessions")
kernels = json.loads(ask("/api/kernels"))
open_websocket("/api/events/subscribe")
for kernel in kernels:
    open_websocket("/api/kernels/%s/channels?session_id=evidence" % kernel["id"])
"""

_PROCESSES = "ps -eLo pid,tid,stat,wchan:24,etimes,args | grep -E 'jupyter|ipykernel|sshd'"
_SOCKETS = "ss --tcp --all --numeric --processes --memory"
_LOG = "tail --lines 200 ~/.local/share/jupyter/runtime/bake-jupyter.log"
# Both write the stacks of their threads to the log. The brackets keep pkill from its own shell.
_ABORT = "pkill -ABRT -f '[i]pykernel_launcher|[j]upyterlab'; sleep 1"


def evidence(driver: Chrome, told: dict[str, Any]) -> str:
    """Return the state of each part; `told` is the JSON of `invoke launch-from-ami --jupyter`.

    Ends the server, the kernels and the commands that hold a tunnel. The commands write the stacks
    of their threads to stderr if PYTHONFAULTHANDLER is set for them.
    """
    (token,) = parse_qs(urlsplit(told["url"]).query)["token"]

    def ask(shell: Sequence[str], port: int) -> str:
        return _run(shell, "python3 -", f"PORT, TOKEN = {port}, {token!r}\n{_ASK}")

    here, machine = ("bash", "-c"), told["ssh"]
    ends = f"sport = :{told['port']} or dport = :{told['port']}"
    parts = {
        "The browser's WebSockets, and its requests without an answer": _connections(driver),
        "Through the tunnel": ask(here, told["port"]),
        "On the machine": ask(machine, told["remote_port"]),
        "Sockets of the tunnel here": _run(here, f"{_SOCKETS} '( {ends} )'"),
        "Sockets on the machine": _run(machine, f"sudo {_SOCKETS}"),
        "Processes on the machine": _run(machine, _PROCESSES),
        "The server's log, with all stacks": _run(machine, f"{_ABORT}; {_LOG}"),
    }
    _run(here, f"pkill -ABRT --parent {os.getpid()} -f '[i]nvoke'")
    return "\n".join(f"== {title}\n{text}" for title, text in parts.items())


def _run(shell: Sequence[str], command: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(
            [*shell, command], input=stdin, capture_output=True, text=True, timeout=90
        )
    except subprocess.TimeoutExpired:
        return f"{command}: no end within 90 s"
    return done.stdout + done.stderr


def _connections(driver: Chrome) -> str:
    """Return the events of all WebSockets, with seconds, from Chromium's network log."""
    began: float | None = None
    urls: dict[str, str] = {}
    waiting: dict[str, str] = {}
    lines: list[str] = []
    for entry in driver.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        method, about = event["method"].removeprefix("Network."), event["params"]
        began = began or entry["timestamp"]
        seconds = f"{(entry['timestamp'] - began) / 1000:7.1f} s  "
        name = about.get("requestId", "")
        match method:
            case "webSocketCreated":
                urls[name] = about["url"]
                lines.append(f"{seconds}created {about['url']}")
            case "webSocketWillSendHandshakeRequest":
                lines.append(f"{seconds}handshake sent {urls.get(name)}")
            case "webSocketHandshakeResponseReceived":
                lines.append(f"{seconds}answer {about['response']['status']} {urls.get(name)}")
            case "webSocketFrameError":
                lines.append(f"{seconds}{about['errorMessage']} {urls.get(name)}")
            case "webSocketClosed":
                lines.append(f"{seconds}closed {urls.get(name)}")
            case "requestWillBeSent":
                waiting[name] = f"{seconds}no answer {about['request']['url']}"
            case "responseReceived" | "loadingFailed" | "loadingFinished":
                waiting.pop(name, None)
    return "\n".join([*lines, *waiting.values()])
