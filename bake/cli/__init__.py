"""The command line, by what a command is about; `tasks.py` collects it.

Everything of ours is imported when a command runs, so that `invoke --list` answers at once.
"""
