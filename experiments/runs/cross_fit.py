"""Predictions for every training example by networks that have not seen it: cross-fitting, `--cross-fit=K`.

The training set is cut into K parts, each with the run's mix of given labels. For each part a network is trained on the
others, by the method and settings of the run, for as many epochs; it predicts the part. A network that has been shown a
wrong label may have learned it by heart; one that has not can only say what the label should be.

All K networks learn from equally many examples, so that one set of compiled programs trains them all, and on an
accelerator all at once. Where parts differ in size, because K does not divide N or copies stay together, networks leave
some more examples aside, which costs nothing.
"""

import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runs import progress
from experiments.settings import build
from experiments.settings.config import Config
from robustjax import backend
from robustjax.data import Dataset, first_alike
from robustjax.data.labelling import select
from robustjax.training import engine, parallel

_SALT = 3  # `labelling` has those below
_SMALL_BATCH = 2**21  # numbers in a batch up to which an accelerator has room for several networks


class Parts(NamedTuple):
    """Who is predicted by whom.

    Attributes:
      part: int32 [N], the number of the network, in 0 … K−1, that predicts the example and has not seen it.
      seen: bool [K, N], what each network is trained on: equally many examples, none of its own part.
    """

    part: np.ndarray
    seen: np.ndarray


def split(given: np.ndarray, num_classes: int, parts: int, seed: int, alike: np.ndarray | None = None) -> Parts:
    """Cut a training set into parts of one size, and of one size within each class, give or take one example.

    Args:
      given: int [N], the given labels; nothing here looks at true ones.
      num_classes: C.
      parts: K, at least 2.
      seed: of the random choice.
      alike: int [N], a number that copies of one example share: they stay together, since who has seen one has seen
        them all. None where there are no copies.

    Raises:
      ValueError: naming the setting `cross_fit`, for a class that a network would see nothing of.

    Examples:
      >>> part, seen = split(np.repeat([0, 1], [5, 2]), 2, 3, seed=0)
      >>> np.bincount(part).tolist(), seen.sum(1).tolist()
      ([3, 2, 2], [4, 4, 4])
    """
    rng = np.random.default_rng([seed, _SALT])
    group = np.arange(len(given)) if alike is None else alike
    _, first, member = np.unique(group, return_index=True, return_inverse=True)
    chosen = np.empty(len(first), np.int32)
    chosen[np.lexsort((rng.random(len(first)), given[first]))] = np.arange(len(first)) % parts
    part = chosen[member]
    seen = part != np.arange(parts)[:, None]
    for row in seen:
        counts = np.bincount(given[row], minlength=num_classes)
        if len(first) < parts or not counts.all():
            told = f"there are {len(first)} different examples in all"
            if len(first) >= parts:
                c = int(counts.argmin())
                told = f"of class {c}, with {np.sum(given == c)}, one network would see none"
            raise ValueError(
                f"cross_fit={parts}: each part needs an example, and each class several, to learn from and to predict; "
                f"{told}."
            )
    least = seen.sum(1).min()
    for row in seen:
        there = np.flatnonzero(row)
        spare = np.setdiff1d(there, there[np.unique(given[there], return_index=True)[1]])  # one of each class stays
        row[rng.choice(spare, row.sum() - least, replace=False)] = False
    return Parts(part, seen)


def cut(config: Config, dataset: Dataset, labels: build.SeedLabels, seed: int) -> Parts:
    """The parts of a seed's training set; exact copies of an example are in one.

    Raises:
      ValueError: as `split` does, and for parts that leave less than a batch to learn from.
    """
    alike = first_alike(dataset.train_inputs)[labels.train.kept]
    parts = split(labels.train.given, dataset.num_classes, config.cross_fit, seed, alike)
    left = int(parts.seen[0].sum())
    if left < config.batch_size:
        raise ValueError(
            f"cross_fit={config.cross_fit} leaves {left} of {len(labels.train.given)} examples to learn from, less "
            f"than batch_size={config.batch_size}; more parts or a smaller batch are accepted."
        )
    return parts


def check(config: Config, dataset: Dataset, labels: Sequence[build.SeedLabels]) -> None:
    """Refuse, before anything is trained, training sets that cannot be cut as `config` says.

    Raises:
      ValueError: as `cut` does.
    """
    for k, each in enumerate(labels if config.cross_fit else ()):
        cut(config, dataset, each, config.seed + k)


def missing(path: pathlib.Path, config: Config) -> list[int]:
    """The seeds of the run in `path` for which what `config` asks for is not there, or not whole."""
    seeds = range(config.seed, config.seed + config.seeds) if config.cross_fit else ()
    return [seed for seed in seeds if not _is_whole(_read(path, seed, ("done",)), config.cross_fit)]


def read(path: str | os.PathLike[str], seed: int) -> np.ndarray | None:
    """Probabilities float32 [N, C] of the training examples, in the order of `labels-seedS.npz`, out of sample.

    None where the run has none, or not all of them yet.

    Raises:
      ValueError: the file is damaged.
    """
    found = _read(pathlib.Path(path), seed)
    return found["probs"] if found is not None and _is_whole(found, len(found["done"])) else None


def complete(
    path: pathlib.Path,
    config: Config,
    dataset: Dataset,
    pool: Dataset | None,
    labels: build.SeedLabels,
    seed: int,
    *,
    epochs: int,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train the networks of one seed that are still to be trained; keep what they predict after each of them.

    `cross-fit-seedS.npz` has `probs` float32 [N, C], nan for parts that are not done; `part` int32 [N] of `Parts`; and
    `done` bool [K].

    Args:
      path: the run directory.
      config: the run's settings.
      dataset: the run's data.
      pool: its trusted pool, if any.
      labels: the seed's.
      seed: the seed.
      epochs: how many epochs each network is trained.
      stop: asked after each epoch; true ends it, and what is kept stays.

    Returns:
      Whether all is there.

    Raises:
      engine.NonFiniteLossError: if a loss becomes NaN.
    """
    parts = cut(config, dataset, labels, seed)
    before = _read(path, seed)
    if before is None or not np.array_equal(before["part"], parts.part):
        before = {"probs": np.full((len(parts.part), dataset.num_classes), np.nan, np.float32)}
    probs, done = before["probs"], before.get("done", np.zeros(config.cross_fit, bool))
    for numbers, found in predictions(
        config, dataset, pool, labels, parts, seed, [int(k) for k in np.flatnonzero(~done)], epochs=epochs, stop=stop
    ):
        for k, rows in zip(numbers, found, strict=True):
            probs[parts.part == k], done[k] = rows, True
        _write(path, seed, probs=probs, part=parts.part, done=done)
    return bool(done.all())


def predictions(
    config: Config,
    dataset: Dataset,
    pool: Dataset | None,
    labels: build.SeedLabels,
    parts: Parts,
    seed: int,
    numbers: Sequence[int],
    *,
    epochs: int,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Sequence[int], list[np.ndarray]]]:
    """Train the networks `numbers` of one seed, and yield those just trained with what they predict for their parts.

    Arguments and errors as of `complete`; ends early where `stop` says so.

    Yields:
      Numbers of parts, and for each the probabilities float32 [n, C] of its n examples, in their order.
    """
    if not numbers:
        return
    seeds = [_labels(labels, parts, k) for k in range(len(parts.seen))]
    task = build.task_for(config, dataset, seeds)
    method = build.make_method(config, task)
    owns = [build.own(each, seed)._replace(key=jax.random.key(int(_key(seed, k)))) for k, each in enumerate(seeds)]
    at_once = len(numbers) if _fit_at_once(config, task) else 1
    layout = parallel.make_layout(config.parallel, seeds=at_once, batch_size=config.batch_size)
    groups = [numbers[start : start + at_once] for start in range(0, len(numbers), at_once)]
    resident = parallel.place_shared(layout, build.resident(dataset, pool))
    with progress.progress(
        epochs * len(groups), task.steps_per_epoch, mode="quiet" if config.quiet else "auto"
    ) as shown:
        programs = engine.Programs(method, task, layout, shown.phase)
        for turn, group in enumerate(groups):
            own = [owns[k] for k in group]
            for epoch in engine.train(
                method, task, layout, resident, own, track_every=0, evaluates=False, programs=programs,
                on_step=shown.step,
            ):  # fmt: skip
                loss = float(np.mean([each.get("loss", math.nan) for each in epoch.metrics]))
                shown.epoch(turn * epochs + epoch.epoch + 1, part=float(group[0] + 1), train_loss=loss)
                if epoch.epoch + 1 == epochs:
                    logits = programs.validation_logits(epoch.state, parallel.place_seeds(layout, own), resident)
                    found = parallel.by_seed(layout, logits)
                    sizes = [int((parts.part == k).sum()) for k in group]
                    yield group, [_softmax(each[:size]) for each, size in zip(found, sizes, strict=True)]
                    break
                if stop():
                    return


def _labels(labels: build.SeedLabels, parts: Parts, k: int) -> build.SeedLabels:
    """What network `k` learns from, and its part as what it holds out, filled up to the size of the largest."""
    seen, own = parts.seen[k], np.flatnonzero(parts.part == k)
    held = np.resize(own, np.bincount(parts.part).max())
    return build.SeedLabels(
        select(labels.train, seen),
        select(labels.train, held),
        groups=None if labels.groups is None else labels.groups[seen],
        trusted=labels.trusted,
    )


def _key(seed: int, k: int) -> np.uint32:
    """The seed of all that is random in training network `k`; none that a run has."""
    return np.random.SeedSequence([seed, _SALT, k]).generate_state(1)[0]


def _fit_at_once(config: Config, task: Any) -> bool:
    small = config.batch_size * math.prod(task.example.shape) <= _SMALL_BATCH
    return small and config.parallel != "data" and backend.gains_by_training_at_once()


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return (shifted / shifted.sum(-1, keepdims=True)).astype(np.float32)


def _is_whole(found: dict[str, np.ndarray] | None, parts: int) -> bool:
    return found is not None and len(found["done"]) == parts and bool(found["done"].all())


def _file(path: pathlib.Path, seed: int) -> pathlib.Path:
    return path / f"cross-fit-seed{seed}.npz"


def _read(
    path: pathlib.Path, seed: int, names: Sequence[str] = ("probs", "part", "done")
) -> dict[str, np.ndarray] | None:
    file = _file(path, seed)
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds for a damaged file
        raise ValueError(f"{str(file)!r} is damaged ({error}); remove it, and it is made again.") from error


def _write(path: pathlib.Path, seed: int, **arrays: np.ndarray) -> None:
    """In one step: a reader sees the old file or the whole new one."""
    file = _file(path, seed)
    partial = file.with_suffix(".partial")
    with open(partial, "wb") as target:
        np.savez(target, **arrays)  # type: ignore[arg-type]
    os.replace(partial, file)
