"""Evaluation: hand-worked numbers, other libraries, invariances, empty subsets."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from experiments.runs import history
from robustjax import losses, regularizers
from robustjax.training import evaluation

# Predictions 0, 1, 2, 2, 0, 1.
LOGITS = jnp.array([[5, 1, 0], [0, 2, 1], [0, 0, 3], [1, 0, 4], [9, 0, 0], [0, 1, 0]], jnp.float32)
LABELS = jnp.array([0, 1, 1, 2, 2, 1])


def random_case(seed, examples=200, classes=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(examples, classes)).astype(np.float32), rng.integers(0, classes, examples)


def test_accuracies_by_hand():
    assert evaluation.accuracy(LOGITS, LABELS) == pytest.approx(4 / 6)
    np.testing.assert_allclose(evaluation.per_class_accuracy(LOGITS, LABELS), [1, 2 / 3, 1 / 2], rtol=1e-6)
    assert evaluation.balanced_accuracy(LOGITS, LABELS) == pytest.approx(13 / 18)
    groups = jnp.array([0, 0, 0, 3, 3, 0])
    np.testing.assert_allclose(
        evaluation.group_accuracy(LOGITS, LABELS, groups, 4), [3 / 4, np.nan, np.nan, 1 / 2], rtol=1e-6
    )


def test_absent_class_is_nan_and_left_out_of_the_balanced_mean():
    labels = jnp.array([0, 1, 1, 0, 0, 1])
    per_class = evaluation.per_class_accuracy(LOGITS, labels)
    assert math.isnan(per_class[2]) and per_class.shape == (3,)
    assert evaluation.balanced_accuracy(LOGITS, labels) == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_balanced_accuracy_equals_sklearn(seed):
    logits, labels = random_case(seed)
    expected = balanced_accuracy_score(labels, logits.argmax(-1))
    assert evaluation.balanced_accuracy(logits, labels) == pytest.approx(expected, rel=1e-6)


def test_column_labels_are_refused():
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\)"):
        evaluation.accuracy(LOGITS, LABELS[:, None])
    with pytest.raises(ValueError, match="clean must have shape"):
        evaluation.memorization(LOGITS, LABELS, LABELS[:-1])


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([50, 40, 30, 20, 10, 5], [0, 0, 1, 1, 2, 2]),
        ([5, 50, 10, 40, 20, 30], [2, 0, 2, 0, 1, 1]),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
        ([7, 7, 7], [0, 1, 2]),
        ([4, 3, 2, 1, 0], [0, 0, 1, 1, 2]),
    ],
)
def test_head_medium_tail(counts, groups):
    assert evaluation.head_medium_tail(counts).tolist() == groups
    assert evaluation.GROUP_NAMES[groups[int(np.argmax(counts))]] == "head"


def test_head_medium_tail_needs_three_classes():
    with pytest.raises(ValueError, match="at least 3 classes"):
        evaluation.head_medium_tail([3, 2])


def reference_calibration_error(logits, labels, bins):
    logits = np.asarray(logits, np.float64)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    confidence, correct = probs.max(-1), probs.argmax(-1) == labels
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_the_definition(seed, bins):
    logits, labels = random_case(seed)
    value = evaluation.expected_calibration_error(2 * logits, labels, bins)
    assert value == pytest.approx(reference_calibration_error(2 * logits, labels, bins), abs=2e-6)


def test_calibration_error_at_the_corners():
    sure = 1e4 * jax.nn.one_hot(jnp.array([0, 1, 2, 0]), 3)
    assert evaluation.expected_calibration_error(sure, jnp.array([0, 1, 2, 0])) == 0
    assert evaluation.expected_calibration_error(sure, jnp.array([1, 2, 0, 1])) == 1
    assert evaluation.expected_calibration_error(sure, jnp.array([0, 1, 0, 1])) == 0.5
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        evaluation.expected_calibration_error(sure, jnp.array([0, 1, 2, 0]), 0)


def test_memorization_by_hand():
    given_labels = jnp.array([0, 2, 2, 0, 0, 1])
    clean = jnp.array([0, 1, 1, 2, 1, 1])
    # Right: examples 0, 5 (both predicted right). Wrong: 1 true, 2 memorized, 3 true, 4 memorized.
    shares = evaluation.memorization(LOGITS, given_labels, clean)
    assert {name: float(value) for name, value in shares.items()} == {
        "clean_true": 1.0,
        "clean_other": 0.0,
        "wrong_true": 0.5,
        "wrong_memorized": 0.5,
        "wrong_other": 0.0,
    }
    shares = evaluation.memorization(LOGITS, LABELS, LABELS)
    assert shares["clean_true"] == pytest.approx(4 / 6)
    assert all(math.isnan(shares[name]) for name in ("wrong_true", "wrong_memorized", "wrong_other"))


@given(st.integers(0, 2**31), st.sampled_from((2, 8)), st.sampled_from((1, 7, 60)))
@settings(max_examples=30, deadline=None)
def test_memorization_shares_sum_to_one(seed, classes, examples):
    logits, given_labels = random_case(seed, examples, classes)
    clean = np.random.default_rng(seed + 1).integers(0, classes, examples)
    shares = evaluation.memorization(logits, given_labels, clean)
    for family, present in (("clean", (given_labels == clean).any()), ("wrong", (given_labels != clean).any())):
        total = sum(value for name, value in shares.items() if name.startswith(family))
        assert math.isnan(total) if not present else total == pytest.approx(1, abs=1e-6)
    # All examples together: the accuracy on clean labels is the mixture of the two.
    right = np.mean(given_labels == clean)
    mixed = right * np.nan_to_num(shares["clean_true"]) + (1 - right) * np.nan_to_num(shares["wrong_true"])
    assert mixed == pytest.approx(float(evaluation.accuracy(logits, clean)), abs=1e-5)


def test_correction_accuracy_and_label_trust():
    clean, given_labels = jnp.array([0, 1, 2]), jnp.array([0, 2, 2])
    corrected = jnp.array([[0.9, 0.1, 0], [0, 0.6, 0.4], [0.7, 0, 0.3]])
    assert evaluation.correction_accuracy(corrected, clean) == pytest.approx(2 / 3)
    trust = evaluation.label_trust(jnp.array([0.9, 0.25, 0.5]), given_labels, clean)
    assert trust["right"] == pytest.approx(0.7) and trust["wrong"] == pytest.approx(0.25)
    assert math.isnan(evaluation.label_trust(jnp.ones(3), clean, clean)["wrong"])


SCORED = st.tuples(st.integers(-3, 3), st.booleans())


# Of few lengths: each is compiled anew.
@given(st.sampled_from((2, 9, 60)).flatmap(lambda n: st.lists(SCORED, min_size=n, max_size=n)))
@settings(max_examples=60, deadline=None)
def test_auroc_equals_sklearn_with_ties(pairs):
    scores, wrong = np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs])
    value = evaluation.noise_detection_auroc(jnp.asarray(scores), jnp.asarray(wrong))
    if wrong.all() or not wrong.any():
        assert math.isnan(value)
    else:
        assert value == pytest.approx(roc_auc_score(wrong, scores), abs=1e-6)


def test_auroc_of_a_large_set_and_of_nan():
    rng = np.random.default_rng(0)
    wrong = rng.random(100_000) < 0.4
    scores = (rng.normal(size=100_000) + wrong).astype(np.float32)
    value = evaluation.noise_detection_auroc(jnp.asarray(scores), jnp.asarray(wrong))
    assert value == pytest.approx(roc_auc_score(wrong, scores), abs=2e-6)
    assert math.isnan(evaluation.noise_detection_auroc(jnp.array([0.1, np.nan, 3]), jnp.array([True, False, True])))


def test_jit_equals_eager():
    logits, labels = random_case(5)
    clean = np.random.default_rng(9).integers(0, 5, len(labels))

    def everything(logits, labels, clean):
        return (
            evaluation.accuracy(logits, labels),
            evaluation.balanced_accuracy(logits, labels),
            evaluation.expected_calibration_error(logits, labels),
            evaluation.memorization(logits, labels, clean),
            evaluation.label_trust(logits[:, 0], labels, clean),
            evaluation.noise_detection_auroc(logits[:, 1], labels != clean),
        )

    arguments = jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(clean)
    eager, compiled = everything(*arguments), jax.jit(everything)(*arguments)
    chex.assert_trees_all_close(eager, compiled, rtol=1e-5)


def test_summary_of_a_long_run():
    told = [{"epoch": e, "test_accuracy": e / 100, "train_loss": 1.0} for e in range(20)]
    told[5]["test_accuracy"] = 0.9
    told[-1]["per_class_accuracy"] = [0.1, 0.3]
    summary = history.summarise(told)
    assert summary["test_accuracy_last"] == 0.19
    assert summary["test_accuracy_mean_last_10"] == pytest.approx(np.mean(np.arange(10, 20)) / 100)
    assert (summary["test_accuracy_best"], summary["best_epoch"], summary["best_chosen_on"]) == (0.9, 5, "test set")
    assert (summary["epochs"], summary["final"]) == (20, {"train_loss": 1.0, "per_class_accuracy": [0.1, 0.3]})


def test_last_ten_means_epochs_not_evaluations():
    told = [{"epoch": e, **({"test_accuracy": e / 100} if e % 5 == 0 else {})} for e in range(1, 41)]
    assert history.summarise(told)["test_accuracy_mean_last_10"] == pytest.approx(0.375)
    told[-1]["test_accuracy"] = None
    assert history.summarise(told)["test_accuracy_last"] == 0.35


def test_summary_needs_a_test_accuracy():
    with pytest.raises(ValueError, match="no finite 'test_accuracy'"):
        history.summarise([{"epoch": 0, "test_accuracy": float("nan")}])


def test_mean_std_over_seeds():
    assert history.mean_std([0.1, 0.2, 0.6]) == pytest.approx((0.3, math.sqrt(0.07)))
    mean, std = history.mean_std([0.5])
    assert mean == 0.5 and math.isnan(std)
    with pytest.raises(ValueError, match="non-empty"):
        history.mean_std([])


def test_sparse_rate_by_hand():
    probabilities = jnp.array([[0.5, 0.5, 0.0], [0.7, 0.2, 0.1]])
    expected = ((0.25 + 0.25) + (0.49 + 0.04 + 0.01)) / 2
    assert evaluation.sparse_rate(jnp.log(probabilities)) == pytest.approx(expected)
    assert evaluation.sparse_rate(jnp.log(probabilities) / 3, 1 / 3) == pytest.approx(expected)  # logits over T
    assert evaluation.sparse_rate(jnp.zeros((4, 5))) == pytest.approx(1 / 5)
    wrong_vertices = 1e3 * jnp.eye(5)[jnp.array([3, 3, 0, 1])]
    assert evaluation.sparse_rate(wrong_vertices) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_sparse_rate_grows_with_sharpening(seed):
    logits, _ = random_case(seed)
    rates = [float(evaluation.sparse_rate(logits, t)) for t in (100.0, 1.0, 0.5, 0.1, 1e-5)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1 / 5, abs=1e-3) and rates[-1] == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(("shape", "temperature", "name"), [((3,), 1.0, "logits"), ((3, 2), 0.0, "temperature")])
def test_sparse_rate_refuses(shape, temperature, name):
    with pytest.raises(ValueError, match=name):
        evaluation.sparse_rate(jnp.zeros(shape), temperature)


def test_gradient_coefficients_are_the_gradient_at_the_true_class():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (40, 5)).astype(np.float32)
    clean, targets = rng.integers(0, 5, 40), rng.dirichlet(np.ones(5), 40).astype(np.float32)
    labels = np.where(rng.random(40) < 0.4, (clean + 1) % 5, clean)

    def objective(z, strength):
        pull = regularizers.early_learning(z, targets, clip=None)
        return jnp.sum(losses.cross_entropy(z, labels) + strength * pull)

    added = 3.0 * regularizers.early_learning_gradient(logits, targets)
    found = evaluation.gradient_coefficients(logits, labels, clean, {"elr": added})
    for part, strength in (("ce", 0.0), ("total", 3.0)):
        at_true = np.asarray(jax.grad(objective)(logits, strength))[np.arange(40), clean]
        for kind, where in (("clean", labels == clean), ("wrong", labels != clean)):
            assert found[f"{part}_coefficient_{kind}"] == pytest.approx(at_true[where].mean(), abs=1e-5)
            assert found[f"{part}_coefficient_{kind}_std"] == pytest.approx(at_true[where].std(), abs=1e-5)
    for kind in ("clean", "wrong"):
        parts = [found[f"{part}_coefficient_{kind}"] for part in ("ce", "elr", "total")]
        assert parts[0] + parts[1] == pytest.approx(float(parts[2]), abs=1e-5)
    plain = evaluation.gradient_coefficients(logits, clean, clean)
    assert set(plain) == {f"ce_coefficient_{kind}{end}" for kind in ("clean", "wrong") for end in ("", "_std")}
    assert np.isnan(plain["ce_coefficient_wrong"])
    halves = evaluation.gradient_coefficients(logits, labels, clean, {"a": added / 2, "b": added / 2})
    assert halves["total_coefficient_wrong"] == pytest.approx(float(found["total_coefficient_wrong"]), abs=1e-6)
    with pytest.raises(ValueError, match="given must have shape"):
        evaluation.gradient_coefficients(logits, labels[1:], clean)
    for name, gradient in (("total", added), ("a", added[:, 0])):
        with pytest.raises(ValueError, match=rf"added\['{name}'\] must have shape"):
            evaluation.gradient_coefficients(logits, labels, clean, {name: gradient})


def test_the_validation_accuracy_chooses_among_the_last_stages_epochs():
    accuracies = [(1, 0.9, 0.1), (2, 0.5, 0.2), (2, 0.6, 0.3), (2, 0.6, 0.4), (2, None, 0.5)]
    told = [{"epoch": e, "stage": s, "validation_accuracy": v, "test_accuracy": t}
               for e, (s, v, t) in enumerate(accuracies, 1)]  # fmt: skip
    summary = history.summarise(told)
    assert (summary["best_validation_epoch"], summary["test_accuracy_best_validation"]) == (3, 0.3)
    assert (summary["best_epoch"], summary["test_accuracy_last"]) == (5, 0.5)
    unjudged = [{**record, "validation_accuracy": None} for record in told]
    assert "best_validation_epoch" not in history.summarise(unjudged) and history.best_validation([]) is None


MEASURES = {
    "accuracy": lambda x, a, b, t: evaluation.accuracy(x, a),
    "group_accuracy": lambda x, a, b, t: evaluation.group_accuracy(x, a, b, 5),
    "per_class_accuracy": lambda x, a, b, t: evaluation.per_class_accuracy(x, a),
    "balanced_accuracy": lambda x, a, b, t: evaluation.balanced_accuracy(x, a),
    "expected_calibration_error": lambda x, a, b, t: evaluation.expected_calibration_error(x, a),
    "memorization": lambda x, a, b, t: evaluation.memorization(x, a, b),
    "gradient_coefficients": lambda x, a, b, t: evaluation.gradient_coefficients(x, a, b),
    "gradient_coefficients of a method": lambda x, a, b, t: evaluation.gradient_coefficients(x, a, b, {"pull": t}),
    "sparse_rate": lambda x, a, b, t: evaluation.sparse_rate(x, 0.5),
    "correction_accuracy": lambda x, a, b, t: evaluation.correction_accuracy(t, a),
    "label_trust": lambda x, a, b, t: evaluation.label_trust(t[:, 0], a, b),
    "noise_detection_auroc": lambda x, a, b, t: evaluation.noise_detection_auroc(x[:, 0], a != b),
}


@pytest.mark.parametrize("name", MEASURES)
def test_no_dtype_is_promoted_unasked(name):
    logits, given = random_case(0)
    _, clean = random_case(1)
    targets = np.random.default_rng(2).dirichlet(np.ones(5), len(given)).astype(np.float32)
    for kind in (np.int32, np.int64):
        arrays = (logits, given.astype(kind), clean.astype(kind), targets)
        expected = MEASURES[name](*map(jnp.asarray, arrays))
        with jax.numpy_dtype_promotion("strict"):
            for found in (MEASURES[name](*arrays), jax.jit(MEASURES[name])(*arrays)):
                chex.assert_trees_all_close(found, expected, rtol=1e-5)
                assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
