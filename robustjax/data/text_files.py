"""Text files, each of which is one text, as the texts of a listing."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from robustjax.data.image_files import Listing

SUFFIXES = (".txt",)
_THREADS = 8


def read_text(path: str | os.PathLike[str]) -> str:
    """What is in a text file. Raises ValueError, with its path, for one that is not UTF-8 or cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r} is no text in UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"{os.fspath(path)!r} cannot be read: {error.strerror or error}") from error


def are_listed(listing: Listing) -> bool:
    """Whether what a listing names are text files, all of them."""
    return len(listing.stamps) > 0 and all(place.lower().endswith(SUFFIXES) for place in listing.places)


def read(listing: Listing, skip_bad: bool) -> Listing:
    """The listing with the texts that are in its files, which are not looked at any more.

    skip_bad: leave out those that cannot be read. Raises ValueError for one otherwise, or if none can be.
    """

    def attempt(path: str) -> str | ValueError:
        try:
            return read_text(path)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(attempt, listing.places))
    bad = [i for i, each in enumerate(found) if isinstance(each, ValueError)]
    told = f"{len(bad):,} of {len(found):,} text files cannot be read, the first: {found[bad[0]]}" if bad else ""
    if bad and not (skip_bad and len(bad) < len(found)):
        raise ValueError(told + ("" if skip_bad else "; skip_bad leaves such files out"))
    kept = np.setdiff1d(np.arange(len(found)), bad)
    notes = (*listing.notes, f"left out: {told}.") if bad else listing.notes
    texts = tuple(each for each in found if isinstance(each, str))
    return listing.take(kept)._replace(texts=texts, notes=notes, stamps=())
