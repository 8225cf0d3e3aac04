"""Oracle cases of SR, ELR, ELR+ and of HAR's class weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustjax import losses, margins, mixup, regularizers, schedules
from tests.oracles.adapters.common import Adapter, Arrays, Case, arrays, over_instances, quick_jit
from tests.oracles.adapters.losses import value_and_gradient

_BASE_LOSSES = {
    "ce": lambda hyper: losses.cross_entropy,
    "fl": lambda hyper: lambda z, y: losses.focal(z, y, gamma=hyper["gamma"], detach=True),
    "gce": lambda hyper: lambda z, y: losses.generalized_cross_entropy(z, y, q=hyper["q"], clip=(1e-7, 1.0)),
}


def _sparse(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper = case["hyperparameters"]
    base = _BASE_LOSSES[hyper["base"]](hyper)

    def objective(logits: jax.Array, batch: Arrays) -> jax.Array:
        sharpened = regularizers.sharpen(logits, hyper["tau"], hyper["l2_normalise_logits"])
        penalty = regularizers.lp_sparsity(sharpened, hyper["p"])
        return jnp.mean(base(sharpened, batch["labels"]) + hyper["lambda"] * penalty)

    return value_and_gradient(case, inputs, objective)


def _pnorm(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    p = case["hyperparameters"]["p"]
    return value_and_gradient(case, inputs, lambda logits, batch: jnp.mean(regularizers.lp_sparsity(logits, p)))


def _sparsity_strength(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper = case["hyperparameters"]
    return {
        "lam": regularizers.sparsity_strength(
            inputs["epoch"], initial=hyper["lambda0"], growth=hyper["rho"], every=hyper["freq"]
        )
    }


def _early_learning(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper = case["hyperparameters"]
    clip = tuple(hyper["clip"])

    def one_instance(instance: Arrays) -> dict[str, Any]:
        table = jnp.zeros((hyper["num_examples"], instance["logits"].shape[-1]), instance["logits"].dtype)
        values, gradients, tables = [], [], []
        for logits, labels, rows in zip(instance["logits"], instance["labels"], instance["indexes"], strict=True):
            probs = regularizers.clipped_probabilities(logits, clip)
            targets = regularizers.update_targets(table[rows], probs, hyper["beta"])
            table = table.at[rows].set(targets)

            def objective(logits: jax.Array, labels: Any = labels, targets: jax.Array = targets) -> jax.Array:
                penalty = regularizers.early_learning(logits, targets, clip=clip)
                return jnp.mean(losses.cross_entropy(logits, labels) + hyper["lambda"] * penalty)

            value, gradient = jax.value_and_grad(objective)(logits)
            values.append(value)
            gradients.append(gradient)
            tables.append(table)
        return {
            "loss": jnp.stack(values),
            "grad_logits": jnp.stack(gradients),
            "target_table_after": jnp.stack(tables),
        }

    return over_instances(quick_jit(one_instance), inputs)


def _early_learning_plus(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper = case["hyperparameters"]
    ramp = schedules.sigmoid_rampup(hyper["coef_step"])
    num_examples = arrays(case["file"])[case["outputs"]["history_after"]].shape[-2]  # said nowhere else

    def one_instance(instance: Arrays) -> dict[str, Any]:
        num_classes = instance["logits"].shape[-1]
        table = jnp.zeros((num_examples, num_classes), instance["logits"].dtype)
        results = []
        for step in range(len(instance["logits"])):
            x = {name: array[step] for name, array in instance.items()}
            targets = regularizers.update_targets(table[x["indexes"]], jax.nn.softmax(x["peer_logits"]), hyper["beta"])
            table = table.at[x["indexes"]].set(targets)
            wanted = mixup.apply_mix(targets, mixup.Mix(x["mix_lambda"], x["mix_index"]))
            labels = x["mixed_labels"]
            if num_classes == 100:
                labels = regularizers.refine_labels(labels, wanted)

            def objective(logits: jax.Array, labels: Any = labels, wanted: Any = wanted, step: Any = x["step"]):
                penalty = regularizers.early_learning(logits, wanted)
                return jnp.mean(losses.cross_entropy(logits, labels) + ramp(step) * hyper["lambda"] * penalty)

            value, gradient = jax.value_and_grad(objective)(x["logits"])
            results.append({"loss": value, "grad_logits": gradient, "history_after": table, "q": wanted})
        return {name: jnp.stack([result[name] for result in results]) for name in results[0]}

    return over_instances(quick_jit(one_instance), inputs)


def _weight_average(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper = case["hyperparameters"]
    decay = schedules.averaging_decay(hyper["alpha"], hyper["ema_step"] if hyper["ema_update"] else 0)

    def one_instance(instance: Arrays) -> dict[str, Any]:
        average = jax.vmap(lambda step, new, old: optax.incremental_update(new, old, 1 - decay(step)))
        return {"ema_after": average(instance["step"], instance["weights"], instance["ema"])}

    return over_instances(one_instance, inputs)


def _har_strengths(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    return over_instances(
        lambda x: {"weights": margins.har_strengths(1 - x["val_accuracy"], x["label_counts"])}, inputs
    )


def _deferred_weights(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    beta = case["hyperparameters"]["betas"][1]

    def one_instance(instance: Arrays) -> dict[str, Any]:
        before, after = (
            margins.deferred_weights(epoch, instance["class_counts"], start_epoch=80, beta=beta) for epoch in (79, 80)
        )
        return {"weights_stage0": before, "weights_stage1": after}

    return over_instances(one_instance, inputs)


def _ldam_margins(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    max_margin = case["hyperparameters"]["max_m"]
    return over_instances(lambda x: {"margins": margins.ldam_margins(x["class_counts"], max_margin)}, inputs)


ADAPTERS: dict[str, Adapter] = {
    "lp regulariser": _pnorm,
    "CE+SR training loss": _sparse,
    "FL+SR training loss": _sparse,
    "GCE+SR training loss": _sparse,
    "SR lambda schedule": _sparsity_strength,
    "ELR loss and target update, 3 consecutive iterations": _early_learning,
    "ELR+ loss and history update, 3 consecutive iterations": _early_learning_plus,
    "weight-EMA update": _weight_average,
    "HAR per-class regularisation weights": _har_strengths,
    "DRW / class-balanced weights": _deferred_weights,
    "LDAM margins": _ldam_margins,
}
