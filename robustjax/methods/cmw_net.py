"""CMW-Net: what a loss of a given size is worth in a class of a given size (Shu et al., TPAMI 2023).

Meta-Weight-Net (`methods/mw_net.py`) with a head for each group of classes on a shared hidden layer; groups are found
by k-means of how many labels the classes have. No example is trusted: before each epoch the meta set is picked anew, of
each given class the examples of lowest loss, and these are trained on as well. With soft labels (CMW-Net-SL), what the
given label loses goes to a prediction z_i, and inputs are mixed:

    t_i = v_i e_{y_i} + (1 − v_i) z_i,  v_i = V(ℓ(f(x̃_i), y_i), group of y_i; θ),  z_i = softmax of an averaged model
    L = (1/n) Σ_i ℓ(f(x̃_i), t̃_i),      x̃ and t̃ mixed by the same share and partners

Without them z_i = 0 and nothing is mixed: v_i ℓ_i, as in MW-Net. After a warm-up by cross entropy θ makes a step of
Adam in every k-th iteration, on the mean loss of the meta set (mixed too) after a virtual step of plain SGD.

Dynamic Loss compares with CMW-Net without soft labels on CIFAR and with soft labels on ANIMAL-10N: its numbers are
those of CMW-Net's own tables. The authors' code for noise on CIFAR is of CMW-Net-SL; without soft labels the rest is
the same here. In that code the averaged model keeps its first batch statistics during the warm-up (here it takes the
network's), its memory is 0.997 from the start (here it is the plain mean of all weights until that is as long), it
stands still from epoch 150 on for asymmetric noise, and the meta set is mixed by Beta(1, 1) whatever α (here by α).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import findings, losses, meta, mixtures, schedules, targets
from robustjax.meta_nets import apply_weight_net, init_weight_net
from robustjax.methods import base, peers
from robustjax.mixup import Mix, apply_mix, draw_mix
from robustjax.models import Variables
from robustjax.selection import select_meta


class CmwNetState(NamedTuple):
    """A run's state.

    Attributes:
      learner: the network.
      average: averaged weights, with their batch statistics; empty without soft labels.
      steps: int32 scalar, steps made so far; it drives the average's memory.
      theta: parameters of the weight net.
      meta_opt_state: of its optimizer.
      groups: int32 [C], the head of each class.
    """

    learner: base.Learner
    average: Variables
    steps: jax.Array
    theta: Any
    meta_opt_state: Any
    groups: jax.Array


def default_meta_rate(task: base.Task, warmup_epochs: int, meta_every: int) -> float:
    """Adam's learning rate for the weight net: the authors' 1e-4, in runs of fewer meta steps up to 0.01.

    Ours: what a weight can travel is the rate times the meta steps, of which there are some 11,000 in the authors' runs
    on CIFAR; a run of fewer has as much more rate, within limits.
    """
    steps = max((task.epochs - warmup_epochs) * task.steps_per_epoch / meta_every, 1)
    return min(max(11_000 / steps, 1) * 1e-4, 1e-2)


def cmw_net(
    task: base.Task,
    *,
    hidden: int = 100,
    class_groups: int = 3,
    warmup_epochs: int = 10,
    meta_examples: int = 10,
    meta_every: int = 10,
    meta_learning_rate: float | None = None,
    meta_weight_decay: float = 1e-4,
    soft_labels: bool = False,
    mixup: float = 0.0,
    average_decay: float = 0.997,
) -> base.Method:
    """CMW-Net (Shu et al., TPAMI 2023): loss weights by class size, learned from the surest examples of each class.

    Args:
      hidden: units of the net's hidden layer, in [1, 100000].
      class_groups: into how many groups classes are divided by their sizes, in [1, 1000]; each has a head of its own.
      warmup_epochs: epochs of cross entropy, at least 0, before the weight net takes part.
      meta_examples: examples of each class in the meta set, those of lowest loss, in [1, 100000].
      meta_every: make the meta step in every k-th iteration only, k in [1, 1000].
      meta_learning_rate: Adam's learning rate for the net, positive; default: 1e-4, the authors', and up to 0.01 in a
        run of fewer than 11000 meta steps.
      meta_weight_decay: L2 penalty on the net, at least 0.
      soft_labels: what given labels lose goes to the predictions of an averaged model (CMW-Net-SL).
      mixup: α of mixup's Beta(α, α), at least 0; 0 mixes nothing, 1 is the authors' with soft labels.
      average_decay: memory of the averaged model, in [0, 1).

    Raises:
      ValueError: an option out of its range, by name.
    """
    base.check_warmup(task, warmup_epochs)
    base.check_mixup(task, mixup)
    for name, number in (
        ("hidden", hidden), ("class_groups", class_groups), ("meta_examples", meta_examples), ("meta_every", meta_every)
    ):  # fmt: skip
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1.")
    if meta_learning_rate is not None and not 0 < meta_learning_rate < math.inf:
        raise ValueError(f"meta_learning_rate={meta_learning_rate} must be positive and finite.")
    if not meta_weight_decay >= 0:
        raise ValueError(f"meta_weight_decay={meta_weight_decay} must be at least 0.")
    decay = schedules.averaging_decay(average_decay, 0)
    meta_rate = default_meta_rate(task, warmup_epochs, meta_every) if meta_learning_rate is None else meta_learning_rate
    meta_optimizer = optax.chain(optax.add_decayed_weights(meta_weight_decay), optax.adam(meta_rate))

    def init(key: jax.Array, labels: np.ndarray) -> CmwNetState:
        learner_key, net_key = jax.random.split(key)
        learner = base.init_learner(learner_key, task)
        theta = init_weight_net(net_key, hidden, class_groups)
        return CmwNetState(
            learner=learner,
            average=Variables(learner.params, learner.stats) if soft_labels else peers.NO_AVERAGE,
            steps=jnp.int32(0),
            theta=theta,
            meta_opt_state=meta_optimizer.init(theta),
            groups=mixtures.k_means(base.class_counts(labels, task.num_classes).astype(np.float32), class_groups),
        )

    def advance(
        state: CmwNetState, batch: base.Batch, clock: base.Clock, attempt: Callable[[Any], base.Attempt]
    ) -> tuple[CmwNetState, base.Metrics]:
        """A step of the network, after which the average follows it."""
        learner, metrics, _ = base.descend(task, state.learner, batch, clock, attempt)
        average = state.average
        if soft_labels:
            average = peers.averaged(average, learner.params, 1 - decay(state.steps))
        return state._replace(learner=learner, average=average, steps=state.steps + 1), metrics

    def warmup_step(
        state: CmwNetState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[CmwNetState, base.Metrics]:
        """Cross entropy on the given labels."""
        batch = batches["train"]
        view_key, model_key = jax.random.split(key)

        def terms(logits: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(losses.cross_entropy(logits, batch.labels), batch.mask)}

        inputs = task.strong(view_key, batch.inputs)
        state, metrics = advance(state, batch, clock, base.attempt_on(task, state.learner, inputs, model_key, terms))
        if soft_labels:
            state = state._replace(average=state.average._replace(stats=state.learner.stats))
        return state, metrics

    def mixed(values: jax.Array, mix: Mix | None) -> jax.Array:
        return values if mix is None else apply_mix(values, mix)

    def draw(key: jax.Array, batch: base.Batch) -> Mix | None:
        return draw_mix(key, len(batch.labels), mixup, keep_larger=True) if mixup else None

    def make_step(meta_step: bool) -> base.StepFunction:
        def step(
            state: CmwNetState, batches: base.Batches, clock: base.Clock, key: jax.Array
        ) -> tuple[CmwNetState, base.Metrics]:
            batch, learner, more = batches["train"], state.learner, base.Metrics()
            view_key, mix_key, model_key, teacher_key, meta_key = jax.random.split(key, 5)
            views, mix = task.strong(view_key, batch.inputs), draw(mix_key, batch)
            inputs = mixed(views, mix)
            elsewhere = jnp.zeros((len(batch.labels), task.num_classes))  # where what a label loses goes
            if soft_labels:
                average, logits = peers.average_logits(task, state.average, views, teacher_key)
                state, elsewhere = state._replace(average=average), jax.nn.softmax(logits)

            def terms(logits: jax.Array, theta: Any) -> dict[str, base.Term]:
                values = jax.lax.stop_gradient(losses.cross_entropy(logits, batch.labels))
                weights = apply_weight_net(theta, values, state.groups[batch.labels])
                wanted = targets.corrected_labels(weights, batch.labels, elsewhere.astype(weights.dtype))
                return {"loss": base.Term(losses.cross_entropy(logits, mixed(wanted, mix)), batch.mask)}

            if meta_step:
                other = batches["meta"]
                other_key, other_mix_key = jax.random.split(meta_key)
                other_mix = draw(other_mix_key, other)
                found = base.look_ahead(
                    task, learner, model_key, state.theta, inputs, terms,
                    mixed(task.strong(other_key, other.inputs), other_mix),
                    mixed(jax.nn.one_hot(other.labels, task.num_classes), other_mix), other.mask,
                    optax.sgd(clock.rate),
                )  # fmt: skip
                theta, meta_opt_state = meta.follow(found.gradient, state.theta, state.meta_opt_state, meta_optimizer)
                state = state._replace(theta=theta, meta_opt_state=meta_opt_state)
                more = {"meta_loss": (found.meta_loss, jnp.ones(()))}

            weigh = functools.partial(terms, theta=state.theta)
            attempt = base.attempt_on(task, learner, inputs, model_key, weigh)
            state, metrics = advance(state, batch, clock, attempt)
            return state, metrics | more

        return step

    def teacher(state: CmwNetState, inputs: jax.Array) -> jax.Array:
        """Logits by which the meta set is picked: the averaged model's."""
        return task.model.apply(state.average.params, state.average.stats, task.plain(inputs), train=False)[0]

    def pick(
        state: CmwNetState, survey: base.Survey, clock: base.Clock, key: jax.Array
    ) -> tuple[CmwNetState, base.Plan]:
        """Train on everything, and of each class take the lowest losses as the meta set."""
        train_key, meta_key = jax.random.split(key)
        everyone = jnp.ones(survey.labels.shape, bool)
        values = losses.cross_entropy(survey.seen, survey.labels)
        chosen = select_meta(values, survey.labels, everyone, jnp.int32(meta_examples), task.num_classes)
        return state, {"train": base.shuffled(train_key, everyone), "meta": base.shuffled(meta_key, chosen)}

    def predict(state: CmwNetState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: CmwNetState, survey: base.Survey) -> findings.Findings:
        values = losses.cross_entropy(survey.seen, survey.labels)
        weights = apply_weight_net(state.theta, values, state.groups[survey.labels])
        # In the warm-up the net is as it was made.
        weights = findings.when_known(state.steps > warmup_epochs * task.steps_per_epoch, weights)
        found: findings.Findings = {"example_weight": findings.LabelWeight(weights)}
        if soft_labels:
            believed = targets.corrected_labels(weights, survey.labels, jax.nn.softmax(survey.seen))
            found["correction"] = findings.LabelDistribution(believed)
        return found

    train = base.Draw()
    passes = ((base.Step(make_step(True), (train, base.Draw("meta"))),
               *(base.Step(make_step(False), (train,)),) * (meta_every - 1)),)  # fmt: skip
    look = teacher if soft_labels else predict
    stages = [
        base.Stage(warmup_epochs, base.one_pass(warmup_step), base.draw_all),
        base.Stage(task.epochs - warmup_epochs, passes, pick, look=look, when="epoch"),
    ]
    return base.method(init, stages, predict, inspect)


_SMALL = {"hidden": 16, "warmup_epochs": 1, "meta_examples": 4, "meta_every": 2}


def _entry(suffix: str = "", cost: float = 1.23, **options: Any) -> base.Entry:
    make = functools.partial(cmw_net, **options) if options else cmw_net
    return base.Entry(
        f"cmw_net{suffix}", make, "Shu et al., TPAMI 2023", (f"cmwnet{suffix}",), "cmw_net", cost=cost, small=_SMALL
    )


ENTRIES = (_entry(), _entry("_sl", 1.57, soft_labels=True, mixup=1.0))
