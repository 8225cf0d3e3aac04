"""Labels as a person has corrected them, in a file or a folder to train on.

FILE.npz   a noise file: the examples that stay, with their labels; for `--noise-file`
FILE.npy   a label for each example of the training split; for `--labels`. It cannot leave examples out
FILE.csv   path, label, where there is a test part split, and whether somebody has reviewed the label; for
           `--dataset=csv:FILE`. Of examples that are files; of those of another CSV file, all of that file's columns
DIR        links to the images, train/CLASS/…; for `--dataset=folder:DIR`. Of examples that are files
"""

import csv
import itertools
import os
import pathlib
import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robustjax.data import corruptions, csv_source, folder_source, tables

# What decides about labels: of no use beside corrected ones.
_LABELLING = ("dataset", "labels", "noise", "noise_rate", "noise_form", "noise_file", "imbalance", "imbalance_ratio",
              "train_examples", "data_seed", "out", "overwrite", "resume")  # fmt: skip


_REVIEWED, _YES = "reviewed", "yes"  # the column of a CSV file, which `tables.COLUMNS` knows


class Examples(NamedTuple):
    """The labels that are corrected.

    Attributes:
      kept: int64 [N], positions in the training split, increasing.
      given: int32 [N].
      ids: [N], paths below `root` or others.
      class_names: [C].
      total: examples of the training split; None if unknown.
      labels: those of the whole training split before any corruption, int [M], whose hash goes into a noise file; None
        if unknown.
      root: the folder that the paths are below; None if the examples are no files.
      table: the CSV file that names the examples; None for none.
      columns: which of its columns hold what, as far as that was said.
      gone: ids of those that an earlier correction, which the run was trained on, left out.
      anew: whether the labels of all are to be written, as they are no longer those of the folder or the table.
    """

    kept: np.ndarray
    given: np.ndarray
    ids: Sequence[str]
    class_names: Sequence[str]
    total: int | None = None
    labels: np.ndarray | None = None
    root: pathlib.Path | None = None
    table: pathlib.Path | None = None
    columns: Mapping[str, str] = {}
    gone: Collection[str] = ()
    anew: bool = False


def write(
    out: pathlib.Path, examples: Examples, changes: Mapping[int, int | None], reviewed: Collection[int] = ()
) -> str:
    """Write corrected labels; returns the flag that trains on them.

    Args:
      out: a file that ends in .npz, .npy or .csv, or a folder; not there yet, or an empty folder.
      examples: as they were.
      changes: by place among `examples`, the new class number; None for one that goes.
      reviewed: places of those that somebody has looked at, which only a CSV file tells.

    Raises:
      ValueError: `out` cannot say what is asked for, or a class is left without an example. Nothing is written.
      FileExistsError: it is there already.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"apply={str(out)!r} is there already; nothing is written over, so choose another name.")
    given, stays = examples.given.copy(), np.ones(len(examples.given), bool)
    for place, label in changes.items():
        stays[place] = label is not None
        given[place] = given[place] if label is None else label
    counts = np.bincount(given[stays], minlength=len(examples.class_names))
    if empty := [name for name, count in zip(examples.class_names, counts, strict=True) if not count]:
        raise ValueError(f"the decisions leave no example of {', '.join(map(repr, empty))}: nothing can learn it.")
    match out.suffix:
        case ".npz":
            corruptions.save_noise(out, given[stays], examples.kept[stays], clean_labels=examples.labels)
            return f"--noise-file={shlex.quote(str(out))}"
        case ".npy":
            _write_labels(out, examples, given, stays)
            return f"--labels={shlex.quote(str(out))}"
        case ".csv":
            _write_csv(out, examples, given, stays, {examples.ids[place] for place in reviewed})
            return f"--dataset=csv:{shlex.quote(str(out))}"
        case "":
            _write_links(out, examples, given, stays)
            return f"--dataset=folder:{shlex.quote(str(out))}"
    raise ValueError(f"apply={str(out)!r} ends in {out.suffix!r}; .npz, .npy, .csv and folders are accepted.")


def next_command(command: str, flag: str) -> str:
    """The command that trains again, from that of the run and the flag that names the corrected labels.

    Examples:
      >>> next_command("robustjax --method=elr --dataset=folder:a --noise-rate 0.2", "--noise-file=b.npz")
      'robustjax --method=elr --dataset=folder:a --noise-file=b.npz'
    """
    words, kept, skip = shlex.split(command) or ["python", "-m", "experiments.run"], [], False
    dropped = [name for name in _LABELLING if name != "dataset" or flag.startswith("--dataset=")]
    for word in words:
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") in dropped:
            skip = not equals and name not in ("--overwrite", "--resume")
        elif not skip or word.startswith("--"):
            kept.append(word)
            skip = False
        else:
            skip = False
    return f"{shlex.join(kept)} {flag}"


def _write_labels(out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray) -> None:
    total = len(given) if examples.total is None else examples.total
    if not stays.all():
        raise ValueError(
            f"apply={str(out)!r}: {int((~stays).sum())} examples are to be removed, and a file of labels for --labels "
            "cannot say that; FILE.npz, FILE.csv and folders can."
        )
    if not np.array_equal(examples.kept, np.arange(total)):
        raise ValueError(
            f"apply={str(out)!r}: the run was trained on {len(given)} of {total} examples, and a file for --labels "
            "has a label for each; FILE.npz is accepted."
        )
    partial = out.with_name(out.name + ".partial")
    with open(partial, "wb") as file:
        np.save(file, given.astype(np.int64))
    os.replace(partial, out)


def _write_csv(
    out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray, reviewed: Collection[str]
) -> None:
    if examples.table is None:
        home, everything = out.absolute().parent, _everything(out, examples, given, stays)
        rows = [["path", "label", "split", _REVIEWED]]
        for key, (path, name, part) in everything.items():
            rows.append([_seen_from(home, path), name, part, _YES if key in reviewed else ""])
        needed = (True, True, any(part == "test" for _, _, part in everything.values()), bool(reviewed))
        rows = [list(itertools.compress(row, needed)) for row in rows]
    else:
        rows = _rewritten(out, examples, given, stays, reviewed)
    partial = out.with_name(out.name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    os.replace(partial, out)


def _table(out: pathlib.Path, examples: Examples) -> csv_source.Table:
    """The table that the examples are from; ValueError where it is there no more or has others."""
    assert examples.table is not None
    try:
        table = csv_source.read_table(examples.table, examples.columns)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(examples.table)!r}, which the examples are from, cannot be read: {error}.") from error
    if missing := set(examples.ids) - set(table.ids):
        raise ValueError(
            f"apply={str(out)!r}: {str(examples.table)!r} has not all the run's examples any more; {min(missing)!r} is "
            "not in it."
        )
    return table


def _labels_of(out: pathlib.Path, examples: Examples, table: csv_source.Table) -> tuple[int | None, list[str]]:
    """Which column of a table holds the labels, None where there are only annotators'; and each row's label."""
    if "label" in table.found:
        at = table.header.index(table.found["label"])
        return at, [row[at].strip() for row in table.rows]
    if "label" in table.header:  # which the run was told to pass over, as it would be again
        raise ValueError(
            f"apply={str(out)!r}: the labels are those of annotators, and {str(examples.table)!r} has a column 'label' "
            "that the run did not read; FILE.npz is accepted."
        )
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    said = tables.answers(columns, table.found, repr(str(examples.table)))
    return None, [said.class_names[label] for label in said.labels.tolist()]


def _rewritten(
    out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray, reviewed: Collection[str]
) -> list[list[str]]:
    """The table that the examples are from, with the labels corrected; all else stays as it is.

    Where annotators' labels are all that it has, the labels are a column of their own, which `data.load` takes then.
    """
    table = _table(out, examples)
    if examples.labels is None and not {"path", "id"} & table.found.keys():
        raise ValueError(
            f"apply={str(out)!r}: {str(examples.table)!r} is not as it was when the run read it, and its rows are told "
            "by their number: bring it back, or write FILE.npz."
        )
    at, names = _labels_of(out, examples, table)
    header, rows = table.header, table.rows
    if at is None:
        at, header, rows = len(header), [*header, "label"], [[*row, ""] for row in rows]
    marks = header.index(table.found["reviewed"]) if "reviewed" in table.found else None
    if marks is None and reviewed:
        marks, header, rows = len(header), [*header, _REVIEWED], [[*row, ""] for row in rows]
    assert examples.table is not None
    home, there = out.absolute().parent, examples.table.absolute().parent
    moved = [
        number
        for number, column in enumerate(map(list, zip(*table.rows, strict=True)))
        if home != there and all(cell.strip() and (there / cell.strip()).is_file() for cell in column)
    ]
    place_of = {name: number for number, name in enumerate(examples.ids)}
    found = [header]
    for key, row, name in zip(table.ids, map(list, rows), names, strict=True):
        place = place_of.get(key)
        if key in examples.gone or (place is not None and not stays[place]):
            continue
        if place is not None and (examples.anew or given[place] != examples.given[place]):
            name = examples.class_names[given[place]]
        if row[at].strip() != name:
            row[at] = name
        if marks is not None and key in reviewed:
            row[marks] = _YES
        for number in moved:
            row[number] = _seen_from(home, there / row[number].strip())
        found.append(row)
    return found


def _write_links(out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray) -> None:
    if bad := [name for name in examples.class_names if name in ("", ".", "..") or "/" in name or os.sep in name]:
        raise ValueError(
            f"apply={str(out)!r}: the class {bad[0]!r} cannot be the name of a folder; FILE.csv is accepted."
        )
    everything = _everything(out, examples, given, stays)
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    for path, name, part in everything.values():
        _link(path, partial / part / name / path.name)
    os.replace(partial, out)


def _everything(
    out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray
) -> dict[str, tuple[pathlib.Path, str, str]]:
    """By id every file with its class and its part, "train" or "test"; what was set apart keeps its class.

    Of data without a test part that is in "train": who reads it sets the same apart again.
    """
    listed = _listed(out, examples)
    if lost := [name for name in examples.ids if name not in listed or not listed[name][0].is_file()]:
        raise ValueError(
            f"apply={str(out)!r}: {len(lost)} of the examples are not where they were, the first is {lost[0]!r}; "
            "FILE.npz is accepted."
        )
    found = {
        name: (listed[name][0], examples.class_names[label], "train")
        for name, label, stay in zip(examples.ids, given.tolist(), stays.tolist(), strict=True)
        if stay
    }
    mine = {*examples.ids, *examples.gone}
    return found | {name: each for name, each in listed.items() if name not in mine}


def _listed(out: pathlib.Path, examples: Examples) -> dict[str, tuple[pathlib.Path, str, str]]:
    """By id, all files of the folder or table that the examples are from, with the classes and parts that these say."""
    nothing = f"apply={str(out)!r}: the examples of this run are no files; FILE.npz and FILE.npy are accepted."
    if examples.root is None:
        raise ValueError(nothing)
    try:
        if examples.table is None:
            listing = folder_source.list_examples(examples.root)
        else:
            listing = csv_source.list_examples(examples.table, examples.columns)
    except (OSError, ValueError) as error:
        raise ValueError(f"apply={str(out)!r}: the examples are not where they were: {error}.") from error
    if not listing.stamps:  # which files have
        raise ValueError(nothing)
    names = listing.ids or ()
    paths: Sequence[str | pathlib.Path] = listing.places
    if examples.table is None:  # below the root as it was named, not where links in its path lead
        paths = [examples.root / name for name in names]
    tested = np.zeros(len(names), bool) if listing.is_test is None else listing.is_test
    return {
        name: (pathlib.Path(path), listing.class_names[label], "test" if test else "train")
        for name, path, label, test in zip(names, paths, listing.labels.tolist(), tested.tolist(), strict=True)
    }


def _seen_from(home: pathlib.Path, path: pathlib.Path) -> str:
    """A path as a file in `home` names it: relative below it, else absolute."""
    absolute = pathlib.Path(os.path.abspath(path))
    return (absolute.relative_to(home) if absolute.is_relative_to(home) else absolute).as_posix()


def _link(image: pathlib.Path, place: pathlib.Path) -> None:
    """A link to `image` at `place`, or beside it where another image of that name is."""
    place.parent.mkdir(parents=True, exist_ok=True)
    target, number = place, 1
    while os.path.lexists(target):
        number += 1
        target = place.with_name(f"{place.stem}-{number}{place.suffix}")
    target.symlink_to(os.path.abspath(image))
