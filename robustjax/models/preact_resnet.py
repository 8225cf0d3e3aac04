"""Pre-activation residual networks for CIFAR, as ELR+, DivideMix and Dynamic Loss use them."""

import jax
from flax import linen as nn

from robustjax.models import layers


class PreActBlock(nn.Module):
    """norm, ReLU, conv, norm, ReLU, conv, plus the shortcut.

    In the reference code the identity shortcut carries the *activated* input, not the input as in He et al. (2016).
    """

    width: int
    stride: int
    kit: layers.Kit

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, ⌈H/stride⌉, ⌈W/stride⌉, width]."""
        conv, norm = self.kit.conv, self.kit.norm
        x = nn.relu(norm(name="norm1")(x, train=train))
        y = conv(x, self.width, name="conv1", stride=self.stride)
        y = nn.relu(norm(name="norm2")(y, train=train))
        y = conv(y, self.width, name="conv2")
        if self.stride != 1 or x.shape[-1] != self.width:
            x = conv(x, self.width, name="shortcut_conv", size=1, stride=self.stride)
        return y + x


class PreActResNet(nn.Module):
    """A pre-activation residual network with a norm and ReLU after the stem and none before the pooling.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      blocks: how many blocks each stage has.
      widths: channels of each stage; the stem has as many as the first. Stages after the first halve the image.
    """

    kit: layers.Kit
    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images [B, H, W, C'] to (logits [B, C], features [B, D])."""
        kit = self.kit
        x = kit.images(x)
        x = kit.conv(x, self.widths[0], name="stem_conv")
        x = nn.relu(kit.norm(name="stem_norm")(x, train=train))
        for stage, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), 1):
            for block in range(1, blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                x = PreActBlock(width, stride, kit, name=name)(x, train=train)
        return kit.classify(layers.average(x))
