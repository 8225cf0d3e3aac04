"""Which examples to trust: ranks of losses, small-loss selection, weights and noise rates from what networks say.

Pure and jittable except `rank_bins` and `sampling_sizes`, which give shapes and are computed once on the host. Sizes
that change during training (a forget rate, disagreements of a batch) are traced: a selection is a mask, never a shorter
array. Co-teaching's forget rate over time is `robustjax.schedules.forget_rate`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from robustjax._checks import check, check_choice
from robustjax._probabilities import promote

# Small losses.


def keep_count(forget: ArrayLike, total: ArrayLike) -> Array:
    """How many of `total` examples co-teaching keeps: ⌊(1 − forget) · total⌋, or all where that is 0.

    Han et al., Co-teaching, 2018, Algorithm 1. A product that is whole up to rounding counts as whole, so that the
    number does not depend on the precision (Python's int((1 − 0.8) · 10) is 1; here it is 2). Keeping all rather than
    nothing is Co-teaching+'s authors' code.

    Args:
      forget: the forget rate, in [0, 1); any shape, may be traced.
      total: how many there are, of a shape that goes with it.

    Returns:
      int32.

    >>> int(keep_count(0.2, 128)), int(keep_count(0.99, 10))
    (102, 10)
    """
    check("forget", forget, lambda f: (f >= 0) & (f < 1), "in [0, 1)")
    total = jnp.asarray(total)
    count = jnp.floor((1 - jnp.asarray(forget, float)) * total.astype(float) * (1 + 1e-6)).astype(jnp.int32)
    return jnp.where(count == 0, total.astype(jnp.int32), jnp.minimum(count, total.astype(jnp.int32)))


def small_losses(values: ArrayLike, count: ArrayLike, mask: ArrayLike | None = None) -> Array:
    """The `count` smallest values among the unmasked examples; of equal ones, those that come first.

    Args:
      values: `[..., B]`; NaN counts as largest.
      count: int, scalar or `[...]`, may be traced; more than there are selects all of them.
      mask: `[B]` or `[..., B]`, 0 or False for padding and for what is not to be chosen.

    Returns:
      bool `[..., B]`.

    >>> small_losses(jnp.array([0.3, 0.1, 0.2, 0.0]), 2, jnp.array([1, 1, 1, 0])).tolist()
    [False, True, True, False]
    """
    values = jnp.asarray(values)
    allowed = (
        jnp.ones(values.shape, bool) if mask is None else jnp.broadcast_to(jnp.asarray(mask).astype(bool), values.shape)
    )
    # By mask first, so that an infinite or NaN loss still comes before padding.
    order = jnp.lexsort((values, ~allowed), axis=-1)
    position = jnp.argsort(order, axis=-1)
    return allowed & (position < jnp.asarray(count).astype(position.dtype)[..., None])


class Exchange(NamedTuple):
    """What each of two networks learns from: `share` bool [2, B], and a factor `strength` of its mean loss, scalar."""

    share: Array
    strength: Array


def exchange_small_losses(
    values: ArrayLike, forget: ArrayLike, mask: ArrayLike | None = None, *, form: str = "paper"
) -> Exchange:
    """Co-teaching: each of two networks learns from the small-loss examples of the other.

    Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels, 2018. The loss of
    network k is strength · Σ values_k share_k / Σ share_k. Co-teaching+ (Yu et al., 2019) is the same with `mask` less
    the examples on which the networks agree (`disagreement`); with none left it selects nothing.

    Args:
      values: losses `[2, B]`, a row a network.
      forget: the share of unmasked examples that is dropped, see `keep_count`; may be traced.
      mask: `[B]`, 0 for padding and for what is not to be chosen.
      form: "paper" has strength 1; "code" divides a second time by the number kept, as the authors' code does.

    Returns:
      The `Exchange`; `share[0]` was chosen by network 1.
    """
    check_choice("form", form, ("paper", "code"))
    values = promote(jax.lax.stop_gradient(values))
    if values.ndim != 2 or len(values) != 2:
        raise ValueError(f"values must have shape [2, B], a row a network, got {values.shape}")
    total = values.shape[1] if mask is None else jnp.sum(jnp.asarray(mask).astype(bool))
    count = keep_count(forget, total)
    strength = 1 / jnp.maximum(count, 1).astype(values.dtype) if form == "code" else jnp.ones((), values.dtype)
    return Exchange(small_losses(values, count, mask)[::-1], strength)


def disagreement(logits: ArrayLike) -> Array:
    """Where networks do not all predict the same class: bool `[B]`, from logits or probabilities `[K, B, C]`."""
    predicted = jnp.argmax(jnp.asarray(logits), axis=-1)
    return jnp.any(predicted != predicted[0], axis=0)


# Weights and rates.


def descent_weights(gradient: ArrayLike) -> Array:
    """L2RW's example weights max(−g, 0), scaled to sum to 1; all 0 if no example's weight should grow.

    Ren et al., Learning to Reweight Examples for Robust Deep Learning, 2018, eqs. 8 and 9.

    Args:
      gradient: `[B]`, of the meta loss with respect to the weights, taken at weights 0 (`robustjax.meta`).

    Returns:
      Weights `[B]`.

    >>> print(descent_weights(jnp.array([-3.0, 2.0, -1.0])))
    [0.75 0.   0.25]
    """
    gain = jnp.maximum(-promote(gradient), 0)
    total = jnp.sum(gain)
    return gain / jnp.where(total > 0, total, 1)


def curriculum_weights(
    excess: ArrayLike, progress: ArrayLike, burn_in: float = 0.19, linear_from: float = 0.9, width: ArrayLike = 1.0
) -> Array:
    """MentorNet's predefined curriculum: all weights 1, then small losses alone, then linear in the loss.

    Jiang et al., MentorNet, 2018; the authors' code, whose run has 100 parts: the first 19 are the burn-in.

    Args:
      excess: losses less their running percentile, d, any shape.
      progress: share of the run that is over, in [0, 1], of a shape that goes with it; may be traced.
      burn_in: until when all weigh 1.
      linear_from: from when the weight is min(max(1 − d/γ, 0), 1); until then it is 1 where d ≤ 0, and 0 elsewhere.
      width: γ, positive.

    Returns:
      Weights in [0, 1].

    >>> [curriculum_weights(jnp.array([-1.0, 0.25]), progress).tolist() for progress in (0.0, 0.5, 0.9)]
    [[1.0, 1.0], [1.0, 0.0], [1.0, 0.75]]
    """
    check("width", width, lambda w: w > 0, "positive")
    excess = promote(excess)
    linear = jnp.clip(1 - excess / width, 0, 1)
    weights = jnp.where(jnp.asarray(progress) < linear_from, (excess <= 0).astype(excess.dtype), linear)
    return jnp.where(jnp.asarray(progress) < burn_in, jnp.ones_like(excess), weights)


def noise_rate_from_agreement(agreement: ArrayLike, num_classes: int) -> Array:
    """INCV's noise rate e, from how often a network's predictions agree with held-out noisy labels.

    Chen et al., Understanding and Utilizing Deep Neural Networks Trained with Noisy Labels, 2019: under symmetric noise
    agreement = (1 − e)² + e² / (C − 1). Returns the smallest e on a grid of thousandths at which the right-hand side
    has come down to the agreement (authors' code); the last point, where it is least, if the agreement is lower still.

    Args:
      agreement: share in [0, 1]; any shape.
      num_classes: C ≥ 2.

    Returns:
      e in [0, 1), of the shape of `agreement`.
    """
    check("agreement", agreement, lambda a: (a >= 0) & (a <= 1), "in [0, 1]")
    check("num_classes", num_classes, lambda c: c >= 2, "at least 2")
    agreement = promote(agreement)
    grid = jnp.arange(1000, dtype=agreement.dtype) / 1000
    expected = (1 - grid) ** 2 + grid**2 / (num_classes - 1)
    reached = expected <= agreement[..., None]
    found = jnp.where(jnp.any(reached, axis=-1), jnp.argmax(reached, axis=-1), jnp.argmin(expected))
    return grid[found]


# Loss ranks and hierarchical sampling: Dynamic Loss (Jiang et al., TPAMI 2023).


def rank_bins(class_counts: np.ndarray, num_bins: int, form: str = "paper") -> np.ndarray:
    """The bin of the i-th smallest loss of a class, for all classes one after the other: int32 [N], on the host.

    Args:
      class_counts: given labels a class, int [C].
      num_bins: R.
      form: "paper", R equal bins, ⌊iR/n⌋; "code", int(i/(n+1)·R) evaluated in float64 from left to right, which in
        rare exact cases is one less than the integer quotient.
    """
    if form == "paper":
        bins = [np.arange(n) * num_bins // max(n, 1) for n in class_counts]
    else:
        bins = [(1.0 * np.arange(n) / (n + 1) * num_bins).astype(np.int64) for n in class_counts]
    return np.concatenate(bins).astype(np.int32)


def order_in_class(values: Array, labels: Array, num_classes: int) -> tuple[Array, Array]:
    """Examples sorted by (class, value), and each one's position within its class: two int32 [N]."""
    order = jnp.lexsort((values, labels)).astype(jnp.int32)
    counts = jnp.bincount(labels, length=num_classes)
    starts = jnp.cumsum(counts) - counts
    position = jnp.arange(len(labels)) - starts[labels[order]]
    return order, jnp.zeros_like(order).at[order].set(position.astype(jnp.int32))


def loss_ranks(values: Array, labels: Array, bins: Array) -> Array:
    """Loss-rank bins r_i in {0 … R−1} within each given class, int32 [N], from losses [N] and `rank_bins`."""
    order = jnp.lexsort((values, labels))
    return jnp.zeros(len(labels), jnp.int32).at[order].set(bins)


def draw_by_class(key: Array, labels: Array, shares: Array, size: int) -> Array:
    """Examples drawn class by class, with replacement: int32 [size], positions in `labels`.

    Args:
      key: PRNG key.
      labels: int [N].
      shares: [C], non-negative, how often a class is drawn, in any unit; 0 for a class without examples.
      size: how many.

    Examples:
      >>> labels = jnp.array([0, 0, 0, 1])
      >>> drawn = draw_by_class(jax.random.key(0), labels, jnp.array([1.0, 3.0]), 4000)
      >>> print((labels[drawn] == 1).mean().round(1))
      0.8
    """
    class_key, place_key = jax.random.split(key)
    order = jnp.argsort(labels, stable=True).astype(jnp.int32)
    sizes = jnp.bincount(labels, length=len(shares))
    classes = jax.random.categorical(class_key, jnp.log(shares), shape=(size,))
    places = jnp.floor(jax.random.uniform(place_key, (size,)) * sizes[classes].astype(float)).astype(jnp.int32)
    return order[(jnp.cumsum(sizes) - sizes)[classes] + jnp.minimum(places, sizes[classes] - 1)]


def sample_primary(key: Array, labels: Array, size: Array, num_classes: int) -> Array:
    """A random primary set of `size` examples a class, as a boolean mask [N]."""
    return order_in_class(jax.random.uniform(key, labels.shape), labels, num_classes)[1] < size


def select_meta(values: Array, labels: Array, primary: Array, size: Array, num_classes: int) -> Array:
    """The `size` primary examples of lowest loss in each class, as a boolean mask [N]."""
    position = order_in_class(jnp.where(primary, values, jnp.inf), labels, num_classes)[1]
    return primary & (position < size)


def sampling_sizes(smallest_class: int, primary_ratio: float, meta_ratio: float) -> tuple[int, int]:
    """Primary and meta examples a class, fractions M0 and M1 of the smallest class's given labels; at least one."""
    return max(1, int(primary_ratio * smallest_class)), max(1, int(meta_ratio * smallest_class))
