"""A run from Python, on arrays, image files or a table: `robustjax.fit`.

It is the run that `python -m experiments.run` makes, with the same settings as keywords and the same run directory, on
data that are in memory. A run is known by the content of its data and its settings: the same call again finds it.
"""

import concurrent.futures
import dataclasses
import difflib
import functools
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import run
from experiments.runs import artefacts, cross_fit, directory, records, restore, suspects
from experiments.settings import catalogue, command_line, config
from robustjax import user_code
from robustjax.data import Dataset, encode_labels, from_arrays, image_files, tables, text
from robustjax.data.array_cache import check_image_size, resize
from robustjax.data.encoding import as_column, is_missing
from robustjax.data.sources import as_inputs

_OUTSIDE = 0.5  # floats this far beyond what was trained on, in parts of its range, are taken for other units


@dataclasses.dataclass(frozen=True, repr=False)
class Fitted:
    """A finished run, and what can be asked of it.

    Attributes:
      path: the run directory; `python -m experiments.audit PATH` and the other commands take it.
      summary: what `summary.json` says.
      settings: the run's, all of them.
      class_names: of the classes [C].
      positions: int64 [N], which of the given examples the networks of the first seed were trained on. Probabilities of
        training examples (`out_of_sample`) and the arrays in the run directory are in this order.
    """

    path: pathlib.Path
    summary: Mapping[str, Any]
    settings: config.Config
    class_names: tuple[str, ...]
    positions: np.ndarray
    _source: "_Source"

    def __repr__(self) -> str:
        accuracies = [each["test_accuracy_last"] for each in self.summary["seeds"]]
        held_out = " (held out, labels as given)" if self._source.dataset.test_held_out else ""
        return (
            f"Fitted({str(self.path)!r}: {user_code.short_name(self.settings.method)} on {len(self.positions)} "
            f"examples of {len(self.class_names)} classes; test accuracy {100 * np.mean(accuracies):.1f} %{held_out})"
        )

    def predict(self, inputs: Any) -> np.ndarray:
        """Probabilities of the classes, float32 [B, C], the mean over the seeds' networks.

        Args:
          inputs: of the kind that was trained on: images uint8 [B, H, W, C] or in the same floats, vectors [B, D],
            token ids [B, L] or texts, paths of image files, or a frame with the same columns.

        Raises:
          ValueError: for inputs of another kind or shape than the networks were trained on.
        """
        stored = self._source.dataset.train_inputs
        if isinstance(inputs, str):
            raise ValueError(f"inputs={inputs[:40]!r} is one example; a list of them is accepted.")
        if text.as_texts(inputs) is None and np.shape(inputs) in (stored.shape[1:], stored.shape[1:-1]):
            raise ValueError(f"inputs have the shape of one example, {list(np.shape(inputs))}; that is `inputs[None]`.")
        array = self._source.read(inputs)
        if stored.ndim == 4 and stored.dtype == np.float32 and np.size(array):
            low, high = float(stored.min()), float(stored.max())
            room = _OUTSIDE * (high - low)
            if array.min() < low - room or array.max() > high + room:
                raise ValueError(
                    f"inputs go from {array.min():.4g} to {array.max():.4g}, and what was trained on from {low:.4g} to "
                    f"{high:.4g}: they are not in the same units."
                )
        return self._predictor(array)

    def predict_labels(self, inputs: Any) -> np.ndarray:
        """The most probable class of each input, [B]: integers where the labels were, else names of classes."""
        return self._source.classes[self.predict(inputs).argmax(-1)]

    @property
    def history(self) -> dict[str, list[Any]]:
        """The records of all epochs: name -> a value for each of them, None where there was none.

        With several seeds the records of all of them, told apart by "seed". A frame is `pandas.DataFrame(history)`.
        """
        lines = records.read_records(self.path / "metrics.jsonl")
        return {name: [line.get(name) for line in lines] for name in dict.fromkeys(n for line in lines for n in line)}

    @property
    def audit(self) -> dict[str, Any]:
        """What `audit.json` says of the labels: how many are wrong (None if `ranks_only`), and between which classes.

        Raises:
          FileNotFoundError: there is none.
        """
        return dict(json.loads(self._file("audit.json").read_text(encoding="utf-8")))

    def suspects(self) -> Any:
        """The labels that are probably wrong, most suspicious first: `suspects.csv`.

        Returns:
          Columns by name, as arrays; a pandas.DataFrame where pandas has been imported. An `id` is the one given, a
          path, or the number of the example among those given.

        Raises:
          FileNotFoundError: there is none.
        """
        rows = suspects.read(self._file("suspects.csv"))
        names = suspects.Row._fields if any(row.text for row in rows) else suspects.COLUMNS
        columns = {name: np.array([getattr(row, name) for row in rows]) for name in names}
        pandas = sys.modules.get("pandas")
        return columns if pandas is None else pandas.DataFrame(columns)

    def out_of_sample(self, seed: int | None = None) -> np.ndarray:
        """Probabilities float32 [N, C] of the training examples by networks that have not seen them.

        Args:
          seed: the run's first one if None.

        Raises:
          ValueError: the run was not cross-fitted (`cross_fit=K`).
        """
        found = cross_fit.read(self.path, self.settings.seed if seed is None else seed)
        if found is None:
            raise ValueError(f"{str(self.path)!r} has no cross-fit: fit(…, cross_fit=5) adds one.")
        return found

    @functools.cached_property
    def _predictor(self) -> Callable[[Any], np.ndarray]:
        return restore.predictor(restore.restore_model(self.path, trust_code=True))

    def _file(self, name: str) -> pathlib.Path:
        file = self.path / name
        if not file.exists():
            raise FileNotFoundError(f"there is no {str(file)!r}: `python -m experiments.audit {self.path}` writes it.")
        return file


class _Source(NamedTuple):
    """Data as a run takes them, and how more of their kind is read."""

    dataset: Dataset
    classes: np.ndarray
    """What `predict_labels` gives for each class, [C]."""
    trained: np.ndarray
    """int64 [M]: which of the given examples is training example i."""
    read: Callable[[Any], Any]


def fit(
    images: Any,
    labels: Any = None,
    *,
    test: tuple[Any, Any] | None = None,
    method: str = "dynamic_loss",
    seed: int = 0,
    seeds: int = 1,
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    class_names: Sequence[str] | None = None,
    true_labels: Any = None,
    groups: Any = None,
    ids: Any = None,
    image_size: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    on_epoch: run.OnEpoch | None = None,
    **settings: Any,
) -> Fitted:
    """Train a classifier on labels some of which are wrong, and learn which.

    The run directory is under `runs/`, by a name that tells data and settings, unless `out` names another. The same
    call finds a finished run there and gives it back; one that was interrupted goes on where it was.

    Args:
      images: uint8 [N, H, W, C] or [N, H, W]; floats of that shape, which are trained on as they are, without
        augmentation; vectors float [N, D], features of a pretrained network, say; texts; token ids int [N, L]; paths of
        image files; a pandas.DataFrame with a column of paths, "path", or of texts, "text", or with columns of numbers;
        or a `robustjax.Dataset`. (Strings are paths if half of them end as those of images do, or the first is a file.)
      labels: of the examples, integers or strings [N]; of a frame also the name of the column. Of a `Dataset` its own
        if None, else labels given in their place.
      test: images and labels likewise. None: a part, as much of each class, is held out to test on; its labels are as
        given, so that accuracy is that of predicting labels some of which are wrong. (A `Dataset` has its own.)
      method: training method; `experiments.run --list-methods` tells which there are.
      seed: of all that is random.
      seeds: train so many networks, seeds seed … seed+K−1, and predict by their mean.
      out: the run directory.
      quiet: print nothing.
      class_names: of the classes, where the labels are integers from 0, or to fix their order.
      true_labels: what the training examples truly are, if that is known; they only judge.
      groups: of the examples, for methods that treat groups differently, [N]; or a text as `--groups` takes it.
      ids: what the examples are called in the list of suspects, [N]; default: paths, or numbers. true_labels, groups
        and ids may be names of a frame's columns too.
      image_size: side or (height, width) to which image files are resized; by default as `robustjax.load` has it.
      skip_bad: leave out image files that cannot be read, and empty texts.
      on_epoch: called after each epoch with its records, one for each seed; it looks on (a figure that grows, say).
      **settings: any setting and any option of the method, as the command line has them: `epochs=30`,
        `model="resnet20"`, `cross_fit=5`.

    Raises:
      ValueError: for data or settings that are not accepted, in a sentence, before anything is trained.
      run.Stopped: interrupted; the same call goes on.
      engine.NonFiniteLossError: the loss became NaN.

    Examples:
      >>> import tempfile
      >>> rng = np.random.default_rng(0)
      >>> vectors = np.repeat(np.eye(2), 30, 0) + 0.1 * rng.normal(size=(60, 2))
      >>> labels = np.repeat(["cat", "dog"], 30)
      >>> labels[0] = "dog"  # it is a cat
      >>> found = fit(vectors, labels, method="cross_entropy", model="mlp", epochs=5, batch_size=8,
      ...             learning_rate=0.1, quiet=True, out=tempfile.mkdtemp())
      >>> found.predict(np.eye(2)).shape, found.predict_labels(np.eye(2)).tolist()
      ((2, 2), ['cat', 'dog'])
    """
    if isinstance(groups, str) and not _is_frame(images):
        settings, groups = {**settings, "groups": groups}, None
    elif groups is not None:
        settings = {**settings, "groups": "data"}
    try:
        source = _source(
            images, labels, test=test, class_names=class_names, true_labels=true_labels, groups=groups, ids=ids,
            image_size=image_size, skip_bad=skip_bad, max_tokens=settings.get("max_tokens"),
        )  # fmt: skip
        given = _typed(settings | {"method": method, "seed": seed, "seeds": seeds, "quiet": quiet})
        resolved, sources = config.resolve(given | {"dataset": artefacts.name_of(source.dataset)})
        path = pathlib.Path(out) if out is not None else directory.default_path(resolved)
        unfinished = directory.holds_run(path) and directory.read_summary(path) is None
        resolved = dataclasses.replace(
            resolved, out=str(path), resume=(unfinished and not resolved.overwrite) or resolved.resume
        )
        told = ", ".join(f"{name}={value!r}" for name, value in given.items())
        run.execute(resolved, sources, f"robustjax.fit({told})", dataset=source.dataset, on_epoch=on_epoch)
    except SystemExit as error:  # which would end a notebook's kernel
        place = user_code.raised_at(error) or "the training"
        raise RuntimeError(f"{place} ended the program (SystemExit: {error}).") from error
    except Exception as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (in_keywords(error.args[0], command_line.names() | set(settings)),)
        raise
    summary = directory.read_summary(path) or {}  # as the next call will find it
    if not quiet:
        run.show(summary, path)
    found = directory.read_settings(path)
    kept = artefacts.read_kept(path, found.seed)
    return Fitted(path, summary, found, source.dataset.class_names, source.trained[kept], source)


def in_keywords(text: str, names: Collection[str]) -> str:
    """A message that speaks of keywords where it spoke of flags.

    Examples:
      >>> in_keywords("go on with --resume, or --noise-rate=0.1 for --frames", {"resume", "noise_rate"})
      'go on with resume=True, or noise_rate=0.1 for --frames'
    """
    flags = {field.name for field in dataclasses.fields(config.Config) if field.type is bool}

    def keyword(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        if name not in names:
            return found[0]
        return name + ("=True" if name in flags and not found[2] else found[2])

    return re.sub(r"--(?:no-)?([a-z][a-z-]*[a-z])(=?)", keyword, text)


# --- Settings -------------------------------------------------------------------------------------------------------


def _typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and options with the types that the command line would give them, those that are None left out.

    Raises:
      ValueError: for an unknown name, or a value of another type.
    """
    if "dataset" in given or "labels" in given:
        name = "dataset" if "dataset" in given else "labels"
        raise ValueError(f"{name}={given[name]!r}: the data are those that fit is given; it takes no such setting.")
    kinds = {each.name: command_line.field_kind(each) for each in dataclasses.fields(config.Config)
             if each.name in config.FIELDS}  # fmt: skip
    options = catalogue.options(catalogue.entry(catalogue.canonical(str(given["method"]))))
    kinds = {name: option.kind for name, option in options.items()} | kinds
    unknown = [name for name in given if name not in kinds and not catalogue.owners(name)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*kinds, "class_names", "true_labels", "ids", "test"], 3, 0.6)
        raise ValueError(f"{unknown[0]} is no setting" + (f": did you mean {', '.join(near)}?" if near else "."))
    return {name: _value(name, value, kinds.get(name)) for name, value in given.items() if value is not None}


def _value(name: str, value: Any, kind: type | None) -> Any:
    if kind is str and name == "model_options" and isinstance(value, Mapping):
        return ",".join(f"{key}={each}" for key, each in value.items())
    truth, number = isinstance(value, bool | np.bool_), isinstance(value, int | float | np.integer | np.floating)
    match kind:
        case None:  # another method's, which is told so
            return value
        case _ if kind is bool and truth:
            return bool(value)
        case _ if kind is int and number and not truth and value == int(value):
            return int(value)
        case _ if kind is float and number and not truth:
            return float(value)
        case _ if kind is str and isinstance(value, str | os.PathLike):
            return os.fspath(value)
    accepted = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}[kind]
    also = "; FILE.py:NAME is one of your own" if callable(value) and name in ("method", "model", "loss") else ""
    raise ValueError(f"{name}={value!r}: {accepted} is accepted{also}.")


# --- Data -----------------------------------------------------------------------------------------------------------


class _Read(NamedTuple):
    """Inputs as an array.

    Attributes:
      inputs: uint8 [M, H, W, C], float32 or int32 [M, …], or M texts.
      kept: int64 [M], which of those given they are.
      ids: what all those given are called, where they have names.
      more: reads others of their kind, each of them.
    """

    inputs: np.ndarray | list[str]
    kept: np.ndarray
    ids: Sequence[str] | None
    more: Callable[[Any], Any]


def _source(
    images: Any,
    labels: Any,
    *,
    test: Any = None,
    class_names: Sequence[str] | None = None,
    true_labels: Any = None,
    groups: Any = None,
    ids: Any = None,
    image_size: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    max_tokens: int | None = None,
) -> _Source:
    """The data of a run, out of what `fit` is given."""
    named = {"test": test, "class_names": class_names, "true_labels": true_labels, "groups": groups, "ids": ids}
    if isinstance(images, Dataset):
        more = {"image_size": image_size, "skip_bad": skip_bad or None, "max_tokens": max_tokens}
        return _of_dataset(images, labels, named | more)
    if labels is None:
        raise ValueError("labels=None: one for each example, or the name of a frame's column, is accepted.")
    asked = {"labels": labels, "true_labels": true_labels, "groups": groups, "ids": ids}
    columns = {name: _column(images, value, name) for name, value in asked.items()}
    read = _read(images, [value for value in asked.values() if isinstance(value, str)], image_size, skip_bad)
    if columns["ids"] is None:
        columns["ids"] = read.ids
    count = len(read.inputs) if read.ids is None else len(read.ids)
    for name, values in columns.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} examples; expected one for each.")
    rows = {name: None if values is None else as_column(values)[read.kept] for name, values in columns.items()}
    called = [str(each) for each in (read.kept if rows["ids"] is None else rows["ids"])]
    position = {name: int(place) for name, place in zip(called, read.kept, strict=True)}
    try:
        dataset = from_arrays(
            read.inputs, rows["labels"], *_test(test, labels, read), class_names=class_names,
            true_labels=rows["true_labels"], groups=rows["groups"], ids=called, max_tokens=max_tokens,
        )  # fmt: skip
    except ValueError as error:  # by the names of fit's arguments
        raise ValueError(str(error).replace("train_inputs", "images").replace("train_labels", "labels")) from None
    given = rows["labels"]
    whole = class_names is None and given is not None and _are_numbers(given)
    classes = np.array([int(name) for name in dataset.class_names] if whole else dataset.class_names)
    trained = np.array([position[each] for each in dataset.train_ids or ()], np.int64)
    return _Source(dataset, classes, trained, read.more)


def _are_numbers(labels: np.ndarray) -> bool:
    """Whether labels that have been read are whole numbers, also in an array of objects."""
    if labels.dtype.kind == "O":
        return all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in labels.ravel())
    return labels.dtype.kind in "iuf"


def _test(test: Any, labels: Any, read: _Read) -> tuple[Any, Any]:
    """Inputs and labels of the test part; None and None for none."""
    if test is None:
        return None, None
    if _is_frame(test) and isinstance(labels, str):
        test = (test, labels)
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise ValueError(f"test is {_kind(test)}; expected a pair, (images, labels).")
    return read.more(test[0]), _column(test[0], test[1], "test labels")


def _of_dataset(dataset: Dataset, labels: Any, more: Mapping[str, Any]) -> _Source:
    for name, value in more.items():
        if value is not None:
            raise ValueError(f"{name} is given beside a Dataset, which is as it is; dataset._replace(…) changes it.")
    if labels is not None:
        given = encode_labels(labels, dataset.class_names)[0]
        if len(given) != len(dataset.train_labels):
            raise ValueError(f"labels has {len(given)} entries for {len(dataset.train_labels)} training examples.")
        dataset = dataset._replace(train_labels=given)
    numbered = dataset.class_names == tuple(map(str, range(dataset.num_classes)))
    classes = np.arange(dataset.num_classes) if numbered else np.array(dataset.class_names)
    shape = dataset.train_inputs.shape
    more_of: Callable[[Any], Any] = _inputs
    if dataset.vocabulary is not None:
        more_of = _texts
    elif len(shape) == 4 and dataset.train_inputs.dtype == np.uint8:
        more_of = functools.partial(_more_files, size=shape[1:3], grey=shape[3] == 1)
    return _Source(dataset, classes, np.arange(len(dataset.train_labels)), more_of)


def _read(images: Any, taken: Collection[str], size: int | tuple[int, int] | None, skip_bad: bool) -> _Read:
    """What `images` hold; `taken` are the columns of a frame that hold something else."""
    if isinstance(images, str | os.PathLike):
        raise ValueError(
            f"images={os.fspath(images)!r}: a list of paths is accepted; a folder, a CSV or an npz file is read by "
            "robustjax.load('folder:PATH'), whose Dataset fit takes."
        )
    column = _path_column(images, taken) if _is_frame(images) else None
    if column is not None or _are_paths(images):
        paths = _paths(images, column)
        array, kept, grey = _decoded(paths, check_image_size(size), skip_bad)
        more = functools.partial(_more_files, size=array.shape[1:3], grey=grey, column=column)
        return _Read(array, kept, paths, more)
    if size is not None:
        raise ValueError(f"image_size={size!r}: it is for paths of image files.")
    column = _text_column(images, taken) if _is_frame(images) else None
    written = None if _is_frame(images) and column is None else _texts(images, column)
    if isinstance(written, list):
        kept = np.setdiff1d(np.arange(len(written)), text.blank(written) if skip_bad else [])
        more = functools.partial(_texts, column=column)
        return _Read([written[i] for i in kept.tolist()], kept, list(map(str, range(len(written)))), more)
    if skip_bad:
        raise ValueError(f"skip_bad={skip_bad!r}: it is for paths of image files, and for texts.")
    read: Callable[[Any], np.ndarray] = _inputs
    if _is_frame(images):
        read = functools.partial(_numbers, names=_number_columns(images, taken))
    array = read(images)
    return _Read(array, np.arange(len(array)), None, read)


def _inputs(images: Any) -> np.ndarray:
    """Inputs as a run stores them: uint8 [N, H, W, C], float32 or int32 [N, …]."""
    if _is_of(images, "scipy"):
        raise ValueError("images is a sparse matrix; a dense one is accepted: `images.toarray()`.")
    return as_inputs(_array(images))


# --- Frames: pandas is asked nothing that another table could not answer, and is not imported here


def _is_of(value: Any, package: str) -> bool:
    return type(value).__module__.partition(".")[0] == package


def _is_frame(value: Any) -> bool:
    return _is_of(value, "pandas") and hasattr(value, "columns")


def _number_columns(frame: Any, taken: Collection[str]) -> list[str]:
    left = [name for name in frame.columns if name not in taken]
    if texts := [str(name) for name in left if getattr(frame[name].dtype, "kind", "O") not in "iufb"]:
        raise ValueError(
            f"the frame's column(s) {', '.join(map(repr, texts[:5]))} are no numbers: drop them, or name the one that "
            f"is labels, true_labels, groups or ids; paths of image files are in {tables.COLUMNS['path'][0]!r}, and "
            f"texts in {tables.COLUMNS['text'][0]!r}."
        )
    if not left:
        raise ValueError("the frame has no column besides those named; columns of numbers, or of paths, are accepted.")
    return left


def _path_column(frame: Any, taken: Collection[str]) -> str | None:
    """The column of paths: one with a usual name for that which holds text."""
    return _usual(frame, [name for name in frame.columns if name not in taken], "path")


def _text_column(frame: Any, taken: Collection[str]) -> str | None:
    """The column of texts: one with a usual name for that, or the only one, which holds text."""
    left = [name for name in frame.columns if name not in taken]
    return _usual(frame, left, "text") or (_usual(frame, left) if len(left) == 1 else None)


def _usual(frame: Any, there: Sequence[Any], key: str | None = None) -> str | None:
    """The first of the columns `there` that holds text and whose name is a usual one for this, or any."""
    names = {str(name).strip().lower(): name for name in reversed(there)}
    found = [names[name] for name in (names if key is None else tables.COLUMNS[key]) if name in names]
    return next((name for name in found if getattr(frame[name].dtype, "kind", "O") not in "iufb"), None)


def _numbers(frame: Any, names: Sequence[str]) -> np.ndarray:
    if not _is_frame(frame):
        return _inputs(frame)
    if lacking := [name for name in names if name not in frame.columns]:
        raise ValueError(f"the frame lacks the column {lacking[0]!r}, which was trained on.")
    return np.asarray(frame[list(names)].to_numpy(np.float32))


def _column(images: Any, values: Any, what: str) -> Any:
    """The values, those of a frame's column where they are its name."""
    if not isinstance(values, str):
        return _array(values) if _is_of(values, "pandas") else values
    if not _is_frame(images):
        raise ValueError(f"{what}={values!r}: a column's name is accepted where images is a pandas.DataFrame.")
    if values not in images.columns:
        names = list(map(str, images.columns))
        near = ", ".join(difflib.get_close_matches(values, names, 3, 0.5))
        has = f"did you mean {near}?" if near else f"it has {', '.join(names[:20])}{' …' * (len(names) > 20)}."
        raise ValueError(f"{what}={values!r}: the frame has no such column; {has}")
    return images[values].to_numpy()


def _array(values: Any) -> np.ndarray:
    if _is_of(values, "pandas"):
        values = values.to_numpy()
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"what is given is no array: {error}") from error


# --- Image files


def _are_paths(images: Any) -> bool:
    if _is_frame(images):
        return False
    values = _array(images) if _is_of(images, "pandas") else images
    if not isinstance(values, list | tuple | np.ndarray) or not len(values):
        return False
    if isinstance(values[0], os.PathLike):
        return True
    texts = text.as_texts(values)
    if texts is None:
        return False
    named = sum(each.lower().endswith(image_files.SUFFIXES) for each in texts)
    return 2 * named >= len(texts) or os.path.isfile(texts[0])


def _texts(images: Any, column: str | None = None) -> Any:
    """A list of texts, of those of a frame's column or others; what is no texts as a run stores it."""
    if not _is_frame(images):
        values = _array(images) if _is_of(images, "pandas") else images
        found = text.as_texts(values)
        return _inputs(values) if found is None else found
    if column is None or column not in images.columns:
        raise ValueError(f"the frame lacks the column {column!r}, of the texts.")
    values = ["" if is_missing(each) else each for each in _array(images[column])]
    if (found := text.as_texts(values)) is None:
        raise ValueError(f"the frame's column {column!r} holds what is no text.")
    return found


def _paths(images: Any, column: str | None = None) -> list[str]:
    values = images[column] if column is not None and _is_frame(images) else images
    return [os.fspath(each) for each in (_array(values) if _is_of(values, "pandas") else values)]


def _more_files(images: Any, size: tuple[int, int], grey: bool, column: str | None = None) -> np.ndarray:
    """Other images of the size that was trained on: of files, resized, or in an array."""
    if _is_frame(images) and column not in images.columns:
        raise ValueError(f"the frame lacks the column {column!r}, of the paths.")
    if not (_is_frame(images) or _are_paths(images)):
        return _inputs(images)
    return _decoded(_paths(images, column), size, False, grey)[0]


def _decoded(
    paths: Sequence[str], size: tuple[int, int] | None, skip_bad: bool, grey: bool | None = None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Image files as uint8 [M, H, W, C], all in memory; which of them these are, int64 [M]; and whether they are grey.

    Raises:
      ValueError: one cannot be read, unless `skip_bad`, or none can.
    """
    listing = image_files.Listing(
        "images", np.zeros(len(paths), np.int32), (), None, fetch=paths.__getitem__, places=paths
    )
    known = image_files.survey(listing, deep=skip_bad)
    if known.bad and not (skip_bad and len(known.bad) < len(paths)):
        first = min(known.bad)
        raise ValueError(
            f"{len(known.bad)} of {len(paths)} images cannot be read, the first {paths[first]!r} ({known.bad[first]})"
            + ("." if skip_bad else "; skip_bad=True leaves them out.")
        )
    kept = np.setdiff1d(np.arange(len(paths)), list(known.bad))
    chosen = image_files.choose_size(known.sizes[kept]) if size is None else size
    grey = bool(known.grey[kept].all()) if grey is None else grey
    array = np.empty((len(kept), *chosen, 1 if grey else 3), np.uint8)

    def decode(place: int) -> None:
        path = paths[kept[place]]
        try:
            array[place] = resize(image_files.pixels(path, grey), chosen)
        except ValueError as error:
            raise ValueError(f"{path!r} cannot be read ({error}); skip_bad=True leaves it out.") from error

    with concurrent.futures.ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        list(pool.map(decode, range(len(kept))))
    return array, kept, grey


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
