"""HAR's theory and motivation, run: `python -m experiments.figures.har_theory --out DIR`.

exponents.png      risk against the exponents of ρ = q^a I^b, dotted: those of theory, 3/5 (section 2.2)
theorem1.png       Theorem 1's risk beside that of simulated logistic smoothing splines, by sample size
regression.png     a noisy, unbalanced curve under weak, strong and adaptive regularisation (the paper's Fig. 3)
losses.png         training losses of frequent and rare, rightly and wrongly labelled digits (its Fig. 1)

Cao et al., Heteroskedastic and Imbalanced Deep Learning with Adaptive Regularization, ICLR 2021. The paper does not
print the settings of its Figs. 1 and 3; these are ours. Theorem 1 is used in a form with its constants put right: with
r = 1/(qI) and the penalty λ∫ρf'² (so μ = 2λ, for a loss of curvature I),

    n-sample risk = ∫ μ² r² ((ρ f*')')² dt + (1/4n) ∫ (r / (μ ρ))^{1/2} dt,

which needs f*' = 0 at both ends and wherever ρ jumps.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike
from scipy import interpolate, linalg, optimize, special

from experiments.pictures import plots, style
from robustjax import backend, losses, meta, models
from robustjax.data import augment, corruptions, sources
from robustjax.training import evaluation

# Weighted smoothing splines: linear finite elements on M equal elements of [0, 1], with lumped mass.


class Spline(NamedTuple):
    """A smoothing problem in one dimension; values in the M elements (at their midpoints) but for `curve`.

    Attributes:
      curve: f* at the M + 1 nodes.
      density: q of the inputs, [M].
      curvature: H(x) = E[∂²ℓ | x] of the loss by the output, [M].
      variance: S(x) = Var(∂ℓ | x), [M]. For a likelihood S = H = I; for squared loss H = 1 and S = σ².
    """

    curve: np.ndarray
    density: np.ndarray
    curvature: np.ndarray
    variance: np.ndarray


class Risk(NamedTuple):
    """∫(f̂ - f*)²: squared bias and variance."""

    bias: float
    variance: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.bias + self.variance


def nodes(elements: int) -> np.ndarray:
    """The ends of equal elements of [0, 1], [elements + 1]."""
    return np.linspace(0, 1, elements + 1)


def midpoints(elements: int) -> np.ndarray:
    """The middle of each element, [elements]."""
    return (np.arange(elements) + 0.5) / elements


def mass(weight: np.ndarray) -> np.ndarray:
    """∫ weight h_j for each node's hat function h_j, [M + 1], from a weight in each element [M]."""
    half = weight / (2 * len(weight))
    return np.append(half, 0) + np.append(0, half)


def stiffness(weight: np.ndarray) -> np.ndarray:
    """∫ weight h_i' h_j' for a weight in each element [M]: diagonal and upper diagonal, in `solveh_banded`'s form."""
    slope = weight * len(weight)
    return np.stack([np.append(0, -slope), np.append(slope, 0) + np.append(0, slope)])


def multiply(banded: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The product of a symmetric tridiagonal matrix in `stiffness`'s form and a vector."""
    upper, diagonal = banded[0, 1:], banded[1]
    return diagonal * vector + np.append(upper * vector[1:], 0) + np.append(0, upper * vector[:-1])


def _system(problem: Spline, penalty: np.ndarray) -> np.ndarray:
    system = stiffness(penalty)
    system[1] += mass(problem.density * problem.curvature)
    return system


def bias(problem: Spline, penalty: np.ndarray) -> np.ndarray:
    """E f̂ - f* at the nodes, to first order in the noise, for a penalty ½∫ penalty f'² ([M]: μρ)."""
    return linalg.solveh_banded(_system(problem, penalty), -multiply(stiffness(penalty), problem.curve))


def variance(problem: Spline, penalty: np.ndarray, examples: int) -> np.ndarray:
    """Var f̂ at the nodes, to first order, for a penalty ½∫ penalty f'² ([M]: μρ).

    That is Σ_s G_ts² m_s with the inverse G of a tridiagonal matrix. A row of G falls off from its diagonal by factors
    that do not depend on the row, which makes the sums to either side recursions: M operations in place of M².
    """
    upper, diagonal = _system(problem, penalty)
    noise = mass(problem.density * problem.variance) / examples
    (below, sum_below), (above, sum_above) = (
        _one_side(diagonal, upper[1:], noise),
        (side[::-1] for side in _one_side(diagonal[::-1], upper[:0:-1], noise[::-1])),
    )
    return (sum_below + sum_above - noise) / (below + above - diagonal) ** 2


def _one_side(diagonal: np.ndarray, off: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By elimination from the first row on: the pivots, and Σ_{s ≤ t} (G_ts / G_tt)² noise_s."""
    pivots, sums = diagonal.tolist(), noise.tolist()
    for t, beside in enumerate(off.tolist(), 1):
        factor = -beside / pivots[t - 1]
        pivots[t] += factor * beside
        sums[t] += factor * factor * sums[t - 1]
    return np.array(pivots), np.array(sums)


def exact_risk(problem: Spline, penalty: np.ndarray, examples: int) -> Risk:
    """The smoother's risk, first order in the noise (for squared loss, of all of it), at a penalty μρ [M]."""
    weight = mass(np.ones_like(penalty))
    return Risk(float(weight @ bias(problem, penalty) ** 2), float(weight @ variance(problem, penalty, examples)))


def asymptotic_risk(problem: Spline, penalty: np.ndarray, examples: int) -> Risk:
    """Theorem 1's risk at a penalty μρ [M], for general H and S.

    ∫ ((μρ f*')' / (qH))² + (1/4n) ∫ S (qμρ)^{-1/2} H^{-3/2}.
    """
    q, h, s = problem.density, problem.curvature, problem.variance
    weight = mass(np.ones_like(penalty))
    # The element matrix applied to f* is -∫(μρ f*')' h_j: both ends are right if f*' is 0 there.
    shift = -multiply(stiffness(penalty), problem.curve) / mass(q * h)
    return Risk(float(weight @ shift**2), float(np.mean(s * (q * penalty) ** -0.5 * h**-1.5) / (4 * examples)))


def best_strength(problem: Spline, rho: np.ndarray, examples: int) -> float:
    """The μ of least asymptotic risk: (V / 4B)^{2/5}, with bias B μ² and variance V μ^{-1/2}."""
    at_one = asymptotic_risk(problem, rho, examples)
    return (at_one.variance / (4 * at_one.bias)) ** 0.4


def least_risk(problem: Spline, rho: np.ndarray, examples: int) -> float:
    """The smoother's risk with penalty μρ [M] at its best μ."""
    centre = np.log(best_strength(problem, rho, examples))

    def risk(log_strength: float) -> float:
        return exact_risk(problem, np.exp(log_strength) * rho, examples).total

    return float(optimize.minimize_scalar(risk, bounds=(centre - 2, centre + 2), options={"xatol": 0.01}).fun)


def equivalent_kernel(problem: Spline, penalty: np.ndarray, node: int) -> np.ndarray:
    """The kernel K_t(s) [M + 1] that a spline with penalty μρ [M] amounts to at t = `node`, in closed form.

    r(t) ½ Q'(t) exp(-|Q(t) - Q(s)|), Q' = (qH / μρ)^{1/2}, r = 1/(qH): an exponential whose width grows with the
    penalty and falls with the density and the curvature.
    """
    qh = problem.density * problem.curvature
    rate = np.sqrt(qh / penalty)
    travelled = np.append(0, np.cumsum(rate) / len(rate))
    peak = np.interp(node / len(qh), midpoints(len(qh)), rate / (2 * qh))
    return peak * np.exp(-abs(travelled - travelled[node]))


def grouped(densities: Sequence[float], curvatures: ArrayLike, variances: ArrayLike, elements: int) -> Spline:
    """A `Spline` problem with equal groups, each over half a period of f* = cos(π groups t): f*' = 0 at every border.

    The density is scaled to mean 1. Where groups differ in density and noise only, section 2.2's optimum is exact in
    the limit.
    """
    groups = len(densities)
    if elements % groups:
        raise ValueError(f"elements={elements} must be a multiple of the {groups} groups")
    q, h, s = (
        np.repeat(np.asarray(values, float), elements // groups) for values in (densities, curvatures, variances)
    )
    return Spline(np.cos(np.pi * groups * nodes(elements)), q / q.mean(), h, s)


def classification(elements: int, ratio: float = 10.0) -> Spline:
    """Four groups, dense or sparse (ratio : 1) and with I high or low (¼ to ¼ / ratio), each combination once."""
    information = 0.25 * np.array([1, 1, 1 / ratio, 1 / ratio])
    return grouped([ratio, 1, ratio, 1], information, information, elements)


def regression(elements: int, ratio: float = 10.0) -> Spline:
    """Four groups of squared loss, dense or sparse (ratio : 1) and with σ² high or low, each combination once."""
    return grouped([ratio, 1, ratio, 1], np.ones(4), np.array([1, 1, ratio, ratio]), elements)


def risk_by_exponents(
    problem: Spline, noise: np.ndarray, exponents: Sequence[tuple[float, float]], examples: int
) -> np.ndarray:
    """Least risk over μ with ρ = q^a noise^b for each (a, b), over that with uniform ρ."""
    rhos = [problem.density**a * noise**b for a, b in exponents]
    risks = np.array([least_risk(problem, rho, examples) for rho in rhos])
    return risks / least_risk(problem, np.ones_like(noise), examples)


def minimum(x: np.ndarray, y: np.ndarray) -> float:
    """Where the parabola through the lowest point of a curve and its neighbours is least; ValueError at an end."""
    k = int(np.argmin(y))
    if k in (0, len(x) - 1):
        raise ValueError(f"the least value is at the end of the grid, x = {x[k]:g}")
    a, b, _ = np.polyfit(x[k - 1 : k + 2], y[k - 1 : k + 2], 2)
    return float(-b / (2 * a))


# Theorem 1 by simulation: logistic smoothing splines.


class Logistic(NamedTuple):
    """The simulation of Theorem 1: f* at the nodes [M + 1], the density q in the elements [M]; f*' = 0 at both ends."""

    curve: np.ndarray
    density: np.ndarray


def logistic_problem(elements: int = 400) -> Logistic:
    """f* = ½ + 3/2 cos 2πt, q = 1 + 0.8 cos πt."""
    t = nodes(elements)
    return Logistic(0.5 + 1.5 * np.cos(2 * np.pi * t), 1 + 0.8 * np.cos(np.pi * midpoints(elements)))


def information(problem: Logistic) -> np.ndarray:
    """I = P(1 - P) in the elements, [M]."""
    p = special.expit((problem.curve[1:] + problem.curve[:-1]) / 2)
    return p * (1 - p)


def as_spline(problem: Logistic) -> Spline:
    """The smoothing problem that the logistic one is to first order: S = H = I."""
    i = information(problem)
    return Spline(problem.curve, problem.density, i, i)


def sample_logistic(problem: Logistic, examples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [n] in (0, 1) by q and labels [n] in {-1, 1} with P(1 | x) = 1 / (1 + exp(-f*(x)))."""
    t = nodes(len(problem.density))
    below = np.append(0, np.cumsum(problem.density))
    x = np.interp(rng.random(examples), below / below[-1], t)
    positive = rng.random(examples) < special.expit(np.interp(x, t, problem.curve))
    return x, np.where(positive, 1, -1)


def fit_logistic(x: np.ndarray, y: np.ndarray, strength: float, rho: np.ndarray) -> np.ndarray:
    """The piecewise linear f̂ at the nodes of eq. 3: min (1/n) Σ log(1 + exp(-y f(x))) + strength ∫ρ f'², ρ [M].

    Newton's method, a tridiagonal solve a step, damped where a whole step would not lower the objective.
    """
    elements, n = len(rho), len(x)
    left = np.minimum((x * elements).astype(int), elements - 1)
    share = x * elements - left
    penalty = 2 * strength * stiffness(rho)

    def at_nodes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.bincount(left, a, elements + 1) + np.bincount(left + 1, b, elements + 1)

    def objective(f: np.ndarray) -> float:
        fitted = (1 - share) * f[left] + share * f[left + 1]
        return np.mean(np.logaddexp(0, -y * fitted)) + f @ multiply(penalty, f) / 2

    f = np.zeros(elements + 1)
    for _ in range(50):
        fitted = (1 - share) * f[left] + share * f[left + 1]
        slope = -y * special.expit(-y * fitted) / n
        bend = special.expit(fitted) * special.expit(-fitted) / n
        gradient = at_nodes((1 - share) * slope, share * slope) + multiply(penalty, f)
        hessian = penalty.copy()
        hessian[1] += at_nodes((1 - share) ** 2 * bend, share**2 * bend)
        hessian[0, 1:] += np.bincount(left, (1 - share) * share * bend, elements)
        step = linalg.solveh_banded(hessian, gradient)
        while gradient @ step > 1e-12 and objective(f - step) > objective(f):
            step = step / 2
        f = f - step
        if np.max(abs(step)) < 1e-8:
            return f
    raise RuntimeError(f"Newton's method did not converge: last step {np.max(abs(step)):.1e}")


def simulated_risk(
    problem: Logistic, strength: float, rho: np.ndarray, examples: int, replicates: int, seed: int = 0
) -> tuple[float, float]:
    """Mean ∫(f̂ - f*)² over fresh samples, and its standard error; `strength` is λ of eq. 3."""
    rng, weight = np.random.default_rng(seed), mass(np.ones_like(rho))
    found = [
        weight @ (fit_logistic(*sample_logistic(problem, examples, rng), strength, rho) - problem.curve) ** 2
        for _ in range(replicates)
    ]
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(replicates))


def logistic_rhos(problem: Logistic) -> dict[str, np.ndarray]:
    """The ρ [M] of the simulation: uniform, HAR's, and a smooth one that has nothing to do with q and I."""
    x = midpoints(len(problem.density))
    return {
        "ρ = 1": np.ones_like(x),
        "ρ = (qI)^(3/5)": (problem.density * information(problem)) ** 0.6,
        "ρ = ½ + x²(3 - 2x)": 0.5 + x**2 * (3 - 2 * x),
    }


# Fig. 3: one curve, noisy and rare on one side.

STEPS = 5000  # of the nets' training


class Toy(NamedTuple):
    """Data of the toy regression, inputs and labels [n]."""

    x: np.ndarray
    y: np.ndarray


def toy_curve(x: np.ndarray) -> np.ndarray:
    """Two periods of a fast cosine on the left half, half a period of a slow one on the right; smooth at ½."""
    return np.where(x < 0.5, np.cos(8 * np.pi * x), np.cos(2 * np.pi * (x - 0.5)))


def toy_density(x: np.ndarray) -> np.ndarray:
    """Four examples in five lie in the left half."""
    return np.where(x < 0.5, 1.6, 0.4)


def toy_noise(x: np.ndarray) -> np.ndarray:
    """The standard deviation σ of the labels: ten times as large in the right half."""
    return np.where(x < 0.5, 0.05, 0.5)


def sample_toy(seed: int, examples: int = 100) -> Toy:
    """80 % of the inputs uniform in the left half, 20 % in the right, in increasing order."""
    rng = np.random.default_rng(seed)
    frequent = round(0.8 * examples)
    x = np.sort(np.append(rng.uniform(0, 0.5, frequent), rng.uniform(0.5, 1, examples - frequent)))
    return Toy(x, toy_curve(x) + toy_noise(x) * rng.normal(size=examples))


def init_net(key: jax.Array, width: int = 64, scale: float = 20.0) -> dict[str, Any]:
    """A net 1-width-width-1 whose first layer tanh(a(x - c)) has features as narrow as the curve's, all over [0, 1].

    Without that the net does not find the oscillation on some seeds.
    """
    slope, centre, hidden, out = jax.random.split(key, 4)
    slopes = scale * jax.random.normal(slope, (width,))
    return {
        "in": {"w": slopes, "b": -slopes * jax.random.uniform(centre, (width,))},
        "hidden": {"w": jax.random.normal(hidden, (width, width)) * np.sqrt(2 / width), "b": jnp.zeros(width)},
        "out": {"w": jax.random.normal(out, (width,)) / np.sqrt(width), "b": jnp.zeros(())},
    }


def apply_net(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    """The net's output [N] at inputs [N]."""
    h = jnp.tanh(x[:, None] * params["in"]["w"] + params["in"]["b"])
    h = jnp.tanh(h @ params["hidden"]["w"] + params["hidden"]["b"])
    return h @ params["out"]["w"] + params["out"]["b"]


def slope_net(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    """The net's derivative by its input [N] at inputs [N]."""
    return jax.jvp(functools.partial(apply_net, params), (x,), (jnp.ones_like(x),))[1]


@functools.partial(backend.jit, static_argnames="steps")
def _fit_nets(
    keys: jax.Array, x: jax.Array, y: jax.Array, at: jax.Array, weights: jax.Array, steps: int
) -> dict[str, Any]:
    def objective(params: dict[str, Any], weights: jax.Array) -> jax.Array:
        fit = 0.5 * jnp.mean((apply_net(params, x) - y) ** 2)
        return fit + jnp.mean(weights * slope_net(params, at) ** 2)

    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def fit(key: jax.Array, weights: jax.Array) -> dict[str, Any]:
        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            return meta.follow(jax.grad(objective)(params, weights), params, state, optimizer), None

        params = init_net(key)
        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]

    return jax.vmap(fit)(keys, weights)


def fit_toy(
    toy: Toy, strengths: np.ndarray, at: np.ndarray | None = None, seed: int = 0, steps: int = STEPS
) -> Callable:
    """Fit a net for each row of strengths with the penalty mean(strength f'²).

    Args:
      toy: the data.
      strengths: [K, A]: λτ at the data points (eq. 5), or λρ on a uniform grid (eq. 3's integral).
      at: where the penalty is taken, [A]; the data points by default.
      seed: of the initial weights, the same for all K.
      steps: of Adam, full batch.

    Returns:
      A function: inputs [N] -> fits [K, N].
    """
    keys = jnp.stack([jax.random.key(seed)] * len(strengths))
    given = (toy.x, toy.y, toy.x if at is None else at, strengths)
    params = _fit_nets(keys, *(jnp.asarray(values, jnp.float32) for values in given), steps)
    return lambda inputs: np.asarray(jax.vmap(apply_net, (0, None))(params, jnp.asarray(inputs, jnp.float32)))


def toy_errors(fits: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Mean squared error to the true curve in the left and the right half, [K, 2], of fits [K, N] at inputs [N]."""
    squares = (fits - toy_curve(inputs)) ** 2
    return np.stack([squares[:, inputs < 0.5].mean(1), squares[:, inputs >= 0.5].mean(1)], axis=1)


def toy_weights(x: np.ndarray, sampled: bool) -> np.ndarray:
    """HAR's relative strengths at inputs [N], the largest 1: ρ = σ^{6/5} q^{3/5} under the integral, τ = ρ/q at data.

    The paper's rule with its estimate of I, here the noise variance σ².
    """
    weights = toy_noise(x) ** 1.2 * toy_density(x) ** (-0.4 if sampled else 0.6)
    return weights / weights.max()


# Fig. 1: training losses of digits.


class Digits(NamedTuple):
    """An unbalanced, mislabelled training set: images [N, 8, 8, 1] (normalised), true and given classes [N]."""

    images: np.ndarray
    true: np.ndarray
    given: np.ndarray


FREQUENT = 5  # classes 0 to 4 are frequent, 5 to 9 rare


def sample_digits(seed: int, frequent: int = 125, rare: int = 12, noise_rate: float = 0.4) -> Digits:
    """Digits with classes of two sizes, then labels redrawn in proportion to the classes' sizes.

    So that most rare-labelled examples stay right, as the figure needs: redrawn uniformly, most would be wrong.
    """
    dataset, rng = sources.load("digits"), np.random.default_rng(seed)
    kept = corruptions.subsample(dataset.train_labels, [frequent] * FREQUENT + [rare] * (10 - FREQUENT), rng)
    true = dataset.train_labels[kept]
    given = corruptions.frequency_proportional(true, noise_rate, 10, rng)
    images = np.asarray(augment.normalize(dataset.train_inputs[kept], dataset.mean, dataset.std))
    return Digits(images, true, given)


@functools.partial(backend.jit, static_argnames=("epochs", "batch_size"))
def _train_digits(
    key: jax.Array, images: jax.Array, labels: jax.Array, rate: float, epochs: int, batch_size: int
) -> jax.Array:
    model = models.get_model("mlp", 10, widths=(256, 256))
    optimizer = optax.sgd(rate, momentum=0.9)
    start, order = jax.random.split(key)
    params = model.init(start, images[:1]).params

    def objective(params: Any, rows: jax.Array) -> jax.Array:
        logits, _ = model.apply(params, {}, images[rows], train=True)
        return jnp.mean(losses.cross_entropy(logits, labels[rows]))

    def step(carry: tuple[Any, Any], rows: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(objective)(params, rows), state)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        order = jax.random.permutation(key, len(labels))
        full = len(labels) // batch_size * batch_size
        carry, _ = jax.lax.scan(step, carry, order[:full].reshape(-1, batch_size))
        logits, _ = model.apply(carry[0], {}, images, train=False)
        return carry, losses.cross_entropy(logits, labels)

    return jax.lax.scan(epoch, (params, optimizer.init(params)), jax.random.split(order, epochs))[1]


def digit_losses(digits: Digits, seed: int, epochs: int = 8, rate: float = 0.02, batch_size: int = 32) -> np.ndarray:
    """Cross entropy of every training example's given label after each epoch, [epochs, N]: a net 64-256-256-10."""
    return np.asarray(_train_digits(jax.random.key(seed), digits.images, digits.given, rate, epochs, batch_size))


def kinds(digits: Digits) -> dict[str, np.ndarray]:
    """Masks [N] of the four kinds of examples; the given label says whether a class is frequent or rare."""
    frequent, clean = digits.given < FREQUENT, digits.given == digits.true
    return {
        "frequent & clean": frequent & clean,
        "frequent & noisy": frequent & ~clean,
        "rare & clean": ~frequent & clean,
        "rare & noisy": ~frequent & ~clean,
    }


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """The probability that a loss of the first kind is larger than one of the second: ½ where they look alike."""
    is_higher = np.repeat([True, False], [len(higher), len(lower)])
    return float(evaluation.noise_detection_auroc(jnp.append(higher, lower), jnp.asarray(is_higher)))


# Pictures and tables.

_SUMMARY = __doc__.partition(":")[0]
EXPONENTS = np.linspace(0, 1.2, 13)
ELEMENTS = {100_000: 1000, 10**8: 4000}
REPLICATES = {2000: 600, 8000: 400, 32_000: 200}
TOY_GRID = np.linspace(0, 1, 251)
TOY_FITS = {  # λ, and whether ρ is HAR's
    "uniform, weak": (1e-6, False),
    "uniform, λ = 1e-4": (1e-4, False),
    "uniform, λ = 3e-4": (3e-4, False),
    "uniform, strong": (1e-2, False),
    "adaptive (HAR)": (3e-4, True),
}


def draw_exponents(path: pathlib.Path, sizes: Mapping[int, int]) -> str:
    """Save risk against exponent, for classification and regression; returns the exponents of least risk.

    Args:
      path: of the picture.
      sizes: elements of the spline by number of examples, of which there are two.
    """
    panels, told = [], ["exponent of least risk, the other one at its theoretical value (theory):"]
    for problem_of, title, noise_name, noise_power in (
        (classification, "classification: ρ = qᵃIᵇ", "I", 0.6),
        (regression, "regression: ρ = qᵃ(σ²)ᵇ", "σ²", 0.4),
    ):
        lines = {}
        for (n, elements), look in zip(sizes.items(), ("--", "-"), strict=True):
            problem = problem_of(elements)
            for name, color, theory, exponents in (
                ("q", style.BLUE, 0.6, [(a, noise_power) for a in EXPONENTS]),
                (noise_name, style.RED, noise_power, [(0.6, b) for b in EXPONENTS]),
            ):
                risks = risk_by_exponents(problem, problem.variance, exponents, n)
                found = minimum(EXPONENTS, risks)
                lines[f"exponent of {name}, n = {n:.0e}"] = plots.Line(EXPONENTS, risks, look, color)
                lines[f"_theory of {name}"] = plots.Line(np.full(2, theory), np.array([0.86, 1.0]), ":", color)
                told.append(f"  {title.split(':')[0]}, {name}, n = {n:.0e}: {found:.3f} ({theory:g})")
        panels.append(plots.Panel(lines, title, "exponent", "risk / risk with uniform ρ", y_limits=(0.86, 1.0)))
    plots.lines(panels, 2, path)
    return "\n".join(told)


def draw_theorem(path: pathlib.Path, sizes: Mapping[int, int]) -> str:
    """Save simulated and theoretical risk by sample size; returns them as a table.

    Args:
      path: of the picture.
      sizes: replicates by number of examples.
    """
    problem = logistic_problem()
    smoother, counts = as_spline(problem), np.array(list(sizes))
    risks, ratios = {}, {}
    told = ["Theorem 1, simulated risk / formula (standard error; formula):"]
    for (name, rho), color in zip(logistic_rhos(problem).items(), (style.BLUE, style.RED, style.GREEN), strict=True):
        formula, found, errors = np.empty((3, len(counts)))
        for k, (n, replicates) in enumerate(sizes.items()):
            strength = best_strength(smoother, rho, n)
            formula[k] = asymptotic_risk(smoother, strength * rho, n).total
            found[k], errors[k] = simulated_risk(problem, strength / 2, rho, n, replicates)
            told.append(
                f"  {name}, n = {n}: {found[k] / formula[k]:.3f} ({errors[k] / formula[k]:.3f}; {formula[k]:.5f})"
            )
        risks[name] = plots.Line(counts, formula, "-", color)
        risks[f"_{name}, simulated"] = plots.Line(counts, found, "o", color)
        band = ((found - 2 * errors) / formula, (found + 2 * errors) / formula)
        ratios[name] = plots.Line(counts, found / formula, "-", color, band)
    plots.lines(
        [
            plots.Panel(
                risks,
                "risk at the best λ: theory (lines), simulated",
                "examples n",
                "∫(f̂ - f*)²",
                x_scale="log",
                y_scale="log",
            ),
            plots.Panel(ratios, "simulated / theory (± 2 standard errors)", "examples n", x_scale="log"),
        ],
        2,
        path,
    )
    return "\n".join(told)


def toy_table(seeds: int, steps: int = STEPS) -> str:
    """Errors of the fits of `TOY_FITS`, and of a cubic smoothing spline, in both halves: means over seeds."""
    inputs = nodes(2000)
    errors = np.array([toy_errors(_toy_fits(seed, inputs, steps)[0], inputs) for seed in range(seeds)]).mean(0)
    rows = [f"toy regression, mean squared error to the true curve, {seeds} seed(s): left, right, sum"]
    for name, (left, right) in zip([*TOY_FITS, "cubic spline (GCV)"], errors, strict=True):
        rows.append(f"  {name}: {left:.3f}, {right:.3f}, {left + right:.3f}")
    return "\n".join(rows)


def _toy_fits(seed: int, inputs: np.ndarray, steps: int) -> tuple[np.ndarray, Toy]:
    toy, weights = sample_toy(seed), toy_weights(TOY_GRID, sampled=False)
    strengths = np.stack([size * (weights if har else np.ones_like(weights)) for size, har in TOY_FITS.values()])
    cubic = interpolate.make_smoothing_spline(*toy)(inputs)
    return np.append(fit_toy(toy, strengths, TOY_GRID, seed, steps)(inputs), cubic[None], axis=0), toy


def draw_toy(path: pathlib.Path, seed: int = 0, steps: int = STEPS) -> None:
    """Save the toy regression under weak, strong and adaptive regularisation, and a cubic smoothing spline.

    Args:
      path: of the picture.
      seed: of the data and of the nets' initial weights.
      steps: of the nets' training.
    """
    inputs = nodes(1000)
    fits, toy = _toy_fits(seed, inputs, steps)
    shown = [
        plots.Panel(
            {
                "observations": plots.Line(*toy, "o", "#999999"),
                "true curve": plots.Line(inputs, toy_curve(inputs), "-", style.BLUE),
                "fit": plots.Line(inputs, fit, "-", style.RED),
            },
            title,
            "x",
            y_limits=(-2.2, 2.2),
        )
        for title, fit in zip([*TOY_FITS, "cubic smoothing spline (GCV)"], fits, strict=True)
        if "λ" not in title
    ]
    plots.lines(shown, 2, path)


def draw_losses(path: pathlib.Path, seeds: int = 5, epochs: int = 7) -> str:
    """Save the histograms of training losses pooled over seeds; returns medians and areas under ROC curves.

    Args:
      path: of the picture.
      seeds: draws of the data and the net.
      epochs: of training before the losses are taken; early enough that nothing is memorised yet.
    """
    pooled: dict[str, list[np.ndarray]] = {}
    inside, across = [], []
    for seed in range(seeds):
        digits = sample_digits(seed)
        values = digit_losses(digits, seed, epochs)[-1]
        masks = kinds(digits)
        for name, mask in masks.items():
            pooled.setdefault(name, []).append(values[mask])
        noisy = values[masks["frequent & noisy"]]
        inside.append(auroc(noisy, values[masks["frequent & clean"]]))
        across.append(auroc(noisy, values[masks["rare & clean"]]))
    found = {name: np.concatenate(parts) for name, parts in pooled.items()}
    groups = {
        f"{group} classes": {name: values for name, values in found.items() if name.startswith(group)}
        for group in ("frequent", "rare")
    }
    plots.histograms(groups, "training loss", path, x_max=7)
    medians = ", ".join(f"{name} {np.median(values):.2f}" for name, values in found.items())
    return (
        f"digits after {epochs} epochs, {seeds} seed(s), median loss: {medians}\n"
        f"  AUROC of frequent & noisy over frequent & clean {np.mean(inside):.3f} "
        f"({min(inside):.3f}–{max(inside):.3f}), "
        f"over rare & clean {np.mean(across):.2f} ({min(across):.2f}–{max(across):.2f})"
    )


PICTURES = ("exponents", "theorem1", "regression", "losses")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.figures.har_theory", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=PICTURES, help="some of the pictures")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the toy's table and of the digits, default 5")
    given = parser.parse_args(argv)
    if given.seeds < 1:
        parser.error(f"argument --seeds: {given.seeds} is not at least 1")
    for name in given.only:
        path = given.out / f"{name}.png"
        if name == "exponents":
            print(draw_exponents(path, ELEMENTS))
        elif name == "theorem1":
            print(draw_theorem(path, REPLICATES))
        elif name == "regression":
            draw_toy(path, steps=STEPS)
            print(toy_table(given.seeds, STEPS))
        else:
            print(draw_losses(path, given.seeds))
        print(path, "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
