"""PENCIL: labels are parameters, learned together with the network (Yi and Wu, CVPR 2019).

Every example has label logits ỹ_i, 10 e_y at first, and by them a label distribution d_i = softmax(ỹ_i). With p_i the
prediction, and C classes,

    L = L_c / C + α L_o + β L_e / C
    L_c = mean_i KL(p_i ‖ d_i)          fits predictions to labels, and labels to predictions
    L_o = mean_i ℓ(ỹ_i, y_i)            keeps a label close to the given one; it moves labels only
    L_e = mean_i H(p_i)                 keeps predictions from staying as flat as the labels may become

The run has three phases, given as shares of it:

1. cross entropy on the given labels, at a rate too high to learn the wrong ones by heart;
2. gradient steps of the network on C L, at the same rate, and in the same step ỹ ← ỹ − λ ∂L/∂ỹ;
3. L_c alone, with the labels as they are by then and the schedule of a whole run.

Where the paper and the authors' code differ, this follows the code, as the numbers do, unless told: there L_o takes d
for logits, −log softmax(d_i)[y_i], so that it hardly pulls at a label that is sure of itself. The paper's,
−log d_i[y_i], draws d to (p + αC e_y) / (1 + αC). The code's third phase is at a rate of 0 after its first third, by a
division of integers; here the rate falls as the schedule says.

Three constants are ours, since the authors' are bound to their run. Their code's default, α = 0.4, lets no label of ten
classes change its class, however sure the network is of another one: for that αC must be below about 2, so α is 1/C (of
the paper's form below 1, so there it is half of that). It is not what they ran: in the curves beside their code labels
do change, from the tenth epoch or so of the second phase on, as with α = 0.1. Their network learns by L, with rates of
its own; with any other's the division by C is a tenth of the rate in the phases that matter (`divided=True` has it).
And in few epochs λ grows so much that a step goes too far and labels swing from one epoch to the next; there it is
taken in several, with p as it is.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, schedules, targets
from robustjax._checks import check_choice
from robustjax.methods import base

COMPATIBILITIES = ("code", "paper")
# λ of the authors' code, for batches of 128, ten classes and 130 epochs of the second phase.
_RATE, _BATCH, _CLASSES, _EPOCHS = 600.0, 128, 10, 130


# (logits, label logits, batch) -> the parts of the objective.
_Terms = Callable[[jax.Array, jax.Array, base.Batch], dict[str, base.Term]]


class PencilState(NamedTuple):
    """The network, and the label logits ỹ [N, C]."""

    learner: base.Learner
    label_logits: base.PerExample


def pencil(
    task: base.Task,
    *,
    correct_from: float = 0.22,
    tune_from: float = 0.625,
    label_rate: float | None = None,
    alpha: float | None = None,
    beta: float = 0.1,
    label_scale: float = 10.0,
    constant_rate: float | None = None,
    compatibility: str = "code",
    divided: bool = False,
) -> base.Method:
    """PENCIL (Yi and Wu, CVPR 2019): label distributions that are learned by gradient, beside the network.

    Args:
      correct_from: share of the run, in [0, 1], after which labels are learned too; 70 of 320 epochs in the paper.
      tune_from: share of the run, in [0, 1], after which they stay as they are; 200 of 320 epochs in the paper.
      label_rate: λ, the rate of the label logits, positive. If not given, as far as the code's 600 goes in its 130
        epochs, with batches of 128 and ten classes.
      alpha: α, weight of the compatibility with the given labels, at least 0; if not given 1/C, and 0.5/C of the form
        "paper". The code's default is 0.4.
      beta: β, weight of the predictions' entropy, at least 0.
      label_scale: of the given label's logit at first, positive.
      constant_rate: learning rate of the first two phases, positive; the highest of the run's schedule if not given.
      compatibility: "code" for a second softmax in L_o, "paper" for none.
      divided: whether the network too learns by L, which is divided by the number of classes, as in the paper.

    Raises:
      ValueError: an option out of its range, by name.
    """
    if not 0 <= correct_from <= tune_from <= 1:
        raise ValueError(
            f"0 <= correct_from <= tune_from <= 1 is needed, got correct_from={correct_from} and tune_from={tune_from}."
        )
    base.check_options(
        ("label_rate", label_rate, label_rate is None or label_rate > 0, "positive"),
        ("alpha", alpha, alpha is None or alpha >= 0, "at least 0"),
        ("beta", beta, beta >= 0, "at least 0"),
        ("label_scale", label_scale, label_scale > 0, "positive"),
        ("constant_rate", constant_rate, constant_rate is None or constant_rate > 0, "positive"),
    )
    check_choice("compatibility", compatibility, COMPATIBILITIES)
    num_classes = task.num_classes
    first, second = (round(share * task.epochs) for share in (correct_from, tune_from))
    pull_weight = (1.0 if compatibility == "code" else 0.5) / num_classes if alpha is None else float(alpha)
    times = 1.0 if divided else float(num_classes)  # L in the network's objective
    # A λ that goes as far in fewer epochs than the authors' does so in as many steps.
    substeps = 1 if label_rate else max(1, math.ceil(_EPOCHS / max(second - first, 1)))
    # Of one example's own loss, whatever the number of examples in its batch.
    move = (label_rate or _default_rate(task, second - first)) / task.batch_size
    held = schedules.constant(constant_rate or _highest(task))

    def init(key: jax.Array, labels: np.ndarray) -> PencilState:
        given = label_scale * jax.nn.one_hot(jnp.asarray(labels), num_classes)
        return PencilState(base.init_learner(key, task), base.remembered(given))

    def given_terms(logits: jax.Array, label_logits: jax.Array, batch: base.Batch) -> dict[str, base.Term]:
        return {"loss": base.Term(losses.cross_entropy(logits, batch.labels), batch.mask)}

    def fixed_terms(logits: jax.Array, label_logits: jax.Array, batch: base.Batch) -> dict[str, base.Term]:
        return {"label_fit": base.Term(label_fit(logits, label_logits), batch.mask, times / num_classes)}

    def joint_terms(logits: jax.Array, label_logits: jax.Array, batch: base.Batch) -> dict[str, base.Term]:
        pull = label_compatibility(label_logits, batch.labels, compatibility)
        return fixed_terms(logits, label_logits, batch) | {
            "compatibility": base.Term(pull, batch.mask, times * pull_weight),
            "entropy": base.Term(-targets.negative_entropy(logits), batch.mask, times * beta / num_classes),
        }

    def make_step(terms: _Terms, moves_labels: bool = False) -> base.StepFunction:
        def step(
            state: PencilState, batches: base.Batches, clock: base.Clock, key: jax.Array
        ) -> tuple[PencilState, base.Metrics]:
            batch = batches["train"]
            view_key, model_key = jax.random.split(key)
            inputs, label_logits = task.strong(view_key, batch.inputs), base.recall(state.label_logits, batch.index)

            def attempt(params: Any) -> base.Attempt:
                logits, stats = base.train_apply(task, state.learner, params, inputs, model_key)
                return base.Attempt(terms(logits, label_logits, batch), logits, stats, aux=logits)

            learner, metrics, logits = base.descend(task, state.learner, batch, clock, attempt)
            state = state._replace(learner=learner)
            if moves_labels:

                def once(_: int, labels: jax.Array) -> jax.Array:
                    slope = jax.grad(lambda each: base.total(terms(logits, each, batch)))(labels)
                    return labels - move / (times * substeps) * jnp.sum(batch.mask) * slope

                moved = jax.lax.fori_loop(0, substeps, once, label_logits)
                state = state._replace(label_logits=base.remember(state.label_logits, batch, moved))
            return state, metrics

        return step

    def predict(state: PencilState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: PencilState, survey: base.Survey) -> findings.Findings:
        rows = base.recall_all(state.label_logits, len(survey.labels))
        known = jnp.any(rows != label_scale * jax.nn.one_hot(survey.labels, num_classes))
        labels = jax.nn.softmax(rows)
        of_given = jnp.take_along_axis(labels, survey.labels[:, None], -1)[:, 0]
        return {
            "correction": findings.LabelDistribution(findings.when_known(known, labels)),
            "noise_score": findings.NoiseScore(findings.when_known(known, 1 - of_given)),
        }

    stages = [
        base.Stage(first, base.one_pass(make_step(given_terms)), schedule=held),
        base.Stage(second - first, base.one_pass(make_step(joint_terms, moves_labels=True)), schedule=held),
        base.Stage(
            task.epochs - second,
            base.one_pass(make_step(fixed_terms)),
            schedule=base.in_short(task, task.epochs - second or 1),
        ),
    ]
    return base.method(init, stages, predict, inspect)


def label_fit(logits: jax.Array, label_logits: jax.Array) -> jax.Array:
    """KL(p ‖ d), [B], p = softmax(`logits`) and d = softmax(`label_logits`), both [B, C]."""
    log_p = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(label_logits)), -1)


def label_compatibility(label_logits: jax.Array, labels: jax.Array, form: str = "code") -> jax.Array:
    """−log d_y, [B]; of form "code" −log softmax(d)_y. From label logits [B, C] and given labels int [B]."""
    return losses.cross_entropy(jax.nn.softmax(label_logits) if form == "code" else label_logits, labels)


def _default_rate(task: base.Task, epochs: int) -> float:
    """λ with which each label moves in `epochs` as far as in the authors' second phase."""
    return _RATE * (task.batch_size / _BATCH) * (task.num_classes / _CLASSES) * (_EPOCHS / max(epochs, 1))


def _highest(task: base.Task) -> float:
    """The highest rate of the run's schedule."""
    return float(jnp.max(task.schedule(jnp.arange(4 * max(task.epochs, 1)) / 4)))


ENTRIES = (base.Entry("pencil", pencil, "Yi and Wu, CVPR 2019", memory="C"),)
