"""Image and text classification sets of TensorFlow Datasets, read as array_record without TensorFlow."""

import contextlib
import difflib
import functools
import hashlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.data import text
from robustjax.data.array_cache import Progress, Reader, Record, decode_once

_FORMAT = "array_record"
_CHUNK = 1000  # texts read at a time for the vocabulary


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's warnings (OpenCV is missing, a folder is not there yet): what matters is raised here."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def registered_names() -> tuple[str, ...]:
    """The names of the data sets that TFDS knows, of all kinds."""
    import tensorflow_datasets as tfds

    return tuple(sorted(tfds.list_builders(with_community_datasets=False)))


def _make_builder(name: str, data_dir: str | None, other_names: tuple[str, ...]) -> Any:
    """The TFDS builder for `name` or `name/config:version`, or a ValueError that says what to type instead."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        return tfds.builder(name, data_dir=data_dir)
    except DatasetNotFoundError:
        base = name.split(":")[0].split("/")[0]
        known = [*other_names, *registered_names()]
        if base in known:  # the version asked for is neither TFDS's own nor on disk
            raise ValueError(f"dataset {name!r} is not in this version of TFDS, nor prepared in data_dir") from None
        _refuse_bare_path(name)
        near = difflib.get_close_matches(base, known, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "robustjax.data.names() lists what there is"
        raise ValueError(
            f"dataset {name!r} is unknown: {hint} (your own data: from_arrays, 'npz:FILE' or 'folder:PATH')"
        ) from None
    except Exception as error:  # an unknown version or config: AssertionError, RuntimeError, …
        _refuse_bare_path(name)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"dataset {name!r}: {reason} (names look like 'mnist', 'mnist:3.0.1', 'name/config')"
        ) from error


def _refuse_bare_path(name: str) -> None:
    """ValueError for the name of a file or folder that is there: of one's own data, without what they are."""
    if os.path.exists(name):
        suffix = os.path.splitext(name)[1].lower().removeprefix(".")
        kinds = ("folder", "hf") if os.path.isdir(name) else (suffix if suffix in ("csv", "npz") else "csv",)
        raise ValueError(f"dataset {name!r} is a path: {' or '.join(f'{kind}:{name}' for kind in kinds)} is accepted")


def _readable(builder: Any) -> bool:
    formats = {getattr(f, "value", f) for f in builder.info.available_file_formats()}
    return builder.is_prepared() and _FORMAT in formats


def _how_to(name: str, builder: Any) -> str:
    """What to type to get the data set, and what stands in the way."""
    root = os.fspath(builder.data_dir).split(f"{os.sep}{builder.name}{os.sep}")[0]
    folder = Path(root) / builder.name
    versions = sorted({path.parent.name for path in folder.glob("**/dataset_info.json")})
    have = ""
    if builder.is_prepared():
        have = f" It is there as {builder.info.file_format.value}, which is not read here: use another data_dir."
    elif versions:
        have = f" There are version(s) {', '.join(versions)}: ask for '{builder.name}:{versions[-1]}'."
    return (
        f"dataset {name!r} is not prepared as {_FORMAT} under data_dir {root!r}.{have}\n"
        f"To prepare it, on a machine with network: python -m robustjax.data.tfds_prepare {name} {shlex.quote(root)}\n"
        f"or, with TensorFlow: tfds build {name} --data_dir={shlex.quote(root)} --file_format={_FORMAT}"
    )


def _unreachable(builder: Any, seconds: float = 3.0) -> str | None:
    """What is wrong with the way to the data set's files, found out in `seconds`; None where nothing is known to be.

    A proxy, or files that are on this machine already, leave it to TFDS to find out.
    """
    urls = [urllib.parse.urlsplit(url) for url in getattr(builder, "url_infos", None) or ()]
    ports = {"http": 80, "https": 443, "ftp": 21}
    hosts = [(url.hostname, url.port or ports[url.scheme]) for url in urls if url.hostname and url.scheme in ports]
    hosts = list(dict.fromkeys(hosts))
    if not hosts or urllib.request.getproxies() or (Path(builder.data_dir_root) / "downloads").is_dir():
        return None
    failed: list[str] = []

    def look() -> None:  # in a thread of its own, since a name server that does not answer takes its time
        for host in hosts:
            try:
                socket.create_connection(host, seconds).close()
                return
            except OSError as error:
                failed.append(f"{host[0]}: {error.strerror or error}")
        reached.set()

    reached = threading.Event()
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return f"{hosts[0][0]} has not answered in {seconds:g} seconds"
    return "; ".join(failed[:2]) if reached.is_set() else None


def _prepare(name: str, builder: Any, data_dir: str | None) -> None:
    """Has a child process download and prepare the data set, so that TensorFlow never enters this one."""
    print(
        f"robustjax: {name} is not prepared under {builder.data_dir}: downloading it with TFDS "
        "(without network that takes minutes to fail)",
        file=sys.stderr,
    )
    package_root = os.fspath(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "robustjax.data.tfds_prepare", name, *([data_dir] if data_dir else [])]
    child = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    )
    if child.returncode:
        lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
        reason = lines[-1][:500] if lines else f"exit status {child.returncode}"
        raise FileNotFoundError(f"{_how_to(name, builder)}\nTFDS could not do it here: {reason}")


def _keys(name: str, info: Any) -> tuple[str, str]:
    """The feature names of the image or text and of the label.

    What TFDS calls supervised, else `image` or `text` and `label`, else the only text and the only label.
    """
    import tensorflow_datasets as tfds

    features = dict(info.features.items()) if hasattr(info.features, "items") else {}
    named = info.supervised_keys or ()
    pairs = [tuple(named)] if len(named) == 2 and all(isinstance(key, str) for key in named) else []
    texts, labels = (
        [key for key, feature in features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Text, tfds.features.ClassLabel)
    )
    pairs += [("image", "label"), ("text", "label")]
    pairs += [(texts[0], labels[0])] if len(texts) == len(labels) == 1 else []
    for input_key, label_key in pairs:
        readable = isinstance(features.get(input_key), tfds.features.Image | tfds.features.Text)
        if readable and isinstance(features.get(label_key), tfds.features.ClassLabel):
            return input_key, label_key
    kinds = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
    raise ValueError(
        f"dataset {name!r} is not image or text classification (an Image or a Text, and a ClassLabel): it has {kinds}"
    )


def _original_index(record: dict[str, Any]) -> int:
    """16399 from CIFAR's id b'train_16399'; -1 where there is no such id."""
    value = record.get("id")
    match = re.fullmatch(rb"[a-z]+_(\d+)", value) if isinstance(value, bytes) else None
    return int(match[1]) if match else -1


def _read(
    source: Any, keys: tuple[str, str], convert: Callable[[list[Any]], Iterable[np.ndarray]], start: int, stop: int
) -> list[Record]:
    records = source.__getitems__(list(range(start, stop)))
    inputs = convert([record[keys[0]] for record in records])
    return [Record(x, int(r[keys[1]]), _original_index(r)) for x, r in zip(inputs, records, strict=True)]


def _images(features: list[Any]) -> list[np.ndarray]:
    return [np.asarray(image) for image in features]


def _decode(feature: Any) -> str:
    return feature.decode("utf-8", "replace") if isinstance(feature, bytes) else str(feature)


def _texts(source: Any, key: str) -> Iterator[str]:
    """All texts of a split."""
    for start in range(0, len(source), _CHUNK):
        for record in source.__getitems__(list(range(start, min(start + _CHUNK, len(source))))):
            yield _decode(record[key])


def refuse(name: str, kind: str, options: dict[str, Any]) -> None:
    """ValueError for an option that is given (not None) and means nothing for the data's kind."""
    for option, value in options.items():
        if value is not None:
            raise ValueError(f"{option} is {value!r}; {name!r} data are {kind}: leave it out")


def read(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    cache_dir: Path,
    *,
    download: bool,
    image_size: tuple[int, int] | None,
    max_tokens: int | None,
    vocabulary_size: int | None,
    progress: Progress | None,
    other_names: tuple[str, ...] = (),
) -> tuple[dict[str, np.ndarray], tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """The arrays of a TFDS set (see `decode_once`), channel means, standard deviations and class names.

    Texts become token ids, with the packed `vocabulary` of the training texts beside them (see `robustjax.data.text`).
    The test split is `test` or, where there is none, `validation`. Raises ValueError for a set that is unknown, has no
    such split or is neither image nor text classification, or an option that is not for its kind, and
    FileNotFoundError, with the steps to take, for one that is not prepared and cannot be.
    """
    data_dir = os.path.expanduser(os.fspath(data_dir)) if data_dir is not None else None
    if data_dir is not None and not os.path.isdir(data_dir):
        raise FileNotFoundError(
            f"data_dir={data_dir!r} for dataset {name!r}: there is no such folder. Prepared data sets are looked for "
            "in it, and others are put there; make it (mkdir) if that is where they shall be."
        )
    import tensorflow_datasets as tfds

    with _quiet():
        builder = _make_builder(name, data_dir, other_names)
        if not _readable(builder):
            if not download or builder.is_prepared():
                raise FileNotFoundError(_how_to(name, builder))
            if missing := _unreachable(builder):
                raise FileNotFoundError(f"{_how_to(name, builder)}\nThere is no network here: {missing}.")
            _prepare(name, builder, data_dir)
            builder = _make_builder(name, data_dir, other_names)
        info = builder.info
        keys = _keys(name, info)
        test = next((split for split in ("test", "validation") if split in info.splits), None)
        if "train" not in info.splits or test is None:
            raise ValueError(
                f"dataset {name!r} has the splits {', '.join(info.splits)}; needed: train and test or validation"
            )
        splits = {"train": "train", "test": test}
        is_text = isinstance(info.features[keys[0]], tfds.features.Text)
        if not is_text and (held := np.dtype(info.features[keys[0]].np_dtype)) != np.uint8:
            raise ValueError(f"dataset {name!r} has images of {held}; those of uint8, 8 bits a channel, are accepted")
        refuse(
            name, "texts" if is_text else "images",
            {"image_size": image_size} if is_text else {"max_tokens": max_tokens, "vocabulary_size": vocabulary_size},
        )  # fmt: skip
        content = {
            "dataset": info.full_name,
            "keys": keys,
            "image_size": image_size,
            "splits": {k: (s, info.splits[s].num_examples, int(info.splits[s].num_bytes)) for k, s in splits.items()},
        }
        length = text.MAX_TOKENS if max_tokens is None else max_tokens
        words = text.VOCABULARY_SIZE if vocabulary_size is None else vocabulary_size
        if is_text:
            content["tokens"] = (text.SCHEME, length, words)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        sources = {key: builder.as_data_source(split) for key, split in splits.items()}

        @functools.cache  # built from the training texts when the first record is read, which a cache hit never does
        def vocabulary() -> tuple[str, ...]:
            return text.build_vocabulary(_texts(sources["train"], keys[0]), words)

        def tokens(features: list[Any]) -> np.ndarray:
            return text.encode(list(map(_decode, features)), vocabulary(), length)

        readers = {
            key: Reader(len(source), functools.partial(_read, source, keys, tokens if is_text else _images))
            for key, source in sources.items()
        }
        arrays, mean, std = decode_once(
            cache_dir / Path(*info.full_name.split("/")[:-1]) / f"{info.version}-{digest}",
            readers,
            what=name,
            image_size=image_size,
            progress=progress,
            more=(lambda: {"vocabulary": text.pack(vocabulary())}) if is_text else dict,
        )
    label = info.features[keys[1]]
    return arrays, mean, std, tuple(label.names or map(str, range(label.num_classes)))
