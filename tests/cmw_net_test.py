"""CMW-Net: a step by hand with and without soft labels, its meta-gradient, its meta set, groups and averages."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import backend, methods, mixtures
from robustjax.methods import base, cmw_net
from robustjax.mixup import Mix
from robustjax.models import Variables
from tests import toys
from tests.erm_test import clock_at, jit
from tests.mw_net_test import CLASSES, RATE, ROWS, TRUSTED, Data, make_task

HIDDEN, GROUPS, META_RATE = 2, 2, 0.05
CLASS_GROUPS = np.array([0, 1, 1])


def as_net(theta: np.ndarray) -> dict[str, Any]:
    """θ of two hidden units and two heads, from ten numbers."""
    theta = jnp.asarray(theta)
    return {
        "hidden": {"kernel": theta[None, :2], "bias": theta[2:4]},
        "head": {"kernel": theta[4:8].reshape(2, 2), "bias": theta[8:]},
    }


def weights(theta: np.ndarray, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    hidden = np.maximum(values[:, None] * theta[:2] + theta[2:4], 0)
    heads = 1 / (1 + np.exp(-(hidden @ theta[4:8].reshape(2, 2) + theta[8:])))
    return heads[np.arange(len(labels)), CLASS_GROUPS[labels]]


def log_softmax(kernel: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    logits = x @ kernel + bias
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def a_mix(size: int) -> Mix:
    """Each example with the one before it; drawing from a beta distribution is most of the compiling."""
    return Mix(jnp.asarray(0.7), jnp.arange(size) - 1)


class ByHand:
    """One iteration in float64, from the formulas of the paper; the meta-gradient by finite differences."""

    def __init__(self, found: Data, theta: np.ndarray, soft: bool, average: tuple, mixes: tuple) -> None:
        self.found, self.theta = found, theta
        self.mix, self.meta_mix = mixes
        self.z = np.exp(log_softmax(*average, found.x)) if soft else np.zeros((ROWS, CLASSES))
        self.x = self.mixed(found.x, self.mix)
        log_p = log_softmax(found.kernel, found.bias, self.x)
        self.values, self.p = -log_p[np.arange(ROWS), found.y], np.exp(log_p)
        self.log_p = log_p

    @staticmethod
    def mixed(rows: np.ndarray, mix: Any) -> np.ndarray:
        return rows if mix is None else float(mix.share) * rows + (1 - float(mix.share)) * rows[np.asarray(mix.partner)]

    def loss_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Of L at ω; the gradient of −Σ t log p at the logits is (Σ t) p − t."""
        v = weights(theta, self.values, self.found.y)[:, None]
        target = self.mixed(v * np.eye(CLASSES)[self.found.y] + (1 - v) * self.z, self.mix)
        share = self.found.mask / self.found.mask.sum()
        pull = share[:, None] * (target.sum(1, keepdims=True) * self.p - target)
        return float(share @ -(target * self.log_p).sum(1)), self.x.T @ pull, pull.sum(0)

    def meta_loss(self, theta: np.ndarray) -> float:
        _, kernel, bias = self.loss_and_gradient(theta)
        moved = self.found.kernel - RATE * kernel, self.found.bias - RATE * bias
        log_p = log_softmax(*moved, self.mixed(self.found.trusted_x, self.meta_mix))
        target = self.mixed(np.eye(CLASSES)[self.found.trusted_y], self.meta_mix)
        return float(self.found.trusted_mask @ -(target * log_p).sum(1) / self.found.trusted_mask.sum())

    def slope(self) -> np.ndarray:
        h = 1e-6
        return np.array([
            (self.meta_loss(self.theta + h * unit) - self.meta_loss(self.theta - h * unit)) / (2 * h)
            for unit in np.eye(len(self.theta))
        ])  # fmt: skip


@pytest.mark.parametrize("soft", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_an_iteration_is_the_formula(soft, monkeypatch):
    monkeypatch.setattr(cmw_net, "draw_mix", lambda key, size, alpha, keep_larger: a_mix(size))
    found, rng = Data(), np.random.default_rng(8)
    theta = rng.normal(size=10)
    average = rng.normal(size=(4, CLASSES)), rng.normal(size=CLASSES)
    key = jax.random.key(1)
    with backend.enable_x64(True):
        task = make_task(np.float64, optimizer=optax.sgd)
        method = methods.get("cmw_net")(
            task, hidden=HIDDEN, class_groups=GROUPS, warmup_epochs=0, meta_every=2, meta_learning_rate=META_RATE,
            meta_weight_decay=0.0, soft_labels=soft, mixup=0.8 if soft else 0.0, average_decay=0.75,
        )  # fmt: skip
        state = method.init(jax.random.key(0), found.y)
        params = {"head": {"kernel": jnp.asarray(found.kernel), "bias": jnp.asarray(found.bias)}}
        state = state._replace(
            learner=state.learner._replace(params=params),
            theta=as_net(theta),
            groups=jnp.asarray(CLASS_GROUPS, jnp.int32),
            steps=jnp.int32(9),
        )
        if soft:
            there = {"head": dict(zip(("kernel", "bias"), map(jnp.asarray, average), strict=True))}
            state = state._replace(average=Variables(there, state.average.stats))
        batches = {
            "train": base.Batch(*map(jnp.asarray, (found.x, found.y, np.arange(ROWS), found.mask))),
            "meta": base.Batch(
                *map(jnp.asarray, (found.trusted_x, found.trusted_y, np.arange(TRUSTED), found.trusted_mask))
            ),
        }
        ((meta_step, plain_step),) = method.stages[0].passes
        clock = clock_at(method, task, 1)
        after, metrics = jit(meta_step.apply)(state, batches, clock, key)
        done = [(after, after.theta)]
        if not soft:  # of an iteration without meta step, which uses the old net
            plain, _ = jit(plain_step.apply)(state, {"train": batches["train"]}, clock, key)
            done.append((plain, state.theta))
        mixes = (a_mix(ROWS), a_mix(TRUSTED)) if soft else (None, None)
        by_hand = ByHand(found, theta, soft, average, mixes)

    slope = by_hand.slope()
    assert np.abs(slope).max() > 1e-3
    moved = theta - META_RATE * slope / (np.abs(slope) + 1e-8)  # Adam's first step
    for name in ("hidden", "head"):
        for part, value in as_net(moved)[name].items():
            np.testing.assert_allclose(after.theta[name][part], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {part}")
    for found_state, net in done:
        flat = np.concatenate([np.ravel(net[a][b]) for a in ("hidden", "head") for b in ("kernel", "bias")])
        loss, *gradients = by_hand.loss_and_gradient(flat)
        for which, name in enumerate(("kernel", "bias")):
            expected = getattr(found, name) - RATE * gradients[which]
            np.testing.assert_allclose(found_state.learner.params["head"][name], expected, rtol=1e-5, atol=1e-7)
            if soft:  # the average follows; after some steps by 1 − 0.75
                there = 0.75 * average[which] + 0.25 * expected
                np.testing.assert_allclose(found_state.average.params["head"][name], there, rtol=1e-5, atol=1e-6)
        if found_state is after:
            np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["meta_loss"][0], by_hand.meta_loss(theta), rtol=1e-5)


def test_the_meta_set_are_the_lowest_losses_of_each_class():
    """It is trained on as well."""
    task = make_task(num_examples=12)
    method = methods.get("cmw_net")(task, meta_examples=2, warmup_epochs=1)
    labels = jnp.array([0] * 6 + [1] * 5 + [2])
    confidence = np.random.default_rng(0).permutation(12)
    logits = jnp.where(jnp.arange(3) == labels[:, None], jnp.asarray(confidence, jnp.float32)[:, None], 0)
    _, plan = jit(method.stages[1].plan)(None, base.Survey(logits, labels, labels), None, jax.random.key(0))
    chosen = np.asarray(plan["meta"].order)[: int(plan["meta"].size)]
    best = [sorted(rows, key=lambda i: -confidence[i])[:2] for rows in (range(6), range(6, 11), [11])]
    assert sorted(chosen) == sorted(itertools.chain(*best))
    assert int(plan["train"].size) == 12


def test_classes_of_similar_size_share_a_head():
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # CIFAR-10 with a long tail
    assert mixtures.k_means(np.array(counts, np.float32), 3).tolist() == [2, 1, 1] + [0] * 7
    assert mixtures.k_means(np.full(10, 500.0), 3).tolist() == [0] * 10


@pytest.mark.exhaustive
def test_the_warm_up_averages_the_network():
    """CMW-Net-SL's average is at first the plain mean of all weights, and has the network's batch statistics."""
    task = toys.task(epochs=3, widths=(4,), normalize=True)
    made = toys.method("cmw_net_sl", task, warmup_epochs=2)
    epochs = toys.run(made, task, [toys.own(0)], stop=1)
    (state,) = epochs[0].state
    assert int(state.steps) == 4 == task.steps_per_epoch
    jax.tree.map(np.testing.assert_array_equal, state.average.stats, state.learner.stats)


def test_nothing_is_known_in_the_warm_up():
    task = make_task(epochs=3)
    method = methods.get("cmw_net")(task, warmup_epochs=1, soft_labels=True)
    state = method.init(jax.random.key(0), np.arange(ROWS) % CLASSES)
    survey = base.Survey(jnp.zeros((ROWS, CLASSES)), jnp.arange(ROWS) % CLASSES, None)
    for steps, known in ((0, False), (task.steps_per_epoch, False), (2 * task.steps_per_epoch, True)):
        found = method.inspect(state._replace(steps=jnp.int32(steps)), survey)
        assert {"example_weight", "correction"} == set(found)
        assert all(
            np.isfinite(each.values).all() == known == (not np.isnan(each.values).all()) for each in found.values()
        )


def test_short_runs_have_a_larger_meta_rate():
    long, short = (make_task(num_examples=50_000, batch_size=128, epochs=epochs) for epochs in (300, 30))
    assert cmw_net.default_meta_rate(long, 10, 10) == pytest.approx(1e-4)  # the authors'
    assert cmw_net.default_meta_rate(short, 2, 10) == pytest.approx(1e-4 * 11_000 / (28 * 391 / 10))
    assert cmw_net.default_meta_rate(make_task(), 0, 10) == 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"class_groups": 0}, "class_groups=0"),
        ({"meta_examples": 0}, "meta_examples=0"),
        ({"meta_every": 0}, "meta_every=0"),
        ({"meta_learning_rate": 0.0}, "meta_learning_rate=0.0"),
        ({"meta_weight_decay": -1.0}, "meta_weight_decay=-1.0"),
        ({"mixup": -1.0}, "mixup=-1.0"),
        ({"average_decay": 1.0}, "decay must be in"),
        ({"warmup_epochs": 4}, "warmup_epochs=4"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("cmw_net")(make_task(), **{"warmup_epochs": 1} | options)
