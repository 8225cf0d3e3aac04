"""A CSV file with a row for each example: its path, features or text, its label and more (`tables.COLUMNS`)."""

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustjax.data import tables
from robustjax.data.image_files import Listing, stamp

_DELIMITERS = (",", "\t", ";", "|")


class Table(NamedTuple):
    """A CSV file, and what is known of its columns before any of them is understood."""

    header: list[str]
    rows: list[list[str]]
    """N of them, each as long as the header."""
    found: dict[str, str]
    """Which column holds what (`tables.find_columns`)."""
    ids: list[str]
    """What each row's example is called, N different ones: the id, else the path, else the number of the row."""


def read_table(file: Path, columns: Mapping[str, str]) -> Table:
    """A CSV file with a row for each example; raises what `list_examples` does of its form."""
    what = repr(os.fspath(file))
    rows, header = _rows(file, what)
    found = tables.find_columns(header, columns, what, ("path", "label"))
    ids = list(map(str, range(2, 2 + len(rows))))
    if "path" in found:
        at = header.index(found["path"])
        ids = [row[at].strip().replace(os.sep, "/") for row in rows]
        _refuse_repeated([row[at] for row in rows], what, "path")
    if "id" in found:
        at = header.index(found["id"])
        ids = [row[at].strip() for row in rows]
        _refuse_repeated(ids, what, "id")
    return Table(header, rows, found, ids)


def list_examples(file: Path, columns: Mapping[str, str]) -> Listing:
    """The images that a CSV file names, or the features or texts in it, with what its columns say of them.

    Its first line names the columns, and `columns` says which hold what (`tables.COLUMNS`; by default those of the
    usual names). Paths are relative to the file's folder. The text is UTF-8; commas, semicolons or tabs divide it.

    Raises FileNotFoundError where there is no such file, and ValueError for one that is no such table, a column that is
    not there, an image or an id that is there twice, a label that is missing, or fewer than two classes.
    """
    file = file.resolve()
    what = repr(os.fspath(file))
    header, rows, found, ids = read_table(file, columns)
    table = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    kept, is_test, notes = np.arange(len(rows)), None, tuple[str, ...]()
    if "split" in found:
        kept, is_test, notes = tables.choose_parts(tables.parts_of(table[found["split"]], what, 2), what)
        table = {name: [column[i] for i in kept.tolist()] for name, column in table.items()}
    said = tables.answers(table, found, what, rows=kept + 2)
    used = ", ".join(f"{key}={name}" for key, name in found.items())
    listing = Listing(
        f"csv:{file.stem}",
        said.labels,
        said.class_names,
        is_test,
        true_labels=said.true_labels,
        groups=said.groups,
        annotations=said.annotations,
        reviewed=said.reviewed,
        ids=tuple(ids[i] for i in kept.tolist()),
        notes=(f"columns of {file.name}: {used}.", *notes, *said.notes),
    )
    if "path" not in found:
        if "text" in found:
            places = [f"{file.name}, row {row}" for row in kept + 2]
            return listing._replace(texts=tuple(table[found["text"]]), places=places)
        return listing._replace(inputs=_features(table, tables.feature_columns(header, found), what, kept + 2))
    paths = [os.path.join(file.parent, path.strip()) for path in table[found["path"]]]
    return listing._replace(
        fetch=paths.__getitem__,
        places=paths,
        stamps=[stamp(path) for path in paths],
    )


def _features(table: Mapping[str, list[str]], names: list[str], what: str, rows: np.ndarray) -> np.ndarray:
    """The numbers of these columns, float32 [N, D]."""
    result = np.empty((len(rows), len(names)), np.float32)
    for values, name in zip(result.T, names, strict=True):
        try:
            values[:] = table[name]
        except ValueError as error:
            first = next(i for i, value in enumerate(table[name]) if not _is_number(value))
            raise ValueError(
                f"{what} holds {table[name][first]!r} in column {name!r} of row {rows[first]}, which is no number"
            ) from error
        if (bad := np.flatnonzero(~np.isfinite(values))).size:
            raise ValueError(f"{what} has {values[bad[0]]} in column {name!r} of row {rows[bad[0]]}")
    return result


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def read_rows(file: Path) -> list[list[str]]:
    """All rows of a CSV file in UTF-8 that are not empty, the header first; commas, semicolons or tabs divide it.

    Raises OSError where it cannot be read, and ValueError for one that is no such file.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened, _any_length():
            head = opened.readline()
            opened.seek(0)
            return [row for row in csv.reader(opened, delimiter=max(_DELIMITERS, key=head.count)) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{os.fspath(file)!r} is not a CSV file in UTF-8: {error}") from error


@contextlib.contextmanager
def _any_length() -> Iterator[None]:
    """Lets a field be longer than the 128 KiB that Python's reader takes: texts are."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(file: Path, what: str) -> tuple[list[list[str]], list[str]]:
    """The rows below the first one, and that."""
    if not file.is_file():
        raise FileNotFoundError(f"{what} is not a file; 'csv:FILE' expects one with a row for each example")
    header, *rest = read_rows(file) or [[]]
    header = [name.strip() for name in header]
    if len(set(header)) < len(header):
        raise ValueError(f"{what} has two columns of one name: {', '.join(header)}")
    if not rest:
        raise ValueError(f"{what} has no rows below its header ({', '.join(header) or 'it is empty'})")
    if (wrong := next((i for i, row in enumerate(rest) if len(row) != len(header)), None)) is not None:
        raise ValueError(
            f"{what} has {len(rest[wrong])} fields in row {wrong + 2}, and {len(header)} columns: {', '.join(header)}"
        )
    return rest, header


def _refuse_repeated(values: list[str], what: str, kind: str) -> None:
    """ValueError for an example without a path or an id, or one that is named twice."""
    values = [value.strip() for value in values]
    if "" in values:
        raise ValueError(f"{what} has a row without its {kind}: row {values.index('') + 2}")
    normal = list(map(os.path.normpath, values)) if kind == "path" else values
    if len(set(normal)) == len(normal):
        return
    first: dict[str, int] = {}
    again = [i for i, value in enumerate(normal) if first.setdefault(value, i) != i]
    raise ValueError(
        f"{what} names {len(again):,} {kind}(s) twice, the first {values[again[0]]!r}, in rows "
        f"{first[normal[again[0]]] + 2} and {again[0] + 2}; expected each once"
    )
