"""The contract: a method is a value made of pure functions.

A factory `make(task, **options) -> Method` closes over what is static (the model, the views, the optimizer); everything
that changes, or that differs between seeds, is in the state that `init` makes and the steps pass on. The engine
(`robustjax.training.engine`) runs any Method on any data, on any number of devices and for any number of seeds at once,
so a method never loops over epochs, never asks how many devices there are, and never sees a clean label but those of
the trusted examples that it asks for.

From the inside out:

- a `Term` is a part of the objective, per example; an `Attempt` is what one forward pass gives: terms, logits, batch
  statistics; `descend` makes one optimizer step on their `total`, and the metrics follow from the terms;
- a `Step` is a function over one `Batch` of each stream that it draws from; a pass is a tuple of steps, taken in turn;
- a `Stage` is some epochs of passes, with a plan of what is drawn, a look at the training set, and what is done once
  when it begins; a `Method` is a list of stages.
"""

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import backend, losses
from robustjax.findings import Findings
from robustjax.margins import weighted_mean
from robustjax.meta import MetaGradient, meta_gradient, optimizer_step
from robustjax.models import Model
from robustjax.schedules import Schedule

State = Any
Metrics = dict[str, tuple[jax.Array, jax.Array]]

POOLS = ("train", "trusted")
WHEN = ("never", "entry", "epoch")


# --- What a method is given -----------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Examples of one stream for one step.

    Attributes:
      inputs: [B, …], as stored (uint8 images); the method applies a view to them.
      labels: int32 [B], as given: perhaps wrong; of the trusted pool, true.
      index: int32 [B], position in the pool; every per-example memory is addressed by it.
      mask: float32 [B], 0 for padding. Padding repeats real examples, so batch statistics stay meaningful.
    """

    inputs: jax.Array
    labels: jax.Array
    index: jax.Array  # type: ignore[assignment]  # a tuple's method of this name is not missed
    mask: jax.Array


Batches = Mapping[str, Batch]


class Clock(NamedTuple):
    """When a step happens, scalars.

    Attributes:
      epoch: int32, of the run, 0 first.
      progress: float32, epochs of the run done so far, the present one's part included.
      stage_epoch: int32, of the stage, 0 first.
      stage_progress: float32, epochs of the stage done so far.
      rate: float32, the learning rate now, by the stage's schedule.
    """

    epoch: jax.Array
    progress: jax.Array
    stage_epoch: jax.Array
    stage_progress: jax.Array
    rate: jax.Array


class Optimizer(Protocol):
    """learning rate -> optax transformation; the rate may be traced."""

    def __call__(self, rate: Any, /) -> optax.GradientTransformation:
        """The optimizer at this rate; its state has the same form at all rates."""


class View(Protocol):
    """A random view of a batch: augmentation, then normalisation."""

    def __call__(self, key: jax.Array, inputs: jax.Array, /) -> jax.Array:
        """float [B, …] of stored inputs [B, …]."""


class Task(NamedTuple):
    """What a method may know before it starts; the same for every seed.

    Attributes:
      num_examples: N, size of the training set.
      num_classes: C.
      epochs: length of the run.
      batch_size: global batch size B.
      model: the classifier, see `robustjax.models.Model`.
      optimizer: learning rate -> optax transformation; the rate may be traced.
      schedule: progress in epochs -> learning rate.
      weak: view (key, inputs) -> float inputs with little or no augmentation.
      strong: view with the full augmentation.
      plain: inputs -> float inputs, normalisation only; what is evaluated.
      example: shape and dtype of stored inputs [1, …].
      num_groups: G, into how many groups the examples are divided (see `Survey`); C if None.
      num_trusted: K, size of the trusted pool; 0 for none.
    """

    num_examples: int
    num_classes: int
    epochs: int
    batch_size: int
    model: Model
    optimizer: Optimizer
    schedule: Schedule
    weak: View
    strong: View
    plain: Callable[[jax.Array], jax.Array]
    example: jax.ShapeDtypeStruct
    num_groups: int | None = None
    num_trusted: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch over the whole training set; the last batch is padded."""
        return -(-self.num_examples // self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the run if every epoch draws the whole training set once."""
        return self.epochs * self.steps_per_epoch


class Survey(NamedTuple):
    """A look at the whole training set.

    Attributes:
      seen: what the stage's `look` gives of every example, a tree with leading axis N; None where nothing was looked
        at. For `Method.inspect`: logits [N, C] of `predict`.
      labels: int32 [N], as given.
      groups: int32 [N] in 0 … G−1, the group of each example: its given label, unless the user groups otherwise.
    """

    seen: Any
    labels: jax.Array
    groups: jax.Array


# --- What a method is -----------------------------------------------------------------------------------------------


class Stream(NamedTuple):
    """What is drawn in an epoch: the first `size` (int32 scalar) entries of `order` (int32, positions in the pool)."""

    order: jax.Array
    size: jax.Array


Plan = dict[str, Stream]


class Draw(NamedTuple):
    """A stream as a step sees it: its name in the plan and in `batches`, its pool, and its batch size (None: B)."""

    stream: str = "train"
    pool: str = "train"
    batch_size: int | None = None


class Init(Protocol):
    """A fresh state, made on the host, once a seed."""

    def __call__(self, key: jax.Array, labels: np.ndarray, /) -> State:
        """One pytree, all of it checkpointed, from the given labels int [N]."""


class Predict(Protocol):
    """What is evaluated."""

    def __call__(self, state: State, inputs: jax.Array, /) -> jax.Array:
        """Logits [B, C] of stored inputs [B, …]."""


class Inspect(Protocol):
    """What has been learned."""

    def __call__(self, state: State, survey: Survey, /) -> Findings:
        """Findings by name, from a survey with logits [N, C]."""


class Warnings(Protocol):
    """What has gone wrong, where accuracy does not tell."""

    def __call__(self, state: State, /) -> tuple[str, ...]:
        """Sentences for the user, each with what to try, from a seed's last state, on the host; () for none."""


class StepFunction(Protocol):
    """A step over the global batch: jit-, scan-, vmap- and shard-able."""

    def __call__(self, state: State, batches: Batches, clock: Clock, key: jax.Array, /) -> tuple[State, Metrics]:
        """The state after the step, and metrics as (sum, count); "loss" must be among them."""


class Step(NamedTuple):
    """A step function and the streams that it draws from, one batch of each.

    All steps of a pass draw the first stream of its first step; that one is drawn once and sets the number of steps.
    Other streams are cycled, in a new random order each time round, and move on only in steps that draw from them.
    """

    apply: StepFunction
    draws: tuple[Draw, ...] = (Draw(),)


Pass = tuple[Step, ...]


class Stage(NamedTuple):
    """Some epochs of a method.

    Attributes:
      epochs: how many; a stage of none is left out.
      passes: of each epoch, one after the other; the steps of a pass are taken in turn.
      plan: (state, survey, clock, key) -> (state, plan), at the beginning of each epoch; None: each stream draws its
        whole pool, shuffled. Jittable.
      enter: (state, survey, key) -> state, once, before the first epoch: to estimate, to fit, to start a new network.
        Jittable.
      look: (state, inputs as stored [B, …]) -> tree [B, …], what a survey holds of each example.
      when: when there is a look: "never"; "entry", for `enter` alone; "epoch", before each epoch, for `plan` (and for
        `enter` before the first).
      schedule: progress in the stage, in epochs -> learning rate; None: the run's schedule goes on.
      preliminary: whether what it trains is thrown away (as HAR's first network): such epochs are no part of a run's
        results, of its choice of epoch or of early stopping.
    """

    epochs: int
    passes: tuple[Pass, ...]
    plan: Callable[[State, Survey, Clock, jax.Array], tuple[State, Plan]] | None = None
    enter: Callable[[State, Survey, jax.Array], State] | None = None
    look: Callable[[State, jax.Array], Any] | None = None
    when: str = "never"
    schedule: Schedule | None = None
    preliminary: bool = False


class Method(NamedTuple):
    """A training method.

    Attributes:
      init: (key, given labels int [N] on the host) -> state, one pytree, all of it checkpointed. It runs on the host,
        once a seed.
      stages: one after the other.
      predict: (state, inputs [B, …] as stored) -> logits [B, C]; what is evaluated.
      inspect: (state, survey with logits [N, C]) -> findings about the training set, after epochs that are looked at
        and after the last one; None for none.
      warnings: (a seed's state after the last epoch, on the host) -> sentences on what has gone wrong, each with what
        to try; None for none. A run tells them at its end and keeps them in its summary.
    """

    init: Init
    stages: tuple[Stage, ...]
    predict: Predict
    inspect: Inspect | None = None
    warnings: Warnings | None = None

    @property
    def epochs(self) -> int:
        """How many there are in all."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> tuple[int, int]:
        """The number of the stage that an epoch belongs to, from 0, and the epoch in which that one begins."""
        start = 0
        for number, stage in enumerate(self.stages):
            if epoch < start + stage.epochs:
                return number, start
            start += stage.epochs
        raise ValueError(f"epoch={epoch} must be below {start}, the method's number of epochs.")


# What makes a method of a task. Options are keyword-only, with defaults; ValueError for one out of its range, by name.
Factory = Callable[Concatenate[Task, ...], Method]


class Entry(NamedTuple):
    """What a method's file tells about it.

    Attributes:
      name: on the command line, in tables and results.
      make: its factory. Options are its keyword-only parameters, their help is the Args section of its docstring.
      paper: authors, venue and year, such as "Han et al., NeurIPS 2018"; "" for one's own.
      aliases: what people type instead; case, hyphens and plus signs are taken care of.
      family: the name whose recipes it takes; its own if empty. Ablations take those of the whole method.
      needs: what it cannot do without: "trusted examples", "noise rate", "normalisation layers".
      networks: how many it trains.
      memory: numbers kept for each example, in words: "C".
      cost: of a training step, in plain steps of one network.
      small: options that suit a set of some sixty examples, for tests.
    """

    name: str
    make: Factory
    paper: str
    aliases: tuple[str, ...] = ()
    family: str = ""
    needs: tuple[str, ...] = ()
    networks: int = 1
    memory: str = "none"
    cost: float = 1.0
    small: Mapping[str, Any] = {}

    @property
    def year(self) -> int | None:
        """Of the paper, its last word; None for one's own."""
        return int(self.paper.split()[-1]) if self.paper else None


def method(
    init: Init,
    stages: tuple[Stage, ...] | list[Stage],
    predict: Predict,
    inspect: Inspect | None = None,
    warnings: Warnings | None = None,
) -> Method:
    """A checked `Method`; stages without epochs are left out.

    Raises:
      ValueError: a stage that contradicts the contract, by its number and what is wrong.
    """
    kept = tuple(stage for stage in stages if stage.epochs > 0)
    if not kept:
        raise ValueError("a method needs a stage with at least one epoch.")
    for number, stage in enumerate(kept, 1):
        if stage.when not in WHEN:
            raise ValueError(f"stage {number}: when={stage.when!r} is none of {', '.join(WHEN)}.")
        if (stage.look is None) != (stage.when == "never"):
            raise ValueError(f"stage {number}: `look` and when={stage.when!r} contradict each other.")
        if not stage.passes or not all(stage.passes):
            raise ValueError(f"stage {number} needs a pass, and every pass a step.")
        for work in stage.passes:
            first = work[0].draws[0]
            if any(first not in step.draws for step in work):
                raise ValueError(f"stage {number}: every step of a pass must draw its first stream, {first.stream!r}.")
            if unknown := {draw.pool for step in work for draw in step.draws} - set(POOLS):
                raise ValueError(f"stage {number}: pool={sorted(unknown)[0]!r} is none of {', '.join(POOLS)}.")
    return Method(init, kept, predict, inspect, warnings)


# --- One shape for a step -------------------------------------------------------------------------------------------


class Term(NamedTuple):
    """A part of an objective: strength · Σ_i values_i share_i / Σ_i share_i, and 0 where no example has a share.

    Attributes:
      values: [B], one an example.
      share: [B], the batch's mask times whatever weighs the examples in the mean.
      strength: its weight in the objective, a scalar; or [B], one an example.
    """

    values: jax.Array
    share: jax.Array
    strength: Any = 1.0


class Attempt(NamedTuple):
    """What a forward pass of a step gives.

    Attributes:
      terms: the parts of the objective; their names are the metrics' names.
      logits: [B, C] of the batch, for train accuracy.
      stats: batch statistics after the pass.
      aux: whatever else the step needs of it.
    """

    terms: dict[str, Term]
    logits: jax.Array
    stats: Any
    aux: Any = ()


class Learner(NamedTuple):
    """A network in training: parameters, batch statistics and optimizer state."""

    params: Any
    stats: Any
    opt_state: Any


def mean(term: Term) -> jax.Array:
    """A term's share in the objective, scalar."""
    strength = jnp.asarray(term.strength)
    if strength.ndim:
        return weighted_mean(strength * term.values, term.share)
    return strength * weighted_mean(term.values, term.share)


def total(terms: Mapping[str, Term]) -> jax.Array:
    """The objective: the sum of its terms, scalar. Virtual steps minimise the same."""
    first, *rest = (mean(term) for term in terms.values())
    return sum(rest, first)


def descend(
    task: Task, learner: Learner, batch: Batch, clock: Clock, attempt: Callable[[Any], Attempt]
) -> tuple[Learner, Metrics, Any]:
    """One step of the task's optimizer, at the clock's rate, on the total of an attempt's terms.

    Args:
      task: what is learned.
      learner: the network.
      batch: what the metrics count.
      clock: now.
      attempt: params -> `Attempt`.

    Returns:
      The network after the step, with the statistics that the attempt left; the `step_metrics`; the attempt's `aux`.
    """

    def objective(params: Any) -> tuple[jax.Array, Attempt]:
        found = attempt(params)
        return total(found.terms), found

    result = optimizer_step(objective, learner.params, learner.opt_state, task.optimizer(clock.rate))
    found: Attempt = result.aux
    after = Learner(result.params, found.stats, result.opt_state)
    return after, step_metrics(result.loss, found, batch, clock), found.aux


def attempt_on(
    task: Task, learner: Learner, inputs: jax.Array, key: jax.Array, terms: Callable[[jax.Array], dict[str, Term]]
) -> Callable[[Any], Attempt]:
    """The attempt of one forward pass in train mode: `terms` of the logits [B, C] of `inputs`, a view of the batch."""

    def attempt(params: Any) -> Attempt:
        logits, stats = train_apply(task, learner, params, inputs, key)
        return Attempt(terms(logits), logits, stats)

    return attempt


def look_ahead(
    task: Task,
    learner: Learner,
    key: jax.Array,
    meta_params: Any,
    inputs: jax.Array,
    terms: Callable[[jax.Array, Any], Mapping[str, Term]],
    meta_inputs: jax.Array,
    meta_labels: jax.Array,
    meta_mask: jax.Array,
    virtual: optax.GradientTransformation,
    opt_state: Any = None,
) -> MetaGradient:
    """How what weighs a batch changes the cross entropy of other examples after a virtual step: ∂M(ω̂(θ))/∂θ.

    Both passes are in train mode, from the learner's batch statistics, which stay as they are.

    Args:
      task: what is learned.
      learner: the network, ω.
      key: of the passes.
      meta_params: θ, any pytree.
      inputs: a view of the batch.
      terms: (logits [B, C] of it, θ) -> the virtual step's objective.
      meta_inputs: a view of the other examples.
      meta_labels: their labels, int [M] or distributions [M, C].
      meta_mask: [M], 0 for padding.
      virtual: the virtual step's optimizer.
      opt_state: its state; a fresh one if not given, which is all that plain SGD has.
    """

    def train_loss(params: Any, theta: Any) -> tuple[jax.Array, Any]:
        return total(terms(train_apply(task, learner, params, inputs, key)[0], theta)), ()

    def meta_loss(params: Any) -> tuple[jax.Array, Any]:
        logits, _ = train_apply(task, learner, params, meta_inputs, key)
        return mean(Term(losses.cross_entropy(logits, meta_labels), meta_mask)), ()

    opt_state = virtual.init(learner.params) if opt_state is None else opt_state
    return meta_gradient(train_loss, meta_loss, meta_params, learner.params, opt_state, virtual)


def step_metrics(loss: jax.Array, found: Attempt, batch: Batch, clock: Clock) -> Metrics:
    """The metrics of every step: mean loss, accuracy on the given labels, learning rate; of several terms each one."""
    count = jnp.sum(batch.mask)
    metrics = {
        "loss": (loss * count, count),
        "train_accuracy": tally(jnp.argmax(found.logits, -1) == batch.labels, batch.mask),
        "learning_rate": (clock.rate, jnp.ones(())),
    }
    if len(found.terms) > 1:
        for name, term in found.terms.items():
            metrics[name] = tally(term.values, term.share)
            if not isinstance(term.strength, float):  # a number in the source is no measurement
                strength = jnp.asarray(term.strength)
                scalar = (strength, jnp.ones(()))
                metrics[f"{name}_strength"] = tally(strength, term.share) if strength.ndim else scalar
    return metrics


def tally(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A metric as (sum, count), to be divided once at the end."""
    return jnp.sum(jnp.asarray(values, mask.dtype) * mask), jnp.sum(mask)


# --- Networks -------------------------------------------------------------------------------------------------------


def init_learner(key: jax.Array, task: Task) -> Learner:
    """A freshly initialised network with its optimizer's state, compiled; `new_learner` is for use within a program."""
    # The same function object for every seed, so that it is compiled once.
    return new_learner(key, task, backend.jit(task.model.init, once=True))


def new_learner(key: jax.Array, task: Task, init: Callable[..., Any] | None = None) -> Learner:
    """A freshly initialised network with its optimizer's state; `init` stands in for the model's own."""
    example = jnp.zeros(task.example.shape, task.example.dtype)  # only its shape matters
    variables = (init or task.model.init)(key, task.plain(example))
    return Learner(variables.params, variables.stats, task.optimizer(0.0).init(variables.params))


def train_apply(task: Task, learner: Learner, params: Any, inputs: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
    """Forward pass in train mode: (logits [B, C], new batch statistics)."""
    return task.model.apply(params, learner.stats, inputs, train=True, key=key)


def predict_with(task: Task, learner: Learner, inputs: jax.Array) -> jax.Array:
    """Logits [B, C] of stored `inputs` in evaluation mode."""
    return task.model.apply(learner.params, learner.stats, task.plain(inputs), train=False)[0]


def parameter_shapes(task: Task) -> Any:
    """The network's parameters as shapes and dtypes; nothing is computed."""
    return jax.eval_shape(task.model.init, jax.random.key(0), jax.eval_shape(task.plain, task.example)).params


def tensor_order(task: Task) -> tuple[tuple[tuple[Any, ...], int], ...]:
    """The network's tensors from the first to the last: (path of its layer, place among the leaves of its parameters).

    In the order in which the layers are made (of Linen at the first call), as dictionaries keep it until a
    transformation sorts them; lists and tuples have their own.
    """
    found: list[tuple[tuple[Any, ...], int]] = []

    def walk(path: tuple[Any, ...], tree: Any, place: Mapping[int, int]) -> None:
        if isinstance(tree, Mapping | list | tuple):
            for name, branch in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
                walk((*path, name), branch, place)
        else:
            found.extend((path[:-1], place[id(leaf)]) for leaf in jax.tree.leaves(tree))

    def init(key: jax.Array, inputs: jax.Array) -> None:
        params = task.model.init(key, inputs).params
        walk((), params, {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(params))})

    jax.eval_shape(init, jax.random.key(0), jax.eval_shape(task.plain, task.example))
    return tuple(found)


def count_features(task: Task, name: str) -> int:
    """D, how many features the network's linear classifier sees, for a method that changes its weights.

    The classifier is `params["head"]`, with "kernel" [D, C] and "bias" [C].

    Raises:
      ValueError: for a network without one on features that it has learned.
    """
    params = parameter_shapes(task)
    head = params.get("head", {}) if isinstance(params, dict) else {}
    if not {"kernel", "bias"} <= set(head) or len(params) == 1:
        raise ValueError(
            f"model={task.model.name!r} has no linear classifier `head` on features that it learns, which "
            f"method={name!r} needs: small_cnn, resnet32 and others have, with --head=linear."
        )
    return int(head["kernel"].shape[0])


# --- Memories of every example --------------------------------------------------------------------------------------


class PerExample(NamedTuple):
    """A method's memory of every training example: `rows` [N', …], addressed by `Batch.index`.

    It is the one part of a state that grows with the data, so with `--parallel=data` its rows are spread over the
    devices (`robustjax.training.parallel`). N' is N rounded up, so that the form of a state does not depend on their
    number; the rows beyond N are never looked at. Make it by `per_example` or `remembered`, use it by `recall`,
    `remember` and `recall_all`.
    """

    rows: jax.Array


# Rows are rounded up to a multiple of this, which all usual numbers of devices divide.
_ROWS = 128


def per_example(num_examples: int, shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> PerExample:
    """A memory of zeros with entries of `shape` for `num_examples` examples."""
    return PerExample(jnp.zeros((-(-num_examples // _ROWS) * _ROWS, *shape), dtype))


def remembered(entries: Any) -> PerExample:
    """A memory that holds `entries` [N, …], one an example."""
    entries = jnp.asarray(entries)
    return PerExample(jnp.pad(entries, [(0, -len(entries) % _ROWS), *[(0, 0)] * (entries.ndim - 1)]))


def recall(memory: PerExample, index: jax.Array) -> jax.Array:
    """The entries [B, …] of the examples `index` int [B]."""
    return memory.rows[index]


def recall_all(memory: PerExample, num_examples: int) -> jax.Array:
    """The entries [N, …] of all examples."""
    return memory.rows[:num_examples]


def remember(memory: PerExample, batch: Batch, entries: jax.Array) -> PerExample:
    """The memory with the batch's `entries` [B, …]; padding, examples of other batches again, leaves no trace."""
    index = jnp.where(batch.mask > 0, batch.index, memory.rows.shape[0])
    return PerExample(memory.rows.at[index].set(entries.astype(memory.rows.dtype), mode="drop"))


# --- Plans and schedules --------------------------------------------------------------------------------------------


def shuffled(key: jax.Array, chosen: jax.Array) -> Stream:
    """A stream that draws the examples of the boolean mask `chosen` [N] in random order."""
    order = jnp.lexsort((jax.random.uniform(key, chosen.shape), ~chosen))
    return Stream(order.astype(jnp.int32), jnp.sum(chosen, dtype=jnp.int32))


def everything(key: jax.Array, count: int) -> Stream:
    """A stream that draws all `count` examples of a pool in random order."""
    return Stream(jax.random.permutation(key, count).astype(jnp.int32), jnp.int32(count))


def draw_all(state: State, survey: Survey, clock: Clock, key: jax.Array) -> tuple[State, Plan]:
    """The plan of a stage that draws everything, beside stages of the same method that choose by `shuffled`."""
    return state, {"train": shuffled(jax.random.split(key)[0], jnp.ones(survey.labels.shape, bool))}


def one_pass(step: StepFunction, *others: Draw) -> tuple[Pass, ...]:
    """The passes of a stage that makes one step after the other over the whole training set, and over `others`."""
    return ((Step(step, (Draw(), *others)),),)


def in_short(task: Task, epochs: int) -> Schedule:
    """The run's schedule in `epochs` epochs."""
    return lambda progress: task.schedule(progress * (task.epochs / epochs))


# --- Checks and small things ----------------------------------------------------------------------------------------


def check_options(*rules: tuple[str, Any, bool, str]) -> None:
    """Raises ValueError at the first (name, value, whether it is accepted, range in words) that is not accepted."""
    for name, value, accepted, words in rules:
        if not accepted:
            raise ValueError(f"{name}={value} must be {words}.")


def check_mixup(task: Task, mixup: float, name: str = "mixup", *, needed: bool = False) -> None:
    """Raises ValueError unless α of the Beta distribution, an option of this name, suits the inputs.

    It must be at least 0, and 0 for inputs like token ids; a method that is nothing without mixing (`needed`) refuses
    these.
    """
    if mixup < 0:
        raise ValueError(f"{name}={mixup} must be at least 0.")
    if mixup:
        dtype = jax.eval_shape(task.plain, task.example).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            way_out = "this method mixes all inputs, so another one is needed" if needed else "0 is accepted"
            raise ValueError(f"{name}={mixup}: inputs of {dtype}, such as token ids, cannot be mixed; {way_out}.")


def check_warmup(task: Task, warmup_epochs: int) -> None:
    """Raises ValueError unless the warm-up leaves an epoch of the run to what follows it."""
    if not 0 <= warmup_epochs < max(task.epochs, 1):
        raise ValueError(f"warmup_epochs={warmup_epochs} must be at least 0 and less than epochs={task.epochs}.")


def check_forget_rate(forget_rate: float | None) -> float:
    """The rate; raises ValueError unless there is one, in [0, 1)."""
    if forget_rate is None:
        raise ValueError("forget_rate is missing: about the share of wrong labels, in [0, 1), is accepted.")
    if not 0 <= forget_rate < 1:
        raise ValueError(f"forget_rate={forget_rate} must be in [0, 1).")
    return forget_rate


def check_trusted(task: Task, name: str) -> None:
    """Raises ValueError unless there are trusted examples."""
    if task.num_trusted < 1:
        raise ValueError(
            f"method={name!r} learns from trusted examples, whose labels are known to be right, and there are none: "
            "--trusted=npz:FILE, folder:DIR, csv:FILE or hf:DIR takes them from elsewhere, --trusted-examples=K from "
            "the training set where its true labels are known."
        )


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class is given: int64 [C]."""
    return np.bincount(np.asarray(labels), minlength=num_classes)
