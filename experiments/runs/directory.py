"""The run directory: who may write into it, and what a person finds there.

config.json          all settings, resolved; versions; device; git commit; hashes of the data and the labels
data.json            what an input is, and whatever else prediction needs of the data
vocabulary.txt       of texts: the words, a line a token id
examples.npz         `ids`: what the training examples are called where they came from, if that is known
labels-seed0.npz     which examples were kept, and the labels they were given
metrics.jsonl        a line for each epoch and seed
diagnostics/         what the method has found, by class, group and cell: a file for each epoch and seed
findings-seed0.npz   and of each example, after the newest epoch
confusion-seed0.npz  how many test examples of each label are predicted as which class, after the newest epoch
evidence-seed0.npz   what training told about each given label, see `experiments.runs.evidence`
evidence/            the same as far as it had come at each kept checkpoint
validation-seed0.npz the same for what is held out, with --validation-split
cross-fit-seed0.npz  every training example as networks predict it that have not seen it, with --cross-fit
trusted-seed0.npz    and for the trusted examples, with --trusted-examples or --trusted: which, with their true labels
checkpoints/         Orbax
partial/epoch12/340/ Orbax: where a signal stopped the run in the middle of its twelfth epoch
best/seed0/          Orbax: the epoch with the best validation accuracy, with --validation-split
plots/               PNG
suspects.csv         labels that are probably wrong, and what a person has decided about them: no run deletes that
labels.npy, pred_probs.npy, audit.json, report.html    the rest of the audit (`experiments.runs.audit`)
summary.json         written last: it is there when the run is complete
log/                 what a tracker keeps on this machine, with --log (`experiments.runs.trackers`)
config.next.json     the config.json of a run that is overwriting this one at the moment
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.runs import records
from experiments.settings.config import IDENTITY, Config, identity, with_values
from robustjax import filesystem, user_code

_NEXT = "config.next.json"  # the description of a run that overwrites another
# What runs write, their temporary files included, besides config.json: what may be deleted.
_WRITTEN = re.compile(
    r"(summary\.json|metrics\.jsonl|data\.json|audit\.json|vocabulary\.txt|examples\.npz)(\.tmp)?"
    r"|config(\.next)?\.json\.tmp|(labels\.npy|pred_probs\.npy|report\.html)(\.partial)?|suspects\.csv\.partial"
    r"|(labels|validation|trusted|findings|confusion|evidence|cross-fit)-seed\d+\.(npz|(npz\.\d+\.)?partial)"
    r"|plots/[\w-]+\.png|diagnostics/seed\d+-epoch\d+\.npz|evidence/seed\d+-epoch\d+\.(npz|partial)"
    r"|log/(ids\.json(\.tmp)?|tensorboard|wandb|mlflow|mlflow\.db(-\w+)?)"
    r"|(checkpoints|best/seed\d+|partial/epoch\d+)/\d+(\.orbax-checkpoint-tmp.*)?"
)
# In them too, and they are deleted once empty.
_FOLDERS = ("plots", "diagnostics", "evidence", "checkpoints", "best/seed*", "best", "partial/epoch*", "partial", "log")


class RunDirectoryError(ValueError):
    """A run directory that cannot be used as asked."""


def default_path(config: Config) -> pathlib.Path:
    """A name made from the settings, equal for equal ones; what is left to the data's size has no part in it."""
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
    """The summary of a complete run, else None.

    Raises:
      RunDirectoryError: if there is one that is damaged.
    """
    if not (path / "summary.json").exists() or _is_half_overwritten(path):
        return None
    return read_json(path / "summary.json")


def read_settings(path: pathlib.Path) -> Config:
    """The settings of the run in `path`, finished or not; what does not determine its result is at its default.

    Raises:
      RunDirectoryError: if there is no run, or one with settings that this version does not know.
    """
    saved = read_description(path)["settings"]
    unknown = sorted(saved.keys() - {field.name for field in dataclasses.fields(Config)})
    if unknown:
        raise RunDirectoryError(f"{str(path)!r} holds a run of another version, with the setting {unknown[0]!r}.")
    return Config(**saved)


def read_description(path: pathlib.Path) -> dict[str, Any]:
    """What config.json of the run in `path` says: `settings`, and the hashes of data and labels.

    Raises:
      RunDirectoryError: if there is no run, or its description is damaged or somebody else's.
    """
    file = path / "config.json"
    if not file.exists():
        raise RunDirectoryError(f"{str(path)!r} is no run directory: it has no config.json.")
    if _is_half_overwritten(path):
        raise RunDirectoryError(f"{str(path)!r} is being overwritten by another run, or was when that was killed.")
    found = read_json(file)
    settings = found.get("settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("options", {}), dict):
        raise RunDirectoryError(f"{str(path)!r} is no run directory: its config.json is not a run's.")
    return found


def holds_run(path: pathlib.Path) -> bool:
    """Whether something that calls itself a run's description is in `path`."""
    return (path / "config.json").exists()


def check_free(path: pathlib.Path, config: Config) -> bool:
    """Whether the run goes on with one in `path` (`resume`), after a look at what is there; nothing is changed.

    Raises:
      RunDirectoryError: if there is nothing to go on with, or something that the run may not replace.
    """
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"out={str(path)!r} is not a directory; choose another.")
    if not holds_run(path):
        if config.resume:
            raise RunDirectoryError(f"out={str(path)!r} holds no run to go on with: leave out --resume to start one.")
        # A first run that was killed before it had a description leaves only the half of one.
        if path.is_dir() and any(entry.name != "config.json.tmp" for entry in path.iterdir()):
            raise RunDirectoryError(f"out={str(path)!r} is not empty and not a run directory; choose another.")
        return False
    if config.resume:
        check_same(path, config)
        return True
    if not config.overwrite:
        raise RunDirectoryError(
            f"out={str(path)!r} holds an unfinished run; go on with --resume, or start anew with --overwrite."
        )
    _require_ours(path)
    return False


def settle(path: pathlib.Path) -> None:
    """Bring an overwriting to its end that was killed in the middle: the old run goes, the new one has begun.

    Raises:
      RunDirectoryError: if the process that overwrites is still at it.
    """
    if _is_half_overwritten(path):
        with _locked(path):
            _overwrite(path)


@contextlib.contextmanager
def claim(path: pathlib.Path, config: Config, describe: Callable[[], Mapping[str, Any]]) -> Iterator[bool]:
    """Keep `path`, made if absent, for one run; yields whether that goes on with an unfinished run there.

    A complete run in `path` must have been dealt with before (`read_summary`). Two processes that write into one
    directory would spoil each other's records, so it is locked; the lock goes with the process, however it ends.

    To overwrite is one atomic step: once `config.next.json` is there, the directory is the new run's, and all that
    earlier ones wrote is waste; a kill before leaves the old run, and one after it is made good by `settle`.

    Args:
      path: the run directory.
      config: the settings.
      describe: gives what config.json of a new run says.

    Raises:
      RunDirectoryError: if something else is there, or another process is at it. Nothing is changed then.
    """
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        resuming = check_free(path, config)
        if not resuming:
            replaces = holds_run(path)
            records.write_json_atomic(path / (_NEXT if replaces else "config.json"), describe())
            if replaces:
                _overwrite(path)
        yield resuming


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    try:
        folder = filesystem.lock(path)
    except BlockingIOError:
        raise RunDirectoryError(f"out={str(path)!r} is in use by a run that has not ended yet.") from None
    try:
        yield
    finally:
        os.close(folder)


def _is_half_overwritten(path: pathlib.Path) -> bool:
    return (path / _NEXT).exists()


def _overwrite(path: pathlib.Path) -> None:
    """Delete what runs wrote, and nothing else; what is left is the new run's description."""
    _require_ours(path, _NEXT)
    folders = [folder for pattern in _FOLDERS for folder in sorted(path.glob(pattern)) if folder.is_dir()]
    names = {entry.relative_to(path).as_posix() for folder in (path, *folders) for entry in folder.iterdir()}
    for name in sorted(filter(_WRITTEN.fullmatch, names), key=lambda name: (name != "summary.json", name)):
        entry = path / name
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()
    os.replace(path / _NEXT, path / "config.json")


def _require_ours(path: pathlib.Path, name: str = "config.json") -> None:
    """Refuse to delete where the description is somebody else's, or where deleting would reach another place."""
    found = read_json(path / name)
    parts = ((found.get("settings"), "method"), (found.get("environment"), "robustjax"))
    if "labels" not in found or not all(isinstance(part, dict) and key in part for part, key in parts):
        raise RunDirectoryError(
            f"out={str(path)!r} is not a run directory, its {name} is not a run's; nothing is deleted, choose another."
        )
    links = [folder for pattern in _FOLDERS for folder in path.glob(pattern) if folder.is_symlink()]
    if links:
        raise RunDirectoryError(
            f"out={str(path)!r} has {links[0].name!r} as a link to another place, where nothing is deleted; remove "
            "the link, or choose another."
        )


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a run's file.

    Raises:
      RunDirectoryError: if it is none.
    """
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{str(file)!r} is damaged, or not a run's: it is no JSON object.")
    return found


def as_chosen(path: pathlib.Path, config: Config) -> Config:
    """The config with what the run in `path` had chosen by the size of its data, as far as it is left to that again.

    Raises:
      RunDirectoryError: if there is no run, or its description is damaged.
    """
    found = read_description(path)
    settings, chosen = found["settings"], found.get("by_size", {})
    before = {**dataclasses.asdict(Config()), **settings.get("options", {}), **settings}
    return with_values(config, {name: before[name] for name in chosen if name in before})


def check_chosen(path: pathlib.Path, config: Config) -> None:
    """Refuse to leave to the size of data that are gone what the run in `path` was told.

    Raises:
      RunDirectoryError: naming the first such setting.
    """
    if left := as_chosen(path, config).by_size:
        raise RunDirectoryError(
            f"out={str(path)!r} holds a run that was told its {left[0]}, and the data it would now be chosen by are "
            "gone; give the same settings, another --out, or --overwrite."
        )


def check_same(path: pathlib.Path, config: Config) -> None:
    """Compare the settings that determine the result with those of the run in `path`.

    What is left to the size of the data is not compared, unless that run was told it.

    Raises:
      RunDirectoryError: naming the first setting that differs.
    """
    config = as_chosen(path, config)
    before, now = read_description(path)["settings"], json.loads(json.dumps(identity(config)))
    unsaid = dataclasses.asdict(Config())  # by a run that did not know the setting yet
    for name in IDENTITY:
        was, given = (each.get(name, unsaid[name]) for each in (before, now))
        if name == "options":
            was = {option: value for option, value in was.items() if option not in config.by_size}
        if was != given and name not in config.by_size:
            raise RunDirectoryError(
                f"out={str(path)!r} holds a run with {name}={was!r}, not {given!r}; "
                "give the same settings, another --out, or --overwrite."
            )
