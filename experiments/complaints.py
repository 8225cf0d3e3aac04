"""What the command line says where a run cannot go on: a sentence in the user's words, or nothing for our own bugs."""

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TextIO

import jax

from robustjax import user_code

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
# What functions call the arguments that settings of other names end in.
_ARGUMENTS = {"limit": "train_examples"}
_INPUTS = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)


def run_main(
    obey: Callable[[Sequence[str]], int],
    argv: Sequence[str] | None,
    names: Callable[[], Collection[str]] = tuple,
    *,
    failures: tuple[type[Exception], ...] = (),
    interrupted: str = "interrupted.",
) -> int:
    """What every command does around its work: streams that forgive, and errors as sentences on stderr.

    Args:
      obey: does what the arguments ask for; returns the exit status.
      argv: the arguments; None for the process's own.
      names: gives the settings and options that messages call by their flags; asked for where there is one to tell.
      failures: errors that are neither bad input nor this program's mistake.
      interrupted: what Ctrl-C says.

    Returns:
      What `obey` does; 2 for bad input (a user's own code included), 1 for a failure and 130 for Ctrl-C. What is a
      mistake of this program's comes out as it is.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with forgiving_streams():
        try:
            return obey(list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:
            print(interrupted, file=sys.stderr)
            return INTERRUPTED
        except failures as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        except (Exception, SystemExit) as error:
            told = complaint(error, names())
            if told is None:
                raise
            print(f"error: {told[1]}", file=sys.stderr)
            return told[0]


def complaint(error: BaseException, names: Collection[str] = ()) -> tuple[int, str] | None:
    """Exit status and sentence for an error; None for one that is nobody's fault but ours, whose traceback is wanted.

    What a user's file raises, whatever it is, is told with file, line and function. A TypeError, say, from elsewhere is
    a mistake of this program's.

    Args:
      error: what a run raised.
      names: of settings and options, which the sentence calls by their flags.
    """
    place = user_code.raised_at(error)
    text = in_flags(str(error).strip(), names)
    match error:
        case SystemExit():
            return None if place is None else (BAD_INPUT, f"{place} ended the program (SystemExit: {error}).")
        case ValueError():
            known = place is None or place.partition(", line ")[2] in text
            return BAD_INPUT, text if known else f"{text} ({place})"
        case Exception() if place is not None:
            return BAD_INPUT, f"{place} raised {user_code.told(error)}"
        case OSError():
            status = BAD_INPUT if isinstance(error, _INPUTS) else FAILED
            if not error.strerror:  # a sentence already
                return status, text
            return status, error.strerror + (f": {str(error.filename)!r}." if error.filename is not None else ".")
        case MemoryError():
            return FAILED, f"there is not enough memory. {text}".rstrip()
        case jax.errors.JaxRuntimeError() if "RESOURCE_EXHAUSTED" in text:
            return FAILED, f"there is not enough memory on the device. {text.partition(chr(10))[0]}"
    return None


def in_flags(text: str, names: Collection[str]) -> str:
    """A message that speaks of flags where it spoke of settings and options.

    Names of a word are taken for such where a "=" follows, those of several words everywhere but in quotes and paths.

    Examples:
      >>> in_flags("noise_rate=2: limit=0 for seed in 'seed=1' of noise_rate", {"noise_rate", "train_examples", "seed"})
      "--noise-rate=2: --train-examples=0 for seed in 'seed=1' of --noise-rate"
    """

    def flag(found: re.Match[str]) -> str:
        name = _ARGUMENTS.get(found[1], found[1])
        return f"--{name.replace('_', '-')}" if name in names else found[0]

    return re.sub(r"(?<![\w.\-/'\"])([a-z_]+(?==(?!=))|[a-z]+(?:_[a-z]+)+)(?![\w./'\"])", flag, text)


class _Forgiving:
    """A stream whose reader may leave; a class because it stands for another stream."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except BrokenPipeError:  # what follows, and what is still to be flushed, goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=sys.stderr)


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Standard streams that end no run: not where their reader has seen enough, nor where they cannot spell a sign.

    Warnings are a line each, without the place in the program that they are from.
    """
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
            changed.append(stream)
    out, err = _Forgiving(sys.stdout), _Forgiving(sys.stderr)
    shown, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        warnings.showwarning = shown
        out.flush()
        err.flush()
        for stream in changed:
            stream.reconfigure(errors="strict")


def tell(text: str) -> None:
    """Print what the command was asked for; a reader that has seen enough (`| head`) is no error."""
    with forgiving_streams():
        print(text)
