"""BBN: a step by hand, the reversed sampler, what predicts, and networks with and without branches."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import methods, models
from robustjax.methods import base
from tests.erm_test import clock_at, jit

CLASSES, INPUTS, N, ROWS, RATE, EPOCHS = 3, 5, 40, 6, 0.2, 8


def make_task(**changes: Any) -> base.Task:
    """A perceptron on numbers that no view changes; its classifier sees six features."""
    task = base.Task(
        num_examples=N,
        num_classes=CLASSES,
        epochs=EPOCHS,
        batch_size=ROWS,
        model=models.get_model("mlp", CLASSES, widths=(6,)),
        optimizer=optax.sgd,
        schedule=lambda progress: jnp.full_like(progress, RATE),
        weak=lambda key, inputs: inputs,
        strong=lambda key, inputs: inputs,
        plain=lambda inputs: inputs,
        example=jax.ShapeDtypeStruct((1, INPUTS), np.float32),
    )
    return task._replace(**changes)


def batch(seed: int, mask: tuple[int, ...]) -> base.Batch:
    rng = np.random.default_rng(seed)
    inputs, labels = rng.normal(size=(ROWS, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, ROWS)
    return base.Batch(*map(jnp.asarray, (inputs, labels, np.arange(ROWS), np.array(mask, np.float32))))


@pytest.mark.parametrize(("epoch", "share"), [(0, 1.0), (4, 0.75), (7, 1 - 49 / 64)])
def test_a_step_is_the_formula(epoch, share):
    task = make_task()
    method = methods.get("bbn")(task)
    state = method.init(jax.random.key(0), np.arange(N) % CLASSES)
    ours, theirs = batch(1, (1, 1, 1, 1, 1, 0)), batch(2, (1, 1, 1, 1, 1, 1))
    (work,) = method.stages[0].passes[0]
    after, metrics = jit(work.apply)(
        state, {"train": ours, "reversed": theirs}, clock_at(method, task, epoch), jax.random.key(3)
    )
    hidden = next(name for name in state.learner.params if name != "head")

    def objective(params: Any) -> jax.Array:
        def features(inputs: jax.Array) -> jax.Array:
            return jax.nn.relu(inputs @ params[hidden]["kernel"] + params[hidden]["bias"])

        one, other = features(ours.inputs), features(theirs.inputs)
        seen = jnp.concatenate([2 * share * one[:, :3], 2 * (1 - share) * other[:, 3:]], 1)
        log_p = jax.nn.log_softmax(seen @ params["head"]["kernel"] + params["head"]["bias"])
        rows = jnp.arange(ROWS)
        values = -share * log_p[rows, ours.labels] - (1 - share) * log_p[rows, theirs.labels]
        return jnp.sum(ours.mask * values) / 5

    value, gradient = jax.value_and_grad(objective)(state.learner.params)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], value, rtol=1e-5)
    stepped = jax.tree.map(lambda p, g: p - RATE * g, state.learner.params, gradient)
    chex.assert_trees_all_close(after.learner.params, stepped, rtol=1e-4, atol=1e-6)


def test_the_second_stream_draws_rare_classes_first():
    """In inverse proportion to their frequency: 30, 8 and 2 labels give 4, 15 and 60 of 79 draws."""
    labels = np.repeat(np.arange(3), (30, 8, 2)).repeat(100)
    task = make_task(num_examples=4000)
    method = methods.get("bbn")(task)
    state = method.init(jax.random.key(0), labels)
    survey = base.Survey(None, jnp.asarray(labels), jnp.asarray(labels))
    _, plan = jit(method.stages[0].plan)(state, survey, clock_at(method, task, 0), jax.random.key(1))
    assert sorted(plan["train"].order.tolist()) == list(range(4000)) and int(plan["reversed"].size) == 4000
    drawn = np.bincount(labels[np.asarray(plan["reversed"].order)], minlength=3) / 4000
    wanted = np.array([1 / 30, 1 / 8, 1 / 2])
    np.testing.assert_allclose(drawn, wanted / wanted.sum(), atol=0.02)
    # Within a class all alike: of the 200 examples of the last one nearly all are drawn.
    assert len(set(np.asarray(plan["reversed"].order)[labels[np.asarray(plan["reversed"].order)] == 2])) > 190


def test_a_residual_network_has_two_last_blocks():
    """Parameters of ResNet-20 with one block a stage, by hand: a block of 64 channels and 640 weights more."""

    def made(branches: int) -> models.Variables:
        model = models.get_model("resnet20", 10, blocks=(1, 1, 1), branches=branches)
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    one, two = made(1), made(2)
    count = lambda variables: sum(leaf.size for leaf in jax.tree.leaves(variables.params))  # noqa: E731
    block = 9 * 32 * 64 + 9 * 64 * 64 + 4 * 64
    assert count(two) - count(one) == block + 640 and two.params["head"]["kernel"].shape == (128, 10)
    assert {"stage3_block1_1", "stage3_block1_2"} <= set(two.params) and "stage3_block1" in one.params


def test_each_branch_has_batch_statistics_of_its_own():
    """Of two streams of which the second is far from the first; the trunk has seen both."""
    task = make_task(
        model=models.get_model("resnet20", CLASSES, blocks=(1, 1, 1), branches=2),
        example=jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32),
    )
    method = methods.get("bbn")(task)
    state = method.init(jax.random.key(0), np.arange(N) % CLASSES)
    rng, (work,) = np.random.default_rng(0), method.stages[0].passes[0]
    ours, theirs = (
        base.Batch(
            jnp.asarray(scale * rng.normal(size=(ROWS, 8, 8, 3)), jnp.float32),
            jnp.arange(ROWS) % CLASSES, jnp.arange(ROWS), jnp.ones(ROWS),
        )
        for scale in (1, 20)
    )  # fmt: skip

    def stats(first: base.Batch, second: base.Batch) -> Any:
        batches = {"train": first, "reversed": second}
        return apply(state, batches, clock_at(method, task, 0), jax.random.key(3))[0].learner.stats

    apply = jit(work.apply)
    mixed, all_ours, all_theirs = stats(ours, theirs), stats(ours, ours), stats(theirs, theirs)
    chex.assert_trees_all_close(mixed["stage3_block1_1"], all_ours["stage3_block1_1"], rtol=1e-5)
    chex.assert_trees_all_close(mixed["stage3_block1_2"], all_theirs["stage3_block1_2"], rtol=1e-5)
    trunk = mixed["stem_norm"]["var"]
    assert (trunk > 1.5 * all_ours["stem_norm"]["var"]).all()
    assert (trunk < all_theirs["stem_norm"]["var"]).all()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"exponent": 0.0}, "exponent=0.0"),
        ({"model": models.get_model("linear", CLASSES)}, {}, "model='linear' has no linear classifier `head`"),
        ({"model": models.get_model("mlp", CLASSES, head="cosine")}, {}, "method='bbn' needs"),
    ],
)
def test_refusals(changes, options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("bbn")(make_task(**changes), **options)
