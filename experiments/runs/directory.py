"""The run directory: who may write into it, and what a person finds there.

config.json          all settings, resolved; versions; device; git commit
labels-seed0.npz     which examples were kept, and the labels they were given
metrics.jsonl        a line for each epoch and seed
diagnostics/         what the method has found, by class, group and cell: a file for each epoch and seed
findings-seed0.npz   and of each example, after the newest epoch
validation-seed0.npz the same for what is held out, with --validation-split
trusted-seed0.npz    and for the trusted examples, with --trusted-examples or --trusted: which, with their true labels
checkpoints/         Orbax
best/seed0/          Orbax: the epoch with the best validation accuracy, with --validation-split
plots/               PNG
summary.json         written last: it is there when the run is complete
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

try:
    import fcntl
except ImportError:  # not a POSIX system: there the directory is not locked
    fcntl = None  # type: ignore[assignment, unused-ignore]

from experiments.settings.config import IDENTITY, Config, identity
from robustjax import user_code


class RunDirectoryError(ValueError):
    """A run directory that cannot be used as asked."""


def default_path(config: Config) -> pathlib.Path:
    """A name made from the settings, equal for equal settings."""
    corruption = [
        f"{kind}{amount:g}"
        for kind, amount in ((config.noise, config.noise_rate), (config.imbalance, config.imbalance_ratio))
        if kind != "none"
    ]
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:8]
    dataset = "".join(c if c.isalnum() or c in "-_." else "_" for c in config.dataset)
    method = user_code.short_name(config.method)
    return pathlib.Path("runs") / "-".join([dataset, method, *corruption, f"seed{config.seed}", digest])


def best_folder(path: pathlib.Path, seed: int) -> pathlib.Path:
    """Where the checkpoint of a seed's best epoch on validation labels lies."""
    return path / "best" / f"seed{seed}"


def read_summary(path: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a complete run, else None."""
    file = path / "summary.json"
    return json.loads(file.read_text()) if file.exists() else None


def read_settings(path: pathlib.Path) -> Config:
    """The settings of the run in `path`, finished or not; what does not determine its result is at its default.

    Raises:
      RunDirectoryError: if there is no run, or one with settings that this version does not know.
    """
    file = path / "config.json"
    if not file.exists():
        raise RunDirectoryError(f"{str(path)!r} is no run directory: it has no config.json.")
    saved = json.loads(file.read_text())["settings"]
    unknown = sorted(saved.keys() - {field.name for field in dataclasses.fields(Config)})
    if unknown:
        raise RunDirectoryError(f"{str(path)!r} holds a run of another version, with the setting {unknown[0]!r}.")
    return Config(**saved)


@contextlib.contextmanager
def claim(path: pathlib.Path, config: Config) -> Iterator[bool]:
    """Keep `path`, made if absent, for one run; yields whether that goes on with an unfinished run there.

    A complete run in `path` must have been dealt with before (`read_summary`). Two processes that write into one
    directory would spoil each other's records, so it is locked; the lock goes with the process, however it ends.

    Raises:
      RunDirectoryError: if something else is there, or another process is at it. Nothing is changed then.
    """
    path.mkdir(parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            if fcntl is not None:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(f"out={str(path)!r} is in use by a run that has not ended yet.") from None
        yield _make_room(path, config)
    finally:
        os.close(folder)


def _make_room(path: pathlib.Path, config: Config) -> bool:
    """Empty the directory if asked; True if it holds a run to go on with."""
    if config.overwrite and (path / "config.json").exists():
        for entry in path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if not any(path.iterdir()):
        return False
    if not (path / "config.json").exists():
        raise RunDirectoryError(f"out={str(path)!r} is not empty and not a run directory; choose another.")
    if not config.resume:
        raise RunDirectoryError(
            f"out={str(path)!r} holds an unfinished run; go on with --resume, or start anew with --overwrite."
        )
    check_same(path, config)
    return True


def check_same(path: pathlib.Path, config: Config) -> None:
    """Compare the settings that determine the result with those of the run in `path`.

    Raises:
      RunDirectoryError: naming the first setting that differs.
    """
    before, now = json.loads((path / "config.json").read_text())["settings"], json.loads(json.dumps(identity(config)))
    unsaid = dataclasses.asdict(Config())  # by a run that did not know the setting yet
    for name in IDENTITY:
        was, given = (each.get(name, unsaid[name]) for each in (before, now))
        if was != given:
            raise RunDirectoryError(
                f"out={str(path)!r} holds a run with {name}={was!r}, not {given!r}; "
                "give the same settings, another --out, or --overwrite."
            )
