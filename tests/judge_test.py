"""Findings judged by kind: numbers worked by hand, unknown truth, nothing known yet; a method of the test's own."""

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.pictures import of_runs
from experiments.runs import history, judge, measure, records, table
from experiments.settings.config import Config
from robustjax import findings, methods
from robustjax.data import Dataset
from robustjax.data.labelling import Labels
from robustjax.findings import LabelDistribution, LabelWeight, LogitGradient, NoiseScore, PerClass, PerGroup, Table
from robustjax.training import engine, parallel
from tests import toys

# Examples 1 and 3 of five are wrong.
GIVEN, CLEAN = np.array([0, 2, 2, 0, 1], np.int32), np.array([0, 1, 2, 1, 1], np.int32)
LABELS = Labels(np.arange(5), GIVEN, CLEAN)
UNKNOWN = Labels(np.arange(5), GIVEN, None)
ALL_RIGHT = Labels(np.arange(5), CLEAN, CLEAN)
LOGITS = np.log(np.array([[2, 1, 1], [1, 2, 1], [1, 1, 2], [2, 1, 1], [1, 2, 1]], np.float32) / 4)
BELIEVED = LabelDistribution(np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 2]])


def numbers(found):
    return {name: float(value) for name, value in found.items()}


def test_label_distributions_are_judged_by_the_true_class():
    assert numbers(judge.judge({"guess": BELIEVED}, LABELS, None)) == pytest.approx({"guess_accuracy": 3 / 5})
    # Of the given labels 0, 2, 2, 0, 1 the second and the last are changed.
    assert numbers(judge.judge({"guess": BELIEVED}, UNKNOWN, None)) == pytest.approx({"guess_changed": 2 / 5})


def test_label_weights_are_judged_by_their_means_and_by_what_low_ones_find():
    trust = {"trust": LabelWeight(np.array([0.9, 0.2, 0.5, 0.7, 0.7], np.float32))}
    found = numbers(judge.judge(trust, LABELS, None))
    # Of the six pairs (wrong, right) the wrong one is lower in 3 + 1, and 0.7 is on a par with 0.7.
    expected = {"trust_right": 2.1 / 3, "trust_wrong": 0.45, "trust_auroc": (3 + 1 + 0.5) / 6}
    assert found == pytest.approx(expected)
    assert numbers(judge.judge(trust, UNKNOWN, None)) == pytest.approx({"trust_mean": 3 / 5})


def test_noise_scores_are_judged_by_what_high_ones_find():
    score = {"doubt": NoiseScore(np.array([0.1, 0.8, 0.5, 0.3, 0.3], np.float32))}
    assert numbers(judge.judge(score, LABELS, None)) == pytest.approx({"doubt_auroc": (3 + 1.5) / 6})
    assert numbers(judge.judge(score, UNKNOWN, None)) == pytest.approx({"doubt_mean": 2 / 5})


def test_without_wrong_labels_there_is_nothing_to_find():
    weight, score = LabelWeight(np.full(5, 0.5, np.float32)), NoiseScore(np.zeros(5, np.float32))
    found = numbers(judge.judge({"trust": weight, "doubt": score}, ALL_RIGHT, None))
    assert found.pop("trust_right") == 0.5
    assert set(found) == {"trust_wrong", "trust_auroc", "doubt_auroc"} and all(map(np.isnan, found.values()))


def test_logit_gradients_are_judged_at_the_true_class_beside_cross_entropy():
    pull = np.zeros((5, 3), np.float32)
    pull[np.arange(5), CLEAN] = [-0.1, -0.2, -0.3, -0.4, -0.5]
    found = numbers(judge.judge({"pull": LogitGradient(pull)}, LABELS, LOGITS))
    # p - y at the true class: right labels 1/2 - 1; wrong ones p itself, 1/2 and 1/4.
    expected = {"ce_coefficient_clean": -1 / 2, "ce_coefficient_wrong": 3 / 8, "ce_coefficient_wrong_std": 1 / 8,
                "pull_coefficient_clean": -0.3, "pull_coefficient_wrong": -0.3, "pull_coefficient_wrong_std": 0.1,
                "total_coefficient_clean": -0.8, "total_coefficient_wrong": 0.075,
                "total_coefficient_wrong_std": 0.225}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    two = judge.judge({"pull": LogitGradient(pull), "push": LogitGradient(-pull)}, LABELS, LOGITS)
    assert float(two["total_coefficient_wrong"]) == pytest.approx(3 / 8)
    assert judge.judge({"pull": LogitGradient(pull)}, UNKNOWN, LOGITS) == {}
    assert judge.judge({"pull": LogitGradient(pull)}, LABELS, None) == {}


@pytest.mark.parametrize("labels", [LABELS, UNKNOWN])
def test_numbers_by_class_and_group_are_what_they_are_and_tables_have_a_file(labels):
    values = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    found = {"q": PerClass(values[:, 0]), "g": PerGroup(values[0]), "t": Table(values, np.array([0, 1, 1, 0, 0]))}
    assert {n: v.tolist() for n, v in judge.judge(found, labels, None).items()} == {"q": [1, 3, 5], "g": [1, 2]}
    kept = judge.kept_by_epoch(found, labels)
    assert set(kept) - {"t_noisy_share"} == {"q", "g", "t"}
    if labels.clean is not None:  # class 0: right in bin 0 and wrong in bin 0; 1: right in 0; 2: both in 1, one wrong
        np.testing.assert_array_equal(kept["t_noisy_share"], [[0.5, np.nan], [0, np.nan], [np.nan, 0.5]])
    else:
        assert "t_noisy_share" not in kept


def test_what_is_not_known_yet_is_left_out():
    nothing, some = np.full(5, np.nan, np.float32), np.array([np.nan, 1, 2, 3, 4], np.float32)
    unknown = {"a": LabelDistribution(np.full((5, 3), np.nan)), "b": LabelWeight(nothing), "c": NoiseScore(nothing),
               "d": PerGroup(nothing), "e": PerClass(nothing), "f": LogitGradient(np.full((5, 3), np.nan)),
               "g": Table(np.full((3, 2), np.nan), np.zeros(5, int)), "h": PerGroup(nothing[:0])}  # fmt: skip
    for labels in (LABELS, UNKNOWN):
        assert judge.judge(unknown, labels, LOGITS) == {}
        assert judge.kept_by_epoch(unknown, labels) == {}
    assert judge.kept_by_example(unknown) == {}
    assert judge.judge({"d": PerGroup(some)}, LABELS, None)["d"] is some


def test_what_is_kept_of_each_example():
    weight, score = np.linspace(0, 1, 5), np.linspace(1, 0, 5)
    kept = judge.kept_by_example(
        {"w": LabelWeight(weight), "s": NoiseScore(score), "c": BELIEVED, "q": PerClass(score)}
    )
    assert {name: values.dtype.name for name, values in kept.items()} == {"w": "float32", "s": "float32", "c": "int32"}
    assert kept["c"].tolist() == [0, 1, 2, 0, 2]


def test_names_and_kinds_that_cannot_be_judged_are_refused():
    with pytest.raises(TypeError, match="the finding 'x' is a ndarray; accepted are LabelDistribution, LabelWeight"):
        judge.judge({"x": np.ones(5)}, LABELS, LOGITS)
    with pytest.raises(ValueError, match="give the metric 'x_auroc' twice"):
        judge.judge({"x": LabelWeight(np.ones(5)), "x_auroc": PerClass(np.ones(3))}, LABELS, LOGITS)
    with pytest.raises(ValueError, match="name other than ce and total"):
        judge.judge({"ce": LogitGradient(np.ones((5, 3)))}, LABELS, LOGITS)


def test_every_kind_has_a_judge_and_a_picture():
    every = findings.Finding.__args__
    assert set(judge.JUDGES) == set(every)
    assert set(of_runs.findings.PICTURES) == {kind.__name__ for kind in every}


def test_titles_follow_from_names():
    metrics = ("a_b_accuracy", "test_accuracy", "noise_detection_auroc", "w_right", "w_wrong", "w_auroc", "ce_wrong",
               "train_accuracy", "c_changed", "wrong", "s_mean")  # fmt: skip
    assert dict(judge.titles(dict.fromkeys(metrics))) == {
        "a_b_accuracy": "a b: labels that are right",
        "c_changed": "c: labels that differ from those given",
        "w_right": "w, mean on right labels",
        "w_wrong": "w, mean on wrong labels",
        "s_mean": "s, mean over all labels",
        "w_auroc": "AUROC of finding wrong labels, by w",
    }


# --- A method that nothing but this file knows -----------------------------------------------------------------------


def one_of_each(task):
    """Cross entropy that finds something of every kind; one thing only from the last epoch on."""
    plain = methods.get("cross_entropy")(task)

    def inspect(state, survey):
        probs = jax.nn.softmax(survey.seen)
        trust = probs[jnp.arange(len(survey.labels)), survey.labels]
        bins = jnp.minimum((4 * trust).astype(jnp.int32), 3)
        return {
            "belief": LabelDistribution(probs),
            "trust": LabelWeight(trust),
            "doubt": NoiseScore(1 - trust),
            "pull": LogitGradient(0.5 * (probs - 1 / task.num_classes)),
            "shift": PerClass(probs.mean(0)),
            "size": PerGroup(jnp.bincount(survey.groups, length=task.num_classes).astype(jnp.float32)),
            "ease": PerGroup(probs.max(0)),
            "late": PerGroup(jnp.full(task.num_classes, jnp.nan)),
            "grid": Table(jnp.arange(4.0) + jnp.zeros((task.num_classes, 1)), bins),
        }

    return plain._replace(inspect=inspect)


@pytest.fixture(scope="module")
def epochs():
    """Two epochs of the method above."""
    task = toys.task(epochs=2)
    layout = parallel.make_layout("single", seeds=1, batch_size=task.batch_size)
    trained = engine.train(one_of_each(task), task, layout, toys.resident(), [toys.own(0)], track_every=1)
    return [epoch._replace(state=None) for epoch in trained]


@pytest.fixture(scope="module")
def labels():
    return Labels(np.arange(toys.N), toys.given_labels(0), toys.images(toys.N, 1)[1].astype(np.int32))


def leave_run(path, epochs, labels):
    """Write and draw what `experiments.run` would; the records and the pictures' names."""
    lines = [measure.record(epoch, 0, 0, toys.test_labels(), labels) for epoch in epochs]
    for epoch, line in zip(epochs, lines, strict=True):
        records.append_record(path / "metrics.jsonl", line)
        measure.save_findings(path, epoch, 0, 0, labels)
    images, clean = toys.images(toys.N, 1)
    dataset = Dataset("toys", images, clean, images, clean, toys.C, ("0", "1", "2"), (0.0,), (1.0,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = of_runs.draw_all(path, Config(), dataset, [labels], [0], records.read_records(path / "metrics.jsonl"))
    assert all(file.parent == path / "plots" and file.stat().st_size > 1000 for file in made)
    return lines, [file.stem for file in made]


def text_of(summary):
    stream = io.StringIO()
    Console(file=stream, width=120).print(table.results_table([summary]))
    return stream.getvalue()


def test_a_new_method_gets_metrics_table_and_pictures_by_its_findings_alone(tmp_path, epochs, labels, capsys):
    lines, made = leave_run(tmp_path, epochs, labels)
    last = lines[-1]
    for name in ("belief_accuracy", "trust_right", "trust_wrong", "trust_auroc", "doubt_auroc"):
        assert 0 <= last[name] <= 1, name
    assert last["belief_accuracy"] == pytest.approx(float(np.mean(
        np.load(tmp_path / "findings-seed0.npz")["belief"] == labels.clean)))  # fmt: skip
    assert last["total_coefficient_wrong"] == pytest.approx(
        last["ce_coefficient_wrong"] + last["pull_coefficient_wrong"], abs=1e-6
    )
    assert len(last["shift"]) == 3 and last["size"] == np.bincount(labels.given).tolist() and "late" not in last
    text = text_of(history.summarise(lines))
    for title in ("belief: labels that are right", "trust, mean on wrong labels"):
        assert title in text
    for by in ("doubt", "trust", "loss"):
        assert f"AUROC of finding wrong labels, by {by}" in text
    assert set(made) == {
        "learning_curves", "memorization", "belief_accuracy", "trust", "doubt", "pull_coefficients", "shift", "groups",
        "grid", "grid_over_epochs",
    }  # fmt: skip
    kinds, examples = of_runs.read_findings(tmp_path, 0)
    assert kinds["late"] == "PerGroup" and len(kinds) == 9
    assert {name: len(values) for name, values in examples.items()} == dict.fromkeys(("belief", "trust", "doubt"), 60)
    assert [set(each) for each in of_runs.read_diagnostics(tmp_path, 0)] == [
        {"shift", "size", "ease", "grid", "grid_noisy_share"}
    ] * 2
    assert capsys.readouterr().err == ""


def test_without_the_truth_nothing_that_needs_it(tmp_path, epochs, labels):
    lines, made = leave_run(tmp_path, epochs, labels._replace(clean=None))
    known = {"epoch", "seed", "train_loss", "train_accuracy", "learning_rate", "test_accuracy", "test_loss",
             "balanced_accuracy", "expected_calibration_error", "per_class_accuracy", "sparse_rate",
             "sharpened_sparse_rate", "disagreement", "reliability"}  # fmt: skip
    assert set(lines[-1]) == known | {"belief_changed", "trust_mean", "doubt_mean", "shift", "size", "ease"}
    assert "belief: labels that differ from those given" in text_of(history.summarise(lines))
    expected = {"learning_curves", "belief_changed", "trust", "doubt", "shift", "groups", "grid", "grid_over_epochs"}
    assert set(made) == expected | {"disagreement"}


def test_a_picture_that_fails_costs_a_sentence(tmp_path, epochs, labels, capsys, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("no bars today")

    monkeypatch.setattr(of_runs.findings, "draw_per_class", broken)
    monkeypatch.delitem(of_runs.findings.PICTURES, "Table")
    _, made = leave_run(tmp_path, epochs, labels)
    assert "shift" not in made and "grid" not in made and {"groups", "trust", "belief_accuracy"} <= set(made)
    told = sorted(capsys.readouterr().err.splitlines(), reverse=True)
    assert told[0] == "warning: no picture of shift: ZeroDivisionError: no bars today"
    assert told[1].startswith("warning: no picture of Table: ValueError: kind='Table' of grid has no picture; accepted")
    assert len(told) == 2


def make_epoch(number=0, stage=0, preliminary=False, found=None):
    rng = np.random.default_rng(0)
    test_logits = rng.normal(size=(4, 3)).astype(np.float32)
    metrics = [{"learning_rate": 0.1, "loss": 1.0, "train_accuracy": 0.5}]
    return engine.Epoch(number, None, metrics, [test_logits], [LOGITS], None, [found or {}], stage, preliminary)


def record(*args, preliminary_stages=0, **more):
    return measure.record(make_epoch(*args, **more), 0, 7, np.zeros(4, np.int32), LABELS, None, preliminary_stages)


def test_records_tell_preliminary_stages_from_those_that_count():
    assert "stage" not in record(0, 0) and "stage" not in record(5, 1)
    stages = [(0, True), (1, True), (2, False), (3, False)]
    found = [record(e, stage, thrown, preliminary_stages=2) for e, (stage, thrown) in enumerate(stages)]
    assert [each["stage"] for each in found] == [1.0, 2.0, 3.0, 3.0]
    assert list(found[0])[:6] == ["epoch", "seed", "learning_rate", "train_loss", "stage", "train_accuracy"]
    assert history.summarise(found)["epochs"] == 2
    with pytest.raises(ValueError, match="preliminary_stages=0, but epoch 1 is preliminary"):
        record(0, 0, True)


def test_a_finding_may_not_take_the_name_of_a_metric():
    with pytest.raises(ValueError, match="gives the metric 'test_accuracy', which every record has"):
        record(found={"test": BELIEVED})


def test_nothing_found_leaves_no_file(tmp_path):
    measure.save_findings(tmp_path, make_epoch(), 0, 0, LABELS)
    assert list(tmp_path.iterdir()) == []
    measure.save_findings(tmp_path, make_epoch(found={"pull": LogitGradient(np.ones((5, 3)))}), 0, 0, LABELS)
    assert [file.name for file in tmp_path.iterdir()] == ["findings-seed0.npz"]
    assert of_runs.read_findings(tmp_path, 0) == ({"pull": "LogitGradient"}, {})
    assert of_runs.read_findings(tmp_path, 1) == ({}, {})
