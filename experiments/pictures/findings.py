"""What a method has found, drawn by its kind: a picture a kind, no method is known here.

A picture of the kind K of findings is an entry of `PICTURES`. ``draw_*`` builds a Figure from arrays; `figures` finds
the arrays in what a run has left.
"""

import functools
import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.pictures import plots, style
from experiments.pictures.style import BLUE, GREEN, MAX_PANELS, ORANGE, PURPLE, RED, SKY, STYLE, Records
from experiments.runs import test_part
from robustjax import findings as kinds
from robustjax.data.labelling import Labels

Drawing = Callable[[], Figure]


class Left(NamedTuple):
    """What a run has left of one seed's findings.

    Attributes:
      kinds: of each finding by name, as `findings-seedS.npz` tells them.
      records: of each epoch.
      history: of each epoch, what `diagnostics/` holds: numbers by class, group and cell.
      examples: of the newest epoch, what is known of each example [N].
      labels: that it was trained on; `clean` None where the truth is not known.
      class_names: [C].
      groups_are_classes: whether the groups of PerGroup are the classes.
      test_held_out: whether the test part was held out of the training data.
    """

    kinds: Mapping[str, str]
    records: Records
    history: Sequence[Mapping[str, np.ndarray]]
    examples: Mapping[str, np.ndarray]
    labels: Labels
    class_names: Sequence[str]
    groups_are_classes: bool = True
    test_held_out: bool = False

    def newest(self, name: str) -> np.ndarray | None:
        """The last array of this name that an epoch has left, None if none has."""
        return next((each[name] for each in reversed(self.history) if name in each), None)


def figures(left: Left, kind: str) -> Iterator[tuple[str, Drawing]]:
    """The pictures of the findings of a kind: file names, without their ending, and what draws them.

    Nothing for findings that nothing is known of yet.

    Raises:
      ValueError: a kind that has no picture.
    """
    names = [name for name, own in left.kinds.items() if own == kind]
    if kind not in PICTURES:
        raise ValueError(f"kind={kind!r} of {', '.join(names)} has no picture; accepted are {', '.join(PICTURES)}.")
    return PICTURES[kind](left, names)


# --- Which pictures a kind has ---------------------------------------------------------------------------------------


def _label_distributions(left: Left, names: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    known = left.labels.clean is not None
    quantity, share = "accuracy" if known else "changed", None
    if known:
        share = float(np.mean(left.labels.given == left.labels.clean))
    for name in names:
        if any(record.get(f"{name}_{quantity}") is not None for record in left.records):
            yield f"{name}_{quantity}", functools.partial(draw_label_accuracy, left.records, name, share)


def _by_example(left: Left, names: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    wrong = None if left.labels.clean is None else left.labels.given != left.labels.clean
    for name in names:
        if name in left.examples:
            yield name, functools.partial(draw_by_example, left.examples[name], wrong, style.words(name))


def _logit_gradients(left: Left, names: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    for name in names:
        if any(record.get(f"{name}_coefficient_clean") is not None for record in left.records):
            yield f"{name}_coefficients", functools.partial(plots.draw_gradient_coefficients, left.records, name)


def _per_class(left: Left, names: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    counts = np.bincount(left.labels.given, minlength=len(left.class_names))
    for name in names:
        if (values := left.newest(name)) is not None:
            yield name, functools.partial(draw_per_class, values, counts, style.words(name), left.class_names)


def _per_group(left: Left, names: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    found = {name: values for name in names if (values := left.newest(name)) is not None}
    sizes = sorted({len(values) for values in found.values()})
    for size in sizes:
        own = [name for name, values in found.items() if len(values) == size]
        rows, titles = {style.words(name): found[name] for name in own}, [f"group {g}" for g in range(size)]
        if left.groups_are_classes and size == len(left.class_names):
            titles, accuracy = list(left.class_names), left.records[-1].get("per_class_accuracy")
            if accuracy is not None:
                rows[test_part.title("test error", left.test_held_out)] = 1 - np.array(accuracy, float)
        file = own[0] if len(own) == 1 else "groups" if len(sizes) == 1 else f"groups_of_{size}"
        yield file, functools.partial(draw_per_group, rows, style.words(own[-1]), titles)


def _tables(left: Left, names: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    for name in names:
        if (values := left.newest(name)) is None:
            continue
        noisy_share = left.newest(f"{name}_noisy_share")
        yield name, functools.partial(draw_table, values, noisy_share, style.words(name), left.class_names)
        course = np.stack([each[name][0] for each in left.history if name in each])
        title = f"{style.words(name)}, {style.names_or_numbers(left.class_names, len(values))[0]}"
        yield f"{name}_over_epochs", functools.partial(draw_table_over_epochs, course, title)


PICTURES: dict[str, Callable[[Left, Sequence[str]], Iterator[tuple[str, Drawing]]]] = {
    kinds.LabelDistribution.__name__: _label_distributions,
    kinds.LabelWeight.__name__: _by_example,
    kinds.NoiseScore.__name__: _by_example,
    kinds.LogitGradient.__name__: _logit_gradients,
    kinds.PerClass.__name__: _per_class,
    kinds.PerGroup.__name__: _per_group,
    kinds.Table.__name__: _tables,
}

# What a picture shows, in a sentence; by kind, and by what the file's name has behind that of the finding.
SENTENCES: dict[tuple[str, str], str] = {
    (kinds.LabelDistribution.__name__, "_accuracy"): (
        "After each epoch, the share of labels that are right as the method believes them to be ({name})."
    ),
    (kinds.LabelDistribution.__name__, "_changed"): (
        "After each epoch, the share of labels for which the method believes in another class ({name})."
    ),
    (kinds.LabelWeight.__name__, ""): (
        "How much the method trusts the given labels ({name}): wrong ones should lie at the left."
    ),
    (kinds.NoiseScore.__name__, ""): (
        "How suspicious the given labels are to the method ({name}): wrong ones should lie at the right."
    ),
    (kinds.LogitGradient.__name__, "_coefficients"): (
        "What the method adds to the gradient of the loss at the true class ({name}), beside that of cross entropy, on "
        "right and on wrong labels."
    ),
    (kinds.PerClass.__name__, ""): "The method's number for each class ({name}), above the size of the class.",
    (kinds.PerGroup.__name__, ""): "The method's numbers for each group of examples, the groups in rising order.",
    (kinds.Table.__name__, ""): (
        "The method puts examples into bins, and has a number for each bin and class ({name}): a panel a class."
    ),
    (kinds.Table.__name__, "_over_epochs"): (
        "How these numbers ({name}) went for the first class: a column an epoch, a row a bin."
    ),
}


def explain(file: str, found: Mapping[str, str]) -> str:
    """What the picture of this file name, without its ending, shows; "" for one that `figures` does not make.

    Args:
      file: as `figures` names it.
      found: the kind of each finding by name.
    """
    for (kind, ending), sentence in SENTENCES.items():
        if name := next((name for name, own in found.items() if own == kind and file == name + ending), ""):
            return sentence.format(name=style.words(name))
    several = file == "groups" or file.startswith("groups_of_")
    return SENTENCES[kinds.PerGroup.__name__, ""] if several and kinds.PerGroup.__name__ in found.values() else ""


# --- The pictures ----------------------------------------------------------------------------------------------------


@rc_context(STYLE)
def draw_label_accuracy(records: Records, name: str, given: float | None) -> Figure:
    """Draw the share of labels, as a method believes them to be, that are right by epoch (Dynamic Loss, Fig. 6).

    Args:
      records: of one seed, with ``NAME_accuracy``, or where the truth is not known ``NAME_changed``.
      name: of the finding.
      given: the share of given labels that are right, drawn dashed; None where the truth is not known, and the share
        of labels that the method differs with is drawn.
    """
    figure, (ax,) = style.panels(1, columns=1, size=(4.6, 3.2))
    epochs, values = style.curves([records], f"{name}_changed" if given is None else f"{name}_accuracy")
    ax.plot(epochs, values[0], color=BLUE, label=style.words(name), marker="o" if len(epochs) == 1 else "")
    if given is None:
        ax.set(ylabel="labels that differ from those given", ylim=(0, None))
    else:
        ax.axhline(given, color=RED, linestyle="--", label="as given")
        ax.set_ylabel("labels that are right")
    style.epoch_axis(ax)
    style.percent_axis(ax)
    ax.legend()
    return figure


@rc_context(STYLE)
def draw_by_example(values: np.ndarray, wrong: np.ndarray | None, title: str) -> Figure:
    """Draw the densities of a number for each example over right and over wrong labels.

    Args:
      values: [N]; what is not finite is left out.
      wrong: which labels are wrong, bool [N]; None where the truth is not known.
      title: what the numbers are.
    """
    values = np.asarray(values, float)
    groups = {"labels": (np.ones(len(values), bool), BLUE)}
    if wrong is not None:
        wrong = np.asarray(wrong, bool)
        groups = {"right labels": (~wrong, BLUE), "wrong labels": (wrong, RED)}
        if values.ndim != 1 or wrong.shape != values.shape:
            raise ValueError(f"values and wrong must both be [N], got {values.shape} and {wrong.shape}")
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    edges = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, high + 0.5, 41)
    figure, (ax,) = style.panels(1, columns=1, size=(5.0, 3.0))
    for label, (where, color) in groups.items():
        members = values[where & np.isfinite(values)]
        if len(members):
            share = np.histogram(members, edges)[0] / len(members)
            ax.stairs(share, edges, fill=True, color=color, alpha=0.45, label=f"{label} ({len(members)})")
            ax.stairs(share, edges, color=color, linewidth=1.2)
    ax.set(xlabel=title, ylabel="share of labels", xlim=(edges[0], edges[-1]))
    style.percent_axis(ax)
    if len(finite):
        ax.legend()
    return figure


@rc_context(STYLE)
def draw_per_class(
    values: np.ndarray, class_counts: np.ndarray, title: str, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw a number for each class over the sizes of the classes (Dynamic Loss, Figs. 4, 8 and 11).

    Args:
      values: [C].
      class_counts: training examples of each class, [C].
      title: what the numbers are.
      class_names: default the class's number.
    """
    values, class_counts = np.asarray(values, float), np.asarray(class_counts)
    if values.ndim != 1 or class_counts.shape != values.shape:
        raise ValueError(f"values and class_counts must both be [C], got {values.shape} and {class_counts.shape}")
    figure, axes = style.panels(2, columns=1, size=(min(4 + 0.2 * len(values), 9), 1.9), share="col")
    for ax, row, color, label in (
        (axes[0], values, BLUE, title),
        (axes[1], class_counts, ORANGE, "examples in class"),
    ):
        _bars(ax, row, color, label)
    axes[0].axhline(0, color="black", linewidth=0.8)
    if class_names is not None and len(class_names) != len(values):
        raise ValueError(f"class_names must name {len(values)} classes, got {len(class_names)}")
    _class_ticks(axes[1], class_names)
    axes[1].set_xlabel("class")
    figure.align_ylabels()
    return figure


@rc_context(STYLE)
def draw_per_group(rows: Mapping[str, np.ndarray], by: str, names: Sequence[str]) -> Figure:
    """Draw numbers for each group, a row a quantity, by one of them rising (HAR, Fig. 4).

    Args:
      rows: by title, [G].
      by: the title of the row that the groups are sorted by.
      names: of the groups, [G].
    """
    arrays = {title: np.asarray(values, float) for title, values in rows.items()}
    if any(values.shape != (len(names),) for values in arrays.values()):
        shapes = ", ".join(f"{title} {values.shape}" for title, values in arrays.items())
        raise ValueError(f"rows must all be [G] with G = {len(names)} names, got {shapes}")
    order = np.argsort(arrays[by], kind="stable")
    figure, axes = style.panels(len(arrays), columns=1, size=(min(4 + 0.2 * len(order), 9), 1.5), share="col")
    others = itertools.cycle((ORANGE, SKY, RED, GREEN, PURPLE))
    for ax, (title, values) in zip(axes, arrays.items(), strict=True):
        _bars(ax, values[order], BLUE if title == by else next(others), title)
    _class_ticks(axes[-1], [names[g] for g in order] if len(order) <= MAX_PANELS else [])
    axes[-1].set_xlabel(f"by rising {by}")
    figure.align_ylabels()
    return figure


@rc_context(STYLE)
def draw_table(
    values: np.ndarray, noisy_share: np.ndarray | None, title: str, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw numbers by class and bin, a panel a class, before the share of wrong labels in each bin.

    As in Dynamic Loss, Figs. 3, 10 and 12. Of more than 20 classes, 20 evenly spaced ones are shown.

    Args:
      values: [C, R].
      noisy_share: share of truly wrong labels in each bin, [C, R], nan where a bin is empty; None if unknown.
      title: what the numbers are.
      class_names: default class 0, class 1, …
    """
    values = style.matrix(values, "values")
    if noisy_share is not None:
        noisy_share = style.matrix(noisy_share, "noisy_share", values.shape)
        noisy_share = noisy_share if np.nansum(noisy_share) else None  # where no label is wrong
    names = style.names_or_numbers(class_names, len(values))
    shown = style.spread(len(values), MAX_PANELS)
    size = (2.2, 1.9) if len(shown) > 1 else (4.0, 3.0)
    figure, axes = style.panels(len(shown), columns=5, size=size, share=True)
    bins = np.arange(1, values.shape[1] + 1)
    shares = _are_shares(values)
    legend: dict[str, Any] = {}
    for ax, c in zip(axes, shown, strict=True):
        ax.plot(bins, values[c], color=BLUE, label=title, marker="o" if len(bins) == 1 else "", zorder=3)
        legend.update(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        if noisy_share is not None and np.isfinite(noisy_share[c]).any():
            over = ax if shares else _share_axis(ax, labelled=ax in (axes[-1], *axes[4::5]))
            over.bar(bins, noisy_share[c], width=1.0, color=ORANGE, alpha=0.6, label="wrong labels in the bin")
            legend.update(zip(*over.get_legend_handles_labels()[::-1], strict=True))
        ax.set(title=names[c], xlim=(0.5, len(bins) + 0.5))
        if shares:
            ax.set_ylim(-0.03, 1.03)
        prune = "lower" if len(bins) > 1 else None
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10], prune=prune))
        if len(bins) <= 4:
            ax.set_xticks(bins)
    for ax in axes[-5:]:  # the lowest of each column
        ax.set_xlabel("bin")
        ax.tick_params(labelbottom=True)
    for ax in axes[::5]:
        ax.set_ylabel(f"{title}, share" if shares and noisy_share is not None else title)
    if len(legend) > 1:  # else the axis says it
        style.legend_below(figure, legend)
    return figure


@rc_context(STYLE)
def draw_table_over_epochs(values: np.ndarray, title: str) -> Figure:
    """Draw the numbers of one class by epoch and bin as a heat map (Dynamic Loss, Fig. 7).

    Args:
      values: [E, R]: after each epoch, by bin.
      title: what the numbers are.
    """
    values = style.matrix(values, "values")
    figure, (ax,) = style.panels(1, columns=1, size=(5.2, 3.2))
    epochs, bins = values.shape
    extent = (0.5, epochs + 0.5, 0.5, bins + 0.5)
    limits: dict[str, Any] = {"vmin": 0, "vmax": 1} if _are_shares(values) else {}
    image = ax.imshow(
        values.T, origin="lower", aspect="auto", extent=extent, cmap="cividis", interpolation="none", **limits
    )
    ax.grid(False)
    ax.set_ylabel("bin")
    ax.yaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    style.epoch_axis(ax)
    figure.colorbar(image, label=title)
    return figure


def _bars(ax: Axes, values: np.ndarray, color: str, title: str) -> None:
    """Bars side by side; whole numbers on the axis where there are only such."""
    ax.bar(np.arange(len(values)), values, color=color, width=0.8)
    ax.set(ylabel=textwrap.fill(title, 22), xlim=(-0.6, len(values) - 0.4))
    ax.grid(axis="x", visible=False)
    finite = values[np.isfinite(values)]
    if len(finite) and (finite == np.round(finite)).all():
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _class_ticks(ax: Axes, names: Sequence[str] | None) -> None:
    """The names under the bars; None or more than 20: some of the numbers; []: nothing."""
    low, high = ax.get_xlim()
    count = round(high - low)
    if names is not None and 0 < len(names) <= MAX_PANELS:
        short = max(map(len, names)) <= 3
        look: dict[str, Any] = {} if short else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(np.arange(count), names, **look)
    elif names is not None and not names:
        ax.set_xticks([])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))


def _share_axis(ax: Axes, labelled: bool) -> Axes:
    """An axis of shares at the right and behind, for panels whose own axis has another scale."""
    over = ax.twinx()
    over.set(ylim=(-0.03, 1.03), zorder=ax.get_zorder() - 1)
    over.grid(False)
    over.spines[:].set_visible(False)
    over.tick_params(labelright=labelled)
    style.percent_axis(over)
    ax.patch.set_visible(False)
    return over


def _are_shares(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return bool(((finite >= 0) & (finite <= 1)).all())
