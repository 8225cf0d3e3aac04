"""Small things to train that several tests share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustjax import methods, models
from robustjax.methods import Method, Task
from robustjax.training import engine, parallel

N, TEST, C, SIDE = 60, 20, 3, 4


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 4×4 images of three patterns, uint8, with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % C
    patterns = np.random.default_rng(0).integers(0, 256, (C, SIDE, SIDE, 1))
    return np.clip(patterns[labels] + rng.normal(0, 40, (count, SIDE, SIDE, 1)), 0, 255).astype(np.uint8), labels


def resident() -> engine.Resident:
    return engine.Resident(images(N, 1)[0], images(TEST, 2)[0])


def test_labels() -> np.ndarray:
    return images(TEST, 2)[1]


def given_labels(seed: int, wrong: float = 0.3) -> np.ndarray:
    """The training labels with a share `wrong` of them moved to the next class."""
    rng = np.random.default_rng(seed)
    labels = images(N, 1)[1]
    return np.where(rng.random(N) < wrong, (labels + 1) % C, labels).astype(np.int32)


def own(seed: int, wrong: float = 0.3) -> engine.Own:
    return engine.Own(jax.random.key(seed), jnp.arange(N, dtype=jnp.int32), jnp.asarray(given_labels(seed, wrong)))


def task(epochs: int = 3, batch_size: int = 16, model: str = "mlp", rate: float = 0.05, **overrides) -> Task:
    def plain(inputs):
        return (inputs.astype(jnp.float32) - 128) / 64

    def strong(key, inputs):
        return plain(inputs) + 0.1 * jax.random.normal(key, inputs.shape)

    return Task(
        num_examples=N, num_classes=C, epochs=epochs, batch_size=batch_size,
        model=models.get_model(model, C, **overrides),
        optimizer=lambda r: optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(r, momentum=0.9)),
        schedule=lambda progress: rate * (1 + jnp.cos(jnp.pi * jnp.floor(progress) / epochs)),
        weak=lambda key, inputs: plain(inputs), strong=strong, plain=plain,
        example=jax.ShapeDtypeStruct((1, SIDE, SIDE, 1), jnp.uint8),
    )  # fmt: skip


# One method of each kind of state and plan.
FAMILIES = ("cross_entropy", "ce_sr", "nlnl", "dynamic_loss", "elr", "elr_plus", "har")
OPTIONS = {
    "elr_plus": {"average_ramp_steps": 6, "ramp_steps": 4},
    "dynamic_loss": {
        "num_bins": 5, "warmup_epochs": 1, "corrector_warmup_steps": 2, "meta_learning_rate": 1e-2, "hidden": 8,
    },
    "har": {"pretrain_epochs": 1},
}  # fmt: skip


def needs(name: str) -> dict:
    """What a task's perceptron must have for a method."""
    return {"normalize": True} if name.startswith("har") else {}


def options(name: str) -> dict:
    """Options that suit a set this small."""
    return dict(next((v for k, v in OPTIONS.items() if name.startswith(k)), {}))


def method(name: str, task: Task, **more) -> Method:
    return methods.get(name)(task, **{**options(name), **more})


def train(name: str, the_task: Task, seeds=(0,), mode: str = "single", devices=None, wrong=0.3, **more) -> list:
    """All epochs of a run, with states brought to the host (one a seed)."""
    made = method(name, the_task, **more)
    layout = parallel.make_layout(mode, seeds=len(seeds), batch_size=the_task.batch_size, devices=devices)
    owns = [own(seed, wrong) for seed in seeds]
    epochs = engine.train(made, the_task, layout, resident(), owns)
    return [epoch._replace(state=parallel.by_seed(layout, epoch.state)) for epoch in epochs]
