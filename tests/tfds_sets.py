"""TFDS sets on disk, made by TFDS's own writer, for tests that read them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow_datasets as tfds


def prepare(
    folder: Any,
    name: str,
    features: Mapping[str, Any],
    splits: Mapping[str, Callable[[], Iterable[tuple[int, dict[str, Any]]]]],
    version: str = "1.0.0",
) -> None:
    """Write the set `name` into `folder`; each split is a function that yields keys and examples."""
    body = {
        "VERSION": tfds.core.Version(version),
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(dict(features))),
        "_split_generators": lambda self, _: {split: self._generate_examples(make) for split, make in splits.items()},
        "_generate_examples": lambda self, make: make(),
    }
    tfds.disable_progress_bar()
    with tfds.core.registered.skip_registration():
        builder = type(name, (tfds.core.GeneratorBasedBuilder,), body)(data_dir=folder, file_format="array_record")
    builder.download_and_prepare(file_format="array_record")
