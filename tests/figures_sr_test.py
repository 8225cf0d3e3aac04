"""SR's figures from run directories: labels, what is drawn, what is left out and said so."""

import json
import pathlib

import numpy as np
import pytest

from experiments import run
from experiments.figures import runs, sr, tsne
from experiments.pictures import plots
from experiments.settings import config
from experiments.settings.config import Config

TRAINED = ["--method=ce_sr", "--model=mlp", "--batch-size=256", "--epochs=1", "--parallel=single", "--quiet"]


def make_run(path, epochs=3, **settings):
    """A run directory without checkpoints, as a run leaves it that is under way."""
    path.mkdir()
    saved = config.identity(Config(**{"method": "gce", "options": {}, **settings}))
    (path / "config.json").write_text(json.dumps({"settings": saved}))
    lines = [{"epoch": e, "seed": 0, "test_accuracy": e / 10, "sparse_rate": e / 20} for e in range(1, epochs + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def labels(*settings):
    return list(runs.labels({pathlib.Path(f"run{i}"): each for i, each in enumerate(settings)}).values())


def test_labels_tell_method_and_noise_and_more_where_needed():
    noisy = {"noise": "symmetric", "noise_rate": 0.4}
    assert labels(Config("gce", **noisy), Config("sce", options={"regularizer": "sparse"}), Config("ce_sr")) == [
        "gce, symmetric 0.4", "sce + SR", "ce_sr"
    ]  # fmt: skip
    assert labels(Config("gce", seed=1), Config("gce", seed=2), Config("ce")) == ["gce, seed=1", "gce, seed=2", "ce"]
    assert labels(Config("gce", options={"q": 0.5}), Config("gce", options={"q": 0.7})) == ["gce, q=0.5", "gce, q=0.7"]
    same = labels(Config("gce"), Config("gce"), Config("gce", epochs=5))
    assert same == ["gce, epochs=60, run0", "gce, epochs=60, run1", "gce, epochs=5"]


def test_neighbour_agreement():
    rng = np.random.default_rng(0)
    classes = np.arange(400) % 4
    apart = 100.0 * np.eye(4)[classes] + rng.normal(size=(400, 4))
    assert tsne.neighbour_agreement(apart, classes) == 1
    assert tsne.neighbour_agreement(rng.normal(size=(400, 4)), classes) == pytest.approx(1 / 4, abs=0.05)
    line = np.array([[0.0], [1.0], [2.1], [3.3]])  # nearest others: 1, 0, 1, 2
    assert tsne.neighbour_agreement(line, np.array([0, 0, 1, 1]), k=1) == pytest.approx(3 / 4)
    assert tsne.neighbour_agreement(np.zeros((4, 1)), np.array([0, 1, 2, 3]), k=3) == 0  # itself does not count


def test_embedding_keeps_classes_apart_and_repeats_itself():
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 3
    features = 50 * np.eye(3, 5)[classes] + rng.normal(size=(60, 5))
    embedded = tsne.embed(features)
    assert embedded.shape == (60, 2) and tsne.neighbour_agreement(embedded, classes) == 1
    np.testing.assert_array_equal(tsne.embed(features), embedded)


def test_curves_are_the_records_and_what_lacks_is_said(tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(plots, "by_epoch", lambda runs, titles, path: drawn.setdefault(path.name, runs) and path)
    whole, young = make_run(tmp_path / "whole"), make_run(tmp_path / "young", epochs=0, method="mae")
    blind = make_run(tmp_path / "blind", method="nce")
    text = (blind / "metrics.jsonl").read_text()
    (blind / "metrics.jsonl").write_text(text.replace("sparse_rate", "other") + '{"epoch": 4, "se')  # cut while written
    made = sr.draw([whole, young, blind], tmp_path / "out")
    assert [path.name for path in made] == ["test_accuracy.png", "sparse_rate.png"]
    assert [r["test_accuracy"] for r in drawn["test_accuracy.png"]["nce"][0]] == [0.1, 0.2, 0.3]
    assert list(drawn["test_accuracy.png"]) == ["gce", "nce"] and list(drawn["sparse_rate.png"]) == ["gce"]
    assert capsys.readouterr().err.splitlines() == [
        "no epoch is over: mae",
        "no sparse rate is recorded (it needs --track-every): mae; nce",
        "there is no checkpoint: gce; mae; nce",
    ]


def test_command_line_draws_all_three(tmp_path, capsys):
    path, out = tmp_path / "run", tmp_path / "out"
    assert run.main([*TRAINED, f"--out={path}"]) == 0
    capsys.readouterr()
    assert sr.main([str(path), f"--out={out}", "--images=60"]) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(out / f"{name}.png") for name in ("test_accuracy", "sparse_rate", "tsne")]
    assert said.err == ""
    assert all((out / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("test_accuracy", "tsne"))


def test_what_cannot_be_drawn_is_refused(tmp_path, capsys):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", dataset="mnist")
    for paths, message in (
        ([a, b], "different data sets (digits, mnist)"),
        ([tmp_path / "none"], "no config.json"),
        ([a, "--images=5"], "images=5"),
    ):
        assert sr.main([*map(str, paths), f"--out={tmp_path / 'out'}"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
