"""What is gathered over training: by hand on a few logits, and kept so that a run that goes on has the same."""

import types

import numpy as np
import pytest

from experiments.runs import evidence

GIVEN = np.array([0, 1, 2, 2])
LOGITS = np.array([  # a survey each; the given label's margin in the comments
    [[2, 1, 0], [0, 3, 1], [1, 1, 4], [0, 2, 1]],  # 1, 2, 3, −1
    [[0, 1, 0], [0, 3, 1], [5, 1, 4], [0, 2, 3]],  # −1, 2, −1, 1
    [[2, 1, 0], [4, 3, 1], [5, 1, 6], [0, 2, 1]],  # 1, −1, 1, −1
], np.float32)  # fmt: skip


def epoch(logits, preliminary=False):
    return types.SimpleNamespace(train_logits=logits if logits is None else [logits], preliminary=preliminary)


def gathered(surveys):
    found = [evidence.start(GIVEN)]
    for each in surveys:
        found = evidence.follow(found, each)
    return found


def test_margins_forgetting_and_the_last_probabilities(tmp_path, monkeypatch):
    for chunk in (evidence._CHUNK, 3):  # an example at a time too
        monkeypatch.setattr(evidence, "_CHUNK", chunk)
        # Neither an epoch without a survey nor one of a preliminary stage counts.
        surveys = [epoch(-LOGITS[0], preliminary=True), *map(epoch, LOGITS[:2]), epoch(None), epoch(LOGITS[2])]
        evidence.publish(tmp_path, [7], gathered(surveys))
        with np.load(tmp_path / "evidence-seed7.npz") as found:
            assert found["surveys"] == 3 and found["mean_margin"].dtype == found["pred_probs"].dtype == np.float32
            np.testing.assert_allclose(found["mean_margin"], [1 / 3, 1, 1, -1 / 3], rtol=1e-6)
            np.testing.assert_array_equal(found["forgettings"], [1, 1, 1, 1])
            np.testing.assert_array_equal(found["given"], GIVEN)
            odds = np.exp(LOGITS[2])
            np.testing.assert_allclose(found["pred_probs"], odds / odds.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(("half", "none", "kind"), [(11, 99, np.float16), (11, 11, None)])
def test_many_probabilities_are_kept_short_or_not_at_all(tmp_path, monkeypatch, half, none, kind):
    monkeypatch.setattr(evidence, "HALF", half)
    monkeypatch.setattr(evidence, "NONE", none)
    (found,) = gathered([epoch(LOGITS[0])])
    assert found.pred_probs is None if kind is None else found.pred_probs.dtype == kind
    evidence.publish(tmp_path, [0], [found])
    with np.load(tmp_path / "evidence-seed0.npz") as kept:
        assert ("pred_probs" in kept.files) == (kind is not None)


def test_a_run_that_goes_on_has_what_it_had_at_its_checkpoint(tmp_path):
    """From any checkpoint that is kept, later files notwithstanding; without one from the start."""
    for done in (1, 2, 3):
        evidence.keep(tmp_path, [0], gathered(map(epoch, LOGITS[:done])), done, 2)
    assert {file.name for file in (tmp_path / "evidence").iterdir()} == {"seed0-epoch0002.npz", "seed0-epoch0003.npz"}
    (found,) = evidence.begin(tmp_path, {0: GIVEN}, 2)
    (there,) = (tmp_path / "evidence").iterdir()
    assert there.name == "seed0-epoch0002.npz"
    for a, b in zip(evidence.follow([found], epoch(LOGITS[2]))[0], gathered(map(epoch, LOGITS))[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert evidence.begin(tmp_path, {0: GIVEN}, 0)[0].surveys == 0
    evidence.publish(tmp_path / "nowhere", [0], evidence.begin(tmp_path, {0: GIVEN}, 0))  # nothing was seen: no file
