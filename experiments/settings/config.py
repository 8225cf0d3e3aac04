"""A run's settings and its command line: one dataclass, one flag a field, one flag for each option of a method."""

import argparse
import dataclasses
import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from robustjax import methods, models
from robustjax.data import augment, labelling
from robustjax.methods import composable, sparse
from robustjax.training import parallel


def setting(default: Any, group: str, text: str, **metadata: Any) -> Any:
    """A field of `Config` with its help text."""
    return dataclasses.field(default=default, metadata={"group": group, "help": text, **metadata})


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run. Defaults here hold where neither the recipe nor the user says otherwise."""

    method: str = setting("dynamic_loss", "what", "training method")
    dataset: str = setting("digits", "what", "digits (embedded), a TFDS name, npz:FILE or folder:DIR")
    recipe: str | None = setting(None, "what", "data set whose recipe to use; default: that of the data set itself")
    max_tokens: int | None = setting(None, "what", "texts: how many of the last tokens are kept; default: 256")
    model: str = setting("small_cnn", "what", "classifier")
    head: str | None = setting(None, "what", "classifier layer: linear or cosine (LDAM); default: the model's")
    initialization: str | None = setting(None, "what", "torch, kaiming_normal or kaiming_xavier; default: the model's")

    noise: str = setting("none", "labels", "how labels are made wrong", choices=labelling.NOISES)
    noise_rate: float = setting(0.0, "labels", "noise rate in [0, 1]")
    imbalance: str = setting("none", "labels", "how classes are made unequal", choices=labelling.IMBALANCES)
    imbalance_ratio: float = setting(1.0, "labels", "largest class over smallest, at least 1")
    train_examples: int | None = setting(None, "labels", "start from a random class-balanced subset of this size")
    noise_file: str | None = setting(None, "labels", "take kept examples and labels from this file of an earlier run")
    labels: str | None = setting(
        None,
        "labels",
        "given labels of the training split: FILE.npy, or FILE.npz:NAME (human labels of CIFAR-10-N, say)",
    )
    data_seed: int | None = setting(None, "labels", "seed of the corruption for all seeds; default: each seed's own")

    groups: str | None = setting(
        None, "labels", "HAR's groups: FILE.npy, an int for each example of the training split, or FILE.py:NAME of a "
        "function (images, labels) -> ints; default: the given labels"
    )  # fmt: skip
    validation_split: float = setting(
        0.0, "labels", "share of the training set, wrong labels and all, held out to choose an epoch by, in [0, 1)"
    )

    epochs: int = setting(60, "training", "epochs (of the final stage, where a method has several)")
    batch_size: int = setting(128, "training", "global batch size")
    early_stopping: int = setting(
        0, "training", "end after so many epochs without a better validation accuracy; 0: never"
    )
    optimizer: str = setting("sgd", "training", "optimizer", choices=("sgd", "adam"))
    learning_rate: float = setting(0.1, "training", "base learning rate")
    momentum: float = setting(0.9, "training", "SGD momentum")
    nesterov: bool = setting(False, "training", "Nesterov momentum")
    weight_decay: float = setting(5e-4, "training", "L2 penalty, added to the gradient, on all parameters")
    gradient_clip: float = setting(0.0, "training", "limit on the gradient's global norm; 0: none")
    schedule: str = setting(
        "cosine", "training", "constant, cosine, multistep:40,80:0.1, cosine_restarts:10:0.001 or exponential:0.97"
    )
    lr_warmup_epochs: float = setting(0.0, "training", "epochs of linear learning-rate warm-up from a tenth")
    augmentation: str = setting("none", "training", "strong view, pieces joined by '-', e.g. crop-flip-autoaugment")
    weak_augmentation: str = setting("none", "training", "weak view, likewise")
    precision: str = setting("float32", "training", "compute type of the network", choices=("float32", "bfloat16"))

    seed: int = setting(0, "run", "first seed")
    seeds: int = setting(1, "run", "train seeds seed … seed+K−1 at once and report mean ± std")
    parallel: str = setting(
        "auto", "run", "several devices: split the batch or spread the seeds", choices=parallel.MODES
    )
    data_dir: str | None = setting(None, "run", "folder of prepared TFDS data sets")
    out: str | None = setting(None, "run", "run directory; default: a name made from the settings, under runs/")
    resume: bool = setting(False, "run", "go on with a run that was cut")
    overwrite: bool = setting(False, "run", "delete what is in the run directory and start anew")
    checkpoint_every: int = setting(1, "run", "epochs between checkpoints; 0: only at the end")
    track_every: int = setting(1, "run", "epochs between looks at the training set (memorization); 0: never")
    compilation_cache: str | None = setting(None, "run", "folder for compiled programs; 'off' for none")
    quiet: bool = setting(False, "run", "print the final table only")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"group": None})


_SPARSE = composable.options_of(sparse.sparse_terms)

# Settings that change where or how a run is carried out, but not its result.
_NOT_IDENTITY = (
    "out", "resume", "overwrite", "checkpoint_every", "quiet", "data_dir", "parallel", "compilation_cache",
    "recipe",  # what it says is in the settings
)  # fmt: skip


def identity(config: Config) -> dict[str, Any]:
    """The settings that determine a run's result, as a JSON-able dict."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_IDENTITY}


def model_options(config: Config) -> dict[str, str]:
    """The options of the network that were chosen."""
    return {name: value for name in ("head", "initialization") if (value := getattr(config, name)) is not None}


def method_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a method: keyword-only parameters of its factory."""
    parameters = inspect.signature(methods.get(name)).parameters
    return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _option_help(name: str) -> dict[str, str]:
    """Help texts of a method's options, from the Args section of its factory's docstring."""
    factory = methods.get(name)
    text = inspect.getdoc(getattr(factory, "func", factory)) or ""
    _, _, args = text.partition("Args:\n")
    entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", args, re.MULTILINE)
    return {key: re.sub(r"\s+", " ", value) for key, value in entries}


def _add(group: Any, name: str, kind: Any, text: str, default: Any, choices: Sequence[Any] | None = None) -> None:
    flag = "--" + name.replace("_", "-")
    flags = [flag] if flag == "--" + name else [flag, "--" + name]
    shown = "" if default is None else f" (default: {default})"
    text = (text + shown).replace("%", "%%")
    if kind is bool:
        group.add_argument(
            *flags, dest=name, action=argparse.BooleanOptionalAction, help=text, default=argparse.SUPPRESS
        )
        return
    group.add_argument(*flags, dest=name, type=kind, choices=choices, help=text, default=argparse.SUPPRESS,
                       metavar=None if choices else kind.__name__.upper())  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """The command line: a flag for each field of `Config` and each option of each method."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        usage="python -m experiments.run [--method=NAME] [--dataset=NAME] [--SETTING=VALUE …]",
        description="Train one method on one data set. What is not given comes from the recipe for that method and "
        "data set (experiments/recipes.py).",
        epilog=f"methods: {', '.join(methods.names())}. models: {', '.join(models.names())}.",
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        title = field.metadata["group"]
        if title is not None:
            groups.setdefault(title, parser.add_argument_group(title))
            _add(groups[title], field.name, _plain_type(field.type), field.metadata["help"], field.default,
                 field.metadata.get("choices"))  # fmt: skip
    owners: dict[str, dict[str, inspect.Parameter]] = {}
    for name in methods.names():
        for key, parameter in method_options(name).items():
            owners.setdefault(key, {})[name] = parameter
    for key, by_method in owners.items():
        title = f"options of {', '.join(by_method)}"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        first, *others = by_method.values()
        agreed = all(other.default == first.default for other in others)
        texts = dict.fromkeys(_option_help(name).get(key, "") for name in by_method)  # a name may mean several things
        text = " Or: ".join(filter(None, texts)) + ("" if agreed else " (default: the method's)")
        _add(groups[title], key, _plain_type(first.annotation), text, first.default if agreed else None)
    return parser


def _plain_type(annotation: Any) -> Any:
    """int for int and for int | None."""
    kinds = [k for k in getattr(annotation, "__args__", (annotation,)) if k is not type(None)]
    return kinds[0]


def parse(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What the user gave, as a flat dict; exits with a message for what is not understood."""
    parser = make_parser()
    given, unknown = parser.parse_known_args(argv)
    for item in unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        close = difflib.get_close_matches(item.split("=")[0], flags, 3, 0.5)
        parser.error(f"{item} is not known" + (f": did you mean {', '.join(close)}?" if close else "; see --help."))
    return vars(given)


def resolve(given: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """Defaults, then the recipe, then what the user gave; checked.

    Args:
      given: settings and method options, flat.

    Returns:
      The config, and where the recipe's values come from.

    Raises:
      ValueError: for an unknown name, an option that the method does not have, or a value out of range.
    """
    from experiments.settings import build, recipes

    fields = {f.name for f in dataclasses.fields(Config)} - {"options"}
    if "loss" in given and given.get("method", "erm") == "erm":
        given = {**given, "method": "custom"}
    method = methods.canonical_name(given.get("method", Config.method))
    options = method_options(method)
    foreign = [key for key in given if key not in fields and key not in options]
    for key in foreign:
        owners = [name for name in methods.names() if key in method_options(name)]
        where = f"belongs to {', '.join(owners)}" if owners else "is no setting"
        raise ValueError(f"--{key.replace('_', '-')} {where}; method={method!r} takes {', '.join(options) or 'none'}.")
    regularizer = given.get("regularizer", options["regularizer"].default if "regularizer" in options else "none")
    unused = [key for key in _SPARSE[1:] if key in given and "regularizer" in options and regularizer == "none"]
    if unused:
        raise ValueError(f"--{unused[0]} needs --regularizer=sparse.")
    source = given.get("recipe")
    if source is not None and source not in recipes.datasets():
        raise ValueError(f"recipe={source!r}: there are recipes for {', '.join(recipes.datasets())}.")
    if given.get("groups") is not None:
        if "weighting" not in options:
            owners = [name for name in methods.names() if "weighting" in method_options(name)]
            raise ValueError(f"--groups belongs to {', '.join(owners)}; method={method!r} has no groups.")
        given = {**given, "groups": build.pin_groups(given["groups"])}
    recipe = recipes.get(
        method,
        source or given.get("dataset", Config.dataset),
        regularizer=regularizer,
        noise=given.get("noise"),
        imbalance=given.get("imbalance"),
    )
    settings = {**recipe.settings, **{k: v for k, v in given.items() if k in fields}, "method": method}
    if settings.get("labels") is not None:  # real noise in place of the recipe's
        settings |= {name: given.get(name, getattr(Config, name)) for name in ("noise", "noise_rate")}
    chosen = {k: p.default for k, p in options.items()}
    chosen |= {k: v for k, v in recipe.options.items() if k in options}
    chosen |= {k: v for k, v in given.items() if k in options and k not in fields}
    if "loss" in chosen:
        chosen["loss"] = methods.custom.pin(chosen["loss"])
    if "epochs" in given and "warmup_epochs" in options and "warmup_epochs" not in given:
        # A short run keeps the recipe's proportion, so that it still reaches the method's main phase.
        full = recipe.settings.get("epochs", Config.epochs)
        chosen["warmup_epochs"] = min(chosen["warmup_epochs"], chosen["warmup_epochs"] * given["epochs"] // full + 1)
        chosen["warmup_epochs"] = min(chosen["warmup_epochs"], max(given["epochs"] - 1, 0))
    config = Config(**settings, options=chosen)
    check(config)
    return config, recipe.sources


def check(config: Config) -> None:
    """Refuse what cannot work, before any data is read.

    Raises:
      ValueError: naming the setting, its value and what is accepted.
    """

    def need(condition: bool, name: str, accepted: str) -> None:
        if not condition:
            raise ValueError(f"{name}={getattr(config, name)!r}: {accepted}.")

    for name in ("noise", "imbalance", "optimizer", "precision", "parallel"):
        choices = next(f for f in dataclasses.fields(Config) if f.name == name).metadata["choices"]
        need(getattr(config, name) in choices, name, f"one of {', '.join(choices)} is accepted")
    need(0 <= config.noise_rate <= 1, "noise_rate", "a rate in [0, 1] is accepted")
    need(config.imbalance_ratio >= 1, "imbalance_ratio", "largest over smallest class, at least 1, is accepted")
    need(config.noise == "none" or config.noise_rate > 0, "noise_rate", f"noise={config.noise!r} needs a rate above 0")
    need(config.noise != "none" or config.noise_rate == 0, "noise_rate", "a rate needs --noise=KIND")
    need(
        config.labels is None or config.noise_file is None, "labels", "--noise-file holds labels too: give one of them"
    )
    need(config.labels is None or config.noise == "none", "noise", "--labels are what they are: --noise=none")
    need(config.imbalance != "none" or config.imbalance_ratio == 1, "imbalance_ratio", "a ratio needs --imbalance=KIND")
    for name in ("epochs", "batch_size", "seeds"):
        need(getattr(config, name) >= 1, name, "at least 1 is accepted")
    for name in (
        "checkpoint_every",
        "track_every",
        "lr_warmup_epochs",
        "weight_decay",
        "gradient_clip",
        "seed",
        "early_stopping",
    ):
        need(getattr(config, name) >= 0, name, "at least 0 is accepted")
    need(config.max_tokens is None or config.max_tokens >= 1, "max_tokens", "at least 1 is accepted")
    need(config.learning_rate > 0, "learning_rate", "a positive number is accepted")
    need(0 <= config.momentum < 1, "momentum", "a number in [0, 1) is accepted")
    need(0 <= config.validation_split < 1, "validation_split", "a share in [0, 1) is accepted")
    need(
        not config.early_stopping or config.validation_split > 0, "early_stopping", "it needs --validation-split=SHARE"
    )
    need(not (config.resume and config.overwrite), "resume", "--resume and --overwrite contradict each other")
    models.get_model(config.model, 2, **model_options(config))
    for spec in (config.augmentation, config.weak_augmentation):
        augment.make_view(spec, (0.0,), (1.0,))
