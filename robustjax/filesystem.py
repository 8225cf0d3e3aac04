"""What files and folders do on the system at hand: locks, and disks that are full."""

import errno
import os
import pathlib

try:
    import fcntl
except ImportError:  # not a POSIX system: there nothing is locked
    fcntl = None  # type: ignore[assignment, unused-ignore]

LOCKS = fcntl is not None


def files_below(folder: str | os.PathLike[str], suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """The files below a folder that end in one of `suffixes`, in any case, in the order of the parts of their paths.

    Links to folders are followed, each folder once; what is hidden (".name", as macOS and notebooks leave it) is not
    there.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            pathlib.Path(place, name) for name in files if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: path.parts)


def lock(folder: str | os.PathLike[str]) -> int:
    """An open descriptor of a folder that is locked until that is closed or the process ends, however it does.

    Where `LOCKS` is False nothing is locked.

    Raises:
      BlockingIOError: if another has locked it.
      OSError: if it cannot be opened.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room: none on the disk, or none left of the user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
