"""Benchmarks of a machine: the programs that run on it, their figures and a judgement of them."""
