"""Figures of Dynamic Loss (Jiang et al., TPAMI 2023): `python -m experiments.figures.dynamic_loss RUN_DIR … --out DIR`.

correction.png       share of corrected labels that are right by epoch, a line a run; dotted, of those given (Fig. 6)
margins.png          margins by class after the last epoch, a line a run (Fig. 8)
margin_history.png   a row a run: margins by epoch, a line a class; and by class after some epochs (Fig. 9)
meta_set.png         t-SNE of the meta set, a panel a run and epoch, wrong labels crossed (Figs. 4, 5 and 9)

Margins are drawn less their mean, since the loss does not see it. Of several seeds the mean is drawn, in a band of one
standard deviation; of the meta set the first. Runs may be unfinished; they must be on one data set. What Figs. 3, 7 and
10 to 13 show, and Fig. 4's bars, each run draws in its own `plots`.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.figures import runs, tsne
from experiments.pictures import plots, style
from experiments.runs import restore
from robustjax.training import checkpoints

Seeds = Sequence[Sequence[Mapping[str, Any]]]
_SMALLEST = 4  # examples in a t-SNE


def centred_margins(seeds: Seeds) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [E], and margins less their mean over the classes [seeds, E, C]."""
    epochs, values = style.curves(seeds, "margin")
    return epochs, values - values.mean(-1, keepdims=True)


def _line(x: np.ndarray, values: np.ndarray, number: int) -> plots.Line:
    """The mean of [seeds, N] and, of several seeds, its band; `number` chooses colour and line style."""
    mean, color = values.mean(0), style.CYCLE[number % len(style.CYCLE)]
    band = None
    if len(values) > 1:
        std = values.std(0, ddof=1)
        band = (mean - std, mean + std)
    return plots.Line(x, mean, "o" if len(x) == 1 else style.LINES[number % len(style.LINES)], color, band)


def correction_panel(records: Mapping[str, Seeds], given: Mapping[str, float]) -> plots.Panel:
    """Share of corrected labels that are right; `given`, by the runs' labels, is that of the given ones."""
    lines = {}
    for number, (label, seeds) in enumerate(records.items()):
        epochs, values = style.curves(seeds, "correction_accuracy")
        lines[label] = _line(epochs, values, number)
        if label in given:
            ends = np.array([0.0, epochs[-1]])
            lines[f"_{label}"] = plots.Line(ends, np.full(2, given[label]), ":", lines[label].color)
    return plots.Panel(lines, "", "epoch", "labels that are right", percent=True)


def margins_panel(records: Mapping[str, Seeds]) -> plots.Panel:
    """The newest margins by class, a line a run."""
    lines = {}
    for number, (label, seeds) in enumerate(records.items()):
        _, values = centred_margins(seeds)
        lines[label] = _line(np.arange(values.shape[-1]), values[:, -1], number)
    return plots.Panel(lines, "", "class", "margin less its mean", whole_x=True)


def history_panels(records: Mapping[str, Seeds], class_names: Sequence[str] | None = None) -> list[plots.Panel]:
    """Two panels a run: margins by epoch for at most 10 classes, and by class after at most 4 epochs."""
    panels = []
    for label, seeds in records.items():
        epochs, values = centred_margins(seeds)
        mean = values.mean(0)
        names = style.names_or_numbers(class_names, mean.shape[1])
        shown, colors = style.spread(len(names), 10), style.class_colors(len(names))
        look = "o" if len(epochs) == 1 else "-"
        by_epoch = {names[c]: plots.Line(epochs, mean[:, c], look, colors[c]) for c in shown}
        after = {
            f"epoch {epochs[e]}": plots.Line(np.arange(mean.shape[1]), mean[e], style.LINES[n], color)
            for n, (e, color) in enumerate(zip(style.spread(len(epochs), 4)[::-1], style.SHADES, strict=False))
        }
        quantity = "margin less its mean"
        panels.append(plots.Panel(by_epoch, label, "epoch", quantity, whole_x=True))
        panels.append(plots.Panel(after, label, "class", quantity, whole_x=True))
    return panels


def draw_meta_sets(
    restored: Mapping[str, Sequence[restore.Restored]], path: pathlib.Path
) -> tuple[pathlib.Path | None, dict[str, float]]:
    """Save the t-SNE of the features of each run's meta set, by class as given, at each epoch restored.

    Args:
      restored: runs by label, each at some epochs, on one data set. The meta set is that which the next epoch draws.
      path: of the picture.

    Returns:
      The path, None if no run has a meta set of at least 4 examples yet; and `tsne.spread_within` of each panel by its
      title, which tells it too.
    """
    points, classes, crossed, spreads = {}, {}, {}, {}
    for label, run in ((label, run) for label, epochs in restored.items() for run in epochs):
        chosen = restore.next_draw(run).get("meta")
        if chosen is None or len(chosen) < _SMALLEST:
            continue
        labels = run.labels[0].train
        given, clean = labels.given[chosen], labels.clean
        wrong = np.zeros(len(chosen), bool) if clean is None else given != clean[chosen]
        features = restore.features(run, run.dataset.train_inputs[labels.kept[chosen]])
        spread = tsne.spread_within(features, given)
        told = "" if clean is None else f", {100 * wrong.mean():.0f} % wrong"
        title = f"{label}\nepoch {run.epoch}: {len(chosen)} examples{told}\nspread within classes {spread:.2f}"
        points[title], classes[title], crossed[title] = tsne.embed(features), given, wrong
        spreads[title] = spread
    if not points:
        return None, {}
    names = next(epochs[0].dataset.class_names for epochs in restored.values())
    return plots.embeddings(points, classes, names, path, crossed), spreads


def draw(
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    data_dir: str | None = None,
    epochs: Sequence[int] = (),
    *,
    trust_code: bool = False,
) -> list[pathlib.Path]:
    """Draw what the runs allow into `out`; what they do not is told on stderr.

    Args:
      paths: run directories.
      out: folder for the pictures.
      data_dir: folder of prepared TFDS data sets, as given to the runs.
      epochs: of the checkpoints whose meta sets are drawn; none: the newest.
      trust_code: see `restore.restore_run`.

    Raises:
      ValueError: a path holds no run, runs are on different data sets, or one names a Python file (and `trust_code` is
        not given).
    """
    names = runs.read(paths)
    records = {label: runs.read_records(path) for path, label in names.items()}
    restored: dict[str, list[restore.Restored]] = {}
    for path, label in names.items():
        for epoch in epochs or (None,):
            try:
                restored.setdefault(label, []).append(restore.restore_run(path, data_dir, epoch, trust_code=trust_code))
            except checkpoints.CheckpointError as error:
                print(f"{label}: {error}", file=sys.stderr)
    given = {label: _right_share(found[0]) for label, found in restored.items() if found}
    corrected = _that_record(records, "correction_accuracy")
    runs.tell_missing("no corrected labels that could be judged", records, corrected)
    made = []
    if corrected:
        known = {label: share for label, share in given.items() if share is not None}
        made.append(plots.lines([correction_panel(corrected, known)], 1, out / "correction.png"))
    margins = _that_record(records, "margin")
    runs.tell_missing("no margins are recorded", records, margins)
    if margins:
        class_names = next((found[0].dataset.class_names for found in restored.values() if found), None)
        made.append(plots.lines([margins_panel(margins)], 1, out / "margins.png"))
        made.append(plots.lines(history_panels(margins, class_names), 2, out / "margin_history.png"))
    drawn, _ = draw_meta_sets(restored, out / "meta_set.png")
    if drawn is None:
        print("no run has a checkpoint with a meta set: no t-SNE", file=sys.stderr)
    return made if drawn is None else [*made, drawn]


def _that_record(records: Mapping[str, Seeds], name: str) -> dict[str, Seeds]:
    """The runs of which some epoch of every seed records it."""
    return {label: seeds for label, seeds in records.items() if seeds and len(style.curves(seeds, name)[0])}


def _right_share(run: restore.Restored) -> float | None:
    """The share of given labels that are right, mean over seeds; None where the truth is not known."""
    shares = [np.mean(own.train.given == own.train.clean) for own in run.labels if own.train.clean is not None]
    return float(np.mean(shares)) if shares else None


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for runs that cannot be drawn."""
    parser = runs.make_parser("dynamic_loss", __doc__, restores=True)
    parser.add_argument(
        "--epochs", type=_numbers, default=(), metavar="E,E", help="checkpoints whose meta sets are drawn, such as "
        "50,250 of a run with --checkpoint-every=50 --keep-checkpoints=6; default: the newest"
    )  # fmt: skip
    given = parser.parse_args(argv)
    return runs.show(lambda: draw(given.runs, given.out, given.data_dir, given.epochs, trust_code=given.trust_code))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
