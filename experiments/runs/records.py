"""Records on disk: JSON Lines, one object a line, each complete on disk before the next; and JSON files, atomically."""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

PathLike = str | os.PathLike[str]


def append_record(path: PathLike, record: Mapping[str, Any]) -> None:
    """Append one line to a JSON Lines file and force it to disk.

    Arrays become lists, and nan and infinities null, so that any JSON reader accepts the file. A line that an earlier
    process was killed in the middle of is cut off first.
    """
    line = _to_json(record).encode() + b"\n"
    with open(path, "a+b") as file:
        file.seek(0)
        # A last line without its end was never complete: keep what precedes it.
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_records(path: PathLike) -> list[dict[str, Any]]:
    """Read a JSON Lines file; a last line without a line end (the writer was killed) is left out.

    Raises:
      ValueError: a complete line is not JSON (named by its number).
    """
    return [record for _, record in _numbered_records(path)]


def check_epochs(path: PathLike, records: Sequence[Mapping[str, Any]], seeds: Sequence[int], epochs: int) -> None:
    """Compare the records of `path` with those of a run that is `epochs` epochs old: a line for each epoch and seed.

    Raises:
      ValueError: naming the first line that is missing or not that.
    """
    wanted = [(epoch, seed) for epoch in range(1, epochs + 1) for seed in seeds]
    found = [(record.get("epoch"), record.get("seed")) for record in records]
    for number, (now, then) in enumerate(itertools.zip_longest(found, wanted), 1):
        if now != then:
            what, instead = (
                "nothing" if each is None else f"epoch {each[0]} of seed {each[1]}" for each in (then, now)
            )
            raise ValueError(
                f"{path}, line {number}: {instead} where {what} belongs, in the records of {epochs} epochs; bring the "
                "file back, or start anew with --overwrite."
            )


def truncate_records(path: PathLike, last_epoch: int) -> None:
    """Drop the records with ``epoch`` beyond ``last_epoch``, and an incomplete last line, in one atomic step.

    What stays is kept byte for byte, so a resumed run's file ends up as that of a run never interrupted. Does nothing
    if there is no such file.
    """
    if not Path(path).exists():
        return
    kept = [line for line, record in _numbered_records(path) if record.get("epoch", -math.inf) <= last_epoch]
    write_atomic(path, b"".join(kept))


def write_json_atomic(path: PathLike, obj: Any) -> None:
    """Write ``obj`` as indented JSON (nan as null); a reader sees the old file or the whole new one."""
    write_atomic(path, _to_json(obj, indent=2).encode() + b"\n")


def _numbered_records(path: PathLike) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a JSON record")
        yield line, record


def safe_cell(text: str) -> str:
    """A text for a CSV file that spreadsheets open: with a ' before it where they would take it for a formula.

    Examples:
      >>> safe_cell("=HYPERLINK(1)"), safe_cell("cats/1.png")
      ("'=HYPERLINK(1)", 'cats/1.png')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def write_atomic(path: PathLike, content: bytes) -> None:
    """Write a file; a reader sees the old one or the whole new one."""
    temporary = Path(f"{os.fspath(path)}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _to_json(obj: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(obj), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(obj: Any) -> Any:
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(obj).tolist())
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    return os.fspath(obj) if isinstance(obj, os.PathLike) else obj
