"""Measured beside published, as Markdown: `python -m experiments.report --table='sr/*'`.

A row is compared with the paper only if it was run at the paper's settings, as they are known now; every other row
stands in a list of its own, with what differed and without the paper's number. `--update=README.md` writes the tables
between `<!-- results:sr/1 -->` and `<!-- /results -->`.
"""

import argparse
import math
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import complaints, reproduce, tables
from experiments.runs import history, progress
from experiments.settings import config
from experiments.tables import Cell, commands, readings
from experiments.tables.readings import Reason

_NONE = "–"


class Measured(NamedTuple):
    """A cell's measured number.

    Attributes:
      values: percent, a number a seed.
      changed: setting -> (the paper's, the run's) where they differ; empty at the paper's scale.
      rows: the rows of the results files that it comes from.
    """

    values: tuple[float, ...]
    changed: dict[str, tuple[Any, Any]]
    rows: tuple[Mapping[str, Any], ...]


def measurements(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """What `rows` hold for a cell, a value for each kind of run; that at the paper's settings first.

    Seeds from several rows of the same kind are put together; of a seed that was run twice the later counts. An
    average is measured once all its members are, at the paper's settings, on the seeds that all of them have.
    """
    if cell.is_average:
        return _average(cell, rows)
    planned, read = commands.plan(cell), readings.reading(cell)
    if isinstance(planned, Reason) or isinstance(read, Reason):
        return []
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if cell.key in row["cells"]:
            kinds.setdefault(row["run_hash"], []).append(row)
    found = []
    for same in kinds.values():
        by_seed = _by_seed(same, read)
        if not by_seed:
            continue
        found.append(Measured(tuple(by_seed[s] for s in sorted(by_seed)), _changed(planned, same[-1]), tuple(same)))
    return sorted(found, key=lambda each: len(each.changed) > 0)


def _by_seed(rows: Sequence[Mapping[str, Any]], read: readings.Reading) -> dict[int, float]:
    """Seed -> number, without those that did not measure it (a training accuracy under --track-every=0)."""
    values = {entry["seed"]: read.of(entry) for row in rows for entry in row["seeds"]}
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def _changed(planned: commands.Plan, row: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between a row's run and the paper's; asked anew, since recipes and rules get corrected."""
    paper, _ = config.resolve(planned.settings)
    return reproduce.differences(config.identity(paper), row["settings"])


def _average(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> list[Measured]:
    read = readings.reading(cell)
    if isinstance(read, Reason):
        return []
    parts = []
    for member in tables.members(cell):
        planned = commands.plan(member)
        if isinstance(planned, Reason):
            return []
        paper, _ = config.resolve(planned.settings)
        same = [row for row in rows if not reproduce.differences(config.identity(paper), row["settings"])]
        if not same:
            return []
        parts.append((same, _by_seed(same, read)))
    seeds = sorted(set.intersection(*(set(by_seed) for _, by_seed in parts)))
    if not seeds:
        return []
    values = tuple(sum(by_seed[seed] for _, by_seed in parts) / len(parts) for seed in seeds)
    return [Measured(values, {}, tuple(row for same, _ in parts for row in same))]


def table(name: str, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], *, show_all: bool = False) -> str:
    """One table as Markdown.

    Args:
      name: of the table, for the heading.
      cells: the table's.
      rows: of the results files.
      show_all: also list what has not been measured, and why not.
    """
    notes: dict[str, int] = {}
    compared, apart, absent = [], [], []
    used: list[Mapping[str, Any]] = []
    for cell in cells:
        found = measurements(cell, rows)
        faithful = [each for each in found if not each.changed]
        if faithful:
            # Two kinds can both be the paper's if the program's settings have grown since; the latest counts.
            compared.append(_comparison(cell, faithful[-1], notes))
            used += faithful[-1].rows
        elif show_all:
            absent.append(f"| {cell.id} | {_spread(cell.mean, cell.std)} | {_why_not(cell)} |")
        for each in found:
            if each.changed:
                how = "; ".join([_differs(each.changed), *_consumed(each.rows)])
                apart.append(f"| {cell.id} | {how} | {_summary(each.values)} | {len(each.values)} |")
                used += each.rows
    parts = [f"### {name}"]
    if compared:
        head = _row(("cell", "published", "measured", "seeds", "difference", "in published std", "notes"))
        parts.append("\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: | --- |", *compared]))
        parts.append("Percent, mean ± standard deviation over seeds; difference is measured minus published.")
    if notes:
        parts.append("\n".join(f"[{number}] {text}  " for text, number in notes.items()).rstrip())
    if apart:
        parts.append("**Other settings than the paper's: not comparable with its numbers.**")
        head = _row(("cell", "run (paper)", "measured", "seeds"))
        parts.append("\n".join([head, "| --- | --- | ---: | ---: |", *apart]))
    if absent:
        parts.append("\n".join([_row(("not measured", "published", "why")), "| --- | ---: | --- |", *absent]))
    if used:
        parts.append(_provenance(used))
    if len(parts) == 1:
        parts.append("Nothing measured yet.")
    return "\n\n".join(parts)


def _comparison(cell: Cell, measured: Measured, notes: dict[str, int]) -> str:
    mean = sum(measured.values) / len(measured.values)
    difference = mean - cell.mean
    in_std = _NONE if not cell.std else f"{difference / cell.std:+.1f}"
    marks = [notes.setdefault(text, len(notes) + 1) for text in (*_remarks(cell), *_consumed(measured.rows))]
    return _row(
        (
            cell.id, _spread(cell.mean, cell.std), _summary(measured.values), len(measured.values),
            f"{difference:+.2f}", in_std, " ".join(f"[{mark}]" for mark in marks),
        )
    )  # fmt: skip


def _remarks(cell: Cell) -> list[str]:
    """What to mind about a comparison: what is measured, how the run differs, doubts about the published number."""
    read = readings.reading(cell)
    planned = [commands.plan(each) for each in tables.members(cell) or (cell,)]
    caveats = dict.fromkeys(text for each in planned if not isinstance(each, Reason) for text in each.caveats)
    doubts = [part.strip() for part in cell.note.split(";") if part.strip().startswith("uncertain")]
    return [*([] if isinstance(read, Reason) else [read.what]), *caveats, *doubts]


def _consumed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many trusted examples the runs learned from, where they did."""
    counts = sorted({row.get("trusted_examples", 0) for row in rows} - {0})
    return [f"uses {' or '.join(map(str, counts))} trusted examples"] if counts else []


def _why_not(cell: Cell) -> str:
    reasons = [commands.plan(each) for each in tables.members(cell) or (cell,)]
    return next((each.text for each in reasons if isinstance(each, Reason)), "not run yet")


def _differs(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """What a smaller run changed, epochs first: `smaller scale: 10 of 50 epochs; batch_size 512 (128)`."""
    rest = dict(changed)
    parts = []
    if "epochs" in rest:
        paper, here = rest.pop("epochs")
        parts.append(f"{'smaller scale: ' if here < paper else ''}{here} of {paper} epochs")
    parts += [f"{name} {here} ({'default' if paper is None else paper})" for name, (paper, here) in rest.items()]
    return "; ".join(parts)


def _provenance(rows: Sequence[Mapping[str, Any]]) -> str:
    distinct = list({id(row): row for row in rows}.values())
    made = []
    for row in distinct:
        env = row.get("environment", {})
        commit = (env.get("git_commit") or "unknown commit")[:12] + (" with changes" if env.get("git_dirty") else "")
        made.append(f"{env.get('device_kind', 'unknown device')}, jax {env.get('jax', '?')}, {commit}")
    seconds = sum(row.get("seconds") or 0.0 for row in distinct)
    return f"{len(distinct)} run(s), {progress.format_duration(seconds)}: " + "; ".join(dict.fromkeys(made)) + "."


def _summary(values: Sequence[float]) -> str:
    mean, std = history.mean_std(values)
    return _spread(mean, None if math.isnan(std) else std)


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


def _row(entries: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, entries)) + " |"


def report(
    cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], pattern: str = "*", *, show_all: bool = False
) -> str:
    """The tables that match the glob `pattern`; those without a measurement only with `show_all`.

    Raises:
      ValueError: if no table matches.
    """
    chosen = tables.select(cells, pattern)
    seen = {key for row in rows for key in row["cells"]}
    parts = []
    for name in tables.table_names(chosen):
        own = [cell for cell in chosen if cell.table_name == name]
        if show_all or any(cell.key in seen for cell in own) or any(measurements(cell, rows) for cell in own):
            parts.append(table(name, own, rows, show_all=show_all))
    return "\n\n".join(parts or ["Nothing measured yet."]) + "\n"


_MARKED = re.compile(r"(<!-- results:(\S+) -->)(.*?)(<!-- /results -->)", re.DOTALL)


def update(text: str, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], *, show_all: bool = False) -> str:
    """`text` with the tables filled in between its markers; everything else stays as it is.

    Raises:
      ValueError: if there is no marker, one is not closed, or it names no table.
    """
    opened = re.findall(r"<!-- results:\S+ -->", text)
    found = _MARKED.findall(text)
    if not opened or len(found) != len(opened) or len(found) != text.count("<!-- /results -->"):
        raise ValueError(
            f"the file has {len(opened)} marker(s) <!-- results:TABLE --> and {text.count('<!-- /results -->')} "
            "<!-- /results -->; each needs the other, and there must be one."
        )
    return _MARKED.sub(lambda match: f"{match[1]}\n{report(cells, rows, match[2], show_all=show_all)}{match[4]}", text)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description="Measured beside published, as Markdown.", allow_abbrev=False
    )
    parser.add_argument("--table", default="*", metavar="GLOB", help="tables, e.g. sr/1 (default: all)")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"), metavar="DIR",
                        help="folder of the results (default: results)")  # fmt: skip
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--measured-only", action="store_true", help="only what has been measured (the default)")
    shown.add_argument("--all", action="store_true", help="also what has not, and why not")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=pathlib.Path, metavar="FILE", help="write there, not to the screen")
    where.add_argument("--update", type=pathlib.Path, metavar="FILE", help="fill in the tables between FILE's markers")
    return parser


def main(argv: Sequence[str] | None = None, cells: Sequence[Cell] | None = None) -> int:
    """The command line; `cells` are tables other than the papers'. Returns the exit status, 2 for bad input."""
    options = make_parser().parse_args(argv)
    there = tables.load() if cells is None else tuple(cells)
    try:
        rows = reproduce.read_results(options.results)
        if options.update is not None:
            before = options.update.read_text(encoding="utf-8")
            text, target = update(before, there, rows, show_all=options.all), options.update
        else:
            text, target = report(there, rows, options.table, show_all=options.all), options.out
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if target is None:
        complaints.tell(text.removesuffix("\n"))
        return 0
    # Beside the file and then over it, so that a reader never sees half.
    scratch = target.with_name(target.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
