"""A launched machine, for the person who uses it."""
