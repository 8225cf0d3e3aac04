"""L2RW: its weights as inner products of gradients, a step that uses them, and whose labels they follow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import backend, methods
from robustjax.methods import base
from tests.erm_test import clock_at, jit
from tests.mw_net_test import (
    CLASSES,
    DECAY,
    MOMENTUM,
    RATE,
    ROWS,
    TRUSTED,
    Data,
    K,
    make_task,
    train,
    values_and_errors,
    weights_of,
)


@pytest.mark.parametrize("helpful", [True, False])
def test_a_step_is_the_closed_form(helpful):
    """Eqs. 5 to 9 for a linear softmax, whose gradients are x (p − y); no example helps against its own label."""
    found = Data()
    if not helpful:  # with positive inputs and but two probable classes, a label pulls against every other
        found.x[:], found.trusted_x[:] = np.abs(found.x), np.abs(found.trusted_x)
        found.y[:], found.trusted_y[:] = 0, 1
        found.kernel[:, 2], found.bias[2] = 0, -30
    with backend.enable_x64(True):
        task = make_task(np.float64)
        method = methods.get("l2rw")(task)
        state = method.init(jax.random.key(0), found.y)
        params = {"head": {"kernel": jnp.asarray(found.kernel), "bias": jnp.asarray(found.bias)}}
        buffers = {"head": {"kernel": jnp.asarray(found.kernel_buffer), "bias": jnp.asarray(found.bias_buffer)}}
        opt_state = jax.tree.map(
            lambda node: optax.TraceState(buffers) if isinstance(node, optax.TraceState) else node,
            state.learner.opt_state,
            is_leaf=lambda node: isinstance(node, optax.TraceState),
        )
        state = state._replace(learner=state.learner._replace(params=params, opt_state=opt_state))
        batches = {
            "train": base.Batch(*map(jnp.asarray, (found.x, found.y, np.arange(ROWS), found.mask))),
            "trusted": base.Batch(
                *map(jnp.asarray, (found.trusted_x, found.trusted_y, np.arange(TRUSTED), found.trusted_mask))
            ),
        }
        ((step,),) = method.stages[0].passes
        after, metrics = jit(step.apply)(state, batches, clock_at(method, task, 1), jax.random.key(1))

    values, errors = values_and_errors(found.kernel, found.bias, found.x, found.y)
    theirs, pull = values_and_errors(found.kernel, found.bias, found.trusted_x, found.trusted_y)
    share = found.trusted_mask / found.trusted_mask.sum()
    inner = np.einsum("ni,nc,ic->n", found.x, errors, found.trusted_x.T @ (share[:, None] * pull))
    gain = found.mask * np.maximum(inner + errors @ (share @ pull), 0)
    assert 1 < (gain > 0).sum() < ROWS - 1 if helpful else not gain.any()
    weights = gain / max(gain.sum(), 1e-300)
    kernel, bias = found.x.T @ (weights[:, None] * errors), weights @ errors
    for name, gradient, start, buffer in (
        ("kernel", kernel, found.kernel, found.kernel_buffer),
        ("bias", bias, found.bias, found.bias_buffer),
    ):
        expected = start - RATE * (MOMENTUM * buffer + gradient + DECAY * start)
        np.testing.assert_allclose(after.learner.params["head"][name], expected, rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], weights @ values, rtol=1e-7)
    np.testing.assert_allclose(metrics["meta_loss"][0], share @ theirs, rtol=1e-7)
    assert tuple(map(float, metrics["kept_share"])) == ((gain > 0).sum(), found.mask.sum())
    remembered = base.recall_all(after.weights, ROWS)
    np.testing.assert_allclose(remembered, weights * found.mask.sum() / 2, rtol=1e-5)  # the plain mean of two epochs


def test_wrong_labels_weigh_little():
    epochs, wrong = train("l2rw", np.arange(K) % CLASSES, rate=0.05)
    weights = weights_of(epochs[-1])
    assert 0.4 < weights[~wrong].mean() < 0.6
    assert weights[wrong].mean() < 0.15


def test_refusals():
    with pytest.raises(ValueError, match="meta_batch_size=0 must be at least 1"):
        methods.get("l2rw")(make_task(), meta_batch_size=0)
    with pytest.raises(ValueError, match="method='l2rw' learns from trusted examples"):
        methods.get("l2rw")(make_task(num_trusted=0))
