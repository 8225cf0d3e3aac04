"""A test part for data that came without one."""

import hashlib
from collections.abc import Sequence

import numpy as np

_SMALL, _LARGE = 2_000, 20_000  # numbers of examples up to which a fifth, and from which a tenth is held out
_LEAST = 3  # examples of a class of which one can be spared


def test_share(count: int) -> float:
    """The share of `count` examples that is held out: 0.2 of few, 0.1 of many.

    >>> [round(test_share(count), 3) for count in (300, 2_000, 6_325, 10**6)]
    [0.2, 0.2, 0.15, 0.1]
    """
    position = np.log(max(count, 1) / _SMALL) / np.log(_LARGE / _SMALL)
    return float(0.2 - 0.1 * np.clip(position, 0, 1))


def hold_out_test(labels: np.ndarray, num_classes: int, ids: Sequence[str] | None = None) -> np.ndarray:
    """Which examples become the test part, bool [N]: as large a share of every class, by the labels as given.

    Of a class the share `test_share(N)` is taken, rounded down, but at least 1 where it has 3 examples or more, and
    none where it has fewer, so that small classes keep most of theirs to train on. Which ones depends on each example
    alone, on its id, or its number without `ids`, and on no seed: labels that are corrected, or examples that go, leave
    most of the test part what it was. (Of ids the last part of the path counts, so that an image may move to the folder
    of another class.)

    labels: int [N]. ids: of the examples, N of them.

    >>> labels = np.repeat([0, 1, 2], [50, 4, 2])
    >>> np.bincount(labels[hold_out_test(labels, 3)], minlength=3).tolist()
    [10, 1, 0]
    """
    ranks = np.random.default_rng(0).random(len(labels)) if ids is None else _ranks(ids)
    counts = np.bincount(labels, minlength=num_classes)
    sizes = np.floor(test_share(len(labels)) * counts).astype(int)
    sizes = np.where(counts < _LEAST, 0, np.maximum(sizes, 1))
    order = np.lexsort((ranks, labels))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the class
    held = np.zeros(len(labels), bool)
    held[order] = place < sizes[labels[order]]
    return held


def _ranks(ids: Sequence[str]) -> np.ndarray:
    """A number for each id that looks random and depends on the id alone, float64 [N]."""
    names = (each.replace("\\", "/").rpartition("/")[2] for each in ids)
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8") / 2.0**64
