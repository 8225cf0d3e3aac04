"""HAR's theory: the weighted spline's kernel, bias, variance and best weights; Theorem 1 simulated; Figs. 1 and 3."""

import math

import jax
import numpy as np
import pytest
from scipy import linalg

from experiments.figures import har_theory


def smooth_problem(elements):
    """A density, an information and a ρ that vary smoothly, and an f* that is flat at both ends."""
    x = har_theory.midpoints(elements)
    q, information = 1 + 0.5 * np.cos(np.pi * x), 0.2 + 0.05 * np.cos(2 * np.pi * x)
    curve = np.cos(2 * np.pi * har_theory.nodes(elements))
    return har_theory.Spline(curve, q, information, information), 0.5 + x**2 * (3 - 2 * x)


def dense(banded):
    return np.diag(banded[1]) + np.diag(banded[0, 1:], 1) + np.diag(banded[0, 1:], -1)


def inverse(problem, penalty):
    """The inverse of the smoother's matrix, by its definition."""
    weight = har_theory.mass(problem.density * problem.curvature)
    return np.linalg.inv(np.diag(weight) + dense(har_theory.stiffness(penalty)))


# The spline to first order.


def test_element_matrices_integrate():
    rng = np.random.default_rng(0)
    weight, f = rng.uniform(1, 2, 8), rng.normal(size=9)
    slopes = np.diff(f) * 8
    stiffness = har_theory.stiffness(weight)
    assert f @ har_theory.multiply(stiffness, f) == pytest.approx(np.mean(weight * slopes**2))
    np.testing.assert_allclose(har_theory.multiply(stiffness, f), dense(stiffness) @ f)
    assert har_theory.mass(weight).sum() == pytest.approx(weight.mean())


@pytest.mark.parametrize("strength", [1e-4, 1e-5, 1e-6])
def test_equivalent_kernel(strength):
    problem, rho = smooth_problem(4000)
    for node in (800, 2000, 3200):
        system = har_theory.stiffness(strength * rho)
        system[1] += har_theory.mass(problem.density * problem.curvature)
        column = linalg.solveh_banded(system, np.eye(4001)[node])
        difference = column - har_theory.equivalent_kernel(problem, strength * rho, node)
        assert np.linalg.norm(difference) < 0.01 * np.linalg.norm(column)


@pytest.mark.parametrize(("strength", "tolerance"), [(1e-5, 0.1), (1e-6, 0.02), (1e-7, 0.002)])
def test_bias(strength, tolerance):
    """E f̂ - f* ≈ μ (ρ f*')' / (qI), the derivatives written out."""
    problem, rho = smooth_problem(4000)
    t, x = har_theory.nodes(4000), har_theory.midpoints(4000)
    weight, bias = har_theory.mass(np.ones(4000)), har_theory.bias(problem, strength * rho)
    slope, bend = -2 * np.pi * np.sin(2 * np.pi * t), -4 * np.pi**2 * np.cos(2 * np.pi * t)
    information = np.interp(t, x, problem.density * problem.curvature)
    formula = strength * ((6 * t - 6 * t**2) * slope + (0.5 + t**2 * (3 - 2 * t)) * bend) / information
    assert weight @ bias**2 == pytest.approx(weight @ formula**2, rel=tolerance)
    assert np.corrcoef(bias, formula)[0, 1] > 0.999
    assert har_theory.asymptotic_risk(problem, strength * rho, 1).bias == pytest.approx(weight @ formula**2, rel=1e-3)


def test_variance():
    problem, rho = smooth_problem(1000)
    found = har_theory.variance(problem, 1e-5 * rho, examples=10)
    at = np.array([200, 500, 800])
    formula = 1 / (40 * np.sqrt(1e-5 * rho * problem.density * problem.curvature))
    np.testing.assert_allclose(found[at], formula[at], rtol=0.01)
    integral = har_theory.asymptotic_risk(problem, 1e-5 * rho, 10).variance
    assert integral == pytest.approx(formula.mean()) and integral == pytest.approx(found.mean(), rel=0.02)


def test_variance_in_linear_time_is_that_of_the_inverse():
    problem, rho = smooth_problem(60)
    problem = problem._replace(variance=np.linspace(1, 3, 60))  # not the curvature's multiple
    expected = inverse(problem, 1e-3 * rho) ** 2 @ har_theory.mass(problem.density * problem.variance) / 7
    np.testing.assert_allclose(har_theory.variance(problem, 1e-3 * rho, 7), expected, rtol=1e-9)


def test_theorem_1_needs_flat_ends():
    """A layer at each end makes the bias of sin 2πt, f*' ≠ 0 there, many times that of the formula."""
    ratios = {}
    for name, curve in (("cos", np.cos), ("sin", np.sin)):
        ones = np.ones(2000)
        problem = har_theory.Spline(curve(2 * np.pi * har_theory.nodes(2000)), ones, ones, ones)
        for strength in (1e-4, 1e-5):
            found = har_theory.exact_risk(problem, strength * ones, 1).bias
            ratios[name, strength] = found / (strength**2 * 16 * np.pi**4 / 2)
    assert ratios["cos", 1e-4] == pytest.approx(0.992, abs=0.002) and ratios["cos", 1e-5] > 0.999
    assert ratios["sin", 1e-4] == pytest.approx(5.9, rel=0.02) and ratios["sin", 1e-5] == pytest.approx(17, rel=0.04)


# The best weights.


def asymptotic_optimum(problem, rho, examples=10**6):
    strength = har_theory.best_strength(problem, rho, examples)
    return har_theory.asymptotic_risk(problem, strength * rho, examples).total


def test_best_strength_is_best():
    problem, rho = smooth_problem(400)
    best, strength = asymptotic_optimum(problem, rho), har_theory.best_strength(problem, rho, 10**6)
    for factor in (0.9, 1.1):
        assert har_theory.asymptotic_risk(problem, factor * strength * rho, 10**6).total > best
    # 5 B^{1/5} (V/4n)^{4/5}
    at_one = har_theory.asymptotic_risk(problem, rho, 10**6)
    assert best == pytest.approx(5 * at_one.bias**0.2 * (at_one.variance / 4) ** 0.8)
    assert har_theory.least_risk(problem, rho, 10**6) == pytest.approx(best, rel=0.1)


@pytest.mark.parametrize(("problem_of", "power"), [(har_theory.classification, 0.6), (har_theory.regression, 0.4)])
def test_best_exponents_of_the_formula(problem_of, power):
    """ρ ∝ q^{3/5} I^{3/5}, and (σ²)^{2/5} q^{3/5} in regression; f*'' varies alike in all groups."""
    problem = problem_of(8000)  # so fine since a border's jump costs something on a coarse grid
    exponents = np.linspace(0, 1.2, 25)
    for name, rho_of in (
        ("q", lambda a: problem.density**a * problem.variance**power),
        ("noise", lambda b: problem.density**0.6 * problem.variance**b),
    ):
        risks = np.array([asymptotic_optimum(problem, rho_of(each)) for each in exponents])
        assert har_theory.minimum(exponents, risks) == pytest.approx(0.6 if name == "q" else power, abs=0.01)


@pytest.mark.parametrize(("problem_of", "power"), [(har_theory.classification, 0.6), (har_theory.regression, 0.4)])
def test_best_exponents_of_the_spline_itself(problem_of, power):
    """At n = 10^7, by solving the smoothing problem; at 10^5 the exponents are 0.49 to 0.55 for 0.6."""
    problem = problem_of(1600)
    for exponents_at, best in ((lambda a: (a, power), 0.6), (lambda b: (0.6, b), power)):
        tried = best + np.array([-0.3, -0.2, -0.1, 0, 0.1])
        risks = har_theory.risk_by_exponents(problem, problem.variance, [exponents_at(each) for each in tried], 10**7)
        assert har_theory.minimum(tried, risks) == pytest.approx(best, abs=0.06)
        assert risks.min() < 0.9  # of the best uniform penalty's


@pytest.mark.parametrize(
    ("density", "information", "gain"),
    [(4, 1, 0.950), (10, 1, 0.928), (1, 4, 0.950), (10, 4, 0.936), (10, 1 / 4, 0.971)],
)
def test_gain_over_the_best_uniform_penalty(density, information, gain):
    problem = har_theory.grouped([density, 1], [information, 1], [information, 1], 4000)
    adaptive = asymptotic_optimum(problem, (problem.density * problem.curvature) ** 0.6)
    assert adaptive / asymptotic_optimum(problem, np.ones(4000)) == pytest.approx(gain, abs=0.003)


def test_weights_for_sampled_points_do_not_serve_under_the_integral():
    """τ = I^{3/5} q^{-2/5} goes with Σ τ f'(x_i)²; as ρ it is worse than no weights."""
    problem = har_theory.grouped([10, 1], [1, 1], [1, 1], 4000)
    uniform = asymptotic_optimum(problem, np.ones(4000))
    assert asymptotic_optimum(problem, problem.density**-0.4) > 1.08 * uniform
    x = np.linspace(0.01, 0.99, 50)
    ratio = har_theory.toy_weights(x, sampled=False) / (
        har_theory.toy_weights(x, sampled=True) * har_theory.toy_density(x)
    )
    np.testing.assert_allclose(ratio, ratio[0])


# Theorem 1 by simulation.


def test_logistic_fit_minimises_eq_3():
    problem = har_theory.logistic_problem(40)
    rng, rho = np.random.default_rng(0), np.linspace(1, 2, 40)
    x, y = har_theory.sample_logistic(problem, 300, rng)
    found = har_theory.fit_logistic(x, y, 0.003, rho)

    def objective(f):
        loss = np.mean(np.log1p(np.exp(-y * np.interp(x, har_theory.nodes(40), f))))
        return loss + 0.003 * np.mean(rho * (np.diff(f) * 40) ** 2)

    least = objective(found)
    for _ in range(20):
        step = 1e-3 * rng.normal(size=41)
        assert objective(found + step) > least
        assert abs(objective(found + step) - objective(found - step)) < 1e-8  # a stationary point


def test_sampled_inputs_and_labels_follow_their_law():
    problem = har_theory.logistic_problem()
    x, y = har_theory.sample_logistic(problem, 40_000, np.random.default_rng(0))
    assert np.mean(x < 0.5) == pytest.approx(0.5 + 0.8 / np.pi, abs=4 * 0.5 / 200)
    near = abs(x - 0.5) < 0.05
    expected = np.mean(1 / (1 + np.exp(-np.interp(x[near], har_theory.nodes(400), problem.curve))))
    assert np.mean(y[near] == 1) == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(near.sum()))
    information = har_theory.information(problem)
    assert np.all((information > 0) & (information <= 0.25)) and set(y) == {-1, 1}


@pytest.mark.parametrize("name", har_theory.logistic_rhos(har_theory.logistic_problem()))
def test_simulated_risk_is_theorem_1s(name):
    problem = har_theory.logistic_problem()
    smoother, rho = har_theory.as_spline(problem), har_theory.logistic_rhos(problem)[name]
    strength = har_theory.best_strength(smoother, rho, 8000)
    found, error = har_theory.simulated_risk(problem, strength / 2, rho, 8000, replicates=80)
    assert error < 0.08 * found
    assert 0.85 < found / har_theory.asymptotic_risk(smoother, strength * rho, 8000).total < 1.15


def test_strength_is_twice_lambda():
    """Where bias rules, λ in the place of μ = 2λ is far off. (There the limit itself is not reached at this n.)"""
    problem = har_theory.logistic_problem()
    smoother, rho = har_theory.as_spline(problem), np.ones(400)
    strength = 4 * har_theory.best_strength(smoother, rho, 32_000)
    found, _ = har_theory.simulated_risk(problem, strength / 2, rho, 32_000, replicates=25)
    assert found == pytest.approx(har_theory.exact_risk(smoother, strength * rho, 32_000).total, rel=0.25)
    assert found > 1.5 * har_theory.exact_risk(smoother, strength / 2 * rho, 32_000).total


# Fig. 3.


@pytest.fixture(scope="module")
def toy_errors():
    """Errors in the left and the right half by fit, means over two seeds: coarser and shorter than in the figure."""
    inputs, grid = har_theory.nodes(1000), np.linspace(0, 1, 101)
    weights = har_theory.toy_weights(grid, sampled=False)
    strengths = np.stack([size * (weights if har else np.ones(101)) for size, har in har_theory.TOY_FITS.values()])
    errors = [
        har_theory.toy_errors(
            har_theory.fit_toy(har_theory.sample_toy(seed), strengths, grid, seed, steps=1500)(inputs), inputs
        )
        for seed in (0, 1)
    ]
    return dict(zip(har_theory.TOY_FITS, np.mean(errors, 0), strict=True))


@pytest.mark.exhaustive
def test_adaptive_penalty_beats_every_uniform_one(toy_errors):
    adaptive = toy_errors.pop("adaptive (HAR)")
    assert adaptive.sum() < 0.85 * min(errors.sum() for errors in toy_errors.values())
    assert toy_errors["uniform, weak"][1] > 3 * adaptive[1]
    assert toy_errors["uniform, strong"][0] > 10 * adaptive[0]


def test_toy_data_and_net():
    toy = har_theory.sample_toy(0, examples=1000)
    assert np.mean(toy.x < 0.5) == 0.8 and np.all(np.diff(toy.x) > 0)
    residual = toy.y - har_theory.toy_curve(toy.x)
    assert residual[:800].std() == pytest.approx(0.05, rel=0.1) and residual[800:].std() == pytest.approx(0.5, rel=0.2)
    x = np.linspace(0, 1, 2001)
    assert np.mean(har_theory.toy_density(x)) == pytest.approx(1, abs=1e-3)
    assert np.max(abs(np.diff(har_theory.toy_curve(x), 2))) < 1e-3  # no kink at the border
    params = har_theory.init_net(jax.random.key(0))
    middle, h = np.linspace(0.1, 0.9, 9, dtype=np.float32), np.float32(1e-3)
    apply, slope_of = jax.jit(har_theory.apply_net), jax.jit(har_theory.slope_net)
    difference = (apply(params, middle + h) - apply(params, middle - h)) / (2 * h)
    slope = slope_of(params, middle)
    np.testing.assert_allclose(slope, difference, atol=0.02 * np.max(abs(slope)))


# Fig. 1.


def test_losses_tell_noise_in_a_group_and_not_across_groups():
    inside, across = [], []
    for seed in (0, 1):
        digits = har_theory.sample_digits(seed)
        losses, masks = har_theory.digit_losses(digits, seed, epochs=7)[-1], har_theory.kinds(digits)
        assert np.all(sum(mask.astype(int) for mask in masks.values()) == 1)
        noisy = losses[masks["frequent & noisy"]]
        inside.append(har_theory.auroc(noisy, losses[masks["frequent & clean"]]))
        across.append(har_theory.auroc(noisy, losses[masks["rare & clean"]]))
    assert min(inside) > 0.9
    assert 0.3 < np.mean(across) < 0.7


def test_digits_are_unbalanced_and_noisy():
    digits = har_theory.sample_digits(3)
    assert np.bincount(digits.true).tolist() == [125] * 5 + [12] * 5
    assert np.mean(digits.given != digits.true) == pytest.approx(
        0.4 * (1 - (5 * 125**2 + 5 * 12**2) / 685**2), abs=0.06
    )
    assert np.sum(digits.given >= 5) == pytest.approx(60, abs=25)  # as many as before: drawn by frequency
    assert har_theory.auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


# Pictures and command line.


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(har_theory, "ELEMENTS", {1000: 40, 100_000: 200})
    monkeypatch.setattr(har_theory, "REPLICATES", {200: 3, 400: 2})
    monkeypatch.setattr(har_theory, "STEPS", 10)
    assert har_theory.main([f"--out={tmp_path}", "--seeds=1"]) == 0
    said = capsys.readouterr().out
    for name in har_theory.PICTURES:
        assert str(tmp_path / f"{name}.png") in said
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "AUROC" in said and "adaptive (HAR)" in said and "simulated risk / formula" in said


def test_bad_arguments_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        har_theory.main([f"--out={tmp_path}", "--seeds=0"])
    assert "0 is not at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        har_theory.main([f"--out={tmp_path}", "--only", "fig9"])
    with pytest.raises(ValueError, match="multiple of the 4 groups"):
        har_theory.classification(10)
    with pytest.raises(ValueError, match="end of the grid"):
        har_theory.minimum(np.arange(3), np.arange(3))
