"""NLNL: negative learning from complementary labels (Kim et al., ICCV 2019).

"This is not a cat" is right far more often than "this is a dog": a wrong label ȳ drawn from the classes other than the
given one is a mistake with probability r/(C − 1) only. The run has up to four phases:

1. negative learning (NL), −Σ_ȳ log(1 − p_ȳ), on every example;
2. selective negative learning (SelNL): only where p_y > 1/C;
3. selective positive learning (SelPL): cross entropy, only where p_y > a threshold;
4. pseudo-labels: a fresh network learns the labels that phase 3 would keep, and the network's own soft ones elsewhere.

p_y is the network's confidence in the given label at the start of each epoch. SR and APL compare with the first alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, margins
from robustjax.methods import base


class NlnlState(NamedTuple):
    """The network, class weights [C], and soft labels [N, C] of the last phase (of no example without one)."""

    learner: base.Learner
    class_weights: jax.Array
    targets: base.PerExample


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
      complementary: complementary labels that an example draws in each step, in [1, 10000]: 1 in the paper, 110 on
        CIFAR-100; 1 wherever SR and APL compare with it (their code).
      selective_from: share of the run, in [0, 1], after which negative learning leaves out labels with p_y of at
        most 1/C.
      positive_from: share of the run, in [0, 1], after which labels with p_y above the threshold are learned
        positively.
      pseudo_from: share of the run, in [0, 1], after which a fresh network learns pseudo-labels, with a
        learning-rate schedule of its own, the run's in short.
      positive_threshold: p_y, in [0, 1), above which a label is learned positively.

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

    def init(key: jax.Array, labels: np.ndarray) -> NlnlState:
        counts = base.class_counts(labels, num_classes)
        return NlnlState(
            learner=base.init_learner(key, task),
            class_weights=margins.inverse_frequency_weights(counts),
            targets=base.per_example(len(labels) if pseudo < task.epochs else 0, (num_classes,)),
        )

    def confidence(survey: base.Survey) -> tuple[jax.Array, jax.Array]:
        """Probabilities [N, C], and those of the given labels [N]."""
        probs = jax.nn.softmax(survey.seen)
        return probs, jnp.take_along_axis(probs, survey.labels[:, None], -1)[:, 0]

    def plan_above(threshold: float) -> Callable[..., tuple[NlnlState, base.Plan]]:
        """Draw the examples whose given label is more probable than `threshold`."""

        def plan(
            state: NlnlState, survey: base.Survey, clock: base.Clock, key: jax.Array
        ) -> tuple[NlnlState, base.Plan]:
            chosen = confidence(survey)[1] > threshold
            chosen |= ~jnp.any(chosen)  # an epoch needs examples: where none is trusted, all take part
            return state, {"train": base.shuffled(jax.random.split(key)[0], chosen)}

        return plan

    def start_anew(state: NlnlState, survey: base.Survey, key: jax.Array) -> NlnlState:
        """A fresh network, and the labels that it learns."""
        probs, of_given = confidence(survey)
        given = jax.nn.one_hot(survey.labels, num_classes)
        targets = jnp.where((of_given > positive_threshold)[:, None], given, probs)
        return state._replace(learner=base.new_learner(key, task), targets=base.remembered(targets))

    def advance(
        state: NlnlState, batch: base.Batch, clock: base.Clock, key: jax.Array, loss: Callable[[jax.Array], jax.Array]
    ) -> tuple[NlnlState, base.Metrics]:
        """A step on `loss`, logits [B, C] -> [B]."""
        view_key, model_key = jax.random.split(key)
        inputs = task.strong(view_key, batch.inputs)
        attempt = base.attempt_on(
            task, state.learner, inputs, model_key, lambda logits: {"loss": base.Term(loss(logits), batch.mask)}
        )
        learner, metrics, _ = base.descend(task, state.learner, batch, clock, attempt)
        return state._replace(learner=learner), metrics

    def negative_step(
        state: NlnlState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[NlnlState, base.Metrics]:
        """Learn what the examples are not."""
        batch = batches["train"]
        draw_key, step_key = jax.random.split(key)
        offsets = jax.random.randint(draw_key, (len(batch.labels), complementary), 1, num_classes)
        wrong = losses.complementary_labels(batch.labels, offsets, num_classes=num_classes)

        def loss(logits: jax.Array) -> jax.Array:
            return state.class_weights[batch.labels] * losses.negative_learning(logits, wrong)

        return advance(state, batch, clock, step_key, loss)

    def positive_step(
        state: NlnlState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[NlnlState, base.Metrics]:
        """Learn the given labels."""
        batch = batches["train"]
        return advance(state, batch, clock, key, lambda logits: losses.cross_entropy(logits, batch.labels))

    def pseudo_step(
        state: NlnlState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[NlnlState, base.Metrics]:
        """Learn given and pseudo-labels."""
        batch = batches["train"]
        targets = base.recall(state.targets, batch.index)
        return advance(state, batch, clock, key, lambda logits: losses.cross_entropy(logits, targets))

    def predict(state: NlnlState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    negative, positive_, learn = (base.one_pass(one) for one in (negative_step, positive_step, pseudo_step))
    sure = plan_above(positive_threshold)
    stages = [
        base.Stage(selective, negative, base.draw_all),
        base.Stage(positive - selective, negative, plan_above(1 / num_classes), look=predict, when="epoch"),
        base.Stage(pseudo - positive, positive_, sure, look=predict, when="epoch"),
        base.Stage(
            task.epochs - pseudo, learn, base.draw_all, start_anew, predict, "entry",
            base.in_short(task, max(task.epochs - pseudo, 1)),
        ),
    ]  # fmt: skip
    return base.method(init, stages, predict)


ENTRIES = (base.Entry("nlnl", nlnl, "Kim et al., ICCV 2019", memory="C in its last phase", small={"pseudo_from": 1.0}),)
