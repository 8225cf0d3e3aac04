"""INCV: what cross-validation selects and removes, by hand; who judges; and co-teaching on the two sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import findings, methods, selection
from robustjax.methods import base, incv
from tests.co_teaching_test import CLASSES, algorithm_1, as_state, make_task, setting
from tests.erm_test import clock_at, jit

N = 60
LABELS = (np.arange(N) % CLASSES).astype(np.int32)


def logits(seed: int, agreeing: int) -> np.ndarray:
    """Random ones that predict the label of so many examples; with the same seed, of all that fewer would be of."""
    rng = np.random.default_rng(seed)
    found = np.sort(rng.normal(size=(N, CLASSES)), 1)[:, ::-1]  # the largest first
    place = np.where(np.argsort(rng.permutation(N)) < agreeing, 0, 1)
    return np.stack([np.roll(row, label + shift) for row, label, shift in zip(found, LABELS, place, strict=True)])


def survey(seen: np.ndarray) -> base.Survey:
    return base.Survey(jnp.asarray(seen, jnp.float32), jnp.asarray(LABELS), jnp.asarray(LABELS))


def agreement(seen: np.ndarray, held: np.ndarray) -> float:
    return float(np.mean(seen.argmax(1)[held] == LABELS[held]))


def concluded(status: np.ndarray, held: np.ndarray, seen: np.ndarray, ratio: float) -> np.ndarray:
    """Algorithm 2's sets after a network has judged the examples `held`."""
    selected = held & (seen.argmax(1) == LABELS)
    values = np.log(np.exp(seen.astype(np.float64)).sum(1)) - seen[np.arange(N), LABELS]
    worst = sorted(np.flatnonzero(held), key=lambda i: -values[i])[: int(ratio * selected.sum())]
    after = status.copy()
    after[worst] = 2
    after[selected] = 1
    return after


def at(method: base.Method, part: int, epoch: int) -> base.Clock:
    """The time at an epoch of a part's own."""
    start = sum(stage.epochs for stage in method.stages[:part])
    return clock_at(method, make_task(), start + epoch, stage=part)


@pytest.mark.parametrize("pattern", ["symmetric", pytest.param("asymmetric", marks=pytest.mark.exhaustive)])
def test_cross_validation_is_algorithm_2(pattern):
    task = make_task(num_examples=N)
    method = methods.get("incv")(task, iterations=2, selection_epochs=3, candidates_from=0.5, pattern=pattern)
    first, *others = method.stages[:4]
    assert [(s.epochs, s.preliminary) for s in method.stages] == [(3, True)] * 4 + [(6, False)] * 2
    assert all(other == first for other in others)  # so that they are compiled once
    enter, plan, key = jit(first.enter), jit(first.plan), jax.random.key(0)
    state = method.init(key, LABELS)
    fresh = state.learners[0].params["head"]["kernel"]
    status, ratio = np.zeros(N, int), None
    for part in range(4):
        state = enter(state, survey(logits(9, 5)), jax.random.key(part)) if part == 0 else state
        kernel = state.learners[0].params["head"]["kernel"]
        assert np.abs(kernel - fresh).max() > 1e-3  # a new network each time
        fresh, half = kernel, np.asarray(base.recall_all(state.half, N))
        if part % 2 == 0:
            candidates = status == 0
            np.testing.assert_array_equal(half[~candidates], np.where(status == 1, 0, 3)[~candidates])
            sizes = [np.sum(half == which) for which in (1, 2)]
            assert sum(sizes) == candidates.sum() and sizes[0] == candidates.sum() // 2
        trained, held = half == 1 + part % 2, half == 2 - part % 2

        # The second epoch's network predicts more held-out labels than the first and the last one.
        epochs = [logits(part, agreeing) for agreeing in (10, 30, 20)]
        assert agreement(epochs[1], held) > max(agreement(epochs[0], held), agreement(epochs[2], held))
        for epoch, seen in enumerate([logits(8, N), *epochs[:2]]):  # the look before the first is of a new network
            state, drawn = plan(state, survey(seen), at(method, part, epoch), key)
            order = np.asarray(drawn["train"].order)[: int(drawn["train"].size)]
            np.testing.assert_array_equal(np.sort(order), np.flatnonzero(trained | (half == 0)))
        finish = enter if part < 3 else jit(method.stages[4].enter)
        state = finish(state, survey(epochs[2]), jax.random.key(part + 1))

        if part == 0:
            rate = float(selection.noise_rate_from_agreement(agreement(epochs[1], held), CLASSES))
            ratio = min(2, rate / (1 - rate)) if pattern == "symmetric" else 0
        # In the second iteration best epochs still judge at this rate, but not with asymmetric noise.
        assert 0.3 < rate <= 0.6 and float(state.noise_rate) == pytest.approx(rate)
        judge = epochs[2] if pattern == "asymmetric" and part >= 2 else epochs[1]
        status = concluded(status, held, judge, ratio)
        np.testing.assert_array_equal(base.recall_all(state.status, N), status)
    assert set(status) == ({0, 1, 2} if pattern == "symmetric" else {0, 1})

    # The sets of co-teaching, and how many candidates go with its batch of ten.
    assert int(state.quota) == min(10 * np.sum(status == 0) // np.sum(status == 1), 5)
    assert not np.allclose(*(learner.params["head"]["kernel"] for learner in state.learners))
    _, drawn = method.stages[4].plan(state, survey(epochs[0]), at(method, 4, 0), key)
    for name, which in (("selected", 1), ("candidates", 0)):
        order = np.asarray(drawn[name].order)[: int(drawn[name].size)]
        np.testing.assert_array_equal(np.sort(order), np.flatnonzero(status == which))
    told = method.inspect(state, survey(epochs[0]))
    assert isinstance(told["noise_score"], findings.NoiseScore)
    np.testing.assert_array_equal(told["noise_score"].values, np.array([0.5, 0, 1])[status])
    shares = [np.mean(status[label == LABELS] == 1) for label in range(CLASSES)]
    np.testing.assert_allclose(told["selected_share"].values, shares, rtol=1e-6)


def test_a_batch_is_chosen_from_both_sets():
    """As many are learned as of the selected alone: ⌊(1 − ε_S) 6⌋ = 4 of 6 selected and 2 of 3 candidates."""
    task, (params, inputs, labels) = make_task(), setting()
    method = methods.get("incv")(task, iterations=1, selection_epochs=1, ramp_epochs=4, candidates_from=0.5)
    state = as_state(method, params, labels)._replace(noise_rate=jnp.float32(0.45), quota=jnp.int32(2))
    assert float(incv.remaining_noise(0.45, 2)) == pytest.approx(0.25, abs=1e-3)

    def batch(rows: list[int], mask: list[int]) -> base.Batch:
        rows = np.asarray(rows)
        return base.Batch(inputs[rows], labels[rows], jnp.asarray(rows), jnp.asarray(mask, jnp.float32))

    # The last of each are padding, and beyond the quota; both networks would choose them first.
    batches = {"selected": batch([0, 1, 2, 3, 4, 5, 8], [1] * 6 + [0]), "candidates": batch([6, 7, 9], [1, 1, 1])}
    (((step,),),) = (method.stages[-1].passes,)
    assert [draw.stream for draw in step.draws] == ["selected", "candidates"] and step.draws[1].batch_size == 5
    clock = clock_at(method, task, 2 + 11)  # beyond the ramp
    after, metrics = jit(step.apply)(state, batches, clock, jax.random.key(1))
    expected, *_ = algorithm_1(params, inputs, labels, 4, code=False)
    for found, by_hand in zip(after.learners, expected, strict=True):
        np.testing.assert_allclose(found.params["head"]["kernel"], by_hand["kernel"], rtol=1e-4, atol=1e-5)
    assert metrics["kept_share"][0] / metrics["kept_share"][1] == pytest.approx(4 / 8)
    assert metrics["estimated_noise_rate"][0] == pytest.approx(0.45)


def test_before_the_teaching_one_network_predicts():
    method = methods.get("incv")(make_task(), iterations=1)
    state = method.init(jax.random.key(0), LABELS)
    inputs = jnp.asarray(setting()[1])
    first, second = (base.predict_with(make_task(), learner, inputs) for learner in state.learners)
    np.testing.assert_allclose(method.predict(state._replace(part=jnp.int32(2)), inputs), first, rtol=1e-6)
    mean = method.predict(state._replace(part=jnp.int32(3)), inputs)
    np.testing.assert_allclose(mean, (first + second) / 2, rtol=1e-5, atol=1e-6)


def test_networks_that_guess_are_told():
    """Agreement of a third is that of guessing one of three classes, and its noise rate means nothing."""
    method = methods.get("incv")(make_task(), iterations=1)
    state = method.init(jax.random.key(0), LABELS)
    guessing = float(selection.noise_rate_from_agreement(1 / 3, 3))
    assert method.warnings(state._replace(noise_rate=jnp.float32(0.4))) == ()
    (told,) = method.warnings(state._replace(noise_rate=jnp.float32(guessing)))
    assert f"noise rate is {guessing:.2f}" in told and "--selection-epochs" in told


def test_epochs_of_the_stages():
    """A quarter of the run unless told; candidates later with asymmetric noise; the schedule goes on across stages."""
    ramp = make_task(epochs=20)._replace(schedule=lambda progress: progress / 20)
    for options, expected in (
        ({}, [5] * 8 + [4, 16]),
        ({"pattern": "asymmetric", "iterations": 1}, [5] * 2 + [8, 12]),
        ({"selection_epochs": 2, "iterations": 1, "candidates_from": 0.0}, [2, 2, 20]),
        ({"selection_epochs": 2, "iterations": 1, "candidates_from": 1.0}, [2, 2, 20]),
    ):
        method = methods.get("incv")(ramp, **options)
        assert [stage.epochs for stage in method.stages] == expected
        # Cross-validation has the whole schedule in short; that of the teaching goes on where candidates join.
        rates = [float(stage.schedule(jnp.float32(stage.epochs))) for stage in method.stages]
        teaching = [expected[-2] / 20, 1.0] if sum(expected[-2:]) == 20 else [1.0]
        assert rates == pytest.approx([1.0] * (len(expected) - len(teaching)) + teaching)
        begins = [stage.enter is not None for stage in method.stages]
        assert begins == [True] * (len(expected) + 1 - len(teaching)) + [False] * (len(teaching) - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0"),
        ({"ramp_epochs": 0}, "ramp_epochs=0 must be at least 1"),
        ({"selection_epochs": -1}, "selection_epochs=-1 must be at least 0"),
        ({"candidates_from": 1.5}, r"candidates_from=1.5 must be in \[0, 1\]"),
        ({"pattern": "uniform"}, "pattern='uniform' is none of symmetric, asymmetric"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("incv")(make_task(), **options)
