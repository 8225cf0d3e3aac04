"""L2RW: examples weigh as much as they help trusted ones (Ren et al., ICML 2018).

Learning to reweight has no net and no memory: in every iteration each example of the batch gets the weight that one
step says it should have. With weights ε_i of the batch's losses, all of them 0 at first,

    ω̂(ε) = ω − α ∇_ω Σ_i ε_i ℓ_i(ω)                                     a virtual step of plain SGD (eq. 5)
    u_i = max(0, −∂/∂ε_i (1/m) Σ_j ℓ_j(ω̂(ε)) at ε = 0),   w_i = u_i / Σ_k u_k        (eqs. 7 to 9)
    ω⁺ = ω − α ∇_ω Σ_i w_i ℓ_i(ω)                  the real step, by the classifier's own optimizer

At ε = 0 the virtual step goes nowhere: u_i is the inner product of example i's gradient with that of the trusted loss
where it is positive, and the rate α falls out of w. A batch of which no example helps is not learned from (authors'
code: the sum is then taken to be 1). In the authors' code for CIFAR the trusted loss has the weight decay in it; here,
as in their code for MNIST and in the paper, it has not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import findings, losses
from robustjax.methods import base
from robustjax.selection import descent_weights

_MEMORY = 0.9  # of an example's mean weight, ours: half of a batch or more weighs 0, and each time another half


class L2rwState(NamedTuple):
    """The classifier, and of each example the running mean of its weight times the examples of its batch, [N]."""

    learner: base.Learner
    weights: base.PerExample


def l2rw(task: base.Task, *, meta_batch_size: int | None = None) -> base.Method:
    """L2RW (Ren et al., ICML 2018): the weights of each batch are what a step on trusted examples asks for.

    Args:
      meta_batch_size: m, trusted examples of a step, in [1, 100000]; as many as of the training set if not given, as in
        the paper.

    Raises:
      ValueError: an option out of its range, or no trusted examples.
    """
    base.check_trusted(task, "l2rw")
    if meta_batch_size is not None and meta_batch_size < 1:
        raise ValueError(f"meta_batch_size={meta_batch_size} must be at least 1.")

    def init(key: jax.Array, labels: np.ndarray) -> L2rwState:
        return L2rwState(base.init_learner(key, task), base.per_example(len(labels)))

    def step(
        state: L2rwState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[L2rwState, base.Metrics]:
        batch, trusted, learner = batches["train"], batches["trusted"], state.learner
        train_key, trusted_key, model_key = jax.random.split(key, 3)
        inputs, trusted_inputs = task.strong(train_key, batch.inputs), task.strong(trusted_key, trusted.inputs)

        def weighed(logits: jax.Array, weights: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(losses.cross_entropy(logits, batch.labels), batch.mask, weights)}

        found = base.look_ahead(
            task, learner, model_key, jnp.zeros_like(batch.mask), inputs, weighed,
            trusted_inputs, trusted.labels, trusted.mask, optax.sgd(1.0),
        )  # fmt: skip
        weights = descent_weights(found.gradient)  # padding has no gradient, and so no weight
        relative = weights * jnp.sum(batch.mask)

        attempt = base.attempt_on(task, learner, inputs, model_key, lambda logits: weighed(logits, relative))
        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        metrics["meta_loss"] = (found.meta_loss, jnp.ones(()))
        metrics["kept_share"] = base.tally(weights > 0, batch.mask)
        before = base.recall(state.weights, batch.index)
        share = jnp.maximum(1 - _MEMORY, 1 / (clock.stage_epoch.astype(before.dtype) + 1))  # at first the plain mean
        average = before + share * (relative.astype(before.dtype) - before)
        return L2rwState(learner, base.remember(state.weights, batch, average)), metrics

    def predict(state: L2rwState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: L2rwState, survey: base.Survey) -> findings.Findings:
        """Of each example w/(1 + w), in [0, 1): a half where it weighs as much as if all weighed alike."""
        weights = base.recall_all(state.weights, len(survey.labels))
        shares = weights / (1 + weights)
        return {"example_weight": findings.LabelWeight(findings.when_known(jnp.any(weights > 0), shares))}

    draw = base.Draw("trusted", pool="trusted", batch_size=meta_batch_size)
    return base.method(init, [base.Stage(task.epochs, base.one_pass(step, draw))], predict, inspect)


ENTRIES = (
    base.Entry(
        "l2rw",
        l2rw,
        "Ren et al., ICML 2018",
        aliases=("learning_to_reweight",),
        needs=("trusted examples",),
        memory="1",
        cost=3.33,
    ),
)
