"""Recipes: read, validated, and checked against the catalog."""
