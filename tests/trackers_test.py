"""Trackers: what they are given, by what they are told apart, and that none of them stops a run."""

import importlib
import json
import sqlite3
import struct

import numpy as np
import pytest

from experiments import run
from experiments.pictures import style
from experiments.runs import records, trackers

CONFIG = {"method": "elr", "seeds": 2, "options": {"beta": 0.7}}
NAMES = ["cat", "dog"]


def line(epoch, seed, **more):
    return {"epoch": epoch, "seed": seed, "test_accuracy": epoch / 10 + seed, **more}


def fake(monkeypatch, fails=None):
    """A package in the place of W&B: what it was asked for, in order."""
    calls = []

    def open_fake(path, settings, known):
        def note(what):
            def call(*arguments):
                calls.append((what, *arguments))
                if what == fails:
                    raise ConnectionError("no route\nto host")

            return call

        note("open")(settings["method"], known)
        return trackers.Sink("abc", note("log"), note("show"), note("close"))

    monkeypatch.setitem(trackers.OPEN, "wandb", open_fake)
    return calls


def test_numbers_of_a_record():
    record = line(3, 1, loss=None, rate=float("nan"), margin=[1, None], groups=[1, 2, 3], table=[[1.0, 2.0]])
    expected = {"test_accuracy": 1.3, "margin/cat": 1, "groups/0": 1, "groups/1": 2, "groups/2": 3}
    assert trackers.numbers(record, NAMES) == pytest.approx(expected)


def test_a_resumed_run_goes_on_with_the_same_tracker_run(tmp_path, monkeypatch):
    calls = fake(monkeypatch)
    with pytest.raises(KeyError), trackers.open_tracker("wandb", tmp_path, CONFIG, NAMES) as tracker:
        tracker.log_epoch(line(1, 0, margin=[1.0, 2.0]))
        raise KeyError
    assert calls == [
        ("open", "elr", None), ("log", 0, 1, {"test_accuracy": 0.1, "margin/cat": 1, "margin/dog": 2}), ("close", False)
    ]  # fmt: skip
    calls.clear()
    with trackers.open_tracker("wandb", tmp_path, CONFIG, NAMES) as tracker:
        tracker.log_epoch(line(1, 0))  # which it knows
        tracker.log_epoch(line(2, 0))
        tracker.log_figures([tmp_path / "a.png"])
    assert [call[:2] for call in calls] == [("open", "elr"), ("log", 0), ("show", tmp_path / "a.png"), ("close", True)]
    assert calls[0][2] == "abc" and calls[1][2] == 2


def test_a_tracker_that_comes_later_is_told_what_was_before(tmp_path, monkeypatch):
    calls = fake(monkeypatch)
    for epoch in (1, 2, 3):
        for seed in (0, 1):
            records.append_record(tmp_path / "metrics.jsonl", line(epoch, seed))
    with trackers.open_tracker("wandb", tmp_path, CONFIG) as tracker:
        tracker.log_epoch(line(3, 0))
        tracker.log_epoch(line(3, 1))
    logged = [call[1:3] for call in calls if call[0] == "log"]
    assert logged == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("fails", ["open", "log", "show", "close"])
def test_a_tracker_that_fails_is_told_once_and_left(tmp_path, monkeypatch, capsys, fails):
    calls = fake(monkeypatch, fails)
    with trackers.open_tracker("wandb", tmp_path, CONFIG) as tracker:
        for epoch in (1, 2):
            tracker.log_epoch(line(epoch, 0))
        tracker.log_figures([tmp_path / "a.png", tmp_path / "b.png"])
    assert [call[0] for call in calls].count(fails) == 1 and calls[-1][0] == fails
    assert capsys.readouterr().err == (
        "warning: wandb takes no more of this run, which goes on without it (metrics.jsonl has everything): "
        "ConnectionError: no route\n"
    )


@pytest.mark.parametrize("name", trackers.OPEN)
def test_a_missing_package_is_a_sentence_before_anything_is_written(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run.main([f"--log={name}", "--quiet", f"--out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert f"{trackers._NEEDED[name][0]}" in error and f"pip install 'robustjax[{name}]'" in error
    assert not (tmp_path / "run").exists()


def picture(path):
    from matplotlib.figure import Figure

    return style.save(Figure(figsize=(1, 1)), path / "plots" / "a.png")


def logged(name, path):
    """Two seeds, two epochs of which the second is computed again after a cut, one more, and a picture."""
    with trackers.open_tracker(name, path, CONFIG, NAMES) as tracker:
        for epoch, seed in np.ndindex(2, 2):
            tracker.log_epoch(line(epoch + 1, seed, margin=[1.0, 2.0]))
    with trackers.open_tracker(name, path, CONFIG, NAMES) as tracker:
        tracker.log_epoch(line(2, 0))
        tracker.log_epoch(line(3, 0))
        tracker.log_figures([picture(path)])


def test_tensorboard(tmp_path, capsys):
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    logged("tensorboard", tmp_path)
    assert not capsys.readouterr().err

    def events(part):
        for file in sorted((tmp_path / "log" / "tensorboard" / part).iterdir()):
            rest = file.read_bytes()
            while rest:
                (length,) = struct.unpack("<Q", rest[:8])
                yield proto.Event.FromString(rest[12 : 12 + length])
                rest = rest[16 + length :]

    found = {(e.step, v.tag): v.simple_value for e in events("seed1") for v in e.summary.value}
    assert found == pytest.approx({
        (1, "test_accuracy"): 1.1, (1, "margin/cat"): 1, (1, "margin/dog"): 2, (2, "test_accuracy"): 1.2,
        (2, "margin/cat"): 1, (2, "margin/dog"): 2,
    })  # fmt: skip
    steps = [e.step for e in events("seed0") for v in e.summary.value if v.tag == "test_accuracy"]
    assert steps == [1, 2, 3]
    assert "a" in {v.tag for e in events("pictures") for v in e.summary.value}


@pytest.mark.exhaustive  # its service is a process of its own
def test_wandb_offline(tmp_path, capsys, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged("wandb", tmp_path)
    assert "warning: wandb takes" not in capsys.readouterr().err
    (own,) = json.loads((tmp_path / "log" / "ids.json").read_bytes()).values()
    assert own["epochs"] == {"0": 3, "1": 2}
    assert len(list((tmp_path / "log" / "wandb").glob(f"offline-run-*/run-{own['id']}.wandb"))) >= 1
    assert list((tmp_path / "log" / "wandb").glob("offline-run-*/files/media/images/plots/a_*.png"))


@pytest.mark.exhaustive  # its tables are made one migration after the other
def test_mlflow_without_a_server(tmp_path, capsys, monkeypatch):
    for name in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logged("mlflow", tmp_path)
    assert "warning: mlflow takes" not in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "log" / "mlflow.db") as base:
        ((own, status),) = base.execute("select run_uuid, status from runs").fetchall()
        told = base.execute("select key, step, value from metrics").fetchall()
        params = dict(base.execute("select key, value from params").fetchall())
    found = {(key, step): value for key, step, value in told}
    assert status == "FINISHED" and params["beta"] == "0.7" and len(told) == len(found)  # once each
    assert found[("seed1/test_accuracy", 2)] == pytest.approx(1.2) and found[("seed0/margin/dog", 1)] == 2
    assert (tmp_path / "log" / "mlflow" / own / "artifacts" / "plots" / "a.png").exists()
