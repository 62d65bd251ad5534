"""One figure, in a process of its own: what harms the process harms no other figure.

    python figure.py '{"what": "multiply", "precision": "fp16", "device": 0, …}'

`what`: "describe", "multiply", "copy", "add", "to-device", "from-device", "train". The last line of
the output is one JSON document: figures, and no verdict, which is for the reader to find.
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
# Blocks of a product are compared: all of it would take the CPU minutes.
BLOCK = 64
IMAGE = 64  # pixels wide and high
# On a GPU, images enough to keep it busy; on a CPU a step shall not take seconds.
BATCH, BATCH_ON_CPU = 128, 16
FEWEST_RUNS = 5
MOST_TIMES = 10**7


def framework():
    """The module for the one that is there; ImportError for none."""
    for name in FRAMEWORKS:
        if importlib.util.find_spec(name):
            return importlib.import_module(FRAMEWORKS[name])
    raise ImportError("neither mxnet nor torch is installed for %s" % sys.executable)


def time_runs(seconds, pace):
    """How long one piece of work takes, in each of several runs: {"seconds": […], "times": …}.

    `seconds(times)` does it that many times, and says how long it took. Nothing else is looked at,
    so that several processes that are told the same seconds decide alike. First it warms up:
    algorithms are chosen, clocks rise. A run repeats the work until it takes `run_s`; there are
    `runs` of them, or fewer, but five, where they would take longer than `most_s` together.
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


def off(found, expected):
    """The norm of the difference, in parts of the right result's; 1e9 where something is NaN."""
    import numpy

    if found.shape != expected.shape:
        raise ValueError("a result has the shape %s, not %s" % (found.shape, expected.shape))
    error = float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))
    return error if math.isfinite(error) else 1e9  # JSON has no NaN, and max would pass it over


def memory(on, device, index):
    """Bytes that are free: the GPU's, or the computer's."""
    if index is not None:
        return on.free_bytes(device)
    with Path("/proc/meminfo").open() as lines:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["MemAvailable"] * 1024


def multiply(on, wish):
    """The largest matrices of which three fit, and whose product does not take too long."""
    precision, index = wish["precision"], wish["device"]
    on.set_precision(precision)
    device = on.use(index)
    room = memory(on, device, index) // 4
    bytes_each = 4 if precision in ("fp32", "tf32") else 2
    size, a, b, out = 1024, None, None, None
    while True:
        a = b = out = None  # first, so that there is room for the next ones
        a, b, out = (on.normal((size, size), precision, device) for _ in range(3))
        work = lambda: on.multiply(a, b, out)  # noqa: B023, E731 - it is used before the next ones
        on.seconds(work, 1, device)
        once = on.seconds(work, 1, device)
        larger = 2 * size
        if larger > wish["largest"] or 3 * bytes_each * larger**2 > room or 8 * once > 0.25:
            break
        size = larger
    found = time_runs(lambda times: on.seconds(work, times, device), wish["pace"])
    ends = (0, size // 3, size - BLOCK)
    return {
        "error": max(off_at(on, a, b, out, i, j) for i, j in zip(ends, reversed(ends))),
        "kind": on.kind(out),
        "work": 2.0 * size**3,
        "size": "%d×%d" % (size, size),
        **found,
    }


def off_at(on, a, b, out, i, j):
    """In the block that begins at row `i` and column `j`."""
    rows, columns = on.numbers(a[i : i + BLOCK]), on.numbers(b[:, j : j + BLOCK])
    return off(on.numbers(out[i : i + BLOCK, j : j + BLOCK]), rows.dot(columns))


def move(on, wish):
    """Bytes that are read and written, in the device's memory or on the way to it and back."""
    what, index = wish["what"], wish["device"]
    device = on.use(index)
    most = wish["most_mib"] * MIB
    count = int(min(most, memory(on, device, index) // 8)) // 4
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
    found = time_runs(lambda times: on.seconds(work, times, device), wish["pace"])
    end = slice(count - BLOCK * BLOCK, None)
    expected = on.numbers(a[end]) if b is None else on.numbers(a[end]) + on.numbers(b[end])
    return {
        "error": off(on.numbers(out[end]), expected),
        "kind": on.kind(a if what == "from-device" else out),
        "work": 4.0 * count * factor,
        "size": "%d MiB" % (4 * count // MIB),
        **found,
    }


def train(on, wish):
    """Steps on images that stay the same: what learns, gets better at them."""
    count = wish["devices"]
    indices = [None] * count if wish["device"] is None else list(range(count))
    batch = wish.get("batch") or (BATCH_ON_CPU if wish["device"] is None else BATCH)
    if on.NAME == "torch" and count > 1:
        if "rank" not in wish:
            return several(wish, count)
        indices = [indices[wish["rank"]]]
        training = on.Training(indices, batch, IMAGE, (wish["rank"], count, wish["meet"]))
    else:
        training = on.Training(indices, batch, IMAGE)
    training.step()
    before = training.last_loss()
    found = time_runs(training.seconds, wish["pace"])
    after = training.last_loss()
    training.end()
    return {
        "losses": [before, after],
        "kind": training.kind(),
        "work": float(batch * count),
        "size": "%d images a device" % batch,
        **found,
    }


def several(wish, count):
    """A process for each device; what the first says, once all have ended well."""
    with tempfile.TemporaryDirectory() as folder:
        meet = "file://%s/meet" % folder
        environment = dict(os.environ)
        if wish["device"] is None:
            environment["GLOO_SOCKET_IFNAME"] = "lo"  # the machine's name may lead nowhere
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, json.dumps(dict(wish, rank=rank, meet=meet))],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if rank else None,
                env=environment,
            )
            for rank in range(count)
        ]
        try:
            # Whoever fails leaves the others waiting; the first to say so is heard.
            waiting, said = list(processes), {}
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
                said[rank] = json.loads(lines[-1]) if lines else {}
                if process.returncode or "failure" in said[rank]:
                    reason = said[rank].get("failure", "it ended with %d" % process.returncode)
                    raise RuntimeError("GPU %d: %s" % (rank, reason))
            return said[0]
        finally:
            for process in processes:
                process.kill()
                process.wait()
                process.stdout.close()


def describe(on, wish):
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


def main(wish):
    try:
        found = WHAT.get(wish["what"], move)(framework(), wish)
    except Exception as error:
        # Its own words are the end: what leads there is in the log.
        traceback.print_exc()
        words = "".join(traceback.format_exception_only(type(error), error)).strip()
        found = {"failure": " ".join(words.split())[:600]}
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    # Whoever is ended takes those with it whom it has started (PR_SET_PDEATHSIG, SIGKILL).
    import ctypes

    ctypes.CDLL(None).prctl(1, 9)
    main(json.loads(sys.argv[1]))
