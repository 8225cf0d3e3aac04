"""Meta-gradients through one optimizer step, by nested `jax.grad`, for any optax optimizer.

The bilevel problem of Dynamic Loss, MW-Net, L2RW and their kin has classifier parameters ω (`params`) and meta
parameters θ (`meta_params`: a label corrector, a weighting net, a margin …). With the train loss L(ω, θ) and the meta
loss M(ω), one iteration is

    ω̂  = ω − α ∇_ω L(ω, θ)           `virtual_step`   (Dynamic Loss, eq. of the virtual update)
    θ⁺ = θ − β ∇_θ M(ω̂(θ))           `meta_gradient`  (the meta update; its optimizer is the caller's)
    ω⁺ = ω − α ∇_ω L(ω, θ⁺)           `optimizer_step` (the real update, from ω and not from ω̂)

`− α ∇` stands for the classifier's whole optimizer: its momentum buffers, weight decay and current learning rate.
The virtual step *is* the ordinary step, so both are the same function here.

Why nesting is enough. θ touches ω̂ only through ∂L/∂z, the gradient at the logits z = f(ω). Reverse-mode over the
virtual step therefore costs one tangent pass along ∇_ω̂ M, the product −α ∂_θ⟨J u, ∂ℓ/∂z(θ)⟩ that one would write by
hand, provided that the forward pass z = f(ω) stands in the program once: return z as auxiliary output of the train
loss and reuse it; do not compute it a second time.

Batch normalisation runs in train mode inside the virtual step. Statistics that a loss returns as auxiliary output are
the caller's to keep or drop; every method of this package keeps those of the real step only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

Params = Any
OptState = Any
Scalar = jax.Array


class StepResult(NamedTuple):
    """An optimizer step: new parameters and optimizer state; loss, gradient and auxiliary output at the old ones."""

    params: Params
    opt_state: OptState
    loss: Scalar
    gradient: Params
    aux: Any


class MetaGradient(NamedTuple):
    """A meta-gradient with what was computed on the way.

    Attributes:
      gradient: ∂M(ω̂(θ))/∂θ, a pytree like `meta_params`.
      meta_loss: M(ω̂), scalar.
      train_loss: L(ω, θ), scalar, at the *old* parameters.
      train_aux: auxiliary output of the train loss (typically the logits, so that the forward pass is shared).
      meta_aux: auxiliary output of the meta loss.
      virtual_params: ω̂.
    """

    gradient: Any
    meta_loss: Scalar
    train_loss: Scalar
    train_aux: Any
    meta_aux: Any
    virtual_params: Params


def optimizer_step(
    loss: Callable[[Params], tuple[Scalar, Any]],
    params: Params,
    opt_state: OptState,
    optimizer: optax.GradientTransformation,
) -> StepResult:
    """One step of `optimizer` on `loss`.

    Args:
      loss: params -> (scalar loss, auxiliary output).
      params: pytree of float arrays.
      opt_state: state of `optimizer` for `params`.
      optimizer: any optax gradient transformation; its learning rate may be a traced value.

    Returns:
      The step's `StepResult`.

    Examples:
      >>> optimizer = optax.sgd(0.25)
      >>> step = optimizer_step(lambda w: (w**2, "aux"), 2.0, optimizer.init(2.0), optimizer)
      >>> float(step.params), float(step.loss), float(step.gradient), step.aux
      (1.0, 4.0, 4.0, 'aux')
    """
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    params, opt_state = follow(gradient, params, opt_state, optimizer)
    return StepResult(params, opt_state, value, gradient, aux)


def follow(
    gradient: Params, params: Params, opt_state: OptState, optimizer: optax.GradientTransformation
) -> tuple[Params, OptState]:
    """Parameters and optimizer state after one update of `optimizer` by a gradient like `params`.

    Examples:
      >>> optimizer = optax.sgd(0.25)
      >>> float(follow(4.0, 2.0, optimizer.init(2.0), optimizer)[0])
      1.0
    """
    # Optax's own arithmetic may rely on promotion: Adam's bias correction raises a float to an integer count.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def virtual_step(
    train_loss: Callable[[Params, Any], tuple[Scalar, Any]],
    meta_params: Any,
    params: Params,
    opt_state: OptState,
    optimizer: optax.GradientTransformation,
) -> StepResult:
    """The ordinary step, seen as a function of the meta parameters: ω̂(θ) = ω − α ∇_ω L(ω, θ).

    Differentiable in `meta_params` wherever the optimizer's update is differentiable in the gradient. Adam's is not at
    a gradient of exactly 0 unless its `eps_root` is positive.

    Args:
      train_loss: (params, meta_params) -> (scalar loss, auxiliary output).
      meta_params: θ, any pytree.
      params: ω.
      opt_state: the classifier's *current* optimizer state; the step taken is the one that it would take now.
      optimizer: the classifier's optimizer.

    Returns:
      A `StepResult` whose parameters are ω̂; its optimizer state is to be dropped.

    Examples:
      >>> optimizer = optax.sgd(0.25)
      >>> virtual_step(lambda w, theta: (theta * w**2, None), 0.5, 2.0, optimizer.init(2.0), optimizer).params
      Array(1.5, dtype=float32)
    """
    return optimizer_step(lambda p: train_loss(p, meta_params), params, opt_state, optimizer)


def meta_gradient(
    train_loss: Callable[[Params, Any], tuple[Scalar, Any]],
    meta_loss: Callable[[Params], tuple[Scalar, Any]],
    meta_params: Any,
    params: Params,
    opt_state: OptState,
    optimizer: optax.GradientTransformation,
) -> MetaGradient:
    """The gradient of the meta loss after a virtual step: ∇_θ M(ω̂(θ)).

    For SGD (momentum and weight decay included) and a θ that enters through label weights g_i and margins q, it equals
    −α ∂_θ ⟨J(ω) ∇M(ω̂), ∂ℓ/∂z(θ)⟩; the tests hold it to that form.

    Args:
      train_loss: (params, meta_params) -> (scalar loss, auxiliary output). Auxiliary output must not depend on
        `meta_params` in a way that should be differentiated.
      meta_loss: params -> (scalar loss, auxiliary output), evaluated at ω̂.
      meta_params: θ, any pytree of float arrays.
      params: ω, any pytree of float arrays.
      opt_state: the classifier's current optimizer state.
      optimizer: the classifier's optimizer.

    Returns:
      The `MetaGradient`.

    Examples:
      >>> optimizer = optax.sgd(0.25)
      >>> train_loss, meta_loss = lambda w, theta: (theta * w**2, None), lambda w: (w**2, None)
      >>> found = meta_gradient(train_loss, meta_loss, 0.5, 2.0, optimizer.init(2.0), optimizer)
      >>> float(found.virtual_params), float(found.gradient)  # 2 - 0.25 * 0.5 * 4, and 2 * 1.5 * -0.25 * 4
      (1.5, -3.0)
    """

    def after_virtual_step(theta: Any) -> tuple[Scalar, tuple]:
        virtual = virtual_step(train_loss, theta, params, opt_state, optimizer)
        value, aux = meta_loss(virtual.params)
        return value, (virtual.loss, virtual.aux, aux, virtual.params)

    (value, rest), gradient = jax.value_and_grad(after_virtual_step, has_aux=True)(meta_params)
    train_value, train_aux, meta_aux, virtual_params = rest
    return MetaGradient(gradient, value, train_value, train_aux, meta_aux, virtual_params)
