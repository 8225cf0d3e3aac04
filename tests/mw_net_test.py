"""Meta-Weight-Net: an iteration by hand in float64, whose labels teach the net, and what its weights come to."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import backend, findings, methods, models
from robustjax.meta_nets import apply_weight_net
from robustjax.methods import base
from robustjax.training import engine, parallel
from tests.erm_test import clock_at, jit

CLASSES, INPUTS, ROWS, TRUSTED = 3, 4, 7, 5
RATE, META_RATE, DECAY, META_DECAY, MOMENTUM = 0.4, 0.05, 0.02, 0.3, 0.9


def make_task(dtype: Any = np.float32, **changes: Any) -> base.Task:
    """A linear softmax on numbers that no view changes, trained with momentum and weight decay."""
    task = base.Task(
        num_examples=ROWS,
        num_classes=CLASSES,
        epochs=4,
        batch_size=ROWS,
        model=models.get_model("mlp", CLASSES, widths=(), dtype=dtype),
        optimizer=lambda rate: optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(rate, momentum=MOMENTUM)),
        schedule=lambda progress: jnp.full_like(progress, RATE),
        weak=lambda key, inputs: inputs,
        strong=lambda key, inputs: inputs,
        plain=lambda inputs: inputs,
        example=jax.ShapeDtypeStruct((1, INPUTS), dtype),
        num_trusted=TRUSTED,
    )
    return task._replace(**changes)


class Data:
    """Numbers for one step: a batch and a trusted one, each with a row of padding, in float64."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.x, self.y = rng.normal(size=(ROWS, INPUTS)), rng.integers(0, CLASSES, ROWS)
        self.trusted_x, self.trusted_y = rng.normal(size=(TRUSTED, INPUTS)), rng.integers(0, CLASSES, TRUSTED)
        self.mask, self.trusted_mask = np.ones(ROWS), np.ones(TRUSTED)
        self.mask[2] = self.trusted_mask[-1] = 0
        self.kernel, self.bias = rng.normal(size=(INPUTS, CLASSES)), rng.normal(size=CLASSES)
        self.kernel_buffer, self.bias_buffer = rng.normal(size=(INPUTS, CLASSES)), rng.normal(size=CLASSES)
        # Two hidden units of which one is at work at each loss; Adam has made three steps.
        self.theta = rng.normal(size=7)
        self.adam = 0.01 * rng.normal(size=7), 1e-4 * rng.random(7)


def values_and_errors(kernel, bias, x, y) -> tuple[np.ndarray, np.ndarray]:
    """Cross entropies and p − y."""
    logits = x @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return -np.log(p[np.arange(len(y)), y]), p - np.eye(CLASSES)[y]


def weights(theta, values) -> np.ndarray:
    """V(ℓ; θ), θ = (kernel 2, bias 2, head's kernel 2, head's bias)."""
    hidden = np.maximum(values[:, None] * theta[:2] + theta[2:4], 0)
    return 1 / (1 + np.exp(-(hidden @ theta[4:6] + theta[6])))


def gradients(found: Data, theta) -> tuple[np.ndarray, np.ndarray]:
    """Of the weighted mean of the train losses at ω."""
    values, errors = values_and_errors(found.kernel, found.bias, found.x, found.y)
    pull = (found.mask * weights(theta, values) / found.mask.sum())[:, None] * errors
    return found.x.T @ pull, pull.sum(0)


def meta_loss(found: Data, theta, virtual: str) -> float:
    """The trusted loss after the virtual step."""
    kernel, bias = gradients(found, theta)
    if virtual == "optimizer":
        kernel = MOMENTUM * found.kernel_buffer + kernel + DECAY * found.kernel
        bias = MOMENTUM * found.bias_buffer + bias + DECAY * found.bias
    moved = found.kernel - RATE * kernel, found.bias - RATE * bias
    values, _ = values_and_errors(*moved, found.trusted_x, found.trusted_y)
    return float(np.sum(found.trusted_mask * values) / found.trusted_mask.sum())


def as_net(theta) -> dict[str, Any]:
    theta = jnp.asarray(theta)
    return {
        "hidden": {"kernel": theta[None, :2], "bias": theta[2:4]},
        "head": {"kernel": theta[4:6, None], "bias": theta[6:]},
    }


@pytest.mark.parametrize("virtual", ["sgd", "optimizer"])
def test_a_step_is_the_closed_form(virtual):
    """Eqs. 5 to 7; the meta-gradient by finite differences."""
    found = Data()
    with backend.enable_x64(True):
        task = make_task(np.float64)
        method = methods.get("mw_net")(
            task, hidden=2, virtual=virtual, meta_learning_rate=META_RATE, meta_weight_decay=META_DECAY
        )
        state = method.init(jax.random.key(0), found.y)
        params = {"head": {"kernel": jnp.asarray(found.kernel), "bias": jnp.asarray(found.bias)}}
        buffers = {"head": {"kernel": jnp.asarray(found.kernel_buffer), "bias": jnp.asarray(found.bias_buffer)}}

        def set_up(node: Any) -> Any:
            if isinstance(node, optax.TraceState):
                return optax.TraceState(buffers)
            if isinstance(node, optax.ScaleByAdamState):
                return optax.ScaleByAdamState(jnp.int32(3), *map(as_net, found.adam))
            return node

        def placed(tree: Any) -> Any:
            special = (optax.TraceState, optax.ScaleByAdamState)
            return jax.tree.map(set_up, tree, is_leaf=lambda node: isinstance(node, special))

        learner = state.learner._replace(params=params, opt_state=placed(state.learner.opt_state))
        state = state._replace(learner=learner, theta=as_net(found.theta), meta_opt_state=placed(state.meta_opt_state))
        batches = {
            "train": base.Batch(*map(jnp.asarray, (found.x, found.y, np.arange(ROWS), found.mask))),
            "trusted": base.Batch(
                *map(jnp.asarray, (found.trusted_x, found.trusted_y, np.arange(TRUSTED), found.trusted_mask))
            ),
        }
        ((step,),) = method.stages[0].passes
        after, metrics = jit(step.apply)(state, batches, clock_at(method, task, 1), jax.random.key(1))

    h, slope = 1e-6, np.zeros(7)
    for i, unit in enumerate(np.eye(7)):
        ahead, behind = (meta_loss(found, found.theta + sign * h * unit, virtual) for sign in (1, -1))
        slope[i] = (ahead - behind) / (2 * h)
    assert np.abs(slope).max() > 1e-3
    gradient = slope + META_DECAY * found.theta
    first, second = 0.9 * found.adam[0] + 0.1 * gradient, 0.999 * found.adam[1] + 0.001 * gradient**2
    theta = found.theta - META_RATE * first / (1 - 0.9**4) / (np.sqrt(second / (1 - 0.999**4)) + 1e-8)
    for path, value in jax.tree.leaves_with_path(as_net(theta)):
        there = after.theta[path[0].key][path[1].key]
        np.testing.assert_allclose(there, value, rtol=1e-6, err_msg=str(path))
    # The real step weighs by the new net, from the old parameters, with the classifier's momentum and weight decay.
    kernel, bias = gradients(found, theta)
    for name, gradient, start, buffer in (
        ("kernel", kernel, found.kernel, found.kernel_buffer),
        ("bias", bias, found.bias, found.bias_buffer),
    ):
        expected = start - RATE * (MOMENTUM * buffer + gradient + DECAY * start)
        np.testing.assert_allclose(after.learner.params["head"][name], expected, rtol=1e-7, err_msg=name)
    values, _ = values_and_errors(found.kernel, found.bias, found.x, found.y)
    of_the_step = np.sum(found.mask * weights(theta, values) * values) / found.mask.sum()
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], of_the_step, rtol=1e-7)
    np.testing.assert_allclose(metrics["meta_loss"][0], meta_loss(found, found.theta, virtual), rtol=1e-7)


def one_step(method: base.Method, task: base.Task, state: Any, found: Data) -> tuple[Any, base.Metrics]:
    """A step in float32."""
    batches = {
        "train": base.Batch(*map(jnp.asarray, (np.float32(found.x), found.y, np.arange(ROWS), np.float32(found.mask)))),
        "trusted": base.Batch(*map(jnp.asarray, (
            np.float32(found.trusted_x), found.trusted_y, np.arange(TRUSTED), np.float32(found.trusted_mask)))),
    }  # fmt: skip
    ((step,),) = method.stages[0].passes
    return jit(step.apply)(state, batches, clock_at(method, task, 1), jax.random.key(1))


def test_ldams_loss_is_weighed():
    """Its margins are those of the given labels: 1/2 for the rarest class, with the fourth root of the counts."""
    found, task = Data(), make_task()
    method = methods.get("mw_net")(task, hidden=4, train_loss="ldam")
    state = method.init(jax.random.key(0), np.repeat([0, 1, 2], [16, 1, 1]))
    np.testing.assert_allclose(state.margins, [0.25, 0.5, 0.5], rtol=1e-6)
    after, metrics = one_step(method, task, state, found)
    params = state.learner.params["head"]
    logits = found.x @ params["kernel"] + params["bias"]
    scores = 30 * (logits - np.eye(CLASSES)[found.y] * np.array([0.25, 0.5, 0.5]))
    values = np.log(np.exp(scores).sum(1)) - scores[np.arange(ROWS), found.y]
    v = np.asarray(apply_weight_net(after.theta, values.astype(np.float32)))
    np.testing.assert_allclose(metrics["loss"][0], (found.mask * v * values).sum(), rtol=1e-4)
    predicted = method.predict(state, jnp.asarray(found.x, jnp.float32))
    np.testing.assert_allclose(predicted, 30 * logits, rtol=1e-4)
    seen = base.Survey(predicted, jnp.asarray(found.y), jnp.asarray(found.y))
    np.testing.assert_allclose(method.inspect(after, seen)["example_weight"].values, v, rtol=1e-4)

    # Trusted labels are learned from without the scale, after a virtual step of plain SGD.
    @jax.jit
    def meta_loss(params: Any) -> jax.Array:
        def loss(params: Any, x: Any, y: Any, margins: Any, weights: Any, scale: float) -> jax.Array:
            logits = scale * (x @ params["kernel"] + params["bias"] - jax.nn.one_hot(y, CLASSES) * margins)
            values = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)[:, 0]
            return jnp.sum(weights * values)

        first = apply_weight_net(state.theta, jnp.asarray(values, jnp.float32))
        slope = jax.grad(loss)(
            params, found.x, found.y, state.margins, jnp.float32(found.mask / found.mask.sum()) * first, 30.0
        )
        ahead = jax.tree.map(lambda p, g: p - RATE * g, params, slope)
        return loss(ahead, found.trusted_x, found.trusted_y, 0.0, found.trusted_mask / found.trusted_mask.sum(), 1.0)

    np.testing.assert_allclose(metrics["meta_loss"][0], meta_loss(params), rtol=1e-4)


@pytest.mark.parametrize("applied", ["learned", "inverse", "random"])
def test_weights_of_the_real_step(applied):
    """HAR's controls are inverse or random weights with the learned ones' mean; what is learned stays the same."""
    found, task = Data(), make_task()
    method = methods.get("mw_net")(task, hidden=4, applied=applied)
    state = method.init(jax.random.key(0), found.y)
    learned = methods.get("mw_net")(task, hidden=4)
    expected, _ = one_step(learned, task, learned.init(jax.random.key(0), found.y), found)
    after, metrics = one_step(method, task, state, found)
    chex.assert_trees_all_equal(after.theta, expected.theta)
    params = state.learner.params["head"]
    values, _ = values_and_errors(np.asarray(params["kernel"]), np.asarray(params["bias"]), found.x, found.y)
    v = np.asarray(apply_weight_net(after.theta, values.astype(np.float32)))
    mean = (found.mask * v).sum() / found.mask.sum()
    told = metrics["loss"][0] / metrics["loss"][1]
    if applied == "inverse":
        v = 1 / v * mean / ((found.mask / v).sum() / found.mask.sum())
    of_these = (found.mask * v * values).sum() / found.mask.sum()
    if applied == "random":
        assert abs(told - of_these) > 1e-3 and values[found.mask > 0].min() < told / mean < values.max()
    else:
        np.testing.assert_allclose(told, of_these, rtol=1e-5)


N, K = 300, 60
QUICK = {"hidden": 16, "meta_learning_rate": 2e-2}


def train(
    method: str, trusted_labels: np.ndarray, rate: float = 0.5, **options: Any
) -> tuple[list[engine.Epoch], np.ndarray]:
    """Three Gaussians, 40 % of the labels moved on, and trusted inputs of the same kind: epochs, and who is wrong."""
    rng = np.random.default_rng(0)
    clean = np.arange(N + K) % CLASSES
    inputs = (4 * np.eye(CLASSES, INPUTS)[clean] + rng.normal(size=(N + K, INPUTS))).astype(np.float32)
    wrong = rng.random(N) < 0.4
    labels = np.where(wrong, (clean[:N] + 1) % CLASSES, clean[:N]).astype(np.int32)
    task = make_task(
        num_examples=N,
        num_trusted=K,
        batch_size=50,
        epochs=12,
        optimizer=optax.sgd,
        schedule=lambda progress: jnp.full_like(progress, rate),
    )
    made = methods.get(method)(task, meta_batch_size=30, **options)
    layout = parallel.make_layout("single", batch_size=50, devices=jax.devices()[:1])
    own = engine.Own(
        jax.random.key(0),
        jnp.arange(N, dtype=jnp.int32),
        jnp.asarray(labels),
        trusted_kept=jnp.arange(K, dtype=jnp.int32),
        trusted_labels=jnp.asarray(trusted_labels, jnp.int32),
    )
    resident = engine.Resident(inputs[:N], inputs[:10], inputs[N:])
    return list(engine.train(made, task, layout, resident, [own], track_every=2)), wrong


def weights_of(epoch: engine.Epoch) -> np.ndarray:
    found = epoch.findings[0]["example_weight"]
    assert isinstance(found, findings.LabelWeight)
    return found.values


def test_wrong_labels_lose_weight():
    epochs, wrong = train("mw_net", np.arange(K) % CLASSES, **QUICK)  # N divides by the number of classes
    early, late = weights_of(epochs[1]), weights_of(epochs[-1])
    assert late[~wrong].mean() > late[wrong].mean() + 0.5
    assert late[wrong].mean() < early[wrong].mean() - 0.1
    assert epochs[-1].metrics[0]["meta_loss"] < epochs[0].metrics[0]["meta_loss"]


def test_the_net_learns_from_the_trusted_labels():
    """With labels that say the contrary the wrong ones gain: it is those labels that are asked, not the given ones."""
    epochs, wrong = train("mw_net", (np.arange(K) + 1) % CLASSES, **QUICK)
    late = weights_of(epochs[-1])
    assert late[wrong].mean() > late[~wrong].mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden=0"),
        ({"meta_batch_size": 0}, "meta_batch_size=0"),
        ({"meta_learning_rate": 0.0}, "meta_learning_rate=0.0"),
        ({"meta_weight_decay": -1.0}, "meta_weight_decay=-1.0"),
        ({"virtual": "adam"}, "virtual='adam' is none of sgd, optimizer"),
        ({"train_loss": "mae"}, "train_loss='mae' is none of cross_entropy, ldam"),
        ({"applied": "mean"}, "applied='mean' is none of learned, random, inverse"),
        ({"gated_tensors": -1}, "gated_tensors=-1 must be at least 0"),
        ({"gate_learning_rate": 0.1}, "gate_learning_rate=0.1 must be positive, and left out without gated_tensors"),
        ({"gate_learning_rate": 0.0, "gated_tensors": 3}, "gate_learning_rate=0.0 must be positive"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("mw_net")(make_task(), **options)


def test_it_needs_trusted_examples():
    with pytest.raises(ValueError, match="method='mw_net' learns from trusted examples"):
        methods.get("mw_net")(make_task(num_trusted=0))
