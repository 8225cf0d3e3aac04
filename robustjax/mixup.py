"""Mixup: convex combinations of the examples of a batch.

Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018. A `Mix` is drawn once a step and applied to whatever goes
with an example: inputs, labels, running targets. Mixing is linear, so the order does not matter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from robustjax._checks import check


class Mix(NamedTuple):
    """How a batch is mixed: each example keeps `share` in [0, 1] and takes the rest of its partner.

    Attributes:
      share: a scalar; or [B], one an example.
      partner: int32 [B].
    """

    share: Array
    partner: Array


def draw_mix(key: Array, batch_size: int, alpha: float, *, keep_larger: bool = False) -> Mix:
    """One share for the whole batch, from Beta(alpha, alpha), and a random permutation of partners.

    Args:
      key: PRNG key.
      batch_size: B.
      alpha: positive; small values mix little, 1 is uniform.
      keep_larger: let the larger share stay with the example itself, max(s, 1 − s), as MixMatch, DivideMix and ELR+ do.

    Raises:
      ValueError: alpha is not positive.

    Examples:
      >>> mix = draw_mix(jax.random.key(0), batch_size=4, alpha=1.0, keep_larger=True)
      >>> bool(mix.share >= 0.5), sorted(mix.partner.tolist())
      (True, [0, 1, 2, 3])
    """
    check("alpha", alpha, lambda a: a > 0, "positive")
    share_key, partner_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha)
    if keep_larger:
        share = jnp.maximum(share, 1 - share)
    return Mix(share, jax.random.permutation(partner_key, batch_size))


def apply_mix(values: ArrayLike, mix: Mix) -> Array:
    """share · values + (1 − share) · values[partner], for floating values [B, …].

    Examples:
      >>> mix = Mix(share=jnp.array(0.75), partner=jnp.array([1, 0]))
      >>> apply_mix(jnp.array([[1.0, 0.0], [0.0, 1.0]]), mix)  # labels of two examples
      Array([[0.75, 0.25],
             [0.25, 0.75]], dtype=float32)
    """
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"values must be floating-point to be mixed, got {values.dtype}; labels go in as distributions")
    share = mix.share.astype(values.dtype)
    share = share.reshape(share.shape + (1,) * (values.ndim - 1)) if share.ndim else share
    return share * values + (1 - share) * values[mix.partner]
