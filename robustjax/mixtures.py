"""Mixtures of distributions on the line, fitted by expectation maximisation (EM): which losses belong to wrong labels.

Networks learn right labels before wrong ones, so the losses of the training set fall into two heaps. Gaussians describe
them in DivideMix and ROLT+, beta distributions in M-DYR. A fit starts from the values alone, without a key, runs under
jit, and under vmap fits many mixtures at once (a class or a network each). Examples have weights; 0 leaves one out.
Constant values, an empty component, a single example or none at all give finite results.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import betaln
from jax.typing import ArrayLike

from robustjax import backend
from robustjax._checks import check, check_choice
from robustjax._probabilities import promote

# Gaussian mixtures.


class GaussianMixture(NamedTuple):
    """K Gaussians in the order of their means.

    Attributes:
      weights: `[K]`, summing to 1.
      means: `[K]`, increasing.
      variances: `[K]`, at least the regularisation.
      log_likelihood: scalar, a value's mean log-likelihood before the last update.
      steps: int32 scalar, EM steps made.
    """

    weights: Array
    means: Array
    variances: Array
    log_likelihood: Array
    steps: Array


def fit_gaussian_mixture(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    components: int = 2,
    max_steps: int = 10,
    tolerance: float = 1e-2,
    regularization: float = 5e-4,
) -> GaussianMixture:
    """K Gaussians fitted to numbers by EM, from a start by k-means.

    The steps, stopping rule and regularisation of scikit-learn's `GaussianMixture`, whose defaults here are those of
    DivideMix (Li et al., 2020, authors' code). Its k-means draws its start at random; this one begins with evenly
    spaced centres and is deterministic.

    Args:
      values: `[N]`, finite where their weight is positive.
      weights: `[N]`, non-negative; a mask, or how often each value counts. All 1 by default.
      components: K.
      max_steps: EM steps at most.
      tolerance: stop when a value's mean log-likelihood changes by less.
      regularization: added to variances, in the unit of the values squared (DivideMix's go from 0 to 1, `min_max`).

    Returns:
      The `GaussianMixture`, at least float32. If there are fewer distinct values than components, those too many have
      weight 0; without any value the components are equal.

    >>> mixture = fit_gaussian_mixture(jnp.array([0.0, 0.1, 0.1, 0.9, 1.0]))
    >>> print(mixture.means.round(2))
    [0.07 0.95]
    """
    check("components", components, lambda k: k >= 1, "at least 1")
    check("max_steps", max_steps, lambda n: n >= 0, "at least 0")
    check("regularization", regularization, lambda r: r > 0, "positive")
    return _fit_gaussians(*_values_and_weights(values, weights), components, max_steps, tolerance, regularization)


def gaussian_posterior(mixture: GaussianMixture, values: ArrayLike) -> Array:
    """The probability of each component given a value, `[..., K]`, from values `[...]`."""
    return jax.nn.softmax(_gaussian_log_joint(mixture, promote(values)))


def clean_probability(values: ArrayLike, weights: ArrayLike | None = None, *, normalize: bool = True) -> Array:
    """The probability that a label is right: of the component of smaller losses, DivideMix's w.

    Li et al., 2020, section 3.1; two Gaussians with the authors' settings. Equal losses say nothing of the labels:
    all of them are then right.

    Args:
      values: losses `[N]`.
      weights: `[N]`, 0 for what is to be left out of the fit, as in `fit_gaussian_mixture`.
      normalize: bring losses to [0, 1] by `min_max` first (authors' code).

    Returns:
      Probabilities `[N]`, for those left out as well.
    """
    values = min_max(values, weights) if normalize else promote(values)
    return gaussian_posterior(fit_gaussian_mixture(values, weights), values)[..., 0]


def class_clean_probability(values: ArrayLike, labels: ArrayLike, num_classes: int) -> Array:
    """The probability that a label is right, `[N]`, by a mixture of two Gaussians for each class.

    ROLT+ (Wei et al., Robust Long-Tailed Learning under Label Noise, 2021, authors' code): a class's values are brought
    to [0, 1] by themselves, and the fit has scikit-learn's own settings. So a class of small values throughout has
    its suspects too.

    Args:
      values: `[N]`, smaller where a label is rather right: losses, or distances to a prototype.
      labels: int `[N]`, the given classes.
      num_classes: C.

    Of a class of less than four examples all labels are right: to so few two Gaussians can be fitted in any way.
    """
    values, labels = promote(values), jnp.asarray(labels)

    def of_class(which: Array) -> Array:
        weights = (labels == which).astype(values.dtype)
        scaled = min_max(values, weights)
        mixture = fit_gaussian_mixture(scaled, weights, max_steps=100, tolerance=1e-3, regularization=1e-6)
        return jnp.where(jnp.sum(weights) < 4, 1, gaussian_posterior(mixture, scaled)[:, 0])

    # One class after the other: all at once would take C times the memory.
    def add(found: Array, which: Array) -> tuple[Array, None]:
        return jnp.where(labels == which, of_class(which), found), None

    return jax.lax.scan(add, jnp.zeros_like(values), jnp.arange(num_classes, dtype=labels.dtype))[0]


def prototype_distances(
    features: ArrayLike, labels: ArrayLike, num_classes: int, weights: ArrayLike | None = None
) -> Array:
    """Squared distances `[N]` of examples to the prototype of their class.

    Features are centred by their mean over all examples and scaled to length 1; a prototype is the mean of those of its
    class (ROLT+, authors' code, which does not scale the prototypes again).

    Args:
      features: `[N, D]`.
      labels: int `[N]`.
      num_classes: C.
      weights: `[N]`, how much an example counts in its class's prototype; all 1 by default. A class in which none
        counts is taken as if all did.
    """
    features, prototypes = _with_prototypes(features, labels, num_classes, weights)
    return jnp.sum(jnp.square(features - prototypes[jnp.asarray(labels)]), axis=-1)


def prototype_logits(features: ArrayLike, labels: ArrayLike, num_classes: int) -> Array:
    """−‖x − c_k‖², `[N, C]`: examples by how near they are to the prototype of each class, RoLT's classifier.

    Wei et al., Robust Long-Tailed Learning under Label Noise, 2021, authors' code; features, labels and prototypes as
    `prototype_distances` has them.

    >>> prototype_logits([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2).round(2).tolist()
    [[-0.0, -4.0], [-4.0, -0.0]]
    """
    features, prototypes = _with_prototypes(features, labels, num_classes)
    return -jnp.sum(jnp.square(features[:, None] - prototypes), axis=-1)


def _with_prototypes(
    features: ArrayLike, labels: ArrayLike, num_classes: int, weights: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Features as `prototype_distances` scales them, `[N, D]`, and the prototypes `[C, D]`."""
    features, labels = promote(features), jnp.asarray(labels)
    features = features - jnp.mean(features, axis=0)
    lengths = jnp.linalg.norm(features, axis=-1, keepdims=True)
    features = features / jnp.where(lengths > 0, lengths, 1)
    weights = jnp.ones(len(labels), features.dtype) if weights is None else jnp.asarray(weights).astype(features.dtype)
    total = jax.ops.segment_sum(weights, labels, num_classes)
    weights = jnp.where(total[labels] > 0, weights, 1)
    sums = jax.ops.segment_sum(weights[:, None] * features, labels, num_classes)
    total = jax.ops.segment_sum(weights, labels, num_classes)
    return features, sums / jnp.where(total > 0, total, 1)[:, None]


def prototype_clean_probability(features: ArrayLike, labels: ArrayLike, num_classes: int) -> Array:
    """ROLT+'s probability that a label is right, `[N]`, from features `[N, D]`: how near an example is to its class.

    `class_clean_probability` of `prototype_distances`, once more with the prototypes of those that are probably right.
    """

    def given(weights: Array | None) -> Array:
        return class_clean_probability(prototype_distances(features, labels, num_classes, weights), labels, num_classes)

    return given(given(None) > 0.5)


def k_means(values: ArrayLike, components: int) -> Array:
    """Which of K clusters each number belongs to, int32 `[N]`, 0 for the smallest; Lloyd's algorithm, deterministic.

    It starts as `fit_gaussian_mixture` does, from evenly spaced centres; equal numbers are one cluster, the first.

    >>> k_means([5000.0, 3000.0, 2500.0, 80.0, 50.0], 3).tolist()
    [2, 1, 1, 0, 0]
    """
    check("components", components, lambda k: k >= 1, "at least 1")
    _, nearest = _k_means(*_values_and_weights(values, None), components)
    return jnp.argmax(nearest, axis=-1).astype(jnp.int32)


def min_max(values: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """(v − min v) / (max v − min v) `[N]`, with both taken over positive `weights` [N]; 0 if all values are equal.

    Values that rounding alone has parted are equal.
    """
    values, weights = _values_and_weights(values, weights, keep_all=True)
    low, high = _range(values, weights)
    rounding = 16 * jnp.finfo(values.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
    apart = high - low > rounding
    return jnp.where(apart, (values - low) / jnp.where(apart, high - low, 1), 0)


@functools.partial(backend.jit, static_argnames="components")
def _fit_gaussians(
    values: Array, weights: Array, components: int, max_steps: int, tolerance: float, regularization: float
) -> GaussianMixture:
    total = jnp.sum(weights)
    tiny = jnp.finfo(values.dtype).tiny

    def update(shares: Array, means: Array) -> tuple[Array, Array, Array]:
        """The M-step, from shares [N, K] of the examples; an empty component stays where it is."""
        sizes = jnp.sum(shares, axis=0)
        safe = jnp.maximum(sizes, tiny)
        means = jnp.where(sizes > 0, jnp.sum(shares * values[:, None], axis=0) / safe, means)
        variances = jnp.sum(shares * jnp.square(values[:, None] - means), axis=0) / safe + regularization
        # Without any value the components are equal.
        return jnp.where(total > 0, sizes / jnp.maximum(total, tiny), 1 / components), means, variances

    def step(state: tuple[GaussianMixture, Array]) -> tuple[GaussianMixture, Array]:
        mixture, _ = state
        joint = _gaussian_log_joint(mixture, values)
        evidence = jax.nn.logsumexp(joint, axis=-1, keepdims=True)
        log_likelihood = jnp.sum(weights * evidence[:, 0]) / jnp.maximum(total, tiny)
        new = update(weights[:, None] * jnp.exp(joint - evidence), mixture.means)
        change = jnp.abs(log_likelihood - mixture.log_likelihood)
        return GaussianMixture(*new, log_likelihood, mixture.steps + 1), change

    def unfinished(state: tuple[GaussianMixture, Array]) -> Array:
        mixture, change = state
        return (mixture.steps < max_steps) & (change >= tolerance)

    centres, nearest = _k_means(values, weights, components)
    infinity = jnp.asarray(jnp.inf, values.dtype)
    start = GaussianMixture(*update(weights[:, None] * nearest, centres), -infinity, jnp.int32(0))
    mixture, _ = jax.lax.while_loop(unfinished, step, (start, infinity))
    order = jnp.argsort(mixture.means)
    sort = lambda x: x[order]  # noqa: E731
    return mixture._replace(weights=sort(mixture.weights), means=sort(mixture.means), variances=sort(mixture.variances))


def _gaussian_log_joint(mixture: GaussianMixture, values: Array) -> Array:
    """log π_k + log N(v | μ_k, σ²_k), [..., K]; a component of weight 0 is never the likelier one."""
    tiny = jnp.finfo(mixture.weights.dtype).tiny
    log_density = jnp.square(values[..., None] - mixture.means) / mixture.variances + jnp.log(mixture.variances)
    log_joint = jnp.log(jnp.maximum(mixture.weights, tiny)) - (log_density + math.log(2 * math.pi)) / 2
    return jnp.where(mixture.weights > 0, log_joint, -jnp.inf)


def _k_means(values: Array, weights: Array, components: int, max_steps: int = 100) -> tuple[Array, Array]:
    """Lloyd's algorithm from evenly spaced centres: centres [K] and each example's nearest one as a one-hot [N, K]."""
    low, high = _range(values, weights)

    def nearest(centres: Array) -> Array:
        closest = jnp.argmin(jnp.abs(values[:, None] - centres), axis=-1)
        return jax.nn.one_hot(closest, components, dtype=values.dtype)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, centres, count = state
        shares = weights[:, None] * nearest(centres)
        sizes = jnp.sum(shares, axis=0)
        means = jnp.sum(shares * values[:, None], axis=0) / jnp.where(sizes > 0, sizes, 1)
        return centres, jnp.where(sizes > 0, means, centres), count + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        old, new, count = state
        return jnp.any(old != new) & (count < max_steps)

    start = low + (high - low) * (jnp.arange(components, dtype=values.dtype) + 0.5) / components
    centres = jax.lax.while_loop(unfinished, step, (start + 1, start, jnp.int32(0)))[1]
    return centres, nearest(centres)


# Beta mixtures.

FLOOR = 1e-12  # of a component's weighted density, as the authors' code has it


class BetaMixture(NamedTuple):
    """Two beta distributions on [0, 1], the first that of small values: `weights`, `alphas`, `betas` [2] each."""

    weights: Array
    alphas: Array
    betas: Array


def fit_beta_mixture(values: ArrayLike, weights: ArrayLike | None = None, *, max_steps: int = 10) -> BetaMixture:
    """Two beta distributions fitted to numbers in [0, 1] by EM, with moments in place of likelihood in the M-step.

    Arazo et al., Unsupervised Label Noise Modeling and Loss Correction, 2019, section 3.1, with the authors' start,
    Beta(1, 2) and Beta(2, 1), their limits (1e-4, 1 − 1e-4) on the values and `FLOOR` on the densities.

    Args:
      values: `[N]`; what lies outside [0, 1] counts as its nearer end.
      weights: `[N]`, non-negative; a mask, or how often each value counts. All 1 by default.
      max_steps: EM steps; all are made.

    Returns:
      The `BetaMixture`, at least float32. Parameters are limited (variances of at least 1e-8), so that constant values
      give a finite one.
    """
    check("max_steps", max_steps, lambda n: n >= 0, "at least 0")
    return _fit_betas(*_values_and_weights(values, weights), max_steps)


def beta_posterior(mixture: BetaMixture, values: ArrayLike) -> Array:
    """The probability of each component given a value in [0, 1], `[..., 2]`, from values `[...]`.

    As in the authors' code the two densities and `FLOOR` share the mass: where both vanish, both probabilities do.
    """
    joint = _beta_log_joint(mixture, promote(values))
    floor = jnp.full((*joint.shape[:-1], 1), math.log(FLOOR), joint.dtype)
    return jax.nn.softmax(jnp.concatenate([joint, floor], axis=-1))[..., :-1]


def beta_noise_table(mixture: BetaMixture, bins: int = 100, *, form: str = "code") -> Array:
    """The probability of the second component on an even grid over [0, 1], held at its maximum from there on: `[bins]`.

    The posterior of a mixture may fall again towards 1, where a large loss must not look clean (authors' code). It may
    also rise again towards 0, where a wide second component is denser than the first: its maximum may then be at 0, and
    all labels look wrong.

    Args:
      mixture: the `BetaMixture`.
      bins: points of the grid.
      form: "code"; or "bounded", where it is below the first component's mean at most what it is there.

    Raises:
      ValueError: `form` is neither.
    """
    check_choice("form", form, ("code", "bounded"))
    grid = jnp.linspace(0, 1, bins, dtype=mixture.weights.dtype)
    table = beta_posterior(mixture, grid)[:, 1]
    if form == "bounded":
        mean = mixture.alphas[0] / (mixture.alphas[0] + mixture.betas[0])
        table = jnp.where(grid < mean, jnp.minimum(table, beta_posterior(mixture, mean)[1]), table)
    return jnp.where(jnp.arange(bins) >= jnp.argmax(table), jnp.max(table), table)


def beta_noise_probability(mixture: BetaMixture, values: ArrayLike, bins: int = 100, *, form: str = "code") -> Array:
    """M-DYR's probability that a label is wrong, `[...]`: `beta_noise_table` at each value's bin, ⌊bins · value⌋."""
    entries = jnp.clip((bins * promote(values)).astype(jnp.int32), 0, bins - 1)
    return beta_noise_table(mixture, bins, form=form)[entries]


@backend.jit
def _fit_betas(values: Array, weights: Array, max_steps: int) -> BetaMixture:
    values = jnp.clip(values, 1e-4, 1 - 1e-4)
    tiny = jnp.finfo(values.dtype).tiny

    def step(_: int, mixture: BetaMixture) -> BetaMixture:
        joint = jnp.maximum(_beta_log_joint(mixture, values), math.log(FLOOR))
        shares = weights[:, None] * jax.nn.softmax(joint)
        sizes = jnp.sum(shares, axis=0)
        safe = jnp.maximum(sizes, tiny)
        means = jnp.sum(shares * values[:, None], axis=0) / safe
        variances = jnp.sum(shares * jnp.square(values[:, None] - means), axis=0) / safe
        concentration = means * (1 - means) / jnp.maximum(variances, 1e-8) - 1
        fitted = BetaMixture(
            sizes / jnp.maximum(jnp.sum(sizes), tiny), means * concentration, (1 - means) * concentration
        )
        usable = (sizes > 0) & (concentration > 0)
        return BetaMixture(
            jnp.where(jnp.sum(sizes) > 0, fitted.weights, mixture.weights),
            jnp.where(usable, fitted.alphas, mixture.alphas),
            jnp.where(usable, fitted.betas, mixture.betas),
        )

    start = BetaMixture(*(jnp.asarray(pair, values.dtype) for pair in ((0.5, 0.5), (1, 2), (2, 1))))
    return jax.lax.fori_loop(0, max_steps, step, start)


def _beta_log_joint(mixture: BetaMixture, values: Array) -> Array:
    """log π_k + log Beta(v | α_k, β_k), [..., 2], with values kept off the ends by `FLOOR` or the dtype's precision."""
    values = jnp.clip(values, FLOOR, 1 - max(FLOOR, float(jnp.finfo(values.dtype).epsneg)))[..., None]
    log_density = (mixture.alphas - 1) * jnp.log(values) + (mixture.betas - 1) * jnp.log1p(-values)
    tiny = jnp.finfo(mixture.weights.dtype).tiny
    return jnp.log(jnp.maximum(mixture.weights, tiny)) + log_density - betaln(mixture.alphas, mixture.betas)


# What both share.


def _values_and_weights(values: ArrayLike, weights: ArrayLike | None, keep_all: bool = False) -> tuple[Array, Array]:
    """Values and weights [N] of one dtype; what has no weight is set to 0, so that it cannot spread a NaN."""
    values = promote(values)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values must have shape [N], N >= 1, got {values.shape}; use vmap for several mixtures")
    weights = jnp.ones_like(values) if weights is None else jnp.asarray(weights).astype(values.dtype)
    if weights.shape != values.shape:
        raise ValueError(f"weights must have the shape of the values, {values.shape}, got {weights.shape}")
    check("weights", weights, lambda w: np.isfinite(w) & (w >= 0), "finite and not negative")
    return values if keep_all else jnp.where(weights > 0, values, 0), weights


def _range(values: Array, weights: Array) -> tuple[Array, Array]:
    """Least and largest value of positive weight; 0 and 0 if there is none."""
    low = jnp.min(jnp.where(weights > 0, values, jnp.inf))
    high = jnp.max(jnp.where(weights > 0, values, -jnp.inf))
    return jnp.where(low <= high, low, 0), jnp.where(low <= high, high, 0)
