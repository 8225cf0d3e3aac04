"""Empirical risk minimisation: every method that is one loss on one stream."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses
from robustjax.meta import optimizer_step
from robustjax.methods import base


class ErmState(NamedTuple):
    """The network, and the constants that the loss takes from this seed's labels (class counts, margins …)."""

    learner: base.Learner
    constants: dict[str, jax.Array]


def erm(
    task: base.Task,
    loss: Callable[..., jax.Array],
    *,
    constants: Callable[[np.ndarray], dict[str, Any]] = lambda labels: {},
) -> base.Method:
    """Minimise the mean of a per-example loss on the strong view.

    Args:
      task: what is to be learned, and with what.
      loss: (logits [B, C], labels [B], **constants) -> [B].
      constants: given labels int [N], on the host -> keyword arguments of `loss` that depend on them.
    """

    def init(key: jax.Array, labels: np.ndarray, example: jax.Array) -> ErmState:
        return ErmState(base.init_learner(key, task, example), jax.tree.map(jnp.asarray, constants(labels)))

    def step(state: ErmState, batches: dict[str, base.Batch], clock: base.Clock, key: jax.Array):
        batch, learner = batches["train"], state.learner
        view_key, model_key = jax.random.split(key)
        inputs = task.strong(view_key, batch.inputs)

        def objective(params):
            logits, stats = base.train_apply(task, learner, params, inputs, model_key)
            values = loss(logits, batch.labels, **state.constants)
            return base.masked_mean(values, batch.mask), (values, logits, stats)

        rate = task.schedule(clock.progress)
        result = optimizer_step(objective, learner.params, learner.opt_state, task.optimizer(rate))
        values, logits, stats = result.aux
        metrics = {
            "loss": base.tally(values, batch.mask),
            "train_accuracy": base.tally(jnp.argmax(logits, -1) == batch.labels, batch.mask),
            "learning_rate": (rate, jnp.ones(())),
        }
        return state._replace(learner=base.updated(result, stats)), metrics

    return base.Method(init, step, predict=lambda state, inputs: base.predict_with(task, state.learner, inputs))


def cross_entropy(task: base.Task) -> base.Method:
    """Cross entropy on the given labels."""
    return erm(task, losses.cross_entropy)


def balanced_softmax(task: base.Task) -> base.Method:
    """Balanced softmax (Ren et al., NeurIPS 2020): cross entropy of logits + log class counts."""

    def constants(labels: np.ndarray) -> dict[str, Any]:
        return {"class_counts": base.class_counts(labels, task.num_classes)}

    return erm(task, losses.balanced_softmax, constants=constants)
