"""One training run: `python -m experiments.run --method=dynamic_loss`.

Trains a method on a data set, for one seed or several at once, and leaves a run directory (`experiments.rundir`).
"""

import contextlib
import dataclasses
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from experiments.pictures import of_runs
from experiments.runs import directory, environment, history, measure, progress, records, table
from experiments.settings import build, config
from robustjax import backend, data
from robustjax.data import corruptions
from robustjax.training import checkpoints, engine, parallel

# What is reported as mean and standard deviation over the seeds.
_REPORTED = (
    "test_accuracy_last", "test_accuracy_best_validation", "test_accuracy_best", "test_accuracy_mean_last_10"
)  # fmt: skip
STOPPED = 3  # exit status of a run that a signal stopped after saving


class Stopped(Exception):
    """A signal asked the run to stop; everything up to its last epoch is saved."""


def execute(settings: config.Config, sources: Sequence[str] = (), command: str = "") -> dict[str, Any]:
    """Train as `settings` say; returns the run's summary, which is also in its run directory.

    A run that is complete already is not run again unless `settings.overwrite`.

    Raises:
      ValueError: for settings that do not fit the data or the devices, before any training.
      directory.RunDirectoryError: if the run directory is not free.
      checkpoints.CheckpointError: if there is nothing (or nothing that fits) to resume from.
      engine.NonFiniteLossError: if the loss becomes NaN; the last good checkpoint is kept.
      Stopped: after SIGTERM or SIGINT; `resume` goes on from there.
    """
    console = Console(quiet=settings.quiet, soft_wrap=True)
    if settings.compilation_cache != "off":
        backend.enable_compilation_cache(settings.compilation_cache)
    path = pathlib.Path(settings.out) if settings.out else directory.default_path(settings)
    summary = None if settings.overwrite else directory.read_summary(path)
    if summary is not None:
        directory.check_same(path, settings)
        console.print(f"{path} is complete already; --overwrite runs it again.")
        return summary

    seeds = [settings.seed + k for k in range(settings.seeds)]
    layout = parallel.make_layout(settings.parallel, seeds=settings.seeds, batch_size=settings.batch_size)
    dataset = _load(settings, console)
    labels = [build.corrupt(settings, dataset, seed) for seed in seeds]
    build.check_equal_sizes(labels)
    task = build.make_task(settings, dataset, len(labels[0].train.kept), build.num_groups(labels))
    method = build.make_method(settings, task)
    console.print(f"{settings.method} on {settings.dataset} with {settings.model}: {layout.describe()}")
    console.print(build.describe(dataset, labels[0]) + (" (first seed)" if len(seeds) > 1 else ""))

    with directory.claim(path, settings) as resuming:
        if not resuming:
            _describe(path, settings, layout, seeds, labels, sources, command)
        for seed, own in zip(seeds, labels, strict=True):
            for name, part in (("labels", own.train), ("validation", own.validation)):
                if part is not None:
                    file = path / f"{name}-seed{seed}.npz"
                    corruptions.save_noise(file, part.given, part.kept, clean_labels=dataset.train_labels)
        seconds = _train(settings, path, layout, dataset, labels, task, method, seeds, resuming)
        lines = records.read_records(path / "metrics.jsonl")
        summary = _summarise(settings, seeds, lines)
        summary |= {"command": command, "seconds": seconds, "class_names": list(dataset.class_names)}
        of_runs.draw_all(path, settings, dataset, [own.train for own in labels], seeds, lines)
        records.write_json_atomic(path / "summary.json", summary)
    return summary


def _describe(
    path: pathlib.Path,
    settings: config.Config,
    layout: parallel.Layout,
    seeds: Sequence[int],
    labels: Sequence[build.SeedLabels],
    sources: Sequence[str],
    command: str,
) -> None:
    """Write config.json."""
    records.write_json_atomic(
        path / "config.json",
        {
            "settings": config.identity(settings),
            "command": command,
            "sources": list(sources),
            "environment": environment.environment(),
            "layout": layout.describe(),
            "labels": {s: corruptions.label_hash(own.train.given) for s, own in zip(seeds, labels, strict=True)},
        },
    )


def _summarise(settings: config.Config, seeds: Sequence[int], lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What summary.json says of the records: each seed's results, and mean and standard deviation over the seeds."""
    results = [{"seed": seed, **history.summarise([r for r in lines if r["seed"] == seed])} for seed in seeds]
    return {
        "settings": config.identity(settings),
        "environment": environment.environment(),
        "seeds": results,
        "mean_std": {
            name: history.mean_std([each[name] for each in results]) for name in _REPORTED if name in results[0]
        },
    }


def _load(settings: config.Config, console: Console) -> data.Dataset:
    with console.status(f"reading {settings.dataset}…"):
        return data.load(settings.dataset, settings.data_dir, max_tokens=settings.max_tokens)


def _train(
    settings: config.Config,
    path: pathlib.Path,
    layout: parallel.Layout,
    dataset: data.Dataset,
    labels: Sequence[build.SeedLabels],
    task: engine.Task,
    method: engine.Method,
    seeds: Sequence[int],
    resuming: bool,
) -> float:
    """Train to the end, writing records, diagnostics and checkpoints; returns the seconds it took in all."""
    owns = [build.own(each, seed) for each, seed in zip(labels, seeds, strict=True)]
    epochs = method.epochs
    resident, folder, metrics = build.resident(dataset), path / "checkpoints", path / "metrics.jsonl"
    state, start, before = None, 0, 0.0
    if resuming and checkpoints.latest_epoch(folder) is not None:
        fresh = engine.init_states(method, layout, owns)
        saved, meta, start = checkpoints.restore(folder, parallel.by_seed(layout, fresh))
        state, before = parallel.place_seeds(layout, saved), meta["seconds"]
        checkpoints.discard_after(folder, start)
    records.truncate_records(metrics, start)
    for seed in seeds:
        checkpoints.discard_after(directory.best_folder(path, seed), start)
    so_far = {seed: [] for seed in seeds}
    for record in records.read_records(metrics) if metrics.exists() else []:
        so_far[record["seed"]].append(record)
    if _is_over(settings, so_far, start, epochs):  # it was cut after its last epoch
        return before
    preliminary = sum(stage.preliminary for stage in method.stages)

    began = time.monotonic()
    mode = "quiet" if settings.quiet else "auto"
    with (
        _signals() as stop_asked,
        checkpoints.open_writer(folder) as save,
        progress.progress(epochs, task.steps_per_epoch, start_epoch=start, mode=mode) as shown,
    ):
        trained = engine.train(
            method, task, layout, resident, owns, state=state, start_epoch=start, track_every=settings.track_every,
            on_phase=shown.phase, on_step=shown.step,
        )  # fmt: skip
        for epoch in trained:
            done = epoch.epoch + 1
            improved = []
            for k, (seed, own) in enumerate(zip(seeds, labels, strict=True)):
                record = measure.record(epoch, k, seed, dataset.test_labels, own.train, own.validation, preliminary)
                so_far[seed].append(record)
                records.append_record(metrics, record)
                measure.save_findings(path, epoch, k, seed, own.train)
                best = history.best_validation(so_far[seed])
                if best is not None and best["epoch"] == done:
                    improved.append((k, seed))
            states = parallel.by_seed(layout, epoch.state) if improved else []  # a copy of all, so only if needed
            for k, seed in improved:
                checkpoints.save(directory.best_folder(path, seed), done, states[k], {"seed": seed}, keep=1)
            newest = [so_far[seed][-1] for seed in seeds]
            shown.epoch(
                done,
                loss=float(np.mean([r["train_loss"] for r in newest])),
                learning_rate=newest[0].get("learning_rate"),
                test_accuracy=float(np.mean([r["test_accuracy"] for r in newest])),
            )
            over = _is_over(settings, so_far, done, epochs)
            stopping = bool(stop_asked) and not over
            due = settings.checkpoint_every and done % settings.checkpoint_every == 0
            if due or stopping or over:
                meta = {"seconds": before + time.monotonic() - began, "seeds": list(seeds)}
                save(done, parallel.by_seed(layout, epoch.state), meta)
            if stopping:
                raise Stopped(f"stopped by {stop_asked[0]} after epoch {done} of {epochs}; --resume goes on.")
            if over:
                break
    return before + time.monotonic() - began


def _is_over(
    settings: config.Config, so_far: Mapping[int, Sequence[Mapping[str, Any]]], done: int, epochs: int
) -> bool:
    """Whether the run ends after `done` of `epochs`: at the last, or when no seed has become better for long enough.

    Seeds that train at once also end at once, so the one that improves longest decides. Only the last stage of several,
    which has `settings.epochs`, ends early.
    """
    if done == epochs:
        return True
    if not settings.early_stopping or done <= epochs - settings.epochs:
        return False
    best = [history.best_validation(lines) for lines in so_far.values()]
    return None not in best and all(done - record["epoch"] >= settings.early_stopping for record in best)


@contextlib.contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect SIGTERM and SIGINT instead of dying of them; a second one is final."""
    asked: list[str] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: signals are somebody else's
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def show(summary: dict[str, Any], path: pathlib.Path) -> None:
    """Print the table of a run's results, and where the rest is."""
    seeds = [each["seed"] for each in summary["seeds"]]
    names = [f"class {name}" if name.isdigit() else name for name in summary["class_names"]]
    Console().print(table.results_table(summary["seeds"], seeds=seeds, class_names=names))
    print(f"run directory: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for bad input, 1 for a failed and 3 for a stopped run."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = config.parse(arguments)
    command = shlex.join(["python", "-m", "experiments.run", *arguments])
    try:
        settings, sources = config.resolve(given)
        settings = dataclasses.replace(settings, out=settings.out or str(directory.default_path(settings)))
        summary = execute(settings, sources, command)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return STOPPED
    except (engine.NonFiniteLossError, checkpoints.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(summary, pathlib.Path(settings.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
