"""Meta-Weight-Net: a small net learns, from trusted examples, how much an example of a given loss is worth.

Shu et al., NeurIPS 2019. The weight of example i is v_i = V(ℓ_i; θ), V a net with one hidden layer. One iteration:

    ω̂(θ) = ω − α ∇_ω (1/n) Σ_i V(ℓ_i; θ) ℓ_i(ω)       a virtual step of plain SGD on the given labels (eq. 5)
    θ⁺ = θ − β ∇_θ (1/m) Σ_j ℓ_j(ω̂(θ))                 the meta step on the trusted examples (eq. 6)
    ω⁺ = ω − α ∇_ω (1/n) Σ_i V(ℓ_i; θ⁺) ℓ_i(ω)         the real step, by the classifier's own optimizer (eq. 7)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import findings, losses, meta
from robustjax._checks import check_choice
from robustjax.meta_nets import apply_weight_net, init_weight_net
from robustjax.methods import base

VIRTUAL = ("sgd", "optimizer")


class MwNetState(NamedTuple):
    """The classifier, the weight net θ, and its optimizer's state."""

    learner: base.Learner
    theta: Any
    meta_opt_state: Any


def mw_net(
    task: base.Task,
    *,
    hidden: int = 100,
    meta_learning_rate: float = 1e-3,
    meta_weight_decay: float = 1e-4,
    meta_batch_size: int | None = None,
    virtual: str = "sgd",
) -> base.Method:
    """Meta-Weight-Net (Shu et al., NeurIPS 2019): loss weights learned from trusted examples.

    Args:
      hidden: units of the net's hidden layer, in [1, 100000].
      meta_learning_rate: β, Adam's learning rate for the net, positive.
      meta_weight_decay: L2 penalty on the net, at least 0.
      meta_batch_size: m, trusted examples of a step, in [1, 100000]; as many as of the training set if not given.
      virtual: "sgd" for a virtual step without momentum and weight decay (paper and code), or "optimizer" for the
        classifier's own.

    Raises:
      ValueError: an option out of its range, by name, or no trusted examples.
    """
    base.check_trusted(task, "mw_net")
    check_choice("virtual", virtual, VIRTUAL)
    if hidden < 1 or (meta_batch_size is not None and meta_batch_size < 1):
        raise ValueError(f"hidden={hidden} and meta_batch_size={meta_batch_size} must be at least 1.")
    if not meta_learning_rate > 0 or not meta_weight_decay >= 0:
        raise ValueError(
            f"meta_learning_rate={meta_learning_rate} must be positive and meta_weight_decay={meta_weight_decay} at "
            "least 0."
        )
    meta_optimizer = optax.chain(optax.add_decayed_weights(meta_weight_decay), optax.adam(meta_learning_rate))

    def init(key: jax.Array, labels: np.ndarray) -> MwNetState:
        learner_key, net_key = jax.random.split(key)
        theta = init_weight_net(net_key, hidden)
        return MwNetState(base.init_learner(learner_key, task), theta, meta_optimizer.init(theta))

    def step(
        state: MwNetState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[MwNetState, base.Metrics]:
        batch, trusted, learner = batches["train"], batches["trusted"], state.learner
        train_key, trusted_key, model_key = jax.random.split(key, 3)
        inputs, trusted_inputs = task.strong(train_key, batch.inputs), task.strong(trusted_key, trusted.inputs)

        def terms(logits: jax.Array, theta: Any) -> dict[str, base.Term]:
            values = losses.cross_entropy(logits, batch.labels)
            return {"loss": base.Term(values, batch.mask, apply_weight_net(theta, jax.lax.stop_gradient(values)))}

        ahead = (optax.sgd(clock.rate),) if virtual == "sgd" else (task.optimizer(clock.rate), learner.opt_state)
        found = base.look_ahead(
            task, learner, model_key, state.theta, inputs, terms, trusted_inputs, trusted.labels, trusted.mask, *ahead
        )
        theta, meta_opt_state = meta.follow(found.gradient, state.theta, state.meta_opt_state, meta_optimizer)

        attempt = base.attempt_on(task, learner, inputs, model_key, lambda logits: terms(logits, theta))
        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        metrics["meta_loss"] = (found.meta_loss, jnp.ones(()))
        return MwNetState(learner, theta, meta_opt_state), metrics

    def predict(state: MwNetState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: MwNetState, survey: base.Survey) -> findings.Findings:
        values = losses.cross_entropy(survey.seen, survey.labels)
        return {"example_weight": findings.LabelWeight(apply_weight_net(state.theta, values))}

    draw = base.Draw("trusted", pool="trusted", batch_size=meta_batch_size)
    return base.method(init, [base.Stage(task.epochs, base.one_pass(step, draw))], predict, inspect)


ENTRIES = (
    base.Entry(
        "mw_net",
        mw_net,
        "Shu et al., NeurIPS 2019",
        aliases=("mwnet", "meta_weight_net"),
        needs=("trusted examples",),
        cost=3.33,
        small={"meta_learning_rate": 1e-2, "hidden": 16},
    ),
)
