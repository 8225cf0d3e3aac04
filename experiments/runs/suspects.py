"""`suspects.csv`: labels that are probably wrong, a row each, and what a person has decided about them.

Columns: `id` (path, or number in the training split), `given` and `proposed` (class names; this is the most likely one
but the given), `score` (the estimated probability that the given label is wrong), `confidence` (the one that the
proposed label is right), `evidence` (in words), and `decision`, which is empty until somebody writes

keep         the given label is right
relabel      the proposed label is
CLASS        that one is; `class:CLASS` where a class is called like one of the other words
remove       the example is to go

Of texts there is a column `text` as well, with what a person reads of them.

A cell that a spreadsheet would take for a formula has an apostrophe before it. What a person has decided is never lost:
another audit keeps it, or sets the file aside.
"""

import csv
import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COLUMNS = ("id", "given", "proposed", "score", "confidence", "evidence", "decision")
TEXT = "text"
KEEP, RELABEL, REMOVE = "keep", "relabel", "remove"
_CLASS = "class:"
_FORMULA = tuple("=+-@\t\r\n＝＋－＠'")  # the apostrophe too, so that what is written can be read back


class Row(NamedTuple):
    """A row of `suspects.csv`, its cells as they are meant."""

    id: str
    given: str
    proposed: str
    score: float
    confidence: float
    evidence: str
    decision: str = ""
    text: str = ""


def write(path: pathlib.Path, rows: Sequence[Row]) -> pathlib.Path | None:
    """Write rows; decisions in a file that is there are kept.

    A decision stays with its example as long as that has the label, and the text, that was judged; "relabel" becomes
    the class that was proposed then, where another one is proposed now. Where a decision has lost its row
    (`decided_ids` tells which are needed), its label or its text, the old file is set aside.

    Returns:
      Where the old file was set aside; None if it was not.

    Raises:
      ValueError: the file that is there is no such file; nothing is written.
    """
    before = {row.id: row for row in read(path) if row.decision} if path.exists() else {}
    now, lost = [], False
    for row in rows:
        old = before.pop(row.id, None)
        if old is not None and old.given == row.given and (old.text == row.text or "" in (old.text, row.text)):
            row = row._replace(decision=_pinned(old, row))
        elif old is not None:
            lost = True
        now.append(row)
    aside = _set_aside(path) if lost or before else None
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = (*COLUMNS, TEXT) if any(row.text for row in now) else COLUMNS
    table.writerow(columns)
    for row in now:
        parts = row[: len(columns)]
        table.writerow([_cell(part) if isinstance(part, str) else f"{part:.4f}" for part in parts])
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text.getvalue(), encoding="utf-8", newline="")
    os.replace(partial, path)
    return aside


def decided_ids(path: pathlib.Path) -> set[str]:
    """The ids of the examples that somebody has decided about; none where there is no file.

    Raises:
      ValueError: the file is no `suspects.csv`.
    """
    return {row.id for row in read(path) if row.decision.strip()} if path.exists() else set()


def read(path: pathlib.Path) -> list[Row]:
    """The rows of a file, also as spreadsheets save them: with semicolons or tabs, a byte order mark, other columns.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it has not these columns, or no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {str(path)!r}; an audit writes it.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not UTF-8 ({error.reason} at byte {error.start}); save it as that."
        ) from None
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip() for name in table.fieldnames or ()]
    if missing := [name for name in ("id", "given", "proposed", "decision") if name not in names]:
        raise ValueError(
            f"{str(path)!r} lacks the column(s) {', '.join(missing)}; it has {', '.join(names) or 'none'}."
        )
    table.fieldnames = names
    rows = []
    for found in table:
        cells = {name: _meant(found.get(name) or "") for name in (*COLUMNS, TEXT)}
        where = f"{str(path)!r}, line {table.line_num}"
        score, confidence = (_number(where, name, cells[name]) for name in ("score", "confidence"))
        rows.append(
            Row(
                cells["id"], cells["given"], cells["proposed"], score, confidence, cells["evidence"], cells["decision"],
                cells[TEXT],
            )
        )  # fmt: skip
    return rows


class Decisions(NamedTuple):
    """What the rows of `suspects.csv` say of a training set.

    Attributes:
      changes: by position of the example, the new label, and None for one that goes.
      reviewed: positions of the examples that somebody has decided about and that stay.
      counts: how many rows are "kept", "relabelled", "removed" and "undecided".
    """

    changes: dict[int, int | None]
    reviewed: set[int]
    counts: dict[str, int]


def _number(where: str, name: str, cell: str) -> float:
    try:
        return float((cell or "nan").replace(",", "."))
    except ValueError:
        raise ValueError(f"{where}: {name} {cell!r} is no number.") from None


def decide(
    path: pathlib.Path, ids: Sequence[str], given: Sequence[int], class_names: Sequence[str], above: float | None = None
) -> Decisions:
    """What the rows of a file say of a training set.

    Args:
      path: the file.
      ids: of the examples [N].
      given: their labels [N], as class numbers.
      class_names: [C].
      above: of rows without a decision those whose score is at least this get the proposed label if its confidence is
        at least this too, and go if it is not: the given label is wrong, and nobody knows what is right; None: they
        stay.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: a row is of no example or of another label, is there twice with different decisions, has a decision
        that is none of those accepted, or no confidence where `above` needs it; each named with its row.
    """
    position = {id_: number for number, id_ in enumerate(ids)}
    numbers = {name: number for number, name in enumerate(class_names)}
    changes: dict[int, int | None] = {}
    counts = dict.fromkeys(("kept", "relabelled", "removed", "undecided"), 0)
    said: dict[int, str] = {}
    reviewed = set()
    for line, row in enumerate(read(path), 2):
        where = f"{str(path)!r}, row {line} ({row.id!r})"
        if row.id not in position:
            raise ValueError(f"{where}: the run has no such example; was the file of another run, or its id changed?")
        at = position[row.id]
        if class_names[given[at]] != row.given:
            raise ValueError(
                f"{where}: its given label is {class_names[given[at]]!r} and not {row.given!r}; audit anew."
            )
        decision = row.decision.strip()
        if said.setdefault(at, decision) != decision:
            raise ValueError(f"{where} is there twice, with the decisions {said[at]!r} and {decision!r}.")
        taken = decision
        if not decision and above is not None and row.score >= above and row.proposed != row.given:
            if math.isnan(row.confidence):
                raise ValueError(f"{where} has no confidence, which accept_above={above} needs; audit anew.")
            taken = RELABEL if row.confidence >= above else REMOVE
        label = _label(where, taken, row, numbers)
        if decision and label is not None:
            reviewed.add(at)
        if label is None:
            counts["removed"] += 1
            changes[at] = None
        elif label >= 0 and label != given[at]:
            counts["relabelled"] += 1
            changes[at] = label
        else:
            counts["kept" if decision else "undecided"] += 1
    return Decisions(changes, reviewed, counts)


def _label(where: str, decision: str, row: Row, numbers: Mapping[str, int]) -> int | None:
    """The class number that a decision gives, None for an example that goes, −1 for a label that stays."""
    word = decision.lower()
    if word in ("", KEEP):
        return -1
    if word == REMOVE:
        return None
    name = row.proposed if word == RELABEL else decision
    if word == RELABEL and row.proposed == row.given:
        raise ValueError(f"{where}: relabel, but the proposed label is the given one; write the class's name.")
    found = next((n for n in (name, _meant(name), name.removeprefix(_CLASS)) if n in numbers), None)
    if found is None:
        known = ", ".join(list(numbers)[:10]) + (" …" if len(numbers) > 10 else "")
        raise ValueError(f"{where}: decision {name!r} is none of keep, relabel, remove and the classes {known}.")
    return numbers[found]


def _pinned(old: Row, now: Row) -> str:
    if old.decision.strip().lower() != RELABEL or old.proposed == now.proposed:
        return old.decision
    return old.proposed if old.proposed.lower() not in (KEEP, RELABEL, REMOVE) else f"{_CLASS}{old.proposed}"


def _set_aside(path: pathlib.Path) -> pathlib.Path:
    number = 1
    while (aside := path.with_name(f"suspects-reviewed-{number}.csv")).exists():
        number += 1
    os.replace(path, aside)
    return aside


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _meant(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
