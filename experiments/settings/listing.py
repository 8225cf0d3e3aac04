"""What there is to choose from, as tables for the screen."""

import io
import shutil
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.settings import recipes
from robustjax import data, methods, models
from robustjax.methods import base

_NONE = "–"


def list_methods(known: Sequence[base.Entry] | None = None, width: int | None = None) -> str:
    """All methods (or those `known`), ablations under the whole method: paper, needs, and what they cost."""
    entries = methods.entries() if known is None else known
    table = _table("method", "paper", "year", "needs", "networks", "an example", "a step")
    for column in table.columns[4:]:
        column.justify = "right"
    names = {entry.name for entry in entries}
    for entry in _by_family(entries):
        part = entry.family in names - {entry.name}
        aliases = f" ({', '.join(entry.aliases)})" if entry.aliases else ""
        paper, year = (
            (_NONE, "") if part or not entry.paper else (entry.paper.removesuffix(f" {entry.year}"), entry.year)
        )
        # An ablation's name goes on from the whole method's.
        rest = entry.name.removeprefix(entry.family)
        name = ("  " + ("…" if rest != entry.name else "") + rest if part else entry.name) + aliases
        table.add_row(
            name, paper, str(year), ", ".join(entry.needs) or _NONE, str(entry.networks), entry.memory,
            f"{entry.cost:g}",
        )  # fmt: skip
    return (
        _text(table, width) + "\nan example: numbers kept for each; a step: its cost in plain steps of one network.\n"
        "ELR+, DivideMix, ROLT+ and FaMUS make a pass over the data for each of their networks. Before: forward, dmi,\n"
        "CurveNet and HAR train a first network as long, INCV eight on halves. CMW-Net costs more in short runs.\n"
        "Of your own: --method=FILE.py:NAME. Options: --method=NAME --help."
    )


def _by_family(entries: Sequence[base.Entry]) -> list[base.Entry]:
    """The entries, each followed by those of its family."""
    there = {entry.name for entry in entries}
    heads = [entry for entry in entries if entry.family not in there - {entry.name}]
    parts = [[entry for entry in entries if entry.family == head.name != entry.name] for head in heads]
    return [entry for head, own in zip(heads, parts, strict=True) for entry in (head, *own)]


def list_models(width: int | None = None) -> str:
    """The registered models and what they read."""
    table = _table("model", "reads")
    for name in models.names():
        table.add_row(name, "token ids" if models.reads_tokens(name) else "images, arrays")
    return _text(table, width) + "\nOf your own: --model=FILE.py:NAME, with --model-options=KEY=VALUE,KEY=VALUE."


def list_datasets(width: int | None = None) -> str:
    """The data sets known by name, those with a recipe first, and whose settings there are."""
    there, known = data.sources.names(), recipes.datasets()
    table = _table("data set", "settings of")
    for name in (*known, *(each for each in there if each not in known)):
        papers = recipes.papers(name)
        note = ", ".join(papers) or _NONE
        table.add_row(name, note if name in there else f"{note}: for --dataset=folder:DIR --recipe={papers[0]}/{name}")
    return (
        _text(table, width) + "\n--recipe=PAPER/DATASET takes a paper's settings, for any method. Without it a method "
        "has its own paper's; all others have the first.\nOf your own: "
        "--dataset=folder:DIR, csv:FILE, npz:FILE or hf:DIR."
    )


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name == columns[0])
    return table


def _text(table: Table, width: int | None) -> str:
    console = Console(file=io.StringIO(), width=width or shutil.get_terminal_size((160, 24)).columns)
    with console.capture() as capture:
        console.print(table)
    return textwrap.dedent("\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip()))
