"""Every results table of the four papers as data: a cell a published number. README.md says what to mind.

`load()` reads the CSV files beside this one, `select` picks cells by glob, `members` gives what an average is over.
What a cell would take to run is in `experiments.tables.commands`, what it reads from a run in
`experiments.tables.readings`.
"""

import csv
import difflib
import fnmatch
import io
import itertools
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, NamedTuple

PAPERS = ("har", "sr", "dynamic_loss", "elr")
COLUMNS = (
    "paper", "table", "dataset", "tested_on", "noise", "noise_rate", "imbalance", "imbalance_ratio", "model", "method",
    "method_printed", "metric", "mean", "std", "note",
)  # fmt: skip

Amount = float | Literal["mean"] | None


class Cell(NamedTuple):
    """One published number.

    Attributes:
      paper: "har", "sr", "dynamic_loss" or "elr".
      table: the table's number in the paper, as text; "text" for a number that no table holds.
      dataset: what is trained on, by the command line's name.
      tested_on: the test set where it is another data set's, else "".
      noise: kind of label noise, "none", or "real" for noise that the data set has of itself.
      noise_rate: in [0, 1]; "mean" for an average over rates; None where there is none or it is unknown.
      imbalance: kind of imbalance or "none".
      imbalance_ratio: largest class over smallest; "mean" and None likewise.
      model: by the command line's name; "" where the paper does not say.
      method: by the command line's name.
      method_printed: as the paper prints it.
      metric: what is measured, see `experiments.tables.readings`.
      mean: the published number, in percent.
      std: its published standard deviation, in percentage points, or None.
      note: what to mind; "uncertain: …" where the number's place in the table is in doubt.
      id: unique within the table and made to be globbed: `mnist/sym0.8/ce_sr`.
    """

    paper: str
    table: str
    dataset: str
    tested_on: str
    noise: str
    noise_rate: Amount
    imbalance: str
    imbalance_ratio: Amount
    model: str
    method: str
    method_printed: str
    metric: str
    mean: float
    std: float | None
    note: str
    id: str

    @property
    def table_name(self) -> str:
        """Paper and table: `sr/1`."""
        return f"{self.paper}/{self.table}"

    @property
    def key(self) -> str:
        """Unique over all tables: `sr/1:mnist/sym0.8/ce_sr`."""
        return f"{self.table_name}:{self.id}"

    @property
    def is_average(self) -> bool:
        """Whether the number is an average over settings, see `members`."""
        return "mean" in (self.noise_rate, self.imbalance_ratio)


_NOISE_NAMES = {
    "symmetric": "sym", "asymmetric": "asym", "symmetric+asymmetric": "sym+asym", "heteroskedastic": "hetero",
    "frequency_proportional": "freq",
}  # fmt: skip
_IMBALANCE_NAMES = {"long_tailed": "longtail"}


def load(folder: str | os.PathLike[str] | None = None) -> tuple[Cell, ...]:
    """All cells, in the order of the papers and their tables.

    Args:
      folder: of CSV files with the columns `COLUMNS`, instead of the papers' own.

    Raises:
      ValueError: for a file with other columns, a number that is none, or two cells that cannot be told apart.
      FileNotFoundError: if there is no CSV file.
    """
    files: Sequence[Traversable]
    if folder is None:
        files = [resources.files(__name__) / f"{paper}.csv" for paper in PAPERS]
    else:
        files = sorted(Path(folder).glob("*.csv"))
        if not files:
            raise FileNotFoundError(f"folder {os.fspath(folder)!r} holds no CSV file.")
    rows = []
    for file in files:
        reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{file.name} has the columns {reader.fieldnames}; expected {', '.join(COLUMNS)}.")
        rows += [_parse(row, f"{file.name}, line {reader.line_num}") for row in reader]
    return with_ids(rows)


def with_ids(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The cells in the order of their tables, each with its id.

    Raises:
      ValueError: if two cells of a table get the same id.
    """
    ordered = list(cells)
    papers = list(dict.fromkeys(cell.paper for cell in ordered))
    ordered.sort(key=lambda cell: (papers.index(cell.paper), _natural(cell.table)))
    metrics: dict[str, set[str]] = {}
    for cell in ordered:
        metrics.setdefault(cell.table_name, set()).add(cell.metric)
    named = tuple(cell._replace(id=_id(cell, len(metrics[cell.table_name]) > 1)) for cell in ordered)
    keys = [cell.key for cell in named]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"two cells are {twice!r}; cells of a table must differ in what they measure.")
    return named


def table_names(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The tables of `cells`, each once."""
    return tuple(dict.fromkeys(cell.table_name for cell in cells))


def select(cells: Sequence[Cell], table: str = "*", ids: str = "*") -> tuple[Cell, ...]:
    """The cells of the tables that match the glob `table` whose id matches the glob `ids`.

    Raises:
      ValueError: if no table or no cell matches; the nearest are named.
    """
    tables = table_names(cells)
    chosen = [name for name in tables if fnmatch.fnmatchcase(name, table)]
    if not chosen:
        raise ValueError(f"table={table!r} matches none: {_nearest(table, tables)}")
    found = tuple(cell for cell in cells if cell.table_name in chosen and fnmatch.fnmatchcase(cell.id, ids))
    if not found:
        there = list(dict.fromkeys(cell.id for cell in cells if cell.table_name in chosen))
        raise ValueError(f"cells={ids!r} matches none in {', '.join(chosen)}: {_nearest(ids, there)}")
    return found


def members(cell: Cell) -> tuple[Cell, ...]:
    """The settings that an average is over, as cells of their own; () for a cell that is no average.

    They take the average's place in everything but noise, rate and ratio, so they need not be cells of a table
    (Dynamic Loss prints only averages for some methods). Their `mean` is nan.

    Raises:
      ValueError: if the note does not say what the average is over.
    """
    if not cell.is_average:
        return ()
    listed = {
        name: _numbers(text) for name, text in re.findall(r"\b(ratio|noise|symmetric|asymmetric) \{(.*?)\}", cell.note)
    }
    ratios = listed.get("ratio", [cell.imbalance_ratio])
    noises: list[tuple[str, Amount]]
    if "noise" in listed:
        noises = [(cell.noise, rate) for rate in listed["noise"]]
    elif cell.noise_rate == "mean":
        noises = [(kind, rate) for kind in cell.noise.split("+") for rate in listed.get(kind, ())]
    else:
        noises = [(cell.noise, cell.noise_rate)]
    if not noises or "mean" in ratios:
        raise ValueError(f"{cell.key} is an average, but its note does not say over what: {cell.note!r}.")
    found = [
        cell._replace(noise=kind, noise_rate=rate, imbalance_ratio=ratio, mean=math.nan, std=None)
        for ratio, (kind, rate) in itertools.product(ratios, noises)
    ]
    return tuple(each._replace(id=_id(each, cell.id != _id(cell, False))) for each in found)


def _parse(row: dict[str, str], where: str) -> Cell:
    def number(column: str) -> Amount:
        text = row[column]
        try:
            return None if text == "" else "mean" if text == "mean" else float(text)
        except ValueError:
            raise ValueError(f"{where}: {column}={text!r} is not a number.") from None

    numbers: dict[str, Any] = {column: number(column) for column in ("noise_rate", "imbalance_ratio", "mean", "std")}
    return Cell(**{**row, **numbers}, id="")


def _id(cell: Cell, with_metric: bool) -> str:
    parts = [f"{cell.dataset}-on-{cell.tested_on}" if cell.tested_on else cell.dataset]
    for kind, amount, names in (
        (cell.imbalance, cell.imbalance_ratio, _IMBALANCE_NAMES),
        (cell.noise, cell.noise_rate, _NOISE_NAMES),
    ):
        # What a data set has of itself (real noise, and the tail that comes with it) needs no word.
        if kind not in ("none", "real") and cell.noise != "real":
            shown = "" if amount is None else "-mean" if amount == "mean" else f"{amount:g}"
            parts.append(names.get(kind, kind) + shown)
    parts.append(cell.method)
    if with_metric:
        parts.append(cell.metric.removeprefix("test_accuracy_").replace("_accuracy", ""))
    return "/".join(parts)


def _natural(table: str) -> tuple[int, str]:
    digits = table[: len(table) - len(table.lstrip("0123456789"))]
    return int(digits) if digits else sys.maxsize, table  # what the text tells comes last


def _numbers(text: str) -> list[float]:
    """[0.2, 0.4] from "0.2,0.4"; 0.1 to 0.5 in steps of 0.1 from "0.1..0.5"."""
    if ".." in text:
        first, last = (round(10 * float(part)) for part in text.split(".."))
        return [tenth / 10 for tenth in range(first, last + 1)]
    return [float(part) for part in text.split(",")]


def _nearest(given: str, there: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, there, 5, 0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"there are {', '.join(there[:20])}" + (f" and {len(there) - 20} more" if len(there) > 20 else "")
