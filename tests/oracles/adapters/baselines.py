"""Oracle cases of baselines.npz: selections, targets, mixtures and weight nets.

Not produced: MentorNet's focal curriculum, PLC's `delta_after` (a rule of the caller's), and RoLT's centroids apart
from the logits that they give.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import losses, meta, meta_nets, mixtures, mixup, schedules, selection, targets
from robustjax.methods import incv, nct, pencil
from tests.oracles.adapters.common import Adapter, Arrays, Case, manifest, num_classes, over_instances, quick_jit


def _per_instance(function) -> Adapter:
    """Adapter of `function(hyperparameters, inputs of one instance)`."""

    def adapt(case: Case, inputs: Arrays) -> Mapping[str, Any]:
        return over_instances(quick_jit(lambda x: function(case["hyperparameters"], x)), inputs)

    return adapt


def _exchanged(case: Case, inputs: Arrays, probabilities, mask: Any = None) -> Mapping[str, Any]:
    """Both networks' losses on each other's selection, and the gradient of their sum."""
    labels = jnp.asarray(inputs["labels"])

    def objective(*logits):
        values = jnp.stack([losses.cross_entropy(probabilities(z), labels) for z in logits])
        chosen = selection.exchange_small_losses(values, case["hyperparameters"]["forget_rate"], mask, form="code")
        first, second = (chosen.strength * jnp.average(v, weights=s) for v, s in zip(values, chosen.share, strict=True))
        return first + second, (first, second)

    both = inputs["logits1"], inputs["logits2"]
    (grad1, grad2), (loss1, loss2) = quick_jit(jax.grad(objective, argnums=(0, 1), has_aux=True))(*both)
    return {"loss1": loss1, "loss2": loss2, "grad1": grad1, "grad2": grad2}


def _coteaching(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    return _exchanged(case, inputs, lambda logits: logits)


def _coteaching_plus(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    disagree = selection.disagreement(np.stack([inputs["logits1"], inputs["logits2"]]))
    # The authors' code takes the softmax of a softmax.
    return {"disagree": disagree, **_exchanged(case, inputs, jax.nn.softmax, disagree)}


def _semi_loss(hyper, x):
    ramp = schedules.linear_warmup(schedules.constant(hyper["lambda_u"]), hyper["rampup_length"])
    strength = ramp(jnp.maximum(x["epoch"] - hyper["warmup"], 0))

    def objective(logits_x, logits_u):
        labelled = losses.cross_entropy(logits_x, x["targets_x"])
        unlabelled = jnp.mean(targets.squared_error(logits_u, x["targets_u"]))
        return jnp.mean(labelled) + strength * unlabelled, (labelled, unlabelled)

    gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
    (grad_x, grad_u), (labelled, unlabelled) = gradient(x["logits_x"], x["logits_u"])
    return {
        "Lx": jnp.mean(labelled),
        "Lu": unlabelled,
        "lam": strength,
        "grad_x": grad_x,
        "grad_u": grad_u,
        "rolt_Lx": jnp.average(labelled, weights=x["weights_x"]),
        "neg_entropy": jnp.mean(targets.negative_entropy(x["logits_x"])),
    }


def _dividemix_targets(hyper, x):
    views = x["logits_own_view1_own_view2_peer_view1_peer_view2"]
    probs = jax.nn.softmax(views)
    return {
        "guess": targets.coguessed_labels(probs, hyper["T"]),
        "refine": targets.corefined_labels(x["w"][:, 0], x["labels"], probs[:2], hyper["T"]),
        "prior_penalty_of_view1": targets.prior_penalty(views[0]),
    }


def _mdyr(hyper, x):
    def mixed(temperature, share):
        soft = jax.nn.softmax(x["logits_unmixed"] / temperature)
        corrected = targets.corrected_labels(1 - x["B"], x["labels"], soft)
        given = mixup.apply_mix(corrected, mixup.Mix(share, x["index"]))
        return jax.value_and_grad(lambda z: jnp.mean(losses.cross_entropy(z, given)))(x["logits_mixed"])

    soft, softhard = mixed(1, x["lam"]), mixed(x["Temp"], jnp.full_like(x["lam"], 0.5))
    return {
        "loss_soft": soft[0],
        "grad_soft": soft[1],
        "loss_softhard": softhard[0],
        "grad_softhard": softhard[1],
        "reg": targets.prior_penalty(x["logits_mixed"]),
    }


def _beta_mixture(hyper, x):
    mixture = mixtures.fit_beta_mixture(x["x"], max_steps=hyper["max_iters"])
    return {
        "alphas": mixture.alphas,
        "betas": mixture.betas,
        "weights": mixture.weights,
        "posterior_noisy": mixtures.beta_posterior(mixture, x["query"])[:, 1],
        "lookup": mixtures.beta_noise_table(mixture),
    }


def _linear(params, x):
    return x @ params["W"].T + params["b"]


def _meta_gradient(hyper, x, weighted_loss, theta):
    """The meta-gradient of a linear classifier after a plain SGD step."""
    params, optimizer = {"W": x["W"], "b": x["b"]}, optax.sgd(hyper["lr"])

    def train_loss(params, theta):
        values = losses.cross_entropy(_linear(params, x["x"]), x["y"])
        return weighted_loss(theta, values), ()

    def meta_loss(params):
        return jnp.mean(losses.cross_entropy(_linear(params, x["xv"]), x["yv"])), ()

    return meta.meta_gradient(train_loss, meta_loss, theta, params, optimizer.init(params), optimizer)


def _l2rw(hyper, x):
    found = _meta_gradient(
        hyper, x, lambda weights, values: jnp.sum(weights * values), jnp.zeros_like(x["b"], shape=len(x["y"]))
    )
    return {
        "grad_eps": found.gradient,
        "weights": selection.descent_weights(found.gradient),
        "meta_loss": found.meta_loss,
    }


def _named(flat, layout):
    """The reference's arrays by name from its flat vector."""
    named, start = {}, 0
    for name, shape in manifest()["conventions"][layout]:
        size = int(np.prod(shape))
        named[name] = jnp.asarray(flat)[start : start + size].reshape(shape)
        start += size
    return named


def _weight_net(flat, layout):
    """Our parameters from the reference's flat vector; its heads are one output of a linear layer each."""
    named = _named(flat, layout)
    hidden, *heads = [name.removesuffix(".weight") for name in named if name.endswith(".weight")]
    return {
        "hidden": {"kernel": named[f"{hidden}.weight"].T, "bias": named[f"{hidden}.bias"]},
        "head": {
            "kernel": jnp.concatenate([named[f"{head}.weight"] for head in heads]).T,
            "bias": jnp.concatenate([named[f"{head}.bias"] for head in heads]),
        },
    }


def _weight_net_flat(params):
    parts = [params[layer][name].T for layer in ("hidden", "head") for name in ("kernel", "bias")]
    return jnp.concatenate([part.reshape(-1) for part in parts])


def _mwnet(hyper, x):
    theta = _weight_net(x["vnet_flat"], "vnet_layout")

    def weights(theta, values):
        return meta_nets.apply_weight_net(theta, jax.lax.stop_gradient(values))

    found = _meta_gradient(hyper, x, lambda theta, values: jnp.mean(weights(theta, values) * values), theta)
    return {
        "weights": weights(theta, losses.cross_entropy(_linear(x, x["x"]), x["y"])),
        "virtual_loss": found.train_loss,
        "meta_loss": found.meta_loss,
        "vnet_grad_flat": _weight_net_flat(found.gradient),
    }


def _cmwnet(hyper, x):
    group = jnp.asarray(x["class_cluster"])[x["labels"]]
    return {"weights": meta_nets.apply_weight_net(_weight_net(x["params_flat"], "cmw_layout"), x["losses"], group)}


def _pencil(hyper, x):
    def terms(logits, label_logits):
        num_classes = logits.shape[-1]
        return {
            "lc": jnp.mean(pencil.label_fit(logits, label_logits)) / num_classes,
            "lo": jnp.mean(pencil.label_compatibility(label_logits, x["labels"])),
            "le": -jnp.mean(targets.negative_entropy(logits)) / num_classes,
        }

    def total(logits, label_logits):
        found = terms(logits, label_logits)
        return found["lc"] + hyper["alpha"] * found["lo"] + hyper["beta"] * found["le"]

    at = x["logits"], x["y_tilde"]
    of_logits, of_labels = jax.grad(total, argnums=(0, 1))(*at)
    return terms(*at) | {
        "total": total(*at),
        "grad_logits": of_logits,
        "grad_y_tilde": of_labels,
        "y_tilde_after": x["y_tilde"] - hyper["lambda"] * of_labels,
    }


def _curricula(hyper, x):
    excess, progress, width = x["table"][:, 1], x["table"][:, 3] / 100, hyper["vstar_gamma"]
    return {
        "self_paced": selection.curriculum_weights(excess, progress, burn_in=0, linear_from=1),
        "spcl_linear": selection.curriculum_weights(excess, progress, burn_in=0, linear_from=0, width=width),
        "pd": selection.curriculum_weights(excess, progress, width=width),
    }


def _curvenet(hyper, x):
    named = _named(x["params_flat"], "curvenet_layout")
    layers = {
        part: [{"kernel": named[f"{name}{i}.weight"].T, "bias": named[f"{name}{i}.bias"]} for i in (1, 2, 3)]
        for part, name in (("curve", "before_linear"), ("head", "linear"))
    }
    params = layers | {"embedding": named["cls_emb.weight"]}
    given = {"factor": hyper["factor"], "offset": hyper["bias"]}
    return {"weights": meta_nets.apply_curve_net(params, x["curve"], x["labels"], **given)}


def _plc(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    threshold = case["hyperparameters"]["delta"]
    return {"corrected": targets.likelihood_ratio_labels(inputs["labels"], inputs["f"], threshold)}


def _selfie(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper, classes = case["hyperparameters"], num_classes(case)

    def one(x):
        found = targets.refurbished_labels(x["history"], classes, hyper["threshold"])
        clean = selection.small_losses(x["losses"], math.ceil(len(x["losses"]) * (1 - hyper["noise_rate"])))
        kept = jnp.where(clean, x["labels"], -1)
        return {
            "selected": found.consistent | clean,
            "training_labels": jnp.where(found.consistent, found.labels, kept),
        }

    return over_instances(quick_jit(one), inputs)


def _incv(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    num_classes = case["hyperparameters"]["num_classes"]
    rate = selection.noise_rate_from_agreement(inputs["agreement"], num_classes)
    return {
        "noise_rate": rate,
        "discard_ratio": incv.removal_ratio(rate),
        "selected_noise_sym": incv.remaining_noise(rate, num_classes - 1),
        "selected_noise_asym": incv.remaining_noise(rate, 1),
    }


def _nested(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    hyper = case["hyperparameters"]
    return {"p": nct.truncation(hyper["D"], hyper["std"])}


def _prototypes(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    classes = int(inputs["labels"].max()) + 1
    return over_instances(
        quick_jit(lambda x: {"logits": mixtures.prototype_logits(x["features"], x["labels"], classes)}), inputs
    )


def _dimensionality(hyper, x):
    return {"lid": losses.local_intrinsic_dimensionality(x["x"], hyper["k"])}


def _bbn(case: Case, inputs: Arrays) -> Mapping[str, Any]:
    """Its first epoch is number 1; both branches' features meet in a classifier twice as wide."""
    epoch, last = case["hyperparameters"]["epoch"], case["hyperparameters"]["max_epoch"]
    share = schedules.cumulative_learning(last)(epoch - 1)

    def one(x):
        features = 2 * jnp.concatenate(
            [share * x["feature_conventional"], (1 - share) * x["feature_rebalanced"]], axis=-1
        )
        logits = features @ x["W_out_in"].T
        parts = [losses.cross_entropy(logits, x[f"label_{name}"]) for name in ("conventional", "rebalanced")]
        return {"loss": share * jnp.mean(parts[0]) + (1 - share) * jnp.mean(parts[1]), "alpha": share}

    return quick_jit(one)(inputs)


ADAPTERS = {
    "Co-teaching losses": _coteaching,
    "Co-teaching+ losses": _coteaching_plus,
    "DivideMix SemiLoss (and ROLT+ weighted variant, confidence penalty)": _per_instance(_semi_loss),
    "DivideMix co-guessing, co-refinement, prior penalty": _per_instance(_dividemix_targets),
    "M-DYR-S and MD-DYR-SH losses": _per_instance(_mdyr),
    "two-component beta mixture (10 EM iterations)": _per_instance(_beta_mixture),
    "L2RW example weights (linear classifier)": _per_instance(_l2rw),
    "MW-Net weights and meta-gradient (linear classifier, plain SGD virtual step)": _per_instance(_mwnet),
    "PENCIL stage-2 objective and label update": _per_instance(_pencil),
    "MentorNet predefined weight functions": _per_instance(_curricula),
    "PLC likelihood-ratio correction": _plc,
    "SELFIE sample selection and refurbishing": _selfie,
    "INCV noise-rate estimate": _incv,
    "nested-dropout truncation distribution (NCT)": _nested,
    "CMW-Net weight network forward": _per_instance(_cmwnet),
    "CurveNet weight network forward": _per_instance(_curvenet),
    "ROLT class centroids and prototype logits": _prototypes,
    "LID maximum-likelihood estimate": _per_instance(_dimensionality),
    "BBN cumulative-learning loss": _bbn,
}
