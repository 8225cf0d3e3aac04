"""A seed's labels in its run directory: what was trained on, held out and trusted, written once and read back."""

import hashlib
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from experiments.runs import directory
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

    def read(name: str, source: Dataset, true: np.ndarray | None) -> Labels:
        noise = corruptions.load_noise(_file(path, name, seed), clean_labels=source.train_labels)
        return Labels(noise.kept, noise.given, None if true is None else true[noise.kept])

    true = build.truth(config, dataset)
    train = read("labels", dataset, true)
    return build.SeedLabels(
        train,
        validation=read("validation", dataset, true) if config.validation_split else None,
        groups=build.make_groups(config, dataset, train),
        trusted=None if pool is None else read("trusted", pool, build.trusted_labels(pool)),
    )


def read_kept(path: pathlib.Path, seed: int) -> np.ndarray:
    """Which examples of the training split a seed was trained on, int64 [N]."""
    return corruptions.load_noise(_file(path, "labels", seed)).kept


def has_labels(path: pathlib.Path, seed: int) -> bool:
    """Whether the labels of a seed are there, all of them."""
    return _file(path, "labels", seed).exists()


def label_hashes(labels: Mapping[int, build.SeedLabels]) -> dict[str, dict[str, str]]:
    """What config.json says of the seeds' labels: trained on, held out, and which are trusted, where there are such."""
    found: dict[str, dict[str, str]] = {}
    for name, part, values in (
        ("labels", "train", "given"), ("validation", "validation", "given"), ("trusted", "trusted", "kept")
    ):  # fmt: skip
        parts = {str(seed): getattr(own, part) for seed, own in labels.items()}
        chosen = {seed: corruptions.label_hash(getattr(one, values)) for seed, one in parts.items() if one is not None}
        found |= {name: chosen} if chosen else {}
    return found


def data_hashes(dataset: Dataset, pool: Dataset | None = None) -> dict[str, str]:
    """What config.json says of the data: SHA-256 of them, and of the trusted pool where that is another data set.

    Of arrays above 1 GiB every k-th example is in it, as many as make 1 GiB.
    """
    sets = {"dataset": dataset} | ({"trusted": pool} if pool is not None and pool is not dataset else {})
    return {name: _hash(each) for name, each in sets.items()}


def name_of(dataset: Dataset) -> str:
    """What a run calls data that came as arrays in memory: "arrays:" and 12 digits that are theirs alone.

    They tell all that a run makes of them: inputs and labels (see `data_hashes`), true labels, groups, names and ids.
    """
    digest = hashlib.sha256(_hash(dataset).encode())
    told = (dataset.name, dataset.class_names, dataset.train_ids, dataset.mean, dataset.std, dataset.test_held_out)
    digest.update(repr(told).encode())
    for array in (dataset.true_labels, dataset.annotations, dataset.groups):
        digest.update(b"-" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return f"arrays:{digest.hexdigest()[:12]}"


def check_data(path: pathlib.Path, dataset: Dataset, pool: Dataset | None = None) -> None:
    """Compare the data with those of the run in `path`; a run of before data were hashed is not compared.

    Raises:
      directory.RunDirectoryError: if they are others.
    """
    before = directory.read_description(path).get("data")
    if before is None:
        return
    for name, now in data_hashes(dataset, pool).items():
        if before.get(name) != now:
            whose = "the data" if name == "dataset" else "the trusted examples"
            raise directory.RunDirectoryError(
                f"{whose} have changed since the run in out={str(path)!r}: their hash was "
                f"{str(before.get(name))[:12]}… and is {now[:12]}…; bring them back, or give another --out, or "
                "--overwrite."
            )


def check_labels(path: pathlib.Path, labels: Mapping[int, build.SeedLabels]) -> None:
    """Compare the seeds' labels with what config.json says of them.

    Raises:
      directory.RunDirectoryError: naming the first that are others.
    """
    before = directory.read_description(path)
    for name, by_seed in label_hashes(labels).items():
        for seed, now in by_seed.items() if name in before else ():  # an earlier version told less
            if before[name].get(seed) != now:
                raise directory.RunDirectoryError(
                    f"{str(_file(path, name, int(seed)))!r} is not of the run that config.json beside it describes: "
                    f"the hash of its {name} is {now[:12]}…, and was {str(before[name].get(seed))[:12]}…; bring the "
                    "file back, or give another --out, or --overwrite."
                )


def _hash(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    arrays = [dataset.train_inputs, dataset.train_labels, dataset.test_inputs, dataset.test_labels]
    if dataset.true_labels is not None and not np.array_equal(dataset.true_labels, dataset.train_labels):
        arrays.append(dataset.true_labels)  # else they tell nothing more
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        rows = array[:: max(1, -(-array.nbytes // 2**30))]
        for start in range(0, len(rows), 1024):  # memory-mapped ones come into memory bit by bit
            digest.update(rows[start : start + 1024].tobytes())
    return digest.hexdigest()


def _parts(labels: build.SeedLabels) -> Iterator[tuple[str, Labels]]:
    # The labels last: where they are, the others are (`has_labels`).
    for name, part in (("validation", labels.validation), ("trusted", labels.trusted), ("labels", labels.train)):
        if part is not None:
            yield name, part


def _file(path: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    return path / f"{name}-seed{seed}.npz"
