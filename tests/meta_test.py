"""Meta-gradients against closed forms, one forward-mode product, and finite differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import backend, losses, meta
from robustjax.methods import dynamic_loss as dl

B, D, H, C = 6, 4, 7, 3
RATE = 0.1


def problem(dtype):
    """A two-layer net, a train batch with pseudo-labels, a meta batch, and θ = (label weights g [B], margins q [C])."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    params = {"w1": draw(D, H), "b1": draw(H), "w2": draw(H, C), "b2": draw(C)}
    inputs, labels = draw(B, D), jnp.asarray(rng.integers(C, size=B))
    pseudo = jax.nn.softmax(draw(B, C))
    theta = {"g": jax.nn.sigmoid(draw(B)), "q": draw(C)}
    meta_inputs, meta_labels = draw(B, D), jnp.asarray(rng.integers(C, size=B))

    def apply(p, x):
        return jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    def train_loss(p, theta):
        logits = apply(p, inputs)
        targets = dl.corrected_labels(theta["g"], labels, pseudo)
        return losses.cross_entropy(logits + theta["q"], targets).mean(), logits

    def meta_loss(p):
        return losses.cross_entropy(apply(p, meta_inputs), meta_labels).mean(), ()

    return params, theta, (inputs, labels, pseudo), apply, train_loss, meta_loss


def sgd(momentum, weight_decay):
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(RATE, momentum=momentum or None))


def warmed(optimizer, params, train_loss, theta):
    """Optimizer state after three ordinary steps, so that its buffers are not empty."""
    state = optimizer.init(params)
    for _ in range(3):
        step = meta.optimizer_step(lambda p: train_loss(p, theta), params, state, optimizer)
        params, state = step.params, step.opt_state
    return params, state


TOLERANCE = {"x64": {"rtol": 1e-10, "atol": 1e-12}, "x32": {"rtol": 1e-5, "atol": 1e-6}}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 5e-4)])
def test_closed_forms_of_label_weights_and_margins(precision, momentum, decay):
    """∂L/∂g_i = α/m (y_i − y'_i)ᵀu_i and ∂L/∂q = −α/m Σ (diag s − s sᵀ)u_i with u = J ∇L_meta(ω̂)."""
    with backend.enable_x64(precision == "x64"):
        params, theta, (inputs, labels, pseudo), apply, train_loss, meta_loss = problem(
            jnp.float64 if precision == "x64" else jnp.float32
        )
        optimizer = sgd(momentum, decay)
        params, state = warmed(optimizer, params, train_loss, theta)
        found = meta.meta_gradient(train_loss, meta_loss, theta, params, state, optimizer)

        direction = jax.grad(lambda p: meta_loss(p)[0])(found.virtual_params)
        logits, u = jax.jvp(lambda p: apply(p, inputs), (params,), (direction,))
        given = jax.nn.one_hot(labels, C, dtype=logits.dtype)
        s = jax.nn.softmax(logits + theta["q"])
        by_hand = {
            "g": RATE / B * jnp.sum((given - pseudo) * u, -1),
            "q": -RATE / B * jnp.sum(s * u - s * jnp.sum(s * u, -1, keepdims=True), 0),
        }
        for name, expected in by_hand.items():
            np.testing.assert_allclose(found.gradient[name], expected, err_msg=name, **TOLERANCE[precision])
        np.testing.assert_allclose(jnp.sum(found.gradient["q"]), 0, atol=TOLERANCE[precision]["atol"])


def test_equals_one_forward_mode_product():
    """−α ∂_θ⟨J u, ∂ℓ/∂z(θ)⟩ with θ the parameters of the full meta net."""
    with backend.enable_x64(True):
        params, _, (inputs, labels, pseudo), apply, _, meta_loss = problem(jnp.float64)
        keys = jax.random.split(jax.random.key(1))
        theta = {
            "corrector": dl.init_corrector(keys[0], C, 5, hidden=6),
            "margin": dl.init_margin(keys[1], C, hidden=6),
        }
        ranks = jnp.arange(B) % 5

        def at_logits(logits, theta):
            weights = dl.weight_table(theta["corrector"], C)[labels, ranks]
            targets = dl.corrected_labels(weights, labels, pseudo)
            return losses.cross_entropy(logits + dl.margin_vector(theta["margin"]), targets).mean()

        def train_loss(p, theta):
            logits = apply(p, inputs)
            return at_logits(logits, theta), logits

        optimizer = sgd(0.9, 5e-4)
        params, state = warmed(optimizer, params, train_loss, theta)
        found = meta.meta_gradient(train_loss, meta_loss, theta, params, state, optimizer)
        direction = jax.grad(lambda p: meta_loss(p)[0])(found.virtual_params)
        logits, tangent = jax.jvp(lambda p: apply(p, inputs), (params,), (direction,))
        by_hand = jax.grad(lambda t: -RATE * jnp.sum(tangent * jax.grad(at_logits)(logits, t)))(theta)
        chex.assert_trees_all_close(found.gradient, by_hand, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [
        sgd(0.9, 5e-4),
        optax.sgd(RATE, momentum=0.9, nesterov=True),
        optax.adam(1e-2, eps_root=1e-12),
        optax.chain(optax.clip_by_global_norm(0.1), optax.rmsprop(1e-2)),
    ],
    ids=["sgd", "nesterov", "adam", "clipped rmsprop"],
)
def test_any_optimizer_agrees_with_finite_differences(optimizer):
    with backend.enable_x64(True):
        params, theta, _, _, train_loss, meta_loss = problem(jnp.float64)
        params, state = warmed(optimizer, params, train_loss, theta)

        def after(theta):
            return meta_loss(meta.virtual_step(train_loss, theta, params, state, optimizer).params)[0]

        gradient = meta.meta_gradient(train_loss, meta_loss, theta, params, state, optimizer).gradient
        for name, size in (("g", B), ("q", C)):
            for i in range(size):
                step = jnp.zeros(size).at[i].set(1e-5)
                shifted = [after({**theta, name: theta[name] + sign * step}) for sign in (1, -1)]
                slope = (shifted[0] - shifted[1]) / 2e-5
                np.testing.assert_allclose(gradient[name][i], slope, rtol=1e-6, atol=1e-10, err_msg=f"{name}[{i}]")


def test_virtual_step_is_the_ordinary_step():
    params, theta, _, _, train_loss, _ = problem(jnp.float32)
    optimizer = sgd(0.9, 5e-4)
    params, state = warmed(optimizer, params, train_loss, theta)
    virtual = meta.virtual_step(train_loss, theta, params, state, optimizer)
    updates, _ = optimizer.update(jax.grad(lambda p: train_loss(p, theta)[0])(params), state, params)
    expected = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal(virtual.params, expected)


def test_no_signal_where_the_pseudo_label_agrees():
    params, theta, (_, labels, _), apply, _, meta_loss = problem(jnp.float32)
    inputs = jax.random.normal(jax.random.key(2), (B, D))
    agreeing = jax.nn.one_hot(labels, C).at[0].set(jnp.roll(jax.nn.one_hot(labels[0], C), 1))

    def train_loss(p, theta):
        logits = apply(p, inputs)
        return losses.cross_entropy(logits, dl.corrected_labels(theta["g"], labels, agreeing)).mean(), ()

    optimizer = sgd(0.0, 0.0)
    found = meta.meta_gradient(train_loss, meta_loss, theta, params, optimizer.init(params), optimizer)
    assert found.gradient["g"][0] != 0
    np.testing.assert_allclose(found.gradient["g"][1:], 0, atol=1e-8)


def test_scales_with_the_learning_rate():
    with backend.enable_x64(True):
        params, theta, _, _, train_loss, meta_loss = problem(jnp.float64)

        def gradient(rate):
            optimizer = optax.sgd(rate)
            return meta.meta_gradient(train_loss, meta_loss, theta, params, optimizer.init(params), optimizer).gradient[
                "q"
            ]

        np.testing.assert_allclose(gradient(1e-9), gradient(1e-8) / 10, rtol=1e-5)
