"""The stages of a bake, their digests, and what they will take."""
