"""ELR's linear model: its gradients, the statements of its section 3, and what CE, ELR and KL end with.

Lemma 2 for the regulariser by itself is in regularizers_test.py.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.figures import elr_theory
from robustjax import backend, losses, regularizers

# As setup a, with fewer examples and dimensions at the same p/n, and twice the step.
SMALL = elr_theory.Setup(dimension=300, examples=360, spread=0.3, flip=0.4, rate=0.2, steps=1500)
TINY = elr_theory.Setup(dimension=20, examples=30, spread=0.5, flip=0.5, rate=0.3, steps=20)
EARLY = elr_theory.EARLY


@pytest.fixture(scope="module")
def runs():
    mixture = elr_theory.sample(SMALL, 0)
    start = elr_theory.initial(SMALL.dimension, 0, blind=True)
    return {name: elr_theory.train(mixture, start, SMALL, method) for name, method in elr_theory.METHODS.items()}


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


# What is learned (Figs. A.1, B.1 and C.1).


def test_cross_entropy_learns_the_truth_and_then_memorizes(runs):
    ce = runs["CE"]
    assert ce["wrong_true"].max() - ce["wrong_true"][-1] > 0.6
    assert ce["wrong_memorized"][-1] > 0.98 and ce["clean_true"][-1] > 0.98
    assert ce["test_accuracy"].max() > ce["test_accuracy"][-1] + 0.1
    # Targets do not help unless they are used (appendix D).
    assert ce["target_accuracy"].max() > ce["target_accuracy"][-1] + 0.1


@pytest.mark.parametrize("name", ["ELR", "ELR, no clip", "ELR, λ = 7, β = 0.9"])
def test_early_learning_regularization_does_not_memorize(runs, name):
    assert runs[name]["wrong_memorized"][-1] < 0.05 and runs[name]["wrong_true"][-1] > 0.95
    assert runs[name]["test_accuracy"][-1] > runs["CE"]["test_accuracy"][-1] + 0.1
    assert runs[name]["target_accuracy"][-1] > 0.98


@pytest.mark.parametrize("name", ["KL, λ = 1", "KL, λ = 5", "KL, λ = 10"])
def test_cross_entropy_to_the_targets_memorizes_at_any_strength(runs, name):
    assert runs[name]["wrong_memorized"][-1] > 0.95
    assert abs(runs[name]["test_accuracy"][-1] - runs["CE"]["test_accuracy"][-1]) < 0.02


def test_coefficients_of_wrong_labels_dominate_unless_regularized(runs):
    ce, elr = runs["CE"], runs["ELR, no clip"]
    assert np.all(ce["clean_fit"] < 0) and np.all(ce["wrong_fit"] > 0)
    assert np.all(ce["wrong_fit_size"][1:] > ce["clean_fit_size"][1:])
    peak = int(np.argmax(ce["wrong_true"]))
    assert ce["wrong_fit_size"][peak] > 2 * ce["clean_fit_size"][peak]
    # Where CE's term of the clean examples has vanished, λg stands in for it, and cancels that of the wrong ones.
    later = slice(40, 80)
    assert np.all(abs(elr["clean_fit"][later]) < 0.05) and np.all(elr["clean_pull"][later] < -0.5)
    assert np.all(abs(elr["wrong_fit"] + elr["wrong_pull"])[later] < 0.2 * elr["wrong_fit"][later])


def test_cross_entropy_to_the_targets_pulls_clean_examples_back(runs):
    assert np.all(runs["KL, λ = 10"]["clean_pull"][5:50] > 0)
    assert np.all(runs["ELR"]["clean_pull"][5:50] < 0)


# Gradients (section 4, Lemma 2 and appendix C).


@pytest.mark.parametrize("name", ["CE", "ELR", "ELR, no clip", "KL, λ = 5"])
def test_coefficients_are_those_of_the_paper(name):
    method, rng = elr_theory.METHODS[name], np.random.default_rng(0)
    logits, targets = rng.normal(0, 2, (50, 2)), 0.9 * softmax(rng.normal(0, 2, (50, 2)))
    given = rng.integers(0, 2, 50)
    logits[:5] = [[20.0, -20.0]] * 5  # outside the clip's limits
    p, t, y = softmax(logits), targets, np.eye(2)[given]
    with backend.enable_x64(True):
        compiled = jax.jit(elr_theory.coefficients, static_argnums=3)
        fit, pull = compiled(jnp.asarray(logits), given, jnp.asarray(targets), method)
    inner = np.sum(p * t, -1, keepdims=True)
    expected = {
        "none": np.zeros_like(p),
        "early_learning": method.strength * p * (inner - t) / (1 - inner),
        "kl": method.strength * (p * t.sum(-1, keepdims=True) - t),
    }[method.regularizer]
    if name == "ELR":
        expected[:5] = 0
    np.testing.assert_allclose(fit, p - y, atol=1e-10)
    np.testing.assert_allclose(pull, expected, atol=1e-10)


@pytest.mark.parametrize("name", ["CE", "ELR", "ELR, no clip", "KL, λ = 5"])
def test_the_step_follows_the_gradient_of_the_mean_loss(name):
    mixture, theta = elr_theory.sample(TINY, 0), elr_theory.initial(TINY.dimension, 0)
    method = elr_theory.METHODS[name]
    with backend.enable_x64(True):

        def mean_loss(theta):
            logits = mixture.inputs @ theta.T
            start = jnp.full((30, 2), 0.0 if method.clip else 0.5)
            probs = regularizers.clipped_probabilities(logits, method.clip)
            targets = regularizers.update_targets(start, probs, method.memory)
            value = jnp.mean(losses.cross_entropy(logits, mixture.given))
            if method.regularizer == "early_learning":
                term = regularizers.early_learning(logits, targets, clip=method.clip)
            else:
                term = regularizers.early_learning_kl(logits, targets)
            return value + method.strength * jnp.mean(term)

        gradient = np.asarray(jax.jit(jax.grad(mean_loss))(theta))
    found = elr_theory.train(mixture, theta, TINY, method)
    after = theta - TINY.rate * gradient
    np.testing.assert_allclose(found["alignment"][:2], [(each[0] - each[1])[0] for each in (theta, after)], atol=1e-10)
    moved = np.linalg.norm(TINY.rate * (gradient[0] - gradient[1]))
    np.testing.assert_allclose(found["distance"][:2], [0, moved], atol=1e-10)


def test_one_vector_form_has_half_the_argument():
    """∇L = (1/2n) Σ x (tanh(θᵀx/2) - ε); the paper prints tanh(θᵀx)."""
    mixture = elr_theory.sample(elr_theory.Setup(5, 20, 0.5, 0.5, 0.1, 0), 0)
    theta, sign = np.random.default_rng(1).normal(size=5), 1 - 2 * mixture.given
    with backend.enable_x64(True):

        def mean_loss(theta):
            logits = jnp.stack([theta, -theta]) / 2 @ mixture.inputs.T
            return jnp.mean(losses.cross_entropy(logits.T, mixture.given))

        gradient = jax.jit(jax.grad(mean_loss))(theta)
    closed = mixture.inputs.T @ (np.tanh(mixture.inputs @ theta / 2) - sign) / 40
    np.testing.assert_allclose(gradient, closed, atol=1e-10)


# Theorems 1, 4 and 6, Propositions 3 and 5.


@pytest.mark.parametrize(("spread", "cosine"), [(0.01, 0.99), (0.1, 0.9), (0.3, 0.7)])
def test_early_gradient_points_to_the_truth(spread, cosine):
    """Proposition 3 (at least 1/6 and a distance of at most 1 until T), and the order of T."""
    record = elr_theory.early(spread)
    ends = elr_theory.early_learning_ends(record)
    assert record["gradient_cosine"][:ends].min() > cosine
    assert record["distance"][: ends + 1].max() < 0.25
    assert 0.09 <= 2 * EARLY.rate * ends <= 1


def test_examples_with_wrong_labels_are_predicted_right_at_first():
    """Theorem 4: from a coin's toss to nearly all at T; how nearly is Φ(θᵀv / σ‖θ‖)."""
    for spread, least in ((0.01, 0.999), (0.03, 0.9), (0.1, 0.6)):
        record = elr_theory.early(spread)
        ends = elr_theory.early_learning_ends(record)
        wrong = round(EARLY.examples * EARLY.flip / 2)
        assert abs(record["wrong_true"][0] - 0.5) < 3 * 0.5 / math.sqrt(wrong)
        assert record["wrong_true"][ends] > least
        population = record["test_accuracy"][ends]
        error = 3 * math.sqrt(population * (1 - population) / wrong) + 0.02  # θ_T depends a little on the sample
        assert abs(record["wrong_true"][ends] - population) < error


def test_coefficients_shrink_on_clean_and_grow_on_wrong_examples():
    """Proposition 5: the mean of (2 (p - y))² changes by more than 0.05 from 0 to T."""
    record = elr_theory.early(0.1)
    ends = elr_theory.early_learning_ends(record)
    change = {
        kind: 4 * (record[f"{kind}_fit_square"][ends] - record[f"{kind}_fit_square"][0]) for kind in ("clean", "wrong")
    }
    assert change["clean"] < -0.05 and change["wrong"] > 0.05
    # The limit σ -> 0, where θᵀx = ±θᵀv = ±0.1 at T; a step passes 0.1 by up to a third.
    assert change["clean"] == pytest.approx(-0.0974, abs=0.04) and change["wrong"] == pytest.approx(0.1024, abs=0.04)


def test_a_start_across_from_the_truth_is_amplified():
    """ELR has no way of its own to tell right from wrong: it keeps what the early predictions are."""
    mixture, theta = elr_theory.sample(SMALL, 0), elr_theory.initial(SMALL.dimension, 0, blind=True)
    theta[:, 0] = [-2, 2]
    assert elr_theory.train(mixture, theta, SMALL, elr_theory.METHODS["ELR"])["test_accuracy"][-1] < 0.1
    assert elr_theory.train(mixture, theta, SMALL, elr_theory.METHODS["CE"])["test_accuracy"].max() > 0.7


@pytest.mark.parametrize(("flip", "share"), [(0.4, 0.85), (0.5, 0.8), (0.8, 0.65)])
def test_given_labels_are_separable_as_often_as_theorem_6_says(flip, share):
    examples, draws = 60, 15
    dimension = math.ceil(share * examples)
    rate = elr_theory.separable_rate(elr_theory.Setup(dimension, examples, 0.3, flip, 0.1, 0), draws)
    bound = elr_theory.separability_bound(examples, dimension, flip)
    error = math.sqrt(max(bound * (1 - bound), 1 / draws) / draws)
    assert bound > 0 and rate >= bound - 3 * error


def test_separability_bound():
    assert elr_theory.separability_bound(3, 2, 1.0) == pytest.approx(1 - 2 * 4 / 8)  # P[Bin(3, ½) ≤ 1] = 4/8
    assert elr_theory.separability_bound(10**6, 10**6 - 10**5, 0.4) == pytest.approx(1)
    assert elr_theory.separability_bound(100, 60, 0.4) < 0


@pytest.mark.parametrize(("examples", "dimension", "count"), [(6, 3, 32), (8, 2, 16), (5, 5, 32)])
def test_separable_labellings_are_as_many_as_cover_counts(examples, dimension, count):
    assert elr_theory.separable_dichotomies(examples, dimension) == count
    points = np.random.default_rng(0).normal(size=(examples, dimension))
    labellings = list(itertools.product((-1, 1), repeat=examples))
    assert sum(elr_theory.separable(points, np.array(signs)) for signs in labellings) == count


# Data, pictures and command line.


def test_mixture():
    setup = elr_theory.Setup(50, 4000, 0.3, 0.4, 0.1, 0)
    mixture = elr_theory.sample(setup, 0)
    signed = np.where(mixture.true == 0, 1, -1)[:, None] * mixture.inputs
    np.testing.assert_allclose(signed.mean(0), np.eye(50)[0], atol=5 * 0.3 / math.sqrt(4000))
    np.testing.assert_allclose(signed.std(0), 0.3, rtol=0.08)
    wrong = mixture.given != mixture.true
    assert wrong.mean() == pytest.approx(0.2, abs=3 * math.sqrt(0.16 / 4000))
    starts = np.array([elr_theory.initial(100, seed) for seed in range(400)])
    differences = starts[:, 0] - starts[:, 1]
    np.testing.assert_allclose(np.linalg.norm(differences, axis=1), 2)
    squares = differences[:, 0] ** 2  # Lemma 7: their mean is 4/p (printed: 2/p)
    assert abs(squares.mean() - 4 / 100) < 3 * stats.sem(squares)
    assert elr_theory.initial(100, 0, blind=True)[0, 0] == 0


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(elr_theory, "SETUPS", {"a": TINY})
    monkeypatch.setattr(
        elr_theory, "METHODS", {k: elr_theory.METHODS[k] for k in ("CE", "ELR", "ELR, no clip", "KL, λ = 5")}
    )
    assert elr_theory.main([f"--out={tmp_path}", "--setup=a", "--seeds=1", "--draws=1"]) == 0
    said = capsys.readouterr().out
    names = [f"{name}_a" for name in ("memorization", "gradients", "cancellation", "kl")] + ["separability"]
    assert all(str(tmp_path / f"{name}.png") in said for name in names)
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    assert len([line for line in said.splitlines() if line.startswith(("CE", "ELR", "KL"))]) == 4


@pytest.mark.parametrize(
    ("argument", "message"), [("--seeds=0", "0 is not at least 1"), ("--draws=-1", "-1 is negative")]
)
def test_bad_arguments_are_refused(tmp_path, capsys, argument, message):
    with pytest.raises(SystemExit):
        elr_theory.main([f"--out={tmp_path}", argument])
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="none, early_learning or kl"):
        elr_theory.objective(jnp.zeros((2, 2)), jnp.zeros(2, int), jnp.zeros((2, 2)), elr_theory.Method("elr"))
    with pytest.raises(ValueError, match="stays below"):
        elr_theory.early_learning_ends({"alignment": np.zeros(4)})
