"""Which labels are wrong, and how many: a decision from predicted probabilities, without JAX.

The probabilities of a classifier that learned from the labels in question are neither those of the true labels nor
those of the given ones: too sharp or too flat, and shaped by the noise. So a model of both is fitted to the given
labels by maximum likelihood: the true label i of an input x is drawn from the sharpened prediction

    π_i(x) ∝ exp(β log p_i(x) + b_i),

and the given one j from a transition that may depend on how ambiguous the input is,

    T_ij(x) ∝ exp(d_i 1[i = j] + c_j + B_ij) π_j(x)^γ.

and, γ left aside, T_ii is hardly below any T_ij: a class is called by its own name at least as often as by another's.
Without that two classes could exchange their names where 40 % of one are called like the other, and what is right would
be wrong.

γ = 0 is class-conditional noise (Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017, whose
transition matrix is then T; found here by maximum likelihood as Zhang and Sugiyama, 2021, do rather than from anchor
points); γ > 0 is that of people, who err where inputs are ambiguous and into what they resemble. The posterior
probability that true and given label differ is the score, and its sum the count.
"""

from collections.abc import Iterator, Mapping
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
      order: positions of all examples, most suspicious first, int64 [N]: by the score, and where that is the same (all
        may be 1 of what lies far from the rest) by what it is from.
      suspects: the first round(count) of these; none if `ranks_only`.
      transition: row i is the distribution of the given label where i is the true one, float64 [C, C].
      prior: shares of the true classes, float64 [C].
      alternative: the most likely label but the given one, int32 [N].
      confidence: the estimated probability that this one is right, float32 [N]; at most the score.
      ranks_only: whether nothing tells how many are wrong, as where a model has learned wrong labels by heart, or only
        `guesses`: scores rank and are no probabilities, low and high are 0 and N, other numbers are nothing but sums of
        scores.
    """

    score: np.ndarray
    proposed: np.ndarray
    count: float  # type: ignore[assignment]  # a field by that name, not the method of tuples
    low: float
    high: float
    order: np.ndarray
    suspects: np.ndarray
    transition: np.ndarray
    prior: np.ndarray
    alternative: np.ndarray
    confidence: np.ndarray
    ranks_only: bool = False


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
        labels. Then there are two witnesses. The evidence of training: all of it averaged by ranks, on the scale of
        `mean_margin`, and calibrated by a mixture of two normal distributions, which takes hard examples for wrong
        labels. And the model of true and given labels, which sees nothing that has been memorised: it is not heard
        where the probabilities give back 95 % of the labels, or where it finds less than half of what the first does
        and of the predictions that differ from the labels. The first is not heard beside it where it finds more wrong
        labels than predictions differ; by itself, where it finds more than twice as many, it only ranks them
        (`Audit.ranks_only`). The score is the mean of those that are heard. The interval begins at 0: only
        cross-fitting tells a number from below. Else `mean_margin` and `scores` are only checked: what a network
        learned from a label adds nothing that can be counted.
      mean_margin: mean over training of the logit of the given label minus the largest other one, [N]; the best single
        score in arXiv 2510.16211.
      scores: further evidence [N] each, by name, higher for more suspicious; on any scale.

    Returns:
      An `Audit`.

    Raises:
      ValueError: for shapes, values or classes that do not fit, naming the argument.
    """
    labels, probs = _checked(labels, pred_probs)
    count, classes = probs.shape
    evidence = {name: _checked_scores(name, values, count) for name, values in scores.items()}
    margin = None if mean_margin is None else _checked_scores("mean_margin", mean_margin, count)
    differ = int(np.sum(probs.argmax(axis=1) != labels))
    fitted = None if in_sample and differ <= (1 - _MEMORISED) * count else _fit(labels, probs)
    told, trust = None, probs[np.arange(count), labels]
    if in_sample:
        told, trust = _suspicion(labels, probs, margin, evidence)
        if fitted is not None:
            seen = np.concatenate([
                1 - _posterior(fitted.model, labels[part], probs[part])[np.arange(len(labels[part])), labels[part]]
                for part in _parts(count, classes)
            ])  # fmt: skip
            if seen.sum() < _BLIND * min(told.sum(), differ):
                fitted = None
            else:
                told = seen if told.sum() > differ else (told + seen) / 2
    ranks_only = guesses(labels, probs) or (told is not None and fitted is None and bool(_BLIND * told.sum() > differ))
    wrong, proposed = np.empty(count), np.empty(count, np.int32)
    alternative, confidence = np.empty(count, np.int32), np.empty(count, np.float32)
    joint = np.zeros((classes, classes))
    for part in _parts(count, classes):
        given = labels[part]
        posterior = probs[part] if fitted is None else _posterior(fitted.model, given, probs[part])
        if told is not None:
            posterior = _reweighted(posterior, given, told[part])
        wrong[part] = 1 - posterior[np.arange(len(given)), given]
        proposed[part] = np.argmax(posterior, axis=1)
        joint += np.stack([np.bincount(given, weights=column, minlength=classes) for column in posterior.T])
        posterior[np.arange(len(given)), given] = -1  # which is of no more use
        alternative[part] = np.argmax(posterior, axis=1)
        confidence[part] = np.max(posterior, axis=1)
    wrong = np.clip(wrong, 0, 1)
    total = float(wrong.sum())
    if told is None:
        assert fitted is not None
        low, high = _interval(wrong, count * fitted.low, count * fitted.high, _OF_UNDECIDED)
    else:
        low, high = 0.0, _interval(wrong, total, total, _OF_UNDECIDED_IN_SAMPLE)[1]
    if ranks_only:
        low, high = 0.0, float(count)
    order = np.lexsort([trust, -wrong])
    truly = joint.sum(1)
    transition = np.where(truly[:, None] > 0, joint, np.eye(classes))
    return Audit(
        score=wrong.astype(np.float32),
        proposed=proposed,
        count=total,
        low=low,
        high=high,
        order=order,
        suspects=order[: 0 if ranks_only else round(total)],
        transition=transition / transition.sum(1, keepdims=True),
        prior=truly / truly.sum(),
        alternative=alternative,
        confidence=np.clip(confidence, 0, 1),
        ranks_only=ranks_only,
    )


def guesses(labels: np.ndarray, pred_probs: np.ndarray) -> bool:
    """Whether predictions [N, C] agree with labels [N] no more than if they had nothing to do with each other.

    By three standard deviations of the number that agree where labels are shuffled. Such a model knows nothing of them,
    as one that has hardly been trained or that names one class for all.

    Examples:
      >>> labels = np.arange(90) % 3
      >>> guesses(labels, np.eye(3)[labels]), guesses(labels, np.eye(3)[np.zeros(90, int)])
      (False, True)
    """
    count, classes = pred_probs.shape
    predicted = np.argmax(pred_probs, axis=1)
    of_predicted, of_given = (np.bincount(each, minlength=classes) / count for each in (predicted, labels))
    by_chance = of_predicted @ of_given
    apart = np.eye(classes) - of_given[:, None] - of_predicted[None] + by_chance
    spread = np.sqrt(of_predicted @ np.square(apart) @ of_given / max(count - 1, 1))
    return bool(np.mean(predicted == labels) <= by_chance + 3 * spread)


# What the model's errors were on data with known labels (tests and README), beside what the likelihood leaves open:
# a share of the count, one of what is undecided, and one of all, for what networks are wrong about and sure of.
_OF_COUNT, _OF_UNDECIDED, _OF_UNDECIDED_IN_SAMPLE, _OF_ALL = 0.05, 0.45, 1.0, 0.004


def _interval(wrong: np.ndarray, least: float, most: float, of_undecided: float) -> tuple[float, float]:
    """An interval of 95 % for the number of wrong labels.

    Args:
      wrong: the estimated probability that each is wrong, [N].
      least: the lowest number that the likelihood allows for.
      most: the highest.
      of_undecided: how much may be wrong in what is undecided.
    """
    count = wrong.sum()
    undecided = np.minimum(wrong, 1 - wrong).sum()
    variance = np.square([_OF_COUNT * count, of_undecided * undecided, _OF_ALL * len(wrong)]).sum()
    variance += np.sum(wrong * (1 - wrong)) + 1
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

# The model is one of many that are nearly right, so its likelihood counts for less than it says: to this power, and
# never for more than so many examples (Miller and Dunson, Robust Bayesian Inference via Coarsening, 2019).
_COARSE, _WORTH = 0.25, 5000
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


def _prior(classes: int, log_beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres and standard deviations of the parameters' normal priors, β's in relation to that of the given labels.

    By them most labels are right, classes are alike, and noise grows with ambiguity as that of people does, a little.
    """
    centre = np.repeat([log_beta + 0.5, 0.1, np.log(30.0 * (classes - 1)), 0, 0, 0, 0], _sizes(classes))
    return centre, np.repeat([0.5, 0.1, 1.3, 2.0, 0.7, 1.0, 2.0], _sizes(classes))


def _unpack(x: np.ndarray, classes: int) -> _Model:
    log_beta, gamma, mean, bias, diagonal, columns, pairs = np.split(x, np.cumsum(_sizes(classes))[:-1])
    return _Model(
        float(np.exp(log_beta[0])), float(gamma[0]), bias, mean + diagonal, columns,
        pairs.reshape(classes, classes) if len(pairs) else None,
    )  # fmt: skip


def _affinity(model: _Model) -> np.ndarray:
    """What T is proportional to the exponential of, without γ: [C, C]."""
    assert model.pairs is not None
    return np.diag(model.diagonal) + model.columns + model.pairs


def _dense(model: _Model) -> np.ndarray:
    """The factors of T without γ, each row with a maximum of 1: [C, C]."""
    affinity = _affinity(model)
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


_OWN_NAME = 0.3  # the standard deviation of what log T_ij may lie above log T_ii


def _excess(model: _Model) -> tuple[float, np.ndarray]:
    """How far T_ij lies above T_ii, as minus a log density, and its gradient by all parameters; γ left aside."""
    classes, affinity = len(model.diagonal), _affinity(model)
    above = np.maximum(affinity - np.diag(affinity)[:, None], 0) / _OWN_NAME
    of_pairs = above / _OWN_NAME
    of_own = -of_pairs.sum(1)
    of_pairs += np.diag(of_own)
    gradient = np.concatenate([
        [0, 0, of_own.sum()], np.zeros(classes), of_own, of_pairs.sum(0), of_pairs.ravel(),
    ])  # fmt: skip
    return 0.5 * float(np.sum(np.square(above))), gradient


def _objective(
    x: np.ndarray, labels: np.ndarray, logits: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
) -> tuple[float, np.ndarray]:
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
    centre, scale = prior
    deviation = (x - centre) / scale
    coarse = min(_COARSE, _WORTH / len(labels))
    value = coarse * value - 0.5 * np.sum(np.square(deviation))
    gradient = coarse * gradient - deviation / scale
    if model.pairs is not None:
        excess, of_model = _excess(model)
        value, gradient = value - excess, gradient - of_model
    return -value / len(labels), -gradient / len(labels)


def _maximise(
    x: np.ndarray, labels: np.ndarray, logits: np.ndarray, prior: tuple[np.ndarray, np.ndarray], log_beta: float
) -> tuple[np.ndarray, float]:
    """The parameters of highest posterior density at β from `x` on, and the log density there."""
    free = np.ones(len(x))
    x, free[0] = np.concatenate([[log_beta], x[1:]]), 0

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _objective(y, labels, logits, prior)
        return value, gradient * free

    found = optimize.minimize(
        objective, x, jac=True, method="L-BFGS-B", options={"maxiter": 100, "maxcor": 30, "ftol": 1e-6}
    )
    return found.x, -found.fun * len(labels)


def _log_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """log β at which softmax(β logits) fits the given labels best, by maximum likelihood."""
    rows = np.arange(len(labels))

    def loss(log_beta: float) -> float:
        return -float(np.mean(special.log_softmax(np.exp(log_beta) * logits, axis=1)[rows, labels]))

    return float(optimize.minimize_scalar(loss, bounds=(-4, 3), method="bounded", options={"xatol": 1e-3}).x)


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
    """The fitted model, and the shares of wrong labels between which the posterior over β has 95 % of its mass."""

    model: _Model
    low: float
    high: float


# log β less that of the given labels: 0 if these are right, and the true labels the more certain the higher.
_SHARPER = (0.0, 0.2, 0.45, 0.75, 1.1, 1.5)
_USUAL = 0.25  # the prior's standard deviation of the share of wrong labels, by which many are less likely than few


def _fit(labels: np.ndarray, probs: np.ndarray) -> _Fit:
    """The model at the posterior median of the number of wrong labels.

    How many labels are wrong hangs above all on how certain the true ones are, given the input: where the network is in
    doubt, either it or the given label is to blame. So β is what is profiled over, and the other parameters follow.
    """
    classes = probs.shape[1]
    few = int(max(1000, _FITTED / classes))
    if len(labels) > few:
        chosen = np.sort(np.random.default_rng(0).choice(len(labels), few, replace=False))
        labels, probs = labels[chosen], probs[chosen]
    probs = np.asarray(probs, np.float64)
    logits = _logits(probs)
    part = slice(None, None, -(-len(labels) * classes // 80_000))
    some, of_some = labels[part], logits[part]
    base = _log_temperature(some, of_some)
    prior = _prior(classes, base)
    grid = base + np.array(_SHARPER)
    best: list[tuple[np.ndarray, float]] = []
    plain, *counted = _starts(some, probs[part])
    for starts, order in ((plain, 1), *((start, -1) for start in counted)):
        # From what is certain to fit well on, each from its neighbour: with little noise upwards, with much downwards.
        x, found = starts, []
        for log_beta in grid[::order]:
            x, density = _maximise(x, some, of_some, prior, log_beta)
            found.append((x, density))
        found = found[::order]
        best = [max(pair, key=lambda each: each[1]) for pair in zip(best, found, strict=True)] if best else found
    fine = np.linspace(grid[0], grid[-1], 721)
    shares = np.interp(fine, grid, [_wrong_share(x, some, of_some) for x, _ in best])
    # Where a network is so weak that the likelihood does not decide: half of all labels are rarely wrong.
    log_mass = np.interp(fine, grid, [each for _, each in best]) - 0.5 * np.square(shares / _USUAL)
    order_of_share = np.argsort(shares, kind="stable")
    mass = np.cumsum(np.exp(log_mass - log_mass.max())[order_of_share])
    low, median, high = (order_of_share[np.searchsorted(mass, q * mass[-1])] for q in (0.025, 0.5, 0.975))
    near = best[int(np.argmin(np.abs(grid - fine[median])))][0]
    x, _ = _maximise(near, labels, logits, prior, float(fine[median]))
    return _Fit(_unpack(x, classes), float(shares[low]), float(shares[high]))


def _wrong_share(x: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> float:
    joint = _terms(_unpack(x, logits.shape[1]), labels, logits).joint
    return float(np.mean(1 - joint[np.arange(len(labels)), labels] / joint.sum(1)))


def _parts(count: int, classes: int) -> Iterator[slice]:
    """Of `count` rows of `classes` numbers, so many at a time as memory is to hold."""
    size = max(1, _CHUNK // classes)
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _posterior(model: _Model, labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """P(true = i | x, given), [N, C]."""
    joint = _terms(model, labels, _logits(probs)).joint
    return joint / joint.sum(1, keepdims=True)


# Evidence gathered in training.

# Where the model of true and given labels is not heard, see `audit`; chosen on 26 runs whose true labels are known.
_MEMORISED, _BLIND = 0.95, 0.5


def _suspicion(
    labels: np.ndarray, probs: np.ndarray, mean_margin: np.ndarray | None, scores: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The probability that each label is wrong, [N], by a mixture of two normal distributions, and what that is of.

    What is mixed is the mean of all evidence on the scale of the first that there is: `mean_margin`, the `scores` and
    the log margin of the given label in `probs`. The others are brought to that scale by ranks (the most suspicious has
    the lowest value that there is, and so on; ties share theirs). The lower component is that of wrong labels, and the
    probability falls with that mean, the second thing returned, throughout.
    """
    from sklearn.mixture import GaussianMixture  # a third of what a command would import before its first word

    rows = np.arange(len(labels))
    own = probs[rows, labels].astype(np.float64)
    others = probs.copy()
    others[rows, labels] = 0
    margins = [np.log(np.maximum(own, 1e-12)) - np.log(np.maximum(others.max(axis=1), 1e-12))]
    margins = [*([] if mean_margin is None else [mean_margin]), *margins, *(-value for value in scores.values())]
    scale = np.sort(margins[0])
    values = np.mean([_by_rank(each, scale) for each in margins], axis=0)
    spread = values.std()
    if not spread > 0:
        return np.zeros(len(values)), values
    values = ((values - values.mean()) / spread)[:, None]
    start = np.quantile(values, [0.05, 0.6])[:, None]
    mixture = GaussianMixture(2, means_init=start, reg_covar=1e-4, random_state=0)
    mixture.fit(values[:: -(-len(values) // 100_000)])
    means = mixture.means_.ravel()
    lower = int(np.argmin(means))
    wrong = mixture.predict_proba(values)[:, lower]
    wrong[values[:, 0] > means[1 - lower]] = 0  # where a wide lower component would have the upper end too
    order = np.argsort(values[:, 0], kind="stable")
    wrong[order] = np.maximum.accumulate(wrong[order][::-1])[::-1]
    return wrong, values[:, 0]


def _by_rank(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """For each of `values` [N] the entry of `ascending` [N] at its rank, the mean of these where values are equal."""
    _, which, size = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(size)
    sums = np.concatenate([[0.0], np.cumsum(ascending, dtype=np.float64)])
    return ((sums[ends] - sums[ends - size]) / size)[which]


def _reweighted(posterior: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Probabilities [N, C] with the probability `wrong` [N] spread over the labels that are not the given one."""
    rows = np.arange(len(labels))
    others = posterior + 1e-12
    others[rows, labels] = 0
    found = others / others.sum(1, keepdims=True) * wrong[:, None]
    found[rows, labels] = 1 - wrong
    return found
