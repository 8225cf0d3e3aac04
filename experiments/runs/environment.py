"""What a run was made with: versions, devices, the commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Return versions, devices and the git commit that a run was made with, as JSON values.

    ``git_commit`` and ``git_dirty`` (tracked files changed) are of the checkout that holds this package; None if it was
    installed from elsewhere.
    """
    devices = jax.devices()
    packages = ("robustjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "backend": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "platform": platform.platform(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    here = Path(__file__).resolve()

    def run(*arguments: str) -> str:
        git = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # In an environment inside somebody else's repository this file is there, but not tracked.
        run("ls-files", "--error-unmatch", here.name)
        return run(*command)
    except (OSError, subprocess.SubprocessError):
        return None
