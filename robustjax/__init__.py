"""Learning from wrong labels and unbalanced classes, in JAX.

What a user wants is here, imported when it is first asked for, so that `import robustjax` costs nothing:

    import robustjax as rj

    data = rj.load("digits")
    labels = rj.corruptions.symmetric(data.train_labels, 0.4, data.num_classes, key=0)
    loss = rj.losses.generalized_cross_entropy(logits, labels, q=0.7)

    fitted = rj.fit(images, labels)
    fitted.predict(more_images), fitted.suspects()
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same as `_NAMES`, for what reads code without running it
    from experiments.fitting import fit
    from robustjax import data, losses, margins, meta, methods, mixup, models, regularizers, schedules, taps
    from robustjax.data import Dataset, corruptions, from_arrays, labelling, load
    from robustjax.methods import Batch, Clock, Method, Task
    from robustjax.methods import get as get_method
    from robustjax.models import Model, get_model
    from robustjax.training import evaluation

__all__ = [
    "Batch",
    "Clock",
    "Dataset",
    "Method",
    "Model",
    "Task",
    "__version__",
    "corruptions",
    "data",
    "evaluation",
    "fit",
    "from_arrays",
    "get_method",
    "get_model",
    "labelling",
    "load",
    "losses",
    "margins",
    "meta",
    "methods",
    "mixup",
    "models",
    "regularizers",
    "schedules",
    "taps",
]

try:
    __version__ = importlib.metadata.version("robustjax")
except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

# Name here -> (module, name there; None for the module itself).
_NAMES: dict[str, tuple[str, str | None]] = {
    **{
        name: (f"robustjax.{name}", None)
        for name in (
            "data", "losses", "margins", "meta", "methods", "mixup", "models", "regularizers", "schedules", "taps"
        )
    },
    "corruptions": ("robustjax.data.corruptions", None),
    "labelling": ("robustjax.data.labelling", None),
    "evaluation": ("robustjax.training.evaluation", None),
    "fit": ("experiments.fitting", "fit"),  # the one name here that is not the package's own
    "Dataset": ("robustjax.data", "Dataset"),
    "from_arrays": ("robustjax.data", "from_arrays"),
    "load": ("robustjax.data", "load"),
    "Batch": ("robustjax.methods", "Batch"),
    "Clock": ("robustjax.methods", "Clock"),
    "Method": ("robustjax.methods", "Method"),
    "Task": ("robustjax.methods", "Task"),
    "get_method": ("robustjax.methods", "get"),
    "Model": ("robustjax.models", "Model"),
    "get_model": ("robustjax.models", "get_model"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path, attribute = _NAMES[name]
    module = importlib.import_module(path)
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
