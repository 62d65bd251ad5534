"""The course of a bake, from a recipe to a verified image, and the commands around it."""
