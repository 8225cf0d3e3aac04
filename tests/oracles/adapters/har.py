"""Oracle cases of HAR's objective, on a residual network of two blocks with option A shortcuts."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from robustjax import regularizers
from robustjax.methods import base, har
from robustjax.models import get_model
from tests.oracles.adapters.common import Arrays, Case, manifest, over_instances, quick_jit
from tests.oracles.adapters.models import layer_path, params_from_torch

_STATISTICS = {"running_mean": "mean", "running_var": "var"}


def _size(layout: list) -> int:
    return sum(int(np.prod(shape)) for _, shape in layout)


def _unflatten(flat: jax.Array, layout: list) -> dict[str, jax.Array]:
    """The named arrays that a flat vector holds one after the other."""
    ends = np.cumsum([int(np.prod(shape)) for _, shape in layout])
    pieces = jnp.split(flat, ends[:-1])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(layout, pieces, strict=True)}


def regularised(case: Case, inputs: Arrays) -> dict[str, np.ndarray]:
    """Loss, regulariser and their gradient, in the code's form and in the paper's."""
    hyper, layouts = case["hyperparameters"], manifest()["conventions"]
    parameters = next(
        layout
        for name, layout in layouts.items()
        if name.startswith("har_tiny_param_layout") and _size(layout) == inputs["params_flat"].shape[-1]
    )
    num_classes = dict(parameters)["linear.bias"][0]
    tiny = {"blocks": (2,), "widths": (4,), "strides": (2,), "stem_width": 2}
    model = get_model("resnet20", num_classes, dtype=jnp.result_type(float), **tiny)
    train = hyper["bn_mode"] == "train"

    def one_instance(one: Arrays) -> dict[str, jax.Array]:
        images, labels, mask = one["images_nchw"].transpose(0, 2, 3, 1), one["labels"], jnp.ones(len(one["labels"]))
        weights = one["class_weights"][labels] if hyper["class_weighted_loss"] else None
        stats = model.init(jax.random.key(0), images).stats
        if not train:
            named = _unflatten(one["buffers_flat"], layouts["har_tiny_buffer_layout"])
            paths = {name: name.replace(".bn.", ".").rsplit(".", 1) for name in named}
            stats = unflatten_dict({(*layer_path(m), _STATISTICS[leaf]): named[n] for n, (m, leaf) in paths.items()})

        def attempt(flat: jax.Array, form: str) -> base.Attempt:
            params = params_from_torch(_unflatten(flat, parameters))
            return har.attempt(
                lambda taps: model.apply(params, stats, images, train=train, taps=taps),
                model.tap_shapes(params, stats, images), labels, hyper["reg_weight"] * one["example_weights"], mask,
                weights=weights, form=form,
            )  # fmt: skip

        def penalty(found: base.Attempt) -> jax.Array:
            return jnp.mean(one["example_weights"] * found.terms["regularizer"].values)

        def total_and_penalty(flat: jax.Array):
            found = attempt(flat, "code")
            return (base.total(found.terms), penalty(found)), found

        rows, found = jax.jacrev(total_and_penalty, has_aux=True)(one["params_flat"])
        outputs = {
            "logits": found.logits,
            "loss": base.mean(found.terms["unregularized_loss"]),
            "reg": penalty(found),
            "per_example_per_layer_norm": regularizers.layer_norms(found.aux),
            "total": base.total(found.terms),
            "dreg_flat": rows[1],
            "total_grad_norm": jnp.linalg.norm(rows[0]),
        }
        if weights is None:
            outputs["paper_reg_sqrt_sum_sq_times_B"] = penalty(attempt(one["params_flat"], "paper"))
        return outputs

    return over_instances(quick_jit(one_instance), inputs)


ADAPTERS = {"HAR Jacobian regulariser and parameter gradients on a tiny residual CNN": regularised}
