"""What a run writes and shows: records on disk, progress on the screen, the table at its end, its environment."""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import jax
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from robustjax.training.evaluation import mean_std

PathLike = str | os.PathLike[str]
Mode = Literal["auto", "live", "plain", "quiet"]

_PLAIN_LINES = 30
_CLASSES_SHOWN = 20
_SEEDS_SHOWN = 3
_ABSENT = "–"


# Records: one JSON object a line, each complete on disk before the next.


def append_record(path: PathLike, record: Mapping[str, Any]) -> None:
    """Append one line to a JSON Lines file and force it to disk.

    Arrays become lists, and nan and infinities null, so that any JSON reader accepts the file. A line that an earlier
    process was killed in the middle of is cut off first.
    """
    line = _to_json(record).encode() + b"\n"
    with open(path, "a+b") as file:
        file.seek(0)
        # A last line without its end was never complete: keep what precedes it.
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_records(path: PathLike) -> list[dict[str, Any]]:
    """Read a JSON Lines file; a last line without a line end (the writer was killed) is left out.

    Raises:
      ValueError: a complete line is not JSON (named by its number).
    """
    return [record for _, record in _numbered_records(path)]


def truncate_records(path: PathLike, last_epoch: int) -> None:
    """Drop the records with ``epoch`` beyond ``last_epoch``, and an incomplete last line, in one atomic step.

    What stays is kept byte for byte, so a resumed run's file ends up as that of a run never interrupted. Does nothing
    if there is no such file.
    """
    if not Path(path).exists():
        return
    kept = [line for line, record in _numbered_records(path) if record.get("epoch", -math.inf) <= last_epoch]
    _replace(path, b"".join(kept))


def write_json_atomic(path: PathLike, obj: Any) -> None:
    """Write ``obj`` as indented JSON (nan as null); a reader sees the old file or the whole new one."""
    _replace(path, _to_json(obj, indent=2).encode() + b"\n")


def _numbered_records(path: PathLike) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        try:
            yield line, json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a JSON record") from error


def _replace(path: PathLike, content: bytes) -> None:
    temporary = Path(f"{os.fspath(path)}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _to_json(obj: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(obj), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(obj: Any) -> Any:
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(obj).tolist())
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    return os.fspath(obj) if isinstance(obj, os.PathLike) else obj


# Progress.


class Progress:
    """How far a run is; a class because it remembers. ``progress`` makes one and shows it.

    The run is measured in epochs, in part done by steps, whose number may differ from epoch to epoch: the last epoch's
    is taken for the present one's. Time spent in named phases (compiling) does not count towards the time left.
    """

    def __init__(
        self, epochs: int, steps_per_epoch: int, start_epoch: int = 0, now: Callable[[], float] = time.monotonic
    ):
        if epochs < 1 or steps_per_epoch < 1:
            raise ValueError(f"epochs and steps_per_epoch must be at least 1, got {epochs} and {steps_per_epoch}")
        self.epochs, self.finished, self.fields, self.name = epochs, start_epoch, {}, ""
        self.on_phase: Callable[[str], None] = lambda name: None
        self.on_epoch: Callable[[int], None] = lambda finished: None
        self._expected_steps, self._steps = steps_per_epoch, 0
        self._now, self._start, self._phase_start, self._phase_total = now, now(), 0.0, 0.0
        # Rate over the last few epochs: methods change their passes, and so their pace, during a run.
        self._marks: deque[tuple[float, float]] = deque(maxlen=6)

    def phase(self, name: str) -> None:
        """Say what is done besides training ("compiling train step"); "" when it is over."""
        if self.name:
            self._phase_total += self.phase_seconds
        self.name, self._phase_start = name, self._now()
        if name:
            self.on_phase(name)

    def step(self, count: int = 1) -> None:
        """Count steps of the present epoch."""
        self._steps += count
        if not self._marks:
            self._mark()

    def epoch(self, finished: int, **fields: float | None) -> None:
        """Note that ``finished`` epochs are done, with what to show: loss, learning_rate, test_accuracy, …"""
        self._expected_steps = self._steps or self._expected_steps
        self.finished, self._steps, self.fields = finished, 0, fields
        self._mark()
        self.on_epoch(finished)

    @property
    def done(self) -> float:
        """Epochs done, with the present one's part."""
        return min(self.finished + min(self._steps / self._expected_steps, 1.0), self.epochs)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._start

    @property
    def phase_seconds(self) -> float:
        """Seconds in the present phase, 0 outside."""
        return self._now() - self._phase_start if self.name else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training still to come at the recent pace; None before there is a pace."""
        if not self._marks or self.done <= self._marks[0][1]:
            return None
        clock, done = self._marks[0]
        return (self.epochs - self.done) * (self._training_seconds() - clock) / (self.done - done)

    def _training_seconds(self) -> float:
        return self.elapsed - self._phase_total - self.phase_seconds

    def _mark(self) -> None:
        self._marks.append((self._training_seconds(), self.done))


@contextlib.contextmanager
def progress(
    epochs: int, steps_per_epoch: int, *, start_epoch: int = 0, mode: Mode = "auto", stream: IO[str] | None = None
) -> Iterator[Progress]:
    """Show a run's progress; yields the ``Progress`` to tell of phases, steps and epochs.

    Args:
      epochs: of the whole run.
      steps_per_epoch: a first estimate is enough.
      start_epoch: epochs already done, on a resumed run.
      mode: "live" redraws a bar in place; "plain" prints one line every few epochs, about 30 a run, without control
        characters; "quiet" prints nothing; "auto" is live on a terminal and plain anywhere else (pipe, CI, notebook).
      stream: default standard output.
    """
    console = Console(file=stream or sys.stdout)
    if mode not in ("auto", "live", "plain", "quiet"):
        raise ValueError(f"mode must be auto, live, plain or quiet, got {mode!r}")
    if mode == "auto":
        on_terminal = console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter
        mode = "live" if on_terminal else "plain"
    run = Progress(epochs, steps_per_epoch, start_epoch)
    if mode == "live":
        # The terminal's size is asked at every redraw, so a resized window needs no signal handler.
        spinner = Spinner("dots")
        with Live(get_renderable=lambda: _render(run, spinner, console.width), console=console, refresh_per_second=8):
            yield run
        return
    if mode == "plain":
        _print_lines(run, start_epoch, functools.partial(print, file=console.file, flush=True))
    yield run


def format_duration(seconds: float) -> str:
    """Return 48 s, 3 min 05 s or 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {seconds_left:02d} s"


def _field_text(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        text = _ABSENT if value is None else str(value)
    elif name.endswith("accuracy"):
        text = f"{100 * value:.2f} %"
    elif name.endswith("loss"):
        text = f"{value:.4f}"
    else:
        text = f"{value:.3g}"
    return f"{name.replace('_', ' ')} {text}"


def _fields_text(run: Progress) -> str:
    return "   ".join(_field_text(name, value) for name, value in run.fields.items())


def _time_text(run: Progress) -> str:
    left = run.seconds_left
    return format_duration(run.elapsed) + (f", {format_duration(left)} left" if left else "")


def _render(run: Progress, spinner: Spinner, width: int) -> RenderableType:
    bar = Table.grid(padding=(0, 1))
    for _ in range(3):
        bar.add_column(no_wrap=True)
    bar.add_row(
        Text(f"epoch {min(run.finished + 1, run.epochs)}/{run.epochs}"),
        ProgressBar(total=run.epochs, completed=run.done, width=min(max(width - 56, 6), 40)),
        Text(f"{100 * run.done / run.epochs:3.0f} %  {_time_text(run)}"),
    )
    lines: list[RenderableType] = [bar]
    if run.fields:
        lines.append(Text(_fields_text(run), no_wrap=True, overflow="ellipsis"))
    if run.name:
        spinner.update(text=Text(f"{run.name}… {format_duration(run.phase_seconds)}"))
        lines.append(spinner)
    return Group(*lines)


def _print_lines(run: Progress, start_epoch: int, write: Callable[[str], None]) -> None:
    every = math.ceil((run.epochs - start_epoch) / _PLAIN_LINES)
    told: set[str] = set()

    def on_phase(name: str) -> None:
        if name not in told:
            told.add(name)
            write(f"{name}…")

    def on_epoch(finished: int) -> None:
        if finished == run.epochs or finished == start_epoch + 1 or (every and finished % every == 0):
            write(f"epoch {finished}/{run.epochs}   {_fields_text(run)}   {_time_text(run)}")

    run.on_phase, run.on_epoch = on_phase, on_epoch


# The end of a run.

_ROWS = (
    ("test_accuracy_last", "test accuracy, last epoch"),
    ("test_accuracy_mean_last_10", "test accuracy, mean of last 10"),
    ("test_accuracy_best_validation", "test accuracy, best on noisy validation"),
    ("test_accuracy_best", "test accuracy, best (chosen on the test set)"),
    ("balanced_accuracy", "balanced test accuracy"),
    ("expected_calibration_error", "expected calibration error"),
    ("correction_accuracy", "corrected labels that are right"),
    ("label_weight_right", "corrector's weight on right labels"),
    ("label_weight_wrong", "corrector's weight on wrong labels"),
    ("noise_detection_auroc", "AUROC of finding wrong labels"),
)


def results_table(
    summaries: Sequence[Mapping[str, Any]],
    *,
    seeds: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Table:
    """Return a table of a run's results in percent: a row a metric; a column a seed, or mean ± sample std.

    Up to three seeds have a column each; more would not fit a terminal and are given as mean ± std and range.

    Args:
      summaries: one of ``evaluation.summarise`` a seed. Of the metrics in ``final`` those named in ``_ROWS`` and
        ``per_class_accuracy`` [C] are shown where present; of more than 20 classes the five worst and five best.
      seeds: default 0, 1, …
      class_names: default class 0, class 1, …
    """
    if not summaries:
        raise ValueError("summaries must hold at least one seed's summary")
    seeds = range(len(summaries)) if seeds is None else seeds
    table = Table(title="results (%)")
    table.add_column("")
    columns = [f"seed {seed}" for seed, _ in zip(seeds, summaries, strict=True)]
    single = len(columns) <= _SEEDS_SHOWN
    for column in [*(columns if single else ["lowest", "highest"]), *(["mean ± std"] if len(columns) > 1 else [])]:
        table.add_column(column, justify="right", no_wrap=True)

    def add(label: str, values: Sequence[float]) -> None:
        cells = [_percent(value) for value in (values if single else (min(values), max(values)))]
        if len(values) > 1:
            mean, std = mean_std(values)
            cells.append(_ABSENT if math.isnan(mean) else f"{_percent(mean)} ± {_percent(std)}")
        table.add_row(label, *cells)

    metrics = [{**summary.get("final", {}), **summary} for summary in summaries]
    for name, label in _ROWS:
        values = [_number(each.get(name)) for each in metrics]
        if not all(map(math.isnan, values)):
            add(label, values)

    if all(each.get("per_class_accuracy") is not None for each in metrics):
        per_class = np.array([[_number(v) for v in each["per_class_accuracy"]] for each in metrics])
        table.add_section()
        for c in _classes_to_show(per_class.mean(0)):
            add(class_names[c] if class_names else f"class {c}", per_class[:, c].tolist())
    return table


def _classes_to_show(accuracy: np.ndarray) -> list[int]:
    if len(accuracy) <= _CLASSES_SHOWN:
        return list(range(len(accuracy)))
    order = np.argsort(accuracy, kind="stable").tolist()
    return [*order[:5], *order[-5:]]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if math.isfinite(share) else _ABSENT


def environment() -> dict[str, Any]:
    """Return versions, devices and the git commit that a run was made with, as JSON values.

    ``git_commit`` and ``git_dirty`` (tracked files changed) are of the checkout that holds this package; None if it was
    installed from elsewhere.
    """
    devices = jax.devices()
    packages = ("robustjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "backend": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "platform": platform.platform(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    here = Path(__file__).resolve()

    def run(*arguments: str) -> str:
        git = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # In an environment inside somebody else's repository this file is there, but not tracked.
        run("ls-files", "--error-unmatch", here.name)
        return run(*command)
    except (OSError, subprocess.SubprocessError):
        return None
