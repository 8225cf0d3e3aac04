"""Training methods by name. `get(name)` gives a factory `make(task, **options) -> Method`.

A method of your own is a function of that form; `register` makes it known by a name to everything that takes one.
"""

import difflib
import functools
from collections.abc import Callable

from robustjax.methods import dynamic_loss, erm
from robustjax.methods.base import Batch, Clock, Method, Pass, Plan, Stream, Survey, Task

Factory = Callable[..., Method]

_REGISTRY: dict[str, Factory] = {
    "cross_entropy": erm.cross_entropy,
    "balanced_softmax": erm.balanced_softmax,
    "dynamic_loss": dynamic_loss.dynamic_loss,
    # The paper's ablations (Tables 5, 6 and 13), by the names of our tables.
    "dynamic_loss_no_corrector": functools.partial(dynamic_loss.dynamic_loss, corrector="none"),
    "dynamic_loss_no_margin": functools.partial(dynamic_loss.dynamic_loss, margin="none"),
    "dynamic_loss_no_margin_bs": functools.partial(dynamic_loss.dynamic_loss, margin="balanced_softmax"),
    "dynamic_loss_no_hierarchical_sampling": functools.partial(dynamic_loss.dynamic_loss, sampling="naive"),
    "dynamic_loss_vector_meta_net": functools.partial(dynamic_loss.dynamic_loss, corrector="vector", margin="vector"),
    "dynamic_loss_class_agnostic": functools.partial(dynamic_loss.dynamic_loss, corrector="agnostic"),
}
_ALIASES = {"ce": "cross_entropy", "erm": "cross_entropy", "bs": "balanced_softmax", "dl": "dynamic_loss"}


def names() -> tuple[str, ...]:
    """All method names."""
    return tuple(_REGISTRY)


def canonical_name(name: str) -> str:
    """The registered name for what people type: aliases, capitals, hyphens and a trailing plus are understood.

    Raises:
      ValueError: for an unknown name; the nearest ones are offered.
    """
    plain = name.strip().lower().replace("-", "_").replace("+", "_plus")
    plain = _ALIASES.get(plain, plain)
    if plain not in _REGISTRY:
        close = difflib.get_close_matches(plain, [*_REGISTRY, *_ALIASES], 3, 0.4)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(_REGISTRY)}."
        raise ValueError(f"method={name!r} is not known: {hint}")
    return plain


def get(name: str) -> Factory:
    """The factory of a method, by name or alias.

    Raises:
      ValueError: for an unknown name; the nearest ones are offered.
    """
    return _REGISTRY[canonical_name(name)]


def register(name: str, factory: Factory) -> None:
    """Make `factory` known as `name`.

    Raises:
      ValueError: if the name is taken.
    """
    if name in _REGISTRY or name in _ALIASES:
        raise ValueError(f"method={name!r} is taken.")
    _REGISTRY[name] = factory


__all__ = [
    "Batch", "Clock", "Factory", "Method", "Pass", "Plan", "Stream", "Survey", "Task",
    "canonical_name", "dynamic_loss", "erm", "get", "names", "register",
]  # fmt: skip
