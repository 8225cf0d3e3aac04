"""Benchmarks, each of them a module that prints a table: `python -m experiments.bench.meta_step`."""
