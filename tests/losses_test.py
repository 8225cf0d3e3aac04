"""Losses: corners, labels as indices and distributions, the symmetry of the robust ones, limits, errors.

Golden numbers are in tests/oracles.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robustjax import backend, losses, regularizers
from tests.oracles.adapters.common import quick_jit

COUNTS = np.array([100.0, 20.0, 5.0, 1.0])
WEIGHTS = np.array([0.3, 0.7, 1.2, 1.8])
TRANSITION = np.array([[0.7, 0.2, 0.1, 0], [0, 0.8, 0.2, 0], [0.1, 0, 0.6, 0.3], [0, 0, 0, 1]])
TORCH, KERAS = (1e-7, 1.0), (1e-7, 1 - 1e-7)

# Losses that treat all classes alike: L(Pz, Pe_y) = L(z, e_y) for every permutation P.
EQUIVARIANT = {
    "cross_entropy": losses.cross_entropy,
    "cross_entropy_clipped": functools.partial(losses.cross_entropy, clip=KERAS),
    "label_smoothing": losses.label_smoothing,
    "label_smoothing_kl": functools.partial(losses.label_smoothing, form="kl"),
    "label_smoothing_off_label": functools.partial(losses.label_smoothing, form="off_label"),
    "focal_0.5": functools.partial(losses.focal, gamma=0.5),
    "focal_0": functools.partial(losses.focal, gamma=0.0),
    "focal_2": functools.partial(losses.focal, gamma=2.0),
    "focal_detached": functools.partial(losses.focal, gamma=0.5, detach=True),
    "mae": losses.mae,
    "rce": losses.reverse_cross_entropy,
    "rce_clipped": functools.partial(losses.reverse_cross_entropy, clip=TORCH),
    "sce": functools.partial(losses.symmetric_cross_entropy, alpha=0.1, beta=1.0),
    "gce": losses.generalized_cross_entropy,
    "gce_clipped": functools.partial(losses.generalized_cross_entropy, clip=TORCH),
    "gce_epsilon": functools.partial(losses.generalized_cross_entropy, epsilon=1e-9),
    "truncated_gce": functools.partial(losses.truncated_generalized_cross_entropy, weights=0.5),
    "phuber_ce": losses.partially_huberised_cross_entropy,
    "phuber_gce": losses.partially_huberised_generalized_cross_entropy,
    "nce": losses.normalized_cross_entropy,
    "nfl": losses.normalized_focal,
    "nfl_detached": functools.partial(losses.normalized_focal, detach=True),
    "nmae": losses.normalized_mae,
    "ngce": losses.normalized_generalized_cross_entropy,
    "ngce_clipped": functools.partial(losses.normalized_generalized_cross_entropy, clip=TORCH),
    "nrce": losses.normalized_reverse_cross_entropy,
    "nrce_code": functools.partial(losses.normalized_reverse_cross_entropy, form="code", clip=TORCH),
    "nce_mae": losses.nce_mae,
    "nce_rce": losses.nce_rce,
    "nfl_mae": losses.nfl_mae,
    "nfl_rce": losses.nfl_rce,
    "soft_bootstrap": losses.soft_bootstrap,
    "soft_bootstrap_clipped": functools.partial(losses.soft_bootstrap, clip=KERAS, clip_target=False),
    "hard_bootstrap": losses.hard_bootstrap,
    "lid_paced": functools.partial(losses.lid_paced, alpha=0.6),
    "js": functools.partial(losses.generalized_jensen_shannon, weights=(0.3, 0.7)),
    "js_clipped": functools.partial(losses.generalized_jensen_shannon, weights=(0.3, 0.7), clip=TORCH),
    "negative_learning": losses.negative_learning,
}
LOSSES = EQUIVARIANT | {
    "ldam": functools.partial(losses.ldam, margins=[0.1, 0.2, 0.3, 0.5]),
    "balanced_softmax": functools.partial(losses.balanced_softmax, class_counts=COUNTS),
    "cb_focal_1": functools.partial(losses.class_balanced_focal, class_weights=WEIGHTS),
    "cb_focal_0.5": functools.partial(losses.class_balanced_focal, class_weights=WEIGHTS, gamma=0.5),
    "forward": functools.partial(losses.forward_correction, transition=TRANSITION),
    "forward_identity": functools.partial(losses.forward_correction, transition=np.eye(4)),
    "backward": functools.partial(losses.backward_correction, transition=TRANSITION),
}
# Σ_k L(z, k) is the same for every z: the condition of Ghosh et al. for tolerance of symmetric noise.
SYMMETRIC = ["mae", "rce", "nmae", "nrce", "nce", "nfl", "ngce", "nce_mae", "nce_rce", "nfl_mae", "nfl_rce"]

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def corner_logits(size: float) -> np.ndarray:
    """Rows for label 0: right, wrong, equal, tied, least likely, spread out."""
    rows = [
        [1, -1, -1, -1],
        [-1, 1, -1, -1],
        [1, 1, 1, 1],
        [-1, -1, -1, -1],
        [1, 1, -1, -1],
        [-1, 1, 1, 1],
        [0, 1, -1, 0],
    ]
    return size * np.array(rows, np.float32)


CORNERS = np.concatenate([corner_logits(1e4), corner_logits(50), corner_logits(0.5), np.zeros((1, 4), np.float32)])
CORNER_LABELS = np.zeros(len(CORNERS), np.int32)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 2], np.int32)
logit_rows = hnp.arrays(np.float64, 4, elements=st.floats(-30, 30, allow_nan=False))


def value_and_derivatives(loss, logits, labels):
    """Values, gradient of their sum, and second derivatives by forward and by reverse over reverse mode."""
    direction = jnp.asarray(np.random.default_rng(1).normal(size=logits.shape), logits.dtype)
    gradient = jax.grad(lambda z: jnp.sum(loss(z, labels)))
    penalty = jax.grad(lambda z: jnp.sum(jnp.square(gradient(z) / 100)))
    return loss(logits, labels), *jax.jvp(gradient, (logits,), (direction,)), penalty(logits)


@each_loss
def test_finite_with_two_derivatives_at_the_corners(loss):
    for result in quick_jit(functools.partial(value_and_derivatives, loss))(CORNERS, CORNER_LABELS):
        assert np.all(np.isfinite(result)), result


@each_loss
def test_one_hot_labels_jit_and_vmap_change_nothing(loss):
    expected = loss(LOGITS, LABELS)
    assert expected.shape == LABELS.shape
    soft = np.eye(4, dtype=np.float32)[LABELS]
    compiled = quick_jit(loss)
    for actual in (compiled(LOGITS, soft), compiled(LOGITS, LABELS), jax.vmap(loss)(LOGITS, LABELS)):
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)
    leading = loss(LOGITS.reshape(2, 3, 4), LABELS.reshape(2, 3))
    np.testing.assert_allclose(leading.ravel(), expected, rtol=2e-5, atol=1e-6)


@each_loss
def test_low_precision_is_widened(loss):
    low = jnp.asarray(LOGITS, jnp.bfloat16)
    actual = loss(low, LABELS)
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual, loss(low.astype(jnp.float32), LABELS))
    with backend.enable_x64(True):
        assert loss(LOGITS.astype(np.float64), LABELS).dtype == np.float64


def over_all_labels(loss, logits):
    """Σ_k L(z, k) for each row of logits."""
    num_classes = logits.shape[-1]
    return sum(np.asarray(loss(logits, np.full(len(logits), k))) for k in range(num_classes))


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=20, deadline=None)
@given(row=logit_rows)
def test_symmetric_losses_sum_to_a_constant(name, row):
    with backend.enable_x64(True):
        total = over_all_labels(EQUIVARIANT[name], np.stack([row, np.zeros(4)]))
    np.testing.assert_allclose(total[0], total[1], rtol=1e-9)


@pytest.mark.parametrize("name", ["cross_entropy", "focal_0.5", "gce", "sce", "phuber_ce", "js"])
def test_other_losses_do_not(name):
    assert np.ptp(over_all_labels(EQUIVARIANT[name], LOGITS)) > 0.05


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_every_equivariant_loss_is_symmetric_on_permutations_of_one_vector(name):
    """Lemma 1 of SR: outputs restricted to the permutations of v make any such loss symmetric."""
    with backend.enable_x64(True):
        permutations = np.array(list(itertools.permutations([2.0, 0.5, -1.0, -3.0])))
        total = over_all_labels(EQUIVARIANT[name], permutations)
    np.testing.assert_allclose(total, total[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["nce", "nfl", "nmae", "nrce", "ngce"])
def test_normalised_losses_sum_to_one(name):
    np.testing.assert_allclose(over_all_labels(EQUIVARIANT[name], LOGITS), 1, rtol=1e-5)


def test_agrees_with_optax():
    soft = np.asarray(jax.nn.softmax(LOGITS[::-1]))
    np.testing.assert_allclose(
        losses.cross_entropy(LOGITS, LABELS), optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS), rtol=1e-6
    )
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, soft), optax.softmax_cross_entropy(LOGITS, soft), rtol=1e-6)
    smooth = optax.smooth_labels(np.eye(4)[LABELS], 0.2)
    np.testing.assert_allclose(
        losses.label_smoothing(LOGITS, LABELS, epsilon=0.2), optax.softmax_cross_entropy(LOGITS, smooth), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.label_smoothing(LOGITS, LABELS, epsilon=0.2, form="kl"),
        optax.kl_divergence(jax.nn.log_softmax(LOGITS), smooth),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("reduced", "to"),
    [
        (functools.partial(losses.generalized_cross_entropy, q=1.0), functools.partial(losses.mae, scale=1.0)),
        (functools.partial(losses.generalized_cross_entropy, q=1e-5), losses.cross_entropy),
        (functools.partial(losses.focal, gamma=0.0), losses.cross_entropy),
        (functools.partial(losses.soft_bootstrap, beta=1.0), losses.cross_entropy),
        (functools.partial(losses.hard_bootstrap, beta=1.0), losses.cross_entropy),
        (functools.partial(losses.label_smoothing, epsilon=0.0), losses.cross_entropy),
        (functools.partial(losses.ldam, margins=np.zeros(4), scale=1.0), losses.cross_entropy),
        (functools.partial(losses.balanced_softmax, class_counts=[7, 7, 7, 7]), losses.cross_entropy),
        (functools.partial(losses.forward_correction, transition=np.eye(4)), losses.cross_entropy),
        (functools.partial(losses.backward_correction, transition=np.eye(4)), losses.cross_entropy),
        (
            functools.partial(losses.class_balanced_focal, class_weights=np.ones(4)),
            functools.partial(losses.focal, gamma=1),
        ),
        (functools.partial(losses.normalized_focal, gamma=0.0), losses.normalized_cross_entropy),
        (functools.partial(losses.partially_huberised_cross_entropy, tau=1e9), losses.cross_entropy),
        (functools.partial(losses.generalized_jensen_shannon, weights=(1e-6, 1 - 1e-6)), losses.cross_entropy),
        (
            functools.partial(losses.lid_paced, alpha=1.0),
            functools.partial(losses.symmetric_cross_entropy, alpha=0.1, beta=1),
        ),
    ],
)
def test_limits(reduced, to):
    with backend.enable_x64(True):
        np.testing.assert_allclose(
            reduced(LOGITS.astype(float), LABELS), to(LOGITS.astype(float), LABELS), rtol=2e-3, atol=2e-4
        )


def test_reverse_cross_entropy_is_mae_rescaled():
    rce = losses.reverse_cross_entropy(LOGITS, LABELS, log_zero=-4.0)
    np.testing.assert_allclose(rce, 2 * losses.mae(LOGITS, LABELS), rtol=1e-6)


def test_detaching_keeps_the_value_and_freezes_the_factor():
    def total(z, detach):
        return jnp.sum(losses.focal(z, LABELS, gamma=0.5, detach=detach))

    np.testing.assert_allclose(total(LOGITS, True), total(LOGITS, False))
    p = jax.nn.softmax(LOGITS)
    one_hot = np.eye(4)[LABELS]
    factor = np.sqrt(1 - np.sum(p * one_hot, -1, keepdims=True))
    np.testing.assert_allclose(jax.grad(total)(LOGITS, True), factor * (p - one_hot), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [2.0, 10.0])
@pytest.mark.parametrize(
    ("loss", "threshold"),
    [
        (losses.partially_huberised_cross_entropy, lambda tau: 1 / tau),
        (losses.partially_huberised_generalized_cross_entropy, lambda tau: tau ** (1 / (0.7 - 1))),
    ],
)
def test_huberised_losses_join_smoothly_at_the_threshold(loss, threshold, tau):
    def of_logit(x):
        return loss(jnp.stack([x, 0.0]), 0, tau=tau)

    with backend.enable_x64(True):
        p = threshold(tau)
        join = np.log(p / (1 - p))
        below, above = (jax.value_and_grad(of_logit)(join + step) for step in (-1e-9, 1e-9))
    np.testing.assert_allclose(below, above, atol=1e-7)


def test_backward_correction_is_unbiased():
    """Its expectation over the noisy labels of a true class is that class's cross entropy."""
    with backend.enable_x64(True):
        logits = LOGITS.astype(float)
        noisy = losses.backward_correction(logits, TRANSITION[LABELS], transition=TRANSITION)
        np.testing.assert_allclose(noisy, losses.cross_entropy(logits, LABELS), rtol=1e-10)


def test_forward_correction_is_the_cross_entropy_of_noisy_probabilities():
    expected = -np.log((np.asarray(jax.nn.softmax(LOGITS)) @ TRANSITION)[np.arange(6), LABELS])
    np.testing.assert_allclose(losses.forward_correction(LOGITS, LABELS, transition=TRANSITION), expected, rtol=1e-5)
    at_corners = losses.forward_correction(CORNERS, CORNER_LABELS, transition=np.eye(4))
    np.testing.assert_allclose(at_corners, losses.cross_entropy(CORNERS, CORNER_LABELS), rtol=1e-6)


def test_gradient_reaches_label_distributions():
    soft = jax.nn.softmax(LOGITS[::-1])
    gradient = jax.grad(lambda y: jnp.sum(losses.cross_entropy(LOGITS, y)))(soft)
    np.testing.assert_allclose(gradient, -jax.nn.log_softmax(LOGITS), rtol=1e-6)


def test_anchor_points():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.9, 0.1]])
    np.testing.assert_allclose(losses.estimate_transition(probs), probs[[0, 3]], rtol=1e-6)
    # Sorted by class 0: .2 .3 .6 .9 .9; by class 1: .1 .1 .4 .7 .8. The 75th percentiles are the fourth.
    np.testing.assert_allclose(losses.estimate_transition(probs, percentile=75), probs[[4, 2]], rtol=1e-6)
    np.testing.assert_allclose(losses.estimate_transition(probs, percentile=0), probs[[3, 4]], rtol=1e-6)


def test_jensen_shannon_of_equal_views_is_that_of_one():
    one = losses.generalized_jensen_shannon(LOGITS, LABELS, weights=(0.3, 0.7))
    for consistency in (True, False):
        two = losses.generalized_jensen_shannon(
            [LOGITS, LOGITS], LABELS, weights=(0.3, 0.5, 0.2), consistency=consistency
        )
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)


def test_jensen_shannon_tends_to_half_the_mae_logarithmically():
    """As w_1 → 1 the distance to 1 - p_y falls like 1 / |log(1 - w_1)|."""
    with backend.enable_x64(True):
        logits = LOGITS.astype(float)
        near, far = (
            np.asarray(
                losses.generalized_jensen_shannon(logits, LABELS, weights=(1 - rest, rest))
                - losses.mae(logits, LABELS, scale=1.0)
            )
            for rest in (1e-8, 1e-4)
        )
    np.testing.assert_allclose(far, 2 * near, rtol=1e-3)


def test_gradients_keep_the_dtype_of_the_logits():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        logits = jnp.asarray(LOGITS, dtype)
        assert jax.grad(lambda z: jnp.sum(losses.cross_entropy(z, LABELS)))(logits).dtype == dtype


def test_consistency_adds_the_disagreement_of_views():
    views, weights = [LOGITS, LOGITS[::-1]], (0.2, 0.4, 0.4)
    with_it, without = (
        losses.generalized_jensen_shannon(views, LABELS, weights=weights, consistency=on) for on in (True, False)
    )
    assert np.all(with_it > without + 1e-3)


def test_two_views_are_finite_at_the_corners():
    def loss(z, y):
        return losses.generalized_jensen_shannon([z, z[::-1]], y, weights=(0.2, 0.4, 0.4))

    for result in quick_jit(functools.partial(value_and_derivatives, loss))(CORNERS, CORNER_LABELS):
        assert np.all(np.isfinite(result))


def test_complementary_labels():
    offsets = np.array([[1, 2], [3, 1]])
    labels = losses.complementary_labels(np.array([3, 0]), offsets, num_classes=4)
    np.testing.assert_array_equal(labels, [[0, 1], [3, 1]])
    several = losses.negative_learning(LOGITS[:2], labels)
    singly = sum(losses.negative_learning(LOGITS[:2], labels[:, j]) for j in range(2))
    np.testing.assert_allclose(several, singly, rtol=1e-6)


def test_truncation_keeps_the_confident_examples():
    p_label = np.array([0.9, 0.51, 0.49, 0.1])
    logits = np.log(np.stack([p_label, 1 - p_label], -1))
    labels = np.zeros(4, np.int32)
    np.testing.assert_array_equal(losses.truncation_weights(logits, labels, k=0.5), [1, 1, 0, 0])
    kept = losses.truncated_generalized_cross_entropy(logits, labels, weights=np.ones(4))
    expected = (0.5**0.7 - p_label**0.7) / 0.7
    np.testing.assert_allclose(kept, expected, rtol=1e-4)


def test_dmi_is_invariant_to_noise_up_to_a_constant():
    """L_DMI's point: with labels passed through T the loss shifts by -log|det T|, whatever the predictions."""
    with backend.enable_x64(True):
        for seed in range(3):
            rng = np.random.default_rng(seed)
            logits, labels = rng.normal(0, 2, (40, 4)), np.eye(4)[rng.integers(0, 4, 40)]
            clean, noisy = (losses.dmi(logits, y, epsilon=1e-30, normalize=True) for y in (labels, labels @ TRANSITION))
            np.testing.assert_allclose(noisy - clean, -np.log(abs(np.linalg.det(TRANSITION))), rtol=1e-9)


@pytest.mark.parametrize("logits", [np.tile(CORNERS, (2, 1)), np.zeros((8, 4), np.float32), LOGITS])
def test_batch_losses_are_finite(logits):
    labels = np.arange(len(logits)) % 3  # class 3 is absent: the determinant is zero
    for loss in (losses.dmi, losses.joint_optimization):
        for result in quick_jit(functools.partial(value_and_derivatives, loss))(logits, labels):
            assert np.all(np.isfinite(result))


@pytest.mark.parametrize(
    "loss",
    [
        losses.dmi,
        functools.partial(losses.dmi, normalize=True),
        lambda z, y, mask=None: losses.prior_matching(z, [0.1, 0.2, 0.3, 0.4], mask=mask),
        losses.joint_optimization,
    ],
)
def test_padding_takes_no_part_in_batch_losses(loss):
    mask = np.array([1, 1, 1, 1, 0, 0], np.float32)
    both = jax.value_and_grad(loss)
    value, gradient = both(LOGITS[:4], LABELS[:4])
    for padding in (LOGITS[4:], np.float32([[1e4, 0, -1e4, 0], [0, np.inf, np.nan, 0]])):
        masked, masked_gradient = both(np.concatenate([LOGITS[:4], padding]), LABELS, mask=mask)
        np.testing.assert_allclose(masked, value, rtol=1e-5)
        np.testing.assert_allclose(masked_gradient[:4], gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(masked_gradient[4:], 0)
    np.testing.assert_allclose(loss(LOGITS, LABELS, mask=np.ones(6, bool)), loss(LOGITS, LABELS), rtol=1e-5)
    assert not np.isclose(loss(LOGITS, LABELS), value, rtol=1e-2)
    nothing, none = both(LOGITS, LABELS, mask=0 * mask)
    assert np.isfinite(nothing) and not np.any(none)


def test_dmi_shows_nan():
    assert np.isnan(losses.dmi(np.full((8, 4), np.nan, np.float32), np.arange(8) % 4))


def test_prior_matching_is_least_at_the_prior():
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    at_prior = losses.prior_matching(np.log(prior)[None], prior)
    np.testing.assert_allclose(at_prior, -np.sum(prior * np.log(prior)), rtol=1e-5)
    assert losses.prior_matching(LOGITS, prior) > at_prior


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.generalized_cross_entropy(LOGITS, LABELS, q=0.0), r"q must be in \(0, 1\], got 0.0"),
        (lambda: losses.generalized_cross_entropy(LOGITS, LABELS, clip=(0.5, 0.1)), "clip must be"),
        (lambda: losses.focal(LOGITS, LABELS, gamma=-1.0), "gamma must be at least 0"),
        (lambda: losses.mae(LOGITS, LABELS, scale=0.0), "scale must be positive"),
        (lambda: losses.reverse_cross_entropy(LOGITS, LABELS, log_zero=1.0), "log_zero must be negative"),
        (lambda: losses.symmetric_cross_entropy(LOGITS, LABELS, alpha=-1, beta=1), "alpha must be at least 0"),
        (lambda: losses.partially_huberised_cross_entropy(LOGITS, LABELS, tau=0.5), "tau must be at least 1"),
        (lambda: losses.soft_bootstrap(LOGITS, LABELS, beta=1.5), r"beta must be in \[0, 1\]"),
        (lambda: losses.label_smoothing(LOGITS, LABELS, epsilon=2), r"epsilon must be in \[0, 1\]"),
        (lambda: losses.label_smoothing(LOGITS, LABELS, form="x"), "form must be"),
        (lambda: losses.normalized_reverse_cross_entropy(LOGITS, LABELS, form="x"), "form must be"),
        (lambda: losses.forward_correction(LOGITS, LABELS, transition=np.ones((4, 4))), "row-stochastic"),
        (lambda: losses.forward_correction(LOGITS, LABELS, transition=np.eye(3)), "transition must have shape"),
        (lambda: losses.backward_correction(LOGITS, LABELS, transition=np.full((4, 4), 0.25)), "well conditioned"),
        (lambda: losses.generalized_jensen_shannon(LOGITS, LABELS, weights=(0.3, 0.3, 0.4)), "weights must be 2"),
        (lambda: losses.generalized_jensen_shannon(LOGITS, LABELS, weights=(0.3, 0.3)), "sum to 1"),
        (lambda: losses.ldam(LOGITS, LABELS, margins=np.ones(3)), "margins must have shape"),
        (lambda: losses.balanced_softmax(LOGITS, LABELS, class_counts=[1, 2, 3, 0]), "positive and finite"),
        (lambda: losses.class_balanced_focal(LOGITS, LABELS, class_weights=np.zeros(4)), "class_weights must be"),
        (lambda: losses.complementary_labels(LABELS, LABELS[:, None], num_classes=4), "offsets must be"),
        (lambda: losses.estimate_transition(np.eye(4), percentile=101), "percentile must be"),
        (lambda: losses.dmi(LOGITS, LABELS, epsilon=0.0), "epsilon must be positive"),
        (lambda: losses.dmi(LOGITS[None], LABELS[None]), r"logits must have shape \[N, C\]"),
        (lambda: losses.dmi(LOGITS, LABELS, mask=np.ones(4)), r"mask must have shape \(6,\)"),
        (lambda: losses.dmi(LOGITS, LABELS, mask=-np.ones(6)), "mask must be 0 for padding"),
        (lambda: losses.cross_entropy(LOGITS, LABELS[:, None]), "integer labels must have shape"),
        (lambda: losses.cross_entropy(LOGITS, LABELS + 1), "labels must be class indices"),
        (lambda: losses.cross_entropy(LOGITS, np.ones(6)), "label distributions must have shape"),
        (lambda: losses.cross_entropy(LOGITS[:, :1], np.zeros(6, int)), "at least 2 classes"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="floating-point"):
        losses.cross_entropy(np.ones((2, 3), int), np.zeros(2, int))
    with pytest.raises(TypeError, match="labels must be"):
        losses.cross_entropy(np.ones((2, 3)), np.ones((2, 3), bool))


def test_hyperparameters_may_be_traced():
    for loss, name, value in [
        (losses.generalized_cross_entropy, "q", 0.7),
        (losses.generalized_cross_entropy, "epsilon", 1e-3),
        (losses.focal, "gamma", 0.5),
        (losses.hard_bootstrap, "beta", 0.5),
        (losses.lid_paced, "alpha", 0.5),
        (losses.generalized_jensen_shannon, "weights", np.array([0.3, 0.7])),
        (losses.forward_correction, "transition", TRANSITION),
        (losses.backward_correction, "transition", TRANSITION),
    ]:
        traced = jax.jit(lambda hyper, loss=loss, name=name: loss(LOGITS, LABELS, **{name: hyper}))(value)
        np.testing.assert_allclose(traced, loss(LOGITS, LABELS, **{name: value}), rtol=1e-4, atol=1e-6)


def test_a_masked_class_takes_part_in_nothing():
    """A logit of −inf: value and gradient are finite, 0 there, and those of no such class where classes count alike."""
    names = ("cross_entropy", "focal_0.5", "nce", "nfl", "soft_bootstrap", "hard_bootstrap", "gce", "js", "phuber_ce")
    masked = LOGITS[:3].copy()
    masked[:, 3] = -np.inf

    @quick_jit
    def everything(logits):
        return {
            name: jax.value_and_grad(lambda z, loss=loss: loss(z, LABELS[:3]).sum())(logits)
            for name, loss in LOSSES.items()
            if name in (*names, "balanced_softmax", "ldam", "forward", "cb_focal_1", "lid_paced")
        }

    @quick_jit
    def of_fewer(logits):
        return {name: LOSSES[name](logits, LABELS[:3]).sum() for name in names}

    found, without = everything(masked), of_fewer(masked[:, :3])
    for name, (value, gradient) in found.items():
        assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[:, 3].any(), name
        assert gradient.any(), name
    for name in names:
        np.testing.assert_allclose(found[name][0], without[name], rtol=1e-5, err_msg=name)
    assert losses.cross_entropy(masked, np.array([3, 3, 3])).min() == np.float32(1e30)


@each_loss
def test_labels_out_of_range_are_told_or_nan(loss):
    compiled = quick_jit(loss)
    for wrong in (-1, 4):
        labels = np.array([0, wrong], np.int32)
        with pytest.raises(ValueError, match="labels must be class indices"):
            loss(LOGITS[:2], labels)
        values = compiled(LOGITS[:2], labels)
        assert np.isfinite(values[0]) and np.isnan(values[1])


def test_normalised_losses_where_one_class_is_all_there_is():
    """A class is sure where all others have minus infinity: no loss is left to be normalised."""
    logits, labels = np.float32([[1, -np.inf], [1, -np.inf]]), np.array([0, 0], np.int32)
    for loss in (losses.normalized_cross_entropy, losses.normalized_focal):
        values, gradient = jax.value_and_grad(lambda z, loss=loss: loss(z, labels).sum())(logits)
        assert values == 0 and not np.isnan(gradient).any()


def test_second_derivatives_are_finite():
    """Of what is differentiated twice or has a corner of its own; at confident, equal and spread logits."""
    certain = np.float32([[50, -50, 0], [0, 1e4, -1e4], [0, 0, 0], [2, -1, 0.5]])
    targets = [np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.full((4, 3), 1 / 3, np.float32)]
    labels = np.array([0, 1, 1, 0], np.int32)

    @quick_jit
    def everything(logits):
        cases = {
            f"elr_gradient_{k}": lambda z, t=t: regularizers.early_learning_gradient(z, t)[:, 0].sum()
            for k, t in enumerate(targets)
        }
        cases["dmi"] = lambda z: losses.dmi(z[:, :2], labels)
        cases["sharp"] = lambda z: regularizers.lp_sparsity(regularizers.sharpen(z, 0.5), 0.1).sum()
        return {name: (jax.grad(case)(logits), jax.hessian(case)(logits)) for name, case in cases.items()}

    for name, derivatives in everything(certain).items():
        assert all(np.isfinite(each).all() for each in derivatives), name
    # What the formula tends to where p and t meet: −1 for the class, and 1 for the likeliest of the others.
    np.testing.assert_allclose(
        regularizers.early_learning_gradient(certain[:1], targets[0][:1]), [[-1, 0, 1]], atol=1e-6
    )


def test_a_label_with_zeros_has_a_finite_gradient_in_jensen_shannon():
    """Its slope at 0 is infinite, and is taken to be 0 there: what corrects labels mixes one-hot ones."""
    logits = RNG.normal(size=(4, 3))
    first, second = np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[1, 2, 0, 0]]

    @jax.jit
    def loss(weight):
        labels = weight * first + (1 - weight) * second
        return jnp.sum(losses.generalized_jensen_shannon(logits, labels, weights=(0.3, 0.7)))

    with backend.enable_x64(True):
        at, step = jnp.float64(0.4), 1e-6
        expected = (loss(at + step) - loss(at - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(loss)(at), expected, rtol=1e-5)
        np.testing.assert_allclose(jax.jvp(loss, (at,), (jnp.float64(1),))[1], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int16])
def test_labels_of_few_bits_name_one_class_of_many(dtype):
    logits, labels = jnp.zeros((2, 300)), jnp.array([5, 99], dtype)
    np.testing.assert_allclose(jax.jit(losses.cross_entropy)(logits, labels), np.log(300), rtol=1e-6)
    found = losses.complementary_labels(labels, jnp.array([[99], [99]], dtype), num_classes=100)
    assert found.tolist() == [[4], [98]]


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"weights must have shape \(2,\).* got \(2, 1\)"):
        losses.truncated_generalized_cross_entropy(jnp.zeros((2, 3)), jnp.array([0, 1]), weights=jnp.ones((2, 1)))


def test_local_intrinsic_dimensionality():
    """Of a plane in eight dimensions 2, and a scale changes nothing."""
    points = np.zeros((400, 8))
    points[:, :2] = RNG.uniform(size=(400, 2))
    found = losses.local_intrinsic_dimensionality(points.astype(np.float32))
    assert 1.8 < np.median(found) < 2.4
    np.testing.assert_allclose(losses.local_intrinsic_dimensionality(1e3 * points.astype(np.float32)), found, rtol=1e-3)
    with pytest.raises(ValueError, match=r"neighbours=3 must be .* below B"):
        losses.local_intrinsic_dimensionality(points[:3], 3)
