"""Checks of hyperparameters: clear errors for concrete values, silence for traced ones."""

import os
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike


def check(name: str, value: Any, accepted: Callable[[np.ndarray], Any], description: str) -> None:
    """Raises ValueError unless `accepted(value)` holds for every element.

    A traced value is let through: its number is not known while the function is compiled.

    Args:
      name: the argument's name, for the message.
      value: a number or array; under a transformation perhaps a tracer.
      accepted: maps the value as a NumPy array to a truth value or an array of them.
      description: what is accepted, completing the sentence "`name` must be …".
    """
    if isinstance(value, jax.core.Tracer):
        return
    if not np.all(accepted(np.asarray(value))):
        raise ValueError(f"{name} must be {description}, got {value!r}")


def check_choice(name: str, value: Any, accepted: Collection[Any]) -> None:
    """Raises ValueError unless `value` is one of `accepted`, which the message lists."""
    if value not in accepted:
        raise ValueError(f"{name}={value!r} is none of {', '.join(map(str, accepted))}.")


def load_array(name: str, path: str, member: str | None = None) -> np.ndarray:
    """The array of numbers in the .npy file at `path`, or the one called `member` in an .npz file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, holds something else, or has no such array; both name the argument and the file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{name}={path!r}: there is no such file.")
    try:
        # A file of our own, since NumPy leaves its own open where it finds it damaged.
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            there = None if isinstance(found, np.ndarray) else found.files
            if there is not None:
                found = found[member] if member in there else None
    except Exception as error:  # NumPy raises half a dozen kinds for a damaged file
        raise ValueError(f"{name}={path!r} is no readable file of an array: {error}") from error
    if found is None:
        lacks = "is an archive" if member is None else f"has no {member}"
        raise ValueError(f"{name}={path!r} {lacks}, only {', '.join(there or ()) or 'nothing'}.")
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{name}={path!r} holds {found.dtype}; numbers are accepted.")
    return found


def check_class_vector(name: str, value: ArrayLike, num_classes: int) -> None:
    """Raises ValueError unless `value` has shape `[num_classes]`."""
    if np.shape(value) != (num_classes,):
        raise ValueError(f"{name} must have shape ({num_classes},), one entry a class, got {np.shape(value)}")


def check_positive_counts(name: str, value: ArrayLike) -> None:
    """Raises ValueError unless `value` is a vector of positive finite numbers."""
    if np.ndim(value) != 1:
        raise ValueError(f"{name} must have shape [C], one entry a class, got shape {np.shape(value)}")
    check(name, value, lambda counts: np.isfinite(counts) & (counts > 0), "positive and finite for every class")
