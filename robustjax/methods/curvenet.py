"""CurveNet: weights learned from how the loss of an example went over a whole run (Jiang et al., AAAI 2022).

A wrong label and an example of a rare class both have a large loss, but their curves differ. The run has three phases:

1. probing: a first network learns all given labels; ℓ_i(e), the loss of example i when epoch e draws it, is kept. The
   learning rate is high at first, then lower and lowest in turn, so that labels are learned and forgotten;
2. allocating: a fresh network learns, and with it, from trusted examples that have all classes alike, a net V its
   weights, as in Meta-Weight-Net (`methods.mw_net`, eqs. 5 to 7). V sees the curve less that of the mean example of its
   given class, and the class:

       v_i = V(ℓ_i(·) − mean_{j: y_j = y_i} ℓ_j(·), y_i; θ)

3. the network goes on, and V stays as it is.

Constants are those of the authors' code. There, in 3, a weight stays what it was when its example was last drawn in 2;
probing has batches of an eighth once the learning rate changes; and the last epoch is left out of the curves. The
paper's skip layer meta optimisation, which leaves the lowest layers out of the virtual step to save time, is not here;
the authors' settings for CIFAR do without it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses
from robustjax.meta_nets import apply_curve_net, init_curve_net
from robustjax.methods import base, mw_net
from robustjax.schedules import Schedule

# Of the probing's epochs, as of the authors' 300: what a curve leaves out, when the learning rate begins to change, and
# how long it stays.
_LEFT_OUT, _CHANGES, _STAYS = 1 / 60, 0.4, 1 / 20


class CurveNetState(NamedTuple):
    """The network; θ of its weights, with its optimizer's state; loss curves [N, L], of the mean less once `probed`."""

    learner: base.Learner
    theta: Any
    meta_opt_state: Any
    curves: base.PerExample
    probed: jax.Array


def curvenet(
    task: base.Task,
    *,
    probe_epochs: int = 0,
    meta_until: float = 0.4,
    hidden: int = 64,
    meta_learning_rate: float = 1e-3,
    meta_weight_decay: float = 1e-4,
    meta_batch_size: int | None = None,
    virtual: str = "optimizer",
) -> base.Method:
    """CurveNet (Jiang et al., AAAI 2022): weights learned from loss curves and trusted examples.

    Args:
      probe_epochs: epochs of CurveNet's first network, whose losses are the curves, at least 0; 0: as many as `epochs`.
      meta_until: share of the run, in (0, 1], in which weights are learned; then they stay.
      hidden: CurveNet's width, in [1, 100000]: layers have this many units, or twice as many.
      meta_learning_rate: Adam's learning rate for the net, positive.
      meta_weight_decay: L2 penalty on the net, at least 0.
      meta_batch_size: trusted examples of a step, in [1, 100000]; as many as of the training set if not given.
      virtual: "optimizer" for a virtual step of the classifier's own (the authors' code), or "sgd" for one without
        momentum and weight decay.

    Raises:
      ValueError: an option out of its range, by name, or no trusted examples.
    """
    base.check_trusted(task, "curvenet")
    if probe_epochs < 0:
        raise ValueError(f"probe_epochs={probe_epochs} must be at least 0.")
    if not 0 < meta_until <= 1:
        raise ValueError(f"meta_until={meta_until} must be in (0, 1].")
    meta_optimizer = mw_net.weight_optimizer(hidden, meta_learning_rate, meta_weight_decay, meta_batch_size)
    probe_epochs = probe_epochs or task.epochs
    left_out = round(_LEFT_OUT * probe_epochs)
    meta_epochs = max(1, round(meta_until * task.epochs))

    def init(key: jax.Array, labels: np.ndarray) -> CurveNetState:
        learner_key, net_key = jax.random.split(key)
        theta = init_curve_net(net_key, probe_epochs - left_out, task.num_classes, hidden)
        curves = base.per_example(len(labels), (probe_epochs - left_out,))
        return CurveNetState(
            base.init_learner(learner_key, task), theta, meta_optimizer.init(theta), curves, jnp.zeros((), bool)
        )

    def probing_step(
        state: CurveNetState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[CurveNetState, base.Metrics]:
        """Cross entropy, and the batch's losses into their curves."""
        batch = batches["train"]
        view_key, model_key = jax.random.split(key)
        inputs = task.strong(view_key, batch.inputs)

        def attempt(params: Any) -> base.Attempt:
            logits, stats = base.train_apply(task, state.learner, params, inputs, model_key)
            values = losses.cross_entropy(logits, batch.labels)
            return base.Attempt({"loss": base.Term(values, batch.mask)}, logits, stats, aux=values)

        learner, metrics, values = base.descend(task, state.learner, batch, clock, attempt)
        before = base.recall(state.curves, batch.index)
        now = jnp.arange(before.shape[-1]) == clock.stage_epoch - left_out
        curves = base.remember(state.curves, batch, jnp.where(now, values.astype(before.dtype)[:, None], before))
        return state._replace(learner=learner, curves=curves), metrics

    def allocate(state: CurveNetState, survey: base.Survey, key: jax.Array) -> CurveNetState:
        """A fresh network, and curves without what they share with their class."""
        curves = base.recall_all(state.curves, len(survey.labels))
        sums, counts = (
            jax.ops.segment_sum(each, survey.labels, task.num_classes) for each in (curves, jnp.ones(len(curves)))
        )
        means = sums / jnp.maximum(counts, 1)[:, None]
        return state._replace(
            learner=base.new_learner(key, task),
            curves=base.remembered(curves - means[survey.labels]),
            probed=jnp.ones((), bool),
        )

    def weigh(state: CurveNetState, theta: Any, values: jax.Array, batch: base.Batch) -> jax.Array:
        return apply_curve_net(theta, base.recall(state.curves, batch.index), batch.labels)

    def predict(state: CurveNetState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: CurveNetState, survey: base.Survey) -> findings.Findings:
        weights = apply_curve_net(state.theta, base.recall_all(state.curves, len(survey.labels)), survey.labels)
        return {"example_weight": findings.LabelWeight(findings.when_known(state.probed, weights))}

    def warnings(state: CurveNetState) -> tuple[str, ...]:
        curves = base.recall_all(state.curves, task.num_examples)
        weights = apply_curve_net(state.theta, curves, np.arange(len(curves)) % task.num_classes)
        if float(jnp.max(weights) - jnp.min(weights)) > 1e-3:
            return ()
        return (
            "CurveNet's weights are all alike: its net has not learned. Try --meta-weight-decay=0, or a higher "
            "--meta-learning-rate.",
        )

    learning, fixed = (mw_net.weighing_step(task, weigh, virtual, each) for each in (meta_optimizer, None))
    draw = base.Draw("trusted", pool="trusted", batch_size=meta_batch_size)
    stages = [
        base.Stage(probe_epochs, base.one_pass(probing_step), schedule=_changing(task, probe_epochs), preliminary=True),
        base.Stage(meta_epochs, base.one_pass(learning, draw), enter=allocate, schedule=task.schedule),
        base.Stage(
            task.epochs - meta_epochs,
            base.one_pass(fixed),
            schedule=lambda progress: task.schedule(progress + meta_epochs),
        ),
    ]
    return base.method(init, stages, predict, inspect, warnings)


def _changing(task: base.Task, epochs: int) -> Schedule:
    """The highest rate of the run's schedule, then by turns a tenth and a hundredth of it."""
    highest = float(jnp.max(jax.vmap(task.schedule)(jnp.arange(task.epochs, dtype=float))))
    start, length = round(_CHANGES * epochs), max(1, round(_STAYS * epochs))

    def schedule(progress: Any) -> jax.Array:
        since = jnp.floor(jnp.asarray(progress, float)) - start
        return highest * jnp.where(since < 0, 1.0, jnp.where(since // length % 2 == 0, 0.1, 0.01))

    return schedule


ENTRIES = (
    base.Entry(
        "curvenet",
        curvenet,
        "Jiang et al., AAAI 2022",
        aliases=("curve_net",),
        needs=("trusted examples",),
        memory="the epochs of its first network",
        cost=2.0,  # MW-Net's in two epochs of five
        small={"meta_learning_rate": 1e-2, "hidden": 16},
    ),
)
