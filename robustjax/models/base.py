"""The Model contract: a network as a value made of pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

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
      outputs: (params, stats, inputs, *, train, key=None, taps=None) -> (logits [B, C], features [B, D], new_stats),
        one forward pass. Logits and features (what the classifier layer sees) are float32 for activations of 32 bits or
        fewer. Normalises by the batch and updates the statistics when `train`; otherwise `new_stats` is `stats`. `key`
        feeds dropout, which needs one when `train`. `taps` maps names of layers to arrays that are added to their
        outputs (of normalisation layers: before scale and shift): at zeros, the gradient with respect to them is the
        hidden gradient of HAR. A name that the network does not have raises ValueError.
      apply: (params, stats, inputs, *, train, key=None, taps=None) -> (logits, new_stats): `outputs` without features.
      features: (params, stats, inputs, *, train=False, key=None) -> (features, new_stats): `outputs` without logits.
      hidden: (params, stats, inputs, *, train, key=None) -> {name: output that a tap is added to}, for every layer
        that can be tapped.
      tap_shapes: (params, stats, inputs) -> {name: jax.ShapeDtypeStruct} of the taps for a batch like `inputs`;
        nothing is computed.
    """

    name: str
    init: Callable[[jax.Array, jax.Array], Variables]
    outputs: Callable[..., tuple[jax.Array, jax.Array, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]
    features: Callable[..., tuple[jax.Array, Any]]
    hidden: Callable[..., dict[str, jax.Array]]
    tap_shapes: Callable[[Any, Any, jax.Array], dict[str, jax.ShapeDtypeStruct]]


class Run(NamedTuple):
    """What one forward pass gives: of `Forward`."""

    logits: jax.Array
    features: jax.Array
    stats: Any
    hidden: dict[str, jax.Array]


class Forward(Protocol):
    """A network's one forward pass, of which every function of a `Model` but `init` is a view."""

    def __call__(
        self,
        params: Any,
        stats: Any,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None,
        taps: Taps | None,
        report: bool,
    ) -> Run:
        """Adds `taps` to hidden values, and reports these values if `report`, else {}."""


def from_forward(name: str, init: Callable[[jax.Array, jax.Array], Variables], forward: Forward) -> Model:
    """The `Model` with the given functions, whatever library they were written with."""

    def outputs(
        params: Any,
        stats: Any,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
        taps: Taps | None = None,
    ) -> tuple[jax.Array, jax.Array, Any]:
        run = forward(params, stats, inputs, train=train, key=key, taps=taps, report=taps is not None)
        unknown = sorted(set(taps or {}) - run.hidden.keys())
        if unknown:  # they would be ignored, with a gradient of 0
            raise ValueError(f"taps: {name} has no layer {unknown}, only {sorted(run.hidden)}")
        return run.logits, run.features, run.stats

    def apply(
        params: Any,
        stats: Any,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
        taps: Taps | None = None,
    ) -> tuple[jax.Array, Any]:
        logits, _, stats = outputs(params, stats, inputs, train=train, key=key, taps=taps)
        return logits, stats

    def features(
        params: Any, stats: Any, inputs: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        _, seen, stats = outputs(params, stats, inputs, train=train, key=key)
        return seen, stats

    def hidden(
        params: Any, stats: Any, inputs: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        return forward(params, stats, inputs, train=train, key=key, taps=None, report=True).hidden

    def tap_shapes(params: Any, stats: Any, inputs: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
        key = jax.random.key(0)  # any: only shapes are asked for
        return jax.eval_shape(lambda *arguments: hidden(*arguments, train=True, key=key), params, stats, inputs)

    return Model(name, init, outputs, apply, features, hidden, tap_shapes)


def from_linen(name: str, module: nn.Module, method: Callable[..., tuple[jax.Array, jax.Array]] | None = None) -> Model:
    """The `Model` of a Linen module `(x, *, train) -> (logits, features)`, tapped where it calls `layers.tap`.

    For modules with another signature or one output, see `robustjax.models.custom.from_module`.

    Args:
      name: of the model.
      module: the Linen module.
      method: (module, x, *, train) -> (logits, features), in place of the module's `__call__`. All of its streams of
        random numbers are then fed by `Model.apply`'s key, not only "dropout".
    """

    def init(key: jax.Array, inputs: jax.Array) -> Variables:
        variables = module.init(key, inputs, train=False, method=method)
        return Variables(variables.get("params", {}), variables.get("batch_stats", {}))

    def forward(
        params: Any,
        stats: Any,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None,
        taps: Taps | None,
        report: bool,
    ) -> Run:
        variables = {"params": params, "batch_stats": stats}
        if taps is not None:
            variables[TAPS] = unflatten_dict({(*tap.split("/"), LEAF): value for tap, value in taps.items()})
        collections = [*(["batch_stats"] if train else []), *([HIDDEN] if report else [])]
        # Linen's streams without a key of their own draw from that of "params".
        rngs = None if key is None else {"dropout" if method is None else "params": key}
        (logits, features), changed = module.apply(
            variables, inputs, train=train, rngs=rngs, mutable=collections, method=method
        )
        hidden = {"/".join(path[:-1]): value for path, value in flatten_dict(changed.get(HIDDEN, {})).items()}
        return Run(logits, features, changed.get("batch_stats", stats), hidden)

    return from_forward(name, init, forward)
