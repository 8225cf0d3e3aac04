"""PLC: progressive label correction (Zhang et al., ICLR 2021).

Noise that depends on the features is heaviest near the boundaries between classes, so a network that is sure of its
prediction is right though its labels are noisy. PLC corrects where the network is surest, trains on what it has
corrected, and so becomes sure of more. After a warm-up on the given labels, before every epoch,

    y_i ← argmax f_i   where   f_i[y_i] < δ max f_i          (`targets.likelihood_ratio_labels`)

with f_i the mean of the example's last predictions and y_i the label that it was last trained on, so that a correction
may be taken back. δ rises by a step, up to a limit, whenever fewer than a thousandth of the labels have changed.

This is the authors' code, which the numbers come from: f is of the views that the network was trained on, at the time
when it was, and nothing is looked at besides. The paper states its algorithm for two classes, with a threshold on f
itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, targets
from robustjax.methods import base

_FEW = 1e-3  # of the labels: if fewer change, the threshold rises


class PlcState(NamedTuple):
    """The network and what it has corrected.

    Attributes:
      learner: the network.
      labels: what is trained on, int32 [N].
      recent: predictions in the last W epochs, the newest last, [N, W, C]; 0 where there is none yet.
      threshold: δ, scalar.
    """

    learner: base.Learner
    labels: base.PerExample
    recent: base.PerExample
    threshold: jax.Array


def plc(
    task: base.Task,
    *,
    warmup_epochs: int = 9,
    threshold: float = 0.3,
    threshold_step: float = 0.1,
    threshold_limit: float = 0.9,
    window: int = 5,
) -> base.Method:
    """Progressive label correction (Zhang et al., ICLR 2021): labels that the network finds unlikely are replaced.

    Args:
      warmup_epochs: epochs, at least 0, before the first correction; the authors' code counts its 8 from 0.
      threshold: δ at first, in (0, 1]: a label is replaced where its probability is below δ times the largest.
      threshold_step: by how much it rises where hardly a label changes, at least 0.
      threshold_limit: up to where, at most, in (0, 1], and at least `threshold`.
      window: W, epochs whose predictions are averaged, in [1, 100].

    Raises:
      ValueError: an option out of its range, by name.
    """
    base.check_warmup(task, warmup_epochs)
    if not 0 < threshold <= threshold_limit <= 1:
        raise ValueError(
            f"threshold={threshold} must be in (0, 1] and threshold_limit={threshold_limit} from there up to 1."
        )
    if not threshold_step >= 0:
        raise ValueError(f"threshold_step={threshold_step} must be at least 0.")
    if not 1 <= window <= 100:
        raise ValueError(f"window={window} must be in [1, 100].")

    def init(key: jax.Array, labels: np.ndarray) -> PlcState:
        recent = base.per_example(len(labels), (window, task.num_classes))
        given = base.remembered(jnp.asarray(labels, jnp.int32))
        return PlcState(base.init_learner(key, task), given, recent, jnp.float32(threshold))

    def believed(state: PlcState, count: int) -> jax.Array:
        """f [N, C]; 0 for an example that has not been predicted yet."""
        return jnp.mean(base.recall_all(state.recent, count), axis=1)

    def correct(state: PlcState, survey: base.Survey, clock: base.Clock, key: jax.Array) -> tuple[PlcState, base.Plan]:
        """New labels, and perhaps a higher threshold for those of the next epoch."""
        count = len(survey.labels)
        before, probs = base.recall_all(state.labels, count), believed(state, count)
        after = targets.likelihood_ratio_labels(before, probs, state.threshold)
        few = (jnp.mean(after != before) < _FEW) & jnp.any(probs > 0)
        higher = jnp.minimum(state.threshold + threshold_step, threshold_limit)
        new = state._replace(labels=base.remembered(after), threshold=jnp.where(few, higher, state.threshold))
        return base.draw_all(new, survey, clock, key)

    def step(
        state: PlcState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[PlcState, base.Metrics]:
        batch = batches["train"]
        view_key, model_key = jax.random.split(key)
        inputs, labels = task.strong(view_key, batch.inputs), base.recall(state.labels, batch.index)

        def attempt(params: Any) -> base.Attempt:
            logits, stats = base.train_apply(task, state.learner, params, inputs, model_key)
            terms = {"loss": base.Term(losses.cross_entropy(logits, labels), batch.mask)}
            return base.Attempt(terms, logits, stats, aux=jax.nn.softmax(logits))

        learner, metrics, probs = base.descend(task, state.learner, batch, clock, attempt)
        recent = base.recall(state.recent, batch.index)
        recent = jnp.concatenate([recent[:, 1:], probs[:, None].astype(recent.dtype)], axis=1)
        metrics["corrected_share"] = base.tally(labels != batch.labels, batch.mask)
        metrics["threshold"] = (state.threshold, jnp.ones(()))
        return state._replace(learner=learner, recent=base.remember(state.recent, batch, recent)), metrics

    def predict(state: PlcState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: PlcState, survey: base.Survey) -> findings.Findings:
        count = len(survey.labels)
        probs = believed(state, count)
        of_given = jnp.take_along_axis(probs, survey.labels[:, None], -1)[:, 0]
        largest = jnp.max(probs, -1)
        score = 1 - of_given / jnp.where(largest > 0, largest, 1)
        return {
            "correction": findings.LabelDistribution(
                jax.nn.one_hot(base.recall_all(state.labels, count), task.num_classes)
            ),
            "noise_score": findings.NoiseScore(findings.when_known(jnp.any(largest > 0), score)),
        }

    passes = base.one_pass(step)
    stages = [
        base.Stage(warmup_epochs, passes, base.draw_all),
        base.Stage(task.epochs - warmup_epochs, passes, correct),
    ]
    return base.method(init, stages, predict, inspect)


ENTRIES = (
    base.Entry(
        "plc",
        plc,
        "Zhang et al., ICLR 2021",
        aliases=("progressive_label_correction",),
        memory="5 C",
        small={"warmup_epochs": 2},
    ),
)
