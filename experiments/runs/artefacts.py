"""A seed's labels in its run directory: what was trained on, held out and trusted, written once and read back."""

import pathlib
from collections.abc import Iterator, Mapping

from experiments.settings import build
from experiments.settings.config import Config
from robustjax.data import Dataset, corruptions
from robustjax.data.labelling import Labels


def save_labels(
    path: pathlib.Path, seed: int, labels: build.SeedLabels, dataset: Dataset, pool: Dataset | None = None
) -> None:
    """Write `labels-seedK.npz`, and `validation-seedK.npz` and `trusted-seedK.npz` where there are such examples."""
    for name, part in _parts(labels):
        source = pool if name == "trusted" else dataset
        corruptions.save_noise(
            _file(path, name, seed), part.given, part.kept, clean_labels=(source or dataset).train_labels
        )


def read_labels(
    path: pathlib.Path, seed: int, config: Config, dataset: Dataset, pool: Dataset | None = None
) -> build.SeedLabels:
    """What `save_labels` wrote; groups are made anew.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if one is damaged, or the data are not those that it was made for.
    """

    def read(name: str, source: Dataset) -> Labels:
        clean = source.train_labels
        noise = corruptions.load_noise(_file(path, name, seed), clean_labels=clean)
        return Labels(noise.kept, noise.given, clean[noise.kept])

    train = read("labels", dataset)
    return build.SeedLabels(
        train,
        validation=read("validation", dataset) if config.validation_split else None,
        groups=build.make_groups(config, dataset, train),
        trusted=None if pool is None else read("trusted", pool),
    )


def has_labels(path: pathlib.Path, seed: int) -> bool:
    """Whether the labels of a seed are there, all of them."""
    return _file(path, "labels", seed).exists()


def hashes(labels: Mapping[int, build.SeedLabels]) -> dict[str, dict[int, str]]:
    """What config.json says of the seeds' labels, and of which trusted examples they have, if any."""
    found = {"labels": {seed: corruptions.label_hash(own.train.given) for seed, own in labels.items()}}
    chosen = {seed: corruptions.label_hash(own.trusted.kept) for seed, own in labels.items() if own.trusted is not None}
    return found | ({"trusted": chosen} if chosen else {})


def _parts(labels: build.SeedLabels) -> Iterator[tuple[str, Labels]]:
    # The labels last: where they are, the others are (`has_labels`).
    for name, part in (("validation", labels.validation), ("trusted", labels.trusted), ("labels", labels.train)):
        if part is not None:
            yield name, part


def _file(path: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    return path / f"{name}-seed{seed}.npz"
