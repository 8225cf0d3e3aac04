"""Networks by name: `get_model("resnet32", num_classes=10)` is a `Model`, a value made of pure functions.

Networks of the user's own become `Model`s in `robustjax.models.custom`, which is imported by itself: Flax NNX takes its
time to load.
"""

import dataclasses
import difflib
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from robustjax.models import layers
from robustjax.models.bag_of_words import BagOfWords
from robustjax.models.base import Model, Taps, Variables, from_linen
from robustjax.models.cnn import ConvNet, Mlp, sr_cnn
from robustjax.models.inception_resnet import InceptionResNet
from robustjax.models.lstm import BiLstm
from robustjax.models.preact_resnet import PreActResNet
from robustjax.models.resnet import TORCHVISION_50, ResNet, cifar, wide
from robustjax.models.vgg import VGG19, Vgg

__all__ = ["Model", "Taps", "Variables", "from_linen", "get_model", "names", "reads_tokens"]

_REGISTRY: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "resnet20": (ResNet, cifar(20)),
    "resnet32": (ResNet, cifar(32)),  # HAR, Dynamic Loss, LDAM
    "resnet44": (ResNet, cifar(44)),
    "resnet56": (ResNet, cifar(56)),
    "resnet10": (ResNet, wide(1, 1, 1, 1) | {"stem": "imagenet"}),  # ImageNet-LT
    "resnet18": (ResNet, wide(2, 2, 2, 2)),
    "resnet34": (ResNet, wide(3, 4, 6, 3)),  # SR on CIFAR-100 (initialization="kaiming_xavier"), ELR
    "resnet50": (ResNet, wide(3, 4, 6, 3) | TORCHVISION_50),  # Clothing1M, SR on WebVision
    "preact_resnet18": (PreActResNet, {"blocks": (2, 2, 2, 2)}),  # ELR+, DivideMix, Dynamic Loss without a tail
    "preact_resnet34": (PreActResNet, {"blocks": (3, 4, 6, 3)}),  # PLC
    "cnn4": (ConvNet, sr_cnn((32,), (64,), hidden=128)),  # SR on MNIST
    "cnn8": (ConvNet, sr_cnn((64, 64), (128, 128), (196, 196), hidden=256)),  # SR on CIFAR-10
    "vgg19_bn": (Vgg, {"stages": VGG19, "initialization": "torchvision_vgg"}),  # ANIMAL-10N
    "inception_resnet_v2": (InceptionResNet, {}),  # WebVision
    "small_cnn": (ConvNet, {"stages": ((32,), (64,), (64,))}),  # 8×8 to 28×28 images on a CPU
    "mlp": (Mlp, {}),
    "linear": (Mlp, {"widths": (), "tap_inputs": True}),  # on features of another network
    "bag_of_words": (BagOfWords, {}),  # texts on a CPU
    "bilstm": (BiLstm, {}),  # HAR on IMDB
}
_COMMON = {"initialization": "torch", "head": "linear", "unbiased_running_variance": False}
_MAY_BE_NONE = ("hidden", "pools")
_MOST = 100_000  # units of a layer, or layers; words are what the data have
_CHOICES = {
    "initialization": tuple(layers.INITIALIZATIONS),
    "head": ("linear", "cosine"),
    "pooling": ("flatten", "average"),
    "stem": ("cifar", "imagenet"),
    "shortcut": ("pad", "conv"),
}


def names() -> tuple[str, ...]:
    """The names that `get_model` knows, sorted.

    Examples:
      >>> "resnet32" in names()
      True
    """
    return tuple(sorted(_REGISTRY))


def reads_tokens(name: str) -> bool:
    """Whether the network of this name takes int token ids [B, L], and so has the option `vocabulary_size`.

    Examples:
      >>> reads_tokens("bilstm"), reads_tokens("resnet32")
      (True, False)
    """
    return name in _REGISTRY and "vocabulary_size" in {field.name for field in dataclasses.fields(_REGISTRY[name][0])}


def get_model(name: str, num_classes: int, *, dtype: Any = jnp.float32, **overrides: Any) -> Model:
    """A network by name.

    The number of input channels is taken from the inputs given to `Model.init`.

    Args:
      name: one of `names()`.
      num_classes: C, at least 1.
      dtype: of the activations; parameters, batch statistics and logits are at least float32.
      **overrides: options of every network, `initialization` ("torch": PyTorch's defaults; "kaiming_normal": HAR's;
        "kaiming_xavier": SR's, Kaiming uniform convolutions and Xavier uniform linear layers; "torchvision" and
        "torchvision_vgg": Kaiming normal by fan-out, and linear layers as PyTorch's or N(0, 0.01²)), `head` ("linear",
        or "cosine" for LDAM's classifier: features and weights of length 1, no bias), `unbiased_running_variance`
        (PyTorch's running variance, or Flax's with False, the default);
        and the fields of the network's own class, such as `stages`, `widths` or `blocks`; a whole
        number where numbers are expected is one of them.

    Returns:
      The `Model`.

    Raises:
      ValueError: unknown name, option or choice, an option of another type or out of range, `num_classes` below 1, or
        a `dtype` that is not floating.

    Examples:
      >>> import jax
      >>> model = get_model("mlp", num_classes=3)
      >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 4)))
      >>> logits, stats = model.apply(params, stats, jnp.ones((2, 4)), train=False)
      >>> logits.shape
      (2, 3)
    """
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, names()) or names()
        raise ValueError(f"unknown model {name!r}; did you mean one of {', '.join(near)}?")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating type, got {dtype}")
    module, defaults = _REGISTRY[name]
    kinds = {field.name: field.type for field in dataclasses.fields(module)}
    fields = kinds.keys() - {"kit", "parent", "name"}
    one = {option for option, value in overrides.items() if type(value) is int and kinds.get(option) == tuple[int, ...]}
    overrides = {option: (value,) if option in one else value for option, value in overrides.items()}
    for option, value in overrides.items():
        if option not in fields | _COMMON.keys():
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(sorted(fields | _COMMON.keys()))}")
        if option in _CHOICES and value not in _CHOICES[option]:
            raise ValueError(f"{option} must be one of {', '.join(_CHOICES[option])}, got {value!r}")
        kind = kinds[option] if option in fields else type(_COMMON[option])
        least, most = 0 if option in _MAY_BE_NONE else 1, 2**31 - 1 if option == "vocabulary_size" else _MOST
        if (accepted := _refusal(value, kind, least, most)) is not None:
            raise ValueError(f"{option} of {name} must be {accepted}, got {value!r}")
    settings = _COMMON | defaults | overrides
    common: dict[str, Any] = {option: settings[option] for option in _COMMON}
    kit = layers.kit(num_classes, dtype=dtype, **common)
    own = {option: _as_tuple(value) for option, value in settings.items() if option in fields}
    return from_linen(name, module(kit, **own))


def _refusal(value: Any, kind: Any, least: int = 1, most: int = _MOST) -> str | None:
    """What is accepted in place of a value that does not fit a field of this type; None where it fits."""
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole and least <= value <= most else f"a whole number in [{least}, {most}]"
    if kind is float:  # a share, all of them
        return None if isinstance(value, int | float) and 0 <= value < 1 else "a number in [0, 1)"
    if kind is str:
        return None if isinstance(value, str) else "a word"
    sequence = isinstance(value, list | tuple)
    inner = (_refusal(each, tuple if isinstance(each, list | tuple) else int) for each in value) if sequence else ()
    return None if sequence and not any(inner) else "a tuple of whole numbers of at least 1, or of such tuples"


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
