"""An epoch's record: what the engine saw, judged with the clean labels, if any, that training never sees."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.runs import judge
from robustjax import backend, losses
from robustjax.data.labelling import Labels
from robustjax.training import evaluation
from robustjax.training.engine import Epoch

SHARPENING = 0.1  # SR's temperature on MNIST, at which its outputs are to be one-hot


@backend.jit
def _test_metrics(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    return {
        "test_accuracy": evaluation.accuracy(logits, labels),
        "test_loss": losses.cross_entropy(logits, labels).mean(),
        "balanced_accuracy": evaluation.balanced_accuracy(logits, labels),
        "expected_calibration_error": evaluation.expected_calibration_error(logits, labels),
        "per_class_accuracy": evaluation.per_class_accuracy(logits, labels),
        "reliability": evaluation.reliability(logits, labels),
    }


@backend.jit
def _validation_metrics(logits: jax.Array, given: jax.Array) -> dict[str, jax.Array]:
    return {
        "validation_accuracy": evaluation.accuracy(logits, given),
        "validation_loss": losses.cross_entropy(logits, given).mean(),
    }


@backend.jit
def _train_metrics(logits: jax.Array, given: jax.Array, clean: jax.Array) -> dict[str, jax.Array]:
    auroc = evaluation.noise_detection_auroc(losses.cross_entropy(logits, given), given != clean)
    return {
        **evaluation.memorization(logits, given, clean),
        **evaluation.gradient_coefficients(logits, given, clean),
        "noise_detection_auroc": auroc,
        **_sparse_rates(logits),
    }


def _sparse_rates(logits: jax.Array) -> dict[str, jax.Array]:
    return {
        "sparse_rate": evaluation.sparse_rate(logits),
        "sharpened_sparse_rate": evaluation.sparse_rate(logits, SHARPENING),
    }


@backend.jit
def _unjudged_metrics(logits: jax.Array, given: jax.Array) -> dict[str, jax.Array]:
    """What there is without true labels."""
    return {"disagreement": 1 - evaluation.accuracy(logits, given), **_sparse_rates(logits)}


def record(
    epoch: Epoch,
    k: int,
    seed: int,
    test_labels: np.ndarray,
    labels: Labels,
    validation: Labels | None = None,
    preliminary_stages: int = 0,
) -> dict[str, Any]:
    """The record of seed number `k` for metrics.jsonl.

    Args:
      epoch: what the engine yielded.
      k: position of the seed among those trained at once.
      seed: the seed itself.
      test_labels: int [T].
      labels: the seed's given and clean training labels; without clean ones nothing that needs them is in the record,
        but the share of given labels that the network's predictions differ from, "disagreement".
      validation: those of what it holds out; judged by the given labels, as a user would have to.
      preliminary_stages: how many of the method's stages are preliminary. If any, the record tells by "stage" what an
        epoch belongs to: 1 and so on for the preliminary stages, the next number for all that count.

    Raises:
      ValueError: `preliminary_stages` is 0 in a preliminary epoch, or a finding's name gives a metric that is there.
    """
    metrics: dict[str, Any] = dict(epoch.metrics[k])
    if preliminary_stages:
        metrics["stage"] = float(_stage(epoch, preliminary_stages))
        metrics = dict(sorted(metrics.items()))
    elif epoch.preliminary:
        raise ValueError(f"preliminary_stages=0, but epoch {epoch.epoch + 1} is preliminary; at least 1 is accepted.")
    found: dict[str, Any] = {"epoch": epoch.epoch + 1, "seed": seed}
    found |= {"train_loss" if name == "loss" else name: value for name, value in metrics.items()}
    found |= _test_metrics(epoch.test_logits[k], test_labels)
    if epoch.validation_logits is not None and validation is not None:
        found |= _validation_metrics(epoch.validation_logits[k], validation.given)
    logits = None if epoch.train_logits is None else epoch.train_logits[k]
    if logits is not None and labels.clean is not None:
        found |= _train_metrics(logits, labels.given, labels.clean)
    elif logits is not None:
        found |= _unjudged_metrics(logits, labels.given)
    judged = judge.judge(epoch.findings[k], labels, logits)
    if taken := [name for name in judged if name in found and not name.startswith("ce_coefficient_")]:
        raise ValueError(f"a finding gives the metric {taken[0]!r}, which every record has; rename the finding.")
    found |= judged
    return {name: np.asarray(value).tolist() for name, value in found.items()}


def _stage(epoch: Epoch, preliminary_stages: int) -> int:
    return min(epoch.stage, preliminary_stages - 1) + 1 if epoch.preliminary else preliminary_stages + 1


def diagnostics(epoch: Epoch, k: int, labels: Labels) -> dict[str, np.ndarray]:
    """What is kept of seed number `k` after each epoch, see `judge.kept_by_epoch`; {} for nothing."""
    return judge.kept_by_epoch(epoch.findings[k], labels)


def save_confusion(path: pathlib.Path, epoch: Epoch, k: int, seed: int, test_labels: np.ndarray) -> None:
    """Write confusion-seedS.npz of the newest epoch: `epoch`, 1 for the first, and `counts` of the test part.

    `counts` is int64 [C, C]: how many examples have the one label and are predicted as the other.
    """
    logits = np.asarray(epoch.test_logits[k])
    counts = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(counts, (np.asarray(test_labels), logits.argmax(-1)), 1)
    _save(path / f"confusion-seed{seed}.npz", {"counts": counts, "epoch": np.array(epoch.epoch + 1)})


def save_findings(path: pathlib.Path, epoch: Epoch, k: int, seed: int, labels: Labels) -> None:
    """Write what the method has found for seed number `k` into its run directory; nothing if it found nothing.

    diagnostics/seedS-epochE.npz has the numbers by class, group and cell after each epoch (`judge.kept_by_epoch`).
    findings-seedS.npz is of the newest epoch: names and kinds of all findings, `names` and `kinds`; `epoch`, 1 for the
    first; and what is known of each example (`judge.kept_by_example`).
    """
    findings = epoch.findings[k]
    if not findings:
        return
    kinds = {name: judge.kind_of(name, finding) for name, finding in findings.items()}
    arrays: dict[str, Any] = {
        "names": np.array(list(kinds)),
        "kinds": np.array(list(kinds.values())),
        "epoch": np.array(epoch.epoch + 1),
        **judge.kept_by_example(findings),
    }
    _save(path / f"findings-seed{seed}.npz", arrays)
    kept: dict[str, Any] = diagnostics(epoch, k, labels)
    if kept:
        folder = path / "diagnostics"
        folder.mkdir(exist_ok=True)
        np.savez_compressed(folder / f"seed{seed}-epoch{epoch.epoch + 1:04d}.npz", **kept)


def _save(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)
