"""Several networks, and running averages of their weights: what ELR+, co-teaching, DivideMix and their kin share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustjax import losses
from robustjax.methods import base
from robustjax.models import Variables
from robustjax.selection import Exchange

# (network, parameters, random key) -> logits [B, C] and new batch statistics, for a batch that it closes over.
Forward = Callable[[base.Learner, Any, jax.Array], tuple[jax.Array, Any]]
Loss = Callable[[jax.Array, jax.Array], jax.Array]  # (logits [B, C], labels [B]) -> [B]

# A running average of a network is `Variables`: parameters, with batch statistics from its own forward passes.
NO_AVERAGE = Variables({}, {})


def init_average(key: jax.Array, task: base.Task) -> Variables:
    """An average with a random start of its own, as ELR+'s code has it; a memory that rises forgets it soon."""
    start = base.init_learner(key, task)
    return Variables(start.params, start.stats)


def averaged(average: Variables, params: Any, share: jax.Array) -> Variables:
    """The average moved towards `params` by `share` (scalar in [0, 1]); its batch statistics stay."""
    return average._replace(params=optax.incremental_update(params, average.params, share))


def average_logits(
    task: base.Task, average: Variables, inputs: jax.Array, key: jax.Array
) -> tuple[Variables, jax.Array]:
    """Logits [B, C] of a view of the batch by the averaged weights in train mode; its batch statistics move on."""
    logits, stats = task.model.apply(average.params, average.stats, inputs, train=True, key=key)
    return average._replace(stats=stats), logits


def ensemble(task: base.Task, learners: Sequence[base.Learner], inputs: jax.Array) -> jax.Array:
    """The mean of the networks' logits [B, C] of stored `inputs` in evaluation mode."""
    first, *rest = each(task, learners, inputs)
    return sum(rest, first) / len(learners)


def each(task: base.Task, learners: Sequence[base.Learner], inputs: jax.Array) -> tuple[jax.Array, ...]:
    """Each network's logits [B, C] of stored `inputs` in evaluation mode: a look for a survey."""
    return tuple(base.predict_with(task, learner, inputs) for learner in learners)


def replaced(items: tuple[Any, ...], which: int, new: Any) -> tuple[Any, ...]:
    """`items` with number `which` replaced."""
    return (*items[:which], new, *items[which + 1 :])


# --- Two networks that choose for each other ------------------------------------------------------------------------


def in_train_mode(task: base.Task, inputs: jax.Array) -> Forward:
    """A network's ordinary pass of `inputs`, a view of the batch."""
    return lambda learner, params, key: base.train_apply(task, learner, params, inputs, key)


def teach_each_other(
    task: base.Task,
    learners: Sequence[base.Learner],
    batch: base.Batch,
    clock: base.Clock,
    keys: Sequence[jax.Array],
    choose: Callable[[jax.Array, jax.Array], Exchange],
    forward: Forward,
    *,
    judge: Forward | None = None,
    loss: Loss = losses.cross_entropy,
) -> tuple[tuple[base.Learner, ...], base.Metrics]:
    """A step of co-teaching: two networks judge the batch, and each learns from what the other one has chosen.

    Args:
      task: what is learned.
      learners: the two networks.
      batch: what both see.
      clock: now.
      keys: of the networks' passes.
      choose: (logits [2, B, C], losses [2, B]) of both -> what each learns from.
      forward: the pass that each learns by.
      judge: the pass that they choose by; `forward` if not given.
      loss: of each example.

    Returns:
      The networks after the step, and the metrics of both, with "kept_share", the share of the batch that is learned.
    """
    pairs = list(zip(learners, keys, strict=True))
    # By the same pass as below it stands once in the compiled program: the step begins with it.
    seen = [(judge or forward)(learner, learner.params, key)[0] for learner, key in pairs]
    chosen = choose(jnp.stack(seen), jnp.stack([loss(logits, batch.labels) for logits in seen]))

    def learn(which: int) -> tuple[base.Learner, base.Metrics]:
        learner, key = pairs[which]
        share = chosen.share[which].astype(batch.mask.dtype)

        def attempt(params: Any) -> base.Attempt:
            logits, stats = forward(learner, params, key)
            term = base.Term(loss(logits, batch.labels), share, chosen.strength)
            return base.Attempt({"loss": term}, logits, stats)

        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        return learner, metrics | {"kept_share": base.tally(share, batch.mask)}

    (first, of_first), (second, of_second) = learn(0), learn(1)
    return (first, second), jax.tree.map(jnp.add, of_first, of_second)
