"""Labels as a run gets them: imbalance, then noise (HAR: the other way round), of a subset or of everything."""

import numpy as np
import pytest

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
