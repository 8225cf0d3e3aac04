"""Checks and host-side randomness shared by the modules of this package."""

import jax
import numpy as np
import numpy.typing as npt

Key = int | np.integer | np.random.Generator | jax.Array | np.ndarray


def check_labels(labels: npt.ArrayLike, num_classes: int | None = None, name: str = "labels") -> np.ndarray:
    """Labels as int32 [N], or an error that names the first bad entry.

    Raises ValueError unless `labels` is a non-empty one-dimensional integer array with values in 0 … num_classes - 1
    (0 and above where `num_classes` is None).
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected a non-empty one-dimensional array [N]")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} has dtype {array.dtype}; expected integers (class indices from 0)")
    top = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    bad = np.flatnonzero((array < 0) | (array > top))
    if bad.size:
        raise ValueError(
            f"{name} holds {bad.size} value(s) out of range, the first {array[bad[0]]} at index {bad[0]}; "
            f"accepted are 0 to {top}"
        )
    return array.astype(np.int32)


def check_rate(rate: float, name: str = "rate") -> float:
    """A probability as a float, or a TypeError or ValueError."""
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        raise TypeError(f"{name} is {rate!r} ({type(rate).__name__}); expected a number from 0 to 1")
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} is {rate!r}; expected a number from 0 to 1")
    return float(rate)


def check_num_classes(num_classes: int) -> int:
    """The number of classes, an int of at least 2, or a ValueError."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 2:
        raise ValueError(f"num_classes is {num_classes!r}; expected an integer of at least 2")
    return int(num_classes)


def check_counts(counts: npt.ArrayLike, name: str, num_classes: int | None = None) -> np.ndarray:
    """Class counts as int64 [C], C at least 2 and none negative, or a ValueError."""
    array = np.asarray(counts)
    if array.ndim != 1 or array.size < 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} has shape {array.shape}, dtype {array.dtype}; expected integers [C], at least 2 classes"
        )
    if num_classes is not None and array.size != num_classes:
        raise ValueError(f"{name} has {array.size} entries; expected one for each of the {num_classes} classes")
    if (array < 0).any():
        raise ValueError(f"{name}[{int(np.argmax(array < 0))}] is negative; expected counts of at least 0")
    return array.astype(np.int64)


def refuse_empty(counts: np.ndarray, name: str, hint: str) -> np.ndarray:
    """The counts as they are, or a ValueError that names the first class without an example."""
    if (counts < 1).any():
        c = int(np.argmax(counts < 1))
        raise ValueError(f"{name}[{c}] = {counts[c]} leaves class {c} without an example; {hint}")
    return counts


def generator(key: Key) -> np.random.Generator:
    """A NumPy Generator from an int seed or a JAX key (typed or raw); a Generator is returned as it is."""
    if isinstance(key, np.random.Generator):
        return key
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if key < 0:
            raise ValueError(f"key is {key}; expected a seed of at least 0")
        return np.random.Generator(np.random.PCG64(int(key)))
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    data = np.asarray(key) if isinstance(key, jax.Array | np.ndarray) else None
    if data is None or data.dtype != np.uint32 or data.ndim != 1:
        raise TypeError(f"key is {key!r}; expected an int seed, a numpy.random.Generator or one JAX PRNG key")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(word) for word in data])))


def choose(rng: np.random.Generator, indices: np.ndarray, count: int) -> np.ndarray:
    """`count` of the indices, uniformly without replacement, in random order."""
    return indices[np.argsort(rng.random(len(indices)), kind="stable")[:count]]
