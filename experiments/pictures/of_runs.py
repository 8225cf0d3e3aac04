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

    Beside each lies one for a dark page, NAME-dark.png, which is not among those that are returned.

    What cannot be drawn is told on stderr, in a sentence, and left out: no picture is worth a finished run.

    Raises:
      OSError: the disk is full.
    """
    by_seed = [[r for r in records if r["seed"] == seed] for seed in seeds]
    made: list[pathlib.Path] = []
    parts: dict[str, Callable[[], Iterator[tuple[str, findings.Drawing]]]]
    parts = {"a run": functools.partial(_of_any_run, path, settings.method, by_seed, dataset)}
    heading = title(settings, dataset, corrupted[0])
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
                    figure = draw()
                    style.entitle(figure, heading)
                    made.append(style.save(figure, path / "plots" / f"{name}.png"))
    return made


def title(settings: Config, dataset: Dataset, labels: Labels) -> str:
    """Data set, method, and what is known of wrong labels: that of data of one's own only what the run has made wrong.

    Args:
      settings: with the method's name as it is to be shown.
      dataset: what was trained on.
      labels: as trained on.
    """
    told = "labels as given"
    if labels.clean is not None and (share := np.mean(labels.given != labels.clean)):
        known = "wrong labels" if dataset.true_labels is not None else "of the labels made wrong"
        told = f"{100 * share:.0f} % {known}"
        told += f" ({settings.noise.replace('_', '-')})" * (settings.noise != "none")
    return f"{style.plain(dataset.name)}, {style.plain(settings.method)}, {told}"


def _of_any_run(
    path: pathlib.Path, method: str, by_seed: Sequence[style.Records], dataset: Dataset
) -> Iterator[tuple[str, findings.Drawing]]:
    yield "learning_curves", functools.partial(plots.draw_learning_curves, {method: by_seed}, dataset.test_held_out)
    counts = [_read(file)["counts"] for file in sorted(path.glob("confusion-seed*.npz"))]
    if counts:
        rows = "held-out label as given" if dataset.test_held_out else "test label"
        columns = "predicted" if len(counts) == 1 else f"predicted, {len(counts)} seeds together"
        names = [style.plain(name) for name in dataset.class_names]
        yield "confusion", functools.partial(plots.draw_confusion, np.sum(counts, 0), names, rows, columns)
    if any("wrong_memorized" in r for r in by_seed[0]):
        yield "memorization", functools.partial(plots.draw_memorization, by_seed[0])
    if any("disagreement" in r for r in by_seed[0]):  # the truth is not known
        titles = {"disagreement": table.DISAGREEMENT}
        yield "disagreement", functools.partial(plots.draw_by_epoch, {method: by_seed}, titles)


# What the pictures of any run show, in a sentence; those of the accuracy by epoch say it themselves.
_SENTENCES = {
    "confusion": (
        "What is predicted for the test part, or for what is held out in its place: a row is a label, and predictions "
        "that agree with it lie on the diagonal."
    ),
    "memorization": (
        "After each epoch, what is predicted for training examples with right and with wrong labels: the true class, "
        "the given label, or another class."
    ),
    "disagreement": (
        "After each epoch, the share of training examples for which another class than the given label is predicted: "
        "wrong labels are among them, and examples that are hard or not learned yet."
    ),
}


def explain(file: str, kinds: Mapping[str, str]) -> str:
    """What a picture that `draw_all` has left shows; "" if that is not known.

    Args:
      file: the picture's name, without its ending.
      kinds: of the run's findings by name.
    """
    return _SENTENCES.get(file) or findings.explain(file, kinds)


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
