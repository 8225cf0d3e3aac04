"""PENCIL: a joint step by hand, phases and their rates, how far labels move, and wrong labels that are put right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import findings, methods, models
from robustjax.methods import base, pencil
from tests.co_teaching_test import CLASSES, MASK, RATE, ROWS, log_softmax, make_task
from tests.erm_test import clock_at, jit
from tests.plc_test import N, a_batch, gaussians, train

ALPHA, BETA, LABEL_RATE = 0.7, 0.3, 50.0


def setting(task: base.Task, **options):
    """The method, a state whose labels have moved, and what was given."""
    rng = np.random.default_rng(4)
    given = rng.integers(0, CLASSES, N).astype(np.int32)
    method = methods.get("pencil")(task, **{"alpha": ALPHA, "beta": BETA, "label_rate": LABEL_RATE, **options})
    state = method.init(jax.random.key(0), given)
    np.testing.assert_array_equal(base.recall_all(state.label_logits, N), 10 * np.eye(CLASSES)[given])
    moved = 2 * rng.normal(size=(N, CLASSES)).astype(np.float32)
    return method, state._replace(label_logits=base.remembered(moved)), given, moved


def one_step(method, task, state, batch, epoch: int):
    stage = method.stages[method.stage_at(epoch)[0]]
    ((step,),) = stage.passes
    return jit(step.apply)(state, {"train": batch}, clock_at(method, task, epoch), jax.random.key(1))


@pytest.mark.parametrize(
    ("form", "divided"), [("code", False), ("code", True), pytest.param("paper", False, marks=pytest.mark.exhaustive)]
)
def test_a_joint_step_is_the_gradient_of_both(form, divided):
    """Of the network C times as large, unless it too is to learn by L; labels move by L."""
    task = make_task(epochs=10)
    method, state, given, moved = setting(task, compatibility=form, divided=divided)
    times = 1 if divided else CLASSES
    batch = a_batch(given)
    after, metrics = one_step(method, task, state, batch, 4)

    head, inputs = state.learner.params["head"], np.asarray(batch.inputs, np.float64)
    log_p, log_d = log_softmax(inputs @ head["kernel"] + head["bias"]), log_softmax(moved[batch.index])
    p, d, given_rows = np.exp(log_p), np.exp(log_d), np.eye(CLASSES)[batch.labels]
    divergence, entropy = np.sum(p * (log_p - log_d), 1), -np.sum(p * log_p, 1)
    again = np.exp(log_softmax(d)) if form == "code" else d
    objective = (divergence + BETA * entropy) / CLASSES - ALPHA * np.log(np.sum(again * given_rows, 1))
    np.testing.assert_allclose(metrics["loss"][0] / 8, times * objective[:8].mean(), rtol=1e-5)

    error = p * (log_p - log_d - divergence[:, None]) - BETA * p * (log_p + entropy[:, None])
    error *= MASK[:, None] / 8 / CLASSES * times
    for name, value in (("kernel", inputs.T @ error), ("bias", error.sum(0))):
        np.testing.assert_allclose(after.learner.params["head"][name], head[name] - RATE * value, rtol=1e-4, atol=1e-6)

    pull = again - given_rows
    if form == "code":  # through the second softmax
        pull = d * (pull - np.sum(d * pull, 1, keepdims=True))
    slope = (d - p) / CLASSES + ALPHA * pull
    expected = moved.copy()
    expected[batch.index[:8]] -= LABEL_RATE / ROWS * slope[:8]  # of the batch size, in a batch with padding too
    np.testing.assert_allclose(base.recall_all(after.label_logits, N), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - moved).max() > 0.1


def test_phases_and_their_rates():
    """Two of ten epochs on given labels, four on both, four on fixed labels, at the run's schedule in short."""
    task = make_task(epochs=10)._replace(schedule=lambda progress: 0.4 * (1 - progress / 10))
    method, state, given, moved = setting(task)
    assert [stage.epochs for stage in method.stages] == [2, 4, 4]
    rates = [float(clock_at(method, task, epoch).rate) for epoch in range(10)]
    np.testing.assert_allclose(rates, [0.4] * 6 + [0.4, 0.3, 0.2, 0.1], rtol=1e-6)
    held = methods.get("pencil")(task, constant_rate=0.05)
    assert [float(clock_at(held, task, epoch).rate) for epoch in (1, 5, 6)] == pytest.approx([0.05, 0.05, 0.4])
    batch = a_batch(given)
    head, inputs = state.learner.params["head"], np.asarray(batch.inputs, np.float64)
    log_p, log_d = log_softmax(inputs @ head["kernel"] + head["bias"]), log_softmax(moved[batch.index])
    of_given = -log_p[np.arange(ROWS), batch.labels]
    fit = np.sum(np.exp(log_p) * (log_p - log_d), 1)
    for epoch, values in ((0, of_given), (9, fit)):
        after, metrics = one_step(method, task, state, batch, epoch)
        np.testing.assert_array_equal(after.label_logits.rows, state.label_logits.rows)
        np.testing.assert_allclose(metrics["loss"][0] / 8, values[:8].mean(), rtol=1e-5)
        assert np.abs(after.learner.params["head"]["bias"] - head["bias"]).max() > 1e-4


@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 320])
def test_short_runs_have_the_phases_that_they_have_epochs_for(epochs):
    lengths = [stage.epochs for stage in methods.get("pencil")(make_task(epochs=epochs)).stages]
    assert sum(lengths) == epochs and (len(lengths) == 3 or epochs < 3)
    if epochs == 320:
        assert lengths == [70, 130, 120]


def test_labels_go_as_far_in_any_run():
    """The code's 600 where it is at home; elsewhere λ / (B C), times the epochs, stays the same."""
    paper = make_task(epochs=320, batch_size=128)._replace(num_classes=10)
    assert pencil._default_rate(paper, 130) == 600
    assert pencil._default_rate(paper._replace(batch_size=64, num_classes=100), 13) == pytest.approx(30000)


@pytest.mark.parametrize(("classes", "form"), [(3, "code"), (10, "code"), (100, "code"), (3, "paper"), (100, "paper")])
@pytest.mark.parametrize("epochs", [10, 320])
def test_a_network_that_is_sure_moves_a_label(classes, epochs, form):
    """However many classes there are, and however few epochs; and it then stays where it is."""
    model = models.get_model("linear", classes)
    task = make_task(epochs=epochs, batch_size=128)._replace(num_classes=classes, num_examples=1, model=model)
    method = methods.get("pencil")(task, compatibility=form)
    state = method.init(jax.random.key(0), np.zeros(1, np.int32))
    head = state.learner.params["head"]
    sure = jnp.zeros(classes).at[1].set(np.log((classes - 1) * 0.9 / 0.1))  # of another class, at 90 %
    params = {"head": {"kernel": jnp.zeros_like(head["kernel"]), "bias": sure}}
    batch = base.Batch(jnp.zeros((1, 4)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.ones(1))
    ((step,),) = method.stages[1].passes
    apply, clock, given = jit(step.apply), clock_at(method, task, method.stages[0].epochs), []
    for _ in range(method.stages[1].epochs):
        state = state._replace(learner=state.learner._replace(params=params))
        state, _ = apply(state, {"train": batch}, clock, jax.random.key(0))
        given.append(float(jax.nn.softmax(base.recall_all(state.label_logits, 1)[0])[0]))
    assert given[-1] < 0.45 and abs(given[-1] - given[-2]) < 0.05


def test_it_puts_wrong_labels_right():
    data = gaussians()
    epochs = train("pencil", data, 10)
    share, right = [], data.labels == data.clean
    for each in epochs:
        found = each.findings[0]
        assert isinstance(found["correction"], findings.LabelDistribution)
        share.append(np.mean(found["correction"].values.argmax(-1) == data.clean))
    np.testing.assert_allclose(found["correction"].values.sum(-1), 1, rtol=1e-5)
    assert np.mean(right) < 0.85 and share[5] > 0.95 and share[5] == share[9]
    assert isinstance(found["noise_score"], findings.NoiseScore)
    assert found["noise_score"].values[right].mean() < 0.1 < 0.7 < found["noise_score"].values[~right].mean()
    assert np.isnan(epochs[1].findings[0]["noise_score"].values).all()  # nothing has moved yet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correct_from": 0.7}, "correct_from=0.7 and tune_from=0.625"),
        ({"tune_from": 1.5}, "tune_from=1.5"),
        ({"label_rate": 0.0}, "label_rate=0.0"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"label_scale": 0.0}, "label_scale=0.0"),
        ({"constant_rate": 0.0}, "constant_rate=0.0"),
        ({"compatibility": "none"}, "compatibility='none' is none of code, paper"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("pencil")(make_task(), **options)
