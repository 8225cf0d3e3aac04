"""BBN: one branch learns the data as they are, the other one with the rare classes first (Zhou et al., CVPR 2020).

A network has two branches on a common trunk, and its classifier sees the features of both side by side. In every step
the first branch is given a batch of the training set, x_c, and the second one a batch x_r in which a class is drawn in
inverse proportion to its frequency:

    z = Wᵀ [2α f_c(x_c); 2(1 − α) f_r(x_r)] + b,     L = α ℓ(z, y_c) + (1 − α) ℓ(z, y_r),     α = 1 − (t / T)²

in epoch t of T, counted from 0 (eqs. 1 to 3, and 4 on the sampler): features are learned first, then the classifier of
rare classes. A prediction takes the features of both branches as they are.

The branches are the two halves of what the network's classifier sees. `--model-options=branches=2` gives a ResNet two
last blocks, as in the paper, each with running batch statistics of its own batches; of other networks the halves share
all but the last layer's units, and the running statistics are of both batches. BBN is about unequal classes, not about
wrong labels, of which the second branch sees more. On scikit-learn's digits it equals cross entropy at a ratio of 10,
and at 50, with two images of the rarest class, it is below: in part since there the rate falls to the end. The authors'
is a hundredth from 0.6 T on, so that what is learned is learned for an α near the half that predictions have.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, schedules
from robustjax.methods import base
from robustjax.selection import draw_by_class

_BLOCK = re.compile(r"stage\d+_block\d+_(\d+)")  # of a network with branches


class BbnState(NamedTuple):
    """The network."""

    learner: base.Learner


def bbn(task: base.Task, *, exponent: float = 2.0) -> base.Method:
    """BBN (Zhou et al., CVPR 2020): a branch for the data, a branch for the rare classes, for unequal classes.

    Args:
      exponent: of α = 1 − (t / T)^exponent, positive; 2 in the paper.

    Raises:
      ValueError: an option out of its range, or a network whose classifier cannot be parted.
    """
    if not exponent > 0:
        raise ValueError(f"exponent={exponent} must be positive.")
    share_of = schedules.cumulative_learning(task.epochs, exponent)
    features = base.count_features(task, "bbn")
    ours = jnp.arange(features) < features // 2

    def init(key: jax.Array, labels: np.ndarray) -> BbnState:
        return BbnState(base.init_learner(key, task))

    def plan(state: BbnState, survey: base.Survey, clock: base.Clock, key: jax.Array) -> tuple[BbnState, base.Plan]:
        """All examples once, and as many draws of which a class has a share in inverse proportion to its frequency."""
        once_key, reversed_key = jax.random.split(key)
        count = len(survey.labels)
        sizes = jnp.bincount(survey.labels, length=task.num_classes)
        shares = jnp.where(sizes > 0, 1 / jnp.maximum(sizes, 1), 0)
        drawn = draw_by_class(reversed_key, survey.labels, shares, count)
        return state, {"train": base.everything(once_key, count), "reversed": base.Stream(drawn, jnp.int32(count))}

    def step(
        state: BbnState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[BbnState, base.Metrics]:
        batch, other, learner = batches["train"], batches["reversed"], state.learner
        *view_keys, model_key, other_key = jax.random.split(key, 4)
        views = [task.strong(own, each.inputs) for own, each in zip(view_keys, (batch, other), strict=True)]
        both = batch.mask * other.mask
        share = share_of(clock.epoch)

        def attempt(params: Any) -> base.Attempt:
            # The classifier is linear: each branch adds its part, from a pass in which the other's weights are 0.
            head = params["head"]

            def part(
                stats: Any, inputs: jax.Array, key: jax.Array, rows: jax.Array, scale: jax.Array
            ) -> tuple[jax.Array, Any]:
                kernel = jnp.where(rows[:, None], scale.astype(head["kernel"].dtype) * head["kernel"], 0)
                scaled = {**head, "kernel": kernel}
                return task.model.apply({**params, "head": scaled}, stats, inputs, train=True, key=key)

            common, stats = part(learner.stats, views[0], model_key, ours, 2 * share)
            stats = _of_branch(stats, learner.stats, "1")
            rare, after = part(stats, views[1], other_key, ~ours, 2 * (1 - share))
            stats = _of_branch(after, stats, "2")
            logits = common + rare - head["bias"].astype(common.dtype)  # which both have added
            terms = {
                "conventional": base.Term(losses.cross_entropy(logits, batch.labels), batch.mask, share),
                "rebalancing": base.Term(losses.cross_entropy(logits, other.labels), both, 1 - share),
            }
            return base.Attempt(terms, logits, stats)

        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        return BbnState(learner), metrics

    def predict(state: BbnState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    stage = base.Stage(task.epochs, base.one_pass(step, base.Draw("reversed")), plan)
    return base.method(init, [stage], predict)


def _of_branch(new: Any, old: Any, branch: str) -> Any:
    """Batch statistics after a pass of one branch: the other one's blocks have what they had."""

    def pick(path: Any, a: jax.Array, b: jax.Array) -> jax.Array:
        found = [match[1] for key in path if (match := _BLOCK.fullmatch(str(getattr(key, "key", ""))))]
        return b if found and found[0] != branch else a

    return jax.tree_util.tree_map_with_path(pick, new, old)


ENTRIES = (base.Entry("bbn", bbn, "Zhou et al., CVPR 2020", aliases=("bilateral_branch_network",), cost=2.0),)
