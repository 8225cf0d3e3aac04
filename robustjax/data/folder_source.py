"""A folder of images, one sub-folder a class: `train/CLASS/*.png`, `test/CLASS/*.png`."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustjax.data.array_cache import Progress, Reader, Record, decode_once

if TYPE_CHECKING:  # Pillow is imported where a folder is read
    from PIL.Image import Image

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
Entry = tuple[Path, int]


def _scan(folder: Path, class_names: Sequence[str], *, all_classes: bool) -> list[Entry]:
    """Every image below `folder` with its label, in the order of the paths."""
    paths = sorted(p for p in folder.glob("*/**/*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    classes = [path.relative_to(folder).parts[0] for path in paths]
    if unknown := sorted(set(classes) - set(class_names)):
        raise ValueError(f"{os.fspath(folder)!r} has the class(es) {', '.join(unknown)}, which train has not")
    empty = sorted(set(class_names) - set(classes))
    if not paths or (empty and all_classes):
        raise ValueError(f"{os.fspath(folder)!r} has no images ({', '.join(sorted(_SUFFIXES))}) of {', '.join(empty)}")
    return list(zip(paths, map(class_names.index, classes), strict=True))


@contextlib.contextmanager
def _opened(path: Path) -> "Iterator[Image]":
    """The open image file; whatever of it cannot be read becomes a ValueError that names it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except OSError as error:
        raise ValueError(f"{os.fspath(path)!r} is not a readable image: {error}") from error


def _mode(path: Path) -> str:
    """Pillow's name of how the file holds its pixels."""
    with _opened(path) as image:
        return image.mode


def _pixels(path: Path, mode: str) -> np.ndarray:
    """The image as uint8 [H, W, C] in the mode, L or RGB."""
    with _opened(path) as image:
        array = np.asarray(image.convert(mode))
    return array[..., None] if mode == "L" else array


def _decode(entries: Sequence[Entry], mode: str, start: int, stop: int) -> list[Record]:
    return [Record(_pixels(path, mode), label, -1) for path, label in entries[start:stop]]


def read(
    root: Path, cache_dir: Path, *, image_size: tuple[int, int] | None, progress: Progress | None
) -> tuple[str, dict[str, np.ndarray], tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Name, arrays (see `decode_once`), channel means, standard deviations and class names of a folder.

    Classes are numbered in the order of their folders' names. The test images are in `test`, `validation` or `val`.
    Images are read as grey where all of them are, otherwise as RGB. Raises FileNotFoundError where the folders are
    missing, and ValueError for a class without training images, an unreadable file, or images of unequal size without
    `image_size`.
    """
    root = root.resolve()
    test = next((part for part in ("test", "validation", "val") if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        raise FileNotFoundError(f"{os.fspath(root)!r} lacks train/CLASS/ or test/CLASS/ (or validation, val) folders")
    class_names = tuple(sorted(path.name for path in (root / "train").iterdir() if path.is_dir()))
    if len(class_names) < 2:
        raise ValueError(f"{os.fspath(root / 'train')!r} has {len(class_names)} class folder(s); expected at least 2")
    splits = {
        "train": _scan(root / "train", class_names, all_classes=True),
        "test": _scan(root / test, class_names, all_classes=False),
    }
    entries = [entry for split in splits.values() for entry in split]
    mode = "L" if all(_mode(path) in ("1", "L") for path, _ in entries) else "RGB"
    files = [(os.fspath(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path, _ in entries]
    digest = hashlib.sha256(json.dumps([files, mode, image_size]).encode()).hexdigest()[:16]
    readers = {key: Reader(len(split), functools.partial(_decode, split, mode)) for key, split in splits.items()}
    name = f"folder:{root.name}"
    arrays, mean, std = decode_once(
        cache_dir / "folder" / f"{root.name}-{digest}", readers, what=name, image_size=image_size, progress=progress
    )
    return name, arrays, mean, std, class_names
