"""Co-teaching and co-teaching+: a step by hand, who learns from whom, what is left out when, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import methods, models
from robustjax.methods import base
from tests.erm_test import clock_at, jit

CLASSES, INPUTS, ROWS, RATE = 3, 4, 10, 0.3
MASK = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 0], np.float32)  # eight examples and two rows of padding


def make_task(epochs: int = 12, num_examples: int = 40, batch_size: int = ROWS, rate: float = RATE) -> base.Task:
    """A linear softmax on numbers that no view changes."""
    return base.Task(
        num_examples=num_examples,
        num_classes=CLASSES,
        epochs=epochs,
        batch_size=batch_size,
        model=models.get_model("mlp", CLASSES, widths=()),
        optimizer=optax.sgd,
        schedule=lambda progress: jnp.full_like(progress, rate),
        weak=lambda key, inputs: inputs,
        strong=lambda key, inputs: inputs,
        plain=lambda inputs: inputs,
        example=jax.ShapeDtypeStruct((1, INPUTS), np.float32),
    )


def setting() -> tuple[list[dict], np.ndarray, np.ndarray]:
    """Parameters of two networks, inputs and labels. Both networks are surest of the two rows of padding."""
    rng = np.random.default_rng(5)
    inputs, labels = rng.normal(size=(ROWS, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, ROWS)
    params = [
        {"head": {"kernel": rng.normal(size=(INPUTS, CLASSES)), "bias": rng.normal(size=CLASSES)}} for _ in range(2)
    ]
    direction = np.linalg.pinv(np.concatenate([each["head"]["kernel"] for each in params], 1).T)  # of large logits
    inputs[8:] = 30 * direction @ np.tile(np.eye(CLASSES)[0], 2)
    labels[8:] = 0
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), params), inputs, labels.astype(np.int32)


def as_state(method, params, labels):
    state = method.init(jax.random.key(0), labels)
    learners = [
        own._replace(params=jax.tree.map(jnp.asarray, p)) for own, p in zip(state.learners, params, strict=True)
    ]
    return state._replace(learners=tuple(learners))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1)[:, None]


def algorithm_1(params, inputs, labels, kept: int, code: bool):
    """Algorithm 1 in float64: each network after the step, each one's loss, and whom each chose."""
    inputs, heads = inputs.astype(np.float64), [each["head"] for each in params]
    log_p = [log_softmax(inputs @ head["kernel"] + head["bias"]) for head in heads]
    values = [-each[np.arange(ROWS), labels] for each in log_p]
    chosen = [sorted(range(8), key=lambda i, of=of: of[i])[:kept] for of in values]  # padding never
    after, objectives = [], []
    for which in (0, 1):
        of_the_other = chosen[1 - which]
        factor = 1 / kept / (kept if code else 1)
        error = np.exp(log_p[which]) - np.eye(CLASSES)[labels]
        kernel = factor * inputs[of_the_other].T @ error[of_the_other]
        bias = factor * error[of_the_other].sum(0)
        after.append({"kernel": heads[which]["kernel"] - RATE * kernel, "bias": heads[which]["bias"] - RATE * bias})
        objectives.append(factor * values[which][of_the_other].sum())
    return after, objectives, chosen, values


# τ = 0.5 over 5 epochs: R(t) = 0, 1/8, 1/4, 3/8, 1/2, and 1/2 from then on, of eight examples.
@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize(("epoch", "kept"), [(0, 8), (1, 7), (2, 6), (4, 4), (11, 4)])
def test_a_step_is_algorithm_1(form, epoch, kept):
    task, (params, inputs, labels) = make_task(), setting()
    method = methods.get("co_teaching")(task, forget_rate=0.5, ramp_epochs=5, form=form)
    batch = base.Batch(jnp.asarray(inputs), jnp.asarray(labels), jnp.arange(ROWS), jnp.asarray(MASK))
    ((step,),) = method.stages[0].passes
    # Late in the epoch: the share that is left out stays the same during an epoch.
    clock = clock_at(method, task, epoch, 0.9)
    after, metrics = jit(step.apply)(as_state(method, params, labels), {"train": batch}, clock, jax.random.key(1))

    expected, objectives, chosen, values = algorithm_1(params, inputs, labels, kept, form == "code")
    assert all(of[8:].max() < of[:8].min() for of in values)  # padding would be chosen first
    assert kept == 8 or chosen[0] != chosen[1]  # so that it matters who chooses for whom
    for found, by_hand in zip(after.learners, expected, strict=True):
        for name, value in by_hand.items():
            np.testing.assert_allclose(found.params["head"][name], value, rtol=1e-4, atol=1e-5)
    total, count = metrics["loss"]
    np.testing.assert_allclose(total / count, np.mean(objectives), rtol=1e-5)
    assert metrics["kept_share"][0] / metrics["kept_share"][1] == pytest.approx(kept / 8)
    assert metrics["learning_rate"][0] / metrics["learning_rate"][1] == pytest.approx(RATE)
    agree = np.mean(
        [(np.argmax(inputs[:8] @ p["head"]["kernel"] + p["head"]["bias"], 1) == labels[:8]) for p in params]
    )
    assert metrics["train_accuracy"][0] / metrics["train_accuracy"][1] == pytest.approx(agree)


def test_prediction_is_the_mean_of_the_logits():
    task, (_, inputs, labels) = make_task(), setting()
    method = methods.get("co_teaching")(task, forget_rate=0.2)
    state = method.init(jax.random.key(0), labels)
    kernels = [learner.params["head"]["kernel"] for learner in state.learners]
    assert not np.allclose(*kernels)  # two different networks
    own = [base.predict_with(task, learner, inputs) for learner in state.learners]
    np.testing.assert_allclose(method.predict(state, jnp.asarray(inputs)), (own[0] + own[1]) / 2, rtol=1e-5, atol=1e-6)


def test_what_is_kept_is_cleaner_than_what_is_given():
    """Three Gaussians with 40 % of the labels moved on: the examples of small loss are mostly right."""
    rng = np.random.default_rng(0)
    clean = np.arange(600) % CLASSES
    inputs = (2.5 * np.eye(CLASSES, INPUTS)[clean] + rng.normal(size=(600, INPUTS))).astype(np.float32)
    wrong = rng.random(600) < 0.4
    labels = np.where(wrong, (clean + 1) % CLASSES, clean).astype(np.int32)
    task = make_task(epochs=8, num_examples=600, batch_size=100, rate=0.2)
    method = methods.get("co_teaching")(task, forget_rate=0.4, ramp_epochs=4)
    state = method.init(jax.random.key(0), labels)
    ((step,),) = method.stages[0].passes
    advance = jit(step.apply)
    for epoch in range(method.epochs):
        order = np.random.default_rng(epoch).permutation(600)
        for t, rows in enumerate(np.split(order, 6)):
            batch = base.Batch(inputs[rows], labels[rows], rows.astype(np.int32), np.ones(100, np.float32))
            clock = clock_at(method, task, epoch, t / 6)
            state, metrics = advance(state, {"train": batch}, clock, jax.random.key(6 * epoch + t))
    assert metrics["kept_share"][0] / metrics["kept_share"][1] == pytest.approx(0.6)
    predicted = np.argmax(method.predict(state, jnp.asarray(inputs)), -1)
    assert np.mean(predicted == clean) > 0.85
    log_p = log_softmax(np.asarray(base.predict_with(task, state.learners[0], inputs), np.float64))
    smallest = np.argsort(-log_p[np.arange(600), labels])[:360]
    assert np.mean(wrong[smallest]) < 0.15 < np.mean(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "forget_rate is missing: about the share of wrong labels"),
        ({"forget_rate": 1.0}, r"forget_rate=1.0 must be in \[0, 1\)"),
        ({"forget_rate": -0.1}, "forget_rate=-0.1"),
        ({"forget_rate": 0.2, "ramp_epochs": 0}, "ramp_epochs"),
        ({"forget_rate": 0.2, "exponent": -1.0}, "exponent=-1.0 must be positive"),
        ({"forget_rate": 0.2, "form": "papers"}, "form='papers' is none of paper, code"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("co_teaching")(make_task(), **options)


def disagreeing_step(params, inputs, labels, kept_share: float, code: bool):
    """Co-teaching+ in float64: the networks after a step that only examples with two predictions take part in."""
    heads = [each["head"] for each in params]
    logits = [inputs.astype(np.float64) @ head["kernel"] + head["bias"] for head in heads]
    apart = np.flatnonzero((logits[0].argmax(1) != logits[1].argmax(1)) & (MASK > 0))
    p = [np.exp(log_softmax(each)) for each in logits]
    values = [-log_softmax(p[k] if code else logits[k])[np.arange(ROWS), labels] for k in (0, 1)]
    kept = int(kept_share * len(apart)) or len(apart)
    chosen = [sorted(apart, key=lambda i, of=of: of[i])[:kept] for of in values]
    chosen, kept = (chosen, kept) if len(apart) else ([range(8)] * 2 if code else [[], []], 1)
    after = []
    for which in (0, 1):
        rows = np.asarray(chosen[1 - which], int)
        error = np.exp(log_softmax(p[which] if code else logits[which])) - np.eye(CLASSES)[labels]
        if code:  # through the inner softmax
            error = p[which] * (error - (p[which] * error).sum(1, keepdims=True))
        error = error[rows] / (max(len(rows), 1) * (kept if code else 1))
        after.append(heads[which]["kernel"] - RATE * inputs.astype(np.float64)[rows].T @ error)
    return after, len(apart), chosen


@pytest.mark.parametrize("form", ["paper", "code"])
def test_co_teaching_plus_learns_where_the_networks_disagree(form):
    """In the warm-up it is co-teaching; then only examples apart are chosen from; and where there are none, by form."""
    task, (params, inputs, labels) = make_task(), setting()
    method = methods.get("co_teaching_plus")(task, forget_rate=0.5, ramp_epochs=5, warmup_epochs=3, form=form)
    other = methods.get("co_teaching")(task, forget_rate=0.5, ramp_epochs=5, form=form)
    assert [stage.epochs for stage in method.stages] == [3, 9]
    (((warm,),), ((step,),)), ((plain,),) = (s.passes for s in method.stages), other.stages[0].passes
    batch = base.Batch(jnp.asarray(inputs), jnp.asarray(labels), jnp.arange(ROWS), jnp.asarray(MASK))
    args = {"train": batch}, clock_at(method, task, 2), jax.random.key(1)
    if form == "paper":
        first = [jit(of.apply)(as_state(method, params, labels), *args) for of in (warm, plain)]
        jax.tree.map(np.testing.assert_array_equal, *first)

    advance = jit(step.apply)
    for both in (params, [params[0]] * 2):
        state = as_state(method, both, labels)
        after, metrics = advance(state, {"train": batch}, clock_at(method, task, 11, 0.9), jax.random.key(1))
        expected, apart, chosen = disagreeing_step(both, inputs, labels, 0.5, form == "code")
        assert apart == (5 if both is params else 0)
        for found, kernel in zip(after.learners, expected, strict=True):
            np.testing.assert_allclose(found.params["head"]["kernel"], kernel, rtol=1e-4, atol=1e-5)
        assert metrics["kept_share"][0] / metrics["kept_share"][1] == pytest.approx(len(chosen[0]) / 8)


@pytest.mark.parametrize("warmup", [-1, 12])
def test_co_teaching_plus_refuses_a_warm_up_that_leaves_nothing(warmup):
    with pytest.raises(ValueError, match=f"warmup_epochs={warmup} must be at least 0 and less than epochs=12"):
        methods.get("co_teaching_plus")(make_task(), forget_rate=0.2, warmup_epochs=warmup)
