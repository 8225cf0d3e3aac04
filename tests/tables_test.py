"""The papers' tables as data: complete, addressable, consistent, and turned into commands that mean the cell."""

import collections
import csv
import math

import numpy as np
import pytest

from experiments import tables
from experiments.settings import command_line, config
from experiments.tables import commands, readings
from experiments.tables.readings import Reason
from robustjax import methods

CELLS = tables.load()
SUMS = {"har": (16725.47, 126.6), "sr": (26549.41, 122.07), "dynamic_loss": (57630.02, 0.0), "elr": (16818.98, 67.29)}
BY_KEY = {cell.key: cell for cell in CELLS}
PLANS = {cell.key: commands.plan(cell) for cell in CELLS}


def test_every_published_number_is_there():
    counts = collections.Counter(cell.paper for cell in CELLS)
    assert counts == {"har": 262, "sr": 378, "dynamic_loss": 917, "elr": 237}
    assert len(BY_KEY) == 1794
    assert all(0 <= cell.mean <= 100 and (cell.std is None or cell.std >= 0) for cell in CELLS)


def test_sums_of_the_published_numbers():
    """Of all means and standard deviations of a paper: a changed digit anywhere shows."""
    sums = {}
    for paper in tables.PAPERS:
        own = [cell for cell in CELLS if cell.paper == paper]
        sums[paper] = round(sum(cell.mean for cell in own), 2), round(sum(cell.std or 0 for cell in own), 2)
    assert sums == SUMS


def test_known_cells():
    cell = BY_KEY["sr/1:mnist/sym0.8/ce_sr"]
    assert (cell.model, cell.noise, cell.noise_rate, cell.method_printed) == ("cnn4", "symmetric", 0.8, "CE+SR")
    assert BY_KEY["sr/5:cifar10/longtail100/cross_entropy"].mean == 64.16
    assert BY_KEY["har/5:webvision-on-imagenet_val/har/top1"].tested_on == "imagenet_val"
    assert BY_KEY["har/1:cifar10/step_rare_noisy10/hetero0.4/cross_entropy/top1_rare_noisy"].mean == 52.9


def test_the_texts_numbers_follow_the_tables():
    """Dynamic Loss tells one that no table holds: what a corrector loses that does not know the class."""
    cell = BY_KEY["dynamic_loss/text:cifar10/asym0.4/dynamic_loss_class_agnostic"]
    assert (cell.mean, BY_KEY["dynamic_loss/10:cifar10/asym0.4/dynamic_loss"].mean) == (90.56, 94.51)
    assert [name for name in tables.table_names(CELLS) if name.startswith("dynamic_loss/")][-1] == cell.table_name
    settings, _ = config.resolve(PLANS[cell.key].settings)
    assert settings.options["corrector"] == "agnostic"


def test_amounts_mean_what_the_columns_say():
    for cell in CELLS:
        assert cell.imbalance_ratio in (None, "mean") or cell.imbalance_ratio > 1
        assert cell.noise_rate in (None, "mean") or 0 < cell.noise_rate < 1
        assert (cell.noise_rate is None) == (cell.noise in ("none", "real"))


def test_averages_are_those_of_their_members():
    """The printed average is its members' to 0.015, wherever the members are printed and nothing is in doubt."""
    settings = ("paper", "dataset", "noise", "noise_rate", "imbalance", "imbalance_ratio", "model", "method", "metric")
    printed = collections.defaultdict(dict)
    for cell in CELLS:
        printed[tuple(getattr(cell, name) for name in settings)][cell.table] = cell.mean
    checked, off = 0, set()
    for cell in filter(lambda cell: cell.is_average, CELLS):
        members = [printed.get(tuple(getattr(m, name) for name in settings), {}) for m in tables.members(cell)]
        means = [np.mean([m[t] for m in members]) for t in set.intersection(*map(set, members))]
        checked += bool(means)
        if means and min(abs(mean - cell.mean) for mean in means) > 0.015:
            off.add(cell.key)
    assert checked == 178  # all but ROLT+, whose cells are not printed
    doubted = {cell.key for cell in CELLS if cell.is_average and cell.note.startswith("uncertain: the ten printed")}
    assert off == doubted and len(off) == 4


def test_members_of_an_average():
    found = tables.members(BY_KEY["dynamic_loss/2:cifar10/sym+asym-mean/cross_entropy"])
    assert [(m.noise, m.noise_rate) for m in found] == [
        ("symmetric", 0.2), ("symmetric", 0.4), ("symmetric", 0.6), ("asymmetric", 0.2), ("asymmetric", 0.4)
    ]  # fmt: skip
    found = tables.members(BY_KEY["dynamic_loss/1:cifar10/longtail-mean/freq-mean/dynamic_loss/best"])
    assert len(found) == 10 and found[3].id == "cifar10/longtail10/freq0.4/dynamic_loss/best"
    assert all(math.isnan(m.mean) for m in found)
    assert tables.members(BY_KEY["sr/1:mnist/sym0.8/ce_sr"]) == ()


def test_select_by_glob():
    assert len(tables.select(CELLS, "sr/1", "mnist/sym0.8/*")) == 9
    assert {cell.table_name for cell in tables.select(CELLS, "sr/*", "*/gce_sr")} == {"sr/1", "sr/2", "sr/6"}
    with pytest.raises(ValueError, match=r"table='sr/9' matches none: did you mean .*sr/5"):
        tables.select(CELLS, "sr/9")
    with pytest.raises(
        ValueError, match=r"cells='mnist/sym0.8/ce_srr' matches none in sr/1: did you mean mnist/sym0.8/ce_sr"
    ):
        tables.select(CELLS, "sr/1", "mnist/sym0.8/ce_srr")
    with pytest.raises(ValueError, match=r"there are har/1, har/2"):
        tables.select(CELLS, "zzzzzz")


def test_own_folder_of_tables(tmp_path):
    row = dict.fromkeys(tables.COLUMNS, "") | {
        "paper": "toy", "table": "1", "dataset": "digits", "noise": "none", "imbalance": "none", "method": "focal",
        "metric": "test_accuracy", "mean": "90",
    }  # fmt: skip

    def write(*rows, columns=tables.COLUMNS):
        with (tmp_path / "toy.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return tables.load(tmp_path)

    (cell,) = write(row)
    assert (cell.key, cell.mean, cell.std, cell.noise_rate) == ("toy/1:digits/focal", 90.0, None, None)
    with pytest.raises(ValueError, match="two cells are 'toy/1:digits/focal'"):
        write(row, row)
    with pytest.raises(ValueError, match=r"toy.csv, line 2: mean='high' is not a number"):
        write(row | {"mean": "high"})
    with pytest.raises(ValueError, match="has the columns"):
        write(row, columns=tables.COLUMNS[1:])
    with pytest.raises(FileNotFoundError):
        tables.load(tmp_path / "nowhere")


def test_commands_mean_their_cell():
    """A command, parsed, is the run that the cell asks for, and says what makes it this cell."""
    runnable = {key: plan for key, plan in PLANS.items() if isinstance(plan, commands.Plan)}
    assert len(runnable) > 150
    for key in list(runnable)[::17]:
        plan, flags = runnable[key], commands.command(BY_KEY[key])
        assert config.resolve(command_line.parse(flags))[0] == config.resolve(plan.settings)[0], key
        cell = BY_KEY[key]
        if cell.noise != "none":
            assert f"--noise={plan.settings['noise']}" in flags and f"--noise-rate={cell.noise_rate:g}" in flags


def test_hars_strengths_are_of_the_sum_of_norms():
    """What its tables print as λ (0.001 to 0.1), and HAR's own 0.1, are of appendix B's sum."""
    plans = [plan for key, plan in PLANS.items() if key.startswith("har/") and isinstance(plan, commands.Plan)]
    plans = [plan for plan in plans if plan.settings["method"] in ("har", "har_drw", "unif_reg")]
    runs = [config.resolve(plan.settings)[0].options for plan in plans]
    assert len(runs) == 47 and {run["form"] for run in runs} == {"sum"}
    assert {run["strength"] for run in runs} == {None, 0.001, 0.01, 0.1}  # 0.02 and 0.05 are of sets that cannot run
    assert all(any("an example's sum of the layers' norms" in caveat for caveat in plan.caveats) for plan in plans)


def test_imdb_is_planned_with_hars_network():
    plan = PLANS["har/6:imdb_reviews/hetero0.4/cross_entropy/top1_positive_reviews"]
    settings, sources = config.resolve(plan.settings)
    assert (settings.model, settings.optimizer, settings.epochs) == ("bilstm", "adam", 20)
    assert (settings.noise, settings.noise_rate, settings.weight_decay) == ("heteroskedastic", 0.4, 0.0)
    assert "HAR" in plan.sources[0] and any("paper is silent" in source for source in sources) and plan.caveats


def test_every_runnable_cell_resolves_to_its_own_settings():
    for key, plan in PLANS.items():
        if isinstance(plan, commands.Plan):
            settings, _ = config.resolve(plan.settings)
            cell = BY_KEY[key]
            assert settings.noise_rate == (cell.noise_rate or 0), key
            assert (settings.imbalance, settings.imbalance_ratio) == (cell.imbalance, cell.imbalance_ratio or 1), key
            assert settings.model == (cell.model or "preact_resnet18"), key


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sr/1:cifar10/sym0.8/cross_entropy",
         {"model": "cnn8", "epochs": 120, "learning_rate": 0.01, "weight_decay": 1e-4, "batch_size": 128,
          "augmentation": "crop-flip", "noise": "symmetric_exclusive", "lr_warmup_epochs": 0}),
        ("sr/5:cifar10/longtail100/ce_sr", {"gradient_clip": 0, "noise": "none", "imbalance_ratio": 100}),
        ("sr/5:cifar100/longtail100/ce_sr", {"gradient_clip": 0, "augmentation": "crop-flip"}),
        ("sr/5:cifar100/longtail100/cross_entropy", {"gradient_clip": 0, "augmentation": "crop-flip"}),
        ("sr/1:cifar100/sym0.4/ce_sr", {"augmentation": "crop-flip-rotate"}),
        ("sr/1:mnist/sym0.8/gce_sr", {"gradient_clip": 5, "model": "cnn4", "epochs": 50}),
        ("sr/2:mnist/asym0.4/ce_sr", {"noise": "asymmetric", "noise_form": "independent"}),
        ("sr/2:cifar10/asym0.4/gce", {"noise": "asymmetric", "noise_form": "sequential_sr"}),
        ("sr/2:cifar100/asym0.4/ce_sr", {"noise": "asymmetric", "noise_form": "blocks"}),
        ("elr/1:cifar10/asym0.4/elr", {"noise_form": "sequential_elr"}),
        ("elr/1:cifar100/asym0.4/sce", {"noise_form": "blocks"}),
        ("elr/1:cifar10/asym0.4/gce", {"noise": "asymmetric", "noise_form": "independent"}),  # from another paper
        ("har/3:cifar10/longtail100/ldam_drw", {"head": "cosine"}),
        ("har/3:cifar10/longtail100/har_drw", {"head": None}),
        ("dynamic_loss/11:cifar100/longtail10/ldam_drw", {"head": "cosine"}),
        ("har/2:cifar10/hetero0.4/cross_entropy/top1_noisy_classes",
         {"initialization": "kaiming_normal", "epochs": 120, "schedule": "multistep:80,100:0.1", "weight_decay": 1e-4,
          "noise": "heteroskedastic"}),
        ("elr/1:cifar100/sym0.4/cross_entropy",
         {"epochs": 150, "learning_rate": 0.02, "weight_decay": 1e-3, "noise": "symmetric"}),
        ("elr/2:cifar100/sym0.5/cross_entropy", {"epochs": 250, "model": "preact_resnet18"}),
        ("dynamic_loss/8:cifar10/longtail100/freq0.3/dynamic_loss/best",
         {"epochs": 300, "batch_size": 512, "augmentation": "crop-flip-autoaugment", "noise_rate": 0.3}),
        ("dynamic_loss/6:cifar10/cross_entropy", {"augmentation": "crop-flip", "imbalance": "none"}),
        ("dynamic_loss/6:cifar10/autoaugment", {"augmentation": "crop-flip-autoaugment", "method": "cross_entropy"}),
    ],
)  # fmt: skip
def test_protocols_of_the_papers(key, expected):
    settings, _ = config.resolve(PLANS[key].settings)
    assert {name: getattr(settings, name) for name in expected} == expected


def test_the_papers_focal_losses_differ():
    sr, _ = config.resolve(PLANS["sr/1:cifar10/sym0.8/focal"].settings)
    ldam, _ = config.resolve(PLANS["har/3:cifar10/longtail100/focal"].settings)
    assert (sr.options["gamma"], sr.options["detach"]) == (0.5, True)
    assert (ldam.options["gamma"], ldam.options["detach"]) == (1.0, False)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("elr/3:clothing1m/cross_entropy", "data set clothing1m is not in TFDS"),
        ("har/5:webvision_mini/cross_entropy/top1", "data set webvision_mini is not in TFDS"),
        ("dynamic_loss/1:cifar10/longtail-mean/freq-mean/cross_entropy/last", "average"),
        ("dynamic_loss/3:imagenet_lt/longtail256/cross_entropy", "no settings of this paper for imagenet_lt"),
        ("har/2:cifar10/hetero0.4/unif_reg_optimal/top1_noisy_classes", "does not say which strength"),
    ],
)
def test_why_a_cell_cannot_be_run(key, reason):
    assert isinstance(PLANS[key], Reason) and reason in PLANS[key].text
    assert commands.command(BY_KEY[key]) == PLANS[key]


def test_a_method_that_needs_a_noise_rate_is_not_run_without_noise():
    cell = BY_KEY["elr/1:cifar10/asym0.4/elr"]._replace(method="co_teaching")
    assert isinstance(commands.plan(cell), commands.Plan)
    reason = commands.plan(cell._replace(noise="none", noise_rate=None))
    assert reason == Reason("method co_teaching needs a noise rate, and no noise is made")


def test_a_cell_becomes_runnable_when_its_method_is_registered(monkeypatch):
    cell = BY_KEY["elr/1:cifar10/asym0.4/elr"]._replace(method="a_new_method")
    assert commands.plan(cell) == Reason("method a_new_method is not registered")
    new = methods.entry("cross_entropy")._replace(name="a_new_method", aliases=())
    monkeypatch.setitem(methods._REGISTRY, "a_new_method", new)
    assert commands.command(cell)[0] == "--method=a_new_method"


SEED = {
    "test_accuracy_last": 0.5, "test_accuracy_best": 0.75, "test_accuracy_best_validation": 0.625,
    "final": {"clean_true": 0.9, "per_class_accuracy": [c / 10 for c in range(10)]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sr/1:mnist/sym0.8/ce_sr", 50.0),
        ("dynamic_loss/8:cifar10/longtail10/freq0.2/cross_entropy/last", 50.0),
        ("dynamic_loss/8:cifar10/longtail10/freq0.2/cross_entropy/best", 75.0),
        ("elr/2:cifar10/sym0.5/cross_entropy", 75.0),
        ("elr/1:cifar10/sym0.4/elr", 62.5),
        ("elr/2:cifar10/sym0.5/elr_plus", 62.5),
        ("elr/2:cifar10/sym0.5/elr_plus_best", 75.0),
        ("har/3:cifar10/longtail100/cross_entropy", 50.0),
        ("har/7:cifar100/cross_entropy/top1_train", 90.0),
        # Classes 1, 9, 3 and 5 are noisy: (0.1 + 0.9 + 0.3 + 0.5) / 4, and (0 + 0.2 + 0.4 + 0.6 + 0.7 + 0.8) / 6.
        ("har/1:cifar10/step_rare_noisy10/hetero0.4/cross_entropy/top1_rare_noisy", 45.0),
        ("har/8:cifar10/step_rare_clean10/hetero0.4/cross_entropy/top1_rare_clean", 45.0),
        ("har/2:cifar10/hetero0.4/cross_entropy/top1_clean_classes", 45.0),
    ],
)
def test_readings(key, value):
    assert readings.reading(BY_KEY[key]).of(SEED) == pytest.approx(value)


def test_group_readings_tell_noisy_from_clean_classes():
    seed = {"final": {"per_class_accuracy": [1.0 if c in (1, 9, 3, 5) else 0.0 for c in range(10)]}}
    noisy = BY_KEY["har/8:cifar10/step_rare_clean10/hetero0.4/cross_entropy/top1_noisy_classes"]
    clean = BY_KEY["har/8:cifar10/step_rare_clean10/hetero0.4/cross_entropy/top1_rare_clean"]
    assert (readings.reading(noisy).of(seed), readings.reading(clean).of(seed)) == (100.0, 0.0)
    error = readings.reading(BY_KEY["har/3:cifar10/longtail100/cross_entropy"])
    assert error.of({"test_accuracy_last": 0.3}) == pytest.approx(70.0)


def test_unmeasured_metrics_have_a_reason():
    top5 = BY_KEY["har/5:webvision_mini/cross_entropy/top5"]
    assert readings.reading(top5) == Reason("metric top5_accuracy is not measured")
