"""The table at a run's end."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from experiments.runs import judge, test_part
from experiments.runs.history import mean_std

_CLASSES_SHOWN = 20
_SEEDS_SHOWN = 3
_ABSENT = "–"
DISAGREEMENT = "predictions that differ from the given labels"

_ROWS = (
    ("test_accuracy_last", "test accuracy, last epoch"),
    ("test_accuracy_mean_last_10", "test accuracy, mean of last 10"),
    ("test_accuracy_best_validation", "test accuracy, best on noisy validation"),
    ("test_accuracy_best", "test accuracy, best (chosen on the test set)"),
    ("balanced_accuracy", "balanced test accuracy"),
    ("expected_calibration_error", "expected calibration error"),
)
_LAST_ROWS = (
    ("noise_detection_auroc", "AUROC of finding wrong labels, by loss"),
    ("disagreement", DISAGREEMENT),
)
_TRUSTED = ("trusted_examples", "trusted examples consumed")


def results_table(
    summaries: Sequence[Mapping[str, Any]],
    *,
    seeds: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    test_held_out: bool = False,
) -> Table:
    """Return a table of a run's results in percent: a row a metric; a column a seed, or mean ± sample std.

    Up to three seeds have a column each; more would not fit a terminal and are given as mean ± std and range.

    What is above 1, as weights may be, and counts are told as they are, not in percent.

    Args:
      summaries: one of ``history.summarise`` a seed. Of the metrics in ``final`` those named in ``_ROWS``, those that
        findings gave (``judge.titles``) and ``per_class_accuracy`` [C] are shown where present; of more than 20 classes
        the five worst and five best. ``trusted_examples``, how many with labels known to be right a seed has trained
        on, is told where it is not 0.
      seeds: default 0, 1, …
      class_names: default class 0, class 1, …
      test_held_out: whether the test part was held out of the training data, which the rows about it then say.
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

    def add(label: str, values: Sequence[float], text: Callable[[float], str] | None = None) -> None:
        if text is None:
            text = _plain if any(abs(value) > 1 for value in values) else _percent
        cells = [text(value) for value in (values if single else (min(values), max(values)))]
        if len(values) > 1:
            mean, std = mean_std(values)
            cells.append(_ABSENT if math.isnan(mean) else f"{text(mean)} ± {text(std)}")
        table.add_row(Text(label), *cells)  # a name in brackets is no markup

    metrics = [{**summary.get("final", {}), **summary} for summary in summaries]
    found = list(judge.titles({name: None for each in metrics for name in each}))
    own = [(name, test_part.title(label, test_held_out)) for name, label in _ROWS]
    for name, label in (*own, *found, *_LAST_ROWS):
        values = [_number(each.get(name)) for each in metrics]
        if not all(map(math.isnan, values)):
            add(label, values)
    consumed = [_number(each.get(_TRUSTED[0])) for each in metrics]
    if any(count > 0 for count in consumed):
        add(_TRUSTED[1], consumed, _plain)

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


def _plain(number: float) -> str:
    return f"{number:.6g}" if math.isfinite(number) else _ABSENT
