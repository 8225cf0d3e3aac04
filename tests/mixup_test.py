"""Mixup: the mixing itself, and any ERM method on mixed examples."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.settings import command_line, config
from robustjax import losses, methods, mixup
from robustjax.methods import erm
from tests.erm_test import C, make_task, one_step


def test_shares_follow_the_beta_distribution_and_partners_permute():
    draw = jax.jit(jax.vmap(lambda key: mixup.draw_mix(key, 6, 0.5)))
    shares, partners = draw(jax.random.split(jax.random.key(0), 4000))
    # Beta(a, a): mean 1/2, variance 1/(4(2a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / 8, abs=0.006)
    np.testing.assert_array_equal(np.sort(partners, axis=1), np.tile(np.arange(6), (4000, 1)))
    assert np.mean(partners == np.arange(6)) == pytest.approx(1 / 6, abs=0.02)
    keys = jax.random.split(jax.random.key(0), 4000)
    larger, _ = jax.jit(jax.vmap(lambda key: mixup.draw_mix(key, 6, 0.5, keep_larger=True)))(keys)
    np.testing.assert_array_equal(larger, np.maximum(shares, 1 - shares))


def test_mixing_is_linear_and_keeps_distributions():
    mix = mixup.Mix(jnp.float32(0.7), jnp.array([2, 0, 1]))
    values = np.random.default_rng(0).random((3, 2, 4)).astype(np.float32)
    np.testing.assert_allclose(mixup.apply_mix(values, mix), 0.7 * values + 0.3 * values[[2, 0, 1]], rtol=1e-6)
    labels = mixup.apply_mix(jax.nn.one_hot(jnp.array([0, 1, 1]), 3), mix)
    np.testing.assert_allclose(labels, [[0.7, 0.3, 0], [0.3, 0.7, 0], [0, 1, 0]], atol=1e-6)
    with pytest.raises(TypeError, match="int32"):
        mixup.apply_mix(jnp.array([0, 1, 1], jnp.int32), mix)
    with pytest.raises(ValueError, match="alpha must be positive"):
        mixup.draw_mix(jax.random.key(0), 3, 0.0)


def test_a_step_is_on_mixed_inputs_and_mixed_labels():
    task = make_task(rate=0.1, optimizer=optax.sgd)
    method = methods.get("cross_entropy")(task, mixup=1.0)
    state, batch, (new, metrics) = one_step(method, task)
    key = jax.random.key(2)
    mix = mixup.draw_mix(jax.random.fold_in(key, 2), 8, 1.0)
    assert 0.02 < mix.share < 0.98
    x = task.plain(batch.inputs)
    x = mix.share * x + (1 - mix.share) * x[mix.partner]

    def objective(params):
        logits = task.model.apply(params, {}, x, train=True)[0]
        pair = losses.cross_entropy(logits, batch.labels), losses.cross_entropy(logits, batch.labels[mix.partner])
        return jnp.mean(mix.share * pair[0] + (1 - mix.share) * pair[1])

    value, gradient = jax.value_and_grad(objective)(state.learner.params)
    np.testing.assert_allclose(metrics["loss"][0] / 8, value, rtol=1e-5)
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, state.learner.params, gradient)
    chex.assert_trees_all_close(new.learner.params, stepped, rtol=1e-4, atol=1e-6)


def test_any_erm_method_takes_it_beside_sparse_regularisation():
    """Of those whose loss does most with the labels: several views, class weights, a matrix of the whole batch."""
    task = make_task()
    for name in ("gjs", "ldam_drw", "dmi"):
        method = methods.get(name)(task, mixup=0.4, regularizer="sparse")
        _, _, (_, metrics) = one_step(method, task, epoch=method.epochs - 1)
        assert np.isfinite(metrics["loss"][0]) and np.isfinite(metrics["regularizer"][0]), name
    # The others rehearse their loss on label distributions as they are made.
    for name in ("gce", "sce", "apl", "balanced_softmax", "forward", "cb_focal", "bootstrap", "phuber_ce", "nce"):
        methods.get(name)(make_task(epochs=20), mixup=0.4)


def test_the_baseline_by_name_is_cross_entropy_with_it():
    task = make_task()
    named, composed = (one_step(methods.get(n)(task, **o), task)[2][0]
                       for n, o in (("mixup", {}), ("ce", {"mixup": 1.0})))  # fmt: skip
    chex.assert_trees_all_equal(named, composed)
    settings, _ = config.resolve(command_line.parse(["--method=gce", "--mixup=0.3"]))
    assert settings.options["mixup"] == 0.3


def test_refusals():
    with pytest.raises(ValueError, match="mixup=-1"):
        methods.get("ce")(make_task(), mixup=-1.0)

    tokens = make_task(example=jax.ShapeDtypeStruct((1, 5), jnp.int32), plain=lambda inputs: inputs)
    for name in ("ce", "elr"):
        assert methods.get(name)(tokens)
        with pytest.raises(ValueError, match=r"mixup=0.5: inputs of int32"):
            methods.get(name)(tokens, mixup=0.5)

    def classes_only(logits, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]

    assert erm.erm(make_task(), classes_only)
    with pytest.raises(ValueError, match=r"label distributions \[B, C\]"):
        erm.erm(make_task(), classes_only, mixup=1.0)
    assert C == 10
