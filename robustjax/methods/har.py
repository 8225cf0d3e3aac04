"""HAR: heteroskedastic adaptive regularisation (Cao et al., ICLR 2021), and its uniform counterpart.

Rare and noisy examples need more smoothing than frequent and clean ones. HAR adds to each example's loss its size of
the loss gradient at all hidden layers, R(x) = Σ_j ‖∂ℓ/∂h_j‖, times a strength of its group (its given class),

    mean_i ℓ_i + mean_i s_{g(i)} R_i,     s_g ∝ I_g^{3/5} / q_g^{2/5},     max_g s_g = 0.1,

with q_g the group's share of the data and I_g the error that a plain network makes on the group where it has not
trained. Algorithm 1 is one run of two stages: cross entropy on a random half of the data for its own full schedule; the
errors on the other half, by the given labels; then a fresh network on everything.

R has three forms. Appendix B sums the layers' norms, and gives the 0.1 for that sum: `form="sum"`, the default. Eq. 6
has the root of their squares, (Σ_j ‖∂ℓ/∂h_j‖²)^½: `form="paper"`. It is smaller by up to √layers; on ResNet-32's thirty
layers and CIFAR-10 we measured 4.1 times at initialisation and 3.2 to 5.2 times in the first 40 steps. The authors'
code sums, as appendix B does, but differentiates the *mean* over the batch of B examples, which is 1/B of the scale:
`form="code"`. A strength s of the sum is exactly B s there; the authors' setting, 10 at B = 128, is 0.078 of the sum,
worth about 0.32 of the root at initialisation and 0.37 at a ratio of 4.7.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, margins, regularizers, taps
from robustjax._checks import check_choice, load_array
from robustjax.methods import base

FORMS = ("sum", "paper", "code")
WEIGHTINGS = ("adaptive", "inverse", "random", "uniform")
# The largest one, by form: appendix B's 0.1 of its sum, what that is worth of eq. 6's root on ResNet-32, the authors'.
STRENGTHS = {"sum": 0.1, "paper": 0.44, "code": 10.0}


class Estimate(NamedTuple):
    """What stage 1 found of each group: held-out error, count in the whole training set and strength, float32 [G]."""

    errors: jax.Array
    counts: jax.Array
    strengths: jax.Array


class HarState(NamedTuple):
    """A run's state.

    Attributes:
      learner: the network.
      held_out: bool [N], the half that stage 1 does not train on.
      strengths: float32 [N], of each example.
      estimate: of each group.
      class_counts: float32 [C], of the given labels.
    """

    learner: base.Learner
    held_out: base.PerExample
    strengths: base.PerExample
    estimate: Estimate
    class_counts: jax.Array


def attempt(
    forward: Callable[[dict[str, jax.Array]], tuple[jax.Array, Any]],
    shapes: dict[str, jax.ShapeDtypeStruct],
    labels: jax.Array,
    strengths: jax.Array,
    mask: jax.Array,
    *,
    weights: jax.Array | None = None,
    form: str = "sum",
) -> base.Attempt:
    """Cross entropy of a batch and the regulariser made of its hidden gradients (HAR, appendix B; eq. 6; code).

    The mean loss is differentiated, as in the code. The paper differentiates each example's own: that is B times it, B
    the examples that count. Class weights are part of what is differentiated (HAR-DRW, code).

    Args:
      forward: taps -> (logits [B, C], batch statistics).
      shapes: of the taps, one a layer that takes part.
      labels: int [B].
      strengths: [B], λτ of each example, in units of the form.
      mask: [B], 0 for padding.
      weights: [B], of each example's loss; None weighs all alike.
      form: "sum", the sum of norms over layers (appendix B); "paper", the root of the sum of their squares (eq. 6);
        "code", the sum of norms at 1/B of the scale.

    Returns:
      The attempt: the two terms, and as `aux` the gradients of the mean loss at each tapped layer, {name: [B, …]}.
    """
    share = mask if weights is None else mask * weights

    def loss(zeros: dict[str, jax.Array]) -> tuple[jax.Array, tuple[base.Term, jax.Array, Any]]:
        logits, stats = forward(zeros)
        term = base.Term(losses.cross_entropy(logits, labels), share)
        return base.mean(term), (term, logits, stats)

    found = taps.value_and_gradients(loss, shapes)
    term, logits, stats = found.aux
    jacobian = regularizers.hidden_jacobian_norms(found.gradients, cast(Literal["sum", "paper", "code"], form))
    if form != "code":
        jacobian = jacobian * jnp.sum(mask)
    terms = {"unregularized_loss": term, "regularizer": base.Term(jacobian, mask, strengths)}
    return base.Attempt(terms, logits, stats, found.gradients)


def halves(key: jax.Array, num_examples: int) -> jax.Array:
    """A random half of the training set to be held out, rounded down: bool [N]."""
    return jax.random.permutation(key, num_examples) < num_examples // 2


def held_out_errors(wrong: jax.Array, held_out: jax.Array, groups: jax.Array, num_groups: int) -> jax.Array:
    """The share of each group's held-out examples that are predicted wrongly, float32 [G].

    A group without a held-out example (0/0) gets the share over all held-out examples.

    Args:
      wrong: bool [N], whether the prediction differs from the given label.
      held_out: bool [N].
      groups: int [N] in 0 … G−1.
      num_groups: G.
    """
    held = held_out.astype(jnp.float32)
    seen = jax.ops.segment_sum(held, groups, num_groups)
    missed = jax.ops.segment_sum(held * wrong.astype(held.dtype), groups, num_groups)
    overall = jnp.sum(missed) / jnp.maximum(jnp.sum(seen), 1)
    return jnp.where(seen > 0, missed / jnp.maximum(seen, 1), overall)


def group_counts(groups: jax.Array, num_groups: int) -> jax.Array:
    """How many examples each group has: float32 [G]."""
    return jax.ops.segment_sum(jnp.ones(groups.shape, jnp.float32), groups, num_groups)


def weigh(weighting: str, key: jax.Array, strengths: jax.Array) -> jax.Array:
    """Adaptive strengths [G] as they are, or what a control makes of them (appendix C.4)."""
    if weighting == "inverse":
        return margins.inverse_strengths(strengths)
    return margins.random_strengths(key, strengths) if weighting == "random" else strengths


def load_strengths(path: str, num_groups: int) -> np.ndarray:
    """Strengths float32 [G] from an .npy file, or the entry "group_strength" of an .npz (a run's diagnostics).

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it holds something else.
    """
    found = load_array("strengths_file", path, "group_strength")
    if found.shape != (num_groups,):
        raise ValueError(f"strengths_file={path!r} must hold one strength a group, ({num_groups},), got {found.shape}.")
    if not (np.all(np.isfinite(found)) and np.all(found >= 0)):
        raise ValueError(f"strengths_file={path!r} must hold finite strengths of at least 0, got {found.tolist()}.")
    return found.astype(np.float32)


def tapped_shapes(task: base.Task, example: Any, layers: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the taps of the chosen layers for stored inputs like `example` [B, …]; nothing is computed.

    Raises:
      ValueError: for a model without normalisation layers, or a glob in `layers` that names none.
    """
    inputs = jax.eval_shape(task.plain, example)
    variables = jax.eval_shape(task.model.init, jax.random.key(0), inputs)
    shapes = task.model.tap_shapes(variables.params, variables.stats, inputs)
    if not shapes:
        raise ValueError(
            f"model={task.model.name!r} has no normalisation layer, and HAR regularises at their outputs: use a "
            "network that has, such as small_cnn or resnet32."
        )
    return {name: shapes[name] for name in taps.choose(shapes, layers)}


def har(
    task: base.Task,
    *,
    strength: float | None = None,
    form: str = "sum",
    layers: str = "*",
    weighting: str = "adaptive",
    pretrain_epochs: int = 0,
    strengths_file: str = "",
    reweight_from: float = 1.0,
    balance: float = 0.9999,
) -> base.Method:
    """HAR, Algorithm 1: two stages, unless strengths are uniform or given.

    Args:
      strength: HAR's largest λτ (the only one if uniform), positive; if not given 0.1 of the sum (appendix B),
        0.44 of the root (worth as much on ResNet-32) and 10 in the code's form (the authors').
      form: HAR's regulariser: "sum" (of the layers' norms of per-example gradients, appendix B), "paper" (the root of
        their squares, eq. 6) or "code" (sum of norms, gradients of the batch mean, 1/B of the scale).
      layers: normalisation layers that are regularised, globs joined by "|", such as "stage3_*"; "*" is all.
      weighting: "adaptive" (HAR), "uniform" (one strength for all, one stage), or the controls "inverse" and "random".
      pretrain_epochs: epochs of stage 1, at least 0, in which the schedule runs in short; 0: as many as `epochs`.
      strengths_file: take the groups' strengths from this .npy, or .npz of an earlier run's diagnostics, and leave
        stage 1 out. They are rescaled only if `strength` is given.
      reweight_from: share of the run, in [0, 1], after which classes are weighted (DRW), 2/3 in HAR-DRW; 1 is never.
      balance: β of the effective number of examples, in [0, 1); near 1 classes weigh as 1/n.

    Raises:
      ValueError: for an option outside its range, by name, or a model without the normalisation layers asked for.
      FileNotFoundError: if there is no such strengths file.
    """
    check_choice("form", form, FORMS)
    check_choice("weighting", weighting, WEIGHTINGS)
    if strength is not None and not (strength > 0 and math.isfinite(strength)):
        raise ValueError(f"strength={strength} must be positive and finite.")
    if pretrain_epochs < 0:
        raise ValueError(f"pretrain_epochs={pretrain_epochs} must be at least 0.")
    if not 0 <= reweight_from <= 1:
        raise ValueError(f"reweight_from={reweight_from} must be in [0, 1].")
    if not 0 <= balance < 1:
        raise ValueError(f"balance={balance} must be in [0, 1).")
    if weighting == "uniform" and strengths_file:
        raise ValueError(f"weighting='uniform' and strengths_file={strengths_file!r} contradict each other.")
    if pretrain_epochs and (weighting == "uniform" or strengths_file):
        raise ValueError(f"pretrain_epochs={pretrain_epochs}: there is no stage 1 with strengths uniform or given.")
    tapped_shapes(task, task.example, layers)
    largest = STRENGTHS[form] if strength is None else strength
    num_groups = task.num_classes if task.num_groups is None else task.num_groups
    given = load_strengths(strengths_file, num_groups) if strengths_file else None
    if given is not None and strength is not None:
        given = given * (strength / max(float(given.max()), float(np.finfo(np.float32).tiny)))
    staged = weighting != "uniform" and given is None
    first_epochs = (pretrain_epochs or task.epochs) if staged else 0
    reweighted = round(reweight_from * task.epochs)

    def init(key: jax.Array, labels: np.ndarray) -> HarState:
        learner_key, half_key, weigh_key = jax.random.split(key, 3)
        known = jnp.zeros(num_groups)
        if not staged:
            known = jnp.full(num_groups, largest) if given is None else weigh(weighting, weigh_key, jnp.asarray(given))
        return HarState(
            learner=base.init_learner(learner_key, task),
            held_out=base.remembered(halves(half_key, len(labels)) if staged else jnp.zeros(len(labels), bool)),
            strengths=base.per_example(len(labels)),
            estimate=Estimate(jnp.zeros(num_groups), jnp.zeros(num_groups), known),
            class_counts=jnp.asarray(base.class_counts(labels, task.num_classes), jnp.float32),
        )

    def estimated(state: HarState, survey: base.Survey, key: jax.Array) -> Estimate:
        """Errors on the held-out half, and what follows from them."""
        wrong = jnp.argmax(survey.seen, -1) != survey.labels
        held_out = base.recall_all(state.held_out, len(survey.labels))
        errors = held_out_errors(wrong, held_out, survey.groups, num_groups)
        counts = group_counts(survey.groups, num_groups)
        # A group without examples takes no part, nor in the scale.
        errors = jnp.where(counts > 0, errors, 0)
        found = margins.har_strengths(errors, jnp.maximum(counts, 1), max_strength=largest)
        return Estimate(errors, counts, weigh(weighting, key, found))

    def start_anew(state: HarState, survey: base.Survey, key: jax.Array) -> HarState:
        """The estimate, once stage 1 is over, and a fresh network."""
        fresh_key, weigh_key = jax.random.split(key)
        state = state._replace(estimate=estimated(state, survey, weigh_key), learner=base.new_learner(fresh_key, task))
        return strengthen(state, survey, key)

    def strengthen(state: HarState, survey: base.Survey, key: jax.Array) -> HarState:
        """Each example has its group's strength."""
        return state._replace(strengths=base.remembered(state.estimate.strengths[survey.groups]))

    def draw_half(
        state: HarState, survey: base.Survey, clock: base.Clock, key: jax.Array
    ) -> tuple[HarState, base.Plan]:
        drawn = ~base.recall_all(state.held_out, len(survey.labels))
        return state, {"train": base.shuffled(jax.random.split(key)[0], drawn)}

    def pretraining_step(
        state: HarState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[HarState, base.Metrics]:
        """An ordinary step of the first network."""
        batch = batches["train"]
        view_key, model_key = jax.random.split(key)
        inputs = task.strong(view_key, batch.inputs)

        def terms(logits: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(losses.cross_entropy(logits, batch.labels), batch.mask)}

        plain = base.attempt_on(task, state.learner, inputs, model_key, terms)
        learner, metrics, _ = base.descend(task, state.learner, batch, clock, plain)
        return state._replace(learner=learner), metrics

    def step(
        state: HarState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[HarState, base.Metrics]:
        """A regularised step."""
        batch, learner = batches["train"], state.learner
        view_key, model_key = jax.random.split(key)
        inputs = task.strong(view_key, batch.inputs)
        shapes = tapped_shapes(task, batch.inputs, layers)
        strengths = base.recall(state.strengths, batch.index)
        weights = None
        if reweight_from < 1:
            now = clock.stage_epoch
            weights = margins.deferred_weights(now, state.class_counts, start_epoch=reweighted, beta=balance)
            weights = weights[batch.labels]

        def regularized(params: Any) -> base.Attempt:
            def forward(zeros: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
                return task.model.apply(params, learner.stats, inputs, train=True, key=model_key, taps=zeros)

            return attempt(forward, shapes, batch.labels, strengths, batch.mask, weights=weights, form=form)

        learner, metrics, _ = base.descend(task, learner, batch, clock, regularized)
        return state._replace(learner=learner), metrics

    def predict(state: HarState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: HarState, survey: base.Survey) -> findings.Findings:
        found, known = state.estimate, jnp.any(state.estimate.counts > 0)
        return {
            name: findings.PerGroup(findings.when_known(known, values))
            for name, values in (
                ("group_error", found.errors),
                ("group_count", found.counts),
                ("group_strength", found.strengths),
            )
        }

    first = base.Stage(
        first_epochs,
        base.one_pass(pretraining_step),
        draw_half,
        schedule=base.in_short(task, max(first_epochs, 1)),
        preliminary=True,
    )
    final = base.Stage(task.epochs, base.one_pass(step), base.draw_all, strengthen, schedule=task.schedule)
    if staged:
        final = final._replace(enter=start_anew, look=predict, when="entry")
    return base.method(init, [first, final], predict, inspect if staged else None)


_PAPER = "Cao et al., ICLR 2021"
_NEEDS = ("normalisation layers",)

ENTRIES = (
    base.Entry("har", har, _PAPER, needs=_NEEDS, memory="2", cost=2.0, small={"pretrain_epochs": 1}),
    base.Entry("har_drw", functools.partial(har, reweight_from=2 / 3), _PAPER, needs=_NEEDS, memory="2", cost=2.0,
               small={"pretrain_epochs": 1}),
    base.Entry("unif_reg", functools.partial(har, weighting="uniform"), _PAPER, needs=_NEEDS, memory="2", cost=2.0),
)  # fmt: skip
