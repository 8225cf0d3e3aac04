"""Small things to train that several tests share: a task for any method of the registry, by what its entry says."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import methods, models
from robustjax.methods import Method, Task
from robustjax.training import engine, parallel

# No other size in a toy is as large as N, so that what grows with the data is known by its shape.
N, TEST, C, SIDE, TRUSTED = 60, 20, 3, 4, 12


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 4×4 images of three patterns, uint8, with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % C
    patterns = np.random.default_rng(0).integers(0, 256, (C, SIDE, SIDE, 1))
    return np.clip(patterns[labels] + rng.normal(0, 40, (count, SIDE, SIDE, 1)), 0, 255).astype(np.uint8), labels


def resident() -> engine.Resident:
    """The data, with trusted examples from outside the training set: their positions in the pool mean nothing in it."""
    return engine.Resident(images(N, 1)[0], images(TEST, 2)[0], images(TRUSTED + 3, 3)[0])


def test_labels() -> np.ndarray:
    return images(TEST, 2)[1]


def given_labels(seed: int, wrong: float = 0.3) -> np.ndarray:
    """The training labels with a share `wrong` of them moved to the next class."""
    rng = np.random.default_rng(seed)
    labels = images(N, 1)[1]
    return np.where(rng.random(N) < wrong, (labels + 1) % C, labels).astype(np.int32)


def own(seed: int, wrong: float = 0.3) -> engine.Own:
    trusted = np.arange(TRUSTED, dtype=np.int32) + 3  # the first ones are left out
    return engine.Own(
        jax.random.key(seed),
        jnp.arange(N, dtype=jnp.int32),
        jnp.asarray(given_labels(seed, wrong)),
        trusted_kept=jnp.asarray(trusted),
        trusted_labels=jnp.asarray(images(TRUSTED + 3, 3)[1][trusted], jnp.int32),
    )


def task(epochs: int = 3, batch_size: int = 16, model: str = "mlp", rate: float = 0.05, **overrides) -> Task:
    """Of `overrides`, the fields of `Task` are its own, the rest are options of the model."""

    def plain(inputs):
        return (inputs.astype(jnp.float32) - 128) / 64

    def strong(key, inputs):
        return plain(inputs) + 0.1 * jax.random.normal(key, inputs.shape)

    fields = {name: overrides.pop(name) for name in Task._fields if name in overrides}
    return Task(**{
        "num_examples": N, "num_classes": C, "epochs": epochs, "batch_size": batch_size, "num_trusted": TRUSTED,
        "model": models.get_model(model, C, **overrides),
        "optimizer": lambda r: optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(r, momentum=0.9)),
        "schedule": lambda progress: rate * (1 + jnp.cos(jnp.pi * jnp.floor(progress) / epochs)),
        "weak": lambda key, inputs: plain(inputs), "strong": strong, "plain": plain,
        "example": jax.ShapeDtypeStruct((1, SIDE, SIDE, 1), jnp.uint8),
        **fields,
    })  # fmt: skip


def needs(name: str) -> dict[str, Any]:
    """What a task's perceptron must have for a method."""
    return {"normalize": True} if "normalisation layers" in methods.entry(name).needs else {}


def options(name: str) -> dict[str, Any]:
    """Options that suit a set this small."""
    return dict(methods.entry(name).small)


def method(name: str, task: Task, **more) -> Method:
    return methods.get(name)(task, **{**options(name), **more})


def run(
    made: Method,
    the_task: Task,
    owns: Sequence[engine.Own],
    layout: parallel.Layout | None = None,
    *,
    data: engine.Resident | None = None,
    stop: int | None = None,
    **more,
) -> list[engine.Epoch]:
    """The epochs of a run up to `stop`, on one device unless told, with states brought to the host (one a seed)."""
    layout = layout or single(the_task, len(owns))
    count = (made.epochs if stop is None else stop) - more.get("start_epoch", 0)
    epochs = itertools.islice(engine.train(made, the_task, layout, data or resident(), owns, **more), count)
    return [epoch._replace(state=parallel.by_seed(layout, epoch.state)) for epoch in epochs]


def single(the_task: Task, seeds: int = 1) -> parallel.Layout:
    return parallel.make_layout("single", seeds=seeds, batch_size=the_task.batch_size, devices=jax.devices()[:1])


def train(name: str, the_task: Task, seeds=(0,), mode: str = "single", devices=None, wrong=0.3, **more) -> list:
    """All epochs of a run of a method by name, with states brought to the host (one a seed)."""
    layout = parallel.make_layout(mode, seeds=len(seeds), batch_size=the_task.batch_size, devices=devices)
    return run(method(name, the_task, **more), the_task, [own(seed, wrong) for seed in seeds], layout)


@contextlib.contextmanager
def noted_plans() -> Iterator[list[list[Any]]]:
    """Collects the plan of each epoch that is trained meanwhile, a list of the seeds' each."""
    plans: list[list[Any]] = []
    begin = engine.Programs.begin

    def noted(self: engine.Programs, *args: Any) -> Any:
        state, plan = begin(self, *args)
        plans.append(parallel.by_seed(self.layout, plan))
        return state, plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Programs, "begin", noted)
        yield plans


def with_emitters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile the engine's programs with XLA's fusion emitters, which conftest does without, for right convolutions."""
    options = parallel.compiler_options
    monkeypatch.setattr(
        parallel, "compiler_options", lambda *a, **k: {**(options(*a, **k) or {}), "xla_cpu_use_fusion_emitters": True}
    )


# --- A set on which cross entropy does badly ------------------------------------------------------------------------


class Problem(NamedTuple):
    """A task with its data, and the true labels of its test set."""

    task: Task
    resident: engine.Resident
    owns: list[engine.Own]
    test_labels: np.ndarray


def problem(kind: str, seeds: int = 3, epochs: int = 30) -> Problem:
    """Patterns in heavy noise for a net wide enough to learn its training labels by heart.

    Of kind "noise" 40 % of the labels are wrong, evenly over the other classes; of kind "tail" all are right, and the
    classes have 100, 20 and 5 examples.
    """
    counts = {"noise": (64, 64, 64), "tail": (100, 20, 5)}[kind]
    classes = np.arange(C)

    def draw(counts: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = np.repeat(classes, counts)
        patterns = 128 + 40 * np.random.default_rng(0).choice([-1, 1], (C, SIDE, SIDE, 1))
        return np.clip(patterns[labels] + rng.normal(0, 50, (len(labels), SIDE, SIDE, 1)), 0, 255).astype(
            np.uint8
        ), labels.astype(np.int32)

    inputs, truth = draw(counts, 1)
    test, test_labels = draw(100, 2)
    trusted, trusted_labels = draw(8, 3)

    def given(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        wrong = rng.random(len(truth)) < (0.4 if kind == "noise" else 0)
        return np.where(wrong, (truth + rng.integers(1, C, len(truth))) % C, truth).astype(np.int32)

    owns = [
        engine.Own(
            jax.random.key(seed), jnp.arange(len(truth)), jnp.asarray(given(seed)),
            trusted_kept=jnp.arange(len(trusted)), trusted_labels=jnp.asarray(trusted_labels),
        )
        for seed in range(seeds)
    ]  # fmt: skip
    the_task = task(
        epochs, batch_size=32, rate=0.05, widths=(64, 64), normalize=True,
        num_examples=len(truth), num_trusted=len(trusted),
    )  # fmt: skip
    return Problem(the_task, engine.Resident(inputs, test, trusted), owns, test_labels)


def accuracy(made: Method, given: Problem, last: int = 5) -> float:
    """Of a method on the problem's test set: the mean over its last epochs and the seeds."""
    layout = single(given.task, len(given.owns))
    epochs = run(made, given.task, given.owns, layout, data=given.resident, track_every=0)
    return float(
        np.mean([np.mean(logits.argmax(-1) == given.test_labels) for e in epochs[-last:] for logits in e.test_logits])
    )
