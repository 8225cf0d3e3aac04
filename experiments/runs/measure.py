"""An epoch's record: what the engine saw, judged with the clean labels that training never sees."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from robustjax import losses
from robustjax.data.labelling import Labels
from robustjax.training import evaluation
from robustjax.training.engine import Epoch

SHARPENING = 0.1  # SR's temperature on MNIST, at which its outputs are to be one-hot


@jax.jit
def _test_metrics(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    return {
        "test_accuracy": evaluation.accuracy(logits, labels),
        "test_loss": losses.cross_entropy(logits, labels).mean(),
        "balanced_accuracy": evaluation.balanced_accuracy(logits, labels),
        "expected_calibration_error": evaluation.expected_calibration_error(logits, labels),
        "per_class_accuracy": evaluation.per_class_accuracy(logits, labels),
    }


@jax.jit
def _validation_metrics(logits: jax.Array, given: jax.Array) -> dict[str, jax.Array]:
    return {
        "validation_accuracy": evaluation.accuracy(logits, given),
        "validation_loss": losses.cross_entropy(logits, given).mean(),
    }


@jax.jit
def _train_metrics(logits: jax.Array, given: jax.Array, clean: jax.Array) -> dict[str, jax.Array]:
    auroc = evaluation.noise_detection_auroc(losses.cross_entropy(logits, given), given != clean)
    return {
        **evaluation.memorization(logits, given, clean),
        **evaluation.gradient_coefficients(logits, given, clean),
        "noise_detection_auroc": auroc,
        "sparse_rate": evaluation.sparse_rate(logits),
        "sharpened_sparse_rate": evaluation.sparse_rate(logits, SHARPENING),
    }


_coefficients = jax.jit(evaluation.gradient_coefficients)


def record(
    epoch: Epoch,
    k: int,
    seed: int,
    test_labels: np.ndarray,
    labels: Labels,
    validation: Labels | None = None,
) -> dict[str, Any]:
    """The record of seed number `k` for metrics.jsonl.

    Args:
      epoch: what the engine yielded.
      k: position of the seed among those trained at once.
      seed: the seed itself.
      test_labels: int [T].
      labels: the seed's given and clean training labels.
      validation: those of what it holds out; judged by the given labels, as a user would have to.
    """
    metrics = {"train_loss" if name == "loss" else name: value for name, value in epoch.metrics[k].items()}
    found: dict[str, Any] = {"epoch": epoch.epoch + 1, "seed": seed, **metrics}
    found |= _test_metrics(epoch.test_logits[k], test_labels)
    if epoch.validation_logits is not None:
        found |= _validation_metrics(epoch.validation_logits[k], validation.given)
    if epoch.train_logits is not None:
        found |= _train_metrics(epoch.train_logits[k], labels.given, labels.clean)
    seen = epoch.findings[k]
    if "correction" in seen:
        found["correction_accuracy"] = evaluation.correction_accuracy(seen["correction"].values, labels.clean)
    if "target" in seen:
        found["target_accuracy"] = evaluation.accuracy(seen["target"].values, labels.clean)
    if epoch.stage and "group_error" in seen:
        found["stage"] = 2.0
    elif epoch.preliminary:
        found["stage"] = 1.0
    if "label_weight" in seen:
        trust = evaluation.label_trust(seen["label_weight"].values, labels.given, labels.clean)
        found |= {f"label_weight_{which}": value for which, value in trust.items()}
    found |= group_estimates(seen)
    return {name: np.asarray(value).tolist() for name, value in found.items()}


def group_estimates(seen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """HAR's estimates of each group, {} before they are made."""
    names = ("group_error", "group_count", "group_strength")
    known = "group_count" in seen and np.all(np.isfinite(seen["group_count"].values))
    return {name: np.asarray(seen[name].values) for name in names} if known else {}


def diagnostics(epoch: Epoch, k: int, labels: Labels, num_classes: int) -> dict[str, np.ndarray]:
    """What is worth a file of its own: learned tables, and the true share of wrong labels in each loss-rank bin."""
    seen = epoch.findings[k]
    kept = {name: np.asarray(seen[name].values) for name in ("weight_table", "margin") if name in seen}
    kept |= group_estimates(seen)
    if "weight_table" in seen:
        shape = (num_classes, seen["weight_table"].values.shape[1])
        cell = (labels.given, np.asarray(seen["weight_table"].bins))
        size, wrong = np.zeros(shape), np.zeros(shape)
        np.add.at(size, cell, 1)
        np.add.at(wrong, cell, labels.given != labels.clean)
        with np.errstate(invalid="ignore"):
            kept["noisy_share"] = (wrong / size).astype(np.float32)
    return kept
