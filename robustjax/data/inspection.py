"""What is worth knowing of a data set before it is trained on: examples that are there twice, classes of a few."""

import hashlib
from collections.abc import Sequence

import numpy as np

from robustjax.data.sources import Dataset

_FEW = 5  # a class with fewer training examples is told of
_SHOWN = 3
_CHUNK_BYTES = 2**25
_LOOKED_AT = 2**13


def first_alike(*parts: np.ndarray) -> np.ndarray:
    """For each example the position of the first one with exactly the same content, int64 [N]; of most, their own.

    parts: arrays [N₁, …], [N₂, …] of one dtype and shape of example, counted through, N = N₁ + N₂ + …. They are read
    in pieces, and of large examples only where 8 KiB in their middle are equal, so that memory-mapped ones need not fit
    the memory: beside them it takes some 50 bytes an example.

    >>> first_alike(np.array([[1, 2], [3, 4], [1, 2]]), np.array([[3, 4]])).tolist()
    [0, 1, 0, 1]
    """
    hashes = np.concatenate([_hashes(part) for part in parts])
    starts = np.cumsum([0, *map(len, parts)])
    found = np.arange(len(hashes))
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])  # pairs of neighbours in this order

    def row(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, "right")) - 1
        return hashlib.blake2b(parts[part][i - starts[part]].tobytes(), digest_size=16).digest()

    group, first_of = -1, dict[bytes, int]()
    for k in same.tolist():  # equal hashes come in rows; equality of the content itself decides
        if k != group:
            first_of = {row(int(order[k])): int(order[k])}
        group = k + 1
        i = int(order[k + 1])
        found[i] = first_of.setdefault(row(i), i)
    return found


def _hashes(array: np.ndarray) -> np.ndarray:
    """A number uint64 [N] for the content of each row: a sum of its words times odd random numbers, modulo 2⁶⁴.

    Of rows above 8 KiB it is that of so much in their middle.
    """
    if not len(array):
        return np.empty(0, np.uint64)
    size = array[0].nbytes
    first = max(0, (size - _LOOKED_AT) // 2)
    used = min(size, _LOOKED_AT)
    width = -(-used // 8)
    factors = np.random.default_rng(0).integers(0, 2**63, width, np.uint64) * np.uint64(2) + np.uint64(1)
    step = max(1, _CHUNK_BYTES // (8 * width))
    sums = []
    for start in range(0, len(array), step):
        some = array[start : start + step]
        some = some if some.flags.c_contiguous else np.ascontiguousarray(some)
        rows = some.reshape(len(some), -1).view(np.uint8)[:, first : first + used]
        rows = np.pad(rows, ((0, 0), (0, 8 * width - used))) if used % 8 else np.ascontiguousarray(rows)
        sums.append(rows.view(np.uint64) @ factors)
    return np.concatenate(sums)


def inspect(dataset: Dataset) -> tuple[str, ...]:
    """Sentences on what may be wrong with a data set: exact copies, classes with fewer than 5 training examples.

    Copies are told apart by whether they carry the label of the first one, and those in the test part that are in the
    training part too are counted. There is no sentence where there is nothing to tell.

    A million images of 28×28 take half a second on one core; larger ones in proportion.
    """
    train, test = dataset.train_inputs, dataset.test_inputs
    alike = first_alike(train, test)
    count = len(train)
    copies = np.flatnonzero(alike[:count] != np.arange(count))
    leaked = int((alike[count:] < count).sum())
    told = []
    if len(copies):
        other = copies[dataset.train_labels[copies] != dataset.train_labels[alike[copies]]]
        text = f"exact copies of another training example: {len(copies):,}"
        if len(other):
            pairs = [f"{_named(dataset, alike[i])} and {_named(dataset, i)}" for i in other[:_SHOWN].tolist()]
            text += f", {len(other):,} of them with another label than it ({_listed(pairs, len(other))})"
        else:
            names = [_named(dataset, i) for i in copies[:_SHOWN].tolist()]
            text += f", with the same label ({_listed(names, len(copies))})"
        told.append(text + ".")
    if leaked:
        told.append(
            f"{leaked:,} of the {len(test):,} test examples are also in the training part, which makes the test "
            "accuracy too high."
        )
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    small = np.flatnonzero(counts < _FEW)
    if len(small):
        names = [
            f"{dataset.class_names[c]} ({counts[c]})" for c in small[np.argsort(counts[small], kind="stable")][:10]
        ]
        told.append(f"classes with fewer than {_FEW} training examples: {_listed(names, len(small))}.")
    return tuple(told)


def _named(dataset: Dataset, i: int) -> str:
    return f"number {i}" if dataset.train_ids is None else dataset.train_ids[i]


def _listed(names: Sequence[str], total: int) -> str:
    return ", ".join(names) + (", …" if total > len(names) else "")
