"""Data sets as arrays: the embedded digits, TFDS image and text sets, and one's own files and arrays."""

import collections
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustjax.data import csv_source, folder_source, hf_source, image_files, tables, text, text_files, tfds_source
from robustjax.data.array_cache import (
    Progress,
    channel_statistics,
    check_image_size,
    default_cache_dir,
    resize,
)
from robustjax.data.checks import check_labels
from robustjax.data.corruptions import subsample
from robustjax.data.encoding import check_repeated, encode_labels, majority, whole_numbers


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
    reviewed: np.ndarray | None = None
    """bool [N]: labels that a person has looked at and decided about, so that no audit lists them; None: unknown."""
    train_texts: tuple[str, ...] | None = None
    """The training examples as they were written, N of them, of texts of one's own; only for people to read."""
    notes: tuple[str, ...] = ()
    """Sentences on what was decided when the data were read: a size, a test part, what was left out."""

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


OWN = ("arrays", "npz", "csv", "folder", "hf")
"""What the names of one's own data begin with, before a colon."""


def is_own(name: str) -> bool:
    """Whether a name is that of one's own data, of which nobody has said that the labels are right."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in OWN


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
    vocabulary: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    hold_out: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """A data set by name, as arrays.

    name: `digits` (scikit-learn's 8×8 digits, 130 a class for training); a TFDS image or text classification set, also
    as `name/config:version`; or one's own data. These are `folder:PATH`, with images, or text files, in `CLASS/`, or in
    `train/CLASS/` and `test/CLASS/` (or `validation`, `val`); `csv:FILE`, a row for each image, feature vector or text
    (`robustjax.data.tables.COLUMNS`); `hf:PATH`, what `save_to_disk` of Hugging Face's `datasets` wrote; and
    `npz:FILE`, with the arrays of `from_arrays` by their names (`NPZ` has others that are understood). Without a test
    part some of the training examples become one (`robustjax.data.held_out`); with true labels, these are what is
    tested with.
    data_dir: where TFDS finds or puts prepared files (its own default: `$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
    cache_dir: images and texts are decoded once into it (default `$XDG_CACHE_HOME` or `~/.cache`,
    `/robustjax/datasets`).
    download: whether TFDS may fetch what is not prepared; TensorFlow is neither needed nor imported.
    image_size: side or (height, width) to which images are resized; by default those of a folder, a CSV file or a
    Hugging Face set keep their size if it is one for all, and otherwise one is chosen
    (`robustjax.data.image_files.choose_size`).
    max_tokens: texts only: how many of a text's last tokens are kept (256; of one's own 512, or what the longest has).
    vocabulary_size: texts only: ids of the padding, of unknown words and of the most frequent training words (20,000).
    vocabulary: texts of one's own only: the words by token id, in place of those of the training texts.
    columns: CSV and Hugging Face only: which column holds what, where its name does not tell, as {"label": "species"}.
    skip_bad: leave out images and text files that cannot be read, and texts without a word, of a folder, a CSV file or
    a Hugging Face set.
    hold_out: whether data of one's own without a test part give up some examples for one; otherwise that is empty.
    progress: called as progress(done, total) while images or texts are decoded.

    Raises ValueError for an unknown name (with the nearest), a set that is not image or text classification, an option
    that is not for this kind of data, or images of a TFDS set of unequal size without `image_size`; FileNotFoundError,
    with the steps to take, for data that is not there.
    """
    size = check_image_size(image_size)
    kind, _, rest = name.partition(":")
    if kind == "digits":
        tfds_source.refuse(kind, "not resized", {"image_size": image_size})
    of_texts = {"max_tokens": max_tokens, "vocabulary_size": vocabulary_size, "vocabulary": vocabulary}
    if kind == "digits":
        tfds_source.refuse(kind, "not texts", of_texts)
    if kind not in ("csv", "hf"):
        tfds_source.refuse(kind, "no table", {"columns": columns})
    if kind not in _LISTED:
        tfds_source.refuse(kind, "not files of images", {"skip_bad": skip_bad or None})
    if name == "digits":
        return _digits()
    if kind == "arrays":
        raise ValueError(f"{name!r} was in memory (`robustjax.fit`), so it cannot be read again: pass it as dataset=…")
    if kind == "npz":
        return _from_npz(Path(os.path.expanduser(rest)), size, hold_out, of_texts)
    cache = Path(os.path.expanduser(cache_dir)) if cache_dir is not None else default_cache_dir()
    if kind in _LISTED:
        tables.check_columns(columns or {})
        listing = _LISTED[kind](Path(os.path.expanduser(rest)), columns or {})
        return _from_listing(
            listing, cache, image_size=size, of_texts=of_texts, skip_bad=skip_bad, hold_out=hold_out, progress=progress
        )
    tfds_source.refuse(name, "numbered by their own words", {"vocabulary": vocabulary})
    arrays, mean, std, class_names = tfds_source.read(
        name, data_dir, cache, download=download, image_size=size, max_tokens=max_tokens,
        vocabulary_size=vocabulary_size, progress=progress, other_names=("digits",),
    )  # fmt: skip
    mean, std = _STATISTICS.get(name.split(":")[0].split("/")[0], (mean, std))
    found = _assemble(name, arrays, mean, std, class_names)
    return found._replace(true_labels=found.train_labels)  # a benchmark's labels count as true, as its papers have it


_LISTED: Mapping[str, Callable[[Path, Mapping[str, str]], image_files.Listing]] = {
    "folder": lambda root, columns: folder_source.list_examples(root),
    "csv": csv_source.list_examples,
    "hf": hf_source.list_examples,
}


def _from_listing(
    listing: image_files.Listing,
    cache: Path,
    *,
    image_size: tuple[int, int] | None,
    of_texts: Mapping[str, Any],
    skip_bad: bool,
    hold_out: bool,
    progress: Progress | None,
) -> Dataset:
    """The examples of a listing, divided into a training and a test part; `of_texts` are options of `text.number`."""
    without_test = listing.is_test is None
    words, train_texts = None, None
    if text_files.are_listed(listing):
        listing = text_files.read(listing, skip_bad)
    if listing.texts is None:
        tfds_source.refuse(listing.name, "not texts", dict(of_texts))
    if listing.texts is not None:
        tfds_source.refuse(listing.name, "texts", {"image_size": image_size})
        listing = image_files.divide(_with_words(listing, skip_bad), hold_out)
        is_test = np.asarray(listing.is_test)
        train_texts, test_texts = (_some(listing.texts or (), chosen) for chosen in (~is_test, is_test))
        train_inputs, test_inputs, words, said = text.number(train_texts, test_texts, **of_texts)
        listing = listing._replace(notes=(*listing.notes, *said))
        mean, std = input_statistics(train_inputs)
    elif listing.inputs is None:
        listing, arrays, mean, std = image_files.read(
            listing, cache, image_size=image_size, skip_bad=skip_bad, hold_out=hold_out, progress=progress
        )
        train_inputs = arrays["train_images"]
        test_inputs = arrays.get("test_images", train_inputs[:0])
        is_test = np.asarray(listing.is_test)
    else:
        tfds_source.refuse(listing.name, "features", {"image_size": image_size})
        inputs, listing = listing.inputs, image_files.divide(listing, hold_out)
        is_test = np.asarray(listing.is_test)
        train_inputs, test_inputs = inputs[~is_test], inputs[is_test]
        mean, std = input_statistics(train_inputs)
    truth = listing.true_labels
    return Dataset(
        listing.name,
        train_inputs,
        listing.labels[~is_test],
        test_inputs,
        (listing.labels if truth is None else truth)[is_test],
        len(listing.class_names),
        listing.class_names,
        mean,
        std,
        vocabulary=words,
        true_labels=None if truth is None else truth[~is_test],
        train_ids=None if listing.ids is None else _some(listing.ids, ~is_test),
        test_held_out=without_test and truth is None and hold_out,
        annotations=None if listing.annotations is None else listing.annotations[~is_test],
        groups=None if listing.groups is None else listing.groups[~is_test],
        reviewed=None if listing.reviewed is None else listing.reviewed[~is_test],
        train_texts=train_texts,
        notes=listing.notes,
    )


def _some(values: Sequence[str], chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(values[i] for i in np.flatnonzero(chosen).tolist())


def _with_words(listing: image_files.Listing, skip_bad: bool) -> image_files.Listing:
    """Without the texts that hold nothing, or a ValueError that names the first."""
    empty = text.blank(listing.texts or ())
    if not empty.size:
        return listing
    first = f"the first in {listing.places[empty[0]]}"
    if not skip_bad:
        raise ValueError(f"{listing.name} has {len(empty):,} empty text(s), {first}; skip_bad leaves them out")
    left = listing.take(np.setdiff1d(np.arange(len(listing.labels)), empty))
    return left._replace(notes=(*left.notes, f"left out, since they are empty: {len(empty):,} text(s), {first}."))


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


def as_inputs(images: np.ndarray) -> np.ndarray:
    """Arrays as people have them, as a run stores them: uint8 [N, H, W, C], float32 or int32 [N, …].

    Integers from 0 to 255 that are no vectors are images of bytes, whatever their type; three axes are grey images;
    bytes [N, D] are features. ValueError for channels that come first.

    >>> as_inputs(np.full((5, 8, 8), 200)).dtype.name, as_inputs(np.zeros((5, 8, 8))).shape
    ('uint8', (5, 8, 8, 1))
    """
    if images.dtype.kind in "iu" and images.ndim > 2 and images.size and images.min() >= 0 and images.max() <= 255:
        images = images.astype(np.uint8, copy=False)
    if (images.dtype == np.uint8 and images.ndim == 2) or images.dtype.kind == "f":
        images = images.astype(np.float32, copy=False)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[1] in (1, 3, 4) and images.shape[3] > 4:
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}; channels come last: `images.transpose(0, 2, 3, 1)`."
        )
    return images


def _check_inputs(images: npt.ArrayLike, name: str) -> np.ndarray:
    """Images as uint8 [N, H, W, C], texts as str objects [N], or anything else as finite float32 or int32 [N, …]."""
    if (texts := text.as_texts(images)) is not None:
        if (empty := text.blank(texts)).size:
            raise ValueError(f"{name} has {len(empty):,} empty text(s), the first at index {empty[0]}")
        return np.array(texts, object)
    array = np.asarray(images)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected [N, height, width, channels] or [N, …], not empty")
    if array.dtype == np.uint8 and array.ndim > 2:
        return array[..., None] if array.ndim == 3 else array
    if array.dtype == np.uint8:
        return array.astype(np.float32)  # no images and no token ids, so numbers of a feature vector
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
    train_labels: npt.ArrayLike | None,
    test_inputs: npt.ArrayLike | None = None,
    test_labels: npt.ArrayLike | None = None,
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    true_labels: npt.ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    groups: npt.ArrayLike | None = None,
    annotations: npt.ArrayLike | None = None,
    hold_out: bool = True,
    max_tokens: int | None = None,
    vocabulary_size: int | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Dataset:
    """A Dataset from your own arrays, checked.

    Inputs: uint8 images [N, H, W, C] (or [N, H, W]: one channel), or finite floats or integers [N, …], which become
    float32 and int32; floats [N, D] are features, as are bytes and integers below 0, other integers [N, L] token ids
    (which `notes` of the result tells); or strings [N], texts, which become token ids. Labels [N]: strings or
    integers (`encode_labels`); every class needs a training example, and there must be two. Without test inputs some
    training examples are held out to test with (`robustjax.data.held_out`), which `test_held_out` of the result tells.

    class_names: of labels that are class numbers; by default the labels themselves. mean, std: per channel or feature,
    in the inputs' units; by default those of the training part, or 0 and 1 for arrays that are neither [N, H, W, C] nor
    features. true_labels [N]: what the training examples truly are, where that is known; they only judge, and are what
    a held-out test part is tested with. ids: what the training examples are called; groups: int or string [N];
    annotations: the labels of A annotators, int [N, A] class numbers, −1 where one gave none; train_labels may then be
    None, and are those of most annotators. hold_out: whether there is a test part where none is given; otherwise it is
    empty. max_tokens, vocabulary_size and vocabulary: of texts, as `load` has them. Raises ValueError, naming the array
    and the first bad place, for anything else.

    >>> images = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
    >>> mine = from_arrays(images, ["dog", "cat", "cat", "dog"], images[:1], ["dog"])
    >>> mine.train_inputs.shape, mine.class_names, mine.train_labels.tolist(), mine.mean
    ((4, 2, 2, 1), ('cat', 'dog'), [1, 0, 0, 1], (7.5,))
    """
    of_texts: dict[str, Any] = {
        "max_tokens": max_tokens, "vocabulary_size": vocabulary_size, "vocabulary": vocabulary
    }  # fmt: skip
    train = _check_inputs(train_inputs, "train_inputs")
    test = None if test_inputs is None else _check_inputs(test_inputs, "test_inputs")
    if train.ndim == 2 and any(each.dtype == np.int32 and each.min() < 0 for each in (train, test) if each is not None):
        train, test = train.astype(np.float32), None if test is None else test.astype(np.float32)  # no token ids
    if test is not None and {each.dtype.name for each in (train, test)} == {"uint8", "int32"}:
        train, test = train.astype(np.int32), test.astype(np.int32)  # of which one part has no values above 255
    if not (written := train.dtype.kind == "O"):
        tfds_source.refuse(name, "not texts", of_texts)
    if test is not None and (train.shape[1:] != test.shape[1:] or train.dtype != test.dtype):
        raise ValueError(
            f"test_inputs are {test.dtype} {list(test.shape[1:])} each and train_inputs {train.dtype} "
            f"{list(train.shape[1:])}; expected the same"
        )
    if (test is None) != (test_labels is None):
        raise ValueError("test_inputs and test_labels go together: give both or neither")
    if class_names is not None and len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names is {class_names!r}; expected distinct names")
    if train_labels is None:
        if annotations is None:
            raise ValueError("train_labels is None; expected labels, or annotations to take them from")
        train_labels = majority(annotations)
    labels, classes = encode_labels(train_labels, class_names, name="train_labels")
    _check_length(labels, len(train), "train_labels")
    check_repeated(classes, len(labels), "train_labels")
    # Numbers are those of the classes where these have names of their own; else they are names themselves.
    look_up = functools.partial(_look_up, class_names=classes, numbered=class_names is not None)
    tested = None
    if test is not None and test_labels is not None:
        tested = look_up(test_labels, name="test_labels")
        _check_length(tested, len(test), "test_labels")
    num_classes = len(classes)
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if num_classes < 2:
        raise ValueError(f"all of train_labels are {classes[0]!r}; expected at least 2 classes")
    if missing.size:
        raise ValueError(
            f"train_labels has no example of class(es) {[classes[c] for c in missing[:10]]} of {num_classes}: "
            "expected an example of each of at least 2 classes"
        )
    truth = None if true_labels is None else look_up(true_labels, name="true_labels")
    votes = None if annotations is None else _check_votes(annotations, num_classes)
    grouped = None if groups is None else encode_labels(groups, name="groups")[0]
    called = None if ids is None else tuple(map(str, ids))
    if called is not None and len(set(called)) < len(called):
        twice = next(name for name, count in collections.Counter(called).items() if count > 1)
        raise ValueError(f"ids has {twice!r} twice; expected each once")
    for key, rows in (("true_labels", truth), ("annotations", votes), ("groups", grouped), ("ids", called)):
        if rows is not None:
            _check_length(rows, len(train), key)
    notes: tuple[str, ...] = ()
    if train.dtype in (np.float32, np.int32) and train.ndim == 4:
        kind = "floats" if train.dtype == np.float32 else "integers"
        notes = (
            f"images are {kind} from {train.min():.4g} to {train.max():.4g}: they are trained on as they are, without "
            "augmentation.",
        )
    if train.dtype == np.int32 and train.ndim == 2:
        notes = (f"the integers {list(train.shape)} are read as token ids of texts; features are floats (`astype`).",)
    without_test = tested is None
    if test is None or tested is None:
        listing = image_files.divide(
            image_files.Listing(
                name,
                labels,
                classes,
                None,
                texts=tuple(train) if written else None,
                ids=called,
                true_labels=truth,
                groups=grouped,
                annotations=votes,
            ),
            hold_out,
        )
        held, notes = np.asarray(listing.is_test), (*notes, *listing.notes)
        kept = np.flatnonzero(~held)
        tested = (labels if truth is None else truth)[held]
        test, train, labels = train[held], train[kept], labels[kept]
        truth, votes, grouped = (None if each is None else each[kept] for each in (truth, votes, grouped))
        called = tuple(str(i) if called is None else called[i] for i in kept.tolist())
    texts, words = None, None
    if written:
        texts = tuple(train)
        train, test, words, said = text.number(texts, list(test), **of_texts)
        notes = (*notes, *said)
    channels = train.shape[-1]
    own_mean, own_std = input_statistics(train) if mean is None or std is None else ((), ())
    return Dataset(
        name,
        train,
        labels,
        test,
        tested,
        num_classes,
        classes,
        own_mean if mean is None else _check_statistics(mean, "mean", channels, -np.inf),
        own_std if std is None else _check_statistics(std, "std", channels, 0.0),
        vocabulary=words,
        true_labels=truth,
        train_ids=called,
        test_held_out=without_test and truth is None and hold_out,
        annotations=votes,
        groups=grouped,
        train_texts=texts,
        notes=notes,
    )


def input_statistics(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by which training inputs are normalised, 1 for what is constant.

    Of each channel of images [N, H, W, C], and of each feature of float vectors [N, D], so that a head learns alike
    from features of any scale; (0.0,) and (1.0,) for all others.
    """
    if inputs.ndim == 2 and inputs.dtype == np.float32:
        return channel_statistics(inputs[:, None, None, :])
    return channel_statistics(inputs)


def _look_up(labels: npt.ArrayLike, name: str, class_names: tuple[str, ...], numbered: bool) -> np.ndarray:
    """Labels int32 [N] by the classes of the training labels."""
    array = whole_numbers(np.asarray(labels), name)
    if not numbered and array.dtype.kind in "iu":
        if array.size and array.min() < 0:
            check_labels(array.reshape(-1), name=name)
        array = array.astype(str)
    return encode_labels(array, class_names, name=name)[0]


def _check_length(rows: Sequence[Any] | np.ndarray, count: int, name: str) -> None:
    if len(rows) != count:
        raise ValueError(f"{name} has {len(rows)} entries for {count} examples; expected one for each")


def _check_votes(annotations: npt.ArrayLike, num_classes: int) -> np.ndarray:
    """Annotations as int32 [N, A], −1 to C − 1."""
    array = np.asarray(annotations)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"annotations has shape {array.shape}, dtype {array.dtype}; expected integers [N, A]")
    check_labels(array.reshape(-1) + 1, num_classes + 1, "annotations plus 1")
    return array.astype(np.int32)


def _digits() -> Dataset:
    """Scikit-learn's digits: 1797 images 8×8, values 0 to 16 scaled to 0 to 255, 130 of each class for training."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    kept = subsample(labels, [130] * 10, 0)
    rest = np.setdiff1d(np.arange(len(labels)), kept)
    return from_arrays(images[kept], labels[kept], images[rest], labels[rest], name="digits", true_labels=labels[kept])


NPZ: Mapping[str, Sequence[str]] = {
    "train_inputs": (
        "train_images", "train_features", "train_texts", "x_train", "images", "features", "texts", "inputs", "X", "x",
    ),
    "train_labels": ("y_train", "labels", "given_labels", "y"),
    "test_inputs": ("test_images", "test_features", "test_texts", "x_test"),
    "test_labels": ("y_test",),
}  # fmt: skip
"""What the arrays of an npz file may be called besides; the names of Keras and MedMNIST are among them."""
_NPZ_MORE = ("class_names", "mean", "std", "true_labels", "ids", "groups", "annotations")


def _resized(images: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Images uint8 [N, H, W, C] or [N, H, W], as [N, *size, C]; ValueError for other arrays."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"image_size is {size}; {name} is {images.dtype} {list(images.shape)}, no uint8 images: leave it out"
        )
    return np.stack([resize(image, size) for image in (images[..., None] if images.ndim == 3 else images)])


def _from_npz(path: Path, image_size: tuple[int, int] | None, hold_out: bool, of_texts: Mapping[str, Any]) -> Dataset:
    needed = "train_inputs and train_labels, perhaps test_inputs and test_labels"
    if not path.is_file():
        raise FileNotFoundError(f"{os.fspath(path)!r} is not a file; 'npz:FILE' expects one with {needed}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds for a damaged file
        what = "is damaged or not an npz file of plain arrays"
        if "Object arrays" in str(error):
            what = "has an array of Python objects: save it as `array.astype(str)`, or as numbers"
        raise ValueError(f"{os.fspath(path)!r} {what}: {error}") from error
    there = ", ".join(arrays) or "nothing"
    for key, others in NPZ.items():
        other = next((each for each in others if each in arrays), None)
        if key not in arrays and other is not None:
            array = arrays.pop(other)
            numbers = array.ndim == 2 and array.dtype.kind in "iu" and (other == "X" or other.endswith("features"))
            arrays[key] = array.astype(np.float32) if numbers else array
    pairs = [("train_inputs", "train_labels"), *([("test_inputs", "test_labels")] if "test_inputs" in arrays else [])]
    required = [key for pair in pairs for key in pair if key != "train_labels" or "annotations" not in arrays]
    if missing := [key for key in required if key not in arrays]:
        raise ValueError(f"{os.fspath(path)!r} lacks {', '.join(missing)}; it has {there}")
    for key in ("train_inputs", "test_inputs"):
        if key in arrays:
            try:
                arrays[key] = as_inputs(arrays[key])
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)!r} ({key}): {error}") from error
            if image_size is not None:
                arrays[key] = _resized(arrays[key], image_size, f"{os.fspath(path)!r} ({key})")
    options: dict[str, Any] = {key: arrays[key].tolist() for key in _NPZ_MORE[:3] if key in arrays}
    options |= {key: arrays[key] for key in _NPZ_MORE[3:] if key in arrays}
    try:
        found = from_arrays(
            arrays["train_inputs"], arrays.get("train_labels"), arrays.get("test_inputs"), arrays.get("test_labels"),
            name=path.stem, hold_out=hold_out, **options, **of_texts,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r}: {error}") from error
    unused = [key for key in arrays if key not in {*NPZ, *_NPZ_MORE}]
    return found._replace(
        notes=(*((f"not used of {path.name}: {', '.join(unused)}.",) if unused else ()), *found.notes)
    )
