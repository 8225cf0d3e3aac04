"""Small networks that weigh losses and correct labels, as plain functions of a parameter dictionary.

Linear weights are `[in, out]`. No state, no modules: `robustjax.meta` differentiates through any of them.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from robustjax._checks import check_choice
from robustjax._probabilities import promote

# From the size of a loss to a weight: MW-Net and CMW-Net; from its curve: CurveNet.


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


def init_curve_net(key: Array, length: int, num_classes: int, hidden: int = 64, bias: float = 4.5) -> dict[str, Any]:
    """Parameters of a network from an example's loss curve and label to its weight.

    Jiang et al., Delving into Sample Loss Curve to Embrace Noisy and Imbalanced Data, 2022 (CurveNet), with the
    authors' initialisation: Xavier, and an output bias from which all weights start near 1.

    Args:
      key: PRNG key.
      length: L, entries of a curve.
      num_classes: C.
      hidden: H; layers have 2H and H units in turn.
      bias: the last bias.

    Returns:
      {"curve" and "head": three layers {"kernel", "bias"} each, "embedding" [C, H]}.
    """
    if length < 1 or hidden < 1:
        raise ValueError(f"length={length} and hidden={hidden} must be at least 1.")
    curve_key, head_key, embedding_key = jax.random.split(key, 3)
    head = _xavier_layers(jax.random.split(head_key, 3), [hidden, 2 * hidden, hidden, 1])
    head[-1]["bias"] += bias
    return {
        "curve": _xavier_layers(jax.random.split(curve_key, 3), [length, 2 * hidden, 2 * hidden, hidden]),
        "head": head,
        "embedding": jax.nn.initializers.glorot_uniform()(embedding_key, (num_classes, hidden)),
    }


def apply_curve_net(
    params: dict[str, Any], curves: ArrayLike, labels: ArrayLike, *, factor: float = 1.0, offset: float = 0.02
) -> Array:
    """CurveNet's weights, factor · sigmoid(head(relu(curve layers) + 2 embedding)) + offset, one an example.

    Args:
      params: from `init_curve_net`.
      curves: losses `[..., L]`, less those of the mean example of the class.
      labels: int `[...]`.
      factor: the range of the weights.
      offset: the least weight.

    Returns:
      Weights `[...]`.
    """
    # The authors' code adds the embedding twice.
    x = _relu_layers(params["curve"], promote(curves)) + 2 * params["embedding"][jnp.asarray(labels)]
    *hidden, last = params["head"]
    x = _relu_layers(hidden, x) @ last["kernel"] + last["bias"]
    return factor * jax.nn.sigmoid(x[..., 0]) + offset


# From a tensor's gradient to whether it takes part in a meta-gradient: FaMUS.


def init_gate_net(key: Array, length: int, hidden: int = 128) -> dict[str, Any]:
    """Parameters of a gradient sampler, a network from a summary of a gradient to scores of (off, on).

    Xu et al., Faster Meta Update Strategy for Noise-Robust Deep Learning, 2021 (FaMUS), section 4.2 and code: two
    hidden layers with a PReLU each.

    Args:
      key: PRNG key.
      length: D, entries of the summary, one an output of the layer.
      hidden: units of the hidden layers.

    Returns:
      {"layers": three of {"kernel", "bias"}, uniform within ±1/√(inputs of the layer); "slopes" [2], at 0.25}.
    """
    if length < 1 or hidden < 1:
        raise ValueError(f"length={length} and hidden={hidden} must be at least 1.")
    sizes = [length, hidden, hidden, 2]
    layers = [_init_linear(k, m, n) for k, m, n in zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True)]
    return {"layers": layers, "slopes": jnp.full(2, 0.25)}


def apply_gate_net(params: dict[str, Any], summary: ArrayLike) -> Array:
    """Scores `[..., 2]` of (off, on) from summaries `[..., D]`, each standardised to mean 0 and deviation 1."""
    x = promote(summary)
    # Of a single number there is no deviation (as of one gradient of a layer with one output).
    deviation = jnp.std(x, -1, ddof=min(1, x.shape[-1] - 1), keepdims=True)
    # The authors add 1e-9; then the gradient of a bias before a normalisation, rounding errors alone, would count too.
    x = (x - jnp.mean(x, -1, keepdims=True)) / (deviation + 1e-6)
    *hidden, last = params["layers"]
    for layer, slope in zip(hidden, params["slopes"], strict=True):
        x = x @ layer["kernel"] + layer["bias"]
        x = jnp.where(x > 0, x, slope * x)
    return x @ last["kernel"] + last["bias"]


def draw_gate(key: Array, scores: Array, temperature: float = 5.0) -> Array:
    """Gumbel-softmax: 0 or 1 `[...]`, drawn with probability softmax of the scores `[..., 2]` of (off, on).

    Its derivative is that of softmax((scores + Gumbel noise)/temperature) (straight through; Jang et al., 2017).
    """
    noisy = scores + jax.random.gumbel(key, scores.shape, scores.dtype)
    soft = jax.nn.softmax(noisy / temperature)[..., 1]
    hard = (noisy[..., 1] > noisy[..., 0]).astype(soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))


def _xavier_layers(keys: Array, sizes: list[int]) -> list[dict[str, Array]]:
    """Linear layers from each size to the next, with Xavier-normal weights and zero biases."""
    xavier = jax.nn.initializers.glorot_normal()
    return [
        {"kernel": xavier(k, (m, n)), "bias": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def _relu_layers(layers: list[dict[str, Array]], x: Array) -> Array:
    """What layers make of `x` [..., inputs], each with a ReLU behind it."""
    for layer in layers:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x


def _init_linear(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    bound = 1 / math.sqrt(inputs)
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound),
    }


# Label corrector and margin generator: Dynamic Loss (Jiang et al., TPAMI 2023).

NETS = ("code", "paper")


def init_mlp(
    key: Array, num_inputs: int, hidden: int, num_outputs: int, output_bias: float, *, net: str = "code"
) -> dict[str, Any]:
    """What the corrector and the margin generator share: a net with `num_inputs` inputs, all of them constants.

    Xavier-normal weights [in, out] and zero biases but the last (authors' code; the paper does not say).

    Args:
      key: PRNG key.
      num_inputs: entries of the embedding, or length of the input vector.
      hidden: width.
      num_outputs: outputs.
      output_bias: what the last bias starts at.
      net: "code", a learned Xavier-uniform embedding [num_inputs, hidden] and three linear layers; "paper", two linear
        layers on an input vector.
    """
    check_choice("net", net, NETS)
    sizes = [*([hidden, hidden] if net == "code" else [num_inputs]), hidden, num_outputs]
    keys = jax.random.split(key, len(sizes))
    layers = _xavier_layers(keys, sizes)
    layers[-1]["bias"] += output_bias
    embedded = {"embedding": jax.nn.initializers.glorot_uniform()(keys[-1], (num_inputs, hidden))}
    return {**(embedded if net == "code" else {}), "layers": layers}


def apply_mlp(params: dict[str, Any], inputs: Array | None = None) -> Array:
    """The net's outputs [K, num_outputs]: for every entry of its embedding, or for `inputs` [K, num_inputs]."""
    *hidden, last = params["layers"]
    x = _relu_layers(hidden, params["embedding"] if inputs is None else inputs)
    return x @ last["kernel"] + last["bias"]


def init_corrector(
    key: Array,
    num_classes: int,
    num_bins: int,
    *,
    form: str = "mlp",
    hidden: int = 64,
    bias: float = 3.98,
    net: str = "code",
) -> dict[str, Any]:
    """Parameters of the label corrector, starting at g = sigmoid(bias): it trusts the given labels.

    Args:
      key: PRNG key.
      num_classes: C.
      num_bins: R, the number of loss-rank bins.
      form: "mlp" (class-wise), "agnostic" (one output for all classes), "vector" (the paper's ablation: a free number a
        bin, for all classes; its C-vector is the margins'), "table" (a free number a class and bin), "none".
      hidden: width of the net.
      bias: output bias; 3.98 gives g = 0.982 (authors' code).
      net: "code" or "paper" (a bin goes in as a one-hot vector), see `init_mlp`.
    """
    if form == "none":
        return {}
    if form in ("vector", "table"):
        return {"table": jnp.full((num_bins, num_classes if form == "table" else 1), bias)}
    return init_mlp(key, num_bins, hidden, 1 if form == "agnostic" else num_classes, bias, net=net)


def init_margin(
    key: Array, num_classes: int, *, form: str = "mlp", hidden: int = 64, bias: float = 1.0, net: str = "code"
) -> dict[str, Any]:
    """Parameters of the margin generator; forms "mlp", "vector" (a free number a class), others have none.

    It starts near q = `bias`, and there exactly as a vector and with net="paper", where q starts at ones: the last
    weights are 0. The paper's input is all ones; its length, which the paper does not give, is C here.
    """
    if form == "vector":
        return {"table": jnp.full((1, num_classes), bias)}
    if form != "mlp":
        return {}
    params = init_mlp(key, 1 if net == "code" else num_classes, hidden, num_classes, bias, net=net)
    if net == "paper":
        params["layers"][-1]["kernel"] *= 0
    return params


def weight_table(corrector: dict[str, Any], num_classes: int) -> Array:
    """Learned label weights g(r | y), [C, R], in (0, 1)."""
    outputs = _outputs(corrector, jnp.eye)
    return jax.nn.sigmoid(jnp.broadcast_to(outputs, (outputs.shape[0], num_classes))).T


def margin_vector(margin: dict[str, Any]) -> Array:
    """The learned margins q, [C], added to the logits."""
    return _outputs(margin, lambda length: jnp.ones((1, length)))[0]


def _outputs(params: dict[str, Any], inputs: Callable[[int], Array]) -> Array:
    """A table itself, or a net's outputs; one without an embedding takes `inputs` of its input length."""
    if "table" in params:
        return params["table"]
    return apply_mlp(params, None if "embedding" in params else inputs(len(params["layers"][0]["kernel"])))
