"""Sparse regularisation: its objective and gradient by hand, its strength in time, and its presets."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.settings import config
from robustjax import methods
from tests.erm_test import C, digits, logits_of, make_task, one_step

T, P, STRENGTH = 0.4, 0.3, 1.7


def objective_by_hand(logits, labels, normalize, weight):
    """L(v, y) + λ Σ s^p, in plain operations."""
    v = logits / (jnp.sqrt((logits**2).sum(-1, keepdims=True)) if normalize else 1) / T
    s = jnp.exp(v) / jnp.exp(v).sum(-1, keepdims=True)
    base = -jnp.log(s[jnp.arange(len(labels)), labels])
    return (base + weight * (s**P).sum(-1)).mean()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("epoch", [0, 5])
def test_objective_and_step_equal_the_formula(normalize, epoch):
    task = make_task(rate=0.01, epochs=6, optimizer=optax.sgd)
    method = methods.get("ce_sr")(task, temperature=T, p=P, strength=STRENGTH, growth=1.5, every=2, normalize=normalize)
    state, batch, (new, metrics) = one_step(method, task, epoch=epoch)
    weight = STRENGTH * 1.5 ** (epoch // 2)
    value, gradient = jax.value_and_grad(
        lambda params: objective_by_hand(logits_of(task, params, batch), batch.labels, normalize, weight)
    )(state.learner.params)
    np.testing.assert_allclose(metrics["loss"][0] / 8, value, rtol=2e-5)
    stepped = jax.tree.map(lambda p, g: p - 0.01 * g, state.learner.params, gradient)
    chex.assert_trees_all_close(new.learner.params, stepped, rtol=1e-4, atol=1e-6)
    parts = metrics["unregularized_loss"][0] + weight * metrics["regularizer"][0]
    np.testing.assert_allclose(metrics["loss"][0], parts, rtol=1e-5)


def test_strength_grows_every_few_epochs_and_only_then():
    task = make_task(epochs=12, examples=64)
    method = methods.get("gce_sr")(task, strength=4.0, growth=2.0, every=5)
    seen = [float(one_step(method, task, epoch=t)[2][1]["regularizer_strength"][0]) for t in range(12)]
    np.testing.assert_allclose(seen, [4.0] * 5 + [8.0] * 5 + [16.0] * 2)


def test_any_loss_takes_the_regulariser_and_ce_sr_is_one_of_them():
    task = make_task()
    composed, named = (methods.get(name)(task, **o) for name, o in (("ce", {"regularizer": "sparse"}), ("ce_sr", {})))
    results = [one_step(method, task)[2] for method in (composed, named)]
    chex.assert_trees_all_equal(results[0][0], results[1][0])
    for name in ("sce", "gjs", "ldam_drw", "forward", "dmi", "balanced_softmax"):
        _, _, (_, metrics) = one_step(methods.get(name)(task, regularizer="sparse"), task)
        assert float(metrics["regularizer"][0]) > 8  # Σ s^p ≥ 1 for each of the 8
    assert "regularizer" not in one_step(methods.get("sce")(task), task)[2][1]


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"p": 0.0}, {"p": 1.5}, {"growth": 0.5}, {"every": 0}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        methods.get("ce_sr")(make_task(), **bad)


def test_unknown_regularizer_is_refused():
    with pytest.raises(ValueError, match="regularizer='dense' is none of none, sparse"):
        methods.get("gce")(make_task(), regularizer="dense")


def resolve(**given):
    return config.resolve(given)[0]


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"method": "ce_sr", "dataset": "mnist"}, (0.1, 0.1, 4.0, 2.0, 5, False)),
        ({"method": "sce", "dataset": "mnist", "regularizer": "sparse"}, (0.1, 0.1, 4.0, 2.0, 5, False)),
        ({"method": "gce_sr", "dataset": "mnist"}, (0.5, 0.1, 3.0, 2.0, 5, False)),
        ({"method": "fl_sr", "dataset": "cifar10"}, (0.5, 0.1, 1.2, 1.03, 1, True)),
        ({"method": "ce_sr", "dataset": "cifar100"}, (0.5, 0.01, 4.0, 1.02, 1, True)),
        ({"method": "ce_sr", "dataset": "cifar100", "noise": "asymmetric"}, (0.5, 0.01, 10.0, 1.02, 1, True)),
        ({"method": "ce_sr", "dataset": "cifar10", "imbalance": "step"}, (0.5, 0.1, 1.0, 1.03, 1, False)),
    ],
)
def test_presets_are_the_papers(given, options):
    chosen = resolve(**given).options
    assert tuple(chosen[k] for k in ("temperature", "p", "strength", "growth", "every", "normalize")) == options


def test_protocols_are_the_papers():
    mnist, cifar = resolve(method="ce_sr", dataset="mnist"), resolve(method="gce_sr", dataset="cifar10")
    assert (mnist.model, mnist.epochs, mnist.weight_decay, mnist.gradient_clip) == ("cnn4", 50, 1e-3, 5.0)
    assert (cifar.model, cifar.epochs, cifar.learning_rate, cifar.batch_size) == ("cnn8", 120, 0.01, 128)
    assert (cifar.noise, cifar.imbalance, cifar.options["q"]) == ("symmetric_exclusive", "none", 0.01)
    assert resolve(method="sce", dataset="cifar10").options["alpha"] == 0.1
    assert resolve(method="sce", dataset="cifar100").options["alpha"] == 6.0
    assert resolve(method="fl_sr", dataset="mnist").options["detach"] is True
    assert resolve(method="ce_sr", dataset="cifar100", imbalance="long_tailed").gradient_clip == 0.0


def test_gce_below_its_limit_has_no_gradient():
    """What SR's code does with labels that the sharpened prediction rules out: the regulariser alone moves them."""
    task, presets = make_task(rate=0.1, optimizer=optax.sgd), resolve(method="gce_sr", dataset="mnist").options
    # At so low a temperature every label but one is ruled out; the regulariser is too weak to be seen.
    method = methods.get("gce_sr")(task, temperature=1e-6, strength=1e-30, normalize=False, clip=presets["clip"])
    params = method.init(jax.random.key(1), digits().train_labels).learner.params  # as `one_step` begins
    logits = task.model.apply(params, {}, task.plain(digits().train_inputs[:8]), train=True)[0]
    _, _, (after, metrics) = one_step(method, task, labels=np.argmin(np.asarray(logits), -1))
    capped = (1 - 1e-7**0.01) / 0.01
    np.testing.assert_allclose(metrics["unregularized_loss"][0], 8 * capped, rtol=1e-5)
    chex.assert_trees_all_equal(after.learner.params, params)
    assert resolve(method="gce", dataset="cifar10").options["clip"] == presets["clip"] == 1e-7
    assert resolve(method="gce", dataset="digits").options["clip"] == 0.0


def test_options_without_the_regulariser_are_refused():
    with pytest.raises(ValueError, match="--temperature needs --regularizer=sparse"):
        resolve(method="gce", temperature=0.2)
    assert resolve(method="gce", temperature=0.2, regularizer="sparse").options["temperature"] == 0.2


def test_gradient_clipping_limits_the_step():
    from experiments.settings import build

    optimizer = build.make_optimizer(resolve(method="ce", gradient_clip=5.0, weight_decay=0.0, momentum=0.0))(1.0)
    for size, expected in ((3.0, 3.0), (50.0, 5.0)):
        gradient = {"w": jnp.full(4, size / 2)}
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        np.testing.assert_allclose(jnp.linalg.norm(updates["w"]), expected, rtol=1e-5)


def test_evaluation_does_not_sharpen():
    task = make_task()
    method = methods.get("ce_sr")(task)
    state, batch, _ = one_step(method, task)
    logits = method.predict(state, batch.inputs)
    assert logits.shape == (8, C) and digits().num_classes == C
    np.testing.assert_allclose(logits, logits_of(task, state.learner.params, batch), rtol=1e-5)
