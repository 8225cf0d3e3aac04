"""SELFIE: whom a step learns from and as what, by hand; the warm-up, restarts, and wrong labels that are put right."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import findings, methods
from robustjax.methods import base
from robustjax.training import engine
from tests.co_teaching_test import CLASSES, RATE, log_softmax, make_task
from tests.erm_test import clock_at, jit
from tests.plc_test import N, a_batch, gaussians, survey, train

Q, FORGET = 3, 0.4


def setting():
    """The method, a state in the middle of a run, a batch, the predictions remembered, and what was refurbished."""
    rng = np.random.default_rng(3)
    given = rng.integers(0, CLASSES, N).astype(np.int32)
    method = methods.get("selfie")(make_task(), forget_rate=FORGET, restarts=0)
    state = method.init(jax.random.key(0), given)
    assert state.history.rows.shape[1:] == (Q,) and np.all(base.recall_all(state.history, N) == -1)
    batch = a_batch(given)
    history = rng.integers(0, CLASSES, (N, Q)).astype(np.int32)
    refurbished = np.full(N, -1, np.int32)
    head = state.learner.params["head"]
    values = -log_softmax(np.asarray(batch.inputs, np.float64) @ head["kernel"] + head["bias"])
    by_loss = np.asarray(batch.index)[:8][np.argsort(values[np.arange(8), batch.labels[:8]])]
    # Of small loss: one that is consistent, one that once was, one too new; of large: the first two, and one in doubt.
    for place, (past, old) in {
        0: ([1, 1, 1], -1), 1: ([0, 1, 2], 2), 2: ([-1, 1, 1], -1),
        5: ([2, 2, 2], 0), 6: ([0, 1, 1], 1), 7: ([0, 2, 1], -1),
    }.items():  # fmt: skip
        history[by_loss[place]], refurbished[by_loss[place]] = past, old
    for place in (3, 4):
        history[by_loss[place]] = [0, 1, 0]
    state = state._replace(history=base.remembered(history), refurbished=base.remembered(refurbished))
    return method, state, batch, by_loss, history, refurbished


def descended(learner: base.Learner, batch: base.Batch, learned: dict[int, int]) -> dict[str, np.ndarray]:
    """The classifier after a step on the mean over `learned`, index -> label."""
    head, inputs = learner.params["head"], np.asarray(batch.inputs, np.float64)
    p = np.exp(log_softmax(inputs @ head["kernel"] + head["bias"]))
    rows = [list(batch.index).index(index) for index in learned]
    error = (p[rows] - np.eye(CLASSES)[list(learned.values())]) / len(rows)
    return {"kernel": head["kernel"] - RATE * inputs[rows].T @ error, "bias": head["bias"] - RATE * error.sum(0)}


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_step_learns_small_losses_and_refurbished_labels(epoch):
    """The warm-up has three epochs; then five of eight losses are small."""
    method, state, batch, by_loss, history, refurbished = setting()
    given = dict(zip(batch.index[:8].tolist(), batch.labels[:8].tolist(), strict=True))
    small = by_loss[: math.ceil(8 * (1 - FORGET))]
    assert len(small) == 5
    if epoch < 3:  # what an earlier network has refurbished stays so
        new, learned = {}, given | {by_loss[1]: 2, by_loss[5]: 0, by_loss[6]: 1}
    else:
        new = {by_loss[0]: 1, by_loss[5]: 2}  # now, whatever they were
        old = {by_loss[1]: 2, by_loss[6]: 1}
        learned = {index: given[index] for index in small} | new | old
    ((step,),) = method.stages[0].passes
    clock = clock_at(method, make_task(), epoch, 0.5)
    after, metrics = jit(step.apply)(state, {"train": batch}, clock, jax.random.key(1))
    for name, value in descended(state.learner, batch, learned).items():
        np.testing.assert_allclose(after.learner.params["head"][name], value, rtol=1e-5, atol=1e-6)
    assert list(map(int, metrics["kept_share"])) == [len(learned), 8] and len(learned) == (7 if epoch == 3 else 8)
    assert list(map(int, metrics["refurbished_share"])) == [4 if epoch == 3 else 3, 8]

    refurbished[list(new)] = list(new.values())
    np.testing.assert_array_equal(base.recall_all(after.refurbished, N), refurbished)
    head = state.learner.params["head"]
    predicted = np.argmax(np.asarray(batch.inputs) @ head["kernel"] + head["bias"], 1)
    history[batch.index[:8]] = np.concatenate([history[batch.index[:8], 1:], predicted[:8, None]], 1)
    np.testing.assert_array_equal(base.recall_all(after.history, N), history)


def test_restarts_share_out_the_run():
    """Fresh networks, each with the schedule in short, go on with what has been refurbished."""
    task = make_task(epochs=10)._replace(schedule=lambda progress: 1 - progress / 10)
    method = methods.get("selfie")(task, forget_rate=0.2)
    assert [(stage.epochs, stage.preliminary) for stage in method.stages] == [(3, True), (3, True), (4, False)]
    rates = [float(clock_at(method, task, epoch).rate) for epoch in (0, 2, 3, 6, 7)]
    np.testing.assert_allclose(rates, [1, 1 / 3, 1, 1, 3 / 4], rtol=1e-6)
    state = setting()[1]
    after = jit(method.stages[1].enter)(state, survey(np.zeros(N)), jax.random.key(9))
    np.testing.assert_array_equal(after.refurbished.rows, state.refurbished.rows)
    assert np.all(after.history.rows == -1)
    # It forgets no more than the share of labels that stand as given.
    assert float(after.forget) == pytest.approx(FORGET)
    settled = state._replace(refurbished=base.remembered(np.where(np.arange(N) < 0.9 * N, 1, -1)))
    after = jit(method.stages[1].enter)(settled, survey(np.zeros(N)), jax.random.key(9))
    assert float(after.forget) == pytest.approx(np.mean(np.arange(N) >= 0.9 * N))
    kernels = [each.learner.params["head"]["kernel"] for each in (state, after)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2
    for epochs in (1, 2, 3):
        assert methods.get("selfie")(make_task(epochs=epochs), forget_rate=0.2).epochs == epochs


def test_what_it_believes():
    method, state, _, _, history, refurbished = setting()
    given = np.zeros(N)
    found = method.inspect(state, survey(given))
    assert isinstance(found["correction"], findings.LabelDistribution)
    expected = np.where(refurbished >= 0, refurbished, 0)
    np.testing.assert_array_equal(found["correction"].values, np.eye(CLASSES)[expected])
    assert isinstance(found["noise_score"], findings.NoiseScore)
    score = np.sum(history > 0, 1) / np.sum(history >= 0, 1)
    np.testing.assert_allclose(found["noise_score"].values, score, rtol=1e-6)
    nothing = state._replace(history=base.remembered(jnp.full((N, Q), -1)))
    assert np.isnan(method.inspect(nothing, survey(given))["noise_score"].values).all()


def share_refurbished(epoch: engine.Epoch, count: int) -> float:
    return float(np.mean(np.asarray(base.recall_all(epoch.state[0].refurbished, count)) >= 0))


def test_it_puts_wrong_labels_right():
    data = gaussians()
    epochs = train("selfie", data, 12, forget_rate=0.2, restarts=1, warmup=0.4)
    share = []
    for each in epochs:
        refurbished = base.recall_all(each.state[0].refurbished, len(data.labels))
        share.append(np.mean(np.where(refurbished >= 0, refurbished, data.labels) == data.clean))
    assert share[1] == np.mean(data.labels == data.clean) < 0.85 and share[5] > 0.95 and share[-1] > 0.95
    assert share[6] == share[5]  # a fresh network's warm-up
    assert epochs[6].metrics[0]["refurbished_share"] == pytest.approx(share_refurbished(epochs[5], len(data.labels)))
    assert epochs[0].metrics[0]["refurbished_share"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_rate": None}, "forget_rate is missing: about the share of wrong labels"),
        ({"forget_rate": 1.0}, r"forget_rate=1.0 must be in \[0, 1\)"),
        ({"restarts": -1}, "restarts=-1"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"history": 0}, "history=0"),
        ({"threshold": 1.5}, "threshold=1.5"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("selfie")(make_task(), **{"forget_rate": 0.2, **options})
