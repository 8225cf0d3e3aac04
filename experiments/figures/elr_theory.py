"""The linear model of ELR's theory, run: `python -m experiments.figures.elr_theory --out DIR`.

memorization_{a,b}.png   what is predicted for rightly and wrongly labelled examples, CE and ELR (the paper's Fig. A.1)
gradients_{a,b}.png      the coefficients p - y of CE's gradient at the true class (its Fig. B.1, first row)
cancellation_{a,b}.png   the same under ELR, beside what the regulariser adds (its Fig. 2, here for the linear model)
kl_{a,b}.png             as the first, with cross entropy to the targets in place of ELR's term (its Fig. C.1)
separability.png         how often random labels of noisy examples can be fitted, beside Theorem 6's bound

Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020, section 3 and appendices
A to C. Two Gaussian clusters around +v and -v in R^p, a linear softmax classifier with two classes, full-batch gradient
descent in float64. The paper does not print the sizes of its own simulation. Setup a lies in the theorems' regime
(1 - Δ/2 < p/n < 1); setup b has the dimension and the noise that the caption of Fig. A.1 names. In b nearly half of the
labels of a draw may be wrong, and ELR then keeps to the wrong side where early learning has not found the right one:
hence medians and quartiles over seeds.
"""

import argparse
import functools
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from experiments.pictures import plots, style
from robustjax import backend, losses, regularizers
from robustjax.data import corruptions
from robustjax.training import evaluation

Record = dict[str, np.ndarray]
KINDS = ("clean", "wrong")


class Setup(NamedTuple):
    """A simulation of section 3.

    Attributes:
      dimension: p.
      examples: n.
      spread: σ, the standard deviation of the clusters in each direction.
      flip: Δ, the probability that a label is redrawn from both classes: half as many labels are wrong.
      rate: step size η on Θ; that on θ = Θ_1 - Θ_2 is 2η.
      steps: of gradient descent.
    """

    dimension: int
    examples: int
    spread: float
    flip: float
    rate: float
    steps: int


SETUPS = {"a": Setup(1000, 1200, 0.3, 0.4, 0.1, 3000), "b": Setup(100, 150, 0.2, 0.8, 0.1, 20_000)}
SEEDS = {"a": 3, "b": 8}
# In the theorems' regime; the step on θ is 0.1, and T comes after four or five steps.
EARLY = Setup(1000, 1100, 0.1, 0.5, 0.05, 10)


class Mixture(NamedTuple):
    """Data of the linear model: inputs [n, p], true and given classes [n]; class 0 lies around v = e_1, class 1 -v."""

    inputs: np.ndarray
    true: np.ndarray
    given: np.ndarray


class Method(NamedTuple):
    """What is minimised: cross entropy plus `strength` times a regulariser to temporally ensembled targets.

    Attributes:
      regularizer: "none", "early_learning" or "kl" (cross entropy to the targets).
      strength: λ.
      memory: β of the targets.
      clip: limits on p in ELR's term and its targets; None is the formula without limits.
    """

    regularizer: str = "none"
    strength: float = 0.0
    memory: float = 0.7
    clip: tuple[float, float] | None = (1e-4, 1 - 1e-4)


METHODS = {
    "CE": Method(),
    "ELR": Method("early_learning", 3.0),
    "ELR, no clip": Method("early_learning", 3.0, clip=None),
    "ELR, λ = 7, β = 0.9": Method("early_learning", 7.0, 0.9),
    "KL, λ = 1": Method("kl", 1.0),
    "KL, λ = 5": Method("kl", 5.0),
    "KL, λ = 10": Method("kl", 10.0),
}


def sample(setup: Setup, seed: int) -> Mixture:
    """Draw the data of a simulation."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, setup.examples)
    inputs = -setup.spread * rng.normal(size=(setup.examples, setup.dimension))
    inputs[:, 0] += 1
    given = corruptions.symmetric(true, setup.flip, 2, rng, include_own=True)
    return Mixture(np.where(true == 0, 1, -1)[:, None] * inputs, true, given)


def initial(dimension: int, seed: int, blind: bool = False) -> np.ndarray:
    """Θ_0 [2, p] = (θ_0/2, -θ_0/2), θ_0 uniform on the sphere of radius 2.

    Args:
      dimension: p.
      seed: of the direction.
      blind: make θ_0 orthogonal to v, as the theory has it in the limit. At finite p, θ_0ᵀv is about 2/√p, against
        which T's 1/10 and a small σ do not count.
    """
    theta = np.random.default_rng([seed, 1]).normal(size=dimension)
    if blind:
        theta[0] = 0
    return np.stack([theta, -theta]) / np.linalg.norm(theta)


def objective(logits: jax.Array, given: jax.Array, targets: jax.Array, method: Method) -> tuple[jax.Array, jax.Array]:
    """Cross entropy and the weighted regulariser, summed over the examples, for logits [n, 2] and targets [n, 2]."""
    fit = jnp.sum(losses.cross_entropy(logits, given))
    if method.regularizer == "none":
        return fit, 0.0 * fit
    if method.regularizer == "early_learning":
        return fit, method.strength * jnp.sum(regularizers.early_learning(logits, targets, clip=method.clip))
    if method.regularizer == "kl":
        return fit, method.strength * jnp.sum(regularizers.early_learning_kl(logits, targets))
    raise ValueError(f"regularizer must be none, early_learning or kl, got {method.regularizer!r}")


def coefficients(
    logits: jax.Array, given: jax.Array, targets: jax.Array, method: Method
) -> tuple[jax.Array, jax.Array]:
    """The derivatives [n, 2] of both parts of `objective` by the logits: p - y, and λg for ELR (Lemma 2).

    The gradient of the mean loss is (1/n) Σ_i J_iᵀ times their sum, where J_i, the derivative of the logits by the
    parameters, is x_i in each row of Θ.
    """
    fit = jax.grad(lambda z: objective(z, given, targets, method)[0])(logits)
    pull = jax.grad(lambda z: objective(z, given, targets, method)[1])(logits)
    return fit, pull


@functools.partial(backend.jit, static_argnames=("regularizer", "clip", "steps"))
def _descend(
    inputs: jax.Array,
    true: jax.Array,
    given: jax.Array,
    theta: jax.Array,
    spread: float,
    rate: float,
    strength: float,
    memory: float,
    regularizer: str,
    clip: tuple[float, float] | None,
    steps: int,
) -> dict[str, jax.Array]:
    method = Method(regularizer, strength, memory, clip)
    n, start = len(true), theta[0] - theta[1]
    kinds = {"clean": given == true, "wrong": given != true}

    def measure(
        logits: jax.Array, targets: jax.Array, theta: jax.Array, fit: jax.Array, pull: jax.Array, gradient: jax.Array
    ) -> dict[str, jax.Array]:
        difference, slope = theta[0] - theta[1], gradient[0] - gradient[1]
        size = jnp.linalg.norm(difference)
        found = {
            **evaluation.memorization(logits, given, true),
            "test_accuracy": jax.scipy.stats.norm.cdf(difference[0] / (spread * size)),
            "target_accuracy": evaluation.accuracy(targets, true),
            "alignment": difference[0],
            "distance": jnp.linalg.norm(difference - start),
            "gradient_cosine": -slope[0] / jnp.linalg.norm(slope),
        }
        fit, pull = (values[jnp.arange(n), true] for values in (fit, pull))
        for kind, where in kinds.items():
            for name, values in (("fit", fit), ("fit_size", abs(fit)), ("fit_square", fit**2), ("pull", pull)):
                found[f"{kind}_{name}"] = jnp.mean(values, where=where)
        return found

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
        theta, targets = carry
        logits = inputs @ theta.T
        targets = regularizers.update_targets(
            targets, regularizers.clipped_probabilities(logits, method.clip), method.memory
        )
        fit, pull = coefficients(logits, given, targets, method)
        gradient = (fit + pull).T @ inputs / n
        return (theta - rate * gradient, targets), measure(logits, targets, theta, fit, pull, gradient)

    # Without the clip, targets of 0 would make the first terms log 1 with no slope; the formula wants distributions.
    targets = jnp.full((n, 2), 0.0 if method.clip else 0.5)
    return jax.lax.scan(step, (theta, targets), length=steps + 1)[1]


def train(mixture: Mixture, theta: np.ndarray, setup: Setup, method: Method) -> Record:
    """Full-batch gradient descent in float64.

    Returns:
      By name, a value before each step and after the last, [steps + 1]: the shares of `evaluation.memorization`;
      `test_accuracy` of the population, exactly; `target_accuracy`; `alignment` θᵀv; `distance` of θ from its start;
      `gradient_cosine`, of -∇L(θ) and v; and for the clean and the wrong examples the mean entry at the true class of
      p - y (`clean_fit`), its size (`clean_fit_size`), its square (`clean_fit_square`) and that of the regulariser's
      gradient (`clean_pull`).
    """
    with backend.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        arrays = (mixture.inputs, mixture.true, mixture.given, theta)
        found = _descend(
            *map(jnp.asarray, arrays),
            setup.spread,
            setup.rate,
            method.strength,
            method.memory,
            regularizer=method.regularizer,
            clip=method.clip,
            steps=setup.steps,
        )
        return {name: np.asarray(values) for name, values in found.items()}


def simulate(setup: Setup, method: Method, seeds: int) -> Record:
    """`train` for each seed, stacked: [seeds, steps + 1] by name."""
    runs = [train(sample(setup, seed), initial(setup.dimension, seed), setup, method) for seed in range(seeds)]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def early_learning_ends(record: Record, threshold: float = 0.1) -> int:
    """T, the first step t > 0 with θ_tᵀv at the threshold; ValueError if the run is shorter."""
    reached = np.flatnonzero(record["alignment"][1:] >= threshold)
    if not len(reached):
        raise ValueError(f"θᵀv stays below {threshold} in {len(record['alignment']) - 1} steps")
    return int(reached[0]) + 1


def early(spread: float, seed: int = 0) -> Record:
    """Cross entropy from a blind start with the setting `EARLY` at another σ."""
    setup = EARLY._replace(spread=spread)
    return train(sample(setup, seed), initial(setup.dimension, seed, blind=True), setup, METHODS["CE"])


# Theorem 6: with p/n > 1 - Δ/2 all given labels can be fitted.


def separable(inputs: np.ndarray, signs: np.ndarray) -> bool:
    """Whether some θ has sign(θᵀx_i) = signs_i for every row of inputs [n, p]."""
    # max s ≤ 1 with signs_i θᵀx_i ≥ s: 1 or 0, since a θ with any margin can be scaled up. Always feasible, unlike the
    # bare question whether signs_i θᵀx_i ≥ 1, on which the solver at times gives up.
    n, p = inputs.shape
    rows = np.hstack([-np.asarray(signs)[:, None] * inputs, np.ones((n, 1))])
    goal, bounds = np.append(np.zeros(p), -1.0), [(None, None)] * p + [(0, 1)]
    found = optimize.linprog(goal, rows, np.zeros(n), bounds=bounds)
    if found.status != 0:
        raise RuntimeError(f"the linear programme was not solved: {found.message}")
    return bool(found.x[-1] > 0.5)


def separability_bound(examples: int, dimension: int, flip: float) -> float:
    """Theorem 6 at finite n: the least probability that the given labels are separable, 1 - 2 P[Bin(n, Δ/2) ≤ n - p].

    Below 0 it says nothing.
    """
    return 1 - 2 * float(stats.binom.cdf(examples - dimension, examples, flip / 2))


def separable_dichotomies(examples: int, dimension: int) -> int:
    """How many of the 2^n labellings of n points in general position a hyperplane through 0 separates (Cover)."""
    return 2 * sum(math.comb(examples - 1, k) for k in range(dimension))


def separable_rate(setup: Setup, draws: int) -> float:
    """The share of draws of the data whose given labels are linearly separable."""
    mixtures = [sample(setup, seed) for seed in range(draws)]
    return float(np.mean([separable(m.inputs, np.where(m.given == 0, 1, -1)) for m in mixtures]))


# Pictures and table.

_SUMMARY = __doc__.partition(":")[0]
_KIND_TITLES = {"clean": "rightly labelled", "wrong": "wrongly labelled"}


# 1 - t falls by the factor β a step; soon it is below what a float64 next to 1 can hold, and so is what ELR's term
# without clip makes of it.
_HELD = 100


def _line(values: np.ndarray, look: str, color: str) -> plots.Line:
    """Median and quartiles over seeds, from iteration 1 on (the axis is logarithmic), thinned to what shows."""
    last = values.shape[1] - 1
    shown = np.unique(np.geomspace(1, last, 400).astype(int))
    at = values[:, shown]
    low, median, high = np.quantile(at, (0.25, 0.5, 0.75), axis=0)
    return plots.Line(shown, median, look, color, (low, high))


def memorization_panels(records: Mapping[str, Record]) -> list[plots.Panel]:
    """Two panels a method: the shares of predictions on rightly and on wrongly labelled examples by iteration."""
    return [
        plots.Panel(
            {label: _line(record[key], look, color) for key, (label, color, look) in shares.items() if key in record},
            title=f"{name}: {kind} examples",
            x_label="iteration",
            y_label="share of predictions" if kind == _KIND_TITLES["clean"] else "",
            x_scale="log",
            y_limits=(-0.02, 1.02),
            percent=True,
        )
        for name, record in records.items()
        for kind, shares in plots.MEMORIZATION.items()
    ]


def gradient_panels(record: Record) -> list[plots.Panel]:
    """Mean entry of p - y at the true class, and its size, for rightly and wrongly labelled examples."""
    looks = {"clean": ("-", style.BLUE), "wrong": ("--", style.RED)}
    return [
        plots.Panel(
            {_KIND_TITLES[kind]: _line(record[f"{kind}_{name}"], *looks[kind]) for kind in KINDS},
            title=f"CE: {title} at the true class",
            x_label="iteration",
            x_scale="log",
        )
        for name, title in (("fit", "mean p - y"), ("fit_size", "mean |p - y|"))
    ]


def cancellation_panels(record: Record) -> list[plots.Panel]:
    """The parts of ELR's gradient at the true class, for rightly (left) and wrongly labelled examples (right).

    Meant for the first iterations of a run without clip: with it, examples at the limit get λg in one step and none in
    the next.
    """
    return [
        plots.Panel(
            {
                "p - y": _line(fit, "-.", style.BLUE),
                "λg": _line(pull, "--", style.ORANGE),
                "sum": _line(fit + pull, "-", "black"),
            },
            title=f"ELR without clip: {_KIND_TITLES[kind]} examples",
            x_label="iteration",
            y_label="mean entry at the true class" if kind == "clean" else "",
            x_scale="log",
            y_limits=(-1.6, 1.1),
        )
        for kind in KINDS
        for fit, pull in [(record[f"{kind}_fit"][:, : _HELD + 1], record[f"{kind}_pull"][:, : _HELD + 1])]
    ]


def separability_panel(examples: int = 100, draws: int = 40) -> plots.Panel:
    """Share of separable draws by p/n for three noise rates (points), beside Theorem 6's bound (lines)."""
    found = {}
    for flip, color in ((0.4, style.BLUE), (0.5, style.GREEN), (0.8, style.RED)):
        every = np.arange(40, examples + 1)
        bound = np.array([separability_bound(examples, int(p), flip) for p in every])
        found[f"at least, Δ = {flip:g}"] = plots.Line(every / examples, np.where(bound >= 0, bound, np.nan), "-", color)
        tried = np.arange(40, examples, 5)
        rates = [separable_rate(Setup(int(p), examples, 0.3, flip, 0.1, 0), draws) for p in tried]
        found[f"drawn, Δ = {flip:g}"] = plots.Line(tried / examples, np.array(rates), "o", color)
    return plots.Panel(
        found, "given labels that a hyperplane fits", "p / n", f"share of draws (n = {examples})", percent=True
    )


def table(records: Mapping[str, Record]) -> str:
    """The numbers of the runs, a line a method: median (and range, if any) over seeds, in per cent."""

    def spread(values: np.ndarray) -> str:
        low, median, high = (f"{100 * np.quantile(values, q):.1f}" for q in (0, 0.5, 1))
        return median if low == high else f"{median} ({low}–{high})"

    columns = ("", "wrong: correct, peak", "correct, end", "memorized, end", "test, peak", "test, end")
    rows = [columns] + [
        (
            name,
            spread(record["wrong_true"].max(1)),
            spread(record["wrong_true"][:, -1]),
            spread(record["wrong_memorized"][:, -1]),
            spread(record["test_accuracy"].max(1)),
            spread(record["test_accuracy"][:, -1]),
        )
        for name, record in records.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def early_table() -> str:
    """What Propositions 3 and 5 and Theorem 4 are about, a line a σ: from the start to T, seed 0."""
    told = [f"Up to T, p={EARLY.dimension}, n={EARLY.examples}, Δ={EARLY.flip:g}, step {2 * EARLY.rate:g} on θ:"]
    for spread in (0.01, 0.03, 0.1, 0.3):
        record = early(spread)
        ends = early_learning_ends(record)
        squares = {kind: 4 * record[f"{kind}_fit_square"] for kind in KINDS}
        told.append(
            f"  σ={spread:g}: step × T {2 * EARLY.rate * ends:.2f}, "
            f"cosine of -∇L and v at least {record['gradient_cosine'][:ends].min():.3f}, "
            f"distance {record['distance'][ends]:.2f}, "
            f"wrong examples correct {record['wrong_true'][0]:.2f} → {record['wrong_true'][ends]:.3f}, "
            f"mean κ² {squares['clean'][ends] - squares['clean'][0]:+.3f} on clean "
            f"and {squares['wrong'][ends] - squares['wrong'][0]:+.3f} on wrong ones"
        )
    return "\n".join(told)


def draw(name: str, out: pathlib.Path, seeds: int | None = None) -> tuple[list[pathlib.Path], str]:
    """Simulate setup `name` with every method; the pictures saved into `out`, and the table.

    Args:
      name: "a" or "b".
      out: the folder.
      seeds: default 3 for a, 8 for the smaller b.
    """
    setup, seeds = SETUPS[name], seeds or SEEDS[name]
    records = {label: simulate(setup, method, seeds) for label, method in METHODS.items()}
    panels = {
        "memorization": memorization_panels({label: records[label] for label in ("CE", "ELR")}),
        "gradients": gradient_panels(records["CE"]),
        "cancellation": cancellation_panels(records["ELR, no clip"]),
        "kl": memorization_panels({label: record for label, record in records.items() if label.startswith("KL")}),
    }
    made = [plots.lines(each, 2, out / f"{picture}_{name}.png") for picture, each in panels.items()]
    title = f"Setup {name}, {', '.join(f'{k}={v}' for k, v in setup._asdict().items())}; {seeds} seed(s), in per cent"
    return made, f"{title}\n{table(records)}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.figures.elr_theory", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--setup", choices=(*SETUPS, "both"), default="both", help="which simulation, default both")
    parser.add_argument("--seeds", type=int, help="draws of the data, default 3 in setup a, 8 in setup b")
    parser.add_argument("--draws", type=int, default=40, help="draws a point in separability.png, default 40; 0: none")
    given = parser.parse_args(argv)
    if given.seeds is not None and given.seeds < 1:
        parser.error(f"argument --seeds: {given.seeds} is not at least 1")
    if given.draws < 0:
        parser.error(f"argument --draws: {given.draws} is negative")
    for name in SETUPS if given.setup == "both" else (given.setup,):
        made, numbers = draw(name, given.out, given.seeds)
        print(numbers, *made, "", sep="\n")
    print(early_table(), "", sep="\n")
    if given.draws:
        print(plots.lines([separability_panel(draws=given.draws)], 1, given.out / "separability.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
