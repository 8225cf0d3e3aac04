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

from robustjax.data import corruptions, csv_source

# What decides about labels: of no use beside corrected ones.
_LABELLING = ("dataset", "labels", "noise", "noise_rate", "noise_form", "noise_file", "imbalance", "imbalance_ratio",
              "train_examples", "data_seed", "out", "overwrite", "resume")  # fmt: skip


_REVIEWED, _YES = "reviewed", "yes"  # the column of a CSV file, which `tables.COLUMNS` knows

_TESTS = ("test", "validation", "val")  # folders of test parts, as `data.load` takes them


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
    """

    kept: np.ndarray
    given: np.ndarray
    ids: Sequence[str]
    class_names: Sequence[str]
    total: int | None = None
    labels: np.ndarray | None = None
    root: pathlib.Path | None = None
    table: pathlib.Path | None = None


def write(
    out: pathlib.Path, examples: Examples, changes: Mapping[int, int | None], reviewed: Collection[int] = ()
) -> str:
    """Write corrected labels; returns the flag that trains on them.

    Args:
      out: a file that ends in .npz, .npy or .csv, or a folder that does not exist or is empty.
      examples: as they were.
      changes: by place among `examples`, the new class number; None for one that goes.
      reviewed: places of those that somebody has looked at, which only a CSV file tells.

    Raises:
      ValueError: `out` cannot say what is asked for, or a class is left without an example. Nothing is written.
      FileExistsError: the folder is not empty.
    """
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
        assert examples.root is not None  # or there would be nothing
        rows = [["path", "label", "split", _REVIEWED]]
        for path, name, part in everything:
            seen = path.relative_to(examples.root).as_posix() in reviewed
            rows.append([_seen_from(home, path), name, part, _YES if seen else ""])
        needed = (True, True, any(part == "test" for _, _, part in everything), bool(reviewed))
        rows = [list(itertools.compress(row, needed)) for row in rows]
    else:
        rows = _rewritten(out, examples, given, stays, reviewed)
    partial = out.with_name(out.name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    os.replace(partial, out)


def _rewritten(
    out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray, reviewed: Collection[str]
) -> list[list[str]]:
    """The table that the examples are from, with the labels corrected; all else stays as it is.

    Which columns hold what follows from what they hold: the ids those of all examples, the labels those of most.
    """
    assert examples.table is not None
    try:
        header, *rows = csv_source.read_rows(examples.table)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(examples.table)!r}, which the examples are from, cannot be read: {error}.") from error
    place = {name: number for number, name in enumerate(examples.ids)}
    columns = list(map(list, zip(*rows, strict=True)))
    keyed = [[cell.strip().replace(os.sep, "/") for cell in column] for column in columns]
    keyed.append([str(line) for line in range(2, 2 + len(rows))])  # what features without an id are called
    keys = next((column for column in keyed if place.keys() <= set(column)), None)
    if keys is None:
        raise ValueError(
            f"apply={str(out)!r}: {str(examples.table)!r} has no column with all the run's examples any more."
        )
    before = {number: examples.class_names[label] for number, label in enumerate(examples.given.tolist())}
    known = [(line, place[key]) for line, key in enumerate(keys) if key in place]
    agreeing = [sum(column[line].strip() == before[at] for line, at in known) / len(known) for column in columns]
    labels = int(np.argmax(agreeing))
    if agreeing[labels] < 0.5:
        raise ValueError(
            f"apply={str(out)!r}: no column of {str(examples.table)!r} has the labels; FILE.npz is accepted."
        )
    marks = next((number for number, name in enumerate(header) if name.strip().lower() == _REVIEWED), None)
    if marks is None and reviewed:
        marks, header = len(header), [*header, _REVIEWED]
        rows = [[*row, ""] for row in rows]
    home, there = out.absolute().parent, examples.table.absolute().parent
    moved = [
        number
        for number, column in enumerate(columns)
        if home != there and all(cell.strip() and (there / cell.strip()).is_file() for cell in column)
    ]
    found = [header]
    for line, row in enumerate(rows):
        at = place.get(keys[line])
        if at is not None and not stays[at]:
            continue
        changed = list(row)
        if marks is not None and at is not None and examples.ids[at] in reviewed:
            changed[marks] = _YES
        if at is not None and given[at] != examples.given[at]:
            changed[labels] = examples.class_names[given[at]]
        for number in moved:
            changed[number] = _seen_from(home, there / row[number].strip())
        found.append(changed)
    return found


def _write_links(out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"apply={str(out)!r} is there already, and not an empty folder; choose another.")
    if bad := [name for name in examples.class_names if name in ("", ".", "..") or "/" in name or os.sep in name]:
        raise ValueError(
            f"apply={str(out)!r}: the class {bad[0]!r} cannot be the name of a folder; FILE.csv is accepted."
        )
    everything = _everything(out, examples, given, stays)
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    for path, name, part in everything:
        _link(path, partial / part / name / path.name)
    os.replace(partial, out)


def _everything(
    out: pathlib.Path, examples: Examples, given: np.ndarray, stays: np.ndarray
) -> list[tuple[pathlib.Path, str, str]]:
    """Every file with its class and its part, "train" or "test"; what was set apart keeps its class.

    Of a folder without a test part that is in "train": who reads it sets the same apart again.
    """
    root = examples.root
    if root is None:
        raise ValueError(
            f"apply={str(out)!r}: the examples of this run are no files; FILE.npz and FILE.npy are accepted."
        )
    if lost := [name for name in examples.ids if not (root / name).is_file()]:
        raise ValueError(
            f"apply={str(out)!r}: {len(lost)} of the examples are not where they were, the first is "
            f"{str(root / lost[0])!r}; FILE.npz is accepted."
        )
    found = [
        (root / name, examples.class_names[label], "train")
        for name, label, stay in zip(examples.ids, given.tolist(), stays.tolist(), strict=True)
        if stay
    ]
    if examples.table is not None:
        return found
    divided = (root / "train").is_dir()
    test = next((part for part in _TESTS if (root / part).is_dir()), None) if divided else None
    mine, endings = set(examples.ids), {pathlib.PurePath(name).suffix.lower() for name in examples.ids}
    for path in sorted(root.glob("**/*")):
        inner = path.relative_to(root)
        inside = not divided or inner.parts[0] in ("train", test)
        if inside and inner.as_posix() not in mine and path.suffix.lower() in endings and path.is_file():
            name = inner.parts[1 if divided else 0]
            if name in examples.class_names:
                found.append((path, name, "test" if divided and inner.parts[0] == test else "train"))
    return found


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
