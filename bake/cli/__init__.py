"""The commands, in a file for each subject. `tasks.py` collects them.

A command imports the rest of bake only when it runs, so that `invoke --list` is fast.
"""
