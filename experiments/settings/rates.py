"""Learning-rate schedules by their text, `--schedule`."""

from collections.abc import Callable
from typing import Any

from experiments.settings import ranges
from robustjax import schedules

_FORMS = (
    "constant",
    "cosine",
    "multistep:EPOCH,EPOCH:FACTOR",
    "cosine_restarts:PERIOD:FINAL",
    "exponential:FACTOR",
    "linear:FROM",
)


def make_schedule(spec: str, base: float, epochs: int, warmup_epochs: float = 0.0) -> Callable[[Any], Any]:
    """A learning-rate schedule, progress in epochs -> rate, from its text.

    Args:
      spec: "constant", "cosine", "multistep:40,80:0.1", "cosine_restarts:10:0.001", "exponential:0.97" or "linear:80".
      base: base learning rate.
      epochs: length of the run, for "cosine" and "linear".
      warmup_epochs: epochs of linear warm-up from a tenth.

    Raises:
      ValueError: for another text, or a number in it that is out of range.
    """
    kind, *values = spec.split(":")
    try:
        match kind, values:
            case "constant", []:
                schedule = schedules.constant(base)
            case "cosine", []:
                schedule = schedules.cosine(base, epochs)
            case "multistep", [milestones, factor]:
                at = [_epoch("EPOCH", m) for m in milestones.split(",")]
                schedule = schedules.multistep(base, at, _positive("FACTOR", factor))
            case "cosine_restarts", [period, final]:
                rate = float(final)
                ranges.check("FINAL", rate, "at least 0")
                schedule = schedules.cosine_restarts(base, _epoch("PERIOD", period), rate)
            case "exponential", [factor]:
                schedule = schedules.exponential(base, _positive("FACTOR", factor))
            case "linear", [start]:
                schedule = schedules.linear_decay(base, _epoch("FROM", start), epochs)
            case _:
                raise ValueError("not one of the known forms")
    except ValueError as error:
        raise ValueError(f"schedule={spec!r}: {str(error).rstrip('.')}; accepted are {', '.join(_FORMS)}.") from None
    return schedules.linear_warmup(schedule, warmup_epochs, 0.1) if warmup_epochs else schedule


def _epoch(name: str, text: str) -> int:
    value = int(text)
    ranges.check(name, value, "at least 0")
    return value


def _positive(name: str, text: str) -> float:
    value = float(text)
    ranges.check(name, value, "positive")
    return value
