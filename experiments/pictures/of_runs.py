"""Which pictures a run gets: those that its records and findings hold something for."""

import contextlib
import functools
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.pictures import findings, plots, style
from experiments.runs import table
from experiments.settings.config import Config
from robustjax import filesystem
from robustjax.data import Dataset
from robustjax.data.labelling import Labels


def read_diagnostics(path: pathlib.Path, seed: int) -> list[dict[str, np.ndarray]]:
    """The diagnostics of a seed, one dict an epoch."""
    return [_read(file) for file in sorted((path / "diagnostics").glob(f"seed{seed}-epoch*.npz"))]


def read_findings(path: pathlib.Path, seed: int) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The kind of each finding of a seed by name, and what is known of each example; empty if it found nothing."""
    file = path / f"findings-seed{seed}.npz"
    if not file.exists():
        return {}, {}
    arrays = _read(file)
    named = dict(zip(arrays.pop("names").tolist(), arrays.pop("kinds").tolist(), strict=True))
    return named, {name: values for name, values in arrays.items() if name in named}


def draw_all(
    path: pathlib.Path,
    settings: Config,
    dataset: Dataset,
    corrupted: Sequence[Labels],
    seeds: Sequence[int],
    records: Sequence[Mapping[str, Any]],
) -> list[pathlib.Path]:
    """Draw a run's pictures into its `plots` folder; of findings those of the first seed.

    What cannot be drawn is told on stderr, in a sentence, and left out: no picture is worth a finished run.

    Raises:
      OSError: the disk is full.
    """
    by_seed = [[r for r in records if r["seed"] == seed] for seed in seeds]
    made: list[pathlib.Path] = []
    parts: dict[str, Callable[[], Iterator[tuple[str, findings.Drawing]]]]
    parts = {"a run": functools.partial(_of_any_run, settings.method, by_seed, dataset.test_held_out)}
    with _telling("findings"):
        kinds, examples = read_findings(path, seeds[0])
        left = findings.Left(
            kinds, by_seed[0], read_diagnostics(path, seeds[0]), examples, corrupted[0],
            [style.plain(name) for name in dataset.class_names],
            groups_are_classes=settings.groups is None,
            test_held_out=dataset.test_held_out,
        )  # fmt: skip
        parts |= {kind: functools.partial(findings.figures, left, kind) for kind in dict.fromkeys(kinds.values())}
    for part, drawings in parts.items():
        with _telling(part):
            for name, draw in drawings():
                with _telling(name):
                    made.append(style.save(draw(), path / "plots" / f"{name}.png"))
    return made


def _of_any_run(
    method: str, by_seed: Sequence[style.Records], test_held_out: bool
) -> Iterator[tuple[str, findings.Drawing]]:
    yield "learning_curves", functools.partial(plots.draw_learning_curves, {method: by_seed}, test_held_out)
    if any("wrong_memorized" in r for r in by_seed[0]):
        yield "memorization", functools.partial(plots.draw_memorization, by_seed[0])
    if any("disagreement" in r for r in by_seed[0]):  # the truth is not known
        titles = {"disagreement": table.DISAGREEMENT}
        yield "disagreement", functools.partial(plots.draw_by_epoch, {method: by_seed}, titles)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            yield
    except Exception as error:  # whatever it is, training is over and must not be lost
        if filesystem.is_full(error):
            raise  # nothing that follows can be kept either
        first = str(error).strip().partition("\n")[0]
        print(f"warning: no picture of {what}: {type(error).__name__}: {first}", file=sys.stderr)
        return
    if told:  # matplotlib tells of every sign that its font lacks
        more = f" ({len(told) - 1} more warnings)" if len(told) > 1 else ""
        print(f"warning: the picture of {what}: {told[0].message}{more}", file=sys.stderr)


def _read(file: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}
