"""MentorNet's predefined curriculum: a step of each phase by hand, its drop-out, and what it is for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import methods
from robustjax.methods import base
from tests.co_teaching_test import CLASSES, MASK, RATE, ROWS, log_softmax, make_task, setting
from tests.erm_test import clock_at, jit

EPOCHS, THRESHOLD, WIDTH = 10, 2.0, 1.25


@functools.cache
def made(**options: float):
    """The method on ten epochs, its state, and its step, compiled once for all phases."""
    task = make_task(epochs=EPOCHS)
    method = methods.get("mentornet")(task, percentile=0.6, average_decay=0.75, width=WIDTH, burn_in=0.2, **options)
    ((step,),) = method.stages[0].passes
    return task, method, method.init(jax.random.key(0), setting()[2]), jit(step.apply)


def a_step(epoch: int, **options: float):
    """A step on eight examples and two rows of padding: what it begins with, what it gives."""
    (task, method, state, step), (params, inputs, labels) = made(**options), setting()
    learner = state.learner._replace(params=jax.tree.map(jnp.asarray, params[0]))
    batch = base.Batch(jnp.asarray(inputs), jnp.asarray(labels), jnp.arange(ROWS), jnp.asarray(MASK))
    before = state._replace(learner=learner, threshold=jnp.float32(THRESHOLD))
    after, metrics = step(before, {"train": batch}, clock_at(method, task, epoch), jax.random.key(1))
    return (params[0]["head"], inputs.astype(np.float64), labels), after, metrics


# Of ten epochs the first two are the burn-in, and the last is linear.
@pytest.mark.parametrize(("epoch", "phase"), [(0, "all"), (1, "all"), (2, "small"), (8, "small"), (9, "linear")])
def test_a_step_of_each_phase(epoch, phase):
    (head, inputs, labels), after, metrics = a_step(epoch, dropout=0.0, burn_in_dropout=0.0)
    log_p = log_softmax(inputs @ head["kernel"] + head["bias"])
    values = -log_p[np.arange(ROWS), labels]
    threshold = 0.75 * THRESHOLD + 0.25 * np.sort(values[:8])[4]  # of eight, position 0.6 · 7 is nearest to the fifth
    excess = values - threshold
    assert 0 < np.sum(excess[:8] <= 0) < np.sum(excess[:8] < WIDTH) < 8  # so that the phases differ
    weights = {"all": np.ones(ROWS), "small": excess <= 0, "linear": np.clip(1 - excess / WIDTH, 0, 1)}[phase] * MASK
    error = (weights / 8)[:, None] * (np.exp(log_p) - np.eye(CLASSES)[labels])
    np.testing.assert_allclose(after.learner.params["head"]["bias"], head["bias"] - RATE * error.sum(0), rtol=1e-5)
    kernel = head["kernel"] - RATE * inputs.T @ error
    np.testing.assert_allclose(after.learner.params["head"]["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.threshold, threshold, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], weights @ values / 8, rtol=1e-5)
    np.testing.assert_allclose(metrics["kept_share"][0] / metrics["kept_share"][1], weights.sum() / 8, rtol=1e-5)


def test_a_share_of_each_batch_is_dropped():
    """Of eight examples 4 stay in the burn-in; later ⌊0.7 · 8⌋ = 5, of which the large losses weigh nothing."""
    kept = [float(a_step(epoch, dropout=0.3, burn_in_dropout=0.5)[2]["kept_share"][0]) for epoch in (1, 5)]
    assert kept[0] == 4 and 0 < kept[1] <= 5


def test_the_finding_is_the_linear_weight():
    _, method, state, _ = made(dropout=0.0, burn_in_dropout=0.0)
    survey = base.Survey(jnp.log(jnp.array([[0.5, 0.3, 0.2]] * 3)), jnp.arange(3), jnp.arange(3))
    assert np.isnan(method.inspect(state, survey)["example_weight"].values).all()  # before the first step
    weights = method.inspect(state._replace(threshold=jnp.float32(1)), survey)["example_weight"].values
    np.testing.assert_allclose(weights, np.clip(1 - (-np.log([0.5, 0.3, 0.2]) - 1) / WIDTH, 0, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentile": 1.0}, r"percentile=1.0 must be in \(0, 1\)"),
        ({"average_decay": 1.0}, r"average_decay=1.0 must be in \[0, 1\)"),
        ({"width": 0.0}, "width=0.0 must be positive"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"burn_in_dropout": -0.1}, "burn_in_dropout=-0.1"),
        ({"burn_in": 0.95}, "0 <= burn_in <= linear_from <= 1 is needed, got 0.95 and 0.9"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("mentornet")(make_task(), **options)
