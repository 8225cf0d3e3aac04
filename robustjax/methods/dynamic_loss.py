"""Dynamic Loss (Jiang et al., TPAMI 2023): a meta-learned label corrector and margin generator.

The loss of example i is DL_i = ℓ(y*_i, f(x_i) + q). A *label corrector* g trusts the given label by an amount that
depends on the label's class and on how large the example's loss is among its class,
y*_i = g(r_i | y_i) e_{y_i} + (1 − g(r_i | y_i)) y'_i, with y' the classifier's own prediction; a *margin generator*
gives q ∈ R^C. Both are learned by the meta-gradient of `robustjax.meta` on a meta set that *hierarchical sampling*
picks anew each epoch from the noisy data itself: no clean example is used.

Where the paper and the authors' code differ, the paper's form is the default and the code's a named option
(`rank_form`, `finetune`, `corrector_warmup_steps`), but for the two nets: those of the code, which the published
numbers come from, are the default, and `meta_net="paper"` has the paper's. Where the paper is silent (what y' is), the
code's is the default.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import findings, losses, meta
from robustjax._checks import check_choice
from robustjax.meta_nets import NETS, init_corrector, init_margin, margin_vector, weight_table
from robustjax.methods import base
from robustjax.selection import loss_ranks, rank_bins, sample_primary, sampling_sizes, select_meta
from robustjax.targets import corrected_labels, pseudo_labels

CORRECTORS = ("mlp", "agnostic", "vector", "table", "none")
MARGINS = ("mlp", "vector", "balanced_softmax", "none")
SAMPLINGS = ("hierarchical", "naive", "random")
PSEUDO_LABELS = ("sample", "hard", "soft")
RANK_FORMS = ("paper", "code")
STILL = 0.05  # a corrector that has moved no label weight by as much corrects nothing; from 0.982 up to 1 is less


# --- One iteration --------------------------------------------------------------------------------------------------


class Iteration(NamedTuple):
    """Results of `iteration`: the meta-gradient, new meta parameters and their optimizer state, and the real step."""

    meta: meta.MetaGradient
    meta_params: Any
    meta_opt_state: Any
    real: meta.StepResult


def iteration(
    weak: Callable[[Any], jax.Array],
    strong: Callable[[Any], tuple[jax.Array, Any]],
    meta_loss: Callable[[Any], jax.Array],
    targets: Callable[[Any, jax.Array, int], tuple[jax.Array, jax.Array]],
    mask: jax.Array,
    params: Any,
    opt_state: Any,
    optimizer: optax.GradientTransformation,
    meta_params: Any,
    meta_opt_state: Any,
    meta_optimizer: optax.GradientTransformation,
) -> Iteration:
    """One iteration of Algorithm 1: virtual step, meta step, real step.

    Args:
      weak: params -> logits [B, C] of the train batch's weak view.
      strong: params -> (logits [B, C] of its strong view, auxiliary output).
      meta_loss: params -> scalar cross entropy of the meta batch, without margin.
      targets: (meta_params, weak logits, draw) -> (corrected labels [B, C], margins [C]); `draw` is 0 in the virtual
        and 1 in the real step, so that sampled labels are drawn anew.
      mask: [B], 0 for padding.
      params, opt_state, optimizer: the classifier's.
      meta_params, meta_opt_state, meta_optimizer: the meta net's.
    """

    def dynamic_loss(logits: jax.Array, theta: Any, weak_logits: jax.Array, draw: int) -> dict[str, base.Term]:
        labels, margin = targets(theta, jax.lax.stop_gradient(weak_logits), draw)
        return {"loss": base.Term(losses.cross_entropy(logits + margin, labels), mask)}

    def virtual_loss(params: Any, theta: Any) -> tuple[jax.Array, jax.Array]:
        logits = weak(params)
        return base.total(dynamic_loss(logits, theta, logits, 0)), logits

    found = meta.meta_gradient(virtual_loss, lambda p: (meta_loss(p), ()), meta_params, params, opt_state, optimizer)
    meta_params, meta_opt_state = meta.follow(found.gradient, meta_params, meta_opt_state, meta_optimizer)

    def real_loss(params: Any) -> tuple[jax.Array, base.Attempt]:
        logits, stats = strong(params)
        tried = base.Attempt(dynamic_loss(logits, meta_params, found.train_aux, 1), logits, stats)
        return base.total(tried.terms), tried

    real = meta.optimizer_step(real_loss, params, opt_state, optimizer)
    return Iteration(found, meta_params, meta_opt_state, real)


def part_by_part(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` for each entry of a dictionary by itself: {name: its state}.

    Each part of the meta net has its own Adam, with its own count of steps, so that the corrector's warm-up leaves the
    margin generator's where it is (the authors' optimizer skips parameters without a gradient).
    """

    def init(params: dict[str, Any]) -> dict[str, Any]:
        return {name: optimizer.init(part) for name, part in params.items()}

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        done = {name: optimizer.update(gradient[name], state[name], params and params[name]) for name in gradient}
        return {name: updates for name, (updates, _) in done.items()}, {name: new for name, (_, new) in done.items()}

    return optax.GradientTransformation(init, update)


# --- The corrector's warm-up ---------------------------------------------------------------------------------------


def corrector_warmup_loss(weights: jax.Array, labels: jax.Array, logits: jax.Array) -> jax.Array:
    """−log(y*_y + 1e-8) per example [B], y' = softmax: the corrector's own objective while the classifier warms up.

    Authors' code. It pulls g towards 1 for the labels that the classifier does not predict.
    """
    soft = corrected_labels(weights, labels, pseudo_labels(jax.random.key(0), logits, "soft"))
    return -jnp.log(jnp.take_along_axis(soft, labels[:, None], -1)[:, 0] + 1e-8)


# --- The method -----------------------------------------------------------------------------------------------------


def default_meta_rate(task: base.Task, warmup_epochs: int, meta_every: int = 1) -> float:
    """Adam's learning rate for the meta net: the paper's 0.003, in short runs up to 0.01.

    Ours: what a label weight can travel is the rate times the meta steps, so a run of fewer than 1300 (3,000 examples
    in batches of 128 for 60 epochs, where 0.003 was seen to move it) has as much more rate, within limits.
    """
    steps = (task.epochs - warmup_epochs) * task.steps_per_epoch / meta_every
    return min(max(1300 / steps, 1) * 3e-3, 1e-2)


class DynamicLossState(NamedTuple):
    """The classifier, the meta net, and what sampling needs to know of this seed's labels.

    `start` [C, R] are the label weights with which the meta steps began (0 until then).
    """

    learner: base.Learner
    meta_params: dict[str, Any]
    meta_opt_state: Any
    ranks: base.PerExample
    bins: base.PerExample
    start: jax.Array
    log_prior: jax.Array
    primary_size: jax.Array
    meta_size: jax.Array
    steps: jax.Array


def dynamic_loss(
    task: base.Task,
    *,
    num_bins: int = 100,
    warmup_epochs: int = 5,
    primary_ratio: float = 0.5,
    meta_ratio: float = 0.25,
    meta_learning_rate: float | None = None,
    corrector_warmup_steps: int = 0,
    corrector_bias: float = 3.98,
    hidden: int = 64,
    meta_every: int = 1,
    views: int = 2,
    corrector: str = "mlp",
    margin: str = "mlp",
    meta_net: str = "code",
    sampling: str = "hierarchical",
    pseudo_label: str = "sample",
    rank_form: str = "paper",
    finetune: bool = False,
) -> base.Method:
    """Dynamic Loss.

    Args:
      task: what is to be learned, and with what.
      num_bins: R, loss-rank bins a class, in [1, 10000].
      warmup_epochs: epochs of cross entropy, at least 0, before the meta net takes part.
      primary_ratio: M0, size of a class's random primary set as a fraction of the smallest class, in (0, 1].
      meta_ratio: M1, size of a class's meta set (lowest losses of the primary set), likewise in (0, 1].
      meta_learning_rate: Adam's learning rate for the meta net, positive; default: 0.003, the paper's, and up to 0.01
        in a run of fewer than 1300 meta steps, see `default_meta_rate`.
      corrector_warmup_steps: warm-up steps, at least 0, in which the corrector is trained on its own objective; 0 is
        the paper's, 2000 the code's, which can leave it stuck for the rest of the run (Adam remembers the far larger
        gradients).
      corrector_bias: the corrector starts at sigmoid(bias), bias in [-20, 20].
      hidden: width of the meta net, in [1, 100000].
      meta_every: make the meta step in every k-th iteration only, k in [1, 1000]; 1 is the paper's.
      views: in [1, 2]; 2 draws labels and the virtual step from a weak view of the batch (authors' code), 1 from the
        strong one.
      corrector: "mlp", or the ablations "agnostic" (one output for all classes), "vector" (a free number a bin, for
        all classes), "none"; ours, "table" (a free number a class and bin).
      margin: "mlp", or the ablations "vector" (a free number a class), "balanced_softmax" (fixed, log class counts),
        "none".
      meta_net: "code" (learned embeddings, three linear layers) or "paper" (one-hot bins and all ones, two layers).
      sampling: "hierarchical", "naive" (the lowest losses of each whole class), or "random" (any examples of each
        class, where labels are right).
      pseudo_label: y' is a "sample" of the classifier's softmax, its "hard" argmax, or the "soft" distribution.
      rank_form: "paper" or "code", see `rank_bins`.
      finetune: end each epoch with a pass over the meta set (authors' code, not in the paper).

    Raises:
      ValueError: for an option outside its range, by name.
    """
    check_choice("corrector", corrector, CORRECTORS)
    check_choice("margin", margin, MARGINS)
    check_choice("meta_net", meta_net, NETS)
    check_choice("sampling", sampling, SAMPLINGS)
    check_choice("pseudo_label", pseudo_label, PSEUDO_LABELS)
    check_choice("rank_form", rank_form, RANK_FORMS)
    check_choice("views", views, (1, 2))
    if num_bins < 1 or meta_every < 1 or hidden < 1:
        raise ValueError(f"num_bins={num_bins}, meta_every={meta_every} and hidden={hidden} must be at least 1.")
    if meta_learning_rate is not None and not 0 < meta_learning_rate < math.inf:
        raise ValueError(f"meta_learning_rate={meta_learning_rate} must be positive and finite.")
    if corrector_warmup_steps < 0:
        raise ValueError(f"corrector_warmup_steps={corrector_warmup_steps} must be at least 0.")
    if not 0 < meta_ratio <= primary_ratio <= 1:
        raise ValueError(f"0 < meta_ratio <= primary_ratio <= 1 is needed, got {meta_ratio} and {primary_ratio}.")
    base.check_warmup(task, warmup_epochs)
    if corrector == "none" and margin in ("none", "balanced_softmax"):
        raise ValueError(f"corrector='none' with margin={margin!r} leaves nothing to learn; use an ERM method instead.")

    num_classes = task.num_classes
    meta_rate = default_meta_rate(task, warmup_epochs, meta_every) if meta_learning_rate is None else meta_learning_rate
    adam = optax.adam(meta_rate)
    meta_optimizer = part_by_part(adam)
    learns_corrector = corrector != "none"

    def init(key: jax.Array, labels: np.ndarray) -> DynamicLossState:
        keys = jax.random.split(key, 3)
        counts = base.class_counts(labels, num_classes)
        meta_params = {
            "corrector": init_corrector(
                keys[1], num_classes, num_bins, form=corrector, hidden=hidden, bias=corrector_bias, net=meta_net
            ),
            "margin": init_margin(keys[2], num_classes, form=margin, hidden=hidden, net=meta_net),
        }
        primary_size, meta_size = sampling_sizes(int(counts[counts > 0].min()), primary_ratio, meta_ratio)
        return DynamicLossState(
            learner=base.init_learner(keys[0], task),
            meta_params=meta_params,
            meta_opt_state=meta_optimizer.init(meta_params),
            ranks=base.per_example(len(labels), dtype=jnp.int32),
            bins=base.remembered(rank_bins(counts, num_bins, rank_form)),
            start=jnp.zeros((num_classes, num_bins)),
            log_prior=jnp.log(jnp.maximum(jnp.asarray(counts, jnp.float32), 1)),
            primary_size=jnp.int32(primary_size),
            meta_size=jnp.int32(meta_size),
            steps=jnp.int32(0),
        )

    def margins(state: DynamicLossState, theta: dict[str, Any]) -> jax.Array:
        if margin == "none":
            return jnp.zeros(num_classes)
        return state.log_prior if margin == "balanced_softmax" else margin_vector(theta["margin"])

    def weights(theta: dict[str, Any], labels: jax.Array, ranks: jax.Array) -> jax.Array:
        if not learns_corrector:
            return jnp.ones(labels.shape)
        return weight_table(theta["corrector"], num_classes)[labels, ranks]

    def ranked(state: DynamicLossState, values: jax.Array, labels: jax.Array) -> jax.Array:
        """Loss-rank bins int32 [N]."""
        return loss_ranks(values, labels, base.recall_all(state.bins, len(labels)))

    def plan_from(choose: Callable[..., jax.Array]) -> Callable[..., tuple[DynamicLossState, base.Plan]]:
        """The plan of a stage: rank the losses, and keep a meta set bool [N] apart."""

        def plan(
            state: DynamicLossState, survey: base.Survey, clock: base.Clock, key: jax.Array
        ) -> tuple[DynamicLossState, base.Plan]:
            primary_key, train_key, meta_key = jax.random.split(key, 3)
            values = losses.cross_entropy(survey.seen, survey.labels)
            chosen = choose(state, values, survey.labels, primary_key)
            drawn = {"train": base.shuffled(train_key, ~chosen), "meta": base.shuffled(meta_key, chosen)}
            return state._replace(ranks=base.remembered(ranked(state, values, survey.labels))), drawn

        return plan

    def no_meta_set(state: DynamicLossState, values: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.zeros(labels.shape, bool)

    def meta_set(state: DynamicLossState, values: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        primary = jnp.ones(labels.shape, bool)
        if sampling == "random":
            return sample_primary(key, labels, state.meta_size, num_classes)
        if sampling == "hierarchical":
            primary = sample_primary(key, labels, state.primary_size, num_classes)
        return select_meta(values, labels, primary, state.meta_size, num_classes)

    def enter_meta_training(state: DynamicLossState, survey: base.Survey, key: jax.Array) -> DynamicLossState:
        if not learns_corrector:
            return state
        return state._replace(start=weight_table(state.meta_params["corrector"], num_classes))

    def warmup_step(
        state: DynamicLossState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[DynamicLossState, base.Metrics]:
        """Cross entropy for the classifier, the corrector's own objective for the corrector."""
        batch, learner = batches["train"], state.learner
        weak_key, strong_key, model_key = jax.random.split(key, 3)
        theta, meta_opt_state = state.meta_params, state.meta_opt_state
        if learns_corrector and corrector_warmup_steps > 0:
            weak_logits, _ = base.train_apply(
                task, learner, learner.params, task.weak(weak_key, batch.inputs), model_key
            )

            def corrector_objective(net: Any) -> jax.Array:
                trust = weights({"corrector": net}, batch.labels, base.recall(state.ranks, batch.index))
                return base.mean(base.Term(corrector_warmup_loss(trust, batch.labels, weak_logits), batch.mask))

            old = (theta["corrector"], meta_opt_state["corrector"])
            new = meta.follow(jax.grad(corrector_objective)(old[0]), *old, adam)
            active = state.steps < corrector_warmup_steps
            net, net_state = jax.tree.map(lambda new, old: jnp.where(active, new, old), new, old)
            theta, meta_opt_state = theta | {"corrector": net}, meta_opt_state | {"corrector": net_state}
        state = state._replace(meta_params=theta, meta_opt_state=meta_opt_state)
        given = jax.nn.one_hot(batch.labels, num_classes)
        return plain_step(state, batch, task.strong(strong_key, batch.inputs), given, 0.0, clock, model_key)

    def plain_step(
        state: DynamicLossState,
        batch: base.Batch,
        inputs: jax.Array,
        labels: jax.Array,
        margin: Any,
        clock: base.Clock,
        model_key: jax.Array,
    ) -> tuple[DynamicLossState, base.Metrics]:
        """A step of the classifier towards fixed labels [B, C] with a fixed margin."""

        def terms(logits: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(losses.cross_entropy(logits + margin, labels), batch.mask)}

        attempt = base.attempt_on(task, state.learner, inputs, model_key, terms)
        learner, metrics, _ = base.descend(task, state.learner, batch, clock, attempt)
        return state._replace(learner=learner, steps=state.steps + 1), metrics

    def make_targets(
        state: DynamicLossState, batch: base.Batch, key: jax.Array
    ) -> Callable[[Any, jax.Array, int], tuple[jax.Array, jax.Array]]:
        ranks = base.recall(state.ranks, batch.index)

        def targets(theta: dict[str, Any], logits: jax.Array, draw: int) -> tuple[jax.Array, jax.Array]:
            pseudo = pseudo_labels(jax.random.fold_in(key, draw), logits, pseudo_label)
            return corrected_labels(weights(theta, batch.labels, ranks), batch.labels, pseudo), margins(state, theta)

        return targets

    def view_inputs(batch: base.Batch, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        strong = task.strong(keys[0], batch.inputs)
        return (task.weak(keys[1], batch.inputs) if views == 2 else strong), strong

    def step(
        state: DynamicLossState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[DynamicLossState, base.Metrics]:
        """A meta iteration."""
        batch, meta_batch, learner = batches["train"], batches["meta"], state.learner
        keys = jax.random.split(key, 5)
        weak, strong = view_inputs(batch, keys)
        meta_inputs = task.strong(keys[2], meta_batch.inputs)

        def forward(params: Any, inputs: jax.Array) -> tuple[jax.Array, Any]:
            return base.train_apply(task, learner, params, inputs, keys[4])

        def meta_loss(params: Any) -> jax.Array:
            values = losses.cross_entropy(forward(params, meta_inputs)[0], meta_batch.labels)
            return base.mean(base.Term(values, meta_batch.mask))

        done = iteration(
            weak=lambda params: forward(params, weak)[0],
            strong=lambda params: forward(params, strong),
            meta_loss=meta_loss,
            targets=make_targets(state, batch, keys[3]),
            mask=batch.mask,
            params=learner.params,
            opt_state=learner.opt_state,
            optimizer=task.optimizer(clock.rate),
            meta_params=state.meta_params,
            meta_opt_state=state.meta_opt_state,
            meta_optimizer=meta_optimizer,
        )
        tried: base.Attempt = done.real.aux
        metrics = base.step_metrics(done.real.loss, tried, batch, clock)
        metrics["meta_loss"] = (done.meta.meta_loss, jnp.ones(()))
        return state._replace(
            learner=base.Learner(done.real.params, tried.stats, done.real.opt_state),
            meta_params=done.meta_params,
            meta_opt_state=done.meta_opt_state,
            steps=state.steps + 1,
        ), metrics

    def frozen_step(
        state: DynamicLossState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[DynamicLossState, base.Metrics]:
        """An iteration without meta step, for `meta_every` > 1."""
        batch, learner = batches["train"], state.learner
        keys = jax.random.split(key, 5)
        weak, strong = view_inputs(batch, keys)
        weak_logits, _ = base.train_apply(task, learner, learner.params, weak, keys[4])
        labels, margin = make_targets(state, batch, keys[3])(state.meta_params, weak_logits, 1)
        state, metrics = plain_step(state, batch, strong, labels, margin, clock, keys[4])
        return state, metrics

    def finetune_step(
        state: DynamicLossState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[DynamicLossState, base.Metrics]:
        """A step on the meta set towards its given labels, with the learned margin."""
        batch = batches["meta"]
        view_key, model_key = jax.random.split(key)
        given = jax.nn.one_hot(batch.labels, num_classes)
        inputs = task.strong(view_key, batch.inputs)
        return plain_step(state, batch, inputs, given, margins(state, state.meta_params), clock, model_key)

    def predict(state: DynamicLossState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def inspect(state: DynamicLossState, survey: base.Survey) -> findings.Findings:
        ranks = ranked(state, losses.cross_entropy(survey.seen, survey.labels), survey.labels)
        trust = weights(state.meta_params, survey.labels, ranks)
        pseudo = pseudo_labels(jax.random.key(0), survey.seen, "hard")
        found: findings.Findings = {
            "correction": findings.LabelDistribution(corrected_labels(trust, survey.labels, pseudo)),
            "label_weight": findings.LabelWeight(trust),
            "margin": findings.PerClass(margins(state, state.meta_params)),
        }
        if learns_corrector:
            table = weight_table(state.meta_params["corrector"], num_classes)
            found["weight_table"] = findings.Table(table, ranks)
        return found

    def warnings(state: DynamicLossState) -> tuple[str, ...]:
        if not learns_corrector:
            return ()
        moved = np.abs(np.asarray(weight_table(state.meta_params["corrector"], num_classes)) - np.asarray(state.start))
        if moved.max() >= STILL:
            return ()
        tries = [f"a larger --meta-learning-rate than {meta_rate:.2g}", "more --epochs"]
        if corrector_bias > 0:
            tries.insert(1, f"a smaller --corrector-bias than {corrector_bias:g}")
        if corrector_warmup_steps > 0:
            tries.insert(0, "--corrector-warmup-steps=0")
        return (f"the label corrector has not moved: labels stay as given. If some are wrong, try {', '.join(tries)}.",)

    train, meta_draw = base.Draw("train"), base.Draw("meta")
    without_meta = (base.Step(frozen_step, (train,)),) * (meta_every - 1)
    meta_training: tuple[base.Pass, ...] = ((base.Step(step, (train, meta_draw)), *without_meta),)
    if finetune:
        meta_training += ((base.Step(finetune_step, (meta_draw,)),),)
    stages = [
        base.Stage(warmup_epochs, base.one_pass(warmup_step), plan_from(no_meta_set), look=predict, when="epoch"),
        base.Stage(
            task.epochs - warmup_epochs, meta_training, plan_from(meta_set), enter_meta_training, predict, "epoch"
        ),
    ]
    return base.method(init, stages, predict, inspect, warnings)


_SMALL = {"num_bins": 5, "warmup_epochs": 1, "corrector_warmup_steps": 2, "meta_learning_rate": 1e-2, "hidden": 8}


def _entry(suffix: str = "", aliases: tuple[str, ...] = (), **options: Any) -> base.Entry:
    make = functools.partial(dynamic_loss, **options) if options else dynamic_loss
    return base.Entry(
        f"dynamic_loss{suffix}", make, "Jiang et al., TPAMI 2023", aliases, "dynamic_loss", memory="2", cost=3.67,
        small=_SMALL,
    )  # fmt: skip


ENTRIES = (
    _entry(aliases=("dl",)),
    # The paper's ablations (Tables 4 and 12; the class-agnostic corrector in the text), by the names of our tables.
    _entry("_no_corrector", corrector="none"),
    _entry("_no_margin", margin="none"),
    _entry("_no_margin_bs", margin="balanced_softmax"),
    _entry("_no_hierarchical_sampling", sampling="naive"),
    _entry("_vector_meta_net", corrector="vector", margin="vector"),
    _entry("_class_agnostic", corrector="agnostic"),
    # For clean long tails: margins alone, a random meta set (Table 7 has neither R nor M0 and M1 for ImageNet-LT).
    _entry("_no_noise", corrector="none", sampling="random"),
)
