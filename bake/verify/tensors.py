"""The tensor test: the framework computes on every GPU, and this module judges the results.

A successful import proves nothing: MXNet can be imported on a machine without a GPU. Therefore a
program on the machine computes, and reports the error of each result and the kind of device that
computed it. This module, and not the program, decides whether that is good enough.
"""

from __future__ import annotations

import json
import shlex
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bake import files
from bake.verify.check import Failed, NotPromised, Shell, run_command
from bake.verify.diagnosis import diagnose, diagnose_failure, verbatim
from bake.verify.expectation import Expectation
from bake.verify.known import FRAMEWORK_LOG, Diagnosis

# All in float32. Odd sizes are included, because a kernel computes their edges with other code. The
# first operation is the book's own. A convolution makes the framework load cuDNN.
OPERATIONS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("zeros", (1024, 1024)),
    ("product", (1024, 1024, 1024)),
    ("product", (1000, 777, 129)),
    ("product", (64, 4096, 64)),
    ("convolution", (4, 3, 32, 32, 8, 3)),
)

# Frameworks may multiply float32 in TF32 or FP16 (10 bits of fraction): each factor has a relative
# error of up to 2^-11, so a product of random matrices has about 3e-4. Plain float32 has 3e-7.
MOST_ERROR = 1e-3
# One wrong number among a million hardly changes the norm, but it changes the largest difference:
# about 1.5e-3 in TF32, and 1 or more for a completely wrong number.
MOST_WORST = 1e-2

# The first run takes minutes if the wheel contains only PTX for this GPU, which is then compiled.
_TIMEOUT_S = 1200


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class TensorResult(_Model):
    """The result of one operation on one device.

    `error` is the root mean square of the differences from the right result, and `worst` the
    largest difference, both divided by the root mean square of the right result; or NaN.
    """

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
        """True if the result is right.

        Zeros must be exact. Every other result has a rounding error in float32: no difference at
        all means that nothing was compared. NaN is wrong.
        """
        if self.operation == "zeros":
            return self.error == 0 and self.worst == 0
        return 0 < self.error <= MOST_ERROR and 0 < self.worst <= MOST_WORST


class Device(_Model):
    """One device and its results. `index` is the GPU's number, or None for the CPU."""

    index: int | None
    results: tuple[TensorResult, ...]
    failure: str | None = None
    name: str | None = None
    capability: str | None = None

    def __str__(self) -> str:
        return "the CPU" if self.index is None else f"GPU {self.index}"

    @property
    def kind(self) -> str:
        """The kind of device, as the program names it in its results."""
        return "cpu" if self.index is None else "gpu"


class Tensors(_Model):
    """The report of the program on the machine. `gpus` is the number that the framework finds."""

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
        """True if the framework finds a GPU."""
        return self.gpus > 0


def compute(shell: Shell, expectation: Expectation) -> Tensors:
    """Run the program in the environment and return its report; Failed if it prints none."""
    if expectation.framework is None:
        raise NotPromised
    arguments = ["-", expectation.framework, json.dumps(OPERATIONS)]
    command = shlex.join([expectation.python_path, *arguments])
    program = (files.on_machine("bake.verify") / "tensor.py").read_bytes()
    output = run_command(shell, command, stdin=program, timeout_s=_TIMEOUT_S)
    lines = output.stdout.rstrip().splitlines()
    try:
        return read(lines[-1] if lines else "")
    except ValueError:
        text = output.stderr + output.stdout
        raise Failed(*diagnose_failure("the tensor test", text, output.exit_status)) from None


def read(line: str) -> Tensors:
    """Parse the report of the program; ValueError for any other text."""
    try:
        return Tensors.model_validate(files.parse_json(line))
    except ValidationError as error:
        raise ValueError(str(error)) from error


def judge(tensors: Tensors, *, gpus: int) -> str:
    """Judge the report of a machine with this number of GPUs, and describe what was proved.

    Failed names every fault.
    """
    if faults := _faults(tensors, gpus):
        raise Failed(*faults)
    results = [result for device in tensors.devices for result in device.results]
    worst = max(result.error for result in results)
    versions = f"{tensors.version}, numpy {tensors.numpy}"
    versions += f", CUDA {tensors.cuda}" if tensors.cuda else ""
    where = f"{gpus} GPUs" if gpus > 1 else str(tensors.devices[0])
    return f"right on {where}, largest relative error {worst:.1e} ({versions})"


def _faults(tensors: Tensors, gpus: int) -> list[Diagnosis]:
    if tensors.failure:
        return _explained("the framework does not start", tensors.failure)
    if tensors.gpus != gpus:
        return [
            Diagnosis(
                f"the framework finds {tensors.gpus} GPUs, but the machine has {gpus}",
                f"version {tensors.version}, CUDA {tensors.cuda or 'none'}: it is a build for the "
                "CPU, or the driver is too old for its CUDA, or CUDA_VISIBLE_DEVICES hides GPUs",
                FRAMEWORK_LOG,
            )
        ]
    expected: list[int | None] = [*range(gpus)] or [None]
    if [device.index for device in tensors.devices] != expected:
        return [Diagnosis("the tensor test left out a device, or tested one twice")]
    return [fault for device in tensors.devices for fault in _device_faults(device)]


def _device_faults(device: Device) -> list[Diagnosis]:
    if device.failure:
        return _explained(f"the computation on {device} failed", device.failure)
    if tuple((result.operation, result.shape) for result in device.results) != OPERATIONS:
        return [Diagnosis(f"not every operation was computed on {device}")]
    faults = [
        Diagnosis(f"{result} was computed on a {result.kind}, not on {device}")
        for result in device.results
        if result.kind != device.kind
    ]
    wrong = [result for result in device.results if not result.right]
    if wrong:
        figures = (
            f"{result}: relative error {result.error:.2g}, largest {result.worst:.2g}"
            for result in wrong
        )
        faults.append(
            Diagnosis(
                f"{device} computes wrong results",
                "; ".join(figures) + f" (allowed: {MOST_ERROR:g} and {MOST_WORST:g})",
                "Bake again, which starts another machine. If its results are wrong, too, this "
                "version of the framework does not work with the GPU or its driver.",
            )
        )
    return faults


def _explained(what: str, traceback: str) -> list[Diagnosis]:
    reasons = diagnose(traceback) or (Diagnosis("", verbatim(traceback)),)
    return [
        Diagnosis(what, ": ".join(filter(None, (found.what, found.why))), found.what_to_do)
        for found in reasons
    ]
