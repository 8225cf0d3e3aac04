"""What any ERM method can be combined with, in its options as in its behaviour: SR's terms and mixup.

`composable` gives a factory of `robustjax.methods.erm` the options of every provider below. A provider maps its options
to keyword arguments of `erm`; its signature has their defaults and its docstring their help texts.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from robustjax.methods.sparse import sparse_terms


def mixup_terms(*, mixup: float = 0.0) -> dict[str, Any]:
    """What mixup (Zhang et al., ICLR 2018) adds to an ERM method: mixed inputs and mixed, therefore soft, labels.

    Args:
      mixup: α of mixup's Beta(α, α), at least 0; 0 mixes nothing.
    """
    return {"mixup": mixup}


PROVIDERS = (sparse_terms, mixup_terms)


def options_of(provider: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a provider's options."""
    return tuple(inspect.signature(provider).parameters)


def composable(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Give a method factory the options of `PROVIDERS`, in its signature and docstring as in its behaviour.

    Args:
      factory: (task, *, options, **terms) -> Method, which passes `terms` on to `erm`.
    """

    @functools.wraps(factory)
    def composed(task: Any, **options: Any) -> Any:
        terms: dict[str, Any] = {}
        for provider in PROVIDERS:
            terms |= provider(**{name: options.pop(name) for name in options_of(provider) if name in options})
        return factory(task, **options, **terms)

    own = [p for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [p for provider in PROVIDERS for p in inspect.signature(provider).parameters.values()]
    composed.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    text, args, rest = _parts(factory)
    args = "\n".join(filter(None, [args, *(_parts(provider)[1] for provider in PROVIDERS)]))
    composed.__doc__ = f"{text}\n\nArgs:\n{args}" + (f"\n\n{rest}" if rest else "")
    return composed


def _parts(function: Callable[..., Any]) -> tuple[str, str, str]:
    """A docstring's text before "Args:", the entries below it, and what follows them."""
    text, _, tail = (inspect.getdoc(function) or "").partition("Args:\n")
    args, _, rest = re.sub(r"\n+$", "", tail).partition("\n\n")
    return text.rstrip(), args, rest
