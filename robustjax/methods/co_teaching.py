"""Co-teaching: two networks teach each other what they find easy (Han et al., NeurIPS 2018).

Networks learn right labels before wrong ones, so small losses are mostly right. In every batch each of two networks
picks the (1 − R(t)) B examples of smallest loss, and the *other* one learns from them: errors that one network makes in
choosing do not feed back into itself. R(t) rises from 0 to τ, about the share of wrong labels, over the first epochs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, schedules
from robustjax._checks import check_choice
from robustjax.methods import base, peers
from robustjax.selection import exchange_small_losses

FORMS = ("paper", "code")


class CoTeachingState(NamedTuple):
    """The two networks."""

    learners: tuple[base.Learner, ...]


def co_teaching(
    task: base.Task,
    *,
    forget_rate: float | None = None,
    ramp_epochs: int = 10,
    exponent: float = 1.0,
    form: str = "paper",
) -> base.Method:
    """Co-teaching (Han et al., NeurIPS 2018): two networks, each learning from the small losses of the other.

    Prediction is the mean of the two networks' logits; the paper reports each network's own.

    Args:
      forget_rate: τ, the share of a batch that is left out in the end, in [0, 1): about the share of wrong labels.
        That of `--noise-rate` if not given.
      ramp_epochs: T_k, epochs, at least 1, over which the share that is left out rises from 0.
      exponent: c, positive, of τ^c, to which it rises before it jumps to τ.
      form: "paper", or "code" for co-teaching's mean loss divided a second time by the number kept.

    Raises:
      ValueError: an option out of its range, or no forget rate.
    """
    if forget_rate is None:
        raise ValueError("forget_rate is missing: about the share of wrong labels, in [0, 1), is accepted.")
    if not 0 <= forget_rate < 1:
        raise ValueError(f"forget_rate={forget_rate} must be in [0, 1).")
    if not exponent > 0:
        raise ValueError(f"exponent={exponent} must be positive.")
    check_choice("form", form, FORMS)
    forget = schedules.forget_rate(forget_rate, ramp_epochs, exponent)

    def init(key: jax.Array, labels: np.ndarray) -> CoTeachingState:
        return CoTeachingState(tuple(base.init_learner(own, task) for own in jax.random.split(key)))

    def step(
        state: CoTeachingState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[CoTeachingState, base.Metrics]:
        batch = batches["train"]
        view_key, *model_keys = jax.random.split(key, 3)
        inputs = task.strong(view_key, batch.inputs)
        pairs = list(zip(state.learners, model_keys, strict=True))

        def values(logits: jax.Array) -> jax.Array:
            return losses.cross_entropy(logits, batch.labels)

        # Each pass stands once in the compiled program: the step below begins with the same.
        found = [values(base.train_apply(task, learner, learner.params, inputs, own)[0]) for learner, own in pairs]
        chosen = exchange_small_losses(jnp.stack(found), forget(clock.progress), batch.mask, form=form)

        def learn(which: int) -> tuple[base.Learner, base.Metrics]:
            learner, own = pairs[which]
            share = chosen.share[which].astype(batch.mask.dtype)
            attempt = base.attempt_on(
                task, learner, inputs, own, lambda logits: {"loss": base.Term(values(logits), share, chosen.strength)}
            )
            learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
            return learner, metrics | {"kept_share": base.tally(share, batch.mask)}

        (first, of_first), (second, of_second) = learn(0), learn(1)
        return CoTeachingState((first, second)), jax.tree.map(jnp.add, of_first, of_second)

    def predict(state: CoTeachingState, inputs: jax.Array) -> jax.Array:
        return peers.ensemble(task, state.learners, inputs)

    return base.method(init, [base.Stage(task.epochs, base.one_pass(step))], predict)


ENTRIES = (
    base.Entry(
        "co_teaching",
        co_teaching,
        "Han et al., NeurIPS 2018",
        aliases=("coteaching",),
        needs=("noise rate",),
        networks=2,
        cost=2.0,
        small={"forget_rate": 0.3, "ramp_epochs": 2},
    ),
)
