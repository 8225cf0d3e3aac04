"""PLC: a step and a correction by hand, what raises the threshold, and wrong labels that are put right."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import findings, methods
from robustjax.methods import base
from robustjax.training import engine
from tests import toys
from tests.co_teaching_test import CLASSES, INPUTS, MASK, RATE, ROWS, log_softmax, make_task
from tests.erm_test import clock_at, jit

N = 40


class Gaussians(NamedTuple):
    """Three Gaussians of which a share of the labels is moved on."""

    inputs: np.ndarray
    labels: np.ndarray
    clean: np.ndarray


def gaussians(count: int = 300, wrong: float = 0.2) -> Gaussians:
    rng = np.random.default_rng(0)
    clean = np.arange(count) % CLASSES
    inputs = (4 * np.eye(CLASSES, INPUTS)[clean] + rng.normal(size=(count, INPUTS))).astype(np.float32)
    moved = rng.random(count) < wrong
    return Gaussians(inputs, np.where(moved, (clean + 1) % CLASSES, clean).astype(np.int32), clean)


def train(name: str, data: Gaussians, epochs: int, rate: float = RATE, **options) -> list[engine.Epoch]:
    """Its epochs, with states on the host."""
    task = make_task(epochs, len(data.labels), 50, rate)
    own = engine.Own(jax.random.key(0), jnp.arange(len(data.labels)), jnp.asarray(data.labels))
    resident = engine.Resident(data.inputs, data.inputs[:10])
    return toys.run(methods.get(name)(task, **options), task, [own], data=resident)


def survey(labels: np.ndarray, logits: np.ndarray | None = None) -> base.Survey:
    given = jnp.asarray(labels, jnp.int32)
    return base.Survey(logits, given, given)


def a_batch(given: np.ndarray) -> base.Batch:
    """The last two rows are padding: they repeat the first two."""
    inputs = np.random.default_rng(2).normal(size=(ROWS, INPUTS)).astype(np.float32)
    index = np.array([7, 30, 2, 11, 19, 39, 0, 5, 7, 30], np.int32)
    return base.Batch(*map(jnp.asarray, (inputs, given[index], index, MASK)))


def plain_step(learner: base.Learner, batch: base.Batch, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """The linear classifier after a step on cross entropy, whose gradient at the logits is p − `wanted` [B, C]."""
    head, inputs = learner.params["head"], np.asarray(batch.inputs, np.float64)
    error = (np.exp(log_softmax(inputs @ head["kernel"] + head["bias"])) - wanted) * MASK[:, None] / MASK.sum()
    return {"kernel": head["kernel"] - RATE * inputs.T @ error, "bias": head["bias"] - RATE * error.sum(0)}


def setting(**options):
    """The method, a state in the middle of a run, what was given, and the predictions that it remembers."""
    rng = np.random.default_rng(3)
    given = rng.integers(0, CLASSES, N).astype(np.int32)
    method = methods.get("plc")(make_task(), **{"warmup_epochs": 3, "window": 4, **options})
    state = method.init(jax.random.key(0), given)
    np.testing.assert_array_equal(base.recall_all(state.labels, N), given)
    corrected, recent = (given + (rng.random(N) < 0.3)) % CLASSES, rng.dirichlet(np.full(CLASSES, 0.2), (N, 4))
    state = state._replace(labels=base.remembered(corrected), recent=base.remembered(recent.astype(np.float32)))
    return method, state, given, corrected, recent


def test_a_step_learns_the_corrected_labels_and_remembers_its_predictions():
    method, state, given, corrected, recent = setting()
    batch = a_batch(given)
    ((step,),) = method.stages[1].passes
    after, metrics = jit(step.apply)(state, {"train": batch}, clock_at(method, make_task(), 5), jax.random.key(1))
    labels = corrected[batch.index]
    assert 0 < np.sum((labels != batch.labels)[:8]) < 8
    for name, value in plain_step(state.learner, batch, np.eye(CLASSES)[labels]).items():
        np.testing.assert_allclose(after.learner.params["head"][name], value, rtol=1e-5, atol=1e-6)
    head = state.learner.params["head"]
    probs = np.exp(log_softmax(np.asarray(batch.inputs, np.float64) @ head["kernel"] + head["bias"]))
    expected = recent.copy()
    expected[batch.index[:8]] = np.concatenate([recent[batch.index[:8], 1:], probs[:8, None]], 1)
    np.testing.assert_allclose(base.recall_all(after.recent, N), expected, rtol=1e-5)
    assert list(map(int, metrics["corrected_share"])) == [np.sum((labels != batch.labels)[:8]), 8]


def test_a_correction_is_the_likelihood_ratio_test():
    """Of the mean prediction, on the label that was trained on last; f is of any scale, 0 before it is known."""
    method, state, given, corrected, recent = setting()
    plan = jit(method.stages[1].plan)
    after, drawn = plan(state, survey(given), clock_at(method, make_task(), 3), jax.random.key(0))
    f, rows = recent.mean(1), np.arange(N)
    flips = f[rows, corrected] / f.max(1) < 0.3
    assert 3 < flips.sum() < N - 3
    assert np.any(flips & (corrected != given) & (f.argmax(1) == given))  # one of them is taken back
    np.testing.assert_array_equal(base.recall_all(after.labels, N), np.where(flips, f.argmax(1), corrected))
    assert float(after.threshold) == np.float32(0.3)
    assert sorted(np.asarray(drawn["train"].order).tolist()) == list(range(N)) and int(drawn["train"].size) == N

    # No more flips at this threshold, so it rises each time, to its limit; labels follow it.
    thresholds, changed = [], []
    for _ in range(14):
        before = after
        after, _ = plan(before, survey(given), clock_at(method, make_task(), 4), jax.random.key(0))
        few = np.array_equal(after.labels.rows, before.labels.rows)
        assert (after.threshold > before.threshold) == (few and before.threshold < 0.9)
        thresholds.append(float(after.threshold))
        changed.append(not few)
    assert any(changed) and thresholds[0] == pytest.approx(0.4) and thresholds[-1] == pytest.approx(0.9)
    fresh = state._replace(recent=base.per_example(N, (4, CLASSES)))
    same, _ = plan(fresh, survey(given), clock_at(method, make_task(), 3), jax.random.key(0))
    np.testing.assert_array_equal(same.labels.rows, state.labels.rows)
    assert same.threshold == state.threshold


def test_what_it_believes():
    method, state, given, corrected, recent = setting()
    found = method.inspect(state, survey(given))
    assert isinstance(found["correction"], findings.LabelDistribution)
    np.testing.assert_array_equal(found["correction"].values, np.eye(CLASSES)[corrected])
    f = recent.mean(1)
    assert isinstance(found["noise_score"], findings.NoiseScore)
    np.testing.assert_allclose(found["noise_score"].values, 1 - f[np.arange(N), given] / f.max(1), rtol=1e-5, atol=1e-6)


def test_it_puts_wrong_labels_right():
    data = gaussians()
    epochs = train("plc", data, 9, warmup_epochs=3, window=2)
    share = [np.mean(base.recall_all(each.state[0].labels, 300) == data.clean) for each in epochs]
    assert share[2] == np.mean(data.labels == data.clean) < 0.85  # the warm-up leaves them as they are
    assert share[3] > 0.87 and share[-1] > 0.95
    assert epochs[2].metrics[0]["corrected_share"] == 0 < epochs[3].metrics[0]["corrected_share"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": 12}, "warmup_epochs=12"),
        ({"threshold": 0.0}, "threshold=0.0 must be in"),
        ({"threshold": 0.5, "threshold_limit": 0.4}, "threshold_limit=0.4"),
        ({"threshold_step": -0.1}, "threshold_step=-0.1"),
        ({"window": 0}, "window=0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("plc")(make_task(), **{"warmup_epochs": 2, **options})
