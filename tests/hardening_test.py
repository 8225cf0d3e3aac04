"""What damage, kills, changed inputs and strangers' folders do to a run: a refusal in one sentence, and nothing lost.

One finished run of a few steps is trained once; each row of a table damages a copy of it.
"""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from experiments import run
from experiments.figures import sr
from experiments.runs import directory, restore
from experiments.settings.config import Config
from robustjax import user_code
from robustjax.data import corruptions
from robustjax.training import checkpoints
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


# --- Overwriting, killed ----------------------------------------------------------------------------------------------

OWN = ["notes.txt", "plots/mine.svg", "checkpoints/readme", "summary.json.bak", "labels-seed0-mine.npz"]
WRITTEN = [
    "summary.json", "metrics.jsonl", "metrics.jsonl.tmp", "labels-seed0.npz", "labels-seed0.npz.77.partial",
    "findings-seed0.npz", "findings-seed0.partial", "plots/learning_curves.png", "diagnostics/seed0-epoch0001.npz",
    "evidence-seed0.npz", "evidence/seed0-epoch0001.npz", "evidence/seed0-epoch0001.partial",
    "checkpoints/1/state/data", "checkpoints/2.orbax-checkpoint-tmp-3/state", "best/seed0/1/state/data",
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
        assert not (path / "best").exists() and not (path / "diagnostics").exists()
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
    with pytest.raises(restore.UntrustedCodeError, match=rf"names 'evil\.py' \({name}\).*trust_code=True"):
        restore.restore_run(RUN)


def test_code_is_run_when_trusted_and_only_as_it_was(copied):
    pathlib.Path("evil.py").write_text("raise RuntimeError('ran')")
    edit("config.json", lambda found: found["settings"].update(NAMING["method"]))
    with pytest.raises(ValueError, match="has changed"):
        restore.restore_run(RUN, trust_code=True)
    spec = user_code.pin("evil.py:f", "method", "")
    edit("config.json", lambda found: found["settings"].update(method=spec))
    with pytest.raises(ValueError, match="cannot be imported: RuntimeError: ran"):
        restore.restore_run(RUN, trust_code=True)


def test_figures_run_no_code_unless_trusted(copied, capsys):
    edit("config.json", lambda found: found["settings"].update(NAMING["loss"]))
    (RUN / "metrics.jsonl").unlink()  # nothing else to draw
    assert sr.main(["run", "--out=pictures"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert sr.main(["run", "--out=pictures", "--trust-code"]) == 2
    assert "evil.py': there is no such file" in capsys.readouterr().err
