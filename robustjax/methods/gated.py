"""A meta-gradient through a few of a network's tensors, chosen by samplers that learn with it (FaMUS).

Xu et al., Faster Meta Update Strategy for Noise-Robust Deep Learning, CVPR 2021. The meta-gradient
∂M(ω − α ∇L(ω, θ))/∂θ is a sum over the network's tensors, and most of its cost is in the lower layers. These are left
out here, and of the tensors above, a sampler decides at each step whether one takes part: a small net Γ_l, fed with the
tensor's gradient, brought down to one number an output, and a hard Gumbel-softmax. What is left out still moves in the
virtual step; only no gradient comes back through it. The samplers learn with θ by

    M + λ₁ (Σ_l r_l − K)² + λ₂ L_g,   r_l ∈ {0, 1}

L_g is the distance of training and meta gradient at the classifier, by their mean and deviation of each output (the
authors' code; the paper's eq. 11 has the mean alone).

From the authors' code: the last 15 tensors alone, of which the classifier's always take part; the samplers' inputs are
standardised, and their optimizer is SGD with Nesterov's momentum. There only the last sampler's gate is in the sum of
λ₁; here, as in the paper's eq. 10, all are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from robustjax.meta_nets import apply_gate_net, draw_gate, init_gate_net
from robustjax.methods import base

Terms = Mapping[str, base.Term]


class Gates(NamedTuple):
    """How a meta-gradient is gated.

    Attributes:
      tensors: how many of the network's last tensors may take part; the classifier's always do.
      expected: K, how many of the others should.
      count_strength: λ₁.
      likeness_strength: λ₂.
      hidden: units of the samplers' two hidden layers.
    """

    tensors: int = 15
    expected: float = 4.0
    count_strength: float = 0.1
    likeness_strength: float = 0.1
    hidden: int = 128


class Gated(NamedTuple):
    """A gated meta-gradient.

    Attributes:
      gradient: like θ.
      meta_loss: M(ω̂), scalar.
      opened: how many gates were open, scalar.
    """

    gradient: dict[str, Any]
    meta_loss: jax.Array
    opened: jax.Array


def optimizer(weights: optax.GradientTransformation, gate_learning_rate: float) -> optax.GradientTransformation:
    """Of θ = {"weights", "gates"}: one's own for the weights, and the authors' for the samplers."""
    return optax.multi_transform(
        {"weights": weights, "gates": nesterov(gate_learning_rate)}, {"weights": "weights", "gates": "gates"}
    )


def nesterov(rate: float, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """PyTorch's SGD with Nesterov's momentum 0.9 and an L2 penalty."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=0.9, nesterov=True))


def init_gates(key: jax.Array, task: base.Task, how: Gates) -> list[dict[str, Any]]:
    """A sampler for each of the gated tensors, the last ones but for the classifier's, in the network's order."""
    gated, _ = _top(task, how)
    shapes = jax.tree.leaves(base.parameter_shapes(task))
    return [
        init_gate_net(own, shapes[index].shape[-1] if shapes[index].ndim else 1, how.hidden)
        for own, index in zip(jax.random.split(key, max(len(gated), 1)), gated, strict=False)
    ]


def look_ahead(
    task: base.Task,
    learner: base.Learner,
    key: jax.Array,
    gate_key: jax.Array,
    theta: dict[str, Any],
    how: Gates,
    inputs: jax.Array,
    terms: Callable[[jax.Array, dict[str, Any]], Terms],
    meta_inputs: jax.Array,
    meta_terms: Callable[[jax.Array], Terms],
    rate: jax.Array,
) -> Gated:
    """How θ changes the meta objective after a virtual step of plain SGD, through the tensors whose gates are open.

    By the chain rule at ω̂: with u = ∇M(ω̂), which is computed once and for the last tensors alone, the gradient that
    comes back through the virtual step is that of Σ_l ⟨u_l, −α r_l ∇_l L(ω, θ)⟩.

    Args:
      task: what is learned.
      learner: the network, ω.
      key: of the passes, both in train mode.
      gate_key: of the gates' draws.
      theta: {"weights", "gates"}.
      how: the gates.
      inputs: a view of the batch.
      terms: (logits [B, C] of it, θ) -> the virtual step's objective.
      meta_inputs: a view of the other examples.
      meta_terms: (logits [M, C] of it) -> the meta objective.
      rate: α, the virtual step's.
    """
    gated, always = _top(task, how)
    leaves, form = jax.tree.flatten(learner.params)

    def replaced(tensors: Sequence[jax.Array], all_of: Sequence[jax.Array]) -> Any:
        new = dict(zip((*gated, *always), tensors, strict=True))
        return jax.tree.unflatten(form, [new.get(i, leaf) for i, leaf in enumerate(all_of)])

    def gradients(theta: dict[str, Any]) -> tuple[list[jax.Array], list[jax.Array]]:
        def objective(params: Any) -> jax.Array:
            return base.total(terms(base.train_apply(task, learner, params, inputs, key)[0], theta))

        every = jax.tree.leaves(jax.grad(objective)(learner.params))
        return [every[i] for i in (*gated, *always)], every

    moved, back, every = jax.vjp(gradients, theta, has_aux=True)
    ahead = [leaf - rate * gradient for leaf, gradient in zip(leaves, every, strict=True)]

    def meta_objective(tensors: list[jax.Array]) -> jax.Array:
        return base.total(meta_terms(base.train_apply(task, learner, replaced(tensors, ahead), meta_inputs, key)[0]))

    meta_loss, needed = jax.value_and_grad(meta_objective)([ahead[i] for i in (*gated, *always)])

    def through_gates(moved: list[jax.Array], nets: list[dict[str, Any]]) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(gate_key, max(len(nets), 1))
        gates = [
            draw_gate(own, apply_gate_net(net, _summary(jax.lax.stop_gradient(gradient))))
            for own, net, gradient in zip(keys, nets, moved, strict=False)
        ]
        # What is shut keeps its value; only no gradient of it comes back.
        let_in = [
            jnp.where(gate > 0.5, gate * gradient, (1 - gate) * jax.lax.stop_gradient(gradient))
            for gate, gradient in zip(gates, moved, strict=False)
        ]
        of_last, needed_of_last = moved[len(gates) :], needed[len(gates) :]
        value = -rate * sum(map(jnp.vdot, needed, [*let_in, *of_last]))
        value += how.likeness_strength * sum(map(_likeness, of_last, needed_of_last))
        opened = sum(gates, jnp.zeros(()))
        if gates:
            value += how.count_strength * jnp.square(opened - how.expected)
        return value, opened

    (by_moved, by_gates), opened = jax.grad(through_gates, argnums=(0, 1), has_aux=True)(moved, theta["gates"])
    (by_theta,) = back(by_moved)
    return Gated(by_theta | {"gates": by_gates}, meta_loss, opened)


def _top(task: base.Task, how: Gates) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which leaves of the parameters are gated, and which always take part: those of the last layer."""
    order = base.tensor_order(task)
    last = [index for layer, index in order if layer == order[-1][0]]
    before = [index for layer, index in order if layer != order[-1][0]]
    most = max(how.tensors - len(last), 0)
    return tuple(before[len(before) - min(most, len(before)) :]), tuple(last)


def _summary(gradient: jax.Array) -> jax.Array:
    """A number an output: kernels are [..., out], biases and scales [out]."""
    return jnp.sum(gradient.reshape(-1, gradient.shape[-1] if gradient.ndim else 1), 0)


def _likeness(mine: jax.Array, other: jax.Array) -> jax.Array:
    """L_g of a tensor: how far mean and deviation, of each output of a kernel, are apart."""
    axes = tuple(range(mine.ndim - 1)) if mine.ndim > 1 else None

    def deviation(x: jax.Array) -> jax.Array:
        count = x.size if axes is None else x.size // x.shape[-1]
        variance = jnp.sum(jnp.square(x - jnp.mean(x, axes, keepdims=True)), axes) / max(count - 1, 1)
        return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)  # √ has no slope at 0

    means = jnp.square(jnp.mean(mine, axes) - jnp.mean(other, axes))
    return jnp.mean(means + jnp.square(deviation(mine) - deviation(other)))
