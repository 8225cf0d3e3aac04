"""Co-teaching: two networks teach each other what they find easy (Han et al., NeurIPS 2018); and co-teaching+.

Networks learn right labels before wrong ones, so small losses are mostly right. In every batch each of two networks
picks the (1 − R(t)) B examples of smallest loss, and the *other* one learns from them: errors that one network makes in
choosing do not feed back into itself. R(t) rises from 0 to τ, about the share of wrong labels, over the first epochs.

With time the two agree on everything, and each might as well choose for itself. Co-teaching+ (Yu et al., ICML 2019)
keeps them apart: after a start as co-teaching, they choose only among the examples D' of the batch on which they
predict different classes, the (1 − R(t)) |D'| of smallest loss.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, schedules
from robustjax._checks import check_choice
from robustjax.methods import base, peers
from robustjax.selection import Exchange, disagreement, exchange_small_losses

FORMS = ("paper", "code")


class CoTeachingState(NamedTuple):
    """The two networks."""

    learners: tuple[base.Learner, ...]


def co_teaching(
    task: base.Task,
    *,
    forget_rate: float | None = None,
    ramp_epochs: int = 10,
    exponent: float = 1.0,
    form: str = "paper",
) -> base.Method:
    """Co-teaching (Han et al., NeurIPS 2018): two networks, each learning from the small losses of the other.

    Prediction is the mean of the two networks' logits; the paper reports each network's own.

    Args:
      forget_rate: τ, the share of a batch that is left out in the end, in [0, 1): about the share of wrong labels.
        That of `--noise-rate` if not given.
      ramp_epochs: T_k, epochs, at least 1, over which the share that is left out rises from 0.
      exponent: c, positive, of τ^c, to which it rises before it jumps to τ.
      form: "paper", or "code" for co-teaching's mean loss divided a second time by the number kept.

    Raises:
      ValueError: an option out of its range, or no forget rate.
    """
    if not exponent > 0:
        raise ValueError(f"exponent={exponent} must be positive.")
    choose = _easy_ones(forget_rate, ramp_epochs, exponent, form)
    return _method(task, [base.Stage(task.epochs, base.one_pass(_step(task, choose)))])


def co_teaching_plus(
    task: base.Task,
    *,
    forget_rate: float | None = None,
    ramp_epochs: int = 10,
    warmup_epochs: int = 20,
    form: str = "paper",
) -> base.Method:
    """Co-teaching+ (Yu et al., ICML 2019): co-teaching among the examples on which the two networks disagree.

    Args:
      forget_rate: τ, the share of these examples that is left out in the end, in [0, 1): about the share of wrong
        labels. That of `--noise-rate` if not given.
      ramp_epochs: E_k, epochs, at least 1, over which the share that is left out rises from 0.
      warmup_epochs: epochs of co-teaching on all examples first, at least 0: 20 on CIFAR-10, 5 on CIFAR-100 and 0 on
        MNIST in the authors' code.
      form: "paper", or "code" for what the authors' code does besides: the mean loss is divided a second time by the
        number kept, as in co-teaching's, which slows down SGD, but not their Adam; after the warm-up, losses are those
        of a softmax of probabilities, log(Σ_c exp p_c) − p_y, which no wrong label can make large; and where the
        networks agree on a whole batch they learn all of it (there only while epoch · step is below 5000), not nothing.

    Raises:
      ValueError: an option out of its range, or no forget rate.
    """
    base.check_warmup(task, warmup_epochs)
    easy = _easy_ones(forget_rate, ramp_epochs, 1.0, form)

    def apart(logits: jax.Array, values: jax.Array, mask: jax.Array, clock: base.Clock) -> Exchange:
        differ = disagreement(logits) & (mask > 0)
        chosen = easy(logits, values, differ, clock)
        everything = (mask > 0) & ~jnp.any(differ) & (form == "code")
        return chosen._replace(share=chosen.share | everything)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.cross_entropy(jax.nn.softmax(logits) if form == "code" else logits, labels)

    stages = [
        base.Stage(warmup_epochs, base.one_pass(_step(task, easy))),
        base.Stage(task.epochs - warmup_epochs, base.one_pass(_step(task, apart, loss))),
    ]
    return _method(task, stages)


# (logits [2, B, C], losses [2, B], mask [B], clock) -> what each network learns from.
_Choice = Callable[[jax.Array, jax.Array, jax.Array, base.Clock], Exchange]


def _easy_ones(forget_rate: float | None, ramp_epochs: int, exponent: float, form: str) -> _Choice:
    """Co-teaching's choice; raises ValueError for options out of their range."""
    check_choice("form", form, FORMS)
    forget = schedules.forget_rate(base.check_forget_rate(forget_rate), ramp_epochs, exponent)
    return lambda logits, values, mask, clock: exchange_small_losses(values, forget(clock.progress), mask, form=form)


def _step(task: base.Task, choose: _Choice, loss: peers.Loss = losses.cross_entropy) -> base.StepFunction:
    def step(
        state: CoTeachingState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[CoTeachingState, base.Metrics]:
        batch = batches["train"]
        view_key, *keys = jax.random.split(key, 3)
        learners, metrics = peers.teach_each_other(
            task,
            state.learners,
            batch,
            clock,
            keys,
            lambda logits, values: choose(logits, values, batch.mask, clock),
            peers.in_train_mode(task, task.strong(view_key, batch.inputs)),
            loss=loss,
        )
        return CoTeachingState(learners), metrics

    return step


def _method(task: base.Task, stages: list[base.Stage]) -> base.Method:
    """Two networks that go through the stages and predict together."""

    def init(key: jax.Array, labels: np.ndarray) -> CoTeachingState:
        return CoTeachingState(tuple(base.init_learner(own, task) for own in jax.random.split(key)))

    def predict(state: CoTeachingState, inputs: jax.Array) -> jax.Array:
        return peers.ensemble(task, state.learners, inputs)

    return base.method(init, stages, predict)


ENTRIES = (
    base.Entry(
        "co_teaching",
        co_teaching,
        "Han et al., NeurIPS 2018",
        aliases=("coteaching",),
        needs=("noise rate",),
        networks=2,
        cost=2.0,
        small={"forget_rate": 0.3, "ramp_epochs": 2},
    ),
    base.Entry(
        "co_teaching_plus",
        co_teaching_plus,
        "Yu et al., ICML 2019",
        aliases=("coteaching_plus",),
        needs=("noise rate",),
        networks=2,
        cost=2.0,
        small={"forget_rate": 0.3, "ramp_epochs": 2, "warmup_epochs": 2},
    ),
)
