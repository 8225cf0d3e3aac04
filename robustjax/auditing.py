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
    count, classes = probs.shape
    evidence = {name: _checked_scores(name, values, count) for name, values in scores.items()}
    if mean_margin is not None:
        evidence["mean_margin"] = -_checked_scores("mean_margin", mean_margin, count)
    fitted = _fit(labels, probs)
    told = _from_evidence(evidence) if in_sample and evidence else None
    wrong, proposed = np.empty(count), np.empty(count, np.int32)
    joint = np.zeros((classes, classes))
    size = max(1, _CHUNK // classes)
    for first in range(0, count, size):
        part = slice(first, first + size)
        given = labels[part]
        posterior = _posterior(fitted.model, given, probs[part])
        if told is not None:
            posterior = _reweighted(posterior, given, told[part])
        wrong[part] = 1 - posterior[np.arange(len(given)), given]
        proposed[part] = np.argmax(posterior, axis=1)
        joint += np.stack([np.bincount(given, weights=column, minlength=classes) for column in posterior.T])
    wrong = np.clip(wrong, 0, 1)
    total = float(wrong.sum())
    low, high = _interval(wrong, count * fitted.low, count * fitted.high)
    truly = joint.sum(1)
    transition = np.where(truly[:, None] > 0, joint, np.eye(classes))
    return Audit(
        score=wrong.astype(np.float32),
        proposed=proposed,
        count=total,
        low=low,
        high=high,
        suspects=np.argsort(-wrong, kind="stable")[: round(total)],
        transition=transition / transition.sum(1, keepdims=True),
        prior=truly / truly.sum(),
    )


# What the model's errors were on data with known labels (tests and README), beside what the likelihood leaves open:
# a share of the count, and one of what is undecided.
_OF_COUNT, _OF_UNDECIDED = 0.05, 0.15


def _interval(wrong: np.ndarray, least: float, most: float) -> tuple[float, float]:
    """An interval of 95 % for the number of wrong labels.

    Args:
      wrong: the estimated probability that each is wrong, [N].
      least: the lowest number that the likelihood allows for.
      most: the highest.
    """
    count = wrong.sum()
    undecided = np.minimum(wrong, 1 - wrong).sum()
    variance = np.square([_OF_COUNT * count, _OF_UNDECIDED * undecided]).sum() + np.sum(wrong * (1 - wrong)) + 1
    spread = np.square(_LEVEL) * variance
    low = count - np.sqrt(spread + np.square(max(count - least, 0)))
    high = count + np.sqrt(spread + np.square(max(most - count, 0)))
    return float(max(low, 0)), float(min(high, len(wrong)))


def _checked(labels: np.ndarray, pred_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 [N], and probabilities [N, C]."""
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
    bad = np.flatnonzero(~((probs.min(axis=1) >= 0) & (np.abs(probs.sum(axis=1, dtype=np.float64) - 1) < 0.01)))
    if len(bad):
        raise ValueError(f"pred_probs must be probabilities that sum to 1 in each row; row {bad[0]} does not")
    return labels.astype(np.int64), probs


def _checked_scores(name: str, values: np.ndarray, count: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be {count} finite numbers, got shape {values.shape}")
    return values


# The model of true and given labels.

# The model is one of many that are nearly right, so its likelihood counts for less than it says: to this power
# (Miller and Dunson, Robust Bayesian Inference via Coarsening, 2019).
_COARSE = 0.25
_DENSE = 200  # above so many classes T has no free entry for each pair: memory, and few examples a pair
_FITTED = 2e6  # probabilities that are fitted to, at most; of more a sample
_CHUNK = 2**22  # probabilities that are worked on at a time


class _Model(NamedTuple):
    """Parameters: `beta` and `gamma` scalars; `bias`, `diagonal`, `columns` [C]; `pairs` [C, C] or, for many, None."""

    beta: float
    gamma: float
    bias: np.ndarray
    diagonal: np.ndarray
    columns: np.ndarray
    pairs: np.ndarray | None


class _Terms(NamedTuple):
    """`log_true` log π, `power` π^γ, `normaliser` of T, `joint` P(i, given) without its factor π_given^γ: [N, C]."""

    log_true: np.ndarray
    power: np.ndarray
    normaliser: np.ndarray
    joint: np.ndarray


def _logits(probs: np.ndarray) -> np.ndarray:
    found = np.log(np.maximum(np.asarray(probs, np.float64), _FLOOR))
    return found - found.mean(axis=1, keepdims=True)


def _sizes(classes: int) -> list[int]:
    """How many numbers: log β, γ, mean of d; b, d less its mean, c; B."""
    return [1, 1, 1, classes, classes, classes, classes * classes if classes <= _DENSE else 0]


def _prior(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and standard deviations of the parameters' normal priors.

    By them most labels are right, classes are alike, and noise grows with ambiguity as that of people does, a little.
    """
    centre = np.repeat([0.6, 0.1, np.log(30.0 * (classes - 1)), 0, 0, 0, 0], _sizes(classes))
    return centre, np.repeat([0.5, 0.1, 3.0, 2.0, 0.7, 1.0, 2.0], _sizes(classes))


def _unpack(x: np.ndarray, classes: int) -> _Model:
    log_beta, gamma, mean, bias, diagonal, columns, pairs = np.split(x, np.cumsum(_sizes(classes))[:-1])
    return _Model(
        float(np.exp(log_beta[0])), float(gamma[0]), bias, mean + diagonal, columns,
        pairs.reshape(classes, classes) if len(pairs) else None,
    )  # fmt: skip


def _dense(model: _Model) -> np.ndarray:
    """The factors of T without γ, each row with a maximum of 1: [C, C]."""
    assert model.pairs is not None
    affinity = np.diag(model.diagonal) + model.columns + model.pairs
    return np.exp(affinity - affinity.max(axis=1, keepdims=True))


def _terms(model: _Model, labels: np.ndarray, logits: np.ndarray) -> _Terms:
    log_true = special.log_softmax(model.beta * logits + model.bias, axis=1)
    power = np.exp(model.gamma * log_true)
    if model.pairs is not None:
        weights = _dense(model)
        normaliser, chosen = power @ weights.T, weights.T[labels]
    else:  # the same without a matrix: exp(c_j), times exp(d_i) where i = j, all divided by exp(d_i)
        others, chosen = np.exp(-model.diagonal), np.tile(np.exp(-model.diagonal), (len(labels), 1))
        chosen[np.arange(len(labels)), labels] = 1.0
        chosen *= np.exp(model.columns)[labels][:, None]
        by_column = power * np.exp(model.columns)
        normaliser = by_column.sum(1, keepdims=True) * others + by_column * (1 - others)
    return _Terms(log_true, power, normaliser, np.exp(log_true) * chosen / normaliser)


def _objective(x: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the coarsened log posterior density, and its gradient, per example."""
    classes, rows = logits.shape[1], np.arange(len(labels))
    model = _unpack(x, classes)
    log_true, power, normaliser, joint = _terms(model, labels, logits)
    total = joint.sum(1)
    share = joint / total[:, None]
    value = np.sum(np.log(total) + model.gamma * log_true[rows, labels])

    ratio = share / normaliser
    on_label = np.bincount(labels, weights=share[rows, labels], minlength=classes)
    if model.pairs is not None:
        weights = _dense(model)
        expected = (ratio @ weights) * power  # of the given label under the model, [N, C]
        by_pair = np.stack([np.bincount(labels, weights=column, minlength=classes) for column in share.T])
        of_pairs = by_pair - weights * (ratio.T @ power)
        of_diagonal = np.diag(of_pairs)
        of_columns = of_pairs.sum(0)
    else:
        others, by_column = np.exp(-model.diagonal), power * np.exp(model.columns)
        expected = by_column * (ratio @ others)[:, None] + ratio * by_column * (1 - others)
        of_pairs = np.zeros(0)
        of_diagonal = on_label - np.sum(ratio * by_column, axis=0)
        of_columns = np.bincount(labels, minlength=classes) - expected.sum(0)
    of_gamma = np.sum(log_true[rows, labels]) - np.sum(expected * log_true)
    of_logits = share - model.gamma * expected - np.exp(log_true)
    of_logits[rows, labels] += model.gamma
    gradient = np.concatenate([
        [model.beta * np.sum(of_logits * logits), of_gamma, of_diagonal.sum()],
        of_logits.sum(0), of_diagonal, of_columns, of_pairs.ravel(),
    ])  # fmt: skip
    centre, scale = _prior(classes)
    deviation = (x - centre) / scale
    value = _COARSE * value - 0.5 * np.sum(np.square(deviation))
    gradient = _COARSE * gradient - deviation / scale
    return -value / len(labels), -gradient / len(labels)


def _maximise(x: np.ndarray, labels: np.ndarray, logits: np.ndarray, gamma: float | None) -> tuple[np.ndarray, float]:
    """The parameters of highest posterior density from `x` on, `gamma` held if given, and the log density there."""
    free = np.ones(len(x))
    if gamma is not None:
        x, free[1] = np.concatenate([x[:1], [gamma], x[2:]]), 0

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _objective(y, labels, logits)
        return value, gradient * free

    found = optimize.minimize(
        objective, x, jac=True, method="L-BFGS-B", options={"maxiter": 200, "maxcor": 30, "ftol": 1e-8}
    )
    return found.x, -found.fun * len(labels)


def _starts(labels: np.ndarray, probs: np.ndarray) -> list[np.ndarray]:
    """Where to begin: with noise of 10 % everywhere and, with pairs, with the counts of confident predictions.

    A prediction counts as the class whose probability is highest in relation to its mean where it is given, as in
    confident learning (Northcutt et al., Confident Learning, 2021).
    """
    classes = probs.shape[1]
    sizes = np.cumsum(_sizes(classes))
    plain = np.zeros(sizes[-1])
    plain[0], plain[2] = 0.5, np.log(9.0 * (classes - 1))
    if classes > _DENSE:
        return [plain]
    size = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, weights=probs[np.arange(len(labels)), labels], minlength=classes)
    likely = np.argmax(probs / np.where(own > 0, own / np.maximum(size, 1), 1.0), axis=1)
    joint = np.full((classes, classes), 0.5)
    np.add.at(joint, (likely, labels), 1)
    exponent = np.log(joint)
    off = exponent[~np.eye(classes, dtype=bool)].reshape(classes, -1).mean(1)
    counted = plain.copy()
    counted[0], counted[2] = 0.9, np.mean(np.diag(exponent) - off)
    counted[sizes[-2] :] = (exponent - off[:, None] - counted[2] * np.eye(classes)).ravel()
    return [plain, counted]


class _Fit(NamedTuple):
    """The fitted model, and the counts of wrong labels, as shares, at which its profile over γ ends."""

    model: _Model
    low: float
    high: float


_STEPS = (-0.3, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.3)  # of γ around its estimate


def _fit(labels: np.ndarray, probs: np.ndarray) -> _Fit:
    classes = probs.shape[1]
    few = int(max(1000, _FITTED / classes))
    if len(labels) > few:
        chosen = np.sort(np.random.default_rng(0).choice(len(labels), few, replace=False))
        labels, probs = labels[chosen], probs[chosen]
    probs = np.asarray(probs, np.float64)
    logits = _logits(probs)
    # Near the optimum a part of the examples gets there, and tells how the count hangs on γ.
    part = slice(None, None, -(-len(labels) * classes // 100_000))
    tried = [_maximise(start, labels[part], logits[part], None) for start in _starts(labels[part], probs[part])]
    start, _ = max(tried, key=lambda each: each[1])
    best, _ = _maximise(start, labels, logits, None)
    centre = best[1]
    shares = {0.0: (_wrong_share(best, labels, logits), 0.0)}
    scale = len(labels) / len(labels[part])
    _, top = _maximise(best, labels[part], logits[part], centre)
    for steps in (_STEPS[3::-1], _STEPS[4:]):
        x = best
        for step in steps:
            x, density = _maximise(x, labels[part], logits[part], centre + step)
            # The likelihood grows with the number of examples, what it is in doubt about does not all do so.
            shares[step] = _wrong_share(x, labels[part], logits[part]), (density - top) * np.sqrt(scale)
            if shares[step][1] < -8:
                break
    ends = [share for share, drop in _interpolated(shares) if drop > -0.5 * _LEVEL**2]
    return _Fit(_unpack(best, classes), min(ends), max(ends))


def _interpolated(shares: Mapping[float, tuple[float, float]]) -> np.ndarray:
    """(share, drop of log density) on a fine grid of γ, [_, 2]."""
    steps = sorted(shares)
    fine = np.linspace(steps[0], steps[-1], 401)
    fine = np.append(fine, 0.0)
    return np.stack([np.interp(fine, steps, [shares[step][k] for step in steps]) for k in (0, 1)], axis=1)


def _wrong_share(x: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> float:
    joint = _terms(_unpack(x, logits.shape[1]), labels, logits).joint
    return float(np.mean(1 - joint[np.arange(len(labels)), labels] / joint.sum(1)))


def _posterior(model: _Model, labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """P(true = i | x, given), [N, C]."""
    joint = _terms(model, labels, _logits(probs)).joint
    return joint / joint.sum(1, keepdims=True)


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
