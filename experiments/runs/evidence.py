"""What training tells about each given label, for every method: gathered wherever the training set is looked at.

Three things, none of which costs a step: the mean over training of the given label's logit margin, which needs no
cross-validation (the mean is what "area under the margin" sums: Pleiss et al., Identifying Mislabeled Data using the
Area Under the Margin Ranking, 2020), how often the label was forgotten (Toneva et al., An Empirical Study of Example
Forgetting during Deep Neural Network Learning, 2019), and the last probabilities. What a preliminary stage trains is
thrown away, and so is what it would tell.

evidence-seedS.npz holds them when the run has ended, aligned with `kept` of labels-seedS.npz; while it trains, and for
a run that goes on, evidence/seedS-epochE.npz holds the sums as at each kept checkpoint.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustjax.training.engine import Epoch

# Above so many probabilities, N · C, they are kept in half precision, and above so many (4 GiB in single) not at all.
HALF, NONE = 2**27, 2**30
_CHUNK = 2**22  # probabilities at a time, so that nothing of the size of all logits is made besides


class Evidence(NamedTuple):
    """What has been gathered of N examples.

    Attributes:
      given: the given labels, int32 [N].
      margin_sum: sum over the surveys of the given label's logit minus the largest other one, float64 [N].
      forgettings: how often the given label was predicted at one survey and no longer at the next, int32 [N].
      right: whether the last survey predicted it, bool [N].
      surveys: how many there were.
      pred_probs: the last survey's probabilities [N, C]; float32, float16 above `HALF` of them, None above `NONE`.
    """

    given: np.ndarray
    margin_sum: np.ndarray
    forgettings: np.ndarray
    right: np.ndarray
    surveys: int
    pred_probs: np.ndarray | None


def start(given: np.ndarray) -> Evidence:
    """Before the first survey; `given` are the given labels, int [N]."""
    count = len(given)
    zeros = np.zeros(count, np.int32)
    return Evidence(np.asarray(given, np.int32), np.zeros(count), zeros, np.zeros(count, bool), 0, None)


def add(found: Evidence, logits: np.ndarray) -> Evidence:
    """What is known after one more survey, with `logits` [N, C] of the training set."""
    count, classes = logits.shape
    kind = np.float32 if count * classes <= HALF else np.float16
    probs = np.empty((count, classes), kind) if count * classes <= NONE else None
    margin = np.empty(count, np.float64)
    size = max(1, _CHUNK // classes)
    for first in range(0, count, size):
        part, rows = slice(first, first + size), np.arange(min(size, count - first))
        values = np.array(logits[part], np.float32)
        labels = found.given[part]
        if probs is not None:
            shares = np.exp(values - values.max(axis=1, keepdims=True))
            probs[part] = shares / shares.sum(axis=1, keepdims=True)
        own = values[rows, labels]
        values[rows, labels] = -np.inf
        margin[part] = own - values.max(axis=1)
    right = margin > 0
    forgotten = (found.right & ~right).astype(np.int32)
    return Evidence(
        found.given, found.margin_sum + margin, found.forgettings + forgotten, right, found.surveys + 1, probs
    )


def follow(gathered: Sequence[Evidence], epoch: Epoch) -> list[Evidence]:
    """What is known of each seed's training set after `epoch`; the same where it was not surveyed or does not count."""
    if epoch.train_logits is None or epoch.preliminary:
        return list(gathered)
    return [add(found, logits) for found, logits in zip(gathered, epoch.train_logits, strict=True)]


def begin(path: pathlib.Path, given: Mapping[int, np.ndarray], epoch: int) -> list[Evidence]:
    """What is known at the start of training or, after `epoch` > 0 epochs, what `keep` wrote then.

    A run of a version that did not gather evidence, or whose files are gone, gathers what is still to come.

    Args:
      path: the run directory.
      given: each seed's given labels.
      epoch: how many epochs are done. Files of later ones are deleted: these epochs will be trained again.
    """
    for file in (path / "evidence").glob("seed*-epoch*.npz"):
        if _epoch(file) > epoch:
            file.unlink()
    return [_read(_kept(path, seed, epoch), labels) for seed, labels in given.items()]


def keep(path: pathlib.Path, seeds: Sequence[int], gathered: Sequence[Evidence], epoch: int, count: int) -> None:
    """Write what a run that goes on after `epoch` epochs needs, before their checkpoint; the newest `count` stay."""
    (path / "evidence").mkdir(exist_ok=True)
    for seed, found in zip(seeds, gathered, strict=True):
        _write(_kept(path, seed, epoch), found._asdict())
        files = sorted((path / "evidence").glob(f"seed{seed}-epoch*.npz"), key=_epoch)
        for file in files[:-count]:
            file.unlink()


def publish(path: pathlib.Path, seeds: Sequence[int], gathered: Sequence[Evidence]) -> None:
    """Write `evidence-seedS.npz` of each seed whose training set was surveyed.

    `given` int32 [N]; `pred_probs` [N, C], see `Evidence`; `mean_margin` float32 [N]; `forgettings` int32 [N];
    `surveys` int32.
    """
    for seed, found in zip(seeds, gathered, strict=True):
        if not found.surveys:
            continue
        arrays = {
            "given": found.given,
            "pred_probs": found.pred_probs,
            "mean_margin": (found.margin_sum / found.surveys).astype(np.float32),
            "forgettings": found.forgettings,
            "surveys": np.int32(found.surveys),
        }
        _write(path / f"evidence-seed{seed}.npz", arrays)


def _kept(path: pathlib.Path, seed: int, epoch: int) -> pathlib.Path:
    return path / "evidence" / f"seed{seed}-epoch{epoch:04d}.npz"


def _epoch(file: pathlib.Path) -> int:
    return int(file.stem.rpartition("epoch")[2])


def _read(file: pathlib.Path, given: np.ndarray) -> Evidence:
    if not file.exists():
        return start(given)
    with np.load(file) as found:
        probs = found["pred_probs"] if "pred_probs" in found.files else None
        return Evidence(
            found["given"], found["margin_sum"], found["forgettings"], found["right"], int(found["surveys"]), probs
        )


def _write(file: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Write what is there of `arrays`; a reader sees the old file or the whole new one."""
    partial = file.with_suffix(".partial")
    with open(partial, "wb") as opened:
        np.savez(opened, **{name: value for name, value in arrays.items() if value is not None})
    os.replace(partial, file)
