"""Dynamic Loss's figures from run directories: what is drawn is what was recorded, the meta set is the one drawn."""

import json

import numpy as np
import pytest

from experiments import run
from experiments.figures import dynamic_loss, tsne
from experiments.pictures import plots
from experiments.runs import restore
from experiments.settings import config
from experiments.settings.config import Config
from tests import toys

RUN = ["--method=dynamic_loss", "--epochs=2", "--warmup-epochs=0", "--num-bins=5", "--hidden=8", "--model=mlp",
       "--batch-size=128", "--parallel=single", "--augmentation=none", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with all its checkpoints, and the plan of each of its epochs, a list of the seeds'."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with toys.noted_plans() as plans:
        assert run.main([*RUN, f"--out={path}"]) == 0
    return path, plans


def make_run(path, margins, method="dynamic_loss", **settings):
    """A run directory without checkpoints, one epoch a margin; the corrected labels get better by a tenth an epoch."""
    path.mkdir()
    saved = config.identity(Config(method=method, options={}, **settings))
    (path / "config.json").write_text(json.dumps({"settings": saved}))
    lines = [
        {"epoch": e, "seed": seed, "margin": [m + seed for m in margin], "correction_accuracy": 0.5 + (e + seed) / 10}
        for e, margin in enumerate(margins, 1)
        for seed in (0, 2)
    ]
    if method != "dynamic_loss":
        lines = [{"epoch": 1, "seed": 0, "test_accuracy": 0.5}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.exhaustive
def test_the_next_epochs_draw_is_the_one_that_the_run_made(trained):
    """What the method's plan picks from a checkpoint is what the run then trained on."""
    path, plans = trained
    restored, ((made,), _) = restore.restore_run(path, epoch=1), plans[::-1]
    for _ in range(2):  # a second look finds the state as it was
        drawn = restore.next_draw(restored)
        assert drawn.keys() == made.keys() == {"train", "meta"}
        for name, stream in made.items():
            np.testing.assert_array_equal(drawn[name], stream.order[: stream.size])
    everything = np.sort(np.concatenate([drawn["meta"], drawn["train"]]))
    np.testing.assert_array_equal(everything, np.arange(len(restored.labels[0].train.given)))


@pytest.mark.exhaustive
def test_command_line_draws_all_four(trained, tmp_path, monkeypatch, capsys):
    path, plans = trained
    drawn = {}
    show = plots.embeddings

    def noted(points, classes, names, path, crossed):
        drawn.update(points=points, classes=classes, crossed=crossed)
        return show(points, classes, names, path, crossed)

    monkeypatch.setattr(plots, "embeddings", noted)
    assert dynamic_loss.main([str(path), f"--out={tmp_path}", "--epochs=1,7"]) == 0
    said = capsys.readouterr()
    names = ("correction.png", "margins.png", "margin_history.png", "meta_set.png")
    assert said.out.split() == [str(tmp_path / name) for name in names]
    assert "no checkpoint of epoch 7" in said.err
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert [title.splitlines()[1].split(":")[0] for title in drawn["points"]] == ["epoch 1"]
    labels, meta = restore.restore_run(path, epoch=1).labels[0].train, plans[1][0]["meta"]
    chosen, (title,) = meta.order[: meta.size], drawn["points"]
    np.testing.assert_array_equal(drawn["classes"][title], labels.given[chosen])
    np.testing.assert_array_equal(drawn["crossed"][title], (labels.given != labels.clean)[chosen])


def test_lines_are_the_records(tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(plots, "lines", lambda panels, columns, path: drawn.setdefault(path.name, panels) and path)
    margins = [[1.0, 1.0, 1.0], [3.0, 2.0, 1.0], [6.0, 3.0, 0.0]]
    steep = make_run(tmp_path / "steep", margins, noise="symmetric", noise_rate=0.4)
    flat = make_run(tmp_path / "flat", margins[:2], noise="symmetric", noise_rate=0.2)
    other = make_run(tmp_path / "other", [], method="gce")
    made = dynamic_loss.draw([steep, flat, other], tmp_path / "out")
    assert [path.name for path in made] == ["correction.png", "margins.png", "margin_history.png"]
    labels = ["dynamic_loss, symmetric 0.4", "dynamic_loss, symmetric 0.2"]
    (correction,), (last,) = drawn["correction.png"], drawn["margins.png"]
    assert list(correction.lines) == list(last.lines) == labels
    np.testing.assert_allclose(correction.lines[labels[0]].y, [0.7, 0.8, 0.9])  # the mean of seeds 0 and 2
    assert correction.lines[labels[0]].band is not None
    np.testing.assert_allclose(last.lines[labels[0]].y, [3, 0, -3])
    np.testing.assert_allclose(last.lines[labels[1]].y, [1, 0, -1])
    by_epoch, after, *_ = drawn["margin_history.png"]
    np.testing.assert_allclose(by_epoch.lines["class 0"].y, [0, 1, 3])
    assert list(after.lines) == ["epoch 3", "epoch 2", "epoch 1"]
    np.testing.assert_allclose(after.lines["epoch 2"].y, [1, 0, -1])
    said = capsys.readouterr().err
    assert "no margins are recorded: gce" in said and "no t-SNE" in said


def test_the_given_labels_are_drawn_beside_the_corrected():
    records = {"run": [[{"epoch": 1, "correction_accuracy": 0.6}, {"epoch": 4, "correction_accuracy": 0.9}]]}
    panel = dynamic_loss.correction_panel(records, {"run": 0.6})
    np.testing.assert_allclose(panel.lines["_run"].y, [0.6, 0.6])
    np.testing.assert_allclose(panel.lines["_run"].x, [0, 4])
    assert panel.lines["_run"].color == panel.lines["run"].color


def test_spread_within_classes():
    """By hand: distances 1 to the class's centre, 3 and 5 to the common one."""
    features, classes = np.array([[-5.0], [-3.0], [3.0], [5.0]]), np.array([0, 0, 1, 1])
    assert tsne.spread_within(features, classes) == pytest.approx(1 / 4)
    assert tsne.spread_within(features, np.zeros(4, int)) == 1
    assert tsne.spread_within(np.array([[0.0], [0.0], [2.0]]), np.array([0, 0, 1])) == 0


def test_refusals(tmp_path, capsys):
    assert dynamic_loss.main([str(tmp_path / "none"), f"--out={tmp_path / 'out'}"]) == 2
    assert "no config.json" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        dynamic_loss.main([str(tmp_path), f"--out={tmp_path}", "--epochs=last"])
