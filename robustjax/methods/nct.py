"""NCT: nested dropout orders the features, then two networks co-teach (Chen et al., CVPR workshops 2021).

Nested dropout keeps the first k of the D features that the classifier sees, in each step another k:

    P(k) ∝ exp(−(k/s)²),     k = 1 … D.

The first features are kept most often and carry what many examples share; little room is left to learn wrong labels by
heart. Two networks are trained so, apart from each other, then tuned by co-teaching, still with nested dropout, at a
small learning rate and with batch statistics as they are.

The first features alone predict. The authors take the number that does best on clean validation images (9 to 17 of 512
at s = 10, 13 to 47 at s = 100); here it is s, as there are no clean images. In their code the two networks choose from
one half of the batch each, and what normalises keeps its scale and shift in co-teaching; here both choose from all of
it, as in co-teaching, and all is trained.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses
from robustjax.methods import base, peers
from robustjax.selection import Exchange, exchange_small_losses


class NctState(NamedTuple):
    """The two networks."""

    learners: tuple[base.Learner, ...]


def truncation(features: int, spread: float) -> jax.Array:
    """P(k) of keeping the first k features, k = 1 … `features`: [D].

    Examples:
      >>> [round(float(p), 3) for p in truncation(3, 2.0)]
      [0.622, 0.294, 0.084]
    """
    return jax.nn.softmax(_exponents(features, spread))


def _exponents(features: int, spread: float) -> jax.Array:
    return -jnp.square(jnp.arange(1, features + 1, dtype=float) / spread)


def first_features(params: Any, count: jax.Array | int) -> Any:
    """Parameters of a network whose classifier sees its first `count` features alone: its other rows are 0."""
    kernel = params["head"]["kernel"]
    kept = jnp.arange(len(kernel))[:, None] < count
    return {**params, "head": {**params["head"], "kernel": jnp.where(kept, kernel, 0)}}


def nct(
    task: base.Task,
    *,
    forget_rate: float | None = None,
    spread: float = 0.0,
    kept_features: int = 0,
    tuning_from: float = 7 / 9,
    tuning_scale: float = 0.01,
    freeze_statistics: bool = True,
) -> base.Method:
    """NCT (Chen et al., CVPR workshops 2021): nested dropout, then co-teaching.

    Args:
      forget_rate: τ, the share of a batch that co-teaching leaves out, in [0, 1): about the share of wrong labels. That
        of `--noise-rate` if not given.
      spread: s of nested dropout, at least 0; 0: as many as classes, and 10 at least (10 on CIFAR-10 and 100 on
        CIFAR-100 in the paper).
      kept_features: first features that predict, and choose what is left out, at least 0; 0: as many as `spread`.
      tuning_from: share of the run, in [0, 1], after which the networks co-teach: 350 of 450 epochs in the paper.
      tuning_scale: learning rates of the co-teaching, positive, as shares of those of the run's schedule, which it has
        in short.
      freeze_statistics: leave batch statistics as they are in the co-teaching, and normalise by them.

    Raises:
      ValueError: an option out of its range, no forget rate, or a network without features to order.
    """
    forget = base.check_forget_rate(forget_rate)
    if not spread >= 0 or kept_features < 0:
        raise ValueError(f"spread={spread} and kept_features={kept_features} must be at least 0.")
    if not 0 <= tuning_from <= 1:
        raise ValueError(f"tuning_from={tuning_from} must be in [0, 1].")
    if not tuning_scale > 0:
        raise ValueError(f"tuning_scale={tuning_scale} must be positive.")
    total = base.count_features(task, "nct")
    width = spread or max(task.num_classes, 10)
    kept = min(kept_features or max(round(width), 1), total)
    nested_epochs = round(tuning_from * task.epochs)
    if tuning_from < 1 < task.epochs:
        nested_epochs = min(nested_epochs, task.epochs - 1)  # a short run too comes to its second stage
    tuning_epochs = task.epochs - nested_epochs

    def init(key: jax.Array, labels: np.ndarray) -> NctState:
        return NctState(tuple(base.init_learner(own, task) for own in jax.random.split(key)))

    def draw(key: jax.Array) -> jax.Array:
        """How many features a step keeps."""
        return 1 + jax.random.categorical(key, _exponents(total, width))

    def by_first(count: jax.Array | int, inputs: jax.Array, train: bool) -> peers.Forward:
        """A pass by the first features."""
        return lambda learner, params, key: task.model.apply(
            first_features(params, count), learner.stats, inputs, train=train, key=key
        )

    def nested_step(
        state: NctState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[NctState, base.Metrics]:
        """A step of each network by itself, on a view and with a dropout of its own."""
        batch = batches["train"]

        def learn(learner: base.Learner, key: jax.Array) -> tuple[base.Learner, base.Metrics]:
            view_key, drop_key, model_key = jax.random.split(key, 3)
            forward = by_first(draw(drop_key), task.strong(view_key, batch.inputs), True)

            def attempt(params: Any) -> base.Attempt:
                logits, stats = forward(learner, params, model_key)
                values = losses.cross_entropy(logits, batch.labels)
                return base.Attempt({"loss": base.Term(values, batch.mask)}, logits, stats)

            learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
            return learner, metrics

        (first, of_first), (second, of_second) = map(learn, state.learners, jax.random.split(key))
        return NctState((first, second)), jax.tree.map(jnp.add, of_first, of_second)

    def tune(state: NctState, survey: base.Survey, key: jax.Array) -> NctState:
        """Momentum is of the other learning rate."""
        fresh = task.optimizer(0.0).init
        return NctState(tuple(each._replace(opt_state=fresh(each.params)) for each in state.learners))

    def tuning_step(
        state: NctState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[NctState, base.Metrics]:
        batch = batches["train"]
        view_key, drop_key, *keys = jax.random.split(key, 4)
        inputs = task.strong(view_key, batch.inputs)

        def choose(logits: jax.Array, values: jax.Array) -> Exchange:
            return exchange_small_losses(values, forget, batch.mask)

        forward = by_first(draw(drop_key), inputs, not freeze_statistics)
        judge = by_first(kept, inputs, False)
        learners, metrics = peers.teach_each_other(
            task, state.learners, batch, clock, keys, choose, forward, judge=judge
        )
        return NctState(learners), metrics

    def predict(state: NctState, inputs: jax.Array) -> jax.Array:
        first = [each._replace(params=first_features(each.params, kept)) for each in state.learners]
        return peers.ensemble(task, first, inputs)

    in_short = base.in_short(task, max(tuning_epochs, 1))
    stages = [
        base.Stage(nested_epochs, base.one_pass(nested_step), schedule=base.in_short(task, max(nested_epochs, 1))),
        base.Stage(
            tuning_epochs, base.one_pass(tuning_step), enter=tune, schedule=lambda now: tuning_scale * in_short(now)
        ),
    ]
    return base.method(init, stages, predict)


ENTRIES = (
    base.Entry(
        "nct",
        nct,
        "Chen et al., CVPR Workshops 2021",
        aliases=("nested_co_teaching",),
        needs=("noise rate",),
        networks=2,
        cost=2.0,
        small={"forget_rate": 0.3},
    ),
)
