"""ERM: its objective by hand, every method by name on tiny data, and the options of each."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import tables
from experiments.settings import config
from experiments.tables import commands
from robustjax import backend, data, losses, margins, methods, models, schedules
from robustjax.data import augment
from robustjax.methods import base, erm
from robustjax.training import streams

C = 10
jit = functools.partial(jax.jit, compiler_options=backend.compiler_options(once=True))
NAMES = (
    "cross_entropy", "balanced_softmax", "label_smoothing", "focal", "gce", "sce", "mae", "nce", "rce", "apl",
    "nce_mae", "nce_rce", "nfl_mae", "nfl_rce", "phuber_ce", "bootstrap", "forward", "gjs", "dmi", "cb_focal", "ldam",
    "ldam_drw", "ce_sr", "fl_sr", "gce_sr", "nlnl",
)  # fmt: skip
# Normalised and bounded losses have small gradients; phases of one epoch are enough to see each.
RATES = {"nce": 5.0, "mae": 0.2, "apl": 0.5, "nce_mae": 0.5, "nfl_mae": 0.5, "gce": 0.2, "nlnl": 0.3}
OPTIONS = {
    "forward": {"pretrain_epochs": 3},
    "dmi": {"tuning_epochs": 1, "dmi_learning_rate": 1e-3},
    "ldam": {"scale": 2.0},
    "ldam_drw": {"scale": 2.0, "reweight_from": 0.5},
    "nlnl": {"complementary": 9, "selective_from": 1.0, "positive_from": 1.0},
}


@functools.cache
def digits() -> data.Dataset:
    return data.load("digits")


@functools.cache
def mlp() -> models.Model:
    return models.get_model("mlp", C)


def make_task(epochs: int = 3, rate: float = 0.1, examples: int = 640, **changes) -> base.Task:
    found = digits()
    view = augment.make_view("none", found.mean, found.std)
    task = base.Task(
        num_examples=examples,
        num_classes=C,
        epochs=epochs,
        batch_size=64,
        model=mlp(),
        optimizer=lambda rate: optax.sgd(rate, momentum=0.9),
        schedule=lambda progress: jnp.full_like(progress, rate),
        weak=view,
        strong=view,
        plain=lambda inputs: augment.normalize(inputs, found.mean, found.std),
        example=jax.ShapeDtypeStruct((1, *found.train_inputs.shape[1:]), found.train_inputs.dtype),
    )
    return task._replace(**changes)


def clock_at(method: base.Method, task: base.Task, epoch: Any, part: Any = 0.0, stage: int | None = None) -> base.Clock:
    """The time at `part` of an epoch, by the schedule of its stage; `stage` is needed of a traced epoch."""
    number = method.stage_at(epoch)[0] if stage is None else stage
    start = sum(each.epochs for each in method.stages[:number])
    progress, own = (jnp.asarray(at, jnp.float32) + part for at in (epoch, epoch - start))
    schedule = method.stages[number].schedule
    rate = task.schedule(progress) if schedule is None else schedule(own)
    return base.Clock(jnp.asarray(epoch, jnp.int32), progress, jnp.asarray(epoch - start, jnp.int32), own, rate)


class Epoch(NamedTuple):
    state: Any
    metrics: dict[str, float]


def train(method: base.Method, task: base.Task, labels: np.ndarray | None = None) -> list[Epoch]:
    """Train on the first digits, by their clean labels if none are given, in the plainest loop there can be.

    The engine has tests of its own.
    """
    found, n = digits(), task.num_examples
    images = jnp.asarray(found.train_inputs[:n])
    labels = jnp.asarray(found.train_labels[:n] if labels is None else labels, jnp.int32)
    state = method.init(jax.random.key(1), np.asarray(labels))
    everything = {"train": base.Stream(jnp.arange(n, dtype=jnp.int32), jnp.int32(n))}

    def advance(number, state, plan, epoch, t, steps):
        drawn = streams.draw(plan["train"], t, task.batch_size)
        batch = base.Batch(images[drawn.index], labels[drawn.index], drawn.index, drawn.mask)
        ((step,),) = method.stages[number].passes
        clock = clock_at(method, task, epoch, t / steps, stage=number)
        return step.apply(state, {"train": batch}, clock, jax.random.fold_in(jax.random.key(epoch), t))

    compiled, epochs = {}, []

    def call(function, *args):
        return compiled.setdefault(function, jit(function))(*args)

    for epoch in range(method.epochs):
        number, start = method.stage_at(epoch)
        stage = method.stages[number]
        looks = stage.when == "epoch" or (stage.when == "entry" and epoch == start)
        survey = base.Survey(call(stage.look, state, images) if looks else None, labels, labels)
        plan = everything
        if stage.enter is not None and epoch == start:
            state = call(stage.enter, state, survey, jax.random.key(epoch))
        if stage.plan is not None:
            state, plan = call(stage.plan, state, survey, clock_at(method, task, epoch), jax.random.key(epoch))
        steps = -(-int(plan["train"].size) // task.batch_size)
        total = {}
        run = compiled.setdefault(number, jit(functools.partial(advance, number)))
        for t in range(steps):
            state, metrics = run(state, plan, np.int32(epoch), np.int32(t), np.int32(steps))
            total = jax.tree.map(np.add, total, metrics) if total else metrics
        epochs.append(Epoch(state, {name: float(a / b) for name, (a, b) in total.items()}))
    return epochs


def train_accuracy(method: base.Method, task: base.Task, state) -> float:
    images, labels = digits().train_inputs[: task.num_examples], digits().train_labels[: task.num_examples]
    return float(np.mean(np.argmax(method.predict(state, jnp.asarray(images)), -1) == labels))


@pytest.mark.parametrize("name", NAMES)
def test_method_learns_clean_digits(name):
    task = make_task(rate=RATES.get(name, 0.05))
    method = methods.get(name)(task, **OPTIONS.get(name, {}))
    epochs = train(method, task)
    assert all(np.isfinite(value) for epoch in epochs for value in epoch.metrics.values())
    # Losses of different phases do not compare; accuracy does.
    assert train_accuracy(method, task, epochs[-1].state) > 0.3
    if name not in ("forward", "dmi", "ldam_drw"):
        assert epochs[-1].metrics["loss"] < epochs[0].metrics["loss"]


@pytest.mark.parametrize("name", ["ce_sr", "gjs", "forward", "nlnl"])
def test_method_is_deterministic(name):
    task = make_task(epochs=2, examples=128)
    method = methods.get(name)(task, **OPTIONS.get(name, {}))
    first, second = (train(method, task)[-1].state.learner.params for _ in range(2))
    chex.assert_trees_all_equal(first, second)


def one_step(method: base.Method, task: base.Task, mask=None, labels=None, epoch: int = 0):
    """(state, batch, result of a step) on the first digits."""
    images = jnp.asarray(digits().train_inputs[:8])
    labels = jnp.asarray(digits().train_labels[:8] if labels is None else labels, jnp.int32)
    state = method.init(jax.random.key(1), digits().train_labels)
    batch = base.Batch(images, labels, jnp.arange(8), jnp.ones(8) if mask is None else jnp.asarray(mask))
    step = method.stages[method.stage_at(epoch)[0]].passes[0][0].apply
    return state, batch, jit(step)(state, {"train": batch}, clock_at(method, task, epoch), jax.random.key(2))


def logits_of(task: base.Task, params, batch: base.Batch) -> jax.Array:
    return task.model.apply(params, {}, task.plain(batch.inputs), train=True)[0]


def test_masked_examples_change_nothing():
    task = make_task(optimizer=optax.sgd)
    method = methods.get("cross_entropy")(task)
    mask = np.array([1, 1, 0, 1, 0, 1, 1, 1], np.float32)
    labels = np.array(digits().train_labels[:8])
    _, _, (state, metrics) = one_step(method, task, mask, labels)
    _, _, (other, _) = one_step(method, task, mask, np.where(mask, labels, 9 - labels))
    chex.assert_trees_all_equal(state.learner.params, other.learner.params)
    assert metrics["loss"][1] == 6


def test_deferred_weights_start_on_time_and_weigh_the_mean():
    task = make_task(epochs=10, rate=0.5, optimizer=optax.sgd)
    counts = np.bincount(digits().train_labels, minlength=C)
    counts[3] = 5
    labels = np.repeat(np.arange(C), counts)
    method = methods.get("ldam_drw")(task, scale=2.0, balance=0.99)
    images = jnp.asarray(digits().train_inputs[:8])
    batch = base.Batch(images, jnp.array([0, 3, 1, 3, 2, 4, 5, 6]), jnp.arange(8), jnp.ones(8))
    state = method.init(jax.random.key(1), labels)
    values = losses.ldam(
        logits_of(task, state.learner.params, batch), batch.labels, margins=margins.ldam_margins(counts), scale=2.0
    )
    seen = method.predict(state, images)
    np.testing.assert_allclose(seen, 2.0 * logits_of(task, state.learner.params, batch), rtol=1e-4, atol=1e-5)
    weights = margins.class_balanced_weights(counts, 0.99)[batch.labels]
    for epoch, expected in ((0, values.mean()), (7, values.mean()), (8, (weights * values).sum() / weights.sum())):
        ((step,),) = method.stages[method.stage_at(epoch)[0]].passes
        _, metrics = step.apply(state, {"train": batch}, clock_at(method, task, epoch), jax.random.key(0))
        np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], expected, rtol=1e-5)


def test_ldam_has_the_head_that_its_scale_is_for():
    for given, head, scale in (
        ({}, "cosine", 30.0),
        ({"scale": 8.0}, "cosine", 8.0),
        ({"head": "linear"}, "linear", 1.0),
        ({"model_options": "head=linear"}, "cosine", 1.0),  # what is said last of the network holds
    ):
        settings, _ = config.resolve({"method": "ldam_drw", **given})
        assert (settings.head, settings.options["scale"]) == (head, scale)
        assert settings.options["reweight_from"] == 0.8
    for given, message in (
        ({"head": "linear", "scale": 30.0}, "head='linear': LDAM's scale=30 is for --head=cosine"),
        ({"scale": 1.0}, "head='cosine': its logits are at most scale=1"),
    ):
        with pytest.raises(ValueError, match=message):
            config.resolve({"method": "ldam", **given})
    assert config.resolve({"method": "cb_focal"})[0].head is None


def test_generalized_jensen_shannon_sees_two_different_views():
    def noisy(key, inputs):
        return task.plain(inputs) + jax.random.normal(key, inputs.shape)

    task = make_task(optimizer=optax.sgd)
    task = task._replace(strong=noisy)
    state, batch, (_, metrics) = one_step(methods.get("gjs")(task, label_weight=0.4), task)
    keys = jax.random.split(jax.random.key(2), 3)[:2]
    views = [task.model.apply(state.learner.params, {}, noisy(k, batch.inputs), train=True)[0] for k in keys]
    expected = losses.generalized_jensen_shannon(views, batch.labels, weights=(0.4, 0.3, 0.3)).mean()
    np.testing.assert_allclose(metrics["loss"][0] / 8, expected, rtol=1e-5)
    assert np.abs(views[0] - views[1]).max() > 0.1


def test_forward_estimates_from_a_finished_network_and_trains_another():
    """The first network has the whole schedule, in as many epochs if none are given; nothing of it is kept but T."""
    task = make_task(epochs=2, examples=64, schedule=schedules.cosine(0.1, 2))
    method = methods.get("forward")(task, percentile=100.0)
    first, final = method.stages
    assert [(s.epochs, s.preliminary) for s in method.stages] == [(2, True), (2, False)]
    rates = [float(clock_at(method, task, epoch).rate) for epoch in range(4)]
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.1, 0.05], rtol=1e-6)
    state = method.init(jax.random.key(1), digits().train_labels)
    np.testing.assert_array_equal(state.constants["transition"], np.eye(C))
    seen = jax.random.normal(jax.random.key(0), (64, C))
    fresh = jit(final.enter)(state, base.Survey(seen, *2 * [jnp.zeros(64, jnp.int32)]), jax.random.key(2))
    matrix = losses.estimate_transition(jax.nn.softmax(seen), percentile=100.0)
    np.testing.assert_allclose(fresh.constants["transition"], matrix, rtol=1e-5)
    chex.assert_trees_all_close(fresh.learner, base.init_learner(jax.random.key(2), task), rtol=1e-5)
    assert final.look == method.predict and final.when == "entry" and first.enter is None
    short = methods.get("forward")(make_task(epochs=4, schedule=schedules.cosine(0.1, 4)), pretrain_epochs=2)
    np.testing.assert_allclose([float(clock_at(short, task, e).rate) for e in (0, 1, 2)], [0.1, 0.05, 0.1], rtol=1e-6)


def test_the_regulariser_of_forwards_second_network_grows_anew():
    task = make_task(epochs=2, examples=64)
    method = methods.get("forward")(task, regularizer="sparse", strength=4.0, growth=2.0)
    _, _, (_, metrics) = one_step(method, task, epoch=3)  # its second
    np.testing.assert_allclose(metrics["regularizer_strength"][0], 4 * 2)


def test_forward_takes_a_given_matrix(tmp_path):
    matrix = 0.7 * np.eye(C) + 0.03
    np.save(tmp_path / "t.npy", matrix)
    task = make_task()
    state, batch, (_, metrics) = one_step(methods.get("forward")(task, transition=str(tmp_path / "t.npy")), task)
    p = jax.nn.softmax(logits_of(task, state.learner.params, batch))
    expected = -np.log((p @ matrix)[np.arange(8), batch.labels]).mean()
    np.testing.assert_allclose(metrics["loss"][0] / 8, expected, rtol=1e-5)
    np.save(tmp_path / "bad.npy", np.ones((C, C)))
    with pytest.raises(ValueError, match="row-stochastic"):
        methods.get("forward")(task, transition=str(tmp_path / "bad.npy"))


def test_dmi_tunes_a_finished_network():
    """Cross entropy has the whole of its schedule; DMI's epochs come after it, and in every cell of the tables."""
    task = make_task(epochs=2, schedule=schedules.cosine(0.1, 2))
    method = methods.get("dmi")(task, tuning_epochs=3, dmi_learning_rate=1e-5)
    assert [stage.epochs for stage in method.stages] == [2, 3] and method.stages[1].enter is None
    rates = [float(clock_at(method, task, epoch).rate) for epoch in range(5)]
    np.testing.assert_allclose(rates, [0.1, 0.05, 1e-5, 1e-5, 1e-5], rtol=1e-6)
    assert methods.get("dmi")(task).epochs == 4
    (cell, *_) = tables.select(tables.load(), "har/2", "cifar100/*/dmi/*")
    settings, _ = config.resolve(commands.plan(cell).settings)
    made = methods.get("dmi")(task._replace(epochs=settings.epochs), **settings.options)
    assert [stage.epochs for stage in made.stages] == [120, 100]
    assert float(made.stages[1].schedule(0.0)) == pytest.approx(1e-6)


def test_apl_pairs_are_what_their_names_say():
    task = make_task()
    for name in ("nce_mae", "nce_rce", "nfl_mae", "nfl_rce"):
        state, batch, (_, metrics) = one_step(methods.get(name)(task, alpha=2.0, beta=0.5), task)
        logits = logits_of(task, state.learner.params, batch)
        expected = getattr(losses, name)(logits, batch.labels, alpha=2.0, beta=0.5).mean()
        np.testing.assert_allclose(metrics["loss"][0] / 8, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gce", {"q": 1.5}, "q must be"),
        ("gce", {"clip": 1.0}, "clip=1.0"),
        ("sce", {"alpha": -1.0}, "alpha must be"),
        ("focal", {"gamma": -0.1}, "gamma must be"),
        ("apl", {"active": "ce"}, "active='ce'"),
        ("apl", {"passive": "nce"}, "passive='nce'"),
        ("phuber_ce", {"tau": 0.5}, "tau must be"),
        ("bootstrap", {"form": "medium"}, "form='medium'"),
        ("label_smoothing", {"epsilon": 2.0}, "epsilon must be"),
        ("gjs", {"label_weight": 1.0}, "weights must be"),
        ("gjs", {"views": 3}, "views=3"),
        ("cb_focal", {"balance": 1.0}, "beta must be"),
        ("ldam", {"max_margin": 0.0}, "max_margin must be"),
        ("ldam", {"reweight_from": 1.1}, "reweight_from=1.1"),
        ("forward", {"pretrain_epochs": -1}, "pretrain_epochs=-1"),
        ("forward", {"pretrain_epochs": 1, "transition": "t.npy"}, "no first network with transition"),
        ("forward", {"percentile": 101.0}, "percentile=101.0"),
        ("dmi", {"tuning_epochs": -1}, "tuning_epochs=-1"),
        ("dmi", {"dmi_learning_rate": 0.0}, "dmi_learning_rate=0.0"),
    ],
)
def test_options_out_of_range_are_refused_before_training(name, options, message):
    with pytest.raises(ValueError, match=message):
        methods.get(name)(make_task(), **options)


def test_a_loss_that_reduces_is_refused():
    with pytest.raises(ValueError, match=r"one value an example, shape \(3,\)"):
        erm.erm(make_task(), lambda logits, labels: losses.cross_entropy(logits, labels).mean())


@pytest.mark.parametrize(
    ("typed", "name"),
    [("CE+SR", "ce_sr"), ("gce-sr", "gce_sr"), ("NCE+MAE", "nce_mae"), ("SL", "sce"), ("PHuber-CE", "phuber_ce")],
)
def test_names_as_people_type_them(typed, name):
    assert methods.canonical_name(typed) == name
