"""What a run gets where neither a recipe nor the user says: network, schedule and method constants by the data's size.

Pure functions of what the data are and of what has been said. The machine has no say, so that one command means one run
wherever it is made. The numbers are ours; what was measured is in the README, the rest are rules of thumb.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Size(NamedTuple):
    """What the choice depends on.

    Attributes:
      shape: of one example: (H, W, channels) of images, (D,) of vectors, (L,) of texts, anything else.
      dtype: "uint8", "float32" or "int32".
      num_tokens: how many token ids there are; None where the data are no texts.
      num_examples: N, for training.
      num_classes: C.
      imbalance: labels of the most frequent class over those of the rarest that has any, at least 1.
    """

    shape: tuple[int, ...]
    dtype: str
    num_tokens: int | None
    num_examples: int
    num_classes: int
    imbalance: float = 1.0

    @property
    def is_image(self) -> bool:
        """Whether an example is an image of at least 4×4 pixels, which a network of convolutions can read."""
        return len(self.shape) == 3 and min(self.shape[:2]) >= 4

    def describe(self) -> str:
        """In words."""
        shape = "×".join(map(str, self.shape))
        kind = "texts of" if self.num_tokens else "images of" if self.is_image else "vectors of"
        return f"{self.num_examples} {kind} {shape}, {self.num_classes} classes"


class Choice(NamedTuple):
    """A value, and in a few words why it is that."""

    value: Any
    reason: str = ""


_Chooser = Callable[[Size, Mapping[str, Any]], Choice | None]  # None: what the method has as its own

LARGE = 40  # pixels a side, from above which images are first reduced to a quarter (the 7×7 stem of ImageNet's nets)
_PERCEPTRONS = ("mlp", "linear", "bag_of_words")
UNBALANCED = 4.0  # times as many labels in the most frequent class as in the rarest
MANY = 10_000  # examples that a network of some millions of parameters wants, or one of 20 layers on small images


def choose(size: Size, said: Mapping[str, Any], family: str, own: Mapping[str, Any]) -> dict[str, Choice]:
    """All that is chosen by size, in the order of choosing.

    Args:
      size: of the data.
      said: settings and method options by name, flat: what is fixed. Others are chosen so that they fit these.
      family: of the method; "" for none.
      own: what the method has as its own, by option.

    Returns:
      A choice for each of `settings()` and `options(family)` that is not in `said`.
    """
    values, chosen = dict(said), {}
    for name, chooser in (_SETTINGS | _OPTIONS.get(family, {})).items():
        if name not in said:
            chosen[name] = chooser(size, values) or Choice(own.get(name))
            values[name] = chosen[name].value
    return chosen


def settings() -> tuple[str, ...]:
    """The settings that are chosen by size."""
    return tuple(_SETTINGS)


def options(family: str) -> tuple[str, ...]:
    """The options of a family's methods that are chosen by size."""
    return tuple(_OPTIONS.get(family, {}))


def describe(chosen: Mapping[str, Choice], size: Size) -> str:
    """One line: what was chosen, and why."""
    parts = [f"{name}={each.value}" + f" ({each.reason})" * bool(each.reason) for name, each in chosen.items()
             if each.value is not None]  # fmt: skip
    return f"by size ({size.describe()}): {', '.join(parts)}"


# --- Network --------------------------------------------------------------------------------------------------------


def _model(size: Size, values: Mapping[str, Any]) -> Choice:
    many = size.num_examples >= MANY
    if size.num_tokens is not None:
        return Choice("bag_of_words", "texts")
    if not size.is_image:
        return Choice("mlp", "vectors" if len(size.shape) == 1 else "neither images nor vectors")
    if max(size.shape[:2]) > LARGE:
        return Choice("resnet18", f"above {LARGE} px, many") if many else Choice("resnet20", f"above {LARGE} px, few")
    if many and size.shape[2] > 1:
        return Choice("resnet20", f"up to {LARGE} px, colour, many")
    return Choice("small_cnn", f"up to {LARGE} px, " + ("grey" if many else "few"))


def _model_options(size: Size, values: Mapping[str, Any]) -> Choice | None:
    model = values["model"]
    if size.is_image and max(size.shape[:2]) > LARGE and model.startswith("resnet"):
        return Choice("stem=imagenet", "a quarter of the pixels a side")
    if not size.is_image and model == "mlp":
        return Choice("widths=256,tap_inputs=true", "one hidden layer; taps are for HAR")
    return None


# --- Training -------------------------------------------------------------------------------------------------------


def _batch_size(size: Size, values: Mapping[str, Any]) -> Choice:
    n = size.num_examples
    wanted = 32 if n < 1_000 else 64 if n < 10_000 else 128 if n < 200_000 else 256
    return Choice(min(wanted, 2 ** max(0, int(math.log2(n)) - 3)))  # an eighth at the most; devices share powers of two


def _epochs(size: Size, values: Mapping[str, Any]) -> Choice:
    n = size.num_examples
    if values["model"] == "bilstm":
        return Choice(60 if n < 3_000 else 20 if n < 100_000 else 5)
    return Choice(60 if n < 1_000 else 30 if n < 500_000 else 20)  # long runs learn wrong labels by heart


def _optimizer(size: Size, values: Mapping[str, Any]) -> Choice:
    return Choice("adam", "recurrent") if values["model"] == "bilstm" else Choice("sgd")


def _learning_rate(size: Size, values: Mapping[str, Any]) -> Choice:
    if values["optimizer"] == "adam":
        return Choice(1e-3)
    share = min(1.0, values["batch_size"] / 128)
    if values["model"] == "bag_of_words":
        return Choice(1.0 * share, "rows of norm 1")
    if values["model"] in _PERCEPTRONS:
        return Choice(0.02 * share, "perceptron")
    return Choice(0.1 * share)


def _schedule(size: Size, values: Mapping[str, Any]) -> Choice:
    return Choice("constant" if values["model"] == "bilstm" else "cosine")


def _weight_decay(size: Size, values: Mapping[str, Any]) -> Choice:
    return Choice(0.0 if values["optimizer"] == "adam" else 5e-4)


def _augmentation(size: Size, values: Mapping[str, Any]) -> Choice:
    if not size.is_image or size.dtype != "uint8":
        return Choice("none")
    # A mirrored digit, letter, hand or sign may be another class; a shift by an eighth hardly is.
    return Choice(f"crop{max(1, min(size.shape[:2]) // 8)}", "an eighth; no flips, which may change what is shown")


_SETTINGS: dict[str, _Chooser] = {
    "model": _model, "model_options": _model_options, "epochs": _epochs, "batch_size": _batch_size,
    "optimizer": _optimizer, "learning_rate": _learning_rate, "schedule": _schedule, "weight_decay": _weight_decay,
    "augmentation": _augmentation,
}  # fmt: skip


# --- Constants of methods -------------------------------------------------------------------------------------------


def _steps(size: Size, values: Mapping[str, Any]) -> int:
    """Of an epoch."""
    return max(1, math.ceil(size.num_examples / values["batch_size"]))


def _num_bins(size: Size, values: Mapping[str, Any]) -> Choice:
    mean = size.num_examples // size.num_classes
    return Choice(max(5, min(100, mean // 3)), "a third of a mean class")


def _warmup_epochs(size: Size, values: Mapping[str, Any]) -> Choice:
    """Epochs of some 250 steps, between 2 and a fifth of the run, so that its main phase comes in any run."""
    epochs = values["epochs"]
    wanted = max(2, math.ceil(250 / _steps(size, values)))
    return Choice(max(0, min(wanted, max(1, epochs // 5), epochs - 1)), "some 250 steps")


def _long_warmup(size: Size, values: Mapping[str, Any]) -> Choice:
    """The usual one; half of the run where some class is rare, whose labels look wrong until it is learned."""
    if size.imbalance >= UNBALANCED and values["epochs"] > 1:
        return Choice(values["epochs"] // 2, "a rare class must not pass for noise")
    return _warmup_epochs(size, values)


def _forget_rate(size: Size, values: Mapping[str, Any]) -> Choice:
    return Choice(0.2, "of unknown noise; say what you expect")


def _restarts(size: Size, values: Mapping[str, Any]) -> Choice | None:
    """A network needs some time; with less than the paper's for one there is one."""
    return Choice(0, "a short run") if values["epochs"] < 100 else None


def _meta_every(size: Size, values: Mapping[str, Any]) -> Choice:
    """CMW-Net's 10 where there are steps enough for it."""
    return Choice(max(1, min(10, values["epochs"] * _steps(size, values) // 1_000)), "some 1,000 meta steps at least")


def _meta_weight_decay(size: Size, values: Mapping[str, Any]) -> Choice:
    """A meta-gradient is as small as the learning rate; Adam makes a step of whatever is larger, here the penalty."""
    return Choice(0.0, "it would outweigh the meta-gradient")


def _margin(size: Size, values: Mapping[str, Any]) -> Choice:
    """Margins are learned where there are steps to learn them in; on perceptrons they run away."""
    if values["model"] in _PERCEPTRONS:
        return Choice("balanced_softmax", "learned ones run away on perceptrons")
    short = values["epochs"] * _steps(size, values) < 5_000
    return Choice("balanced_softmax", "too few steps to learn them in") if short else Choice("mlp")


def _meta_ratio(size: Size, values: Mapping[str, Any]) -> Choice | None:
    """The meta set are the surest examples, and they are not trained on: what is left has more wrong labels."""
    if values["model"] != "bag_of_words":
        return None
    return Choice(0.02 if size.num_examples >= 1_000 else 0.05, "few of the surest kept apart")


def _strength(size: Size, values: Mapping[str, Any]) -> Choice | None:
    """HAR's is of a sum over layers; the paper's 0.1 is that of thirty of them."""
    few = values["model"] in ("small_cnn", *_PERCEPTRONS) and values["form"] == "sum" and not values["strengths_file"]
    return Choice(0.3, "few layers") if few else None


def _early_learning(unbalanced: float, on_words: float, reason: str = "") -> _Chooser:
    """ELR takes a rare class for noise where λ is 2 or more: there, p − y + λ g keeps it at its frequent neighbour.

    λ and β are the paper's for symmetric noise, and for noise that depends on the class where some class is rare. What
    is linear on words is unsure for long, and with λ of 1 and more may end at one class for all.
    """

    def choose(size: Size, values: Mapping[str, Any]) -> Choice | None:
        if values["model"] == "bag_of_words":
            return Choice(on_words, reason and "unsure of words for long")
        return Choice(unbalanced, reason) if size.imbalance >= UNBALANCED else None

    return choose


_ELR = {
    "strength": _early_learning(1.0, 0.3, "a rare class must not pass for noise"),
    "beta": _early_learning(0.9, 0.9),
}

_DIVIDEMIX: dict[str, _Chooser] = {
    "warmup_epochs": _warmup_epochs,
    "unlabeled_strength": lambda size, values: Choice(0.0, "no strong augmentation"),
    "ramp_epochs": lambda size, values: Choice(4.0),
}

_OPTIONS: dict[str, dict[str, _Chooser]] = {
    "dynamic_loss": {
        "num_bins": _num_bins, "warmup_epochs": _warmup_epochs, "margin": _margin, "meta_ratio": _meta_ratio
    },
    "har": {"strength": _strength},
    "har_drw": {"strength": _strength},
    "unif_reg": {"strength": _strength},
    "elr": _ELR,
    "elr_plus": _ELR | {
        "average_ramp_steps": lambda size, values: Choice(values["epochs"] * _steps(size, values) // 5, "a fifth")
    },
    "co_teaching": {"forget_rate": _forget_rate},
    "selfie": {"forget_rate": _forget_rate, "restarts": _restarts},
    "plc": {"warmup_epochs": _long_warmup},
    "dividemix": _DIVIDEMIX,
    "rolt_plus": _DIVIDEMIX,
    "famus": _DIVIDEMIX,
    "mw_net": {"meta_weight_decay": _meta_weight_decay},
    "curvenet": {"meta_weight_decay": _meta_weight_decay},
    "cmw_net": {
        "warmup_epochs": _warmup_epochs, "meta_every": _meta_every, "meta_weight_decay": _meta_weight_decay
    },
    "co_teaching_plus": {"forget_rate": _forget_rate, "warmup_epochs": _warmup_epochs},
    "nct": {"forget_rate": _forget_rate},
}  # fmt: skip
