"""What an iteration of Dynamic Loss costs, in multiples of a plain step: `python -m experiments.bench.meta_step`.

Counting a forward pass as 1 and a backward or tangent pass as 2, a plain step is 3. The meta-gradient is the virtual
step (1 + 2), the meta batch (1 + 2) and one tangent pass along its gradient (2). The real step adds 2 where it shares
the virtual step's forward pass (one view) and 3 where it does not. This is the `floor`, exact for a network of
nothing but convolutions whose input gradient is needed, and so large that the meta net does not count beside it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.steps import PLAIN, Bench, Form, main, make_batch, start, step_of
from robustjax import losses, meta, methods
from robustjax.methods import base, erm
from robustjax.methods import dynamic_loss as dl

ONE_VIEW, TWO_VIEWS = "iteration, one view", "iteration, two views"
NESTED, BY_HAND = "meta-gradient, nested", "meta-gradient, by hand"
FLOORS = {PLAIN: 1.0, ONE_VIEW: 10 / 3, TWO_VIEWS: 11 / 3, NESTED: 8 / 3, BY_HAND: 8 / 3}
BARS = {ONE_VIEW: 3.4, TWO_VIEWS: 3.75}


def forms(task: methods.Task, image: Sequence[int]) -> dict[str, Form]:
    """All that is compared, by name: a train batch and a meta batch of the task's size, random images and labels."""
    rng = np.random.default_rng(0)
    batches = {name: make_batch(task, image, rng) for name in ("train", "meta")}
    labels = np.asarray(batches["train"].labels)
    plain, one_view = methods.get("cross_entropy")(task), methods.get("dynamic_loss")(task, views=1)
    two_views = methods.get("dynamic_loss")(task, views=2)
    state = two_views.init(jax.random.key(0), labels)
    rest = (batches, *start(task))
    nested, by_hand = meta_gradients(task)
    return {
        PLAIN: Form(step_of(plain), (erm.ErmState(state.learner, {}), *rest)),
        ONE_VIEW: Form(step_of(one_view), (state, *rest)),
        TWO_VIEWS: Form(step_of(two_views), (state, *rest)),
        NESTED: Form(nested, (state, *rest)),
        BY_HAND: Form(by_hand, (state, *rest)),
    }


def meta_gradients(task: methods.Task) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Dynamic Loss's meta-gradient alone on one view, by `meta.meta_gradient` and by hand, with the args of a step.

    By hand it is −α ∂_θ⟨J u, ∂ℓ/∂z(θ)⟩ with u = ∇L_meta(ω̂) and one `jax.jvp` for J u, right for SGD with or without
    momentum and weight decay.
    """

    def losses_of(state: dl.DynamicLossState, batches: base.Batches, key: jax.Array) -> tuple[Any, Any, Any]:
        train, held, learner = batches["train"], batches["meta"], state.learner

        def forward(params: Any, batch: base.Batch) -> jax.Array:
            return base.train_apply(task, learner, params, task.strong(key, batch.inputs), key)[0]

        def at_logits(logits: jax.Array, theta: dict[str, Any]) -> jax.Array:
            table, ranks = dl.weight_table(theta["corrector"], task.num_classes), base.recall(state.ranks, train.index)
            trust = table[train.labels, ranks]
            labels = dl.corrected_labels(trust, train.labels, dl.pseudo_labels(key, logits, "sample"))
            values = losses.cross_entropy(logits + dl.margin_vector(theta["margin"]), labels)
            return base.mean(base.Term(values, train.mask))

        def meta_loss(params: Any) -> tuple[jax.Array, tuple]:
            return base.mean(base.Term(losses.cross_entropy(forward(params, held), held.labels), held.mask)), ()

        return lambda params: forward(params, train), at_logits, meta_loss

    def nested(state: dl.DynamicLossState, batches: base.Batches, clock: base.Clock, key: jax.Array) -> Any:
        forward, at_logits, meta_loss = losses_of(state, batches, key)
        learner, optimizer = state.learner, task.optimizer(clock.rate)
        return meta.meta_gradient(
            lambda params, theta: (at_logits(forward(params), theta), ()),
            meta_loss,
            state.meta_params,
            learner.params,
            learner.opt_state,
            optimizer,
        ).gradient

    def by_hand(state: dl.DynamicLossState, batches: base.Batches, clock: base.Clock, key: jax.Array) -> Any:
        forward, at_logits, meta_loss = losses_of(state, batches, key)
        learner, rate = state.learner, clock.rate
        virtual = meta.optimizer_step(
            lambda params: (at_logits(forward(params), state.meta_params), ()),
            learner.params,
            learner.opt_state,
            task.optimizer(rate),
        )
        direction = jax.grad(meta_loss, has_aux=True)(virtual.params)[0]
        logits, tangent = jax.jvp(forward, (learner.params,), (direction,))
        return jax.grad(lambda theta: -rate * jnp.sum(tangent * jax.grad(at_logits)(logits, theta)))(state.meta_params)

    return nested, by_hand


BENCH = Bench("a Dynamic Loss iteration", forms, FLOORS, BARS)

if __name__ == "__main__":
    main(BENCH)
