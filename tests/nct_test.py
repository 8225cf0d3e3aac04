"""NCT: nested dropout and its co-teaching by hand, by whose features is predicted, and which networks it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import methods, models
from robustjax.methods import base, nct
from tests.co_teaching_test import CLASSES, INPUTS, MASK, RATE, ROWS, make_task
from tests.erm_test import clock_at, jit

D = 12


def make(**options):
    """A method for a perceptron of D features, its state, and a batch with two rows of padding."""
    task = make_task(epochs=9)._replace(model=models.get_model("mlp", CLASSES, widths=(D,)))
    method = methods.get("nct")(task, **{"forget_rate": 0.5, "spread": 3.0, **options})
    rng = np.random.default_rng(5)
    inputs, labels = rng.normal(size=(ROWS, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, ROWS)
    batch = base.Batch(jnp.asarray(inputs), jnp.asarray(labels), jnp.arange(ROWS), jnp.asarray(MASK))
    return task, method, method.init(jax.random.key(0), labels), batch


def forward(params, inputs, kept: int):
    """Logits by the first features, and the features, in float64."""
    layer, head = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[name]) for name in sorted(params)[::-1]
    )
    raw = inputs @ layer["kernel"] + layer["bias"]
    seen = np.maximum(raw, 0) * (np.arange(D) < kept)
    return seen @ head["kernel"] + head["bias"], seen, (raw > 0) * (np.arange(D) < kept), layer, head


def stepped(params, inputs, labels, kept: int, rows, rate: float):
    """Both layers' kernels after a step of gradient descent on the cross entropy of `rows`."""
    logits, seen, passes, layer, head = forward(params, inputs, kept)
    error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(CLASSES)[labels]
    error = error[rows] / len(rows)
    through = (error @ head["kernel"].T) * passes[rows]
    return layer["kernel"] - rate * inputs[rows].T @ through, head["kernel"] - rate * seen[rows].T @ error


def check(learner, expected):
    names = sorted(learner.params)[::-1]
    for name, kernel in zip(names, expected, strict=True):
        np.testing.assert_allclose(learner.params[name]["kernel"], kernel, rtol=1e-4, atol=1e-6)


def test_how_many_features_are_kept():
    p = np.exp(-((np.arange(1, D + 1) / 3.0) ** 2))
    np.testing.assert_allclose(nct.truncation(D, 3.0), p / p.sum(), rtol=1e-5)


def test_steps_by_hand():
    """Each network by itself with features of its own; then the half that is easy by the other's first features."""
    task, method, state, batch = make(kept_features=5)
    inputs, labels = np.asarray(batch.inputs, np.float64), np.asarray(batch.labels)
    nested, tuning = (stage.passes[0][0].apply for stage in method.stages)
    key, exponents = jax.random.key(3), -jnp.asarray((np.arange(1, D + 1) / 3.0) ** 2, jnp.float32)

    after, metrics = jit(nested)(state, {"train": batch}, clock_at(method, task, 0), key)
    counts = [1 + int(jax.random.categorical(jax.random.split(own, 3)[1], exponents)) for own in jax.random.split(key)]
    assert counts[0] != counts[1] and max(counts) < D
    for old, new, kept in zip(state.learners, after.learners, counts, strict=True):
        check(new, stepped(old.params, inputs, labels, kept, range(8), RATE))
    assert metrics["loss"][1] == 16

    clock = clock_at(method, task, 7)
    np.testing.assert_allclose(clock.rate, 0.01 * RATE, rtol=1e-6)
    tuned, metrics = jit(tuning)(state, {"train": batch}, clock._replace(rate=jnp.float32(RATE)), key)
    kept = 1 + int(jax.random.categorical(jax.random.split(key, 4)[1], exponents))
    assert kept != 5
    chosen = []
    for old in state.learners:
        logits = forward(old.params, inputs, 5)[0]
        values = np.log(np.exp(logits).sum(1)) - logits[np.arange(ROWS), labels]
        chosen.append(sorted(range(8), key=values.__getitem__)[:4])
    assert set(chosen[0]) != set(chosen[1])
    for old, new, rows in zip(state.learners, tuned.learners, chosen[::-1], strict=True):
        check(new, stepped(old.params, inputs, labels, kept, rows, RATE))
    assert metrics["kept_share"][0] / metrics["kept_share"][1] == pytest.approx(0.5)

    logits = [forward(old.params, inputs, 5)[0] for old in state.learners]
    np.testing.assert_allclose(method.predict(state, batch.inputs), np.mean(logits, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("freeze", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_batch_statistics_stay_in_co_teaching(freeze):
    task = make_task(epochs=9)._replace(model=models.get_model("mlp", CLASSES, widths=(D,), normalize=True))
    method = methods.get("nct")(task, forget_rate=0.2, freeze_statistics=freeze)
    *_, batch = make()
    state = method.init(jax.random.key(0), np.asarray(batch.labels))
    ((step,),) = method.stages[1].passes
    after, _ = jit(step.apply)(state, {"train": batch}, clock_at(method, task, 8), jax.random.key(1))
    for old, new in zip(state.learners, after.learners, strict=True):
        both = map(jax.tree.leaves, (old.stats, new.stats))
        same = [np.array_equal(*pair) for pair in zip(*both, strict=True)]
        assert same == [freeze] * 2


def test_phases():
    task, method, *_ = make()
    assert [stage.epochs for stage in method.stages] == [7, 2]
    ramp = task._replace(schedule=lambda progress: 1 - progress / 9)
    nested, tuning = methods.get("nct")(ramp, forget_rate=0.2).stages
    assert [float(nested.schedule(now)) for now in (0.0, 3.5, 7.0)] == pytest.approx([1, 0.5, 0])
    assert [float(tuning.schedule(now)) for now in (0.0, 1.0)] == pytest.approx([0.01, 0.005])
    momentum = task._replace(optimizer=lambda rate: optax.sgd(rate, momentum=0.9))
    method = methods.get("nct")(momentum, forget_rate=0.2)
    used = method.init(jax.random.key(0), np.zeros(4, int))
    used = jax.tree.map(jnp.ones_like, used)
    fresh = method.stages[1].enter(used, None, jax.random.key(0))
    assert all(not leaf.any() for each in fresh.learners for leaf in jax.tree.leaves(each.opt_state))
    assert all(leaf.all() for each in fresh.learners for leaf in jax.tree.leaves(each.params))
    assert [len(make(tuning_from=share)[1].stages) for share in (0.0, 1.0)] == [1, 1]
    short = methods.get("nct")(task._replace(epochs=2), forget_rate=0.2)
    assert [stage.epochs for stage in short.stages] == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_rate": None}, "forget_rate is missing"),
        ({"spread": -1.0}, "spread=-1.0"),
        ({"kept_features": -1}, "kept_features=-1 must be at least 0"),
        ({"tuning_from": 1.5}, r"tuning_from=1.5 must be in \[0, 1\]"),
        ({"tuning_scale": 0.0}, "tuning_scale=0.0 must be positive"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("model", [("mlp", {"widths": ()}), ("mlp", {"widths": (4,), "head": "cosine"})])
def test_a_network_without_features_to_order_is_refused(model):
    name, options = model
    task = make_task()._replace(model=models.get_model(name, CLASSES, **options))
    with pytest.raises(ValueError, match="has no linear classifier"):
        methods.get("nct")(task, forget_rate=0.2)
