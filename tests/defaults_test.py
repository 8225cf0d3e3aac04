"""What is chosen by the size of the data: that it fits any size, what is said, and the run that goes on with it."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

from experiments import run
from experiments.runs import directory
from experiments.settings import build, catalogue, config, defaults
from robustjax import data, methods, models
from robustjax.data import augment

COUNTS = (20, 300, 3_000, 30_000, 300_000, 1_000_000)
KINDS = {
    **{f"{side}px{channels}": ((side, side, channels), "uint8", None)
       for side, channels in ((3, 1), (8, 1), (28, 1), (32, 3), (64, 3), (224, 3))},
    "wide": ((4, 90, 3), "uint8", None), "floats": ((16, 16, 3), "float32", None), "vectors": ((768,), "float32", None),
    "series": ((50, 4), "float32", None), "texts": ((256,), "int32", 20_000),
}  # fmt: skip


def size(kind="28px1", count=3_000, classes=10):
    return defaults.Size(*KINDS[kind], count, classes)


def chosen(of, **given):
    return config.fill(config.resolve({"dataset": "npz:own.npz", **given})[0], of)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_chosen_fits_the_data_whatever_their_number(kind):
    for count in COUNTS:
        for method in ("dynamic_loss", "har", "elr_plus", "dividemix", "cmw_net", "co_teaching"):
            own = size(kind, count)
            settings, reasons = chosen(own, method=method)  # ranges and what goes together are checked there
            assert not settings.by_size and {"model", "epochs", "batch_size"} <= reasons.keys()
            assert settings.batch_size <= count / 8 and settings.batch_size & (settings.batch_size - 1) == 0
            assert 500 <= settings.epochs * count / settings.batch_size <= 200_000 or count < 300
            assert settings.options.get("warmup_epochs", 0) <= settings.epochs / 5
        assert ("flip" in settings.augmentation) is False
        assert models.reads_tokens(settings.model) == (kind == "texts")
    view = augment.make_view(settings.augmentation, (0.0,), (1.0,))
    shape = jax.ShapeDtypeStruct((2, *KINDS[kind][0]), KINDS[kind][1])
    assert jax.eval_shape(view, jax.random.key(0), shape).shape == shape.shape


@pytest.mark.parametrize(
    ("kind", "count"),
    [("8px1", 300), ("wide", 300), ("vectors", 300), ("series", 300), ("32px3", 30_000), ("224px3", 30_000)],
)
def test_the_network_takes_the_data_and_is_no_larger_than_they_warrant(kind, count):
    settings, _ = chosen(size(kind, count))
    model = catalogue.make_model(settings.model, 10, **config.model_options(settings))
    inputs = jax.ShapeDtypeStruct((2, *KINDS[kind][0]), np.float32)
    made = jax.eval_shape(model.init, jax.random.key(0), inputs)
    logits, _ = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=True), made.params, made.stats, inputs)
    assert logits.shape == (2, 10)
    assert sum(leaf.size for leaf in jax.tree.leaves(made.params)) < (5e5 if count < defaults.MANY else 2e7)


def test_what_is_said_stays_and_the_rest_fits_it():
    settings, reasons = chosen(size(), model="resnet32", batch_size=16, epochs=3, num_bins=7)
    assert (settings.model, settings.model_options, settings.batch_size, settings.epochs) == ("resnet32", None, 16, 3)
    assert settings.options["num_bins"] == 7 and settings.options["warmup_epochs"] == 1
    assert settings.learning_rate == pytest.approx(0.1 * 16 / 128)
    assert not reasons.keys() & {"model", "batch_size", "epochs", "num_bins"}
    assert chosen(size(), optimizer="adam")[0].learning_rate == 1e-3
    assert chosen(size(), epochs=1)[0].options["warmup_epochs"] == 0
    assert chosen(size("64px3"), model_options="stem=cifar")[0].model_options == "stem=cifar"
    assert chosen(size("224px3"), recipe="elr/clothing1m", method="elr")[0].learning_rate == 0.001
    assert chosen(size("224px3"), recipe="elr/clothing1m", method="elr")[0].model == "resnet20"
    with pytest.raises(ValueError, match="has no option 'stages'"):
        chosen(size("vectors"), model_options="stages=3")
    told = defaults.describe(reasons, size())
    assert told.startswith("by size (3000 images of 28×28×1, 10 classes): optimizer=sgd, learning_rate=0.0125")
    assert "augmentation=crop3 (an eighth; no flips" in told and "None" not in told


def test_elr_does_not_take_a_rare_class_for_noise():
    """λ = 3 keeps a rare class at its frequent neighbour (Lemma 2); where one is rare it is the paper's other pair."""
    labels, images = np.repeat(np.int32([0, 1, 3]), [30, 60, 10]), np.zeros((100, 28, 28, 1), np.uint8)  # none of 2
    dataset = data.Dataset("own", images, labels, images, labels, 4, tuple("abcd"), (0.0,), (1.0,))
    for method in ("elr", "elr_plus", "elr_plus_no_mixup"):
        asked = config.resolve({"dataset": "npz:own.npz", "method": method})[0]
        settings, reasons = config.fill(asked, build.size_of(asked, dataset))
        assert (settings.options["strength"], settings.options["beta"]) == (1.0, 0.9)
        assert "rare class" in reasons["strength"].reason
        balanced = chosen(size(), method=method)[0].options
        assert (balanced["strength"], balanced["beta"]) == (3.0, 0.7)
        said = config.resolve({"dataset": "npz:own.npz", "method": method, "strength": 3.0})[0]
        assert config.fill(said, build.size_of(said, dataset))[0].options["strength"] == 3.0
        words = chosen(size("texts"), method=method)[0].options
        assert (words["strength"], words["beta"]) == (0.3, 0.9)
    experiment = config.resolve({"dataset": "npz:own.npz", "imbalance": "long_tailed", "imbalance_ratio": 10.0})[0]
    assert build.size_of(experiment, dataset).imbalance == 10.0


def test_methods_that_correct_labels_fit_the_length_of_the_run():
    """PLC corrects after some 250 steps, and after half of the run where a class is rare; SELFIE restarts long runs."""
    rare = size()._replace(imbalance=10.0)
    assert [chosen(of, method="plc")[0].options["warmup_epochs"] for of in (size(), rare)] == [6, 15]
    assert chosen(rare, method="plc", epochs=1)[0].options["warmup_epochs"] == 0
    restarts = [chosen(size(), method="selfie", epochs=epochs)[0].options["restarts"] for epochs in (30, 150)]
    assert restarts == [0, 2]


def test_what_is_not_chosen_by_size_is_the_methods_own():
    own = {name: option.default for name, option in catalogue.options(catalogue.entry("dynamic_loss")).items()}
    settings, reasons = chosen(size())
    assert settings.options["meta_ratio"] == own["meta_ratio"] and reasons["meta_ratio"] == (own["meta_ratio"], "")
    assert chosen(size("texts"))[0].options["meta_ratio"] < 0.1 * own["meta_ratio"]
    assert chosen(size("texts", 300))[0].options["meta_ratio"] < 0.3 * own["meta_ratio"]
    assert chosen(size(), method="har", model="resnet20")[0].options["strength"] is None


def test_recipes_leave_nothing_to_size_and_own_data_do():
    for dataset in ("digits", "mnist", "cifar10", "cifar100", "imdb_reviews"):
        for entry in methods.entries():
            assert config.resolve({"method": entry.name, "dataset": dataset})[0].by_size == ()
    left, _ = config.resolve({"dataset": "npz:own.npz", "epochs": 60})
    assert "model" in left.by_size and "num_bins" in left.by_size and "epochs" not in left.by_size
    known = config.identity(left)
    assert not set(left.by_size) & {*known, *known["options"]} and known["epochs"] == 60
    assert config.resolve({"dataset": "npz:own.npz", "recipe": "digits"})[0].by_size == ()


def test_equal_commands_have_equal_paths_and_others_other_ones():
    def path(**given):
        return directory.default_path(config.resolve({"dataset": "npz:own.npz", **given})[0])

    assert path() == path() and path() != path(epochs=60) != path(epochs=61)
    assert path(num_bins=100) != path()
    assert len({path(), path(epochs=60), path(num_bins=100), path(method="elr"), path(noise="none")}) == 4


FLAGS = ["--dataset=npz:own.npz", "--method=cross_entropy", "--parallel=single", "--compilation-cache=off"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with vectors of very unequal scales and two classes, and a finished run on them of two epochs."""
    folder, before = tmp_path_factory.mktemp("defaults"), os.getcwd()
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    inputs = (rng.normal(size=(96, 5)) * [1e-4, 1e4, 1, 1, 0] + [0, 1e5, 0, 3, 7]).astype(np.float32)
    inputs[:, 0] += 5e-4 * labels
    os.chdir(folder)
    try:
        np.savez("own.npz", train_inputs=inputs[:64], train_labels=labels[:64], test_inputs=inputs[64:],
                 test_labels=labels[64:])  # fmt: skip
        assert run.main([*FLAGS, "--epochs=2", "--out=run"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return json.loads(pathlib.Path("run/config.json").read_text())


def test_a_run_holds_what_was_chosen_and_knows_itself(here, capsys, monkeypatch):
    assert here["settings"]["model"] == "mlp" and here["settings"]["epochs"] == 2
    assert here["settings"]["batch_size"] == 8 and "model" in here["by_size"] and "epochs" not in here["by_size"]
    assert directory.read_settings(pathlib.Path("run")).by_size == ()
    # Another version may choose otherwise: what was chosen is gone on with.
    monkeypatch.setitem(defaults._SETTINGS, "batch_size", lambda *_: defaults.Choice(4))
    again = [*FLAGS, "--epochs=2", "--out=run"]
    assert run.main(again) == 0 and "is complete already" in capsys.readouterr().out
    assert run.main([*again, "--batch-size=8"]) == 0  # the same, said
    assert run.main([*again, "--batch-size=16"]) == 2
    assert "holds a run with --batch-size=8, not 16" in capsys.readouterr().err
    assert run.main([*FLAGS, "--out=run"]) == 2  # it was told its epochs
    assert "holds a run with --epochs=2, not 60" in capsys.readouterr().err


def test_a_finished_run_is_known_when_its_data_are_gone(here, capsys):
    os.rename("own.npz", "gone.npz")
    try:
        assert run.main([*FLAGS, "--epochs=2", "--out=run"]) == 0
        assert run.main([*FLAGS, "--out=run"]) == 2
        assert "was told its epochs" in capsys.readouterr().err
    finally:
        os.rename("gone.npz", "own.npz")


def test_a_cut_run_goes_on_with_what_was_chosen(here, monkeypatch):
    os.rename("run/summary.json", "summary.json")
    try:
        monkeypatch.setitem(defaults._SETTINGS, "batch_size", lambda *_: defaults.Choice(4))
        assert run.main([*FLAGS, "--epochs=2", "--out=run", "--resume"]) == 0
        assert json.loads(pathlib.Path("run/config.json").read_text()) == here
        assert json.loads(pathlib.Path("run/summary.json").read_text())["settings"]["batch_size"] == 8
    finally:
        os.replace("summary.json", "run/summary.json")


def test_vectors_are_standardised_feature_by_feature(here):
    dataset = data.load("npz:own.npz")
    assert np.allclose(dataset.mean, dataset.train_inputs.mean(0, dtype=np.float64), rtol=1e-5)
    assert np.allclose(dataset.std[:4], dataset.train_inputs.std(0, dtype=np.float64)[:4], rtol=1e-5)
    assert dataset.std[4] == 1  # a feature that never changes
    last = json.loads(pathlib.Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["test_accuracy"] > 0.7  # the feature that tells the classes apart is the smallest


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize(
    "method", ["dynamic_loss", "elr", "elr_plus", "har", "ce_sr", "co_teaching", "dividemix", "gce"]
)
def test_methods_on_vectors(here, method, model, tmp_path):
    flags = [f"--method={method}", f"--model={model}", "--epochs=2", f"--out={tmp_path / 'run'}"]
    assert run.main([FLAGS[0], *FLAGS[2:], *flags, "--quiet"]) == 0


def test_another_network_does_not_inherit_the_recipes_model_options():
    assert config.resolve({"method": "bbn", "dataset": "cifar10"})[0].model_options == "branches=2"
    assert config.resolve({"method": "bbn", "dataset": "cifar10", "model": "vgg19_bn"})[0].model_options is None


@pytest.mark.parametrize(
    ("method", "dataset", "settings"),
    [
        ("co_teaching", "cifar10", {"schedule": "linear:80"}),
        ("co_teaching", "cifar100", {"schedule": "linear:100"}),
        ("co_teaching_plus", "cifar100", {"schedule": "linear:80"}),
        ("incv", "cifar10", {"weight_decay": 2e-4}),
        ("nct", "cifar100", {}),
    ],
)
def test_recipes_whose_authors_take_wrong_labels_of_other_classes(method, dataset, settings):
    found = config.resolve({"method": method, "dataset": dataset})[0]
    assert found.noise == "symmetric_exclusive"
    assert {name: getattr(found, name) for name in settings} == settings
