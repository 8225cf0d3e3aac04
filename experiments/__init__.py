"""The experiment suite: `python -m experiments.run`."""
