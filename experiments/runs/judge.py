"""What a method has found, judged by its kind: against the truth where it is known, by itself where it is not.

A kind has a judge, the titles of its metrics, and what is kept of it in files; nothing here knows a method. A new kind
is an entry in each of the tables below and one in `experiments.pictures.findings`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from robustjax import backend
from robustjax import findings as kinds
from robustjax.data.labelling import Labels
from robustjax.findings import Finding
from robustjax.training import evaluation

Named = Mapping[str, Any]
"""Findings of one kind by name."""
Values = dict[str, Any]

_accuracy = backend.jit(evaluation.accuracy)
_trust = backend.jit(evaluation.label_trust)
_coefficients = backend.jit(evaluation.gradient_coefficients)
_auroc = backend.jit(evaluation.noise_detection_auroc)


def judge(findings: Mapping[str, Finding], labels: Labels, logits: np.ndarray | None) -> Values:
    """The metrics of findings about one training set, numbers and, of numbers by class or group, arrays.

    Args:
      findings: of N examples and C classes, by name; those that are nan throughout are not known yet and give nothing.
      labels: given and, unless None, true labels, int [N]. What needs the truth is left out where it is not known.
      logits: [N, C] of the training examples; None leaves out what needs them.

    Returns:
      By kind, for a finding called NAME, nan where there is no such example:

      LabelDistribution: NAME_accuracy; without the truth NAME_changed, the share of given labels that it changes.
      LabelWeight: NAME_right, NAME_wrong (means) and NAME_auroc; without the truth NAME_mean.
      NoiseScore: NAME_auroc; without the truth NAME_mean.
      LogitGradient: the NAME_coefficient_…, ce_coefficient_… and total_coefficient_… of
        `evaluation.gradient_coefficients`; without the truth nothing.
      PerClass, PerGroup: NAME, as it is. Table: nothing.

    Raises:
      TypeError: for a finding of no known kind.
      ValueError: for findings whose names give the same metric.
    """
    for name, finding in findings.items():
        kind_of(name, finding)
    found: Values = {}
    for kind, judged in JUDGES.items():
        own = {name: each for name, each in findings.items() if type(each) is kind and is_known(each)}
        for name, value in (judged(own, labels, logits) if own else {}).items():
            if name in found:
                raise ValueError(f"the findings {', '.join(findings)} give the metric {name!r} twice; rename one.")
            found[name] = value
    return found


def kind_of(name: str, finding: Finding) -> str:
    """The name of a finding's kind.

    Raises:
      TypeError: it is none of `JUDGES`.
    """
    if type(finding) not in JUDGES:
        accepted = ", ".join(kind.__name__ for kind in JUDGES)
        raise TypeError(f"the finding {name!r} is a {type(finding).__name__}; accepted are {accepted}.")
    return type(finding).__name__


def is_known(finding: Finding) -> bool:
    """Whether any of its values is not nan."""
    return not np.isnan(np.asarray(finding.values, np.float32)).all()


def kept_by_epoch(findings: Mapping[str, Finding], labels: Labels) -> dict[str, np.ndarray]:
    """What is worth a file of its own after an epoch: all that does not grow with the number of examples.

    PerClass, PerGroup and Table under their names; with a Table, where the truth is known, the share of wrong labels in
    each cell, float32 [C, R], as NAME_noisy_share, nan in empty cells.
    """
    kept = {}
    for name, finding in findings.items():
        if not isinstance(finding, kinds.PerClass | kinds.PerGroup | kinds.Table) or not is_known(finding):
            continue
        kept[name] = np.asarray(finding.values)
        if isinstance(finding, kinds.Table) and labels.clean is not None:
            kept[f"{name}_noisy_share"] = noisy_share(finding, labels)
    return kept


def kept_by_example(findings: Mapping[str, Finding]) -> dict[str, np.ndarray]:
    """What is known of each example: weights and scores float32 [N]; of label distributions their classes int32 [N]."""
    kept = {}
    for name, finding in findings.items():
        if isinstance(finding, kinds.LabelWeight | kinds.NoiseScore) and is_known(finding):
            kept[name] = np.asarray(finding.values, np.float32)
        elif isinstance(finding, kinds.LabelDistribution) and is_known(finding):
            kept[name] = np.asarray(finding.values).argmax(-1).astype(np.int32)
    return kept


def noisy_share(table: kinds.Table, labels: Labels) -> np.ndarray:
    """The share of wrong labels in each cell of a table, float32 [C, R]; nan in empty cells."""
    size, wrong = np.zeros(table.values.shape), np.zeros(table.values.shape)
    cell = (labels.given, np.asarray(table.bins))
    np.add.at(size, cell, 1)
    np.add.at(wrong, cell, labels.given != labels.clean)
    with np.errstate(invalid="ignore"):
        return (wrong / size).astype(np.float32)


def titles(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, title) of the numbers among `metrics` that findings gave, by the names that `judge` makes.

    Every other metric with such a name counts too, but those that end a run's records in any case.
    """
    for suffix, title in _TITLES:
        for name in metrics:
            stem = name.removesuffix(suffix)
            other = {"_right": "_wrong", "_wrong": "_right"}.get(suffix)
            if stem == name or name in _OTHERS or (other is not None and stem + other not in metrics):
                continue
            yield name, title.format(stem.replace("_", " "))


def _label_distributions(named: Named, labels: Labels, logits: Any) -> Values:
    if labels.clean is None:
        given = jnp.asarray(labels.given)
        return {f"{name}_changed": 1 - _accuracy(each.values, given) for name, each in named.items()}
    clean = jnp.asarray(labels.clean)
    return {f"{name}_accuracy": _accuracy(each.values, clean) for name, each in named.items()}


def _label_weights(named: Named, labels: Labels, logits: Any) -> Values:
    if labels.clean is None:
        return _means(named)
    found: Values = {}
    given, clean = jnp.asarray(labels.given), jnp.asarray(labels.clean)
    for name, each in named.items():
        trust = _trust(each.values, given, clean)
        found |= {f"{name}_{which}": value for which, value in trust.items()}
        found[f"{name}_auroc"] = _auroc(-each.values, given != clean)
    return found


def _noise_scores(named: Named, labels: Labels, logits: Any) -> Values:
    if labels.clean is None:
        return _means(named)
    return {f"{name}_auroc": _auroc(each.values, labels.given != labels.clean) for name, each in named.items()}


def _logit_gradients(named: Named, labels: Labels, logits: Any) -> Values:
    if labels.clean is None or logits is None:
        return {}
    return _coefficients(logits, labels.given, labels.clean, {name: each.values for name, each in named.items()})


def _as_they_are(named: Named, labels: Labels, logits: Any) -> Values:
    return {name: each.values for name, each in named.items()}


def _nothing(named: Named, labels: Labels, logits: Any) -> Values:
    return {}


def _means(named: Named) -> Values:
    return {f"{name}_mean": np.mean(each.values, dtype=np.float32) for name, each in named.items()}


JUDGES: dict[type, Callable[[Named, Labels, Any], Values]] = {
    kinds.LabelDistribution: _label_distributions,
    kinds.LabelWeight: _label_weights,
    kinds.NoiseScore: _noise_scores,
    kinds.LogitGradient: _logit_gradients,
    kinds.PerClass: _as_they_are,
    kinds.PerGroup: _as_they_are,
    kinds.Table: _nothing,
}
_TITLES = (
    ("_accuracy", "{}: labels that are right"),
    ("_changed", "{}: labels that differ from those given"),
    ("_right", "{}, mean on right labels"),
    ("_wrong", "{}, mean on wrong labels"),
    ("_mean", "{}, mean over all labels"),
    ("_auroc", "AUROC of finding wrong labels, by {}"),
)
_OTHERS = frozenset(
    ("test_accuracy", "balanced_accuracy", "validation_accuracy", "train_accuracy", "per_class_accuracy",
     "noise_detection_auroc")
)  # fmt: skip
