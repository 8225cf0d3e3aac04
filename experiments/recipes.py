"""The papers' hyperparameters: (method, data set) -> settings, each with its source.

A recipe is the data set's protocol, then what the method changes in it. Command-line flags override both.
"""

import copy
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """Settings of `experiments.config.Config`, options of the method, and where they come from."""

    settings: dict[str, Any]
    options: dict[str, Any]
    sources: tuple[str, ...]


def _recipe(source: str, options: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    return Recipe(settings, options or {}, (source,))


# The protocol that a data set's comparisons share, whatever the method.
_CIFAR_LONG_TAILED = _recipe(
    "Dynamic Loss (TPAMI 2023), section 5.1 and supplement: long-tailed CIFAR with noise, ResNet-32",
    model="resnet32", noise="frequency_proportional", noise_rate=0.2, imbalance="long_tailed", imbalance_ratio=10.0,
    epochs=300, batch_size=512, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, schedule="cosine",
    lr_warmup_epochs=5.0, augmentation="crop-flip-autoaugment",
)  # fmt: skip

DATASETS: dict[str, Recipe] = {
    "digits": _recipe(
        "ours: chosen on seeds 100 to 104, reported on others",
        model="small_cnn", noise="frequency_proportional", noise_rate=0.4, imbalance="long_tailed",
        imbalance_ratio=10.0, epochs=60, batch_size=64, learning_rate=0.1, momentum=0.9, weight_decay=5e-4,
        schedule="cosine", augmentation="crop1",
    ),
    "mnist": _recipe(
        "SR (ICCV 2021), section 4 and code: 4-layer CNN",
        model="cnn4", epochs=50, batch_size=128, learning_rate=0.01, momentum=0.9, weight_decay=1e-3,
        schedule="cosine",
    ),
    "cifar10": _CIFAR_LONG_TAILED,
    "cifar100": _CIFAR_LONG_TAILED,
}  # fmt: skip

# What a method changes in a data set's protocol; (method, "*") holds for every data set.
METHODS: dict[tuple[str, str], Recipe] = {
    ("dynamic_loss", "cifar100"): _recipe("Dynamic Loss, supplement: R = 50", {"num_bins": 50}),
    ("dynamic_loss", "digits"): _recipe(
        "ours: a small set gives the meta net few steps, so it starts less saturated and learns faster",
        {
            "num_bins": 20, "warmup_epochs": 2, "corrector_warmup_steps": 0, "corrector_bias": 2.0,
            "meta_learning_rate": 1e-2,
        },
    ),
}  # fmt: skip


def get(method: str, dataset: str) -> Recipe:
    """The recipe for a method (canonical name) on a data set; variants such as dynamic_loss_no_margin share one."""
    base = dataset.split(":")[0].split("/")[0]
    family = next((m for m in sorted({m for m, _ in METHODS}, key=len, reverse=True) if method.startswith(m)), method)
    parts = [DATASETS.get(base), METHODS.get((family, "*")), METHODS.get((family, base))]
    merged = Recipe({}, {}, ())
    for part in filter(None, parts):
        merged = Recipe(merged.settings | part.settings, merged.options | part.options, merged.sources + part.sources)
    return copy.deepcopy(merged)
