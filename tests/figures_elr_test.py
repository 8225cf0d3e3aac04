"""ELR's figures from run directories: what is drawn is what was recorded."""

import numpy as np
import pytest

from experiments import run
from experiments.figures import elr
from experiments.pictures import plots

RUN = ["--model=mlp", "--batch-size=256", "--epochs=2", "--seeds=2", "--noise=symmetric", "--noise-rate=0.4",
       "--imbalance=none", "--imbalance-ratio=1", "--parallel=single", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = [folder / method for method in ("cross_entropy", "elr")]
    for path in made:
        assert run.main([f"--method={path.name}", *RUN, f"--out={path}"]) == 0
    return made


def test_curves_are_means_over_seeds():
    seeds = [[{"epoch": 1, "a": 0.2}, {"epoch": 2, "a": None}, {"epoch": 3, "a": 1.0}], [{"epoch": 1, "a": 0.4}]]
    epochs, values = elr.curve(seeds, "a")
    np.testing.assert_allclose(epochs, [1, 3])
    np.testing.assert_allclose(values, [0.3, 1.0])
    assert elr.curve(seeds, "b") is None


def test_figures_of_runs_side_by_side(paths, tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(plots, "lines", lambda panels, columns, path: drawn.setdefault(path.name, panels) and path)
    assert elr.main([*map(str, paths), f"--out={tmp_path}"]) == 0
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
    assert capsys.readouterr().out.split() == [
        str(tmp_path / name) for name in ("accuracy.png", "memorization.png", "coefficients.png")
    ]
    shares = [{name: line.y for name, line in panel.lines.items()} for panel in drawn["memorization.png"]]
    assert len(shares) == 4
    for panel in shares:
        np.testing.assert_allclose(sum(panel.values()), 1, atol=1e-6)
    terms = [set(panel.lines) for panel in drawn["coefficients.png"]]
    assert terms == [{"p − y"}] * 2 + [{"p − y", "λg", "p − y + λg"}] * 2
    right, wrong = (panel.lines for panel in drawn["coefficients.png"][2:])
    for panel in (right, wrong):
        np.testing.assert_allclose(panel["p − y + λg"].y, panel["p − y"].y + panel["λg"].y, rtol=1e-4, atol=1e-6)
    assert (right["p − y"].y < 0).all() and (wrong["p − y"].y > 0).all()


def test_refusals(tmp_path, capsys):
    assert elr.main([str(tmp_path / "none"), f"--out={tmp_path / 'out'}"]) == 2
    assert "no config.json" in capsys.readouterr().err and not (tmp_path / "out").exists()
