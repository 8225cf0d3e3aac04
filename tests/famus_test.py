"""FaMUS: the gated meta-gradient by nested differentiation, a step by hand, who learns from what, and its reason."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import roc_auc_score

from robustjax import backend, findings, losses, methods, models
from robustjax.meta_nets import apply_gate_net, apply_weight_net, draw_gate, init_weight_net
from robustjax.methods import base, famus, gated, mw_net
from robustjax.mixup import Mix
from robustjax.models import custom
from robustjax.training import engine, parallel
from tests import mw_net_test
from tests.dividemix_test import CLASSES, INPUTS, RATE, ROWS, N, drawn, make_task, sharpened, two_heaps
from tests.erm_test import clock_at, jit

OPTIONS = {"warmup_epochs": 2, "ramp_epochs": 4.0, "unlabeled_strength": 5.0, "temperature": 0.6, "hidden": 8}


# --- The gated meta-gradient ----------------------------------------------------------------------------------------


def test_the_last_fifteen_tensors_are_the_last_two_blocks_and_the_classifier():
    """In the order of the layers, and not of their names."""
    task = make_task(
        model=models.get_model("preact_resnet18", 10), example=jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    )
    order = base.tensor_order(task)
    leaves = jax.tree.leaves_with_path(base.parameter_shapes(task))
    assert sorted(index for _, index in order) == list(range(len(leaves)))
    layers = [layer for layer, _ in order]
    assert {layer[0] for layer in layers[-15:]} == {"stage4_block1", "stage4_block2", "head"}
    assert layers[-15] == ("stage4_block1", "norm1") and layers[-1] == layers[-2] == ("head",)
    for layer, index in order:
        assert tuple(entry.key for entry in leaves[index][0])[:-1] == layer


class Stacked(nnx.Module):
    """Layers whose names are in no alphabetical order, eleven of them without one."""

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Linear(INPUTS, 2, rngs=rngs)
        self.layers = nnx.Sequential(*(nnx.Linear(2, 2, use_bias=False, rngs=rngs) for _ in range(11)))
        self.classifier = nnx.Linear(2, num_classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.classifier(self.layers(self.stem(inputs)))


def test_layers_are_in_the_order_in_which_they_are_made_of_nnx_and_of_lists():
    stacked = custom.custom_model(Stacked, CLASSES)
    order = base.tensor_order(make_task(model=stacked))
    layers = list(dict.fromkeys(layer for layer, _ in order))
    assert layers == [("stem",), *(("layers", "layers", str(i)) for i in range(11)), ("classifier",)]
    leaves = jax.tree.leaves_with_path(base.parameter_shapes(make_task(model=stacked)))
    assert all(tuple(entry.key for entry in leaves[index][0])[:-1] == layer for layer, index in order)

    def init(key: jax.Array, inputs: jax.Array) -> models.Variables:
        return models.Variables([{"w": jnp.ones((2, 2)), "b": jnp.ones(2)} for _ in range(3)], {})

    assert base.tensor_order(make_task(model=stacked._replace(init=init))) == tuple(
        ((i,), 2 * i + j) for i in range(3) for j in (1, 0)
    )


@pytest.mark.parametrize(
    ("tensors", "score"),
    [(15, 0.0), (15, 50.0), *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in ((15, -50.0), (4, 0.0)))],
)
def test_the_gradient_is_that_of_the_gated_virtual_step(tensors, score):
    """By differentiating M(ω̂(θ, η)) + λ₁ (Σ r − K)² + λ₂ L_g as it stands; all gates open, all shut, and as drawn."""
    how = gated.Gates(tensors, expected=1.0, count_strength=0.3, likeness_strength=0.2)
    rng = np.random.default_rng(0)
    with backend.enable_x64(True):
        task = make_task(
            model=models.get_model("mlp", CLASSES, widths=(7,), normalize=True, dtype=np.float64),
            example=jax.ShapeDtypeStruct((1, INPUTS), np.float64),
        )
        learner = base.init_learner(jax.random.key(0), task)
        nets = gated.init_gates(jax.random.key(1), task, how)
        assert len(nets) == min(tensors - 2, 4)
        for net in nets:
            net["layers"][-1]["bias"] += jnp.array([0.0, score])
        theta = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, float),
            {"weights": init_weight_net(jax.random.key(2), 5), "gates": nets},
        )
        x, meta_x = rng.normal(size=(2, ROWS, INPUTS))
        y, meta_y = rng.integers(0, CLASSES, (2, ROWS))
        gate_key, model_key = jax.random.split(jax.random.key(3))

        def terms(logits: jax.Array, theta: Any) -> dict[str, base.Term]:
            values = losses.cross_entropy(logits, y)
            return {"loss": base.Term(values, apply_weight_net(theta["weights"], jax.lax.stop_gradient(values)))}

        def meta_terms(logits: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(losses.cross_entropy(logits, meta_y), jnp.ones(ROWS))}

        found = jax.jit(
            lambda theta: gated.look_ahead(
                task, learner, model_key, gate_key, theta, how, x, terms, meta_x, meta_terms, jnp.asarray(RATE)
            )
        )(theta)

        names = [("linear1", "kernel"), ("linear1", "bias"), ("norm1", "scale"), ("norm1", "bias")][6 - tensors :]
        keys = list(jax.random.split(gate_key, len(names)))

        def loss(params: Any, theta: Any) -> jax.Array:
            logits = task.model.apply(params, learner.stats, x, train=True, key=model_key)[0]
            values = losses.cross_entropy(logits, y)
            weights = apply_weight_net(theta["weights"], jax.lax.stop_gradient(values))
            return jnp.sum(weights * values) / jnp.sum(weights)

        def meta_loss(params: Any) -> jax.Array:
            logits = task.model.apply(params, learner.stats, meta_x, train=True, key=model_key)[0]
            return jnp.mean(losses.cross_entropy(logits, meta_y))

        def objective(theta: Any) -> tuple[jax.Array, jax.Array]:
            gradient = jax.grad(loss)(learner.params, theta)
            through = jax.tree.map(jax.lax.stop_gradient, gradient) | {"head": gradient["head"]}
            opened = jnp.zeros(())
            for (layer, name), net, own in zip(names, theta["gates"], keys, strict=True):
                mine = gradient[layer][name]
                summary = jax.lax.stop_gradient(mine.sum(0) if mine.ndim == 2 else mine)
                gate = draw_gate(own, apply_gate_net(net, summary))
                kept = jnp.where(gate > 0.5, gate * mine, (1 - gate) * jax.lax.stop_gradient(mine))
                through[layer] = through[layer] | {name: kept}
                opened += gate
            ahead = jax.tree.map(lambda p, g: p - RATE * g, learner.params, through)
            wanted = jax.lax.stop_gradient(jax.grad(meta_loss)(ahead))["head"]
            own_head, alike = gradient["head"], 0.0
            for name in ("kernel", "bias"):
                a, b = own_head[name], wanted[name]
                axis = 0 if name == "kernel" else None
                alike += jnp.mean((a.mean(axis) - b.mean(axis)) ** 2 + (a.std(axis, ddof=1) - b.std(axis, ddof=1)) ** 2)
            return meta_loss(ahead) + 0.3 * (opened - 1.0) ** 2 + 0.2 * alike, opened

        @jax.jit
        def by_hand(theta: Any) -> Any:
            ahead = jax.tree.map(lambda p, g: p - RATE * g, learner.params, jax.grad(loss)(learner.params, theta))
            return *jax.grad(objective, has_aux=True)(theta), meta_loss(ahead)

        expected, opened, value = by_hand(theta)
    chex.assert_trees_all_close(found.gradient, expected, rtol=1e-6, atol=1e-12)
    assert float(found.opened) == float(opened)
    assert score == 0 or float(opened) == (len(names) if score > 0 else 0)
    np.testing.assert_allclose(found.meta_loss, value, rtol=1e-12)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found.gradient["weights"])) > 1e-6


# --- A step ---------------------------------------------------------------------------------------------------------


def test_a_step_is_the_formula(monkeypatch):
    """The virtual and the real objective by hand, two epochs after the warm-up, for a meta-gradient that is given."""
    task = make_task()
    method = methods.get("famus")(task, **OPTIONS, meta_learning_rate=0.5, gate_learning_rate=0.25)
    rng = np.random.default_rng(7)
    state = method.init(jax.random.key(3), np.arange(N) % CLASSES)
    clean = rng.random((2, N)).astype(np.float32)
    state = state._replace(clean=tuple(map(base.remembered, clean)))
    real = gated.look_ahead

    def with_known_gradient(*arguments: Any) -> gated.Gated:
        found = real(*arguments)
        return found._replace(gradient=jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), found.gradient))

    monkeypatch.setattr(gated, "look_ahead", with_known_gradient)
    mix = Mix(jnp.float32(0.7), jnp.asarray(rng.permutation(4 * ROWS)))
    monkeypatch.setattr(famus, "draw_mix", lambda key, size, alpha, *, keep_larger: mix)

    def batch(size: int, padding: int, start: int) -> base.Batch:
        mask = np.arange(size) < size - padding
        return base.Batch(*map(jnp.asarray, (
            rng.normal(size=(size, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, size),
            np.arange(start, start + size), mask.astype(np.float32),
        )))  # fmt: skip

    batches = {"labeled_1": batch(ROWS, 1, 4), "unlabeled_1": batch(ROWS, 2, 20), "meta_1": batch(2 * ROWS, 3, 8)}
    (work,) = method.stages[1].passes[1]
    assert [(draw.stream, draw.batch_size) for draw in work.draws] == [
        ("labeled_1", None), ("unlabeled_1", None), ("meta_1", 2 * ROWS)
    ]  # fmt: skip
    after, metrics = jit(work.apply)(state, batches, clock_at(method, task, 4, 0.5), jax.random.key(5))

    # Nesterov's first step is 1 + 0.9 gradients long.
    for part, rate, decay in (("weights", 0.5, 5e-4), ("gates", 0.25, 0.0)):
        moved = jax.tree.map(lambda leaf: leaf - rate * 1.9 * (0.1 + decay * leaf), state.theta[1][part])  # noqa: B023
        chex.assert_trees_all_close(after.theta[1][part], moved, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(after.theta[0], state.theta[0])

    own, peer = state.learners[1], state.learners[0]
    share, partner = 0.7, np.asarray(mix.partner)

    def probs(learner: base.Learner, inputs: jax.Array, train: bool) -> np.ndarray:
        logits = task.model.apply(learner.params, learner.stats, inputs, train=train, key=jax.random.key(0))[0]
        return np.asarray(jax.nn.softmax(logits))

    def refined(each: base.Batch) -> np.ndarray:
        trust = clean[0][np.asarray(each.index)][:, None]  # the other network's
        mine = trust * np.eye(CLASSES)[each.labels] + (1 - trust) * probs(own, each.inputs, True)
        return sharpened(mine, OPTIONS["temperature"])

    def guessed(each: base.Batch) -> np.ndarray:
        both = (probs(own, each.inputs, True) + probs(peer, each.inputs, False)) / 2
        return sharpened(both, OPTIONS["temperature"])

    def mixed(*parts: np.ndarray) -> np.ndarray:
        twice = np.concatenate([part for part in parts for _ in range(2)])
        return share * twice + (1 - share) * twice[partner]

    a, b, z = batches.values()
    inputs, wanted, guesses = mixed(a.inputs, b.inputs), mixed(refined(a), refined(b)), mixed(guessed(a), guessed(b))
    mask = np.concatenate([a.mask, a.mask, b.mask, b.mask])

    def kl(p: jax.Array, mask: np.ndarray) -> jax.Array:
        return jnp.mean(jnp.log(1 / CLASSES / (jnp.sum(p * mask[:, None], 0) / mask.sum())))

    def objective(params: Any, theta: Any) -> tuple[jax.Array, Any]:
        logits, stats = task.model.apply(params, own.stats, inputs, train=True, key=jax.random.key(0))
        p = jax.nn.softmax(logits)
        values = -jnp.sum(wanted * jnp.log(p), 1)
        v = mask * apply_weight_net(theta["weights"], jax.lax.stop_gradient(values))
        v = v / v.sum()
        errors = jnp.mean((p - guesses) ** 2, 1)
        half = 2 * ROWS
        strength = 5.0 * 2 / 4  # of whole epochs
        return (
            2 * jnp.sum(v[:half] * values[:half]) + 2 * strength * jnp.sum(v[half:] * errors[half:]) + kl(p, mask)
        ), stats

    differentiated = jax.jit(jax.value_and_grad(objective, has_aux=True))
    _, virtual = differentiated(own.params, state.theta[1])
    ahead = jax.tree.map(lambda p, g: p - RATE * g, own.params, virtual)
    p = jax.nn.softmax(task.model.apply(ahead, own.stats, mixed(z.inputs), train=True, key=jax.random.key(0))[0])
    meta_mask = np.tile(z.mask, 2)
    meta_loss = np.sum(meta_mask * -np.sum(mixed(refined(z)) * np.log(p), 1)) / meta_mask.sum() + kl(p, meta_mask)
    np.testing.assert_allclose(metrics["meta_loss"][0], meta_loss, rtol=1e-4)

    (value, stats), gradient = differentiated(own.params, after.theta[1])
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], value, rtol=1e-4)
    stepped = jax.tree.map(lambda p, g: p - RATE * g, own.params, gradient)
    chex.assert_trees_all_close(after.learners[1].params, stepped, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(after.learners[1].stats, stats, rtol=1e-5)
    chex.assert_trees_all_equal(after.learners[0], state.learners[0])


# --- Who learns from what -------------------------------------------------------------------------------------------


def test_an_epoch_lasts_as_long_as_the_larger_part():
    """15 labels are trusted by the one network, 35 by the other, which is not yet nearly all of 40."""
    task = make_task()
    method = methods.get("famus")(task, **OPTIONS)
    labels = np.arange(N) % CLASSES
    few, many = np.arange(N) < 15, np.arange(N) >= 5
    survey = base.Survey((two_heaps(few, labels, 0), two_heaps(many, labels, 1)), jnp.asarray(labels), labels)
    state = method.init(jax.random.key(0), labels)
    state, plan = jit(method.stages[1].plan)(state, survey, clock_at(method, task, 2), jax.random.key(1))
    for which, sure in ((0, many), (1, few)):
        assert drawn(plan[f"labeled_{which}"]) == drawn(plan[f"meta_{which}"]) == set(np.flatnonzero(sure).tolist())
        assert drawn(plan[f"unlabeled_{which}"]) == set(np.flatnonzero(~sure).tolist())
        assert int(plan[f"labeled_{which}"].size) == max(sure.sum(), (~sure).sum())
        assert int(plan[f"meta_{which}"].size) == sure.sum()
    order = np.asarray(plan["labeled_1"].order)
    assert order[:15].tolist() == order[15:30].tolist() != sorted(order[:15])


@pytest.mark.parametrize("count", [3, 38])
def test_where_hardly_any_or_nearly_all_labels_are_trusted_half_of_them_are(count):
    """That of the smaller losses. Weights are learned from what the mixture trusts."""
    task = make_task()
    method = methods.get("famus")(task, **OPTIONS)
    labels = np.arange(N) % CLASSES
    sure = np.arange(N) < count
    logits = two_heaps(sure, labels, 0)
    state = method.init(jax.random.key(0), labels)
    survey = base.Survey((logits, logits), jnp.asarray(labels), labels)
    state, plan = method.stages[1].plan(state, survey, clock_at(method, task, 2), jax.random.key(1))
    values = np.asarray(losses.cross_entropy(logits, labels))
    assert drawn(plan["labeled_0"]) == set(np.argsort(values)[: N // 2].tolist())
    assert drawn(plan["meta_0"]) == set(np.flatnonzero(sure).tolist())


# --- The whole ------------------------------------------------------------------------------------------------------


def test_it_finds_the_wrong_labels():
    """Three Gaussians with 40 % of the labels redrawn."""
    rng = np.random.default_rng(1)
    clean = np.arange(300) % CLASSES
    labels = np.where(rng.random(300) < 0.4, rng.integers(0, CLASSES, 300), clean)
    inputs = (4 * np.eye(CLASSES, INPUTS)[clean] + rng.normal(size=(300, INPUTS))).astype(np.float32)
    task = make_task(num_examples=300, epochs=5, batch_size=40)
    method = methods.get("famus")(task, warmup_epochs=2, ramp_epochs=2.0, unlabeled_strength=1.0, gates=2.0)
    layout = parallel.make_layout("single", batch_size=40, devices=jax.devices()[:1])
    own = engine.Own(jax.random.key(0), jnp.arange(300, dtype=jnp.int32), jnp.asarray(labels, jnp.int32))
    epochs = list(engine.train(method, task, layout, engine.Resident(inputs, inputs), [own]))
    score = epochs[-1].findings[0]["noise_score"].values
    assert roc_auc_score(labels != clean, score) > 0.9
    assert np.mean(epochs[-1].test_logits[0].argmax(-1) == clean) > 0.9 > np.mean(labels == clean)
    assert 0 < epochs[-1].metrics[0]["open_gates"] < 4


def test_meta_weight_net_with_gates_weighs_by_trusted_examples():
    epochs, wrong = mw_net_test.train(
        "mw_net", np.arange(mw_net_test.K) % CLASSES, gated_tensors=15, **mw_net_test.QUICK
    )
    found = epochs[-1].findings[0]["example_weight"]
    assert isinstance(found, findings.LabelWeight)
    assert found.values[~wrong].mean() > found.values[wrong].mean() + 0.1
    assert "open_gates" in epochs[-1].metrics[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": 8}, "warmup_epochs=8"),
        ({"threshold": 1.0}, "threshold=1.0 must be in"),
        ({"gated_tensors": 0}, "gated_tensors=0 must be at least 1"),
        ({"gates": -1.0}, "gates=-1.0"),
        ({"gate_learning_rate": 0.0}, "gate_learning_rate=0.0"),
        ({"gate_strength": -1.0}, "gate_strength=-1.0"),
        ({"likeness_strength": -1.0}, "likeness_strength=-1.0"),
        ({"meta_learning_rate": 0.0}, "meta_learning_rate=0.0"),
        ({"hidden": 0}, "hidden=0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("famus")(make_task(), **{**OPTIONS, **options})


def test_meta_weight_net_refuses_gates_with_another_virtual_step():
    with pytest.raises(ValueError, match="virtual=optimizer must be sgd where gated_tensors is above 0"):
        mw_net.mw_net(mw_net_test.make_task(), gated_tensors=15, virtual="optimizer")
