"""A run's networks from its run directory, trained so far or to the end: to predict, to look at features, to go on."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import artefacts, directory
from experiments.settings import build
from experiments.settings.config import Config
from robustjax import backend, data, user_code
from robustjax.methods import Method, Task
from robustjax.methods.base import Learner
from robustjax.training import checkpoints, engine, parallel


class UntrustedCodeError(directory.RunDirectoryError):
    """A run directory that would have a Python file run, and whose reader has not agreed to that."""


class Restored(NamedTuple):
    """A run as its checkpoint left it.

    Attributes:
      settings: the run's settings.
      dataset: its data, before corruption.
      task: what was learned.
      method: with what; `method.predict(states[k], inputs)` gives logits.
      states: one method state a seed, on the first device.
      epoch: epochs done; with `best`, by the seed that was trained longest.
      labels: each seed's.
    """

    settings: Config
    dataset: data.Dataset
    task: Task
    method: Method
    states: list[Any]
    epoch: int
    labels: list[build.SeedLabels]


def restore_run(
    path: str | os.PathLike[str],
    data_dir: str | None = None,
    epoch: int | None = None,
    *,
    best: bool = False,
    trust_code: bool = False,
    dataset: data.Dataset | None = None,
) -> Restored:
    """Read a run back. Nothing in its directory is changed, so the run may still be under way.

    Args:
      path: the run directory.
      data_dir: folder of prepared TFDS data sets, as given to the run (`--data-dir`).
      epoch: that of the checkpoint wanted; default the newest.
      best: each seed's network from its own best epoch on the noisy validation labels (`--validation-split`).
      trust_code: run the Python files that the run's settings name: a loss, method, model or grouping of somebody's
        own. Read the files first where the run directory is not yours.
      dataset: the data of a run on arrays in memory (`robustjax.fit`), which has no other place to read them from.

    Raises:
      UntrustedCodeError: the run's settings name such a file, and `trust_code` is not given; the file is not opened.
      directory.RunDirectoryError: there is no run in `path`, or one with settings that this version does not know.
      checkpoints.CheckpointError: there is no such checkpoint, or it cannot be read.
      ValueError: the data are not those that the run was trained on.
    """
    path = pathlib.Path(path)
    settings = directory.read_settings(path)
    named = user_code.named_in({**dataclasses.asdict(settings), **settings.options})
    if named and not trust_code:
        places = " and ".join(f"{str(place.path)!r} ({name})" for name, place in named.items())
        raise UntrustedCodeError(
            f"restoring {str(path)!r} runs code: its config.json names {places}; read it, and if you trust it say "
            "trust_code=True (--trust-code)."
        )
    if checkpoints.latest_epoch(path / "checkpoints") is None:  # before any data are read
        raise checkpoints.CheckpointError(f"no complete checkpoint in {path / 'checkpoints'}")
    if dataset is None:
        dataset = build.load_data(settings, data_dir)
    elif settings.dataset != artefacts.name_of(dataset):
        raise ValueError(f"{str(path)!r} is a run on {settings.dataset}, and dataset is {artefacts.name_of(dataset)}.")
    pool = build.trusted_pool(settings, dataset)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    labels = [artefacts.read_labels(path, seed, settings, dataset, pool) for seed in seeds]
    task = build.task_for(settings, dataset, labels)
    method = build.make_method(settings, task)
    # Seeds differ in their values only, so that one of them shows the form of all.
    like = method.init(jax.random.key(0), np.asarray(labels[0].train.given))
    if best:
        folders = [directory.best_folder(path, settings.seed + k) for k in range(settings.seeds)]
        found = [checkpoints.restore(folder, like) for folder in folders]
        states, epoch = [state for state, _, _ in found], max(epoch for _, _, epoch in found)
    else:
        states, _, epoch = checkpoints.restore(path / "checkpoints", [like] * settings.seeds, epoch)
    return Restored(settings, dataset, task, method, states, epoch, labels)


def predict(run: Restored, inputs: np.ndarray, k: int = 0) -> np.ndarray:
    """Logits [B, C] of stored `inputs` [B, …] by seed number `k`."""
    return _in_batches(lambda batch: run.method.predict(run.states[k], batch), inputs)


def features(run: Restored, inputs: np.ndarray, k: int = 0) -> np.ndarray:
    """What the classifier layer of seed number `k` sees, [B, D], for stored `inputs` [B, …] in evaluation mode.

    Of a method that trains several networks, the first.

    Raises:
      ValueError: if the method's state holds no `Learner`.
    """
    nodes = jax.tree.leaves(run.states[k], is_leaf=lambda node: isinstance(node, Learner))
    learner = next((node for node in nodes if isinstance(node, Learner)), None)
    if learner is None:
        raise ValueError(f"method={run.settings.method!r} keeps no Learner, so its features are not known.")
    return _in_batches(
        lambda batch: run.task.model.features(learner.params, learner.stats, run.task.plain(batch))[0], inputs
    )


def next_draw(run: Restored, k: int = 0) -> dict[str, np.ndarray]:
    """What the epoch after the checkpoint draws, by the method's own plan and the run's own randomness.

    Of a finished run: what one more epoch of its last stage would.

    Returns:
      By stream, positions int32 [M] in its pool, for the training set in `run.labels[k].train`, in the order drawn.
    """
    layout = parallel.make_layout("single", batch_size=run.settings.batch_size)
    programs = engine.Programs(run.method, run.task, layout, lambda phase: None)
    own = parallel.place_seeds(layout, [build.own(run.labels[k], run.settings.seed + k)])
    shared = parallel.place_shared(layout, build.resident(run.dataset))
    state = parallel.place_seeds(layout, [jax.tree.map(jnp.copy, run.states[k])])  # its buffers are given up
    (plan,) = parallel.by_seed(layout, programs.begin(state, own, shared, run.epoch)[1])
    return {name: stream.order[: int(stream.size)] for name, stream in plan.items()}


def _in_batches(apply: Callable[[Any], jax.Array], inputs: np.ndarray, size: int = 500) -> np.ndarray:
    if not len(inputs):
        raise ValueError("inputs must hold at least one example")
    compiled = backend.jit(apply)
    return np.concatenate([compiled(inputs[start : start + size]) for start in range(0, len(inputs), size)])
