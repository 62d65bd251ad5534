"""A stand-in for PyTorch @VERSION@ without code for GPUs: numpy computes, on the CPU.

It has what the proof of an image and the stand-in's notebooks use. Each other name exists, so that
programs can be imported, and raises NotImplementedError when it is called.
"""

import functools
import sys
import types

import numpy

__version__ = "@VERSION@"


class Device:
    type = "cpu"

    def __init__(self, name="cpu"):
        if name != "cpu":
            raise NotImplementedError("this stand-in for PyTorch has no device %s" % name)

    def __repr__(self):
        return "device(type='cpu')"


class Tensor(numpy.ndarray):
    device = Device()

    def cpu(self):
        return self

    def detach(self):
        return self

    def numpy(self):
        return numpy.asarray(self)


device = Device
float32 = numpy.float32


def tensor(values, dtype=float32, device=None):
    return numpy.array(values, dtype=dtype).view(Tensor)


def zeros(shape, dtype=float32, device=None):
    return numpy.zeros(shape, dtype=dtype).view(Tensor)


def arange(*bounds, dtype=float32, device=None):
    return numpy.arange(*bounds, dtype=dtype).view(Tensor)


def randn(*shape, dtype=float32, device=None):
    return numpy.random.standard_normal(shape).astype(dtype).view(Tensor)


def _conv2d(images, filters):
    """Compute a convolution as PyTorch does: without padding, and with a stride of one."""
    windows = numpy.lib.stride_tricks.sliding_window_view(images, filters.shape[2:], axis=(2, 3))
    return numpy.einsum("bchwij,fcij->bfhw", windows, filters).view(Tensor)


@functools.lru_cache(maxsize=None)
def _absent(module, name):
    """Return a class, always the same one. It can be a base class, and raises when it is called."""
    if name.startswith("_"):
        raise AttributeError("module %r has no attribute %r" % (module, name))

    def refuse(*arguments, **options):
        raise NotImplementedError("this is a stand-in for PyTorch, without %s.%s" % (module, name))

    return type(name, (), {"__module__": module, "__init__": refuse})


def _module(name, **contents):
    """Make a module with these contents. Each other name that is read from it is absent."""
    module = types.ModuleType(name, __doc__)
    module.__dict__.update(contents, __getattr__=lambda wanted: _absent(name, wanted))
    sys.modules[name] = module
    return module


def __getattr__(name):
    return _absent(__name__, name)


version = _module("torch.version", cuda=None)
cuda = _module("torch.cuda", device_count=lambda: 0, is_available=lambda: False)
_cudnn = _module("torch.backends.cudnn", version=lambda: None)
backends = _module("torch.backends", cudnn=_cudnn)
nn = _module("torch.nn", functional=_module("torch.nn.functional", conv2d=_conv2d))
utils = _module("torch.utils", data=_module("torch.utils.data"))
