"""Figures of ELR (Liu et al., NeurIPS 2020): `python -m experiments.figures.elr RUN_DIR [RUN_DIR …] --out DIR`.

memorization.png    what is predicted for rightly and for wrongly labelled examples, a row a run (Figs. 1 and C.1)
coefficients.png    the loss gradient at the true class, means over right and over wrong labels (Figs. 2 and B.1)
accuracy.png        test accuracy, and accuracy of the running targets of the runs that have them (Fig. D.1)

Of several seeds the mean is drawn. Runs may be unfinished; they must be on one data set.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.figures import runs
from experiments.pictures import plots, style

Seeds = Sequence[Sequence[Mapping[str, Any]]]
_TERMS = {
    "ce_coefficient": ("p − y", style.PURPLE, "-"),
    "elr_coefficient": ("λg", style.GREEN, "--"),
    "total_coefficient": ("p − y + λg", "black", ":"),
}


def curve(seeds: Seeds, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs [E] and the mean over the seeds [E] of a recorded quantity; None where it is not recorded."""
    by_epoch: dict[int, list[float]] = {}
    for records in seeds:
        for record in records:
            if record.get(name) is not None:
                by_epoch.setdefault(record["epoch"], []).append(record[name])
    epochs = sorted(by_epoch)
    return (np.array(epochs), np.array([np.mean(by_epoch[e]) for e in epochs])) if epochs else None


def _lines(seeds: Seeds, wanted: Mapping[str, tuple[str, str, str]]) -> dict[str, plots.Line]:
    found = {label: (curve(seeds, name), color, look) for name, (label, color, look) in wanted.items()}
    return {label: plots.Line(*xy, look, color) for label, (xy, color, look) in found.items() if xy is not None}


def memorization_panels(records: Mapping[str, Seeds]) -> list[plots.Panel]:
    """Two panels a run, rightly and wrongly labelled examples."""
    return [
        plots.Panel(_lines(seeds, wanted), f"{label}: {family}", "epoch", "share", y_limits=(-0.02, 1.02), percent=True)
        for label, seeds in records.items()
        for family, wanted in plots.MEMORIZATION.items()
    ]


def coefficient_panels(records: Mapping[str, Seeds]) -> list[plots.Panel]:
    """Two panels a run, right and wrong labels."""
    return [
        plots.Panel(
            _lines(seeds, {f"{name}_{kind}": look for name, look in _TERMS.items()}),
            f"{label}: {title} labels",
            "epoch",
            "coefficient of the true class",
        )
        for label, seeds in records.items()
        for kind, title in (("clean", "right"), ("wrong", "wrong"))
    ]


def draw(paths: Sequence[pathlib.Path], out: pathlib.Path) -> list[pathlib.Path]:
    """Draw what the runs allow into `out`; what they do not is told on stderr.

    Raises:
      ValueError: a path holds no run, runs are on different data sets, or no epoch of any is over.
    """
    names = runs.read(paths)
    records = {label: runs.read_records(path) for path, label in names.items()}
    measured = {label: seeds for label, seeds in records.items() if seeds}
    runs.tell_missing("no epoch is over", records, measured)
    if not measured:
        raise ValueError("no epoch of any run is over.")
    titles = {"test_accuracy": runs.test_title(names), "target_accuracy": "target accuracy"}
    made = [plots.by_epoch(measured, titles, out / "accuracy.png")]
    surveyed = {label: seeds for label, seeds in measured.items() if curve(seeds, "wrong_memorized") is not None}
    reason = "no memorization is recorded (it needs --track-every, and true labels to judge by)"
    runs.tell_missing(reason, measured, surveyed)
    if surveyed:
        made.append(plots.lines(memorization_panels(surveyed), 2, out / "memorization.png"))
        made.append(plots.lines(coefficient_panels(surveyed), 2, out / "coefficients.png"))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for runs that cannot be drawn."""
    given = runs.make_parser("elr", __doc__).parse_args(argv)
    return runs.show(lambda: draw(given.runs, given.out))


if __name__ == "__main__":
    sys.exit(main())
