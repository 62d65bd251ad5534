#!/usr/bin/env python3
"""Run shell commands at the same time, and print the output and the exit status of each.

    python3 - '{"kernel": "uname --kernel-release", ...}' SECONDS  < inventory.py

Runs under the system's Python, 3.6 or later. The last line of the output is one JSON document:
{NAME: {"exit_status": NUMBER, "stdout": TEXT, "stderr": TEXT}, ...}. A command that takes longer
than SECONDS is killed and has the exit status 124.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial


def run(timeout_s, command):
    result = subprocess.run(
        ["timeout", "--kill-after=5", timeout_s, "sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return {
        "exit_status": result.returncode,
        "stdout": result.stdout.decode("utf-8", "replace"),
        "stderr": result.stderr.decode("utf-8", "replace"),
    }


def main(commands, timeout_s):
    with ThreadPoolExecutor(len(commands)) as pool:
        results = pool.map(partial(run, timeout_s), commands.values())
        print("\n" + json.dumps(dict(zip(commands, results))))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
