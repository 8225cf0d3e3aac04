"""Inception-ResNet-v2, which ELR, DivideMix, HAR and Dynamic Loss train on WebVision (Szegedy et al., 2017)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from robustjax.models import layers

_SMALLEST = 75  # pixels a side, of which one is left before the pooling
_EPSILON = 1e-3  # of the norms, as in TensorFlow's network and its ports


class ConvNorm(nn.Module):
    """Convolution, norm, ReLU; "valid" without padding."""

    width: int
    kit: layers.Kit
    size: int | tuple[int, int] = 1
    stride: int = 1
    valid: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H', W', width]."""
        x = self.kit.conv(x, self.width, name="conv", size=self.size, stride=self.stride, pad=not self.valid)
        return nn.relu(self.kit.norm(name="norm", epsilon=_EPSILON)(x, train=train))


_Conv = tuple  # the arguments of a ConvNorm behind its kit: width, size, stride, valid
_DOWN = (3, 2, True)  # halves the image


class Branches(nn.Module):
    """Chains of convolutions side by side, their channels joined.

    Attributes:
      chains: of each branch, the (width, size, stride, valid) of its convolutions.
      kit: the layers.
      pooled: what one branch more does: "max" (3×3, stride 2), "average" (3×3, then a 1×1 convolution of 64) or "none".
    """

    chains: tuple[tuple[_Conv, ...], ...]
    kit: layers.Kit
    pooled: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H', W', C']."""
        found = []
        for branch, chain in enumerate(self.chains):
            y = x
            for i, (width, *more) in enumerate(chain, 1):
                y = ConvNorm(width, self.kit, *more, name=f"branch{branch}_{i}")(y, train=train)
            found.append(y)
        if self.pooled == "max":
            found.append(layers.max_pool(x, window=3, stride=2))
        if self.pooled == "average":
            y = nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)
            found.append(ConvNorm(64, self.kit, name="pooled")(y, train=train))
        return jnp.concatenate(found, axis=-1)


class Residual(nn.Module):
    """The input plus `scale` times a linear map of branches of it, and ReLU unless `last`."""

    chains: tuple[tuple[_Conv, ...], ...]
    scale: float
    kit: layers.Kit
    last: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to itself."""
        y = Branches(self.chains, self.kit, name="branches")(x, train=train)
        x = x + self.scale * self.kit.conv(y, x.shape[-1], name="conv", size=1, use_bias=True)
        return x if self.last else nn.relu(x)


_BLOCK35 = (((32,),), ((32,), (32, 3)), ((32,), (48, 3), (64, 3)))
_BLOCK17 = (((192,),), ((128,), (160, (1, 7)), (192, (7, 1))))
_BLOCK8 = (((192,),), ((192,), (224, (1, 3)), (256, (3, 1))))


class InceptionResNet(nn.Module):
    """Inception-ResNet-v2 without its auxiliary head and its dropout, as the ports to PyTorch have it.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      blocks: how many residual blocks there are on maps of 35, 17 and 8 pixels a side (of an image of 299).
    """

    kit: layers.Kit
    blocks: tuple[int, ...] = (10, 20, 10)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images [B, H, W, C'], of at least 75×75 pixels, to (logits [B, C], features [B, 1536])."""
        kit = self.kit
        x = kit.images(x)
        if len(self.blocks) != 3:
            raise ValueError(f"blocks must be three numbers, got {self.blocks}")
        if min(x.shape[1:3]) < _SMALLEST:
            raise ValueError(f"images of {x.shape[1]}×{x.shape[2]} are too small here; at least {_SMALLEST} a side")

        def many(x: jax.Array, count: int, name: str, chains: tuple, scale: float, last: bool = False) -> jax.Array:
            for i in range(1, count + 1):
                end = last and i == count
                x = Residual(chains, 1.0 if end else scale, kit, last=end, name=f"{name}_{i}")(x, train=train)
            return x

        stem = ((32, 3, 2, True), (32, 3, 1, True), (64, 3)), ((80,), (192, 3, 1, True))
        for part, chain in enumerate(stem, 1):
            x = Branches((chain,), kit, name=f"stem{part}")(x, train=train)
            x = layers.max_pool(x, window=3, stride=2)
        mixed = (((96,),), ((48,), (64, 5)), ((64,), (96, 3), (96, 3)))
        x = Branches(mixed, kit, "average", name="mixed35")(x, train=train)
        x = many(x, self.blocks[0], "block35", _BLOCK35, 0.17)
        halved = (((384, *_DOWN),), ((256,), (256, 3), (384, *_DOWN)))
        x = Branches(halved, kit, "max", name="mixed17")(x, train=train)
        x = many(x, self.blocks[1], "block17", _BLOCK17, 0.10)
        quartered = (((256,), (384, *_DOWN)), ((256,), (288, *_DOWN)), ((256,), (288, 3), (320, *_DOWN)))
        x = Branches(quartered, kit, "max", name="mixed8")(x, train=train)
        x = many(x, self.blocks[2], "block8", _BLOCK8, 0.20, last=True)
        x = ConvNorm(1536, kit, name="final")(x, train=train)
        return kit.classify(layers.average(x))
