"""What damage, kills, changed inputs and strangers' folders do to a run: a refusal in one sentence, and nothing lost.

One finished run of a few steps is trained once; each row of a table damages a copy of it.
"""

import errno
import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import run
from experiments.figures import dynamic_loss, sr
from experiments.pictures import style
from experiments.runs import directory, partial, progress, records, restore
from experiments.settings.config import Config
from robustjax import user_code
from robustjax.data import corruptions
from robustjax.methods import base
from robustjax.training import checkpoints, engine, parallel
from tests import toys

FLAGS = [
    "--dataset=npz:data.npz", "--method=cross_entropy", "--model=mlp", "--epochs=2", "--batch-size=30", "--out=run",
    "--noise=symmetric", "--noise-rate=0.2", "--parallel=single", "--quiet", "--compilation-cache=off",
]  # fmt: skip
RUN = pathlib.Path("run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data.npz and a finished run on it."""
    folder, before = tmp_path_factory.mktemp("hardening"), os.getcwd()
    os.chdir(folder)
    try:
        train, test = toys.images(toys.N, 1), toys.images(toys.TEST, 2)
        np.savez("data.npz", train_inputs=train[0], train_labels=train[1], test_inputs=test[0], test_labels=test[1])
        assert run.main(FLAGS) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy of it to damage, as the working directory."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def contents(folder="."):
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.parent.name != "__pycache__"}  # Python's own


def edit(name, change):
    """Rewrite a JSON file of the run."""
    file = RUN / name
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


def unfinished():
    (RUN / "summary.json").unlink()


def cut_lines(keep):
    file = RUN / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(keep(lines)))


def change_data(name="test_inputs"):
    with np.load("data.npz") as file:
        arrays = dict(file)
    arrays[name] = arrays[name].copy()
    arrays[name].flat[0] ^= 1
    np.savez("data.npz", **arrays)


def change_labels():
    file = RUN / "labels-seed0.npz"
    noise = corruptions.load_noise(file)
    clean = np.load("data.npz")["train_labels"]
    corruptions.save_noise(file, np.roll(noise.given, 1), noise.kept, clean_labels=clean)


def a_strangers_model():
    shutil.rmtree(RUN)
    (RUN / "checkpoints" / "1").mkdir(parents=True)
    (RUN / "checkpoints" / "1" / "weights").write_text("precious")
    (RUN / "config.json").write_text(json.dumps({"architectures": ["Bert"], "settings": {"method": "theirs"}}))


def link_to_elsewhere():
    shutil.move(RUN / "checkpoints", "elsewhere")
    (RUN / "checkpoints").symlink_to(pathlib.Path("elsewhere").absolute())


BROKEN = """
from robustjax.methods import base

def broken(task):
    def step(learner, batches, clock, key):
        raise ValueError("my mistake")

    return base.method(
        lambda key, labels: base.init_learner(key, task), [base.Stage(task.epochs, base.one_pass(step))],
        lambda state, inputs: base.predict_with(task, state, inputs),
    )
"""

REFUSED = {
    # name: what happens to the run, flags besides, what stderr must say
    "resume nothing": (lambda: shutil.rmtree(RUN), ["--resume"], "holds no run to go on with"),
    "resume with other data": (lambda: (unfinished(), change_data()), ["--resume"], "the data have changed"),
    "resume with other labels": (lambda: (unfinished(), change_labels()), ["--resume"], "labels-seed0.npz' is not of"),
    "resume without the labels, which are others now": (
        lambda: (unfinished(), (RUN / "labels-seed0.npz").unlink(), edit("config.json", _other_hash)),
        ["--resume"], "labels-seed0.npz' is not of",
    ),
    "resume without a first line": (
        lambda: (unfinished(), cut_lines(lambda lines: lines[1:])), ["--resume"],
        "metrics.jsonl, line 1: epoch 2 of seed 0 where epoch 1 of seed 0 belongs",
    ),
    "resume without a last line": (
        lambda: (unfinished(), cut_lines(lambda lines: lines[:-1])), ["--resume"], "line 2: nothing where epoch 2",
    ),
    "resume with a line twice": (
        lambda: (unfinished(), cut_lines(lambda lines: [lines[0], *lines])), ["--resume"], "line 2: epoch 1",
    ),
    "resume with a foreign line": (
        lambda: (unfinished(), cut_lines(lambda lines: [b"3\n", *lines])), ["--resume"], "line 1: not a JSON record",
    ),
    "resume without records": (
        lambda: (unfinished(), (RUN / "metrics.jsonl").unlink()), ["--resume"], "line 1: nothing where epoch 1",
    ),
    "resume a damaged description": (
        lambda: (unfinished(), (RUN / "config.json").write_bytes(b"\xff{")), ["--resume"], "config.json' is damaged",
    ),
    "finished, with other data": (change_data, [], "the data have changed"),
    "finished, without a line": (lambda: cut_lines(lambda lines: lines[:-1]), [], "line 2: nothing where epoch 2"),
    "finished, with half a summary": (
        lambda: (RUN / "summary.json").write_text('{"seeds": ['), [], "summary.json' is damaged",
    ),
    "overwrite a stranger's model": (a_strangers_model, ["--overwrite"], "config.json is not a run's; nothing is"),
    "overwrite beyond a link": (link_to_elsewhere, ["--overwrite"], "'checkpoints' as a link"),
    "overwrite with a bad augmentation": (lambda: None, ["--overwrite", "--augmentation=cutout9"], "cutout size 9"),
    "overwrite with a bad network": (
        lambda: None, ["--overwrite", "--model=bilstm"], "model='bilstm' reads token ids"
    ),
    "overwrite with a method whose step cannot be": (
        lambda: pathlib.Path("mine.py").write_text(BROKEN), ["--overwrite", "--method=mine.py:broken"], "my mistake"
    ),
    "a file in its place": (
        lambda: (shutil.rmtree(RUN), RUN.write_text("precious")), [], "'run' is not a directory",
    ),
}  # fmt: skip


def _other_hash(description):
    description["labels"]["0"] = "0" * 64


@pytest.mark.parametrize("row", REFUSED)
def test_refused_in_a_sentence_and_nothing_changed(copied, row, capfd):
    damage, flags, message = REFUSED[row]
    damage()
    before = contents()
    assert run.main([*FLAGS, *flags]) == 2
    out, err = capfd.readouterr()
    assert message in err and err.count("\n") == 1 and err.startswith("error: ") and out == ""
    assert contents() == before


def test_a_finished_run_without_its_data_is_still_finished(copied, capsys):
    pathlib.Path("data.npz").unlink()
    before = contents()
    assert run.main(FLAGS) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert contents() == before


def test_a_run_that_an_earlier_version_described_is_not_compared_with_its_data(copied):
    edit("config.json", lambda found: found.pop("data"))
    change_data()
    assert run.main(FLAGS) == 0


@pytest.mark.exhaustive  # it trains; what the sentence is about is in checkpoints_test
def test_resuming_past_a_damaged_checkpoint_is_told_in_a_sentence(copied, capfd):
    unfinished()
    records = (RUN / "metrics.jsonl").read_bytes()
    state = RUN / "checkpoints" / "2" / "state"
    shutil.rmtree(state)
    shutil.copytree(RUN / "checkpoints" / "1" / "state", state)  # readable, and not what was saved
    assert run.main([*FLAGS, "--resume"]) == 0
    err = capfd.readouterr().err
    assert err.startswith("warning: the checkpoint of epoch 2 in run") and err.count("\n") == 1
    assert (RUN / "metrics.jsonl").read_bytes() == records  # epoch 2 was trained again, to the same numbers
    assert checkpoints.latest_epoch(RUN / "checkpoints") == 2


# --- Signals within an epoch ------------------------------------------------------------------------------------------


def stop_at(monkeypatch, *steps):
    """SIGTERM after each of these steps, those before a cut counted once more when it goes on; every epoch is long."""
    made, tell = [0], progress.Progress.step

    def step(self, count=1):
        made[0] += count
        tell(self, count)
        if made[0] in steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(progress.Progress, "step", step)
    monkeypatch.setattr(run, "LONG_EPOCH", 0.0)


def same_runs(one, other, epoch=2):
    """Whether two runs have the same records, and bit for bit the same networks."""
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    sums = [
        json.loads((path / f"checkpoints/{epoch}/leaves/metadata").read_bytes())["checksums"] for path in (one, other)
    ]
    assert sums[0] == sums[1] and sums[0]


CUT = pathlib.Path("cut")


@pytest.mark.parametrize("steps", [(1,), pytest.param((1, 4), marks=pytest.mark.exhaustive)])
def test_a_signal_in_a_long_epoch_saves_after_the_step(copied, monkeypatch, capfd, steps):
    """In the first epoch, and, resumed, in the second; what then comes out is what was never stopped."""
    flags = [*FLAGS, "--out=cut"]
    stop_at(monkeypatch, *steps)
    for epoch in range(1, len(steps) + 1):
        assert run.main(flags) == run.STOPPED
        told = f"stopped by SIGTERM in epoch {epoch} of 2, after step 1 of 2; --resume goes on.\n"
        assert capfd.readouterr().err == told
        assert [path.name for path in (CUT / "partial").iterdir()] == [f"epoch{epoch}"]
        flags = [*FLAGS, "--out=cut", "--resume"]
    assert run.main(flags) == 0
    assert not (CUT / "partial").exists()
    same_runs(RUN, CUT)


@pytest.fixture
def layout():
    return parallel.make_layout("single", batch_size=1, devices=jax.devices()[:1])


def keep_cut(layout, epoch, made, value):
    """A cut of a method with one number for its state."""
    plan = {"train": base.Stream(np.arange(3, dtype=np.int32), np.int32(3))}
    middle = engine.Middle(np.float32(value), plan, 1, made, [{"loss": (1 / 3, 2.0)}], [{"loss": (0.1, 1.0)}])
    partial.save(pathlib.Path(), layout, engine.Cut(epoch, made, 9, middle), {"seconds": 1.5})
    return [{"state": np.float32(value), "plan": plan}]


def test_what_a_cut_leaves_is_what_is_gone_on_with(tmp_path, monkeypatch, layout):
    monkeypatch.chdir(tmp_path)
    like = keep_cut(layout, 3, 5, 1.0)
    keep_cut(layout, 3, 7, 2.0)  # gone on with, and cut once more
    found = partial.restore(pathlib.Path(), layout, lambda epoch: like if epoch == 3 else None, whole=3)
    assert (found.epoch, found.meta["seconds"], float(found.middle.state)) == (3, 1.5, 2.0)
    assert found.middle.plan["train"].order.tolist() == [0, 1, 2]
    assert found.middle[2:] == (1, 7, [{"loss": (1 / 3, 2.0)}], [{"loss": (0.1, 1.0)}])
    assert partial.restore(pathlib.Path(), layout, lambda _: like, whole=4) is None  # a later epoch is whole
    keep_cut(layout, 4, 1, 3.0)
    assert os.listdir("partial") == ["epoch5"]
    pathlib.Path("partial/mine").touch()
    partial.discard(pathlib.Path())
    assert os.listdir("partial") == ["mine"] and partial.restore(pathlib.Path(), layout, lambda _: like, None) is None


def test_a_damaged_cut_is_passed_over_unless_all_would_be_lost(tmp_path, monkeypatch, layout):
    monkeypatch.chdir(tmp_path)
    like = keep_cut(layout, 1, 5, 1.0)
    shutil.rmtree("partial/epoch2/5/state")
    with pytest.warns(checkpoints.CheckpointWarning, match="middle of epoch 2 cannot be used: partial/epoch2 is dam"):
        assert partial.restore(pathlib.Path(), layout, lambda _: like, whole=1) is None
    with pytest.raises(checkpoints.CheckpointError, match="and nothing was saved before it"):
        partial.restore(pathlib.Path(), layout, lambda _: like, whole=None)


# --- A full disk ------------------------------------------------------------------------------------------------------


def one_epoch_less():
    unfinished()
    shutil.rmtree(RUN / "checkpoints" / "2")


FULL = {
    # what cannot be written: by what, what happens to the run before, flags, what to do then, flags that do it
    "config.json": (records, "write_atomic", lambda: shutil.rmtree(RUN), [], "start again", None),
    "labels": (corruptions, "save_noise", lambda: shutil.rmtree(RUN), [], "--resume goes on", None),
    "config.next.json": (records, "write_atomic", lambda: None, ["--overwrite"], "--resume goes on", []),
    "plots": (style, "save", unfinished, ["--resume"], "--resume goes on", ["--resume"]),
    "summary.json": (records, "write_json_atomic", unfinished, ["--resume"], "--resume goes on", ["--resume"]),
    "metrics.jsonl": (records, "append_record", one_epoch_less, ["--resume"], "--resume goes on", ["--resume"]),
    "checkpoints": (ocp.CheckpointManager, "save", one_epoch_less, ["--resume"], "--resume goes on", ["--resume"]),
}


@pytest.mark.parametrize("row", [
    pytest.param(row, marks=pytest.mark.exhaustive if after == ["--resume"] else ())  # they train, or draw
    for row, (*_, after) in FULL.items()
])  # fmt: skip
def test_a_full_disk_is_a_sentence_and_nothing_is_lost(copied, capfd, row):
    owner, write, before, flags, advice, after = FULL[row]
    lines = (RUN / "metrics.jsonl").read_bytes()
    before()

    def full(*args, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, write, full)
        assert run.main([*FLAGS, *flags]) == 1
    where = "run/checkpoints" if row == "checkpoints" else "run"
    assert capfd.readouterr().err == (
        f"error: No space left on device: '{where}' cannot be written; make room there, and {advice}.\n"
    )
    if after is not None:
        assert run.main([*FLAGS, *after]) == 0
        assert (RUN / "metrics.jsonl").read_bytes() == lines and (RUN / "plots" / "learning_curves.png").exists()


def test_orbax_tells_of_a_full_disk_in_its_own_way(tmp_path, monkeypatch):
    def full(self, *args, **more):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing \"a/0\" [os_error_code='28'] [spec={\n}]")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(OSError, match="No space left") as told:
        checkpoints.save(tmp_path, 1, {"a": np.zeros(2)}, {})
    assert told.value.errno == errno.ENOSPC and told.value.filename == str(tmp_path)


# --- Overwriting, killed ----------------------------------------------------------------------------------------------

OWN = ["notes.txt", "plots/mine.svg", "checkpoints/readme", "summary.json.bak", "labels-seed0-mine.npz", "log/mine.txt"]
WRITTEN = [
    "summary.json", "metrics.jsonl", "metrics.jsonl.tmp", "labels-seed0.npz", "labels-seed0.npz.77.partial",
    "findings-seed0.npz", "findings-seed0.partial", "confusion-seed0.npz",
    "plots/learning_curves-dark.png", "diagnostics/seed0-epoch0001.npz",
    "partial/epoch2/7/state/data", "partial/epoch3/1.orbax-checkpoint-tmp-3/state",
    "evidence-seed0.npz", "evidence/seed0-epoch0001.npz", "evidence/seed0-epoch0001.partial",
    "checkpoints/1/state/data", "checkpoints/2.orbax-checkpoint-tmp-3/state", "best/seed0/1/state/data",
    "log/ids.json", "log/tensorboard/seed0/events", "log/wandb/run/files", "log/mlflow.db",
]  # fmt: skip
OURS = {"settings": {"method": "old"}, "environment": {"robustjax": "0.1.0"}, "labels": {}}


class Killed(BaseException):
    """In place of SIGKILL."""


def fill(path):
    for name in (*OWN, *WRITTEN):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    (path / "config.json").write_text(json.dumps(OURS))


def killed_at(monkeypatch, count):
    """Let all that changes a folder be done `count` times, and then no more."""
    left = [count]

    def dying(function):
        def call(*args, **more):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return function(*args, **more)

        return call

    for owner, name in ((os, "replace"), (pathlib.Path, "unlink"), (pathlib.Path, "rmdir"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    return left


def test_a_kill_while_overwriting_leaves_the_old_run_or_the_new(tmp_path):
    new = {**OURS, "settings": {"method": "new"}}
    asked = Config(overwrite=True)
    for count in range(100):
        path = tmp_path / str(count)
        fill(path)
        before = contents(path)
        died = False
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, count)
            try:
                with directory.claim(path, asked, lambda: new):
                    pass
            except Killed:
                died = True
        if died and not (path / "config.next.json").exists():  # the old one, as it was
            assert directory.read_summary(path) == {}
            assert {file: data for file, data in contents(path).items() if file in before} == before
            continue
        assert directory.read_summary(path) is None
        directory.settle(path)
        found = {file.relative_to(path).as_posix() for file in contents(path)}
        assert found == {*OWN, "config.json"}  # what is not ours stays
        assert directory.read_settings(path).method == "new"
        assert not any((path / name).exists() for name in ("best", "diagnostics", "partial"))
        if not died:
            break
    assert 15 < count < 99


@pytest.mark.exhaustive  # it trains
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_run_that_was_killed_while_it_overwrote_is_gone_on_with(copied, flag):
    records = (RUN / "metrics.jsonl").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, 3)
        with pytest.raises(Killed), directory.claim(RUN, Config(overwrite=True), lambda: OURS):
            pass
    (RUN / "config.next.json").write_bytes((RUN / "config.json").read_bytes())
    assert not (RUN / "summary.json").exists() and (RUN / "checkpoints").exists()
    assert run.main([*FLAGS, flag]) == 0
    assert (RUN / "metrics.jsonl").read_bytes() == records


def test_a_half_overwritten_run_is_not_read(tmp_path):
    fill(tmp_path)
    (tmp_path / "config.next.json").write_text(json.dumps(OURS))
    with pytest.raises(directory.RunDirectoryError, match="is being overwritten"):
        restore.restore_run(tmp_path)


# --- Code -------------------------------------------------------------------------------------------------------------

NAMING = {
    "method": {"method": "evil.py:f#sha256=0123"},
    "model": {"method": "cross_entropy", "model": "evil.py:f"},
    "groups": {"method": "har", "groups": "evil.py:f"},
    "loss": {"method": "custom", "options": {"loss": "evil.py:f#sha256=0123"}},
}


@pytest.mark.parametrize("name", NAMING)
def test_restoring_runs_no_code_unless_trusted(copied, monkeypatch, name):
    pathlib.Path("evil.py").write_text("raise SystemExit('ran')")
    edit("config.json", lambda found: found["settings"].update(NAMING[name]))
    monkeypatch.setattr(user_code, "load", lambda *_: pytest.fail("code is loaded"))
    for reader in (restore.restore_run, restore.restore_model):
        with pytest.raises(restore.UntrustedCodeError, match=rf"names 'evil\.py' \({name}\).*trust_code=True"):
            reader(RUN)


def test_code_is_run_when_trusted_and_only_as_it_was(copied):
    pathlib.Path("evil.py").write_text("raise RuntimeError('ran')")
    edit("config.json", lambda found: found["settings"].update(NAMING["method"]))
    with pytest.raises(ValueError, match="has changed"):
        restore.restore_run(RUN, trust_code=True)
    spec = user_code.pin("evil.py:f", "method", "")
    edit("config.json", lambda found: found["settings"].update(method=spec))
    with pytest.raises(ValueError, match="cannot be imported: RuntimeError: ran"):
        restore.restore_run(RUN, trust_code=True)


@pytest.mark.parametrize("figures", [sr, dynamic_loss])
def test_figures_run_no_code_unless_trusted(copied, capsys, figures):
    edit("config.json", lambda found: found["settings"].update(NAMING["loss"]))
    (RUN / "metrics.jsonl").unlink()  # nothing else to draw
    assert figures.main(["run", "--out=pictures"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert figures.main(["run", "--out=pictures", "--trust-code"]) == 2
    assert "evil.py': there is no such file" in capsys.readouterr().err
