"""Layers and initialisers that the reference implementations share, with their paddings and fan rules."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from robustjax import backend
from robustjax._probabilities import at_least_float32  # of parameters, statistics and logits beside activations

TAPS = "taps"  # Flax collection of what is added to hidden values
HIDDEN = "hidden"  # Flax collection in which the hidden values are reported
LEAF = "value"

Initializer = Callable[..., jax.Array]

kaiming_uniform: Initializer = initializers.variance_scaling(2.0, "fan_in", "uniform")  # gain √2, for ReLU
kaiming_normal: Initializer = initializers.variance_scaling(2.0, "fan_in", "normal")
xavier_uniform: Initializer = initializers.variance_scaling(1.0, "fan_avg", "uniform")
kaiming_fan_out: Initializer = initializers.variance_scaling(2.0, "fan_out", "normal")
torch_default: Initializer = initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # Kaiming uniform with a = √5


class Weights(NamedTuple):
    """How the weights of convolutions and of linear layers start; biases always start as U(±1/√fan_in)."""

    conv: Initializer
    linear: Initializer


INITIALIZATIONS = {
    "torch": Weights(torch_default, torch_default),
    "kaiming_normal": Weights(kaiming_normal, kaiming_normal),  # HAR
    "kaiming_xavier": Weights(kaiming_uniform, xavier_uniform),  # SR
    "torchvision": Weights(kaiming_fan_out, torch_default),  # its ResNets
    "torchvision_vgg": Weights(kaiming_fan_out, initializers.normal(0.01)),
}


def uniform_bias(fan_in: int) -> Initializer:
    """PyTorch's default bias initialiser: U(±1/√fan_in)."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def tap(module: nn.Module, value: jax.Array) -> jax.Array:
    """`value` plus the module's entry of the `taps` collection, if there is one; reported as its hidden value.

    Called inside the module, whose name becomes the tap's.
    """
    if module.has_variable(TAPS, LEAF):
        value = value + module.get_variable(TAPS, LEAF).astype(value.dtype)
    module.sow(HIDDEN, LEAF, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    return value


def _mean(x: jax.Array, parts: int) -> jax.Array:
    """Mean over all axes but the last, [..., F] -> [F]; of [P, N, F] in two steps, see `backend.parts_of_sums`."""
    if parts == 1:
        return jnp.mean(x, tuple(range(x.ndim - 1)))
    return jnp.mean(backend.materialized(jnp.mean(x, 1)), 0)  # else XLA makes one of two sums in a row


def _spread(values: jax.Array, parts: int) -> jax.Array:
    """[F] to be broadcast over [..., F], or over [P, N, F], where its gradient is a sum as `_mean`'s."""
    if parts == 1:
        return values
    return backend.materialized(jnp.broadcast_to(values, (parts, values.shape[0])))[:, None]


def is_observed(module: nn.Module) -> bool:
    """Whether `tap` would do anything in this call: the hidden value is added to, or asked for."""
    return module.has_variable(TAPS, LEAF) or module.is_mutable_collection(HIDDEN)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with a place to tap between normalising and scaling.

    Normalises by the biased batch variance (one pass, in at least float32) when `train`, else by the running
    statistics, then adds this layer's entry of the `taps` collection, if there is one, scales and shifts. The value
    before scale and shift is what HAR's code differentiates by (Cao et al., 2021, appendix B).

    Attributes:
      dtype: of the output; statistics and parameters are at least float32.
      tapped: whether this layer can be tapped and reports its normalised output.
      momentum: of the running statistics (PyTorch's 0.1 is 0.9 here).
      epsilon: added to the variance.
      unbiased_running_variance: store n/(n-1) times the batch variance, as PyTorch does; Flax stores the biased one.
    """

    dtype: jnp.dtype = jnp.float32
    tapped: bool = True
    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_running_variance: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [..., F] to [..., F]."""
        dtype, shape = at_least_float32(self.dtype), (x.shape[-1],)
        scale = self.param("scale", initializers.ones, shape, dtype)
        bias = self.param("bias", initializers.zeros, shape, dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        x, whole = x.astype(dtype), x.shape
        # Only training sums anything; and in an export, which evaluates, the number of examples is a symbol.
        parts = math.gcd(x.shape[0], backend.parts_of_sums(x.size)) if train else 1
        if parts > 1:  # elsewhere its own shape leaves XLA free to choose a layout
            x = x.reshape(parts, -1, x.shape[-1])
        mean, var = running_mean.value, running_var.value
        if train:
            n = x.size // x.shape[-1]
            mean = _mean(x, parts)
            var = jnp.maximum(_mean(x * x, parts) - mean * mean, 0)
            correction = n / max(n - 1, 1) if self.unbiased_running_variance else 1.0
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * correction * var
        spread = partial(_spread, parts=parts)
        shrink = jax.lax.rsqrt(var + self.epsilon)
        if self.tapped and is_observed(self):
            x = (x - spread(mean)) * spread(shrink)
            x = tap(self, x.reshape(whole)).reshape(x.shape)
        else:  # the same with half as many sums in the gradient
            scale, bias = shrink * scale, bias - mean * shrink * scale
        return (x * spread(scale) + spread(bias)).reshape(whole).astype(self.dtype)


def conv(
    x: jax.Array,
    features: int,
    *,
    name: str,
    init: Initializer,
    dtype: jnp.dtype,
    size: int | tuple[int, int] = 3,
    stride: int = 1,
    use_bias: bool = False,
    pad: bool = True,
) -> jax.Array:
    """A convolution of `size`, a side or both, inside a compact module, [B, H, W, C] -> [B, H', W', features].

    Pads by size//2 on every side, as PyTorch's networks do, or not at all: XLA's "SAME" pads a strided convolution of
    an even-sized image on the far side only.
    """
    window = (size, size) if isinstance(size, int) else size
    return nn.Conv(
        features,
        window,
        strides=(stride, stride),
        padding=[(side // 2, side // 2) if pad else (0, 0) for side in window],
        use_bias=use_bias,
        kernel_init=init,
        bias_init=uniform_bias(math.prod(window) * x.shape[-1]),
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        name=name,
    )(backend.materialized(x))


def linear(x: jax.Array, features: int, *, name: str, init: Initializer, dtype: jnp.dtype) -> jax.Array:
    """A linear layer with bias inside a compact module, [B, D] -> [B, features]."""
    return nn.Dense(
        features,
        kernel_init=init,
        bias_init=uniform_bias(x.shape[-1]),
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        name=name,
    )(x)


def cosine_logits(features: jax.Array, weight: jax.Array) -> jax.Array:
    """Cosines between each feature vector [..., D] and each column of `weight` [D, C] -> [..., C].

    Lengths are floored at 1e-12, and the gradient at a zero vector is finite. Used with LDAM (Cao et al., 2019), whose
    loss multiplies the result by its scale.
    """
    return _unit(features, axis=-1) @ _unit(weight, axis=0)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    # The floor goes under the root, where its gradient is 0 and not 0/0.
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis, keepdims=True), 1e-24))


class CosineHead(nn.Module):
    """A classifier without bias whose logits are cosines; columns start with random directions of length 1."""

    num_classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps features [B, D] to logits [B, C]."""

        def directions(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            return _unit(jax.random.uniform(key, shape, dtype, -1, 1), axis=0)

        return cosine_logits(x, self.param("kernel", directions, (x.shape[-1], self.num_classes), self.dtype))


def max_pool(x: jax.Array, window: int = 2, stride: int = 2, padding: int = 0) -> jax.Array:
    """Max-pooling of [B, H, W, C] with PyTorch's floor rule for the output size.

    Ties share the gradient instead of giving it to the first; after a ReLU the tied zeros pass none either way. On CPU
    the gradients of what is done here are some 20 times faster than `nn.max_pool`'s.

    Raises:
      ValueError: the image is smaller than the window.
    """
    if min(x.shape[1:3]) + 2 * padding < window:
        raise ValueError(
            f"images of {x.shape[1]}×{x.shape[2]} are too small here for a {window}×{window} pooling window"
        )
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
    rows, columns = ((size - window) // stride + 1 for size in x.shape[1:3])
    if window == stride:  # each value is in one window: the gradient of a reduction needs no sum over slices
        x = x[:, : rows * window, : columns * window]
        return jnp.max(x.reshape(x.shape[0], rows, window, columns, window, x.shape[-1]), (2, 4))
    slices = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(window)
        for j in range(window)
    ]
    while len(slices) > 1:
        slices = [jnp.maximum(*pair) for pair in zip(slices[::2], slices[1::2], strict=False)] + slices[
            len(slices) // 2 * 2 :
        ]
    return slices[0]


def average(x: jax.Array) -> jax.Array:
    """Global average pooling, [B, H, W, C] -> [B, C], summed in at least float32."""
    return jnp.mean(x.astype(at_least_float32(x.dtype)), (1, 2))


def flatten(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, C·H·W], channel by channel like PyTorch, so that linear weights can be carried over."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


class Kit(NamedTuple):
    """The layers of one network, with its common options in them; used inside compact modules.

    Attributes:
      images: [B, H, W, C] -> the same in the network's dtype; ValueError for another rank.
      conv: (x [B, H, W, C], features, *, name, size=3, stride=1, use_bias=False, pad=True) -> [B, H', W', features].
      linear: (x [B, D], features, *, name) -> [B, features].
      norm: (*, name, tapped=True) -> `BatchNorm`.
      classify: features [B, D] -> (logits [B, C], features), both in at least float32; the last layer, "head".
      dtype: of the activations.
    """

    images: Callable[[jax.Array], jax.Array]
    conv: Callable[..., jax.Array]
    linear: Callable[..., jax.Array]
    norm: Callable[..., BatchNorm]
    classify: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    dtype: jnp.dtype


def kit(num_classes: int, *, initialization: str, head: str, unbiased_running_variance: bool, dtype: jnp.dtype) -> Kit:
    """The layers of a network whose options have these values, see `get_model`."""
    weights = INITIALIZATIONS[initialization]

    def images(x: jax.Array) -> jax.Array:
        if x.ndim != 4:
            raise ValueError(f"inputs must be images [B, H, W, C], got shape {x.shape}")
        return x.astype(dtype)

    def classify(features: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = at_least_float32(dtype)
        features = features.astype(wide)
        if head == "cosine":
            return CosineHead(num_classes, wide, name="head")(features), features
        return linear(features, num_classes, name="head", init=weights.linear, dtype=wide), features

    return Kit(
        images,
        partial(conv, init=weights.conv, dtype=dtype),
        partial(linear, init=weights.linear, dtype=dtype),
        partial(BatchNorm, dtype=dtype, unbiased_running_variance=unbiased_running_variance),
        classify,
        dtype,
    )
