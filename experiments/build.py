"""From settings to what the engine takes: schedule, optimizer, task, method, corrupted data."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config, model_options
from robustjax import methods, models
from robustjax.data import Dataset, augment, corruptions, pipelines
from robustjax.methods import Method, Task
from robustjax.training import schedules
from robustjax.training.engine import Own, Resident

_SCHEDULES = (
    "constant",
    "cosine",
    "multistep:EPOCH,EPOCH:FACTOR",
    "cosine_restarts:PERIOD:FINAL",
    "exponential:FACTOR",
)


def make_schedule(spec: str, base: float, epochs: int, warmup_epochs: float = 0.0) -> Callable[[Any], jax.Array]:
    """A learning-rate schedule, progress in epochs -> rate, from its text.

    Args:
      spec: "constant", "cosine", "multistep:40,80:0.1", "cosine_restarts:10:0.001" or "exponential:0.97".
      base: base learning rate.
      epochs: length of the run, for "cosine".
      warmup_epochs: epochs of linear warm-up from a tenth.

    Raises:
      ValueError: for another text.
    """
    kind, *values = spec.split(":")
    try:
        match kind, values:
            case "constant", []:
                schedule = schedules.constant(base)
            case "cosine", []:
                schedule = schedules.cosine(base, epochs)
            case "multistep", [milestones, factor]:
                schedule = schedules.multistep(base, [float(m) for m in milestones.split(",")], float(factor))
            case "cosine_restarts", [period, final]:
                schedule = schedules.cosine_restarts(base, float(period), float(final))
            case "exponential", [factor]:
                schedule = schedules.exponential(base, float(factor))
            case _:
                raise ValueError("not one of the known forms")
    except ValueError as error:
        raise ValueError(f"schedule={spec!r}: {error}; accepted are {', '.join(_SCHEDULES)}.") from None
    return schedules.linear_warmup(schedule, warmup_epochs, 0.1) if warmup_epochs else schedule


def make_optimizer(config: Config) -> Callable[[Any], optax.GradientTransformation]:
    """learning rate -> optimizer. The L2 penalty is added to the gradient, on all parameters, as the papers do.

    A limit on the gradient's norm holds before the penalty is added.
    """
    clip = [optax.clip_by_global_norm(config.gradient_clip)] if config.gradient_clip else []

    def sgd(rate: Any) -> optax.GradientTransformation:
        return optax.chain(
            *clip,
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(rate, momentum=config.momentum or None, nesterov=config.nesterov),
        )

    def adam(rate: Any) -> optax.GradientTransformation:
        # eps_root keeps the update differentiable at a gradient of 0, which meta-gradients need.
        return optax.chain(*clip, optax.add_decayed_weights(config.weight_decay), optax.adam(rate, eps_root=1e-16))

    return sgd if config.optimizer == "sgd" else adam


def make_task(config: Config, dataset: Dataset, num_examples: int, num_groups: int | None = None) -> Task:
    """The task: model, views, optimizer and schedule for `num_examples` training examples of `dataset`.

    `num_groups` is the number of groups of examples, where they are not the classes.
    """
    view = functools.partial(augment.make_view, mean=dataset.mean, std=dataset.std)
    return Task(
        num_examples=num_examples,
        num_classes=dataset.num_classes,
        epochs=config.epochs,
        batch_size=config.batch_size,
        model=models.get_model(
            config.model, dataset.num_classes, dtype=jnp.dtype(config.precision), **model_options(config)
        ),
        optimizer=make_optimizer(config),
        schedule=make_schedule(config.schedule, config.learning_rate, config.epochs, config.lr_warmup_epochs),
        weak=view(config.weak_augmentation),
        strong=view(config.augmentation),
        plain=lambda inputs: augment.normalize(inputs, dataset.mean, dataset.std),
        example=jax.ShapeDtypeStruct((1, *dataset.train_images.shape[1:]), dataset.train_images.dtype),
        num_groups=num_groups,
    )


def make_method(config: Config, task: Task, options: Mapping[str, Any] | None = None) -> Method:
    """The method with the config's options."""
    return methods.get(config.method)(task, **(config.options if options is None else options))


def corrupt(config: Config, dataset: Dataset, seed: int) -> pipelines.Corrupted:
    """One seed's training labels: made by the config's corruption, or read from its noise file.

    Raises:
      ValueError: where `pipelines.corrupt` or the noise file does, or if a batch is larger than what is left.
    """
    if config.noise_file is not None:
        noise = corruptions.load_noise(config.noise_file, clean_labels=dataset.train_labels)
        result = pipelines.Corrupted(noise.kept, noise.labels, dataset.train_labels[noise.kept])
    else:
        result = pipelines.corrupt(
            dataset.train_labels,
            dataset.num_classes,
            seed if config.data_seed is None else config.data_seed,
            noise=config.noise,
            rate=config.noise_rate,
            imbalance=config.imbalance,
            ratio=config.imbalance_ratio,
            dataset=dataset.name,
            limit=config.train_examples,
        )
    if config.batch_size > len(result.kept):
        raise ValueError(f"batch_size={config.batch_size} is larger than the training set of {len(result.kept)}.")
    return result


def resident(dataset: Dataset) -> Resident:
    """The data set's images, to be put on the device."""
    return Resident(dataset.train_images, dataset.test_images)


def own(labels: pipelines.Corrupted, seed: int, groups: np.ndarray | None = None) -> Own:
    """What belongs to a seed; `groups` int [N] where examples are grouped otherwise than by their given labels."""
    kept, given = jnp.asarray(labels.kept, jnp.int32), jnp.asarray(labels.given, jnp.int32)
    return Own(jax.random.key(seed), kept, given, None if groups is None else jnp.asarray(groups, jnp.int32))


class Groups(NamedTuple):
    """Groups of training examples: int32 [N] a seed (None: the given labels), and how many there are (None: C)."""

    of: list[np.ndarray | None]
    count: int | None


_GROUPING = "(images [N, …], labels int [N]) -> int [N], from 0"


def pin_groups(spec: str) -> str:
    """The text of a grouping; that of a function with its file's content hash (`methods.custom.pin`)."""
    return spec if spec.endswith(".npy") else methods.custom.pin(spec, "groups", _GROUPING)


def make_groups(config: Config, dataset: Dataset, corrupted: Sequence[pipelines.Corrupted]) -> Groups:
    """The groups that the config's `groups` names, for each seed's training set.

    A function is shown the kept images and their given labels.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not give an int of at least 0 for each example.
    """
    spec = config.groups
    if spec is None:
        return Groups([None] * len(corrupted), None)
    if spec.endswith(".npy"):
        if not pathlib.Path(spec).is_file():
            raise FileNotFoundError(f"groups={spec!r}: there is no such file.")
        everything = _check_groups(spec, np.load(spec), len(dataset.train_labels))
        found = [everything[labels.kept] for labels in corrupted]
        return Groups(found, int(everything.max()) + 1)
    function = methods.custom.load(spec, "groups", _GROUPING)
    found = [
        _check_groups(spec, np.asarray(function(dataset.train_images[labels.kept], labels.given)), len(labels.kept))
        for labels in corrupted
    ]
    return Groups(found, max(int(each.max()) for each in found) + 1)


def _check_groups(spec: str, groups: np.ndarray, count: int) -> np.ndarray:
    """Groups as int32, refused unless they are `count` integers of at least 0, and fewer than examples."""
    if groups.shape != (count,) or not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(
            f"groups={spec!r} must be an int for each of {count} examples, got {groups.dtype} {groups.shape}."
        )
    if groups.min() < 0 or groups.max() >= count:
        raise ValueError(f"groups={spec!r} must be numbered from 0, got {groups.min()} … {groups.max()}.")
    return groups.astype(np.int32)


def check_equal_sizes(corrupted: list[pipelines.Corrupted]) -> None:
    """Seeds that train at once need training sets of one size.

    Raises:
      ValueError: if they differ.
    """
    sizes = sorted({len(each.kept) for each in corrupted})
    if len(sizes) > 1:
        raise ValueError(
            f"seeds differ in the size of their training set ({sizes}), so they cannot train at once; "
            "give all the same corruption by --data-seed, or run them one by one."
        )


def describe(dataset: Dataset, corrupted: pipelines.Corrupted) -> str:
    """What the training set has become: size, class sizes and the share of wrong labels."""
    counts = np.bincount(corrupted.given, minlength=dataset.num_classes)
    wrong = np.mean(corrupted.given != corrupted.clean)
    shown = ", ".join(map(str, counts[:20])) + (" …" if len(counts) > 20 else "")
    return f"{len(corrupted.given)} training examples, {100 * wrong:.1f} % wrong labels; a class: {shown}"
