"""The engine: drawing, masking, determinism, passes, stopping at NaN."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import backend
from robustjax.methods import base
from robustjax.training import engine, parallel
from tests import toys


def own(count):
    return engine.Own(jax.random.key(0), jnp.arange(count, dtype=jnp.int32), jnp.arange(count, dtype=jnp.int32) % 3)


def test_a_cycle_draws_every_chosen_example_once():
    chosen = jnp.arange(10) % 2 == 0
    stream = base.shuffled(jax.random.key(1), chosen)
    inputs = jnp.arange(10) * 10
    batches = [engine.draw(stream, jnp.int32(t), 2, inputs, own(10)) for t in range(3)]
    real = np.concatenate([b.index[b.mask > 0] for b in batches])
    assert sorted(real.tolist()) == [0, 2, 4, 6, 8]
    assert [float(b.mask.sum()) for b in batches] == [2, 2, 1]
    for b in batches:
        np.testing.assert_array_equal(b.inputs, b.index * 10)
        np.testing.assert_array_equal(b.labels, b.index % 3)
        assert set(b.index.tolist()) <= {0, 2, 4, 6, 8}  # padding repeats chosen examples
    again = engine.draw(stream, jnp.int32(3), 2, inputs, own(10))
    np.testing.assert_array_equal(again.index, batches[0].index)


def test_kept_and_index_are_different_things():
    """`kept` points into the stored images, `index` into the training set."""
    mine = engine.Own(jax.random.key(0), jnp.array([7, 3, 5]), jnp.array([0, 1, 2]))
    stream = base.Stream(jnp.array([2, 0, 1]), jnp.int32(3))
    batch = engine.draw(stream, jnp.int32(0), 3, jnp.arange(10) * 10, mine)
    np.testing.assert_array_equal(batch.index, [2, 0, 1])
    np.testing.assert_array_equal(batch.inputs, [50, 70, 30])
    np.testing.assert_array_equal(batch.labels, [2, 0, 1])


@pytest.mark.parametrize("name", ["cross_entropy", "dynamic_loss"])
def test_the_same_seed_gives_the_same_bits(name):
    task = toys.task(epochs=2)
    first, second = (toys.train(name, task, (7,))[-1] for _ in range(2))
    chex.assert_trees_all_equal(first.state, second.state)
    assert first.metrics == second.metrics


def test_other_seeds_differ():
    task = toys.task(epochs=1)
    a, b = (toys.train("cross_entropy", task, (seed,))[-1].test_logits[0] for seed in (0, 1))
    assert not np.allclose(a, b)


@pytest.mark.parametrize("name", toys.FAMILIES)
def test_going_on_from_a_state_is_the_same_as_not_stopping(name):
    task = toys.task(epochs=4, **toys.needs(name))
    method = toys.method(name, task)
    layout = parallel.make_layout("single", batch_size=task.batch_size, devices=jax.devices()[:1])
    owns = [toys.own(0)]
    whole = toys.train(name, task)
    for epoch in engine.train(method, task, layout, toys.resident(), owns):
        if epoch.epoch == 1:
            saved = parallel.by_seed(layout, epoch.state)
            break
    rest = [
        e._replace(state=parallel.by_seed(layout, e.state))
        for e in engine.train(
            method, task, layout, toys.resident(), owns, state=parallel.place_seeds(layout, saved), start_epoch=2
        )
    ]
    assert [e.epoch for e in rest] == list(range(2, len(whole)))
    chex.assert_trees_all_equal(rest[-1].state, whole[-1].state)
    assert [e.metrics for e in rest] == [e.metrics for e in whole[2:]]


@pytest.mark.parametrize(("name", "options"), [("cross_entropy", {}), ("dynamic_loss", {"meta_every": 2})])
def test_the_compiled_loop_equals_the_python_loop(name, options, monkeypatch):
    """GPU and TPU run a pass as one program; the results are those of the CPU's loop."""
    task = toys.task(epochs=2)
    loop = toys.train(name, task, **options)[-1]
    monkeypatch.setattr(backend, "loops_on_device", lambda: True)
    compiled = toys.train(name, task, **options)[-1]
    chex.assert_trees_all_close(loop.state, compiled.state, rtol=1e-4, atol=1e-5)
    assert loop.metrics[0] == pytest.approx(compiled.metrics[0], rel=1e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "dynamic_loss"])
def test_half_precision_is_finite(name):
    (*_, last) = toys.train(name, toys.task(epochs=3, dtype=jnp.bfloat16))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.state[0]))
    assert last.test_logits[0].dtype == np.float32
    assert np.mean(last.test_logits[0].argmax(-1) == toys.test_labels()) > 0.5


def test_passes_of_dynamic_loss():
    """Warm-up over everything, then the rest of the data in meta steps; every k-th only; fine-tuning if asked."""
    task = toys.task(epochs=2)
    plain, every, tuned = (
        toys.train("dynamic_loss", task, **options) for options in ({}, {"meta_every": 2}, {"finetune": True})
    )
    counts = np.bincount(toys.given_labels(0), minlength=toys.C)
    meta = toys.C * max(1, int(0.25 * counts.min()))
    warmup, steps = -(-toys.N // 16), -(-(toys.N - meta) // 16)
    assert plain[0].state[0].steps == warmup
    assert plain[1].state[0].steps == every[1].state[0].steps == warmup + steps
    assert tuned[1].state[0].steps == warmup + steps + -(-meta // 16)
    assert "meta_loss" not in plain[0].metrics[0] and plain[1].metrics[0]["meta_loss"] > 0
    adam_steps = [run[1].state[0].meta_opt_state[0].count for run in (plain, every)]
    assert adam_steps[0] - adam_steps[1] == steps // 2


def test_progress_runs_from_epoch_to_epoch():
    """The learning rate sees every step's place in its epoch."""
    seen = []

    def note(progress):
        jax.debug.callback(lambda p: seen.append(float(p)), progress, ordered=True)
        return 0.1 + 0 * progress

    task = toys.task(epochs=2)._replace(schedule=note)
    toys.train("cross_entropy", task)
    expected = [epoch + t / 4 for epoch, t in itertools.product(range(2), range(4))]
    assert seen == pytest.approx(expected)


def test_stops_at_a_loss_that_is_not_finite():
    task = toys.task(epochs=3)._replace(schedule=lambda progress: jnp.where(progress >= 1.25, jnp.inf, 0.01))
    epochs = engine.train(
        toys.method("cross_entropy", task), task,
        parallel.make_layout("single", batch_size=16, devices=jax.devices()[:1]), toys.resident(), [toys.own(0)],
    )  # fmt: skip
    assert next(epochs).epoch == 0
    with pytest.raises(engine.NonFiniteLossError, match="step 3 of epoch 2"):
        next(epochs)


def test_padding_does_not_count():
    """A loss over N examples: the metrics' mean is over N, whatever the batch size."""
    for batch_size in (16, 25, 60):
        task = toys.task(epochs=1, batch_size=batch_size)._replace(schedule=lambda progress: 0.0 * progress)
        (epoch,) = toys.train("cross_entropy", task)
        predicted = epoch.train_logits[0].argmax(-1)
        # With a learning rate of 0 the network does not change, and its strong view is the weak one plus noise.
        assert epoch.metrics[0]["train_accuracy"] == pytest.approx(np.mean(predicted == toys.given_labels(0)), abs=0.15)
        assert epoch.metrics[0]["train_accuracy"] * toys.N == pytest.approx(
            round(epoch.metrics[0]["train_accuracy"] * toys.N), abs=1e-3
        )


def test_compiler_options_are_accepted():
    options = backend.compiler_options()
    assert jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options=options)(1.0) == 2.0
