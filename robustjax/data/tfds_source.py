"""Image classification sets of TensorFlow Datasets, read as array_record without TensorFlow."""

import contextlib
import difflib
import functools
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.data.array_cache import Progress, Reader, Record, decode_once

_FORMAT = "array_record"


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
        near = difflib.get_close_matches(base, known, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "robustjax.data.names() lists what there is"
        raise ValueError(
            f"dataset {name!r} is unknown: {hint} (your own data: from_arrays, 'npz:FILE' or 'folder:PATH')"
        ) from None
    except Exception as error:  # an unknown version or config: AssertionError, RuntimeError, …
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"dataset {name!r}: {reason} (names look like 'mnist', 'mnist:3.0.1', 'name/config')"
        ) from error


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
    """The feature names of the image and of the label."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items()) if hasattr(info.features, "items") else {}
    named = info.supervised_keys or ()
    pairs = [named] if len(named) == 2 and all(isinstance(key, str) for key in named) else []
    for image_key, label_key in (*pairs, ("image", "label")):
        if isinstance(features.get(image_key), tfds.features.Image) and isinstance(
            features.get(label_key), tfds.features.ClassLabel
        ):
            return image_key, label_key
    kinds = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
    raise ValueError(f"dataset {name!r} is not image classification (an Image and a ClassLabel): it has {kinds}")


def _original_index(record: dict) -> int:
    """16399 from CIFAR's id b'train_16399'; -1 where there is no such id."""
    value = record.get("id")
    match = re.fullmatch(rb"[a-z]+_(\d+)", value) if isinstance(value, bytes) else None
    return int(match[1]) if match else -1


def _read(source: Any, keys: tuple[str, str], start: int, stop: int) -> list[Record]:
    records = source.__getitems__(list(range(start, stop)))
    return [Record(np.asarray(r[keys[0]]), int(r[keys[1]]), _original_index(r)) for r in records]


def read(
    name: str,
    data_dir: str | os.PathLike | None,
    cache_dir: Path,
    *,
    download: bool,
    image_size: tuple[int, int] | None,
    progress: Progress | None,
    other_names: tuple[str, ...] = (),
) -> tuple[dict[str, np.ndarray], tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """The arrays of a TFDS set (see `decode_once`), channel means, standard deviations and class names.

    The test split is `test` or, where there is none, `validation`. Raises ValueError for a set that is unknown, has no
    such split or is not image classification, and FileNotFoundError, with the steps to take, for one that is not
    prepared and cannot be.
    """
    data_dir = os.path.expanduser(os.fspath(data_dir)) if data_dir is not None else None
    with _quiet():
        builder = _make_builder(name, data_dir, other_names)
        if not _readable(builder):
            if not download or builder.is_prepared():
                raise FileNotFoundError(_how_to(name, builder))
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
        content = {
            "dataset": info.full_name,
            "keys": keys,
            "image_size": image_size,
            "splits": {k: (s, info.splits[s].num_examples, int(info.splits[s].num_bytes)) for k, s in splits.items()},
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        readers = {}
        for key, split in splits.items():
            source = builder.as_data_source(split)
            readers[key] = Reader(len(source), functools.partial(_read, source, keys))
        arrays, mean, std = decode_once(
            cache_dir / Path(*info.full_name.split("/")[:-1]) / f"{info.version}-{digest}",
            readers,
            what=name,
            image_size=image_size,
            progress=progress,
        )
    label = info.features[keys[1]]
    return arrays, mean, std, tuple(label.names or map(str, range(label.num_classes)))
