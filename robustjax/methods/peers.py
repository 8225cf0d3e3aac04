"""Several networks, and running averages of their weights: what ELR+, co-teaching, DivideMix and their kin share."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from robustjax.methods import base
from robustjax.models import Variables

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
