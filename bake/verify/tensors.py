"""The tensor test: the framework computes on every GPU, and the numbers are judged here.

That a framework imports proves nothing: MXNet does so on a machine without a GPU. What a program
on the machine thinks of its own results proves nothing either: it says how far they are off, and on
which kind of device they are, and what of that is good enough is decided here.
"""

from __future__ import annotations

import json
import shlex
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bake import files
from bake.verify.check import Failed, Shell, Skipped, ask
from bake.verify.diagnosis import Diagnosis, diagnose, diagnose_failure, verbatim
from bake.verify.expectation import Expectation
from bake.verify.software import NO_FRAMEWORK

# In float32, and with odd sizes, whose edges a kernel treats otherwise. The first is the book's
# own. A convolution is cuDNN's, whose parts are only loaded by the first one.
OPERATIONS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("zeros", (1024, 1024)),
    ("product", (1024, 1024, 1024)),
    ("product", (1000, 777, 129)),
    ("product", (64, 4096, 64)),
    ("convolution", (4, 3, 32, 32, 8, 3)),
)

# Frameworks may multiply float32 in TF32 or FP16 (10 bits behind the point): each factor is off by
# up to 2^-11, which makes about 3e-4 of a product of random matrices. Plain float32 makes 3e-7.
MOST_ERROR = 1e-3
# One wrong number among a million hardly moves the norm: it shows in the worst difference. That is
# about 1.5e-3 in TF32, and 1 or more for a number that has nothing to do with the right one.
MOST_WORST = 1e-2

# A first start compiles code for a GPU that the wheel only knows as PTX: minutes.
_TIMEOUT_S = 1200


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class TensorResult(_Model):
    """`error`, `worst`: how far off, in parts of the right result's root mean square, or NaN."""

    operation: str
    shape: tuple[int, ...]
    kind: str
    error: float
    worst: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.operation} {'×'.join(map(str, self.shape))}"

    @property
    def right(self) -> bool:
        """Zeros are exact. Anything else in float32 is a little off: no difference at all means
        that nothing was compared. NaN is neither."""
        if self.operation == "zeros":
            return self.error == 0 and self.worst == 0
        return 0 < self.error <= MOST_ERROR and 0 < self.worst <= MOST_WORST


class Device(_Model):
    """`index` is None for the CPU."""

    index: int | None
    results: tuple[TensorResult, ...]
    failure: str | None = None
    name: str | None = None
    capability: str | None = None

    def __str__(self) -> str:
        return "the CPU" if self.index is None else f"GPU {self.index}"

    @property
    def kind(self) -> str:
        return "cpu" if self.index is None else "gpu"


class Tensors(_Model):
    """What the program found: figures, no verdict. `gpus` is how many the framework sees."""

    devices: tuple[Device, ...]
    failure: str | None
    python: str
    numpy: str | None = None
    version: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    gpus: Annotated[int, Field(ge=0)] = 0

    @property
    def on_gpu(self) -> bool:
        return self.gpus > 0


def compute(shell: Shell, expectation: Expectation) -> Tensors:
    """Run the program in the environment; Failed when it says nothing that can be read."""
    if expectation.framework is None:
        raise Skipped(NO_FRAMEWORK)
    arguments = ["-", expectation.framework, json.dumps(OPERATIONS)]
    command = shlex.join([expectation.python_path, *arguments])
    program = (files.on_machine("bake.verify") / "tensor.py").read_bytes()
    answer = ask(shell, command, stdin=program, timeout_s=_TIMEOUT_S)
    lines = answer.stdout.rstrip().splitlines()
    try:
        return read(lines[-1] if lines else "")
    except ValueError:
        text = answer.stderr + answer.stdout
        raise Failed(*diagnose_failure("the tensor test", text, answer.exit_status)) from None


def read(line: str) -> Tensors:
    """ValueError for anything but the program's own document."""
    try:
        return Tensors.model_validate(files.parse_json(line))
    except ValidationError as error:
        raise ValueError(str(error)) from error


def judge(tensors: Tensors, *, gpus: int) -> str:
    """What was proved, for a machine with that many GPUs; Failed with every fault."""
    if faults := _faults(tensors, gpus):
        raise Failed(*faults)
    results = [result for device in tensors.devices for result in device.results]
    worst = max(result.error for result in results)
    versions = f"{tensors.version}, numpy {tensors.numpy}"
    versions += f", CUDA {tensors.cuda}" if tensors.cuda else ""
    where = f"{gpus} GPUs" if gpus > 1 else str(tensors.devices[0])
    return f"right on {where}, off by {worst:.1e} at most ({versions})"


def _faults(tensors: Tensors, gpus: int) -> list[Diagnosis]:
    if tensors.failure:
        return _explained("the framework does not start", tensors.failure)
    if tensors.gpus != gpus:
        return [
            Diagnosis(
                f"the framework sees {tensors.gpus} GPUs, the machine has {gpus}",
                f"version {tensors.version}, CUDA {tensors.cuda or 'none'}: a build for the CPU, "
                "a driver that is too old for its CUDA, or CUDA_VISIBLE_DEVICES hides them",
                "See the log of the framework's stage.",
            )
        ]
    expected: list[int | None] = [*range(gpus)] or [None]
    if [device.index for device in tensors.devices] != expected:
        return [Diagnosis("the tensor test left out a device, or took one twice")]
    return [fault for device in tensors.devices for fault in _device_faults(device)]


def _device_faults(device: Device) -> list[Diagnosis]:
    if device.failure:
        return _explained(f"{device} does not compute", device.failure)
    if tuple((result.operation, result.shape) for result in device.results) != OPERATIONS:
        return [Diagnosis(f"{device} was not asked for every operation")]
    faults = [
        Diagnosis(f"{result} for {device} was computed on a {result.kind}")
        for result in device.results
        if result.kind != device.kind
    ]
    wrong = [result for result in device.results if not result.right]
    if wrong:
        figures = (
            f"{result}: off by {result.error:.2g}, at worst {result.worst:.2g}" for result in wrong
        )
        faults.append(
            Diagnosis(
                f"{device} computes wrong numbers",
                "; ".join(figures) + f" (allowed: {MOST_ERROR:g}, {MOST_WORST:g})",
                "Start again on another machine. If that one is wrong too, this build of the "
                "framework does not fit the GPU or its driver.",
            )
        )
    return faults


def _explained(what: str, traceback: str) -> list[Diagnosis]:
    known = diagnose(traceback)
    reasons = known or (Diagnosis("", verbatim(traceback)),)
    return [
        Diagnosis(what, ": ".join(filter(None, (found.what, found.why))), found.what_to_do)
        for found in reasons
    ]
