"""What files and folders do on the system at hand: locks, and disks that are full."""

import errno
import os

try:
    import fcntl
except ImportError:  # not a POSIX system: there nothing is locked
    fcntl = None  # type: ignore[assignment, unused-ignore]

LOCKS = fcntl is not None


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
