"""Launches of instances: the requests, their checks, and what is made."""
