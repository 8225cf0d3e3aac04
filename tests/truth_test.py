"""Where nobody knows the truth, nothing claims to: one run on data of one's own, and all that it prints and leaves."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from experiments import run
from experiments.figures import runs
from experiments.pictures import plots
from experiments.runs import artefacts, measure, records, table, test_part
from experiments.settings import build, config
from robustjax import data
from robustjax.data import corruptions, labelling
from tests import toys

# What only somebody who knows the true labels can say.
CLAIMS = re.compile(
    r"auroc|memoriz|clean|coefficient|noisy_share|wrong_|_wrong|_right|wrong label|right label|labels that are right"
    r"|correction_accuracy|rightly|true label",
    re.IGNORECASE,
)
FLAGS = {"method": "elr", "model": "mlp", "epochs": 2, "batch_size": 20, "parallel": "single", "validation_split": 0.1,
         "compilation_cache": "off", "dataset": "npz:mine.npz"}  # fmt: skip


def dataset(*, true=False, held_out=False, wrong=0.3):
    """Toy images, a share of whose labels is wrong, as somebody's own data."""
    (train, labels), test = toys.images(toys.N, 1), toys.images(toys.TEST, 2)
    given = toys.given_labels(0, wrong)
    mine = data.from_arrays(train, given, *test, name="mine", true_labels=labels if true else None)
    return mine._replace(test_held_out=held_out)


def settings(**more):
    base = {"method": "cross_entropy", "dataset": "npz:mine.npz", "model": "mlp", "batch_size": 20}
    return config.resolve({**base, **more})[0]


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The directory of a run on data without true labels, the test part held out, and what it has printed."""
    path = tmp_path_factory.mktemp("truth") / "run"
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(run.data, "load", lambda name, *_, **__: dataset(held_out=True))
        patch.setenv("COLUMNS", "160")
        assert run.main([f"--out={path}", *(f"--{k.replace('_', '-')}={value}" for k, value in FLAGS.items())]) == 0
    return path, out.getvalue(), err.getvalue()


def test_nothing_that_is_printed_claims_the_truth(left):
    _, out, err = left
    told = "\n".join(line for line in out.splitlines() if "how many are wrong is not known" not in line)
    assert CLAIMS.findall(told) == [] and "picture" not in err
    assert "54 training examples, labels as given (how many are wrong is not known)" in out
    assert "target: labels that differ from those given" in out
    assert "predictions that differ from the given labels" in out


def test_no_record_picture_or_file_claims_the_truth(left):
    path, _, _ = left
    lines, summary = records.read_records(path / "metrics.jsonl"), json.loads((path / "summary.json").read_text())
    assert len(lines) == 2 and summary["truth"] is None
    names = {name for line in lines for name in line} | {name for each in summary["seeds"] for name in each["final"]}
    names |= {file.name for file in path.rglob("*")}
    assert [name for name in names if CLAIMS.search(name)] == []
    believed = {"target_changed", "disagreement"}
    assert believed <= lines[-1].keys() and all(0 <= lines[-1][name] <= 1 for name in believed)
    drawn = {file.stem.removesuffix("-dark") for file in (path / "plots").iterdir()}
    assert drawn == {"learning_curves", "confusion", "disagreement", "target_changed"}


def test_what_is_measured_on_a_held_out_part_says_so(left):
    path, out, _ = left
    summary = json.loads((path / "summary.json").read_text())
    assert summary["test_held_out"] is True and summary["seeds"][0]["best_chosen_on"] == "held-out labels"
    assert "tested on 20 held-out examples, their labels as given" in out
    assert "held-out accuracy" in out  # while it trains
    rows = [line for line in out.splitlines() if "accuracy on held-out labels as given" in line]
    assert len(rows) == 5 and "best (chosen on the held-out labels)" in out and "balanced accuracy on" in out
    assert not re.search("test (accuracy|set|error)", out)
    assert runs.test_title([path]) == "accuracy on held-out labels as given"
    again = io.StringIO()
    with contextlib.redirect_stdout(again):
        run.show(summary, path)
    assert "test accuracy" not in again.getvalue()


def test_a_restored_seed_knows_no_more(left):
    path, _, _ = left
    saved, _ = config.resolve(FLAGS)
    found = artefacts.read_labels(path, 0, saved, dataset())
    assert found.train.clean is None and found.validation.clean is None
    np.testing.assert_array_equal(found.train.given, dataset().train_labels[found.train.kept])
    judged = artefacts.read_labels(path, 0, saved, dataset(true=True))
    np.testing.assert_array_equal(judged.train.clean, dataset(true=True).true_labels[found.train.kept])


# --- Who knows the truth ----------------------------------------------------------------------------------------------


def test_true_labels_of_the_source_judge_and_are_not_trained_on():
    mine = dataset(true=True)
    made = build.corrupt(settings(validation_split=0.1), mine, 0)
    for part in (made.train, made.validation):
        np.testing.assert_array_equal(part.clean, mine.true_labels[part.kept])
        np.testing.assert_array_equal(part.given, mine.train_labels[part.kept])
    assert "% wrong labels; a class" in build.describe(mine, made) and build.truth_source(mine, made) == "the data"


def test_sizes_of_classes_have_names_where_there_are_few():
    counts, numbers = np.arange(3, 16), [str(c) for c in range(13)]
    assert build._class_sizes(counts[:3], ["cat", "7", "dog"]) == "cat 3, 7 4, dog 5"
    assert build._class_sizes(counts[::-1], [f"<{name}>" for name in numbers]) == "3 (<12>) to 15 (<0>)"
    assert build._class_sizes(counts[:3], numbers[:3]) == "3, 4, 5"
    assert build._class_sizes(np.arange(21), list(map(str, range(21)))).endswith("18, 19 …")


def test_noise_that_is_asked_for_makes_the_sources_labels_the_truth():
    mine = dataset()
    made = build.corrupt(settings(noise="symmetric", noise_rate=0.5), mine, 0)
    np.testing.assert_array_equal(made.train.clean, mine.train_labels)
    wrong = np.mean(made.train.given != made.train.clean)
    assert wrong > 0.1
    assert f"{100 * wrong:.1f} % wrong labels (the data's own labels count as true)" in build.describe(mine, made)
    both = build.corrupt(settings(noise="symmetric", noise_rate=0.5), dataset(true=True), 0)
    np.testing.assert_array_equal(both.train.clean, dataset(true=True).true_labels)  # who knows better is asked


@pytest.mark.parametrize("known", [False, True])
def test_labels_from_a_file_are_judged_by_the_truth_alone(tmp_path, known):
    mine = dataset(true=known)
    given = (mine.train_labels + 1) % toys.C
    np.save(tmp_path / "given.npy", given)
    corruptions.save_noise(tmp_path / "noise.npz", given[1:], np.arange(1, toys.N), clean_labels=mine.train_labels)
    for source, count in (({"labels": "given.npy"}, toys.N), ({"noise_file": "noise.npz"}, toys.N - 1)):
        made = build.corrupt(settings(**{k: str(tmp_path / v) for k, v in source.items()}), mine, 0).train
        np.testing.assert_array_equal(made.given, given[toys.N - count :])
        if known:
            np.testing.assert_array_equal(made.clean, mine.true_labels[toys.N - count :])
        else:
            assert made.clean is None


def test_trusted_examples_need_a_truth():
    asked = settings(trusted_examples=6)
    with pytest.raises(ValueError, match=r"trusted_examples=6: .* mine does not tell any; --trusted=npz:FILE, folder"):
        build.trusted_pool(asked, dataset())
    mine = dataset(true=True)
    drawn = build.corrupt(asked, mine, 0, build.trusted_pool(asked, mine)).trusted
    np.testing.assert_array_equal(drawn.given, mine.true_labels[drawn.kept])
    assert (drawn.given != mine.train_labels[drawn.kept]).any() and np.bincount(drawn.given).tolist() == [2, 2, 2]
    noisy = settings(trusted_examples=6, noise="symmetric", noise_rate=0.5)  # an experiment: labels count as true
    assert build.trusted_pool(noisy, dataset()) is not None


def test_a_part_of_labels_without_truth_has_none():
    whole = labelling.Labels(np.arange(6), np.arange(6) % 2, None)
    train, held = labelling.hold_out(whole, 0.34, 2, 0)
    assert train.clean is None and held.clean is None and len(train.kept) + len(held.kept) == 6


def test_disagreement_is_the_share_of_predictions_that_differ():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    assert float(measure._unjudged_metrics(logits, np.array([0, 1, 1, 0]))["disagreement"]) == pytest.approx(0.5)


def test_other_true_labels_are_other_data():
    same = dataset(wrong=0)
    known = same._replace(true_labels=same.train_labels)  # nothing that the labels do not tell
    assert artefacts.data_hashes(known) == artefacts.data_hashes(same)
    other = same._replace(true_labels=(same.train_labels + 1) % toys.C)
    assert artefacts.data_hashes(other) != artefacts.data_hashes(same)


# --- What the test part is called -------------------------------------------------------------------------------------


def test_a_test_set_is_called_what_it_is():
    def shown(**more):
        stream = io.StringIO()
        summary = {"test_accuracy_last": 0.5, "final": {"expected_calibration_error": 0.1, "balanced_accuracy": 0.4}}
        Console(file=stream, width=160).print(table.results_table([summary], **more))
        return stream.getvalue()

    plain, held_out = shown(), shown(test_held_out=True)
    assert "test accuracy, last epoch" in plain and "held-out" not in plain
    assert "test" not in held_out and held_out.count("on held-out labels as given") == 3
    lines = [{"epoch": 1, "test_accuracy": 0.5}, {"epoch": 2, "test_accuracy": 0.6}]
    for held, title in ((False, "test accuracy"), (True, "accuracy on held-out\nlabels as given")):
        assert plots.draw_learning_curves({"mine": [lines]}, held).axes[0].get_ylabel() == title
    assert test_part.title("validation accuracy", False) == "validation accuracy"


# --- Recipes and data of one's own ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npz", "folder", "csv", "hf", "arrays"])
def test_a_recipe_does_nothing_to_data_of_ones_own(kind):
    untouched = {name: getattr(config.Config, name) for name in (
        "noise", "noise_rate", "noise_form", "imbalance", "imbalance_ratio", "train_examples", "noise_file", "labels",
        "validation_split", "trusted_examples", "trusted",
    )}  # fmt: skip
    for method, recipe in (("dynamic_loss", "digits"), ("elr", "cifar10"), ("co_teaching", "cifar10"),
                           ("mw_net", "mnist"), ("har", "digits"), ("dividemix", "cifar10")):  # fmt: skip
        on_its_own, _ = config.resolve({"method": method, "dataset": recipe})
        made, sources = config.resolve({"method": method, "dataset": f"{kind}:x", "recipe": recipe})
        assert {name: getattr(made, name) for name in untouched} == untouched
        kept = ("model", "epochs", "batch_size", "learning_rate", "schedule", "augmentation", "initialization")
        assert [getattr(made, name) for name in kept] == [getattr(on_its_own, name) for name in kept]
        assert {**made.options, "forget_rate": 0} == {**on_its_own.options, "forget_rate": 0}
        if recipe != "mnist":
            assert "left out, since data of your own stay as they are: noise=" in sources[-1]
    told = config.resolve({"method": "mw_net", "dataset": f"{kind}:x", "recipe": "mnist"})[1]
    assert told[-1].endswith("as they are: trusted_examples=100")


def test_what_the_user_asks_for_is_done_to_his_data():
    asked = {"noise": "pair_flip", "noise_rate": 0.1, "imbalance": "step", "imbalance_ratio": 2.0}
    made, _ = config.resolve({"dataset": "npz:x", "recipe": "digits", **asked})
    assert {name: getattr(made, name) for name in asked} == asked


def test_benchmarks_keep_their_corruption_and_a_recipe_without_any_says_nothing():
    made, sources = config.resolve({"dataset": "digits"})
    assert made.noise == "frequency_proportional" and not any("left out" in text for text in sources)
    assert not any("left out" in text for text in config.resolve({"dataset": "npz:x"})[1])
    assert [data.is_own(name) for name in ("npz", "mnist:3.0.1", "cifar10", "npz:a:b")] == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("mw_net", r"--trusted=npz:FILE, folder:DIR, csv:FILE or hf:DIR takes them from elsewhere"),
        ("co_teaching", "forget_rate is missing"),
    ],
)
def test_what_a_recipe_no_longer_brings_is_asked_for(method, message):
    chosen = config.resolve({"method": method, "dataset": "npz:mine.npz", "recipe": "cifar10"})[0]
    with pytest.raises(ValueError, match=message):
        build.make_method(chosen, toys.task(num_trusted=0))
