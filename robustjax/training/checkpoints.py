"""Checkpoints of a run: one pytree and one JSON dictionary an epoch, written by Orbax.

A checkpoint holds three items: ``state`` (every leaf of the state), ``meta`` (a JSON dictionary of the caller) and
``leaves``: name, dtype and shape of every leaf, by which a foreign checkpoint is recognised before anything is read,
and checksums of every leaf, of ``meta`` and of this item itself, by which a damaged one is.
Orbax writes into a temporary folder and renames it when complete, so a killed process leaves the previous one intact.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

PathLike = str | os.PathLike[str]
SaveFunction = Callable[[int, Any, Mapping[str, Any]], None]


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another model, method or setting."""


class CheckpointWarning(UserWarning):
    """A checkpoint is passed over."""


class _DamageError(Exception):
    """What was read is not what was written."""


@contextlib.contextmanager
def open_writer(directory: PathLike, *, keep: int = 2, background: bool = False) -> Iterator[SaveFunction]:
    """Open a folder of checkpoints and yield ``save(epoch, state, meta)``.

    Leftovers of a killed save are removed. On leaving the context a save still under way is waited for.

    Args:
      directory: the folder; made if absent.
      keep: how many of the newest checkpoints stay.
      background: return as soon as the state is copied to the host, and write from a thread.

    Raises:
      ValueError: ``keep`` is below 1.
      CheckpointError: by ``save``, if the folder already holds this or a later epoch (see ``discard_after``).
      OSError: by ``save``, if it cannot be written; the ones before it are as they were.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    with _manager(
        directory, max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=background
    ) as manager:

        def save(epoch: int, state: Any, meta: Mapping[str, Any]) -> None:
            newest = manager.latest_step()
            if newest is not None and newest >= epoch:
                raise CheckpointError(
                    f"cannot save epoch {epoch} in {directory}: it already holds epoch {newest}; "
                    "resume from it, discard the later epochs, or choose another directory"
                )
            sealed = _sealed(state, meta)
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(_nonempty(state)),
                meta=ocp.args.JsonSave(dict(meta)),
                leaves=ocp.args.JsonSave(sealed),
            )
            try:
                with _finishing_loops():
                    manager.save(epoch, args=items)
            except Exception as error:  # Orbax's many exception types are not documented
                raise _unwritten(error, epoch, directory) from error

        yield save


def save(directory: PathLike, epoch: int, state: Any, meta: Mapping[str, Any], *, keep: int = 2) -> None:
    """Write one checkpoint and return when it is complete on disk.

    Args:
      directory: the folder of checkpoints; made if absent.
      epoch: number of the checkpoint, larger than any in the folder.
      state: any pytree of arrays; typed PRNG keys, NamedTuples and empty containers included.
      meta: a JSON dictionary.
      keep: how many of the newest checkpoints stay.

    Raises:
      CheckpointError: the folder already holds this or a later epoch.
      OSError: it cannot be written; the ones before it are as they were.
    """
    with open_writer(directory, keep=keep) as write:
        write(epoch, state, meta)


def latest_epoch(directory: PathLike) -> int | None:
    """Return the newest completely written epoch, or None if there is none (half-written ones do not count)."""
    return max(_epochs(directory), default=None)


def discard_after(directory: PathLike, epoch: int) -> None:
    """Delete the checkpoints later than ``epoch``: after falling back past a damaged one, before training goes on."""
    if not any(found > epoch for found in _epochs(directory)):
        return
    with _manager(directory) as manager:
        for later in [found for found in manager.all_steps() if found > epoch]:
            manager.delete(later)


def restore(directory: PathLike, abstract_state: Any, epoch: int | None = None) -> tuple[Any, dict[str, Any], int]:
    """Read a checkpoint onto the devices of ``abstract_state``; nothing in the folder is changed.

    Without ``epoch`` the newest good checkpoint is read: a half-written or damaged one is passed over with a
    `CheckpointWarning`, a sentence. Of checkpoints that an earlier version wrote, without checksums, only that they can
    be read is known.

    Args:
      directory: the folder of checkpoints.
      abstract_state: a pytree of arrays or ``jax.ShapeDtypeStruct`` like the saved one. Its shardings say where the
        leaves go, whatever devices wrote them; a leaf without a sharding goes to the first local device.
      epoch: the epoch wanted; default the newest.

    Returns:
      state, meta and the epoch they are from.

    Raises:
      CheckpointError: there is no checkpoint, none can be read, or it is not of this state (the message names the
        first leaf that differs).
    """
    epochs = sorted(_epochs(directory), reverse=True)
    if epoch is not None and epoch not in epochs:
        raise CheckpointError(f"no checkpoint of epoch {epoch} in {directory}; there are {sorted(epochs) or 'none'}")
    if not epochs:
        raise CheckpointError(f"no complete checkpoint in {directory}")
    for name in _half_written(directory):
        warnings.warn(f"ignored the half-written checkpoint {name} in {directory}", CheckpointWarning, stacklevel=2)

    target = jax.tree.map(_placed, abstract_state)
    with _finishing_loops(), _manager(directory, read_only=True) as manager:
        for candidate in epochs if epoch is None else [epoch]:
            # Whatever Orbax raises here means unreadable; its many exception types are not documented.
            try:
                return *_read(manager, candidate, target, f"{directory}, epoch {candidate}"), candidate
            except CheckpointError:
                raise
            except _DamageError as error:
                reason = str(error)
            except Exception as error:
                reason = f"it cannot be read: {type(error).__name__}"
            damage = f"the checkpoint of epoch {candidate} in {directory} is damaged ({reason})"
            if candidate == epochs[-1] or epoch is not None:
                raise CheckpointError(f"{damage}, and there is no earlier one to use")
            warnings.warn(f"{damage}; the one before it is tried", CheckpointWarning, stacklevel=2)
    raise AssertionError("unreachable: the loop returns or raises")


def _read(manager: ocp.CheckpointManager, epoch: int, target: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """State and meta of an epoch, with their checksums compared."""
    described = manager.restore(epoch, args=ocp.args.Composite(leaves=ocp.args.JsonRestore())).leaves
    sealed = _is_sealed(described)
    if sealed and _unsealed(described) != described["own"]:
        raise _DamageError("the list of its leaves does not match its checksum")
    _require_same(described["leaves"] if sealed else described, _describe(target), where)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(_nonempty(target)), meta=ocp.args.JsonRestore())
    restored = manager.restore(epoch, args=items)
    state = _refilled(target, restored.state)
    if sealed:
        if _json_checksum(restored.meta) != described["meta"]:
            raise _DamageError("its meta data do not match their checksum")
        for name, leaf in _named(state).items():
            if _checksum(leaf) != described["checksums"][name]:
                raise _DamageError(f"leaf {name!r} does not match its checksum")
    return state, restored.meta


def _unwritten(error: Exception, epoch: int, directory: PathLike) -> Exception:
    """What a failed save is: an OSError with the folder's name where a system call has failed."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
    number = int(code[1]) if code else getattr(error, "errno", None)
    if number is not None:
        return OSError(number, os.strerror(number), os.fspath(directory))
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return CheckpointError(f"the checkpoint of epoch {epoch} cannot be written in {directory}: {reason}")


def _epochs(directory: PathLike) -> list[int]:
    if not Path(directory).is_dir():
        return []
    with _silent_orbax():
        return list(ocp.utils.checkpoint_steps(Path(directory).absolute()))


def _half_written(directory: PathLike) -> list[str]:
    return sorted(path.name for path in Path(directory).glob("*.orbax-checkpoint-tmp*"))


def _nonempty(tree: Any) -> Any:
    # Orbax refuses arrays without elements; nothing of them needs saving.
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, tree)


def _refilled(target: Any, restored: Any) -> Any:
    def fill(wanted: jax.ShapeDtypeStruct, leaf: jax.Array | None) -> jax.Array:
        return jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding) if leaf is None else leaf

    return jax.tree.map(fill, target, restored)


def _named(tree: Any) -> dict[str, Any]:
    """Every leaf by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _describe(tree: Any) -> dict[str, str]:
    """Name, dtype and shape of every leaf: what must agree for a checkpoint to fit."""
    return {name: _spec(name, leaf) for name, leaf in _named(tree).items()}


def _spec(name: str, leaf: Any) -> str:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise TypeError(f"state leaf {name!r} must be an array, got {type(leaf).__name__}")
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _sealed(state: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the item ``leaves`` says: the leaves, and the checksums of them, of ``meta`` and of itself (``own``)."""
    leaves = _describe(state)
    sums = {name: _checksum(leaf) for name, leaf in _named(state).items()}
    item = {"leaves": leaves, "checksums": sums, "meta": _json_checksum(dict(meta))}
    return {**item, "own": _json_checksum(item)}


def _is_sealed(item: Mapping[str, Any]) -> bool:
    # Earlier versions wrote the leaves alone, each a text: what is not that must be sealed, however damaged.
    return not all(isinstance(value, str) for value in item.values())


def _unsealed(item: Mapping[str, Any]) -> str:
    return _json_checksum({name: value for name, value in item.items() if name != "own"})


def _checksum(leaf: Any) -> str:
    """CRC-32 of a leaf's bytes: of what damages a disk or a copy, one in four billion goes unnoticed."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return f"{zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data):08x}"


def _json_checksum(obj: Any) -> str:
    return f"{zlib.crc32(json.dumps(json.loads(json.dumps(obj)), sort_keys=True).encode()):08x}"


def _require_same(found: Mapping[str, str], expected: Mapping[str, str], where: str) -> None:
    for name in [*expected, *(name for name in found if name not in expected)]:
        if found.get(name) != expected.get(name):
            raise CheckpointError(
                f"the checkpoint in {where} is of another model, method or setting: leaf {name!r} is "
                f"{found.get(name, 'absent')} there and {expected.get(name, 'absent')} here; nothing was changed"
            )


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    dtype = leaf.dtype if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else np.asarray(leaf).dtype
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=sharding)


@contextlib.contextmanager
def _manager(directory: PathLike, **options: Any) -> Iterator[ocp.CheckpointManager]:
    with _silent_orbax():
        settings = ocp.CheckpointManagerOptions(**options)
        with ocp.CheckpointManager(Path(directory).absolute(), options=settings) as manager:
            yield manager


class _FinishingLoop(asyncio.SelectorEventLoop):
    """An event loop whose tasks are over when it closes."""

    def close(self) -> None:
        tasks = set() if self.is_closed() or self.is_running() else asyncio.all_tasks(self)
        if tasks:
            over, _ = self.run_until_complete(asyncio.wait(tasks, timeout=60))
            for task in over:
                task.cancelled() or task.exception()  # seen, so that nobody reports it
        super().close()


@contextlib.contextmanager
def _finishing_loops() -> Iterator[None]:
    """Orbax does all leaves at once and leaves at the first failure; each other one would report a closed loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of policies, since Python 3.14
        before = asyncio.get_event_loop_policy()
        ours = type("Policy", (type(before),), {"new_event_loop": lambda self: _FinishingLoop()})
        asyncio.set_event_loop_policy(ours())
        try:
            yield
        finally:
            asyncio.set_event_loop_policy(before)


@contextlib.contextmanager
def _silent_orbax() -> Iterator[None]:
    """Orbax reports every step of its work through absl (and asyncio); only our own messages are for the user."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    restores = True
    try:
        yield
    except OSError:  # threads of Orbax's are still to tell of what could not be written
        restores = False
        raise
    finally:
        for logger, level in zip(loggers, before, strict=True) if restores else ():
            logger.setLevel(level)
