"""A perceptron on which words a text has: `--model=experiments/bag_of_words.py:bag_of_words`.

A text set trains in a minute, with the normalisation layers that HAR regularises.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax import models

FIRST_WORD = 2  # 0 is padding, 1 any word that the vocabulary does not have


def presence(tokens: jax.Array, words: int) -> jax.Array:
    """Which of the `words` most frequent words are in each text: float32 [B, words], rows of norm √words (or 0).

    Args:
      tokens: ids int [B, L], by falling frequency from `FIRST_WORD` on.
      words: how many count; all others are left out.
    """
    columns = jnp.where(tokens < FIRST_WORD, words, tokens - FIRST_WORD)  # out of bounds is dropped
    found = jnp.zeros((len(tokens), words)).at[jnp.arange(len(tokens))[:, None], columns].set(1, mode="drop")
    return found * jnp.sqrt(words / jnp.maximum(jnp.sum(found, axis=-1, keepdims=True), 1))


def bag_of_words(num_classes: int, words: int = 1000, widths: Sequence[int] = (64, 64)) -> models.Model:
    """`mlp` with normalisation layers on `presence`; inputs are token ids int [B, L]."""
    inner = models.get_model("mlp", num_classes, widths=tuple(widths), normalize=True)

    def on_presence(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, stats, tokens, **options: function(params, stats, presence(tokens, words), **options)

    return models.Model(
        name="bag_of_words",
        init=lambda key, tokens: inner.init(key, presence(tokens, words)),
        outputs=on_presence(inner.outputs),
        apply=on_presence(inner.apply),
        features=on_presence(inner.features),
        hidden=on_presence(inner.hidden),
        tap_shapes=lambda params, stats, tokens: inner.tap_shapes(
            params, stats, jax.eval_shape(lambda ids: presence(ids, words), tokens)
        ),
    )
