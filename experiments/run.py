"""One training run: `python -m experiments.run --method=dynamic_loss`.

Trains a method on a data set, for one seed or several at once, and leaves a run directory
(`experiments.runs.directory`).
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import launch

if __name__ == "__main__":
    launch.begin()  # before JAX is imported

import numpy as np
from rich.console import Console
from rich.text import Text

from experiments import complaints
from experiments.pictures import of_runs
from experiments.runs import artefacts, directory, environment, evidence, history, measure, progress, records, table
from experiments.settings import build, command_line, config
from robustjax import backend, data, user_code
from robustjax.methods import Method, Task
from robustjax.training import checkpoints, engine, parallel

# What is reported as mean and standard deviation over the seeds.
_REPORTED = (
    "test_accuracy_last", "test_accuracy_best_validation", "test_accuracy_best", "test_accuracy_mean_last_10"
)  # fmt: skip
STOPPED = 3  # exit status of a run that a signal stopped after saving


class Stopped(Exception):
    """A signal asked the run to stop; everything up to its last epoch is saved."""


class Prepared(NamedTuple):
    """What a run is made of, before it trains.

    Attributes:
      seeds: in the order of all that follows.
      layout: how they are spread over the devices.
      dataset: what is trained on, before corruption.
      pool: what trusted examples are from; None for none.
      labels: each seed's.
      task: what is learned.
      method: with what.
      owns: what each seed has of its own.
      fresh: every seed's state before it has trained; training gives its buffers up.
    """

    seeds: list[int]
    layout: parallel.Layout
    dataset: data.Dataset
    pool: data.Dataset | None
    labels: list[build.SeedLabels]
    task: Task
    method: Method
    owns: list[engine.Own]
    fresh: Any

    @property
    def num_trusted(self) -> int:
        """How many trusted examples the method consumes."""
        return self.task.num_trusted if build.uses_trusted(self.method) else 0


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
    console = Console(quiet=settings.quiet, soft_wrap=True, markup=False)
    if settings.compilation_cache != "off":
        backend.enable_compilation_cache(settings.compilation_cache)
    path = pathlib.Path(settings.out) if settings.out else directory.default_path(settings)
    directory.settle(path)
    summary = None if settings.overwrite else directory.read_summary(path)
    if summary is not None:
        _check_finished(path, settings, summary)
        console.print(f"{path} is complete already; --overwrite runs it again.")
        return summary

    made = _prepare(settings, path, console)
    describe = functools.partial(_description, config.identity(settings), made, sources, command)
    with directory.claim(path, settings, describe) as resuming:
        for seed, own in zip(made.seeds, made.labels, strict=True):
            if not artefacts.has_labels(path, seed):
                artefacts.save_labels(path, seed, own, made.dataset, made.pool)
        seconds, warnings = _train(
            made, path, resuming, track_every=settings.track_every, checkpoint_every=settings.checkpoint_every,
            keep_checkpoints=settings.keep_checkpoints,
            patience=settings.early_stopping, quiet=settings.quiet,
        )  # fmt: skip
        lines = records.read_records(path / "metrics.jsonl")
        summary = _summarise(config.identity(settings), made.seeds, lines)
        summary |= {
            "command": command, "seconds": seconds, "class_names": list(made.dataset.class_names),
            "trusted_examples": made.num_trusted, "warnings": warnings,
        }  # fmt: skip
        titled = dataclasses.replace(settings, method=user_code.short_name(settings.method))
        of_runs.draw_all(path, titled, made.dataset, [own.train for own in made.labels], made.seeds, lines)
        records.write_json_atomic(path / "summary.json", summary)
    return summary


def _prepare(settings: config.Config, path: pathlib.Path, console: Console) -> Prepared:
    """Read the data, make each seed's labels, or read those of the run that is resumed, and say what is to come.

    All that can be refused is refused here, before anything is written or overwritten.
    """
    resumed = directory.check_free(path, settings)
    seeds = [settings.seed + k for k in range(settings.seeds)]
    layout = parallel.make_layout(
        settings.parallel, seeds=settings.seeds, batch_size=settings.batch_size, cpu_kernels=settings.cpu_kernels
    )
    with console.status(Text(f"reading {settings.dataset}…")):
        dataset = data.load(
            settings.dataset, settings.data_dir, cache_dir=settings.cache_dir, max_tokens=settings.max_tokens
        )
        pool = build.trusted_pool(settings, dataset)
    if resumed:
        artefacts.check_data(path, dataset, pool)
    labels = [
        artefacts.read_labels(path, seed, settings, dataset, pool)
        if resumed and artefacts.has_labels(path, seed)
        else build.corrupt(settings, dataset, seed, pool)
        for seed in seeds
    ]
    if resumed:
        artefacts.check_labels(path, dict(zip(seeds, labels, strict=True)))
    build.check_equal_sizes(labels)
    task = build.task_for(settings, dataset, labels)
    build.check_views(task)
    owns = [build.own(each, seed) for each, seed in zip(labels, seeds, strict=True)]
    named, model = user_code.short_name(settings.method), user_code.short_name(settings.model)
    with console.status(Text(f"making {model}…")):
        method = build.make_method(settings, task)
        build.check_memory(method, owns)
        fresh = engine.init_states(method, layout, owns)
        if settings.overwrite and directory.holds_run(path):  # an earlier run is not given for one that cannot be
            engine.check_steps(method, task, layout, fresh)
    made = Prepared(seeds, layout, dataset, pool, labels, task, method, owns, fresh)
    console.print(f"{named} on {settings.dataset} with {model}: {layout.describe()}")
    console.print(build.describe(dataset, labels[0]) + (" (first seed)" if len(seeds) > 1 else ""))
    if made.num_trusted < task.num_trusted:
        console.print(f"{named} does not learn from the trusted examples; they are only set apart.")
    return made


def _check_finished(path: pathlib.Path, settings: config.Config, summary: Mapping[str, Any]) -> None:
    """Refuse a complete run of other settings or data, or one whose records are not all there.

    Raises:
      directory.RunDirectoryError: for settings or data.
      ValueError: for records.
    """
    directory.check_same(path, settings)
    metrics = path / "metrics.jsonl"
    lines = records.read_records(metrics) if metrics.exists() else []
    seeds = [each["seed"] for each in summary["seeds"]]
    known = [checkpoints.latest_epoch(path / "checkpoints") or 0, *(each["epochs"] for each in summary["seeds"])]
    records.check_epochs(metrics, lines, seeds, max([line.get("epoch", 0) for line in lines] + known))
    if "data" in directory.read_description(path):
        try:
            dataset = data.load(
                settings.dataset, settings.data_dir, cache_dir=settings.cache_dir, max_tokens=settings.max_tokens,
                download=False,
            )  # fmt: skip
            artefacts.check_data(path, dataset, build.trusted_pool(settings, dataset))
        except FileNotFoundError:
            pass  # a result stays one where its data are no longer


def _description(identity: Mapping[str, Any], made: Prepared, sources: Sequence[str], command: str) -> dict[str, Any]:
    """What config.json says."""
    return {
        "settings": identity,
        "command": command,
        "sources": list(sources),
        "environment": environment.environment(),
        "layout": made.layout.describe(),
        "data": artefacts.data_hashes(made.dataset, made.pool),
        **artefacts.label_hashes(dict(zip(made.seeds, made.labels, strict=True))),
    }


def _summarise(identity: Mapping[str, Any], seeds: Sequence[int], lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What summary.json says of the records: each seed's results, and mean and standard deviation over the seeds."""
    results = [{"seed": seed, **history.summarise([r for r in lines if r["seed"] == seed])} for seed in seeds]
    return {
        "settings": identity,
        "environment": environment.environment(),
        "seeds": results,
        "mean_std": {
            name: history.mean_std([each[name] for each in results]) for name in _REPORTED if name in results[0]
        },
    }


def _train(
    made: Prepared,
    path: pathlib.Path,
    resuming: bool,
    *,
    track_every: int,
    checkpoint_every: int,
    keep_checkpoints: int,
    patience: int,
    quiet: bool,
) -> tuple[float, dict[str, list[int]]]:
    """Train to the end, writing records, diagnostics and checkpoints.

    Returns:
      The seconds it took in all, and what the method warns of, with the seeds of each warning.
    """
    seeds, layout, dataset, labels, method = made.seeds, made.layout, made.dataset, made.labels, made.method
    epochs = method.epochs
    may_end = functools.partial(_is_over, patience, method)
    resident, folder, metrics = build.resident(dataset, made.pool), path / "checkpoints", path / "metrics.jsonl"
    state, start, before = made.fresh, 0, 0.0
    final: Sequence[Any] = []
    so_far: dict[int, list[dict[str, Any]]] = {seed: [] for seed in seeds}
    if resuming and checkpoints.latest_epoch(folder) is not None:
        saved, meta, start = _restore(folder, parallel.by_seed(layout, made.fresh))
        lines = records.read_records(metrics) if metrics.exists() else []
        lines = [line for line in lines if not line.get("epoch", 0) > start]
        records.check_epochs(metrics, lines, seeds, start)
        for line in lines:
            so_far[line["seed"]].append(line)
        state, before, final = parallel.place_seeds(layout, saved), meta["seconds"], saved
        checkpoints.discard_after(folder, start)
    records.truncate_records(metrics, start)
    for seed in seeds:
        checkpoints.discard_after(directory.best_folder(path, seed), start)
    if may_end(so_far, start):  # it was cut after its last epoch
        return before, _warnings(method, seeds, final)
    preliminary = sum(stage.preliminary for stage in method.stages)
    gathered = evidence.begin(path, {s: own.train.given for s, own in zip(seeds, labels, strict=True)}, start)

    began = time.monotonic()
    with (
        _signals() as stop_asked,
        checkpoints.open_writer(folder, keep=keep_checkpoints) as save,
        progress.progress(
            epochs, made.task.steps_per_epoch, start_epoch=start, mode="quiet" if quiet else "auto"
        ) as shown,
    ):
        trained = engine.train(
            method, made.task, layout, resident, made.owns, state=state, start_epoch=start, track_every=track_every,
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
            gathered = evidence.follow(gathered, epoch)
            newest = [so_far[seed][-1] for seed in seeds]
            shown.epoch(
                done,
                loss=float(np.mean([r["train_loss"] for r in newest])),
                learning_rate=newest[0].get("learning_rate"),
                test_accuracy=float(np.mean([r["test_accuracy"] for r in newest])),
            )
            over = may_end(so_far, done)
            stopping = bool(stop_asked) and not over
            due = checkpoint_every and done % checkpoint_every == 0
            if over:
                evidence.publish(path, seeds, gathered)
            if due or stopping or over:
                evidence.keep(path, seeds, gathered, done, keep_checkpoints)
                meta = {"seconds": before + time.monotonic() - began, "seeds": seeds}
                final = parallel.by_seed(layout, epoch.state)
                save(done, final, meta)
            if stopping:
                raise Stopped(f"stopped by {stop_asked[0]} after epoch {done} of {epochs}; --resume goes on.")
            if over:
                break
    return before + time.monotonic() - began, _warnings(method, seeds, final)


def _warnings(method: Method, seeds: Sequence[int], states: Sequence[Any]) -> dict[str, list[int]]:
    """What the method warns of at the end: each sentence with the seeds that it holds for."""
    found: dict[str, list[int]] = {}
    for seed, state in zip(seeds, states, strict=True):
        for text in method.warnings(state) if method.warnings else ():
            found.setdefault(text, []).append(seed)
    return found


def _restore(folder: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any], int]:
    """`checkpoints.restore`; which checkpoints are passed over, and why, is told on stderr in a sentence each."""
    with warnings.catch_warnings(record=True) as passed_over:
        warnings.simplefilter("always", checkpoints.CheckpointWarning)
        found = checkpoints.restore(folder, like)
    for warning in passed_over:
        print(f"warning: {warning.message}", file=sys.stderr)
    return found


def _is_over(patience: int, method: Method, so_far: Mapping[int, Sequence[Mapping[str, Any]]], done: int) -> bool:
    """Whether the run ends after `done` epochs: at the last, or when no seed has become better for `patience` of them.

    Seeds that train at once also end at once, so the one that improves longest decides. Preliminary stages have all
    their epochs, however their validation accuracy goes.
    """
    if done == method.epochs:
        return True
    if not patience or done <= sum(stage.epochs for stage in method.stages if stage.preliminary):
        return False
    best = [history.best_validation(lines) for lines in so_far.values()]
    return all(record is not None and done - record["epoch"] >= patience for record in best)


@contextlib.contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect SIGTERM and SIGINT instead of dying of them; a second one is final."""
    asked: list[str] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)
        if number == signal.SIGINT:  # print() may be what it interrupts
            os.write(2, b"\nstopping after this epoch; Ctrl-C once more stops at once.\n")

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
    if count := summary.get("trusted_examples"):
        print(f"learned from {count} trusted examples besides")
    for text, warned in summary.get("warnings", {}).items():
        print(f"warning: {text}" + ("" if len(seeds) == 1 else f" (seeds {', '.join(map(str, warned))})"))
    print(f"run directory: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status.

    It is 0, 2 for bad input (a user's own code included), 1 for a failed, 3 for a stopped and 130 for an interrupted
    run. What is a mistake of this program's comes out as it is.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with complaints.forgiving_streams():
        try:
            return _obey(arguments)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return STOPPED
        except KeyboardInterrupt:
            print("interrupted; if it had begun to train, --resume goes on from its last checkpoint.", file=sys.stderr)
            return complaints.INTERRUPTED
        except (engine.NonFiniteLossError, checkpoints.CheckpointError) as error:
            print(f"error: {error}", file=sys.stderr)
            return complaints.FAILED
        except (Exception, SystemExit) as error:
            told = complaints.complaint(error, command_line.names())
            if told is None:
                raise
            print(f"error: {told[1]}", file=sys.stderr)
            return told[0]


def _obey(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for."""
    command = shlex.join(["python", "-m", "experiments.run", *arguments])
    if (text := command_line.answer(arguments)) is not None:
        print(text)
        return 0
    given = command_line.parse(arguments)
    settings, sources = config.resolve(given)
    if not settings.quiet:
        print(_origin(sources, config.unsaid(given, settings)), flush=True)
    path = pathlib.Path(settings.out or directory.default_path(settings))
    show(execute(dataclasses.replace(settings, out=str(path)), sources, command), path)
    return 0


def _origin(sources: Sequence[str], unsaid: Mapping[str, Any]) -> str:
    """Where a run's settings come from, and what nobody has named."""
    text = f"settings: {'; '.join(sources) or 'no recipe'}"
    return text + ("; by default " * bool(unsaid)) + ", ".join(f"{name}={value}" for name, value in unsaid.items())


if __name__ == "__main__":
    sys.exit(main())
