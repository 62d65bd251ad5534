"""Completion in bash, zsh and fish: their scripts, and the candidates for a command line."""
