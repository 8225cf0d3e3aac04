"""Labels as a run gets them: imbalance, then noise (HAR: the other way round), of a subset or of everything."""

import numpy as np
import pytest

from experiments.settings import build, config
from robustjax import data
from robustjax.data import corruptions, labelling

LABELS = np.repeat(np.arange(10), 100)[np.random.default_rng(0).permutation(1000)]


def test_nothing_asked_nothing_done():
    result = labelling.corrupt(LABELS, 10, 0)
    np.testing.assert_array_equal(result.kept, np.arange(1000))
    np.testing.assert_array_equal(result.given, LABELS)
    np.testing.assert_array_equal(result.clean, LABELS)


def test_long_tail_first_then_noise():
    result = labelling.corrupt(
        LABELS, 10, 3, noise="frequency_proportional", rate=0.4, imbalance="long_tailed", ratio=10
    )
    np.testing.assert_array_equal(result.clean, LABELS[result.kept])
    np.testing.assert_array_equal(np.bincount(result.clean), corruptions.long_tailed_counts([100] * 10, 10))
    share = np.bincount(result.clean) / len(result.clean)
    expected = 0.4 * (1 - np.sum(share**2))
    assert np.mean(result.given != result.clean) == pytest.approx(expected, abs=5 * np.sqrt(0.25 / len(result.clean)))


def test_har_cuts_by_noisy_labels():
    result = labelling.corrupt(
        LABELS, 10, 0, noise="heteroskedastic", rate=0.4, imbalance="step_rare_noisy", ratio=10, dataset="cifar10"
    )
    np.testing.assert_array_equal(result.clean, LABELS[result.kept])
    counts = np.bincount(result.given)
    assert (counts[[1, 3, 5, 9]] == 10).all() and (counts[[0, 2, 4, 6, 7, 8]] == 100).all()
    wrong = result.given != result.clean
    assert wrong[np.isin(result.given, [1, 3, 5, 9])].any() and not wrong[np.isin(result.given, [0, 2, 4])].any()
    benign = labelling.corrupt(
        LABELS, 10, 0, noise="heteroskedastic", rate=0.4, imbalance="step_rare_clean", ratio=10, dataset="cifar10"
    )
    assert (np.bincount(benign.given)[[0, 2, 4, 6, 7, 8]] == 10).all()


def test_a_subset_is_balanced_and_composes_with_the_rest():
    result = labelling.corrupt(LABELS, 10, 1, limit=500)
    np.testing.assert_array_equal(np.bincount(result.clean), [50] * 10)
    np.testing.assert_array_equal(result.clean, LABELS[result.kept])
    tail = labelling.corrupt(LABELS, 10, 1, limit=500, imbalance="long_tailed", ratio=10)
    np.testing.assert_array_equal(np.bincount(tail.clean), corruptions.long_tailed_counts([50] * 10, 10))
    np.testing.assert_array_equal(tail.clean, LABELS[tail.kept])


def test_equal_seeds_equal_labels():
    a, b, c = (labelling.corrupt(LABELS, 10, seed, noise="symmetric", rate=0.5) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a.given, b.given)
    assert (a.given != c.given).any()


def test_the_form_of_asymmetric_noise_reaches_the_labels():
    """Class after class, as authors' code has it: cats that became dogs turn back, and counts do not vary."""
    clean = np.repeat(np.arange(10), 100)

    def counts(form: str, seed: int) -> list[int]:
        made = labelling.corrupt(clean, 10, seed, noise="asymmetric", rate=0.4, form=form, dataset="cifar10")
        return np.bincount(made.given).tolist()

    for seed in (0, 1):
        assert counts("sequential_sr", seed) == [140, 140, 60, 116, 60, 84, 100, 140, 100, 60]
        assert counts("sequential_elr", seed) == [140, 140, 60, 116, 60, 84, 100, 140, 100, 60]
    assert counts("independent", 0) != counts("independent", 1)
    settings, _ = config.resolve({"dataset": "digits", "noise": "asymmetric", "noise_form": "sequential_sr",
                                  "noise_rate": 0.5, "imbalance": "none", "imbalance_ratio": 1.0})  # fmt: skip
    one, other = (build.corrupt(settings, data.load("digits"), seed).train.given for seed in (0, 1))
    assert (one != other).any() and (np.bincount(one) == np.bincount(other)).all()
    with pytest.raises(ValueError, match="noise_form='blocks'"):
        config.resolve({"noise": "symmetric", "noise_form": "blocks"})
    plain, _ = config.resolve({"noise": "asymmetric"})
    assert "noise_form" not in config.identity(plain) and config.identity(settings)["noise_form"] == "sequential_sr"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": "symmetrical"}, "noise='symmetrical'"),
        ({"imbalance": "tail"}, "imbalance='tail'"),
        ({"noise": "symmetric", "rate": 2.0}, "2.0"),
        ({"imbalance": "step", "ratio": 0.1}, "0.1"),
        ({"imbalance": "long_tailed", "ratio": 5000}, "without an example"),
        ({"noise": "asymmetric", "rate": 0.2, "dataset": "flowers"}, "flowers"),
        ({"limit": 5}, "limit=5"),
        ({"limit": 2000}, "limit=2000"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        labelling.corrupt(LABELS, 10, 0, **arguments)


def test_a_class_that_noise_empties_is_refused():
    with pytest.raises(ValueError, match=r"no example labelled \[2, 3\]"):
        labelling.corrupt(LABELS, 10, 0, noise="asymmetric", rate=1.0, dataset="mnist")


def test_hold_out_is_stratified_by_the_given_labels():
    whole = labelling.corrupt(LABELS, 10, 0, noise="symmetric", rate=0.4, imbalance="long_tailed", ratio=20)
    train, held = labelling.hold_out(whole, 0.1, 10, 3)
    assert len(held.given) == round(0.1 * len(whole.given)) and len(train.given) + len(held.given) == len(whole.given)
    np.testing.assert_array_equal(np.sort(np.concatenate([train.kept, held.kept])), whole.kept)
    for part in (train, held):
        np.testing.assert_array_equal(part.clean, LABELS[part.kept])
        given = dict(zip(whole.kept, whole.given, strict=True))
        np.testing.assert_array_equal(part.given, [given[k] for k in part.kept])
    counts, wanted = np.bincount(held.given, minlength=10), 0.1 * np.bincount(whole.given, minlength=10)
    assert (np.abs(counts - wanted) < 1).all()
    again, other = (labelling.hold_out(whole, 0.1, 10, seed)[1].kept for seed in (3, 4))
    np.testing.assert_array_equal(again, held.kept)
    assert not np.array_equal(other, held.kept)


def test_hold_out_leaves_every_class_something():
    labels = np.array([0] * 50 + [1] * 2 + [2])
    train, held = labelling.hold_out(labelling.Labels(np.arange(53), labels, labels), 0.9, 3, 0)
    assert set(train.given) == {0, 1, 2} and len(held.given) <= 48
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="validation_split="):
            labelling.hold_out(labelling.Labels(np.arange(53), labels, labels), share, 3, 0)
    with pytest.raises(ValueError, match="holds out nothing"):
        labelling.hold_out(labelling.Labels(np.arange(53), labels, labels), 0.001, 3, 0)


def test_given_labels_stand_in_for_noise():
    given = np.where(np.arange(1000) % 4, LABELS, (LABELS + 1) % 10)
    result = labelling.corrupt(LABELS, 10, 0, given=given, limit=500, imbalance="long_tailed", ratio=5)
    np.testing.assert_array_equal(result.given, given[result.kept])
    np.testing.assert_array_equal(result.clean, LABELS[result.kept])
    with pytest.raises(ValueError, match="999 given labels"):
        labelling.corrupt(LABELS, 10, 0, given=given[1:])
    with pytest.raises(ValueError, match="noise='symmetric'"):
        labelling.corrupt(LABELS, 10, 0, given=given, noise="symmetric", rate=0.1)
    with pytest.raises(ValueError, match="given labels holds"):
        labelling.corrupt(LABELS, 10, 0, given=given + 5)


def test_trusted_examples_are_balanced_by_the_true_class():
    positions = labelling.draw_trusted(LABELS, 10, 34, 3)
    assert positions.dtype == np.int64 and (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(np.bincount(LABELS[positions], minlength=10), [4] * 4 + [3] * 6)
    again, other = (labelling.draw_trusted(LABELS, 10, 34, seed) for seed in (3, 4))
    np.testing.assert_array_equal(again, positions)
    assert not np.array_equal(other, positions)


def test_trusted_examples_leave_every_class_something_to_train_on():
    labels = np.array([0] * 50 + [1] * 4)
    assert np.bincount(labels[labelling.draw_trusted(labels, 2, 6, 0)]).tolist() == [3, 3]
    with pytest.raises(ValueError, match="trusted_examples=8 takes 4 examples of class 1, which has 4"):
        labelling.draw_trusted(labels, 2, 8, 0)
    with pytest.raises(ValueError, match="trusted_examples=9 must be at least the 10 classes"):
        labelling.draw_trusted(LABELS, 10, 9, 0)
    with pytest.raises(ValueError, match="accepted are 0 to 4"):
        labelling.draw_trusted(LABELS, 5, 20, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"noise": "symmetric", "rate": 0.4},
        {"noise": "frequency_proportional", "rate": 0.4, "imbalance": "long_tailed", "ratio": 5},
        {"noise": "heteroskedastic", "rate": 0.4, "imbalance": "step_rare_noisy", "ratio": 5, "dataset": "cifar10"},
        {"limit": 500, "noise": "symmetric_exclusive", "rate": 0.2},
    ],
)
def test_what_is_left_out_is_as_if_it_had_never_been_there(arguments):
    positions = labelling.draw_trusted(LABELS, 10, 100, 0)
    found = labelling.corrupt(LABELS, 10, 3, without=positions, **arguments)
    rest = np.setdiff1d(np.arange(1000), positions)
    alone = labelling.corrupt(LABELS[rest], 10, 3, **arguments)
    assert not set(found.kept) & set(positions)
    np.testing.assert_array_equal(found.kept, rest[alone.kept])
    np.testing.assert_array_equal(found.given, alone.given)
    np.testing.assert_array_equal(found.clean, LABELS[found.kept])


def test_given_labels_and_nothing_left_out_and_bad_positions():
    given = (LABELS + 1) % 10
    found = labelling.corrupt(LABELS, 10, 0, given=given, without=np.array([0, 999, 5]))
    np.testing.assert_array_equal(found.kept, np.setdiff1d(np.arange(1000), [0, 5, 999]))
    np.testing.assert_array_equal(found.given, given[found.kept])
    whole, none = (labelling.corrupt(LABELS, 10, 0, without=w) for w in (None, np.array([], int)))
    np.testing.assert_array_equal(whole.kept, none.kept)
    for without in ([1, 1], [-1], [1000], [0.5], [[1]]):
        with pytest.raises(ValueError, match="expected distinct positions"):
            labelling.corrupt(LABELS, 10, 0, without=np.array(without))
    with pytest.raises(ValueError, match=r"limit=998 must be .* at most 997"):
        labelling.corrupt(LABELS, 10, 0, limit=998, without=np.array([0, 999, 5]))
    with pytest.raises(ValueError, match=r"limit=60 takes 20 of each class, and class 2 has 5: 15 is accepted"):
        labelling.corrupt(np.repeat([0, 1, 2], [50, 40, 5]), 3, 0, limit=60)


def test_labels_are_those_of_before_trusted_sets_existed():
    """Golden hash: a run of an earlier version can be repeated."""
    found = labelling.corrupt(LABELS, 10, 1, noise="symmetric", rate=0.4, limit=500, imbalance="long_tailed", ratio=10)
    assert corruptions.label_hash(found.given)[:16] == "7ac89e6488449012"
    assert corruptions.label_hash(found.kept)[:16] == "68291353633ad6ce"
