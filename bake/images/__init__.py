"""Finished images: which one is meant, copies in other regions, retention."""
