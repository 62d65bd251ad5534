"""Verified GPU machine images from recipes."""

__version__ = "0.1.0"
