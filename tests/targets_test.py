"""Targets and penalties: corners, gradients, what the methods claim of them. Golden numbers are in tests/oracles."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import losses, targets
from tests.losses_test import CORNERS

RNG = np.random.default_rng(0)


def distributions(*shape):
    return RNG.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def test_examples():
    assert doctest.testmod(targets).failed == 0


def test_sharpening():
    probs = distributions(20, 5)
    np.testing.assert_allclose(targets.sharpen_probabilities(probs, 1.0), probs, rtol=1e-5)
    np.testing.assert_allclose(
        targets.sharpen_probabilities(probs, 0.5), probs**2 / (probs**2).sum(-1, keepdims=True), rtol=1e-5
    )
    # Low temperatures end at the largest entry, at ties at equal shares, and never at 0/0.
    np.testing.assert_allclose(targets.sharpen_probabilities(probs, 1e-4), np.eye(5)[probs.argmax(-1)], atol=1e-3)
    np.testing.assert_array_equal(targets.sharpen_probabilities(np.array([0.5, 0.5, 0.0]), 1e-4), [0.5, 0.5, 0])
    np.testing.assert_array_equal(targets.sharpen_probabilities(np.zeros(3, np.float32), 0.5), 0)
    np.testing.assert_allclose(targets.sharpen_probabilities(np.array([1e-30, 1e-33]), 0.5), [1, 1e-6], rtol=1e-3)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        targets.sharpen_probabilities(probs, 0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_sharpening_has_a_finite_gradient_at_zeros(temperature):
    one_hot = jnp.eye(3)[0]
    gradient = jax.grad(lambda p: targets.sharpen_probabilities(p, temperature)[0])(one_hot)
    assert np.isfinite(gradient).all()


def test_guesses_and_refinements():
    probs = distributions(4, 6, 3)
    labels, weights = RNG.integers(3, size=6), RNG.random(6).astype(np.float32)
    mean = probs.mean(0)
    np.testing.assert_allclose(targets.coguessed_labels(probs, 1.0), mean, rtol=1e-5)
    np.testing.assert_array_equal(targets.coguessed_labels(list(probs)), targets.coguessed_labels(probs))
    expected = targets.sharpen_probabilities(weights[:, None] * np.eye(3)[labels] + (1 - weights[:, None]) * mean, 0.5)
    np.testing.assert_allclose(targets.corefined_labels(weights, labels, probs), expected, rtol=1e-5)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    np.testing.assert_array_equal(
        targets.corefined_labels(weights, one_hot, probs), targets.corefined_labels(weights, labels, probs)
    )
    # A trusted label stays, whatever the networks say; a distrusted one is the guess.
    np.testing.assert_allclose(targets.corefined_labels(np.ones(6), labels, probs), one_hot, atol=1e-6)
    np.testing.assert_allclose(
        targets.corefined_labels(np.zeros(6), labels, probs), targets.coguessed_labels(probs), rtol=1e-5
    )
    gradient = jax.grad(lambda p: targets.corefined_labels(weights, labels, p)[:, 0].sum())(jnp.asarray(probs))
    np.testing.assert_array_equal(gradient, 0)


def test_corrected_labels_is_between_label_and_prediction():
    logits = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    pseudo = targets.pseudo_labels(jax.random.key(0), logits, "soft")
    labels = jnp.array([0, 1, 2, 3, 0])
    corrected = targets.corrected_labels(jnp.array([1.0, 0, 0.25, 0.5, 1]), labels, pseudo)
    np.testing.assert_allclose(corrected.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(corrected[0], jnp.eye(4)[0])
    np.testing.assert_array_equal(corrected[1], pseudo[1])
    np.testing.assert_allclose(corrected[2], 0.25 * jnp.eye(4)[2] + 0.75 * pseudo[2], rtol=1e-6)


def test_pseudo_labels_are_drawn_from_the_softmax():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]] * 4000))
    sampled = targets.pseudo_labels(jax.random.key(0), logits, "sample")
    np.testing.assert_allclose(sampled.mean(0), [0.7, 0.2, 0.1], atol=0.03)
    np.testing.assert_array_equal(targets.pseudo_labels(jax.random.key(0), logits, "hard")[0], [1, 0, 0])


def test_likelihood_ratio_labels():
    probs = jnp.array([[0.2, 0.8], [0.29, 0.71], [0.5, 0.5], [0.0, 1.0]])
    given = jnp.zeros(4, jnp.int32)
    assert targets.likelihood_ratio_labels(given, probs, 0.3).tolist() == [1, 0, 0, 1]
    assert targets.likelihood_ratio_labels(given, probs, 0.0).tolist() == [0, 0, 0, 0]
    assert jax.jit(targets.likelihood_ratio_labels)(given, probs, 1.0).tolist() == [1, 1, 0, 1]


def test_refurbished_labels():
    history = jnp.array([[2] * 15, [2] * 14 + [1], [0, 1, 2] * 5, [-1] * 15, [1] * 3 + [-1] * 12])
    found = targets.refurbished_labels(history, 3)
    assert found.consistent.tolist() == [True, False, False, False, True]
    assert found.labels.tolist() == [2, 2, 0, 0, 1]
    # One stray of fifteen: (1/15 log 15 + 14/15 log 15/14) / log 3 = 0.223.
    assert targets.refurbished_labels(history, 3, 0.222).consistent[1] == False  # noqa: E712
    assert targets.refurbished_labels(history, 3, 0.224).consistent[1]
    np.testing.assert_allclose(targets.normalized_entropy(jnp.array([[0.25] * 4, [1, 0, 0, 0]])), [1, 0], atol=1e-6)


def test_squared_error_and_negative_entropy():
    logits, target = RNG.normal(size=(6, 4)).astype(np.float32), distributions(6, 4)
    p = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(targets.squared_error(logits, target), ((p - target) ** 2).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(targets.negative_entropy(logits), (p * np.log(p)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(targets.squared_error(100 * np.eye(3), np.array([0, 1, 0])), [0, 0, 2 / 3], atol=1e-6)


def test_prior_penalty():
    logits = RNG.normal(0, 2, (8, 5)).astype(np.float32)
    mask = np.array([1, 1, 0, 1, 0, 1, 1, 1], np.float32)
    np.testing.assert_allclose(
        targets.prior_penalty(logits), losses.prior_matching(logits) - np.log(5), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        targets.prior_penalty(logits, mask), targets.prior_penalty(logits[mask > 0]), rtol=1e-5, atol=1e-6
    )
    prior = np.asarray(jax.nn.softmax(logits)).mean(0)
    np.testing.assert_allclose(targets.prior_penalty(logits, prior=prior), 0, atol=1e-6)
    assert targets.prior_penalty(50 * np.eye(5)[[0, 0, 0]]) > 10 > 1e-4 > targets.prior_penalty(50 * np.eye(5))
    assert targets.prior_penalty(logits, np.zeros(8)) == 0
    np.testing.assert_array_equal(jax.grad(targets.prior_penalty)(logits, np.zeros(8)), 0)
    with pytest.raises(ValueError, match=r"\[N, C\]"):
        targets.prior_penalty(logits[0])
    with pytest.raises(ValueError, match="prior must be non-negative"):
        targets.prior_penalty(logits, prior=np.ones(5))


@pytest.mark.parametrize(
    "penalty",
    [lambda z: targets.squared_error(z, jnp.zeros(len(z), int)), targets.negative_entropy, targets.prior_penalty],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_finite_at_corners(penalty, dtype):
    logits = jnp.asarray(CORNERS, dtype)
    value, gradient = jax.value_and_grad(lambda z: jnp.sum(penalty(z)))(logits)
    assert np.isfinite(value) and np.isfinite(gradient.astype(jnp.float32)).all()
    assert penalty(logits).dtype == jnp.float32
