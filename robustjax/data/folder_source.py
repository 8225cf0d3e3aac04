"""A folder of images, one sub-folder a class: `train/CLASS/*.png`, `test/CLASS/*.png`."""

import contextlib
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustjax.data.array_cache import Progress, Reader, Record, decode_once, resize

if TYPE_CHECKING:  # Pillow is imported where a folder is read
    from PIL.Image import Image

# How pixels become uint8; part of a cache's name, so that what an older way has made of a folder is not used.
_SCHEME = 2
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
Entry = tuple[Path, int]


def _scan(folder: Path, class_names: Sequence[str], *, all_classes: bool) -> list[Entry]:
    """Every image below `folder` with its label, in the order of the paths."""
    paths = image_files(folder, "*/**/*")
    classes = [path.relative_to(folder).parts[0] for path in paths]
    if unknown := sorted(set(classes) - set(class_names)):
        raise ValueError(f"{os.fspath(folder)!r} has the class(es) {', '.join(unknown)}, which train has not")
    empty = sorted(set(class_names) - set(classes))
    if not paths or (empty and all_classes):
        raise ValueError(f"{os.fspath(folder)!r} has no images ({', '.join(sorted(_SUFFIXES))}) of {', '.join(empty)}")
    return list(zip(paths, map(class_names.index, classes), strict=True))


def image_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """The image files below a folder, by their suffix, in the order of the paths."""
    return sorted(p for p in folder.glob(pattern) if p.suffix.lower() in _SUFFIXES and p.is_file())


def read_image(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """An image file as a data set of images of `shape` would hold it: decoded and resized in the same way.

    Args:
      path: the file.
      shape: (H, W, C); of one channel it is read as grey, of three as RGB.

    Returns:
      uint8 [H, W, C], and whether it was resized.

    Raises:
      ValueError: if it is no readable image of 8 or 16 bits.
    """
    pixels = _pixels(path, grey=shape[-1] == 1)
    return resize(pixels, (shape[0], shape[1])), pixels.shape[:2] != tuple(shape[:2])


@contextlib.contextmanager
def _opened(path: Path) -> "Iterator[Image]":
    """The open image file; whatever of it cannot be read becomes a ValueError that names it."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except Exception as error:  # Pillow and its decoders raise half a dozen kinds for a damaged or a huge file
        raise ValueError(f"{os.fspath(path)!r} is not a readable image: {error}") from error


def _is_grey(path: Path) -> bool:
    with _opened(path) as image:
        return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _pixels(path: Path, grey: bool) -> np.ndarray:
    """The image as uint8 [H, W, 1] or [H, W, 3], turned as its EXIF data say; transparent parts are white."""
    from PIL import ImageOps

    with _opened(path) as image:
        _refuse_depth(image)
        array = np.asarray(_eight_bits(ImageOps.exif_transpose(image)).convert("L" if grey else "RGB"))
    return array[..., None] if grey else array


def _refuse_depth(image: "Image") -> None:
    """ValueError for pixels that have no meaning in 8 bits."""
    if image.mode == "I" and image.format != "PNG":  # in which old versions of Pillow give 16 bits as 32
        raise ValueError("it has 32 bits a pixel; 8 and 16 are accepted")
    if image.mode in ("F", "LAB", "HSV"):
        raise ValueError(f"its mode is {image.mode}; grey of 8 or 16 bits, palettes, RGB, CMYK and YCbCr are accepted")


def _eight_bits(image: "Image") -> "Image":
    """The image in a mode that Pillow converts rightly to grey and to RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # of which Pillow's own conversion keeps the lower 8 bits, or cuts at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _decode(entries: Sequence[Entry], grey: bool, start: int, stop: int) -> list[Record]:
    return [Record(_pixels(path, grey), label, -1) for path, label in entries[start:stop]]


def read(
    root: Path, cache_dir: Path, *, image_size: tuple[int, int] | None, progress: Progress | None
) -> tuple[str, dict[str, np.ndarray], tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Name, arrays (see `decode_once`), channel means, standard deviations and class names of a folder.

    Classes are numbered in the order of their folders' names. The test images are in `test`, `validation` or `val`.
    Images are read as grey where all of them are, otherwise as RGB; of 16 bits the upper 8 are kept, transparent parts
    are white, and what EXIF says is turned is turned back. Raises FileNotFoundError where the folders are missing, and
    ValueError for a class without training images, a file that is no readable image of 8 or 16 bits, or images of
    unequal size without `image_size`.
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
    grey = all(_is_grey(path) for path, _ in entries)
    files = [(os.fspath(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path, _ in entries]
    digest = hashlib.sha256(json.dumps([_SCHEME, files, grey, image_size]).encode()).hexdigest()[:16]
    readers = {key: Reader(len(split), functools.partial(_decode, split, grey)) for key, split in splits.items()}
    name = f"folder:{root.name}"
    arrays, mean, std = decode_once(
        cache_dir / "folder" / f"{root.name}-{digest}", readers, what=name, image_size=image_size, progress=progress
    )
    return name, arrays, mean, std, class_names
