"""Meta-Weight-Net: a small net learns, from trusted examples, how much an example of a given loss is worth.

Shu et al., NeurIPS 2019. The weight of example i is v_i = V(ℓ_i; θ), V a net with one hidden layer. One iteration:

    ω̂(θ) = ω − α ∇_ω (1/n) Σ_i V(ℓ_i; θ) ℓ_i(ω)       a virtual step of plain SGD on the given labels (eq. 5)
    θ⁺ = θ − β ∇_θ (1/m) Σ_j ℓ_j(ω̂(θ))                 the meta step on the trusted examples (eq. 6)
    ω⁺ = ω − α ∇_ω (1/n) Σ_i V(ℓ_i; θ⁺) ℓ_i(ω)         the real step, by the classifier's own optimizer (eq. 7)
"""

from collections.abc import Callable
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

# (state, θ, losses [B] without gradient, batch) -> weights [B]
Weigh = Callable[[Any, Any, jax.Array, base.Batch], jax.Array]


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
    meta_optimizer = weight_optimizer(hidden, meta_learning_rate, meta_weight_decay, meta_batch_size)

    def weigh(state: MwNetState, theta: Any, values: jax.Array, batch: base.Batch) -> jax.Array:
        return apply_weight_net(theta, values)

    def init(key: jax.Array, labels: np.ndarray) -> MwNetState:
        learner_key, net_key = jax.random.split(key)
        theta = init_weight_net(net_key, hidden)
        return MwNetState(base.init_learner(learner_key, task), theta, meta_optimizer.init(theta))

    def predict(state: MwNetState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: MwNetState, survey: base.Survey) -> findings.Findings:
        values = losses.cross_entropy(survey.seen, survey.labels)
        return {"example_weight": findings.LabelWeight(apply_weight_net(state.theta, values))}

    step = weighing_step(task, weigh, virtual, meta_optimizer)
    draw = base.Draw("trusted", pool="trusted", batch_size=meta_batch_size)
    return base.method(init, [base.Stage(task.epochs, base.one_pass(step, draw))], predict, inspect)


# --- What nets that weigh examples share ----------------------------------------------------------------------------


def weight_optimizer(
    hidden: int, meta_learning_rate: float, meta_weight_decay: float, meta_batch_size: int | None
) -> optax.GradientTransformation:
    """Adam for a net that weighs examples, with an L2 penalty.

    Raises:
      ValueError: an option out of its range, by name.
    """
    if hidden < 1 or (meta_batch_size is not None and meta_batch_size < 1):
        raise ValueError(f"hidden={hidden} and meta_batch_size={meta_batch_size} must be at least 1.")
    if not meta_learning_rate > 0 or not meta_weight_decay >= 0:
        raise ValueError(
            f"meta_learning_rate={meta_learning_rate} must be positive and meta_weight_decay={meta_weight_decay} at "
            "least 0."
        )
    return optax.chain(optax.add_decayed_weights(meta_weight_decay), optax.adam(meta_learning_rate))


def weighing_step(
    task: base.Task, weigh: Weigh, virtual: str, meta_optimizer: optax.GradientTransformation | None
) -> base.StepFunction:
    """A step on weighted losses, after one of the net that weighs them on trusted examples (eqs. 5 to 7).

    Args:
      task: what is learned.
      weigh: the weights; its state has at least the fields of `MwNetState`.
      virtual: see `mw_net`.
      meta_optimizer: the net's; None for a net that stays as it is, and a step that draws no trusted examples.

    Raises:
      ValueError: `virtual` is none of `VIRTUAL`.
    """
    check_choice("virtual", virtual, VIRTUAL)

    def step(state: Any, batches: base.Batches, clock: base.Clock, key: jax.Array) -> tuple[Any, base.Metrics]:
        batch, learner, learned = batches["train"], state.learner, state
        train_key, trusted_key, model_key = jax.random.split(key, 3)
        inputs = task.strong(train_key, batch.inputs)
        told: base.Metrics = {}

        def terms(logits: jax.Array, theta: Any) -> dict[str, base.Term]:
            values = losses.cross_entropy(logits, batch.labels)
            return {"loss": base.Term(values, batch.mask, weigh(state, theta, jax.lax.stop_gradient(values), batch))}

        if meta_optimizer is not None:
            trusted = batches["trusted"]
            ahead = (optax.sgd(clock.rate),) if virtual == "sgd" else (task.optimizer(clock.rate), learner.opt_state)
            found = base.look_ahead(
                task, learner, model_key, state.theta, inputs, terms,
                task.strong(trusted_key, trusted.inputs), trusted.labels, trusted.mask, *ahead,
            )  # fmt: skip
            theta, meta_opt_state = meta.follow(found.gradient, state.theta, state.meta_opt_state, meta_optimizer)
            learned = state._replace(theta=theta, meta_opt_state=meta_opt_state)
            told["meta_loss"] = (found.meta_loss, jnp.ones(()))

        attempt = base.attempt_on(task, learner, inputs, model_key, lambda logits: terms(logits, learned.theta))
        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        return learned._replace(learner=learner), metrics | told

    return step


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
