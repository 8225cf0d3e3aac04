"""Which labels are wrong, and how many: a decision from predicted probabilities, by NumPy and SciPy alone.

The probabilities of a classifier that learned from the labels in question are neither those of the true labels nor
those of the given ones: too sharp or too flat, and shaped by the noise. So a model of both is fitted to the given
labels by maximum likelihood: the true label i of an input x is drawn from the sharpened prediction

    π_i(x) ∝ exp(β log p_i(x) + b_i),

and the given one j from a transition that may depend on how ambiguous the input is,

    T_ij(x) ∝ exp(d_i 1[i = j] + c_j + B_ij) π_j(x)^γ.

γ = 0 is class-conditional noise (Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017, whose
transition matrix is then T; found here by maximum likelihood as Zhang and Sugiyama, 2021, do rather than from anchor
points); γ > 0 is that of people, who err where inputs are ambiguous and into what they resemble. The posterior
probability that true and given label differ is the score, and its sum the count.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

_FLOOR = 1e-6  # of a probability: what float32 softmaxes of networks resolve
_LEVEL = 1.959964  # standard deviations of an interval of 95 %


class Audit(NamedTuple):
    """What `audit` finds.

    Attributes:
      score: the estimated probability that the given label is wrong, float32 [N] in [0, 1].
      proposed: the most likely label, int32 [N].
      count: how many of the N labels are estimated to be wrong.
      low: lower end of an interval of 95 % for that number.
      high: its upper end.
      suspects: positions of the round(count) examples of highest score, most suspicious first, int64.
      transition: row i is the distribution of the given label where i is the true one, float64 [C, C].
      prior: shares of the true classes, float64 [C].
    """

    score: np.ndarray
    proposed: np.ndarray
    count: float  # type: ignore[assignment]  # a field by that name, not the method of tuples
    low: float
    high: float
    suspects: np.ndarray
    transition: np.ndarray
    prior: np.ndarray


def audit(
    labels: np.ndarray,
    pred_probs: np.ndarray,
    *,
    in_sample: bool = False,
    mean_margin: np.ndarray | None = None,
    scores: Mapping[str, np.ndarray] = {},
) -> Audit:
    """Which of the given labels are wrong, and how many.

    Args:
      labels: the given labels, integers [N] in 0 … C−1.
      pred_probs: predicted probabilities [N, C], C ≥ 2; of models that did not learn from the label they are judged
        with (cross-validation), unless `in_sample`.
      in_sample: the probabilities are those of a model on what it was trained on, where it may have memorised wrong
        labels; then `mean_margin` and `scores` are the better evidence.
      mean_margin: mean over training of the logit of the given label minus the largest other one, [N].
      scores: further evidence [N] each, by name, higher for more suspicious; on any scale.

    Returns:
      An `Audit`.

    Raises:
      ValueError: for shapes, values or classes that do not fit, naming the argument.
    """
    labels, probs = _checked(labels, pred_probs)
    evidence = {name: _checked_scores(name, values, len(labels)) for name, values in scores.items()}
    if mean_margin is not None:
        evidence["mean_margin"] = -_checked_scores("mean_margin", mean_margin, len(labels))
    fitted = _fit(labels, probs)
    posterior = _posterior(fitted, labels, probs)
    wrong = 1 - posterior[np.arange(len(labels)), labels]
    if in_sample and evidence:
        wrong = _from_evidence(evidence)
        posterior = _reweighted(posterior, labels, wrong)
    count = float(wrong.sum())
    spread = _LEVEL * np.sqrt(np.sum(wrong * (1 - wrong)) + np.square(0.15 * count) + 1)
    joint = np.stack([np.bincount(labels, weights=column, minlength=probs.shape[1]) for column in posterior.T])
    truly = joint.sum(1)
    transition = np.where(truly[:, None] > 0, joint, np.eye(len(joint)))
    return Audit(
        score=wrong.astype(np.float32),
        proposed=np.argmax(posterior, axis=1).astype(np.int32),
        count=count,
        low=float(max(0.0, count - spread)),
        high=float(min(len(labels), count + spread)),
        suspects=np.argsort(-wrong, kind="stable")[: round(count)],
        transition=transition / transition.sum(1, keepdims=True),
        prior=truly / truly.sum(),
    )


def _checked(labels: np.ndarray, pred_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 [N] and probabilities as float64 [N, C] whose rows sum to 1."""
    labels, probs = np.asarray(labels), np.asarray(pred_probs)
    if probs.ndim != 2 or probs.shape[1] < 2 or probs.dtype.kind != "f":
        raise ValueError(
            f"pred_probs must be numbers of shape [N, C] with at least 2 classes, got {probs.dtype} {probs.shape}"
        )
    if labels.shape != probs.shape[:1] or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(
            f"labels must be integers of shape {probs.shape[:1]}, one for each row of pred_probs, at least one; got "
            f"{labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= probs.shape[1]:
        raise ValueError(
            f"labels must be in 0 … {probs.shape[1] - 1}, as pred_probs has {probs.shape[1]} columns; got "
            f"{labels.min()} … {labels.max()}"
        )
    probs = probs.astype(np.float64)
    sums = probs.sum(axis=1)
    bad = np.flatnonzero(~((probs >= 0).all(axis=1) & (np.abs(sums - 1) < 0.01)))
    if len(bad):
        raise ValueError(f"pred_probs must be probabilities that sum to 1 in each row; row {bad[0]} does not")
    return labels.astype(np.int64), probs / sums[:, None]


def _checked_scores(name: str, values: np.ndarray, count: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be {count} finite numbers, got shape {values.shape}")
    return values


# The model of true and given labels.


class _Model(NamedTuple):
    """Its parameters: `beta` and `gamma` scalars, `bias` [C], `affinity` [C, C], the exponent of T without γ."""

    beta: float
    gamma: float
    bias: np.ndarray
    affinity: np.ndarray


def _logits(probs: np.ndarray) -> np.ndarray:
    found = np.log(np.maximum(probs, _FLOOR))
    return found - found.mean(axis=1, keepdims=True)


def _unpack(x: np.ndarray, classes: int) -> _Model:
    diagonal, columns, rest = np.split(x[2 + classes :], [classes, 2 * classes])
    affinity = np.diag(diagonal) + columns + rest.reshape(classes, classes)
    return _Model(float(np.exp(x[0])), float(x[1]), x[2 : 2 + classes], affinity - affinity.max(1, keepdims=True))


def _terms(model: _Model, labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, ...]:
    """log π, π^γ, the normaliser of T, and P(true = i, given = labels) without the common factor π_given^γ, [N, C]."""
    log_true = special.log_softmax(model.beta * logits + model.bias, axis=1)
    power = np.exp(model.gamma * log_true)
    weights = np.exp(model.affinity)
    normaliser = power @ weights.T
    return log_true, power, normaliser, np.exp(log_true) * weights.T[labels] / normaliser


def _posterior(model: _Model, labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """P(true = i | x, given), [N, C]."""
    joint = _terms(model, labels, _logits(probs))[3]
    return joint / joint.sum(1, keepdims=True)


def _objective(x: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log posterior density per example, and its gradient."""
    classes, rows = logits.shape[1], np.arange(len(labels))
    model = _unpack(x, classes)
    log_true, power, normaliser, joint = _terms(model, labels, logits)
    total = joint.sum(1)
    share = joint / total[:, None]
    given = model.gamma * log_true[rows, labels]
    value = np.sum(np.log(total) + given)

    weights = np.exp(model.affinity)
    ratio = share / normaliser
    expected = (ratio @ weights) * power  # of the given label under the model, [N, C]
    by_pair = np.stack([np.bincount(labels, weights=column, minlength=classes) for column in share.T])
    of_affinity = by_pair - weights * (ratio.T @ power)
    of_gamma = np.sum(log_true[rows, labels]) - np.sum(expected * log_true)
    of_logits = share - model.gamma * expected - np.exp(log_true)
    of_logits[rows, labels] += model.gamma
    gradient = np.concatenate([
        [model.beta * np.sum(of_logits * logits), of_gamma],
        of_logits.sum(0), np.diag(of_affinity), of_affinity.sum(0), of_affinity.ravel(),
    ])  # fmt: skip
    centre, scale = _prior_of(classes)
    deviation = (x - centre) / scale
    value -= 0.5 * np.sum(np.square(deviation))
    gradient -= deviation / scale
    return -value / len(labels), -gradient / len(labels)


def _prior_of(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and standard deviations of the parameters' normal priors."""
    sizes = (1, 1, classes, classes, classes, classes * classes)
    centre = np.repeat([0.4, 0.0, 0.0, np.log(9.0 * (classes - 1)), 0.0, 0.0], sizes)
    scale = np.repeat([1.0, 0.3, 2.0, 2.0, 1.0, 1.5], sizes)
    return centre, scale


def _fit(labels: np.ndarray, probs: np.ndarray) -> _Model:
    logits = _logits(probs)
    start, _ = _prior_of(logits.shape[1])
    found = optimize.minimize(
        _objective, start, (labels, logits), jac=True, method="L-BFGS-B",
        options={"maxiter": 300, "maxcor": 30, "ftol": 1e-8},
    )  # fmt: skip
    return _unpack(found.x, logits.shape[1])


# Evidence gathered in training.


def _from_evidence(evidence: Mapping[str, np.ndarray]) -> np.ndarray:
    """The probability [N] that a label is wrong, by a mixture of two normal distributions on the mean normal score."""
    scored = [special.ndtri((np.argsort(np.argsort(v, kind="stable")) + 0.5) / len(v)) for v in evidence.values()]
    if len(evidence) == 1:
        (scored,) = ([(v - v.mean()) / max(v.std(), 1e-12)] for v in evidence.values())
    values = np.mean(scored, axis=0)
    means, sds, shares = np.quantile(values, [0.5, 0.95]), np.array([values.std() + 1e-6] * 2), np.array([0.8, 0.2])
    wrong = np.zeros(len(values))
    for _ in range(200):
        log = np.log(shares) - np.log(sds) - 0.5 * np.square((values[:, None] - means) / sds)
        share = special.softmax(log, axis=1)
        wrong = share[:, 1]
        sizes = share.sum(0) + 1e-9
        means = (share * values[:, None]).sum(0) / sizes
        sds = np.sqrt((share * np.square(values[:, None] - means)).sum(0) / sizes) + 1e-3
        shares = sizes / sizes.sum()
    order = np.argsort(values)
    monotone = np.empty_like(wrong)
    monotone[order] = np.maximum.accumulate(np.where(values[order] > means[0], wrong[order], 0))
    return monotone


def _reweighted(posterior: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The posterior [N, C] with the probability `wrong` [N] spread over the labels that are not the given one."""
    rows = np.arange(len(labels))
    others = posterior + 1e-12
    others[rows, labels] = 0
    found = others / others.sum(1, keepdims=True) * wrong[:, None]
    found[rows, labels] = 1 - wrong
    return found
