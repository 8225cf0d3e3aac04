"""A folder of images or texts, one sub-folder a class: `CLASS/*.png`, or `train/CLASS/*.png` and `test/CLASS/*.png`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustjax.data import image_files, tables, text_files
from robustjax.data.encoding import natural_key
from robustjax.data.image_files import Listing, stamp
from robustjax.filesystem import files_below

_KINDS = {"images": image_files.SUFFIXES, "texts": text_files.SUFFIXES}


def _class_names(folder: Path) -> tuple[str, ...]:
    """The class folders of a part; those that programs make for themselves are none."""
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    return tuple(sorted((name for name in names if not name.startswith((".", "__"))), key=natural_key))


def _scan(folder: Path, class_names: Sequence[str], suffixes: tuple[str, ...]) -> list[tuple[str, int]]:
    """The path of every file with such a suffix below `folder`, relative to it, with its label, by class and path."""
    found = []
    for label, name in enumerate(class_names):
        found += [(os.path.relpath(path, folder), label) for path in files_below(folder / name, suffixes)]
    return found


def _is_utf8(name: str) -> bool:
    """Whether a file's name is a text; other bytes, of old archives, cannot be written into tables."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Parts(NamedTuple):
    """The folders of a divided set, by their names; None for what is not there."""

    train: str | None
    test: str | None
    unused: str | None
    """A validation part beside a test part."""


def _parts(names: Sequence[str]) -> _Parts:
    """Which of the folders `names` is which part (`tables.PARTS`); a validation part is the test part without one."""
    by_part: dict[str, str] = {}
    for name in names:
        by_part.setdefault(tables.PARTS.get(name.lower(), ""), name)
    tests = [by_part[part] for part in ("test", "validation") if part in by_part]
    return _Parts(by_part.get("train"), *[*tests, None, None][:2])


def list_examples(root: Path) -> Listing:
    """The images of a folder, or its text files where it has no image, with the class that the folder of each names.

    With a folder `train` in it its sub-folders are the classes, and the test part is in `test` or, without that, in
    `validation` (`training`, `Testing`, `valid`, `dev` and the like do as well); without it, or where it has no
    sub-folders but is a class beside others, the sub-folders of the folder itself are. Classes are numbered in
    the natural order of their folders' names. Raises FileNotFoundError where there are no such folders, and ValueError
    for fewer than two classes, a class without a training example or one that only the test part has.
    """
    root = root.resolve()
    wanted = "expected CLASS/ folders with images or texts, or train/CLASS/ and, if there is a test part, test/CLASS/"
    if not root.is_dir():
        raise FileNotFoundError(f"{os.fspath(root)!r} is no folder; {wanted}")
    class_names = _class_names(root)
    parts = _parts(class_names)
    divided = parts.train is not None and bool(
        _class_names(root / parts.train) or {*class_names} <= {parts.train, parts.test, parts.unused}
    )
    test = parts.test if divided else None
    base = root / str(parts.train) if divided else root
    class_names = _class_names(base) if divided else class_names
    if not divided and parts.test is not None and _class_names(root / parts.test):
        raise FileNotFoundError(f"{os.fspath(root)!r} has {parts.test}/CLASS/ and no train/CLASS/ beside it; {wanted}")
    if not class_names:
        raise FileNotFoundError(f"{os.fspath(base)!r} lacks class folders; {wanted}")
    if len(class_names) < 2:
        raise ValueError(f"{os.fspath(base)!r} has 1 class folder, {class_names[0]!r}; expected at least 2")
    found = ((kind, entries) for kind in _KINDS if (entries := _scan(base, class_names, _KINDS[kind])))
    kind, entries = next(found, ("", []))  # images where both are there: texts beside them describe them
    nothing = " or ".join(f"no {each} ({', '.join(_KINDS[each])})" for each in ([kind] if kind else _KINDS))
    empty = sorted(set(range(len(class_names))) - {label for _, label in entries})
    if empty:
        names = ", ".join(class_names[c] for c in empty)
        raise ValueError(f"{os.fspath(base)!r} has {nothing} of {names}")
    paths = [os.path.join(str(parts.train), path) if divided else path for path, _ in entries]
    labels = [label for _, label in entries]
    if test is not None:
        there = _class_names(root / test)
        if unknown := [name for name in there if name not in class_names]:
            raise ValueError(f"{os.fspath(root / test)!r} has the class(es) {', '.join(unknown)}, which train has not")
        tests = _scan(root / test, class_names, _KINDS[kind])
        if not tests:
            raise ValueError(f"{os.fspath(root / test)!r} has {nothing}")
        paths += [os.path.join(test, path) for path, _ in tests]
        labels += [label for _, label in tests]
    if (bad := next((path for path in paths if not _is_utf8(path)), None)) is not None:
        raise ValueError(f"{os.fsencode(os.path.join(root, bad))!r}: the name is not UTF-8; rename it")
    full = [os.path.join(root, path) for path in paths]
    return Listing(
        f"folder:{root.name}",
        np.array(labels, np.int32),
        class_names,
        None if test is None else np.arange(len(paths)) >= len(entries),
        fetch=full.__getitem__,
        places=full,
        stamps=[stamp(path) for path in full],
        ids=tuple(path.replace(os.sep, "/") for path in paths),
        notes=(f"{parts.unused}/ is not used, since there is {parts.test}/.",) if divided and parts.unused else (),
    )
