"""Every case of the oracle manifest, in float64 and float32, against the library's public functions.

`ROBUSTJAX_ORACLES=DIR` walks another manifest of the same format; `ROBUSTJAX_ORACLES_STRICT=1` makes a case without
an adapter a failure instead of a skip.
"""

import os

import jax
import numpy as np
import pytest

from robustjax import backend
from tests.oracles.adapters import ADAPTERS
from tests.oracles.adapters.common import Case, arrays, manifest

DTYPES = {"x64": np.float64, "x32": np.float32}
STRICT = os.environ.get("ROBUSTJAX_ORACLES_STRICT", "0") not in ("", "0")


def _load(case: Case, role: str) -> dict[str, np.ndarray]:
    stored = arrays(case["file"])
    return {name: stored[key] for name, key in case[role].items()}


def _compare(case: Case, name: str, actual: np.ndarray, expected: np.ndarray, tolerance: dict[str, float]) -> None:
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, the reference has {expected.shape}"
    if name in case.get("nonfinite_outputs", ()):
        finite = np.isfinite(expected)
        actual, expected = actual[finite], expected[finite]
    if expected.dtype == bool:
        actual, expected = actual.astype(int), expected.astype(int)
    np.testing.assert_allclose(actual, expected, err_msg=name, **tolerance)


def _everyday(case: Case, precision: str) -> bool:
    """Formulas are told right from wrong by float64; float32 can fail beside it where inputs are extreme."""
    return precision == "x64" or ".extreme" in case["id"]


@pytest.mark.parametrize(("case", "precision"), [
    pytest.param(case, precision, id=f"{case['id']}-{precision}",
                 marks=[] if _everyday(case, precision) else pytest.mark.exhaustive)
    for case in manifest()["cases"] for precision in DTYPES
])  # fmt: skip
def test_oracle(case: Case, precision: str) -> None:
    adapter = ADAPTERS.get(case["function"])
    if adapter is None:
        (pytest.fail if STRICT else pytest.skip)(f"no adapter for {case['function']!r}")
    dtype = DTYPES[precision]
    inputs = {
        name: array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in _load(case, "inputs").items()
    }
    # The references mix float64 with integers freely; what the library promises is in strict_promotion_test.
    with backend.enable_x64(precision == "x64"), jax.numpy_dtype_promotion("standard"):
        outputs = {name: np.asarray(value) for name, value in adapter(case, inputs).items()}
    expected = _load(case, "outputs")
    assert outputs and outputs.keys() <= expected.keys(), f"got {sorted(outputs)}, the case has {sorted(expected)}"
    for name, actual in outputs.items():
        _compare(case, name, actual, expected[name], case["tolerance"][precision])


def test_every_adapter_is_used() -> None:
    if "ROBUSTJAX_ORACLES" not in os.environ:
        unknown = ADAPTERS.keys() - {case["function"] for case in manifest()["cases"]}
        assert not unknown, f"adapters for functions that no case names: {sorted(unknown)}"
