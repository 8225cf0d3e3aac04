"""Adapters of the architecture cases: PyTorch's parameter names and layouts to ours.

Convolutions go from OIHW to HWIO and linear weights from (out, in) to (in, out). Where the reference flattens images,
our models flatten channel by channel as well (`layers.flatten`), so linear weights need nothing more.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from robustjax.models import Model, get_model
from robustjax.models.layers import cosine_logits
from tests.oracles.adapters.common import Arrays, Case, data_dir, over_instances

# Network of arch_parameters.json -> (model, running statistics of the first and of the last norm).
NETWORKS = {
    "har_resnet32_c10": ("resnet32", 10, "stem_norm", "stage3_block5/norm2"),
    "har_resnet32_c100": ("resnet32", 100, "stem_norm", "stage3_block5/norm2"),
    "sr_cnn_mnist": ("cnn4", 10, "stage1_norm1", "hidden_norm"),
    "sr_cnn_cifar10": ("cnn8", 10, "stage1_norm1", "hidden_norm"),
    "sr_resnet34_c100": ("resnet34", 100, "stem_norm", "stage4_block3/norm2"),
    "elr_resnet34_c10": ("resnet34", 10, "stem_norm", "stage4_block3/norm2"),
    "elr_preact18_c10": ("preact_resnet18", 10, "stem_norm", "stage4_block2/norm2"),
}
_LAYERS = {"bn1": "norm1", "bn2": "norm2", "shortcut.0": "shortcut_conv", "shortcut.1": "shortcut_norm"}
_TOP = {"conv1": "stem_conv", "bn1": "stem_norm", "fc1.0": "hidden", "fc1.1": "hidden_norm"}
_LEAVES = {4: ("kernel", (2, 3, 1, 0)), 2: ("kernel", (1, 0)), 1: ("scale", (0,))}
_HEAD = {"linear", "fc2", "fc2.0"}


def layer_path(name: str) -> tuple[str, ...]:
    """The path of our layer for a PyTorch module name, such as `layer1.layers.0.bn2`."""
    if block := re.fullmatch(r"(?:layer(\d)|block)\.(?:layers\.)?(\d+)\.(conv\d|bn\d|shortcut\.\d)", name):
        stage, index, layer = block.groups()
        return f"stage{stage or 1}_block{int(index) + 1}", _LAYERS.get(layer, layer)
    if cnn := re.fullmatch(r"block(\d)\.(\d)\.conv\.([01])", name):
        stage, index, part = cnn.groups()
        return (f"stage{stage}_{'norm' if int(part) else 'conv'}{int(index) + 1}",)
    return ("head",) if name in _HEAD else (_TOP[name],)


def params_from_torch(named: Mapping[str, np.ndarray]) -> Any:
    """Our params tree from PyTorch's parameters by name (`layer1.0.conv1.weight`, `bn1.gamma`, …)."""
    tree = {}
    for name, array in named.items():
        module, leaf = name.rsplit(".", 1)
        ours, layout = _LEAVES[array.ndim]
        ours = "bias" if leaf in ("bias", "beta") else ours
        tree[(*layer_path(module), ours)] = jnp.asarray(array.transpose(layout))
    return unflatten_dict(tree)


def _hashed(shape: list[int], k: int) -> np.ndarray:
    """The manifest's integer hash of each element's index, in [-1, 1]."""
    h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435769)
    h += np.uint32((k * 974711 + 12345) % 2**32)
    for shift, factor in ((16, 2246822519), (13, 3266489917)):
        h = (h ^ (h >> shift)) * np.uint32(factor)
    h ^= h >> 16
    return (h / 2.0**31 - 1).reshape(shape)


def _parameter(k: int, shape: list[int], kind: str, salt: int) -> np.ndarray:
    u = _hashed(shape, k + 1000 * salt)
    if kind == "weight":
        return np.sqrt(6 / np.prod(shape[1:])) * u
    return 0.1 * u + (kind == "scale")


@functools.cache
def _layouts() -> dict[str, Any]:
    here, committed = data_dir(), Path(__file__).parents[1] / "data"
    folder = here if (here / "arch_parameters.json").exists() else committed
    return json.loads((folder / "arch_parameters.json").read_text())["networks"]


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _forward(model: Model, params: Any, stats: Any, images: jax.Array) -> tuple[Any, ...]:
    logits, updated = model.apply(params, stats, images, train=True)
    hidden = model.hidden(params, stats, images, train=True)
    return logits, updated, model.apply(params, updated, images, train=False)[0], hidden


def architecture(case: Case, inputs: Arrays) -> dict[str, Any]:
    """Logits in train mode, the running statistics that this leaves, and the logits in eval mode thereafter."""
    hyper, dtype = case["hyperparameters"], jnp.result_type(float)
    network = max((name for name in NETWORKS if name in case["id"]), key=len)
    name, num_classes, first, last = NETWORKS[network]
    model = get_model(name, num_classes, dtype=dtype, unbiased_running_variance=True)
    named = {name: _parameter(k, shape, kind, hyper["salt"]) for k, name, shape, kind in _layouts()[network]}
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params_from_torch(named))
    images = 1.5 * _hashed(hyper["input_shape_nchw"], 500 + 1000 * hyper["salt"])
    images = jnp.asarray(images.transpose(0, 2, 3, 1), dtype)
    stats = jax.jit(lambda: model.init(jax.random.key(0), images).stats)()  # random parameters are never made
    train, updated, evaluated, hidden = jax.jit(functools.partial(_forward, model))(params, stats, images)
    outputs = {
        "logits_train_mode": train,
        "logits_eval_after_one_update": evaluated,
        "n_parameters": _count(params),
    }
    for which, path in (("first", first), ("last", last)):
        running = functools.reduce(lambda tree, key: tree[key], path.split("/"), updated)
        outputs |= {f"{which}_running_mean": running["mean"], f"{which}_running_var": running["var"]}
    if "bn_output_norms" in case["outputs"]:
        norms = [np.linalg.norm(hidden[tap].reshape(len(images), -1), axis=1) for tap in sorted(hidden)]
        outputs |= {"bn_output_norms": np.stack(norms, 1), "n_bn_outputs": len(hidden)}
    return outputs


def cosine_classifier(case: Case, inputs: Arrays) -> dict[str, Any]:
    """LDAM's normalised linear layer."""
    return over_instances(lambda one: {"logits": cosine_logits(one["features"], one["weight_in_out"])}, inputs)


ADAPTERS = {
    "forward pass of the reference architecture with hash-generated parameters": architecture,
    "normalised linear layer used with LDAM": cosine_classifier,
}
