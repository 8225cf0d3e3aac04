"""M-DYR: a step of each phase by hand, when the phases come, and what is known of the labels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import findings, methods, mixtures, models
from robustjax.methods import base, m_dyr
from robustjax.mixup import draw_mix
from tests.erm_test import clock_at, jit

CLASSES, INPUTS, N, ROWS, RATE = 3, 5, 40, 6, 0.2
OPTIONS = {"alpha": 2.0, "guided_from": 0.2, "bootstrap_from": 0.4, "hard_from": 0.8, "prior_strength": 0.7}


def make_task(**changes: Any) -> base.Task:
    """A linear softmax on numbers that no view changes."""
    task = base.Task(
        num_examples=N,
        num_classes=CLASSES,
        epochs=10,
        batch_size=ROWS,
        model=models.get_model("mlp", CLASSES, widths=()),
        optimizer=optax.sgd,
        schedule=lambda progress: jnp.full_like(progress, RATE),
        weak=lambda key, inputs: inputs,
        strong=lambda key, inputs: inputs,
        plain=lambda inputs: inputs,
        example=jax.ShapeDtypeStruct((1, INPUTS), np.float32),
    )
    return task._replace(**changes)


MODEL = m_dyr.LossModel(
    mixtures.BetaMixture(*map(jnp.asarray, ([0.6, 0.4], [2.0, 4.0], [5.0, 2.0]))), jnp.asarray(0.1), jnp.asarray(3.0)
)


def softmax(z: np.ndarray) -> np.ndarray:
    exp = np.exp(z - z.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("mixing", "form", "temperatures"),
    [
        ("dynamic", "soft_to_hard", {0: None, 3: None, 4: 1.0, 6: 0.5005, 9: 0.001}),
        ("static", "soft", {9: 1.0}),
        ("static", "hard", {4: 0.001}),
    ],
)
def test_a_step_is_the_formula(mixing, form, temperatures):
    """At epochs of each phase; None is no bootstrapping."""
    task = make_task()
    method = methods.get("m_dyr_sh")(task, **OPTIONS, mixing=mixing, form=form)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, ROWS)
    kernel, mask = rng.normal(size=(INPUTS, CLASSES)).astype(np.float32), np.array([1, 1, 1, 0, 1, 1], np.float32)
    state = method.init(jax.random.key(0), np.arange(N) % CLASSES)._replace(model=MODEL)
    params = {"head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(CLASSES)}}
    state = state._replace(learner=state.learner._replace(params=params))
    batch = base.Batch(*map(jnp.asarray, (x, y, np.arange(ROWS), mask)))
    key = jax.random.key(5)
    steps = [jit(stage.passes[0][0].apply) for stage in method.stages]
    given, logits = np.eye(CLASSES)[y], x @ kernel
    scaled = np.clip((-np.log(softmax(logits)[range(ROWS), y]) - 0.10001) / (3.0 - 0.10001 + 1e-6), 1e-3, 1 - 1e-3)
    noise = np.clip(np.asarray(mixtures.beta_noise_probability(MODEL.mixture, scaled, form="bounded")), 1e-4, 1 - 1e-4)
    assert noise.max() - noise.min() > 0.3
    for epoch, temperature in temperatures.items():
        which, _ = method.stage_at(epoch)
        after, metrics = steps[which](state, {"train": batch}, clock_at(method, task, epoch), key)
        mix = draw_mix(jax.random.split(key, 4 if which else 3)[1], ROWS, 2.0)
        partner, share, halves = np.asarray(mix.partner), np.full(ROWS, mix.share), np.full(ROWS, mix.share)
        if which and mixing == "dynamic":
            share, halves = (1 - noise) / (2 - noise - noise[partner]), np.full(ROWS, 0.5)
        target = given
        if temperature is not None:
            target = (1 - noise)[:, None] * given + noise[:, None] * softmax(logits / temperature)
        mixed = share[:, None] * x + (1 - share)[:, None] * x[partner]
        wanted = halves[:, None] * target + (1 - halves)[:, None] * target[partner]
        p, weight = softmax(mixed @ kernel), mask / mask.sum()
        errors = weight[:, None] * (p - wanted)
        loss = -(weight[:, None] * wanted * np.log(p)).sum()
        if temperature is not None:  # and the penalty: −Σ_c log(mean p_c) / C
            mean = weight @ p
            pull = -0.7 / CLASSES / mean
            errors += weight[:, None] * p * (pull - (p @ pull)[:, None])
            loss += 0.7 * np.mean(np.log(1 / CLASSES / mean))
        moved = after.learner.params["head"]["kernel"] - kernel
        np.testing.assert_allclose(moved, -RATE * mixed.T @ errors, rtol=2e-4, atol=2e-6, err_msg=str(epoch))
        np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], loss, rtol=1e-4, err_msg=str(epoch))


def test_phases():
    starts = {"dynamic": [0, 2], "static": [0, 2]}
    for mixing, expected in starts.items():
        method = methods.get("m_dyr_sh")(make_task(), **OPTIONS, mixing=mixing)
        assert sorted({method.stage_at(epoch)[1] for epoch in range(10)}) == expected
    alone = methods.get("m_dyr_sh")(make_task(), guided_from=1.0, bootstrap_from=1.0, hard_from=1.0)
    assert [stage.epochs for stage in alone.stages] == [10]
    of_the_paper = methods.get("m_dyr_sh")(make_task(epochs=300))
    assert [stage.epochs for stage in of_the_paper.stages] == [105, 195]


def test_what_is_known_of_the_labels():
    """Nothing before the first fit; then the larger of two heaps of losses is suspected and corrected."""
    task, labels = make_task(), np.arange(N) % CLASSES
    method = methods.get("m_dyr_sh")(task, **OPTIONS)
    wrong = np.arange(N) % 4 == 0
    lean = np.eye(CLASSES)[np.where(wrong, (labels + 1) % CLASSES, labels)]
    logits = jnp.asarray(np.random.default_rng(0).uniform(1, 4, N)[:, None] * lean, jnp.float32)
    survey = base.Survey(logits, jnp.asarray(labels), jnp.asarray(labels))
    state = method.init(jax.random.key(0), labels)
    assert all(np.isnan(found.values).all() for found in method.inspect(state, survey).values())
    state, plan = jit(method.stages[1].plan)(state, survey, clock_at(method, task, 2), jax.random.key(1))
    assert sorted(np.asarray(plan["train"].order).tolist()) == list(range(N)) and int(plan["train"].size) == N
    found = method.inspect(state, survey)
    assert isinstance(found["noise_score"], findings.NoiseScore)
    assert found["noise_score"].values[wrong].min() > 0.5 > found["noise_score"].values[~wrong].max()
    assert isinstance(found["correction"], findings.LabelDistribution)
    np.testing.assert_array_equal(found["correction"].values.argmax(-1), lean.argmax(-1))


def test_outliers_are_not_fitted():
    values = np.random.default_rng(0).gamma(1.0, 1.0, 200).astype(np.float32)
    far = np.where(values > np.percentile(values, 96), 1000, values)
    one, other = (jax.tree.leaves(m_dyr.fit_losses(jnp.asarray(each))) for each in (values, far))
    np.testing.assert_allclose(np.hstack(one), np.hstack(other), rtol=1e-5)
    found = m_dyr.noise_probability(m_dyr.fit_losses(far), jnp.asarray([0.0, 1000.0]))
    assert found[0] < found[1] - 0.3
    equal = m_dyr.fit_losses(jnp.full(200, 0.7))
    assert np.isfinite(m_dyr.noise_probability(equal, jnp.asarray([0.7, 9.0]))).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0 must be positive"),
        ({"guided_from": 0.5}, "got 0.5, 0.367 and 0.66"),
        ({"hard_from": 1.5}, "<= hard_from <= 1 is needed"),
        ({"prior_strength": -1.0}, "prior_strength=-1.0"),
        ({"form": "warm"}, "form='warm' is none of soft_to_hard, soft, hard"),
        ({"mixing": "none"}, "mixing='none' is none of dynamic, static"),
    ],
)
def test_options_out_of_range_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        methods.get("m_dyr_sh")(make_task(), **bad)
