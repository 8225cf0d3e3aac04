"""From settings to what the engine takes: optimizer, task, method, corrupted data, trusted examples."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import complaints
from experiments.settings import catalogue, defaults, files, human_labels, rates
from experiments.settings.config import FIELDS, Config, model_options
from robustjax import backend, data, models, user_code
from robustjax.data import Dataset, augment, corruptions, labelling
from robustjax.data.checks import check_labels
from robustjax.methods import Method, Task
from robustjax.methods.base import class_counts
from robustjax.models import custom as own_models
from robustjax.training.engine import Own, Resident


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


def size_of(config: Config, dataset: Dataset) -> defaults.Size:
    """What the settings that nobody has named are chosen by; the examples that are not trained on are not counted."""
    labels = dataset.train_labels
    if config.noise_file is not None:
        labels = corruptions.load_noise(config.noise_file, clean_labels=labels).given
    count = min(len(labels), config.train_examples or len(labels))
    count = round((count - min(config.trusted_examples, count)) * (1 - config.validation_split))
    inputs = dataset.train_inputs
    sizes = class_counts(labels, dataset.num_classes)
    imbalance = max(config.imbalance_ratio, sizes.max() / sizes[sizes > 0].min())
    return defaults.Size(
        inputs.shape[1:], inputs.dtype.name, dataset.num_tokens, max(1, count), dataset.num_classes, float(imbalance)
    )


def make_task(
    config: Config, dataset: Dataset, num_examples: int, num_groups: int | None = None, num_trusted: int = 0
) -> Task:
    """The task: model, views, optimizer and schedule for `num_examples` training examples of `dataset`.

    `num_groups` is the number of groups of examples, where they are not the classes; `num_trusted` that of the trusted
    examples.
    """
    view = functools.partial(augment.make_view, mean=dataset.mean, std=dataset.std)
    return Task(
        num_examples=num_examples,
        num_classes=dataset.num_classes,
        epochs=config.epochs,
        batch_size=config.batch_size,
        model=_make_model(config, dataset),
        optimizer=make_optimizer(config),
        schedule=rates.make_schedule(config.schedule, config.learning_rate, config.epochs, config.lr_warmup_epochs),
        weak=view(config.weak_augmentation),
        strong=view(config.augmentation),
        plain=_normalizer(dataset),
        example=_example(dataset),
        num_groups=num_groups,
        num_trusted=num_trusted,
    )


def check_views(task: Task) -> None:
    """Try a task's views on an example, without computing anything.

    Raises:
      ValueError: if one does not fit the inputs.
    """
    for view in (task.weak, task.strong):
        jax.eval_shape(view, jax.random.key(0), task.example)


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
    registered = user_code.find(config.model) is None
    if registered and config.model not in readers and dataset.vocabulary is not None:
        raise ValueError(
            f"model={config.model!r} does not read texts; {held}, token ids: {', '.join(readers)} is accepted."
        )
    if registered and config.model not in (*readers, "mlp", "linear") and inputs.ndim != 4:
        raise ValueError(f"model={config.model!r} reads images [N, H, W, C]; {held}: mlp or linear is accepted.")
    own = {"vocabulary_size": dataset.num_tokens} if config.model in readers else {}
    model = catalogue.make_model(
        config.model, dataset.num_classes, dtype=jnp.dtype(config.precision), **own | model_options(config)
    )
    if not registered:
        own_models.check_model(model, jax.eval_shape(_normalizer(dataset), _example(dataset)), dataset.num_classes)
    return model


def _normalizer(dataset: Dataset) -> Callable[[jax.Array], jax.Array]:
    return lambda inputs: augment.normalize(inputs, dataset.mean, dataset.std)


def _example(dataset: Dataset) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *dataset.train_inputs.shape[1:]), dataset.train_inputs.dtype)


def make_method(config: Config, task: Task, options: Mapping[str, Any] | None = None) -> Method:
    """The method with the config's options.

    Raises:
      ValueError: an option out of its range, or a factory in a file that gives no `Method`.
    """
    return catalogue.make_method(config.method, task, config.options if options is None else options)


def check_memory(method: Method, owns: Sequence[Own]) -> None:
    """Refuse networks and memories that cannot fit, before any of them is made.

    What a step computes in between is not in it, since that is not known before a step is compiled; then
    `parallel.compile_program` refuses what cannot fit.

    Raises:
      ValueError: if the states of all seeds take more than the devices have.
    """
    try:
        with jax.disable_jit():  # programs with compile options of their own cannot be looked into
            state = jax.eval_shape(lambda key: method.init(key, np.asarray(owns[0].labels)), jax.random.key(0))
    except Exception:  # it needs to see its numbers, or will tell what is wrong when it is called
        return
    leaves = [each for each in jax.tree.leaves(state) if hasattr(each, "dtype")]
    # A step holds the gradient and the updates beside them, at the least.
    needed = 2 * len(owns) * sum(math.prod(each.shape) * _item_size(each.dtype) for each in leaves)
    if needed > (there := backend.memory()):
        raise ValueError(
            f"training the networks of seeds={len(owns)}, with their optimizer and the method's memories, takes "
            f"{needed / 1e9:.3g} GB of {there / 1e9:.3g} GB; fewer seeds or a smaller model are accepted."
        )


def _item_size(dtype: Any) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize


def uses_trusted(method: Method) -> bool:
    """Whether a method draws from the trusted pool."""
    passes = (each for stage in method.stages for each in stage.passes)
    return any(draw.pool == "trusted" for work in passes for step in work for draw in step.draws)


class SeedLabels(NamedTuple):
    """One seed's labels.

    Attributes:
      train: those it trains on.
      validation: those it holds out; None for none.
      groups: int32 [N], the groups of what it trains on; None where these are the given labels.
      trusted: its trusted examples, `kept` in their pool, true labels in `given`; None for none.

    `clean` is None in all but the trusted ones where nobody knows the truth (`truth`).
    """

    train: labelling.Labels
    validation: labelling.Labels | None = None
    groups: np.ndarray | None = None
    trusted: labelling.Labels | None = None


def truth(config: Config, dataset: Dataset) -> np.ndarray | None:
    """What the training examples of `dataset` truly are, int32 [M]; None where nobody knows.

    Labels of data of one's own count as the truth only where the run adds noise to them: it is then an experiment about
    that noise.
    """
    if dataset.true_labels is None and config.noise != "none":
        return dataset.train_labels
    return dataset.true_labels


def trusted_labels(pool: Dataset) -> np.ndarray:
    """The labels int32 [M] of the data set that trusted examples are taken from: what they truly are, if it says so."""
    return pool.train_labels if pool.true_labels is None else pool.true_labels


def load_data(config: Config, data_dir: str | None = None, *, download: bool = True) -> Dataset:
    """The data that a config names, as it says that they are to be read.

    Args:
      config: the settings.
      data_dir: folder of prepared TFDS data sets; None for the config's.
      download: whether TFDS may fetch what is not there.

    Raises:
      ValueError: where `robustjax.data.load` does.
      FileNotFoundError: likewise.
    """
    return data.load(
        config.dataset, config.data_dir if data_dir is None else data_dir, cache_dir=config.cache_dir,
        download=download, max_tokens=config.max_tokens, image_size=files.parse_image_size(config.image_size),
        columns=files.parse_columns(config.columns), skip_bad=config.skip_bad,
    )  # fmt: skip


def notes(config: Config, dataset: Dataset) -> tuple[str, ...]:
    """Sentences to be said before a run on data of one's own: how they were read, copies, classes of a few examples."""
    found = (*dataset.notes, *data.inspect(dataset)) if data.is_own(config.dataset) else dataset.notes
    return tuple(complaints.in_flags(text, FIELDS) for text in found)


def trusted_pool(config: Config, dataset: Dataset) -> Dataset | None:
    """The data set whose training part trusted examples are taken from; None for no trusted examples.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if its inputs or its classes are not those of `dataset`, or nobody knows the true labels of those that
        are to be taken from `dataset`.
    """
    if config.trusted is not None:
        return files.read_trusted(config.trusted, dataset, config.cache_dir)
    if config.trusted_examples and truth(config, dataset) is None:
        raise ValueError(
            f"trusted_examples={config.trusted_examples}: trusted examples keep their true labels, and {dataset.name} "
            "does not tell any; --trusted=npz:FILE, folder:DIR, csv:FILE or hf:DIR of examples whose labels are known "
            "to be right is accepted, and data with true labels."
        )
    return dataset if config.trusted_examples else None


def corrupt(config: Config, dataset: Dataset, seed: int, pool: Dataset | None = None) -> SeedLabels:
    """One seed's labels: trusted examples drawn, then made by the config's corruption or read from its noise file.

    Args:
      config: the settings.
      dataset: the data.
      seed: of the corruption, unless the config has one for all seeds.
      pool: what `trusted_pool` gives.

    Raises:
      ValueError: where `labelling.corrupt`, `labelling.draw_trusted` or the noise file does, or if a batch is larger
        than what is left.
    """
    data_seed = seed if config.data_seed is None else config.data_seed
    trusted, without = None, None
    if pool is not None:
        chosen = np.arange(len(pool.train_labels))
        true = trusted_labels(pool)
        if config.trusted is None:
            chosen = without = labelling.draw_trusted(true, dataset.num_classes, config.trusted_examples, data_seed)
        trusted = labelling.Labels(chosen, true[chosen], true[chosen])
    _check_defined(config, dataset)
    if config.noise_file is not None:
        kept, given = corruptions.load_noise(config.noise_file, clean_labels=dataset.train_labels)
        check_labels(given, dataset.num_classes, f"the labels of {config.noise_file!r}")
        stays = np.ones(len(kept), bool) if without is None else ~np.isin(kept, without)
        result = labelling.Labels(kept[stays], given[stays], None)
    else:
        result = labelling.corrupt(
            dataset.train_labels,
            dataset.num_classes,
            data_seed,
            noise=config.noise,
            rate=config.noise_rate,
            form=config.noise_form,
            imbalance=config.imbalance,
            ratio=config.imbalance_ratio,
            dataset=dataset.name,
            limit=config.train_examples,
            given=_given(config, dataset),
            without=without,
        )
    clean = truth(config, dataset)
    result = result._replace(clean=None if clean is None else clean[result.kept])
    labels = SeedLabels(result, trusted=trusted)
    if config.validation_split:
        train, validation = labelling.hold_out(result, config.validation_split, dataset.num_classes, seed)
        labels = labels._replace(train=train, validation=validation)
    labels = labels._replace(groups=make_groups(config, dataset, labels.train))
    if config.batch_size > len(labels.train.kept):
        raise ValueError(f"batch_size={config.batch_size} is larger than the training set of {len(labels.train.kept)}.")
    return labels


def _check_defined(config: Config, dataset: Dataset) -> None:
    """ValueError for noise or imbalance that is defined for other data sets only, in words of the command line."""
    name = corruptions.base_name(dataset.name)
    of_groups = (config.noise == "heteroskedastic", "noise"), (config.imbalance.startswith("step_rare"), "imbalance")
    for wanted, field, known in (
        (config.noise == "asymmetric", "noise", corruptions.ASYMMETRIC_MAPS),
        *((asked, field, corruptions.HETEROSKEDASTIC_GROUPS) for asked, field in of_groups),
    ):
        if wanted and name not in known:
            raise ValueError(
                f"{field}={getattr(config, field)!r} says which classes are alike, and is defined for "
                f"{', '.join(known)}; {dataset.name!r} has no such classes: another {field} is accepted, or "
                "--noise-file=FILE.npz with labels of your own making."
            )


def _given(config: Config, dataset: Dataset) -> np.ndarray | None:
    """The labels that somebody gave, if the config names any; what is wrong with them is told with their file."""
    if config.labels is None:
        return None
    return human_labels.read(config.labels, dataset)[0]


def resident(dataset: Dataset, pool: Dataset | None = None) -> Resident:
    """The data set's inputs and those of the trusted pool, to be put on the device."""
    trusted = None if pool is None else pool.train_inputs  # often the data set's own, which are put there once
    return Resident(*(cast(jax.Array, array) for array in (dataset.train_inputs, dataset.test_inputs, trusted)))


def own(labels: SeedLabels, seed: int) -> Own:
    """What belongs to a seed."""

    def on_device(array: np.ndarray | None) -> jax.Array | None:
        return None if array is None else jnp.asarray(array, jnp.int32)

    return Own(
        jax.random.key(seed),
        jnp.asarray(labels.train.kept, jnp.int32),
        jnp.asarray(labels.train.given, jnp.int32),
        validation=on_device(labels.validation and labels.validation.kept),
        groups=on_device(labels.groups),
        trusted_kept=on_device(labels.trusted and labels.trusted.kept),
        trusted_labels=on_device(labels.trusted and labels.trusted.given),
    )


def annotations(config: Config, dataset: Dataset) -> np.ndarray | None:
    """The labels int32 [M, A] of the annotators of the training part, −1 for none: those that `labels` names, else the
    data's; None where each example has a single label.
    """
    return dataset.annotations if config.labels is None else human_labels.read(config.labels, dataset)[1]


def make_groups(config: Config, dataset: Dataset, train: labelling.Labels) -> np.ndarray | None:
    """The groups int32 [N] that the config's `groups` names for a seed's training set; None for the given labels."""
    return None if config.groups is None else files.read_groups(config.groups, dataset, train.kept, train.given)


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


def task_for(config: Config, dataset: Dataset, labels: Sequence[SeedLabels]) -> Task:
    """The task of seeds that train at once on these labels, sets of one size."""
    first = labels[0]
    num_trusted = 0 if first.trusted is None else len(first.trusted.kept)
    return make_task(config, dataset, len(first.train.kept), num_groups(labels), num_trusted)


ASSUMED = "the data's own labels count as true"


def describe(dataset: Dataset, labels: SeedLabels) -> str:
    """What the training set has become: size, class sizes and, where it is known, the share of wrong labels."""
    train = labels.train
    counts = np.bincount(train.given, minlength=dataset.num_classes)
    judged = "labels as given (how many are wrong is not known)"
    if train.clean is not None:
        judged = f"{100 * np.mean(train.given != train.clean):.1f} % wrong labels"
        judged += f" ({ASSUMED})" if truth_source(dataset, labels) == ASSUMED else ""
    held_out = "" if labels.validation is None else f"; {len(labels.validation.given)} more are held out"
    held_out += "" if labels.trusted is None else f"; {len(labels.trusted.given)} trusted examples"
    if dataset.test_held_out:
        held_out += f"; tested on {len(dataset.test_labels)} held-out examples, their labels as given"
    sizes = _class_sizes(counts, dataset.class_names)
    return f"{len(train.given)} training examples, {judged}; a class: {sizes}{held_out}"


def _class_sizes(counts: np.ndarray, names: Sequence[str]) -> str:
    """How many examples each class has, with its name; of more than 12 classes the smallest and the largest."""
    if all(name.isdigit() for name in names):
        return ", ".join(map(str, counts[:20])) + (" …" if len(counts) > 20 else "")
    if len(names) <= 12:
        return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
    least, most = int(counts.argmin()), int(counts.argmax())
    return f"{counts[least]} ({names[least]}) to {counts[most]} ({names[most]})"


def truth_source(dataset: Dataset, labels: SeedLabels) -> str | None:
    """Where the labels come from that a run is judged by; None where nobody knows the truth."""
    if labels.train.clean is None:
        return None
    return ASSUMED if dataset.true_labels is None else "the data"
