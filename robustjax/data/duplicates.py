"""Examples that are there twice under different labels: of the two labels one at least is wrong.

Equal inputs are found by a hash of their bytes. Images that are nearly equal (scaled, compressed anew) are found by a
difference hash of 64 bits: only neighbours in the order of the hash, and in that of its halves exchanged, are compared,
so that a million images take seconds; a pair whose hashes differ in both halves is missed. What is compared is a
thumbnail of 16×16 grey values, so that a shifted or a cropped copy is another image.
"""

from typing import NamedTuple

import numpy as np

from robustjax.data.inspection import first_alike

_SIDE = 16  # of thumbnails
_NEIGHBOURS = 4
_RISE = 6.0  # of 255, from a block to the next: more than what compression makes of an even ground
_CORRELATION, _DIFFERENCE = 0.995, 8.0  # of two thumbnails: at least, and at most (mean absolute, of 255)
_CHUNK = 4096


class Pairs(NamedTuple):
    """Pairs of examples with one image and two labels: positions `first` < `second`, int64 [P], and `exact` bool [P].

    Where `exact` is False the images are nearly equal.
    """

    first: np.ndarray
    second: np.ndarray
    exact: np.ndarray


def differently_labelled(inputs: np.ndarray, labels: np.ndarray) -> Pairs:
    """Equal inputs with different labels, and nearly equal images with different labels.

    Of several equal inputs each is paired with the first one that has another label.

    Args:
      inputs: [N, …]; uint8 [N, H, W, C] with sides of at least 8 are also compared as images. May be memory-mapped.
      labels: integers [N].

    Returns:
      Pairs in the order of `first`, exact ones first.

    Raises:
      ValueError: there are not as many labels as inputs.

    Examples:
      >>> inputs = np.array([[1, 2], [3, 4], [1, 2], [1, 2]])
      >>> found = differently_labelled(inputs, np.array([0, 0, 1, 0]))
      >>> found.first.tolist(), found.second.tolist(), found.exact.tolist()
      ([0, 2], [2, 3], [True, True])
    """
    labels = np.asarray(labels)
    if labels.shape != (len(inputs),):
        raise ValueError(f"labels have shape {labels.shape} for {len(inputs)} inputs; expected one for each")
    group = first_alike(inputs)
    found = dict.fromkeys(_in_groups(group, labels), True)
    if inputs.ndim == 4 and inputs.dtype == np.uint8 and min(inputs.shape[1:3]) >= 8:
        for pair in _near(inputs, labels, group):
            found.setdefault(pair, False)
    ordered = sorted(found, key=lambda pair: (not found[pair], pair))
    columns = np.array(ordered, np.int64).reshape(-1, 2)
    return Pairs(columns[:, 0], columns[:, 1], np.array([found[pair] for pair in ordered], bool))


def _in_groups(group: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
    """Each member of a group with the first member that has another label; nothing where all have the same."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    pairs: dict[tuple[int, int], None] = {}
    for members in np.split(order, starts[1:]) if len(order) else []:
        if len(members) < 2:
            continue
        others = members[labels[members] != labels[members[0]]]
        if not len(others):
            continue
        for member in members.tolist():
            other = int(others[0] if labels[member] == labels[members[0]] else members[0])
            pairs[min(member, other), max(member, other)] = None
    return list(pairs)


def _near(images: np.ndarray, labels: np.ndarray, group: np.ndarray) -> list[tuple[int, int]]:
    thumbnails = np.concatenate(
        [_thumbnails(np.asarray(images[start : start + _CHUNK])) for start in range(0, len(images), _CHUNK)]
    )
    blocks = _shrink(thumbnails.astype(np.float32), 8)
    rises = np.roll(blocks, -1, 2) - blocks > _RISE
    bits = np.packbits(rises.reshape(len(images), 64), axis=1)
    spread = thumbnails.astype(np.float32).std((1, 2))
    found: list[tuple[int, int]] = []
    for columns in (range(8), (4, 5, 6, 7, 0, 1, 2, 3)):
        order = np.lexsort([bits[:, column] for column in reversed(columns)])
        for step in range(1, 1 + _NEIGHBOURS):
            a, b = order[:-step], order[step:]
            # One colour is like any other of its brightness: such images are found where they are equal only.
            candidates = (labels[a] != labels[b]) & (group[a] != group[b]) & (np.minimum(spread[a], spread[b]) > 4)
            a, b = a[candidates], b[candidates]
            for start in range(0, len(a), _CHUNK):
                one, two = a[start : start + _CHUNK], b[start : start + _CHUNK]
                alike = _alike(thumbnails[one].astype(np.float32), thumbnails[two].astype(np.float32))
                found += zip(np.minimum(one, two)[alike].tolist(), np.maximum(one, two)[alike].tolist(), strict=True)
    return found


def _alike(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Whether thumbnails [B, S, S] show the same: bool [B]."""
    difference = np.abs(one - two).mean((1, 2))
    one, two = one - one.mean((1, 2), keepdims=True), two - two.mean((1, 2), keepdims=True)
    norm = np.sqrt((one**2).sum((1, 2)) * (two**2).sum((1, 2)))
    return ((one * two).sum((1, 2)) >= _CORRELATION * norm) & (difference <= _DIFFERENCE)


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Grey uint8 [B, S, S] of uint8 [B, H, W, C], S at most 16."""
    return np.round(_shrink(images.astype(np.float32).mean(-1), min(_SIDE, *images.shape[1:3]))).astype(np.uint8)


def _shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Means over side × side blocks of [B, H, W]."""
    for axis in (1, 2):
        size = images.shape[axis]
        edges = np.arange(side) * size // side
        counts = np.diff(edges, append=size).astype(np.float32)
        images = np.add.reduceat(images, edges, axis) / counts.reshape((-1, 1) if axis == 1 else (-1,))
    return images
