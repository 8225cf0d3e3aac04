"""Regularisers: SR's sparsity, ELR's term and targets, zero-safe norms. Golden numbers are in tests/oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import backend, losses, regularizers
from tests.losses_test import CORNERS

RNG = np.random.default_rng(0)


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


@settings(max_examples=15, deadline=None)
@given(num_classes=st.sampled_from([2, 3, 11]), seed=st.integers(0, 1000), mass=st.floats(0, 1))
def test_early_learning_gradient_is_that_of_lemma_2(num_classes, seed, mass):
    """λg_c = p_c (⟨p, t⟩ - t_c) / (1 - ⟨p, t⟩), also for targets that do not sum to 1 yet."""
    rng = np.random.default_rng(seed)
    with backend.enable_x64(True):
        logits = rng.normal(0, 2, (4, num_classes))
        targets = mass * softmax(rng.normal(0, 2, (4, num_classes)))
        gradient = np.asarray(jax.grad(lambda z: jnp.sum(regularizers.early_learning(z, targets, clip=None)))(logits))
        p = softmax(logits)
    inner = np.sum(p * targets, -1, keepdims=True)
    np.testing.assert_allclose(gradient, p * (inner - targets) / (1 - inner), atol=1e-10)
    np.testing.assert_allclose(np.sum(gradient, -1), 0, atol=1e-12)


def test_early_learning_clip_only_matters_at_the_ends():
    logits = RNG.normal(0, 1, (5, 4))
    targets = softmax(RNG.normal(0, 1, (5, 4)))
    exact = regularizers.early_learning(logits, targets, clip=None)
    np.testing.assert_allclose(regularizers.early_learning(logits, targets), exact, rtol=1e-5)
    np.testing.assert_allclose(exact, np.log(1 - np.sum(softmax(logits) * targets, -1)), rtol=1e-5)
    confident, certain = np.array([[50.0, -50, -50, -50]], np.float32), np.eye(4)[:1]
    # Float32 rounds the limit 1 - 1e-4 itself, hence the tolerance.
    np.testing.assert_allclose(regularizers.early_learning(confident, certain), np.log(1e-4), rtol=1e-3)
    np.testing.assert_allclose(regularizers.early_learning(confident, certain, clip=None), -100 + np.log(3), rtol=1e-6)
    np.testing.assert_array_equal(regularizers.early_learning(logits, np.zeros((5, 4))), 0)


def test_early_learning_kl_gradient():
    with backend.enable_x64(True):
        logits, targets = RNG.normal(0, 2, (5, 4)), RNG.uniform(0, 1, (5, 4))
        gradient = jax.grad(lambda z: jnp.sum(regularizers.early_learning_kl(z, targets)))(logits)
        np.testing.assert_allclose(gradient, softmax(logits) * targets.sum(-1, keepdims=True) - targets, atol=1e-12)


def test_no_gradient_reaches_targets():
    logits, targets = RNG.normal(size=(3, 4)).astype(np.float32), softmax(RNG.normal(size=(3, 4)))
    for term in (regularizers.early_learning, regularizers.early_learning_kl):
        np.testing.assert_array_equal(jax.grad(lambda t, term=term: jnp.sum(term(logits, t)))(targets), 0)
    new = jax.grad(lambda z: jnp.sum(regularizers.update_targets(targets, jax.nn.softmax(z), 0.7) ** 2))(logits)
    np.testing.assert_array_equal(new, 0)


def test_update_targets_is_an_average_of_renormalised_probabilities():
    targets, probs = np.array([[0.5, 0.25]]), np.array([[0.6, 0.2]])
    expected = 0.7 * targets + 0.3 * np.array([[0.75, 0.25]])
    np.testing.assert_allclose(regularizers.update_targets(targets, probs, 0.7), expected, rtol=1e-6)
    low = regularizers.update_targets(jnp.zeros((1, 2), jnp.bfloat16), probs, 0.0)
    assert low.dtype == jnp.bfloat16


def test_sparsity_at_vertices_and_centre():
    centre, vertex = np.zeros(10), 100 * np.eye(10)[0]
    for logits, clip, expected in [
        (centre, None, 10**0.9),
        (vertex, None, 1.0),
        (centre, (1e-7, 1.0), 7.94),
        (vertex, (1e-7, 1.0), 2.80),
    ]:
        actual = regularizers.lp_sparsity(logits.astype(np.float32), 0.1, clip=clip)
        np.testing.assert_allclose(actual, expected, rtol=2e-3)
    np.testing.assert_allclose(regularizers.lp_sparsity(RNG.normal(size=10), 1.0), 1, rtol=1e-6)


def test_sparsity_makes_cross_entropy_symmetric_at_one_hot_outputs():
    """Lemma 1 of SR with one-hot v: clipped cross entropy summed over labels is (K - 1)(-log 1e-7) everywhere."""
    logits = 100 * np.eye(4, dtype=np.float32)
    total = sum(losses.cross_entropy(logits, np.full(4, k), clip=(1e-7, 1.0)) for k in range(4))
    np.testing.assert_allclose(total, -3 * np.log(1e-7), rtol=1e-6)


@pytest.mark.parametrize("log_zero", [np.log(1e-4), -4.0])
def test_symmetric_cross_entropy_is_sparsity_of_the_classes_beside_the_label(log_zero):
    """SR's remark on SCE: it is alpha CE + lambda sum_{k != y} u_k^p with p = 1 and lambda = -beta log 0.

    Over all classes the term at p = 1 is the constant 1, so that it is the label's class that must be left out.
    """
    alpha, beta = 0.3, 1.7
    with backend.enable_x64(True):
        logits, labels = RNG.normal(0, 3, (50, 6)), RNG.integers(0, 6, 50)
        u, e = softmax(logits), np.eye(6)[labels]
        beside = np.asarray(regularizers.lp_sparsity(logits, 1.0, clip=None)) - u[np.arange(50), labels]
        cross_entropy = np.asarray(losses.cross_entropy(logits, labels))
        sce = losses.symmetric_cross_entropy(logits, labels, alpha=alpha, beta=beta, log_zero=log_zero)
    np.testing.assert_allclose(beside, np.abs(u - e).sum(-1) / 2, rtol=1e-11)
    np.testing.assert_allclose(sce, alpha * cross_entropy - beta * log_zero * beside, rtol=1e-11)


@pytest.mark.parametrize(
    ("num_classes", "temperature", "ceiling"),
    [(10, 0.5, 0.478), (50, 0.5, 0.133), (100, 0.5, 0.070), (10, 0.1, 0.9998), (100, 0.1, 0.996)],
)
def test_normalised_sharpening_has_a_ceiling(num_classes, temperature, ceiling):
    logits = 1e4 * (np.eye(num_classes)[0] - 1 / num_classes)
    largest = softmax(regularizers.sharpen(logits, temperature)).max()
    np.testing.assert_allclose(largest, ceiling, atol=6e-4)
    random = softmax(regularizers.sharpen(RNG.normal(0, 5, (50, num_classes)), temperature))
    assert random.max() <= largest


def test_sharpening_jacobian():
    """∂σ_i/∂z_j = (σ_i / τ)(1[i = j] - σ_j), eq. 10 of SR."""
    logits = np.array([0.3, -1.2, 0.8, 0.1])
    with backend.enable_x64(True):
        jacobian = jax.jacobian(lambda z: jax.nn.softmax(regularizers.sharpen(z, 0.3, normalize=False)))(logits)
        s = softmax(logits / 0.3)
    np.testing.assert_allclose(jacobian, (np.diag(s) - np.outer(s, s)) / 0.3, atol=1e-12)


def test_sparsity_strength_steps():
    strengths = regularizers.sparsity_strength(np.arange(11), initial=4.0, growth=2.0, every=5)
    np.testing.assert_array_equal(strengths, [4] * 5 + [8] * 5 + [16])
    with backend.enable_x64(True):  # whose floats are not those of the clock
        assert regularizers.sparsity_strength(jnp.float32(9.5), initial=4.0, growth=2.0, every=5) == 8


TARGETS = np.concatenate([np.eye(4)[[0] * 11], np.full((6, 4), 0.25), np.zeros((5, 4))]).astype(np.float32)


@pytest.mark.parametrize(
    "term",
    [
        lambda z: regularizers.lp_sparsity(z, 0.1),
        lambda z: regularizers.lp_sparsity(z, 0.1, clip=None),
        lambda z: regularizers.lp_sparsity(regularizers.sharpen(z, 0.5), 0.01),
        lambda z: regularizers.early_learning(z, TARGETS),
        lambda z: regularizers.early_learning(z, TARGETS, clip=None),
        lambda z: regularizers.early_learning_kl(z, TARGETS),
    ],
)
def test_finite_with_two_derivatives_at_the_corners(term):
    def gradient(z):
        return jax.grad(lambda z: jnp.sum(term(z)))(z)

    value = term(CORNERS)
    assert value.shape == CORNERS.shape[:1]
    for result in (value, *jax.jvp(gradient, (CORNERS,), (np.ones_like(CORNERS) * [1, -2, 3, 0.5],))):
        assert np.all(np.isfinite(result))


def test_low_precision_is_widened():
    logits = jnp.asarray(RNG.normal(size=(3, 4)), jnp.bfloat16)
    for result in (
        regularizers.sharpen(logits, 0.5),
        regularizers.lp_sparsity(logits, 0.1),
        regularizers.early_learning(logits, jnp.zeros((3, 4), jnp.bfloat16)),
        regularizers.safe_norm(logits),
    ):
        assert result.dtype == jnp.float32


def test_safe_norm_and_its_derivatives_at_zero():
    x = RNG.normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_allclose(regularizers.safe_norm(x, axis=1), np.linalg.norm(x, axis=1), rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(regularizers.safe_norm)(x), x / np.linalg.norm(x), rtol=1e-5, err_msg="gradient"
    )
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(jax.grad(regularizers.safe_norm)(zero), 0)
    np.testing.assert_array_equal(jax.hessian(regularizers.safe_norm)(zero), 0)


def test_hidden_jacobian_norms():
    grads = {"a": RNG.normal(size=(4, 3, 2)).astype(np.float32), "b": [RNG.normal(size=(4, 5)).astype(np.float32)]}
    norms = np.stack([np.linalg.norm(g.reshape(4, -1), axis=1) for g in (grads["a"], grads["b"][0])], -1)
    np.testing.assert_allclose(regularizers.layer_norms(grads), norms, rtol=1e-6)
    np.testing.assert_allclose(regularizers.hidden_jacobian_norms(grads), np.linalg.norm(norms, axis=1), rtol=1e-6)
    for form in ("sum", "code"):
        np.testing.assert_allclose(regularizers.hidden_jacobian_norms(grads, form), norms.sum(1), rtol=1e-6)


@pytest.mark.parametrize("form", ["sum", "paper", "code"])
def test_hidden_jacobian_norms_are_smooth_where_one_layer_or_example_vanishes(form):
    grads = [jnp.zeros((2, 3)), jnp.array([[1.0, 2.0], [0.0, 0.0]])]
    gradient = jax.grad(lambda g: jnp.sum(regularizers.hidden_jacobian_norms(g, form)))(grads)
    np.testing.assert_array_equal(gradient[0], 0)
    np.testing.assert_allclose(gradient[1], np.array([[1, 2], [0, 0]]) / np.sqrt(5), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regularizers.sharpen(np.ones((2, 3)), 0.0), "temperature must be positive"),
        (lambda: regularizers.lp_sparsity(np.ones((2, 3)), 0.0), r"p must be in \(0, 1\]"),
        (lambda: regularizers.early_learning(np.ones((2, 3)), np.ones((2, 4))), "targets must have the shape"),
        (lambda: regularizers.update_targets(np.ones((2, 3)), np.ones((2, 3)), 1.1), "beta must be"),
        (lambda: regularizers.hidden_jacobian_norms([np.ones((2, 3))], "both"), "form must be"),
        (lambda: regularizers.hidden_jacobian_norms([]), "at least one array"),
        (lambda: regularizers.sparsity_strength(3, initial=1.0, growth=0.5, every=5), "growth must be at least 1"),
        (lambda: regularizers.sparsity_strength(3, initial=1.0, growth=2.0, every=0), "every must be at least 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
