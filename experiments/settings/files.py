"""What settings say of data: sizes and columns, groups of examples, trusted examples."""

import re

import numpy as np

from robustjax import data, user_code
from robustjax._checks import load_array
from robustjax.data import Dataset, tables

_GROUPING = "a function (images [N, …], labels int [N]) -> int [N], from 0"
_TRUSTED = ("npz:", "folder:", "csv:", "hf:")
_SIZED = ("folder:", "csv:", "hf:")  # of them, those whose images can be resized
OWN_GROUPS = "data"  # the grouping that came with the data


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "64" or "48x64"; None for None.

    Raises:
      ValueError: for any other text.

    Examples:
      >>> parse_image_size("64"), parse_image_size("48x64")
      ((64, 64), (48, 64))
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})(?:[x×]([1-9]\d{0,3}))?", text.strip())
    if found is None:
        raise ValueError(f"image_size={text!r}: pixels a side, or HEIGHTxWIDTH, up to 9999, is accepted.")
    return int(found[1]), int(found[2] or found[1])


def parse_columns(text: str | None) -> dict[str, str] | None:
    """What columns hold, of "path=file,label=species"; None for None.

    Raises:
      ValueError: for another text, or for what no column can hold.

    Examples:
      >>> parse_columns("path=file,annotators=ann+bob,true_label=")
      {'path': 'file', 'annotators': 'ann+bob', 'true_label': ''}
    """
    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",")]
    found = {key.strip(): name.strip() for key, _, name in parts}
    if (
        not all(equals for _, equals, _ in parts)
        or len(found) < len(parts)
        or not found.keys() <= tables.COLUMNS.keys()
    ):
        raise ValueError(
            f"columns={text!r}: WHAT=NAME, several joined by commas, is accepted; WHAT is one of "
            f"{', '.join(tables.COLUMNS)}."
        )
    return found


def pin_groups(spec: str) -> str:
    """The text of a grouping; that of a function with its file's content hash (`robustjax.user_code.pin`)."""
    return spec if spec.endswith(".npy") or spec == OWN_GROUPS else user_code.pin(spec, "groups", _GROUPING)


def read_groups(spec: str, dataset: Dataset, kept: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The groups int32 [N] of the training examples `kept`.

    Args:
      spec: FILE.npy, an int for each example of the training split; "data", the groups that came with the data; or
        FILE.py:NAME of a function that is shown the kept images and their given labels.
      dataset: the data.
      kept: int [N], positions in the training split.
      given: int [N], the labels they are given.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not give an int of at least 0 for each example.
    """
    if spec == OWN_GROUPS:
        if dataset.groups is None:
            raise ValueError(f"groups={spec!r}: {dataset.name} has no groups; FILE.npy or FILE.py:NAME is accepted.")
        return _check_groups(spec, dataset.groups, len(dataset.train_labels))[kept]
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
        raise ValueError(f"trusted={spec!r}: npz:FILE, folder:DIR, csv:FILE or hf:DIR is accepted.")


def read_trusted(spec: str, dataset: Dataset, cache_dir: str | None = None) -> Dataset:
    """The data set whose training part is the pool of trusted examples of `dataset`.

    Images take the size of those of `dataset`, texts its words and length; nothing is held out.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if its inputs or its classes are not those of `dataset`.
    """
    sized = spec.startswith(_SIZED) and dataset.train_inputs.ndim == 4
    height_width = (int(dataset.train_inputs.shape[1]), int(dataset.train_inputs.shape[2])) if sized else None
    length = None if dataset.vocabulary is None else int(dataset.train_inputs.shape[1])
    pool = data.load(
        spec, cache_dir=cache_dir, image_size=height_width, hold_out=False, max_tokens=length,
        vocabulary=dataset.vocabulary,
    )  # fmt: skip
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
