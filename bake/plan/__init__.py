"""The stages of a bake: their digests, their lock, and a forecast of time and cost."""
