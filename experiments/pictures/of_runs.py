"""Which plots a run gets: those that its records and diagnostics hold something for."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.pictures import plots
from experiments.settings.config import Config
from robustjax.data import Dataset
from robustjax.data.labelling import Labels


def read_diagnostics(path: pathlib.Path, seed: int) -> list[dict[str, np.ndarray]]:
    """The diagnostics of a seed, one dict an epoch."""
    found = []
    for file in sorted((path / "diagnostics").glob(f"seed{seed}-epoch*.npz")):
        with np.load(file) as arrays:
            found.append({name: arrays[name] for name in arrays.files})
    return found


def draw_all(
    path: pathlib.Path,
    settings: Config,
    dataset: Dataset,
    corrupted: Sequence[Labels],
    seeds: Sequence[int],
    records: Sequence[Mapping[str, Any]],
) -> list[pathlib.Path]:
    """Draw a run's plots into its `plots` folder; of the learned tables those of the first seed."""
    folder = path / "plots"
    folder.mkdir(exist_ok=True)
    by_seed = [[r for r in records if r["seed"] == seed] for seed in seeds]
    made = [plots.learning_curves({settings.method: by_seed}, folder / "learning_curves.png")]
    if any("wrong_memorized" in r for r in by_seed[0]):
        made.append(plots.memorization(by_seed[0], folder / "memorization.png"))
    if any("elr_coefficient_wrong" in r for r in by_seed[0]):
        made.append(plots.gradient_coefficients(by_seed[0], folder / "gradient_coefficients.png"))
    if any("correction_accuracy" in r for r in by_seed[0]):
        right = float(np.mean(corrupted[0].given == corrupted[0].clean))
        runs = {settings.method: by_seed[0]}
        made.append(plots.correction_accuracy(runs, {settings.method: right}, folder / "correction_accuracy.png"))
    history = read_diagnostics(path, seeds[0])
    if not history:
        return made
    last = history[-1]
    if "weight_table" in last:
        made.append(
            plots.label_weights(
                last["weight_table"], last["noisy_share"], dataset.class_names, folder / "label_weights.png"
            )
        )
        first_class = np.stack([each["weight_table"][0] for each in history])
        made.append(plots.label_weights_over_epochs(first_class, folder / "label_weights_over_epochs.png"))
    if "margin" in last:
        counts = np.bincount(corrupted[0].given, minlength=dataset.num_classes)
        made.append(plots.margins(last["margin"], counts, dataset.class_names, folder / "margins.png"))
    if "group_strength" in last:
        names, test_error = dataset.class_names, 1 - np.array(by_seed[0][-1]["per_class_accuracy"], float)
        if settings.groups is not None:  # groups are no classes
            names, test_error = [f"group {g}" for g in range(len(last["group_strength"]))], None
        found = (last[f"group_{what}"] for what in ("strength", "count", "error"))
        made.append(plots.strengths(*found, test_error, names, folder / "strengths.png"))
    return made
