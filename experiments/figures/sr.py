"""Figures of SR (Zhou et al., ICCV 2021): `python -m experiments.figures.sr RUN_DIR [RUN_DIR …] --out DIR`.

test_accuracy.png    test accuracy by epoch, a line a run (the paper's Fig. 7)
sparse_rate.png      sparse rate by epoch, for the runs that looked at the training set (its Fig. 3)
tsne.png             t-SNE of the features of test images, a panel a run (its Figs. 1 and 5)

Runs may be unfinished; they must be on one data set.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.figures import runs, tsne
from experiments.pictures import plots
from experiments.runs import measure, restore
from robustjax.training import checkpoints

SPARSE_RATES = {
    "sparse_rate": "sparse rate",
    "sharpened_sparse_rate": f"sparse rate, sharpened (τ = {measure.SHARPENING:g})",
}


def draw_tsne(
    restored: Mapping[str, restore.Restored], path: pathlib.Path, images: int = 2000
) -> tuple[pathlib.Path, dict[str, float]]:
    """Save the t-SNE of the features of the same random test images under each run's first seed.

    Args:
      restored: runs by label, on one data set.
      path: of the picture.
      images: how many at most.

    Returns:
      The path, and each run's `tsne.neighbour_agreement` in the space of its features, which its title tells too.
    """
    dataset = next(iter(restored.values())).dataset
    count = min(images, len(dataset.test_labels))
    chosen = np.sort(np.random.default_rng(0).choice(len(dataset.test_labels), count, replace=False))
    classes = dataset.test_labels[chosen]
    points, agreement = {}, {}
    for label, run in restored.items():
        found = restore.features(run, dataset.test_inputs[chosen])
        agreement[label] = tsne.neighbour_agreement(found, classes)
        points[f"{label}\nepoch {run.epoch}, 10-NN of own class {100 * agreement[label]:.0f} %"] = tsne.embed(found)
    return plots.embeddings(points, classes, dataset.class_names, path), agreement


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for runs that cannot be drawn."""
    parser = runs.make_parser("sr", __doc__, restores=True)
    parser.add_argument("--images", type=int, default=2000, help="test images in the t-SNE, default 2000; 0: none")
    given = parser.parse_args(argv)
    return runs.show(lambda: draw(given.runs, given.out, given.data_dir, given.images, trust_code=given.trust_code))


def draw(
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    data_dir: str | None = None,
    images: int = 2000,
    *,
    trust_code: bool = False,
) -> list[pathlib.Path]:
    """Draw what the runs allow into `out`; what they do not is told on stderr.

    Raises:
      ValueError: a path holds no run, runs are on different data sets, one names a Python file (and `trust_code` is not
        given, see `restore.restore_run`), or `images` is too few for a t-SNE.
    """
    if images != 0 and images < 20:
        raise ValueError(f"images={images}: 0 for no t-SNE, or at least 20.")
    names = runs.read(paths)
    records = {label: runs.read_records(path) for path, label in names.items()}
    measured = {label: seeds for label, seeds in records.items() if seeds}
    surveyed = {label: seeds for label, seeds in measured.items() if any("sparse_rate" in r for r in seeds[0])}
    made = []
    if measured:
        made.append(plots.by_epoch(measured, {"test_accuracy": runs.test_title(names)}, out / "test_accuracy.png"))
    runs.tell_missing("no epoch is over", records, measured)
    if surveyed:
        made.append(plots.by_epoch(surveyed, SPARSE_RATES, out / "sparse_rate.png"))
    runs.tell_missing("no sparse rate is recorded (it needs --track-every)", records, surveyed)
    if images:
        restored = {}
        for path in names:
            if checkpoints.latest_epoch(path / "checkpoints") is not None:
                restored[names[path]] = restore.restore_run(path, data_dir, trust_code=trust_code)
        runs.tell_missing("there is no checkpoint", records, restored)
        if restored:
            made.append(draw_tsne(restored, out / "tsne.png", images)[0])
    return made


if __name__ == "__main__":
    sys.exit(main())
