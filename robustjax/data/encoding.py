"""Labels as people write them, names or numbers, turned into class indices."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from robustjax.data.checks import check_labels

_ENOUGH = 20  # labels, to tell classes from what is different for each example


def encode_labels(
    labels: npt.ArrayLike, class_names: Sequence[str] | None = None, *, name: str = "labels"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices int32 [N] of labels as they come, and the names of the classes.

    labels: strings or whole numbers [N] (or [N, 1]): a list, an array, a column of a DataFrame. Without `class_names`
    the classes are the labels that occur, in natural order ("2" before "10", "cat" before "dog"), so that integers with
    gaps, or from 1 up, become indices without, and their names keep the numbers. With `class_names` strings are looked
    up among them and integers are positions in them.

    Raises ValueError, calling the labels `name`, for another shape or dtype, a negative integer, a label that is
    missing (None, nan, an empty string) or, with class_names, one that is not among them.

    >>> encode_labels(["dog", "cat", "dog"])
    (array([1, 0, 1], dtype=int32), ('cat', 'dog'))
    >>> encode_labels([7, 10, 2, 7])
    (array([1, 2, 0, 1], dtype=int32), ('2', '7', '10'))
    >>> encode_labels(["dog"], ["dog", "cat"])[0].tolist()
    [0]
    """
    array = as_column(labels)
    if array.ndim == 2 and array.shape[1] == 1:  # how MedMNIST and scikit-learn's columns come
        array = array[:, 0]
    array = whole_numbers(array, name)
    if array.dtype.kind not in "OSUTb":
        array = check_labels(array, None if class_names is None else len(class_names), name)
        if class_names is not None:
            return array, tuple(class_names)
        values, indices = np.unique(array, return_inverse=True)
        return indices.astype(np.int32), tuple(map(str, values.tolist()))
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected a non-empty one-dimensional array [N]")
    texts = [_text(label) for label in array.tolist()]
    names = tuple(sorted(set(texts), key=natural_key)) if class_names is None else tuple(class_names)
    numbers = {text: number for number, text in enumerate(names)}
    if "" in numbers and class_names is None:
        place = texts.index("")
        raise ValueError(f"{name} has {texts.count('')} missing label(s), the first {_shown(array, place)}")
    found = np.fromiter((numbers.get(text, -1) for text in texts), np.int32, len(texts))
    if (found < 0).any():
        unknown = np.flatnonzero(found < 0)
        shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        raise ValueError(
            f"{name} holds {len(unknown)} label(s) that are no class, the first {_shown(array, int(unknown[0]))}; "
            f"the classes are {shown}"
        )
    return found, names


def whole_numbers(labels: np.ndarray, name: str) -> np.ndarray:
    """Labels that are floats [N], as a table with a gap or a division has them, as integers; others as they are.

    Raises ValueError, calling the labels `name`, for one that is missing (nan) or no whole number.

    >>> whole_numbers(np.array([0.0, 2.0]), "labels").tolist()
    [0, 2]
    """
    if labels.dtype.kind != "f" or labels.ndim != 1:
        return labels
    if (missing := np.flatnonzero(np.isnan(labels))).size:
        raise ValueError(f"{name} has {missing.size} missing label(s), the first at index {missing[0]}")
    if (broken := np.flatnonzero((labels != np.floor(labels)) | (np.abs(labels) > np.iinfo(np.int32).max))).size:
        first = broken[0]
        raise ValueError(f"{name} has {labels[first]} at index {first}; whole numbers or strings are accepted")
    return labels.astype(np.int64)


def check_repeated(class_names: Sequence[str], count: int, name: str) -> None:
    """ValueError where so many classes have come out of `count` labels that these can be none, but ids or amounts."""
    if count >= _ENOUGH and 2 * len(class_names) > count:
        raise ValueError(
            f"{name} has {len(class_names):,} different labels for {count:,} examples; expected classes of several "
            "examples each"
        )


def natural_key(text: str) -> tuple[Any, ...]:
    """What sorts names as people do: numbers by their value, also those in names, the rest by letters.

    >>> sorted(["c10", "c9", "B", "a", "10", "2.5", "-1"], key=natural_key)
    ['-1', '2.5', '10', 'a', 'B', 'c9', 'c10']
    """
    if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", text):
        return 0, float(text), text
    pieces = re.split(r"([0-9]+)", text.casefold())
    return 1, tuple(int(piece) if i % 2 else piece for i, piece in enumerate(pieces)), text


def majority(annotations: npt.ArrayLike) -> np.ndarray:
    """The label that most annotators gave each example, int32 [N]; of equally many, the one given first in its row.

    annotations: int [N, A], −1 where an annotator gave none. Raises ValueError for another shape or dtype, or an
    example that nobody has labelled.

    >>> majority([[2, 1, 1], [0, 2, -1]]).tolist()
    [1, 0]
    """
    array = np.asarray(annotations)
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer) or array.min() < -1:
        raise ValueError(
            f"annotations have shape {array.shape}, dtype {array.dtype}; expected integers [N, A], at least -1"
        )
    votes = np.stack([(array == array[:, [a]]).sum(1) for a in range(array.shape[1])], 1)
    votes[array < 0] = 0
    if (empty := np.flatnonzero(votes.max(1) == 0)).size:
        raise ValueError(f"annotations has {empty.size} example(s) without a label, the first at index {empty[0]}")
    return np.take_along_axis(array, votes.argmax(1)[:, None], 1)[:, 0].astype(np.int32)


def as_column(values: npt.ArrayLike) -> np.ndarray:
    """Values as an array, in which what is missing beside names stays what it is and becomes no name.

    >>> as_column(["cat", float("nan")]).tolist()
    ['cat', nan]
    """
    array = np.asarray(values)
    if array.dtype.kind in "UST" and array.ndim == 1 and isinstance(values, list | tuple):
        array = np.empty(len(values), object)
        array[:] = values
    return array


def is_missing(value: Any) -> bool:
    """Whether a value of a column is none: None, nan, or what pandas has for them.

    >>> is_missing(None), is_missing(float("nan")), is_missing("nan")
    (True, True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _text(label: Any) -> str:
    """The name of a label; "" for one that is missing."""
    if is_missing(label):
        return ""
    return (label.decode() if isinstance(label, bytes) else str(label)).strip()


def _shown(labels: np.ndarray, place: int) -> str:
    """How a message calls one label."""
    return f"{labels.tolist()[place]!r} at index {place}"
