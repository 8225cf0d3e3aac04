"""Selection: small losses, their exchange, weights and rates. Golden numbers are in tests/oracles."""

import doctest
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import losses, selection

RNG = np.random.default_rng(0)


def test_examples():
    assert doctest.testmod(selection).failed == 0


def test_keep_count_is_exact_for_rates_in_percent():
    totals = jnp.arange(1, 300)
    for percent in range(0, 100, 5):
        exact = [(100 - percent) * n // 100 or n for n in range(1, 300)]
        np.testing.assert_array_equal(selection.keep_count(percent / 100, totals), exact)
    assert selection.keep_count(0.5, 0) == 0
    with pytest.raises(ValueError, match=r"forget must be in \[0, 1\), got 1"):
        selection.keep_count(1, 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=8, max_size=8), st.integers(0, 10))
def test_small_losses_are_the_first_of_a_stable_sort(drawn, count):
    values, mask = (np.array(column) for column in zip(*drawn, strict=True))
    chosen = np.asarray(selection.small_losses(values.astype(np.float32), count, mask))
    places = np.flatnonzero(mask)
    expected = places[np.argsort(values[places], kind="stable")][:count]
    assert sorted(expected) == np.flatnonzero(chosen).tolist()


def test_small_losses_at_corners():
    values = jnp.array([jnp.nan, jnp.inf, 1.0, 0.5])
    mask = jnp.array([1, 1, 0, 1])
    # Padding is never chosen, not even before an infinite loss; NaN comes last.
    for count, expected in [(0, []), (1, [3]), (2, [1, 3]), (3, [0, 1, 3]), (9, [0, 1, 3])]:
        assert np.flatnonzero(selection.small_losses(values, count, mask)).tolist() == expected
    assert not selection.small_losses(values, 2, jnp.zeros(4)).any()
    assert selection.small_losses(values, 4).all()


def test_small_losses_of_rows_and_a_traced_count():
    values = RNG.normal(size=(3, 7)).astype(np.float32)
    counts = np.array([0, 3, 6])
    rows = np.stack([selection.small_losses(v, n) for v, n in zip(values, counts, strict=True)])
    np.testing.assert_array_equal(selection.small_losses(values, counts), rows)
    np.testing.assert_array_equal(jax.jit(selection.small_losses)(values, counts), rows)
    np.testing.assert_array_equal(jax.vmap(selection.small_losses)(values, counts), rows)


def test_networks_learn_from_each_others_choice():
    values = jnp.array([[0.0, 1, 2, 3, 9], [3.0, 2, 1, 0, 9]])
    share, strength = selection.exchange_small_losses(values, 0.5, jnp.array([1, 1, 1, 1, 0]))
    assert share.tolist() == [[False, False, True, True, False], [True, True, False, False, False]]
    assert strength == 1
    assert selection.exchange_small_losses(values, 0.5, jnp.array([1, 1, 1, 1, 0]), form="code").strength == 0.5
    # Nothing to choose from: nothing chosen, and a strength that is finite.
    empty = selection.exchange_small_losses(values, 0.5, jnp.zeros(5), form="code")
    assert not empty.share.any() and np.isfinite(empty.strength)


def test_exchange_under_jit_and_without_gradient():
    values = jnp.asarray(RNG.exponential(size=(2, 12)), jnp.float32)
    eager = selection.exchange_small_losses(values, 0.3)
    traced = jax.jit(lambda v, f: selection.exchange_small_losses(v, f))(values, 0.3)
    jax.tree.map(np.testing.assert_array_equal, eager, traced)

    def loss(v):
        chosen = selection.exchange_small_losses(v, 0.3)
        return jnp.average(v[0], weights=chosen.share[0].astype(jnp.float32))

    np.testing.assert_allclose(
        jax.grad(loss)(values)[0], np.asarray(eager.share[0]) / np.count_nonzero(eager.share[0]), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selection.exchange_small_losses(jnp.zeros((3, 4)), 0.2), r"shape \[2, B\].*\(3, 4\)"),
        (lambda: selection.exchange_small_losses(jnp.zeros((2, 4)), 0.2, form="both"), "form='both' is none of"),
        (lambda: selection.noise_rate_from_agreement(1.5, 10), "agreement must be in"),
        (lambda: selection.noise_rate_from_agreement(0.5, 1), "num_classes must be at least 2"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_disagreement():
    logits = jnp.array([[[1.0, 0], [1, 0], [0, 1]], [[2.0, 1], [0, 5], [0, 1]], [[0.0, 1], [1, 0], [0, 1]]])
    assert selection.disagreement(logits).tolist() == [True, True, False]
    assert selection.disagreement(logits[:2]).tolist() == [False, True, False]


def test_exchange_finds_the_clean_examples():
    """Two classifiers that know the truth, each a little differently, choose hardly any wrong label for each other."""
    truth = RNG.integers(10, size=400)
    wrong = RNG.random(400) < 0.4
    labels = np.where(wrong, (truth + RNG.integers(1, 10, 400)) % 10, truth)
    logits = 4 * np.eye(10)[truth] + RNG.normal(0, 1, (2, 400, 10))
    values = losses.cross_entropy(logits, np.stack([labels] * 2))
    share, _ = selection.exchange_small_losses(values, wrong.mean())
    assert np.all(np.asarray(share).sum(1) == (~wrong).sum())
    assert np.mean(wrong[np.asarray(share[0])]) < 0.05


def test_descent_weights():
    np.testing.assert_allclose(selection.descent_weights(jnp.array([-1.0, 1, -3, 0])), [0.25, 0, 0.75, 0])
    np.testing.assert_array_equal(selection.descent_weights(jnp.array([1.0, 0])), 0)
    with pytest.raises(TypeError):
        selection.descent_weights(jnp.array([1, 2]))


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_noise_rate_inverts_agreement(num_classes):
    rates = np.linspace(0, 0.4, 41, dtype=np.float32)
    agreement = (1 - rates) ** 2 + rates**2 / (num_classes - 1)
    found = jax.jit(selection.noise_rate_from_agreement, static_argnums=1)(agreement, num_classes)
    np.testing.assert_allclose(found, rates, atol=1.01e-3)
    # Lower than any rate explains: the rate that explains the least.
    least = selection.noise_rate_from_agreement(0.0, num_classes)
    np.testing.assert_allclose(least, min((num_classes - 1) / num_classes, 0.999), atol=1e-3)


# Loss ranks. Their properties under Dynamic Loss's sampling are in dynamic_loss_test.py.


def test_ranks_and_sampling_against_loops():
    labels = np.array([*range(4), *RNG.integers(4, size=60)])
    values = RNG.permutation(64).astype(np.float32)
    counts = np.bincount(labels)
    ranks = np.asarray(selection.loss_ranks(values, labels, jnp.asarray(selection.rank_bins(counts, 5))))
    primary = np.asarray(selection.sample_primary(jax.random.key(0), jnp.asarray(labels), 6, 4))
    chosen = np.asarray(selection.select_meta(values, jnp.asarray(labels), jnp.asarray(primary), 2, 4))
    for i, c in itertools.product(range(64), range(4)):
        if labels[i] == c:
            smaller = np.sum((values < values[i]) & (labels == c))
            assert ranks[i] == smaller * 5 // counts[c]
            lower = np.sum((values < values[i]) & (labels == c) & primary)
            assert chosen[i] == (primary[i] and lower < 2)
    assert (np.bincount(labels[primary], minlength=4) == np.minimum(counts, 6)).all()
    assert selection.sampling_sizes(10, 0.5, 0.25) == (5, 2) and selection.sampling_sizes(1, 0.5, 0.25) == (1, 1)
