"""What differs between CPU and accelerators, decided here and nowhere else."""

import functools
import math
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.experimental
import jax.numpy as jnp
from jax.experimental import xla_metadata

# float64 inside a `with`: its place before and after JAX 0.8.
_x64: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
enable_x64 = _x64.enable_x64

SAFE_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""The compile option with which XLA:CPU fuses nothing into calls of the YNN library; not every jaxlib knows it.

Fused there (XLA's own default since jaxlib 0.10.2), a sum over a product of matrices can be silently wrong
(tests/backend_test.py), and gradients of convolutions are up to 7 times slower.
"""
# Programs that run once (initialisation) are not worth optimising. Level 1 gives the same bits as the default.
_ONCE: dict[str, str] = {"xla_backend_optimization_level": "1"}

_R = TypeVar("_R")


@functools.cache
def compiler_options(once: bool = False) -> dict[str, str | bool] | None:
    """Compile options on the default backend, those that XLA knows; None where there are none, as on an accelerator.

    Args:
      once: for a program that runs once, rather than in every step.
    """
    if jax.default_backend() != "cpu":
        return None
    wanted: dict[str, str | bool] = {**SAFE_CPU_OPTIONS, **(_ONCE if once else {})}
    return {name: value for name, value in wanted.items() if _is_known(name, value)} or None


@functools.cache
def _is_known(name: str, value: str | bool) -> bool:
    """Whether XLA takes the option; those above are experimental, and a jaxlib without YNN does not know the first."""
    try:
        jax.jit(jnp.sin).lower(jnp.zeros(())).compile(compiler_options={name: value})
    except Exception:
        return False
    return True


def jit(function: Callable[..., _R], *, once: bool = False, **arguments: Any) -> Callable[..., _R]:
    """`jax.jit` with the safe kernels: for every program but those that `parallel.compile_program` compiles.

    Called while another program is traced it is a part of that, which has options of its own.

    Args:
      function: what to compile, at its first call.
      once: see `compiler_options`.
      **arguments: of `jax.jit`.
    """
    part = jax.jit(function, **arguments)

    @functools.cache
    def whole() -> Callable[..., _R]:  # only now: the options ask for the backend, which nothing may at import
        return jax.jit(function, compiler_options=compiler_options(once=once), **arguments)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> _R:
        return (part if _is_traced(args, kwargs) else whole())(*args, **kwargs)

    return call


def _is_traced(*arguments: Any) -> bool:
    """Whether a call is part of a program that is being traced: by its arguments, or by what an operation gives."""
    leaves = (*jax.tree.leaves(arguments), jnp.zeros(()))
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def loops_on_device() -> bool:
    """Whether an epoch is one compiled loop.

    On GPU and TPU it is. On CPU it is a Python loop over the compiled step: inside a loop XLA:CPU keeps convolution
    gradients in a slow layout, 20 to 60 times slower.
    """
    return jax.default_backend() != "cpu"


def parts_of_sums(size: int) -> int:
    """In how many parts a sum over an array of `size` numbers, all but the last axis, is taken; 1: as it stands.

    On CPU BatchNorm on images, forward and backward, is 2.5 to 4 times faster when each of its sums is one over the
    rows of each part, then one over the parts.
    """
    return 8 if jax.default_backend() == "cpu" and size >= 2**16 else 1


def materialized(x: jax.Array) -> jax.Array:
    """`x`; on CPU computed once and stored, wherever it is used.

    XLA:CPU computes elementwise operations anew inside whatever uses them. Before a convolution these are all residual
    blocks of a stage, and what uses them a transposed copy for the weights' gradient, which reads them out of order:
    three quarters of a ResNet-32's step. A function that is called, and not inlined, is what it does not look into; the
    attribute is XLA's own, and one that does not know it gives the same values.
    """
    if jax.default_backend() != "cpu":
        return x
    with xla_metadata.set_xla_metadata(inlineable="false"):
        return _identity(x)


@jax.jit
def _identity(x: jax.Array) -> jax.Array:
    return x * 1  # a bare argument JAX would pass around the call


def gains_by_training_at_once() -> bool:
    """Whether several small networks train faster at once than one after another.

    On GPU and TPU, which one of them does not fill, they do. On CPU a convolution with as many filters as networks is a
    grouped one, which takes about twice as long as the same one by one.
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
