"""Answer the questions of a machine's timer. Run as root by the system's Python, 3.6 or later.

    lifetime_facts.py launched         prints the time of the last start and the time now, from EC2
    lifetime_facts.py in-use MEMORY    prints what uses the machine; status 3: nothing does

A machine is in use when

* a shell, a command or a copy runs over SSH (a connection that only forwards ports does not count),
* a GPU computes, or is held by a process other than a Jupyter kernel,
* a kernel executes a cell, was used since the last check, or has used a twentieth of a processor
  since then. What a kernel only holds, like GPU memory, does not count.

MEMORY is a file that is written and read at the next check.
"""

import calendar
import http.client
import json
import os
import re
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

ADDRESS = "169.254.169.254"
BUSY = 0.05  # of a processor; a waiting kernel uses about a hundredth
KERNEL = re.compile(rb"ipykernel_launcher|\0ipykernel\0|kernel-[^/\0]*\.json\0")
RUNTIME = ".local/share/jupyter/runtime/*server-*.json"


class Process:
    """A process; `ticks` is the processor time of itself and its ended children."""

    def __init__(self, folder: Path) -> None:
        before, _, after = (folder / "stat").read_bytes().rpartition(b")")
        fields = after.split()
        self.pid = int(folder.name)
        self.name = before.partition(b"(")[2].decode(errors="replace")
        self.parent = int(fields[1])
        self.ticks = sum(map(int, fields[11:15]))
        self.is_kernel = bool(KERNEL.search((folder / "cmdline").read_bytes()))


def launched() -> str:
    """Return both times in seconds since 1970, from EC2: the machine's clock may be wrong."""
    link = http.client.HTTPConnection(ADDRESS, timeout=5)
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    link.request("PUT", "/latest/api/token", headers=headers)
    headers = {"X-aws-ec2-metadata-token": link.getresponse().read().decode()}
    link.request("GET", "/latest/dynamic/instance-identity/document", headers=headers)
    answer = link.getresponse()
    pending = json.loads(answer.read().decode())["pendingTime"]
    began = calendar.timegm(time.strptime(pending, "%Y-%m-%dT%H:%M:%SZ"))
    date = answer.getheader("Date")
    now = parsedate_to_datetime(date).timestamp() if date else time.time()
    return f"{began} {now:.0f}"


def all_processes() -> "dict[int, Process]":
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = Process(folder)
        except OSError:  # the process has ended
            continue
    return found


def find_ssh_use(running: "dict[int, Process]") -> str:
    """Return the name of a process that sshd has started; sshd's own processes do not count."""
    sshd = {pid for pid, each in running.items() if each.name.startswith("sshd")}
    found = [each.name for pid, each in running.items() if each.parent in sshd and pid not in sshd]
    return f"SSH: {found[0]}" if found else ""


def find_gpu_use(running: "dict[int, Process]") -> str:
    try:
        if any(nvidia_smi("gpu=utilization.gpu")):
            return "GPU"
        for pid in nvidia_smi("compute-apps=pid"):
            if pid not in running or not running[pid].is_kernel:
                return f"GPU: process {pid}"
    except FileNotFoundError:
        return ""
    except (OSError, subprocess.SubprocessError):
        # After an upgrade of the driver nvidia-smi fails, while running programs still compute.
        return "GPU: nvidia-smi fails" if Path("/proc/driver/nvidia/version").exists() else ""
    return ""


def nvidia_smi(what: str) -> "list[int]":
    command = ["nvidia-smi", f"--query-{what}", "--format=csv,noheader,nounits"]
    answer = subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=30)
    return [int(number) for number in re.findall(rb"\d+", answer)]


def runtime_files() -> "list[Path]":
    """Return the files of all Jupyter servers, with their addresses and tokens."""
    return [*Path("/root").glob(RUNTIME), *Path("/home").glob(f"*/{RUNTIME}")]


def find_kernel_use(used: "dict[str, str]") -> str:
    """Return a busy kernel; fill `used` with the last use of each kernel and terminal."""
    why = ""
    for path in runtime_files():
        try:
            server = json.loads(path.read_text())
            for kind in ("kernels", "terminals"):
                for each in ask_server(server, kind):
                    key = str(each.get("id") or each["name"])
                    used[key] = each["last_activity"]
                    if each.get("execution_state") == "busy":
                        why = f"Jupyter: {key}"
        except Exception as error:  # it has ended, or is unknown
            print(f"{path}: {error}", file=sys.stderr)
    return why


def ask_server(server: "dict[str, Any]", kind: str) -> Any:
    link = http.client.HTTPConnection("127.0.0.1", server["port"], timeout=5)
    try:
        headers = {"Authorization": f"token {server['token']}"}
        link.request("GET", f"{server['base_url']}api/{kind}", headers=headers)
        return json.loads(link.getresponse().read().decode())
    finally:
        link.close()


def ticks_below(running: "dict[int, Process]", pid: int) -> int:
    children = [each.pid for each in running.values() if each.parent == pid]
    return running[pid].ticks + sum(ticks_below(running, child) for child in children)


def in_use(memory: Path) -> str:
    """Return what uses the machine, or ""."""
    running, now = all_processes(), time.monotonic()
    used = {}  # type: dict[str, str]
    why = [find_kernel_use(used), find_ssh_use(running), find_gpu_use(running)]
    ticks = {str(p): ticks_below(running, p) for p in running if running[p].is_kernel}
    try:
        last = json.loads(memory.read_text())
    except (OSError, ValueError):  # the first check
        last = {"used": {}, "ticks": {}, "at": now}
    enough = (now - last["at"]) * os.sysconf("SC_CLK_TCK") * BUSY
    why += [f"Jupyter: {key}" for key in used if used[key] != last["used"].get(key)]
    why += [f"kernel {p}" for p in ticks if ticks[p] - last["ticks"].get(p, 0) > enough]
    memory.write_text(json.dumps({"used": used, "ticks": ticks, "at": now}))
    return next(filter(None, why), "")


if __name__ == "__main__":
    if sys.argv[1] == "launched":
        print(launched())
    else:
        user = in_use(Path(sys.argv[2]))
        print(user)
        sys.exit(0 if user else 3)
