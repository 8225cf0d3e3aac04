"""A perceptron on which words a text has: for texts of one's own, on a laptop."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from robustjax.models import layers
from robustjax.models.cnn import Mlp

FIRST_WORD = 2  # 0 is padding, 1 any word that the vocabulary does not have


class BagOfWords(nn.Module):
    """`Mlp` on the words of a text, whatever their order and number; rare words weigh more, as in TF-IDF.

    By Zipf's law the word of rank r is in a share of about 1/r of all texts, so that its inverse document frequency
    grows as log r: weights of ranks need no look at the data, and no state. Rows have norm 1. The tap `inputs` is what
    the perceptron sees.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      vocabulary_size: token ids, 0 to vocabulary_size - 1, by falling frequency from `FIRST_WORD` on; others are no
        words.
      widths: of the hidden layers; none make it linear.
      normalize: whether a tapped `layers.BatchNorm` stands before each ReLU.
    """

    kit: layers.Kit
    vocabulary_size: int = 20_000
    widths: tuple[int, ...] = ()
    normalize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps token ids int [B, L] to (logits [B, C], features [B, D])."""
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"inputs must be int token ids [B, L], got {x.dtype} of shape {x.shape}")
        words = max(1, self.vocabulary_size - FIRST_WORD)
        weights = jnp.log(2 + jnp.arange(words) / 10)
        inner = Mlp(self.kit, self.widths, self.normalize, tap_inputs=True, name="perceptron")
        return inner(presence(x, weights).astype(self.kit.dtype), train=train)


def presence(tokens: jax.Array, weights: jax.Array) -> jax.Array:
    """Which words are in each text, weighted: float32 [B, W], rows of norm 1; 0 for a text without any.

    Args:
      tokens: ids int [B, L]; word w has the id w + `FIRST_WORD`, and ids of other words are left out.
      weights: of the words, positive [W].
    """
    columns = jnp.where(tokens < FIRST_WORD, len(weights), tokens - FIRST_WORD)  # out of bounds is dropped
    found = weights * jax.vmap(lambda row: jnp.zeros(len(weights)).at[row].set(1, mode="drop"))(columns)
    return found * jax.lax.rsqrt(jnp.maximum(jnp.sum(found * found, axis=-1, keepdims=True), 1e-12))
