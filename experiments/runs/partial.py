"""An epoch that a signal cut, in the run directory: `partial/epoch12/340`, after step 340 of the twelfth epoch.

It is a checkpoint as those of whole epochs are, with the epoch's plan beside the state and its metrics so far among the
meta data. The next whole checkpoint makes it superfluous.
"""

import contextlib
import pathlib
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from robustjax.training import checkpoints, engine, parallel


class Partial(NamedTuple):
    """Where a cut run goes on: `epoch`, 0 for the first, which is not over; the place in it; the caller's meta data."""

    epoch: int
    middle: engine.Middle
    meta: Mapping[str, Any]


def save(path: pathlib.Path, layout: parallel.Layout, cut: engine.Cut, meta: Mapping[str, Any]) -> None:
    """Keep what `cut` tells, with the caller's `meta`, and nothing that was kept so before."""
    tree, numbers = engine.save_middle(layout, cut.middle)
    folder = _folder(path, cut.epoch)
    checkpoints.save(folder, cut.made, tree, {"numbers": numbers, **meta}, keep=1)
    for other in _folders(path).values():
        if other != folder:
            shutil.rmtree(other)


def restore(
    path: pathlib.Path, layout: parallel.Layout, like: Callable[[int], Any], whole: int | None
) -> Partial | None:
    """Where to go on, or None where no epoch was cut since the newest whole checkpoint.

    One that cannot be used is passed over with a `checkpoints.CheckpointWarning`.

    Args:
      path: the run directory.
      layout: how seeds and devices are arranged.
      like: gives, for an epoch, the form of what was saved in it (`engine.middle_like`).
      whole: the epoch of the newest whole checkpoint; None for none.

    Raises:
      checkpoints.CheckpointError: if it cannot be used and all epochs before it would be lost with it.
    """
    epoch = max((epoch for epoch, folder in _folders(path).items() if checkpoints.latest_epoch(folder)), default=-1)
    if epoch < (whole or 0):
        return None
    folder = _folder(path, epoch)
    try:
        saved, meta, _ = checkpoints.restore(folder, like(epoch))
    except checkpoints.CheckpointError as error:
        text = f"what was saved in the middle of epoch {epoch + 1} cannot be used: {folder} is damaged"
        if epoch and whole is None:
            raise checkpoints.CheckpointError(f"{text}, and nothing was saved before it") from error
        warnings.warn(
            f"{text}; the run goes on from what was saved before", checkpoints.CheckpointWarning, stacklevel=2
        )
        return None
    return Partial(epoch, engine.load_middle(layout, saved, meta["numbers"]), meta)


def discard(path: pathlib.Path) -> None:
    """Delete what was saved in the middle of an epoch."""
    for folder in _folders(path).values():
        shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # it is not there, or somebody's own file is in it
        (path / "partial").rmdir()


def _folder(path: pathlib.Path, epoch: int) -> pathlib.Path:
    return path / "partial" / f"epoch{epoch + 1}"


def _folders(path: pathlib.Path) -> dict[int, pathlib.Path]:
    """By the epoch, 0 for the first."""
    found = {folder: re.fullmatch(r"epoch([1-9]\d*)", folder.name) for folder in path.glob("partial/epoch*")}
    return {int(named[1]) - 1: folder for folder, named in found.items() if named}
