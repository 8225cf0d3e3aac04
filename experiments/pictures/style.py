"""What all pictures share: colours and style, panels, axes, and saving.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; line styles repeat what colour says.
"""

import io
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

PathLike = str | os.PathLike[str]
Records = Sequence[Mapping[str, Any]]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
LINES = ("-", "--", "-.", ":")
SHADES = ("#08306b", "#3182bd", "#6baed6", "#9ecae1")  # late to early
STYLE: dict[Any, Any] = {
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
    "figure.titlesize": 10,
    "figure.dpi": 130,
}
_WHITE, _BLACK, _GRID = "#0d1117", "#e6edf3", "#30363d"  # of a dark page: GitHub's
_DARK = {"#000000": _BLACK, BLUE.lower(): "#4aa8e8", SHADES[0]: "#1f5aa6"}  # lines that could not be seen there
MAX_PANELS = 20


def save(figure: Figure, path: PathLike) -> Path:
    """Write a figure as a PNG, and as NAME-dark.png for a dark page beside it, which leaves the figure dark.

    Returns:
      The path; its folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    darken(figure)
    FigureCanvasAgg(figure).print_png(path.with_stem(f"{path.stem}-dark"))
    return path


def entitle(figure: Figure, title: str) -> None:
    """Put a title above all panels, in as many lines as the figure's width needs."""
    figure.suptitle(textwrap.fill(title, int(14 * figure.get_figwidth())), fontsize=STYLE["figure.titlesize"])


def darken(figure: Figure) -> None:
    """Turn a figure that was saved for a white page into one for a dark page: paper, ink and grid, and dark colours."""
    figure.set_layout_engine("none")  # everything stays where it is, and need not be laid out again
    figure.set_facecolor(_WHITE)
    on_colors = {text for ax in figure.axes if ax.images for text in ax.texts}  # numbers on the cells of a matrix
    for text in set(figure.findobj(Text)) - on_colors:
        text.set_color(_BLACK)
    for ax in figure.axes:
        ax.set_facecolor(_WHITE)
        ax.tick_params(colors=_BLACK, grid_color=_GRID)
        ax.spines[:].set_color(_BLACK)
        for band in ax.findobj(PolyCollection):
            band.set_alpha(0.35)
    for line in figure.findobj(Line2D):
        if (light := to_hex(line.get_color())) in _DARK:
            line.set_color(_DARK[light])


def svg(figure: Figure, name: str) -> str:
    """A figure as an <svg> element for a page: text stays text, and black and the grid take the page's colours.

    Args:
      figure: to draw.
      name: letters and hyphens; the element's ids begin with it, so that several figures go on one page.
    """
    text = io.StringIO()
    figure.patch.set_alpha(0)
    for ax in figure.axes:
        ax.patch.set_alpha(0)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    element = text.getvalue()
    element = element[element.index("<svg") :].rstrip()
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", element)
    return element.replace("#000000", "currentColor").replace(STYLE["grid.color"], "var(--grid, #dddddd)")


def panels(
    count: int, columns: int, size: tuple[float, float] = (3.4, 2.8), share: Literal["col"] | bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels of ``size`` inches, and its axes row by row; made without pyplot's global state."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share is True).ravel().tolist()
    for empty in grid[count:]:
        empty.remove()
    return figure, grid[:count]


def spread_out(figure: Figure) -> None:
    """Leave room between panels side by side, whose labels would nearly touch in the font of a page."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)  # `panels` has set it
    engine.set(wspace=0.08)


def curves(seeds: Sequence[Records], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (from 1) at which every seed has ``name``, and the values there, [seeds, epochs]."""
    by_seed = [
        {record["epoch"]: record[name] for record in records if record.get(name) is not None} for records in seeds
    ]
    epochs = sorted(set.intersection(*map(set, by_seed)))
    return np.array(epochs), np.array([[values[epoch] for epoch in epochs] for values in by_seed], float)


def epoch_axis(ax: Axes) -> None:
    """Make the x axis one of whole epochs."""
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))


def percent_axis(ax: Axes) -> None:
    """Write a y axis of shares in percent."""
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g} %")


def legend_below(figure: Figure, source: Axes | Mapping[str, Any], columns: int = 4, **look: Any) -> None:
    """One legend for the figure: that of a panel, or handles by label."""
    if isinstance(source, Axes):
        source = dict(zip(*source.get_legend_handles_labels()[::-1], strict=True))
    handles, labels = list(source.values()), list(source)
    width = 0.5 + 0.07 * max(map(len, labels))  # inches of an entry, roughly
    columns = int(np.clip(figure.get_figwidth() / width, 1, columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **look)


def class_colors(count: int) -> np.ndarray:
    """A colour a class, [count, 4]; beyond 20, neighbours have similar ones."""
    if count <= 20:
        return colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))
    return colormaps["turbo"](np.linspace(0, 1, count))


def names_or_numbers(names: Sequence[str] | None, count: int) -> list[str]:
    """The names as text, see `plain`, by default class 0, class 1, …; so are names that are numbers.

    Raises:
      ValueError: there are not `count` of them.
    """
    names = [f"class {c}" for c in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"class_names must name {count} classes, got {len(names)}")
    return [f"class {name}" if name.isdigit() else plain(name) for name in names]


def plain(name: str) -> str:
    """A name as matplotlib is to write it: one line of at most 24 signs, in which dollars are no mathematics."""
    line = "".join(sign if sign.isprintable() else " " for sign in name)
    line = line if len(line) <= 24 else line[:23] + "…"
    return re.sub(r"(?<!\\)\$", r"\\$", line)


def words(name: str) -> str:
    """What a finding's name says: "label_weight" -> "label weight"."""
    return name.replace("_", " ")


def spread(count: int, most: int) -> list[int]:
    """At most `most` of 0 … count − 1, evenly spaced, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def matrix(values: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The values as a float array with two axes.

    Raises:
      ValueError: they have another number of axes, or another shape than `shape`.
    """
    array = np.asarray(values, float)
    if array.ndim != 2 or shape not in (None, array.shape):
        raise ValueError(f"{name} must have two axes{'' if shape is None else f' {shape}'}, got shape {array.shape}")
    return array
