#!/usr/bin/env python3
"""Stands where the AWS CLI looks for session-manager-plugin, and carries bytes as that does.

It is called as awscli calls AWS's (`awscli/customizations/sessionmanager.py`), and leads to what
the local cloud's StartSession names. What it was called with goes to $PLUGIN_LOG, a JSON a line.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path

VERSION = "1.2.764.0"
RESPONSE = "AWS_SSM_START_SESSION_RESPONSE"


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        print(VERSION)
        return
    name, region, operation, profile, parameters, endpoint = sys.argv[1:]
    assert (name, operation) == (RESPONSE, "StartSession")
    session = json.loads(os.environ[RESPONSE])
    assert session["SessionId"]
    assert session["TokenValue"]
    asked = json.loads(parameters)
    told = {"region": region, "profile": profile, "endpoint": endpoint, "pid": os.getpid(), **asked}
    if log := os.environ.get("PLUGIN_LOG"):
        with Path(log).open("a") as file:
            file.write(json.dumps(told) + "\n")
    scheme, _, place = session["StreamUrl"].partition("://")
    assert scheme == "tcp"
    host, _, port = place.rpartition(":")
    with socket.create_connection((host, int(port))) as line:
        threading.Thread(target=send, args=(line,), daemon=True).start()
        while data := line.recv(65536):
            while data:
                data = data[os.write(1, data) :]


def send(line: socket.socket) -> None:
    while data := os.read(0, 65536):
        line.sendall(data)
    line.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
