"""NLNL: its loss by hand, who takes part in each phase, and its pseudo-labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import methods
from robustjax.methods import base
from tests.erm_test import C, clock_at, digits, jit, logits_of, make_task, one_step, train, train_accuracy

N = 6


def survey(confidence: list[float]) -> base.Survey:
    """Six examples of label 2 whose p_y is as given, the rest spread evenly."""
    c = np.asarray(confidence)[:, None]
    probs = np.where(np.arange(C) == 2, c, (1 - c) / (C - 1))
    return base.Survey(jnp.log(jnp.asarray(probs, jnp.float32)), jnp.full(N, 2), jnp.full(N, 2))


def chosen(method, state, confidence, epoch):
    """The state at the beginning of an epoch, as the engine gets there, and whom the epoch draws."""
    number, start = method.stage_at(epoch)
    stage, seen, key = method.stages[number], survey(confidence), jax.random.key(3)
    blind = seen._replace(seen=None)
    if stage.enter is not None and epoch == start:
        state = jit(stage.enter)(state, seen if stage.when != "never" else blind, key)
    clock = clock_at(method, make_task(epochs=10), epoch)
    state, plan = jit(stage.plan)(state, seen if stage.when == "epoch" else blind, clock, key)
    stream = plan["train"]
    return state, sorted(np.asarray(stream.order)[: int(stream.size)].tolist())


def make():
    """NLNL with all its phases, and its state for six examples of label 2."""
    task = make_task(epochs=10, optimizer=optax.sgd)
    method = methods.get("nlnl")(task, selective_from=0.2, positive_from=0.5, pseudo_from=0.8)
    state = method.init(jax.random.key(0), digits().train_labels)
    return method, state._replace(targets=base.per_example(N, (C,)))


def test_negative_step_is_the_formula():
    task = make_task(optimizer=optax.sgd)
    method = methods.get("nlnl")(task, complementary=3)
    state, batch, (_, metrics) = one_step(method, task)
    draw_key, _ = jax.random.split(jax.random.key(2))
    wrong = (np.asarray(batch.labels)[:, None] + jax.random.randint(draw_key, (8, 3), 1, C)) % C
    assert not np.any(wrong == np.asarray(batch.labels)[:, None])
    p = np.asarray(jax.nn.softmax(logits_of(task, state.learner.params, batch)))
    counts = np.bincount(digits().train_labels, minlength=C)
    weights = (counts.max() / counts)[batch.labels]
    expected = (weights * -np.log(np.clip(1 - np.take_along_axis(p, wrong, -1), 1e-5, 1)).sum(-1)).mean()
    np.testing.assert_allclose(metrics["loss"][0] / 8, expected, rtol=1e-5)


def test_phases_select_by_confidence():
    method, state = make()
    confidence = [0.05, 0.0999, 0.11, 0.3, 0.51, 0.9]
    for epoch, expected in ((0, range(6)), (1, range(6)), (2, range(2, 6)), (4, range(2, 6)), (5, [4, 5]), (7, [4, 5])):
        assert chosen(method, state, confidence, epoch)[1] == list(expected), epoch
    assert chosen(method, state, [0.01] * N, 5)[1] == list(range(6))  # none is trusted: all take part
    names = [method.stages[method.stage_at(epoch)[0]].passes[0][0].apply.__name__ for epoch in (0, 4, 5, 7, 8, 9)]
    assert names == ["negative_step"] * 2 + ["positive_step"] * 2 + ["pseudo_step"] * 2


def test_pseudo_labels_keep_trusted_labels_and_restart_the_network():
    method, state = make()
    confidence = [0.05, 0.2, 0.4, 0.6, 0.8, 0.9]
    before, _ = chosen(method, state, confidence, 7)
    np.testing.assert_array_equal(before.targets.rows, 0)
    after, drawn = chosen(method, state, confidence, 8)
    assert drawn == list(range(6))
    targets = base.recall_all(after.targets, N)
    np.testing.assert_allclose(targets[:3], jax.nn.softmax(survey(confidence).seen)[:3], rtol=1e-5)
    np.testing.assert_array_equal(targets[3:], np.eye(C)[[2, 2, 2]])
    kernels = [jax.tree.leaves(s.learner.params)[-1] for s in (state, before, after)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 1e-3


def test_pseudo_phase_has_the_schedule_in_short():
    task = make_task(epochs=10, optimizer=optax.sgd, schedule=lambda progress: 1 - progress / 10)
    method = methods.get("nlnl")(task, selective_from=0.2, positive_from=0.5, pseudo_from=0.8)
    for epoch, rate in ((0, 1.0), (7, 0.3), (8, 1.0), (9, 0.5)):
        _, _, (_, metrics) = one_step(method, task, epoch=epoch)
        np.testing.assert_allclose(metrics["learning_rate"][0], rate, rtol=1e-5)


def test_all_phases_run_and_learn():
    task = make_task(epochs=10, rate=0.1)
    method = methods.get("nlnl")(
        task, complementary=9, selective_from=0.4, positive_from=0.5, pseudo_from=0.6, positive_threshold=0.3
    )
    epochs = train(method, task)
    accuracies = [train_accuracy(method, task, epoch.state) for epoch in epochs]
    assert accuracies[5] > 0.45 and accuracies[6] < accuracies[5] - 0.1 and accuracies[9] > 0.45
    np.testing.assert_allclose(base.recall_all(epochs[-1].state.targets, task.num_examples).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"complementary": 0},
        {"selective_from": 0.9, "positive_from": 0.5},
        {"pseudo_from": 1.5},
        {"positive_threshold": 1.0},
    ],
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        methods.get("nlnl")(make_task(), **bad)
