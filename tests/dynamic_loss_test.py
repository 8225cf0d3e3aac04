"""Dynamic Loss: its parts by themselves, and the paper's claims on a toy where they can be checked."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.settings import config
from robustjax import backend, meta_nets, methods, models, selection, targets
from robustjax.methods import Task, base, dynamic_loss
from robustjax.training import engine, parallel
from tests import toys

# --- Parts -----------------------------------------------------------------------------------------------------------


def test_starts_by_trusting_the_given_labels():
    corrector = meta_nets.init_corrector(jax.random.key(0), 10, 100)
    margin = meta_nets.init_margin(jax.random.key(1), 10)
    np.testing.assert_allclose(meta_nets.weight_table(corrector, 10), jax.nn.sigmoid(3.98), atol=0.02)
    np.testing.assert_allclose(meta_nets.margin_vector(margin), 1, atol=0.5)


def test_rank_bins():
    np.testing.assert_array_equal(selection.rank_bins(np.array([6, 3]), 3), [0, 0, 1, 1, 2, 2, 0, 1, 2])
    # The code's bins: one more in the denominator, in float64 from left to right; 29/50·100 falls short of 58.
    assert selection.rank_bins(np.array([49]), 100, "code")[29] == 57
    assert selection.rank_bins(np.array([4, 0]), 4, "code").tolist() == [0, 0, 1, 2]


# Of few sizes: each is compiled anew.
labelled = st.sampled_from([(2, 2), (3, 20), (5, 60)]).flatmap(
    lambda size: st.lists(st.integers(0, size[0] - 1), min_size=size[1], max_size=size[1]).map(
        lambda extra: (size[0], [*range(size[0]), *extra])
    )
)


@settings(max_examples=25, deadline=None)
@given(labelled, st.integers(1, 12), st.integers(0, 99))
def test_ranks_follow_the_loss_within_each_class(drawn, num_bins, seed):
    num_classes, labels = drawn
    labels, rng = np.array(labels), np.random.default_rng(seed)
    values = rng.permutation(len(labels)).astype(np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    ranks = np.asarray(
        selection.loss_ranks(jnp.asarray(values), jnp.asarray(labels), selection.rank_bins(counts, num_bins))
    )
    assert ranks.min() >= 0 and ranks.max() < num_bins
    for c in range(num_classes):
        mine = ranks[labels == c][np.argsort(values[labels == c])]
        assert (np.diff(mine) >= 0).all()
        sizes = np.bincount(mine, minlength=num_bins)
        assert sizes.max() - sizes.min() <= 1  # equal bins


@settings(max_examples=25, deadline=None)
@given(labelled, st.integers(0, 99))
def test_hierarchical_sampling(drawn, seed):
    num_classes, labels = drawn
    labels = jnp.asarray(labels)
    values = jax.random.uniform(jax.random.key(seed), labels.shape)
    smallest = int(jnp.bincount(labels).min())
    primary_size, meta_size = selection.sampling_sizes(smallest, 0.5, 0.25)
    primary = np.asarray(selection.sample_primary(jax.random.key(seed + 1), labels, primary_size, num_classes))
    chosen = np.asarray(selection.select_meta(values, labels, jnp.asarray(primary), meta_size, num_classes))
    assert (np.bincount(labels[primary], minlength=num_classes) == primary_size).all()
    assert (np.bincount(labels[chosen], minlength=num_classes) == meta_size).all()
    assert not (chosen & ~primary).any()
    for c in range(num_classes):
        rest = primary & ~chosen & (np.asarray(labels) == c)
        mine = chosen & (np.asarray(labels) == c)
        assert not rest.any() or values[mine].max() <= values[rest].min()


def test_tiny_classes_still_give_a_meta_set():
    assert selection.sampling_sizes(1, 0.5, 0.25) == selection.sampling_sizes(3, 0.5, 0.25) == (1, 1)


def test_pseudo_labels():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]] * 4000))
    np.testing.assert_allclose(
        targets.pseudo_labels(jax.random.key(0), logits, "sample").mean(0), [0.7, 0.2, 0.1], atol=0.03
    )
    np.testing.assert_array_equal(targets.pseudo_labels(jax.random.key(0), logits, "hard")[0], [1, 0, 0])
    np.testing.assert_allclose(targets.pseudo_labels(jax.random.key(0), logits, "soft")[0], [0.7, 0.2, 0.1], rtol=1e-5)
    gradient = jax.grad(lambda z: targets.pseudo_labels(jax.random.key(0), z, "soft")[:, 0].sum())(logits)
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 3}, "views=3"),
        ({"meta_net": "cnn"}, "meta_net='cnn'"),
        ({"sampling": "best"}, "sampling='best'"),
        ({"pseudo_label": "best"}, "pseudo_label='best'"),
        ({"num_bins": 0}, "num_bins=0"),
        ({"meta_ratio": 0.6}, "meta_ratio"),
        ({"warmup_epochs": 3}, "warmup_epochs=3"),
        ({"corrector": "none", "margin": "none", "warmup_epochs": 1}, "nothing to learn"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        methods.get("dynamic_loss")(toys.task(epochs=3), **options)


def meta_params(name, **options):
    """The shapes that a method's meta net begins with on the toys."""
    method = toys.method(name, toys.task(), **options)
    return jax.tree.map(np.shape, method.init(KEY, toys.given_labels(0)).meta_params)


KEY = jax.random.key(0)


def test_the_meta_nets_of_the_paper_and_its_ablations():
    layers = lambda *s: [{"kernel": k, "bias": k[1:]} for k in itertools.pairwise(s)]  # noqa: E731
    found = meta_params("dynamic_loss", meta_net="paper")
    assert found == {"corrector": {"layers": layers(5, 8, toys.C)}, "margin": {"layers": layers(toys.C, 8, toys.C)}}
    found = meta_params("dynamic_loss")
    assert found["corrector"] == {"embedding": (5, 8), "layers": layers(8, 8, 8, toys.C)}
    # An R-vector and a C-vector in place of the two nets.
    found = meta_params("dynamic_loss_vector_meta_net")
    assert found == {"corrector": {"table": (5, 1)}, "margin": {"table": (1, toys.C)}}
    assert meta_params("dynamic_loss", corrector="table")["corrector"] == {"table": (5, toys.C)}
    assert meta_params("dynamic_loss_no_noise")["corrector"] == {}


def test_a_random_meta_set_is_balanced_and_whatever_the_losses():
    method = toys.method("dynamic_loss_no_noise", toys.task())
    labels = jnp.asarray(toys.given_labels(0))
    state = method.init(KEY, np.asarray(labels))
    wrong = jnp.where(jnp.arange(toys.N) % 2 == 0, labels, (labels + 1) % toys.C)  # every other loss is large
    survey = base.Survey(9.0 * jax.nn.one_hot(wrong, toys.C), labels, labels)
    plan = jax.jit(lambda key: method.stages[-1].plan(state, survey, None, key)[1])
    size = int(0.25 * np.bincount(labels).min())
    chosen = []
    for seed in range(4):
        drawn = {name: np.asarray(each.order[: each.size]) for name, each in plan(jax.random.key(seed)).items()}
        assert np.bincount(labels[drawn["meta"]]).tolist() == [size] * toys.C
        assert sorted([*drawn["meta"], *drawn["train"]]) == list(range(toys.N))
        chosen += drawn["meta"].tolist()
    assert 0.3 < np.mean(np.array(chosen) % 2) < 0.7 and len(set(chosen)) > len(chosen) / 2


def test_a_corrector_that_has_not_moved_is_told():
    method = toys.method("dynamic_loss", toys.task(), corrector_bias=3.0, corrector_warmup_steps=9)
    state = method.init(KEY, toys.given_labels(0))
    table = np.array(meta_nets.weight_table(state.meta_params["corrector"], toys.C))
    state = method.stages[-1].enter(state, None, KEY)
    np.testing.assert_array_equal(state.start, table)
    (text,) = method.warnings(state)
    for flag in ("--corrector-warmup-steps=0", "--meta-learning-rate", "--corrector-bias than 3", "--epochs"):
        assert flag in text
    table[1, 2] -= 0.06
    assert method.warnings(state._replace(start=table)) == ()
    nothing = toys.method("dynamic_loss_no_corrector", toys.task())
    assert nothing.warnings(nothing.init(KEY, toys.given_labels(0))) == ()


@pytest.mark.parametrize(
    ("examples", "epochs", "every", "rate"),
    [(1000, 60, 1, 0.003 * 1300 / 440), (500, 60, 1, 0.01), (3163, 60, 1, 0.003), (10**6, 5, 1, 0.003),
     (3163, 60, 2, 0.003 * 2600 / 1375)],
)  # fmt: skip
def test_short_runs_have_a_larger_meta_rate(examples, epochs, every, rate):
    task = toys.task(epochs, batch_size=128, num_examples=examples)
    assert dynamic_loss.default_meta_rate(task, epochs // 12, every) == pytest.approx(rate)


def test_the_corrector_has_no_warm_up_of_its_own_but_where_the_code_s_numbers_are_from():
    for dataset, steps in (("digits", 0), ("npz:own.npz", 0), ("mnist", 0), ("cifar10", 2000), ("cifar100", 2000)):
        settings, sources = config.resolve({"method": "dynamic_loss", "dataset": dataset})
        assert settings.options["corrector_warmup_steps"] == steps, dataset
        assert any("2,000" in source and "code" in source for source in sources) == (steps > 0)


VARIANTS = [
    *(pytest.param(name, marks=pytest.mark.exhaustive) for name in methods.names() if name.startswith("dynamic_loss_")),
    *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("meta_net=paper", "corrector=table")),
    *("views=1", "pseudo_label=soft", "rank_form=code"),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant):
    key, _, value = variant.partition("=")
    options = {key: int(value) if value.isdigit() else value} if value else {}
    epochs = toys.train("dynamic_loss" if value else variant, toys.task(epochs=4), **options)
    start, end = epochs[0].state[0].meta_params, epochs[-1].state[0].meta_params
    moved = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True)]
    assert all(moved)  # every part of the meta net that there is, learns
    # Each by an Adam of its own: the corrector's warm-up steps, two in the one epoch before, are none of the margins'.
    early, late = (epochs[k].state[0].meta_opt_state for k in (0, -1))
    assert early["margin"][0].count == 0 and late["margin"][0].count > 0
    if start["corrector"] and start["margin"]:
        assert early["corrector"][0].count == 2 == late["corrector"][0].count - late["margin"][0].count
        chex.assert_trees_all_equal(epochs[0].state[0].meta_params["margin"], start["margin"])
    assert np.isfinite(epochs[-1].metrics[0]["meta_loss"])
    assert np.mean(epochs[-1].test_logits[0].argmax(-1) == toys.test_labels()) > 0.6


# --- The paper's claims on six Gaussians, with a linear softmax and tables for meta nets ------------------------------


def gaussians(labels, separation, seed):
    rng = np.random.default_rng(seed)
    return (separation * np.eye(6, 20)[labels] + rng.normal(size=(len(labels), 20))).astype(np.float32)


def fit(name, inputs, labels, separation, epochs=60, **options):
    """Train a linear softmax; the last epoch, and accuracy on 1000 clean test points a class."""
    tests = np.repeat(np.arange(6), 1000)
    task = Task(
        num_examples=len(labels), num_classes=6, epochs=epochs, batch_size=128,
        model=models.get_model("mlp", 6, widths=()),
        optimizer=lambda r: optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(r, momentum=0.9)),
        schedule=lambda t: 0.05 * (1 + jnp.cos(jnp.pi * jnp.floor(t) / epochs)),
        weak=lambda key, x: x, strong=lambda key, x: x, plain=lambda x: x,
        example=jax.ShapeDtypeStruct((1, 20), np.float32),
    )  # fmt: skip
    method = methods.get(name)(task, **options)
    mine = engine.Own(jax.random.key(0), jnp.arange(len(labels), dtype=jnp.int32), jnp.asarray(labels, jnp.int32))
    resident = engine.Resident(inputs, gaussians(tests, separation, 9))
    layout = parallel.make_layout("single", batch_size=128, devices=jax.devices()[:1])
    *_, last = engine.train(method, task, layout, resident, [mine], track_every=0)
    return last, np.mean(last.test_logits[0].argmax(-1) == tests)


TABLES = {
    "num_bins": 20, "warmup_epochs": 5, "corrector": "table", "margin": "vector", "meta_learning_rate": 3e-2,
}  # fmt: skip


@pytest.fixture
def compiled_loops(monkeypatch):
    """No convolutions here: a compiled loop is the faster one on CPU too."""
    monkeypatch.setattr(backend, "loops_on_device", lambda: True)


def test_margins_learn_the_class_sizes(compiled_loops):
    """Clean, long-tailed (ratio 10): q orders the classes by size and does what balanced softmax does."""
    counts = (1500 * 10.0 ** (-np.arange(6) / 5)).astype(int)
    labels = np.repeat(np.arange(6), counts)
    inputs = gaussians(labels, 2.0, 1)
    run = functools.partial(fit, inputs=inputs, labels=labels, separation=2.0)
    last, learned = run("dynamic_loss", **TABLES | {"corrector": "none"})
    q = last.findings[0]["margin"].values
    assert (np.diff(q) < 0).all() and np.corrcoef(q, np.log(counts))[0, 1] > 0.97
    plain, balanced = run("cross_entropy")[1], run("balanced_softmax")[1]
    assert learned > plain + 0.02 and learned > balanced - 0.03


def asymmetric():
    """1000 points a class with 40 % asymmetric noise 0→1, 2↔3: inputs, given labels, true ones."""
    clean = np.repeat(np.arange(6), 1000)
    moved = np.random.default_rng(2).random(len(clean)) < 0.4
    return gaussians(clean, 4.0, 3), np.where(moved, np.array([1, 1, 3, 2, 4, 5])[clean], clean), clean


@pytest.mark.exhaustive
def test_the_default_corrector_learns_and_one_that_was_warmed_up_is_stuck(compiled_loops):
    """The nets themselves, from the options' defaults; the warm-up is the code's, all of its 235 steps here."""
    inputs, labels, _ = asymmetric()
    found = {}
    for steps in (None, 2000):
        more = {} if steps is None else {"corrector_warmup_steps": steps}
        last, accuracy = fit("dynamic_loss", inputs, labels, 4.0, num_bins=20, **more)
        table = meta_nets.weight_table(last.state.meta_params["corrector"], 6)
        found[steps] = (accuracy, float(table.min()), float(np.abs(table - last.state.start).max()))
    assert found[None][0] > 0.96 and found[None][1] < 0.01 and found[None][2] > 0.9
    assert found[2000][0] < 0.85 and found[2000][1] > 0.999 and found[2000][2] < dynamic_loss.STILL


def test_label_weights_step_down_at_the_share_of_right_labels(compiled_loops):
    """Labelled class 1 is 71 % right, 2 and 3 60 %, the others all."""
    inputs, labels, clean = asymmetric()
    last, learned = fit("dynamic_loss", inputs, labels, 4.0, **TABLES)
    weights = last.findings[0]["weight_table"].values
    # Class 1 took labels and gave none, so the classifier leans towards it: the step comes up to two bins late.
    for c, tolerance in ((1, 0.1), (2, 0.05), (3, 0.05)):
        right = np.mean(clean[labels == c] == c)
        step = np.argmax(weights[c] < 0.5) / 20
        assert abs(step - right) <= tolerance, f"class {c}: step at {step}, {right:.3f} of its labels are right"
    assert (weights[0] > 0.5).all() and (weights[4:, :19] > 0.5).all()
    corrected = last.findings[0]["correction"].values.argmax(-1)
    assert np.mean(labels == clean) < 0.82 and np.mean(corrected == clean) > 0.95
    assert learned > fit("cross_entropy", inputs, labels, 4.0)[1] + 0.02


def test_both_parts_beat_neither(compiled_loops):
    """Long tail of ratio 10 with frequency-proportional noise 0.4."""
    rng = np.random.default_rng(4)
    counts = (1500 * 10.0 ** (-np.arange(6) / 5)).astype(int)
    clean = np.repeat(np.arange(6), counts)
    labels = np.where(rng.random(len(clean)) < 0.4, rng.choice(clean, len(clean)), clean)
    inputs = gaussians(clean, 3.0, 5)
    last, learned = fit("dynamic_loss", inputs, labels, 3.0, **TABLES)
    plain = fit("cross_entropy", inputs, labels, 3.0)[1]
    corrected = last.findings[0]["correction"].values.argmax(-1)
    assert learned > plain + 0.08
    assert np.mean(corrected == clean) > np.mean(labels == clean) + 0.15
