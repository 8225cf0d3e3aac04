"""Meta nets: starting points, shapes, against a plain NumPy forward pass. Golden numbers are in tests/oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import meta_nets


def test_corrector_and_margin_start_where_they_should():
    corrector = meta_nets.init_corrector(jax.random.key(0), 10, 100)
    np.testing.assert_allclose(meta_nets.weight_table(corrector, 10), jax.nn.sigmoid(3.98), atol=0.02)
    np.testing.assert_allclose(meta_nets.margin_vector(meta_nets.init_margin(jax.random.key(1), 10)), 1, atol=0.5)
    table = meta_nets.init_margin(jax.random.key(1), 10, form="vector")
    np.testing.assert_array_equal(meta_nets.margin_vector(table), np.ones(10))


@pytest.mark.parametrize("net", meta_nets.NETS)
@pytest.mark.parametrize("form", ["mlp", "agnostic", "vector", "table"])
def test_forms_of_the_corrector(form, net):
    params = meta_nets.init_corrector(jax.random.key(0), 4, 7, form=form, net=net)
    table = meta_nets.weight_table(params, 4)
    assert table.shape == (4, 7) and ((table > 0) & (table < 1)).all()
    assert (table == table[:1]).all() == (form != "mlp")
    # Which numbers can differ once it has learned: by bin always, by class unless it is for all classes.
    other = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    table = meta_nets.weight_table(other, 4)
    assert len(np.unique(table)) == (7 if form in ("agnostic", "vector") else 28)


def test_the_papers_nets_against_numpy():
    """Two layers: a bin goes in as a one-hot vector, the margins' input is all ones, and q starts at ones."""
    params = meta_nets.init_corrector(jax.random.key(0), 4, 7, hidden=5, net="paper")
    first, last = (jax.tree.map(np.asarray, layer) for layer in params["layers"])
    assert first["kernel"].shape == (7, 5) and last["kernel"].shape == (5, 4) and set(params) == {"layers"}
    outputs = np.maximum(np.eye(7) @ first["kernel"] + first["bias"], 0) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(meta_nets.weight_table(params, 4), 1 / (1 + np.exp(-outputs.T)), rtol=1e-5)
    margin = meta_nets.init_margin(jax.random.key(1), 4, hidden=5, net="paper")
    np.testing.assert_array_equal(meta_nets.margin_vector(margin), np.ones(4))
    margin = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(2), p.shape), margin)
    first, last = (jax.tree.map(np.asarray, layer) for layer in margin["layers"])
    expected = np.maximum(np.ones(4) @ first["kernel"] + first["bias"], 0) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(meta_nets.margin_vector(margin), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="net='cnn'"):
        meta_nets.init_margin(jax.random.key(0), 4, net="cnn")


def test_absent_nets_have_no_parameters():
    assert meta_nets.init_corrector(jax.random.key(0), 4, 7, form="none") == {}
    assert meta_nets.init_margin(jax.random.key(0), 4, form="balanced_softmax") == {}


def test_weight_net_against_numpy():
    params = meta_nets.init_weight_net(jax.random.key(0), hidden=7, groups=3)
    values, group = np.array([0.0, 0.5, 3.0, 9.0], np.float32), np.array([2, 0, 1, 2])
    hidden, head = (jax.tree.map(np.asarray, params[name]) for name in ("hidden", "head"))
    expected = []
    for value, g in zip(values, group, strict=True):
        x = np.maximum(value * hidden["kernel"][0] + hidden["bias"], 0)
        expected.append(1 / (1 + np.exp(-(x @ head["kernel"][:, g] + head["bias"][g]))))
    np.testing.assert_allclose(meta_nets.apply_weight_net(params, values, group), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(meta_nets.apply_weight_net)(params, values, group), expected, rtol=1e-5)
    assert meta_nets.apply_weight_net(params, values.reshape(2, 2), group.reshape(2, 2)).shape == (2, 2)
    # Without a group, all use the first head.
    zeros = meta_nets.apply_weight_net(params, values, np.zeros(4, int))
    np.testing.assert_array_equal(meta_nets.apply_weight_net(params, values), zeros)


def test_only_the_head_in_use_learns():
    params = meta_nets.init_weight_net(jax.random.key(0), groups=3)
    values = jnp.array([0.5, 2.0])
    gradient = jax.grad(lambda p: meta_nets.apply_weight_net(p, values, jnp.array([1, 1])).sum())(params)
    assert (gradient["head"]["bias"] != 0).tolist() == [False, True, False]
    assert np.any(gradient["hidden"]["kernel"] != 0)


def test_weight_net_starts_as_its_authors_framework_does():
    params = meta_nets.init_weight_net(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        "hidden": {"kernel": (1, 100), "bias": (100,)},
        "head": {"kernel": (100, 1), "bias": (1,)},
    }
    for layer, bound in (("hidden", 1.0), ("head", 0.1)):
        kernel = np.asarray(params[layer]["kernel"])
        assert 0.9 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.2)
    with pytest.raises(ValueError, match="hidden=0"):
        meta_nets.init_weight_net(jax.random.key(0), hidden=0)
