"""Trusted examples: drawn or brought along, kept out of the training set, saved, read back, counted, refused."""

import json
import shutil

import numpy as np
import pytest

from experiments import run
from experiments.runs import restore
from experiments.settings import build, config
from robustjax import data
from robustjax.data import corruptions, labelling

FAST = [
    "--dataset=digits", "--model=mlp", "--batch-size=256", "--epochs=2", "--quiet", "--parallel=single",
    "--compilation-cache=off", "--augmentation=none", "--noise=symmetric", "--noise-rate=0.4", "--imbalance=none",
    "--imbalance-ratio=1",
]  # fmt: skip


def test_they_are_told_below_the_results(drawn, capsys):
    run.show(read(drawn, "summary.json"), drawn)
    assert "learned from 50 trusted examples besides" in capsys.readouterr().out


def train(out, method, *flags):
    return run.main([*FAST, f"--method={method}", f"--out={out}", *flags])


def read(out, name):
    return json.loads((out / name).read_text())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("trusted") / "run"
    assert train(out, "mw_net", "--trusted-examples=50", "--seeds=2", "--validation-split=0.1") == 0
    return out


def test_drawn_examples_are_balanced_true_and_left_out(drawn):
    clean = data.load("digits").train_labels
    files = [[corruptions.load_noise(drawn / f"{name}-seed{seed}.npz") for name in ("trusted", "labels", "validation")]
             for seed in (0, 1)]  # fmt: skip
    for trusted, train_set, validation in files:
        assert np.bincount(clean[trusted.kept]).tolist() == [5] * 10
        np.testing.assert_array_equal(trusted.given, clean[trusted.kept])
        assert np.any(train_set.given != clean[train_set.kept])
        everything = np.concatenate([trusted.kept, train_set.kept, validation.kept])
        assert sorted(everything) == list(range(len(clean)))
    assert set(files[0][0].kept) != set(files[1][0].kept)
    saved = read(drawn, "config.json")
    assert saved["settings"]["trusted_examples"] == 50
    assert saved["trusted"]["1"] == corruptions.label_hash(files[1][0].kept)
    assert read(drawn, "summary.json")["trusted_examples"] == 50


def test_a_resumed_or_restored_run_reads_them_back(drawn, monkeypatch):
    monkeypatch.setattr(labelling, "draw_trusted", lambda *_: pytest.fail("drawn again"))
    monkeypatch.setattr(labelling, "corrupt", lambda *_, **__: pytest.fail("corrupted again"))
    before = (drawn / "metrics.jsonl").read_bytes()
    summary = (drawn / "summary.json").read_bytes()
    (drawn / "summary.json").unlink()
    lines = before.splitlines(keepends=True)
    (drawn / "metrics.jsonl").write_bytes(b"".join(lines[:2]))  # as if it had been cut in its second epoch
    shutil.rmtree(drawn / "checkpoints" / "2")
    flags = ["--trusted-examples=50", "--seeds=2", "--validation-split=0.1", "--resume"]
    assert train(drawn, "mw_net", *flags) == 0
    assert (drawn / "metrics.jsonl").read_bytes() == before
    found = restore.restore_run(drawn)
    assert found.task.num_trusted == 50 and found.task.num_examples == 1125
    logits = restore.predict(found, found.dataset.test_inputs, 1)
    accuracy = float(np.mean(np.argmax(logits, -1) == found.dataset.test_labels))
    assert accuracy == pytest.approx(json.loads(summary)["seeds"][1]["test_accuracy_last"], abs=1e-6)


def save_pool(path, inputs, labels, **more):
    np.savez(path, train_images=inputs, train_labels=labels, test_images=inputs[:5], test_labels=labels[:5], **more)
    return f"--trusted=npz:{path}"


def test_a_pool_of_ones_own(tmp_path):
    digits = data.load("digits")
    out = tmp_path / "run"
    pool = save_pool(tmp_path / "pool.npz", digits.test_inputs[:200], digits.test_labels[:200])
    assert train(out, "mw_net", pool, "--train-examples=600") == 0
    trusted = corruptions.load_noise(out / "trusted-seed0.npz")
    np.testing.assert_array_equal(trusted.given, digits.test_labels[:200])
    assert len(corruptions.load_noise(out / "labels-seed0.npz").kept) == 600  # nothing has left the training set
    assert read(out, "summary.json")["trusted_examples"] == 200
    settings, _ = config.resolve({"method": "mw_net", "dataset": "digits", "trusted": pool.split("=")[1]})
    made = build.trusted_pool(settings, digits)
    resident = build.resident(digits, made)
    np.testing.assert_array_equal(resident.trusted_inputs, digits.test_inputs[:200])
    assert restore.restore_run(out).task.num_trusted == 200
    # Another pool under the same name is noticed.
    save_pool(tmp_path / "pool.npz", digits.test_inputs[:200], (digits.test_labels[:200] + 1) % 10)
    with pytest.raises(ValueError, match="was made for other training labels"):
        restore.restore_run(out)


def test_what_is_drawn_lies_where_the_training_set_lies():
    digits = data.load("digits")
    settings, _ = config.resolve({"method": "mw_net", "dataset": "digits"})
    assert settings.trusted_examples == 100  # the recipe's
    pool = build.trusted_pool(settings, digits)
    assert build.resident(digits, pool).trusted_inputs is build.resident(digits, pool).train_inputs
    labels = build.corrupt(settings, digits, 3, pool)
    own = build.own(labels, 3)
    np.testing.assert_array_equal(own.trusted_labels, digits.train_labels[np.asarray(own.trusted_kept)])
    assert build.task_for(settings, digits, [labels]).num_trusted == 100
    assert "100 trusted examples" in build.describe(digits, labels)
    without, _ = config.resolve({"method": "gce", "dataset": "digits"})
    labels = build.corrupt(without, digits, 3, build.trusted_pool(without, digits))
    assert labels.trusted is None and build.own(labels, 3).trusted_kept is None
    assert build.resident(digits).trusted_inputs is None


def test_a_noise_file_gives_way_to_them(tmp_path):
    assert train(tmp_path / "a", "cross_entropy") == 0
    file = tmp_path / "a" / "labels-seed0.npz"
    assert train(tmp_path / "b", "mw_net", "--trusted-examples=20", f"--noise-file={file}") == 0
    whole, rest, trusted = (
        corruptions.load_noise(tmp_path / name)
        for name in ("a/labels-seed0.npz", "b/labels-seed0.npz", "b/trusted-seed0.npz")
    )
    np.testing.assert_array_equal(np.sort(np.concatenate([rest.kept, trusted.kept])), whole.kept)
    np.testing.assert_array_equal(rest.given, whole.given[np.isin(whole.kept, rest.kept)])


def test_a_method_that_ignores_them_consumes_none(tmp_path, capsys):
    flags = [flag for flag in FAST if flag != "--quiet"]
    out = tmp_path / "run"
    assert run.main([*flags, "--method=gce", "--trusted-examples=20", f"--out={out}"]) == 0
    assert "gce does not learn from the trusted examples" in capsys.readouterr().out
    assert read(out, "summary.json")["trusted_examples"] == 0
    assert len(corruptions.load_noise(out / "labels-seed0.npz").kept) == 1280


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trusted-examples=0"], "--trusted-examples=K from the training set"),
        (["--trusted-examples=-1"], "--trusted-examples=-1"),
        (["--trusted-examples=3"], "--trusted-examples=3 must be at least the 10 classes"),
        (["--trusted-examples=1300"], "--trusted-examples=1300"),
        (["--trusted-examples=20", "--trusted=npz:x.npz"], "give one of them"),
        (["--trusted=x.npz"], "npz:FILE, folder:DIR, csv:FILE or hf:DIR is accepted"),
        (["--trusted=npz:nowhere.npz"], "nowhere.npz"),
        (["--trusted=npz:{tmp}/wide.npz"], "holds uint8 [4, 4, 1] each; digits holds uint8 [8, 8, 1]"),
        (["--trusted=npz:{tmp}/few.npz"], "has the classes 0, 1, 2; digits has 0, 1"),
        (["--trusted=npz:{tmp}/named.npz"], "has the classes a, b"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, capsys, flags, message):
    labels = np.arange(40) % 10
    save_pool(tmp_path / "wide.npz", np.zeros((40, 4, 4, 1), np.uint8), labels)
    save_pool(tmp_path / "few.npz", np.zeros((40, 8, 8, 1), np.uint8), labels % 3)
    save_pool(tmp_path / "named.npz", np.zeros((40, 8, 8, 1), np.uint8), labels, class_names=list("abcdefghij"))
    assert train(tmp_path / "run", "mw_net", *(flag.format(tmp=tmp_path) for flag in flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_runs_without_them_are_the_runs_of_before():
    settings, _ = config.resolve({"method": "gce", "dataset": "digits"})
    assert not {"trusted", "trusted_examples", "model_options"} & config.identity(settings).keys()
    with_some, _ = config.resolve({"method": "gce", "dataset": "digits", "trusted_examples": 20})
    assert config.identity(with_some)["trusted_examples"] == 20
