"""Data sets as arrays: the embedded digits, TFDS image and text sets, one's own arrays, npz files and folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustjax.data import folder_source, text, tfds_source
from robustjax.data.array_cache import (
    Progress,
    channel_statistics,
    check_image_size,
    default_cache_dir,
)
from robustjax.data.checks import check_labels
from robustjax.data.corruptions import subsample


class Dataset(NamedTuple):
    """A classification set, in memory or memory-mapped; the arrays may be read-only."""

    name: str
    train_inputs: np.ndarray
    """uint8 [N, H, W, C], or float32 or int32 [N, …] for anything else; token ids are int32 [N, L], 0 for padding."""
    train_labels: np.ndarray
    """int32 [N], 0 to num_classes - 1."""
    test_inputs: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, in the images' units (0 to 255 for uint8), or per feature of float vectors; (0.0,) for others."""
    std: tuple[float, ...]
    train_order: np.ndarray | None = None
    """int32 [N]: example i is number train_order[i] of the original files (CIFAR), where that is known.

    Labels in the original order are `original[train_order] = train_labels`.
    """
    vocabulary: tuple[str, ...] | None = None
    """The words by token id, for texts; `robustjax.data.text.encode` numbers other texts alike."""
    true_labels: np.ndarray | None = None
    """int32 [N]: what the training examples truly are; None where nobody knows."""
    train_ids: tuple[str, ...] | None = None
    """What each training example is called where it came from, a path or an id; None: only its number is known."""
    test_held_out: bool = False
    """Whether the test part was held out of the training data, its labels as given: some may be wrong."""
    annotations: np.ndarray | None = None
    """int32 [N, A]: the labels of A annotators, −1 where one gave none; None for a single label each."""
    groups: np.ndarray | None = None
    """int32 [N]: a group of each training example that came with the data (HAR's, say)."""

    @property
    def num_tokens(self) -> int | None:
        """How many token ids there are: of the vocabulary, else of int32 [N, L] arrays from 0 up; None for others."""
        if self.vocabulary is not None:
            return len(self.vocabulary)
        arrays = (self.train_inputs, self.test_inputs)
        if self.train_inputs.dtype != np.int32 or self.train_inputs.ndim != 2 or min(a.min() for a in arrays) < 0:
            return None
        return 1 + int(max(a.max() for a in arrays))


# Published normalisation constants, 0 to 255: Dynamic Loss for CIFAR, SR for MNIST. Other sets: from their images.
_STATISTICS = {
    "cifar10": ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
    "cifar100": ((129.304, 124.070, 112.434), (68.170, 65.392, 70.418)),
    "mnist": ((0.1307 * 255,), (0.3081 * 255,)),
}


def names() -> tuple[str, ...]:
    """What `load` knows by name: the embedded `digits`, then every TFDS set (images and texts can be loaded)."""
    return ("digits", *tfds_source.registered_names())


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    image_size: int | tuple[int, int] | None = None,
    max_tokens: int | None = None,
    vocabulary_size: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """A data set by name, as arrays.

    name: `digits` (scikit-learn's 8×8 digits, 130 a class for training); a TFDS image or text classification set, also
    as `name/config:version`; `npz:FILE` with the arrays of `from_arrays` by their names; or `folder:PATH` with images
    in `train/CLASS/` and `test/CLASS/` (or `validation`, `val`).
    data_dir: where TFDS finds or puts prepared files (its own default: `$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
    cache_dir: images and texts are decoded once into it (default `$XDG_CACHE_HOME` or `~/.cache`,
    `/robustjax/datasets`).
    download: whether TFDS may fetch what is not prepared; TensorFlow is neither needed nor imported.
    image_size: side or (height, width) to which images of a TFDS set or a folder are resized.
    max_tokens: texts only: how many of a text's last tokens are kept (256).
    vocabulary_size: texts only: ids of the padding, of unknown words and of the most frequent training words (20,000).
    progress: called as progress(done, total) while images or texts are decoded.

    Raises ValueError for an unknown name (with the nearest), a set that is not image or text classification, an option
    that is not for this kind of data, or images of unequal size without `image_size`; FileNotFoundError, with the steps
    to take, for data that is not there.
    """
    size = check_image_size(image_size)
    kind, _, rest = name.partition(":")
    if kind in ("npz", "digits"):
        tfds_source.refuse(kind, "not resized", {"image_size": image_size})
    if kind in ("npz", "digits", "folder"):
        tfds_source.refuse(kind, "not texts", {"max_tokens": max_tokens, "vocabulary_size": vocabulary_size})
    if name == "digits":
        return _digits()
    if kind == "npz":
        return _from_npz(Path(os.path.expanduser(rest)))
    cache = Path(os.path.expanduser(cache_dir)) if cache_dir is not None else default_cache_dir()
    if kind == "folder":
        return _assemble(*folder_source.read(Path(os.path.expanduser(rest)), cache, image_size=size, progress=progress))
    arrays, mean, std, class_names = tfds_source.read(
        name, data_dir, cache, download=download, image_size=size, max_tokens=max_tokens,
        vocabulary_size=vocabulary_size, progress=progress, other_names=("digits",),
    )  # fmt: skip
    mean, std = _STATISTICS.get(name.split(":")[0].split("/")[0], (mean, std))
    found = _assemble(name, arrays, mean, std, class_names)
    return found._replace(true_labels=found.train_labels)  # a benchmark's labels count as true, as its papers have it


def _assemble(
    name: str,
    arrays: dict[str, np.ndarray],
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
) -> Dataset:
    """A Dataset from decoded arrays."""
    num_classes = len(class_names)
    order = arrays["train_order"]
    known = np.array_equal(np.sort(order), np.arange(len(order)))
    return Dataset(
        name,
        arrays["train_images"],
        check_labels(arrays["train_labels"], num_classes, f"{name} train labels"),
        arrays["test_images"],
        check_labels(arrays["test_labels"], num_classes, f"{name} test labels"),
        num_classes,
        tuple(class_names),
        tuple(mean),
        tuple(std),
        order if known else None,
        text.unpack(arrays["vocabulary"]) if "vocabulary" in arrays else None,
    )


def _check_inputs(images: npt.ArrayLike, name: str) -> np.ndarray:
    """Images as uint8 [N, H, W, C], or anything else as finite float32 or int32 [N, …]."""
    array = np.asarray(images)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected [N, height, width, channels] or [N, …], not empty")
    if array.dtype == np.uint8:
        return array[..., None] if array.ndim == 3 else array
    if np.issubdtype(array.dtype, np.floating):
        bad = ~np.isfinite(array)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{name} has {int(bad.sum())} non-finite value(s), the first {array[first]} at index {first}"
            )
        return array.astype(np.float32, copy=False)
    if np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(f"{name} has integers beyond 32 bits ({array.min()} to {array.max()})")
        return array.astype(np.int32, copy=False)
    raise ValueError(f"{name} has dtype {array.dtype}; expected uint8 images, floats or integers")


def _check_statistics(values: npt.ArrayLike, name: str, channels: int, least: float) -> tuple[float, ...]:
    result = tuple(float(v) for v in np.atleast_1d(values))
    if len(result) not in (1, channels) or not all(np.isfinite(v) and v > least for v in result):
        above = "finite" if least < 0 else "positive"
        raise ValueError(f"{name} is {values!r}; expected 1 or {channels} {above} numbers, in the images' units")
    return result


def from_arrays(
    train_inputs: npt.ArrayLike,
    train_labels: npt.ArrayLike,
    test_inputs: npt.ArrayLike,
    test_labels: npt.ArrayLike,
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    true_labels: npt.ArrayLike | None = None,
) -> Dataset:
    """A Dataset from your own arrays, checked.

    Images: uint8 [N, H, W, C] (or [N, H, W]: one channel), or finite floats or integers [N, …], which become float32
    and int32. Labels: integers [N] from 0; every class needs a training example. class_names: by default the class
    numbers. mean, std: per channel, in the images' units; by default those of the training images, of each feature of
    float vectors [N, D], or 0 and 1 for anything else. true_labels: what the training examples truly are, where that
    is known; they only judge. Raises ValueError, naming the array and the first bad place, for anything else.

    >>> images = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
    >>> mine = from_arrays(images, [0, 1, 1, 0], images[:1], [0], class_names=["cat", "dog"])
    >>> mine.train_inputs.shape, mine.num_classes, mine.mean
    ((4, 2, 2, 1), 2, (7.5,))
    """
    train, test = _check_inputs(train_inputs, "train_inputs"), _check_inputs(test_inputs, "test_inputs")
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise ValueError(
            f"test_inputs are {test.dtype} {list(test.shape[1:])} each and train_inputs {train.dtype} "
            f"{list(train.shape[1:])}; expected the same"
        )
    if class_names is not None and len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names is {class_names!r}; expected distinct names")
    declared = None if class_names is None else len(class_names)
    labels = {}
    for key, given, images in (("train_labels", train_labels, train), ("test_labels", test_labels, test)):
        labels[key] = check_labels(given, declared, key)
        if len(labels[key]) != len(images):
            raise ValueError(f"{key} has {len(labels[key])} entries for {len(images)} images; expected one for each")
    num_classes = declared or 1 + int(max(array.max() for array in labels.values()))
    if num_classes > len(train):  # before anything of that size is made
        raise ValueError(
            f"the labels go up to {num_classes - 1}, for {len(train)} training examples: expected labels from 0 "
            "without gaps, an example of each class"
        )
    missing = np.setdiff1d(np.arange(num_classes), labels["train_labels"])
    if missing.size or num_classes < 2:
        raise ValueError(
            f"train_labels has no example of class(es) {missing[:10].tolist()} of {num_classes}: "
            "expected labels from 0 without gaps, at least 2 classes"
        )
    channels = train.shape[-1]
    own_mean, own_std = channel_statistics(train) if mean is None or std is None else ((), ())
    return Dataset(
        name,
        train,
        labels["train_labels"],
        test,
        labels["test_labels"],
        num_classes,
        tuple(map(str, range(num_classes) if class_names is None else class_names)),
        own_mean if mean is None else _check_statistics(mean, "mean", channels, -np.inf),
        own_std if std is None else _check_statistics(std, "std", channels, 0.0),
        true_labels=None if true_labels is None else _check_truth(true_labels, num_classes, len(train)),
    )


def _check_truth(labels: npt.ArrayLike, num_classes: int, count: int) -> np.ndarray:
    checked = check_labels(labels, num_classes, "true_labels")
    if len(checked) != count:
        raise ValueError(f"true_labels has {len(checked)} entries for {count} training examples; expected one for each")
    return checked


def _digits() -> Dataset:
    """Scikit-learn's digits: 1797 images 8×8, values 0 to 16 scaled to 0 to 255, 130 of each class for training."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    kept = subsample(labels, [130] * 10, 0)
    rest = np.setdiff1d(np.arange(len(labels)), kept)
    return from_arrays(images[kept], labels[kept], images[rest], labels[rest], name="digits", true_labels=labels[kept])


def _from_npz(path: Path) -> Dataset:
    required = ("train_inputs", "train_labels", "test_inputs", "test_labels")
    if not path.is_file():
        raise FileNotFoundError(f"{os.fspath(path)!r} is not a file; 'npz:FILE' expects one with {', '.join(required)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds for a damaged file
        raise ValueError(f"{os.fspath(path)!r} is damaged or not an npz file of plain arrays: {error}") from error
    for split in ("train", "test"):  # what files written for older versions call them
        if f"{split}_inputs" not in arrays and f"{split}_images" in arrays:
            arrays[f"{split}_inputs"] = arrays.pop(f"{split}_images")
    optional = ("class_names", "mean", "std", "true_labels")
    if missing := [key for key in required if key not in arrays]:
        raise ValueError(f"{os.fspath(path)!r} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}")
    options = {key: arrays[key].tolist() for key in optional if key in arrays}
    try:
        return from_arrays(*(arrays[key] for key in required), name=path.stem, **options)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r}: {error}") from error
