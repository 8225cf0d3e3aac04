"""The bidirectional LSTM that HAR trains on IMDB reviews."""

from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from robustjax.models import layers

PADDING = 0


class BiLstm(nn.Module):
    """Embedding, bidirectional LSTM layers, mean over the words, dropout, classifier.

    From the paper (Cao et al., 2021): two layers, 256 units (taken as in each direction), dropout before the
    classifier. Ours: the width of the embedding, and the mean over the words instead of the last states, because it
    hands every word a gradient and so learns from random embeddings at once. Weights of the cells start as PyTorch's,
    U(±1/√units); the forget gate's bias has no head start.

    Padding (id 0, at either end or anywhere else) has no influence: words move to the front, each direction starts at
    its own end of the words, and the hidden values of padding are 0, as are the gradients of their taps. The taps are
    the outputs of the `embedding` [B, L, E] and of each `lstmN` [B, L, 2 units]; position i is the i-th word.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      vocabulary_size: token ids, 0 to vocabulary_size - 1; any other id makes the logits NaN.
      embedding: width of the word vectors.
      units: of each direction of each layer.
      depth: LSTM layers.
      dropout: share of the features dropped in training.
    """

    kit: layers.Kit
    vocabulary_size: int = 20_000
    embedding: int = 128
    units: int = 256
    depth: int = 2
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps token ids int [B, L] to (logits [B, C], features [B, 2 units])."""
        kit = self.kit
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"inputs must be int token ids [B, L], got {x.dtype} of shape {x.shape}")
        x = jnp.take_along_axis(x, jnp.argsort(x == PADDING, axis=-1, stable=True), axis=-1)
        present = x != PADDING
        lengths, mask = jnp.sum(present, axis=-1), present[..., None]
        x = _Embedding(self.vocabulary_size, self.embedding, kit.dtype, name="embedding")(x, mask)
        for i in range(1, self.depth + 1):
            x = _BiLayer(self.units, kit.dtype, name=f"lstm{i}")(x, mask, lengths)
        wide = layers.at_least_float32(kit.dtype)
        x = jnp.sum(x.astype(wide), 1) / jnp.maximum(lengths, 1)[:, None].astype(wide)
        return kit.classify(nn.Dropout(self.dropout, deterministic=not train)(x))


def _tap_words(module: nn.Module, x: jax.Array, mask: jax.Array) -> jax.Array:
    """`layers.tap` of x [B, L, D], where `mask` [B, L, 1] holds; 0 elsewhere, whatever the tap."""
    return jnp.where(mask, layers.tap(module, jnp.where(mask, x, 0)), 0)


class _Embedding(nn.Module):
    """A table of word vectors, tapped."""

    size: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps int [B, L] to [B, L, width]."""
        table = nn.Embed(
            self.size, self.width, dtype=self.dtype, param_dtype=layers.at_least_float32(self.dtype), name="table"
        )
        return _tap_words(self, table(tokens), mask)


class _BiLayer(nn.Module):
    """An LSTM in each direction over sequences of the given lengths, outputs side by side, tapped."""

    units: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, lengths: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, 2 units]."""
        init = layers.uniform_bias(self.units)

        def direction(name: str, reverse: bool) -> jax.Array:
            cell = nn.OptimizedLSTMCell(
                self.units, kernel_init=init, recurrent_kernel_init=init, bias_init=init, dtype=self.dtype,
                param_dtype=layers.at_least_float32(self.dtype), name=name, parent=self,
            )  # fmt: skip
            # Flax's cell lets gates of a low precision meet a state of float32, which strict promotion would refuse.
            with jax.numpy_dtype_promotion("standard"):
                outputs = nn.RNN(cell, reverse=reverse, keep_order=True)(x, seq_lengths=lengths)
            return cast(jax.Array, outputs)  # without a carry beside it

        both = [direction("forward", False), direction("backward", True)]
        return _tap_words(self, jnp.concatenate(both, axis=-1), mask)
