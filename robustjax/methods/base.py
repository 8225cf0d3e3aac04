"""The Method contract: a method is a value made of pure functions.

A factory `make(task, **options) -> Method` closes over what is static (the model, the views, the optimizer); everything
that changes, or that differs between seeds, is in the state that `init` makes and `step` passes on. The engine
(`robustjax.training.engine`) runs any Method on any data, on any number of devices and for any number of seeds at once,
so a method never loops, never asks how many devices there are, and never sees a clean label.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax.backend import compiler_options
from robustjax.meta import StepResult, optimizer_step
from robustjax.models import Model

State = Any
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Batch(NamedTuple):
    """Examples of one stream for one step.

    Attributes:
      inputs: [B, …], as stored (uint8 images); the method applies a view to them.
      labels: int32 [B], as given: perhaps wrong.
      index: int32 [B], position in the training set; every per-example memory is addressed by it.
      mask: float32 [B], 0 for padding. Padding repeats real examples, so batch statistics stay meaningful.
    """

    inputs: jax.Array
    labels: jax.Array
    index: jax.Array
    mask: jax.Array


class Clock(NamedTuple):
    """When a step happens: `epoch` int32 scalar (0 first) and `progress` float32 scalar, epochs done so far."""

    epoch: jax.Array
    progress: jax.Array


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
      example: shape and dtype of stored inputs [1, …], by which a method can refuse a model at once; None if unknown.
      num_groups: G, into how many groups the examples are divided (see `Survey`); C if None.
    """

    num_examples: int
    num_classes: int
    epochs: int
    batch_size: int
    model: Model
    optimizer: Callable[[Any], optax.GradientTransformation]
    schedule: Callable[[Any], jax.Array]
    weak: Callable[[jax.Array, jax.Array], jax.Array]
    strong: Callable[[jax.Array, jax.Array], jax.Array]
    plain: Callable[[jax.Array], jax.Array]
    example: jax.ShapeDtypeStruct | None = None
    num_groups: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch over the whole training set; the last batch is padded."""
        return -(-self.num_examples // self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the run if every epoch draws the whole training set once."""
        return self.epochs * self.steps_per_epoch


class Stream(NamedTuple):
    """What a stream draws in an epoch: the first `size` (int32 scalar) entries of `order` (int32 [N])."""

    order: jax.Array
    size: jax.Array


Plan = dict[str, Stream]


class Survey(NamedTuple):
    """A look at the whole training set.

    Attributes:
      logits: [N, C], in evaluation mode; None where the method asked for none.
      labels: int32 [N], as given.
      groups: int32 [N] in 0 … G−1, the group of each example: its given label, unless the user groups otherwise.
    """

    logits: jax.Array | None
    labels: jax.Array
    groups: jax.Array | None = None


class Pass(NamedTuple):
    """One pass within an epoch.

    Attributes:
      streams: names of the plan's streams that a step draws from; the first one is drawn once and sets the number of
        steps, the others are cycled.
      steps: step functions (state, batches, clock, key) -> (state, metrics), taken in turn. `batches` is a dict with
        one `Batch` a stream. `metrics` maps names to (sum, count); "loss" must be among them.
    """

    streams: tuple[str, ...]
    steps: tuple[Callable[..., tuple[State, Metrics]], ...]


class PerExample(NamedTuple):
    """A method's memory of every training example: `rows` [N', …], addressed by `Batch.index`.

    It is the one part of a state that grows with the data, so with `--parallel=data` its rows are spread over the
    devices (`robustjax.training.parallel`). N' is N rounded up, so that the form of a state does not depend on their
    number; the rows beyond N are never looked at. Make it by `per_example`, use it by `recall` and `remember`.
    """

    rows: jax.Array


class Method(NamedTuple):
    """A training method.

    Attributes:
      init: (key, labels int [N] on the host, example inputs [1, …]) -> state, one pytree, all of it checkpointed.
      step: (state, batches, clock, key) -> (state, metrics): one optimisation step over the global batch.
      predict: (state, inputs [B, …] as stored) -> logits [B, C]; what is evaluated.
      begin_epoch: (state, survey, clock, key) -> (state, plan), or None for one shuffled pass over everything.
        Jittable.
      survey: (state, inputs as stored) -> logits of one batch for `begin_epoch`'s survey; None where it needs none
        (it is then given a survey without logits).
      surveys: epoch -> whether its `begin_epoch` is given a survey with logits; None for every epoch. What an epoch is
        given is known when `begin_epoch` is traced: it may branch on `survey.logits is None`.
      passes: epoch -> the passes of this epoch; None for one pass of `step` over the stream "train".
      inspect: (state, survey) -> dict of arrays about what the method has learned, once an epoch, for evaluation and
        plots. Known keys: "corrected_labels" [N, C], "label_weight" [N], "weight_table" [C, R], "rank" [N],
        "margin" [C], "targets" [N, C] with their weight "target_strength", "group_count", "group_error" and
        "group_strength" [G] (all 0 until they are known).
      epochs: how many there are in all, where these are not the task's: those of earlier stages are added.
    """

    init: Callable[..., State]
    step: Callable[..., tuple[State, Metrics]]
    predict: Callable[[State, jax.Array], jax.Array]
    begin_epoch: Callable[..., tuple[State, Plan]] | None = None
    survey: Callable[[State, jax.Array], jax.Array] | None = None
    passes: Callable[[int], tuple[Pass, ...]] | None = None
    inspect: Callable[[State, Survey], dict[str, jax.Array]] | None = None
    surveys: Callable[[int], bool] | None = None
    epochs: int | None = None


def surveys(method: Method, epoch: int) -> bool:
    """Whether the epoch's `begin_epoch` is given a survey with logits."""
    return method.survey is not None and (method.surveys is None or method.surveys(epoch))


class Learner(NamedTuple):
    """A network in training: parameters, batch statistics and optimizer state."""

    params: Any
    stats: Any
    opt_state: Any


def init_learner(key: jax.Array, task: Task, example: jax.Array) -> Learner:
    """A freshly initialised network with its optimizer's state, compiled; `new_learner` is for use within a program."""
    # The same function object for every seed, so that it is compiled once.
    build = jax.jit(task.model.init, compiler_options=compiler_options(once=True))
    return new_learner(key, task, example, build)


def new_learner(key: jax.Array, task: Task, example: jax.Array, init: Callable[..., Any] | None = None) -> Learner:
    """A freshly initialised network with its optimizer's state; `init` stands in for the model's own."""
    variables = (init or task.model.init)(key, task.plain(example))
    return Learner(variables.params, variables.stats, task.optimizer(0.0).init(variables.params))


def train_apply(task: Task, learner: Learner, params: Any, inputs: jax.Array, key: jax.Array):
    """Forward pass in train mode: (logits [B, C], new batch statistics)."""
    return task.model.apply(params, learner.stats, inputs, train=True, key=key)


def predict_with(task: Task, learner: Learner, inputs: jax.Array) -> jax.Array:
    """Logits [B, C] of stored `inputs` in evaluation mode."""
    return task.model.apply(learner.params, learner.stats, task.plain(inputs), train=False)[0]


def updated(result: StepResult, stats: Any) -> Learner:
    """The learner after an optimizer step whose forward pass left `stats`."""
    return Learner(result.params, stats, result.opt_state)


def descend(
    task: Task,
    learner: Learner,
    batch: Batch,
    inputs: jax.Array,
    loss: Callable[[jax.Array], jax.Array],
    progress: jax.Array,
    key: jax.Array,
) -> tuple[Learner, Metrics]:
    """An ordinary step on the mean of `loss`, logits [B, C] -> [B], of `inputs`, a view of the batch.

    Returns:
      The network after the step, and the `step_metrics`.
    """

    def objective(params: Any):
        logits, stats = train_apply(task, learner, params, inputs, key)
        return masked_mean(loss(logits), batch.mask), (logits, stats)

    rate = task.schedule(progress)
    result = optimizer_step(objective, learner.params, learner.opt_state, task.optimizer(rate))
    logits, stats = result.aux
    return updated(result, stats), step_metrics(result.loss, logits, batch, rate)


def step_metrics(loss: jax.Array, logits: jax.Array, batch: Batch, rate: jax.Array) -> Metrics:
    """The metrics of every step: mean loss, accuracy of the logits [B, C] on the given labels, learning rate."""
    return {
        "loss": (loss * jnp.sum(batch.mask), jnp.sum(batch.mask)),
        "train_accuracy": tally(jnp.argmax(logits, -1) == batch.labels, batch.mask),
        "learning_rate": (rate, jnp.ones(())),
    }


# Rows are rounded up to a multiple of this, which all usual numbers of devices divide.
_ROWS = 128


def per_example(num_examples: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> PerExample:
    """A memory of zeros with entries of `shape` for `num_examples` examples."""
    return PerExample(jnp.zeros((-(-num_examples // _ROWS) * _ROWS, *shape), dtype))


def recall(memory: PerExample, index: jax.Array) -> jax.Array:
    """The entries [B, …] of the examples `index` int [B]."""
    return memory.rows[index]


def remember(memory: PerExample, batch: Batch, entries: jax.Array) -> PerExample:
    """The memory with the batch's `entries` [B, …]; padding, examples of other batches again, leaves no trace."""
    index = jnp.where(batch.mask > 0, batch.index, memory.rows.shape[0])
    return PerExample(memory.rows.at[index].set(entries.astype(memory.rows.dtype), mode="drop"))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of per-example `values` [B] where `mask` [B] is 1; 0 for an empty mask."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def tally(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A metric as (sum, count), to be divided once at the end."""
    return jnp.sum(values * mask), jnp.sum(mask)


def check_mixup(task: Task, mixup: float) -> None:
    """Raises ValueError unless `mixup`, α of the Beta distribution, is at least 0, and 0 for inputs like token ids."""
    if mixup < 0:
        raise ValueError(f"mixup={mixup} must be at least 0.")
    if mixup and task.example is not None:
        dtype = jax.eval_shape(task.plain, task.example).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"mixup={mixup}: inputs of {dtype}, such as token ids, cannot be mixed; 0 is accepted.")


def shuffled(key: jax.Array, chosen: jax.Array) -> Stream:
    """A stream that draws the examples of the boolean mask `chosen` [N] in random order."""
    order = jnp.lexsort((jax.random.uniform(key, chosen.shape), ~chosen))
    return Stream(order.astype(jnp.int32), jnp.sum(chosen, dtype=jnp.int32))


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class is given: int64 [C]."""
    return np.bincount(np.asarray(labels), minlength=num_classes)
