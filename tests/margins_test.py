"""Margins, class weights and regularisation strengths. Golden numbers are in tests/oracles."""

import jax
import numpy as np
import pytest

from robustjax import backend, losses, margins

COUNTS = np.array([5000, 500, 50, 5])


def test_ldam_margins_follow_the_fourth_root():
    expected = 0.5 * (5 / COUNTS) ** 0.25
    np.testing.assert_allclose(margins.ldam_margins(COUNTS), expected, rtol=1e-6)
    np.testing.assert_allclose(margins.ldam_margins(COUNTS, 0.2), 0.4 * expected, rtol=1e-6)


def test_class_balanced_weights_between_their_limits():
    np.testing.assert_allclose(margins.class_balanced_weights(COUNTS, 0.0), np.ones(4))
    with backend.enable_x64(True):
        inverse = 1 / COUNTS
        nearly_one = margins.class_balanced_weights(COUNTS, 1 - 1e-9)
        np.testing.assert_allclose(nearly_one, 4 * inverse / inverse.sum(), rtol=1e-5)
    for beta in (0.9, 0.9999):
        weights = margins.class_balanced_weights(COUNTS, beta)
        np.testing.assert_allclose(np.sum(weights), 4, rtol=1e-6)
        expected = (1 - beta) / (1 - beta**COUNTS)
        np.testing.assert_allclose(weights, 4 * expected / expected.sum(), rtol=1e-5)


def test_deferred_weights_switch_once_and_trace():
    schedule = jax.jit(lambda epoch: margins.deferred_weights(epoch, COUNTS, start_epoch=80, beta=0.9999))
    np.testing.assert_array_equal(schedule(79), np.ones(4))
    np.testing.assert_allclose(schedule(80), margins.class_balanced_weights(COUNTS, 0.9999), rtol=1e-5)


def test_a_class_without_examples_has_no_weight_and_takes_none():
    weights = jax.jit(lambda counts: margins.class_balanced_weights(counts, 0.9))(np.array([50, 0, 5]))
    both = margins.class_balanced_weights([50, 5], 0.9)
    np.testing.assert_allclose(weights, 3 / 2 * np.array([both[0], 0, both[1]]), rtol=1e-5)


def test_inverse_frequency_weights():
    np.testing.assert_allclose(margins.inverse_frequency_weights(COUNTS), [1, 10, 100, 1000])


def test_har_strengths_of_cifar10_examples():
    """Noisy classes with error 0.40, clean ones with 0.06, rarer by a factor of 1, 10 and 100."""
    ratios = [
        (lambda s: s[0] / s[1])(margins.har_strengths([0.4, 0.06], [5000 / imbalance, 5000]))
        for imbalance in (1, 10, 100)
    ]
    np.testing.assert_allclose(ratios, [3.1, 7.8, 19.7], atol=0.06)


def test_har_strengths_scale_and_exponents():
    errors = np.array([0.0, 0.1, 0.5, 1.0])
    strengths = margins.har_strengths(errors, COUNTS, max_strength=0.1)
    assert strengths[0] == 0
    np.testing.assert_allclose(np.max(strengths), 0.1, rtol=1e-6)
    expected = errors**0.6 / COUNTS**0.4
    np.testing.assert_allclose(strengths, 0.1 * expected / expected.max(), rtol=1e-5)
    np.testing.assert_allclose(
        margins.har_strengths(errors, COUNTS, error_exponent=1.0, count_exponent=0.0), errors, rtol=1e-6
    )
    np.testing.assert_array_equal(margins.har_strengths(np.zeros(4), COUNTS), np.zeros(4))


def test_regression_strengths_follow_density_and_where_it_differs_the_variance():
    strengths = margins.regression_strengths(COUNTS, max_strength=0.2)
    np.testing.assert_allclose(strengths, 0.2 * (5 / COUNTS) ** 0.4, rtol=1e-6)
    variances = np.array([4.0, 1.0, 1.0, 0.0])
    expected = (variances / COUNTS) ** 0.4
    found = margins.regression_strengths(COUNTS, noise_variances=variances)
    np.testing.assert_allclose(found, expected / expected.max(), rtol=1e-5)
    with pytest.raises(ValueError, match="noise_variances must be at least 0"):
        margins.regression_strengths(COUNTS, noise_variances=-variances)


def test_controls_keep_the_mean_and_turn_the_order_around():
    strengths = np.array([0.1, 0.02, 0.05, 0.0])
    inverse = np.asarray(margins.inverse_strengths(strengths))
    np.testing.assert_allclose(inverse[:3] * strengths[:3], inverse[0] * strengths[0], rtol=1e-6)
    assert inverse[3] == inverse[1] == inverse.max()
    for key in (0, 1):
        drawn = np.asarray(margins.random_strengths(jax.random.key(key), strengths))
        for control in (inverse, drawn):
            assert np.all(control > 0)
            np.testing.assert_allclose(control.mean(), strengths.mean(), rtol=1e-6)
    for nothing in (margins.inverse_strengths(np.zeros(3)), margins.random_strengths(jax.random.key(0), np.zeros(3))):
        np.testing.assert_array_equal(nothing, 0)


def test_example_weights_and_their_mean():
    weights = np.array([1.0, 2.0, 4.0])
    labels = np.array([2, 0, 1])
    np.testing.assert_array_equal(margins.example_weights(labels, weights), [4, 1, 2])
    np.testing.assert_array_equal(margins.example_weights(np.eye(3)[labels], weights), [4, 1, 2])
    np.testing.assert_allclose(margins.weighted_mean([1.0, 2.0, 3.0], [4.0, 1.0, 0.0]), 6 / 5)
    assert margins.weighted_mean([1.0, 2.0], [0.0, 0.0]) == 0
    many = np.full(70_000, 200, np.float16)  # of which half precision can hold neither the sum nor the number
    assert margins.weighted_mean(many, np.ones_like(many)) == 200


def test_margins_feed_ldam():
    logits, labels = np.array([[0.3, 0.1, 0.0, -0.2]]), np.array([3])
    margin = margins.ldam_margins(COUNTS)
    shifted = 30 * (logits - np.array([[0, 0, 0, 0.5]]))
    np.testing.assert_allclose(
        losses.ldam(logits, labels, margins=margin), losses.cross_entropy(shifted, labels), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margins.ldam_margins([5, 0, 3]), "class_counts must be positive"),
        (lambda: margins.ldam_margins(7), r"class_counts must have shape \[C\]"),
        (lambda: margins.ldam_margins([5, 3], max_margin=0.0), "max_margin must be positive"),
        (lambda: margins.class_balanced_weights([5, 3], 1.0), r"beta must be in \[0, 1\)"),
        (lambda: margins.har_strengths([0.1, np.nan], [5, 3]), "class_errors must be in"),
        (lambda: margins.har_strengths([0.1, 1.2], [5, 3]), "class_errors must be in"),
        (lambda: margins.har_strengths([0.1], [5, 3]), "class_errors must have the shape"),
        (lambda: margins.har_strengths([0.1, 0.2], [5, 3], max_strength=0.0), "max_strength must be positive"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_weights_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"weights must have shape \(4,\), one for each value, got \(4, 1\)"):
        margins.weighted_mean(np.arange(4.0), np.ones((4, 1)))
    with pytest.raises(ValueError, match=r"labels .*class indices in \[0, 3\)"):
        margins.example_weights(np.array([0, 3]), np.ones(3))
