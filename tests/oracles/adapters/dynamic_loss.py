"""Dynamic Loss: meta net, one full iteration, ranks and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import losses, meta_nets, selection, targets
from robustjax.methods import dynamic_loss as dl
from tests.oracles.adapters.common import manifest, num_classes, over_instances
from tests.oracles.adapters.models import _hashed


def _named(flat, layout):
    """Named arrays from a flat vector; torch's linear weights (out, in) become kernels (in, out)."""
    arrays, start = {}, 0
    for name, shape in manifest()["conventions"][layout]:
        size = int(np.prod(shape))
        value = jnp.asarray(flat)[start : start + size].reshape(shape)
        arrays[name] = value.T if name.endswith("weight") and value.ndim == 2 else value
        start += size
    return arrays


def _flat(arrays, layout):
    parts = []
    for name, shape in manifest()["conventions"][layout]:
        value = arrays[name]
        parts.append((value.T if name.endswith("weight") and len(shape) == 2 else value).reshape(-1))
    return jnp.concatenate(parts)


def _linear(arrays, *names):
    return [{"kernel": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]} for name in names]


def _theta(flat, layout):
    """Our meta parameters from the reference's flat vector."""
    a = _named(flat, layout)
    nets = {"corrector": ("rank_feature_emb", "rank_weight_net"), "margin": ("cls_feature_emb", "margin_generator")}
    return {
        part: {"embedding": a[embedding], "layers": _linear(a, *(f"{net}.{i}" for i in (0, 2, 4)))}
        for part, (embedding, net) in nets.items()
        if embedding in a
    }


def _theta_flat(theta, layout):
    arrays = {}
    for part, embedding, net in (
        ("corrector", "rank_feature_emb", "rank_weight_net"),
        ("margin", "cls_feature_emb", "margin_generator"),
    ):
        arrays[embedding] = theta[part]["embedding"]
        for i, layer in zip((0, 2, 4), theta[part]["layers"], strict=True):
            arrays[f"{net}.{i}.weight"], arrays[f"{net}.{i}.bias"] = layer["kernel"], layer["bias"]
    return _flat(arrays, layout)


def _one_hot(classes, like):
    return jax.nn.one_hot(classes, like.shape[-1], dtype=like.dtype)


def meta_net(case, inputs):
    h = case["hyperparameters"]
    layout = f"metanet_layout_C{h['num_classes']}_h{h['h_dim']}_R{h['rank_num']}"

    def one(x):
        theta = _theta(x["params_flat"], layout)
        labels, logits = jnp.asarray(x["labels"]), jnp.asarray(x["logits"])
        table = meta_nets.weight_table(theta["corrector"], h["num_classes"])

        def warmup(theta):
            trust = meta_nets.weight_table(theta["corrector"], h["num_classes"])[labels, x["ranks"]]
            return jnp.mean(dl.corrector_warmup_loss(trust, labels, logits))

        trust = table[labels, x["ranks"]]
        loss, gradient = jax.value_and_grad(warmup)(theta)
        return {
            "corrected_label": targets.corrected_labels(trust, labels, _one_hot(x["predicted_class"], logits)),
            "corrected_label_warm": targets.corrected_labels(trust, labels, jax.nn.softmax(logits)),
            "margin": meta_nets.margin_vector(theta["margin"])[None],
            "rank_weight_all": table[:5] if h["num_classes"] == 100 else table,
            "warmup_loss": loss,
            "warmup_grad_flat": _theta_flat(gradient, layout),
        }

    if "params_flat" in inputs:
        return over_instances(jax.jit(one), inputs)
    parts = [0.25 * _hashed(shape, k + 1000) for k, (_, shape) in enumerate(manifest()["conventions"][layout])]
    flat = np.concatenate([part.reshape(-1) for part in parts]).astype(inputs["logits"].dtype)
    outputs = one({**inputs, "params_flat": flat})
    return {name: outputs[name] for name in case["outputs"]}


def agnostic(case, inputs):
    def one(x):
        logits = jnp.asarray(x["logits"])
        h, num_classes = case["hyperparameters"], logits.shape[-1]
        theta = _theta(x["params_flat"], f"metanet_layout_agnostic_C{num_classes}_h{h['h_dim']}_R{h['rank_num']}")
        trust = meta_nets.weight_table(theta["corrector"], num_classes)[x["labels"], x["ranks"]]
        labels = jnp.asarray(x["labels"])
        return {"corrected_label": targets.corrected_labels(trust, labels, _one_hot(x["predicted_class"], logits))}

    return over_instances(jax.jit(one), inputs)


def _classifier(kind):
    def apply(params, x):
        if kind != "linear":
            x = x @ params["fc1.weight"] + params["fc1.bias"]
            if kind == "mlp_bn":
                x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * params["bn.weight"] + params["bn.bias"]
            x = jax.nn.relu(x)
        return x @ params["fc2.weight"] + params["fc2.bias"]

    return apply


def meta_step(case, inputs):
    h = case["hyperparameters"]
    apply = _classifier(h["classifier"])

    def one(x):
        classes = num_classes(case)
        theta_layout = f"metanet_layout_C{classes}_h{h['h_dim']}_R{h['rank_num']}"
        layout = f"classifier_layout_{h['classifier']}_C{classes}"
        params, theta = _named(x["classifier_flat"], layout), _theta(x["metanet_flat"], theta_layout)
        optimizer = optax.chain(
            optax.add_decayed_weights(h["weight_decay"]), optax.sgd(h["lr"], momentum=h["momentum"] or None)
        )
        opt_state = optimizer.init(params)
        if "momentum_flat" in x:
            buffers = _named(x["momentum_flat"], layout)
            opt_state = jax.tree.map(
                lambda s: optax.TraceState(buffers) if isinstance(s, optax.TraceState) else s,
                opt_state, is_leaf=lambda s: isinstance(s, optax.TraceState),
            )  # fmt: skip
        meta_optimizer = optax.adam(h["meta_lr"])
        labels = jnp.asarray(x["labels"])

        def aims(theta, logits, draw):
            trust = meta_nets.weight_table(theta["corrector"], classes)[labels, x["ranks"]]
            drawn = _one_hot(x[("pred1", "pred2")[draw]], logits)
            return targets.corrected_labels(trust, labels, drawn), meta_nets.margin_vector(theta["margin"])

        done = dl.iteration(
            weak=lambda p: apply(p, x["weak"]),
            strong=lambda p: (apply(p, x["strong"]), ()),
            meta_loss=lambda p: jnp.mean(losses.cross_entropy(apply(p, x["meta_x"]), x["meta_labels"])),
            targets=aims,
            mask=jnp.ones(len(labels), x["weak"].dtype),
            params=params, opt_state=opt_state, optimizer=optimizer,
            meta_params=theta, meta_opt_state=meta_optimizer.init(theta), meta_optimizer=meta_optimizer,
        )  # fmt: skip
        return {
            "virtual_loss": done.meta.train_loss,
            "fast_flat": _flat(done.meta.virtual_params, layout),
            "meta_loss": done.meta.meta_loss,
            "meta_grad_flat": _theta_flat(done.meta.gradient, theta_layout),
            "metanet_after_adam_flat": _theta_flat(done.meta_params, theta_layout),
            "final_loss": done.real.loss,
            "classifier_grad_flat": _flat(done.real.gradient, layout),
            "classifier_after_flat": _flat(done.real.params, layout),
        }

    return over_instances(jax.jit(one), inputs)


def rank_sampling(case, inputs):
    h = case["hyperparameters"]
    labels, values = jnp.asarray(inputs["labels"], jnp.int32), jnp.asarray(inputs["losses"])
    counts = np.bincount(inputs["labels"])
    _, meta_size = selection.sampling_sizes(int(counts.min()), h["first_ratio"], h["first_ratio"] * h["second_ratio"])
    primary = jnp.zeros(len(labels), bool).at[inputs["primary_index_sorted_per_class"].reshape(-1)].set(True)
    chosen = selection.select_meta(values, labels, primary, meta_size, len(counts))
    return {
        "ranks": selection.loss_ranks(values, labels, jnp.asarray(selection.rank_bins(counts, h["rank_num"], "code"))),
        "meta_index_sorted": jnp.flatnonzero(chosen),
        "train_size": jnp.sum(~chosen),
    }


ADAPTERS = {
    "meta net forward (label corrector + margin generator) and warm-up objective": meta_net,
    "class-agnostic label corrector (ablation)": agnostic,
    "one full meta-training step": meta_step,
    "loss-rank binning and hierarchical sampling": rank_sampling,
}
