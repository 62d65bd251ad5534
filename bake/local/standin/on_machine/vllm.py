"""A stand-in for vLLM @VERSION@, which needs a GPU: it has a version, and no model."""

__version__ = "@VERSION@"
