"""From settings to what the engine takes: schedule, optimizer, task, method, corrupted data."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.settings.config import Config, model_options
from robustjax import methods, models, schedules
from robustjax.data import Dataset, augment, corruptions, labelling
from robustjax.methods import Method, Task
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
        model=_make_model(config, dataset),
        optimizer=make_optimizer(config),
        schedule=make_schedule(config.schedule, config.learning_rate, config.epochs, config.lr_warmup_epochs),
        weak=view(config.weak_augmentation),
        strong=view(config.augmentation),
        plain=lambda inputs: augment.normalize(inputs, dataset.mean, dataset.std),
        example=jax.ShapeDtypeStruct((1, *dataset.train_inputs.shape[1:]), dataset.train_inputs.dtype),
        num_groups=num_groups,
    )


def _make_model(config: Config, dataset: Dataset) -> models.Model:
    """The classifier; ValueError for a model or an augmentation that cannot take what `dataset` holds."""
    inputs = dataset.train_inputs
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


class SeedLabels(NamedTuple):
    """One seed's labels.

    Attributes:
      train: those it trains on.
      validation: those it holds out; None for none.
      groups: int32 [N], the groups of what it trains on; None where these are the given labels.
    """

    train: labelling.Labels
    validation: labelling.Labels | None = None
    groups: np.ndarray | None = None


def corrupt(config: Config, dataset: Dataset, seed: int) -> SeedLabels:
    """One seed's labels: made by the config's corruption or read from its noise file, then split.

    Raises:
      ValueError: where `labelling.corrupt` or the noise file does, or if a batch is larger than what is left.
    """
    if config.noise_file is not None:
        noise = corruptions.load_noise(config.noise_file, clean_labels=dataset.train_labels)
        result = labelling.Labels(noise.kept, noise.given, dataset.train_labels[noise.kept])
    else:
        result = labelling.corrupt(
            dataset.train_labels,
            dataset.num_classes,
            seed if config.data_seed is None else config.data_seed,
            noise=config.noise,
            rate=config.noise_rate,
            imbalance=config.imbalance,
            ratio=config.imbalance_ratio,
            dataset=dataset.name,
            limit=config.train_examples,
            given=None if config.labels is None else read_labels(config.labels),
        )
    labels = SeedLabels(result)
    if config.validation_split:
        labels = SeedLabels(*labelling.hold_out(result, config.validation_split, dataset.num_classes, seed))
    labels = labels._replace(groups=make_groups(config, dataset, labels.train))
    if config.batch_size > len(labels.train.kept):
        raise ValueError(f"batch_size={config.batch_size} is larger than the training set of {len(labels.train.kept)}.")
    return labels


def read_labels(spec: str) -> np.ndarray:
    """Labels from FILE.npy, or from one array of an archive, FILE.npz:NAME.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not of this form, or has no such array.
    """
    place, colon, name = spec.rpartition(":")
    path = pathlib.Path(place if colon and place.endswith(".npz") else spec)
    if not path.is_file():
        raise FileNotFoundError(f"labels={spec!r}: there is no file {str(path)!r}.")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if str(path) == spec or name not in found.files:
                raise KeyError(f"the arrays of {path.name} are {', '.join(found.files)}: FILE.npz:NAME takes one")
            return found[name]
    except Exception as error:  # NumPy raises half a dozen kinds for a damaged file
        raise ValueError(f"labels={spec!r}: {error}.") from error


def resident(dataset: Dataset) -> Resident:
    """The data set's images, to be put on the device."""
    return Resident(dataset.train_inputs, dataset.test_inputs)


def own(labels: SeedLabels, seed: int) -> Own:
    """What belongs to a seed."""
    kept, given = (jnp.asarray(each, jnp.int32) for each in (labels.train.kept, labels.train.given))
    held_out = None if labels.validation is None else jnp.asarray(labels.validation.kept, jnp.int32)
    groups = None if labels.groups is None else jnp.asarray(labels.groups, jnp.int32)
    return Own(jax.random.key(seed), kept, given, held_out, groups)


_GROUPING = "(images [N, …], labels int [N]) -> int [N], from 0"


def pin_groups(spec: str) -> str:
    """The text of a grouping; that of a function with its file's content hash (`methods.custom.pin`)."""
    return spec if spec.endswith(".npy") else methods.custom.pin(spec, "groups", _GROUPING)


def make_groups(config: Config, dataset: Dataset, train: labelling.Labels) -> np.ndarray | None:
    """The groups int32 [N] that the config's `groups` names for a seed's training set; None for the given labels.

    A function is shown the kept images and their given labels.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not give an int of at least 0 for each example.
    """
    spec = config.groups
    if spec is None:
        return None
    if spec.endswith(".npy"):
        if not pathlib.Path(spec).is_file():
            raise FileNotFoundError(f"groups={spec!r}: there is no such file.")
        return _check_groups(spec, np.load(spec), len(dataset.train_labels))[train.kept]
    function = methods.custom.load(spec, "groups", _GROUPING)
    found = np.asarray(function(dataset.train_inputs[train.kept], train.given))
    return _check_groups(spec, found, len(train.kept))


def _check_groups(spec: str, groups: np.ndarray, count: int) -> np.ndarray:
    """Groups as int32, refused unless they are `count` integers of at least 0, and fewer than examples."""
    if groups.shape != (count,) or not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(
            f"groups={spec!r} must be an int for each of {count} examples, got {groups.dtype} {groups.shape}."
        )
    if groups.min() < 0 or groups.max() >= count:
        raise ValueError(f"groups={spec!r} must be numbered from 0, got {groups.min()} … {groups.max()}.")
    return groups.astype(np.int32)


def num_groups(labels: Sequence[SeedLabels]) -> int | None:
    """How many groups there are, over the seeds that train at once; None where they are the classes."""
    found = [int(each.groups.max()) + 1 for each in labels if each.groups is not None]
    return max(found, default=None)


def check_equal_sizes(labels: list[SeedLabels]) -> None:
    """Seeds that train at once need training sets of one size.

    Raises:
      ValueError: if they differ.
    """
    sizes = sorted({len(each.train.kept) for each in labels})
    if len(sizes) > 1:
        raise ValueError(
            f"seeds differ in the size of their training set ({sizes}), so they cannot train at once; "
            "give all the same corruption by --data-seed, or run them one by one."
        )


def describe(dataset: Dataset, labels: SeedLabels) -> str:
    """What the training set has become: size, class sizes and the share of wrong labels."""
    train = labels.train
    counts = np.bincount(train.given, minlength=dataset.num_classes)
    wrong = np.mean(train.given != train.clean)
    shown = ", ".join(map(str, counts[:20])) + (" …" if len(counts) > 20 else "")
    held_out = "" if labels.validation is None else f"; {len(labels.validation.given)} more are held out"
    return f"{len(train.given)} training examples, {100 * wrong:.1f} % wrong labels; a class: {shown}{held_out}"
