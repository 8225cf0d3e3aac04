"""Realised label noise as numbers, a hash and a file."""

import hashlib
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustjax.data.checks import check_labels, check_num_classes


def realised_transition(clean: npt.ArrayLike, noisy: npt.ArrayLike, num_classes: int) -> np.ndarray:
    """The share of each clean class that carries each noisy label, float64 [C, C], rows clean.

    A class without examples has a row of zeros. Raises ValueError where the two differ in length.
    """
    c = check_num_classes(num_classes)
    a, b = check_labels(clean, c, "clean"), check_labels(noisy, c, "noisy")
    if len(a) != len(b):
        raise ValueError(f"noisy has {len(b)} labels and clean {len(a)}; expected one for each example")
    confusion = np.bincount(a.astype(np.int64) * c + b, minlength=c * c).reshape(c, c)
    return confusion / np.maximum(confusion.sum(1, keepdims=True), 1)


def label_hash(labels: npt.ArrayLike) -> str:
    """SHA-256, in hex, of the labels as little-endian int32: equal on every machine for equal labels."""
    return hashlib.sha256(check_labels(labels).astype("<i4").tobytes()).hexdigest()


class Noise(NamedTuple):
    """Realised label noise: what a run trained on. `labelling.Labels` begins with the same two fields."""

    kept: np.ndarray
    """int64 [M], positions of the kept examples in the data set's training split, increasing."""
    given: np.ndarray
    """int32 [M], the labels that these examples are given, perhaps wrong."""


_NOISE_FORMAT = "robustjax-noise-1"


def _noise_hash(noise: Noise) -> str:
    return hashlib.sha256(noise.given.astype("<i4").tobytes() + noise.kept.astype("<i8").tobytes()).hexdigest()


def _check_kept(kept: npt.ArrayLike, length: int) -> np.ndarray:
    array = np.asarray(kept)
    if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"kept has shape {array.shape}, dtype {array.dtype}; expected integers [{length}], one a label"
        )
    if (array < 0).any() or (np.diff(array) <= 0).any():
        raise ValueError("kept is not a strictly increasing list of indices from 0")
    return array.astype(np.int64)


def save_noise(
    path: str | os.PathLike[str],
    given: npt.ArrayLike,
    kept: npt.ArrayLike,
    *,
    clean_labels: npt.ArrayLike | None = None,
) -> Noise:
    """Writes the labels given to the kept examples [M] and their positions [M] to an npz file, atomically.

    clean_labels: the training labels of the whole data set; their hash goes in, so that `load_noise` can refuse
    another data set. The file is written under exactly `path`. Raises ValueError for labels or indices that do not fit.
    """
    labels = check_labels(given, name="given")
    noise = Noise(_check_kept(kept, len(labels)), labels)
    source = "" if clean_labels is None else label_hash(clean_labels)
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        np.savez_compressed(
            file, format=_NOISE_FORMAT, labels=noise.given, kept=noise.kept, source=source, hash=_noise_hash(noise)
        )
    os.replace(partial, path)
    return noise


def load_noise(path: str | os.PathLike[str], *, clean_labels: npt.ArrayLike | None = None) -> Noise:
    """Reads what `save_noise` wrote.

    Raises FileNotFoundError, or ValueError for a damaged or foreign file or one made for other `clean_labels`.
    """
    what = f"noise file {os.fspath(path)!r}"
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{what} does not exist")
    try:
        # A file of our own, since NumPy leaves its own open where it finds it damaged.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            stored = {name: file[name] for name in ("format", "labels", "kept", "source", "hash")}
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds for a damaged file
        raise ValueError(f"{what} is damaged or not one that save_noise wrote: {error}") from error
    if str(stored["format"]) != _NOISE_FORMAT:
        raise ValueError(f"{what} has format {stored['format']}; expected {_NOISE_FORMAT}")
    labels = check_labels(stored["labels"])  # the file keeps the name that it has always had
    noise = Noise(_check_kept(stored["kept"], len(labels)), labels)
    if _noise_hash(noise) != str(stored["hash"]):
        raise ValueError(f"{what} is damaged: its labels do not match their hash")
    source = str(stored["source"])
    if clean_labels is not None and source and label_hash(clean_labels) != source:
        raise ValueError(
            f"{what} was made for other training labels than these "
            f"(hash {source[:12]}… against {label_hash(clean_labels)[:12]}…): another data set, version or order"
        )
    return noise
