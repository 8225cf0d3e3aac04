"""The engine: stages, looks, progress, masking, determinism, stopping at NaN; what every method must do elsewhere.

`tests/common_suite_test.py` has what holds for each method, `tests/streams_test.py` what is drawn.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import backend
from robustjax.methods import base
from robustjax.training import engine
from tests import toys

# --- Stages, by a method that trains nothing and notes what it is shown ----------------------------------------------


def noting(task: base.Task, *stages: base.Stage) -> base.Method:
    """State: how often `enter` and `plan` were called and what they saw, and the clock of each step."""

    def init(key, labels):
        return {
            "net": base.init_learner(key, task),
            "entered": jnp.zeros(3), "planned": jnp.zeros(3), "seen": jnp.full(3, -1.0),
            "clock": jnp.zeros((16, 5)), "steps": jnp.int32(0), "mark": jnp.float32(0),
        }  # fmt: skip

    return base.method(init, list(stages), lambda state, inputs: base.predict_with(task, state["net"], inputs))


def step(state, batches, clock, key):
    now = jnp.stack([jnp.asarray(value, jnp.float32) for value in clock])
    state = {**state, "clock": state["clock"].at[state["steps"]].set(now), "steps": state["steps"] + 1}
    return state, {"loss": (jnp.zeros(()), jnp.ones(()))}


def look(state, inputs):
    """Several leaves, one of which tells the state that was looked at."""
    mean = inputs.astype(jnp.float32).mean((1, 2, 3))
    return {"mean": mean, "mark": jnp.full((len(inputs), 2), state["mark"])}


def stage(number: int, epochs: int, when: str, **more) -> base.Stage:
    """Notes under its number: `enter` adds 1 to the mark, the plan notes the mark that it was shown (−1: nothing)."""

    def enter(state, survey, key):
        assert (survey.seen is None) == (when == "never")
        entered = state["entered"].at[number].add(1)
        return {**state, "entered": entered, "mark": state["mark"] + 1}

    def plan(state, survey, clock, key):
        seen = -1.0
        if when == "epoch":
            assert survey.seen["mark"].shape == (toys.N, 2) and survey.labels.shape == (toys.N,)
            seen = survey.seen["mark"][0, 0] + jnp.abs(survey.seen["mean"] - MEANS).max()
        else:
            assert survey.seen is None
        state = {**state, "planned": state["planned"].at[number].add(1), "seen": state["seen"].at[number].set(seen)}
        return state, {"train": base.everything(key, toys.N)}

    return base.Stage(
        epochs, base.one_pass(step), plan, enter, look=None if when == "never" else look, when=when, **more
    )


MEANS = toys.resident().train_inputs.astype(np.float32).mean((1, 2, 3))


def test_stages_in_turn():
    """Each enters once, looks when it says, and has its own schedule and progress; the middle one is preliminary."""
    task = toys.task(epochs=6, batch_size=60, widths=(8,), schedule=lambda progress: 10 + jnp.asarray(progress))
    stages = (
        stage(0, 1, "never"),
        stage(1, 3, "epoch", schedule=lambda progress: 20 + 2 * progress, preliminary=True),
        stage(2, 2, "entry"),
    )
    method = noting(task, *stages)
    epochs = toys.run(method, task, [toys.own(0)])
    assert [epoch.stage for epoch in epochs] == [0, 1, 1, 1, 2, 2]
    assert [epoch.preliminary for epoch in epochs] == [False, True, True, True, False, False]
    entered = [epoch.state[0]["entered"].tolist() for epoch in epochs]
    assert entered == [[1, 0, 0], *[[1, 1, 0]] * 3, *[[1, 1, 1]] * 2]
    last = epochs[-1].state[0]
    assert last["planned"].tolist() == [1, 3, 2]
    # The look before a plan is at the state that `enter` has left: mark 2 from the second stage's beginning.
    assert [epoch.state[0]["seen"].tolist() for epoch in epochs] == [[-1, -1, -1], *[[-1, 2, -1]] * 5]
    clock = last["clock"][:6]
    np.testing.assert_array_equal(clock[:, 0], [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(clock[:, 2], [0, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(clock[:, 4], [10, 20, 22, 24, 14, 15])  # without its own: the run's goes on

    # From the middle of a later stage, and from its very beginning, without entering again.
    for start in (1, 2, 4, 5):
        rest = toys.run(
            method, task, [toys.own(0)], state=jax.tree.map(jnp.asarray, epochs[start - 1].state[0]), start_epoch=start
        )
        chex.assert_trees_all_equal(rest[-1].state, epochs[-1].state)


@pytest.mark.parametrize("when", ["entry", "epoch"])
def test_entering_is_shown_what_was_before(when):
    """The look before `enter` is at the state that the stage before has left."""

    def enter(state, survey, key):
        return {**state, "seen": survey.seen["mark"][0] + jnp.array([1.0, 3.0])}

    def mark(state, survey, key):
        return {**state, "mark": jnp.float32(7)}

    task = toys.task(epochs=2, batch_size=60, widths=(8,))
    first = base.Stage(1, base.one_pass(step), enter=mark)
    second = base.Stage(1, base.one_pass(step), enter=enter, look=look, when=when)
    plain = noting(task, first, second)
    method = plain._replace(init=lambda key, labels: {**plain.init(key, labels), "seen": jnp.zeros(2)})
    assert toys.run(method, task, [toys.own(0)])[-1].state[0]["seen"].tolist() == [8, 10]


def test_contradictions_are_refused():
    work, train, meta = base.one_pass(step), base.Draw(), base.Draw("meta")

    def refused(message: str, **changes):
        with pytest.raises(ValueError, match=message):
            base.method(dict, [base.Stage(0, ()), base.Stage(1, work)._replace(**changes)], len)

    refused("stage 1: when='always' is none of never, entry, epoch", when="always")
    refused("stage 1: `look` and when='epoch' contradict", when="epoch")
    refused("stage 1: `look` and when='never' contradict", look=look)
    refused("stage 1 needs a pass", passes=())
    refused("every pass a step", passes=(*work, ()))
    refused("must draw its first stream, 'train'", passes=((base.Step(step, (train,)), base.Step(step, (meta,))),))
    refused("pool='elsewhere' is none of train, trusted", passes=((base.Step(step, (base.Draw(pool="elsewhere"),)),),))
    with pytest.raises(ValueError, match="at least one epoch"):
        base.method(dict, [base.Stage(0, work)], len)


def test_stage_at():
    method = base.method(dict, [base.Stage(epochs, base.one_pass(step)) for epochs in (2, 0, 3)], len)
    assert len(method.stages) == 2 and method.epochs == 5
    assert [method.stage_at(epoch) for epoch in range(5)] == [(0, 0), (0, 0), (1, 2), (1, 2), (1, 2)]
    with pytest.raises(ValueError, match="epoch=5 must be below 5"):
        method.stage_at(5)


BROKEN = ("look", "enter", "plan", "inspect")


@pytest.mark.parametrize("part", [None, *BROKEN])
def test_what_cannot_be_compiled_is_known_before(part):
    """Of the last stage, which a run would reach last."""

    def broken(*_):
        raise ValueError(f"{part} cannot be")

    task = toys.task(epochs=2, batch_size=60, widths=(8,))
    last = stage(1, 1, "epoch")
    if part in BROKEN[:3]:
        last = last._replace(**{part: broken})
    method = noting(task, stage(0, 1, "never"), last)
    if part == "inspect":
        method = method._replace(inspect=broken)
    layout = toys.single(task)
    state = engine.init_states(method, layout, [toys.own(0)])
    if part is None:
        assert engine.check_steps(method, task, layout, state, toys.own(0)) is None
        return
    with pytest.raises(ValueError, match=f"{part} cannot be"):
        engine.check_steps(method, task, layout, state, toys.own(0))


def test_one_array_in_two_places_of_a_state():
    """The state is given up to each step, so each place needs its own buffer."""
    task = toys.task(epochs=1, widths=(8,))
    plain = noting(task, base.Stage(1, base.one_pass(step)))

    def init(key, labels):
        return {**plain.init(key, labels), "twice": (jnp.ones(3),) * 2}

    assert toys.run(plain._replace(init=init), task, [toys.own(0)])[-1].state[0]["steps"] == 4


# --- Runs of real methods --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits():
    task = toys.task(epochs=2)
    first, second = (toys.train("cross_entropy", task, (7,))[-1] for _ in range(2))
    chex.assert_trees_all_equal(first.state, second.state)
    assert first.metrics == second.metrics


def test_other_seeds_differ():
    task = toys.task(epochs=1)
    a, b = (toys.train("cross_entropy", task, (seed,))[-1].test_logits[0] for seed in (0, 1))
    assert not np.allclose(a, b)


@pytest.mark.parametrize(
    ("name", "options"),
    [("cross_entropy", {}), pytest.param("dynamic_loss", {"meta_every": 2}, marks=pytest.mark.slow)],
)
def test_the_compiled_loop_equals_the_python_loop(name, options, monkeypatch):
    """GPU and TPU run some steps as one program; the results are those of the CPU's loop, however they are cut."""
    task = toys.task(epochs=2)
    loop = toys.train(name, task, **options)[-1]
    monkeypatch.setattr(backend, "loops_on_device", lambda: True)
    compiled = toys.train(name, task, **options)[-1]
    chex.assert_trees_all_close(loop.state, compiled.state, rtol=1e-4, atol=1e-5)
    assert loop.metrics[0] == pytest.approx(compiled.metrics[0], rel=1e-4)
    method, made = toys.method(name, task, **options), []
    monkeypatch.setattr(engine, "_stride", lambda stride, *_: 2 * stride)
    with pytest.raises(engine.Cut) as cut:
        toys.run(method, task, [toys.own(0)], on_step=made.append, cut=lambda share: share > 0.5)
    assert made == [1, 2] and cut.value.made == 3
    rest = toys.run(method, task, [toys.own(0)], middle=cut.value.middle)
    chex.assert_trees_all_equal(rest[-1].state, compiled.state)
    assert rest[-1].metrics == compiled.metrics


def test_compiled_loops_get_longer_while_they_are_quick():
    assert [engine._stride(8, *made) for made in ((8, 0.1), (5, 0.1), (8, 2.0), (8, 9.0))] == [16, 8, 8, 4]
    assert engine._stride(1, 1, 60.0) == 1  # it was compiled


@pytest.mark.slow
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
    for part in ("corrector", "margin"):  # each counts its own steps
        adam_steps = [run[1].state[0].meta_opt_state[part][0].count for run in (plain, every)]
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
    method = toys.method("cross_entropy", task)
    epochs = engine.train(method, task, toys.single(task), toys.resident(), [toys.own(0)])
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
