"""What an iteration of Dynamic Loss costs, in multiples of a plain step: `python -m experiments.bench.meta_step`.

The steps are the methods' own, compiled as the engine compiles them, on made-up images. FLOPs and temporary memory are
the compiler's count for the optimised program, so they tell what XLA shares between the passes; they do not vary from
run to run. Times do: every round runs the forms in turn, so that a slow moment hits all alike, and the median over the
rounds is taken of the ratio to the plain step of the same round.

Counting a forward pass as 1 and a backward or tangent pass as 2, a plain step is 3. The meta-gradient is the virtual
step (1 + 2), the meta batch (1 + 2) and one tangent pass along its gradient (2). The real step adds 2 where it shares
the virtual step's forward pass (one view) and 3 where it does not. This is the `floor`, exact for a network of
nothing but convolutions whose input gradient is needed, and so large that the meta net does not count beside it.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import build
from experiments.config import Config
from robustjax import losses, meta, methods
from robustjax.data import Dataset
from robustjax.methods import base, erm
from robustjax.methods import dynamic_loss as dl
from robustjax.training import backend, logging

PLAIN, ONE_VIEW, TWO_VIEWS = "plain step", "iteration, one view", "iteration, two views"
NESTED, BY_HAND = "meta-gradient, nested", "meta-gradient, by hand"
FLOORS = {PLAIN: 1.0, ONE_VIEW: 10 / 3, TWO_VIEWS: 11 / 3, NESTED: 8 / 3, BY_HAND: 8 / 3}
BARS = {ONE_VIEW: 3.4, TWO_VIEWS: 3.75}
"""FLOPs in plain steps that an iteration may cost at most."""


class Form(NamedTuple):
    """A program (state, batches, clock, key) -> anything, and arguments for it."""

    step: Callable[..., Any]
    args: tuple[Any, ...]


class Cost(NamedTuple):
    """FLOPs and temporary memory of a compiled program, as the compiler counts them, and how long it compiled."""

    flops: float
    temp_bytes: int
    compile_seconds: float


def make_task(model: str, image: Sequence[int], batch_size: int, num_classes: int = 10) -> methods.Task:
    """A task on made-up images [H, W, channels].

    The strong view flips, the weak one does nothing: XLA would merge two views that are the same.
    """
    blank = np.zeros((1, *image), np.uint8)
    label = np.zeros(1, np.int32)
    dataset = Dataset(
        "made up", blank, label, blank, label, num_classes, tuple(map(str, range(num_classes))), (128.0,), (64.0,)
    )
    settings = Config(model=model, batch_size=batch_size, augmentation="flip", weak_augmentation="none")
    return build.make_task(settings, dataset, batch_size)


def forms(task: methods.Task, image: Sequence[int]) -> dict[str, Form]:
    """All that is compared, by name: a train batch and a meta batch of the task's size, random images and labels."""
    rng = np.random.default_rng(0)
    size, classes = task.batch_size, task.num_classes

    def batch() -> base.Batch:
        images = rng.integers(0, 256, (size, *image), np.uint8)
        labels = rng.integers(0, classes, size).astype(np.int32)
        return jax.device_put(base.Batch(images, labels, np.arange(size, dtype=np.int32), np.ones(size, np.float32)))

    batches = {"train": batch(), "meta": batch()}
    example, labels = np.asarray(batches["train"].inputs[:1]), np.asarray(batches["train"].labels)
    clock = base.Clock(jnp.int32(0), jnp.float32(0))
    plain, one_view = methods.get("cross_entropy")(task), methods.get("dynamic_loss")(task, views=1)
    two_views = methods.get("dynamic_loss")(task, views=2)
    state = two_views.init(jax.random.key(0), labels, example)
    rest = (batches, clock, jax.random.key(1))
    nested, by_hand = meta_gradients(task)
    return {
        PLAIN: Form(plain.step, (erm.ErmState(state.learner, {}), *rest)),
        ONE_VIEW: Form(one_view.step, (state, *rest)),
        TWO_VIEWS: Form(two_views.step, (state, *rest)),
        NESTED: Form(nested, (state, *rest)),
        BY_HAND: Form(by_hand, (state, *rest)),
    }


def meta_gradients(task: methods.Task) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Dynamic Loss's meta-gradient alone on one view, by `meta.meta_gradient` and by hand, with the args of a step.

    By hand it is −α ∂_θ⟨J u, ∂ℓ/∂z(θ)⟩ with u = ∇L_meta(ω̂) and one `jax.jvp` for J u, right for SGD with or without
    momentum and weight decay.
    """

    def losses_of(state: dl.DynamicLossState, batches: dict[str, base.Batch], key: jax.Array):
        train, held, learner = batches["train"], batches["meta"], state.learner

        def forward(params: Any, batch: base.Batch) -> jax.Array:
            return base.train_apply(task, learner, params, task.strong(key, batch.inputs), key)[0]

        def at_logits(logits: jax.Array, theta: dict[str, Any]) -> jax.Array:
            trust = dl.weight_table(theta["corrector"], task.num_classes)[train.labels, state.ranks[train.index]]
            labels = dl.corrected_labels(trust, train.labels, dl.pseudo_labels(key, logits, "sample"))
            values = losses.cross_entropy(logits + dl.margin_vector(theta["margin"]), labels)
            return base.masked_mean(values, train.mask)

        def meta_loss(params: Any) -> tuple[jax.Array, tuple]:
            return base.masked_mean(losses.cross_entropy(forward(params, held), held.labels), held.mask), ()

        return lambda params: forward(params, train), at_logits, meta_loss

    def nested(state: dl.DynamicLossState, batches: dict[str, base.Batch], clock: base.Clock, key: jax.Array):
        forward, at_logits, meta_loss = losses_of(state, batches, key)
        learner, optimizer = state.learner, task.optimizer(task.schedule(clock.progress))
        return meta.meta_gradient(
            lambda params, theta: (at_logits(forward(params), theta), ()),
            meta_loss,
            state.meta_params,
            learner.params,
            learner.opt_state,
            optimizer,
        ).gradient

    def by_hand(state: dl.DynamicLossState, batches: dict[str, base.Batch], clock: base.Clock, key: jax.Array):
        forward, at_logits, meta_loss = losses_of(state, batches, key)
        learner, rate = state.learner, task.schedule(clock.progress)
        virtual = meta.optimizer_step(
            lambda params: (at_logits(forward(params), state.meta_params), ()),
            learner.params,
            learner.opt_state,
            task.optimizer(rate),
        )
        direction = jax.grad(meta_loss, has_aux=True)(virtual.params)[0]
        logits, tangent = jax.jvp(forward, (learner.params,), (direction,))
        return jax.grad(lambda theta: -rate * jnp.sum(tangent * jax.grad(at_logits)(logits, theta)))(state.meta_params)

    return nested, by_hand


def compile_form(form: Form, options: Mapping[str, Any] | None = None) -> tuple[Callable[..., Any], Cost]:
    """The form's executable and its cost; `options` are added to the engine's compile options."""
    start = time.perf_counter()
    compiled = jax.jit(form.step).lower(*form.args).compile({**(backend.compiler_options() or {}), **(options or {})})
    seconds = time.perf_counter() - start
    cost = Cost(compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes, seconds)
    return compiled, cost


def time_rounds(programs: Mapping[str, tuple[Callable[..., Any], Form]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call in every round, by name; a round takes the programs in turn."""

    def seconds(name: str, calls: int) -> float:
        run, form = programs[name]
        start = time.perf_counter()
        for _ in range(calls):
            result = run(*form.args)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / calls

    warm = min(max(seconds(name, 1) for _ in range(2)) for name in programs)
    calls = max(1, math.ceil(0.1 / warm))  # a tenth of a second each, so that dispatch does not show
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name in programs:
            found[name].append(seconds(name, calls))
    return found


def measure(task: methods.Task, image: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each form: costs, and their ratios to the plain step. No times if `rounds` is 0."""
    todo = forms(task, image)
    compiled = {name: compile_form(form) for name, form in todo.items()}
    times = time_rounds({name: (run, todo[name]) for name, (run, _) in compiled.items()}, rounds) if rounds else {}
    plain = compiled[PLAIN][1]
    rows = []
    for name, (_, cost) in compiled.items():
        row = {
            "form": name,
            **cost._asdict(),
            "flops_ratio": cost.flops / plain.flops,
            "flops_floor": FLOORS[name],
            "flops_bar": BARS.get(name),
            "memory_ratio": cost.temp_bytes / max(plain.temp_bytes, 1),
        }
        if times:
            row["seconds"] = statistics.median(times[name])
            row["time_ratio"] = statistics.median(a / b for a, b in zip(times[name], times[PLAIN], strict=True))
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The rows for people to read."""
    result = Table(title=title, title_justify="left", caption="floor: by operation count; ×: multiples of a plain step")
    result.add_column("")
    for column in ("GFLOPs", "FLOPs ×", "floor ×", "bar ×", "temp MiB", "memory ×", "ms", "time ×", "compile s"):
        result.add_column(column, justify="right")
    for row in rows:
        numbers = (
            (row["flops"] / 1e9, 2),
            (row["flops_ratio"], 3),
            (row["flops_floor"], 2),
            (row["flops_bar"], 2),
            (row["temp_bytes"] / 2**20, 1),
            (row["memory_ratio"], 2),
            (1e3 * row["seconds"] if "seconds" in row else None, 1),
            (row.get("time_ratio"), 2),
            (row["compile_seconds"], 1),
        )
        result.add_row(row["form"], *("" if value is None else f"{value:.{digits}f}" for value, digits in numbers))
    return result


def _device(where: Mapping[str, Any]) -> str:
    return f"CPU, {os.cpu_count()} cores" if where["backend"] == "cpu" else where["device_kind"]


def parse_image(text: str) -> tuple[int, ...]:
    """ "32x32x3" -> (32, 32, 3)."""
    try:
        shape = tuple(int(size) for size in text.split("x"))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: height, width and channels are accepted, as in 32x32x3")
    return shape


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The cost of a Dynamic Loss iteration in multiples of a plain step.")
    parser.add_argument("--model", default="resnet32", help="network (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="examples of each batch (default: %(default)s)")
    parser.add_argument("--image", type=parse_image, default=(32, 32, 3), metavar="HxWxC", help="(default: 32x32x3)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--no-time", action="store_true", help="compile and count only")
    parser.add_argument("--json", action="store_true", help="print one JSON line and no table")
    args = parser.parse_args(argv)
    if args.batch_size < 1 or args.rounds < 1:
        parser.error(f"--batch-size={args.batch_size} and --rounds={args.rounds} must be at least 1")

    jax.config.update("jax_enable_compilation_cache", False)  # or compile times would be those of a disk
    try:
        task = make_task(args.model, args.image, args.batch_size)
    except ValueError as error:
        parser.error(str(error))
    rows = measure(task, args.image, 0 if args.no_time else args.rounds)
    where = logging.environment()
    if args.json:
        settings = {"model": args.model, "batch_size": args.batch_size, "image": args.image}
        print(json.dumps({**settings, "environment": where, "rows": rows}))
        return
    size = "×".join(map(str, args.image))
    title = (
        f"Dynamic Loss, {args.model}, batch {args.batch_size}, images {size}\n"
        f"{_device(where)}, jax {where['jax']}, jaxlib {where['jaxlib']}, "
        f"robustjax {(where['git_commit'] or where['robustjax'] or 'unknown')[:12]}"
    )
    Console(width=None if Console().is_terminal else 140).print(table(rows, title))


if __name__ == "__main__":
    main()
