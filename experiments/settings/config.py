"""A run's settings: one dataclass; from defaults, the recipe and what the user gave to one that is complete."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.settings import catalogue, defaults, files, ranges, rates, recipes
from robustjax import data, user_code
from robustjax.data import augment, corruptions, labelling
from robustjax.methods import base, composable, custom, sparse
from robustjax.training import parallel


def setting(default: Any, group: str, text: str, **metadata: Any) -> Any:
    """A field of `Config` with its help text."""
    return dataclasses.field(default=default, metadata={"group": group, "help": text, **metadata})


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run. Defaults here hold where neither the recipe nor the user says otherwise."""

    method: str = setting("dynamic_loss", "what", "training method (--list-methods), or FILE.py:NAME of your own")
    dataset: str = setting(
        "digits", "what", "digits (embedded), a TFDS name, or your own: folder:DIR, csv:FILE, npz:FILE or hf:DIR "
        "(a Hugging Face set's save_to_disk)"
    )  # fmt: skip
    recipe: str | None = setting(
        None, "what", "PAPER/DATASET: a paper's settings for a data set, e.g. sr/cifar10 (--list-datasets); DATASET: "
        "the method's own, else those that all share; default: that data set"
    )  # fmt: skip
    image_size: str | None = setting(
        None, "what", "pixels a side, or HEIGHTxWIDTH, to which images are resized; default: their size, or where that "
        "differs one that is chosen and said"
    )  # fmt: skip
    columns: str | None = setting(
        None, "what", "csv, hf: which columns hold what, where their names do not tell: WHAT=NAME,WHAT=NAME with WHAT "
        "path, text, features (what their names begin with, or A+B+C), label, true_label, group, split, id or "
        "annotators (A+B+C)"
    )  # fmt: skip
    skip_bad: bool = setting(False, "what", "folder, csv, hf: leave out files that cannot be read, and empty texts")
    max_tokens: int | None = setting(
        None,
        "what",
        "texts: how many of the last tokens are kept, in [1, 100000]; default: 256, of one's own 512 at most",
    )
    model: str = setting("small_cnn", "what", "classifier (--list-models), or FILE.py:NAME of your own")
    model_options: str | None = setting(None, "what", "options of the classifier: KEY=VALUE,KEY=VALUE")
    head: str | None = setting(None, "what", "classifier layer: linear or cosine (LDAM); default: the model's")
    initialization: str | None = setting(None, "what", "torch, kaiming_normal or kaiming_xavier; default: the model's")

    noise: str = setting("none", "labels", "how labels are made wrong", choices=labelling.NOISES)
    noise_rate: float = setting(0.0, "labels", "noise rate in [0, 1]")
    noise_form: str = setting(
        "independent", "labels", "how asymmetric noise is drawn: every label by itself, or as authors' code does (SR's "
        "and ELR's on CIFAR-10, class after class; blocks of five classes on CIFAR-100)",
        choices=corruptions.ASYMMETRIC_FORMS,
    )  # fmt: skip
    imbalance: str = setting("none", "labels", "how classes are made unequal", choices=labelling.IMBALANCES)
    imbalance_ratio: float = setting(1.0, "labels", "largest class over smallest, at least 1")
    train_examples: int | None = setting(
        None, "labels", "start from a random class-balanced subset of this size, at least 1"
    )
    noise_file: str | None = setting(None, "labels", "take kept examples and labels from this file of an earlier run")
    labels: str | None = setting(
        None,
        "labels",
        "given labels of the training split: FILE.npy, FILE.npz:NAME (of several annotators, the most frequent), or "
        "cifar10n:NAME:FILE with NAME worse, aggregate, random1, … and CIFAR-10-N's own file",
    )
    data_seed: int | None = setting(
        None, "labels", "seed of the corruption for all seeds, in [0, 4294967295]; default: each seed's own"
    )

    groups: str | None = setting(
        None, "labels", "HAR's groups: FILE.npy, an int for each example of the training split; data, which are those "
        "that came with it; or FILE.py:NAME of a function (images, labels) -> ints; default: the given labels"
    )  # fmt: skip
    validation_split: float = setting(
        0.0, "labels", "share of the training set, wrong labels and all, held out to choose an epoch by, in [0, 1)"
    )

    trusted_examples: int = setting(
        0, "labels", "so many examples, at least 0, as many of each class, leave the training set and keep their true "
        "labels, which must be known, for methods that learn from some"
    )  # fmt: skip
    trusted: str | None = setting(
        None, "labels", "trusted examples from elsewhere: the training part of npz:FILE, folder:DIR, csv:FILE or hf:DIR"
    )

    epochs: int = setting(60, "training", "epochs, in [1, 1000000] (of the final stage, where a method has several)")
    batch_size: int = setting(128, "training", "global batch size, at least 1")
    early_stopping: int = setting(
        0, "training", "end after so many epochs, at least 0, without a better validation accuracy; 0: never"
    )
    optimizer: str = setting("sgd", "training", "optimizer", choices=("sgd", "adam"))
    learning_rate: float = setting(0.1, "training", "base learning rate, positive")
    momentum: float = setting(0.9, "training", "SGD momentum, in [0, 1)")
    nesterov: bool = setting(False, "training", "Nesterov momentum")
    weight_decay: float = setting(5e-4, "training", "L2 penalty, at least 0, added to the gradient, on all parameters")
    gradient_clip: float = setting(0.0, "training", "limit on the gradient's global norm, at least 0; 0: none")
    schedule: str = setting(
        "cosine",
        "training",
        "constant, cosine, multistep:40,80:0.1, cosine_restarts:10:0.001, exponential:0.97 or "
        "linear:80 (to 0 from epoch 80 on)",
    )
    lr_warmup_epochs: float = setting(
        0.0, "training", "epochs of linear learning-rate warm-up from a tenth, at least 0"
    )
    augmentation: str = setting("none", "training", "strong view, pieces joined by '-', e.g. crop-flip-autoaugment")
    weak_augmentation: str = setting(
        "none", "training", "weak view, likewise; of Dynamic Loss and of methods of one's own"
    )
    precision: str = setting("float32", "training", "compute type of the network", choices=("float32", "bfloat16"))

    seed: int = setting(0, "run", "first seed, in [0, 4294967295]")
    seeds: int = setting(1, "run", "train seeds seed … seed+K−1 at once, K in [1, 1000], and report mean ± std")
    parallel: str = setting(
        "auto", "run", "several devices: split the batch or spread the seeds", choices=parallel.MODES
    )
    data_dir: str | None = setting(None, "run", "folder of prepared TFDS data sets")
    cache_dir: str | None = setting(
        None, "run", "folder where images and texts, decoded once, are kept; default: in the user's cache"
    )
    out: str | None = setting(None, "run", "run directory; default: a name made from the settings, under runs/")
    resume: bool = setting(False, "run", "go on with a run that was cut")
    overwrite: bool = setting(False, "run", "delete what a run wrote into the run directory and start anew")
    checkpoint_every: int = setting(1, "run", "epochs between checkpoints, at least 0; 0: only at the end")
    keep_checkpoints: int = setting(2, "run", "how many of the newest checkpoints stay, at least 1")
    track_every: int = setting(
        1, "run", "epochs between looks at the training set (memorization), at least 0; 0: never"
    )
    cross_fit: int = setting(
        0, "run", "besides, predict every training example by a network that has not seen it: K more networks, each "
        "trained on all but one of K parts, which take K times as long as the run, K in [0, 100]; 0: none"
    )  # fmt: skip
    compilation_cache: str | None = setting(None, "run", "folder for compiled programs; 'off' for none")
    log: str = setting(
        "none", "run", "besides, epochs and pictures for a tracker, whose package is an extra of its name",
        choices=("none", "tensorboard", "wandb", "mlflow"),
    )  # fmt: skip
    quiet: bool = setting(False, "run", "print the final table only")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"group": None})
    # Settings and options that nobody has named, to be chosen by the size of the data (`fill`). Until then their values
    # here mean nothing, and they are no part of the run's identity.
    by_size: tuple[str, ...] = dataclasses.field(default=(), metadata={"group": None})


FIELDS = tuple(field.name for field in dataclasses.fields(Config) if field.name not in ("options", "by_size"))
_SPARSE = composable.options_of(sparse.sparse_terms)

# What makes labels wrong and classes unequal, in place of which a noise file is.
_CORRUPTION = ("noise", "noise_rate", "noise_form", "imbalance", "imbalance_ratio", "train_examples")

# Settings that change where or how a run is carried out, but not its result.
_NOT_IDENTITY = (
    "out", "resume", "overwrite", "checkpoint_every", "keep_checkpoints", "quiet", "data_dir", "cache_dir", "parallel",
    "compilation_cache", "log",
    "cross_fit",  # it adds a file, which tells its number of parts
    "recipe",  # what it says is in the settings
    "by_size",  # likewise
)  # fmt: skip
IDENTITY = tuple(field.name for field in dataclasses.fields(Config) if field.name not in _NOT_IDENTITY)
# What a run does to the data before it trains (noise, unequal classes, subsets, parts set apart), as it is where nobody
# asks for it.
_UNTOUCHED = {each.name: each.default for each in dataclasses.fields(Config) if each.metadata["group"] == "labels"}
# Settings that runs were made without. At their defaults they are no part of a run's identity, so that it stays what it
# was before they were known.
_LATER = (
    "model_options", "noise_form", "trusted_examples", "trusted", "image_size", "columns", "skip_bad"
)  # fmt: skip


def identity(config: Config) -> dict[str, Any]:
    """The settings that determine a run's result, as a JSON-able dict; without what is still to be chosen by size."""
    found = {k: v for k, v in dataclasses.asdict(config).items() if k in IDENTITY and k not in config.by_size}
    found["options"] = {k: v for k, v in config.options.items() if k not in config.by_size}
    return {k: v for k, v in found.items() if k not in _LATER or v != getattr(Config, k)}


def model_options(config: Config) -> dict[str, Any]:
    """The options of the network that were chosen."""
    named = {name: value for name in ("head", "initialization") if (value := getattr(config, name)) is not None}
    return named | catalogue.parse_options(config.model_options or "")


def resolve(given: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """Defaults, then the recipe, then what the user gave; checked.

    Where the recipe, if any, names no network, what nobody has named is left to `fill`: `Config.by_size` tells what.

    Args:
      given: settings and method options, flat.

    Returns:
      The config, and where the recipe's values come from.

    Raises:
      ValueError: for an unknown name, an option that the method does not have, or a value out of range.
      FileNotFoundError: for a method or model in a file that is not there.
    """
    if "loss" in given and given.get("method", "erm") == "erm":
        given = {**given, "method": "custom"}
    method = catalogue.canonical(given.get("method", Config.method))
    known = catalogue.entry(method)
    options = catalogue.options(known)
    _refuse_foreign(given, method, known, options)
    if given.get("groups") is not None:
        given = {**given, "groups": files.pin_groups(given["groups"])}
    if given.get("model") is not None:
        given = {**given, "model": catalogue.canonical_model(given["model"])}
    recipe = _recipe(given, method, options)
    settings = _settings(given, method, recipe)
    chosen = {k: option.default for k, option in options.items()}
    chosen |= {k: v for k, v in recipe.options.items() if k in options}
    chosen |= {k: v for k, v in given.items() if k in options and k not in FIELDS}
    config = Config(
        **settings,
        options=_adapted(chosen, given, settings, recipe),
        by_size=_left_to_size(given, catalogue.family(method), options, recipe),
    )
    _check_all(config)
    return config, recipe.sources


def _left_to_size(
    given: Mapping[str, Any], family: str, options: Mapping[str, catalogue.Option], recipe: recipes.Recipe
) -> tuple[str, ...]:
    """What neither the recipe nor the user has named, of what can be chosen by size."""
    if "model" in recipe.settings:  # it knows its data, and is the whole protocol
        return ()
    said = {*given, *recipe.settings, *recipe.options}
    usual = catalogue.options(catalogue.entry(family)) if defaults.options(family) else {}
    names = list(defaults.settings())
    names += [  # what a variant of the method has as its own stays
        name for name in defaults.options(family) if name in options and options[name].default == usual[name].default
    ]
    return tuple(name for name in names if name not in said)


def fill(config: Config, size: defaults.Size) -> tuple[Config, dict[str, defaults.Choice]]:
    """The config with what was left to the size of the data, checked; and what was chosen, with reasons.

    Raises:
      ValueError: for a setting that does not go with what was chosen.
    """
    if not config.by_size:
        return config, {}
    said = {k: v for k, v in _flat(config).items() if k not in config.by_size}
    chosen = defaults.choose(size, said, catalogue.family(config.method), config.options)
    filled = with_values(config, {name: each.value for name, each in chosen.items()})
    _check_all(filled)
    return filled, chosen


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with these values for what is left to the size of the data; other names are passed over."""
    taken = {name: values[name] for name in config.by_size if name in values}
    return dataclasses.replace(
        config,
        **{k: v for k, v in taken.items() if k in FIELDS},
        options=dict(config.options) | {k: v for k, v in taken.items() if k not in FIELDS},
        by_size=tuple(name for name in config.by_size if name not in taken),
    )


def _flat(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in FIELDS} | dict(config.options)


def _check_all(config: Config) -> None:
    check_ranges(config)
    for name, option in catalogue.options(catalogue.entry(config.method)).items():
        ranges.check(name, config.options[name], option.help)
    check(config)


def _recipe(given: Mapping[str, Any], method: str, options: Mapping[str, catalogue.Option]) -> recipes.Recipe:
    """The recipe that is asked for; to data of one's own it brings no corruption."""
    paper, _, dataset = (given.get("recipe") or "").rpartition("/")
    recipe = recipes.get(
        catalogue.family(method),
        dataset or given.get("dataset", Config.dataset),
        paper=paper,
        regularizer=_regularizer(given, options),
        noise=given.get("noise"),
        imbalance=given.get("imbalance"),
    )
    return recipes.uncorrupted(recipe, _UNTOUCHED) if data.is_own(given.get("dataset", Config.dataset)) else recipe


def _refuse_recipe(given: Mapping[str, Any], method: str, name: str) -> None:
    """Refuse a recipe that there is none of for the method, telling what there is."""
    paper, _, dataset = given["recipe"].rpartition("/")
    there = [f"{each}/{dataset}" for each in recipes.papers(dataset)]
    if dataset not in recipes.datasets():
        known = ", ".join(recipes.datasets())
        raise ValueError(f"recipe={given['recipe']!r}: there are recipes for {known}; PAPER/DATASET takes a paper's.")
    if f"{paper}/{dataset}" in there or (not paper and recipes.has_settings(catalogue.family(method), dataset)):
        return
    whose = f"of {paper!r}" if paper else f"for method={name!r}"
    raise ValueError(
        f"recipe={given['recipe']!r}: there is none {whose}; there are {', '.join(there)}, for any method."
    )


def _regularizer(given: Mapping[str, Any], options: Mapping[str, catalogue.Option]) -> str:
    default = options["regularizer"].default if "regularizer" in options else "none"
    return str(given.get("regularizer", default))


def _refuse_foreign(
    given: Mapping[str, Any], method: str, known: base.Entry, options: Mapping[str, catalogue.Option]
) -> None:
    """Refuse what is given in vain: options of other methods, a recipe that there is none of."""
    name = known.name
    if shared := [key for key in options if user_code.find(method) and key in FIELDS]:
        raise ValueError(f"method={name!r} has an option {shared[0]!r}, which is a setting of every run; rename it.")
    for key in given:
        if key not in FIELDS and key not in options:
            owners = catalogue.owners(key)
            where = f"belongs to {', '.join(owners)}" if owners else "is no setting"
            flag = key.replace("_", "-")
            raise ValueError(f"--{flag} {where}; method={name!r} takes {', '.join(options) or 'none'}.")
    unused = [key for key in _SPARSE[1:] if key in given]
    if unused and "regularizer" in options and _regularizer(given, options) == "none":
        raise ValueError(f"--{unused[0]} needs --regularizer=sparse.")
    if given.get("weak_augmentation", "none") != "none" and known.family != "dynamic_loss" and known.paper:
        raise ValueError(f"--weak-augmentation is Dynamic Loss's second view; method={name!r} has --augmentation only.")
    if given.get("recipe") is not None:
        _refuse_recipe(given, method, name)
    if given.get("groups") is not None and "weighting" not in options:
        raise ValueError(
            f"--groups belongs to {', '.join(catalogue.owners('weighting'))}; method={name!r} has no groups."
        )
    if user_code.find(str(given.get("model"))):
        for key in ("head", "initialization"):
            if given.get(key) is not None:
                raise ValueError(f"--{key} is for the registered models; model={given['model']!r} is as its file says.")


def _settings(given: Mapping[str, Any], method: str, recipe: recipes.Recipe) -> dict[str, Any]:
    """The fields of `Config` that the recipe or the user names."""
    settings = {**recipe.settings, **{k: v for k, v in given.items() if k in FIELDS}, "method": method}
    for kind, amount in (("noise", "noise_rate"), ("imbalance", "imbalance_ratio")):
        if given.get(kind) == "none" and amount not in given:  # the recipe's went with its kind
            settings[amount] = getattr(Config, amount)
    if settings.get("model") != recipe.settings.get("model") and "model_options" not in given:
        settings["model_options"] = Config.model_options  # the recipe's went with its network
    if settings.get("labels") is not None:  # real noise in place of the recipe's
        settings |= {name: given.get(name, getattr(Config, name)) for name in ("noise", "noise_rate")}
    if settings.get("noise_file") is not None:  # which holds a choice of examples, too
        settings |= {name: given.get(name, getattr(Config, name)) for name in _CORRUPTION}
    if settings.get("trusted") is not None:  # trusted examples from elsewhere in place of the recipe's
        settings |= {"trusted_examples": given.get("trusted_examples", Config.trusted_examples)}
    if user_code.find(settings.get("model", "")):
        settings |= {"head": None, "initialization": None}
    return settings


def _adapted(
    chosen: Mapping[str, Any], given: Mapping[str, Any], settings: Mapping[str, Any], recipe: recipes.Recipe
) -> dict[str, Any]:
    """A method's options, fitted to the run's settings: pinned, shortened, told the noise rate."""
    chosen = dict(chosen)
    if chosen.get("loss"):
        chosen["loss"] = user_code.pin(chosen["loss"], "loss", custom.FORM)
    if chosen.get("forget_rate", 0) is None and settings.get("noise_rate"):
        chosen["forget_rate"] = settings["noise_rate"]  # it is known here, since the noise was made
    if "max_margin" in chosen and "scale" not in given and _head(settings) != "cosine":
        chosen["scale"] = 1.0  # LDAM's is that of cosines
    warmup = chosen.get("warmup_epochs")
    if warmup is not None and "epochs" in given and "warmup_epochs" not in given:
        # A short run keeps the recipe's proportion, so that it still reaches the method's main phase.
        full = recipe.settings.get("epochs", Config.epochs)
        chosen["warmup_epochs"] = min(warmup, warmup * given["epochs"] // full + 1, max(given["epochs"] - 1, 0))
    return chosen


def _head(settings: Mapping[str, Any]) -> str:
    """The classifier layer of a registered model; "" where only its file says."""
    if user_code.find(settings.get("model", Config.model)):
        return ""
    chosen = {"head": settings.get("head")} | catalogue.parse_options(settings.get("model_options") or "")
    return str(chosen["head"] or "linear")


def check_ranges(config: Config) -> None:
    """Refuse settings that are none of their choices or outside the range that their help says.

    Raises:
      ValueError: naming the setting, its value and what is accepted.
    """
    for field in dataclasses.fields(Config):
        value, choices = getattr(config, field.name), field.metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(f"{field.name}={value!r}: one of {', '.join(choices)} is accepted.")
        ranges.check(field.name, value, field.metadata.get("help", ""))


def check(config: Config) -> None:
    """Refuse settings that do not go together, before any data is read.

    Raises:
      ValueError: naming the setting, its value and what is accepted.
    """

    def need(condition: bool, name: str, accepted: str) -> None:
        if not condition:
            raise ValueError(f"{name}={getattr(config, name)!r}: {accepted}.")

    need(config.noise == "none" or config.noise_rate > 0, "noise_rate", f"noise={config.noise!r} needs a rate above 0")
    need(config.noise != "none" or config.noise_rate == 0, "noise_rate", "a rate needs --noise=KIND")
    need(config.noise == "asymmetric" or config.noise_form == "independent", "noise_form", "it is --noise=asymmetric's")
    need(
        config.labels is None or config.noise_file is None, "labels", "--noise-file holds labels too: give one of them"
    )
    need(config.labels is None or config.noise == "none", "noise", "--labels are what they are: --noise=none")
    for name in _CORRUPTION if config.noise_file is not None else ():
        need(
            getattr(config, name) == getattr(Config, name), name, "--noise-file says all labels and which examples stay"
        )
    need(config.imbalance != "none" or config.imbalance_ratio == 1, "imbalance_ratio", "a ratio needs --imbalance=KIND")
    need(config.cross_fit != 1, "cross_fit", "0, or at least 2 parts are accepted")
    last = config.seed + config.seeds - 1
    need(last < 2**32, "seeds", f"the last of them would be {last}, and seeds up to {2**32 - 1} are accepted")
    files.parse_image_size(config.image_size)
    files.parse_columns(config.columns)
    rates.make_schedule(config.schedule, config.learning_rate, config.epochs, config.lr_warmup_epochs)
    need(
        not config.early_stopping or config.validation_split > 0, "early_stopping", "it needs --validation-split=SHARE"
    )
    need(
        config.trusted is None or not config.trusted_examples,
        "trusted_examples",
        f"--trusted={config.trusted} is a pool of its own: give one of them",
    )
    if config.trusted is not None:
        files.check_trusted(config.trusted)
    need(not (config.resume and config.overwrite), "resume", "--resume and --overwrite contradict each other")
    if "model" in config.by_size:
        model_options(config)
    elif user_code.find(config.model) is None:
        catalogue.make_model(config.model, 2, **model_options(config))
    else:
        model_options(config)
        need(config.precision == "float32", "precision", "a model of your own computes in the type that its file says")
    if "max_margin" in config.options:
        head, scale = _head(dataclasses.asdict(config)), config.options["scale"]
        need(head != "linear" or scale == 1, "head", f"LDAM's scale={scale:g} is for --head=cosine; linear has 1")
        need(head != "cosine" or scale > 1, "head", f"its logits are at most scale={scale:g}, which must be above 1")
    for spec in (config.augmentation, config.weak_augmentation):
        augment.make_view(spec, (0.0,), (1.0,))
