"""Targets in place of given labels: corrected, guessed, refined, sharpened; and the penalties that go with them.

Targets are distributions `[..., C]` without gradient: `robustjax.losses` and `squared_error` take them as labels.
Penalties are per example and never reduced, but for `prior_penalty`, which is about the batch's mean.

Beside these, `regularizers.refine_labels` multiplies labels by targets (ELR+), and `regularizers.update_targets`
averages predictions over time (ELR).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import entr
from jax.typing import ArrayLike

from robustjax._checks import check, check_class_vector
from robustjax._probabilities import as_distribution, clipped_log_softmax, promote

# Corrected labels.


def corrected_labels(weights: Array, labels: Array, pseudo_labels: Array) -> Array:
    """y* = w e_y + (1 − w) y', [B, C], from weights [B], given labels [B] and the classifier's labels y' [B, C]."""
    given = jax.nn.one_hot(labels, pseudo_labels.shape[-1], dtype=pseudo_labels.dtype)
    return weights[:, None] * given + (1 - weights[:, None]) * pseudo_labels


def pseudo_labels(key: Array, logits: Array, form: str) -> Array:
    """The classifier's labels y' [B, C], without gradient: one "sample" of its softmax, "hard" argmax, or "soft"."""
    logits = jax.lax.stop_gradient(logits)
    if form == "soft":
        return jax.nn.softmax(logits)
    classes = jax.random.categorical(key, logits) if form == "sample" else jnp.argmax(logits, -1)
    return jax.nn.one_hot(classes, logits.shape[-1], dtype=logits.dtype)


def likelihood_ratio_labels(labels: ArrayLike, probs: ArrayLike, threshold: ArrayLike) -> Array:
    """PLC: argmax p where p_y / max p falls below a threshold, the given label elsewhere.

    Zhang et al., Learning with Feature-Dependent Label Noise: A Progressive Approach, 2021. The authors average p over
    the last epochs, start at threshold 0.3, and raise it by 0.1, to 0.9 at most, when too few labels changed.

    Args:
      labels: int `[...]`.
      probs: `[..., C]`, non-negative.
      threshold: in [0, 1]; may be traced.

    Returns:
      Labels `[...]`, of the dtype of `labels`.

    >>> likelihood_ratio_labels(jnp.array([0, 0]), jnp.array([[0.4, 0.6], [0.1, 0.9]]), 0.3).tolist()
    [0, 1]
    """
    check("threshold", threshold, lambda t: (t >= 0) & (t <= 1), "in [0, 1]")
    labels, probs = jnp.asarray(labels), promote(probs)
    given = jnp.sum(as_distribution(labels, probs) * probs, axis=-1)
    unlikely = given < threshold * jnp.max(probs, axis=-1)
    return jnp.where(unlikely, jnp.argmax(probs, axis=-1).astype(labels.dtype), labels)


class Refurbished(NamedTuple):
    """The class an example was most often predicted as, int32 `[...]`, and whether that is to be relied on, bool."""

    labels: Array
    consistent: Array


def refurbished_labels(history: ArrayLike, num_classes: int, threshold: float = 0.05) -> Refurbished:
    """SELFIE: labels for examples on whose class the network hardly changed its mind.

    Song et al., SELFIE: Refurbishing Unclean Samples for Robust Deep Learning, 2019, section 3: consistent are those
    whose past predictions have a `normalized_entropy` of at most `threshold`.

    Args:
      history: past predictions int `[..., Q]`; −1 where there is none yet.
      num_classes: C.
      threshold: in [0, 1].

    Returns:
      The labels, the lowest class at ties, and where they are consistent: nowhere without a prediction.
    """
    check("threshold", threshold, lambda t: (t >= 0) & (t <= 1), "in [0, 1]")
    counts = jnp.sum(jax.nn.one_hot(history, num_classes), axis=-2)
    total = jnp.sum(counts, axis=-1)
    entropy = normalized_entropy(counts / jnp.maximum(total, 1)[..., None])
    return Refurbished(jnp.argmax(counts, axis=-1).astype(jnp.int32), (entropy <= threshold) & (total > 0))


def normalized_entropy(probs: ArrayLike) -> Array:
    """−Σ_k p_k log p_k / log C in [0, 1], `[...]`, from distributions `[..., C]`."""
    probs = promote(probs)
    return jnp.sum(entr(probs), axis=-1) / math.log(probs.shape[-1])


# Guessed and refined labels: MixMatch (Berthelot et al., 2019), DivideMix (Li et al., 2020).


def sharpen_probabilities(probs: ArrayLike, temperature: ArrayLike) -> Array:
    """p_k^(1/T) / Σ_j p_j^(1/T): lower temperatures move the mass to the largest entries.

    Berthelot et al., MixMatch, 2019, eq. 7. (`regularizers.sharpen` is about logits.)

    Args:
      probs: `[..., C]`, non-negative; they need not sum to 1.
      temperature: positive; 1 only normalises.

    Returns:
      Distributions `[..., C]`; zeros where all of p is 0. The gradient at p_k = 0 is taken to be 0.

    >>> print(sharpen_probabilities(jnp.array([0.75, 0.25, 0.0]), 0.5))
    [0.9 0.1 0. ]
    """
    check("temperature", temperature, lambda t: t > 0, "positive")
    probs = promote(probs)
    largest = jnp.max(probs, axis=-1, keepdims=True)
    # Relative to the largest: p^(1/T) itself is 0 for all classes when the temperature is low.
    ratio = probs / jnp.where(largest > 0, largest, 1)
    powers = jnp.where(ratio > 0, jnp.where(ratio > 0, ratio, 1) ** (1 / temperature), 0)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    return powers / jnp.where(total > 0, total, 1)


def coguessed_labels(probs: ArrayLike | Sequence[ArrayLike], temperature: ArrayLike = 0.5) -> Array:
    """DivideMix's co-guessing: the mean over networks and views, sharpened; for examples whose label is not trusted.

    Li et al., DivideMix: Learning with Noisy Labels as Semi-supervised Learning, 2020, section 3.2. With the views of
    one network it is MixMatch's guess.

    Args:
      probs: softmax outputs `[V, ..., C]`, V networks and views together; no gradient flows through them.
      temperature: positive.

    Returns:
      Distributions `[..., C]`.
    """
    return sharpen_probabilities(_mean_view(probs), temperature)


def corefined_labels(
    weights: ArrayLike, labels: ArrayLike, probs: ArrayLike | Sequence[ArrayLike], temperature: ArrayLike = 0.5
) -> Array:
    """DivideMix's co-refinement: w y + (1 − w) mean p, sharpened; for examples whose label is trusted.

    Li et al., 2020, eqs. 3 and 4.

    Args:
      weights: `[...]` in [0, 1]: the probability, by the other network, that the label is right.
      labels: int `[...]` or distributions `[..., C]`.
      probs: softmax outputs `[V, ..., C]` of the network's views; no gradient flows through them.
      temperature: positive.

    Returns:
      Distributions `[..., C]`.
    """
    mean = _mean_view(probs)
    weights = jnp.asarray(weights, mean.dtype)[..., None]
    return sharpen_probabilities(weights * as_distribution(labels, mean) + (1 - weights) * mean, temperature)


# Penalties.


def squared_error(logits: ArrayLike, targets: ArrayLike) -> Array:
    """mean_k (p_k − t_k)², p = softmax(logits): MixMatch's and DivideMix's loss on guessed labels, `[...]`.

    The mean, not the sum, over classes, as in both authors' code and in MixMatch's eq. 4.

    Args:
      logits: `[..., C]`.
      targets: int `[...]` or distributions `[..., C]`.
    """
    probs = jnp.exp(clipped_log_softmax(logits, None))
    return jnp.mean(jnp.square(probs - as_distribution(targets, probs)), axis=-1)


def negative_entropy(logits: ArrayLike) -> Array:
    """Σ_k p_k log p_k, `[...]`: the penalty on confidence of DivideMix's warm-up on asymmetric noise (its eq. 9)."""
    log_p = clipped_log_softmax(logits, None)
    return jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def prior_penalty(logits: ArrayLike, mask: ArrayLike | None = None, prior: ArrayLike | None = None) -> Array:
    """KL(prior ‖ mean p) of a batch: keeps a network from assigning all examples to one class.

    DivideMix, eq. 11; M-DYR and Joint Optimization have the same. `losses.prior_matching` is this without a mask and
    without the constant Σ_c prior_c log prior_c.

    Args:
      logits: `[N, C]`.
      mask: `[N]`, weights of the examples in the mean; 0 for padding.
      prior: `[C]`, summing to 1; uniform by default.

    Returns:
      A scalar, at least 0; 0 for an empty mask.
    """
    log_p = clipped_log_softmax(logits, None)
    if log_p.ndim != 2:
        raise ValueError(f"logits must have shape [N, C], the penalty is about a batch; got {log_p.shape}")
    count, num_classes = log_p.shape
    mask = jnp.ones(count, log_p.dtype) if mask is None else jnp.asarray(mask, log_p.dtype)
    prior = jnp.full(num_classes, 1 / num_classes, log_p.dtype) if prior is None else jnp.asarray(prior, log_p.dtype)
    check_class_vector("prior", prior, num_classes)
    check("prior", prior, lambda q: (q >= 0) & (abs(q.sum() - 1) < 1e-4), "non-negative and to sum to 1")
    total = jnp.sum(mask)
    weights = jnp.where(total > 0, mask, 1)[:, None]
    log_mean = jax.nn.logsumexp(log_p, axis=0, b=weights) - jnp.log(jnp.sum(weights))
    return jnp.where(total > 0, -jnp.sum(entr(prior)) - jnp.sum(prior * log_mean), 0)


def _mean_view(probs: ArrayLike | Sequence[ArrayLike]) -> Array:
    return jax.lax.stop_gradient(jnp.mean(promote(jnp.stack(probs) if isinstance(probs, Sequence) else probs), axis=0))
