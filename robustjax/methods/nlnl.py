"""NLNL: negative learning from complementary labels (Kim et al., ICCV 2019).

"This is not a cat" is right far more often than "this is a dog": a wrong label ȳ drawn from the classes other than the
given one is a mistake with probability r/(C − 1) only. The run has up to four phases:

1. negative learning (NL), −Σ_ȳ log(1 − p_ȳ), on every example;
2. selective negative learning (SelNL): only where p_y > 1/C;
3. selective positive learning (SelPL): cross entropy, only where p_y > a threshold;
4. pseudo-labels: a fresh network learns the labels that phase 3 would keep, and the network's own soft ones elsewhere.

p_y is the network's confidence in the given label at the start of each epoch. SR and APL compare with the first alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, margins
from robustjax.methods import base


class NlnlState(NamedTuple):
    """The network, class weights [C], soft labels [N, C] of the last phase ([0, C] without one), and an example."""

    learner: base.Learner
    class_weights: jax.Array
    targets: jax.Array
    example: jax.Array


def nlnl(
    task: base.Task,
    *,
    complementary: int = 1,
    selective_from: float = 0.33,
    positive_from: float = 0.67,
    pseudo_from: float = 1.0,
    positive_threshold: float = 0.5,
) -> base.Method:
    """NLNL. Phases start at shares of the run; 1 is never. The paper's take 720 epochs each.

    Args:
      complementary: complementary labels that an example draws in each step; 110 in the paper for CIFAR-100.
      selective_from: share of the run after which negative learning leaves out labels with p_y of at most 1/C.
      positive_from: share of the run after which labels with p_y above the threshold are learned positively.
      pseudo_from: share of the run after which a fresh network learns pseudo-labels, with a learning-rate schedule
        of its own, the run's in short.
      positive_threshold: p_y above which a label is learned positively.

    Raises:
      ValueError: for an option outside its range, by name.
    """
    if complementary < 1:
        raise ValueError(f"complementary={complementary} must be at least 1.")
    if not 0 <= selective_from <= positive_from <= pseudo_from <= 1:
        raise ValueError(
            "0 <= selective_from <= positive_from <= pseudo_from <= 1 is needed, "
            f"got {selective_from}, {positive_from} and {pseudo_from}."
        )
    if not 0 <= positive_threshold < 1:
        raise ValueError(f"positive_threshold={positive_threshold} must be in [0, 1).")
    num_classes = task.num_classes
    selective, positive, pseudo = (round(f * task.epochs) for f in (selective_from, positive_from, pseudo_from))

    def init(key: jax.Array, labels: np.ndarray, example: jax.Array) -> NlnlState:
        counts = base.class_counts(labels, num_classes)
        return NlnlState(
            learner=base.init_learner(key, task, example),
            class_weights=margins.inverse_frequency_weights(counts),
            targets=jnp.zeros((len(labels) if pseudo < task.epochs else 0, num_classes)),
            example=jnp.asarray(example),
        )

    def begin_epoch(state: NlnlState, survey: base.Survey, clock: base.Clock, key: jax.Array):
        order_key, fresh_key = jax.random.split(key)
        probs = jax.nn.softmax(survey.logits)
        confidence = jnp.take_along_axis(probs, survey.labels[:, None], -1)[:, 0]
        trusted = confidence > positive_threshold
        chosen = jnp.where(clock.epoch >= positive, trusted, confidence > 1 / num_classes)
        chosen |= (clock.epoch < selective) | (clock.epoch >= pseudo)
        chosen |= ~jnp.any(chosen)  # an epoch needs examples: where none is trusted, all take part
        if pseudo < task.epochs:
            given = jax.nn.one_hot(survey.labels, num_classes)
            fresh = state._replace(
                learner=base.new_learner(fresh_key, task, state.example),
                targets=jnp.where(trusted[:, None], given, probs),
            )
            state = jax.tree.map(lambda new, old: jnp.where(clock.epoch == pseudo, new, old), fresh, state)
        return state, {"train": base.shuffled(order_key, chosen)}

    def advance(state: NlnlState, batch: base.Batch, progress: jax.Array, key: jax.Array, loss: Any):
        """A step on `loss`, logits [B, C] -> [B]."""
        view_key, model_key = jax.random.split(key)
        inputs = task.strong(view_key, batch.inputs)
        learner, metrics = base.descend(task, state.learner, batch, inputs, loss, progress, model_key)
        return state._replace(learner=learner), metrics

    def negative_step(state: NlnlState, batches: dict[str, base.Batch], clock: base.Clock, key: jax.Array):
        """Learn what the examples are not."""
        batch = batches["train"]
        draw_key, step_key = jax.random.split(key)
        offsets = jax.random.randint(draw_key, (len(batch.labels), complementary), 1, num_classes)
        wrong = losses.complementary_labels(batch.labels, offsets, num_classes=num_classes)

        def loss(logits: jax.Array) -> jax.Array:
            return state.class_weights[batch.labels] * losses.negative_learning(logits, wrong)

        return advance(state, batch, clock.progress, step_key, loss)

    def positive_step(state: NlnlState, batches: dict[str, base.Batch], clock: base.Clock, key: jax.Array):
        """Learn the given labels."""
        batch = batches["train"]
        return advance(state, batch, clock.progress, key, lambda logits: losses.cross_entropy(logits, batch.labels))

    def pseudo_step(state: NlnlState, batches: dict[str, base.Batch], clock: base.Clock, key: jax.Array):
        """Learn given and pseudo-labels."""
        batch = batches["train"]
        progress = (clock.progress - pseudo) * task.epochs / (task.epochs - pseudo)
        targets = state.targets[batch.index]
        return advance(state, batch, progress, key, lambda logits: losses.cross_entropy(logits, targets))

    def passes(epoch: int) -> tuple[base.Pass, ...]:
        step = pseudo_step if epoch >= pseudo else positive_step if epoch >= positive else negative_step
        return (base.Pass(("train",), (step,)),)

    def predict(state: NlnlState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    return base.Method(init, negative_step, predict, begin_epoch=begin_epoch, survey=predict, passes=passes)
