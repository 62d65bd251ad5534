"""Measure one figure, in a process of its own so that a crash does not affect other figures.

    python figure.py '{"what": "multiply", "precision": "fp16", "device": 0, …}'

`what`: "describe", "multiply", "copy", "add", "to-device", "from-device", "train". The last line of
the output is one JSON document with the measured values; the reader judges them.
"""

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

FRAMEWORKS = {"mxnet": "on_mxnet", "torch": "on_torch"}
MIB = 2**20
# Only blocks of a product are compared: the whole product would take the CPU minutes.
BLOCK = 64
IMAGE = 64  # pixels wide and high
# Enough images to keep a GPU busy, and few enough that a step on a CPU does not take seconds.
BATCH, BATCH_ON_CPU = 128, 16
FEWEST_RUNS = 5
MOST_TIMES = 10**7


def framework():
    """Import the module for the installed framework. Raises ImportError without one."""
    for name in FRAMEWORKS:
        if importlib.util.find_spec(name):
            return importlib.import_module(FRAMEWORKS[name])
    raise ImportError("neither mxnet nor torch is installed for %s" % sys.executable)


def time_runs(seconds, pace):
    """Measure how long one piece of work takes in several runs: {"seconds": […], "times": …}.

    `seconds(times)` does the work that many times and returns how long it took. No other clock is
    used, so that several processes that get the same seconds make the same decisions. The work is
    first repeated for `warm_s`, while algorithms are chosen and clocks rise. A run repeats the
    work so often that it takes `run_s`. The number of runs is `runs`, or less, but at least 5, when
    they would take longer than `most_s` together.
    """
    first = seconds(1)
    times, last, spent = 1, seconds(1), first
    while spent + last < pace["warm_s"] or last < pace["run_s"] / 2:
        spent += last
        if last < pace["run_s"] / 2:
            times = math.ceil(times * min(8.0, pace["run_s"] / max(last, 1e-6)))
            if times > MOST_TIMES:
                raise ValueError("it takes no time: %d times in %g s" % (times, last))
        last = seconds(times)
    taken = []
    while len(taken) < pace["runs"]:
        if len(taken) >= FEWEST_RUNS and sum(taken) > pace["most_s"]:
            break
        taken.append(seconds(times))
    return {"seconds": [each / times for each in taken], "times": times}


def relative_error(found, expected):
    """Return the norm of the difference, relative to the expected result; 1e9 for NaN."""
    import numpy

    if found.shape != expected.shape:
        raise ValueError("a result has the shape %s, not %s" % (found.shape, expected.shape))
    error = float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))
    return error if math.isfinite(error) else 1e9  # JSON has no NaN, and max would ignore it


def free_memory(on, device, index):
    """Return the free bytes of the GPU, or of the computer's memory."""
    if index is not None:
        return on.free_bytes(device)
    with Path("/proc/meminfo").open() as lines:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["MemAvailable"] * 1024


def multiply(on, task):
    """Multiply the largest matrices of which three fit and whose product does not take too long."""
    precision, index = task["precision"], task["device"]
    on.set_precision(precision)
    device = on.select_device(index)
    room = free_memory(on, device, index) // 4
    bytes_each = 4 if precision in ("fp32", "tf32") else 2
    size, a, b, out = 1024, None, None, None
    while True:
        a = b = out = None  # first, to free the memory for the next ones
        a, b, out = (on.normal((size, size), precision, device) for _ in range(3))
        work = lambda: on.multiply(a, b, out)  # noqa: B023, E731 - used before they change
        on.seconds(work, 1, device)
        once = on.seconds(work, 1, device)
        larger = 2 * size
        if larger > task["largest"] or 3 * bytes_each * larger**2 > room or 8 * once > 0.25:
            break
        size = larger
    found = time_runs(lambda times: on.seconds(work, times, device), task["pace"])
    ends = (0, size // 3, size - BLOCK)
    return {
        "error": max(block_error(on, a, b, out, i, j) for i, j in zip(ends, reversed(ends))),
        "kind": on.kind(out),
        "work": 2.0 * size**3,
        "size": "%d×%d" % (size, size),
        **found,
    }


def block_error(on, a, b, out, i, j):
    """Return the relative error of the block that begins at row `i` and column `j`."""
    rows, columns = on.numbers(a[i : i + BLOCK]), on.numbers(b[:, j : j + BLOCK])
    return relative_error(on.numbers(out[i : i + BLOCK, j : j + BLOCK]), rows.dot(columns))


def move(on, task):
    """Measure bytes read and written, in the device's memory or between host and device."""
    what, index = task["what"], task["device"]
    device = on.select_device(index)
    most = task["most_mib"] * MIB
    count = int(min(most, free_memory(on, device, index) // 8)) // 4
    a = on.normal((count,), "fp32", device)
    b = None
    if what == "copy":
        out, factor = on.normal((count,), "fp32", device), 2
        work = lambda: on.copy(a, out)  # noqa: E731
    elif what == "add":
        b, out = (on.normal((count,), "fp32", device) for _ in range(2))
        factor = 3
        work = lambda: on.add(a, b, out)  # noqa: E731
    else:
        host, factor = on.pinned(on.normal((count,), "fp32", device)), 1
        source, out = (host, a) if what == "to-device" else (a, host)
        work = lambda: on.copy(source, out)  # noqa: E731
        a = source
    found = time_runs(lambda times: on.seconds(work, times, device), task["pace"])
    end = slice(count - BLOCK * BLOCK, None)
    expected = on.numbers(a[end]) if b is None else on.numbers(a[end]) + on.numbers(b[end])
    return {
        "error": relative_error(on.numbers(out[end]), expected),
        "kind": on.kind(a if what == "from-device" else out),
        "work": 4.0 * count * factor,
        "size": "%d MiB" % (4 * count // MIB),
        **found,
    }


def train(on, task):
    """Train on the same images in each step, so that the loss must fall."""
    count = task["devices"]
    indices = [None] * count if task["device"] is None else list(range(count))
    batch = task.get("batch") or (BATCH_ON_CPU if task["device"] is None else BATCH)
    if on.NAME == "torch" and count > 1:
        if "rank" not in task:
            return train_in_processes(task, count)
        indices = [indices[task["rank"]]]
        training = on.Training(indices, batch, IMAGE, (task["rank"], count, task["meet"]))
    else:
        training = on.Training(indices, batch, IMAGE)
    training.step()
    before = training.last_loss()
    found = time_runs(training.seconds, task["pace"])
    after = training.last_loss()
    training.end()
    return {
        "losses": [before, after],
        "kind": training.kind(),
        "work": float(batch * count),
        "size": "%d images a device" % batch,
        **found,
    }


def train_in_processes(task, count):
    """Run a process for each device; return the result of the first when all have succeeded."""
    with tempfile.TemporaryDirectory() as folder:
        meet = "file://%s/meet" % folder
        environment = dict(os.environ)
        if task["device"] is None:
            environment["GLOO_SOCKET_IFNAME"] = "lo"  # the machine's host name may not resolve
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, json.dumps(dict(task, rank=rank, meet=meet))],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if rank else None,
                env=environment,
            )
            for rank in range(count)
        ]
        try:
            # A process that fails leaves the others waiting, so its failure is reported at once.
            waiting, results = list(processes), {}
            while waiting:
                for process in waiting:
                    if process.poll() is not None:
                        break
                else:
                    try:
                        waiting[0].wait(0.1)
                    except subprocess.TimeoutExpired:
                        continue
                    process = waiting[0]
                waiting.remove(process)
                rank = processes.index(process)
                lines = process.stdout.read().decode().strip().splitlines()
                results[rank] = json.loads(lines[-1]) if lines else {}
                if process.returncode or "failure" in results[rank]:
                    reason = results[rank].get("failure", "it ended with %d" % process.returncode)
                    raise RuntimeError("GPU %d: %s" % (rank, reason))
            return results[0]
        finally:
            for process in processes:
                process.kill()
                process.wait()
                process.stdout.close()


def describe(on, task):
    import platform

    import numpy

    return {
        "framework": on.NAME,
        "version": on.VERSION,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "cuda": on.cuda(),
        "precisions": on.precisions(),
        "gpus": [
            {"index": index, "name": on.name(index), "capability": on.capability(index)}
            for index in range(on.gpus())
        ],
    }


WHAT = {"describe": describe, "multiply": multiply, "train": train}


def main(task):
    try:
        found = WHAT.get(task["what"], move)(framework(), task)
    except Exception as error:
        # The result contains the error's own message; the traceback is in the log.
        traceback.print_exc()
        words = "".join(traceback.format_exception_only(type(error), error)).strip()
        found = {"failure": " ".join(words.split())[:600]}
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    # This process is killed when its parent ends (PR_SET_PDEATHSIG, SIGKILL).
    import ctypes

    ctypes.CDLL(None).prctl(1, 9)
    main(json.loads(sys.argv[1]))
