"""The start of the command line, before anything heavy is imported: how the C library holds memory is decided then.

XLA:CPU allocates and frees its buffers at every call. With small pages the kernel maps and clears them one by one each
time; with huge ones (glibc's `hugetlb` tunable) a step of a convolutional network takes about half as long. glibc reads
its tunables when a process begins, so the command begins anew, once, in the same process.
"""

import importlib.util
import os
import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb=1"
# Where the tunables of an executable are dropped (it has capabilities, say), this tells that it began anew already.
_BEGUN = "ROBUSTJAX_BEGUN_ANEW"

_DEVICE_FILES = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd", "accel*", "vfio/[0-9]*")
_TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "COLAB_TPU_ADDR")


def main(argv: Sequence[str] | None = None) -> int:
    """The installed command `robustjax`; `experiments.run.main` where another program calls it with arguments."""
    if argv is None:
        begin()
    from experiments import run

    return run.main(argv)


def begin() -> None:
    """What a command does before its imports, which take seconds: with huge pages, and ending at Ctrl-C in silence.

    `experiments.complaints.run_main` gives Ctrl-C its meaning back.
    """
    begin_anew()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def begin_anew() -> None:
    """Execute the command that this process is, with huge pages; returns where there is nothing to gain.

    To be called by what is a command only, before anything is done: process, arguments, standard streams and exit
    status stay, all else is lost.
    """
    # Not where main() was called by another program, which must go on.
    begins = "jax" not in sys.modules and "ipykernel" not in sys.modules and not hasattr(sys, "ps1")
    arguments = sys.argv[1:]
    same = sys.orig_argv[len(sys.orig_argv) - len(arguments) :] == arguments and sys.argv[:1] not in ([], ["-"], [""])
    if begins and same and sys.executable and gains(os.environ):
        changed = {**os.environ, TUNABLES: HUGE_PAGES, _BEGUN: "1"}
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
        except OSError:  # it goes on as it is
            return


def gains(variables: Mapping[str, str], devices: pathlib.Path = pathlib.Path("/dev")) -> bool:
    """Whether a command with these environment variables would be faster with huge pages, and may have them.

    That is on Linux with a glibc that has them (2.35), on CPU, unless the user has tunables of his own.

    Args:
      variables: the process's environment.
      devices: the folder of device files.
    """
    if not sys.platform.startswith("linux") or TUNABLES in variables or _BEGUN in variables:
        return False
    return _glibc() >= (2, 35) and _on_cpu(variables, devices)


def _glibc() -> tuple[int, ...]:
    """glibc's version; () for another C library."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return tuple(map(int, version.split(".")[:2])) if name == "glibc" else ()
    except (ValueError, OSError):
        return ()


def _on_cpu(variables: Mapping[str, str], devices: pathlib.Path) -> bool:
    """Whether JAX will choose the CPU, as far as can be told without it: what is asked for, else what is there."""
    asked = variables.get("JAX_PLATFORMS") or variables.get("JAX_PLATFORM_NAME")
    if asked:
        return asked.split(",")[0].strip().lower() == "cpu"
    if not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")):
        return True
    return not any(variables.get(name) for name in _TPU_VARIABLES) and not any(
        any(devices.glob(pattern)) for pattern in _DEVICE_FILES
    )
