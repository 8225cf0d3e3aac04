"""The comparison of two runs' records, and of a commit that is not there."""

import doctest

from experiments.bench import same_runs

ONE = b'{"epoch": 1, "seed": 0, "loss": 0.5, "old": [1, 2]}\n'
TWO = b'{"epoch": 2, "seed": 0, "loss": 0.25, "old": [1, 2]}\n'


def test_example():
    assert doctest.testmod(same_runs).failed == 0


def test_differences_are_told_from_the_first_on():
    assert same_runs.difference(ONE + TWO, ONE + TWO) == "same"
    changed = TWO.replace(b"0.25", b"0.125")
    assert same_runs.difference(ONE + TWO, ONE + changed) == "epoch 2, seed 0: loss (the first was 0.25 and is 0.125)"
    gone = ONE.replace(b', "old": [1, 2]', b"")
    assert same_runs.difference(ONE + TWO, gone + changed) == "epoch 1, seed 0: old: gone"
    assert same_runs.difference(ONE + TWO, ONE) == "2 records were and 1 are"
    assert "another order or form" in same_runs.difference(ONE, ONE.replace(b": ", b":"))


def test_an_unknown_commit_is_refused(capsys):
    assert same_runs.main(["--against=nowhere"]) == 2
    assert "against='nowhere'" in capsys.readouterr().err
