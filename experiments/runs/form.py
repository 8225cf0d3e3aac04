"""What a run's inputs are, kept in its directory: all that its networks need to predict, without the data."""

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.runs import directory, records
from robustjax.data import Dataset, text
from robustjax.methods import Task

_FORMAT = 1
_DTYPES = ("uint8", "float32", "int32")  # what `Dataset` holds


class Form(NamedTuple):
    """What the networks of a run take, and how large their states are.

    Attributes:
      dataset: the data set's name.
      class_names: C of them.
      shape: of an input as stored, without the batch: (H, W, C) of images.
      dtype: of an input as stored: uint8, float32 or int32.
      mean: a channel, in the inputs' units.
      std: likewise.
      num_tokens: how many token ids there are; None for anything but tokens.
      vocabulary: the words by token id; None for anything but texts.
      num_examples: N, how many examples a seed trains on.
      num_groups: see `Task`.
      num_trusted: see `Task`.
    """

    dataset: str
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_tokens: int | None
    vocabulary: tuple[str, ...] | None
    num_examples: int
    num_groups: int | None
    num_trusted: int

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images of 8 bits, grey or RGB, as files hold them."""
        return self.dtype == "uint8" and len(self.shape) == 3 and self.shape[-1] in (1, 3)

    def __str__(self) -> str:
        return f"{self.dtype} {_by(self.shape)}"


def of(dataset: Dataset, task: Task) -> Form:
    """The form of what a run on `dataset` trains on."""
    return Form(
        dataset.name, tuple(dataset.class_names), tuple(dataset.train_inputs.shape[1:]),
        str(dataset.train_inputs.dtype), tuple(dataset.mean), tuple(dataset.std), dataset.num_tokens,
        dataset.vocabulary, task.num_examples, task.num_groups, task.num_trusted,
    )  # fmt: skip


def save(path: pathlib.Path, dataset: Dataset, task: Task) -> None:
    """Write `data.json`, `vocabulary.txt` of texts, and `examples.npz` where the examples' ids are known.

    What is there already, of a run that is resumed, stays.
    """
    if (path / "data.json").exists():
        return
    form = of(dataset, task)
    if dataset.train_ids is not None:
        partial = path / "examples.npz.tmp"
        with open(partial, "wb") as file:
            np.savez_compressed(file, ids=np.asarray(dataset.train_ids))
        os.replace(partial, path / "examples.npz")
    if form.vocabulary is not None:
        records.write_atomic(path / "vocabulary.txt", "\n".join(form.vocabulary).encode())
    described = {name: value for name, value in form._asdict().items() if name != "vocabulary"}
    if form.is_image:
        described |= {"image_size": form.shape[:2], "grey": form.shape[-1] == 1}
    records.write_json_atomic(path / "data.json", {"format": _FORMAT, **described})


def read(path: pathlib.Path) -> Form | None:
    """What `save` wrote into a run directory; None for a run of before there was a `data.json`.

    Raises:
      directory.RunDirectoryError: if it is damaged, or of a later version.
    """
    file = path / "data.json"
    if not file.exists():
        return None
    found = directory.read_json(file)
    if found.get("format") != _FORMAT:
        raise directory.RunDirectoryError(f"{str(file)!r} is of another version: format {found.get('format')!r}.")
    try:
        form = _parse(found)
        words = path / "vocabulary.txt"
        if words.exists():
            form = form._replace(vocabulary=tuple(words.read_bytes().decode().split("\n")))
            if len(form.vocabulary or ()) != form.num_tokens:
                raise ValueError(f"{words.name} has {len(form.vocabulary or ())} words, not {form.num_tokens}")
        return form
    except (KeyError, TypeError, ValueError) as error:
        raise directory.RunDirectoryError(f"{str(file)!r} is damaged: {error}.") from error


def _parse(found: dict[str, Any]) -> Form:
    """A Form of JSON, all of it checked; ValueError, KeyError or TypeError for what is none."""

    def integer(name: str, least: int) -> int:
        value = found[name]
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}")
        return value

    shape, dtype, names = tuple(found["shape"]), found["dtype"], tuple(found["class_names"])
    if not shape or not all(isinstance(side, int) and side > 0 for side in shape) or dtype not in _DTYPES:
        raise ValueError(f"the inputs are {dtype!r} of shape {shape}")
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the class names are {names}")
    return Form(
        str(found["dataset"]), names, shape, dtype, tuple(map(float, found["mean"])), tuple(map(float, found["std"])),
        None if found["num_tokens"] is None else integer("num_tokens", 1), None, integer("num_examples", 1),
        None if found["num_groups"] is None else integer("num_groups", 1), integer("num_trusted", 0),
    )  # fmt: skip


def stand_in(form: Form) -> Dataset:
    """A data set of this form without data, for what asks for its shapes only; its one example is made up."""
    # `Dataset.num_tokens` of arrays without a vocabulary is told by their numbers.
    last = -1 if form.num_tokens is None else form.num_tokens - 1
    inputs = np.broadcast_to(np.asarray(last if form.dtype == "int32" else 0, form.dtype), (1, *form.shape))
    labels = np.zeros(1, np.int32)
    return Dataset(
        form.dataset, inputs, labels, inputs, labels, len(form.class_names), form.class_names, form.mean, form.std,
        vocabulary=form.vocabulary,
    )  # fmt: skip


def as_stored(form: Form, inputs: Any) -> np.ndarray:
    """`inputs` as the networks take them, [N, *form.shape] of form.dtype; texts become token ids.

    Nothing that could be meant otherwise is converted: pixels are uint8, floats are in the units that were trained on.
    [N, H, W] is taken for images of one channel. The numbers are looked at by `check_values`.

    Args:
      form: what the networks take.
      inputs: an array, or texts.

    Raises:
      ValueError: saying what `inputs` are, what is accepted, and how to make the one of the other.
    """
    if form.vocabulary is not None and isinstance(inputs, Sequence) and all(isinstance(one, str) for one in inputs):
        return text.encode(inputs, form.vocabulary, form.shape[0])
    array = np.asarray(inputs)
    if array.ndim == len(form.shape) == 3 and form.shape[-1] == 1 and array.shape != form.shape:
        array = array[..., None]
    if array.shape[1:] != form.shape or not len(array):
        raise ValueError(f"inputs are {array.dtype} {list(array.shape)}; {_wanted(form)}{_other_shape(form, array)}.")
    if form.dtype == "uint8" and array.dtype != np.uint8:
        raise ValueError(f"inputs are {array.dtype}; {_wanted(form)}{_not_pixels(array)}.")
    if form.dtype == "float32" and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"inputs are {array.dtype}; {_wanted(form)}, in the units that were trained on (mean "
            f"{form.mean[0]:.4g}, standard deviation {form.std[0]:.4g}): `astype(np.float32)` if they are in these."
        )
    if form.dtype == "int32" and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"inputs are {array.dtype}; {_wanted(form)}.")
    return array


def check_values(form: Form, batch: np.ndarray) -> np.ndarray:
    """A part of what `as_stored` gives, of form.dtype, after a look at its numbers.

    Raises:
      ValueError: for what is not finite, or no token id.
    """
    if form.dtype == "float32":
        if not np.isfinite(batch).all():
            first = tuple(map(int, np.argwhere(~np.isfinite(batch))[0]))
            raise ValueError(f"inputs are not finite: {batch[first]} at {first}.")
    elif form.dtype == "int32":
        limits = np.iinfo(np.int32)
        least, most = (limits.min, limits.max) if form.num_tokens is None else (0, form.num_tokens - 1)
        if batch.min() < least or batch.max() > most:
            raise ValueError(f"inputs go from {batch.min()} to {batch.max()}; {least} to {most} is accepted.")
    elif batch.max() <= 1 and min(form.mean) > 8:  # no error, since an image may be black
        warnings.warn(f"{len(batch)} input(s) have no value above 1 of 255: 0-1 floats cast to uint8?", stacklevel=3)
    return batch.astype(form.dtype, copy=False)


def _wanted(form: Form) -> str:
    return f"the networks were trained on {form.dtype} {['N', *form.shape]}".replace("'", "")


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _other_shape(form: Form, array: np.ndarray) -> str:
    """What is to be done about an array of another shape, with its separator; "" where nobody knows."""
    if not array.size:
        return ": at least one example is needed"
    if array.shape == form.shape:
        return ": one example is `inputs[None]`"
    if len(form.shape) != 3:
        return ""
    if array.ndim == 4 and array.shape[1:] == (form.shape[2], *form.shape[:2]):
        return ": channels come last, `inputs.transpose(0, 2, 3, 1)`"
    if array.ndim not in (3, 4):
        return ""
    size, channels = array.shape[1:3], array.shape[3] if array.ndim == 4 else 1
    if channels != form.shape[2]:
        kinds = {1: "grey", 3: "RGB", 4: "RGBA"}
        told = [f"{n} channel(s)" + (f" ({kinds[n]})" if n in kinds else "") for n in (channels, form.shape[2])]
        return f": images of {told[1]}, not {told[0]}"
    return f": images of {_by(form.shape[:2])} pixels, not {_by(size)}; `experiments.predict` resizes image files"


def _not_pixels(array: np.ndarray) -> str:
    if not np.issubdtype(array.dtype, np.floating):
        return ", from 0 to 255: `astype(np.uint8)` if they are in this range"
    if array.min() >= 0 and array.max() <= 1:
        return ", from 0 to 255, and these are from 0 to 1: `np.round(255 * inputs).astype(np.uint8)` (--scale=255)"
    if array.min() >= 0 and array.max() <= 255:
        return ", from 0 to 255: `np.round(inputs).astype(np.uint8)`"
    return f", from 0 to 255, and these are from {array.min():.4g} to {array.max():.4g}: undo their normalisation"
