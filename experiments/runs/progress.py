"""How far a run is, on the screen."""

import contextlib
import functools
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

Mode = Literal["auto", "live", "plain", "notebook", "quiet"]

_PLAIN_LINES = 30
_NOTEBOOK_BAR = 30  # characters
_REDRAW_SECONDS = 0.5  # at the least, between two redraws of a notebook's display
_ABSENT = "–"


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
        self.epochs, self.finished, self.name = epochs, start_epoch, ""
        self.fields: dict[str, float | None] = {}
        self.on_phase: Callable[[str], None] = lambda name: None
        self.on_epoch: Callable[[int], None] = lambda finished: None
        self.on_step: Callable[[], None] = lambda: None
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
        self.on_step()

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
        characters; "notebook" is one display of IPython's that changes in place, and needs no widgets; "quiet" prints
        nothing; "auto" is live on a terminal, notebook in one, and plain anywhere else (pipe, CI).
      stream: default standard output; a notebook's display where there is one.
    """
    console = Console(file=stream or sys.stdout)
    if mode not in ("auto", "live", "plain", "notebook", "quiet"):
        raise ValueError(f"mode must be auto, live, plain, notebook or quiet, got {mode!r}")
    if mode == "auto" and console.is_jupyter:
        mode = "notebook" if stream is None else "plain"
    elif mode == "auto":
        mode = "live" if console.is_terminal and not console.is_dumb_terminal else "plain"
    run = Progress(epochs, steps_per_epoch, start_epoch)
    if mode == "live":
        # The terminal's size is asked at every redraw, so a resized window needs no signal handler.
        spinner = Spinner("dots")
        with Live(get_renderable=lambda: _render(run, spinner, console.width), console=console, refresh_per_second=8):
            yield run
        return
    if mode == "plain":
        _print_lines(run, start_epoch, functools.partial(print, file=console.file, flush=True))
    if mode == "notebook":
        _display(run)
    yield run


def plain_console(quiet: bool = False) -> Console:
    """A console for lines and, on a terminal, spinners.

    In a notebook it takes itself for a file: the streams there claim to be terminals, in which a spinner would leave
    hundreds of lines, and rich's own display wants ipywidgets.
    """
    there = Console(quiet=quiet, soft_wrap=True, markup=False)
    if there.is_jupyter:
        return Console(quiet=quiet, soft_wrap=True, markup=False, force_jupyter=False, force_terminal=False)
    return there


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


def _display(run: Progress) -> None:
    """Show the run as one display of IPython's. rich's own in notebooks wants ipywidgets, and warns without them."""
    from IPython.display import display

    handle = display({"text/plain": "starting…"}, raw=True, display_id=True)
    redrawn = -math.inf

    def redraw(*_: object) -> None:
        nonlocal redrawn
        redrawn = time.monotonic()
        bar = "█" * round(_NOTEBOOK_BAR * run.done / run.epochs)
        lines = [f"epoch {min(run.finished + 1, run.epochs)}/{run.epochs} ▕{bar:<{_NOTEBOOK_BAR}}▏ {_time_text(run)}"]
        lines += [_fields_text(run)] * bool(run.fields) + [f"{run.name}…"] * bool(run.name)
        handle.update({"text/plain": "\n".join(lines)}, raw=True)

    def now_and_then() -> None:
        if time.monotonic() - redrawn > _REDRAW_SECONDS:
            redraw()

    run.on_phase, run.on_epoch, run.on_step = redraw, redraw, now_and_then
