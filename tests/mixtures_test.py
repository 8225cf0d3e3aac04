"""Mixtures: against scikit-learn and SciPy, against moments, at degenerate data. Beta golden numbers: tests/oracles."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.mixture

from robustjax import backend, mixtures
from tests.oracles.adapters.common import quick_jit

# Sizes of the data and of the mixture are compiled in; how long to fit is traced.
fit = quick_jit(mixtures.fit_gaussian_mixture, static_argnames=("components",))
fit_beta = quick_jit(mixtures.fit_beta_mixture)
posterior_of = quick_jit(mixtures.gaussian_posterior)
clean_probability = quick_jit(mixtures.clean_probability)
noise_probability = quick_jit(mixtures.beta_noise_probability)


def two_heaps(gap, share=0.3, size=600, seed=0):
    """Losses of right and of wrong labels, from 0 to 1, and which are wrong; `gap` in standard deviations."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(size) < share
    values = rng.normal(0, np.where(wrong, 1.5, 1.0)) + gap * wrong
    return np.asarray(mixtures.min_max(values.astype(np.float32))), wrong


def reference(values, components=2, **options):
    settings = {"max_iter": 10, "tol": 1e-2, "reg_covar": 5e-4, "random_state": 0, "n_init": 1} | options
    model = sklearn.mixture.GaussianMixture(components, **settings)
    values = np.asarray(values, np.float64)[:, None]
    with np.errstate(all="ignore"):
        model.fit(values)
    order = np.argsort(model.means_[:, 0])
    return model, order, model.predict_proba(values)[:, order]


def test_examples():
    assert doctest.testmod(mixtures).failed == 0


GAPS = [(8, 10, 1e-2), (3, 10, 1e-2), (1.5, 10, 1e-2), (3, 60, 1e-6), (1.5, 60, 1e-6)]


def equal_to(model, order, mixture, **tolerance):
    np.testing.assert_allclose(mixture.means, model.means_[order, 0], **tolerance)
    np.testing.assert_allclose(mixture.variances, model.covariances_[order, 0, 0], **tolerance)
    np.testing.assert_allclose(mixture.weights, model.weights_[order], **tolerance)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("gap", "steps", "tolerance"), GAPS)
def test_equals_scikit_learn_from_the_same_start(gap, steps, tolerance):
    values, _ = two_heaps(gap)
    start = jax.tree.map(np.asarray, fit(values, max_steps=0))
    model, order, posterior = reference(
        values, max_iter=steps, tol=tolerance, weights_init=start.weights / start.weights.sum(dtype=float),
        means_init=start.means[:, None], precisions_init=1 / start.variances[:, None, None],
    )  # fmt: skip
    mixture = fit(values, max_steps=steps, tolerance=tolerance)
    equal_to(model, order, mixture, atol=2e-4)
    np.testing.assert_allclose(mixture.log_likelihood, model.lower_bound_, atol=1e-5)
    np.testing.assert_allclose(posterior_of(mixture, values), posterior, atol=1e-3)
    if tolerance == 1e-2:
        assert mixture.steps == model.n_iter_
        np.testing.assert_array_equal(clean_probability(values) > 0.5, posterior[:, 0] > 0.5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("gap", "steps", "tolerance"), GAPS)
def test_agrees_with_scikit_learn_from_its_own_start(gap, steps, tolerance):
    values, wrong = two_heaps(gap)
    model, order, posterior = reference(values, max_iter=steps, tol=tolerance)
    mixture = fit(values, max_steps=steps, tolerance=tolerance)
    equal_to(model, order, mixture, atol=1e-2)
    found = np.asarray(posterior_of(mixture, values))
    np.testing.assert_allclose(found, posterior, atol=2e-2)
    assert np.mean((found[:, 0] > 0.5) != (posterior[:, 0] > 0.5)) <= 0.01
    if gap == 8:
        np.testing.assert_array_equal(found[:, 0] > 0.5, ~wrong)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_three_components_equal_scikit_learn():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(m, 0.05, 200) for m in (0.1, 0.5, 0.9)]).astype(np.float32)
    model, order, posterior = reference(values, 3)
    mixture = fit(values, components=3)
    np.testing.assert_allclose(mixture.means, model.means_[order, 0], atol=1e-4)
    np.testing.assert_allclose(posterior_of(mixture, values), posterior, atol=1e-3)


def test_one_component_has_the_moments():
    values = np.random.default_rng(0).exponential(2, 500).astype(np.float32)
    mixture = fit(values, components=1)
    np.testing.assert_allclose(mixture.means[0], values.mean(), rtol=1e-5)
    np.testing.assert_allclose(mixture.variances[0], values.var() + 5e-4, rtol=1e-4)
    expected = scipy.stats.norm(mixture.means[0], np.sqrt(mixture.variances[0])).logpdf(values).mean()
    np.testing.assert_allclose(mixture.log_likelihood, expected, rtol=1e-4)


def test_every_step_raises_the_likelihood():
    values, _ = two_heaps(2)
    found = [float(fit(values, max_steps=n, tolerance=0.0, regularization=1e-9).log_likelihood) for n in range(1, 9)]
    assert (np.diff(found) > -1e-5).all() and found[-1] > found[0]


def test_weights_are_copies_and_masks():
    values, _ = two_heaps(3, size=80)
    copies = np.random.default_rng(1).integers(0, 4, 80)
    repeated, weighted = fit(np.repeat(values, copies)), fit(values, copies)
    for name in ("weights", "means", "variances", "log_likelihood", "steps"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-3, err_msg=name)
    # What is left out may be anything, even not a number, and still gets a probability if it is one.
    spoiled = np.where(copies > 0, values, np.where(np.arange(80) % 2, np.nan, 1e9)).astype(np.float32)
    jax.tree.map(np.testing.assert_array_equal, fit(spoiled, copies), weighted)
    clean = clean_probability(spoiled, copies)
    expected = clean_probability(np.repeat(values, copies))[np.cumsum(copies) - 1]
    np.testing.assert_allclose(clean[copies > 0], expected[copies > 0], atol=1e-3)


def test_jit_and_vmap_change_nothing():
    batch = np.stack([two_heaps(gap, seed=s, size=100)[0] for s, gap in enumerate((1.0, 3.0, 9.0))])
    masks = np.random.default_rng(0).random(batch.shape) < 0.8
    functions = {mixtures.fit_gaussian_mixture: 1e-4, mixtures.fit_beta_mixture: 1e-3}
    for function, tolerance in functions.items():
        rows = [function(v, m) for v, m in zip(batch, masks, strict=True)]
        together = quick_jit(jax.vmap(function))(batch, masks)
        jax.tree.map(
            lambda t, *r, tol=tolerance: np.testing.assert_allclose(t, np.stack(r), rtol=tol, atol=tol), together, *rows
        )
        if function is mixtures.fit_gaussian_mixture:
            assert len(set(together.steps.tolist())) > 1  # each stops by itself


DEGENERATE = {
    "constant": (np.full(20, 0.7), None),
    "constant_zero": (np.zeros(20), None),
    "one": (np.array([3.0]), None),
    "two": (np.array([0.0, 1.0]), None),
    "one_outlier": (np.array([0.0] * 50 + [1.0]), None),
    "two_values": (np.array([0.0, 1.0] * 10), None),
    "huge": (np.array([0.0, 1.0, 1e6, 1e6 + 1]), None),
    "none": (np.array([0.3, 0.6, 0.9]), np.zeros(3)),
    "one_left": (np.array([0.3, 0.6, 0.9]), np.array([0, 1, 0])),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("components", [2, 5])
def test_degenerate_data_is_finite(name, components):
    values, weights = DEGENERATE[name]
    weights = np.ones(len(values)) if weights is None else weights
    values, weights = (np.pad(x, (0, 51 - len(x))).astype(np.float32) for x in (values, weights))
    mixture = fit(values, weights, components=components)
    posterior = posterior_of(mixture, values)
    beta = fit_beta(values, weights)
    noisy = noise_probability(beta, np.linspace(0, 1, 11))
    for x in (mixture.weights, mixture.means, mixture.variances, posterior, *beta, noisy):
        assert np.isfinite(x).all()
    np.testing.assert_allclose([mixture.weights.sum(), beta.weights.sum()], 1, rtol=1e-5)
    np.testing.assert_allclose(posterior.sum(-1), 1, rtol=1e-5)
    assert (np.diff(mixture.means) >= 0).all() and (mixture.variances >= 5e-4 * 0.999).all()
    assert (noisy >= 0).all() and (noisy <= 1).all()


def test_a_single_value():
    mixture = fit(jnp.array([3.0]))
    np.testing.assert_allclose(posterior_of(mixture, jnp.array([3.0, 4.0])), [[1, 0], [1, 0]])
    assert np.isfinite(jnp.stack(fit_beta(jnp.array([3.0])))).all()


def test_what_equal_losses_and_outliers_say():
    np.testing.assert_array_equal(clean_probability(np.full(9, 2.5, np.float32)), 1)
    clean = np.asarray(clean_probability(np.array([0.0] * 50 + [40.0], np.float32)))
    assert (clean[:50] > 0.99).all() and clean[50] < 0.01
    np.testing.assert_allclose(clean_probability(np.float32([1, 2]), np.zeros(2)), 0.5)
    np.testing.assert_array_equal(mixtures.min_max(np.float32([2, 4, 9, 3]), np.array([1, 1, 0, 1])), [0, 1, 3.5, 0.5])


def test_float64_stays_and_float16_is_widened():
    values, _ = two_heaps(3, size=100)
    assert fit(jnp.asarray(values, jnp.bfloat16)).means.dtype == jnp.float32
    with backend.enable_x64(True):
        precise = fit(values.astype(np.float64))
        assert precise.means.dtype == jnp.float64
    np.testing.assert_allclose(fit(values).means, precise.means, rtol=1e-4)


def test_large_samples_keep_their_digits():
    values, _ = two_heaps(3, size=50_000)
    model, order, posterior = reference(values)
    np.testing.assert_allclose(fit(values).means, model.means_[order, 0], atol=1e-3)
    assert np.mean((clean_probability(values) > 0.5) != (posterior[:, 0] > 0.5)) < 2e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixtures.fit_gaussian_mixture(jnp.zeros((2, 3))), r"shape \[N\].*\(2, 3\)"),
        (lambda: mixtures.fit_gaussian_mixture(jnp.zeros(0)), r"N >= 1"),
        (lambda: mixtures.fit_gaussian_mixture(jnp.zeros(3), jnp.ones(2)), r"weights must have the shape"),
        (lambda: mixtures.fit_gaussian_mixture(jnp.zeros(3), -jnp.ones(3)), "weights must be finite and not negative"),
        (lambda: mixtures.fit_gaussian_mixture(jnp.zeros(3), components=0), "components must be at least 1, got 0"),
        (lambda: mixtures.fit_gaussian_mixture(jnp.zeros(3), regularization=0), "regularization must be positive"),
        (lambda: mixtures.fit_beta_mixture(jnp.zeros(3), max_steps=-1), "max_steps must be at least 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Beta mixtures.


def test_beta_mixture_finds_its_parameters():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.beta(2, 10, 7000), rng.beta(12, 3, 3000)]).astype(np.float32)
    mixture = fit_beta(values, max_steps=30)
    np.testing.assert_allclose(mixture.weights, [0.7, 0.3], atol=0.02)
    np.testing.assert_allclose(mixture.alphas, [2, 12], rtol=0.1)
    np.testing.assert_allclose(mixture.betas, [10, 3], rtol=0.1)
    density = [scipy.stats.beta(a, b).pdf(values) for a, b in zip(mixture.alphas, mixture.betas, strict=True)]
    joint = np.asarray(mixture.weights)[:, None] * density
    posterior = quick_jit(mixtures.beta_posterior)(mixture, values)
    np.testing.assert_allclose(posterior, (joint / joint.sum(0)).T, atol=1e-4)
    noisy = np.asarray(noise_probability(mixture, values))
    assert np.mean((noisy > 0.5) == (np.arange(10_000) >= 7000)) > 0.98


def test_noise_probability_does_not_fall_again():
    # The second component ends before 1, the first is wide: its posterior alone would call the largest losses clean.
    mixture = mixtures.BetaMixture(jnp.array([0.6, 0.4]), jnp.array([1.0, 30.0]), jnp.array([1.0, 20.0]))
    assert mixtures.beta_posterior(mixture, jnp.float32(0.99))[1] < 0.01
    table = np.asarray(mixtures.beta_noise_table(mixture))
    assert table.shape == (100,) and (table[table.argmax() :] == table.max()).all() and table.max() > 0.5
    values = jnp.array([-0.1, 0.0, 0.6, 0.999, 1.0, 1.7])
    np.testing.assert_allclose(noise_probability(mixture, values), table[[0, 0, 60, 99, 99, 99]], rtol=1e-5)


def test_beta_weights_are_copies():
    values, _ = two_heaps(3, size=80)
    copies = np.random.default_rng(1).integers(0, 4, 80)
    weighted, repeated = fit_beta(values, copies), fit_beta(np.repeat(values, copies))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3), weighted, repeated)


# --- Each class by itself: ROLT+ ------------------------------------------------------------------------------------


def blobs():
    """Features of 60, 30 and 8 examples of three classes, of which directions alone tell, 30 % of the labels wrong."""
    rng = np.random.default_rng(5)
    true = np.repeat(np.arange(3), (60, 30, 8))
    wrong = rng.random(len(true)) < 0.3
    labels = np.where(wrong, (true + 1) % 3, true)
    directions = np.eye(3, 4)[true] + 0.1 * rng.normal(size=(len(true), 4))
    return (rng.uniform(1, 2, (len(true), 1)) * directions + 5).astype(np.float32), labels, wrong


def by_hand_distances(features, labels, counts):
    centred = features - features.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    prototypes = np.stack([unit[(labels == c) & counts].mean(0) for c in range(3)])
    return np.sum((unit - prototypes[labels]) ** 2, 1)


def test_prototypes_are_of_centred_directions():
    features, labels, _ = blobs()
    distances = quick_jit(mixtures.prototype_distances, static_argnames=("num_classes",))
    everyone, some = np.ones(len(labels), bool), np.arange(len(labels)) % 2 > 0
    np.testing.assert_allclose(
        distances(features, labels, num_classes=3, weights=everyone), by_hand_distances(features, labels, everyone),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    found = distances(features, labels, num_classes=3, weights=some)
    np.testing.assert_allclose(found, by_hand_distances(features, labels, some), rtol=1e-4, atol=1e-6)
    # Of a class in which none counts all do; a class that no label names, and features at the mean, do no harm.
    none_of_last = some & (labels != 2)
    wanted = by_hand_distances(features, labels, none_of_last | (labels == 2))
    found = distances(features, labels, num_classes=4, weights=none_of_last)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert np.isfinite(distances(np.ones_like(features), labels, num_classes=3)).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_class_has_a_mixture_of_its_own():
    """As scikit-learn fits each, and in a class of small values throughout the larger ones are suspects too."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), (80, 40))
    wrong = rng.random(120) < 0.3
    values = ((np.where(wrong, 0.7, 0.2) + 0.05 * rng.normal(size=120)) * np.where(labels == 0, 1, 0.05)).astype(
        np.float32
    )
    found = quick_jit(mixtures.class_clean_probability, static_argnames=("num_classes",))(values, labels, num_classes=3)
    for which in range(2):
        own = values[labels == which]
        own = (own - own.min()) / (own.max() - own.min())
        _, _, posterior = reference(own, max_iter=100, tol=1e-3, reg_covar=1e-6)
        np.testing.assert_allclose(found[labels == which], posterior[:, 0], atol=1e-2)
    assert ((np.asarray(found) < 0.5) == wrong).mean() > 0.95
    together = np.asarray(clean_probability(values)) < 0.5
    assert not together[labels == 1].any()  # by one mixture for all, no label of the second class is suspect


@pytest.mark.parametrize("seed", range(6))
def test_labels_of_a_class_of_two_or_three_are_right(seed):
    """Two examples are as far from their mean, up to rounding, and to three two Gaussians can be fitted in any way."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), (30, 2, 3))
    features = (3 * np.eye(3, 8)[labels] + rng.normal(size=(35, 8))).astype(np.float32)
    find = quick_jit(mixtures.prototype_clean_probability, static_argnames=("num_classes",))
    np.testing.assert_array_equal(find(features, labels, num_classes=3)[30:], 1)


def test_what_rounding_has_parted_is_equal():
    values = np.float32([0.3, np.nextafter(np.float32(0.3), np.float32(1))])
    np.testing.assert_array_equal(mixtures.min_max(values), [0, 0])
    np.testing.assert_allclose(mixtures.min_max(np.float32([0.3, 0.300003])), [0, 1])


def test_prototypes_find_the_wrong_labels_of_a_rare_class():
    features, labels, wrong = blobs()
    found = quick_jit(mixtures.prototype_clean_probability, static_argnames=("num_classes",))
    suspects = np.asarray(found(features, labels, num_classes=3)) < 0.5
    assert (suspects == wrong).mean() > 0.95


def test_small_values_are_never_the_second_components():
    """A wide second component is denser than the first near 0; M-DYR's own table says 1 everywhere."""
    mixture = mixtures.BetaMixture(*map(jnp.asarray, ([0.65, 0.35], [2.2, 1.1], [9.1, 0.96])))
    assert mixtures.beta_posterior(mixture, jnp.asarray(0.0))[1] > 0.99
    assert np.asarray(mixtures.beta_noise_table(mixture)).min() > 0.99
    table = np.asarray(mixtures.beta_noise_table(mixture, form="bounded"))
    mean = 2.2 / (2.2 + 9.1)
    assert table[0] == pytest.approx(float(mixtures.beta_posterior(mixture, jnp.asarray(mean))[1]), rel=1e-3)
    assert table[:20].max() < 0.2 and table[-1] > 0.99
