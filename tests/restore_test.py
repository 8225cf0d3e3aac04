"""Runs read back: what the restored networks predict is what was recorded."""

import json

import numpy as np
import pytest

from experiments import run
from experiments.runs import directory, restore
from robustjax.data import corruptions
from robustjax.training import checkpoints, evaluation
from tests import toys

OPTIONS = ["--method=ce_sr", "--model=mlp", "--batch-size=256", "--epochs=2", "--seeds=2", "--seed=3",
           "--noise=symmetric", "--noise-rate=0.4", "--imbalance=none", "--imbalance-ratio=1", "--learning-rate=0.02",
           "--parallel=single", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and the plan of each of its epochs, a list of the seeds'."""
    made = tmp_path_factory.mktemp("restore") / "run"
    with toys.noted_plans() as plans:
        assert run.main([*OPTIONS, f"--out={made}"]) == 0
    return made, plans


@pytest.fixture(scope="module")
def path(trained):
    return trained[0]


def recorded(path, epoch):
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["epoch"] == epoch]


@pytest.mark.parametrize("epoch", [None, 1])
def test_restored_networks_predict_as_recorded(path, epoch):
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    found = restore.restore_run(path, epoch=epoch)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    settings, dataset, _, _, states, done, labels, _ = found
    assert (settings.method, len(states), done) == ("ce_sr", 2, epoch or 2)
    for k, record in enumerate(recorded(path, done)):
        logits = restore.predict(found, dataset.test_inputs, k)
        assert evaluation.accuracy(logits, dataset.test_labels) == pytest.approx(record["test_accuracy"], abs=1e-6)
        noise = corruptions.load_noise(path / f"labels-seed{settings.seed + k}.npz")
        np.testing.assert_array_equal(labels[k].train.given, noise.given)
        logits = restore.predict(found, dataset.train_inputs[noise.kept], k)
        for name, temperature in (("sparse_rate", 1.0), ("sharpened_sparse_rate", 0.1)):
            assert evaluation.sparse_rate(logits, temperature) == pytest.approx(record[name], rel=1e-4)


def test_the_next_epochs_draw_is_the_one_that_the_run_made(trained):
    path, (_, plans) = trained
    found = restore.restore_run(path, epoch=1)
    for k, plan in enumerate(plans):
        assert plan.keys() == {"train"}
        np.testing.assert_array_equal(restore.next_draw(found, k)["train"], plan["train"].order)
    assert not np.array_equal(plans[0]["train"].order, plans[1]["train"].order)


def test_features_are_what_the_classifier_sees(path):
    found = restore.restore_run(path)
    images = found.dataset.test_inputs[:7]
    head = found.states[1].learner.params["head"]
    features, logits = restore.features(found, images, 1), restore.predict(found, images, 1)
    assert features.shape == (7, 64)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-4)


def test_features_of_a_state_without_a_network_are_refused(path):
    found = restore.restore_run(path)._replace(states=[{"weights": np.zeros(3)}])
    with pytest.raises(ValueError, match="method='ce_sr' keeps no Learner"):
        restore.features(found, found.dataset.test_inputs[:1])


def test_what_cannot_be_restored_is_refused(tmp_path):
    with pytest.raises(directory.RunDirectoryError, match=r"no config\.json"):
        restore.restore_run(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"settings": {"method": "gce", "options": {"q": 0.5}}}))
    assert directory.read_settings(tmp_path).options == {"q": 0.5}
    with pytest.raises(checkpoints.CheckpointError, match="no complete checkpoint"):
        restore.restore_run(tmp_path)
    config.write_text(json.dumps({"settings": {"method": "gce", "colour": "red"}}))
    with pytest.raises(directory.RunDirectoryError, match="another version, with the setting 'colour'"):
        restore.restore_run(tmp_path)
