"""MentorNet's predefined curriculum: small losses first (Jiang et al., ICML 2018).

A curriculum gives each example of a batch a weight v_i in [0, 1], and the network descends on (1/B) Σ_i v_i ℓ_i. The
predefined one (MentorNet PD) compares ℓ_i with λ, a running average of a percentile of the batches' losses:

    λ ← β λ + (1 − β) percentile_p(ℓ),        d_i = ℓ_i − λ,
    v_i = 1 in the burn-in, then 1(d_i ≤ 0) (self-paced learning), then min(max(1 − d_i/γ, 0), 1) towards the end.

Besides, a random part of each batch is dropped, half of it in the burn-in. The constants are those of the authors' code
and commands for CIFAR; p is 75 there for 20 and 40 % of wrong labels, and 50 for 80 %.

There a small recurrent net, trained beforehand to imitate these very weights, gives them; here they are given as they
are. In the data-driven variant (MentorNet DD) that net is trained on other data with clean labels: it is not here. The
authors scale the weight decay of a step by its mean v, which is left out, and end the drop-out of half of the batch
when 17 of 100 parts of the run are over, two before the burn-in.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses
from robustjax.methods import base
from robustjax.selection import curriculum_weights, keep_count, small_losses


class MentornetState(NamedTuple):
    """The network, and λ, the running percentile of the losses."""

    learner: base.Learner
    threshold: jax.Array


def mentornet(
    task: base.Task,
    *,
    percentile: float = 0.75,
    average_decay: float = 0.5,
    burn_in: float = 0.19,
    linear_from: float = 0.9,
    width: float = 1.0,
    dropout: float = 0.05,
    burn_in_dropout: float = 0.5,
) -> base.Method:
    """MentorNet with its predefined curriculum (PD; Jiang et al., ICML 2018).

    Args:
      percentile: p, in (0, 1): about the share of labels that are right, or less.
      average_decay: β, the memory of the running percentile, in [0, 1).
      burn_in: share of the run, in [0, 1], in which all examples weigh 1.
      linear_from: share of the run, in [0, 1], after which weights fall linearly rather than at once.
      width: γ, positive, by how much a loss then exceeds the percentile where its weight is 0.
      dropout: share of each batch, in [0, 1), that is dropped at random after the burn-in.
      burn_in_dropout: share of each batch, in [0, 1), that is dropped at random in the burn-in.

    Raises:
      ValueError: an option out of its range, by name.
    """
    base.check_options(
        ("percentile", percentile, 0 < percentile < 1, "in (0, 1)"),
        ("average_decay", average_decay, 0 <= average_decay < 1, "in [0, 1)"),
        ("width", width, width > 0, "positive"),
        ("dropout", dropout, 0 <= dropout < 1, "in [0, 1)"),
        ("burn_in_dropout", burn_in_dropout, 0 <= burn_in_dropout < 1, "in [0, 1)"),
    )
    if not 0 <= burn_in <= linear_from <= 1:
        raise ValueError(f"0 <= burn_in <= linear_from <= 1 is needed, got {burn_in} and {linear_from}.")

    def init(key: jax.Array, labels: np.ndarray) -> MentornetState:
        return MentornetState(base.init_learner(key, task), jnp.float32(0))

    def step(
        state: MentornetState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[MentornetState, base.Metrics]:
        batch, learner = batches["train"], state.learner
        view_key, model_key, drop_key = jax.random.split(key, 3)
        inputs = task.strong(view_key, batch.inputs)
        share = clock.progress / task.epochs
        dropped = jnp.where(share < burn_in, burn_in_dropout, dropout)
        count = keep_count(dropped, jnp.sum(batch.mask > 0))
        kept = small_losses(jax.random.uniform(drop_key, batch.mask.shape), count, batch.mask)

        def attempt(params: Any) -> base.Attempt:
            logits, stats = base.train_apply(task, learner, params, inputs, model_key)
            values = losses.cross_entropy(logits, batch.labels)
            held = jax.lax.stop_gradient(values)
            real = jnp.where(batch.mask > 0, held, jnp.nan)  # padding takes no part
            now = jnp.nanquantile(real, percentile, method="nearest")
            threshold = average_decay * state.threshold.astype(now.dtype) + (1 - average_decay) * now
            weights = jnp.where(kept, curriculum_weights(held - threshold, share, burn_in, linear_from, width), 0)
            terms = {"loss": base.Term(values, batch.mask, weights)}
            return base.Attempt(terms, logits, stats, aux=(threshold.astype(jnp.float32), weights))

        learner, metrics, (threshold, weights) = base.descend(task, learner, batch, clock, attempt)
        metrics["kept_share"] = base.tally(weights, batch.mask)
        metrics["threshold"] = (threshold, jnp.ones(()))
        return MentornetState(learner, threshold), metrics

    def predict(state: MentornetState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: MentornetState, survey: base.Survey) -> findings.Findings:
        """The linear weights, at any time: ones, or zeros and ones, tell wrong labels less well apart."""
        values = losses.cross_entropy(survey.seen, survey.labels)
        weights = curriculum_weights(values - state.threshold, 1.0, width=width)
        return {"example_weight": findings.LabelWeight(findings.when_known(state.threshold > 0, weights))}

    return base.method(init, [base.Stage(task.epochs, base.one_pass(step))], predict, inspect)


ENTRIES = (
    base.Entry(
        "mentornet",
        mentornet,
        "Jiang et al., ICML 2018",
        aliases=("mentor_net", "mentornet_pd"),
        small={"percentile": 0.6},
    ),
)
