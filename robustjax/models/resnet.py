"""Residual networks: the CIFAR family with option A shortcuts, and the wide family with option B (He et al., 2016)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from robustjax.models import layers


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
        if self.stride != 1 or x.shape[-1] != self.width:
            if self.shortcut == "pad":
                missing = self.width - x.shape[-1]
                x = x[:, :: self.stride, :: self.stride]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
            else:
                x = conv(x, self.width, name="shortcut_conv", size=1, stride=self.stride)
                x = norm(name="shortcut_norm")(x, train=train)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """A residual network of basic blocks on images.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      blocks: how many blocks each stage has.
      widths: channels of each stage.
      strides: of the first block of each stage.
      stem_width: channels of the stem.
      stem: "cifar" (3×3, stride 1) or "imagenet" (7×7, stride 2, then 3×3 max-pooling with stride 2).
      shortcut: where shapes change, "pad" (option A: subsample, pad channels with zeros on both sides) or "conv"
        (option B: 1×1 convolution and norm).
      tap_stem: whether the stem's norm is tapped. HAR's code leaves it out: 30 taps in ResNet-32.
    """

    kit: layers.Kit
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    stem_width: int
    stem: str = "cifar"
    shortcut: str = "conv"
    tap_stem: bool = True

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
                x = BasicBlock(width, stride if block == 1 else 1, self.shortcut, kit, name=name)(x, train=train)
        return kit.classify(layers.average(x))


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
