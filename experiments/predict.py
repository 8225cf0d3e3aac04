"""What a run's networks say of new inputs: `python -m experiments.predict RUN_DIR FILES… > predictions.csv`.

A line an input: its path, the most probable class and that probability, then the probability of every class. Files are
images, decoded and resized as the training images were; folders of them; and `.npy` and `.npz` arrays, a row an input.
Of a run on texts they are folders of `.txt` files, a file a text; a `.txt` file by its own name, a line a text; `.csv`
files with a column of texts; and arrays of token ids. The run's data are not needed.
"""

import argparse
import collections
import csv
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments import launch

if __name__ == "__main__":
    launch.begin()  # before JAX is imported

import numpy as np

from experiments import complaints
from experiments.runs import form, records, restore
from robustjax import filesystem
from robustjax.data import csv_source, image_files, tables, text_files
from robustjax.training import checkpoints

_BATCH = 500
_COLUMNS = ("path", "label", "probability")


class Batch(NamedTuple):
    """Some inputs.

    Attributes:
      names: what each is called in the output.
      inputs: [B, …], as `restore.predict` takes them.
    """

    names: list[str]
    inputs: np.ndarray | list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, see `complaints.run_main`."""
    return complaints.run_main(
        _obey, argv, lambda: vars(_parser().parse_args(["", ""])), failures=(checkpoints.CheckpointError,)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.predict", description=(__doc__ or "").partition("\n\n")[2], allow_abbrev=False
    )
    parser.add_argument("run", metavar="RUN_DIR", help="run directory of a training run")
    parser.add_argument(
        "files", metavar="FILES", nargs="+", help="image files, folders of them, .npy, .npz (or .txt, .csv)"
    )
    add_network_flags(parser)
    parser.add_argument("--skip-bad", action="store_true", help="leave unreadable files out, and count them")
    parser.add_argument("--key", metavar="NAME", help="array of an .npz file with several, column of a .csv file")
    parser.add_argument(
        "--scale", type=float, metavar="X", help="multiply float arrays by X and round: 255 for 0-1 pixels"
    )
    return parser


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which networks of a run are meant, for every command that restores one."""
    parser.add_argument("--seed", type=int, help="the network of this seed; default: the mean over the run's seeds")
    parser.add_argument("--best", action="store_true", help="those with the best validation accuracy, not the last")
    parser.add_argument("--epoch", type=int, help="those of this epoch's checkpoint")
    parser.add_argument("--trust-code", action="store_true", help="run the Python files that the run's settings name")
    parser.add_argument("--data-dir", metavar="DIR", help="TFDS data, for a run without data.json (an old one)")
    parser.add_argument("--cache-dir", metavar="DIR", help="decoded data, likewise")


def restore_networks(options: argparse.Namespace) -> tuple[restore.Trained, int | None]:
    """The run that the flags name, and the number of the seed asked for.

    Raises:
      ValueError: as `restore.restore_model` and `restore.seed_number` do, or for flags that contradict each other.
    """
    if options.best and options.epoch is not None:
        raise ValueError(f"--best and --epoch={options.epoch} contradict each other.")
    run = restore.restore_model(
        options.run, options.epoch, best=options.best, trust_code=options.trust_code,
        data_dir=options.data_dir, cache_dir=options.cache_dir,
    )  # fmt: skip
    return run, restore.seed_number(run, options.seed)


def _obey(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    files = list(map(pathlib.Path, options.files))
    for file in files:  # before the network is read
        if not file.exists():
            raise FileNotFoundError(f"{str(file)!r}: there is no such file or folder.")
    run, seed = restore_networks(options)
    counts: collections.Counter[str] = collections.Counter()
    predict = restore.predictor(run, seed)
    out = csv.writer(sys.stdout, lineterminator="\n")
    for batch in batches(run.form, files, counts, skip_bad=options.skip_bad, key=options.key, scale=options.scale):
        try:
            found = predict(batch.inputs)
        except ValueError as error:
            raise ValueError(f"{batch.names[0]!r}: {error}") from error
        if not counts["done"]:
            out.writerow([*_COLUMNS, *class_columns(run.form.class_names)])
        out.writerows(rows(run.form.class_names, batch.names, found))
        counts["done"] += len(found)
        sys.stdout.flush()
        if getattr(sys.stdout, "left", False):  # | head
            return 0
    if not counts["done"]:
        raise ValueError(f"none of the {counts['skipped']} files can be read.")
    told = [f"{counts['done']} predicted"]
    told += [f"{counts['resized']} of them resized to {'×'.join(map(str, run.form.shape[:2]))}"] * bool(
        counts["resized"]
    )
    told += [f"{counts['skipped']} unreadable ones skipped"] * bool(counts["skipped"])
    print("; ".join(told), file=sys.stderr)
    return 0


def rows(class_names: Sequence[str], names: Sequence[str], probabilities: np.ndarray) -> Iterator[list[str]]:
    """Lines of the table: names [B] and probabilities [B, C]; texts that a spreadsheet would run are quoted."""
    for name, row in zip(names, probabilities, strict=True):
        label = int(np.argmax(row))
        yield [
            records.safe_cell(name), records.safe_cell(class_names[label]), f"{row[label]:.6g}",
            *(f"{share:.6g}" for share in row),
        ]  # fmt: skip


def class_columns(class_names: Sequence[str]) -> list[str]:
    """Headers of the classes' columns: their names, behind "class " where one is the name of another column."""
    prefix = "class " if set(class_names) & set(_COLUMNS) else ""
    return [records.safe_cell(prefix + name) for name in class_names]


def batches(
    wanted: form.Form,
    files: Iterable[pathlib.Path],
    counts: collections.Counter[str],
    *,
    skip_bad: bool = False,
    key: str | None = None,
    scale: float | None = None,
    size: int = _BATCH,
) -> Iterator[Batch]:
    """The inputs in files and folders, in order, `size` at a time: no more images than that are in memory at once.

    Args:
      wanted: what the networks take.
      files: as the command takes them.
      counts: counts what was "resized" and "skipped" so far.
      skip_bad: pass over images and text files that cannot be read.
      key: the array of an `.npz` file with several, or the column of texts of a `.csv` file.
      scale: multiply floats and round them to uint8.
      size: of a batch.

    Raises:
      ValueError: for a file that cannot be read, by its name.
    """
    for kind, group in itertools.groupby(_expanded(files, wanted), lambda each: each[0]):
        of_kind = [file for _, file in group]
        if kind == "images":
            if not wanted.is_image:
                also = ", .txt and .csv" if wanted.vocabulary is not None else ""
                raise ValueError(
                    f"{str(of_kind[0])!r}: the networks were trained on {wanted}; .npy, .npz{also} are accepted."
                )
            read = functools.partial(_image, wanted, counts=counts)
            for names, some in _one_each(of_kind, read, counts, skip_bad, size):
                yield Batch(names, np.stack(some))
            continue
        if kind == "texts":
            for names, some in _one_each(of_kind, text_files.read_text, counts, skip_bad, size):
                yield Batch(names, some)
            continue
        for file in of_kind:
            rows = _lines(file) if kind == "lines" else _column(file, key) if kind == "table" else _array(file, key)
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                names = [f"{file}:{start + i}" for i in range(len(part))]
                yield Batch(names, part if isinstance(part, list) else _scaled(file, part, scale))


def _expanded(files: Iterable[pathlib.Path], wanted: form.Form) -> Iterator[tuple[str, pathlib.Path]]:
    """The files, and those in the folders among them, each with its kind."""
    of_texts = wanted.vocabulary is not None
    for file in files:
        if file.is_dir():
            found = filesystem.files_below(file, (text_files if of_texts else image_files).SUFFIXES)
            if not found:
                raise ValueError(f"{str(file)!r} has no {'.txt' if of_texts else 'image'} files in it.")
            yield from (("texts" if of_texts else "images", each) for each in found)
        else:
            yield _kind(file, of_texts), file


def _kind(file: pathlib.Path, of_texts: bool) -> str:
    suffix = file.suffix.lower()
    if suffix in (".npy", ".npz"):
        return "array"
    return {".txt": "lines", ".csv": "table"}.get(suffix, "images") if of_texts else "images"


def _image(wanted: form.Form, file: pathlib.Path, counts: collections.Counter[str]) -> np.ndarray:
    """An image file as the networks take it, uint8 [H, W, C]."""
    image, resized = image_files.read_image(file, wanted.shape)
    counts["resized"] += resized
    return image


def _one_each(
    files: Sequence[pathlib.Path],
    read: Callable[[pathlib.Path], Any],
    counts: collections.Counter[str],
    skip_bad: bool,
    size: int,
) -> Iterator[tuple[list[str], list[Any]]]:
    """Names and inputs of files that are an input each, `size` at a time; `read` raises ValueError for a bad one."""
    for start in range(0, len(files), size):
        names, found = [], []
        for file in files[start : start + size]:
            try:
                found.append(read(file))
            except ValueError as error:
                if not skip_bad:
                    raise ValueError(f"{error} (--skip-bad leaves such files out)") from error
                counts["skipped"] += 1
                continue
            names.append(str(file))
        if names:
            yield names, found


def _lines(file: pathlib.Path) -> list[str]:
    lines = text_files.read_text(file).split("\n")  # other separators, such as a form feed, are in a line
    return lines if lines[-1] else lines[:-1]


def _column(file: pathlib.Path, key: str | None) -> list[str]:
    """The texts of a CSV file: of the column `key`, or of one with a usual name for them."""
    header, *rows = csv_source.read_rows(file) or [[]]
    header = [name.strip() for name in header]
    what = repr(str(file))
    usual = {} if key is None else {"text": key}
    found = tables.find_columns(header, {"path": "", "features": "", **usual}, what, ())
    if "text" not in found:
        raise ValueError(
            f"{what} has no column of texts, such as text; it has {', '.join(header)}: --key=NAME takes one."
        )
    at = header.index(found["text"])
    if short := [line for line, row in enumerate(rows, 2) if len(row) <= at]:
        raise ValueError(f"{what} has no {found['text']!r} in row {short[0]}.")
    return [row[at] for row in rows]


def _array(file: pathlib.Path, key: str | None) -> np.ndarray:
    """The array in a file, [N, …]; an .npy file's is mapped, not read."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found:
                if (key or len(found.files)) not in (1, *found.files):
                    raise KeyError(f"its arrays are {', '.join(found.files)}: --key=NAME takes one")
                found = found[key or found.files[0]]
        if not found.ndim or not len(found):
            raise ValueError(f"its shape is {list(found.shape)}, without an example")
    except Exception as error:  # NumPy and zipfile raise half a dozen kinds for a damaged file
        raise ValueError(f"{str(file)!r}: {error.args[0] if isinstance(error, KeyError) else error}.") from error
    return np.asarray(found)


def _scaled(file: pathlib.Path, array: np.ndarray, scale: float | None) -> np.ndarray:
    """The array, its floats as uint8 if there is a scale."""
    if scale is None or not np.issubdtype(array.dtype, np.floating):
        return array
    scaled = np.round(array * scale)
    if not (scaled.min() >= 0 and scaled.max() <= 255):
        raise ValueError(
            f"{str(file)!r}: scale={scale:g} takes it from {scaled.min():g} to {scaled.max():g}, not 0 to 255."
        )
    return scaled.astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
