"""Labels that people gave, from files as they are published: arrays of NumPy, and CIFAR-10-N's and CIFAR-100-N's own.

CIFAR-N (Wei et al., "Learning with Noisy Labels Revisited", ICLR 2022) comes as a file of torch's, `CIFAR-10_human.pt`,
a dictionary of NumPy arrays in the order of CIFAR's own files. It is read here without torch and without running
anything that a pickle can hold: only arrays are accepted.
"""

import io
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from robustjax.data import Dataset
from robustjax.data.encoding import encode_labels, majority

CIFAR_N = ("cifar10n", "cifar100n")
# What the sets of labels are called in a command, and in the files.
_NAMES = {
    "worse": "worse_label", "aggre": "aggre_label", "aggregate": "aggre_label", "random1": "random_label1",
    "random2": "random_label2", "random3": "random_label3", "noisy": "noisy_label", "clean": "clean_label",
}  # fmt: skip
_ANNOTATORS = ("random_label1", "random_label2", "random_label3")
_FORMS = "FILE.npy, FILE.npz:NAME or cifar10n:NAME:FILE is accepted"


def read(spec: str, dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels int32 [N] that `spec` gives the training examples, and those of their annotators int32 [N, A], if any.

    Args:
      spec: FILE.npy or FILE.npz:NAME with an array [N], in the order of the data set's training part, or [N, A] of A
        annotators (−1: none), of whose labels the most frequent is taken; or cifar10n:NAME:FILE, NAME one of worse,
        aggregate, random1, random2, random3 (cifar100n: noisy), of a .pt or .npz file in any order.
      dataset: the data.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not of this form, has no such array, or holds labels of other examples or classes.
    """
    kind, _, rest = spec.partition(":")
    try:
        if kind in CIFAR_N:
            name, _, file = rest.partition(":")
            return _cifar_n(name, _existing(spec, file), dataset)
        place, colon, name = spec.rpartition(":")
        path = _existing(spec, place if colon and place.endswith(".npz") else spec)
        if path.suffix in (".pt", ".pth"):
            raise ValueError("labels of CIFAR-10-N in torch's file are taken by cifar10n:NAME:FILE")
        found = _array(path, name if str(path) != spec else None)
        if found.ndim == 2 and found.shape[1] > 1:
            return _fit(majority(found), dataset), _fit(found, dataset)
        return _fit(encode_labels(found, dataset.class_names, name="it")[0], dataset), None
    except ValueError as error:
        raise ValueError(f"labels={spec!r}: {error}.") from error


def _existing(spec: str, file: str) -> pathlib.Path:
    path = pathlib.Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"labels={spec!r}: there is no file {str(path)!r}; {_FORMS}.")
    return path


def _fit(labels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Labels [N] or [N, A] as int32, or a ValueError unless they are of the classes, one (a row) for each example."""
    if len(labels) != len(dataset.train_labels):
        more = (
            f" for training, and {len(dataset.test_labels)} are held out for a test part"
            if dataset.test_held_out
            else ""
        )
        raise ValueError(
            f"it has labels of {len(labels)} examples; {dataset.name} has {len(dataset.train_labels)}{more}"
        )
    if labels.max() >= dataset.num_classes:
        raise ValueError(f"it has the label {labels.max()}; {dataset.name} has {dataset.num_classes} classes, from 0")
    return labels.astype(np.int32)


def _array(path: pathlib.Path, name: str | None) -> np.ndarray:
    """A file's array, or the one of this name in an archive."""
    try:
        with open(path, "rb") as opened:
            found = np.load(opened, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            with found:
                if name is None or name not in found.files:
                    raise KeyError(f"the arrays of {path.name} are {', '.join(found.files)}: FILE.npz:NAME takes one")
                return np.asarray(found[name])
    except Exception as error:  # NumPy raises half a dozen kinds for a damaged file
        raise ValueError(str(error.args[0] if isinstance(error, KeyError) else error)) from error


def _cifar_n(name: str, path: pathlib.Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = read_arrays(path)
    key = _NAMES.get(name, name)
    if key not in arrays:
        raise ValueError(f"{path.name} has no {key!r}; it has {', '.join(arrays)}")
    order = _order(arrays, dataset, path.name)
    columns = [arrays[each] for each in _ANNOTATORS if each in arrays]
    annotations = _fit(np.stack(columns, 1)[order], dataset) if len(columns) > 1 else None
    return _fit(np.asarray(arrays[key])[order], dataset), annotations


def _order(arrays: Mapping[str, np.ndarray], dataset: Dataset, name: str) -> np.ndarray:
    """Where in the file each training example is: in the order of the data set, or of CIFAR's own files.

    Its clean labels tell which of them it is.
    """
    count, truth = len(dataset.train_labels), arrays.get("clean_label")
    orders = [np.arange(count)] + ([] if dataset.train_order is None else [np.asarray(dataset.train_order)])
    if truth is None:
        return orders[-1]
    if len(truth) != count:
        raise ValueError(f"{name} has labels of {len(truth)} examples; {dataset.name} has {count}")
    for order in orders:
        if np.array_equal(truth[order], dataset.train_labels):
            return order
    raise ValueError(f"the clean labels of {name} are not those of {dataset.name}, in no order that is known")


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or of a .pt file that holds a dictionary of NumPy arrays and nothing else.

    Raises:
      ValueError: for any other file.
    """
    try:
        with open(path, "rb") as opened:
            if path.suffix not in (".pt", ".pth"):
                with np.load(opened, allow_pickle=False) as file:
                    return {key: file[key] for key in file.files}
            found = _unpickled(opened)
    except Exception as error:
        raise ValueError(
            f"{path.name} is neither an npz file nor torch's of a dictionary of NumPy arrays ({error}); with torch: "
            "numpy.savez('labels.npz', **torch.load('labels.pt', weights_only=False))"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(each, np.ndarray) for each in found.values()):
        raise ValueError(f"{path.name} holds something else than a dictionary of NumPy arrays")
    return {str(key): array for key, array in found.items()}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that makes nothing but NumPy arrays and what is built in; a class because pickle asks for one."""

    def find_class(self, module: str, name: str) -> Any:
        made = np.empty(0).__reduce__()[
            0
        ]  # NumPy's own function for arrays, whose place differs from version to version
        number = np.float64(0).__reduce__()[0]
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("multiarray", "_reconstruct"): made,
            ("multiarray", "scalar"): number,
            ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
        }
        where = "multiarray" if module in ("numpy.core.multiarray", "numpy._core.multiarray") else module
        if (where, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")
        return allowed[where, name]


def _unpickled(file: BinaryIO) -> Any:
    """What `torch.save` wrote: an archive with one pickle or, before torch 1.6, four headers before the pickle."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith("/data.pkl"))
            return _ArraysOnly(io.BytesIO(archive.read(name))).load()
    file.seek(0)
    for _ in range(3):  # magic number, version, what the system is
        _ArraysOnly(file).load()
    return _ArraysOnly(file).load()
