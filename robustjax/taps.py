"""Gradients of a loss at hidden layers: all layers and all examples in one backward pass.

A tap is an array of zeros that a network adds to a hidden value h (`Model.apply(taps=…)`): it changes nothing, and the
gradient with respect to it is that with respect to h. So `jax.grad` gives hidden gradients without the network knowing
of them, and differentiates them again where a loss is made of them.

Under batch normalisation an example's hidden value also moves the batch's statistics at later layers, and with them the
losses of other examples. The gradient of the batch's loss contains that, as it does in HAR's code.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Tapped(NamedTuple):
    """A loss (scalar) with its auxiliary output and its gradients at hidden layers, {layer: [B, …]}."""

    value: jax.Array
    aux: Any
    gradients: dict[str, jax.Array]


def choose(layers: Iterable[str], pattern: str = "*") -> tuple[str, ...]:
    """The layers that a pattern names, in sorted order.

    Args:
      layers: names of a network's taps, the keys of `Model.tap_shapes`.
      pattern: globs joined by "|", such as "stage3_*" or "*/norm2|hidden_norm"; "*" names all.

    Raises:
      ValueError: if there is no layer, or a glob names none.

    Examples:
      >>> choose(["stage1/norm1", "stage1/norm2", "stage2/norm1"], "stage1/*")
      ('stage1/norm1', 'stage1/norm2')
    """
    layers = sorted(layers)
    if not layers:
        raise ValueError("the network has no normalisation layer, and so none whose gradient could be taken.")
    chosen = {glob: fnmatch.filter(layers, glob) for glob in pattern.split("|")}
    for glob, names in chosen.items():
        if not names:
            raise ValueError(f"layers={pattern!r}: {glob!r} names none of {', '.join(layers)}.")
    return tuple(sorted(set().union(*chosen.values())))


def value_and_gradients(
    loss: Callable[[dict[str, jax.Array]], tuple[jax.Array, Any]], shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> Tapped:
    """A loss and its gradients at the tapped layers; differentiable again, by the parameters that `loss` closes over.

    Args:
      loss: taps -> (scalar, auxiliary output), one forward pass.
      shapes: of the taps, as `Model.tap_shapes` gives them; only these layers are tapped.

    Returns:
      The `Tapped`; the gradients have the shapes and dtypes of `shapes`.

    Examples:
      >>> shapes = {"norm": jax.ShapeDtypeStruct((3,), jnp.float32)}
      >>> hidden = jnp.array([1.0, 2.0, 3.0])
      >>> tapped = value_and_gradients(lambda taps: (jnp.sum((hidden + taps["norm"]) ** 2), None), shapes)
      >>> tapped.gradients["norm"]
      Array([2., 4., 6.], dtype=float32)
    """
    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(zeros)
    return Tapped(value, aux, gradients)
