"""Training methods by name. `get(name)` gives a factory `make(task, **options) -> Method`.

A method of your own is a function of that form; `register` makes it known by a name to everything that takes one.
"""

import difflib
import functools
import itertools
import re
from collections.abc import Callable

from robustjax.methods import custom, dynamic_loss, elr, erm, har, nlnl
from robustjax.methods.base import Batch, Clock, Method, Pass, Plan, Stream, Survey, Task

Factory = Callable[..., Method]

_REGISTRY: dict[str, Factory] = {
    "cross_entropy": erm.cross_entropy,
    "balanced_softmax": erm.balanced_softmax,
    "label_smoothing": erm.label_smoothing,
    "focal": erm.focal,
    "gce": erm.gce,
    "sce": erm.sce,
    "mae": erm.mae,
    "nce": erm.nce,
    "rce": erm.rce,
    "apl": erm.apl,
    "nce_mae": functools.partial(erm.apl, active="nce", passive="mae"),
    "nce_rce": functools.partial(erm.apl, active="nce", passive="rce"),
    "nfl_mae": functools.partial(erm.apl, active="nfl", passive="mae"),
    "nfl_rce": functools.partial(erm.apl, active="nfl", passive="rce"),
    "phuber_ce": erm.phuber_ce,
    "bootstrap": erm.bootstrap,
    "forward": erm.forward,
    "gjs": erm.gjs,
    "dmi": erm.dmi,
    "cb_focal": erm.cb_focal,
    "ldam": erm.ldam,
    "ldam_drw": functools.partial(erm.ldam, reweight_from=0.8),
    # Sparse regularisation; GCE is almost cross entropy there (SR's code; 0.001 for CIFAR-100).
    "ce_sr": functools.partial(erm.cross_entropy, regularizer="sparse"),
    "fl_sr": functools.partial(erm.focal, regularizer="sparse"),
    "gce_sr": functools.partial(erm.gce, regularizer="sparse", q=0.01),
    "nlnl": nlnl.nlnl,
    "mixup": functools.partial(erm.cross_entropy, mixup=1.0),
    "elr": elr.elr,
    # ELR+ and the ablation of its Table 5: two networks or one, with and without weight averaging and mixup.
    **{
        f"elr_plus{one}{no_average}{no_mixup}": functools.partial(
            elr.elr, networks=1 if one else 2, weight_averaging=not no_average, mixup=0.0 if no_mixup else 1.0
        )
        for one, no_average, no_mixup in itertools.product(
            ("", "_one_network"), ("", "_no_weight_averaging"), ("", "_no_mixup")
        )
    },
    "har": har.har,
    "har_drw": functools.partial(har.har, reweight_from=2 / 3),
    "unif_reg": functools.partial(har.har, weighting="uniform"),
    "custom": custom.custom,
    "dynamic_loss": dynamic_loss.dynamic_loss,
    # The paper's ablations (Tables 5, 6 and 13), by the names of our tables.
    "dynamic_loss_no_corrector": functools.partial(dynamic_loss.dynamic_loss, corrector="none"),
    "dynamic_loss_no_margin": functools.partial(dynamic_loss.dynamic_loss, margin="none"),
    "dynamic_loss_no_margin_bs": functools.partial(dynamic_loss.dynamic_loss, margin="balanced_softmax"),
    "dynamic_loss_no_hierarchical_sampling": functools.partial(dynamic_loss.dynamic_loss, sampling="naive"),
    "dynamic_loss_vector_meta_net": functools.partial(dynamic_loss.dynamic_loss, corrector="vector", margin="vector"),
    "dynamic_loss_class_agnostic": functools.partial(dynamic_loss.dynamic_loss, corrector="agnostic"),
}
_ALIASES = {
    "ce": "cross_entropy", "erm": "cross_entropy", "bs": "balanced_softmax", "dl": "dynamic_loss", "fl": "focal",
    "sl": "sce", "phuber": "phuber_ce",
}  # fmt: skip


def names() -> tuple[str, ...]:
    """All method names."""
    return tuple(_REGISTRY)


def canonical_name(name: str) -> str:
    """The registered name for what people type: aliases, capitals, hyphens and plus signs (elr+, ce+sr) are understood.

    Raises:
      ValueError: for an unknown name; the nearest ones are offered.
    """
    plain = name.strip().lower().replace("-", "_")
    plain = re.sub(r"\+$", "_plus", plain).replace("+", "_")
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
    "canonical_name", "custom", "dynamic_loss", "elr", "erm", "get", "har", "names", "nlnl", "register",
]  # fmt: skip
