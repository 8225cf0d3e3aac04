"""What losses and regularisers share: log-probabilities in safe precision, labels as distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from robustjax._checks import check

Clip = tuple[float, float]
# The log-probability of a class whose logit is −inf: so low that exp gives 0, yet finite, so that 0 times it is 0.
MASKED = -1e30


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Float32 for a floating `dtype` of fewer bits, else `dtype`; strict dtype promotion has no rule for that."""
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def promote(x: ArrayLike) -> Array:
    """`x` as an array of at least float32: bfloat16 and float16 are widened, float64 stays."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected a floating-point array (logits or probabilities), got dtype {x.dtype}")
    return x.astype(at_least_float32(x.dtype))


def hyper(value: ArrayLike, dtype: DTypeLike) -> Array | float:
    """A hyperparameter that will meet arrays of `dtype`: Python's numbers as they are, arrays and tracers cast.

    Python's numbers take on any dtype by themselves, and arithmetic among them is in float64: a cast before it would
    change the last bits.
    """
    if isinstance(value, np.floating):  # of which float64 is one of Python's, and would take arrays of float32 along
        value = float(value)
    return value if isinstance(value, int | float) else jnp.asarray(value, dtype)


def common_dtype(*arrays: ArrayLike) -> tuple[Array, ...]:
    """The arrays cast to the dtype that JAX's standard promotion gives them, also where strict promotion is on."""
    found = [jnp.asarray(array) for array in arrays]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*found)
    return tuple(array.astype(dtype) for array in found)


def clipped_log_softmax(logits: ArrayLike, clip: Clip | None) -> Array:
    """log clip(softmax(logits), *clip), with zero gradient where clipped, as `torch.clamp` has.

    Args:
      logits: `[..., C]`, C ≥ 2.
      clip: lower and upper limit on the probabilities, 0 ≤ lower < upper ≤ 1; None clips nothing.

    Returns:
      Log-probabilities `[..., C]`, at least float32; `MASKED`, with zero gradient, for logits of −inf.
    """
    logits = promote(logits)
    if logits.ndim == 0 or logits.shape[-1] < 2:
        raise ValueError(f"logits must have shape [..., C] with at least 2 classes, got shape {logits.shape}")
    return clip_log(_finite(jax.nn.log_softmax(logits)), clip)


def _finite(log_p: Array) -> Array:
    return jnp.where(log_p == -jnp.inf, MASKED, log_p)


def clip_log(log_p: Array, clip: Clip | None) -> Array:
    """Clips log-probabilities to the logarithms of the limits `clip` on probabilities."""
    if clip is None:
        return log_p
    check("clip", clip, lambda c: c.shape == (2,) and 0 <= c[0] < c[1] <= 1, "(lower, upper), 0 <= lower < upper <= 1")
    lower, upper = clip
    # Selections rather than jnp.clip: no half gradient at ties, and limits that do not bind are not traced at all.
    if lower > 0:
        log_p = jnp.where(log_p < math.log(lower), math.log(lower), log_p)
    if upper < 1:
        log_p = jnp.where(log_p > math.log(upper), math.log(upper), log_p)
    return log_p


def is_integer(labels: ArrayLike) -> bool:
    """Whether labels are class indices rather than distributions."""
    return jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer)


def as_distribution(labels: ArrayLike, values: Array) -> Array:
    """Labels as distributions with the shape and dtype of `values`.

    Args:
      labels: int `[...]`, class indices, or floating `[..., C]`, distributions.
      values: `[..., C]`: what the distributions will weigh.

    Returns:
      Distributions `[..., C]`; NaN for class indices out of range that are traced.

    Raises:
      ValueError: another shape, or class indices out of range, as far as these are known.
      TypeError: labels that are neither integer nor floating.
    """
    labels = jnp.asarray(labels)
    num_classes = values.shape[-1]
    if is_integer(labels):
        if labels.shape != values.shape[:-1]:
            raise ValueError(f"integer labels must have shape {values.shape[:-1]} for these logits, got {labels.shape}")
        check("labels", labels, lambda y: (y >= 0) & (y < num_classes), f"class indices in [0, {num_classes})")
        labels = labels.astype(jnp.int32)  # one_hot counts in their dtype, and 8 bits end at 127
        distribution = jax.nn.one_hot(labels, num_classes, dtype=values.dtype)
        if not isinstance(labels, jax.core.Tracer):
            return distribution
        known = (labels >= 0) & (labels < num_classes)
        return jnp.where(known[..., None], distribution, jnp.nan)  # a loss of 0 would go unnoticed
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(f"labels must be integer class indices or floating-point distributions, got {labels.dtype}")
    if labels.shape != values.shape:
        raise ValueError(f"label distributions must have shape {values.shape} for these logits, got {labels.shape}")
    return labels.astype(values.dtype)


def expect(values: Array, labels: ArrayLike) -> Array:
    """Σ_k y_k values_k: the entry of each label, or its expectation under a label distribution.

    Args:
      values: `[..., C]`, finite.
      labels: int `[...]` or distributions `[..., C]`.

    Returns:
      `[...]`.
    """
    return jnp.sum(as_distribution(labels, values) * values, axis=-1)


def check_transition(transition: ArrayLike, num_classes: int) -> None:
    """Raises ValueError unless `transition` is a `[C, C]` matrix whose rows are distributions."""
    if np.shape(transition) != (num_classes, num_classes):
        raise ValueError(f"transition must have shape {(num_classes, num_classes)}, got {np.shape(transition)}")
    check("transition", transition, lambda t: (t >= 0) & (np.abs(t.sum(-1) - 1) < 1e-3)[:, None], "row-stochastic")
