#!/usr/bin/env python3
"""How fast this machine is, in the framework that its environment has.

    python measure.py '{"pace": {"warm_s": 1, …}, "limit_s": 300, …}'

Each line of the output is one JSON document, and its `line` says which: `machine` (once), `begins`
and `figure` (for each figure), `end`. Each figure is taken by `figure.py` in a process of its own,
so that one that crashes, hangs or takes all memory is reported, and the others stand.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FIGURE = str(Path(__file__).resolve().parent / "figure.py")
# The driver renamed the last one in 535, and may stop knowing the older name.
_WATCHED = "index,clocks.sm,temperature.gpu,power.draw,"
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_STANDING = (
    "index,name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory,"
    "utilization.gpu"
)


def say(line, **more):
    print(json.dumps(dict({"line": line}, **more)), flush=True)


# What the driver says --------------------------------------------------------------------------


def ask_smi(fields):
    """Rows of texts, one for each GPU; [] where there is no driver, or it does not know a field."""
    command = ["nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _rows(answer.stdout) if answer.returncode == 0 else []


def _rows(output):
    lines = output.decode(errors="replace").splitlines()
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]


def number(text):
    """None for what the driver does not say: [N/A], [Not Supported] …"""
    try:
        return float(text)
    except ValueError:
        return None


class Watch:
    """What the GPUs do while they are measured: asked twice a second, in the background."""

    def __init__(self):
        self.rows = []
        self.process = None
        for reasons in _REASONS:
            if ask_smi(_WATCHED + reasons):
                command = ["nvidia-smi", "--query-gpu=" + _WATCHED + reasons]
                command += ["--format=csv,noheader,nounits", "--loop-ms=500"]
                self.process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
                self.reader = threading.Thread(target=self._read, daemon=True)
                self.reader.start()
                break

    def _read(self):
        for line in self.process.stdout:
            for row in _rows(line):
                self.rows.append(row)

    def since(self, begin, gpus):
        """Of those GPUs, since there were `begin` rows; None where nobody has looked."""
        rows = [row for row in self.rows[begin:] if len(row) == 5 and row[0] in gpus]
        if not rows:
            return None
        reasons = {}
        for row in rows:
            try:
                bits = int(row[4], 16)
            except ValueError:
                continue
            for bit in range(bits.bit_length()):
                if bits >> bit & 1:
                    reasons["0x%x" % (1 << bit)] = reasons.get("0x%x" % (1 << bit), 0) + 1
        columns = [[number(row[column]) for row in rows] for column in (1, 2, 3)]
        clocks, degrees, watts = ([n for n in column if n is not None] for column in columns)
        return {
            "looks": len(rows),
            "sm_mhz": sorted(clocks)[len(clocks) // 2] if clocks else None,
            "degrees": max(degrees) if degrees else None,
            "watts": max(watts) if watts else None,
            "reasons": reasons,
        }

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.reader.join()
            self.process.stdout.close()


# The figures -----------------------------------------------------------------------------------


def take(wish, limit_s, **environment):
    """What `figure.py` says; {"failure": why} where it does not. Whatever happens, it has ended."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, FIGURE, json.dumps(wish)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(os.environ, CUDA_DEVICE_ORDER="PCI_BUS_ID", **environment),
        )
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"failure": "it took longer than %g s, and was ended" % limit_s}
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        lines = output.decode(errors="replace").strip().splitlines()
        try:
            found = json.loads(lines[-1])
        except (IndexError, ValueError):
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            return {"failure": ": ".join([ended_with(process.returncode), *last])[:600]}
        return found


def ended_with(status):
    if status >= 0:
        return "it ended with status %d" % status
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "signal %d" % -status
    memory = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
    return "it was ended by %s%s" % (name, memory)


def counts(gpus):
    """1, 2, 4 … and all of them."""
    found = [1]
    while found[-1] * 2 < gpus:
        found.append(found[-1] * 2)
    return found + [gpus] * (gpus > 1)


def wishes(machine):
    """All that is measured, in order: on the first GPU, and training on several; or on the CPU."""
    gpus = len(machine["gpus"])
    device = 0 if gpus else None
    for precision in machine["precisions"]:
        yield {"what": "multiply", "precision": precision, "device": device}
    for what in ("copy", "add") + (("to-device", "from-device") if gpus else ()):
        yield {"what": what, "device": device}
    for count in counts(gpus):
        yield {"what": "train", "device": device, "devices": count}


def computer():
    model = ""
    with Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }


def graphics():
    """What the driver says of each GPU, by its index."""
    found = {}
    for row in ask_smi(_STANDING):
        if len(row) != 8:
            continue
        found[row[0]] = {
            "name": row[1],
            "driver": row[2],
            "memory_mib": number(row[3]),
            "power_limit_watts": number(row[4]),
            "max_sm_mhz": number(row[5]),
            "max_memory_mhz": number(row[6]),
            "busy_percent": number(row[7]),
        }
    return found


def main(wish):
    began = time.time()
    limit_s = wish["limit_s"]
    machine = take({"what": "describe"}, limit_s)
    seen = graphics()
    for gpu in machine.get("gpus", ()):
        said = seen.get(str(gpu["index"]), {})
        gpu.update({key: value for key, value in said.items() if value is not None})
    say("machine", **dict(computer(), driver_sees=len(seen), **machine))
    if "failure" not in machine:
        watch = Watch()
        try:
            for each in wishes(machine):
                measure(dict(each, pace=wish["pace"], **sizes(wish, machine)), limit_s, watch)
        finally:
            watch.end()
    say("end", seconds=time.time() - began)


def sizes(wish, machine):
    return wish["gpu"] if machine["gpus"] else wish["cpu"]


def measure(wish, limit_s, watch):
    told = {key: wish[key] for key in ("what", "precision", "device", "devices") if key in wish}
    say("begins", **told)
    # NVIDIA's libraries may take TF32 for float32, unless this says otherwise.
    exact = {"NVIDIA_TF32_OVERRIDE": "0"} if wish.get("precision") == "fp32" else {}
    begin, began = len(watch.rows), time.time()
    found = take(wish, limit_s, **exact)
    gpus = {str(index) for index in range(wish.get("devices", 1))}
    if wish["device"] is not None:
        told["watched"] = watch.since(begin, gpus)
    say("figure", **dict(told, took_s=time.time() - began, **found))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main(json.loads(sys.argv[1]))
