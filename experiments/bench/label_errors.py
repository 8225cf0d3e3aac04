"""Finding wrong labels with the evidence of one's own training, beside cleanlab on the same network's probabilities.

`python -m experiments.bench.label_errors --cifar10n=FILE.npz --data-dir=… --out=runs/label-errors` trains cross entropy
on a few thousand images of CIFAR-10 with human labels (CIFAR-10-N's aggregate, random1 and worse) and of MNIST with
asymmetric noise of 0.4, and once more for each fold without it; then it appends to results/audit/label_errors.jsonl,
for each data set and seed and both kinds of probabilities, in sample and cross-fitted, how well

  robustjax   `robustjax.auditing.audit`, in sample with the mean margin (`experiments.runs.evidence`),
  cleanlab    `find_label_issues` by default, its scores the self-confidence, and
  predicted   "predicted ≠ given"

find the wrong labels: AUROC and average precision of the scores, precision (which is recall) at the true number, and
precision, recall and F1 at the number that is estimated. What is there already is not trained again.
`--pred-probs=FILE…` judges files of `pred_probs`, `given_labels` and `true_labels` instead, and prints the rows.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.run import execute
from experiments.runs import restore
from experiments.runs.audit import judge
from experiments.runs.environment import environment
from experiments.settings import config
from robustjax import auditing, data
from robustjax.data import corruptions

KINDS = {"aggregate": "aggre_label", "random1": "random_label1", "worse": "worse_label"}
NAMES = (*(f"cifar10n-{kind}" for kind in KINDS), "mnist-asymmetric0.4")


class Case(NamedTuple):
    """Images to train on, uint8 [N, H, W, C], with given and true labels, int [N]."""

    images: np.ndarray
    given: np.ndarray
    true: np.ndarray


def make_case(name: str, seed: int, asked: argparse.Namespace) -> Case:
    """`asked.examples` images of data set `name`, drawn with `seed`; noise that is not people's too."""
    dataset = data.load(name.split("-")[0].removesuffix("n"), asked.data_dir)
    chosen = np.sort(np.random.default_rng(seed).choice(len(dataset.train_labels), asked.examples, replace=False))
    images, true = dataset.train_inputs[chosen], dataset.train_labels[chosen]
    if name == "mnist-asymmetric0.4":
        return Case(images, corruptions.asymmetric(true, 0.4, jax.random.key(seed), dataset="mnist"), true)
    with np.load(asked.cifar10n) as human:
        clean, given = human["clean_label"], human[KINDS[name.split("-")[1]]]
    as_is = np.arange(len(clean))
    for places in (as_is, as_is if dataset.train_order is None else dataset.train_order):
        if (clean[places][chosen] == true).all():
            return Case(images, given[places][chosen], true)
    raise ValueError(f"cifar10n={asked.cifar10n!r} does not have the order of the data set's images.")


def train(case: Case, kept: np.ndarray, folder: pathlib.Path, seed: int, asked: argparse.Namespace) -> np.ndarray:
    """Train on `kept` (bool [N]), as a run in `folder`; the probabilities of all the rest of the examples [M, C].

    Where nothing is left the last tenth stands in for the test set, and there is nothing to predict.
    """
    rest = ~kept if not kept.all() else np.arange(len(kept)) >= 0.9 * len(kept)
    file = folder.with_suffix(".npz")
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file, train_inputs=case.images[kept], train_labels=case.given[kept], test_inputs=case.images[rest],
        test_labels=case.given[rest], class_names=np.array([str(k) for k in range(10)]),
    )  # fmt: skip
    given = {
        "dataset": f"npz:{file}", "method": asked.method, "model": "small_cnn", "epochs": asked.epochs, "seed": seed,
        "batch_size": 64, "out": str(folder), "quiet": True, "noise": "none", "noise_rate": 0.0, "imbalance": "none",
        "imbalance_ratio": 1.0, "resume": (folder / "config.json").exists(),
    }  # fmt: skip
    execute(config.resolve(given)[0])
    run = restore.restore_run(folder)
    logits = restore.predict(run, run.dataset.test_inputs)
    return np.asarray(jax.nn.softmax(logits, axis=-1), np.float32)


def cross_fit(case: Case, folder: pathlib.Path, seed: int, asked: argparse.Namespace) -> np.ndarray:
    """The probabilities of each example by the network that was trained on the other folds, [N, C]."""
    part = np.random.default_rng(seed).permutation(len(case.given)) % asked.folds
    found = np.zeros((len(case.given), 10), np.float32)
    for k in range(asked.folds):
        found[part == k] = train(case, part != k, folder / f"fold{k}", seed, asked)
    return found


def compare(given: np.ndarray, true: np.ndarray, probs: np.ndarray, **evidence: Any) -> dict[str, Any]:
    """The figures of all three on one set of probabilities; `evidence` is for `auditing.audit`."""
    from cleanlab.filter import find_label_issues  # of the test extra

    wrong, own = given != true, probs[np.arange(len(given)), given]
    audit = auditing.audit(given, probs, **evidence)
    suspects = np.isin(np.arange(len(given)), audit.suspects)
    rows: dict[str, Any] = {
        "examples": len(given),
        "wrong": int(wrong.sum()),
        "interval": [round(audit.low), round(audit.high)],
        "robustjax": judge(wrong, audit.score, suspects),
        "cleanlab": judge(wrong, -own, find_label_issues(given, probs, n_jobs=1)),
        "predicted": judge(wrong, -own, probs.argmax(1) != given),
    }
    if "mean_margin" in evidence:
        rows["mean_margin"] = judge(wrong, -evidence["mean_margin"], evidence["mean_margin"] < 0)
    return rows


def rows_of(name: str, seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train what is not trained yet, and judge it."""
    case = make_case(name, seed, asked)
    folder = pathlib.Path(asked.out) / f"{name}-seed{seed}"
    settings = {"data": name, "method": asked.method, "examples": asked.examples, "epochs": asked.epochs}
    settings |= {"folds": asked.folds}
    about = {
        "command": "python -m experiments.bench.label_errors " + " ".join(f"--{k}={v}" for k, v in settings.items()),
        "environment": environment(), "data": name, "seed": seed, "method": asked.method, "epochs": asked.epochs,
    }  # fmt: skip
    train(case, np.ones(len(case.given), bool), folder / "all", seed, asked)
    with np.load(folder / "all" / f"evidence-seed{seed}.npz") as found:
        yield (
            about
            | {"probabilities": "in sample"}
            | compare(case.given, case.true, found["pred_probs"], in_sample=True, mean_margin=found["mean_margin"])
        )
    if asked.folds:
        probs = cross_fit(case, folder, seed, asked)
        yield about | {"probabilities": f"{asked.folds}-fold"} | compare(case.given, case.true, probs)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pred-probs", nargs="*", default=[], help="files to judge; nothing is trained")
    parser.add_argument("--cifar10n", help="the labels of CIFAR-10-N, an npz file")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", default="runs/label-errors")
    parser.add_argument("--results", default="results/audit/label_errors.jsonl")
    parser.add_argument("--data", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--method", default="cross_entropy")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=3)
    asked = parser.parse_args(argv)
    for file in asked.pred_probs:
        with np.load(file) as found:
            given, true = (found[key].astype(np.int64) for key in ("given_labels", "true_labels"))
            print(json.dumps({"file": pathlib.Path(file).name, **compare(given, true, found["pred_probs"])}))
    for seed in range(0 if asked.pred_probs else asked.seeds):
        for name in asked.data:
            for row in rows_of(name, seed, asked):
                print(json.dumps(row), flush=True)
                with open(asked.results, "a") as results:
                    results.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
