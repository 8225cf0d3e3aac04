"""SELFIE: small losses are learned as they are, consistent predictions in place of labels (Song et al., ICML 2019).

After a warm-up on all given labels, a step takes two kinds of examples of its batch (C) and (R):

- C: the ⌈(1 − τ) B⌉ of smallest loss, τ about the share of wrong labels, with their given labels;
- R: those that the network has predicted alike in the last Q epochs, entropy of these over log C at most ε, with the
  class that it predicted (`targets.refurbished_labels`).

and descends on the mean over C ∪ R; an example in both has the refurbished label. What has been refurbished once stays
so: it keeps its last refurbished label, and its place in R, while the network changes its mind. The run is made of
several, each of a fresh network with the schedule in short, which go on with the labels refurbished so far, in their
warm-up too; and τ is from then on at most the share of labels that has not been refurbished.

This is the authors' code, but that an example cannot be refurbished before Q predictions of it are known, which is why
the code asks for a warm-up of Q epochs at least (here a shorter one shortens Q), and that batch statistics are of the
whole batch, there of C ∪ R alone.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, targets
from robustjax.methods import base
from robustjax.selection import small_losses


class SelfieState(NamedTuple):
    """The network, and what is known of the examples.

    Attributes:
      learner: the network.
      history: classes predicted in the last Q epochs of this network, the newest last, int32 [N, Q]; −1 for none yet.
      refurbished: labels int32 [N]; −1 where the given one stands.
      forget: float32 scalar, τ of this network.
    """

    learner: base.Learner
    history: base.PerExample
    refurbished: base.PerExample
    forget: jax.Array


def selfie(
    task: base.Task,
    *,
    forget_rate: float | None = None,
    restarts: int = 2,
    warmup: float = 0.25,
    history: int = 15,
    threshold: float = 0.05,
) -> base.Method:
    """SELFIE (Song et al., ICML 2019): small losses, and labels refurbished where predictions are consistent.

    Args:
      forget_rate: τ, the share of a batch whose losses are too large to trust, in [0, 1): about the share of wrong
        labels. That of `--noise-rate` if not given.
      restarts: how often a fresh network goes on with the labels refurbished so far, in [0, 100]; the epochs are shared
        out evenly.
      warmup: share of each network's epochs, in [0, 1), on all given labels.
      history: Q, epochs whose predictions are asked, in [1, 1000]; the warm-up's, if it has fewer.
      threshold: ε, entropy over log C of the predictions, in [0, 1], up to which they are consistent.

    Raises:
      ValueError: an option out of its range, by name, or no forget rate.
    """
    forget = base.check_forget_rate(forget_rate)
    base.check_options(
        ("restarts", restarts, 0 <= restarts <= 100, "in [0, 100]"),
        ("warmup", warmup, 0 <= warmup < 1, "in [0, 1)"),
        ("history", history, 1 <= history <= 1000, "in [1, 1000]"),
        ("threshold", threshold, 0 <= threshold <= 1, "in [0, 1]"),
    )
    num_classes, networks = task.num_classes, restarts + 1
    starts = [task.epochs * number // networks for number in range(networks + 1)]
    # Of a short run the warm-up is not all.
    warmup_epochs = min(round(warmup * task.epochs / networks), max(task.epochs // networks - 1, 0))
    length = max(1, min(history, warmup_epochs))

    def init(key: jax.Array, labels: np.ndarray) -> SelfieState:
        none = jnp.full(len(labels), -1, jnp.int32)
        return SelfieState(
            base.init_learner(key, task),
            base.remembered(jnp.broadcast_to(none[:, None], (len(labels), length))),
            base.remembered(none),
            jnp.float32(forget),
        )

    def start_anew(state: SelfieState, survey: base.Survey, key: jax.Array) -> SelfieState:
        """A fresh network, whose predictions are not those of the last one; what was refurbished stays so."""
        forgotten = base.PerExample(jnp.full_like(state.history.rows, -1))
        given = jnp.mean((base.recall_all(state.refurbished, len(survey.labels)) < 0).astype(jnp.float32))
        return state._replace(
            learner=base.new_learner(key, task), history=forgotten, forget=jnp.minimum(state.forget, given)
        )

    def step(
        state: SelfieState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[SelfieState, base.Metrics]:
        batch, learner = batches["train"], state.learner
        view_key, model_key = jax.random.split(key)
        inputs = task.strong(view_key, batch.inputs)
        # This pass stands once in the compiled program: the step below begins with the same.
        seen = base.train_apply(task, learner, learner.params, inputs, model_key)[0]

        past = base.recall(state.history, batch.index)
        found = targets.refurbished_labels(past, num_classes, threshold)
        warm = clock.stage_epoch >= warmup_epochs
        consistent = warm & found.consistent & jnp.all(past >= 0, axis=-1)
        refurbished = jnp.where(consistent, found.labels, base.recall(state.refurbished, batch.index))
        replaced = refurbished >= 0
        count = jnp.sum(batch.mask)
        kept = count - jnp.floor(state.forget * count * (1 + 1e-6))  # a product that is whole up to rounding is whole
        small = small_losses(losses.cross_entropy(seen, batch.labels), kept, batch.mask)
        share = jnp.where(replaced | small | ~warm, batch.mask, 0)
        labels = jnp.where(replaced, refurbished, batch.labels)

        attempt = base.attempt_on(
            task,
            learner,
            inputs,
            model_key,
            lambda logits: {"loss": base.Term(losses.cross_entropy(logits, labels), share)},
        )
        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        predicted = jnp.argmax(seen, -1).astype(jnp.int32)
        new = SelfieState(
            learner,
            base.remember(state.history, batch, jnp.concatenate([past[:, 1:], predicted[:, None]], axis=1)),
            base.remember(state.refurbished, batch, refurbished),
            state.forget,
        )
        shares = {"kept_share": base.tally(share, batch.mask), "refurbished_share": base.tally(replaced, batch.mask)}
        return new, metrics | shares

    def predict(state: SelfieState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: SelfieState, survey: base.Survey) -> findings.Findings:
        past, refurbished = (base.recall_all(each, len(survey.labels)) for each in (state.history, state.refurbished))
        labels = jnp.where(refurbished >= 0, refurbished, survey.labels)
        asked = jnp.sum(past >= 0, axis=-1, dtype=jnp.float32)
        other = jnp.sum((past >= 0) & (past != survey.labels[:, None]), axis=-1, dtype=jnp.float32)
        score = other / jnp.maximum(asked, 1)
        return {
            "correction": findings.LabelDistribution(jax.nn.one_hot(labels, num_classes)),
            "noise_score": findings.NoiseScore(findings.when_known(jnp.any(asked > 0), score)),
        }

    stages = [
        base.Stage(
            end - start,
            base.one_pass(step),
            enter=start_anew if number else None,
            schedule=base.in_short(task, max(end - start, 1)),
            preliminary=number < restarts,
        )
        for number, (start, end) in enumerate(itertools.pairwise(starts))
    ]
    return base.method(init, stages, predict, inspect)


ENTRIES = (
    base.Entry(
        "selfie",
        selfie,
        "Song et al., ICML 2019",
        needs=("noise rate",),
        memory="16",
        small={"forget_rate": 0.3, "restarts": 1},
    ),
)
