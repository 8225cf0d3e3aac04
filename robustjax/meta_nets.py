"""Small networks that weigh losses and correct labels, as plain functions of a parameter dictionary.

Linear weights are `[in, out]`. No state, no modules: `robustjax.meta` differentiates through any of them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from robustjax._probabilities import promote

# From the size of a loss to a weight: MW-Net and CMW-Net.


def init_weight_net(key: Array, hidden: int = 100, groups: int = 1) -> dict[str, Any]:
    """Parameters of a network from an example's loss to its weight.

    Shu et al., Meta-Weight-Net, 2019, with one group; Shu et al., CMW-Net, 2022, with three: a head for each group of
    classes of similar size, on a shared hidden layer.

    Args:
      key: PRNG key.
      hidden: units of the hidden layer.
      groups: G, heads.

    Returns:
      {"hidden": {"kernel" [1, hidden], "bias" [hidden]}, "head": {"kernel" [hidden, G], "bias" [G]}}, all uniform
      within ±1/√(inputs of the layer), the default of the authors' framework.
    """
    if hidden < 1 or groups < 1:
        raise ValueError(f"hidden={hidden} and groups={groups} must be at least 1.")
    hidden_key, head_key = jax.random.split(key)
    return {"hidden": _init_linear(hidden_key, 1, hidden), "head": _init_linear(head_key, hidden, groups)}


def apply_weight_net(params: dict[str, Any], values: ArrayLike, group: ArrayLike | None = None) -> Array:
    """Weights v = sigmoid(W₂ relu(W₁ ℓ + b₁) + b₂) in (0, 1), one an example.

    Args:
      params: from `init_weight_net`.
      values: losses `[...]`; the authors let no gradient through them, which is the caller's to stop.
      group: int `[...]`, the head each example uses; the first by default. CMW-Net has `groups_of_classes[labels]`.

    Returns:
      Weights `[...]`.
    """
    x = jax.nn.relu(promote(values)[..., None] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    outputs = jax.nn.sigmoid(x @ params["head"]["kernel"] + params["head"]["bias"])
    return outputs[..., 0] if group is None else jnp.take_along_axis(outputs, jnp.asarray(group)[..., None], -1)[..., 0]


def _init_linear(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    bound = 1 / math.sqrt(inputs)
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound),
    }


# Label corrector and margin generator: Dynamic Loss (Jiang et al., TPAMI 2023).


def init_mlp(key: Array, num_inputs: int, hidden: int, num_outputs: int, output_bias: float) -> dict[str, Any]:
    """An embedding of `num_inputs` entries and three linear layers: what the corrector and the margin generator share.

    Xavier-uniform embedding, Xavier-normal weights [in, out], zero biases but the last (authors' code).
    """
    sizes = [hidden, hidden, hidden, num_outputs]
    keys = jax.random.split(key, len(sizes))
    xavier = jax.nn.initializers.glorot_normal()
    layers = [
        {"kernel": xavier(k, (m, n)), "bias": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]
    layers[-1]["bias"] += output_bias
    return {"embedding": jax.nn.initializers.glorot_uniform()(keys[-1], (num_inputs, hidden)), "layers": layers}


def apply_mlp(params: dict[str, Any]) -> Array:
    """The net's outputs for every entry of its embedding: [num_inputs, num_outputs]."""
    *hidden, last = params["layers"]
    x = params["embedding"]
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def init_corrector(
    key: Array, num_classes: int, num_bins: int, *, form: str = "mlp", hidden: int = 64, bias: float = 3.98
) -> dict[str, Any]:
    """Parameters of the label corrector, starting at g = sigmoid(bias): it trusts the given labels.

    Args:
      key: PRNG key.
      num_classes: C.
      num_bins: R, the number of loss-rank bins.
      form: "mlp" (class-wise), "agnostic" (one output for all classes), "vector" (a free table), "none".
      hidden: width of the net.
      bias: output bias; 3.98 gives g = 0.982 (authors' code).
    """
    if form == "none":
        return {}
    if form == "vector":
        return {"table": jnp.full((num_bins, num_classes), bias)}
    return init_mlp(key, num_bins, hidden, 1 if form == "agnostic" else num_classes, bias)


def init_margin(
    key: Array, num_classes: int, *, form: str = "mlp", hidden: int = 64, bias: float = 1.0
) -> dict[str, Any]:
    """Parameters of the margin generator, starting near q = `bias`; forms "mlp", "vector", others have none."""
    if form == "vector":
        return {"table": jnp.full((1, num_classes), bias)}
    return init_mlp(key, 1, hidden, num_classes, bias) if form == "mlp" else {}


def weight_table(corrector: dict[str, Any], num_classes: int) -> Array:
    """Learned label weights g(r | y), [C, R], in (0, 1)."""
    outputs = corrector["table"] if "table" in corrector else apply_mlp(corrector)
    return jax.nn.sigmoid(jnp.broadcast_to(outputs, (outputs.shape[0], num_classes))).T


def margin_vector(margin: dict[str, Any]) -> Array:
    """The learned margins q, [C], added to the logits."""
    return (margin["table"] if "table" in margin else apply_mlp(margin))[0]
