"""VGG networks with batch normalisation, of which Dynamic Loss and PLC train that of 19 layers on ANIMAL-10N."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from robustjax.models import layers
from robustjax.models.cnn import conv_stages

VGG19 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


def _adaptive_average(x: jax.Array, side: int) -> jax.Array:
    """Means over `side`×`side` bins of nearly one size, as of PyTorch's adaptive pooling: [B, side, side, C]."""

    def bins(x: jax.Array, axis: int) -> jax.Array:
        size = x.shape[axis]
        if size == side:
            return x
        edges = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
        means = [jnp.mean(jax.lax.slice_in_dim(x, *edge, axis=axis), axis, keepdims=True) for edge in edges]
        return jnp.concatenate(means, axis)

    return bins(bins(x, 1), 2)


class Vgg(nn.Module):
    """Stages of (3×3 convolution with bias, norm, ReLU) and 2×2 max-pooling, two linear layers, a classifier.

    Simonyan and Zisserman, 2015, with the norms, the pooling to 7×7 and the dropout of torchvision's.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      stages: channels of each convolution, by stage; each stage halves the image.
      side: pixels a side that the maps are averaged to.
      hidden: width of the two linear layers.
      dropout: share of their outputs that is dropped in training.
    """

    kit: layers.Kit
    stages: tuple[tuple[int, ...], ...]
    side: int = 7
    hidden: int = 4096
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images [B, H, W, C'] to (logits [B, C], features [B, hidden])."""
        kit = self.kit
        x = kit.images(x)
        x = conv_stages(kit, x, self.stages, len(self.stages), use_bias=True, train=train)
        x = layers.flatten(_adaptive_average(x, self.side))
        for i in (1, 2):
            x = nn.relu(kit.linear(x, self.hidden, name=f"linear{i}"))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return kit.classify(x)
