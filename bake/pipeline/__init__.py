"""How a bake runs, from the request to the image."""
