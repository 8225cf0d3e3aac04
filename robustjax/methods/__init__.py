"""Training methods by name. `get(name)` gives a factory `make(task, **options) -> Method`.

Each method's file tells about its own, in `ENTRIES`. A method of your own is an `Entry` too: `register` makes it known
by its name to everything that takes one.
"""

import difflib
import re

from robustjax.methods import (
    bbn,
    cmw_net,
    co_teaching,
    curvenet,
    custom,
    dividemix,
    dynamic_loss,
    elr,
    erm,
    famus,
    har,
    incv,
    l2rw,
    m_dyr,
    mentornet,
    mw_net,
    nct,
    nlnl,
    pencil,
    plc,
    selfie,
)
from robustjax.methods.base import (
    Attempt,
    Batch,
    Batches,
    Clock,
    Draw,
    Entry,
    Factory,
    Method,
    Metrics,
    Pass,
    Plan,
    Stage,
    Step,
    Stream,
    Survey,
    Task,
    Term,
)  # fmt: skip

_MODULES = (
    erm, nlnl, elr, har, mentornet, co_teaching, incv, nct, l2rw, mw_net, cmw_net, curvenet, m_dyr, dividemix, famus,
    bbn, plc, pencil, selfie, custom, dynamic_loss,
)  # fmt: skip
_REGISTRY: dict[str, Entry] = {entry.name: entry for module in _MODULES for entry in module.ENTRIES}


def names() -> tuple[str, ...]:
    """All method names."""
    return tuple(_REGISTRY)


def entries() -> tuple[Entry, ...]:
    """What is known of each method."""
    return tuple(_REGISTRY.values())


def canonical_name(name: str) -> str:
    """The registered name for what people type: aliases, capitals, hyphens and plus signs (elr+, ce+sr) are understood.

    Raises:
      ValueError: for an unknown name; the nearest ones are offered.

    Examples:
      >>> canonical_name("ELR+"), canonical_name("ce")
      ('elr_plus', 'cross_entropy')
    """
    plain = name.strip().lower().replace("-", "_")
    plain = re.sub(r"\+$", "_plus", plain).replace("+", "_")
    aliases = _aliases()
    plain = aliases.get(plain, plain)
    if plain not in _REGISTRY:
        close = difflib.get_close_matches(plain, [*_REGISTRY, *aliases], 3, 0.4)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(_REGISTRY)}."
        raise ValueError(f"method={name!r} is not known: {hint}")
    return plain


def entry(name: str) -> Entry:
    """What is known of a method, by name or alias.

    Raises:
      ValueError: for an unknown name; the nearest ones are offered.
    """
    return _REGISTRY[canonical_name(name)]


def get(name: str) -> Factory:
    """The factory of a method, by name or alias.

    Raises:
      ValueError: for an unknown name; the nearest ones are offered.
    """
    return entry(name).make


def register(new: Entry) -> None:
    """Make a method known.

    Raises:
      ValueError: if its name or one of its aliases is taken.
    """
    aliases = _aliases()
    for name in (new.name, *new.aliases):
        if name in _REGISTRY or name in aliases:
            raise ValueError(f"method={name!r} is taken.")
    _REGISTRY[new.name] = new


def _aliases() -> dict[str, str]:
    return {alias: each.name for each in _REGISTRY.values() for alias in each.aliases}


__all__ = [
    "Attempt", "Batch", "Batches", "Clock", "Draw", "Entry", "Factory", "Method", "Metrics", "Pass", "Plan", "Stage",
    "Step", "Stream", "Survey", "Task", "Term", "canonical_name", "custom", "dynamic_loss", "elr", "entries", "entry",
    "erm", "get", "har", "names", "nlnl", "register",
]  # fmt: skip
