#!/usr/bin/env python3
"""Compute on every GPU, or on the CPU if there is none, and report the errors of the results.

    python - FRAMEWORK '[["product", [64, 32, 16]], ...]'  < tensor.py

Runs under the environment's own Python, 3.6 or later. The framework computes each operation in
float32, numpy in float64. The last line of the output is one JSON document with the numbers. The
reader of the document judges them.
"""

import json
import platform
import sys
import time
import traceback


class Mxnet:
    def __init__(self):
        import mxnet
        from mxnet import np, npx

        npx.set_np()
        self.np, self.npx = np, npx
        self.version = mxnet.__version__
        self.gpus = npx.num_gpus()
        self.library = mxnet.base._LIB
        self.cuda = self.cudart_version()
        self.cudnn = None

    def device(self, index):
        return self.npx.cpu() if index is None else self.npx.gpu(index)

    def array(self, values, device):
        return self.np.array(values, dtype="float32", ctx=device)

    def zeros(self, shape, device):
        return self.np.zeros(tuple(shape), ctx=device)

    def product(self, a, b):
        return self.np.dot(a, b)

    def convolution(self, images, filters):
        return self.npx.convolution(
            images,
            filters,
            kernel=filters.shape[2:],
            num_filter=filters.shape[0],
            no_bias=True,
        )

    def to_numpy(self, result):
        return result.asnumpy()  # waits until the result is computed

    def kind(self, result):
        return result.ctx.device_type

    def cudart_version(self):
        found = self.ask_cuda("cudaRuntimeGetVersion")
        return None if found is None else "%d.%d" % (found // 1000, found % 1000 // 10)

    def describe(self, index):
        # cudaDevAttrComputeCapabilityMajor and …Minor
        found = [self.ask_cuda("cudaDeviceGetAttribute", number, index) for number in (75, 76)]
        return {} if None in found else {"capability": "%d.%d" % tuple(found)}

    def ask_cuda(self, function, *arguments):
        """Return a value of the CUDA runtime that the library was linked with, or None."""
        from ctypes import byref, c_int

        value = c_int()
        try:
            failed = getattr(self.library, function)(byref(value), *arguments)
        except AttributeError:  # a build for the CPU, or one that does not export its runtime
            return None
        return None if failed else value.value


class Pytorch:
    def __init__(self):
        import torch

        self.torch = torch
        self.version = str(torch.__version__)
        self.gpus = torch.cuda.device_count()
        self.cuda = torch.version.cuda
        self.cudnn = str(torch.backends.cudnn.version() or "") or None

    def device(self, index):
        return self.torch.device("cpu" if index is None else "cuda:%d" % index)

    def array(self, values, device):
        return self.torch.tensor(values, dtype=self.torch.float32, device=device)

    def zeros(self, shape, device):
        return self.torch.zeros(shape, device=device)

    def product(self, a, b):
        return a @ b

    def convolution(self, images, filters):
        return self.torch.nn.functional.conv2d(images, filters)

    def to_numpy(self, result):
        return result.cpu().numpy()  # waits until the result is computed

    def kind(self, result):
        return {"cuda": "gpu"}.get(result.device.type, result.device.type)

    def describe(self, index):
        capability = "%d.%d" % self.torch.cuda.get_device_capability(index)
        return {"capability": capability, "name": self.torch.cuda.get_device_name(index)}


class Tensorflow:
    def __init__(self):
        import os

        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # no lines about the CPU's features
        import tensorflow

        # Without it, an operation that fails to start on a GPU is computed on the CPU.
        tensorflow.config.set_soft_device_placement(False)
        self.tensorflow = tensorflow
        self.version = tensorflow.__version__
        self.devices = tensorflow.config.list_physical_devices("GPU")
        self.gpus = len(self.devices)
        build = tensorflow.sysconfig.get_build_info()
        self.cuda, self.cudnn = build.get("cuda_version"), build.get("cudnn_version")

    def device(self, index):
        return "/CPU:0" if index is None else "/GPU:%d" % index

    def array(self, values, device):
        with self.tensorflow.device(device):
            return self.tensorflow.identity(self.tensorflow.constant(values))

    def zeros(self, shape, device):
        with self.tensorflow.device(device):
            return self.tensorflow.zeros(shape)

    def product(self, a, b):
        with self.tensorflow.device(a.device):
            return self.tensorflow.matmul(a, b)

    def convolution(self, images, filters):
        # On the CPU, TensorFlow has the channels in the last dimension only.
        with self.tensorflow.device(images.device):
            last = self.tensorflow.transpose(images, (0, 2, 3, 1))
            filters = self.tensorflow.transpose(filters, (2, 3, 1, 0))
            result = self.tensorflow.nn.conv2d(last, filters, strides=1, padding="VALID")
            return self.tensorflow.transpose(result, (0, 3, 1, 2))

    def to_numpy(self, result):
        return result.numpy()  # waits until the result is computed

    def kind(self, result):
        return result.device.rpartition("device:")[2].partition(":")[0].lower()

    def describe(self, index):
        found = self.tensorflow.config.experimental.get_device_details(self.devices[index])
        capability = found.get("compute_capability")
        return {
            "capability": capability and "%d.%d" % capability,
            "name": found.get("device_name"),
        }


class Jax:
    def __init__(self):
        import re

        import jax

        self.jax = jax
        self.version = jax.__version__
        try:
            self.devices = jax.devices("gpu")
        except RuntimeError:  # no plugin for GPUs, or no GPU that it can use
            self.devices = []
        self.gpus = len(self.devices)
        # A text such as "PJRT C API\ncuda 13000"; not documented, so its absence is no fault.
        said = str(getattr(self.devices[0].client, "platform_version", "")) if self.devices else ""
        found = re.search(r"\bcuda (\d+)", said)
        number = int(found.group(1)) if found else 0
        self.cuda = "%d.%d" % (number // 1000, number % 1000 // 10) if number else None
        self.cudnn = None

    def device(self, index):
        return self.jax.devices("cpu")[0] if index is None else self.devices[index]

    def array(self, values, device):
        return self.jax.device_put(values, device)

    def zeros(self, shape, device):
        return self.jax.numpy.zeros(shape, device=device)

    def product(self, a, b):
        return self.jax.numpy.matmul(a, b)  # where its arguments are

    def convolution(self, images, filters):
        return self.jax.lax.conv(images, filters, (1, 1), "VALID")

    def to_numpy(self, result):
        import numpy

        return numpy.asarray(result)  # waits until the result is computed

    def kind(self, result):
        [device] = result.devices()
        return {"cuda": "gpu"}.get(device.platform, device.platform)

    def describe(self, index):
        device = self.devices[index]
        capability = getattr(device, "compute_capability", None)
        return {"capability": capability and str(capability), "name": device.device_kind}


FRAMEWORKS = {
    "mxnet": Mxnet,
    "pytorch": Pytorch,
    "tensorflow": Tensorflow,
    "jax": Jax,
    "vllm": Pytorch,  # vLLM computes with PyTorch
}


def compute(framework, device, operation, shape, random):
    """Compute one operation; return the framework's array and the right result in float64."""
    import numpy

    def values(*sizes):
        return random.standard_normal(sizes).astype("float32")

    if operation == "zeros":
        return framework.zeros(shape, device), numpy.zeros(shape)
    if operation == "product":
        m, k, n = shape
        a, b = values(m, k), values(k, n)
        result = framework.product(framework.array(a, device), framework.array(b, device))
        return result, a.astype("float64") @ b.astype("float64")
    if operation == "convolution":
        batch, channels, height, width, count, size = shape
        images, filters = (
            values(batch, channels, height, width),
            values(count, channels, size, size),
        )
        result = framework.convolution(
            framework.array(images, device), framework.array(filters, device)
        )
        rows, columns = height - size + 1, width - size + 1
        expected = numpy.zeros((batch, count, rows, columns))
        for i in range(size):
            for j in range(size):
                window = images[:, :, i : i + rows, j : j + columns].astype("float64")
                expected += numpy.einsum("bchw,fc->bfhw", window, filters[:, :, i, j])
        return result, expected
    raise ValueError("unknown operation: %s" % operation)


def measure(framework, index, operation, shape, random):
    """Compute one operation, and compare its result with numpy's.

    `error` is the Frobenius norm of the difference divided by the right result's; `worst` is the
    largest single difference divided by the right result's root mean square.
    """
    import numpy

    start = time.perf_counter()
    result, expected = compute(framework, framework.device(index), operation, shape, random)
    actual = framework.to_numpy(result).astype("float64")
    seconds = time.perf_counter() - start
    if actual.shape != expected.shape:
        raise ValueError("a result has the shape %s, not %s" % (actual.shape, expected.shape))
    difference = actual - expected
    scale = numpy.sqrt(numpy.mean(expected**2)) or 1.0
    return {
        "operation": operation,
        "shape": shape,
        "kind": framework.kind(result),
        "error": float(numpy.sqrt(numpy.mean(difference**2)) / scale),
        "worst": float(numpy.max(numpy.abs(difference)) / scale),
        "seconds": seconds,
    }


def try_device(framework, index, operations):
    """Compute all operations on one device; a failure is part of the report."""
    import numpy

    device = {"index": index, "results": [], "failure": None}
    try:
        if index is not None:
            device.update(framework.describe(index))
        for number, (operation, shape) in enumerate(operations):
            random = numpy.random.RandomState(number + 1)
            device["results"].append(measure(framework, index, operation, shape, random))
    except Exception:
        device["failure"] = traceback.format_exc(limit=-3)
    return device


def main(name, operations):
    report = {"python": platform.python_version(), "devices": [], "failure": None}
    try:
        import numpy

        report["numpy"] = numpy.__version__
        framework = FRAMEWORKS[name]()
        for key in ("version", "gpus", "cuda", "cudnn"):
            report[key] = getattr(framework, key)
        for index in range(framework.gpus) if framework.gpus else [None]:
            report["devices"].append(try_device(framework, index, operations))
    except Exception:
        report["failure"] = traceback.format_exc(limit=-3)
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
