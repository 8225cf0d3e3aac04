"""A run's history, its records epoch by epoch, in a few numbers: last, best, chosen by validation, over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_NOT_FINAL = ("epoch", "test_accuracy", "reliability")


def summarise(history: Sequence[Mapping[str, Any]], test_part: str = "test set") -> dict[str, Any]:
    """Summarise one seed's run from its per-epoch records; of a run with several stages, the last stage's.

    Args:
      history: records in the order of training, each with ``epoch`` and, in the epochs that were evaluated,
        ``test_accuracy`` in [0, 1]; None or nan counts as not evaluated. A ``stage`` tells stages apart.
      test_part: what that accuracy is measured on.

    Returns:
      ``test_accuracy_last``; ``test_accuracy_mean_last_10`` over the last 10 epochs; ``test_accuracy_best`` with its
      ``best_epoch`` (the first, if several) and ``best_chosen_on``, which says that the maximum was picked on the test
      set and so is no estimate of what a user would get; ``epochs``, the number of records; and ``final``, the other
      metrics of the last record but ``reliability``. Where the records have a ``validation_accuracy``, on held-out
      examples with labels as wrong as the others, also ``test_accuracy_best_validation``, that of the epoch which it
      chooses (the first, if several), and ``best_validation_epoch``.

    Raises:
      ValueError: no record has a test accuracy.
    """
    history = _last_stage(history)
    measured = [(record["epoch"], float(record["test_accuracy"])) for record in history if _has_accuracy(record)]
    if not measured:
        raise ValueError(f"history has no finite 'test_accuracy' in its {len(history)} records")
    best_epoch, best = max(measured, key=lambda item: item[1])
    chosen = best_validation(history)
    selected = {} if chosen is None else {
        "test_accuracy_best_validation": float(chosen["test_accuracy"]), "best_validation_epoch": chosen["epoch"]
    }  # fmt: skip
    recent = [value for epoch, value in measured if epoch > history[-1]["epoch"] - 10]
    return {
        "test_accuracy_last": measured[-1][1],
        "test_accuracy_mean_last_10": float(np.mean(recent)) if recent else math.nan,
        "test_accuracy_best": best,
        "best_epoch": best_epoch,
        "best_chosen_on": test_part,
        **selected,
        "epochs": len(history),
        "final": {name: value for name, value in history[-1].items() if name not in _NOT_FINAL},
    }


def best_validation(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The last stage's first record with the highest ``validation_accuracy``; None if no record has one."""
    judged = [record for record in _last_stage(history) if record.get("validation_accuracy") is not None]
    return max(judged, key=lambda record: record["validation_accuracy"], default=None)


def mean_std(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return mean and sample standard deviation (ddof 1) over seeds; the latter is nan for a single seed."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"values must be a non-empty list of numbers, got shape {array.shape}")
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def _last_stage(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in history if record.get("stage") == history[-1].get("stage")]


def _has_accuracy(record: Mapping[str, Any]) -> bool:
    value = record.get("test_accuracy")
    return value is not None and math.isfinite(value)
