"""A bake that ends itself: `python kill.py SIGNAL MOMENT FOLDER RECIPE`.

The signal is sent to this process when AWS's response has arrived, before the bake sees it: the
Nth response if the moment is a number (0: never), the first one to an operation if it is a name. A
response that repeats an earlier one, as while the bake waits for a state, is not counted. The first
line of the output names the request, the last one lists all of them.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from botocore.httpsession import URLLib3Session

from bake.threads import one_interrupt
from tests.support.kitchen import bake

_send = URLLib3Session.send


def end_at(moment: str, which: signal.Signals) -> list[str]:
    """Start to count; return the list of requests, which grows."""
    asked: list[str] = []
    heard: set[tuple[bytes, bytes]] = set()
    one_at_a_time = threading.Lock()

    def send(self: URLLib3Session, request: Any) -> Any:
        answer = _send(self, request)
        body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
        said = body, re.sub(rb"<requestId>.*?</requestId>", b"", answer.content)
        with one_at_a_time:
            if said in heard:
                return answer
            heard.add(said)
            asked.append(_operation(request, body))
            if moment in (str(len(asked)), asked[-1]):
                print(f"{which.name} after {asked[-1]}", flush=True)
                os.kill(os.getpid(), which)
        return answer

    URLLib3Session.send = send
    return asked


def _operation(request: Any, body: bytes) -> str:
    """Return the operation: EC2 and STS name it in the body, SSM in a header."""
    target = request.headers.get("X-Amz-Target", b"")
    if target:
        return (target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]
    return body.decode().partition("Action=")[2].partition("&")[0]


if __name__ == "__main__":
    which, moment, folder, recipe = sys.argv[1:]
    asked = end_at(moment, signal.Signals[which])
    try:
        with one_interrupt():
            for outcome in bake(Path(folder), [recipe]):
                print(outcome.status, outcome.image and outcome.image.image_id)
    except KeyboardInterrupt as interrupt:
        print("interrupted", *getattr(interrupt, "__notes__", ()))
        sys.exit(130)
    finally:
        print("asked:", *asked)
