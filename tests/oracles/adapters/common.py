"""What the adapters and the oracle walker share: the manifest, its arrays, and loops over instances."""

import functools
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

Case = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]
Adapter = Callable[[Case, Arrays], Mapping[str, Any]]

# Hundreds of small programs run once each: compiling them is the whole cost.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


def data_dir() -> Path:
    """The folder of the manifest under test: `$ROBUSTJAX_ORACLES`, or the one committed beside this test."""
    return Path(os.environ.get("ROBUSTJAX_ORACLES") or Path(__file__).parents[1] / "data")


@functools.cache
def manifest() -> dict[str, Any]:
    """The parsed `manifest.json`; adapters find its parameter layouts under `conventions`."""
    return json.loads((data_dir() / "manifest.json").read_text())


@functools.cache
def arrays(file: str) -> np.lib.npyio.NpzFile:
    """The arrays of one oracle file."""
    return np.load(data_dir() / file)


def num_classes(case: Case) -> int:
    """C, which a case's id tells where its arrays do not: 10 of "selfie.C10" and of "selfie.C10.s0"."""
    found = re.search(r"\.C(\d+)", case["id"])
    assert found, case["id"]
    return int(found[1])


def over_instances(
    function: Callable[[Arrays], Mapping[str, Any]], inputs: Arrays, shared: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Applies `function` to each independent instance (axis 0 of every input not named in `shared`) and stacks."""
    count = next(len(array) for name, array in inputs.items() if name not in shared)
    results = [
        function({name: array if name in shared else array[i] for name, array in inputs.items()}) for i in range(count)
    ]
    return {name: np.stack([np.asarray(result[name]) for result in results]) for name in results[0]}
