"""Files that settings name: labels that somebody gave, groups of examples, trusted examples."""

import pathlib

import numpy as np

from robustjax import data, user_code
from robustjax._checks import load_array
from robustjax.data import Dataset

_GROUPING = "a function (images [N, …], labels int [N]) -> int [N], from 0"
_TRUSTED = ("npz:", "folder:")


def read_labels(spec: str) -> np.ndarray:
    """Labels from FILE.npy, or from one array of an archive, FILE.npz:NAME.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not of this form, or has no such array.
    """
    place, colon, name = spec.rpartition(":")
    path = pathlib.Path(place if colon and place.endswith(".npz") else spec)
    if not path.is_file():
        raise FileNotFoundError(f"labels={spec!r}: there is no file {str(path)!r}.")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if str(path) == spec or name not in found.files:
                raise KeyError(f"the arrays of {path.name} are {', '.join(found.files)}: FILE.npz:NAME takes one")
            return np.asarray(found[name])
    except Exception as error:  # NumPy raises half a dozen kinds for a damaged file
        raise ValueError(f"labels={spec!r}: {error}.") from error


def pin_groups(spec: str) -> str:
    """The text of a grouping; that of a function with its file's content hash (`robustjax.user_code.pin`)."""
    return spec if spec.endswith(".npy") else user_code.pin(spec, "groups", _GROUPING)


def read_groups(spec: str, dataset: Dataset, kept: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The groups int32 [N] of the training examples `kept`.

    Args:
      spec: FILE.npy, an int for each example of the training split, or FILE.py:NAME of a function that is shown the
        kept images and their given labels.
      dataset: the data.
      kept: int [N], positions in the training split.
      given: int [N], the labels they are given.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not give an int of at least 0 for each example.
    """
    if spec.endswith(".npy"):
        return _check_groups(spec, load_array("groups", spec), len(dataset.train_labels))[kept]
    function = user_code.load(spec, "groups", _GROUPING)
    return _check_groups(spec, np.asarray(function(dataset.train_inputs[kept], given)), len(kept))


def _check_groups(spec: str, groups: np.ndarray, count: int) -> np.ndarray:
    """Groups as int32, refused unless they are `count` integers of at least 0, and fewer than examples."""
    if groups.shape != (count,) or not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(
            f"groups={spec!r} must be an int for each of {count} examples, got {groups.dtype} {groups.shape}."
        )
    if groups.min() < 0 or groups.max() >= count:
        raise ValueError(f"groups={spec!r} must be numbered from 0, got {groups.min()} … {groups.max()}.")
    return groups.astype(np.int32)


def check_trusted(spec: str) -> None:
    """Raises ValueError unless `spec` has the form of a source of trusted examples."""
    if not spec.startswith(_TRUSTED):
        raise ValueError(f"trusted={spec!r}: npz:FILE or folder:DIR is accepted.")


def read_trusted(spec: str, dataset: Dataset, cache_dir: str | None = None) -> Dataset:
    """The data set whose training part is the pool of trusted examples of `dataset`.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if its inputs or its classes are not those of `dataset`.
    """
    pool = data.load(spec, cache_dir=cache_dir)
    mine, theirs = ((each.train_inputs.dtype, each.train_inputs.shape[1:]) for each in (dataset, pool))
    if mine != theirs:
        raise ValueError(
            f"trusted={spec!r} holds {theirs[0]} {list(theirs[1])} each; {dataset.name} holds {mine[0]} "
            f"{list(mine[1])}."
        )
    # An archive without names has its classes numbered as the data set's are.
    unnamed = pool.class_names == tuple(map(str, range(pool.num_classes)))
    if pool.num_classes != dataset.num_classes or not (unnamed or pool.class_names == dataset.class_names):
        raise ValueError(
            f"trusted={spec!r} has the classes {_shown(pool)}; {dataset.name} has {_shown(dataset)}, in this order."
        )
    return pool


def _shown(dataset: Dataset) -> str:
    return ", ".join(dataset.class_names[:20]) + (" …" if dataset.num_classes > 20 else "")
