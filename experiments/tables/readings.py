"""What a cell reads from a run: a number in percent from one seed's entry in summary.json."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.tables import Cell
from robustjax.data import corruptions


class Reason(NamedTuple):
    """Why a cell cannot be run."""

    text: str


class Reading(NamedTuple):
    """How a cell's number is taken: `of(seed's summary)` -> percent, and what that is in words."""

    of: Callable[[Mapping[str, Any]], float]
    what: str


def reading(cell: Cell) -> Reading | Reason:
    """How the cell's number is read from a run, or why it cannot be.

    Where a paper does not say which epoch it reports, the last one is read. Accuracies of a group of classes are means
    of the last epoch's per-class accuracies over HAR's noisy classes of the data set, or over all others.
    """
    metric = cell.metric
    if metric in ("test_accuracy", "top1_accuracy", "top1_accuracy_mean"):
        # ELR chooses the epoch on noisy validation labels; its Table 2 prints the best epoch of every other method.
        best = cell.table_name == "elr/2" and cell.method != "elr_plus"
        chosen = "test_accuracy_best_validation" if cell.paper == "elr" else "test_accuracy_last"
        metric = "test_accuracy_best" if best else chosen
    match metric:
        case "test_accuracy_last":
            return Reading(lambda seed: _percent(seed["test_accuracy_last"]), "test accuracy, last epoch")
        case "test_accuracy_best_validation":
            return Reading(
                lambda seed: _percent(seed.get("test_accuracy_best_validation")),
                "test accuracy, best epoch on noisy validation labels",
            )
        case "test_accuracy_best":
            return Reading(lambda seed: _percent(seed["test_accuracy_best"]), "test accuracy, best test epoch")
        case "top1_error":
            return Reading(lambda seed: 100 - _percent(seed["test_accuracy_last"]), "test error, last epoch")
        case "top1_accuracy_train" if cell.noise == "none":
            return Reading(lambda seed: _percent(seed["final"].get("clean_true")), "training accuracy, last epoch")
        case "top1_accuracy_negative_reviews":
            return _group([0], "negative reviews")
        case "top1_accuracy_positive_reviews":
            return _group([1], "positive reviews")
        case "top1_accuracy_noisy_classes" | "top1_accuracy_rare_noisy":
            return _group(_noisy(cell.dataset), "noisy classes")
        case "top1_accuracy_clean_classes" | "top1_accuracy_rare_clean":
            return _group(_noisy(cell.dataset), "clean classes", inside=False)
    return Reason(f"metric {cell.metric} is not measured")


def _noisy(dataset: str) -> list[int]:
    return [c for group in corruptions.noisy_groups(dataset) for c in group]


def _group(classes: Sequence[int], name: str, *, inside: bool = True) -> Reading:
    """Mean accuracy over `classes`, or over all others."""

    def of(seed: Mapping[str, Any]) -> float:
        per_class = np.array([np.nan if v is None else v for v in seed["final"]["per_class_accuracy"]], np.float64)
        chosen = np.isin(np.arange(len(per_class)), classes, invert=not inside)
        return 100 * float(per_class[chosen].mean())

    return Reading(of, f"test accuracy of the {name}, last epoch")


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * float(share)
