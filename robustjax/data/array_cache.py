"""Images and tokens decoded once into .npy files and memory-mapped ever after."""

import errno
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustjax import backend, filesystem

Progress = Callable[[int, int], None]
_META = "meta.json"
_CHUNK = 256
_PARTIAL = ".partial"


class Record(NamedTuple):
    """One decoded example."""

    image: np.ndarray
    """[H, W, C], or int32 [L] tokens."""
    label: int
    order: int
    """Index in the original order of the data set, or -1 where that is unknown."""


class Reader(NamedTuple):
    """One split that can be read in pieces."""

    length: int
    read: Callable[[int, int], Sequence[Record]]
    """`read(start, stop)` decodes the records from start to stop - 1."""


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/robustjax/datasets`, or the same under `~/.cache`."""
    return backend.user_cache_dir() / "datasets"


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of [N, H, W, C], in the images' units; 1 for a constant channel.

    Likewise of each feature of float vectors [N, D]; (0.0,) and (1.0,) for anything else.
    """
    if images.ndim != 4 and (images.ndim != 2 or images.dtype != np.float32):
        return (0.0,), (1.0,)
    axes = tuple(range(images.ndim - 1))
    count = images[..., 0].size
    step = max(1, 2**22 // images[0].size)  # float64 chunks of 32 MB
    chunks = [images[i : i + step] for i in range(0, len(images), step)]
    mean = sum(chunk.sum(axes, dtype=np.float64) for chunk in chunks) / count
    var = sum(np.square(chunk - mean).sum(axes) for chunk in chunks) / count
    std = np.where(var > 1e-12 * np.maximum(1, mean**2), np.sqrt(var), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A uint8 image [H, W, C] at (height, width) `size`, bilinear with antialiasing, not keeping the aspect ratio."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    if image.dtype != np.uint8:
        raise ValueError(f"image_size resizes uint8 images only; these are {image.dtype}")
    channels = [Image.fromarray(image[..., c]) for c in range(image.shape[-1])]
    return np.stack([np.asarray(c.resize(size[::-1], Image.Resampling.BILINEAR)) for c in channels], axis=-1)


def check_image_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) from an int or a pair, or a ValueError."""
    if image_size is None:
        return None
    pair = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ValueError(f"image_size is {image_size!r}; expected a positive int or a pair (height, width) of them")
    return pair


def decode_once(
    folder: Path,
    readers: Mapping[str, Reader],
    *,
    what: str,
    image_size: tuple[int, int] | None = None,
    progress: Progress | None = None,
    more: Callable[[], Mapping[str, np.ndarray]] = dict,
) -> tuple[dict[str, np.ndarray], tuple[float, ...], tuple[float, ...]]:
    """The arrays of every split and the channel statistics of `train`, from `folder`, decoded into it the first time.

    Returns ({"train_images": …, "train_labels": int32, "train_order": int32, …}, mean, std) with whatever arrays `more`
    gives once all records are read; all are read-only and memory-mapped. The folder appears in one move when it is
    complete, so a kill leaves nothing that looks whole, and what it leaves is removed the next time; a damaged one is
    decoded again. progress(done, total) is called
    as records are decoded; without it one line goes to stderr. Raises ValueError, naming `image_size`, where images
    differ in size, and OSError where the cache cannot be written.
    """
    if (found := _open(folder)) is not None:
        return found
    total = sum(reader.length for reader in readers.values())
    if progress is None:
        print(f"robustjax: decoding {what} once ({total:,} examples) into {folder}", file=sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".", suffix=_PARTIAL, dir=folder.parent))
        partial.chmod(0o755)
        lock = filesystem.lock(partial)
    except OSError as error:
        raise _unwritable(what, folder, error) from error
    try:
        done = 0
        for split, reader in readers.items():
            report = functools.partial(_report, progress, done, total)
            _write(partial, split, reader, image_size, what, report)
            done += reader.length
        for name, array in more().items():
            np.save(partial / f"{name}.npy", array)
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(partial.glob("*.npy"))}
        mean, std = channel_statistics(arrays["train_images"])
        specs = {name: [list(array.shape), array.dtype.str] for name, array in arrays.items()}
        (partial / _META).write_text(json.dumps({"arrays": specs, "mean": mean, "std": std}))
        del arrays
        shutil.rmtree(folder, ignore_errors=True)
        try:
            partial.rename(folder)
        except OSError:  # another process has just put its own there: they are equal
            if not folder.is_dir():
                raise
    except OSError as error:
        if filesystem.is_full(error):
            raise _unwritable(what, folder, error) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)
    found = _open(folder)
    if found is None:
        raise OSError(f"the cache of {what} in {folder} cannot be read back")
    return found


def _unwritable(what: str, folder: Path, error: OSError) -> OSError:
    return OSError(
        f"cannot write the cache of {what} under {folder.parent} ({error.strerror or error}): "
        "pass another cache_dir (--cache-dir)"
    )


def _remove_abandoned(parent: Path) -> None:
    """Remove what decodes have left that were killed; those under way are locked, or else all stays."""
    if not filesystem.LOCKS:
        return
    for partial in parent.glob(f".*{_PARTIAL}"):
        try:
            opened = filesystem.lock(partial)
        except OSError:  # another process is at it, or has just removed it
            continue
        shutil.rmtree(partial, ignore_errors=True)
        os.close(opened)


def _open(folder: Path) -> tuple[dict[str, np.ndarray], tuple[float, ...], tuple[float, ...]] | None:
    """The cached arrays, or None where they are missing or damaged."""
    try:
        meta = json.loads((folder / _META).read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["arrays"]}
        if any([list(a.shape), a.dtype.str] != meta["arrays"][name] for name, a in arrays.items()):
            return None
        return {name: np.asarray(a) for name, a in arrays.items()}, tuple(meta["mean"]), tuple(meta["std"])
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _report(progress: Progress | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress(before + done, total)


def _write(
    folder: Path,
    split: str,
    reader: Reader,
    image_size: tuple[int, int] | None,
    what: str,
    report: Callable[[int], None],
) -> None:
    """Decodes one split into `<split>_images.npy`, `_labels.npy` and `_order.npy`, a chunk at a time."""
    labels, order = np.empty(reader.length, np.int32), np.empty(reader.length, np.int32)
    first: np.ndarray | None = None
    # Written, not mapped: on a full disk a mapped file ends the process by a signal.
    with open(folder / f"{split}_images.npy", "wb") as file:
        for start in range(0, reader.length, _CHUNK):
            records = reader.read(start, min(start + _CHUNK, reader.length))
            for i, (image, label, position) in enumerate(records, start):
                image = image if image_size is None else resize(image, image_size)
                if first is None:
                    first = image
                    needed, free = reader.length * image.nbytes, shutil.disk_usage(folder).free
                    if needed > free:
                        said = f"{needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free"
                        raise OSError(errno.ENOSPC, said)
                    np.lib.format.write_array_header_1_0(
                        file,
                        {
                            "descr": np.lib.format.dtype_to_descr(image.dtype),
                            "fortran_order": False,
                            "shape": (reader.length, *image.shape),
                        },
                    )
                if image.shape != first.shape:
                    raise ValueError(
                        f"the images of {what} differ in size: {split} image {i} is {image.shape}, the first is "
                        f"{first.shape}; pass image_size (a side, or height and width) to resize all of them"
                    )
                file.write(image.astype(first.dtype, copy=False).tobytes())
                labels[i], order[i] = label, position
            report(start + len(records))
    if first is None:
        raise ValueError(f"{what} has no images in its {split} split")
    np.save(folder / f"{split}_labels.npy", labels)
    np.save(folder / f"{split}_order.npy", order)
