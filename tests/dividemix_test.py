"""DivideMix: who divides for whom, one step by hand, empty parts, what is known when, and the method's reason."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import roc_auc_score

from robustjax import findings, methods, mixtures, models
from robustjax.methods import base, dividemix
from robustjax.mixup import Mix
from robustjax.training import engine, parallel
from tests.erm_test import clock_at, jit

CLASSES, INPUTS, N, ROWS, RATE = 3, 5, 40, 6, 0.2
OPTIONS = {"warmup_epochs": 2, "ramp_epochs": 4.0, "unlabeled_strength": 5.0, "temperature": 0.6}


def make_task(**changes: Any) -> base.Task:
    """A perceptron with batch normalisation on numbers that no view changes."""
    task = base.Task(
        num_examples=N,
        num_classes=CLASSES,
        epochs=8,
        batch_size=ROWS,
        model=models.get_model("mlp", CLASSES, widths=(7,), normalize=True),
        optimizer=optax.sgd,
        schedule=lambda progress: jnp.full_like(progress, RATE),
        weak=lambda key, inputs: inputs,
        strong=lambda key, inputs: inputs,
        plain=lambda inputs: inputs,
        example=jax.ShapeDtypeStruct((1, INPUTS), np.float32),
    )
    return task._replace(**changes)


def drawn(stream: base.Stream) -> set[int]:
    return set(np.asarray(stream.order)[: int(stream.size)].tolist())


def two_heaps(easy: np.ndarray, labels: np.ndarray, seed: int) -> jax.Array:
    """Logits [N, C] of a network that is sure of the labels of `easy` [N] and of another class elsewhere."""
    size = np.random.default_rng(seed).uniform(3, 4, len(labels))[:, None]
    lean = np.where(easy[:, None], np.eye(CLASSES)[labels], np.eye(CLASSES)[(labels + 1) % CLASSES])
    return jnp.asarray(size * lean, jnp.float32)


# --- The division ---------------------------------------------------------------------------------------------------


def test_each_network_trains_on_the_others_division():
    task = make_task()
    method = methods.get("dividemix")(task, **OPTIONS)
    labels = np.arange(N) % CLASSES
    first, second = np.arange(N) < 25, np.arange(N) >= 10
    stage = method.stages[1]
    survey = base.Survey((two_heaps(first, labels, 0), two_heaps(second, labels, 1)), jnp.asarray(labels), labels)
    state = method.init(jax.random.key(0), labels)
    state, plan = jit(stage.plan)(state, survey, clock_at(method, task, 2), jax.random.key(1))
    for which, easy_for_the_other in ((0, second), (1, first)):
        assert drawn(plan[f"labeled_{which}"]) == set(np.flatnonzero(easy_for_the_other).tolist())
        assert drawn(plan[f"unlabeled_{which}"]) == set(np.flatnonzero(~easy_for_the_other).tolist())
    orders = [np.asarray(plan[f"labeled_{which}"].order)[:25].tolist() for which in (0, 1)]
    assert all(order != sorted(order) for order in orders)
    for clean, easy in zip(state.clean, (first, second), strict=True):  # each keeps what it said itself
        found = np.asarray(base.recall_all(clean, N))
        assert found[easy].min() > 0.99 and found[~easy].max() < 0.01


def test_the_threshold_divides():
    """Losses that overlap: a higher threshold trusts fewer labels, and where it trusts none, all are kept."""
    task, labels = make_task(), jnp.zeros(N, jnp.int32)
    confidence = jnp.linspace(0.05, 0.95, N)
    logits = jnp.log(jnp.stack([confidence, *[(1 - confidence) / 2] * 2], 1))
    clean = np.asarray(mixtures.clean_probability(-jnp.log(confidence)))
    survey, kept = base.Survey((logits, logits), labels, labels), []
    highest = float(clean.max())
    for threshold in (0.1, 0.5, 0.9, (1 + highest) / 2):
        method = methods.get("dividemix")(task, **OPTIONS, threshold=threshold)
        state = method.init(jax.random.key(0), np.asarray(labels))
        _, plan = method.stages[1].plan(state, survey, clock_at(method, task, 2), jax.random.key(1))
        assert int(plan["labeled_0"].size + plan["unlabeled_0"].size) == N
        kept.append(int(plan["labeled_0"].size))
    assert highest < 1 and kept == [*(np.sum(clean > t) for t in (0.1, 0.5, 0.9)), N]
    assert N > kept[0] > kept[1] > kept[2] > 0


def test_equal_losses_leave_no_unlabeled_part():
    task, labels = make_task(), jnp.arange(N) % CLASSES
    method = methods.get("dividemix")(task, **OPTIONS)
    survey = base.Survey((jnp.zeros((N, CLASSES)),) * 2, labels, labels)
    state = method.init(jax.random.key(0), np.asarray(labels))
    _, plan = method.stages[1].plan(state, survey, clock_at(method, task, 2), jax.random.key(1))
    assert [int(plan[f"{part}_{k}"].size) for k in (0, 1) for part in ("labeled", "unlabeled")] == [N, 0, N, 0]


def test_nothing_is_known_before_the_first_division():
    task, labels = make_task(), jnp.arange(N) % CLASSES
    method = methods.get("dividemix")(task, **OPTIONS)
    state = method.init(jax.random.key(0), np.asarray(labels))
    easy = np.arange(N) % 4 > 0
    logits = two_heaps(easy, np.asarray(labels), 0)
    survey = base.Survey(logits, labels, labels)
    before = method.inspect(state, survey)
    assert isinstance(before["noise_score"], findings.NoiseScore) and before["noise_score"].values.shape == (N,)
    assert isinstance(before["correction"], findings.LabelDistribution)
    assert before["correction"].values.shape == (N, CLASSES)
    assert all(np.isnan(found.values).all() for found in before.values())
    seen = base.Survey((logits, logits), labels, labels)
    state, _ = method.stages[1].plan(state, seen, clock_at(method, task, 2), jax.random.key(1))
    after = method.inspect(state, survey)
    clean = np.asarray(base.recall_all(state.clean[0], N))
    np.testing.assert_allclose(after["noise_score"].values, 1 - clean, atol=1e-6)
    assert (np.asarray(after["noise_score"].values) > 0.5).tolist() == (~easy).tolist()
    np.testing.assert_allclose(after["correction"].values.sum(-1), 1, rtol=1e-5)
    # Where a label is trusted it stays, elsewhere the prediction takes its place.
    believed = np.where(easy, labels, (labels + 1) % CLASSES)
    np.testing.assert_array_equal(after["correction"].values.argmax(-1), believed)


# --- Steps ----------------------------------------------------------------------------------------------------------


class Setting:
    """A state whose two networks and probabilities differ, and a labelled and an unlabelled batch with padding."""

    def __init__(self, method: base.Method, labeled_mask=(1, 1, 1, 1, 1, 0), unlabeled_mask=(1, 1, 1, 1, 0, 0)):
        rng = np.random.default_rng(7)
        state = method.init(jax.random.key(3), np.arange(N) % CLASSES)
        stats = [
            jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype), each.stats)
            for each in state.learners
        ]
        learners = [each._replace(stats=new) for each, new in zip(state.learners, stats, strict=True)]
        self.clean = rng.random((2, N)).astype(np.float32)
        self.state = state._replace(learners=tuple(learners), clean=tuple(map(base.remembered, self.clean)))

        def batch(mask: tuple[int, ...], start: int) -> base.Batch:
            inputs = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
            labels, index = rng.integers(0, CLASSES, ROWS), np.arange(start, start + ROWS)
            return base.Batch(*map(jnp.asarray, (inputs, labels, index, np.array(mask, np.float32))))

        self.labeled, self.unlabeled = batch(labeled_mask, 4), batch(unlabeled_mask, 20)
        self.mix = Mix(jnp.float32(0.7), jnp.asarray(rng.permutation(4 * ROWS)))

    def step(self, method: base.Method, task: base.Task, which: int, epoch: int, part: float = 0.0):
        (work,) = method.stages[1].passes[which]
        assert [draw.stream for draw in work.draws] == [f"labeled_{which}", f"unlabeled_{which}"]
        batches = dict(zip((draw.stream for draw in work.draws), (self.labeled, self.unlabeled), strict=True))
        return jit(work.apply)(self.state, batches, clock_at(method, task, epoch, part), jax.random.key(5))


def sharpened(probs: np.ndarray, temperature: float) -> np.ndarray:
    powers = probs ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)


def by_hand(task: base.Task, found: Setting, which: int, strength: float, counts=(1, 1, 1), class_weights=(1, 1, 1)):
    """The objective's parts and total, its gradient, and the batch statistics after the step.

    `counts` are the prior of balanced softmax, `class_weights` those of the labelled loss.
    """
    own, peer = found.state.learners[which], found.state.learners[1 - which]
    x, u, y = found.labeled.inputs, found.unlabeled.inputs, np.asarray(found.labeled.labels)

    def probs(learner: base.Learner, inputs: jax.Array, train: bool) -> np.ndarray:
        logits = task.model.apply(learner.params, learner.stats, inputs, train=train, key=jax.random.key(0))[0]
        return np.asarray(jax.nn.softmax(logits))

    # With views that change nothing both views of a batch have the same prediction.
    trust = found.clean[1 - which][np.asarray(found.labeled.index)][:, None]
    refined = sharpened(trust * np.eye(CLASSES)[y] + (1 - trust) * probs(own, x, True), OPTIONS["temperature"])
    guessed = sharpened((probs(own, u, True) + probs(peer, u, False)) / 2, OPTIONS["temperature"])
    share, partner = float(found.mix.share), np.asarray(found.mix.partner)

    def mixed(values: np.ndarray) -> np.ndarray:
        return share * values + (1 - share) * values[partner]

    inputs, wanted = mixed(np.concatenate([x, x, u, u])), mixed(np.concatenate([refined, refined, guessed, guessed]))
    a, b = np.tile(found.labeled.mask, 2), np.tile(found.unlabeled.mask, 2)
    weighted = a * np.tile(np.asarray(class_weights, np.float32)[y], 2)

    def objective(params: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        logits, stats = task.model.apply(params, own.stats, inputs, train=True, key=jax.random.key(0))
        p = jax.nn.softmax(logits)
        supervised, guesses = jax.nn.softmax(logits[: 2 * ROWS] + jnp.log(jnp.asarray(counts, float))), p[2 * ROWS :]
        cross_entropy = -jnp.sum(wanted[: 2 * ROWS] * jnp.log(supervised), 1)
        errors = jnp.mean((guesses - wanted[2 * ROWS :]) ** 2, 1)
        mask = np.concatenate([a, b])
        average = jnp.sum(p * mask[:, None], 0) / max(mask.sum(), 1)
        parts = {
            "labeled_loss": jnp.sum(weighted * cross_entropy) / max(weighted.sum(), 1e-6),
            "unlabeled_loss": jnp.sum(b * errors) / max(b.sum(), 1),
            "prior_penalty": jnp.sum(jnp.log(1 / CLASSES / average) / CLASSES) * (a.sum() > 0).astype(jnp.float32),
        }
        total = parts["labeled_loss"] + strength * parts["unlabeled_loss"] + parts["prior_penalty"]
        return total, (parts, stats)

    (total, (parts, stats)), gradient = jax.value_and_grad(objective, has_aux=True)(own.params)
    return total, parts, gradient, stats


# λ_u = 5 rises over four epochs from the end of the warm-up on, epoch 2.
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("epoch", "part", "strength"), [(2, 0.0, 0.0), (4, 0.5, 3.125), (7, 0.0, 5.0)])
def test_a_step_is_the_formula(monkeypatch, which, epoch, part, strength):
    task = make_task()
    method = methods.get("dividemix")(task, **OPTIONS)
    found = Setting(method)
    monkeypatch.setattr(dividemix, "draw_mix", lambda key, size, alpha, *, keep_larger: found.mix)
    after, metrics = found.step(method, task, which, epoch, part)
    total, parts, gradient, stats = by_hand(task, found, which, strength)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], total, rtol=1e-5)
    for name, value in parts.items():
        np.testing.assert_allclose(metrics[name][0] / metrics[name][1], value, rtol=1e-4, err_msg=name)
    assert metrics["unlabeled_loss_strength"][0] == pytest.approx(strength)
    assert (metrics["labeled_loss"][1], metrics["unlabeled_loss"][1]) == (10, 8)  # two views, without padding
    own, new = found.state.learners[which], after.learners[which]
    stepped = jax.tree.map(lambda p, g: p - RATE * g, own.params, gradient)
    chex.assert_trees_all_close(new.params, stepped, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(new.stats, stats, rtol=1e-5)  # of the mixed pass alone
    chex.assert_trees_all_equal(after.learners[1 - which], found.state.learners[1 - which])


def test_balanced_softmax_and_class_weights_are_of_the_labeled_part_alone(monkeypatch):
    """Ten, nine and one label; weights from the middle of the run on, of mixed examples by their own labels."""
    task = make_task()
    method = methods.get("dividemix_bs")(task, **OPTIONS, reweight_from=0.5)
    counts = np.array([10, 9, 1])
    found = Setting(method)
    found.state = found.state._replace(class_counts=jnp.asarray(counts, jnp.float32))
    assert method.init(jax.random.key(0), np.zeros(3, int)).class_counts.tolist() == [3, 1, 1]  # a prior of 0 is none
    monkeypatch.setattr(dividemix, "draw_mix", lambda key, size, alpha, *, keep_larger: found.mix)
    weights = 1 / ((1 - 0.9999**counts) / (1 - 0.9999))
    for epoch, class_weights in ((3, (1, 1, 1)), (4, 3 * weights / weights.sum())):
        after, metrics = found.step(method, task, 0, epoch)
        strength = 5.0 * (epoch - 2) / 4
        total, parts, gradient, _ = by_hand(task, found, 0, strength, counts, class_weights)
        np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], total, rtol=1e-4)
        np.testing.assert_allclose(
            metrics["labeled_loss"][0] / metrics["labeled_loss"][1], parts["labeled_loss"], rtol=1e-4
        )
        stepped = jax.tree.map(lambda p, g: p - RATE * g, found.state.learners[0].params, gradient)
        chex.assert_trees_all_close(after.learners[0].params, stepped, rtol=1e-4, atol=1e-5)


def test_rolt_divides_each_class_by_its_prototype():
    """Features, not logits, are looked at; each network trains on the other's division, as in DivideMix."""
    task, labels = make_task(), np.arange(N) % CLASSES
    method = methods.get("rolt_plus")(task, **OPTIONS)
    rng = np.random.default_rng(2)

    def features(wrong):
        true = np.where(wrong, (labels + 1) % CLASSES, labels)
        return jnp.asarray(np.eye(CLASSES, 7)[true] + 0.05 * rng.normal(size=(N, 7)), jnp.float32)

    first, second = np.arange(N) % 7 == 0, np.arange(N) % 5 == 1
    survey = base.Survey((features(first), features(second)), jnp.asarray(labels), labels)
    state = method.init(jax.random.key(0), labels)
    assert state.class_counts == {}
    _, plan = jit(method.stages[1].plan)(state, survey, clock_at(method, task, 2), jax.random.key(1))
    assert [drawn(plan[f"unlabeled_{which}"]) for which in (0, 1)] == [
        set(np.flatnonzero(wrong).tolist()) for wrong in (second, first)
    ]
    seen = method.stages[1].look(state, jnp.ones((2, INPUTS)))
    assert [each.shape for each in seen] == [(2, 7), (2, 7)]


@pytest.mark.parametrize(
    ("labeled_mask", "unlabeled_mask"), [((1,) * ROWS, (0,) * ROWS), ((0,) * ROWS, (1,) * ROWS)], ids=["no u", "no x"]
)
def test_an_empty_part_adds_nothing(monkeypatch, labeled_mask, unlabeled_mask):
    task = make_task()
    method = methods.get("dividemix")(task, **OPTIONS)
    found = Setting(method, labeled_mask, unlabeled_mask)
    monkeypatch.setattr(dividemix, "draw_mix", lambda key, size, alpha, *, keep_larger: found.mix)
    after, metrics = found.step(method, task, 0, 7)
    _, _, gradient, _ = by_hand(task, found, 0, 5.0)
    stepped = jax.tree.map(lambda p, g: p - RATE * g, found.state.learners[0].params, gradient)
    chex.assert_trees_all_close(after.learners[0].params, stepped, rtol=1e-4, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.learners, metrics)))
    assert metrics["labeled_loss"][1] == 2 * sum(labeled_mask)
    assert metrics["unlabeled_loss"][1] == 2 * sum(unlabeled_mask)


def test_mixing_keeps_the_larger_share(monkeypatch):
    asked = []

    def draw(key, size, alpha, **options):
        asked.append((size, alpha, options))
        return Mix(jnp.float32(1), jnp.arange(size))

    monkeypatch.setattr(dividemix, "draw_mix", draw)
    task = make_task()
    method = methods.get("dividemix")(task, **OPTIONS, alpha=0.75)
    Setting(method).step(method, task, 0, 2)
    assert asked == [(4 * ROWS, 0.75, {"keep_larger": True})]


@pytest.mark.parametrize("penalty", [False, True])
def test_the_warm_up_is_cross_entropy(penalty):
    """For asymmetric noise less the entropy of the predictions, which such noise makes too small."""
    task = make_task()
    method = methods.get("dividemix")(task, **OPTIONS, confidence_penalty=penalty)
    found = Setting(method)
    (work,) = method.stages[0].passes[1]
    batches = {"all_1": found.labeled}
    after, metrics = jit(work.apply)(found.state, batches, clock_at(method, task, 0), jax.random.key(0))
    learner, mask = found.state.learners[1], np.asarray(found.labeled.mask)

    def objective(params: Any) -> jax.Array:
        logits = task.model.apply(params, learner.stats, found.labeled.inputs, train=True, key=jax.random.key(0))[0]
        log_p = jax.nn.log_softmax(logits)
        values = -log_p[jnp.arange(ROWS), found.labeled.labels]
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, 1)
        return jnp.sum(mask * (values - entropy if penalty else values)) / mask.sum()

    value, gradient = jax.value_and_grad(objective)(learner.params)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], value, rtol=1e-5)
    stepped = jax.tree.map(lambda p, g: p - RATE * g, learner.params, gradient)
    chex.assert_trees_all_close(after.learners[1].params, stepped, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(after.learners[0], found.state.learners[0])


# --- The whole ------------------------------------------------------------------------------------------------------


def run(labels: np.ndarray, clean: np.ndarray, epochs: int = 5) -> list[engine.Epoch]:
    count = len(labels)
    rng = np.random.default_rng(0)
    inputs = (4 * np.eye(CLASSES, INPUTS)[clean] + rng.normal(size=(count, INPUTS))).astype(np.float32)
    task = make_task(num_examples=count, epochs=epochs, batch_size=40)
    options = {"warmup_epochs": 2, "ramp_epochs": 2.0, "unlabeled_strength": 1.0}
    method = methods.get("dividemix")(task, **options)
    layout = parallel.make_layout("single", batch_size=40, devices=jax.devices()[:1])
    own = engine.Own(jax.random.key(0), jnp.arange(count, dtype=jnp.int32), jnp.asarray(labels, jnp.int32))
    return list(engine.train(method, task, layout, engine.Resident(inputs, inputs), [own]))


def test_it_finds_the_wrong_labels():
    """Three Gaussians with 40 % of the labels redrawn."""
    rng = np.random.default_rng(1)
    clean = np.arange(300) % CLASSES
    labels = np.where(rng.random(300) < 0.4, rng.integers(0, CLASSES, 300), clean)
    epochs = run(labels, clean)
    scores = [epoch.findings[0]["noise_score"].values for epoch in epochs]
    assert [bool(np.isnan(score).all()) for score in scores] == [True, True, False, False, False]
    assert roc_auc_score(labels != clean, scores[-1]) > 0.9
    corrected = epochs[-1].findings[0]["correction"].values.argmax(-1)
    assert np.mean(corrected == clean) > 0.9 > np.mean(labels == clean)
    assert np.mean(epochs[-1].test_logits[0].argmax(-1) == clean) > 0.9
    assert "unlabeled_loss" in epochs[2].metrics[0] and "unlabeled_loss" not in epochs[1].metrics[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": 8}, "warmup_epochs=8"),
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"unlabeled_strength": -1.0}, "unlabeled_strength=-1.0"),
        ({"ramp_epochs": 0.0}, "ramp_epochs=0.0"),
        ({"labeled_loss": "mae"}, "labeled_loss='mae'"),
        ({"division": "loss"}, "division='loss'"),
        ({"reweight_from": 1.5}, "reweight_from=1.5"),
        ({"warmup_batch_factor": 0}, "warmup_batch_factor=0 must be in"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("dividemix")(make_task(), **{**OPTIONS, **options})


def test_inputs_that_cannot_be_mixed_are_refused_by_the_options_name():
    task = make_task(example=jax.ShapeDtypeStruct((1, INPUTS), np.int32))
    for name, alpha in (("dividemix", 4.0), ("famus", 4.0), ("m_dyr_sh", 32.0)):
        with pytest.raises(ValueError, match=f"alpha={alpha}: inputs of int32, .* another one is needed"):
            methods.get(name)(task._replace(epochs=20))
