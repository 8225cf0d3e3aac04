"""Residual networks: the CIFAR family with option A shortcuts, and the wide family with option B (He et al., 2016)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from robustjax.models import layers


def _shortcut(x: jax.Array, width: int, stride: int, form: str, kit: layers.Kit, train: bool) -> jax.Array:
    """What of a block's input is added to its output, inside its compact module."""
    if stride == 1 and x.shape[-1] == width:
        return x
    if form == "pad":
        missing = width - x.shape[-1]
        return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
    x = kit.conv(x, width, name="shortcut_conv", size=1, stride=stride)
    return kit.norm(name="shortcut_norm")(x, train=train)


class BasicBlock(nn.Module):
    """conv, norm, ReLU, conv, norm, plus the shortcut, ReLU."""

    width: int
    stride: int
    shortcut: str
    kit: layers.Kit

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, ⌈H/stride⌉, ⌈W/stride⌉, width]."""
        conv, norm = self.kit.conv, self.kit.norm
        y = conv(x, self.width, name="conv1", stride=self.stride)
        y = nn.relu(norm(name="norm1")(y, train=train))
        y = norm(name="norm2")(conv(y, self.width, name="conv2"), train=train)
        return nn.relu(y + _shortcut(x, self.width, self.stride, self.shortcut, self.kit, train))


_EXPANSION = 4  # channels that leave a bottleneck, in those of its middle


class Bottleneck(nn.Module):
    """1×1 conv, norm, ReLU, 3×3 conv, norm, ReLU, 1×1 conv to four times the width, norm, plus the shortcut, ReLU.

    The stride is the middle convolution's, as in torchvision.
    """

    width: int
    stride: int
    shortcut: str
    kit: layers.Kit

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, ⌈H/stride⌉, ⌈W/stride⌉, 4 width]."""
        conv, norm, out = self.kit.conv, self.kit.norm, _EXPANSION * self.width
        y = nn.relu(norm(name="norm1")(conv(x, self.width, name="conv1", size=1), train=train))
        y = nn.relu(norm(name="norm2")(conv(y, self.width, name="conv2", stride=self.stride), train=train))
        y = norm(name="norm3")(conv(y, out, name="conv3", size=1), train=train)
        return nn.relu(y + _shortcut(x, out, self.stride, self.shortcut, self.kit, train))


class ResNet(nn.Module):
    """A residual network of basic blocks, or of bottlenecks, on images.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      blocks: how many blocks each stage has.
      widths: channels of each stage.
      strides: of the first block of each stage.
      stem_width: channels of the stem.
      stem: "cifar" (3×3, stride 1) or "imagenet" (7×7, stride 2, then 3×3 max-pooling with stride 2).
      shortcut: where shapes change, "pad" (option A: subsample, pad channels with zeros on both sides) or "conv"
        (option B: 1×1 convolution and norm).
      bottleneck: whether blocks are `Bottleneck`s, which give four times the channels of `widths`.
      tap_stem: whether the stem's norm is tapped. HAR's code leaves it out: 30 taps in ResNet-32.
      branches: how many last blocks there are side by side, on the same input; the classifier sees the features of all
        (2 in BBN).
    """

    kit: layers.Kit
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    stem_width: int
    stem: str = "cifar"
    shortcut: str = "conv"
    bottleneck: bool = False
    tap_stem: bool = True
    branches: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images [B, H, W, C'] to (logits [B, C], features [B, D])."""
        kit = self.kit
        large = self.stem == "imagenet"
        x = kit.images(x)
        x = kit.conv(x, self.stem_width, name="stem_conv", size=7 if large else 3, stride=2 if large else 1)
        x = nn.relu(kit.norm(name="stem_norm", tapped=self.tap_stem)(x, train=train))
        if large:
            x = layers.max_pool(x, window=3, stride=2, padding=1)
        for stage, (blocks, width, stride) in enumerate(zip(self.blocks, self.widths, self.strides, strict=True), 1):
            for block in range(1, blocks + 1):
                name = f"stage{stage}_block{block}"
                kind = Bottleneck if self.bottleneck else BasicBlock
                make = partial(kind, width, stride if block == 1 else 1, self.shortcut, kit)
                if self.branches > 1 and (stage, block) == (len(self.blocks), blocks):
                    names = [f"{name}_{branch}" for branch in range(1, self.branches + 1)]
                    x = jnp.concatenate([make(name=each)(x, train=train) for each in names], -1)
                else:
                    x = make(name=name)(x, train=train)
        return kit.classify(layers.average(x))


TORCHVISION_50 = {"bottleneck": True, "stem": "imagenet", "initialization": "torchvision"}


def cifar(depth: int) -> dict:
    """Settings of the CIFAR ResNet of `depth` = 6n + 2 layers, option A, with HAR's initialisation."""
    return {
        "blocks": ((depth - 2) // 6,) * 3,
        "widths": (16, 32, 64),
        "strides": (1, 2, 2),
        "stem_width": 16,
        "shortcut": "pad",
        "tap_stem": False,
        "initialization": "kaiming_normal",
    }


def wide(*blocks: int) -> dict:
    """Settings of a ResNet with stages of 64 to 512 channels."""
    return {"blocks": blocks, "widths": (64, 128, 256, 512), "strides": (1, 2, 2, 2), "stem_width": 64}
