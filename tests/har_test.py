"""HAR: hidden gradients against finite differences, the three forms, the two stages, groups, refusals."""

import functools
import itertools
import json
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run
from experiments.runs import restore
from experiments.settings import config
from robustjax import backend, losses, margins, methods, models, taps
from robustjax.methods import base, har
from robustjax.training import checkpoints, engine, parallel
from tests import toys
from tests.erm_test import clock_at

# Compiling costs more than running here: spend less on it.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, C = 5, 3


def network(dtype=jnp.float32, **options):
    """A perceptron with two tapped layers: model, variables, inputs [B, 4] and labels."""
    model = models.get_model("mlp", C, widths=(6, 4), normalize=True, dtype=dtype, **options)
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(B, 4)), jnp.result_type(float))
    return model, jit(model.init)(jax.random.key(0), inputs), inputs, jnp.asarray(rng.integers(0, C, B))


class Found(NamedTuple):
    """What HAR's attempt holds, by name; hidden gradients by layer."""

    total: jax.Array
    loss: jax.Array
    jacobian: jax.Array
    gradients: dict[str, jax.Array]
    logits: jax.Array
    stats: Any


def objective(model, variables, inputs, labels, params=None, form="sum", strength=1.0, mask=None, **options):
    def forward(zeros):
        chosen = variables.params if params is None else params
        return model.apply(chosen, variables.stats, inputs, train=True, taps=zeros)

    shapes = model.tap_shapes(*variables, inputs)
    mask = jnp.ones(B) if mask is None else mask
    made = har.attempt(forward, shapes, labels, jnp.full(B, strength), mask, form=form, **options)
    fit, pull = made.terms["unregularized_loss"], made.terms["regularizer"]
    return Found(base.total(made.terms), base.mean(fit), pull.values, made.aux, made.logits, made.stats)


def computed(*setting, **options):
    """`objective`, as one program."""
    return jit(lambda: objective(*setting, **options))()


def test_hidden_gradients_are_finite_differences_and_so_are_theirs():
    with backend.enable_x64(True):
        model, variables, inputs, labels = network(jnp.float64)
        found = computed(model, variables, inputs, labels)
        direction = {name: np.random.default_rng(1).normal(size=g.shape) for name, g in found.gradients.items()}

        @jit
        def moved(step):
            at = jax.tree.map(lambda d: step * d, direction)
            logits, _ = model.apply(*variables, inputs, train=True, taps=at)
            return losses.cross_entropy(logits, labels).mean()

        slope = sum(np.sum(direction[name] * g) for name, g in found.gradients.items())
        np.testing.assert_allclose((moved(1e-6) - moved(-1e-6)) / 2e-6, slope, rtol=1e-6)

        def value(params, form):
            return objective(model, variables, inputs, labels, params, form, strength=0.7).total

        for form in har.FORMS:
            total = jit(lambda p, form=form: value(p, form))
            gradient = jit(jax.grad(lambda p, form=form: value(p, form)))(variables.params)
            way = jax.tree.map(lambda p: np.random.default_rng(2).normal(size=p.shape), variables.params)
            ahead, behind = (
                total(jax.tree.map(lambda p, d, step=step: p + step * d, variables.params, way))
                for step in (1e-6, -1e-6)
            )
            slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient, way)))
            np.testing.assert_allclose((ahead - behind) / 2e-6, slope, rtol=1e-5)


def test_the_forms_differ_by_the_batch_size_and_the_norm():
    setting = network()
    total, paper, code = (computed(*setting, form=form) for form in har.FORMS)
    norms = np.stack([np.linalg.norm(np.asarray(g).reshape(B, -1), axis=1) for g in code.gradients.values()], 1)
    np.testing.assert_allclose(code.jacobian, norms.sum(1), rtol=1e-5)
    np.testing.assert_allclose(total.jacobian, B * norms.sum(1), rtol=1e-5)
    np.testing.assert_allclose(paper.jacobian, B * np.linalg.norm(norms, axis=1), rtol=1e-5)
    for found in (total, paper, code):
        np.testing.assert_allclose(found.total, found.loss + np.mean(found.jacobian), rtol=1e-6)
    half = computed(*setting, mask=jnp.array([1.0, 1, 1, 0, 0]))
    np.testing.assert_allclose(half.total, half.loss + np.mean(half.jacobian[:3]), rtol=1e-6)


def test_the_papers_strength_stands_beside_the_sum():
    """Its 0.1 is of appendix B's sum: λ Σ_j ‖∂ℓ_i/∂h_j‖ is what an example adds, at 0.1 of the sum or B times it of the
    code's form; that of eq. 6's root is larger, as the root is smaller.
    """
    assert har.STRENGTHS["sum"] == 0.1 < har.STRENGTHS["paper"] < 0.1 * 30**0.5
    setting = network()
    implied, code = computed(*setting, strength=0.1), computed(*setting, form="code", strength=0.1 * B)
    norms = np.stack([np.linalg.norm(np.asarray(g).reshape(B, -1), axis=1) for g in code.gradients.values()], 1)
    np.testing.assert_allclose(implied.total, implied.loss + 0.1 * np.mean(B * norms.sum(1)), rtol=1e-6)
    np.testing.assert_allclose(implied.total, code.total, rtol=1e-6)
    for name, dataset in itertools.product(("har", "har_drw", "unif_reg"), ("digits", "mnist", "cifar10", "cifar100")):
        assert config.resolve({"method": name, "dataset": dataset})[0].options["form"] == "sum"


def test_class_weights_are_part_of_what_is_differentiated():
    setting = network()
    weights = jnp.array([1.0, 2, 0, 1, 4])
    found = computed(*setting, weights=weights, form="code")
    per_example = losses.cross_entropy(found.logits, setting[-1])
    np.testing.assert_allclose(found.loss, np.average(per_example, weights=weights), rtol=1e-6)
    np.testing.assert_allclose(computed(*setting, weights=7 * weights, form="code").jacobian, found.jacobian, rtol=1e-5)
    assert not np.allclose(computed(*setting, form="code").jacobian, found.jacobian, rtol=0.1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("form", har.FORMS)
def test_no_nan_where_the_gradient_vanishes(dtype, form):
    model, variables, inputs, labels = network(dtype)
    head = variables.params["head"]
    for scale in (0.0, 1.0, 1e4):  # no gradient at the hidden layers; an ordinary one; a softmax of exactly 0 and 1
        params = variables.params | {"head": {**head, "kernel": scale * head["kernel"]}}
        total = jit(jax.value_and_grad(lambda p: objective(model, variables, inputs, labels, p, form).total))
        value, gradient = total(params)
        assert all(np.isfinite(leaf).all() and leaf.dtype == np.float32 for leaf in jax.tree.leaves((value, gradient)))


def test_layers_are_chosen_by_globs():
    layers = ("stage1_block1/norm1", "stage1_block1/norm2", "stage2_block1/norm1", "hidden_norm")
    assert taps.choose(layers) == tuple(sorted(layers))
    assert taps.choose(layers, "stage1_*|hidden*") == ("hidden_norm", *layers[:2])
    assert taps.choose(layers, "*/norm2") == layers[1:2]
    with pytest.raises(ValueError, match=r"'stage3_\*' names none of hidden_norm"):
        taps.choose(layers, "stage1_*|stage3_*")


def test_held_out_errors_by_group():
    wrong = jnp.array([True, False, True, True, False, True])
    held_out = jnp.array([True, True, True, False, True, False])
    groups = jnp.array([0, 0, 1, 1, 1, 2])
    # Group 2 has no held-out example and gets the error of all of them; group 3 has no example at all.
    np.testing.assert_allclose(har.held_out_errors(wrong, held_out, groups, 4), [0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(har.held_out_errors(~wrong, held_out, groups, 3)[:2], [0.5, 0.5])
    np.testing.assert_array_equal(har.held_out_errors(~held_out, held_out, groups, 3), 0)
    assert int(har.halves(jax.random.key(0), 7).sum()) == 3


PRETRAIN, EPOCHS = 2, 2


def begun(method, task, state, epoch, labels, logits, key):
    """State and plan as the engine has them when the first epoch of a stage begins."""
    number, start = method.stage_at(epoch)
    stage, survey = method.stages[number], base.Survey(None, labels, labels)
    assert epoch == start
    if stage.enter is not None:
        state = stage.enter(state, survey._replace(seen=logits) if stage.when != "never" else survey, key)
    return stage.plan(state, survey, clock_at(method, task, epoch), key)


@functools.cache
def toy():
    return toys.task(epochs=EPOCHS, normalize=True)


@functools.cache
def whole_run():
    return toys.train("har", toy(), pretrain_epochs=PRETRAIN)


def test_the_pipeline():
    epochs, labels = whole_run(), toys.given_labels(0)
    assert [e.stage for e in epochs] == [0] * PRETRAIN + [1] * EPOCHS
    assert [e.preliminary for e in epochs] == [True] * PRETRAIN + [False] * EPOCHS
    assert "regularizer" not in epochs[PRETRAIN - 1].metrics[0] and epochs[PRETRAIN].metrics[0]["regularizer"] > 0
    # Each stage has a schedule of its own.
    rates = [e.metrics[0]["learning_rate"] for e in epochs]
    np.testing.assert_allclose(rates[:PRETRAIN], rates[PRETRAIN:])
    # The strengths, again by hand from the survey that ended stage 1.
    state = epochs[-1].state[0]
    held = base.recall_all(state.held_out, toys.N)
    wrong = epochs[PRETRAIN - 1].train_logits[0].argmax(-1) != labels
    errors = np.array([wrong[held & (labels == c)].mean() for c in range(toys.C)])
    expected = errors**0.6 / np.bincount(labels) ** 0.4
    expected *= 0.1 / expected.max()
    assert held.sum() == toys.N // 2 and 0 < errors.mean() < 1
    np.testing.assert_allclose(state.estimate.errors, errors, rtol=1e-5)
    np.testing.assert_allclose(state.estimate.strengths, expected, rtol=1e-5)
    np.testing.assert_allclose(base.recall_all(state.strengths, toys.N), expected[labels], rtol=1e-5)
    assert epochs[-1].metrics[0]["regularizer_strength"] == pytest.approx(expected[labels].mean(), rel=1e-5)
    assert np.isnan(epochs[0].findings[0]["group_count"].values).all()  # not known yet
    np.testing.assert_array_equal(epochs[-1].findings[0]["group_count"].values, np.bincount(labels))
    np.testing.assert_allclose(epochs[-1].findings[0]["group_error"].values, errors, rtol=1e-5)
    np.testing.assert_allclose(epochs[-1].findings[0]["group_strength"].values, expected, rtol=1e-5)


def test_stage_one_sees_one_half_and_the_second_network_is_new():
    task = toy()
    method = toys.method("har", task, pretrain_epochs=PRETRAIN)
    labels = jnp.asarray(toys.given_labels(0))
    state = method.init(jax.random.key(0), np.asarray(labels))
    learner = state.learner._replace(opt_state=jax.tree.map(lambda leaf: leaf + 1, state.learner.opt_state))
    state = state._replace(learner=learner)

    def begin(epoch, seed, logits=None):
        return begun(method, task, state, epoch, labels, logits, jax.random.key(seed))

    kept, plan = begin(0, 1)
    drawn = plan["train"].order[: plan["train"].size]
    assert set(drawn.tolist()) == set(np.flatnonzero(~base.recall_all(state.held_out, toys.N)).tolist())
    chex.assert_trees_all_equal(kept.learner, state.learner)
    logits = jnp.zeros((toys.N, toys.C))
    (first, plan), (second, _) = begin(PRETRAIN, 1, logits), begin(PRETRAIN, 2, logits)
    assert plan["train"].size == toys.N
    assert not np.any(jax.tree.leaves(first.learner.opt_state)[0])
    kernels = [each.learner.params["linear1"]["kernel"] for each in (state, first, second)]
    assert not np.allclose(kernels[0], kernels[1]) and not np.allclose(kernels[1], kernels[2])


@pytest.mark.parametrize("done", [1, PRETRAIN], ids=["inside stage 1", "between the stages"])
def test_resuming_is_bit_for_bit_the_same(done, tmp_path):
    task, whole = toy(), whole_run()
    method = toys.method("har", task, pretrain_epochs=PRETRAIN)
    layout = parallel.make_layout("single", batch_size=task.batch_size, devices=jax.devices()[:1])
    checkpoints.save(tmp_path, done, whole[done - 1].state, {})
    saved, _, _ = checkpoints.restore(tmp_path, whole[done - 1].state)
    epochs = engine.train(
        method, task, layout, toys.resident(), [toys.own(0)], start_epoch=done,
        state=parallel.place_seeds(layout, saved),
    )  # fmt: skip
    rest = [epoch._replace(state=parallel.by_seed(layout, epoch.state)) for epoch in epochs]
    assert [epoch.epoch for epoch in rest] == list(range(done, PRETRAIN + EPOCHS))
    chex.assert_trees_all_equal(rest[-1].state, whole[-1].state)
    assert [epoch.metrics for epoch in rest] == [epoch.metrics for epoch in whole[done:]]


def strengths_of(method, epoch=0):
    labels = toys.given_labels(0)
    state = method.init(jax.random.key(0), labels)
    state, _ = begun(method, toy(), state, epoch, labels, None, jax.random.key(1))
    return base.recall_all(state.strengths, toys.N)


def test_one_strength_for_all_and_given_strengths_need_no_first_stage(tmp_path):
    uniform = toys.method("unif_reg", toy(), pretrain_epochs=0, strength=0.03)
    assert uniform.epochs == EPOCHS and all(stage.when == "never" for stage in uniform.stages)
    np.testing.assert_allclose(strengths_of(uniform), 0.03)
    np.testing.assert_allclose(strengths_of(toys.method("unif_reg", toy(), pretrain_epochs=0)), 0.1)
    np.testing.assert_allclose(strengths_of(toys.method("unif_reg", toy(), pretrain_epochs=0, form="code")), 10)
    labels, given = toys.given_labels(0), np.array([0.0, 0.2, 0.1])
    np.savez(tmp_path / "found.npz", group_strength=given)
    found = functools.partial(toys.method, "har", toy(), pretrain_epochs=0, strengths_file=str(tmp_path / "found.npz"))
    assert found().epochs == EPOCHS
    np.testing.assert_allclose(strengths_of(found()), given[labels], rtol=1e-6)
    np.testing.assert_allclose(strengths_of(found(strength=0.5)), 2.5 * given[labels], rtol=1e-6)
    np.testing.assert_allclose(
        strengths_of(found(weighting="inverse")), margins.inverse_strengths(given)[labels], rtol=1e-6
    )


def test_classes_are_reweighted_late():
    """HAR-DRW: from 2/3 of the final stage on, the loss is the class-weighted mean."""
    task = toys.task(epochs=3, normalize=True)
    method = toys.method("har_drw", task, balance=0.9, weighting="uniform", pretrain_epochs=0)
    labels = np.where(np.arange(toys.N) < 50, 0, np.arange(toys.N) % toys.C).astype(np.int32)
    images = toys.resident().train_inputs
    state = method.init(jax.random.key(0), labels)
    batch = base.Batch(images[40:56], labels[40:56], np.arange(40, 56, dtype=np.int32), np.ones(16, np.float32))
    ((step,),) = method.stages[0].passes
    step = jit(step.apply)
    losses_at = [
        float(step(state, {"train": batch}, clock_at(method, task, e), jax.random.key(0))[1]["unregularized_loss"][0])
        for e in (0, 1, 2)
    ]
    assert losses_at[0] == losses_at[1] != losses_at[2]


def test_a_class_that_no_label_names_takes_no_weight():
    """As after a correction; without care every weight is not a number, or 0, from the reweighting on."""
    task = toys.task(epochs=3, normalize=True)
    method = toys.method("har_drw", task, balance=0.9, weighting="uniform", pretrain_epochs=0)
    labels = (np.arange(toys.N) % (toys.C - 1)).astype(np.int32)
    state = method.init(jax.random.key(0), labels)
    batch = base.Batch(
        toys.resident().train_inputs[:16], labels[:16], np.arange(16, dtype=np.int32), np.ones(16, np.float32)
    )
    ((step,),) = method.stages[0].passes
    metrics = jit(step.apply)(state, {"train": batch}, clock_at(method, task, 2), jax.random.key(0))[1]
    assert metrics["unregularized_loss"][0] > 0 and metrics["regularizer"][0] > 0


def test_numbers_out_of_range_are_refused_from_python_too():
    for name, options, message in (
        ("har_drw", {"balance": 1.5}, r"balance=1.5 must be in \[0, 1\)"),
        ("dynamic_loss", {"meta_learning_rate": -0.003}, "meta_learning_rate=-0.003 must be positive"),
        ("dynamic_loss", {"corrector_warmup_steps": -5}, "corrector_warmup_steps=-5 must be at least 0"),
        ("mw_net", {"meta_weight_decay": float("nan")}, "meta_weight_decay=nan"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.get(name)(toys.task(normalize=True), **options)


def test_groups_of_examples(monkeypatch):
    """Two groups that are no classes: their strengths, their counts, and each example's own, from one survey."""
    seen = []
    survey = engine.Programs.survey
    monkeypatch.setattr(engine.Programs, "survey", lambda self, *args: seen.append(1) or survey(self, *args))
    task = toys.task(epochs=1, normalize=True)._replace(num_groups=3)
    groups = (np.arange(toys.N) < 20).astype(np.int32)  # group 2 is empty
    layout = parallel.make_layout("single", batch_size=task.batch_size, devices=jax.devices()[:1])
    own = toys.own(0)._replace(groups=jnp.asarray(groups))
    *_, last = engine.train(toys.method("har", task), task, layout, toys.resident(), [own], track_every=0)
    estimate = last.state.estimate
    np.testing.assert_array_equal(estimate.counts, [40, 20, 0])
    assert estimate.strengths[2] == 0 and np.max(estimate.strengths) == pytest.approx(0.1)
    strengths = base.recall_all(last.state.strengths, toys.N)
    np.testing.assert_array_equal(strengths, np.asarray(estimate.strengths)[groups])
    assert (
        len(seen) == 2 and last.findings[0]["group_count"].values[1] == 20
    )  # where the stages meet, and for the record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "papers"}, "form='papers' is none of sum, paper, code"),
        ({"weighting": "best"}, "weighting='best'"),
        ({"strength": 0.0}, "strength=0.0"),
        ({"pretrain_epochs": -1}, "pretrain_epochs=-1"),
        ({"reweight_from": 2.0}, "reweight_from=2.0"),
        ({"layers": "stage9*"}, "'stage9.' names none of norm1, norm2"),
        ({"weighting": "uniform", "pretrain_epochs": 3}, "there is no stage 1"),
        ({"weighting": "uniform", "strengths_file": "a.npz"}, "contradict"),
        ({"strengths_file": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        methods.get("har")(toy(), **options)


def test_strengths_files_of_another_form_are_refused(tmp_path):
    for name, array, message in (
        ("short.npy", np.ones(2), "one strength a group"),
        ("negative.npy", np.array([1.0, -1, 0]), "at least 0"),
        ("nan.npy", np.array([1.0, np.nan, 0]), "finite"),
    ):
        np.save(tmp_path / name, array)
        with pytest.raises(ValueError, match=message):
            methods.get("har")(toy(), strengths_file=str(tmp_path / name))
    np.savez(tmp_path / "other.npz", margin=np.ones(3))
    with pytest.raises(ValueError, match="no group_strength, only margin"):
        methods.get("har")(toy(), strengths_file=str(tmp_path / "other.npz"))


def test_a_network_without_normalisation_is_refused_at_once():
    with pytest.raises(ValueError, match="model='mlp' has no normalisation layer"):
        methods.get("unif_reg")(toys.task())


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """60 toy images as a data set of one's own, and groupings of them, right and wrong."""
    folder = tmp_path_factory.mktemp("data")
    (x, y), (test_x, test_y) = toys.images(toys.N, 1), toys.images(toys.TEST, 2)
    np.savez(folder / "toys.npz", train_inputs=x, train_labels=y, test_inputs=test_x, test_labels=test_y)
    np.save(folder / "halves.npy", np.arange(toys.N) // 30)
    np.save(folder / "short.npy", np.arange(5))
    np.save(folder / "negative.npy", np.arange(toys.N) - 3)
    np.save(folder / "floats.npy", np.ones(toys.N))
    (folder / "mine.py").write_text(
        "def bright(images, labels):\n    return (images.mean((1, 2, 3)) > 128).astype(int)\n"
    )
    return folder


def flags(folder, out, *more):
    return [
        "--method=har", f"--dataset=npz:{folder}/toys.npz", "--noise=symmetric", "--noise-rate=0.4", "--epochs=1",
        "--batch-size=20", "--model=small_cnn", "--augmentation=none", "--parallel=single", "--quiet", f"--out={out}",
        *more,
    ]  # fmt: skip


def test_one_command_runs_both_stages(small_data, tmp_path):
    out = tmp_path / "run"
    assert run.main(flags(small_data, out, f"--groups={small_data}/mine.py:bright", "--pretrain-epochs=2")) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == [1, 1, 2]
    summary = json.loads((out / "summary.json").read_text())["seeds"][0]
    assert summary["epochs"] == 1 and summary["test_accuracy_best"] == records[-1]["test_accuracy"]
    assert len(summary["final"]["group_strength"]) == 2 and "group_strength" not in records[0]
    with np.load(out / "diagnostics" / "seed0-epoch0003.npz") as found:
        np.testing.assert_allclose(found["group_strength"], records[-1]["group_strength"])
    assert [file.name for file in (out / "diagnostics").iterdir()] == ["seed0-epoch0003.npz"]
    assert (out / "plots" / "groups.png").stat().st_size > 0
    assert restore.restore_run(out, trust_code=True).states[0].estimate.strengths.shape == (2,)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--groups={}/nowhere.npy"], "there is no such file"),
        (["--groups={}/short.npy"], "an int for each of 60 examples, got int64 (5,)"),
        (["--groups={}/negative.npy"], "numbered from 0, got -3"),
        (["--groups={}/floats.npy"], "an int for each"),
        (["--groups={}/mine.py:dark"], "no function 'dark'"),
        (["--groups={}/mine.txt"], "FILE.py:NAME of a function (images"),
        (["--groups={}/halves.npy", "--method=cross_entropy"], "--groups belongs to har"),
        (["--model=mlp"], "no normalisation layer"),
        (["--layers=stage7*"], "names none of"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(small_data, tmp_path, capsys, more, message):
    out = tmp_path / "run"
    assert run.main(flags(small_data, out, *(flag.format(small_data) for flag in more))) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_recipes_are_the_papers():
    for name in ("har", "unif_reg"):
        settings, _ = config.resolve({"method": name, "dataset": "cifar10"})
        assert (settings.model, settings.epochs, settings.batch_size) == ("resnet32", 120, 128)
        assert (settings.learning_rate, settings.momentum, settings.weight_decay) == (0.1, 0.9, 1e-4)
        assert (settings.schedule, settings.augmentation) == ("multistep:80,100:0.1", "crop-flip")
        assert (settings.noise, settings.noise_rate, settings.imbalance) == ("heteroskedastic", 0.4, "none")
        assert settings.initialization == "kaiming_normal"
    settings, _ = config.resolve({"method": "har_drw", "dataset": "cifar100"})
    assert (settings.noise, settings.imbalance) == ("none", "long_tailed")
    assert round(settings.options["reweight_from"] * settings.epochs) == 80
