"""What class counts and class errors imply: margins, class weights, regularisation strengths.

Every function maps `[C]` to `[C]` in at least float32 and runs under jit. Counts are of the given, perhaps wrong,
labels: no method knows the true ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from robustjax._checks import check, check_positive_counts
from robustjax._probabilities import at_least_float32, common_dtype, hyper, promote


def ldam_margins(class_counts: ArrayLike, max_margin: float = 0.5) -> Array:
    """Label-distribution-aware margins, proportional to n_c^(-1/4).

    Cao et al., Learning Imbalanced Datasets with LDAM Loss, 2019; the rarest class gets `max_margin`.

    Args:
      class_counts: `[C]`, examples a class, all positive.
      max_margin: the largest margin, in logits before scaling; positive.

    Returns:
      Margins `[C]` for `robustjax.losses.ldam`.

    Examples:
      >>> print(np.asarray(ldam_margins([1600, 100, 1], max_margin=0.5)).round(3))
      [0.079 0.158 0.5  ]
    """
    counts = _positive_counts(class_counts)
    check("max_margin", max_margin, lambda m: m > 0, "positive")
    return hyper(max_margin, counts.dtype) * (jnp.min(counts) / counts) ** 0.25


def class_balanced_weights(class_counts: ArrayLike, beta: float) -> Array:
    """Weights by the effective number of examples, (1 - beta) / (1 - beta^n_c), scaled to sum to C.

    Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019.

    Args:
      class_counts: `[C]`, examples a class, all positive; traced, a class may have none, and has weight 0 then.
      beta: in [0, 1); 0 gives ones, values near 1 give weights proportional to 1 / n_c.

    Returns:
      Weights `[C]` that sum to C.

    Examples:
      >>> print(np.asarray(class_balanced_weights([900, 90, 10], beta=0.99)).round(2))
      [0.23 0.38 2.39]
    """
    counts = _positive_counts(class_counts)
    check("beta", beta, lambda b: (b >= 0) & (b < 1), "in [0, 1)")
    # expm1 and log1p: 1 - 0.9999^n has lost three digits in float32 when formed directly.
    known = jnp.maximum(counts, 1)
    weights = jnp.where(counts > 0, 1.0 / -jnp.expm1(known * jnp.log1p(jnp.asarray(-(1.0 - beta), counts.dtype))), 0)
    return weights * (weights.size / jnp.sum(weights))


def deferred_weights(epoch: ArrayLike, class_counts: ArrayLike, *, start_epoch: ArrayLike, beta: float) -> Array:
    """Deferred re-weighting: ones before `start_epoch`, class-balanced weights from then on.

    Cao et al., 2019 (DRW); HAR-DRW uses beta 0.9999 and start_epoch 80 of 120.

    Args:
      epoch: the current epoch, from 0; may be traced.
      class_counts: `[C]`, as in `class_balanced_weights`.
      start_epoch: the first epoch with weights.
      beta: as in `class_balanced_weights`.

    Returns:
      Weights `[C]` that sum to C.

    Examples:
      >>> print(np.asarray(deferred_weights(79, [90, 10], start_epoch=80, beta=0.99)).round(2))
      [1. 1.]
      >>> print(np.asarray(deferred_weights(80, [90, 10], start_epoch=80, beta=0.99)).round(2))
      [0.28 1.72]
    """
    weights = class_balanced_weights(class_counts, beta)
    epoch, start_epoch = common_dtype(epoch, start_epoch)
    return jnp.where(epoch >= start_epoch, weights, jnp.ones_like(weights))


def inverse_frequency_weights(class_counts: ArrayLike) -> Array:
    """Weights max_k n_k / n_c, at least 1; the commonest class has weight 1.

    The class weights of NLNL (Kim et al., 2019) as coded in the APL and SR repositories.

    Args:
      class_counts: `[C]`, examples a class, all positive.

    Returns:
      Weights `[C]`.

    Examples:
      >>> inverse_frequency_weights([100, 50, 10])
      Array([ 1.,  2., 10.], dtype=float32)
    """
    counts = _positive_counts(class_counts)
    return jnp.max(counts) / counts


def har_strengths(
    class_errors: ArrayLike,
    class_counts: ArrayLike,
    *,
    error_exponent: float = 0.6,
    count_exponent: float = 0.4,
    max_strength: float = 1.0,
) -> Array:
    """Heteroskedastic regularisation strengths, tau_c = error_c^(3/5) / n_c^(2/5), scaled to a given maximum.

    Cao et al., Heteroskedastic and Imbalanced Deep Learning with Adaptive Regularization, 2021, eq. 7 and
    Algorithm 1. The optimal rule fixes strengths up to one factor: the authors' code sets the largest to 1 and tunes
    the regulariser's weight; the paper tunes that weight until the largest product is 0.1.

    Args:
      class_errors: `[C]`, in [0, 1]: the share of held-out examples of each given label that a plain model gets
        wrong. NaN (no held-out example of a class) is refused.
      class_counts: `[C]`, examples of each given label in the full training set, all positive.
      error_exponent: 3/5 in the paper.
      count_exponent: 2/5 in the paper.
      max_strength: the largest strength.

    Returns:
      Strengths `[C]` in [0, max_strength]; a class without errors gets 0, and all are 0 if no class has errors.

    Examples:
      >>> print(np.asarray(har_strengths([0.1, 0.1, 0.4], [1000, 100, 100])).round(2))  # rare or often wrong: strongly
      [0.17 0.44 1.  ]
    """
    counts = _positive_counts(class_counts)
    check("class_errors", class_errors, lambda e: (e >= 0) & (e <= 1), "in [0, 1] for every class")
    check("max_strength", max_strength, lambda s: s > 0, "positive")
    if np.shape(class_errors) != counts.shape:
        raise ValueError(
            f"class_errors must have the shape of class_counts, {counts.shape}, got {np.shape(class_errors)}"
        )
    errors = jnp.asarray(class_errors, counts.dtype)
    return _scaled(errors**error_exponent * (jnp.min(counts) / counts) ** count_exponent, max_strength)


def regression_strengths(
    class_counts: ArrayLike, *, noise_variances: ArrayLike | None = None, max_strength: float = 1.0
) -> Array:
    """HAR's strengths for squared loss, tau_j = n_j^(-2/5), scaled to a given maximum.

    Cao et al., 2021, section 2.2: the Fisher information of squared loss is 1 everywhere, so that density alone is
    left. That holds for noise of one variance; where it differs, the same derivation (asymptotic mean squared error of
    the weighted smoother) gives tau_j = (sigma_j^2 / n_j)^(2/5), with exponent 2/5 in place of classification's 3/5.

    Args:
      class_counts: `[G]`, examples of each group, all positive.
      noise_variances: `[G]`, of the targets about the truth, not negative; equal if None.
      max_strength: the largest strength.

    Returns:
      Strengths `[G]` in [0, max_strength].

    Examples:
      >>> print(np.asarray(regression_strengths([1000, 100, 10])).round(2))
      [0.16 0.4  1.  ]
    """
    counts = _positive_counts(class_counts)
    check("max_strength", max_strength, lambda s: s > 0, "positive")
    if noise_variances is None:
        noise_variances = jnp.ones_like(counts)
    check("noise_variances", noise_variances, lambda v: v >= 0, "at least 0 for every group")
    return _scaled((jnp.asarray(noise_variances, counts.dtype) * (jnp.min(counts) / counts)) ** 0.4, max_strength)


def inverse_strengths(strengths: ArrayLike) -> Array:
    """Strengths turned upside down, proportional to 1 / tau with the same mean: a control that ought to lose.

    Cao et al., 2021, appendix C.4 (Table 9).

    Args:
      strengths: `[G]`, not negative; a strength of 0 counts as the smallest positive one.

    Returns:
      Strengths `[G]` with the mean of the given ones; zeros if all are 0.

    Examples:
      >>> print(np.asarray(inverse_strengths([1.0, 0.5, 0.25])).round(3))
      [0.25 0.5  1.  ]
    """
    strengths = jnp.asarray(strengths, float)
    smallest = jnp.min(jnp.where(strengths > 0, strengths, jnp.inf))
    inverse = 1.0 / jnp.where(strengths > 0, strengths, jnp.where(jnp.isfinite(smallest), smallest, 1.0))
    return inverse * (jnp.mean(strengths) / jnp.mean(inverse))


def random_strengths(key: Array, strengths: ArrayLike) -> Array:
    """Uniform random strengths with the mean of the given ones: another control that ought to lose.

    Cao et al., 2021, appendix C.4 (Table 9).

    Args:
      key: PRNG key.
      strengths: `[G]`, not negative.

    Returns:
      Strengths `[G]`.

    Examples:
      >>> strengths = random_strengths(jax.random.key(0), [1.0, 0.5, 0.25, 0.25])
      >>> print(np.asarray(strengths.mean()).round(3))  # as of the given ones
      0.5
    """
    strengths = jnp.asarray(strengths, float)
    draws = jax.random.uniform(key, strengths.shape, strengths.dtype, minval=jnp.finfo(strengths.dtype).tiny)
    return draws * (jnp.mean(strengths) / jnp.mean(draws))


def example_weights(labels: ArrayLike, class_weights: ArrayLike) -> Array:
    """The class weight of each example's label.

    Args:
      labels: int `[...]`, or distributions `[..., C]`, which give the expected weight.
      class_weights: `[C]`.

    Returns:
      Weights `[...]`.

    Examples:
      >>> example_weights(jnp.array([0, 1, 1]), jnp.array([0.5, 1.5]))
      Array([0.5, 1.5, 1.5], dtype=float32)
    """
    labels, weights = jnp.asarray(labels), jnp.asarray(class_weights)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        check("labels", labels, lambda y: (y >= 0) & (y < len(weights)), f"class indices in [0, {len(weights)})")
        return weights[labels]
    labels, weights = common_dtype(labels, weights)
    return jnp.sum(labels * weights, axis=-1)


def weighted_mean(values: ArrayLike, weights: ArrayLike) -> Array:
    """Sum of w_i v_i over sum of w_i: how class-weighted losses (DRW, HAR-DRW) are averaged over a batch.

    Args:
      values: `[...]`, one an example.
      weights: `[...]`, non-negative; 0 leaves an example out, so a mask is a weight.

    Returns:
      A scalar; 0 if every weight is 0.

    Examples:
      >>> print(weighted_mean([1.0, 3.0, 100.0], weights=[1.0, 1.0, 0.0]))
      2.0
    """
    values, weights = common_dtype(values, weights)
    if weights.shape != values.shape:
        raise ValueError(f"weights must have shape {values.shape}, one for each value, got {weights.shape}")
    if jnp.issubdtype(values.dtype, jnp.floating):
        values, weights = promote(values), promote(weights)
    total = jnp.sum(weights)
    return jnp.sum(weights * values) / jnp.where(total > 0, total, 1)


def _scaled(strengths: Array, largest: ArrayLike) -> Array:
    """Strengths scaled so that the largest is `largest`; all 0 stay so."""
    found = jnp.max(strengths)
    return hyper(largest, strengths.dtype) * strengths / jnp.where(found > 0, found, 1.0)


def _positive_counts(class_counts: ArrayLike) -> Array:
    check_positive_counts("class_counts", class_counts)
    counts = jnp.asarray(class_counts)
    # An integer count becomes JAX's default float: float64 under x64, else float32.
    floating = jnp.issubdtype(counts.dtype, jnp.floating)
    return counts.astype(at_least_float32(counts.dtype) if floating else float)
