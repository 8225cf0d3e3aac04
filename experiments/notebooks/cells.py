"""What the cells of the notebooks share: which device there is, whether to be small, figures that follow a run."""

import base64
import io
import os
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from experiments import run
from experiments.pictures import of_runs, style
from experiments.runs import directory
from experiments.settings import config

SMALL = "ROBUSTJAX_SMALL"  # environment variable: 1 makes every notebook small, 0 none
_KINDS = {"cpu": "CPU", "gpu": "GPU", "cuda": "GPU", "rocm": "GPU", "tpu": "TPU"}
_COLORS = 128
_DPI = 80  # of a figure in a notebook; plots/ of a run directory has the sharp ones


def device() -> str:
    """What JAX will compute on: kind, number and name, in a line."""
    found = jax.devices()
    kind = _KINDS.get(found[0].platform, found[0].platform)
    return f"{kind}: {len(found)} device{'s' if len(found) > 1 else ''} ({found[0].device_kind}), jax {jax.__version__}"


def is_small() -> bool:
    """Whether a notebook is to be small: as the environment variable ROBUSTJAX_SMALL says, 1 or 0, else on a CPU.

    Raises:
      ValueError: the variable says something else.
    """
    said = os.environ.get(SMALL, "")
    if said not in ("", "0", "1"):
        raise ValueError(f"{SMALL}={said!r}: 1 (small) or 0 (full size) is accepted.")
    return said == "1" if said else jax.default_backend() == "cpu"


def train(out: str | os.PathLike[str], *, live: bool = True, **settings: Any) -> dict[str, Any]:
    """`python -m experiments.run --NAME=VALUE … --out=OUT` in a cell, with a figure that follows it; its summary.

    A finished run is found again, an interrupted one goes on where it was.

    Args:
      out: the run directory.
      live: show the figure. With `quiet=True` nothing else is shown.
      **settings: as the command line has them, with underscores.

    Raises:
      ValueError: for settings that are not accepted, in a sentence, before anything is trained.
    """
    path = pathlib.Path(out)
    resolved, sources = config.resolve(settings | {"out": str(path)})
    if directory.holds_run(path) and directory.read_summary(path) is None:
        resolved, sources = config.resolve(settings | {"out": str(path), "resume": True})
    flags = [
        f"--{name.replace('_', '-')}" + (f"={value}" if value is not True else "") for name, value in settings.items()
    ]
    told = shlex.join(["python", "-m", "experiments.run", *flags, f"--out={path}"])
    summary = run.execute(resolved, sources, told, on_epoch=follow(path) if live else None)
    if not resolved.quiet:
        run.show(summary, path)
    return summary


def command(main: Callable[[Sequence[str]], int], *arguments: str) -> None:
    """A command of `experiments` in a cell, by its `main`.

    Raises:
      RuntimeError: it has refused, or failed; it has told why.
    """
    if status := main(arguments):
        raise RuntimeError(f"it ended with status {status}; the sentence is above.")


def picture(drawn: Figure | str | os.PathLike[str], width: int | None = None) -> None:
    """Show a figure, or a PNG file of a run directory, in the cell's output.

    Args:
      drawn: the figure, or the file.
      width: in pixels, to which a file is reduced.
    """
    from IPython.display import display

    png = _png(drawn) if isinstance(drawn, Figure) else _reduced(Image.open(drawn), width)
    display({"image/png": base64.b64encode(png).decode(), "text/plain": "a figure"}, raw=True)


def follow(path: str | os.PathLike[str]) -> run.OnEpoch:
    """A figure that grows with a run, to be given as `on_epoch`: one display, drawn anew after each epoch.

    It shows test accuracy (a line for each seed) and, of a method that learns them, the mean weight of right and of
    wrong labels, and the first seed's table of label weights (class by rank of the loss), as it is now.

    Args:
      path: the run directory, where an interrupted run's earlier epochs are read.
    """
    path = pathlib.Path(path)
    shown: list[Any] = []  # the display, once there is one

    def on_epoch(newest: Sequence[Mapping[str, Any]]) -> None:
        from IPython.display import display

        png = base64.b64encode(_png(draw_progress(path, [record["seed"] for record in newest]))).decode()
        if shown:
            shown[0].update({"image/png": png}, raw=True)
        else:
            shown.append(display({"image/png": png}, raw=True, display_id=True))

    return on_epoch


@rc_context(style.STYLE)
def draw_progress(path: pathlib.Path, seeds: Sequence[int]) -> Figure:
    """What `follow` shows of the run in `path` with these seeds."""
    from experiments.runs import records

    lines = records.read_records(path / "metrics.jsonl")
    by_seed = [[line for line in lines if line["seed"] == seed] for seed in seeds]
    weights = len(style.curves(by_seed, "label_weight_right")[0]) > 0
    tables = [each for each in of_runs.read_diagnostics(path, seeds[0])[-1:] if "weight_table" in each]
    count = 1 + weights + len(tables)
    # Drawn after each epoch, of which a constrained layout, as pictures of runs have it, would take most of the time.
    figure = Figure(figsize=(3.3 * count, 2.6))
    axes = figure.subplots(1, count, squeeze=False)[0]
    figure.subplots_adjust(left=0.18 / count, right=1 - 0.05 / count, bottom=0.2, top=0.88, wspace=0.3)
    epochs, accuracy = style.curves(by_seed, "test_accuracy")
    for seed, values, color in zip(seeds, accuracy, style.class_colors(max(len(seeds), 3)), strict=False):
        axes[0].plot(epochs, values, color=color, label=f"seed {seed}", marker="o" if len(epochs) == 1 else "")
    axes[0].set(title="test accuracy", ylim=(0, 1))
    axes[0].legend(loc="lower right")
    if weights:
        for name, color in (("right", style.BLUE), ("wrong", style.RED)):
            epochs, values = style.curves(by_seed, f"label_weight_{name}")
            mark = "o" if len(epochs) == 1 else ""
            axes[1].plot(epochs, values.mean(0), color=color, label=f"{name} labels", marker=mark)
        axes[1].set(title="mean label weight", ylim=(0, 1.02))
        axes[1].legend(loc="lower left")
    for ax in axes[: 1 + weights]:
        style.epoch_axis(ax)
        style.percent_axis(ax)
    for table in tables:
        ax = axes[-1]
        ax.grid(False)
        seen = np.asarray(table["weight_table"], float)
        mesh = ax.imshow(seen, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        ax.set(title=f"label weights, seed {seeds[0]}", xlabel="rank of the loss in its class", ylabel="class")
        figure.colorbar(mesh, ax=ax)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    canvas.print_png(buffer)
    return _reduced(Image.open(buffer))


def _reduced(image: Image.Image, width: int | None = None) -> bytes:
    """A PNG of few colours, no wider than `width`: notebooks are to stay small."""
    image = image.convert("RGB")
    if width is not None and width < image.width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(_COLORS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
