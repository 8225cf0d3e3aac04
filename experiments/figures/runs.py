"""Runs side by side: what the figures of run directories share."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments.runs import directory, records, test_part
from experiments.settings.config import Config


def make_parser(name: str, text: str, restores: bool = False) -> argparse.ArgumentParser:
    """The command line that figures of runs share: run directories and a folder for the pictures.

    Args:
      name: of the figures' module.
      text: its docstring.
      restores: whether networks are restored, which needs the data and may run code.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.figures.{name}", description=text.split("\n\n")[0])
    parser.add_argument(
        "runs", nargs="+", type=pathlib.Path, metavar="RUN_DIR", help="run directories, on one data set"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for the pictures")
    if restores:
        parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets, as given to the runs")
        parser.add_argument(
            "--trust-code", action="store_true", help="run the Python files that the runs' settings name"
        )
    return parser


def show(draw: Callable[[], Sequence[pathlib.Path]]) -> int:
    """Draw and print what was made; returns the exit status: 0, or 2 for runs that cannot be drawn."""
    try:
        for made in draw():
            print(made)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """The runs in `paths`, each with a label.

    Raises:
      ValueError: a path holds no run, or they are on different data sets.
    """
    settings = {path: directory.read_settings(path) for path in dict.fromkeys(paths)}
    datasets = sorted({each.dataset for each in settings.values()})
    if len(datasets) > 1:
        raise ValueError(f"the runs are on different data sets ({', '.join(datasets)}); draw them one by one.")
    return labels(settings)


def labels(settings: Mapping[pathlib.Path, Config]) -> dict[pathlib.Path, str]:
    """A label for each run: method and noise; where these agree, also the settings that differ, or else the path."""
    plain = {path: _method_and_noise(each) for path, each in settings.items()}
    found = {}
    for path, label in plain.items():
        namesakes = {other: _flat(settings[other]) for other in plain if plain[other] == label}
        mine = namesakes[path]
        differing = [name for name in mine if any(other.get(name) != mine[name] for other in namesakes.values())]
        identical = [other for other in namesakes if namesakes[other] == mine]
        parts = [label, *(f"{name}={mine[name]}" for name in differing), *([str(path)] if len(identical) > 1 else [])]
        found[path] = ", ".join(parts)
    return found


def _method_and_noise(settings: Config) -> str:
    method = settings.method
    if settings.options.get("regularizer", "none") != "none" and not method.endswith("_sr"):
        method += " + SR"
    return method if settings.noise == "none" else f"{method}, {settings.noise} {settings.noise_rate:g}"


def _flat(settings: Config) -> dict[str, Any]:
    return {**{k: v for k, v in dataclasses.asdict(settings).items() if k != "options"}, **settings.options}


def read_records(path: pathlib.Path) -> list[list[dict[str, Any]]]:
    """The records of a run so far, by seed; none before its first epoch is over."""
    file = path / "metrics.jsonl"
    lines = records.read_records(file) if file.exists() else []
    return [[r for r in lines if r["seed"] == seed] for seed in sorted({r["seed"] for r in lines})]


def test_title(paths: Iterable[pathlib.Path]) -> str:
    """What the test accuracy of runs on one data set is called."""
    return test_part.title("test accuracy", any(directory.read_description(p).get("test_held_out") for p in paths))


def tell_missing(reason: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Say on stderr which of the `wanted` are not `found`, and why."""
    missing = [label for label in wanted if label not in found]
    if missing:
        print(f"{reason}: {'; '.join(missing)}", file=sys.stderr)
