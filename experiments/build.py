"""From settings to what the engine takes: schedule, optimizer, task, method, corrupted data."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

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


def make_task(config: Config, dataset: Dataset, num_examples: int) -> Task:
    """The task: model, views, optimizer and schedule for `num_examples` training examples of `dataset`."""
    view = functools.partial(augment.make_view, mean=dataset.mean, std=dataset.std)
    return Task(
        num_examples=num_examples,
        num_classes=dataset.num_classes,
        epochs=config.epochs,
        batch_size=config.batch_size,
        model=_make_model(config, dataset),
        optimizer=make_optimizer(config),
        schedule=make_schedule(config.schedule, config.learning_rate, config.epochs, config.lr_warmup_epochs),
        weak=view(config.weak_augmentation),
        strong=view(config.augmentation),
        plain=lambda inputs: augment.normalize(inputs, dataset.mean, dataset.std),
    )


def _make_model(config: Config, dataset: Dataset) -> models.Model:
    """The classifier; ValueError for a model or an augmentation that cannot take what `dataset` holds."""
    inputs = dataset.train_images
    held = f"{dataset.name} holds {inputs.dtype} {list(inputs.shape)}"
    for name in ("augmentation", "weak_augmentation"):
        if (spec := getattr(config, name)) != "none" and (inputs.dtype != np.uint8 or inputs.ndim != 4):
            raise ValueError(f"{name}={spec!r} is for uint8 images [N, H, W, C]; {held}: 'none' is accepted.")
    readers = [name for name in models.names() if models.reads_tokens(name)]
    if config.model in readers and dataset.num_tokens is None:
        raise ValueError(f"model={config.model!r} reads token ids, int32 [N, L] from 0 up; {held}.")
    if config.model not in readers and dataset.vocabulary is not None:
        raise ValueError(
            f"model={config.model!r} does not read texts; {held}, token ids: {', '.join(readers)} is accepted."
        )
    own = {"vocabulary_size": dataset.num_tokens} if config.model in readers else {}
    return models.get_model(
        config.model, dataset.num_classes, dtype=jnp.dtype(config.precision), **model_options(config), **own
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


def own(labels: pipelines.Corrupted, seed: int) -> Own:
    """What belongs to a seed."""
    return Own(jax.random.key(seed), jnp.asarray(labels.kept, jnp.int32), jnp.asarray(labels.given, jnp.int32))


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
