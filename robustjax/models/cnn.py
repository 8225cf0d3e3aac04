"""Plain networks: the 4- and 8-layer CNNs of sparse regularisation, a small CNN, and a perceptron for vectors."""

import jax
from flax import linen as nn

from robustjax.models import layers


def conv_stages(
    kit: layers.Kit, x: jax.Array, stages: tuple[tuple[int, ...], ...], pools: int, *, use_bias: bool, train: bool
) -> jax.Array:
    """Stages of (3×3 convolution, norm, ReLU), 2×2 max-pooling after the first `pools`, inside a compact module."""
    for stage, widths in enumerate(stages, 1):
        for i, width in enumerate(widths, 1):
            x = kit.conv(x, width, name=f"stage{stage}_conv{i}", use_bias=use_bias)
            x = nn.relu(kit.norm(name=f"stage{stage}_norm{i}")(x, train=train))
        if stage <= pools:
            x = layers.max_pool(x)
    return x


class ConvNet(nn.Module):
    """Stages of (3×3 convolution, norm, ReLU), 2×2 max-pooling after the first ones, a classifier.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      stages: channels of each convolution, by stage.
      pools: how many stages end in pooling.
      pooling: "average" or "flatten", from images to vectors, see `layers.flatten` for the order.
      hidden: width of a linear layer, norm and ReLU before the classifier; 0 for none.
      conv_bias: whether the convolutions have a bias.
    """

    kit: layers.Kit
    stages: tuple[tuple[int, ...], ...]
    pools: int = 2
    pooling: str = "average"
    hidden: int = 0
    conv_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images [B, H, W, C'] to (logits [B, C], features [B, D])."""
        kit = self.kit
        x = kit.images(x)
        x = conv_stages(kit, x, self.stages, self.pools, use_bias=self.conv_bias, train=train)
        x = layers.average(x) if self.pooling == "average" else layers.flatten(x)
        if self.hidden:
            x = kit.linear(x, self.hidden, name="hidden")
            x = nn.relu(kit.norm(name="hidden_norm")(x, train=train))
        return kit.classify(x)


class Inputs(nn.Module):
    """What comes in, with a place to tap."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, …] to itself."""
        return layers.tap(self, x)


class Mlp(nn.Module):
    """A perceptron with ReLU on vectors, or on anything else flattened; without hidden layers a linear classifier.

    Attributes:
      kit: the layers, with the number of classes and the common options of `get_model` in them.
      widths: of the hidden layers.
      normalize: whether a tapped `layers.BatchNorm` stands before each ReLU.
      tap_inputs: whether the inputs can be tapped, for gradients where there is no hidden layer.
    """

    kit: layers.Kit
    widths: tuple[int, ...] = (64, 64)
    normalize: bool = False
    tap_inputs: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps [B, …] to (logits [B, C], features [B, D])."""
        kit = self.kit
        x = x.reshape(x.shape[0], -1)
        if self.tap_inputs:
            x = Inputs(name="inputs")(x)
        for i, width in enumerate(self.widths, 1):
            x = kit.linear(x, width, name=f"linear{i}")
            if self.normalize:
                x = kit.norm(name=f"norm{i}")(x, train=train)
            x = nn.relu(x)
        return kit.classify(x)


def sr_cnn(*stages: tuple[int, ...], hidden: int) -> dict:
    """Settings of the CNNs of sparse regularisation (Zhou et al., 2021), which follow Ma et al. (2020)."""
    return {
        "stages": stages,
        "pools": len(stages),
        "pooling": "flatten",
        "hidden": hidden,
        "conv_bias": True,
        "initialization": "kaiming_xavier",
    }
