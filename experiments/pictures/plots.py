"""The pictures of a run. ``draw_*`` builds a Figure from arrays; the function of the same name saves it as a PNG.

Records are those of ``metrics.jsonl``: dictionaries with ``epoch`` (0 for the first); pictures count epochs from 1.
Colours are Okabe and Ito's, which colour-blind readers can tell apart; line styles repeat what colour says.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

PathLike = str | os.PathLike[str]
Records = Sequence[Mapping[str, Any]]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
_CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
_LINES = ("-", "--", "-.", ":")
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.dpi": 130,
}
_MAX_PANELS = 20

# What a network predicts for training examples (ELR, Fig. 1): by kind, the recorded shares with label, colour and line.
MEMORIZATION = {
    "rightly labelled": {"clean_true": ("correct", GREEN, "-"), "clean_other": ("another class", BLUE, "-.")},
    "wrongly labelled": {
        "wrong_true": ("correct", GREEN, "-"),
        "wrong_memorized": ("memorized (given label)", RED, "--"),
        "wrong_other": ("another class", BLUE, "-."),
    },
}


def learning_curves(runs: Mapping[str, Sequence[Records]], path: PathLike) -> Path:
    """Save train loss, test accuracy and learning rate by epoch, see ``draw_learning_curves``."""
    return _save(draw_learning_curves(runs), path)


def draw_learning_curves(runs: Mapping[str, Sequence[Records]]) -> Figure:
    """Draw a line a run: the mean over its seeds, in a band of one sample standard deviation to either side.

    Args:
      runs: by label, the records of each seed, with ``train_loss``, ``test_accuracy`` and ``learning_rate``; a
        quantity that no record holds gets no panel, and an epoch without it no point.
    """
    return draw_by_epoch(
        runs, {"train_loss": "train loss", "test_accuracy": "test accuracy", "learning_rate": "learning rate"}
    )


def by_epoch(runs: Mapping[str, Sequence[Records]], titles: Mapping[str, str], path: PathLike) -> Path:
    """Save any recorded quantities by epoch, see ``draw_by_epoch``."""
    return _save(draw_by_epoch(runs, titles), path)


@rc_context(_STYLE)
def draw_by_epoch(runs: Mapping[str, Sequence[Records]], titles: Mapping[str, str]) -> Figure:
    """Draw recorded quantities, a panel each, with the lines and bands of ``draw_learning_curves``.

    Args:
      runs: by label, the records of each seed.
      titles: name in the records -> what it is called in the picture. Accuracies get an axis in percent.

    Raises:
      ValueError: no record holds any of them.
    """
    everything = [record for seeds in runs.values() for records in seeds for record in records]
    panels = {name: title for name, title in titles.items() if any(r.get(name) is not None for r in everything)}
    if not panels:
        raise ValueError(f"runs hold no {', '.join(titles)}")
    figure, axes = _panels(len(panels), columns=3, size=(3.4, 2.8) if len(panels) > 1 else (4.6, 3.4))
    for ax, (quantity, title) in zip(axes, panels.items(), strict=True):
        for number, (label, seeds) in enumerate(runs.items()):
            epochs, values = _curves(seeds, quantity)
            color, line = _CYCLE[number % len(_CYCLE)], _LINES[number % len(_LINES)]
            mean = values.mean(0)
            name = f"{label} ({len(seeds)} seeds)" if len(seeds) > 1 else label
            ax.plot(epochs, mean, line, color=color, label=name, marker="o" if len(epochs) == 1 else "")
            if len(seeds) > 1:
                std = values.std(0, ddof=1)
                ax.fill_between(epochs, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
        ax.set_ylabel(title)
        _epoch_axis(ax)
        if quantity.endswith("accuracy"):
            _percent_axis(ax)
    if len(runs) > 1 or any(len(seeds) > 1 for seeds in runs.values()):
        _legend_below(figure, axes[0])
    return figure


def label_weights(
    weights: np.ndarray, noisy_share: np.ndarray | None, class_names: Sequence[str] | None, path: PathLike
) -> Path:
    """Save the corrector's weight by loss-rank bin, a panel a class, see ``draw_label_weights``."""
    return _save(draw_label_weights(weights, noisy_share, class_names), path)


@rc_context(_STYLE)
def draw_label_weights(
    weights: np.ndarray, noisy_share: np.ndarray | None = None, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw the learned weight g(r|y) of the given label over the loss-rank bin r (Dynamic Loss, Figs. 3, 10 and 12).

    Of more than 20 classes, 20 evenly spaced ones are shown. A dotted line marks the share of right labels in the
    class, where a perfect corrector steps from 1 to 0.

    Args:
      weights: [C, R], bins by rising loss.
      noisy_share: share of truly wrong labels in each bin, [C, R], nan where a bin is empty; None if unknown. The
        dotted line takes the bins to be equally full, as ranks make them.
      class_names: default class 0, class 1, …
    """
    weights = _matrix(weights, "weights")
    noisy_share = None if noisy_share is None else _matrix(noisy_share, "noisy_share", weights.shape)
    names = _names(class_names, len(weights))
    shown = _spread(len(weights), _MAX_PANELS)
    figure, axes = _panels(len(shown), columns=5, size=(2.2, 1.9), share=True)
    bins = np.arange(1, weights.shape[1] + 1)
    for ax, c in zip(axes, shown, strict=True):
        ax.plot(bins, weights[c], color=BLUE, label="learned weight g(r | y)")
        if noisy_share is not None and np.isfinite(noisy_share[c]).any():
            ax.bar(bins, noisy_share[c], width=1.0, color=ORANGE, alpha=0.6, label="wrong labels in the bin")
            clean_share = 1 - np.nanmean(noisy_share[c])
            ax.axvline(clean_share * len(bins), color="black", linestyle=":", label="right labels in the class")
        ax.set(title=names[c], xlim=(0.5, len(bins) + 0.5), ylim=(-0.03, 1.03))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10], prune="lower"))
    for ax in axes[-5:]:  # the lowest of each column
        ax.set_xlabel("loss-rank bin r")
        ax.tick_params(labelbottom=True)
    for ax in axes[::5]:
        ax.set_ylabel("weight, share")
    _legend_below(figure, max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0])))
    return figure


def margins(margin: np.ndarray, class_counts: np.ndarray, class_names: Sequence[str] | None, path: PathLike) -> Path:
    """Save the learned class margins beside the class sizes, see ``draw_margins``."""
    return _save(draw_margins(margin, class_counts, class_names), path)


@rc_context(_STYLE)
def draw_margins(margin: np.ndarray, class_counts: np.ndarray, class_names: Sequence[str] | None = None) -> Figure:
    """Draw the margin q_j that is added to logit j beside the size of class j (Dynamic Loss, Figs. 4, 8 and 11).

    Args:
      margin: [C], in units of logits.
      class_counts: training examples of each class, [C].
      class_names: default the class's number.
    """
    margin, class_counts = np.asarray(margin, float), np.asarray(class_counts)
    if margin.ndim != 1 or class_counts.shape != margin.shape:
        raise ValueError(f"margin and class_counts must both be [C], got {margin.shape} and {class_counts.shape}")
    figure, axes = _panels(2, columns=1, size=(min(4 + 0.2 * len(margin), 9), 1.9), share="col")
    classes = np.arange(len(margin))
    for ax, values, color, title in (
        (axes[0], margin, BLUE, "margin q (logits)"),
        (axes[1], class_counts, ORANGE, "examples in class"),
    ):
        ax.bar(classes, values, color=color, width=0.8)
        ax.set(ylabel=title, xlim=(-0.6, len(margin) - 0.4))
        ax.grid(axis="x", visible=False)
    axes[0].axhline(0, color="black", linewidth=0.8)
    if len(margin) <= _MAX_PANELS and class_names is not None:
        axes[1].set_xticks(classes, _names(class_names, len(margin)), rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes[1].xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    axes[1].set_xlabel("class")
    figure.align_ylabels()
    return figure


def strengths(
    strength: np.ndarray,
    count: np.ndarray,
    error: np.ndarray,
    test_error: Sequence[float] | None,
    names: Sequence[str] | None,
    path: PathLike,
) -> Path:
    """Save HAR's strengths beside what they are made of, see ``draw_strengths``."""
    return _save(draw_strengths(strength, count, error, test_error, names), path)


@rc_context(_STYLE)
def draw_strengths(
    strength: np.ndarray,
    count: np.ndarray,
    error: np.ndarray,
    test_error: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draw each group's density, estimated error, strength and test error, by rising strength (HAR, Fig. 4).

    Args:
      strength: λτ of each group, [G].
      count: its training examples, [G].
      error: its held-out error in stage 1, [G].
      test_error: its final error on the test set, [G]; None leaves the panel out (groups that are no classes).
      names: default class 0, class 1, …
    """
    rows = [np.asarray(values, float) for values in (count, error, strength)]
    rows += [] if test_error is None else [np.asarray(test_error, float)]
    if rows[0].ndim != 1 or any(row.shape != rows[0].shape for row in rows):
        raise ValueError(f"count, error, strength and test_error must all be [G], got {[row.shape for row in rows]}")
    rows[0] = rows[0] / max(rows[0].sum(), 1)
    order = np.argsort(rows[2], kind="stable")
    figure, axes = _panels(len(rows), columns=1, size=(min(4 + 0.2 * len(order), 9), 1.5), share="col")
    titles = ("density q", "held-out error", "strength λτ", "test error")
    for ax, values, color, title in zip(axes, rows, (ORANGE, SKY, BLUE, RED), titles, strict=False):
        ax.bar(np.arange(len(order)), values[order], color=color, width=0.8)
        ax.set(ylabel=title, xlim=(-0.6, len(order) - 0.4))
        ax.grid(axis="x", visible=False)
        if title != "strength λτ":
            _percent_axis(ax)
    labels = _names(names, len(order))
    if len(order) <= _MAX_PANELS:
        shown = [labels[g] for g in order]
        axes[-1].set_xticks(np.arange(len(order)), shown, rotation=40, ha="right", rotation_mode="anchor")
    axes[-1].set_xlabel("by rising strength")
    figure.align_ylabels()
    return figure


def correction_accuracy(runs: Mapping[str, Records], uncorrected: Mapping[str, float], path: PathLike) -> Path:
    """Save the accuracy of the corrected labels by epoch, see ``draw_correction_accuracy``."""
    return _save(draw_correction_accuracy(runs, uncorrected), path)


@rc_context(_STYLE)
def draw_correction_accuracy(runs: Mapping[str, Records], uncorrected: Mapping[str, float]) -> Figure:
    """Draw the share of corrected labels that are right, a line a run (Dynamic Loss, Fig. 6).

    Args:
      runs: records by label (a noise rate, say), with ``correction_accuracy``.
      uncorrected: the share of given labels that are right, by the same labels; drawn dashed. May be empty.
    """
    figure, (ax,) = _panels(1, columns=1, size=(4.6, 3.2))
    for number, (label, records) in enumerate(runs.items()):
        color = _CYCLE[number % len(_CYCLE)]
        epochs, values = _curves([records], "correction_accuracy")
        ax.plot(epochs, values[0], color=color, label=label)
        if label in uncorrected:
            ax.axhline(uncorrected[label], color=color, linestyle="--", linewidth=1)
    ax.set(ylabel="labels that are right", title="corrected labels (dashed: as given)")
    _epoch_axis(ax)
    _percent_axis(ax)
    ax.legend()
    return figure


def memorization(records: Records, path: PathLike) -> Path:
    """Save what is predicted for rightly and wrongly labelled examples by epoch, see ``draw_memorization``."""
    return _save(draw_memorization(records), path)


@rc_context(_STYLE)
def draw_memorization(records: Records) -> Figure:
    """Draw what is predicted for rightly (left) and wrongly labelled training examples (right) by epoch (ELR, Fig. 1).

    Args:
      records: with the shares of ``evaluation.memorization``: ``clean_true``, ``clean_other``, ``wrong_true``,
        ``wrong_memorized`` and ``wrong_other``.
    """
    figure, axes = _panels(2, columns=2, size=(3.6, 3.0), share=True)
    for ax, (title, family) in zip(axes, MEMORIZATION.items(), strict=True):
        for name, (label, color, line) in family.items():
            epochs, values = _curves([records], name)
            ax.plot(epochs, values[0], line, color=color, label=label)
        ax.set(title=f"{title} examples", ylim=(-0.02, 1.02))
        _epoch_axis(ax)
        _percent_axis(ax)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    axes[0].set_ylabel("share of predictions")
    return figure


def gradient_coefficients(records: Records, path: PathLike) -> Path:
    """Save the loss gradient at the true class by epoch, see ``draw_gradient_coefficients``."""
    return _save(draw_gradient_coefficients(records), path)


@rc_context(_STYLE)
def draw_gradient_coefficients(records: Records) -> Figure:
    """Draw the loss gradient at the true class's logit, mean and one standard deviation over examples (ELR, Fig. 2).

    Left, the whole coefficient on right and on wrong labels; then, on right and on wrong labels, what cross entropy and
    what ELR's term contribute. For a method without targets only the first panel, of cross entropy (Fig. B.1).

    Args:
      records: of one seed, with the entries of ``evaluation.gradient_coefficients``.
    """
    records = [record for record in records if record.get("ce_coefficient_clean") is not None]
    if not records:
        raise ValueError("records hold no ce_coefficient_clean")
    kinds = {"clean": ("right labels", BLUE), "wrong": ("wrong labels", RED)}
    if "elr_coefficient_clean" in records[0]:
        panels = [("p − y + λg", [("total", kind, label, color) for kind, (label, color) in kinds.items()])]
        terms = (("ce", "p − y", PURPLE), ("elr", "λg", GREEN))
        panels += [(label, [(part, kind, name, color) for part, name, color in terms])
                   for kind, (label, _) in kinds.items()]  # fmt: skip
    else:
        panels = [("p − y", [("ce", kind, label, color) for kind, (label, color) in kinds.items()])]
    figure, axes = _panels(len(panels), columns=3, share=True)
    for ax, (title, curves) in zip(axes, panels, strict=True):
        ax.axhline(0, color="black", linewidth=0.6)
        for part, kind, label, color in curves:
            epochs, values = _curves([records], f"{part}_coefficient_{kind}")
            spread = _curves([records], f"{part}_coefficient_{kind}_std")[1][0]
            ax.plot(epochs, values[0], color=color, label=label, marker="o" if len(epochs) == 1 else "")
            ax.fill_between(epochs, values[0] - spread, values[0] + spread, color=color, alpha=0.2, linewidth=0)
        ax.set_title(title)
        ax.legend()
        _epoch_axis(ax)
    axes[0].set_ylabel("coefficient of the true class")
    return figure


def label_weights_over_epochs(weights: np.ndarray, path: PathLike) -> Path:
    """Save the heat map of one class's label weights, see ``draw_label_weights_over_epochs``."""
    return _save(draw_label_weights_over_epochs(weights), path)


@rc_context(_STYLE)
def draw_label_weights_over_epochs(weights: np.ndarray) -> Figure:
    """Draw the weight g(r) of one class by epoch and loss-rank bin as a heat map (Dynamic Loss, Fig. 7).

    Args:
      weights: [E, R]: after each epoch, by bin of rising loss.
    """
    weights = _matrix(weights, "weights")
    figure, (ax,) = _panels(1, columns=1, size=(5.2, 3.2))
    epochs, bins = weights.shape
    extent = (0.5, epochs + 0.5, 0.5, bins + 0.5)
    image = ax.imshow(weights.T, origin="lower", aspect="auto", extent=extent, cmap="cividis", vmin=0, vmax=1)
    ax.grid(False)
    ax.set_ylabel("loss-rank bin r")
    _epoch_axis(ax)
    figure.colorbar(image, label="weight of the given label g(r)")
    return figure


def embeddings(
    points: Mapping[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str] | None, path: PathLike
) -> Path:
    """Save points in the plane coloured by class, a panel a run, see ``draw_embeddings``."""
    return _save(draw_embeddings(points, labels, class_names), path)


@rc_context(_STYLE | {"axes.grid": False})
def draw_embeddings(
    points: Mapping[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw examples embedded in the plane, a panel a run, coloured by class (SR, Figs. 1 and 5).

    Axes have no ticks: in a t-SNE neither position nor scale means anything. With more than 20 classes neighbouring
    classes have similar colours and there is no legend.

    Args:
      points: by title (long ones are wrapped), [N, 2].
      labels: classes of the same N examples in every panel, integers [N].
      class_names: default class 0, class 1, …
    """
    labels = np.asarray(labels)
    names = _names(class_names, int(labels.max()) + 1 if class_names is None else len(class_names))
    shades = colormaps["tab10" if len(names) <= 10 else "tab20"].colors
    colors = shades if len(names) <= 20 else colormaps["turbo"](np.linspace(0, 1, len(names)))
    figure, axes = _panels(len(points), columns=3, size=(3.2, 3.2))
    for ax, (title, found) in zip(axes, points.items(), strict=True):
        found = _matrix(found, "points", (len(labels), 2))
        for c, name in enumerate(names):
            members = found[labels == c]
            ax.scatter(members[:, 0], members[:, 1], s=5, color=colors[c], linewidths=0, alpha=0.8, label=name)
        wrapped = "\n".join(textwrap.fill(part, 42) for part in title.splitlines())
        ax.set(title=wrapped, xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    if len(names) <= 20:
        _legend_below(figure, axes[0], columns=10, markerscale=2.5)
    return figure


class Line(NamedTuple):
    """A line of a `Panel`.

    Attributes:
      x: [N].
      y: [N].
      look: line style or marker, as matplotlib writes them: "-", "--", "o".
      color: any colour of matplotlib's.
      band: lower and upper edge of a shaded band, [N] each.
    """

    x: np.ndarray
    y: np.ndarray
    look: str = "-"
    color: str = BLUE
    band: tuple[np.ndarray, np.ndarray] | None = None


class Panel(NamedTuple):
    """One panel of `draw_lines`: lines by label (not in the legend where it starts with "_"), title, and axes."""

    lines: Mapping[str, Line]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    x_scale: str = "linear"
    y_scale: str = "linear"
    y_limits: tuple[float, float] | None = None
    percent: bool = False


def lines(panels: Sequence[Panel], columns: int, path: PathLike) -> Path:
    """Save panels of lines, see ``draw_lines``."""
    return _save(draw_lines(panels, columns), path)


@rc_context(_STYLE)
def draw_lines(panels: Sequence[Panel], columns: int = 2) -> Figure:
    """Draw any curves, a panel each, row by row, over one legend: a label looks the same wherever it occurs.

    Args:
      panels: what to draw; those in a column whose x axes have the same label show it once, under the lowest.
      columns: panels side by side.
    """
    figure, axes = _panels(len(panels), columns=columns, size=(3.8, 2.7))
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        for label, line in panel.lines.items():
            marker = line.look if line.look in ("o", ".", "x") else ""
            look = {"linestyle": "", "marker": marker, "markersize": 3} if marker else {"linestyle": line.look}
            ax.plot(line.x, line.y, color=line.color, label=label, **look)
            if line.band is not None:
                ax.fill_between(line.x, *line.band, color=line.color, alpha=0.2, linewidth=0)
        ax.set(title=panel.title, ylabel=panel.y_label, xscale=panel.x_scale, yscale=panel.y_scale)
        if panel.y_limits is not None:
            ax.set_ylim(*panel.y_limits)
        if panel.percent:
            _percent_axis(ax)
        for axis, scale in ((ax.xaxis, panel.x_scale), (ax.yaxis, panel.y_scale)):
            low, high = axis.get_view_interval()
            if scale == "log" and high < 100 * low:  # too short for powers of ten alone
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        below = panels[number + columns] if number + columns < len(panels) else None
        if below is None or below.x_label != panel.x_label:
            ax.set_xlabel(panel.x_label)
    shown: dict[str, Any] = {}
    for ax in axes:
        shown.update(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    _legend_below(figure, shown, columns=4)
    return figure


def histograms(
    groups: Mapping[str, Mapping[str, np.ndarray]], x_label: str, path: PathLike, x_max: float | None = None
) -> Path:
    """Save stacked histograms, see ``draw_histograms``."""
    return _save(draw_histograms(groups, x_label, x_max), path)


@rc_context(_STYLE)
def draw_histograms(groups: Mapping[str, Mapping[str, np.ndarray]], x_label: str, x_max: float | None = None) -> Figure:
    """Draw densities of non-negative values, a panel a group of them, under each other on one x axis (HAR, Fig. 1).

    Args:
      groups: by title, the values [N] by label.
      x_label: what the values are.
      x_max: right end of the axis, default the largest value; what lies beyond counts in the last bin.
    """
    every = [np.asarray(values, float) for group in groups.values() for values in group.values()]
    x_max = max(values.max() for values in every) if x_max is None else x_max
    edges = np.linspace(0, x_max, 36)
    figure, axes = _panels(len(groups), columns=1, size=(5.0, 2.0), share=True)
    colors = iter(_CYCLE)
    for ax, (title, group) in zip(axes, groups.items(), strict=True):
        for label, values in group.items():
            color = next(colors)
            density, _ = np.histogram(np.minimum(values, x_max), edges, density=True)
            ax.stairs(density, edges, fill=True, color=color, alpha=0.45, label=f"{label} ({len(values)})")
            ax.stairs(density, edges, color=color, linewidth=1.2)
        ax.set(title=title, ylabel="density", xlim=(0, x_max))
        ax.legend()
    axes[-1].set_xlabel(x_label)
    return figure


def _save(figure: Figure, path: PathLike) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    return path


def _panels(count: int, columns: int, size: tuple[float, float] = (3.4, 2.8), share: bool | str = False):
    """A figure of ``count`` panels of ``size`` inches, and its axes row by row; made without pyplot's global state."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share is True).ravel().tolist()
    for empty in grid[count:]:
        empty.remove()
    return figure, grid[:count]


def _curves(seeds: Sequence[Records], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (from 1) at which every seed has ``name``, and the values there, [seeds, epochs]."""
    by_seed = [
        {record["epoch"]: record[name] for record in records if record.get(name) is not None} for records in seeds
    ]
    epochs = sorted(set.intersection(*map(set, by_seed)))
    return np.array(epochs), np.array([[values[epoch] for epoch in epochs] for values in by_seed], float)


def _epoch_axis(ax: Axes) -> None:
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))


def _percent_axis(ax: Axes) -> None:
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _legend_below(figure: Figure, source: Axes | Mapping[str, Any], columns: int = 4, **style: Any) -> None:
    """One legend for the figure: that of a panel, or handles by label."""
    if isinstance(source, Axes):
        source = dict(zip(*source.get_legend_handles_labels()[::-1], strict=True))
    handles, labels = list(source.values()), list(source)
    width = 0.5 + 0.07 * max(map(len, labels))  # inches of an entry, roughly
    columns = int(np.clip(figure.get_figwidth() / width, 1, columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **style)


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    names = [f"class {c}" for c in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"class_names must name {count} classes, got {len(names)}")
    return names


def _spread(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _matrix(values: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 2 or shape not in (None, array.shape):
        raise ValueError(f"{name} must have two axes{'' if shape is None else f' {shape}'}, got shape {array.shape}")
    return array
