"""CurveNet: what its curves hold, what its net sees, which phase learns what, and whom its weights favour."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import findings, methods
from robustjax.meta_nets import apply_curve_net
from robustjax.methods import base
from tests.erm_test import clock_at, jit
from tests.mw_net_test import CLASSES, INPUTS, ROWS, TRUSTED, make_task

LABELS = np.array([0, 1, 1, 2, 0, 1, 0])
PROBE = 60  # of whose epochs the first is left out


@functools.cache
def made() -> tuple[base.Method, base.Task, Any]:
    """Five epochs after sixty of probing: two of learning the weights, three without."""
    task = make_task(epochs=5, optimizer=optax.sgd, schedule=lambda progress: 1 - progress / 10)
    method = methods.get("curvenet")(task, probe_epochs=PROBE, hidden=4, meta_learning_rate=1e-2)
    return method, task, method.init(jax.random.key(0), LABELS)


def batches(mask: np.ndarray) -> dict[str, base.Batch]:
    rng = np.random.default_rng(3)
    x, trusted_x = (rng.normal(size=(n, INPUTS)).astype(np.float32) for n in (ROWS, TRUSTED))
    train = base.Batch(*map(jnp.asarray, (x, LABELS, np.arange(ROWS), mask)))
    trusted = base.Batch(*map(jnp.asarray, (trusted_x, np.arange(TRUSTED) % CLASSES, np.arange(TRUSTED), np.ones(5))))
    return {"train": train, "trusted": trusted}


def cross_entropies(params: Any, x: Any, y: Any) -> np.ndarray:
    logits = np.asarray(x) @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]


def test_probing_keeps_each_epochs_losses():
    """In the column of the epoch, before the step; none of the first epoch, and none of padding."""
    method, task, state = made()
    (((step, _),),) = method.stages[0].passes
    given = batches(np.array([1, 1, 0, 1, 1, 1, 1], np.float32))
    for epoch in (0, 1, 59):
        expected = np.array(base.recall_all(state.curves, ROWS))
        assert expected.shape == (ROWS, 59)
        values = cross_entropies(state.learner.params, given["train"].inputs, LABELS)
        real = np.arange(ROWS) != 2
        if epoch:
            expected[real, epoch - 1] = values[real]
        state, metrics = jit(step)(state, given, clock_at(method, task, epoch), jax.random.key(1))
        np.testing.assert_allclose(base.recall_all(state.curves, ROWS), expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], values[real].mean(), rtol=1e-5)


def test_phases_and_learning_rates():
    method, task, _ = made()
    assert [(stage.epochs, stage.preliminary) for stage in method.stages] == [(60, True), (2, False), (3, False)]
    rates = [float(clock_at(method, task, epoch).rate) for epoch in (0, 23, 24, 26, 27, 29, 30, 59)]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.1, 0.01], rtol=1e-5)
    rates = [float(clock_at(method, task, PROBE + epoch).rate) for epoch in range(5)]
    np.testing.assert_allclose(rates, [1, 0.9, 0.8, 0.7, 0.6], rtol=1e-5)
    whole = methods.get("curvenet")(task, meta_until=1.0)
    assert [stage.epochs for stage in whole.stages] == [5, 5]


def test_curves_lose_what_their_class_shares_and_the_net_weighs_by_them():
    method, task, state = made()
    raw = np.random.default_rng(0).normal(size=(ROWS, 59)).astype(np.float32)
    state = state._replace(curves=base.remembered(raw))
    survey = base.Survey(jnp.zeros((ROWS, CLASSES)), jnp.asarray(LABELS), jnp.asarray(LABELS))
    assert np.isnan(method.inspect(state, survey)["example_weight"].values).all()
    after = jit(method.stages[1].enter)(state, survey._replace(seen=None), jax.random.key(1))
    curves = raw - np.stack([raw[label == LABELS].mean(0) for label in LABELS])
    np.testing.assert_allclose(base.recall_all(after.curves, ROWS), curves, atol=1e-5)
    assert np.abs(after.learner.params["head"]["kernel"] - state.learner.params["head"]["kernel"]).max() > 1e-3
    expected = np.asarray(apply_curve_net(state.theta, curves, LABELS))
    found = method.inspect(after, survey)["example_weight"]
    assert isinstance(found, findings.LabelWeight) and np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found.values, expected, rtol=1e-4)

    given, steps = batches(np.ones(ROWS, np.float32)), [stage.passes[0][0].apply for stage in method.stages[1:]]
    clocks = [clock_at(method, task, epoch) for epoch in (PROBE, PROBE + 3)]
    learned, metrics = jit(steps[0])(after, given, clocks[0], jax.random.key(2))
    assert "meta_loss" in metrics
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (learned.theta, after.theta)), strict=True)]
    assert max(moved) > 1e-3
    # Then the weights stay, and the step is that of their mean loss.
    final, metrics = jit(steps[1])(learned, {"train": given["train"]}, clocks[1], jax.random.key(2))
    for one, other in zip(*map(jax.tree.leaves, (learned.theta, final.theta)), strict=True):
        np.testing.assert_array_equal(one, other)
    weights = np.asarray(apply_curve_net(learned.theta, curves, LABELS))
    values = cross_entropies(learned.learner.params, given["train"].inputs, LABELS)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], (weights * values).mean(), rtol=1e-4)
    # A net whose weights are all alike has learned nothing, and that is told.
    assert method.warnings(final) == ()
    (told,) = method.warnings(final._replace(theta=jax.tree.map(jnp.zeros_like, final.theta)))
    assert "--meta-weight-decay=0" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe_epochs": -1}, "probe_epochs=-1"),
        ({"meta_until": 0.0}, "meta_until=0.0"),
        ({"hidden": 0}, "hidden=0"),
        ({"virtual": "adam"}, "virtual='adam' is none of sgd, optimizer"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("curvenet")(make_task(), **options)


def test_it_needs_trusted_examples():
    with pytest.raises(ValueError, match="method='curvenet' learns from trusted examples"):
        methods.get("curvenet")(make_task(num_trusted=0))
