"""What differs between CPU and accelerators, decided here and nowhere else."""

import functools
import math
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp

# XLA:CPU runs convolution gradients up to 7× faster outside the YNN library; reductions are better left inside it.
_FAST_CPU_CONVOLUTIONS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "ELTWISE", "REDUCE")
    )
}


# Programs that run once (initialisation) are not worth optimising. Level 1 gives the same bits as the default.
_QUICK_CPU_COMPILATION: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}


@functools.cache
def compiler_options(once: bool = False) -> dict[str, str | bool] | None:
    """Compile options on the default backend; None where there are none or XLA refuses them.

    Args:
      once: for a program that runs once, rather than in every step.
    """
    if jax.default_backend() != "cpu":
        return None
    options = _QUICK_CPU_COMPILATION if once else _FAST_CPU_CONVOLUTIONS
    try:
        jax.jit(jnp.sin).lower(jnp.zeros(())).compile(compiler_options=options)
    except Exception:  # the options are experimental: any other jaxlib may not know them
        return None
    return options


def loops_on_device() -> bool:
    """Whether an epoch is one compiled loop.

    On GPU and TPU it is. On CPU it is a Python loop over the compiled step: inside a loop XLA:CPU keeps convolution
    gradients in a slow layout, 20 to 60 times slower.
    """
    return jax.default_backend() != "cpu"


def memory() -> float:
    """Bytes of memory that the devices have in all; infinite where nobody says."""
    found = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    if all(found):
        return float(sum(found))
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def user_cache_dir() -> pathlib.Path:
    """The folder for robustjax's caches: $XDG_CACHE_HOME or ~/.cache, then robustjax.

    Raises:
      FileNotFoundError: if there is no home either.
    """
    try:
        return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "robustjax"
    except RuntimeError as error:
        raise FileNotFoundError(f"there is no folder for caches ({error}): XDG_CACHE_HOME may name one") from error


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Keep compiled programs on disk, so that the next start does not compile them again.

    Args:
      folder: where; default a folder in the user's cache. JAX's own setting, if there is one, is left alone.

    Returns:
      The folder in use, or None if it cannot be written.
    """
    own: str | None = jax.config.values["jax_compilation_cache_dir"]
    if own and folder is None:
        return pathlib.Path(own)
    path = None
    try:
        path = pathlib.Path(folder) if folder is not None else user_cache_dir() / "xla"
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(path)
    except OSError as error:
        warnings.warn(f"No compilation cache: {path or 'its folder'} cannot be written ({error}).", stacklevel=2)
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return path
