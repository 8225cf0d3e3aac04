"""The audit on labels whose noise is known: how many are wrong, which, and that nothing is claimed where none is."""

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.metrics import roc_auc_score

from robustjax import auditing

BAD = {
    "no probabilities": (np.zeros(3, int), np.zeros((3, 2), int), "pred_probs must be numbers of shape"),
    "one class": (np.zeros(3, int), np.ones((3, 1)), "at least 2 classes"),
    "no examples": (np.zeros(0, int), np.ones((0, 2)), "at least one"),
    "other number": (np.zeros(2, int), np.full((3, 2), 0.5), r"labels must be integers of shape \(3,\)"),
    "names": (np.array(["a", "b"]), np.full((2, 2), 0.5), "labels must be integers"),
    "class beyond": (np.array([0, 2]), np.full((2, 2), 0.5), "labels must be in 0 … 1"),
    "no distribution": (np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.9]]), "row 1 does not"),
    "nan": (np.array([0, 1]), np.array([[np.nan, 0.5], [0.5, 0.5]]), "row 0 does not"),
}


def simulated(kind, rate=0.1, count=1500, classes=4, seed=0, sharpness=1.0):
    """Given and true labels and a network's probabilities, whose temperature is wrong."""
    rng = np.random.default_rng(seed)
    true = rng.choice(classes, count, p=np.arange(3, 3 + classes) / np.arange(3, 3 + classes).sum())
    logits = 2.2 * np.sqrt(2) * np.eye(classes)[true] + rng.normal(size=(count, classes))
    posterior = special.softmax(2.2 * np.sqrt(2) * logits, axis=1)
    given = true.copy()
    if kind == "symmetric":
        flipped = rng.random(count) < rate
        given[flipped] = (true + rng.integers(1, classes, count))[flipped] % classes
    elif kind == "people":  # they err where the image is ambiguous, into what it resembles
        odds = np.where(np.eye(classes)[true] > 0, 6.0, 1.0) * posterior**0.25
        given = (rng.random((count, 1)) > np.cumsum(odds / odds.sum(1, keepdims=True), axis=1)).sum(1)
    return given, true, special.softmax(sharpness * logits, axis=1).astype(np.float32)


def f1(chosen, wrong):
    return 2 * (chosen & wrong).sum() / (chosen.sum() + wrong.sum())


@pytest.mark.parametrize(("kind", "sharpness"), [("symmetric", 1.0), ("people", 5.0)])
def test_how_many_labels_are_wrong_and_which(kind, sharpness):
    given, true, probs = simulated(kind, seed=1, sharpness=sharpness)
    wrong, found = given != true, auditing.audit(given, probs)
    assert found.low <= wrong.sum() <= found.high and found.high - found.low < 1.5 * wrong.sum()
    assert abs(found.count - wrong.sum()) < (0.1 if kind == "symmetric" else 0.5) * wrong.sum()
    suspects = np.isin(np.arange(len(given)), found.suspects)
    assert len(found.suspects) == suspects.sum() == round(found.count)
    assert f1(suspects, wrong) > (f1(probs.argmax(1) != given, wrong) + 0.05 if kind == "symmetric" else 0.6)
    assert np.all(np.diff(found.score[found.suspects]) <= 0) and found.score.dtype == np.float32
    np.testing.assert_allclose(found.score.sum(), found.count, rtol=1e-3)
    assert (found.proposed == true).mean() > (given == true).mean() + 0.02
    shares = np.bincount(true, minlength=4) / len(true)
    np.testing.assert_allclose(found.prior, shares, atol=0.03)
    counted = np.zeros((4, 4))
    np.add.at(counted, (true, given), 1)
    np.testing.assert_allclose(found.transition, counted / counted.sum(1, keepdims=True), atol=0.08)


def test_where_no_label_is_wrong_few_are_claimed_to_be():
    given, _, probs = simulated("none")
    found = auditing.audit(given, probs)
    assert found.low == 0 and found.count < 0.02 * len(given) < (probs.argmax(1) != given).sum()


def test_many_classes_go_without_a_matrix_and_an_absent_class_does_no_harm(monkeypatch):
    given, true, probs = simulated("symmetric", count=1000)
    probs = np.concatenate([probs * 0.999, np.full((1000, 1), 0.001, np.float32)], axis=1)
    monkeypatch.setattr(auditing, "_DENSE", 4)
    monkeypatch.setattr(auditing, "_CHUNK", 7 * 5)  # a few examples at a time
    found = auditing.audit(given, probs)
    assert found.low <= (given != true).sum() <= found.high
    assert found.transition.shape == (5, 5) and found.prior[4] < 0.01
    np.testing.assert_allclose(found.transition.sum(1), 1)


def test_classes_do_not_exchange_their_names():
    """Where 40 % of some classes are called like another, what a network says of them is nearly a coin's toss."""
    ours, own = [], []
    for seed in (1, 2, 4):
        rng, classes = np.random.default_rng(seed), 6
        transition = np.eye(classes)
        for i, j in ((0, 1), (1, 2), (3, 4), (4, 3)):
            transition[i, [i, j]] = 0.6, 0.4
        true = rng.integers(0, classes, 1500)
        given = (rng.random((1500, 1)) > np.cumsum(transition[true], axis=1)).sum(1)
        logits = 2.2 * np.eye(classes)[true] + 0.6 * rng.normal(size=(1500, classes))
        learned = np.log(special.softmax(3 * logits, axis=1) @ transition)
        probs = special.softmax(learned + 0.3 * rng.normal(size=(1500, classes)), axis=1).astype(np.float32)
        found = auditing.audit(given, probs)
        assert np.argmax(found.transition, axis=1).tolist() == list(range(classes))
        ours.append(roc_auc_score(given != true, found.score))
        own.append(roc_auc_score(given != true, -probs[np.arange(1500), given]))
    assert np.mean(ours) > np.mean(own) + 0.02


@pytest.mark.parametrize("dense", [3, 2])
def test_gradients_are_those_of_the_density(monkeypatch, dense):
    monkeypatch.setattr(auditing, "_DENSE", dense)
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 40), auditing._logits(rng.dirichlet(np.ones(3), 40))
    prior = auditing._prior(3, 0.3)
    x = rng.normal(size=len(prior[0])) / 2
    if dense == 3:
        assert auditing._excess(auditing._unpack(x, 3))[0] > 1
    error = optimize.check_grad(
        lambda y: auditing._objective(y, labels, logits, prior)[0],
        lambda y: auditing._objective(y, labels, logits, prior)[1], x,
    )  # fmt: skip
    assert error < 1e-6
    if dense == 2:  # and the density is that of a matrix without entries of pairs
        monkeypatch.setattr(auditing, "_DENSE", 3)
        monkeypatch.setattr(auditing, "_OWN_NAME", np.inf)
        wide = tuple(np.concatenate([each, np.full(9, fill)]) for each, fill in zip(prior, (0.0, 1.0), strict=True))
        both = [auditing._objective(np.append(x, np.zeros(9)), labels, logits, wide)[0]]
        monkeypatch.setattr(auditing, "_DENSE", 2)
        both.append(auditing._objective(x, labels, logits, prior)[0])
        np.testing.assert_allclose(*both, rtol=1e-12)


def test_what_a_network_has_memorised_is_told_by_its_training():
    given, true, probs = simulated("symmetric", rate=0.2)
    wrong, rng = given != true, np.random.default_rng(1)
    memorised = (0.05 * probs + 0.95 * np.eye(4)[given]).astype(np.float32)
    margin = np.where(wrong, -2.0, 3.0) + rng.normal(size=len(given))
    found = auditing.audit(given, memorised, in_sample=True, mean_margin=margin, scores={"weight": margin < 0})
    assert found.ranks_only and (found.low, found.high, len(found.suspects)) == (0, len(given), 0)
    assert f1(found.score > 0.5, wrong) > 0.85 > f1(memorised.argmax(1) != given, wrong)
    assert (found.proposed[found.score > 0.5] != given[found.score > 0.5]).all()
    one_group = auditing.audit(given, memorised, in_sample=True, mean_margin=rng.normal(size=len(given)))
    assert one_group.low == 0
    same = auditing.audit(given[:9], np.eye(4, dtype=np.float32)[given[:9]], in_sample=True)  # nothing tells them apart
    assert same.count == 0 and not len(same.suspects)


def test_in_sample_only_plausible_witnesses_are_heard():
    rng = np.random.default_rng(2)
    given, true, probs = simulated("symmetric", rate=0.2)
    wrong, rows = given != true, np.arange(len(given))
    # Two classes are hard: training says that most of their labels are wrong, more than predictions differ.
    hard = np.where(wrong | (true < 2), -2.0, 3.0) + 0.5 * rng.normal(size=len(given))
    assert auditing._suspicion(given, probs, hard, {})[0].sum() > 2 * wrong.sum()
    found = auditing.audit(given, probs, in_sample=True, mean_margin=hard)
    assert found.count == pytest.approx(wrong.sum(), rel=0.2) and not found.ranks_only
    # Half memorised: the true class is still predicted, but what is given is as likely as chance errors would have it.
    half = np.full(probs.shape, 0.01)
    half[rows, given] += np.where(wrong, 0.44, 0.96)
    half[rows, true] += np.where(wrong, 0.52, 0.0)
    margin = np.where(wrong, -1.0, 3.0) + 0.5 * rng.normal(size=len(given))
    assert (
        1 - auditing._posterior(auditing._fit(given, half).model, given, half)[rows, given]
    ).sum() < 0.3 * wrong.sum()
    found = auditing.audit(given, half, in_sample=True, mean_margin=margin)
    assert found.count == pytest.approx(wrong.sum(), rel=0.1) and f1(found.score > 0.5, wrong) > 0.95
    assert not found.ranks_only and found.high < 1.3 * wrong.sum()
    # A third of the wrong labels are given back. Training still counts all, unless a class that is hard makes it call
    # more than twice as many wrong as are disputed.
    disputed = wrong & (rng.random(len(given)) < 0.7)
    half[rows, given] = np.where(disputed, 0.45, 0.97)
    half[rows, true] = np.where(disputed, 0.53, half[rows, true])
    half /= half.sum(1, keepdims=True)
    for hard, known in ((wrong, True), (wrong | (true == 0), False)):
        margin = np.where(hard, -1.0, 3.0) + 0.5 * rng.normal(size=len(given))
        found = auditing.audit(given, half, in_sample=True, mean_margin=margin, scores={"loss": -margin})
        assert found.ranks_only != known
        assert (
            found.count == pytest.approx(wrong.sum(), rel=0.1) if known else (found.low, found.high) == (0, len(given))
        )


def test_scales_by_rank():
    np.testing.assert_allclose(auditing._by_rank(np.array([5, 1, 5, 9]), np.array([0, 2, 4, 8])), [3, 0, 3, 8])


@pytest.mark.parametrize(("labels", "probs", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(labels, probs, message):
    with pytest.raises(ValueError, match=message):
        auditing.audit(labels, probs)
    with pytest.raises(ValueError, match="mean_margin must be 2 finite numbers"):
        auditing.audit(np.array([0, 1]), np.eye(2), mean_margin=np.array([1, np.inf]))


@pytest.mark.exhaustive  # it fits 40 models
def test_the_interval_holds():
    """In at least nine of ten simulated sets of two kinds of noise, five rates and temperatures."""
    held = []
    for seed in range(20):
        for kind in ("symmetric", "people"):
            rate, sharpness = (0.02, 0.05, 0.1, 0.2, 0.35)[seed % 5], (0.5, 1.0, 3.0, 6.0)[seed % 4]
            given, true, probs = simulated(kind, rate, 1000, 3 + seed % 6, seed, sharpness)
            found = auditing.audit(given, probs)
            held.append(found.low <= (given != true).sum() <= found.high)
    assert np.mean(held) >= 0.9


def test_where_the_score_is_the_same_the_evidence_ranks():
    """Of two tight clusters every example of the lower one has the score 1, however far down it is."""
    rng = np.random.default_rng(0)
    labels = np.zeros(200, int)
    margin = np.where(np.arange(200) < 60, -40, 40) + rng.normal(0, 1, 200)
    probs = np.tile([0.9, 0.1], (200, 1)).astype(np.float32)
    found = auditing.audit(labels, probs, in_sample=True, mean_margin=margin)
    assert (found.score[:60] == found.score[0]).all() and found.ranks_only
    np.testing.assert_array_equal(found.order[:60], np.argsort(margin)[:60])
    given = auditing.audit(labels[:4], np.array([[0.0, 1], [0.5, 0.5], [1, 0], [1e-9, 1]]))
    assert sorted(given.order) == [0, 1, 2, 3] and given.order[:2].tolist() == [0, 3]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_model_that_knows_nothing_of_the_labels_only_ranks(share):
    """One class for all, or guesses by frequency; but a network that is right about a rare class is heard."""
    rng = np.random.default_rng(0)
    labels = (np.arange(400) >= 400 * share).astype(int)
    for named in (np.zeros(400, int), (rng.random(400) >= share).astype(int)):
        probs = 0.05 + 0.9 * np.eye(2)[named]
        for in_sample in (False, True):
            found = auditing.audit(labels, probs, in_sample=in_sample)
            assert found.ranks_only and (found.low, found.high, len(found.suspects)) == (0, 400, 0)
    assert not auditing.guesses(labels, np.eye(2)[labels])
    given = np.where(rng.random(400) < 0.25, 1 - labels, labels)
    assert share == 0.99 or not auditing.guesses(given, np.eye(2)[labels])
