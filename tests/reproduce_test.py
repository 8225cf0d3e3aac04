"""The runner that fills the tables: what it plans, runs, skips, resumes and records; one real run, on digits."""

import dataclasses
import json
import os
import pathlib
import sys

import pytest

from experiments import reproduce, run, tables
from experiments.runs import directory
from experiments.settings import command_line, config
from experiments.tables import Cell, commands
from experiments.tables.commands import Rule


def make_cell(method="cross_entropy", table="1", **changes):
    cell = Cell(
        paper="toy", table=table, dataset="digits", tested_on="", noise="symmetric", noise_rate=0.4, imbalance="none",
        imbalance_ratio=None, model="mlp", method=method, method_printed=method, metric="test_accuracy", mean=90.0,
        std=1.0, note="", id="",
    )  # fmt: skip
    return cell._replace(**changes)


CELLS = tables.with_ids(
    [
        make_cell(),
        make_cell("balanced_softmax"),
        make_cell("nobody_has_this"),
        make_cell(table="2", metric="test_accuracy_best"),
        make_cell(table="2", metric="test_accuracy_last"),
        make_cell(table="3", noise_rate="mean", note="mean over symmetric {0.2,0.4}"),
    ]
)
BY_KEY = {cell.key: cell for cell in CELLS}
ENVIRONMENT = {"git_commit": "a" * 40, "git_dirty": False, "jax": "0.10.2", "device_kind": "cpu"}


@pytest.fixture(autouse=True)
def toy_protocol(monkeypatch):
    rule = Rule({"paper": "toy"}, {"epochs": 2, "batch_size": 64, "augmentation": "none"}, "made up")
    monkeypatch.setattr(commands, "RULES", (rule,))


@pytest.fixture
def executed(monkeypatch):
    """Configs of the runs that `run.execute` was asked for; nothing is trained."""
    seen = []

    def execute(settings, sources=(), command=""):
        seen.append(settings)
        seeds = [
            {"seed": settings.seed + k, "test_accuracy_last": 0.5, "test_accuracy_best": 0.6, "final": {}}
            for k in range(settings.seeds)
        ]
        return {
            "seconds": 1.5,
            "environment": ENVIRONMENT,
            "mean_std": {"test_accuracy_last": [0.5, 0.0]},
            "trusted_examples": settings.trusted_examples,
            "seeds": seeds,
        }

    monkeypatch.setattr(run, "execute", execute)
    return seen


def reproduce_toy(tmp_path, *flags):
    argv = [*flags, f"--results={tmp_path / 'results'}", f"--out={tmp_path / 'runs'}"]
    return reproduce.main(argv, CELLS)


def rows_of(tmp_path):
    return reproduce.read_results(tmp_path / "results")


def test_a_real_run_gives_a_row_and_is_then_skipped(tmp_path, capsys, monkeypatch):
    flags = ("--table=toy/1", "--cells=*/cross_entropy", "--seeds=2", "--epochs=1", "--track-every=0", "--quiet")
    assert reproduce_toy(tmp_path, *flags) == 0
    (row,) = rows_of(tmp_path)
    assert (tmp_path / "results" / "toy.jsonl").exists()
    assert set(row["cells"]) == {
        "toy/1:digits/sym0.4/cross_entropy", "toy/2:digits/sym0.4/cross_entropy/best",
        "toy/2:digits/sym0.4/cross_entropy/last", "toy/3:digits/sym-mean/cross_entropy",
    }  # fmt: skip
    assert row["tables"] == ["toy/1", "toy/2", "toy/3"]
    assert (row["scale"], row["changed"]) == ("reduced", {"epochs": {"paper": 2, "run": 1}})
    assert [entry["seed"] for entry in row["seeds"]] == [0, 1] and row["epochs"] == 1 and row["seconds"] > 0
    assert 0 < row["mean_std"]["test_accuracy_last"][0] <= 1
    assert len(row["seeds"][0]["final"]["per_class_accuracy"]) == 10
    assert {"jax", "python", "device_kind", "git_commit", "git_dirty"} <= row["environment"].keys()
    given = command_line.parse(row["command"].split()[3:])
    assert config.identity(config.resolve(given)[0]) | {"track_every": 0} == row["settings"]

    monkeypatch.setattr(run, "execute", lambda *_: pytest.fail("run again"))
    capsys.readouterr()
    assert reproduce_toy(tmp_path, *flags) == 0
    assert "done already" in capsys.readouterr().out
    assert len(rows_of(tmp_path)) == 1


def test_full_scale_is_the_papers(tmp_path, executed):
    assert reproduce_toy(tmp_path, "--table=toy/1", "--cells=*/cross_entropy") == 0
    (row,) = rows_of(tmp_path)
    assert (row["scale"], row["changed"], executed[0].epochs, executed[0].model) == ("paper", {}, 2, "mlp")
    assert row["sources"][0] == "made up"


def test_a_row_names_no_folder_of_this_machine(tmp_path, executed):
    flags = ("--data-dir=/somewhere/data", "--compilation-cache=/somewhere/else", "--epochs=1")
    assert reproduce_toy(tmp_path, "--table=toy/1", "--cells=*/cross_entropy", *flags) == 0
    text = (tmp_path / "results" / "toy.jsonl").read_text()
    assert "somewhere" not in text and str(tmp_path) not in text and "--epochs=1" in text
    assert executed[0].data_dir == "/somewhere/data"


@pytest.mark.parametrize("flag", ["--epochs=2", "--quiet", "--checkpoint-every=0", "--track-every=0"])
def test_what_does_not_change_the_result_does_not_reduce_it(tmp_path, executed, flag):
    assert reproduce_toy(tmp_path, "--table=toy/1", "--cells=*/cross_entropy", flag) == 0
    assert rows_of(tmp_path)[0]["scale"] == "paper"


def test_only_missing_seeds_are_run(tmp_path, executed):
    for seeds in (2, 2, 4):
        assert reproduce_toy(tmp_path, "--table=toy/1", "--cells=*/cross_entropy", f"--seeds={seeds}") == 0
    assert [(settings.seed, settings.seeds) for settings in executed] == [(0, 2), (2, 2)]
    assert reproduce_toy(tmp_path, "--table=toy/1", "--cells=*/cross_entropy", "--seeds=4", "--epochs=1") == 0
    assert (executed[-1].seed, executed[-1].seeds, executed[-1].epochs) == (0, 4, 1)


def test_seeds_of_unequal_size_train_one_by_one():
    outlook = reproduce.plan([CELLS[0]], {}, 3, CELLS)
    (job,) = outlook.jobs
    together = list(reproduce.batches(job, [0, 1, 2]))
    assert [(each.seed, each.seeds) for each in together] == [(0, 3)]
    assert [(each.seed, each.seeds) for each in reproduce.batches(job, [0, 2])] == [(0, 1), (2, 1)]
    rare = job._replace(config=dataclasses.replace(job.config, imbalance="step_rare_clean", imbalance_ratio=10.0))
    assert [(each.seed, each.seeds) for each in reproduce.batches(rare, [0, 1])] == [(0, 1), (1, 1)]


def test_an_average_runs_its_members(tmp_path, executed):
    assert reproduce_toy(tmp_path, "--table=toy/3") == 0
    assert [settings.noise_rate for settings in executed] == [0.2, 0.4]
    rows = rows_of(tmp_path)
    assert rows[0]["cells"] == ["toy/3:digits/sym-mean/cross_entropy"]
    assert {"toy/1:digits/sym0.4/cross_entropy", "toy/3:digits/sym-mean/cross_entropy"} < set(rows[1]["cells"])
    for table in ("toy/3", "toy/2"):
        assert reproduce_toy(tmp_path, f"--table={table}") == 0
    assert len(executed) == 2


def test_a_cut_run_is_resumed(tmp_path, executed):
    assert reproduce_toy(tmp_path, "--table=toy/1", "--cells=*/cross_entropy") == 0
    assert not executed[0].resume
    (tmp_path / "results" / "toy.jsonl").unlink()
    path = tmp_path / "runs" / directory.default_path(executed[0]).name
    assert str(path) == executed[0].out
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    assert reproduce_toy(tmp_path, "--table=toy/1", "--cells=*/cross_entropy") == 0
    assert executed[1].resume and executed[1].out == executed[0].out


def test_one_failure_does_not_stop_the_rest(tmp_path, executed, monkeypatch, capsys):
    works = run.execute

    def execute(settings, *rest):
        if settings.method == "cross_entropy":
            raise RuntimeError("out of memory")
        return works(settings, *rest)

    monkeypatch.setattr(run, "execute", execute)
    assert reproduce_toy(tmp_path, "--table=toy/1") == 1
    assert [settings.method for settings in executed] == ["balanced_softmax"]
    assert len(rows_of(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "failed: toy/1:digits/sym0.4/cross_entropy: out of memory" in err and "1 run(s) failed" in err
    assert "method nobody_has_this is not registered" in out


@pytest.mark.parametrize("stop", [run.Stopped("stopped by SIGTERM after epoch 1 of 2;"), KeyboardInterrupt()])
def test_a_signal_stops_everything(tmp_path, monkeypatch, stop):
    calls = []

    def execute(settings, *rest):
        calls.append(settings)
        raise stop

    monkeypatch.setattr(run, "execute", execute)
    assert reproduce_toy(tmp_path, "--table=toy/1") == run.STOPPED
    assert len(calls) == 1 and rows_of(tmp_path) == []


def test_dry_run_and_list_run_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "execute", lambda *_: pytest.fail("ran"))
    assert reproduce_toy(tmp_path, "--table=toy/*", "--dry-run", "--seeds=3", "--epochs=1") == 0
    out = capsys.readouterr().out
    assert "python -m experiments.run --method=cross_entropy --dataset=digits" in out and "--seeds=3" in out
    assert "reduced: epochs 1 (paper: 2)" in out
    assert "not run, 1 cell(s): method nobody_has_this is not registered" in out
    assert reproduce_toy(tmp_path, "--list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert "  toy/2: 2 cells" in listed
    assert "  toy/1: 3 cells, 1 cannot be run: 1 method nobody_has_this is not registered" in listed
    assert reproduce_toy(tmp_path, "--list", "--table=toy/2") == 0
    assert "  toy/2:digits/sym0.4/cross_entropy/best  90 ± 1  test_accuracy_best\n" in capsys.readouterr().out
    assert reproduce_toy(tmp_path, "--list", "--table=toy/1") == 0
    marked = [line for line in capsys.readouterr().out.splitlines() if line.startswith("-")]
    assert marked == [
        "- toy/1:digits/sym0.4/nobody_has_this  90 ± 1  test_accuracy  (method nobody_has_this is not registered)"
    ]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("flags", [("--list",), ("--list", "--table=toy/2"), ("--table=toy/*", "--dry-run")])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, monkeypatch, flags):
    """As in `… --list | head -1`."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert reproduce_toy(tmp_path, *flags) == 0
        print("what is still to come", flush=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--table is missing: there are toy/1, toy/2, toy/3"),
        (("--table=tyo/1",), "matches none: did you mean toy/1"),
        (("--table=toy/1", "--cells=digits/sym0.4/cross_entropi"), "did you mean digits/sym0.4/cross_entropy"),
        (("--table=toy/1", "--noise-rate=0.1"), "--noise-rate is said by the table"),
        (("--table=toy/1", "--method=dynamic_loss"), "--method is said by the table"),
        (("--table=toy/1", "--resume"), "--resume is said by the table or by reproduce itself"),
        (("--table=toy/1", "--seeds=0"), "--seeds=0"),
        (("--list", "--table=tyo/1"), "did you mean toy/1"),
    ],
)
def test_bad_input_is_refused(tmp_path, executed, capsys, flags, message):
    assert reproduce_toy(tmp_path, *flags) == 2
    assert message in capsys.readouterr().err
    assert executed == []


def test_a_damaged_results_file_is_named(tmp_path, executed, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "toy.jsonl").write_text(json.dumps({"cells": []}) + "\n")
    assert reproduce_toy(tmp_path, "--table=toy/1") == 2
    assert "toy.jsonl, row 1: not a row" in capsys.readouterr().err


def test_differences_between_runs():
    paper = config.identity(config.resolve({"method": "dynamic_loss", "dataset": "digits"})[0])
    same = {**paper, "seed": 5, "seeds": 3, "track_every": 0}
    assert reproduce.differences(paper, same) == {}
    other = {**paper, "epochs": 3, "options": {**paper["options"], "num_bins": 7}}
    assert reproduce.differences(paper, other) == {"epochs": (60, 3), "num_bins": (20, 7)}
    # A run from before the program knew a setting had its default, be that the paper's value or not.
    old = {k: v for k, v in paper.items() if k not in ("nesterov", "batch_size")}
    assert reproduce.differences(paper, old) == {"batch_size": (64, 128)}


def test_settings_of_before_and_since():
    """Runs from before trusted examples were known used none; their identity has not changed, and some are told."""
    paper = config.identity(config.resolve({"method": "gce", "dataset": "digits"})[0])
    some = config.identity(config.resolve({"method": "gce", "dataset": "digits", "trusted_examples": 20})[0])
    assert some.keys() - paper.keys() == {"trusted_examples"}
    assert reproduce.differences(paper, some) == {"trusted_examples": (0, 20)}
    assert reproduce.differences(some, paper) == {"trusted_examples": (20, 0)}
    assert reproduce.run_hash(paper) != reproduce.run_hash(some)


def test_hashes_of_recorded_runs_have_not_changed():
    rows = {row["run_hash"]: row for row in reproduce.read_results(pathlib.Path(__file__).parents[1] / "results")}
    again = set()
    for known, row in rows.items():
        assert reproduce.run_hash(row["settings"]) == known
        now = config.identity(config.resolve(command_line.parse(row["command"].split()[3:]))[0])
        assert reproduce.differences(now, row["settings"]) == {}
        again |= {known} & {reproduce.run_hash(now)}
    assert again  # those that knew all settings of their time; others knew fewer


def test_trusted_examples_are_told_in_the_row(tmp_path, executed):
    flags = ("--table=toy/1", "--cells=*/cross_entropy", "--trusted-examples=20")
    assert reproduce_toy(tmp_path, *flags) == 0
    (row,) = rows_of(tmp_path)
    assert row["trusted_examples"] == 20 and row["changed"] == {"trusted_examples": {"paper": 0, "run": 20}}
    assert "--trusted-examples=20" in row["command"]


def test_cells_that_share_a_run_share_a_job():
    """SR's Tables 2, 4 and 6 print some of the same runs."""
    cells = tables.select(tables.load(), "sr/6", "cifar10/asym0.3/cross_entropy")
    commands_rules = (Rule({"paper": "sr"}, {}, "any"),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "RULES", commands_rules)
        (job,) = reproduce.plan(cells, {}, 1, tables.load()).jobs
    assert {cell.table_name for cell in job.cells} == {"sr/2", "sr/4", "sr/6"}
