"""A run's networks from its run directory, trained so far or to the end: to predict, to look at features, to go on."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import artefacts, directory, form
from experiments.settings import build
from experiments.settings.config import Config
from robustjax import backend, data, models, user_code
from robustjax.data import corruptions
from robustjax.methods import Method, Task
from robustjax.methods.base import Learner
from robustjax.training import checkpoints, engine, parallel


class UntrustedCodeError(directory.RunDirectoryError):
    """A run directory that would have a Python file run, and whose reader has not agreed to that."""


class Trained(NamedTuple):
    """A run's networks as a checkpoint left them: what predicts.

    Attributes:
      settings: the run's settings.
      form: what the networks take.
      task: what was learned.
      method: with what; `method.predict(states[k], inputs)` gives logits.
      states: one method state a seed, on the first device.
      epoch: epochs done; with `best`, by the seed that was trained longest.
    """

    settings: Config
    form: form.Form
    task: Task
    method: Method
    states: list[Any]
    epoch: int


class Restored(NamedTuple):
    """A run as its checkpoint left it, with its data.

    Attributes:
      settings: the run's settings.
      dataset: its data, before corruption.
      task: what was learned.
      method: with what; `method.predict(states[k], inputs)` gives logits.
      states: one method state a seed, on the first device.
      epoch: epochs done; with `best`, by the seed that was trained longest.
      labels: each seed's.
      form: what the networks take.
    """

    settings: Config
    dataset: data.Dataset
    task: Task
    method: Method
    states: list[Any]
    epoch: int
    labels: list[build.SeedLabels]
    form: form.Form


def restore_model(
    path: str | os.PathLike[str],
    epoch: int | None = None,
    *,
    best: bool = False,
    trust_code: bool = False,
    data_dir: str | None = None,
    cache_dir: str | None = None,
) -> Trained:
    """Read a run's networks back, to predict with them, from its directory alone: its data may have changed or be gone.

    Args:
      path: the run directory; nothing in it is changed, so the run may still be under way.
      epoch: as `restore_run` takes it.
      best: likewise.
      trust_code: likewise.
      data_dir: of a run that an earlier version made, without `data.json`: where its data are. It needs them.
      cache_dir: likewise.

    Raises:
      UntrustedCodeError: as `restore_run` does.
      directory.RunDirectoryError: likewise.
      checkpoints.CheckpointError: likewise.
      ValueError: a file of labels is damaged, or not there (FileNotFoundError).
    """
    path, settings = _begin(path, trust_code)
    known = form.read(path)
    if known is None:
        run = restore_run(path, data_dir, epoch, best=best, trust_code=trust_code, cache_dir=cache_dir)
        return Trained(run.settings, run.form, run.task, run.method, run.states, run.epoch)
    task = build.make_task(settings, form.stand_in(known), known.num_examples, known.num_groups, known.num_trusted)
    given = corruptions.load_noise(path / f"labels-seed{settings.seed}.npz").given
    if len(given) != known.num_examples or given.max() >= task.num_classes:
        raise directory.RunDirectoryError(f"{str(path)!r} holds labels of another run than its data.json describes.")
    return Trained(settings, _checked(known, settings), task, *_networks(path, settings, task, given, epoch, best))


def restore_run(
    path: str | os.PathLike[str],
    data_dir: str | None = None,
    epoch: int | None = None,
    *,
    best: bool = False,
    trust_code: bool = False,
    dataset: data.Dataset | None = None,
    cache_dir: str | None = None,
) -> Restored:
    """Read a run back with its data. To predict, `restore_model` is enough, which needs no data.

    Args:
      path: the run directory; nothing in it is changed, so the run may still be under way.
      data_dir: folder of prepared TFDS data sets, as given to the run (`--data-dir`).
      epoch: that of the checkpoint wanted; default the newest.
      best: each seed's network from its own best epoch on the noisy validation labels (`--validation-split`).
      trust_code: run the Python files that the run's settings name: a loss, method, model or grouping of somebody's
        own. Read the files first where the run directory is not yours.
      dataset: the data of a run on arrays in memory (`robustjax.fit`), which has no other place to read them from.
      cache_dir: folder of decoded data sets, as given to the run (`--cache-dir`).

    Raises:
      UntrustedCodeError: the run's settings name such a file, and `trust_code` is not given; the file is not opened.
      directory.RunDirectoryError: there is no run in `path`, or one with settings that this version does not know.
      checkpoints.CheckpointError: there is no such checkpoint, or it cannot be read.
      ValueError: the data are not those that the run was trained on; FileNotFoundError: they are not there.
    """
    path, settings = _begin(path, trust_code)
    try:
        settings = dataclasses.replace(settings, cache_dir=cache_dir)
        if dataset is None:
            dataset = build.load_data(settings, data_dir)
        elif settings.dataset != artefacts.name_of(dataset):
            raise ValueError(f"the run is on {settings.dataset}, and dataset is {artefacts.name_of(dataset)}.")
        pool = build.trusted_pool(settings, dataset)
        seeds = range(settings.seed, settings.seed + settings.seeds)
        labels = [artefacts.read_labels(path, seed, settings, dataset, pool) for seed in seeds]
    except (FileNotFoundError, ValueError) as error:
        if form.read(path) is None:
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{error} (To predict no data are needed: restore_model, experiments.predict.)") from error
    task = build.task_for(settings, dataset, labels)
    found = _networks(path, settings, task, labels[0].train.given, epoch, best)
    return Restored(settings, dataset, task, *found, labels, _checked(form.of(dataset, task), settings))


def _begin(path: str | os.PathLike[str], trust_code: bool) -> tuple[pathlib.Path, Config]:
    """The run directory and its settings, after all that can be refused before anything large is read."""
    path = pathlib.Path(path)
    settings = directory.read_settings(path)
    named = user_code.named_in({**dataclasses.asdict(settings), **settings.options})
    if named and not trust_code:
        places = " and ".join(f"{str(place.path)!r} ({name})" for name, place in named.items())
        raise UntrustedCodeError(
            f"restoring {str(path)!r} runs code: its config.json names {places}; read it, and if you trust it say "
            "trust_code=True (--trust-code)."
        )
    if checkpoints.latest_epoch(path / "checkpoints") is None:
        raise checkpoints.CheckpointError(f"no complete checkpoint in {path / 'checkpoints'}")
    return path, settings


def _networks(
    path: pathlib.Path, settings: Config, task: Task, given: np.ndarray, epoch: int | None, best: bool
) -> tuple[Method, list[Any], int]:
    """The method, the seeds' states and the epoch that they are from."""
    method = build.make_method(settings, task)
    # Seeds differ in their values only, so that one of them shows the form of all.
    like = method.init(jax.random.key(0), np.asarray(given))
    if best:
        folders = [directory.best_folder(path, settings.seed + k) for k in range(settings.seeds)]
        found = [checkpoints.restore(folder, like) for folder in folders]
        return method, [state for state, _, _ in found], max(epoch for _, _, epoch in found)
    states, _, epoch = checkpoints.restore(path / "checkpoints", [like] * settings.seeds, epoch)
    return method, states, epoch


def _checked(known: form.Form, settings: Config) -> form.Form:
    """The form with a limit on integers only where they are token ids to the model."""
    registered = user_code.find(settings.model) is None
    reads = known.vocabulary is not None or (registered and models.reads_tokens(settings.model))
    return known if reads else known._replace(num_tokens=None)


def predict(run: Trained | Restored, inputs: Any, k: int = 0) -> np.ndarray:
    """Logits [B, C] of `inputs` [B, …] by seed number `k`.

    Args:
      run: the networks.
      inputs: as the data set holds them (images uint8 from 0 to 255), or texts; [B, H, W] for images of one channel.
      k: which seed.

    Raises:
      ValueError: for inputs of another dtype, shape or range, saying how to make them what is accepted.
    """
    return _in_batches(functools.partial(backend.jit(run.method.predict), run.states[k]), run, inputs)


def predictor(run: Trained | Restored, k: int | None = None) -> Callable[[Any], np.ndarray]:
    """Inputs, as `predict` takes them, -> probabilities float32 [B, C]; compiled once for each number of inputs.

    Args:
      run: the networks.
      k: which seed; None for the mean of all.

    Raises:
      ValueError: by the function that is returned, as `predict` does.
    """
    states = run.states if k is None else [run.states[k]]
    compiled = backend.jit(functools.partial(mean_probabilities, run.method))
    return lambda inputs: _in_batches(functools.partial(compiled, states), run, inputs)


def mean_probabilities(method: Method, states: Sequence[Any], inputs: jax.Array) -> jax.Array:
    """The mean over the seeds' states of the probabilities that the method gives, float32 [B, C] of stored inputs."""
    each = [jax.nn.softmax(method.predict(state, inputs).astype(jnp.float32)) for state in states]
    return sum(each[1:], each[0]) / len(each)


def seed_number(run: Trained | Restored, seed: int | None) -> int | None:
    """Which of a run's states is that of a seed, from 0; None for None.

    Raises:
      ValueError: if it is none of the run's.
    """
    first, count = run.settings.seed, run.settings.seeds
    if seed is not None and not first <= seed < first + count:
        raise ValueError(f"seed={seed} is none of the run's: {first} to {first + count - 1} is accepted.")
    return None if seed is None else seed - first


def features(run: Trained | Restored, inputs: np.ndarray, k: int = 0) -> np.ndarray:
    """What the classifier layer of seed number `k` sees, [B, D], for stored `inputs` [B, …] in evaluation mode.

    Of a method that trains several networks, the first.

    Raises:
      ValueError: if the method's state holds no `Learner`.
    """
    nodes = jax.tree.leaves(run.states[k], is_leaf=lambda node: isinstance(node, Learner))
    learner = next((node for node in nodes if isinstance(node, Learner)), None)
    if learner is None:
        raise ValueError(f"method={run.settings.method!r} keeps no Learner, so its features are not known.")

    def look(batch: jax.Array) -> jax.Array:
        return run.task.model.features(learner.params, learner.stats, run.task.plain(batch))[0]

    return _in_batches(backend.jit(look), run, inputs)


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


def _in_batches(apply: Callable[[Any], jax.Array], run: Trained | Restored, inputs: Any, size: int = 500) -> np.ndarray:
    stored = form.as_stored(run.form, inputs)
    batches = (form.check_values(run.form, stored[start : start + size]) for start in range(0, len(stored), size))
    return np.concatenate([apply(batch) for batch in batches])
