"""Curves and points. ``draw_*`` builds a Figure from arrays; the function of the same name saves it as a PNG.

Records are those of ``metrics.jsonl``: dictionaries with ``epoch``, 1 for the first.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from experiments.pictures import style
from experiments.pictures.style import BLUE, GREEN, PURPLE, RED, SKY, PathLike, Records
from experiments.runs import test_part

# What a network predicts for training examples (ELR, Fig. 1): by kind, the recorded shares with label, colour and line.
MEMORIZATION = {
    "rightly labelled": {"clean_true": ("correct", GREEN, "-"), "clean_other": ("another class", BLUE, "-.")},
    "wrongly labelled": {
        "wrong_true": ("correct", GREEN, "-"),
        "wrong_memorized": ("memorized (given label)", RED, "--"),
        "wrong_other": ("another class", BLUE, "-."),
    },
}


def learning_curves(runs: Mapping[str, Sequence[Records]], path: PathLike, test_held_out: bool = False) -> Path:
    """Save train loss, train and test accuracy by epoch, see ``draw_learning_curves``."""
    return style.save(draw_learning_curves(runs, test_held_out), path)


def draw_learning_curves(runs: Mapping[str, Sequence[Records]], test_held_out: bool = False) -> Figure:
    """Draw a line a run: the mean over its seeds, in a band of one sample standard deviation to either side.

    Args:
      runs: by label, the records of each seed, with ``train_loss``, ``train_accuracy`` and ``test_accuracy``; a
        quantity that no record holds gets no panel, and an epoch without it no point.
      test_held_out: whether the test part was held out of the training data, which its axis then says.
    """
    tested = test_part.title("test accuracy", test_held_out)
    trained = "train accuracy, by the given labels"
    return draw_by_epoch(runs, {"train_loss": "train loss", "train_accuracy": trained, "test_accuracy": tested})


def by_epoch(runs: Mapping[str, Sequence[Records]], titles: Mapping[str, str], path: PathLike) -> Path:
    """Save any recorded quantities by epoch, see ``draw_by_epoch``."""
    return style.save(draw_by_epoch(runs, titles), path)


@rc_context(style.STYLE)
def draw_by_epoch(runs: Mapping[str, Sequence[Records]], titles: Mapping[str, str]) -> Figure:
    """Draw recorded quantities, a panel each, with the lines and bands of ``draw_learning_curves``.

    Args:
      runs: by label, the records of each seed.
      titles: name in the records -> what it is called in the picture. Accuracies and shares get an axis in percent.

    Raises:
      ValueError: no record holds any of them.
    """
    everything = [record for seeds in runs.values() for records in seeds for record in records]
    panels = {name: title for name, title in titles.items() if any(r.get(name) is not None for r in everything)}
    if not panels:
        raise ValueError(f"runs hold no {', '.join(titles)}")
    figure, axes = style.panels(len(panels), columns=3, size=(3.4, 2.8) if len(panels) > 1 else (4.6, 3.4))
    for ax, (quantity, title) in zip(axes, panels.items(), strict=True):
        for number, (label, seeds) in enumerate(runs.items()):
            epochs, values = style.curves(seeds, quantity)
            color, line = style.CYCLE[number % len(style.CYCLE)], style.LINES[number % len(style.LINES)]
            mean = values.mean(0)
            name = f"{label} ({len(seeds)} seeds)" if len(seeds) > 1 else label
            ax.plot(epochs, mean, line, color=color, label=name, marker="o" if len(epochs) == 1 else "")
            if len(seeds) > 1:
                std = values.std(0, ddof=1)
                ax.fill_between(epochs, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
        ax.set_ylabel(textwrap.fill(title, 26))
        style.epoch_axis(ax)
        if quantity.endswith(("accuracy", "disagreement")):
            style.percent_axis(ax)
    style.spread_out(figure)
    if len(runs) > 1 or any(len(seeds) > 1 for seeds in runs.values()):
        style.legend_below(figure, axes[0])
    return figure


def memorization(records: Records, path: PathLike) -> Path:
    """Save what is predicted for rightly and wrongly labelled examples by epoch, see ``draw_memorization``."""
    return style.save(draw_memorization(records), path)


@rc_context(style.STYLE)
def draw_memorization(records: Records) -> Figure:
    """Draw what is predicted for rightly (left) and wrongly labelled training examples (right) by epoch (ELR, Fig. 1).

    Args:
      records: with the shares of ``evaluation.memorization``: ``clean_true``, ``clean_other``, ``wrong_true``,
        ``wrong_memorized`` and ``wrong_other``; where no label is wrong there is no right panel.
    """
    there = {
        title: family for title, family in MEMORIZATION.items()
        if any(record.get(name) is not None for record in records for name in family)
    }  # fmt: skip
    figure, axes = style.panels(len(there), columns=2, size=(3.6, 3.0), share=True)
    for ax, (title, family) in zip(axes, there.items(), strict=True):
        for name, (label, color, line) in family.items():
            epochs, values = style.curves([records], name)
            ax.plot(epochs, values[0], line, color=color, label=label)
        ax.set(title=f"{title} examples", ylim=(-0.02, 1.02))
        style.epoch_axis(ax)
        style.percent_axis(ax)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    axes[0].set_ylabel("share of predictions")
    return figure


def gradient_coefficients(records: Records, name: str | None, path: PathLike) -> Path:
    """Save the loss gradient at the true class by epoch, see ``draw_gradient_coefficients``."""
    return style.save(draw_gradient_coefficients(records, name), path)


@rc_context(style.STYLE)
def draw_gradient_coefficients(records: Records, name: str | None = None) -> Figure:
    """Draw the loss gradient at the true class's logit, mean and one standard deviation over examples (ELR, Fig. 2).

    Left, the whole coefficient on right and on wrong labels; then, on right and on wrong labels, what cross entropy and
    what a method adds to it. For a method that adds nothing only the first panel, of cross entropy (Fig. B.1).

    Args:
      records: of one seed, with the entries of ``evaluation.gradient_coefficients``.
      name: of what is added; None for nothing.

    Raises:
      ValueError: no record holds them.
    """
    whole = "ce" if name is None else "total"
    records = [record for record in records if record.get(f"{whole}_coefficient_clean") is not None]
    if not records:
        raise ValueError(f"records hold no {whole}_coefficient_clean")
    kinds = {"clean": ("right labels", BLUE), "wrong": ("wrong labels", RED)}
    kinds = {kind: look for kind, look in kinds.items() if any(
        record.get(f"{whole}_coefficient_{kind}") is not None for record in records
    )}  # fmt: skip
    everything = "p − y" if name is None else f"p − y + {style.words(name)}"
    panels = [(everything, [(whole, kind, label, color) for kind, (label, color) in kinds.items()])]
    if name is not None:
        terms = (("ce", "p − y", PURPLE), (name, style.words(name), GREEN))
        panels += [(label, [(part, kind, title, color) for part, title, color in terms])
                   for kind, (label, _) in kinds.items()]  # fmt: skip
    figure, axes = style.panels(len(panels), columns=3, share=True)
    for ax, (title, curves) in zip(axes, panels, strict=True):
        ax.axhline(0, color="black", linewidth=0.6)
        for part, kind, label, color in curves:
            epochs, values = style.curves([records], f"{part}_coefficient_{kind}")
            spread = style.curves([records], f"{part}_coefficient_{kind}_std")[1][0]
            ax.plot(epochs, values[0], color=color, label=label, marker="o" if len(epochs) == 1 else "")
            ax.fill_between(epochs, values[0] - spread, values[0] + spread, color=color, alpha=0.2, linewidth=0)
        ax.set_title(title)
        ax.legend()
        style.epoch_axis(ax)
    axes[0].set_ylabel("coefficient of the true class")
    return figure


ByPanel = np.ndarray | Mapping[str, np.ndarray]
"""The same for all panels, or by their titles."""


def embeddings(
    points: Mapping[str, np.ndarray], labels: ByPanel, class_names: Sequence[str] | None, path: PathLike,
    crossed: Mapping[str, np.ndarray] | None = None,
) -> Path:  # fmt: skip
    """Save points in the plane coloured by class, a panel a run, see ``draw_embeddings``."""
    return style.save(draw_embeddings(points, labels, class_names, crossed), path)


@rc_context(style.STYLE | {"axes.grid": False})
def draw_embeddings(
    points: Mapping[str, np.ndarray], labels: ByPanel, class_names: Sequence[str] | None = None,
    crossed: Mapping[str, np.ndarray] | None = None,
) -> Figure:  # fmt: skip
    """Draw examples embedded in the plane, a panel a run, coloured by class (SR, Figs. 1, 5; Dynamic Loss, 4, 5, 9).

    Axes have no ticks: in a t-SNE neither position nor scale means anything. With more than 20 classes neighbouring
    classes have similar colours and there is no legend.

    Args:
      points: by title (long ones are wrapped), [N, 2].
      labels: classes of the examples, integers [N]; one array where all panels have the same examples.
      class_names: default class 0, class 1, …
      crossed: by title, the examples that get a cross, bool [N].
    """
    by_title = labels if isinstance(labels, Mapping) else dict.fromkeys(points, np.asarray(labels))
    most = max(int(np.max(each)) for each in by_title.values()) + 1
    names = style.names_or_numbers(class_names, most if class_names is None else len(class_names))
    colors = style.class_colors(len(names))
    figure, axes = style.panels(len(points), columns=3, size=(3.2, 3.2))
    size = 5 if max(map(len, points.values())) > 300 else 16
    for ax, (title, found) in zip(axes, points.items(), strict=True):
        classes = np.asarray(by_title[title])
        found = style.matrix(found, "points", (len(classes), 2))
        for c, name in enumerate(names):
            members = found[classes == c]
            ax.scatter(members[:, 0], members[:, 1], s=size, color=colors[c], linewidths=0, alpha=0.8, label=name)
        if crossed is not None and crossed[title].any():
            struck = found[crossed[title]]
            ax.scatter(struck[:, 0], struck[:, 1], s=3 * size, marker="x", color="black", linewidths=0.8)
        wrapped = "\n".join(textwrap.fill(part, 42) for part in title.splitlines())
        ax.set(title=wrapped, xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    if len(names) <= 20:
        style.legend_below(figure, axes[0], columns=10, markerscale=(40 / size) ** 0.5)
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
    """One panel of `draw_lines`: lines by label (not in the legend where it starts with "_"), title, and axes.

    `whole_x` puts ticks at whole numbers only.
    """

    lines: Mapping[str, Line]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    x_scale: str = "linear"
    y_scale: str = "linear"
    y_limits: tuple[float, float] | None = None
    percent: bool = False
    whole_x: bool = False


def lines(panels: Sequence[Panel], columns: int, path: PathLike) -> Path:
    """Save panels of lines, see ``draw_lines``."""
    return style.save(draw_lines(panels, columns), path)


@rc_context(style.STYLE)
def draw_lines(panels: Sequence[Panel], columns: int = 2) -> Figure:
    """Draw any curves, a panel each, row by row, over one legend: a label looks the same wherever it occurs.

    Args:
      panels: what to draw; those in a column whose x axes have the same label show it once, under the lowest.
      columns: panels side by side.
    """
    figure, axes = style.panels(len(panels), columns=columns, size=(3.8, 2.7))
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
            style.percent_axis(ax)
        for axis, scale in ((ax.xaxis, panel.x_scale), (ax.yaxis, panel.y_scale)):
            low, high = axis.get_view_interval()
            if scale == "log" and high < 100 * low:  # too short for powers of ten alone
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        if panel.whole_x:
            ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
        below = panels[number + columns] if number + columns < len(panels) else None
        if below is None or below.x_label != panel.x_label:
            ax.set_xlabel(panel.x_label)
    shown: dict[str, Any] = {}
    for ax in axes:
        shown.update(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    style.legend_below(figure, shown, columns=4)
    return figure


def histograms(
    groups: Mapping[str, Mapping[str, np.ndarray]], x_label: str, path: PathLike, x_max: float | None = None
) -> Path:
    """Save stacked histograms, see ``draw_histograms``."""
    return style.save(draw_histograms(groups, x_label, x_max), path)


@rc_context(style.STYLE)
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
    figure, axes = style.panels(len(groups), columns=1, size=(5.0, 2.0), share=True)
    colors = iter(style.CYCLE)
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


@rc_context(style.STYLE | {"axes.grid": False})
def draw_confusion(counts: np.ndarray, class_names: Sequence[str], rows: str, columns: str) -> Figure:
    """Draw how many examples have each pair of labels, coloured by their share of the row.

    The scale is that of square roots, so that what is rare is seen. Up to 20 classes are named, and up to 12 have their
    numbers written.

    Args:
      counts: [C, C].
      class_names: [C].
      rows: what the rows are.
      columns: what the columns are.
    """
    counts = style.matrix(counts, "counts", (len(class_names), len(class_names)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = float(np.clip(1.6 + 0.42 * len(counts), 3.2, 6.4))
    figure, (ax,) = style.panels(1, columns=1, size=(size + 0.8, size))
    image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="none")
    if len(counts) <= 12:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                dark = shares[i, j] > 0.3
                ax.text(j, i, f"{count:.0f}", ha="center", va="center", size=7, color="#ffffff" if dark else "#111111")
    if len(counts) <= style.MAX_PANELS:
        names = style.names_or_numbers(class_names, len(counts))
        ax.set_yticks(range(len(counts)), names)
        ax.set_xticks(range(len(counts)), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set(xlabel=columns, ylabel=rows)
    bar = figure.colorbar(image, label="share of the row", ticks=(0, 0.01, 0.1, 0.25, 0.5, 1))
    style.percent_axis(bar.ax)
    return figure


@rc_context(style.STYLE)
def draw_reliability(seeds: Sequence[np.ndarray]) -> Figure:
    """Draw how often predictions are right over how sure they are, and how many are that sure.

    Args:
      seeds: of each seed, the table [B, 3] of ``evaluation.reliability``.
    """
    tables = np.stack([style.matrix(table, "reliability") for table in seeds])
    share = tables[:, :, 0].mean(0)
    with np.errstate(invalid="ignore"):
        sure, right = np.moveaxis((tables[:, :, 1:] * tables[:, :, :1]).mean(0) / share[:, None], -1, 0)
    there = share > 0
    figure, (ax, below) = style.panels(2, columns=1, size=(4.2, 2.2), share="col")
    ax.plot([0, 1], [0, 1], "--", color="#888888", label="as sure as right")
    ax.plot(sure[there], right[there], "-o", color=BLUE, markersize=4, label="predictions")
    ax.set(ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    ax.legend()
    edges = np.linspace(0, 1, len(share) + 1)
    below.stairs(share, edges, fill=True, color=BLUE, alpha=0.6)
    below.set(ylabel="share of examples", xlabel="confidence")
    for each in (ax, below):
        style.percent_axis(each)
    return figure


@rc_context(style.STYLE)
def draw_class_counts(before: np.ndarray, after: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw the sizes of the classes as given and as proposed; from 21 classes on sorted by size, without their names.

    Args:
      before: [C].
      after: [C].
      class_names: [C].
    """
    many = len(class_names) > style.MAX_PANELS
    order = np.argsort(-np.asarray(before), kind="stable") if many else np.arange(len(class_names))
    figure, (ax,) = style.panels(1, columns=1, size=(min(4 + 0.25 * len(order), 9), 2.8))
    place = np.arange(len(order))
    for offset, values, color, label in ((-0.2, before, SKY, "as given"), (0.2, after, BLUE, "as proposed")):
        ax.bar(place + offset, np.asarray(values)[order], width=0.4, color=color, label=label)
    ax.set_ylabel("examples")
    ax.grid(axis="x", visible=False)
    if many:
        ax.set_xlabel("classes, the largest first")
    else:
        names = style.names_or_numbers(class_names, len(order))
        ax.set_xticks(place, names, rotation=40, ha="right", rotation_mode="anchor")
    style.legend_below(figure, ax)
    return figure
