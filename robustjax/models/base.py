"""The Model contract: a network as a value made of pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from robustjax.models.layers import HIDDEN, LEAF, TAPS

Taps = Mapping[str, jax.Array]


class Variables(NamedTuple):
    """What a network is made of: trained `params` and batch statistics `stats` ({} without batch normalisation)."""

    params: Any
    stats: Any


class Model(NamedTuple):
    """A classifier as pure functions. B examples, C classes, D features; images are [B, H, W, channels], tokens [B, L].

    Attributes:
      name: as given to `get_model`.
      init: (key, inputs [B, …]) -> Variables. Only the shape of `inputs` matters.
      apply: (params, stats, inputs, *, train, key=None, taps=None) -> (logits [B, C], new_stats). Logits are float32
        for activations of 32 bits or fewer. Normalises by the batch and updates the statistics when `train`; otherwise
        `new_stats` is `stats`. `key` feeds dropout, which needs one when `train`. `taps` maps names of layers to
        arrays that are added to their outputs (of normalisation layers: before scale and shift): at zeros, the gradient
        with respect to them is the hidden gradient of HAR. A name that the network does not have raises ValueError.
      features: (params, stats, inputs) -> [B, D], what the classifier layer sees in evaluation mode.
      hidden: (params, stats, inputs, *, train, key=None) -> {name: output that a tap is added to}, for every layer
        that can be tapped.
      tap_shapes: (params, stats, inputs) -> {name: jax.ShapeDtypeStruct} of the taps for a batch like `inputs`;
        nothing is computed.
    """

    name: str
    init: Callable[[jax.Array, jax.Array], Variables]
    apply: Callable[..., tuple[jax.Array, Any]]
    features: Callable[[Any, Any, jax.Array], jax.Array]
    hidden: Callable[..., dict[str, jax.Array]]
    tap_shapes: Callable[[Any, Any, jax.Array], dict[str, jax.ShapeDtypeStruct]]


def from_linen(name: str, module: nn.Module) -> Model:
    """The `Model` of a Linen module `(x, *, train) -> (logits, features)`, tapped where it calls `layers.tap`."""

    def run(params, stats, inputs, *, train, key=None, taps=None, report=False):
        variables = {"params": params, "batch_stats": stats}
        if taps is not None:
            variables[TAPS] = unflatten_dict({(*tap.split("/"), LEAF): value for tap, value in taps.items()})
        collections = [*(["batch_stats"] if train else []), *([HIDDEN] if report else [])]
        rngs = None if key is None else {"dropout": key}
        (logits, features), changed = module.apply(variables, inputs, train=train, rngs=rngs, mutable=collections)
        hidden = {"/".join(path[:-1]): value for path, value in flatten_dict(changed.get(HIDDEN, {})).items()}
        return logits, features, changed.get("batch_stats", stats), hidden

    def init(key, inputs):
        variables = module.init(key, inputs, train=False)
        return Variables(variables["params"], variables.get("batch_stats", {}))

    def apply(params, stats, inputs, *, train, key=None, taps=None):
        report = taps is not None
        logits, _, stats, hidden = run(params, stats, inputs, train=train, key=key, taps=taps, report=report)
        unknown = sorted(set(taps or {}) - hidden.keys())
        if unknown:  # they would be ignored, with a gradient of 0
            raise ValueError(f"taps: {name} has no layer {unknown}, only {sorted(hidden)}")
        return logits, stats

    def features(params, stats, inputs):
        return run(params, stats, inputs, train=False)[1]

    def hidden(params, stats, inputs, *, train, key=None):
        return run(params, stats, inputs, train=train, key=key, report=True)[3]

    def tap_shapes(params, stats, inputs):
        key = jax.random.key(0)  # any: only shapes are asked for
        return jax.eval_shape(lambda *arguments: hidden(*arguments, train=True, key=key), params, stats, inputs)

    return Model(name, init, apply, features, hidden, tap_shapes)
