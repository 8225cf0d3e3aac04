"""Figures of SR (Zhou et al., ICCV 2021): `python -m experiments.figures.sr RUN_DIR [RUN_DIR …] --out DIR`.

test_accuracy.png    test accuracy by epoch, a line a run (the paper's Fig. 7)
sparse_rate.png      sparse rate by epoch, for the runs that looked at the training set (its Fig. 3)
tsne.png             t-SNE of the features of test images, a panel a run (its Figs. 1 and 5)

Runs may be unfinished; they must be on one data set.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from experiments import measure, plots, restore, rundir
from experiments.config import Config
from robustjax.training import checkpoints, logging

SPARSE_RATES = {
    "sparse_rate": "sparse rate",
    "sharpened_sparse_rate": f"sparse rate, sharpened (τ = {measure.SHARPENING:g})",
}


def labels(settings: Mapping[pathlib.Path, Config]) -> dict[pathlib.Path, str]:
    """A label for each run: method and noise; where these agree, also the settings that differ, or else the path."""
    plain = {path: _method_and_noise(each) for path, each in settings.items()}
    found = {}
    for path, label in plain.items():
        namesakes = {other: _flat(settings[other]) for other in plain if plain[other] == label}
        mine = namesakes[path]
        differing = [name for name in mine if any(other.get(name) != mine[name] for other in namesakes.values())]
        identical = [other for other in namesakes if namesakes[other] == mine]
        parts = [label, *(f"{name}={mine[name]}" for name in differing), *([str(path)] if len(identical) > 1 else [])]
        found[path] = ", ".join(parts)
    return found


def _method_and_noise(settings: Config) -> str:
    method = settings.method
    if settings.options.get("regularizer", "none") != "none" and not method.endswith("_sr"):
        method += " + SR"
    return method if settings.noise == "none" else f"{method}, {settings.noise} {settings.noise_rate:g}"


def _flat(settings: Config) -> dict[str, Any]:
    return {**{k: v for k, v in dataclasses.asdict(settings).items() if k != "options"}, **settings.options}


def read_records(path: pathlib.Path) -> list[list[dict[str, Any]]]:
    """The records of a run so far, by seed; none before its first epoch is over."""
    file = path / "metrics.jsonl"
    records = logging.read_records(file) if file.exists() else []
    return [[r for r in records if r["seed"] == seed] for seed in sorted({r["seed"] for r in records})]


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of features [N, D] in the plane, float32 [N, 2]: perplexity 30 (less for N < 91), PCA init, fixed seed.

    The paper tells neither perplexity nor iterations.
    """
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.asarray(features, np.float32))


def neighbour_agreement(features: np.ndarray, classes: np.ndarray, k: int = 10) -> float:
    """Share of the `k` nearest neighbours of an example that are of its own class, mean over examples [N, D], [N].

    A number for what a t-SNE shows: 1 for classes well apart, about 1/C for C mixed ones.
    """
    # The query without data leaves each example out of its own neighbourhood, duplicates or not.
    nearest = NearestNeighbors(n_neighbors=k).fit(features).kneighbors(return_distance=False)
    return float(np.mean(classes[nearest] == classes[:, None]))


def draw_tsne(
    runs: Mapping[str, restore.Restored], path: pathlib.Path, images: int = 2000
) -> tuple[pathlib.Path, dict[str, float]]:
    """Save the t-SNE of the features of the same random test images under each run's first seed.

    Args:
      runs: by label, on one data set.
      path: of the picture.
      images: how many at most.

    Returns:
      The path, and each run's `neighbour_agreement` in the space of its features, which its title tells too.
    """
    dataset = next(iter(runs.values())).dataset
    count = min(images, len(dataset.test_labels))
    chosen = np.sort(np.random.default_rng(0).choice(len(dataset.test_labels), count, replace=False))
    classes = dataset.test_labels[chosen]
    points, agreement = {}, {}
    for label, run in runs.items():
        found = restore.features(run, dataset.test_images[chosen])
        agreement[label] = neighbour_agreement(found, classes)
        points[f"{label}\nepoch {run.epoch}, 10-NN of own class {100 * agreement[label]:.0f} %"] = embed(found)
    return plots.embeddings(points, classes, dataset.class_names, path), agreement


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for runs that cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m experiments.figures.sr", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "runs", nargs="+", type=pathlib.Path, metavar="RUN_DIR", help="run directories, on one data set"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets, as given to the runs")
    parser.add_argument("--images", type=int, default=2000, help="test images in the t-SNE, default 2000; 0: none")
    given = parser.parse_args(argv)
    try:
        for made in draw(given.runs, given.out, given.data_dir, given.images):
            print(made)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def draw(
    paths: Sequence[pathlib.Path], out: pathlib.Path, data_dir: str | None = None, images: int = 2000
) -> list[pathlib.Path]:
    """Draw what the runs allow into `out`; what they do not is told on stderr.

    Raises:
      ValueError: a path holds no run, runs are on different data sets, or `images` is too few for a t-SNE.
    """
    if images != 0 and images < 20:
        raise ValueError(f"images={images}: 0 for no t-SNE, or at least 20.")
    settings = {path: rundir.read_settings(path) for path in dict.fromkeys(paths)}
    datasets = sorted({each.dataset for each in settings.values()})
    if len(datasets) > 1:
        raise ValueError(f"the runs are on different data sets ({', '.join(datasets)}); draw them one by one.")
    names = labels(settings)
    records = {names[path]: read_records(path) for path in settings}
    measured = {label: seeds for label, seeds in records.items() if seeds}
    surveyed = {label: seeds for label, seeds in measured.items() if any("sparse_rate" in r for r in seeds[0])}
    made = []
    if measured:
        made.append(plots.by_epoch(measured, {"test_accuracy": "test accuracy"}, out / "test_accuracy.png"))
    _tell_missing("no epoch is over", records, measured)
    if surveyed:
        made.append(plots.by_epoch(surveyed, SPARSE_RATES, out / "sparse_rate.png"))
    _tell_missing("no sparse rate is recorded (it needs --track-every)", records, surveyed)
    if images:
        restored = {}
        for path in settings:
            if checkpoints.latest_epoch(path / "checkpoints") is not None:
                restored[names[path]] = restore.restore_run(path, data_dir)
        _tell_missing("there is no checkpoint", records, restored)
        if restored:
            made.append(draw_tsne(restored, out / "tsne.png", images)[0])
    return made


def _tell_missing(reason: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    missing = [label for label in wanted if label not in found]
    if missing:
        print(f"{reason}: {'; '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
