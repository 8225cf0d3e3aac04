"""Shared test set-up: four fake CPU devices, no accelerator, strict types, quick compilation and one cache of programs.

What must hold before JAX is imported is set here through the environment, so that it also holds for the processes that
tests start.
"""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nothing here runs long enough to earn back what LLVM's optimisations cost: they are half of all compile time.
for _flag in ("--xla_force_host_platform_device_count=4", "--xla_backend_optimization_level=0"):
    _flags = os.environ.get("XLA_FLAGS", "")
    if _flag.partition("=")[0] not in _flags:
        os.environ["XLA_FLAGS"] = f"{_flags} {_flag}".strip()
# int · float and the like must be written out.
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
# Many tests train the same small networks. Worker processes inherit the first one's folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="robustjax-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
