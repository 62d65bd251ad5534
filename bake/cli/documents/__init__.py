"""The JSON documents of the commands: one type for each command with `--json`.

docs/json.md describes them for users, and is made from these types (`make json`).
"""
