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
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import launch

if __name__ == "__main__":
    launch.begin()  # before JAX is imported

import numpy as np
from rich.console import Console
from rich.text import Text

from experiments import complaints
from experiments.pictures import of_runs
from experiments.runs import (
    artefacts,
    audit,
    cross_fit,
    directory,
    environment,
    evidence,
    form,
    history,
    measure,
    partial,
    progress,
    records,
    table,
    test_part,
    trackers,
)  # fmt: skip
from experiments.settings import build, command_line, config, defaults
from robustjax import backend, data, user_code
from robustjax.methods import Method, Task
from robustjax.training import checkpoints, engine, parallel

# What is reported as mean and standard deviation over the seeds.
_REPORTED = (
    "test_accuracy_last", "test_accuracy_best_validation", "test_accuracy_best", "test_accuracy_mean_last_10"
)  # fmt: skip
STOPPED = 3  # exit status of a run that a signal stopped after saving
LONG_EPOCH = 30.0  # seconds; of a longer one a signal does not await the end


class Stopped(Exception):
    """A signal asked the run to stop; everything up to its last epoch, or step in a long one, is saved."""


class Prepared(NamedTuple):
    """What a run is made of, before it trains.

    Attributes:
      settings: the run's, with what was chosen by the size of the data.
      by_size: what was so chosen, with reasons.
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

    settings: config.Config
    by_size: Mapping[str, defaults.Choice]
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


OnEpoch = Callable[[Sequence[Mapping[str, Any]]], None]


def execute(
    settings: config.Config,
    sources: Sequence[str] = (),
    command: str = "",
    *,
    dataset: data.Dataset | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train as `settings` say; returns the run's summary, which is also in its run directory.

    A run that is complete already is not run again unless `settings.overwrite`; if it lacks the cross-fit that
    `settings` ask for, that is added.

    Args:
      settings: resolved (`config.resolve`).
      sources: where they come from, for config.json.
      command: what was called, for config.json.
      dataset: what to train on in place of the data that `settings.dataset` names, which then is to be
        `artefacts.name_of(dataset)`: a run is known by the content of its data.
      on_epoch: called after each epoch with its records, one for each seed, as they are in metrics.jsonl; it looks on
        and changes nothing. What it raises ends the run, which `resume` goes on with.

    Raises:
      ValueError: for settings that do not fit the data or the devices, before any training.
      directory.RunDirectoryError: if the run directory is not free.
      checkpoints.CheckpointError: if there is nothing (or nothing that fits) to resume from.
      engine.NonFiniteLossError: if the loss becomes NaN; the last good checkpoint is kept.
      Stopped: after SIGTERM or SIGINT; `resume` goes on from there.
      OSError: if the run directory's disk is full; `resume` goes on from the last checkpoint.
    """
    if dataset is not None and settings.dataset != (name := artefacts.name_of(dataset)):
        raise ValueError(f"dataset={settings.dataset!r} in the settings of a run on arrays in memory: it is {name!r}.")
    console = progress.plain_console(settings.quiet)
    if settings.compilation_cache != "off":
        backend.enable_compilation_cache(settings.compilation_cache)
    path = pathlib.Path(settings.out) if settings.out else directory.default_path(settings)
    directory.settle(path)
    summary = None if settings.overwrite else directory.read_summary(path)
    if summary is not None:
        _check_finished(path, settings, summary, dataset)
        if not _lacks_cross_fit(path, settings, summary):
            console.print(f"{path} is complete already; --overwrite runs it again.")
            return summary
        settings = dataclasses.replace(settings, resume=True)

    made = _prepare(settings, path, console, dataset)
    settings = made.settings
    describe = functools.partial(_description, config.identity(settings), made, sources, command)
    with complaints.when_full(path, lambda: _advice(path)), directory.claim(path, settings, describe) as resuming:
        form.save(path, made.dataset, made.task)
        if summary is None:
            summary = _run(settings, made, path, resuming, command, console, on_epoch)
        if _lacks_cross_fit(path, settings, summary):
            summary |= {"cross_fit": _cross_fit(settings, made, path, console)}
            _audit(made, path, console)
            records.write_json_atomic(path / "summary.json", summary)  # last, so that it tells that all of this is done
    return summary


def _run(
    settings: config.Config,
    made: Prepared,
    path: pathlib.Path,
    resuming: bool,
    command: str,
    console: Console,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train to the end; leave pictures and, last of all, the summary."""
    for seed, own in zip(made.seeds, made.labels, strict=True):
        if not artefacts.has_labels(path, seed):
            artefacts.save_labels(path, seed, own, made.dataset, made.pool)
    identity, names = config.identity(settings), made.dataset.class_names
    with trackers.open_tracker(settings.log, path, identity, names) as tracker:
        seconds, warnings = _train(
            made, path, resuming, track_every=settings.track_every, checkpoint_every=settings.checkpoint_every,
            keep_checkpoints=settings.keep_checkpoints, patience=settings.early_stopping, quiet=settings.quiet,
            long_epoch=LONG_EPOCH, log_epoch=tracker.log_epoch, on_epoch=on_epoch,
        )  # fmt: skip
        lines = records.read_records(path / "metrics.jsonl")
        titled = dataclasses.replace(settings, method=user_code.short_name(settings.method))
        drawn = of_runs.draw_all(path, titled, made.dataset, [own.train for own in made.labels], made.seeds, lines)
        tracker.log_figures(drawn)
    summary = _summarise(identity, made.seeds, lines, made.dataset.test_held_out)
    summary |= {
        "command": command, "seconds": seconds, "class_names": list(names),
        "trusted_examples": made.num_trusted, "warnings": warnings,
        "truth": build.truth_source(made.dataset, made.labels[0]),
    }  # fmt: skip
    _audit(made, path, console)
    records.write_json_atomic(path / "summary.json", summary)
    return summary


def _lacks_cross_fit(path: pathlib.Path, settings: config.Config, summary: Mapping[str, Any]) -> bool:
    """Whether a finished run still needs the cross-fit that is asked for, or the audit by it."""
    told = (summary.get("cross_fit") or {}).get("parts", 0)
    return bool(cross_fit.missing(path, settings)) or settings.cross_fit not in (0, told)


def _audit(made: Prepared, path: pathlib.Path, console: Console) -> None:
    """Which labels are probably wrong: a list and a report, and a sentence about them."""
    if told := audit.after_run(path, made.dataset, [own.train.clean for own in made.labels], made.seeds):
        console.print(told)


def _cross_fit(settings: config.Config, made: Prepared, path: pathlib.Path, console: Console) -> dict[str, Any]:
    """Predict every training example out of sample; the run itself is complete, and stays so whatever happens here.

    Returns:
      What the summary says of it: `parts`, and for each seed the share of given labels that are predicted.
    """
    began = time.monotonic()
    epochs = max(line["epoch"] for line in records.read_records(path / "metrics.jsonl"))
    console.print(f"cross-fit: {settings.cross_fit} networks, each trained on all but one of as many parts")
    agreement = []
    with _signals() as stop_asked:
        for seed, own in zip(made.seeds, made.labels, strict=True):
            whole = cross_fit.complete(
                path, settings, made.dataset, made.pool, own, seed, epochs=epochs, stop=lambda: bool(stop_asked)
            )
            if not whole:
                raise Stopped(
                    f"stopped by {stop_asked[0]} in the cross-fit; the run itself is complete, and the same command "
                    "goes on with what is missing."
                )
            found = cross_fit.read(path, seed)
            assert found is not None
            agreement.append(float(np.mean(found.argmax(-1) == own.train.given)))
    return {"parts": settings.cross_fit, "agreement": agreement, "seconds": time.monotonic() - began}


def _prepare(
    settings: config.Config, path: pathlib.Path, console: Console, dataset: data.Dataset | None = None
) -> Prepared:
    """Read the data, make each seed's labels, or read those of the run that is resumed, and say what is to come.

    All that can be refused is refused here, before anything is written or overwritten.
    """
    trackers.check(settings.log)
    resumed = directory.check_free(path, settings)
    seeds = [settings.seed + k for k in range(settings.seeds)]
    with console.status(Text(f"reading {settings.dataset}…")):
        if dataset is None:
            dataset = build.load_data(settings)
        pool = build.trusted_pool(settings, dataset)
    if resumed:
        artefacts.check_data(path, dataset, pool)
    settings, by_size = _filled(path, settings, dataset, earlier=resumed)
    layout = parallel.make_layout(settings.parallel, seeds=settings.seeds, batch_size=settings.batch_size)
    labels = [
        artefacts.read_labels(path, seed, settings, dataset, pool)
        if resumed and artefacts.has_labels(path, seed)
        else build.corrupt(settings, dataset, seed, pool)
        for seed in seeds
    ]
    if resumed:
        artefacts.check_labels(path, dict(zip(seeds, labels, strict=True)))
    build.check_equal_sizes(labels)
    cross_fit.check(settings, dataset, labels)
    task = build.task_for(settings, dataset, labels)
    build.check_views(task)
    owns = [build.own(each, seed) for each, seed in zip(labels, seeds, strict=True)]
    named, model = user_code.short_name(settings.method), user_code.short_name(settings.model)
    with console.status(Text(f"making {model}…")):
        method = build.make_method(settings, task)
        build.check_memory(method, owns)
        fresh = engine.init_states(method, layout, owns)
        if settings.overwrite and directory.holds_run(path):  # an earlier run is not given for one that cannot be
            engine.check_steps(method, task, layout, fresh, owns[0])
    made = Prepared(settings, by_size, seeds, layout, dataset, pool, labels, task, method, owns, fresh)
    if by_size:
        console.print(defaults.describe(by_size, build.size_of(settings, dataset)))
    console.print(f"{named} on {settings.dataset} with {model}: {layout.describe()}")
    if settings.parallel != "single" and (idle := parallel.describe_idle(layout)):
        console.print(idle)
    for note in build.notes(settings, dataset) if not settings.quiet else ():
        console.print(note)
    console.print(build.describe(dataset, labels[0]) + (" (first seed)" if len(seeds) > 1 else ""))
    if made.num_trusted < task.num_trusted:
        console.print(f"{named} does not learn from the trusted examples; they are only set apart.")
    return made


def _advice(path: pathlib.Path) -> str:
    """What to do once the disk of a run directory has room again."""
    return "--resume goes on" if directory.holds_run(path) else "start again"


def _filled(
    path: pathlib.Path, settings: config.Config, dataset: data.Dataset, *, earlier: bool
) -> tuple[config.Config, Mapping[str, defaults.Choice]]:
    """The settings with what is left to the size of the data: as an earlier run in `path` has it, else chosen.

    Raises:
      directory.RunDirectoryError: for an earlier run that was told otherwise.
      ValueError: for a setting that does not go with what was chosen.
    """
    known = directory.as_chosen(path, settings) if earlier else settings
    filled, chosen = config.fill(known, build.size_of(settings, dataset))
    if earlier:
        directory.check_same(path, filled)
    return filled, chosen


def _check_finished(
    path: pathlib.Path, settings: config.Config, summary: Mapping[str, Any], dataset: data.Dataset | None = None
) -> None:
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
            if dataset is None:
                dataset = build.load_data(settings, download=False)
            artefacts.check_data(path, dataset, build.trusted_pool(settings, dataset))
        except FileNotFoundError:  # a result stays one where its data are no longer
            directory.check_chosen(path, settings)
        else:
            _filled(path, settings, dataset, earlier=True)


def _description(identity: Mapping[str, Any], made: Prepared, sources: Sequence[str], command: str) -> dict[str, Any]:
    """What config.json says."""
    return {
        "settings": identity,
        "by_size": {name: each.reason for name, each in made.by_size.items()},
        "command": command,
        "sources": list(sources),
        "environment": environment.environment(),
        "layout": made.layout.describe(),
        "test_held_out": made.dataset.test_held_out,
        "data": artefacts.data_hashes(made.dataset, made.pool),
        **artefacts.label_hashes(dict(zip(made.seeds, made.labels, strict=True))),
    }


def _summarise(
    identity: Mapping[str, Any], seeds: Sequence[int], lines: Sequence[dict[str, Any]], test_held_out: bool
) -> dict[str, Any]:
    """What summary.json says of the records: each seed's results, and mean and standard deviation over the seeds."""
    part = test_part.title("test set", test_held_out)
    results = [{"seed": seed, **history.summarise([r for r in lines if r["seed"] == seed], part)} for seed in seeds]
    return {
        "settings": identity,
        "test_held_out": test_held_out,
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
    long_epoch: float,
    log_epoch: Callable[[Mapping[str, Any]], None],
    on_epoch: OnEpoch | None = None,
) -> tuple[float, dict[str, list[int]]]:
    """Train to the end, writing records, diagnostics and checkpoints.

    A signal stops it after the epoch, or after the step where epochs last longer than `long_epoch` seconds.

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
    tested = "held-out_accuracy" if dataset.test_held_out else "test_accuracy"
    middle, within = None, 0.0
    whole = checkpoints.latest_epoch(folder) if resuming else None
    cut = _restore_partial(made, path, whole) if resuming else None
    if cut is not None or whole is not None:
        if cut is not None:
            start, middle, meta = cut
            within = meta["within"]
        else:
            saved, meta, start = _restore(folder, parallel.by_seed(layout, made.fresh))
            state, final = parallel.place_seeds(layout, saved), saved
        before = meta["seconds"]
        lines = records.read_records(metrics) if metrics.exists() else []
        lines = [line for line in lines if not line.get("epoch", 0) > start]
        records.check_epochs(metrics, lines, seeds, start)
        for line in lines:
            so_far[line["seed"]].append(line)
        checkpoints.discard_after(folder, start)
    if cut is None:
        partial.discard(path)
    records.truncate_records(metrics, start)
    for seed in seeds:
        checkpoints.discard_after(directory.best_folder(path, seed), start)
    if may_end(so_far, start):  # it was cut after its last epoch
        return before, _warnings(method, seeds, final)
    preliminary = sum(stage.preliminary for stage in method.stages)
    gathered = evidence.begin(path, {s: own.train.given for s, own in zip(seeds, labels, strict=True)}, start)

    began = time.monotonic()
    epoch_began = began - within
    with (
        _signals() as stop_asked,
        checkpoints.open_writer(folder, keep=keep_checkpoints) as save,
        progress.progress(
            epochs, made.task.steps_per_epoch, start_epoch=start, mode="quiet" if quiet else "auto"
        ) as shown,
    ):

        def long_and_stopped(share: float) -> bool:  # of the epoch's steps are made
            return bool(stop_asked) and time.monotonic() - epoch_began > long_epoch * share

        def until_cut() -> Iterator[engine.Epoch]:
            try:
                yield from engine.train(
                    method, made.task, layout, resident, made.owns, state=state, start_epoch=start, middle=middle,
                    track_every=track_every, on_phase=shown.phase, on_step=shown.step, cut=long_and_stopped,
                )  # fmt: skip
            except engine.Cut as at:
                now = time.monotonic()
                meta = {"seconds": before + now - began, "within": now - epoch_began, "seeds": seeds}
                evidence.keep(path, seeds, gathered, at.epoch, keep_checkpoints + 1)
                partial.save(path, layout, at, meta)
                raise Stopped(
                    f"stopped by {stop_asked[0]} in epoch {at.epoch + 1} of {epochs}, after step {at.made} of "
                    f"{at.total}; --resume goes on."
                ) from None

        for epoch in until_cut():
            done = epoch.epoch + 1
            improved = []
            for k, (seed, own) in enumerate(zip(seeds, labels, strict=True)):
                record = measure.record(epoch, k, seed, dataset.test_labels, own.train, own.validation, preliminary)
                so_far[seed].append(record)
                records.append_record(metrics, record)
                log_epoch(record)
                measure.save_findings(path, epoch, k, seed, own.train)
                measure.save_confusion(path, epoch, k, seed, dataset.test_labels)
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
                **{tested: float(np.mean([r["test_accuracy"] for r in newest]))},
            )
            over = may_end(so_far, done)
            stopping = bool(stop_asked) and not over
            due = checkpoint_every and done % checkpoint_every == 0
            if over:
                evidence.publish(path, seeds, gathered)
            if due or stopping or over:
                evidence.keep(path, seeds, gathered, done, keep_checkpoints + 1)  # until the checkpoint is there
                meta = {"seconds": before + time.monotonic() - began, "seeds": seeds}
                final = parallel.by_seed(layout, epoch.state)
                save(done, final, meta)
                partial.discard(path)
            if on_epoch is not None:  # when all of the epoch is saved
                on_epoch(newest)
            if stopping:
                raise Stopped(f"stopped by {stop_asked[0]} after epoch {done} of {epochs}; --resume goes on.")
            if over:
                break
            epoch_began = time.monotonic()
    return before + time.monotonic() - began, _warnings(method, seeds, final)


def _warnings(method: Method, seeds: Sequence[int], states: Sequence[Any]) -> dict[str, list[int]]:
    """What the method warns of at the end: each sentence with the seeds that it holds for."""
    found: dict[str, list[int]] = {}
    for seed, state in zip(seeds, states, strict=True):
        for text in method.warnings(state) if method.warnings else ():
            found.setdefault(text, []).append(seed)
    return found


def _restore(folder: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any], int]:
    """`checkpoints.restore`; of each checkpoint that is passed over a sentence tells why, however often it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", checkpoints.CheckpointWarning)
        return checkpoints.restore(folder, like)


def _restore_partial(made: Prepared, path: pathlib.Path, whole: int | None) -> partial.Partial | None:
    """`partial.restore`, told as `_restore` tells."""
    like = functools.partial(engine.middle_like, made.method, made.task, made.layout, made.fresh, made.owns[0])
    with warnings.catch_warnings():
        warnings.simplefilter("always", checkpoints.CheckpointWarning)
        return partial.restore(path, made.layout, like, whole)


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
            os.write(2, b"\nstopping after this epoch, or step if it is a long one; Ctrl-C once more stops at once.\n")

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
    held_out = summary.get("test_held_out", False)
    Console().print(table.results_table(summary["seeds"], seeds=seeds, class_names=names, test_held_out=held_out))
    if summary.get("truth") == build.ASSUMED:
        print(f"wrong labels are those that the run's noise has made: {build.ASSUMED}")
    if count := summary.get("trusted_examples"):
        print(f"learned from {count} trusted examples besides")
    if found := summary.get("cross_fit"):
        shares = ", ".join(f"{100 * share:.1f} %" for share in found["agreement"])
        print(f"cross-fit: networks that have not seen an example predict its given label for {shares} of them")
    for text, warned in summary.get("warnings", {}).items():
        print(f"warning: {text}" + ("" if len(seeds) == 1 else f" (seeds {', '.join(map(str, warned))})"))
    print(f"run directory: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status.

    It is that of `complaints.run_main`, and 3 for a stopped run.
    """
    return complaints.run_main(
        _obey,
        argv,
        command_line.names,
        failures=(engine.NonFiniteLossError, checkpoints.CheckpointError),
        interrupted="interrupted; if it had begun to train, --resume goes on from its last checkpoint.",
    )


def _obey(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for."""
    command = shlex.join(["python", "-m", "experiments.run", *arguments])
    if (text := command_line.answer(arguments)) is not None:
        print(text)
        return 0
    given = command_line.parse(arguments)
    settings, sources = config.resolve(given)
    if not settings.quiet:
        print(_origin(sources, settings.by_size), flush=True)
    path = pathlib.Path(settings.out or directory.default_path(settings))
    try:
        summary = execute(dataclasses.replace(settings, out=str(path)), sources, command)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return STOPPED
    show(summary, path)
    return 0


def _origin(sources: Sequence[str], by_size: Sequence[str]) -> str:
    """Where a run's settings come from, and which of them wait for the data."""
    text = f"settings: {'; '.join(sources) or 'no recipe'}"
    return text + ("; by the size of the data: " * bool(by_size)) + ", ".join(by_size)


if __name__ == "__main__":
    sys.exit(main())
