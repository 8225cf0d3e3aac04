"""What a cell would take to run: the settings, the command, or the reason why it cannot be run.

`RULES` holds each paper's protocol, as far as `experiments.recipes` does not: a recipe knows (method, data set), and
the papers train the same method on the same data set differently. Whether a cell can be run is asked of the registries
each time, so a cell becomes runnable on the day its method is registered.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.settings import config, recipes
from experiments.tables import Cell, readings
from experiments.tables.readings import Reason
from robustjax import data, methods, models
from robustjax.data import labelling

# What a paper leaves open without which there is no run; by the cell's method.
_UNTOLD = {"unif_reg_optimal": "the paper does not say which strength was the best"}

# What makes a cell this cell and no other: a run with another of these measures something else.
DEFINING = ("method", "dataset", "noise", "noise_rate", "imbalance", "imbalance_ratio")


class Rule(NamedTuple):
    """Settings of the cells that match; later rules win.

    Attributes:
      match: column of the cell -> glob, or several joined by "|"; all must match.
      settings: settings of a run and options of a method, flat.
      source: where they come from; "" for a rule that only changes a few.
      caveat: how a run here differs from the paper's, or what the paper leaves open; shown in the report.
    """

    match: Mapping[str, str]
    settings: Mapping[str, Any]
    source: str = ""
    caveat: str = ""


class Plan(NamedTuple):
    """A cell's run.

    Attributes:
      settings: of the run, as the paper has it; flat, complete but for what the recipe alone knows (method options).
      sources: where they come from.
      caveats: how the run still differs from the paper's.
    """

    settings: dict[str, Any]
    sources: tuple[str, ...]
    caveats: tuple[str, ...]


# A protocol names all of these, so that nothing of another paper's recipe for the data set shines through.
_PROTOCOL = (
    *(f.name for f in dataclasses.fields(config.Config) if f.metadata["group"] == "training" and f.name != "precision"),
    "initialization",
)


def _protocol(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How training goes, complete: what `settings` leave out is as in `experiments.config.Config`."""
    return {name: settings.get(name, getattr(config.Config, name)) for name in _PROTOCOL}


def _sgd(epochs: int, rate: float, decay: float, schedule: str, initialization: str = "torch") -> dict[str, Any]:
    return _protocol({
        "epochs": epochs, "batch_size": 128, "learning_rate": rate, "weight_decay": decay, "schedule": schedule,
        "augmentation": "crop-flip", "initialization": initialization,
    })  # fmt: skip


_HAR, _SR, _ELR = "HAR (ICLR 2021), code", "SR (ICCV 2021), section 4 and code", "ELR (NeurIPS 2020), code"
_DL = recipes.DATASETS["cifar10"].sources[0]

RULES: tuple[Rule, ...] = (
    Rule({"paper": "har", "dataset": "imdb_reviews"},
         _protocol(recipes.DATASETS["imdb_reviews"].settings), recipes.DATASETS["imdb_reviews"].sources[0],
         "the paper does not give learning rate, batch size, vocabulary, text length, embedding and pooling"),
    Rule({"paper": "har", "dataset": "cifar10|cifar100"},
         _sgd(120, 0.1, 1e-4, "multistep:80,100:0.1", "kaiming_normal"), _HAR,
         "the paper draws the noise once and reports the best test epoch; here each seed has its own noise and the "
         "last epoch counts"),
    Rule({"paper": "har", "table": "3", "method": "[!hb]*"}, {}, "",
         "the baselines' settings are not recorded; these are HAR's"),
    Rule({"paper": "har", "table": "3", "method": "bbn"},
         _protocol(recipes.METHODS["bbn", "cifar10"].settings) | {"model_options": "branches=2"},
         recipes.METHODS["bbn", "cifar10"].sources[0], "the settings are those of BBN's own paper"),
    Rule({"paper": "har", "method": "incv"}, {}, "",
         "how INCV was set is not recorded: four iterations of two networks and 50 epochs each, as in its own paper"),
    Rule({"paper": "har", "method": "dmi"}, {"tuning_epochs": 100}, "DMI (NeurIPS 2019), code: 100 epochs at 1e-6"),
    Rule({"paper": "har", "method": "mentornet"}, {}, "",
         "which MentorNet the paper ran is not recorded: this is the predefined curriculum, with its authors' "
         "percentile for 20 and 40 % of wrong labels"),
    *(Rule({"paper": "har", "method": f"reweight_{applied}"}, {"method": "mw_net", "applied": applied}, "",
           "the paper does not say how often such weights are made; here they are for every batch")
      for applied in ("random", "inverse")),
    Rule({"paper": "har", "method": "l2rw|mw_net|reweight_*"}, {}, "",
         "how many trusted images the paper gave this method is not recorded; these are 1,000"),
    *(Rule({"paper": "har", "method": f"unif_reg_{strength}"}, {"method": "unif_reg", "strength": float(strength)})
      for strength in ("0.001", "0.01", "0.02", "0.05", "0.1")),
    *(Rule({"paper": "har", "method": f"adap_reg_{weighting}"}, {"method": "har", "weighting": weighting})
      for weighting in ("inverse", "random")),
    Rule({"paper": "har", "method": "har|har_drw|unif_reg*|adap_reg*"}, {}, "",
         "the regulariser is appendix B's, an example's sum of the layers' norms, to which its 0.1 belongs; eq. 6 has "
         "the root of their squares, and the authors' code 1/B of the sum"),

    Rule({"paper": "sr", "dataset": "mnist"}, _protocol(recipes.DATASETS["mnist"].settings), _SR),
    *(Rule({"paper": "sr", "dataset": name},
           _protocol(recipes.SPARSE[name, ""].settings) | {"recipe": f"sr/{name}"}, _SR)
      for name in ("cifar10", "cifar100")),
    Rule({"paper": "sr", "table": "5", "dataset": "cifar10|cifar100"},
         {"gradient_clip": 0.0, "augmentation": "crop-flip"}),
    Rule({"paper": "sr", "dataset": "cifar100", "method": "nlnl"}, {"complementary": 1}, "",
         "SR's code draws 1 complementary label an example; NLNL's paper 110 on CIFAR-100"),
    Rule({"paper": "sr", "method": "focal"}, {"gamma": 0.5, "detach": True}),
    Rule({"paper": "har|elr", "method": "gce"}, {"clip": 0.0}),  # the recipe's is SR's
    Rule({"paper": "sr", "dataset": "mnist", "method": "sce"}, {}, "",
         "the weights of the two losses are those of APL's code on MNIST, 0.01 and 1; SR's code has 1 and 1"),
    Rule({"paper": "sr", "noise": "symmetric"}, {"noise": "symmetric_exclusive"}),
    Rule({"paper": "sr", "dataset": "cifar10", "imbalance": "none"}, {}, "",
         "inputs have the scale of Dynamic Loss's code, 1.2 to 1.3 times that of SR's"),
    Rule({"paper": "har", "dataset": "cifar100"}, {}, "",
         "inputs are normalised by CIFAR-100's statistics; the authors' code has CIFAR-10's for both"),
    Rule({"paper": "sr", "noise": "asymmetric", "dataset": "cifar10"}, {"noise_form": "sequential_sr"}, "",
         "asymmetric noise as the authors' code makes it, which flips classes in turn, so that cats may turn back; the "
         "paper defines independent flips"),
    Rule({"paper": "sr", "noise": "asymmetric", "dataset": "cifar100"}, {"noise_form": "blocks"}, "",
         "asymmetric noise as the authors' code makes it, within blocks of five consecutive classes; the paper says "
         "superclasses"),

    Rule({"paper": "dynamic_loss", "dataset": "cifar10"}, _protocol(recipes.DATASETS["cifar10"].settings), _DL),
    Rule({"paper": "dynamic_loss", "dataset": "cifar100"}, _protocol(recipes.DATASETS["cifar100"].settings), _DL),
    Rule({"paper": "dynamic_loss", "dataset": "cifar10|cifar100", "method": "dynamic_loss*"}, {}, "",
         "the paper's 300 epochs and views with the code's warm-up of the corrector; the code has 325 epochs, Cutout "
         "and a pass over the meta set in each (--finetune)"),
    # The focal loss of LDAM's code, whose baselines these are.
    Rule({"paper": "har|dynamic_loss", "method": "focal|cb_focal"}, {"gamma": 1.0}),
    *(Rule({"paper": "dynamic_loss", "dataset": name, "method": "cmw_net"},
           _protocol(recipes.METHODS["cmw_net", name].settings), "CMW-Net (TPAMI 2023), code",
           "the paper took this number from CMW-Net's, which is without soft labels; the authors' code, whose settings "
           "these are, is with them")
      for name in ("cifar10", "cifar100")),
    Rule({"paper": "dynamic_loss", "method": "curvenet"}, {"augmentation": "crop-flip"}, "",
         "probing and trusted images are those of CurveNet's authors, 300 epochs and 1000; the paper does not tell"),
    Rule({"paper": "dynamic_loss", "table": "1|8|9", "method": "famus"}, {}, "",
         "how FaMUS was set is not recorded; this is its form without clean images, with the constants of its code for "
         "CNWL and DivideMix's warm-up"),
    *(Rule({"paper": "dynamic_loss", "table": "3|11", "dataset": name, "method": "famus"},
           _sgd(200, 0.1, 5e-4, "multistep:160,180:0.1") | {
               "method": "mw_net", "train_loss": "ldam", "head": "cosine", "gated_tensors": 15,
               "meta_learning_rate": 1e-5, "trusted_examples": 10 * classes},
           "FaMUS (CVPR 2021), section 5.4 and appendix E",
           "the paper took this number from FaMUS's: Meta-Weight-Net with LDAM and ten clean images a class; there is "
           "no code of it, and batch size, LDAM's constants and the meta optimizer (here MW-Net's) are not told")
      for name, classes in (("cifar10", 10), ("cifar100", 100))),
    Rule({"paper": "dynamic_loss", "method": "nct"}, {}, "",
         "the first 10 (CIFAR-100: 100) features predict; its authors choose how many on clean validation images"),
    Rule({"paper": "dynamic_loss", "table": "6", "method": "cross_entropy"}, {"augmentation": "crop-flip"}),
    Rule({"paper": "dynamic_loss", "table": "6", "method": "autoaugment"}, {"method": "cross_entropy"}),

    Rule({"paper": "elr", "table": "1", "dataset": "cifar10"}, _sgd(120, 0.02, 1e-3, "multistep:40,80:0.01"), _ELR),
    Rule({"paper": "elr", "table": "1", "dataset": "cifar100"}, _sgd(150, 0.02, 1e-3, "multistep:80,120:0.01"), _ELR),
    Rule({"paper": "elr", "table": "1", "dataset": "cifar10", "noise": "symmetric", "method": "elr"}, {}, "",
         "the schedule for symmetric noise without cosine annealing is not recorded; this is that for asymmetric"),
    Rule({"paper": "elr", "table": "1", "method": "elr_cosine"},
         {"method": "elr", "epochs": 150, "schedule": "cosine_restarts:10:0.001"}),
    Rule({"paper": "elr", "table": "1", "dataset": "cifar100", "method": "elr_cosine"}, {}, "",
         "the cosine schedule is recorded for CIFAR-10 only; this is the same"),
    # What ELR's authors ran with their own code; numbers that they took from others are from other noise.
    Rule({"paper": "elr", "noise": "asymmetric", "dataset": "cifar10", "method": "elr*|bootstrap|sce"},
         {"noise_form": "sequential_elr"}, "",
         "asymmetric noise as the authors' code makes it, which flips classes in turn, so that cats may turn back; the "
         "paper defines independent flips"),
    Rule({"paper": "elr", "noise": "asymmetric", "dataset": "cifar100", "method": "elr*|bootstrap|sce"},
         {"noise_form": "blocks"}, "",
         "asymmetric noise as the authors' code makes it, within blocks of five consecutive classes; the paper says "
         "superclasses"),
    Rule({"paper": "elr", "table": "1", "method": "cross_entropy|forward|gce"}, {}, "",
         "the paper took this number from another (GCE, NeurIPS 2018); the settings here are ELR's"),
    Rule({"paper": "elr", "table": "2|5", "dataset": "cifar10"}, _sgd(200, 0.02, 5e-4, "multistep:150:0.1"), _ELR),
    Rule({"paper": "elr", "table": "2", "dataset": "cifar100"}, _sgd(250, 0.02, 5e-4, "multistep:200:0.1"), _ELR),
    Rule({"paper": "elr", "table": "2", "method": "elr_plus_best"}, {"method": "elr_plus"}),
    Rule({"paper": "elr", "table": "2", "method": "[!epm]*|mixup"}, {}, "",
         "the paper took this number from another (DivideMix, ICLR 2020); the settings here are ELR+'s"),
    Rule({"paper": "elr", "table": "2", "method": "pencil"},
         _protocol(recipes.METHODS["pencil", "cifar10"].settings), "PENCIL (CVPR 2019), code",
         "the paper took this number from another (DivideMix, ICLR 2020); the settings here are PENCIL's own, whose "
         "rates belong to its loss, but for α, which is ours (1/C)"),
    Rule({"paper": "elr", "table": "5"}, {"model": "preact_resnet18"}, "", "the paper does not say which network"),
    Rule({"paper": "elr", "table": "5", "method": "elr_plus_one_network_no_weight_averaging_no_mixup"}, {}, "",
         "ELR with ELR+'s network and schedule, its targets from predictions made apart; the paper says no more"),
    Rule({"paper": "elr", "dataset": "cifar10|cifar100", "method": "[!m]*|mixup"}, {"validation_split": 0.1}, "",
         "10 % of the images are held out, by their given labels; the paper takes as many of each true class"),
    Rule({"paper": "elr", "table": "2", "method": "m_dyr_sh"}, _sgd(300, 0.1, 1e-4, "multistep:100,250:0.1"),
         recipes.METHODS["m_dyr_sh", "cifar10"].sources[0],
         "the paper took this number from another (DivideMix, ICLR 2020); the settings here are M-DYR's"),
)  # fmt: skip


def plan(cell: Cell) -> Plan | Reason:
    """The settings of the run that a cell needs, or why there is none.

    An average has no run of its own: its `experiments.tables.members` have.
    """
    if cell.is_average:
        return Reason("an average over other settings, computed from them")
    if cell.dataset not in _known_datasets():
        return Reason(f"data set {cell.dataset} is not in TFDS")
    if cell.tested_on:
        return Reason(f"no test on another data set ({cell.tested_on})")
    rules = [rule for rule in RULES if _matches(rule, cell)]
    settings: dict[str, Any] = {
        "method": cell.method, "dataset": cell.dataset, "model": cell.model, "noise": cell.noise,
        "noise_rate": cell.noise_rate or 0.0, "imbalance": cell.imbalance,
        "imbalance_ratio": cell.imbalance_ratio or 1.0,
    }  # fmt: skip
    for rule in rules:
        settings |= rule.settings
    if settings["method"] in _UNTOLD:
        return Reason(_UNTOLD[settings["method"]])
    if settings["method"] not in methods.names():
        return Reason(f"method {settings['method']} is not registered")
    if "noise rate" in methods.entry(settings["method"]).needs and settings["noise"] == "none":
        return Reason(f"method {settings['method']} needs a noise rate, and no noise is made")
    if settings["model"] not in models.names():
        return Reason(f"model {settings['model'] or '(not stated)'} is not registered")
    for name, known in (("noise", labelling.NOISES), ("imbalance", labelling.IMBALANCES)):
        if settings[name] not in known:
            return Reason(f"{name} {settings[name]} cannot be made")
    if isinstance(unread := readings.reading(cell), Reason):
        return unread
    sources = tuple(rule.source for rule in rules if rule.source)
    if not sources:
        return Reason(f"no settings of this paper for {cell.dataset}")
    return Plan(settings, sources, tuple(rule.caveat for rule in rules if rule.caveat))


def command(cell: Cell) -> list[str] | Reason:
    """The flags of `python -m experiments.run` for a cell, without what its recipe says; or why there are none."""
    planned = plan(cell)
    return planned if isinstance(planned, Reason) else flags(planned.settings)


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Flat settings as flags: what makes the run this one, then what the recipe does not say of itself.

    The flags left resolve to the same run as all of `settings`.
    """
    wanted, _ = config.resolve(settings)
    needed = dict(settings)
    for name, value in settings.items():
        stays = (name in DEFINING and value != getattr(config.Config, name)) or name in ("method", "dataset")
        fewer = {k: v for k, v in needed.items() if k != name}
        if not stays and _resolves_to(fewer, wanted):
            needed = fewer
    return [_flag(name, value) for name, value in needed.items()]


def _resolves_to(settings: Mapping[str, Any], wanted: config.Config) -> bool:
    try:
        return config.resolve(settings)[0] == wanted
    except ValueError:
        return False


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={value:g}" if isinstance(value, float) else f"--{flag}={value}"


def _matches(rule: Rule, cell: Cell) -> bool:
    return all(
        any(fnmatch.fnmatchcase(getattr(cell, column), glob) for glob in globs.split("|"))
        for column, globs in rule.match.items()
    )


@functools.cache
def _known_datasets() -> frozenset[str]:
    return frozenset(data.sources.names())
