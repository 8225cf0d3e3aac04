"""Adapters for noise_imbalance.npz: label noise and class imbalance.

Not produced: `counts_after_noise_seed0` and `one_realisation_confusion` (one draw of another generator) and
`expected_confusion_cat_dog` (an expectation; tested on realised labels in corruptions_test.py).
"""

import numpy as np

from robustjax.data import corruptions


def _matrix(kind, **options):
    def adapter(case, inputs):
        p = case["hyperparameters"]
        return {"T": corruptions.transition_matrix(kind, p.get("C", options.get("C")), p.get("rate", 0.4), **keywords)}

    keywords = {name: value for name, value in options.items() if name != "C"}
    return adapter


def _heteroskedastic(case, inputs):
    c = case["hyperparameters"]["C"]
    return {"T": corruptions.transition_matrix("heteroskedastic", c, 0.4, dataset=f"cifar{c}")}


def _balanced(num_classes, size=50000):
    return np.full(num_classes, size // num_classes)


def _labels(num_classes, size=50000):
    return np.repeat(np.arange(num_classes), size // num_classes)


def _har_step(case, inputs):
    ratio = 1 / case["hyperparameters"]["imb_ratio"]
    rare = [c for group in corruptions.noisy_groups("cifar10") for c in group]
    requested = corruptions.step_counts(_balanced(10), ratio, rare=rare)
    noisy = corruptions.heteroskedastic(_labels(10), 10, 0, dataset="cifar10")
    kept = corruptions.subsample(noisy, requested, 0, at_most=True)
    return {"requested": requested, "counts_final": np.bincount(noisy[kept])}


def _long_tailed(case, inputs):
    p = case["hyperparameters"]
    return {"counts": corruptions.long_tailed_counts(_balanced(p["C"]), 1 / p["factor"])}


def _step(case, inputs):
    p = case["hyperparameters"]
    return {"counts": corruptions.step_counts(_balanced(p["C"]), 1 / p["factor"])}


def _frequency(case, inputs):
    p = case["hyperparameters"]
    counts = corruptions.long_tailed_counts(_balanced(p["C"]), 1 / p["factor"])
    matrix = corruptions.transition_matrix("frequency_proportional", p["C"], p["rate"], class_counts=counts)
    rows = matrix if p["C"] == 10 else matrix[:3]
    return {"clean_counts": counts, "T": rows, "expected_noisy_counts": counts @ matrix}


def _rolt(case, inputs):
    p = case["hyperparameters"]
    counts = corruptions.long_tailed_counts(_balanced(10), 1 / p["factor"])
    conditional = corruptions.transition_matrix(
        "frequency_proportional", 10, 1.0, class_counts=counts, form="exclusive"
    )
    clean = np.repeat(np.arange(10), counts)
    noisy = corruptions.frequency_proportional(clean, p["rate"], 10, 0, include_own=False, exact=True)
    return {"clean_counts": counts, "conditional": conditional, "num_flipped": np.sum(noisy != clean)}


def _sequential(form):
    def adapter(case, inputs):
        p = case["hyperparameters"]
        labels = _labels(10, 10 * p["per_class"])
        noisy = corruptions.asymmetric(labels, p["rate"], 0, dataset="cifar10", form=form)
        return {"final_label_counts": np.bincount(noisy, minlength=10)}

    return adapter


def _flipped_per_class(case, inputs):
    p = case["hyperparameters"]
    clean = _labels(p["C"])
    noisy = corruptions.symmetric(clean, p["rate"], p["C"], 0, exact=True)
    flipped = np.bincount(clean[noisy != clean], minlength=p["C"])
    assert (flipped == flipped[0]).all()
    return {"flipped_per_class": flipped[0]}


ADAPTERS = {
    "symmetric noise, own class excluded": _matrix("symmetric"),
    "symmetric noise, own class included": _matrix("symmetric", form="inclusive"),
    "pair-flip noise": _matrix("pair_flip"),
    "asymmetric MNIST": _matrix("asymmetric", C=10, dataset="mnist"),
    "asymmetric CIFAR-10 (independent flips)": _matrix("asymmetric", C=10, dataset="cifar10"),
    "asymmetric CIFAR-100 as coded": _matrix("asymmetric", C=100, dataset="cifar100", form="blocks"),
    "HAR heteroskedastic noise": _heteroskedastic,
    "HAR step-imbalance class counts on heteroskedastic CIFAR-10": _har_step,
    "exponential long-tail class counts": _long_tailed,
    "step class counts": _step,
    "Dynamic Loss frequency-proportional noise after long-tail subsampling": _frequency,
    'ROLT "imb" noise (exact fraction, own class excluded)': _rolt,
    "Dynamic Loss asymmetric noise": _matrix("asymmetric", C=10, dataset="cifar10"),
    "class counts of the coded (sequential, in-place) CIFAR-10 asymmetric noise": _sequential("sequential_sr"),
    "class counts of the coded CIFAR-10 asymmetric noise (45k training split)": _sequential("sequential_elr"),
    "exact per-class number of flipped examples": _flipped_per_class,
}
