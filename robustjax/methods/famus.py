"""FaMUS: DivideMix's division with weights that are learned from the part that is trusted (Xu et al., CVPR 2021).

Every epoch the data are divided as in DivideMix (`methods.dividemix`). Each network's part with trusted labels is also
what it learns loss weights from, by Meta-Weight-Net's three steps (`methods.mw_net`), so no label need be known to be
right. With v_i = V(ℓ_i; θ)/Σ_j V(ℓ_j; θ) over the whole mixed batch, X its labelled half and U the other one,

    L(ω, θ) = 2 Σ_{i∈X} v_i ℓ_i + 2 λ_u Σ_{i∈U} v_i ‖p_i − t_i‖²/C + KL(uniform ‖ mean prediction)

ℓ is cross entropy with refined labels, t the guess of both networks, as DivideMix has them, but of every example both.

The meta objective M is cross entropy and that KL on a mixed batch of trusted labels, and its gradient comes back
through a few tensors only (`methods.gated`). For Meta-Weight-Net with such a gradient and trusted examples, the paper's
other form, see the options of `mw_net`.

From the authors' code, which trains on CNWL: θ has SGD with Nesterov's momentum, λ_u rises from epoch to epoch, an
epoch lasts as long as the larger part, and where hardly any label or nearly every label is trusted, the half of smaller
losses is (there the half of larger probabilities, which can be empty).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, meta, mixtures, targets
from robustjax.meta_nets import apply_weight_net, init_weight_net
from robustjax.methods import base, dividemix, gated, peers
from robustjax.mixup import apply_mix, draw_mix


class FamusState(NamedTuple):
    """The two networks; of each the probability that a label is right, [N], 0 until it is known; and who weighs.

    `theta` is {"weights": V's parameters, "gates": the samplers'} of each network.
    """

    learners: tuple[base.Learner, ...]
    clean: tuple[base.PerExample, ...]
    theta: tuple[dict[str, Any], ...]
    meta_opt_states: tuple[Any, ...]


def famus(
    task: base.Task,
    *,
    warmup_epochs: int = 10,
    threshold: float = 0.5,
    temperature: float = 0.5,
    alpha: float = 4.0,
    unlabeled_strength: float = 50.0,
    ramp_epochs: float = 16.0,
    hidden: int = 100,
    meta_learning_rate: float = 1e-3,
    meta_weight_decay: float = 5e-4,
    gated_tensors: int = 15,
    gates: float = 4.0,
    gate_hidden: int = 128,
    gate_learning_rate: float = 0.1,
    gate_strength: float = 0.1,
    likeness_strength: float = 0.1,
    warmup_batch_factor: int = 1,
) -> base.Method:
    """FaMUS (Xu et al., CVPR 2021): DivideMix with loss weights that it learns from its own trusted part.

    Args:
      warmup_epochs: epochs, at least 0, on all given labels before the data are divided.
      threshold: of the probability that a label is right, in (0, 1), above which it is trusted.
      temperature: T of the sharpening of refined and guessed labels, positive.
      alpha: α of MixMatch's Beta(α, α), positive.
      unlabeled_strength: λ_u, the weight of the squared error on guessed labels, at least 0.
      ramp_epochs: epochs over which that weight rises, positive.
      hidden: units of the weight net's hidden layer, in [1, 100000].
      meta_learning_rate: of SGD with Nesterov's momentum 0.9 for the weight net, positive.
      meta_weight_decay: L2 penalty on the weight net, at least 0.
      gated_tensors: how many of the network's last tensors the meta-gradient may come through, in [1, 100000].
      gates: K, how many of these should be open beside the classifier's, at least 0.
      gate_hidden: units of the samplers' hidden layers, in [1, 100000].
      gate_learning_rate: of SGD with Nesterov's momentum 0.9 for the samplers, positive.
      gate_strength: λ₁ of the number of open gates, at least 0.
      likeness_strength: λ₂ of the likeness of gradients at the classifier, at least 0.
      warmup_batch_factor: how many times as large batches are in the warm-up, in [1, 100]; 2 in the code.

    Raises:
      ValueError: an option out of its range, by name, or inputs that cannot be mixed.
    """
    dividemix.check(
        task, warmup_epochs, threshold, temperature, alpha, unlabeled_strength, ramp_epochs, warmup_batch_factor
    )
    base.check_options(
        ("hidden", hidden, hidden >= 1, "at least 1"),
        ("meta_learning_rate", meta_learning_rate, meta_learning_rate > 0, "positive"),
        ("meta_weight_decay", meta_weight_decay, meta_weight_decay >= 0, "at least 0"),
        ("gated_tensors", gated_tensors, gated_tensors >= 1, "at least 1"),
        ("gates", gates, gates >= 0, "at least 0"),
        ("gate_hidden", gate_hidden, gate_hidden >= 1, "at least 1"),
        ("gate_learning_rate", gate_learning_rate, gate_learning_rate > 0, "positive"),
        ("gate_strength", gate_strength, gate_strength >= 0, "at least 0"),
        ("likeness_strength", likeness_strength, likeness_strength >= 0, "at least 0"),
    )
    how = gated.Gates(gated_tensors, gates, gate_strength, likeness_strength, gate_hidden)
    meta_optimizer = gated.optimizer(gated.nesterov(meta_learning_rate, meta_weight_decay), gate_learning_rate)

    def init(key: jax.Array, labels: np.ndarray) -> FamusState:
        *learner_keys, net_key = jax.random.split(key, 3)
        learners = tuple(base.init_learner(own, task) for own in learner_keys)
        theta = tuple(
            {"weights": init_weight_net(weight_key, hidden), "gates": gated.init_gates(gate_key, task, how)}
            for weight_key, gate_key in jax.random.split(net_key, (2, 2))
        )
        clean = tuple(base.per_example(len(labels)) for _ in learners)
        return FamusState(learners, clean, theta, tuple(map(meta_optimizer.init, theta)))

    def look(state: FamusState, inputs: jax.Array) -> tuple[jax.Array, ...]:
        return peers.each(task, state.learners, inputs)

    def predict(state: FamusState, inputs: jax.Array) -> jax.Array:
        return peers.ensemble(task, state.learners, inputs)

    def divide(
        state: FamusState, survey: base.Survey, clock: base.Clock, key: jax.Array
    ) -> tuple[FamusState, base.Plan]:
        """What each network trains on and what it learns weights from, by the other's mixture."""
        values = [losses.cross_entropy(seen, survey.labels) for seen in survey.seen]
        clean = [mixtures.clean_probability(each) for each in values]
        plan: base.Plan = {}
        for which, own in enumerate(jax.random.split(key)):
            labeled_key, unlabeled_key, meta_key = jax.random.split(own, 3)
            sure, by_loss = clean[1 - which] > threshold, values[1 - which]
            extreme = (jnp.sum(sure) < min(task.batch_size, len(sure))) | (jnp.mean(sure) > 0.9)
            # By losses: many a probability is 1, and no label's above their median.
            kept = dividemix.at_least_one(jnp.where(extreme, by_loss < jnp.median(by_loss), sure))
            labeled, unlabeled = base.shuffled(labeled_key, kept), base.shuffled(unlabeled_key, ~kept)
            longer = jnp.maximum(labeled.size, unlabeled.size)
            again = labeled.order[jnp.arange(len(sure)) % labeled.size]
            plan[f"labeled_{which}"] = base.Stream(again, longer)
            plan[f"unlabeled_{which}"] = unlabeled
            plan[f"meta_{which}"] = base.shuffled(meta_key, jnp.where(jnp.any(sure), sure, kept))
        return state._replace(clean=tuple(map(base.remembered, clean))), plan

    def weighted_step(which: int) -> base.StepFunction:
        def step(
            state: FamusState, batches: base.Batches, clock: base.Clock, key: jax.Array
        ) -> tuple[FamusState, base.Metrics]:
            labeled, unlabeled, trusted = (batches[f"{name}_{which}"] for name in ("labeled", "unlabeled", "meta"))
            learner, peer, theta = state.learners[which], state.learners[1 - which], state.theta[which]
            *view_keys, guess_key, mix_key, meta_mix_key, model_key, gate_key = jax.random.split(key, 11)
            x, u, z = ([task.strong(view_keys[2 * i + j], each.inputs) for j in range(2)]
                       for i, each in enumerate((labeled, unlabeled, trusted)))  # fmt: skip
            own, others = dividemix.predictors(task, learner, peer, guess_key)

            def refined(batch: base.Batch, logits: Sequence[jax.Array]) -> jax.Array:
                trust = base.recall(state.clean[1 - which], batch.index)
                return targets.corefined_labels(trust, batch.labels, dividemix.softmax(logits), temperature)

            def mixed(mix: Any, *parts: jax.Array) -> jax.Array:
                """Both views of each part, whose labels are the same, mixed."""
                return apply_mix(jnp.concatenate([part for part in parts for _ in range(2)]), mix)

            own_x, own_u = own(x), own(u)
            guesses = [
                targets.coguessed_labels(dividemix.softmax([*mine, *others(views)]), temperature)
                for mine, views in ((own_x, x), (own_u, u))
            ]
            mask = jnp.concatenate([labeled.mask] * 2 + [unlabeled.mask] * 2)
            mix = draw_mix(mix_key, len(mask), alpha, keep_larger=True)
            inputs = apply_mix(jnp.concatenate([*x, *u]), mix)
            wanted = mixed(mix, refined(labeled, own_x), refined(unlabeled, own_u))
            guessed = mixed(mix, *guesses)
            split = 2 * len(labeled.labels)
            strength = unlabeled_strength * jnp.clip(jnp.floor(clock.stage_progress) / ramp_epochs, 0, 1)

            def terms(logits: jax.Array, theta: dict[str, Any]) -> dict[str, base.Term]:
                values = losses.cross_entropy(logits, wanted)
                weights = mask * apply_weight_net(theta["weights"], jax.lax.stop_gradient(values))
                # A term is a weighted mean; times its part of all weights it is a sum over them.
                parts = [2 * jnp.sum(part) / jnp.sum(weights) for part in (weights[:split], weights[split:])]
                errors = targets.squared_error(logits[split:], guessed[split:])
                penalty = jnp.full(labeled.mask.shape, targets.prior_penalty(logits, mask))
                return {
                    "labeled_loss": base.Term(values[:split], weights[:split], parts[0]),
                    "unlabeled_loss": base.Term(errors, weights[split:], strength * parts[1]),
                    "prior_penalty": base.Term(penalty, labeled.mask),
                }

            meta_mask = jnp.tile(trusted.mask, 2)
            meta_mix = draw_mix(meta_mix_key, len(meta_mask), alpha, keep_larger=True)
            meta_inputs = apply_mix(jnp.concatenate(z), meta_mix)
            meta_wanted = mixed(meta_mix, refined(trusted, own(z)))

            def meta_terms(logits: jax.Array) -> dict[str, base.Term]:
                penalty = jnp.full(meta_mask.shape, targets.prior_penalty(logits, meta_mask))
                return {
                    "loss": base.Term(losses.cross_entropy(logits, meta_wanted), meta_mask),
                    "prior_penalty": base.Term(penalty, meta_mask),
                }

            found = gated.look_ahead(
                task, learner, model_key, gate_key, theta, how, inputs, terms, meta_inputs, meta_terms, clock.rate
            )
            theta, meta_opt_state = meta.follow(found.gradient, theta, state.meta_opt_states[which], meta_optimizer)
            attempt = base.attempt_on(task, learner, inputs, model_key, lambda logits: terms(logits, theta))
            # Accuracy is on the given labels: of inputs that are not mixed.
            learner, metrics, _ = base.descend(
                task, learner, labeled, clock, lambda params: attempt(params)._replace(logits=own_x[0])
            )
            one = jnp.ones(())
            return state._replace(
                learners=peers.replaced(state.learners, which, learner),
                theta=peers.replaced(state.theta, which, theta),
                meta_opt_states=peers.replaced(state.meta_opt_states, which, meta_opt_state),
            ), metrics | {"meta_loss": (found.meta_loss, one), "open_gates": (found.opened, one)}

        return step

    def warmup_loss(state: FamusState, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.cross_entropy(logits, labels)

    warmup = functools.partial(dividemix.warmup_step, task, warmup_loss)
    stages = [
        base.Stage(warmup_epochs, dividemix.passes(warmup, all=warmup_batch_factor * task.batch_size)),
        base.Stage(
            task.epochs - warmup_epochs,
            dividemix.passes(weighted_step, "labeled", "unlabeled", meta=2 * task.batch_size),
            divide,
            look=look,
            when="epoch",
        ),
    ]
    return base.method(init, stages, predict, dividemix.inspect)


ENTRIES = (
    base.Entry(
        "famus",
        famus,
        "Xu et al., CVPR 2021",
        networks=2,
        memory="2",
        cost=9.0,
        small={
            "warmup_epochs": 1,
            "ramp_epochs": 2.0,
            "unlabeled_strength": 1.0,
            "hidden": 16,
            "gate_hidden": 16,
            "gated_tensors": 4,
        },
    ),
)
