"""Fill the papers' tables: `python -m experiments.reproduce --table=sr/1 --cells='mnist/sym0.8/*' --seeds=3`.

Runs what is missing, a run for all the cells that read it, and appends a row to results/PAPER.jsonl for each. What has
a row is skipped, and a run that was cut is resumed, so the same command is simply given again. Any other flag of
`experiments.run` (--epochs, --batch-size, --model, …) overrides the paper's settings; the rows are then marked
"reduced" and never compared with the paper's numbers.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import launch

if __name__ == "__main__":
    launch.begin_anew()  # before JAX is imported

from experiments import complaints, run, tables
from experiments.runs import directory, records
from experiments.settings import catalogue, command_line, config
from experiments.tables import Cell, commands
from experiments.tables.readings import Reason
from robustjax.training import engine

# Settings that do not change what a seed's run gives, or, as seeds do, tell one run from the next.
_NOT_COMPARED = ("seed", "seeds", "track_every")
# A run cannot be asked for in these words: reproduce has its own, or the tables say it.
_OWN = (*commands.DEFINING, "seeds", "out", "resume", "overwrite", "noise_file")


class Job(NamedTuple):
    """A run and the cells that read it.

    Attributes:
      cells: in the order of the tables.
      settings: what is given to the command line, flat.
      config: resolved; its seeds are those asked for.
      changed: setting -> (the paper's value, this run's), for all that differ.
      sources: where the recipe's and the table's settings come from.
    """

    cells: tuple[Cell, ...]
    settings: dict[str, Any]
    config: config.Config
    changed: dict[str, tuple[Any, Any]]
    sources: tuple[str, ...]


class Outlook(NamedTuple):
    """What is to be done: jobs, and why there is none for the other cells."""

    jobs: tuple[Job, ...]
    reasons: dict[Cell, Reason]


def plan(cells: Sequence[Cell], overrides: Mapping[str, Any], seeds: int, all_cells: Sequence[Cell]) -> Outlook:
    """The jobs that `cells` need.

    Args:
      cells: those asked for; an average stands for its members.
      overrides: settings that differ from the paper's.
      seeds: how many.
      all_cells: whichever of these read the same runs are noted with them.
    """
    wanted: dict[str, tuple[commands.Plan, list[Cell]]] = {}
    reasons: dict[Cell, Reason] = {}
    for cell in cells:
        for planned in _plans(cell):
            if isinstance(planned, Reason):
                reasons.setdefault(cell, planned)
            else:
                wanted.setdefault(_canonical(planned.settings), (planned, []))
    for cell in (*all_cells, *cells):
        for planned in _plans(cell):
            if isinstance(planned, commands.Plan) and (key := _canonical(planned.settings)) in wanted:
                wanted[key][1].append(cell)
    jobs = []
    for planned, readers in wanted.values():
        try:
            jobs.append(_job(planned, tuple(dict.fromkeys(readers)), overrides, seeds))
        except ValueError as error:
            reasons |= {cell: Reason(str(error)) for cell in readers}
    return Outlook(tuple(jobs), reasons)


def _plans(cell: Cell) -> list[commands.Plan | Reason]:
    return [commands.plan(each) for each in tables.members(cell) or (cell,)]


def _job(planned: commands.Plan, cells: tuple[Cell, ...], overrides: Mapping[str, Any], seeds: int) -> Job:
    paper, sources = config.resolve(planned.settings)
    given = {**planned.settings, **overrides, "seeds": seeds}
    settings, _ = config.resolve(given)
    changed = differences(config.identity(paper), config.identity(settings))
    return Job(cells, given, settings, changed, tuple(dict.fromkeys((*planned.sources, *sources))))


def differences(paper: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Setting -> (the paper's, the other's) where two runs' identities differ; seeds do not count.

    A setting that the program learned of after `other` was run had its default there.
    """
    a, b = (_flat(json.loads(json.dumps(each))) for each in (paper, other))
    options = catalogue.options(catalogue.entry(paper["method"]))
    defaults = dataclasses.asdict(config.Config())
    before = defaults | {name: option.default for name, option in options.items()}
    # What one of them does not say has its default; an option that only the other knows is of another method.
    a = {name: defaults[name] for name in b if name in config.IDENTITY} | a
    b = {name: b.get(name, before.get(name)) for name in a}
    return {name: (a[name], b[name]) for name in a if a[name] != b[name] and name not in _NOT_COMPARED}


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in identity.items() if k != "options"} | dict(identity.get("options", {}))


def run_hash(identity: Mapping[str, Any]) -> str:
    """What the runs of all seeds have in common: 12 hex digits of their settings, without the seeds."""
    kept = {k: v for k, v in _flat(identity).items() if k not in ("seed", "seeds")}
    return hashlib.sha256(_canonical(kept).encode()).hexdigest()[:12]


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def missing_seeds(job: Job, rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """The seeds of `job` that no row has for all its cells."""
    wanted, keys = config.identity(job.config), {cell.key for cell in job.cells}
    same = [row for row in rows if keys <= set(row["cells"]) and not differences(wanted, row["settings"])]
    done = {entry["seed"] for row in same for entry in row["seeds"]}
    return [seed for seed in range(job.config.seed, job.config.seed + job.config.seeds) if seed not in done]


def batches(job: Job, seeds: Sequence[int]) -> Iterator[config.Config]:
    """The job's runs for `seeds`: consecutive seeds train at once.

    HAR's step imbalance on clean classes leaves the noisy ones as large as the noise made them, so seeds differ in size
    and train one by one.
    """
    groups: list[list[int]] = []
    alone = job.config.imbalance == "step_rare_clean" and job.config.data_seed is None
    for seed in seeds:
        if groups and not alone and groups[-1][-1] == seed - 1:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    for group in groups:
        yield dataclasses.replace(job.config, seed=group[0], seeds=len(group))


def command_for(job: Job, settings: config.Config, *, anywhere: bool = False) -> str:
    """The `experiments.run` command that does the same; with `anywhere` without what is of this machine (folders)."""
    given = {**job.settings, "seed": settings.seed, "seeds": settings.seeds}
    if anywhere:
        kept = {"recipe", *_flat(config.identity(settings))}
        given = {name: value for name, value in given.items() if name in kept}
    return shlex.join(["python", "-m", "experiments.run", *commands.flags(given)])


def carry_out(job: Job, settings: config.Config, folder: pathlib.Path) -> dict[str, Any]:
    """Train, or go on with what was cut; returns the row for the results file.

    Raises:
      whatever `experiments.run.execute` does.
    """
    path = folder / directory.default_path(settings).name
    settings = dataclasses.replace(settings, out=str(path), resume=directory.holds_run(path))
    summary = run.execute(settings, job.sources, command_for(job, settings))
    identity = config.identity(settings)
    return {
        "cells": [cell.key for cell in job.cells],
        "tables": list(tables.table_names(job.cells)),
        "command": command_for(job, settings, anywhere=True),
        "scale": "reduced" if job.changed else "paper",
        "changed": {name: {"paper": a, "run": b} for name, (a, b) in job.changed.items()},
        "run_hash": run_hash(identity),
        "settings": identity,
        "sources": list(job.sources),
        "epochs": settings.epochs,
        "trusted_examples": summary.get("trusted_examples", 0),
        "seconds": summary["seconds"],
        "environment": summary["environment"],
        "mean_std": summary["mean_std"],
        "seeds": summary["seeds"],
    }


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All rows of the JSONL files in `folder`, in the order of their files.

    Raises:
      ValueError: for a line that is no row.
    """
    rows = []
    for file in sorted(folder.glob("*.jsonl")):
        for number, row in enumerate(records.read_records(file), 1):
            if not isinstance(row, dict) or not {"cells", "run_hash", "settings", "seeds"} <= row.keys():
                raise ValueError(f"{file}, row {number}: not a row of experiments.reproduce.")
            rows.append(row)
    return rows


def make_parser() -> argparse.ArgumentParser:
    """The command line; flags of `experiments.run` are taken beside these."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description="Run the cells of the papers' tables that have no result yet. All other flags are those of "
        "experiments.run and override the paper's settings; such rows are marked as reduced.",
        allow_abbrev=False,
    )
    parser.add_argument("--table", default=None, metavar="GLOB", help="tables, e.g. sr/1 or 'dynamic_loss/*'")
    parser.add_argument("--cells", default="*", metavar="GLOB", help="cells of these, e.g. 'mnist/sym0.8/*'")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="seeds, trained at once (default: 1)")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"), metavar="DIR",
                        help="folder of the results (default: results)")  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs"), metavar="DIR",
                        help="folder of the run directories (default: runs)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the commands and the reasons, run nothing")
    parser.add_argument("--list", action="store_true",
                        help="print the tables, or with --table their cells; - marks what cannot be run")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None, cells: Sequence[Cell] | None = None) -> int:
    """The command line.

    Args:
      argv: default: the process's.
      cells: tables other than the papers'.

    Returns:
      exit status: 0; 1 if a run failed; 2 for bad input; 3 if a signal stopped it, what was finished being saved.
    """
    options, rest = make_parser().parse_known_args(argv)
    there = tables.load() if cells is None else tuple(cells)
    try:
        if options.list:
            complaints.tell("\n".join(_listed(there, options)))
            return 0
        if options.table is None:
            raise ValueError(f"--table is missing: there are {', '.join(tables.table_names(there))}, and globs.")
        chosen = tables.select(there, options.table, options.cells)
        overrides = command_line.parse(rest)
        if refused := [name for name in overrides if name in _OWN]:
            flag = refused[0].replace("_", "-")
            raise ValueError(f"--{flag} is said by the table or by reproduce itself, and cannot be overridden.")
        if options.seeds < 1:
            raise ValueError(f"--seeds={options.seeds}: at least 1 is accepted.")
        outlook = plan(chosen, overrides, options.seeds, there)
        rows = read_results(options.results)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told = _reasons(outlook.reasons)
    if options.dry_run:
        complaints.tell("\n".join([*told, *_jobs(outlook.jobs, rows)]))
        return 0
    print(*told, sep="\n", end="\n" if told else "")
    return _work(outlook.jobs, rows, options)


def _work(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> int:
    failed = []
    options.results.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(jobs, 1):
        seeds = missing_seeds(job, rows)
        head = f"[{number}/{len(jobs)}] {job.cells[0].key}" + (f" and {len(job.cells) - 1} more" * (len(job.cells) > 1))
        print(head + ("" if seeds else ": done already"), flush=True)
        for settings in batches(job, seeds):
            try:
                row = carry_out(job, settings, options.out)
            except (run.Stopped, KeyboardInterrupt) as stopped:
                print(f"stopped: {stopped or 'interrupted'} The same command goes on from there.", file=sys.stderr)
                return run.STOPPED
            except Exception as error:  # one run's failure, whatever it is, must not keep the others from running
                failed.append(job)
                expected = isinstance(error, ValueError | FileNotFoundError | engine.NonFiniteLossError)
                if not expected:
                    traceback.print_exc()
                print(f"failed: {job.cells[0].key}: {error}", file=sys.stderr, flush=True)
            else:
                records.append_record(options.results / f"{job.cells[0].paper}.jsonl", row)
    if failed:
        names = ", ".join(dict.fromkeys(job.cells[0].key for job in failed))
        print(f"{len(failed)} run(s) failed: {names}", file=sys.stderr)
    return 1 if failed else 0


def _jobs(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for job in jobs:
        seeds = missing_seeds(job, rows)
        yield f"\n{_names(job.cells)}"
        if job.changed:
            yield "  reduced: " + ", ".join(f"{k} {b} (paper: {a})" for k, (a, b) in job.changed.items())
        for settings in batches(job, seeds):
            yield f"  {command_for(job, settings)}"
        if not seeds:
            yield "  done already"
    yield f"\n{len(jobs)} run(s) that {len({cell for job in jobs for cell in job.cells})} cell(s) read"


def _reasons(reasons: Mapping[Cell, Reason]) -> list[str]:
    return [
        f"not run, {len(cells)} cell(s): {text} ({_names(cells)})" for text, cells in _by_text(reasons, reasons).items()
    ]


def _by_text(reasons: Mapping[Cell, Reason], cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """The cells that have a reason, by its text, the most frequent first."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell in reasons:
            found.setdefault(reasons[cell].text, []).append(cell)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _names(cells: Sequence[Cell]) -> str:
    return ", ".join(cell.key for cell in cells[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")


def _listed(cells: Sequence[Cell], options: argparse.Namespace) -> Iterator[str]:
    """A line a table, or with --table a line a cell. A dash stands before what cannot be run, the reason behind it."""
    chosen = cells if options.table is None else tables.select(cells, options.table, options.cells)
    reasons = plan(chosen, {}, 1, ()).reasons
    if options.table is None:
        for name in tables.table_names(cells):
            own = [cell for cell in cells if cell.table_name == name]
            not_run = _by_text(reasons, own)
            count = sum(map(len, not_run.values()))
            told = "; ".join(f"{len(group)} {text}" for text, group in not_run.items())
            yield f"{'-' if count == len(own) else ' '} {name}: {len(own)} cells" + (
                f", {count} cannot be run: {told}" if count else ""
            )
        return
    for cell in chosen:
        spread = "" if cell.std is None else f" ± {cell.std:g}"
        told = f"  ({reasons[cell].text})" if cell in reasons else ""
        yield f"{'-' if told else ' '} {cell.key}  {cell.mean:g}{spread}  {cell.metric}{told}"


if __name__ == "__main__":
    sys.exit(main())
