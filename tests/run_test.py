"""The command line, end to end: runs, run directories, resuming, refusals. Everything on the embedded digits."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import run
from experiments.runs import audit, restore, trackers
from experiments.settings import config
from robustjax import data
from robustjax.data import corruptions
from robustjax.methods import base, dynamic_loss
from robustjax.training import checkpoints

# Small enough that a run takes seconds: a perceptron, two or three epochs.
FAST = ["--model=mlp", "--batch-size=128", "--parallel=single", "--quiet", "--augmentation=none"]
METHODS = {
    "cross_entropy": [],
    "dynamic_loss": ["--warmup-epochs=1", "--num-bins=5", "--hidden=8"],
    "elr": ["--validation-split=0.1", "--learning-rate=0.02", "--keep-checkpoints=3"],
}


def start(out, method, epochs, *more):
    return run.main([f"--method={method}", f"--epochs={epochs}", f"--out={out}", *FAST, *METHODS[method], *more])


def read(path):
    return path.read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_directory_is_complete(tmp_path, method, capsys, monkeypatch):
    monkeypatch.setattr(dynamic_loss, "STILL", 2.0)  # so that it has something to warn of
    audited = []
    monkeypatch.setattr(audit, "after_run", lambda *arguments: audited.append(arguments))
    told = []
    monkeypatch.setattr(trackers, "check", lambda name: None)
    monkeypatch.setitem(trackers.OPEN, "wandb", lambda *_: trackers.Sink(
        "id", lambda *found: told.append(found), told.append, told.append
    ))  # fmt: skip
    out = tmp_path / "run"
    assert start(out, method, 3, "--seeds=2", "--log=wandb") == 0
    printed = capsys.readouterr().out
    assert "test accuracy, last epoch" in printed
    settings = json.loads(read(out / "config.json"))["settings"]
    assert settings["method"] == method and settings["noise_rate"] == 0.4 and settings["imbalance_ratio"] == 10
    records = [json.loads(line) for line in read(out / "metrics.jsonl").splitlines()]
    assert [(r["epoch"], r["seed"]) for r in records] == [(e, s) for e in (1, 2, 3) for s in (0, 1)]
    last = records[-2]
    for name in ("train_loss", "test_accuracy", "learning_rate", "wrong_memorized", "noise_detection_auroc"):
        assert np.isfinite(last[name]), name
    assert len(last["per_class_accuracy"]) == 10 and np.shape(last["reliability"]) == (15, 3)
    ((path, read_data, clean, seeds),) = audited
    assert (path, read_data.name, list(seeds)) == (out, "digits", [0, 1])
    for own, seed in zip(clean, seeds, strict=True):
        kept = corruptions.load_noise(out / f"labels-seed{seed}.npz").kept
        np.testing.assert_array_equal(own, read_data.train_labels[kept])
    summary = json.loads(read(out / "summary.json"))
    finals = [r["test_accuracy"] for r in records if r["epoch"] == 3]
    assert [s["test_accuracy_last"] for s in summary["seeds"]] == finals
    assert summary["mean_std"]["test_accuracy_last"] == pytest.approx([np.mean(finals), np.std(finals, ddof=1)])
    for text, seeds in summary["warnings"].items():
        assert seeds == [0, 1] and f"warning: {text} (seeds 0, 1)" in printed
    assert len(summary["warnings"]) == printed.count("warning: ") == (method == "dynamic_loss")
    pictures = {"learning_curves.png", "memorization.png", "confusion.png"}
    if method == "dynamic_loss":
        assert 0 <= last["correction_accuracy"] <= 1 and 0 <= last["label_weight_wrong"] <= 1
        pictures |= {
            "correction_accuracy.png", "label_weight.png", "margin.png", "weight_table.png",
            "weight_table_over_epochs.png"
        }  # fmt: skip
        assert len(last["margin"]) == 10
    if method == "elr":
        assert 0 <= last["target_accuracy"] <= 1 and 0 <= last["validation_accuracy"] <= 1
        pictures |= {"target_accuracy.png", "elr_coefficients.png"}
    dark = {name.replace(".png", "-dark.png") for name in pictures}
    assert {p.name for p in (out / "plots").iterdir()} == pictures | dark
    with np.load(out / "confusion-seed1.npz") as confusion:
        counts = confusion["counts"]
        assert confusion["epoch"] == 3 and counts.sum(1).tolist() == np.bincount(read_data.test_labels).tolist()
    assert counts.trace() / counts.sum() == pytest.approx(finals[1])
    numbers = {(seed, epoch): found for seed, epoch, found in told[:6]}
    assert {p.name for p in told[6:-1]} == pictures and told[-1] is True and "log" not in settings
    assert numbers[1, 3]["per_class_accuracy/9"] == records[-1]["per_class_accuracy"][9]
    assert list(numbers) == [(r["seed"], r["epoch"]) for r in records]
    kept = {p.name for p in (out / "checkpoints").iterdir()}
    assert kept == ({"1", "2", "3"} if method == "elr" else {"2", "3"})
    noise = corruptions.load_noise(out / "labels-seed1.npz")
    assert corruptions.label_hash(noise.given) == json.loads(read(out / "config.json"))["labels"]["1"]


def test_a_finished_run_is_not_run_again(tmp_path, capsys):
    out = tmp_path / "run"
    assert start(out, "cross_entropy", 1) == 0
    before = os.stat(out / "metrics.jsonl").st_mtime_ns
    assert start(out, "cross_entropy", 1) == 0
    assert os.stat(out / "metrics.jsonl").st_mtime_ns == before
    assert start(out, "cross_entropy", 2) == 2  # other settings in the same place
    assert "epochs=1, not 2" in capsys.readouterr().err
    assert start(out, "cross_entropy", 1, "--overwrite") == 0
    assert os.stat(out / "metrics.jsonl").st_mtime_ns > before


def test_labels_of_one_run_serve_another(tmp_path):
    assert start(tmp_path / "a", "cross_entropy", 1, "--seed=5") == 0
    file = tmp_path / "a" / "labels-seed5.npz"
    assert start(tmp_path / "b", "cross_entropy", 1, "--seed=9", f"--noise-file={file}") == 0
    first, second = (corruptions.load_noise(tmp_path / d / f"labels-seed{s}.npz") for d, s in (("a", 5), ("b", 9)))
    np.testing.assert_array_equal(first.given, second.given)


def test_labels_of_ones_own_for_a_known_data_set(tmp_path, capsys):
    """As with the human labels of CIFAR-10-N; the recipe's noise then stays away."""
    clean = data.load("digits").train_labels
    given = np.where(np.arange(len(clean)) % 3, clean, (clean + 1) % 10)
    np.savez(tmp_path / "human.npz", worse=given, other=clean)
    flags = ["--imbalance=none", "--imbalance-ratio=1"]
    out = tmp_path / "run"
    assert start(out, "cross_entropy", 1, f"--labels={tmp_path / 'human.npz'}:worse", *flags) == 0
    np.testing.assert_array_equal(corruptions.load_noise(out / "labels-seed0.npz").given, given)
    summary = json.loads(read(out / "summary.json"))  # the benchmark's own labels judge
    assert summary["truth"] == "the data" and np.isfinite(summary["seeds"][0]["final"]["noise_detection_auroc"])
    for spec, message in (("human.npz", "FILE.npz:NAME"), ("human.npz:best", "worse, other"), ("none.npy", "no file")):
        assert start(tmp_path / "no", "cross_entropy", 1, f"--labels={tmp_path / spec}", *flags) == 2
        assert message in capsys.readouterr().err
    assert start(tmp_path / "no", "cross_entropy", 1, "--labels=a.npy", "--noise=symmetric", "--noise-rate=0.1") == 2
    assert "--noise=none" in capsys.readouterr().err


def launch(out, method, epochs, *more):
    command = [f"--method={method}", f"--epochs={epochs}", f"--out={out}", *FAST, *METHODS[method], *more]
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *command], env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )


def wait_for_epoch(out, epoch, process, seconds=200):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        file = out / "metrics.jsonl"
        if file.exists() and file.read_bytes().count(b"\n") >= epoch:
            return
        time.sleep(0.01)
    raise AssertionError(f"epoch {epoch} was not reached (exit status {process.poll()})")


@pytest.mark.filterwarnings("ignore:ignored the half-written checkpoint")  # the kill may come in the middle of one
@pytest.mark.parametrize(
    "method", ["dynamic_loss", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("cross_entropy", "elr"))]
)
def test_killed_and_resumed_is_bit_for_bit_the_same(tmp_path, method):
    epochs, whole, cut = 12, tmp_path / "whole", tmp_path / "cut"
    assert start(whole, method, epochs) == 0
    process = launch(cut, method, epochs)
    wait_for_epoch(cut, 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "summary.json").exists()
    assert start(cut, method, epochs) == 2  # unfinished: neither silently continued nor overwritten
    assert start(cut, method, epochs, "--resume") == 0
    assert read(cut / "metrics.jsonl") == read(whole / "metrics.jsonl")
    for a, b in zip(states(whole, epochs), states(cut, epochs), strict=True):
        np.testing.assert_array_equal(a, b)
    with np.load(whole / "evidence-seed0.npz") as a, np.load(cut / "evidence-seed0.npz") as b:
        assert a.files == b.files and all((a[name] == b[name]).all() for name in a.files)
        assert 0 < a["surveys"] <= epochs and np.ptp(a["mean_margin"]) > 0


def test_selection_by_noisy_validation_labels(tmp_path):
    """The best epoch is chosen on held-out examples, by labels as wrong as the others, and its network is kept."""
    out = tmp_path / "run"
    assert start(out, "elr", 4, "--seeds=2", "--noise=symmetric") == 0
    records = [json.loads(line) for line in read(out / "metrics.jsonl").splitlines()]
    summary = json.loads(read(out / "summary.json"))
    restored = restore.restore_run(out, best=True)
    for k, result in enumerate(summary["seeds"]):
        own = [r for r in records if r["seed"] == k]
        best = max(own, key=lambda r: (r["validation_accuracy"], -r["epoch"]))
        assert result["best_validation_epoch"] == best["epoch"]
        assert result["test_accuracy_best_validation"] == best["test_accuracy"]
        parts = [corruptions.load_noise(out / f"{name}-seed{k}.npz") for name in ("labels", "validation")]
        assert not set(parts[0].kept) & set(parts[1].kept)
        assert len(parts[1].kept) == round(0.1 * (len(parts[0].kept) + len(parts[1].kept)))
        clean = restored.dataset.train_labels[parts[1].kept]
        assert 0.1 < np.mean(parts[1].given != clean) < 0.6
        inputs = restored.dataset.train_inputs[parts[1].kept]
        predicted = np.argmax(restore.predict(restored, inputs, k), -1)
        assert np.mean(predicted == parts[1].given) == pytest.approx(best["validation_accuracy"], abs=1e-6)
    mean, std = summary["mean_std"]["test_accuracy_best_validation"]
    chosen = [result["test_accuracy_best_validation"] for result in summary["seeds"]]
    assert (mean, std) == pytest.approx((np.mean(chosen), np.std(chosen, ddof=1)))


def test_early_stopping_ends_a_run_and_resuming_does_not_undo_it(tmp_path):
    out = tmp_path / "run"
    flags = ["--early-stopping=2", "--validation-split=0.3", "--learning-rate=0.5", "--track-every=0"]
    assert start(out, "cross_entropy", 60, *flags) == 0
    accuracies = [json.loads(line)["validation_accuracy"] for line in read(out / "metrics.jsonl").splitlines()]
    assert len(accuracies) < 60 and int(np.argmax(accuracies)) == len(accuracies) - 3
    assert checkpoints.latest_epoch(out / "checkpoints") == len(accuracies)
    before = read(out / "metrics.jsonl")
    (out / "summary.json").unlink()  # as if it had been cut just before the end
    assert start(out, "cross_entropy", 60, *flags, "--resume") == 0
    assert read(out / "metrics.jsonl") == before and (out / "summary.json").exists()


def test_early_stopping_is_for_the_last_stage():
    """HAR's first stage has its full schedule, however its validation accuracy goes."""
    step = ((base.Step(lambda *_: None),),)
    stages = [base.Stage(3, step, preliminary=True), base.Stage(3, step)]
    method = base.method(None, stages, None)
    accuracies = [(1, 0.9), (1, 0.8), (1, 0.7), (2, 0.3), (2, 0.2)]
    records = [{"epoch": e, "stage": s, "validation_accuracy": a} for e, (s, a) in enumerate(accuracies, 1)]
    over = [run._is_over(1, method, {0: records[:done]}, done) for done in range(1, 6)]
    assert over == [False, False, False, False, True]
    better = [*records[:4], {**records[4], "validation_accuracy": 0.4}]
    assert not run._is_over(1, method, {0: records, 1: better}, 5)  # the seed that still improves decides
    assert run._is_over(0, method, {0: records}, 6) and not run._is_over(0, method, {0: records}, 5)


def states(out, epoch):
    """All leaves of a run's checkpointed state."""
    with ocp.CheckpointManager(out / "checkpoints") as manager:
        restored = manager.restore(epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
        return [np.asarray(leaf) for leaf in jax.tree.leaves(restored.state)]


def test_sigterm_saves_and_stops(tmp_path):
    out = tmp_path / "run"
    process = launch(out, "cross_entropy", 500, "--checkpoint-every=1000")
    wait_for_epoch(out, 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == run.STOPPED
    reached = len(read(out / "metrics.jsonl").splitlines())
    assert 2 <= reached < 500
    assert checkpoints.latest_epoch(out / "checkpoints") == reached


def test_resuming_another_run_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert start(out, "cross_entropy", 1) == 0
    (out / "summary.json").unlink()
    before = read(out / "metrics.jsonl")
    assert start(out, "cross_entropy", 1, "--resume", "--learning-rate=0.3") == 2
    assert "--learning-rate=0.1, not 0.3" in capsys.readouterr().err
    assert read(out / "metrics.jsonl") == before


def test_a_run_of_before_a_setting_was_known_is_resumed(tmp_path, capsys):
    out = tmp_path / "run"
    assert start(out, "cross_entropy", 1) == 0
    (out / "summary.json").unlink()
    saved = json.loads(read(out / "config.json"))
    del saved["settings"]["nesterov"]
    (out / "config.json").write_text(json.dumps(saved))
    assert start(out, "cross_entropy", 1, "--resume", "--nesterov") == 2
    assert "nesterov=False, not True" in capsys.readouterr().err
    assert start(out, "cross_entropy", 1, "--resume", "--trusted-examples=10") == 2
    assert "--trusted-examples=0, not 10" in capsys.readouterr().err
    assert start(out, "cross_entropy", 1, "--resume") == 0


def test_a_damaged_checkpoint_is_reported(tmp_path, capsys):
    out = tmp_path / "run"
    assert start(out, "cross_entropy", 1) == 0
    (out / "summary.json").unlink()
    for file in (out / "checkpoints").rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(b"")
    before = read(out / "metrics.jsonl")
    assert start(out, "cross_entropy", 1, "--resume") == 1
    assert "is damaged" in capsys.readouterr().err
    assert read(out / "metrics.jsonl") == before


def test_a_directory_in_use_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    process = launch(out, "cross_entropy", 500)
    wait_for_epoch(out, 1, process)
    for more in ("--resume", "--overwrite"):
        assert start(out, "cross_entropy", 500, more) == 2
        assert "in use" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert start(out, "cross_entropy", 1, "--overwrite") == 0  # the lock went with the process
    assert json.loads(read(out / "config.json"))["settings"]["epochs"] == 1


def test_somebody_elses_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert start(tmp_path, "cross_entropy", 1, "--overwrite") == 2
    assert "not a run directory" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method=dynamic_los"], "dynamic_loss"),
        (["--model=resnet31"], "resnet32"),
        (["--dataset=digit"], "digits"),
        (["--noise-rate=1.5"], "--noise-rate=1.5"),
        (["--noise-rate=-0.1"], "--noise-rate=-0.1"),
        (["--imbalance-ratio=0.5"], "--imbalance-ratio=0.5"),
        (["--imbalance-ratio=1000"], "without an example"),
        (["--batch-size=5000"], "--batch-size=5000 is larger than the training set"),
        (["--dataset=cifar10", "--data-dir=/nonexistent"], "cifar10"),
        (["--schedule=cosin"], "schedule='cosin'"),
        (["--augmentation=crop-flop"], "flip"),
        (["--method=cross_entropy", "--num-bins=3"], "belongs to dynamic_loss"),
        (["--method=dynamic_loss", "--corrector=cnn"], "corrector='cnn'"),
        (["--warmup-epochs=60"], "--warmup-epochs=60"),
        (["--noise=none", "--noise-rate=0.3"], "--noise-rate"),
        (["--resume", "--overwrite"], "contradict"),
        (["--data-seed=0", "--noise-file=nowhere.npz"], "nowhere.npz"),
        (["--noise-file=a.npz", "--noise=symmetric", "--noise-rate=0.2"], "--noise='symmetric': --noise-file says all"),
        (["--noise-file=a.npz", "--train-examples=50"], "--train-examples=50: --noise-file says all"),
        (["--method=elr", "--weak-augmentation=crop"], "--weak-augmentation is Dynamic Loss's second view"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(run.data, "load", _offline(run.data.load))
    out = tmp_path / "run"
    assert run.main([*flags, f"--out={out}", "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def _offline(load):
    return lambda name, data_dir=None, **more: load(name, data_dir, **{**more, "download": False})


def test_unknown_flags_offer_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["--learning-rat=0.1"])
    assert stopped.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    # Doubling every epoch: fine for a while, then infinite.
    assert start(out, "cross_entropy", 40, "--learning-rate=10", "--schedule=exponential:1e6") == 1
    message = capsys.readouterr().err
    assert "not finite at step" in message and "epoch" in message
    good = checkpoints.latest_epoch(out / "checkpoints")
    assert good == len(read(out / "metrics.jsonl").splitlines()) and good >= 1
    assert not (out / "summary.json").exists()


def test_recipes_give_the_papers_settings():
    settings, sources = config.resolve({"method": "dynamic_loss", "dataset": "cifar10"})
    assert (settings.model, settings.epochs, settings.batch_size) == ("resnet32", 300, 512)
    assert (settings.learning_rate, settings.momentum, settings.weight_decay) == (0.1, 0.9, 5e-4)
    assert settings.schedule == "cosine" and settings.augmentation == "crop-flip-autoaugment"
    options = settings.options
    assert (options["num_bins"], options["primary_ratio"], options["meta_ratio"]) == (100, 0.5, 0.25)
    assert (options["meta_learning_rate"], options["warmup_epochs"]) == (3e-3, 5)
    assert config.resolve({"dataset": "cifar100"})[0].options["num_bins"] == 50
    assert sources and config.resolve({"dataset": "cifar10", "learning_rate": 0.3})[0].learning_rate == 0.3
