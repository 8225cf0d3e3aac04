"""Stand-in."""
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Audit(NamedTuple):
    """Stand-in."""

    score: np.ndarray
    proposed: np.ndarray
    count: float
    low: float
    high: float
    suspects: np.ndarray
    transition: np.ndarray
    prior: np.ndarray


def audit(labels: np.ndarray, pred_probs: np.ndarray, *, in_sample: bool = False, mean_margin: np.ndarray | None = None,
          scores: Mapping[str, np.ndarray] = {}) -> Audit:
    """Stand-in."""
    n, c = pred_probs.shape
    score = 1 - pred_probs[np.arange(n), labels]
    count = float(score.sum())
    order = np.argsort(-score, kind="stable")
    joint = np.zeros((c, c))
    np.add.at(joint.T, labels, pred_probs)
    prior = joint.sum(1) / n
    return Audit(score.astype(np.float32), pred_probs.argmax(1).astype(np.int32), count, 0.9 * count, 1.1 * count,
                 order[: round(count)], joint / np.maximum(joint.sum(1, keepdims=True), 1e-12), prior)
