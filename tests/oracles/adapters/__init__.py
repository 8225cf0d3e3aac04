"""One table, from an oracle case's `function` to the public call that must reproduce it.

Every module of this package with an `ADAPTERS` table takes part; nothing has to be registered here.
"""

import importlib
import pkgutil

from tests.oracles.adapters.common import Adapter


def _merge() -> dict[str, Adapter]:
    table: dict[str, Adapter] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for function, adapter in getattr(module, "ADAPTERS", {}).items():
            if function in table:
                raise ValueError(f"two adapters for the oracle function {function!r}; one is in {module.__name__}")
            table[function] = adapter
    return table


ADAPTERS = _merge()
