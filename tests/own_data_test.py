"""Sources of one's own data: folders, CSV files, archives and arrays; what is held out, classes, duplicates."""

import numpy as np
import pytest

from robustjax.data import encode_labels, encoding

# Labels.


def test_labels_of_all_kinds_become_indices_with_their_names():
    for labels, indices, names in (
        (["10", "2", "2"], [1, 0, 0], ("2", "10")),
        (np.array([1, 3, 3], np.uint8), [0, 1, 1], ("1", "3")),
        (np.array([["b"], ["a"]]), [1, 0], ("a", "b")),
        (np.array([3, "x", " x "], object), [0, 1, 1], ("3", "x")),
        ([True, False], [1, 0], ("False", "True")),
        ([b"cat", b"ant"], [1, 0], ("ant", "cat")),
    ):
        found, found_names = encode_labels(labels)
        assert found.dtype == np.int32 and found.tolist() == indices and found_names == names
    assert encode_labels(["b", "a"], ["b", "c", "a"])[0].tolist() == [0, 2]
    assert encode_labels([2, 0], ["b", "c", "a"])[0].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        (["a", None, "b"], None, r"y has 1 missing label\(s\), the first None at index 1"),
        (np.array(["a", float("nan")], object), None, "missing label.*nan at index 1"),
        (["a", ""], None, "missing label.*'' at index 1"),
        (["a", "zebu"], ["a", "b"], "y holds 1 label.*no class, the first .*'zebu'.* at index 1; the classes are a, b"),
        ([0, 2], ["a", "b"], "y holds 1 value.*first 2 at index 1; accepted are 0 to 1"),
        ([0, -1], None, "y holds 1 value.*first -1"),
        ([0.5, 1.0], None, "y has dtype float64"),
        (np.eye(3, dtype=int), None, r"y has shape \(3, 3\)"),
        ([], None, r"y has shape \(0,\)"),
    ],
)
def test_labels_that_are_none_are_told(labels, names, told):
    with pytest.raises(ValueError, match=told):
        encode_labels(labels, names, name="y")


def test_majority_of_annotators():
    assert encoding.majority([[0, 1, 1], [2, 1, 0], [-1, -1, 3]]).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"1 example.*without a label, the first at index 1"):
        encoding.majority([[0, 1], [-1, -1]])
