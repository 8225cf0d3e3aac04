"""Image files of any kind and size, listed with their labels, as arrays: decoded once, like a data set by name."""

import contextlib
import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustjax.data.array_cache import Progress, Reader, Record, decode_once, resize
from robustjax.data.held_out import hold_out_test
from robustjax.filesystem import files_below

if TYPE_CHECKING:  # Pillow is imported where images are read
    from PIL.Image import Image

# How pixels become uint8; part of a cache's name, so that what an older way has made of the files is not used.
_SCHEME = 2
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Images of one size are left as they are up to _KEPT pixels a side. Where a size has to be chosen it is at most
# _CHOSEN, at which some thousands of images still train on a CPU.
_KEPT, _CHOSEN = 256, 64
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values for which height and width change places
_THREADS, _AT_ONCE = 8, 4096
Source = str | bytes
"""An image: the path of its file, or what is in it."""


class Listing(NamedTuple):
    """Examples with what is said of them, before any image is opened."""

    name: str
    """Of the data set."""
    labels: np.ndarray
    """int32 [N]."""
    class_names: tuple[str, ...]
    is_test: np.ndarray | None
    """bool [N]; None where there is no test part."""
    fetch: Callable[[int], Source] = "".__getitem__
    """Image number i."""
    places: Sequence[str] = ()
    """What messages call the images, N of them: their paths, say."""
    stamps: Sequence[str] = ()
    """What changes when an image does, N of them; part of the cache's name."""
    inputs: np.ndarray | None = None
    """float32 [N, D]: features in place of images."""
    texts: tuple[str, ...] | None = None
    """N of them, in place of images."""
    ids: tuple[str, ...] | None = None
    true_labels: np.ndarray | None = None
    """int32 [N]."""
    groups: np.ndarray | None = None
    """int32 [N]."""
    annotations: np.ndarray | None = None
    """int32 [N, A]."""
    reviewed: np.ndarray | None = None
    """bool [N]."""
    notes: tuple[str, ...] = ()
    """Sentences on what was decided."""

    def take(self, kept: np.ndarray) -> "Listing":
        """Of the images `kept`, int [M]."""
        numbers = kept.tolist()

        def some(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[kept]

        return self._replace(
            labels=self.labels[kept],
            is_test=some(self.is_test),
            fetch=lambda i: self.fetch(numbers[i]),
            places=[self.places[i] for i in numbers] if self.places else (),
            stamps=[self.stamps[i] for i in numbers] if self.stamps else (),
            texts=None if self.texts is None else tuple(self.texts[i] for i in numbers),
            ids=None if self.ids is None else tuple(self.ids[i] for i in numbers),
            true_labels=some(self.true_labels),
            groups=some(self.groups),
            annotations=some(self.annotations),
            reviewed=some(self.reviewed),
        )


class Survey(NamedTuple):
    """What is known of images once each has been opened."""

    sizes: np.ndarray
    """int32 [N, 2]: height and width as they are seen."""
    grey: np.ndarray
    """bool [N]."""
    bad: dict[int, str]
    """What is wrong with those that cannot be read, by their number."""


def stamp(path: str) -> str:
    """What tells whether a file has changed; "" where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


@contextlib.contextmanager
def _opened(source: Source) -> "Iterator[Image]":
    """The open image; whatever of it cannot be read becomes a ValueError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
    except FileNotFoundError as error:
        raise ValueError("there is no such file") from error
    except UnidentifiedImageError as error:
        raise ValueError("not a readable image: of no known format, or damaged") from error
    except Exception as error:  # Pillow and its decoders raise half a dozen kinds for a damaged or a huge file
        raise ValueError(f"not a readable image: {error}") from error


def _look(source: Source, deep: bool) -> tuple[int, int, bool]:
    """Height, width and whether it is grey, by the file's head; `deep` decodes it too."""
    with _opened(source) as image:
        _refuse_depth(image)
        grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        # A PNG would be decoded for its orientation, which is rare in one: the size is then that of most, or is chosen.
        turned = image.format != "PNG" and image.getexif().get(_ORIENTATION) in _TURNED
        width, height = image.size[::-1] if turned else image.size
        if deep:
            image.load()
    return height, width, grey


def pixels(source: Source, grey: bool) -> np.ndarray:
    """The image as uint8 [H, W, 1] or [H, W, 3], turned as its EXIF data say; transparent parts are white.

    Of 16 bits the upper 8 are kept. Raises ValueError for what is no readable image of 8 or 16 bits.
    """
    from PIL import ImageOps

    with _opened(source) as image:
        _refuse_depth(image)
        array = np.asarray(_eight_bits(ImageOps.exif_transpose(image)).convert("L" if grey else "RGB"))
    return array[..., None] if grey else array


def list_files(folder: Path) -> list[Path]:
    """The image files below a folder, by their suffix, in the order of the paths."""
    return files_below(folder, SUFFIXES)


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
    try:
        found = pixels(os.fspath(path), grey=shape[-1] == 1)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r}: {error}") from error
    return resize(found, (shape[0], shape[1])), found.shape[:2] != tuple(shape[:2])


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


def survey(listing: Listing, *, deep: bool = False) -> Survey:
    """Opens every image and reads its head; `deep` decodes it too, so that one that is cut short is found out."""

    def look(i: int) -> tuple[int, int, bool] | str:
        try:
            return _look(listing.fetch(i), deep)
        except ValueError as error:
            return str(error)

    count = len(listing.labels)
    found: list[tuple[int, int, bool] | str] = []
    with ThreadPoolExecutor(_THREADS) as pool:  # Pillow decodes without Python's lock
        for start in range(0, count, _AT_ONCE):  # what is to be done takes memory too
            found += pool.map(look, range(start, min(start + _AT_ONCE, count)))
    bad = {i: each for i, each in enumerate(found) if isinstance(each, str)}
    rows = np.array([(0, 0, True) if isinstance(each, str) else each for each in found], np.int32).reshape(-1, 3)
    return Survey(rows[:, :2], rows[:, 2].astype(bool), bad)


def choose_size(sizes: np.ndarray) -> tuple[int, int]:
    """The (height, width) to which images of these sizes, int [N, 2], are resized if nobody says to which.

    Images of one size keep it, up to 256 pixels a side. Others take the median height and width (the square between
    the two, where they differ by less than a third), made smaller, if need be, so that no side is above 64, and a
    multiple of 4 from 16 on, since networks halve the sides.

    >>> choose_size(np.array([[28, 28]] * 3)), choose_size(np.array([[375, 500], [333, 500], [500, 375]]))
    ((28, 28), (48, 64))
    """
    if (sizes == sizes[0]).all() and sizes[0].max() <= _KEPT:
        return int(sizes[0, 0]), int(sizes[0, 1])
    sides = np.median(sizes, 0)
    if 4 * sides.min() > 3 * sides.max():
        sides = np.full(2, np.sqrt(sides.prod()))
    sides = sides * min(1.0, _CHOSEN / sides.max())
    sides = np.where(sides >= 16, 4 * np.rint(sides / 4), np.maximum(np.rint(sides), 1)).astype(int)
    return int(sides[0]), int(sides[1])


def _said(sizes: np.ndarray, chosen: tuple[int, int]) -> tuple[str, ...]:
    """What has been chosen and why; nothing where all stay as they are."""
    if (sizes == sizes[0]).all():
        if tuple(sizes[0]) == chosen:
            return ()
        which = f"images of {sizes[0, 0]}×{sizes[0, 1]} pixels are large"
    else:
        areas = sizes.prod(1)
        least, most = sizes[areas.argmin()], sizes[areas.argmax()]
        middle = np.median(sizes, 0)
        which = (
            f"images differ in size (height×width from {least[0]}×{least[1]} to {most[0]}×{most[1]}, median "
            f"{middle[0]:g}×{middle[1]:g})"
        )
    return (f"{which}: all are resized to {chosen[0]}×{chosen[1]}; image_size sets another size.",)


def read(
    listing: Listing,
    cache_dir: Path,
    *,
    image_size: tuple[int, int] | None,
    skip_bad: bool,
    hold_out: bool,
    progress: Progress | None,
) -> tuple[Listing, dict[str, np.ndarray], tuple[float, ...], tuple[float, ...]]:
    """The images of a listing: what is left of it, arrays (see `decode_once`), channel means and deviations.

    Images are read as grey where all of them are, otherwise as RGB; of 16 bits the upper 8 are kept, transparent parts
    are white, what EXIF says is turned is turned back, and those of unequal size are resized (`choose_size`). Where
    the listing has no test part, some examples become one (`divide`). What was decided is in its `notes`.

    Raises ValueError for images that cannot be read, naming the first, unless `skip_bad`, which leaves them out; and
    for a class that is left without a training example.
    """
    slug = "".join(c if c.isalnum() or c in "-_." else "_" for c in listing.name.partition(":")[2])
    folder = cache_dir / listing.name.partition(":")[0]
    listing, known = _readable(listing, _surveyed(listing, folder, slug, skip_bad), skip_bad)
    listing = divide(listing, hold_out)
    is_test = np.asarray(listing.is_test)
    size = choose_size(known.sizes) if image_size is None else image_size
    if image_size is None:
        listing = listing._replace(notes=(*listing.notes, *_said(known.sizes, size)))
    grey = bool(known.grey.all())
    digest = _digest(listing, [grey, size, np.packbits(is_test).tobytes().hex()])
    parts = {"train": ~is_test, "test": is_test}
    readers = {key: _reader(listing, chosen, grey) for key, chosen in parts.items() if chosen.any()}
    arrays, mean, std = decode_once(
        folder / f"{slug}-{digest}", readers, what=listing.name, image_size=size, progress=progress
    )
    return listing, arrays, mean, std


def divide(listing: Listing, hold_out: bool = True) -> Listing:
    """With a test part: one that is held out where there is none (`hold_out_test`), or an empty one.

    Raises ValueError for a class without a training example, or where nothing can be held out.
    """
    is_test = listing.is_test
    if is_test is None and not hold_out:
        is_test = np.zeros(len(listing.labels), bool)
        listing = listing._replace(is_test=is_test)
    if is_test is None:
        is_test = hold_out_test(listing.labels, len(listing.class_names), _known_by(listing))
        if not is_test.any():
            raise ValueError(
                f"{listing.name} has no test part, and no class has 3 examples, of which 1 can be held out"
            )
        whose = "as given, so some may be wrong" if listing.true_labels is None else "the true ones"
        said = (
            f"there is no test part: {is_test.sum():,} of {len(is_test):,} examples ({100 * is_test.mean():.0f} %), "
            f"the same share of each class, are held out for it; their labels are {whose}."
        )
        listing = listing._replace(is_test=is_test, notes=(*listing.notes, said))
    counts = np.bincount(listing.labels[~is_test], minlength=len(listing.class_names))
    if (empty := np.flatnonzero(counts == 0)).size:
        names = ", ".join(listing.class_names[c] for c in empty[:10].tolist()) + (" …" if len(empty) > 10 else "")
        total = int((listing.labels == empty[0]).sum())
        raise ValueError(
            f"{listing.name} has no training example of the class(es) {names}: of {listing.class_names[empty[0]]!r} "
            + (f"all {total} are in the test part" if total else "there is none at all")
        )
    return listing


def _known_by(listing: Listing) -> Sequence[str] | None:
    """What decides which examples are held out: names, or the texts themselves, whose rows may be counted anew."""
    return listing.ids if listing.texts is None else [each.replace("/", " ") for each in listing.texts]


def _readable(listing: Listing, known: Survey, skip_bad: bool) -> tuple[Listing, Survey]:
    """Without the images that cannot be read, or a ValueError that names the first."""
    if not known.bad:
        return listing, known
    count, first = len(known.bad), min(known.bad)
    which = f"{listing.places[first]!r} ({known.bad[first]})"
    if not skip_bad:
        raise ValueError(_unreadable(which) if count == 1 else _unreadable(which, count, len(listing.labels)))
    kept = np.setdiff1d(np.arange(len(listing.labels)), list(known.bad))
    if not len(kept):
        raise ValueError(f"{listing.name}: none of {count:,} images can be read, the first {which}")
    left = listing.take(kept)
    said = f"left out, since they cannot be read: {count:,} of {len(listing.labels):,} images, the first {which}."
    return left._replace(notes=(*listing.notes, said)), Survey(known.sizes[kept], known.grey[kept], {})


def _unreadable(which: str, count: int = 1, total: int = 1) -> str:
    if count == 1:
        return f"an image cannot be read, {which}; skip_bad leaves it out"
    return f"{count:,} of {total:,} images cannot be read, the first {which}; skip_bad leaves them out"


def _digest(listing: Listing, more: Sequence[Any]) -> str:
    digest = hashlib.sha256(json.dumps([_SCHEME, *more]).encode())
    for place, stamped in zip(listing.places, listing.stamps, strict=True):
        digest.update(f"{place}\n{stamped}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _reader(listing: Listing, chosen: np.ndarray, grey: bool) -> Reader:
    numbers = np.flatnonzero(chosen)

    def decode(i: int) -> Record:
        try:
            return Record(pixels(listing.fetch(i), grey), int(listing.labels[i]), -1)
        except ValueError as error:
            raise ValueError(_unreadable(f"{listing.places[i]!r} ({error})")) from error

    def read_some(start: int, stop: int) -> list[Record]:
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(decode, numbers[start:stop].tolist()))

    return Reader(len(numbers), read_some)


def _surveyed(listing: Listing, folder: Path, slug: str, deep: bool) -> Survey:
    """`survey`, kept in a file of the cache's folder, since it opens every image."""
    file = folder / f"{slug}-{_digest(listing, ['survey', deep])}.npz"
    # Missing, damaged, or of another version: any of them is made anew.
    with contextlib.suppress(Exception), open(file, "rb") as opened, np.load(opened, allow_pickle=False) as kept:
        bad = json.loads(str(kept["bad"]))
        return Survey(kept["sizes"], kept["grey"], {int(i): text for i, text in bad.items()})
    found = survey(listing, deep=deep)
    with contextlib.suppress(OSError):  # where it cannot be kept, decoding will say so
        folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=".", suffix=".npz", dir=folder)
        with os.fdopen(handle, "wb") as written:
            np.savez_compressed(written, sizes=found.sizes, grey=found.grey, bad=np.array(json.dumps(found.bad)))
        os.replace(partial, file)
    return found
