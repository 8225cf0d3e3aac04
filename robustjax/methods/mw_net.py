"""Meta-Weight-Net: a small net learns, from trusted examples, how much an example of a given loss is worth.

Shu et al., NeurIPS 2019. The weight of example i is v_i = V(ℓ_i; θ), V a net with one hidden layer. One iteration:

    ω̂(θ) = ω − α ∇_ω (1/n) Σ_i V(ℓ_i; θ) ℓ_i(ω)       a virtual step of plain SGD on the given labels (eq. 5)
    θ⁺ = θ − β ∇_θ (1/m) Σ_j ℓ_j(ω̂(θ))                 the meta step on the trusted examples (eq. 6)
    ω⁺ = ω − α ∇_ω (1/n) Σ_i V(ℓ_i; θ⁺) ℓ_i(ω)         the real step, by the classifier's own optimizer (eq. 7)

With `gated_tensors` the gradient of the meta step comes back through a few of the network's last tensors only (FaMUS,
`methods.gated`); on long tails FaMUS's authors take cross entropy or LDAM's loss for ℓ. LDAM's scale is part of what is
predicted; trusted examples teach by cross entropy of bare cosines. With the scale, the weights of all examples went to
0 on digits (at a meta learning rate of 0.03). How the authors had it is not told.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import findings, losses, margins, meta
from robustjax._checks import check_choice
from robustjax.meta import MetaGradient
from robustjax.meta_nets import apply_weight_net, init_weight_net
from robustjax.methods import base, gated

VIRTUAL = ("sgd", "optimizer")
LOSSES = ("cross_entropy", "ldam")
APPLIED = ("learned", "random", "inverse")
_SCALE = 30.0  # of LDAM's code, for a cosine classifier

# (state, θ, losses [B] without gradient, batch) -> weights [B]
Weigh = Callable[[Any, Any, jax.Array, base.Batch], jax.Array]
Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]  # (state, logits [B, C], labels [B]) -> [B]
Apply = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (key, weights [B], mask [B]) -> weights [B]


class MwNetState(NamedTuple):
    """The classifier, the weight net θ, and its optimizer's state; LDAM's margins [C], {} for another loss.

    Gated, θ is {"weights", "gates"}, as in `methods.gated`.
    """

    learner: base.Learner
    theta: Any
    meta_opt_state: Any
    margins: Any


def mw_net(
    task: base.Task,
    *,
    hidden: int = 100,
    meta_learning_rate: float = 1e-3,
    meta_weight_decay: float = 1e-4,
    meta_batch_size: int | None = None,
    virtual: str = "sgd",
    train_loss: str = "cross_entropy",
    gated_tensors: int = 0,
    gate_learning_rate: float | None = None,
    applied: str = "learned",
) -> base.Method:
    """Meta-Weight-Net (Shu et al., NeurIPS 2019): loss weights learned from trusted examples.

    Args:
      hidden: units of the net's hidden layer, in [1, 100000].
      meta_learning_rate: β, Adam's learning rate for the net, positive.
      meta_weight_decay: L2 penalty on the net, at least 0.
      meta_batch_size: m, trusted examples of a step, in [1, 100000]; as many as of the training set if not given.
      virtual: "sgd" for a virtual step without momentum and weight decay (paper and code), or "optimizer" for the
        classifier's own.
      train_loss: ℓ, "cross_entropy" or "ldam" (margins of 0.5 at most, scale 30: for `--head=cosine`).
      gated_tensors: FaMUS: how many of the network's last tensors the meta-gradient may come through, in [0, 100000];
        0 for all of them, without gates.
      gate_learning_rate: of the gates' samplers, positive; 0.01 if not given, as on long tails in FaMUS's paper, which
        has 0.1 on noisy labels. K is 4 and λ₁ and λ₂ are 0.1; the paper chooses each of these two from 0 and 0.1.
      applied: weights of the real step: "learned", or HAR's controls with the same mean in each batch, "random"
        (uniform ones) and "inverse" (1/v).

    Raises:
      ValueError: an option out of its range, by name, or no trusted examples.
    """
    base.check_trusted(task, "mw_net")
    check_choice("train_loss", train_loss, LOSSES)
    check_choice("applied", applied, APPLIED)
    base.check_options(
        ("gated_tensors", gated_tensors, gated_tensors >= 0, "at least 0"),
        (
            "gate_learning_rate",
            gate_learning_rate,
            gate_learning_rate is None or (gated_tensors > 0 and gate_learning_rate > 0),
            "positive, and left out without gated_tensors",
        ),
        ("virtual", virtual, not gated_tensors or virtual == "sgd", "sgd where gated_tensors is above 0"),
    )
    scale = _SCALE if train_loss == "ldam" else 1.0
    gates = gated.Gates(gated_tensors) if gated_tensors else None
    meta_optimizer = weight_optimizer(hidden, meta_learning_rate, meta_weight_decay, meta_batch_size)
    if gates:
        meta_optimizer = gated.optimizer(meta_optimizer, gate_learning_rate or 0.01)

    def weights_of(theta: Any, values: jax.Array) -> jax.Array:
        return apply_weight_net(theta["weights"] if gates else theta, values)

    def weigh(state: MwNetState, theta: Any, values: jax.Array, batch: base.Batch) -> jax.Array:
        return weights_of(theta, values)

    def loss(state: MwNetState, logits: jax.Array, labels: jax.Array) -> jax.Array:
        if train_loss == "ldam":
            return losses.ldam(logits, labels, margins=state.margins, scale=scale)
        return losses.cross_entropy(logits, labels)

    def init(key: jax.Array, labels: np.ndarray) -> MwNetState:
        learner_key, net_key = jax.random.split(key)
        theta: Any = init_weight_net(net_key, hidden)
        if gates:
            theta = {"weights": theta, "gates": gated.init_gates(jax.random.fold_in(net_key, 1), task, gates)}
        counts = base.class_counts(labels, task.num_classes)
        own_margins: Any = margins.ldam_margins(counts) if train_loss == "ldam" else {}
        return MwNetState(base.init_learner(learner_key, task), theta, meta_optimizer.init(theta), own_margins)

    def predict(state: MwNetState, inputs: jax.Array) -> jax.Array:
        return scale * base.predict_with(task, state.learner, inputs)

    def inspect(state: MwNetState, survey: base.Survey) -> findings.Findings:
        weights = weights_of(state.theta, loss(state, survey.seen / scale, survey.labels))
        return {"example_weight": findings.LabelWeight(weights)}

    def apply(key: jax.Array, weights: jax.Array, mask: jax.Array) -> jax.Array:
        if applied == "learned":
            return weights
        new = jax.random.uniform(key, weights.shape, weights.dtype) if applied == "random" else 1 / weights
        return new * (margins.weighted_mean(weights, mask) / margins.weighted_mean(new, mask))

    step = weighing_step(task, weigh, virtual, meta_optimizer, loss, gates, apply)
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


def _cross_entropy(state: Any, logits: jax.Array, labels: jax.Array) -> jax.Array:
    return losses.cross_entropy(logits, labels)


def weighing_step(
    task: base.Task,
    weigh: Weigh,
    virtual: str,
    meta_optimizer: optax.GradientTransformation | None,
    loss: Loss = _cross_entropy,
    gates: gated.Gates | None = None,
    apply: Apply = lambda key, weights, mask: weights,
) -> base.StepFunction:
    """A step on weighted losses, after one of the net that weighs them on trusted examples (eqs. 5 to 7).

    Args:
      task: what is learned.
      weigh: the weights; its state has at least the fields of `MwNetState`.
      virtual: see `mw_net`.
      meta_optimizer: the net's; None for a net that stays as it is, and a step that draws no trusted examples.
      loss: what is weighed; of trusted examples it is cross entropy.
      gates: how the meta-gradient is gated, with θ as `methods.gated` has it; None for all of it.
      apply: what the real step makes of the weights.

    Raises:
      ValueError: `virtual` is none of `VIRTUAL`.
    """
    check_choice("virtual", virtual, VIRTUAL)

    def step(state: Any, batches: base.Batches, clock: base.Clock, key: jax.Array) -> tuple[Any, base.Metrics]:
        batch, learner, learned = batches["train"], state.learner, state
        train_key, trusted_key, model_key = jax.random.split(key, 3)
        inputs = task.strong(train_key, batch.inputs)
        told: base.Metrics = {}

        def terms(logits: jax.Array, theta: Any, *, real: bool = False) -> dict[str, base.Term]:
            values = loss(state, logits, batch.labels)
            weights = weigh(state, theta, jax.lax.stop_gradient(values), batch)
            if real:
                weights = apply(jax.random.fold_in(model_key, 2), weights, batch.mask)
            return {"loss": base.Term(values, batch.mask, weights)}

        if meta_optimizer is not None:
            trusted = batches["trusted"]
            meta_inputs = task.strong(trusted_key, trusted.inputs)
            found: MetaGradient | gated.Gated
            if gates:

                def meta_terms(logits: jax.Array) -> dict[str, base.Term]:
                    return {"loss": base.Term(losses.cross_entropy(logits, trusted.labels), trusted.mask)}

                found = gated.look_ahead(
                    task, learner, model_key, jax.random.fold_in(model_key, 1), state.theta, gates, inputs, terms,
                    meta_inputs, meta_terms, clock.rate,
                )  # fmt: skip
                told["open_gates"] = (found.opened, jnp.ones(()))
            else:
                ahead = (
                    (optax.sgd(clock.rate),) if virtual == "sgd" else (task.optimizer(clock.rate), learner.opt_state)
                )
                found = base.look_ahead(
                    task, learner, model_key, state.theta, inputs, terms,
                    meta_inputs, trusted.labels, trusted.mask, *ahead,
                )  # fmt: skip
            theta, meta_opt_state = meta.follow(found.gradient, state.theta, state.meta_opt_state, meta_optimizer)
            learned = state._replace(theta=theta, meta_opt_state=meta_opt_state)
            told["meta_loss"] = (found.meta_loss, jnp.ones(()))

        attempt = base.attempt_on(
            task, learner, inputs, model_key, lambda logits: terms(logits, learned.theta, real=True)
        )
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
