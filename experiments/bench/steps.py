"""What a step costs in multiples of a plain step: the measuring that the benchmarks of this folder share.

The steps are the methods' own, compiled as the engine compiles them, on made-up images. FLOPs and temporary memory are
the compiler's count for the optimised program, so they tell what XLA shares between the passes; they do not vary from
run to run. Times do: every round runs the forms in turn, so that a slow moment hits all alike, and the median over the
rounds is taken of the ratio to the plain step of the same round.
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

from experiments.runs import environment
from experiments.settings import build
from experiments.settings.config import Config
from robustjax import backend, methods
from robustjax.data import Dataset
from robustjax.methods import base

PLAIN = "plain step"


class Form(NamedTuple):
    """A program (state, batches, clock, key) -> anything, and arguments for it."""

    step: Callable[..., Any]
    args: tuple[Any, ...]


class Cost(NamedTuple):
    """FLOPs and temporary memory of a compiled program, as the compiler counts them, and how long it compiled."""

    flops: float
    temp_bytes: int
    compile_seconds: float


class Bench(NamedTuple):
    """What is compared.

    Attributes:
      subject: what it is about, for the title.
      forms: (task, image shape [H, W, channels]) -> programs by name; `PLAIN` is among them.
      floors: FLOPs of each form in plain steps, by operation count.
      bars: FLOPs in plain steps that a form may cost at most, held by a test.
    """

    subject: str
    forms: Callable[[methods.Task, Sequence[int]], dict[str, Form]]
    floors: Mapping[str, float]
    bars: Mapping[str, float]


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


def make_batch(task: methods.Task, image: Sequence[int], rng: np.random.Generator) -> base.Batch:
    """A batch of the task's size, random images and labels."""
    size = task.batch_size
    images = rng.integers(0, 256, (size, *image), np.uint8)
    labels = rng.integers(0, task.num_classes, size).astype(np.int32)
    index, mask = jnp.arange(size, dtype=jnp.int32), jnp.ones(size)
    return base.Batch(jnp.asarray(images), jnp.asarray(labels), index, mask)


def start(task: methods.Task) -> tuple[base.Clock, jax.Array]:
    """Clock and key of a run's first step."""
    zero = jnp.float32(0)
    return base.Clock(jnp.int32(0), zero, jnp.int32(0), zero, task.schedule(zero)), jax.random.key(1)


def step_of(method: methods.Method) -> base.StepFunction:
    """The first step of a method's last stage."""
    return method.stages[-1].passes[0][0].apply


def compile_form(form: Form, options: Mapping[str, Any] | None = None) -> tuple[Callable[..., Any], Cost]:
    """The form's executable and its cost; `options` are added to the engine's compile options."""
    start = time.perf_counter()
    compiled = jax.jit(form.step).lower(*form.args).compile({**(backend.compiler_options() or {}), **(options or {})})
    seconds = time.perf_counter() - start
    counted: Any = compiled.cost_analysis()
    memory: Any = compiled.memory_analysis()
    cost = Cost(counted["flops"], memory.temp_size_in_bytes, seconds)
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


def measure(bench: Bench, task: methods.Task, image: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each form: costs, and their ratios to the plain step. No times if `rounds` is 0."""
    todo = bench.forms(task, image)
    compiled = {name: compile_form(form) for name, form in todo.items()}
    times = time_rounds({name: (run, todo[name]) for name, (run, _) in compiled.items()}, rounds) if rounds else {}
    plain = compiled[PLAIN][1]
    rows = []
    for name, (_, cost) in compiled.items():
        row = {
            "form": name,
            **cost._asdict(),
            "flops_ratio": cost.flops / plain.flops,
            "flops_floor": bench.floors[name],
            "flops_bar": bench.bars.get(name),
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


def main(bench: Bench, argv: Sequence[str] | None = None) -> None:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=f"The cost of {bench.subject} in multiples of a plain step.")
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
    rows = measure(bench, task, args.image, 0 if args.no_time else args.rounds)
    where = environment.environment()
    if args.json:
        settings = {"model": args.model, "batch_size": args.batch_size, "image": args.image}
        print(json.dumps({**settings, "environment": where, "rows": rows}))
        return
    size = "×".join(map(str, args.image))
    title = (
        f"{bench.subject}, {args.model}, batch {args.batch_size}, images {size}\n"
        f"{_device(where)}, jax {where['jax']}, jaxlib {where['jaxlib']}, "
        f"robustjax {(where['git_commit'] or where['robustjax'] or 'unknown')[:12]}"
    )
    Console(width=None if Console().is_terminal else 140).print(table(rows, title))
