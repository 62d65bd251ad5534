#!/usr/bin/env python3
"""Measure the speed of this machine with the framework of this Python environment.

    python measure.py '{"pace": {"warm_s": 1, …}, "limit_s": 300, …}'

Each line of the output is one JSON document. Its key `line` is its kind: `machine` (once), `begins`
and `figure` (for each figure), `end`. Each figure is measured by `figure.py` in its own process, so
that one that crashes, hangs or takes all memory is reported and the others are kept.
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
# The driver renamed this field in 535, and may drop the older name.
_WATCHED = "index,clocks.sm,temperature.gpu,power.draw,"
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_CONSTANT = (
    "index,name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory,"
    "utilization.gpu"
)


def print_line(line, **more):
    print(json.dumps(dict({"line": line}, **more)), flush=True)


# The driver's data --------------------------------------------------------------------------


def query_smi(fields):
    """Return a row of texts for each GPU; [] without a driver, or when a field is unknown."""
    command = ["nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _rows(result.stdout) if result.returncode == 0 else []


def _rows(output):
    lines = output.decode(errors="replace").splitlines()
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]


def number(text):
    """Parse a number; None for unknown values like [N/A] or [Not Supported]."""
    try:
        return float(text)
    except ValueError:
        return None


class Watch:
    """A background process that samples the state of the GPUs twice a second."""

    def __init__(self):
        self.rows = []
        self.process = None
        for reasons in _REASONS:
            if query_smi(_WATCHED + reasons):
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
        """Summarize the samples of `gpus` from row `begin` on; None without a sample."""
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


def run_figure(task, limit_s, **environment):
    """Run `figure.py` and return its result, or {"failure": reason}. The process always ends."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, FIGURE, json.dumps(task)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(os.environ, CUDA_DEVICE_ORDER="PCI_BUS_ID", **environment),
        )
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"failure": "it took longer than %g s and was killed" % limit_s}
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
            return {"failure": ": ".join([describe_end(process.returncode), *last])[:600]}
        return found


def describe_end(status):
    """Return how a process ended, as a phrase."""
    if status >= 0:
        return "it ended with status %d" % status
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "signal %d" % -status
    memory = ", which the kernel sends when memory runs out" if name == "SIGKILL" else ""
    return "it was ended by %s%s" % (name, memory)


def gpu_counts(gpus):
    """Return 1, 2, 4 … and the number of all GPUs."""
    found = [1]
    while found[-1] * 2 < gpus:
        found.append(found[-1] * 2)
    return found + [gpus] * (gpus > 1)


def tasks(machine):
    """Yield the measurements in order: on the first GPU, training on several, or on the CPU."""
    gpus = len(machine["gpus"])
    device = 0 if gpus else None
    for precision in machine["precisions"]:
        yield {"what": "multiply", "precision": precision, "device": device}
    for what in ("copy", "add") + (("to-device", "from-device") if gpus else ()):
        yield {"what": what, "device": device}
    for count in gpu_counts(gpus):
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


def read_gpus():
    """Return the driver's data of each GPU, by its index."""
    found = {}
    for row in query_smi(_CONSTANT):
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


def main(settings):
    began = time.time()
    limit_s = settings["limit_s"]
    machine = run_figure({"what": "describe"}, limit_s)
    seen = read_gpus()
    for gpu in machine.get("gpus", ()):
        known = seen.get(str(gpu["index"]), {})
        gpu.update({key: value for key, value in known.items() if value is not None})
    print_line("machine", **dict(computer(), driver_sees=len(seen), **machine))
    if "failure" not in machine:
        watch = Watch()
        try:
            for each in tasks(machine):
                measure(
                    dict(each, pace=settings["pace"], **sizes(settings, machine)), limit_s, watch
                )
        finally:
            watch.end()
    print_line("end", seconds=time.time() - began)


def sizes(settings, machine):
    return settings["gpu"] if machine["gpus"] else settings["cpu"]


def measure(task, limit_s, watch):
    document = {key: task[key] for key in ("what", "precision", "device", "devices") if key in task}
    print_line("begins", **document)
    # NVIDIA's libraries may use TF32 for float32 unless this variable forbids it.
    exact = {"NVIDIA_TF32_OVERRIDE": "0"} if task.get("precision") == "fp32" else {}
    begin, began = len(watch.rows), time.time()
    found = run_figure(task, limit_s, **exact)
    gpus = {str(index) for index in range(task.get("devices", 1))}
    if task["device"] is not None:
        document["watched"] = watch.since(begin, gpus)
    print_line("figure", **dict(document, took_s=time.time() - began, **found))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main(json.loads(sys.argv[1]))
