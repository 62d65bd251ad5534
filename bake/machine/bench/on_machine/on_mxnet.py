"""The operations that are measured, in MXNet 1.5 to 1.9: `mx.nd` for arrays, Gluon to train."""

import itertools
import time

import mxnet as mx
from mxnet import autograd, gluon
from mxnet.gluon import nn

NAME = "mxnet"
VERSION = mx.__version__
TYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16"}


def gpus():
    return mx.context.num_gpus()


def capability(index):
    """Return the compute capability, like (7, 5); None when the CUDA runtime cannot be called."""
    # cudaDevAttrComputeCapabilityMajor and …Minor
    found = [_call_cuda("cudaDeviceGetAttribute", number, index) for number in (75, 76)]
    return None if None in found else tuple(found)


def name(index):
    return None


def cuda():
    found = _call_cuda("cudaRuntimeGetVersion")
    return "%d.%d" % (found // 1000, found % 1000 // 10) if found else None


def _call_cuda(function, *arguments):
    from ctypes import byref, c_int

    value = c_int()
    try:
        failed = getattr(mx.base._LIB, function)(byref(value), *arguments)
    except AttributeError:
        return None
    return None if failed else value.value


def precisions():
    """Return the precisions to measure. The CPU only emulates fp16, so it is left out."""
    if not gpus():
        return ["fp32"]
    capable = capability(0) or (5, 3)  # unknown: the capability of all GPUs of the last ten years
    runtime = cuda() or "0"
    tf32 = capable >= (8, 0) and int(runtime.split(".")[0]) >= 11
    return ["fp32"] + ["tf32"] * tf32 + ["fp16"] * (capable >= (5, 3))


def set_precision(precision):
    """Do nothing: cuBLAS 11 uses TF32 for float32 unless NVIDIA_TF32_OVERRIDE is 0."""


def select_device(index):
    mx.random.seed(1)
    return mx.cpu() if index is None else mx.gpu(index)


def free_bytes(device):
    return mx.context.gpu_memory_info(device.device_id)[0]


def normal(shape, precision, device):
    values = mx.nd.random.normal(shape=shape, ctx=device, dtype="float32")
    return values.astype(TYPES[precision])


def pinned(values):
    """Copy values to host memory: pinned, so that a GPU can read it directly, if it has one."""
    return values.copyto(mx.cpu_pinned(0) if gpus() else mx.cpu())


def multiply(a, b, out):
    mx.nd.dot(a, b, out=out)


def add(a, b, out):
    mx.nd.elemwise_add(a, b, out=out)


def copy(source, out):
    source.copyto(out)


def numbers(values):
    return values.asnumpy().astype("float64")


def kind(values):
    return values.context.device_type.replace("cpu_pinned", "cpu")


def seconds(work, times, device=None):
    """Return how long the work takes. MXNet is asynchronous, so wait before and after it."""
    mx.nd.waitall()
    begin = time.perf_counter()
    for _ in range(times):
        work()
    mx.nd.waitall()
    return time.perf_counter() - begin


def _network():
    network = nn.HybridSequential()
    with network.name_scope():
        for channels in (64, 128, 256, 256):
            network.add(nn.Conv2D(channels, kernel_size=3, padding=1, use_bias=False))
            network.add(nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D())
        network.add(nn.Flatten(), nn.Dense(10))
    return network


class Training:
    """Training steps on the same images, on all devices at the same time."""

    def __init__(self, indices, batch, size):
        mx.random.seed(1)
        self.devices = [
            mx.cpu(number) if index is None else mx.gpu(index)
            for number, index in enumerate(indices)
        ]
        self.batch = batch
        network = _network()
        network.initialize(mx.init.Xavier(), ctx=self.devices)
        network.hybridize(static_alloc=True, static_shape=True)
        self.network = network
        self.loss = gluon.loss.SoftmaxCrossEntropyLoss()
        self.trainer = gluon.Trainer(
            network.collect_params(),
            "sgd",
            {"learning_rate": 0.002, "momentum": 0.9},
            kvstore="device" if len(self.devices) > 1 else None,
        )
        shape = (batch, 3, size, size)
        self.images = [mx.nd.random.normal(shape=shape, ctx=device) for device in self.devices]
        labels = [value % 10 for value in itertools.islice(itertools.count(), batch)]
        self.labels = [mx.nd.array(labels, ctx=device) for device in self.devices]
        self.losses = []

    def step(self):
        with autograd.record():
            self.losses = [
                self.loss(self.network(images), labels)
                for images, labels in zip(self.images, self.labels)
            ]
        autograd.backward(self.losses)
        self.trainer.step(self.batch * len(self.devices))

    def last_loss(self):
        means = [float(loss.mean().asscalar()) for loss in self.losses]
        return sum(means) / len(means)

    def kind(self):
        return kind(self.losses[-1])

    def seconds(self, times):
        return seconds(self.step, times)

    def end(self):
        pass
