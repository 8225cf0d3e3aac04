"""Oracle cases of losses.npz: public losses, their batch mean and its gradient."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, margins
from tests.oracles.adapters.common import Adapter, Arrays, Case, arrays, over_instances, quick_jit

SHARED = ("class_counts", "class_weights", "transition")
TORCH_CLIP = (1e-7, 1.0)
KERAS_CLIP = (1e-7, 1 - 1e-7)

Hyperparameters = Mapping[str, Any]
Settings = Callable[[Hyperparameters, Arrays], dict[str, Any]]


def per_batch(case: Case, inputs: Arrays, function: Callable[[Arrays], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Applies `function` to the one batch of an extreme case, or to each of the batches on axis 0."""
    function = quick_jit(function)
    if np.ndim(inputs["logits"]) == 2:
        return function(inputs)
    return over_instances(function, inputs, SHARED)


def value_and_gradient(case: Case, inputs: Arrays, objective: Callable[..., jax.Array]) -> Mapping[str, Any]:
    """A batch objective and its gradient by the logits, under the names of the case's outputs."""
    value_name, gradient_name = (
        next(name for name in names if name in case["outputs"])
        for names in (("value", "mean", "loss"), ("grad_logits", "grad_logits_of_mean"))
    )

    def one_batch(batch: Arrays) -> dict[str, Any]:
        value, gradient = jax.value_and_grad(lambda logits: objective(logits, batch))(batch["logits"])
        return {value_name: value, gradient_name: gradient}

    return per_batch(case, inputs, one_batch)


def pointwise(loss: losses.Loss, settings: Settings = lambda h, x: dict(h)) -> Adapter:
    """Adapter for a per-example loss; `settings` turns a case's hyperparameters and inputs into arguments."""

    def adapt(case: Case, inputs: Arrays) -> Mapping[str, Any]:
        def one_batch(batch: Arrays) -> dict[str, Any]:
            hyper = settings(case["hyperparameters"], batch)

            def mean(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
                values = loss(logits, batch["labels"], **hyper)
                return jnp.mean(values), values

            (value, per_example), gradient = jax.value_and_grad(mean, has_aux=True)(batch["logits"])
            return {"mean": value, "per_example": per_example, "grad_logits_of_mean": gradient}

        return per_batch(case, inputs, one_batch)

    return adapt


def batchwise(loss: losses.Loss, settings: Settings) -> Adapter:
    """Adapter for a loss of the batch."""

    def adapt(case: Case, inputs: Arrays) -> Mapping[str, Any]:
        def objective(logits: jax.Array, batch: Arrays) -> jax.Array:
            return loss(logits, batch["labels"], **settings(case["hyperparameters"], batch))

        return value_and_gradient(case, inputs, objective)

    return adapt


def _weighted(loss: losses.Loss, settings: Settings = lambda h, x: {}) -> Adapter:
    def objective(logits: jax.Array, batch: Arrays, hyper: Hyperparameters) -> jax.Array:
        values = loss(logits, batch["labels"], **settings(hyper, batch))
        return margins.weighted_mean(values, margins.example_weights(batch["labels"], batch["class_weights"]))

    return lambda case, inputs: value_and_gradient(
        case, inputs, functools.partial(objective, hyper=case["hyperparameters"])
    )


def _ldam_settings(hyper: Hyperparameters, batch: Arrays) -> dict[str, Any]:
    return {"margins": margins.ldam_margins(batch["class_counts"], hyper["max_m"]), "scale": hyper["s"]}


def _two_views(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    loss = functools.partial(
        losses.generalized_jensen_shannon,
        weights=case["hyperparameters"]["weights"],
        scaled="Custom" not in case["source"],
        consistency="NoConsistency" not in case["source"],
        renormalize=False,
        clip=TORCH_CLIP,
    )

    def one_batch(batch: Arrays) -> dict[str, Any]:
        def mean(views: tuple[jax.Array, ...]) -> jax.Array:
            return jnp.mean(loss(views, batch["labels"]))

        value, gradients = jax.value_and_grad(mean)((batch["logits"], batch["logits2"]))
        return {"mean": value, "grad_logits": gradients[0], "grad_logits2": gradients[1]}

    return per_batch(case, inputs, one_batch)


def _negative_learning(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    def complementary(batch: Arrays) -> jax.Array:
        num_classes = batch["logits"].shape[-1]
        return losses.complementary_labels(batch["labels"], batch["offsets"], num_classes=num_classes)

    def objective(logits: jax.Array, batch: Arrays) -> jax.Array:
        class_weights = margins.inverse_frequency_weights(batch["class_counts"])
        values = losses.negative_learning(logits, complementary(batch))
        return jnp.mean(margins.example_weights(batch["labels"], class_weights).astype(values.dtype) * values)

    return {
        **value_and_gradient(case, inputs, objective),
        **per_batch(case, inputs, lambda batch: {"complementary_labels": complementary(batch)}),
    }


def _truncated(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper = case["hyperparameters"]

    def table(batch: Arrays) -> jax.Array:
        weights = losses.truncation_weights(batch["update_logits"], batch["labels"], **hyper)
        rows = _table_shape(case)[-2]
        return jnp.ones((rows, 1), weights.dtype).at[batch["indexes"], 0].set(weights)

    def objective(logits: jax.Array, batch: Arrays) -> jax.Array:
        weights = table(batch)[batch["indexes"], 0]
        values = losses.truncated_generalized_cross_entropy(logits, batch["labels"], weights=weights, **hyper)
        return jnp.mean(values)

    return {
        **value_and_gradient(case, inputs, objective),
        **per_batch(case, inputs, lambda batch: {"weights_table": table(batch)}),
    }


def _table_shape(case: Case) -> tuple[int, ...]:
    """Shape of the case's weight table: the number of training examples is given nowhere else."""
    return arrays(case["file"])[case["outputs"]["weights_table"]].shape


def _keras(hyper: Hyperparameters, batch: Arrays) -> dict[str, Any]:
    return {**hyper, "clip": KERAS_CLIP}


def _clipped(hyper: Hyperparameters, batch: Arrays) -> dict[str, Any]:
    return {**hyper, "clip": TORCH_CLIP}


def _detached(hyper: Hyperparameters, batch: Arrays) -> dict[str, Any]:
    return {**hyper, "detach": True}


def _transition(hyper: Hyperparameters, batch: Arrays) -> dict[str, Any]:
    return {"transition": batch["transition"], "clip": KERAS_CLIP}


ADAPTERS: dict[str, Adapter] = {
    "cross_entropy": pointwise(losses.cross_entropy),
    "focal (SR/APL variant, modulating factor detached)": pointwise(losses.focal, _detached),
    "focal (LDAM-DRW variant, fully differentiated)": pointwise(losses.focal),
    "class-balanced focal (LDAM-DRW variant)": pointwise(
        losses.class_balanced_focal, lambda h, x: {**h, "class_weights": x["class_weights"]}
    ),
    "class-weighted CE": _weighted(losses.cross_entropy),
    "MAE as in SR repo": pointwise(losses.mae),
    "MAE as in APL repo": pointwise(losses.mae),
    "generalised cross entropy": pointwise(
        losses.generalized_cross_entropy, lambda h, x: {"q": h["q"], "clip": (h["clip"], 1.0)}
    ),
    "generalised cross entropy, epsilon variant": pointwise(losses.generalized_cross_entropy),
    "truncated GCE with pruning weights": _truncated,
    "symmetric cross entropy": pointwise(
        losses.symmetric_cross_entropy, lambda h, x: {**h, "reverse_clip": TORCH_CLIP}
    ),
    "reverse cross entropy": pointwise(losses.reverse_cross_entropy, _clipped),
    "normalised CE": pointwise(losses.normalized_cross_entropy),
    "normalised focal": pointwise(losses.normalized_focal, _detached),
    "normalised MAE (SR repo)": pointwise(losses.normalized_mae),
    "normalised MAE (APL repo)": pointwise(losses.normalized_mae, lambda h, x: {"scale": 0.5}),
    "normalised GCE": pointwise(losses.normalized_generalized_cross_entropy, _clipped),
    "normalised RCE (SR repo)": pointwise(
        losses.normalized_reverse_cross_entropy, lambda h, x: {"form": "code", "clip": TORCH_CLIP}
    ),
    "APL NCE+MAE": pointwise(losses.nce_mae),
    "APL NCE+RCE": pointwise(losses.nce_rce, _clipped),
    "NFL+MAE": pointwise(losses.nfl_mae, _detached),
    "NFL+RCE": pointwise(losses.nfl_rce, lambda h, x: {**h, "detach": True, "clip": TORCH_CLIP}),
    "partially Huberised CE": pointwise(losses.partially_huberised_cross_entropy),
    "partially Huberised GCE": pointwise(losses.partially_huberised_generalized_cross_entropy),
    "label smoothing (KL form)": pointwise(losses.label_smoothing, lambda h, x: {"epsilon": h["t"], "form": "kl"}),
    "label smoothing (Keras)": pointwise(
        losses.label_smoothing, lambda h, x: {**h, "form": "off_label", "clip": TORCH_CLIP}
    ),
    "soft bootstrapping": pointwise(losses.soft_bootstrap, _keras),
    "soft bootstrapping (GJS repo)": pointwise(
        losses.soft_bootstrap, lambda h, x: {"beta": 1 - h["t"], "clip": TORCH_CLIP, "clip_target": False}
    ),
    "hard bootstrapping": pointwise(losses.hard_bootstrap, _keras),
    "D2L LID-paced loss": pointwise(
        # The first phase clips from below only.
        losses.lid_paced,
        lambda h, x: {**h, "clip": TORCH_CLIP if h["alpha"] == 1 else KERAS_CLIP},
    ),
    "forward correction": pointwise(losses.forward_correction, _transition),
    "forward correction (L_DMI repo)": pointwise(
        losses.forward_correction, lambda h, x: {"transition": x["transition"]}
    ),
    "backward correction": pointwise(losses.backward_correction, _transition),
    "JS loss (scaled)": pointwise(losses.generalized_jensen_shannon, _clipped),
    "JS loss (unscaled)": pointwise(
        losses.generalized_jensen_shannon, lambda h, x: {**h, "scaled": False, "clip": TORCH_CLIP}
    ),
    "GJS two views": _two_views,
    "NLNL negative-learning loss": _negative_learning,
    "LDAM loss": pointwise(losses.ldam, _ldam_settings),
    "LDAM loss with DRW weights": _weighted(losses.ldam, _ldam_settings),
    "Balanced Softmax": pointwise(losses.balanced_softmax, lambda h, x: {"class_counts": x["class_counts"]}),
    "L_DMI": batchwise(losses.dmi, lambda h, x: {}),
    "Joint-Optim loss": batchwise(
        losses.joint_optimization, lambda h, x: {"alpha": h["alpha"], "beta": h["beta"], "clip": KERAS_CLIP}
    ),
}
