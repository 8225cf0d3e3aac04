"""INCV: iterative noisy cross-validation, then co-teaching on what it selects (Chen et al., ICML 2019).

A network that has not seen an example seldom predicts its label if that is wrong. So (Algorithm 2), with candidates C,
at first all examples, and the selected ones S, at first none, each iteration

1. divides C at random into halves;
2. trains a fresh network on S and the first half. Of the second half, examples whose label it predicts go to S, and
   the r times as many of largest cross entropy are removed for good;
3. does the same with the halves exchanged.

The first network tells the noise rate ε besides: under symmetric noise its predictions agree with held-out labels with
probability (1 − ε)² + ε²/(C − 1). From ε follow r = ε/(1 − ε), at most 2 (authors' code; the paper leaves r to the
user), and the share of wrong labels that S is left with, ε_S = ε² / (ε² + (C − 1)(1 − ε)²). The formula takes it that
predictions are as wrong as labels; a network that resists the noise agrees more, and ε comes out lower than it is.

Then two fresh networks co-teach on S (Algorithm 3): of a batch of B examples each learns from the B (1 − ε_S min(e/10,
1)) that the other finds easiest. After some epochs candidates join the batch in the proportion of C to S, B/2 of them
at the most, and the same number is chosen from both.

As in the authors' code the epoch whose network agrees most with the held-out labels judges them, but only in the first
iterations where noise is strong: 2 at ε > 0.3, 1 at ε > 0.6. There the networks choose in evaluation mode, and see the
chosen alone in train mode; here both as in co-teaching.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, selection
from robustjax._checks import check_choice
from robustjax.margins import weighted_mean
from robustjax.methods import base, peers

PATTERNS = ("symmetric", "asymmetric")
CANDIDATE, SELECTED, REMOVED = 0, 1, 2


class IncvState(NamedTuple):
    """A run's state.

    Attributes:
      learners: the two networks; cross-validation trains the first.
      part: int32 scalar, how many networks cross-validation has begun with, one more in co-teaching.
      status: int32 [N], whether an example is a candidate, selected or removed.
      half: int32 [N], in which half an example is, 1 or 2; 0 for what was selected before, 3 for what was removed.
      verdict: float32 [N, 2], of the epoch that judges the present held-out half: whether its network predicts the
        label, and the cross entropy.
      agreement: float32 scalar, the share of that half whose label it predicts.
      noise_rate: float32 scalar, ε, 0 until it is known.
      quota: int32 scalar, candidates of a batch.
    """

    learners: tuple[base.Learner, ...]
    part: jax.Array
    status: base.PerExample
    half: base.PerExample
    verdict: base.PerExample
    agreement: jax.Array
    noise_rate: jax.Array
    quota: jax.Array


def removal_ratio(noise_rate: jax.Array) -> jax.Array:
    """How many examples are removed for each that is selected: ε/(1 − ε), at most 2 (authors' code).

    Examples:
      >>> [round(float(removal_ratio(e)), 3) for e in (0.0, 0.2, 0.5, 0.9)]
      [0.0, 0.25, 1.0, 2.0]
    """
    rate = jnp.asarray(noise_rate)
    return jnp.minimum(2, rate / (1 - rate))


def remaining_noise(noise_rate: jax.Array, others: int) -> jax.Array:
    """The share of wrong labels among the selected, ε² / (ε² + others (1 − ε)²).

    Args:
      noise_rate: ε in [0, 1).
      others: classes that a wrong label may be of: C − 1 under symmetric noise, 1 under asymmetric (authors' code).

    Examples:
      >>> round(float(remaining_noise(0.5, 9)), 3), round(float(remaining_noise(0.4, 1)), 3)
      (0.1, 0.308)
    """
    wrong, right = jnp.square(noise_rate), jnp.square(1 - jnp.asarray(noise_rate))
    return wrong / (wrong + others * right)


def incv(
    task: base.Task,
    *,
    iterations: int = 4,
    selection_epochs: int = 0,
    ramp_epochs: int = 10,
    candidates_from: float | None = None,
    pattern: str = "symmetric",
) -> base.Method:
    """INCV (Chen et al., ICML 2019): cross-validation selects examples, two networks co-teach on them.

    Args:
      iterations: of the cross-validation, in [1, 100].
      selection_epochs: epochs of each of its networks, at least 0, two an iteration, in which the schedule runs in
        short; 0: a quarter of `epochs`, as the paper's 50 of 200.
      ramp_epochs: epochs, at least 1, over which the share that co-teaching leaves out rises from 0 to ε_S.
      candidates_from: share of the co-teaching, in [0, 1], after which candidates join the selected; 1 is never. If
        not given 0.2, and 0.4 for asymmetric noise (authors' code, which has 0.4 at ε > 0.6 too).
      pattern: of the noise that is expected: "symmetric", or "asymmetric", for which the authors' code removes nothing,
        has ε_S = ε² / (ε² + (1 − ε)²) and keeps best epochs in the first iteration alone.

    Raises:
      ValueError: an option out of its range, by name.
    """
    check_choice("pattern", pattern, PATTERNS)
    symmetric = pattern == "symmetric"
    candidates_from = (0.2 if symmetric else 0.4) if candidates_from is None else candidates_from
    if iterations < 1 or ramp_epochs < 1:
        raise ValueError(f"iterations={iterations} and ramp_epochs={ramp_epochs} must be at least 1.")
    if selection_epochs < 0:
        raise ValueError(f"selection_epochs={selection_epochs} must be at least 0.")
    if not 0 <= candidates_from <= 1:
        raise ValueError(f"candidates_from={candidates_from} must be in [0, 1].")
    part_epochs = selection_epochs or max(1, round(task.epochs / 4))
    parts, alone = 2 * iterations, round(candidates_from * task.epochs)
    others = task.num_classes - 1 if symmetric else 1

    def init(key: jax.Array, labels: np.ndarray) -> IncvState:
        count = len(labels)
        status, half = (base.per_example(count, (), jnp.int32) for _ in range(2))
        return IncvState(
            tuple(base.init_learner(own, task) for own in jax.random.split(key)),
            jnp.int32(0), status, half, base.per_example(count, (2,)), jnp.float32(-1), jnp.float32(0), jnp.int32(0),
        )  # fmt: skip

    def held_out(state: IncvState, count: int) -> jax.Array:
        """The half that the present network does not train on, bool [N]; none before the first."""
        return base.recall_all(state.half, count) == 1 + state.part % 2

    def keeps_best(state: IncvState) -> jax.Array:
        """Whether the best epoch judges in this iteration, not the last one."""
        strong = jnp.where(state.noise_rate > 0.6, 1, jnp.where(state.noise_rate > 0.3, 2, iterations))
        return (state.part - 1) // 2 < (strong if symmetric else 1)

    def judge(state: IncvState, survey: base.Survey, begun: jax.Array) -> IncvState:
        """Let the network judge what it has not seen, if it has `begun` and is better than it was or the last to."""
        count = len(survey.labels)
        held = held_out(state, count)
        agrees = (jnp.argmax(survey.seen, -1) == survey.labels).astype(jnp.float32)
        agreement = weighted_mean(agrees, held.astype(agrees.dtype))
        better = begun & ((agreement > state.agreement) | ~keeps_best(state))
        values = losses.cross_entropy(survey.seen, survey.labels)
        verdict = jnp.stack([agrees, values.astype(agrees.dtype)], -1)
        return state._replace(
            verdict=base.remembered(jnp.where(better, verdict, base.recall_all(state.verdict, count))),
            agreement=jnp.where(better, agreement, state.agreement),
        )

    def conclude(state: IncvState, survey: base.Survey) -> IncvState:
        """What a network's last epoch and its best one say of the half that it has not seen."""
        count = len(survey.labels)
        state = judge(state, survey, state.part > 0)
        held, verdict = held_out(state, count), base.recall_all(state.verdict, count)
        rate = selection.noise_rate_from_agreement(jnp.maximum(state.agreement, 0), task.num_classes)
        rate = jnp.where(state.part == 1, rate, state.noise_rate)
        selected = held & (verdict[:, 0] > 0)
        count_removed = removal_ratio(rate) * jnp.sum(selected).astype(rate.dtype) if symmetric else 0
        worst = selection.small_losses(-verdict[:, 1], jnp.floor(count_removed), held)
        status = base.recall_all(state.status, count)
        status = jnp.where(selected, SELECTED, jnp.where(worst, REMOVED, status))
        return state._replace(status=base.remembered(status), noise_rate=rate)

    def next_part(state: IncvState, survey: base.Survey, key: jax.Array) -> IncvState:
        """Conclude what was, divide the candidates if both halves have had their turn, and begin with a network."""
        state = conclude(state, survey)
        split_key, fresh_key = jax.random.split(key)
        status = base.recall_all(state.status, len(survey.labels))
        candidate = status == CANDIDATE
        first = selection.small_losses(jax.random.uniform(split_key, status.shape), jnp.sum(candidate) // 2, candidate)
        half = jnp.where(candidate, jnp.where(first, 1, 2), jnp.where(status == SELECTED, 0, 3))
        half = jnp.where(state.part % 2 == 0, half, base.recall_all(state.half, len(half)))
        return state._replace(
            learners=peers.replaced(state.learners, 0, base.new_learner(fresh_key, task)),
            part=state.part + 1,
            half=base.remembered(half),
            agreement=jnp.float32(-1),
        )

    def draw_part(
        state: IncvState, survey: base.Survey, clock: base.Clock, key: jax.Array
    ) -> tuple[IncvState, base.Plan]:
        """Judge, and draw what was selected before and the other half."""
        state = judge(state, survey, clock.stage_epoch > 0)
        half = base.recall_all(state.half, len(survey.labels))
        return state, {"train": base.shuffled(key, (half == 0) | (half == 2 - state.part % 2))}

    def cross_validation_step(
        state: IncvState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[IncvState, base.Metrics]:
        batch, learner = batches["train"], state.learners[0]
        view_key, model_key = jax.random.split(key)

        def terms(logits: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(losses.cross_entropy(logits, batch.labels), batch.mask)}

        attempt = base.attempt_on(task, learner, task.strong(view_key, batch.inputs), model_key, terms)
        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        return state._replace(learners=peers.replaced(state.learners, 0, learner)), metrics

    def begin_teaching(state: IncvState, survey: base.Survey, key: jax.Array) -> IncvState:
        """The sets are made; two fresh networks, and how many candidates go with a batch."""
        state = conclude(state, survey)
        status = base.recall_all(state.status, len(survey.labels))
        candidates, selected = jnp.sum(status == CANDIDATE), jnp.sum(status == SELECTED)
        share = candidates.astype(jnp.float32) / jnp.maximum(selected, 1).astype(jnp.float32)
        return state._replace(
            learners=tuple(base.new_learner(own, task) for own in jax.random.split(key)),
            part=state.part + 1,
            quota=jnp.minimum(jnp.floor(share * task.batch_size), task.batch_size // 2).astype(jnp.int32),
        )

    def draw_sets(
        state: IncvState, survey: base.Survey, clock: base.Clock, key: jax.Array
    ) -> tuple[IncvState, base.Plan]:
        status = base.recall_all(state.status, len(survey.labels))
        selected = status == SELECTED
        selected |= ~jnp.any(selected)  # an epoch needs examples: where none is selected, all are
        selected_key, candidate_key = jax.random.split(key)
        return state, {
            "selected": base.shuffled(selected_key, selected),
            "candidates": base.shuffled(candidate_key, status == CANDIDATE),
        }

    def teaching_step(
        state: IncvState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[IncvState, base.Metrics]:
        """Co-teaching on a batch of the selected, and on candidates where the stage draws them."""
        batch = selected = batches["selected"]
        if "candidates" in batches:
            more = batches["candidates"]
            more = more._replace(mask=jnp.where(jnp.arange(len(more.mask)) < state.quota, more.mask, 0))
            batch = jax.tree.map(lambda *both: jnp.concatenate(both), selected, more)
        view_key, *keys = jax.random.split(key, 3)
        epoch = (clock.epoch - parts * part_epochs).astype(jnp.float32)
        forget = remaining_noise(state.noise_rate, others) * jnp.minimum(epoch / ramp_epochs, 1)

        def choose(logits: jax.Array, values: jax.Array) -> selection.Exchange:
            # As many as of the selected alone.
            kept = (1 - forget) * jnp.sum(selected.mask) / jnp.sum(batch.mask)
            return selection.exchange_small_losses(values, 1 - kept, batch.mask)

        forward = peers.in_train_mode(task, task.strong(view_key, batch.inputs))
        learners, metrics = peers.teach_each_other(task, state.learners, batch, clock, keys, choose, forward)
        metrics["estimated_noise_rate"] = (state.noise_rate, jnp.ones(()))
        return state._replace(learners=learners), metrics

    def warnings(state: IncvState) -> tuple[str, ...]:
        # Of guesses a share of 1/C agrees, which the formula takes for this rate.
        guessing = float(selection.noise_rate_from_agreement(1 / task.num_classes, task.num_classes))
        if float(state.noise_rate) <= 0.8 * guessing:
            return ()
        return (
            f"INCV's networks hardly predicted labels that they had not seen (its noise rate is {state.noise_rate:.2f}"
            "), so that what it selected means little. Try more --selection-epochs.",
        )

    def predict(state: IncvState, inputs: jax.Array) -> jax.Array:
        first, second = peers.each(task, state.learners, inputs)
        return jnp.where(state.part > parts, (first + second) / 2, first)

    def inspect(state: IncvState, survey: base.Survey) -> findings.Findings:
        status = base.recall_all(state.status, len(survey.labels))
        known = jnp.any(status != CANDIDATE)
        of_class = jax.nn.one_hot(survey.labels, task.num_classes)
        chosen = (status == SELECTED).astype(of_class.dtype) @ of_class / jnp.maximum(jnp.sum(of_class, 0), 1)
        return {
            "noise_score": findings.NoiseScore(findings.when_known(known, jnp.asarray([0.5, 0, 1])[status])),
            "selected_share": findings.PerClass(findings.when_known(known, chosen)),
        }

    part = base.Stage(
        part_epochs, base.one_pass(cross_validation_step), draw_part, next_part, predict, "epoch",
        base.in_short(task, part_epochs), preliminary=True,
    )  # fmt: skip
    first = base.Draw("selected")
    teaching = [
        base.Stage(alone, ((base.Step(teaching_step, (first,)),),), draw_sets, schedule=task.schedule),
        base.Stage(
            task.epochs - alone,
            ((base.Step(teaching_step, (first, base.Draw("candidates", batch_size=max(task.batch_size // 2, 1)))),),),
            draw_sets,
            schedule=lambda progress: task.schedule(progress + alone),
        ),
    ]
    begins = 0 if alone else 1
    teaching[begins] = teaching[begins]._replace(enter=begin_teaching, look=predict, when="entry")
    return base.method(init, [part] * parts + teaching, predict, inspect, warnings)


ENTRIES = (
    base.Entry(
        "incv",
        incv,
        "Chen et al., ICML 2019",
        aliases=("iterative_cv",),
        networks=2,
        memory="4",
        cost=2.0,
        small={"iterations": 1, "selection_epochs": 1},
    ),
)
