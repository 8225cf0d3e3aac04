"""ELR and ELR+: steps by hand, whose targets come from whom, the memory, the ablation, and what the method is for."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from experiments.settings import command_line, config
from robustjax import backend, losses, methods, mixup, regularizers, schedules
from robustjax.methods import base
from robustjax.training import parallel
from tests import toys
from tests.erm_test import C, clock_at, digits, jit, logits_of, make_task, train, train_accuracy

N, RATE = 640, 0.05
SGD = {"optimizer": optax.sgd, "rate": RATE}


def steps(method, task, count=1, which=0, mask=None, rows=8):
    """The states before and after `count` steps of network `which` on the first digits, and the last metrics."""
    labels = jnp.asarray(digits().train_labels[:rows], jnp.int32)
    images = jnp.asarray(digits().train_inputs[:rows])
    batch = base.Batch(images, labels, 3 * jnp.arange(rows), jnp.ones(rows) if mask is None else jnp.asarray(mask))
    (work,) = method.stages[0].passes[which]
    step, states = jit(work.apply), [method.init(jax.random.key(1), digits().train_labels)]
    for t in range(count):
        batches = {work.draws[0].stream: batch}
        state, metrics = step(states[-1], batches, clock_at(method, task, 0), jax.random.key(t))
        states.append(state)
    return states, batch, metrics


def table(student):
    return np.asarray(student.targets.rows)


@pytest.mark.parametrize("clip", [True, False])
def test_steps_equal_the_formula(clip):
    """Targets first, then the loss with the new targets, which get no gradient (eqs. 6 and 9)."""
    task = make_task(**SGD)
    method = methods.get("elr")(task, strength=2.0, beta=0.6, clip=clip)
    states, batch, metrics = steps(method, task, 3)
    targets = jnp.zeros((8, C))
    for before, after in itertools.pairwise(states):
        (old,), (new,) = before.students, after.students

        def objective(params, targets=targets):
            logits = logits_of(task, params, batch)
            p = jax.nn.softmax(logits)
            p = jnp.clip(p, 1e-4, 1 - 1e-4) if clip else p
            t = jax.lax.stop_gradient(0.6 * targets + 0.4 * p / p.sum(-1, keepdims=True))
            fit = losses.cross_entropy(logits, batch.labels)
            return jnp.mean(fit + 2.0 * jnp.log(1 - jnp.sum(p * t, -1))), t

        (value, targets), gradient = jax.value_and_grad(objective, has_aux=True)(old.learner.params)
        stepped = jax.tree.map(lambda p, g: p - RATE * g, old.learner.params, gradient)
        chex.assert_trees_all_close(new.learner.params, stepped, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(table(new)[3 * np.arange(8)], targets, rtol=1e-4, atol=1e-6)
        untouched = np.setdiff1d(np.arange(len(table(new))), 3 * np.arange(8))
        assert not table(new)[untouched].any()
    np.testing.assert_allclose(metrics["loss"][0] / 8, value, rtol=1e-4)
    assert int(new.steps) == 3


def test_the_cross_entropy_to_the_targets_is_there_to_compare_with():
    """ELR's appendix C."""
    task = make_task(**SGD)
    states, batch, metrics = steps(methods.get("elr")(task, strength=2.0, early_learning="kl"), task)
    logits = logits_of(task, states[0].students[0].learner.params, batch)
    p = np.asarray(jax.nn.softmax(logits))
    t = 0.3 * np.clip(p, 1e-4, 1 - 1e-4) / np.clip(p, 1e-4, 1 - 1e-4).sum(-1, keepdims=True)
    expected = np.mean(losses.cross_entropy(logits, batch.labels) - 2.0 * np.sum(t * np.log(p), -1))
    np.testing.assert_allclose(metrics["loss"][0] / 8, expected, rtol=1e-4)


def test_padding_leaves_no_trace():
    task = make_task(**SGD)
    mask = np.array([1, 1, 0, 1, 0, 1, 1, 1], np.float32)
    (_, after), _, metrics = steps(methods.get("elr")(task), task, mask=mask)
    seen = table(after.students[0]).any(-1)
    np.testing.assert_array_equal(np.flatnonzero(seen), 3 * np.flatnonzero(mask))
    assert metrics["loss"][1] == 6


def test_two_networks_teach_each_other():
    """Targets from the other one's averaged weights on unmixed inputs; only its batch statistics move (section 5)."""
    task = make_task(**SGD)
    method = methods.get("elr_plus")(task, average_ramp_steps=0, average_decay=0.9, mixup=1.0)
    for which in (0, 1):
        (before, after), batch, _ = steps(method, task, which=which)
        mine, other = after.students[which], after.students[1 - which]
        chex.assert_trees_all_equal(other, before.students[1 - which])  # the perceptron has no batch statistics
        teacher = before.students[1 - which].average
        probs = jax.nn.softmax(task.model.apply(teacher.params, {}, task.plain(batch.inputs), train=True)[0])
        np.testing.assert_allclose(table(mine)[np.asarray(batch.index)], 0.3 * probs, rtol=1e-4, atol=1e-6)
        # min(1 − 1/(t + 1), 0.9) is 1/2 at the first step, which the code calls 1: the mean of start and new weights.
        halfway = jax.tree.map(lambda a, b: (a + b) / 2, before.students[which].average.params, mine.learner.params)
        chex.assert_trees_all_close(mine.average.params, halfway, rtol=1e-5, atol=1e-7)
        assert (int(mine.steps), int(other.steps)) == (1, 0)
    state = after
    logits = [base.predict_with(task, student.learner, batch.inputs) for student in state.students]
    np.testing.assert_allclose(method.predict(state, batch.inputs), (logits[0] + logits[1]) / 2, rtol=1e-5, atol=1e-6)
    first, second = (jax.tree.leaves(s.learner.params)[-1] for s in before.students)
    assert not np.array_equal(first, second)
    (stage,) = method.stages
    streams = [tuple(draw.stream for draw in step.draws) for (step,) in stage.passes]
    labels = jnp.zeros(5, jnp.int32)
    _, plan = stage.plan(state, base.Survey(None, labels, labels), clock_at(method, task, 0), jax.random.key(0))
    assert streams == [("first",), ("second",)] and not np.array_equal(plan["first"].order, plan["second"].order)


def test_the_loss_is_on_mixed_inputs_labels_and_targets():
    task = make_task(**SGD)
    method = methods.get("elr_plus_one_network_no_weight_averaging")(task, strength=2.0, ramp_steps=4, refine=True)
    (before, _), batch, metrics = steps(method, task)
    params = before.students[0].learner.params
    x, y = task.plain(batch.inputs), jax.nn.one_hot(batch.labels, C)
    t = 0.3 * jax.nn.softmax(logits_of(task, params, batch))
    mix_key = jax.random.split(jax.random.key(0), 4)[1]
    mix = mixup.draw_mix(mix_key, 8, 1.0, keep_larger=True)
    x, y, t = (mixup.apply_mix(each, mix) for each in (x, y, t))
    y = y * t / jnp.sum(y * t, -1, keepdims=True)
    logits = task.model.apply(params, {}, x, train=True)[0]
    p = jnp.clip(jax.nn.softmax(logits), 1e-4, 1 - 1e-4)
    amount = 2.0 * np.exp(-5 * (1 - 1 / 4) ** 2)  # the ramp at its first step, which is 1
    expected = jnp.mean(-jnp.sum(y * jax.nn.log_softmax(logits), -1) + amount * jnp.log(1 - jnp.sum(p * t, -1)))
    np.testing.assert_allclose(metrics["loss"][0] / 8, expected, rtol=1e-4)
    assert metrics["regularizer_strength"][0] == pytest.approx(amount)


def test_averaged_weights_follow_the_ramp():
    task = make_task(**SGD)
    method = methods.get("elr_plus_one_network_no_mixup")(task, average_decay=0.9, average_ramp_steps=4)
    states, _, _ = steps(method, task, 3)
    for t, (before, after) in enumerate(itertools.pairwise(states), 1):
        (old,), (new,) = before.students, after.students
        decay = 0.9 * np.exp(-5 * (1 - min(t + 1, 4) / 4) ** 2)
        expected = jax.tree.map(lambda e, w, d=decay: d * e + (1 - d) * w, old.average.params, new.learner.params)
        chex.assert_trees_all_close(new.average.params, expected, rtol=1e-5, atol=1e-7)


def test_averaging_decay_schedules():
    ramp, mean = schedules.averaging_decay(0.997, 40000), schedules.averaging_decay(0.9999, 0)
    assert float(ramp(39999)) == pytest.approx(0.997) and float(ramp(10**6)) == pytest.approx(0.997)
    assert float(ramp(0)) == pytest.approx(0.997 * np.exp(-5 * (1 - 1 / 40000) ** 2))
    np.testing.assert_allclose([float(mean(t)) for t in (0, 1, 2, 10**6)], [0, 1 / 2, 2 / 3, 0.9999], rtol=1e-6)
    with pytest.raises(ValueError, match="decay must be"):
        schedules.averaging_decay(1.0, 10)


def test_the_ablation_is_eight_methods():
    """Table 5 of the paper: networks, weight averaging, mixup. (What each element does has tests above.)"""
    names = [name for name in methods.names() if name.startswith("elr_plus")]
    assert len(names) == 8
    task, found = make_task(examples=64), set()
    images, labels = jnp.asarray(digits().train_inputs[:8]), jnp.zeros(8, jnp.int32)
    batch = base.Batch(images, labels, jnp.arange(8), jnp.ones(8))
    for name in names:
        method = methods.get(name)(task)
        state, clock = method.init(jax.random.key(0), digits().train_labels), clock_at(method, task, 0)
        averaged = bool(jax.tree.leaves(state.students[0].average))
        found.add((len(state.students), averaged, "no_mixup" not in name))
        for (step,) in method.stages[0].passes:
            batches = {draw.stream: batch for draw in step.draws}
            after, _ = jax.eval_shape(step.apply, state, batches, clock, jax.random.key(0))
            chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert len(found) == 8


def test_labels_refined_by_targets():
    labels = jnp.array([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    targets = jnp.array([[0.1, 0.3, 0.6], [0.9, 0.01, 0.0], [0.0, 0.0, 1.0]])
    refined = regularizers.refine_labels(labels, targets)
    np.testing.assert_allclose(refined, [[1 / 3, 2 / 3, 0], [0, 1, 0], [0.5, 0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_gradient_lemma(num_classes):
    """Lemma 2: the gradient of CE + λ log(1 − ⟨p, t⟩) at the logits is p − y + λ g, to 1e-10, and Σ g = 0."""
    with backend.enable_x64():
        rng = np.random.default_rng(num_classes)
        logits, targets = rng.normal(0, 3, (50, num_classes)), rng.dirichlet(np.ones(num_classes), 50)
        targets[:10] *= 0.3  # as after a first update
        labels = rng.integers(0, num_classes, 50)

        def objective(z):
            pull = regularizers.early_learning(z, targets, clip=None)
            return jnp.sum(losses.cross_entropy(z, labels) + 3.0 * pull)

        g = regularizers.early_learning_gradient(logits, targets)
        expected = jax.nn.softmax(logits) - jax.nn.one_hot(labels, num_classes) + 3.0 * g
        np.testing.assert_allclose(jax.grad(objective)(logits), expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(g.sum(-1), 0, atol=1e-12)
        np.testing.assert_array_equal(g < 0, targets > np.sum(jax.nn.softmax(logits) * targets, -1, keepdims=True))
    extreme = regularizers.early_learning_gradient(jnp.array([[1e4, -1e4]]), jnp.array([[1.0, 0.0]]))
    assert np.isfinite(extreme).all()


def test_half_the_memory_in_bfloat16():
    task = make_task()
    wide, narrow = (methods.get("elr")(task, target_store=store) for store in ("float32", "bfloat16"))
    (_, a), _, _ = steps(wide, task)
    (_, b), _, _ = steps(narrow, task)
    assert a.students[0].targets.rows.nbytes == 2 * b.students[0].targets.rows.nbytes
    np.testing.assert_allclose(table(a.students[0]), table(b.students[0]).astype(np.float32), atol=2e-3)
    epochs = train(narrow, make_task(epochs=2))
    assert epochs[-1].metrics["loss"] < epochs[0].metrics["loss"]


def test_the_memory_lies_by_rows_on_the_devices():
    task = toys.task(epochs=1)
    layout = parallel.make_layout("data", batch_size=16, devices=jax.devices()[:4])
    method = toys.method("elr", task)
    own = toys.own(0)
    (placed,) = parallel.place_seeds(layout, [method.init(jax.random.key(0), np.asarray(own.labels))]).students
    assert placed.targets.rows.sharding.spec == PartitionSpec("data")
    assert {shard.data.shape for shard in placed.targets.rows.addressable_shards} == {(32, toys.C)}
    assert placed.steps.sharding.is_fully_replicated

    def program(state, own, batch):
        ((step,),) = method.stages[0].passes
        state, _ = step.apply(state, {"train": batch}, clock_at(method, task, 0), jax.random.key(0))
        return parallel.keep_state(layout, state)

    batch = base.Batch(toys.resident().train_inputs[:16], own.labels[:16], jnp.arange(16), jnp.ones(16))
    state = type(method.init(jax.random.key(0), np.asarray(own.labels)))((placed,))
    compiled = jax.jit(program).lower(state, own, batch).compile()
    after = compiled(state, own, batch)
    assert after.students[0].targets.rows.sharding.spec == PartitionSpec("data")
    # No device ever holds the whole table: it has 128 rows, of which each keeps 32.
    assert f"f32[128,{toys.C}]" not in compiled.as_text()


def test_presets_are_the_papers():
    def chosen(*flags):
        settings, _ = config.resolve(command_line.parse(flags))
        return settings

    symmetric = chosen("--method=elr", "--dataset=cifar10", "--noise=symmetric", "--noise-rate=0.4")
    assert (symmetric.model, symmetric.epochs, symmetric.schedule) == ("resnet34", 120, "multistep:40,80:0.01")
    assert (symmetric.options["strength"], symmetric.options["beta"]) == (3.0, 0.7)
    asymmetric = chosen("--method=elr", "--dataset=cifar10", "--noise=asymmetric", "--noise-rate=0.4")
    assert (asymmetric.options["strength"], asymmetric.options["beta"], asymmetric.epochs) == (1.0, 0.9, 120)
    hundred = chosen("--method=elr+", "--dataset=cifar100")
    assert (hundred.options["strength"], hundred.options["ramp_steps"], hundred.options["refine"]) == (7.0, 40000, True)
    own = chosen("--method=elr_plus", "--dataset=folder:mine", "--recipe=clothing1m")
    assert (own.batch_size, own.epochs, own.options["average_decay"]) == (64, 15, 0.9999)
    with pytest.raises(ValueError, match="recipe='imagenet'"):
        chosen("--method=elr", "--recipe=imagenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.0}, r"beta=1.0 must be in \[0, 1\)"),
        ({"strength": -1.0}, "strength=-1"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"networks": 3}, "networks=3 is none of 1, 2"),
        ({"early_learning": "l2"}, "early_learning='l2' is none of log, kl"),
        ({"target_store": "int8"}, "target_store='int8'"),
        ({"average_decay": 1.5}, "decay"),
        ({"ramp_steps": -1}, "length must not be negative"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("elr")(make_task(), **options)


def test_it_does_not_memorise_what_cross_entropy_does():
    """The method's reason, on digits with 40 % of the labels redrawn."""
    rng = np.random.default_rng(0)
    clean = digits().train_labels[:N]
    given = np.where(rng.random(N) < 0.4, rng.integers(0, C, N), clean).astype(np.int32)
    task, shares = make_task(epochs=40, rate=RATE), {}
    for name in ("cross_entropy", "elr"):
        state = train(methods.get(name)(task), task, labels=given)[-1].state
        shares[name] = train_accuracy(methods.get(name)(task), task, state)
    assert shares["elr"] > 0.9 > shares["cross_entropy"] + 0.1


def test_a_class_that_no_target_is_of_is_told():
    task = make_task()
    method = methods.get("elr")(task, strength=2.0)
    state = method.init(jax.random.key(0), digits().train_labels)

    def believing(classes):
        (student,) = state.students
        rows = jnp.zeros_like(student.targets.rows).at[: len(classes)].set(jax.nn.one_hot(classes, C))
        return state._replace(students=(student._replace(targets=base.PerExample(rows)),))

    everything = np.arange(task.num_examples) % C
    assert method.warnings(believing(everything)) == ()
    (told,) = method.warnings(believing(np.where(np.isin(everything, (2, 5)), 1, everything)))
    assert "given up the class(es) 2, 5 (numbered from 0)" in told and "a smaller --strength than 2" in told
    assert methods.get("elr")(task, strength=0.0).warnings(believing(0 * everything)) == ()
