"""Benchmarks, each a module that prints a table: `python -m experiments.bench.meta_step`, `….har_step`."""
