"""What steps draw: cycles, padding, orders, streams of other pools and sizes, streams of some steps only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.methods import base
from robustjax.training import engine, streams
from tests import toys

KEY = jax.random.key(3)
place = jax.jit(streams.shuffled_place)
draw = jax.jit(streams.draw, static_argnums=2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 9, 10, 64, 999, 1000, 1024])
def test_a_shuffle_is_a_bijection(size):
    for key in jax.random.split(KEY, 3):
        found = place(key, jnp.arange(size), jnp.int32(size))
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [65_536, 65_537, 16_777_217, 2_000_000_000])
def test_a_part_of_a_large_shuffle_is_a_part_of_a_bijection(size):
    """Also beyond the whole numbers that float32 knows, where a root is rounded."""
    some = jnp.concatenate([jnp.arange(4000), size - 1 - jnp.arange(4000)]).astype(jnp.int32)
    found = np.asarray(place(KEY, some, jnp.int32(size)))
    assert len(np.unique(found)) == len(found) and found.min() >= 0 and found.max() < size
    assert np.mean(found < size // 2) == pytest.approx(0.5, abs=0.05)


def test_shuffles_differ_and_are_even():
    size, count = 12, 3000
    found = np.asarray(
        jax.vmap(place, (0, None, None))(jax.random.split(KEY, count), jnp.arange(size), jnp.int32(size))
    )
    assert len(np.unique(found, axis=0)) == count  # of 12! orders
    shares = np.stack([np.bincount(found[:, i], minlength=size) for i in range(size)]) / count
    sd = np.sqrt(1 / size * (1 - 1 / size) / count)
    assert np.abs(shares - 1 / size).max() < 5 * sd  # where each one comes
    # Neighbours are no more often neighbours again than chance has it: 2 (n − 1) of the n (n − 1) ordered pairs.
    adjacent = np.mean(np.abs(np.diff(found, axis=1)) == 1)
    assert adjacent == pytest.approx(2 / size, abs=0.02)


def cycle_of(stream: base.Stream, number: int, batch_size: int, key: jax.Array | None) -> np.ndarray:
    """The real examples of a cycle, in order."""
    batches = -(-int(stream.size) // batch_size)
    drawn = [draw(stream, jnp.int32(number * batches + t), batch_size, key) for t in range(batches)]
    assert [float(each.mask.sum()) for each in drawn[:-1]] == [batch_size] * (batches - 1)
    return np.concatenate([np.asarray(each.index)[np.asarray(each.mask) > 0] for each in drawn])


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 2)])
def test_each_cycle_draws_every_example_once(size, batch_size):
    order = jax.random.permutation(KEY, 20).astype(jnp.int32)
    stream = base.Stream(order, jnp.int32(size))
    cycles = [cycle_of(stream, number, batch_size, KEY) for number in range(4)]
    np.testing.assert_array_equal(cycles[0], order[:size])  # the stream's own order comes first
    for cycle in cycles:
        assert sorted(cycle.tolist()) == sorted(order[:size].tolist())
    if size >= 10:
        assert len({tuple(cycle.tolist()) for cycle in cycles}) == 4
    np.testing.assert_array_equal(cycle_of(stream, 3, batch_size, None), cycles[0])  # drawn once: no other order


def test_padding_repeats_chosen_examples():
    stream = base.shuffled(KEY, jnp.arange(10) % 2 == 0)
    last = draw(stream, jnp.int32(2), 2, None)
    np.testing.assert_array_equal(last.mask, [1, 0])
    assert last.mask.dtype == jnp.float32
    assert set(last.index.tolist()) <= {0, 2, 4, 6, 8}
    many = draw(base.Stream(jnp.array([7, 5, 0]), jnp.int32(2)), jnp.int32(0), 5, None)  # round and round
    np.testing.assert_array_equal(many.index, [7, 5, 7, 5, 7])
    np.testing.assert_array_equal(many.mask, [1, 1, 0, 0, 0])


def test_an_empty_stream_gives_padding_alone():
    stream = base.shuffled(KEY, jnp.zeros(6, bool))
    for n in (0, 1, 7):
        found = draw(stream, jnp.int32(n), 4, KEY)
        np.testing.assert_array_equal(found.mask, np.zeros(4))
        assert found.index.min() >= 0 and found.index.max() < 6


# --- In the engine --------------------------------------------------------------------------------------------------

STEPS = 24  # room in the logs below


def logging_method(task: base.Task, passes, streams_of_plan=None, epochs: int = 1) -> base.Method:
    """Notes which examples each stream gave it, in the order of the draws: state {stream: [STEPS, B]}, and counts."""

    def plan(state, survey, clock, key):
        return state, streams_of_plan(key)

    def init(key, labels):
        draws = {draw for work in passes for step in work for draw in step.draws}
        logs = {
            each.stream: {
                "rows": jnp.full((STEPS, each.batch_size or task.batch_size), -1),
                "right": jnp.ones((), bool),
                "count": jnp.int32(0),
            }
            for each in draws
        }
        return {"logs": logs, "net": base.init_learner(key, task)}

    stage = base.Stage(epochs, passes, plan if streams_of_plan else None)
    return base.method(init, [stage], lambda state, inputs: base.predict_with(task, state["net"], inputs))


def note(state, batches: base.Batches, clock, key, *, expect: base.Batches | None = None):
    """A step that trains nothing."""
    logs = dict(state["logs"])
    for name, batch in batches.items():
        log = logs[name]
        row = jnp.where(batch.mask > 0, batch.index, -1)
        logs[name] = {
            "rows": log["rows"].at[log["count"]].set(row),
            "right": log["right"] if expect is None else log["right"] & expect(name, batch),
            "count": log["count"] + 1,
        }
    return {**state, "logs": logs}, {"loss": (jnp.zeros(()), jnp.ones(()))}


def logs_of(method: base.Method, task: base.Task, own: engine.Own | None = None) -> dict:
    return toys.run(method, task, [own or toys.own(0)], track_every=0)[-1].state[0]["logs"]


def real(log: dict, rows: slice = slice(None)) -> list[int]:
    return [int(i) for i in log["rows"][rows].ravel() if i >= 0]


def test_a_stream_of_some_steps_moves_on_only_there():
    """Every other step draws "meta" too: its cycles go on from there, over the epoch's passes anew."""
    train, meta = base.Draw(), base.Draw("meta", batch_size=4)
    task = toys.task(epochs=1, batch_size=8, widths=(8,))
    passes = ((base.Step(functools.partial(note), (train,)), base.Step(functools.partial(note), (train, meta))),)
    chosen = jnp.arange(toys.N) < 6
    method = logging_method(
        task, passes, lambda key: {"train": base.everything(key, toys.N), "meta": base.shuffled(key, chosen)}
    )
    logs = logs_of(method, task)
    assert (logs["train"]["count"], logs["meta"]["count"]) == (8, 4)
    assert sorted(real(logs["train"])) == list(range(toys.N))
    first, second = real(logs["meta"], slice(0, 2)), real(logs["meta"], slice(2, 4))
    assert sorted(first) == sorted(second) == list(range(6))  # two batches of 4 and 2 make a cycle
    assert [int((row >= 0).sum()) for row in logs["meta"]["rows"][:4]] == [4, 2, 4, 2]


def test_the_loop_on_the_device_draws_the_same(monkeypatch):
    """Where a pass is one program, the number of draws is traced."""
    task = toys.task(epochs=1, batch_size=8, widths=(8,))
    draws = (base.Draw(), base.Draw("trusted", pool="trusted", batch_size=5))
    work = tuple(base.Step(functools.partial(note), draws[: 1 + also]) for also in (0, 1, 1))
    method = logging_method(task, (work,))
    expected = logs_of(method, task)
    monkeypatch.setattr(engine.backend, "loops_on_device", lambda: True)
    found = logs_of(method, task)
    assert expected["trusted"]["count"] == 5  # steps 1, 2, 4, 5 and 7
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_trusted_examples_come_with_their_own_inputs_and_true_labels():
    """And with a batch size of their own; `trusted_kept` says which of the inputs are the pool."""
    task = toys.task(epochs=1, batch_size=16, widths=(8,))
    inputs, labels = toys.resident().trusted_inputs, toys.images(toys.TRUSTED + 3, 3)[1]
    mine = toys.own(0)
    train_inputs = toys.resident().train_inputs

    def expect(name: str, batch: base.Batch) -> jax.Array:
        if name == "train":
            return jnp.all(batch.labels == mine.labels[batch.index]) & jnp.all(
                batch.inputs == jnp.asarray(train_inputs)[batch.index]
            )
        at = batch.index + 3  # the pool leaves out the first three
        return jnp.all(batch.labels == jnp.asarray(labels)[at]) & jnp.all(batch.inputs == jnp.asarray(inputs)[at])

    step = functools.partial(note, expect=expect)
    method = logging_method(task, base.one_pass(step, base.Draw("trusted", pool="trusted", batch_size=5)))
    logs = logs_of(method, task)
    assert logs["train"]["right"] and logs["trusted"]["right"]
    assert (logs["train"]["count"], logs["trusted"]["count"]) == (4, 4)
    assert sorted(real(logs["trusted"], slice(0, 3))) == list(range(toys.TRUSTED))


def test_kept_and_index_are_different_things():
    """`kept` points into the stored images, `index` into the training set."""
    kept = np.random.default_rng(0).permutation(toys.N).astype(np.int32)
    mine = toys.own(0)._replace(kept=jnp.asarray(kept))
    images = jnp.asarray(toys.resident().train_inputs)[kept]

    def expect(name: str, batch: base.Batch) -> jax.Array:
        return jnp.all(batch.inputs == images[batch.index]) & jnp.all(batch.labels == mine.labels[batch.index])

    task = toys.task(epochs=1, widths=(8,))
    method = logging_method(task, base.one_pass(functools.partial(note, expect=expect)))
    logs = logs_of(method, task, mine)
    assert logs["train"]["right"] and sorted(real(logs["train"])) == list(range(toys.N))


def test_each_epoch_has_an_order_of_its_own():
    task = toys.task(epochs=2, widths=(8,))
    logs = logs_of(logging_method(task, base.one_pass(functools.partial(note)), epochs=2), task)
    first, second = real(logs["train"], slice(0, 4)), real(logs["train"], slice(4, 8))
    assert sorted(first) == sorted(second) and first != second


def test_padding_of_an_empty_stream_is_of_all_examples():
    """It counts for nothing, but batch statistics are of it too."""
    empty = base.Stream(jnp.arange(20, dtype=jnp.int32), jnp.int32(0))
    drawn = [draw(empty, jnp.int32(n), 8) for n in range(3)]
    assert not any(np.asarray(each.mask).any() for each in drawn)
    assert len(set(np.concatenate([each.index for each in drawn]).tolist())) == 20
