"""A stand-in for torchvision @VERSION@, without contents: see the stand-in for PyTorch."""

from torch import _absent, _module

__version__ = "@VERSION@"

transforms = _module("torchvision.transforms")


def __getattr__(name):
    return _absent(__name__, name)
