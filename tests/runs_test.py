"""Records on disk, progress on a terminal and off it, the results table, the environment."""

import io
import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from experiments.runs import environment, history, progress, records, table

REPOSITORY = Path(__file__).resolve().parents[1]


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_records_round_trip_as_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records.append_record(path, {"epoch": 0, "loss": np.float32(0.5), "per_class": jnp.array([0.25, jnp.nan])})
    records.append_record(
        path, {"epoch": np.int64(1), "loss": math.inf, "nested": {"path": Path("a"), 3: (True, None)}}
    )
    lines = path.read_text().splitlines()
    assert [strict(line) for line in lines] == records.read_records(path)
    assert records.read_records(path) == [
        {"epoch": 0, "loss": 0.5, "per_class": [0.25, None]},
        {"epoch": 1, "loss": None, "nested": {"path": "a", "3": [True, None]}},
    ]


def test_a_cut_line_is_left_out_and_then_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in range(3):
        records.append_record(path, {"epoch": epoch, "name": "é\u2028"})
    whole = path.read_bytes()
    complete = whole[: whole[:-1].rfind(b"\n") + 1]
    for cut in range(len(complete) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [record["epoch"] for record in records.read_records(path)] == [0, 1]
    records.append_record(path, {"epoch": 2, "name": "é\u2028"})
    assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0}\n{"epo\n{"epoch": 2}\n')
    with pytest.raises(ValueError, match="line 2: not a JSON record"):
        records.read_records(path)


@given(st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path_factory, saved, killed):
    """Checkpoint after epoch ``saved``, killed in the middle of writing epoch ``killed``."""
    folder = tmp_path_factory.mktemp("run")

    def record(epoch):
        return {"epoch": epoch, "loss": 1 / (epoch + 3)}

    for epoch in range(7):
        records.append_record(folder / "straight", record(epoch))
    for epoch in range(killed):
        records.append_record(folder / "resumed", record(epoch))
    with open(folder / "resumed", "ab") as file:
        file.write(b'{"epoch": ')
    records.truncate_records(folder / "resumed", min(saved, killed - 1))
    for epoch in range(min(saved + 1, killed), 7):
        records.append_record(folder / "resumed", record(epoch))
    assert (folder / "resumed").read_bytes() == (folder / "straight").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["resumed", "straight"]


def test_truncating_no_file_makes_none(tmp_path):
    records.truncate_records(tmp_path / "none", 3)
    assert list(tmp_path.iterdir()) == []


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    records.write_json_atomic(path, {"a": np.arange(3), "b": float("nan")})
    assert strict(path.read_text()) == {"a": [0, 1, 2], "b": None}
    with pytest.raises(TypeError):
        records.write_json_atomic(path, {"a": object()})
    assert strict(path.read_text()) == {"a": [0, 1, 2], "b": None}
    assert [item.name for item in tmp_path.iterdir()] == ["summary.json"]


class Clock:
    """A clock that is set by hand."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


def test_time_left_leaves_compiling_out():
    clock = Clock()
    run = progress.Progress(epochs=10, steps_per_epoch=4, now=clock)
    assert (run.done, run.seconds_left) == (0, None)
    run.phase("compiling")
    clock.seconds = 100
    assert run.phase_seconds == 100
    run.phase("")
    run.step()
    assert run.seconds_left is None
    for _ in range(3):
        clock.seconds += 5
        run.step()
    assert run.done == 1 and run.seconds_left == pytest.approx(9 * 20)
    run.phase("compiling evaluation")
    clock.seconds += 1000
    assert run.seconds_left == pytest.approx(180)
    run.phase("")
    run.epoch(1)
    assert run.done == 1 and run.seconds_left == pytest.approx(180) and run.elapsed == 1115


def test_time_left_follows_the_recent_pace_and_step_counts_may_change():
    clock = Clock()
    run = progress.Progress(epochs=40, steps_per_epoch=2, start_epoch=10, now=clock)
    for epoch in range(10, 30):
        seconds, steps = (1, 2) if epoch < 20 else (6, 4)
        for _ in range(steps):
            clock.seconds += seconds / steps
            run.step()
            assert epoch <= run.done <= epoch + 1
        run.epoch(epoch + 1)
        assert run.done == epoch + 1
    assert run.seconds_left == pytest.approx(10 * 6)


@pytest.mark.parametrize("epochs", [1, 2, 29, 31, 120, 500])
def test_plain_lines_off_a_terminal(epochs):
    stream = io.StringIO()
    with progress.progress(epochs, 3, stream=stream) as run:
        for epoch in range(epochs):
            run.phase("compiling train step")
            run.phase("")
            run.step(3)
            run.epoch(epoch + 1, loss=0.5, learning_rate=0.1, test_accuracy=0.875)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "compiling train step…" and len(set(lines)) == len(lines) <= 33
    assert lines[1].startswith(f"epoch 1/{epochs}   loss 0.5000   learning rate 0.1   test accuracy 87.50 %   ")
    assert lines[-1].startswith(f"epoch {epochs}/{epochs} ")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", stream.getvalue())


def test_quiet_prints_nothing(capfd):
    with progress.progress(2, 1, mode="quiet") as run:
        run.phase("compiling")
        run.step()
        run.epoch(1, loss=math.nan)
    assert capfd.readouterr() == ("", "")


def test_unknown_mode_and_sizes_are_refused():
    with (
        pytest.raises(ValueError, match="mode must be auto, live, plain, notebook or quiet, got 'loud'"),
        progress.progress(1, 1, mode="loud"),
    ):
        pass
    with pytest.raises(ValueError, match="at least 1, got 0 and 5"):
        progress.Progress(0, 5)


def test_live_display_on_a_terminal_that_is_resized():
    script = (
        "import time; from experiments.runs import progress\n"
        "with progress.progress(4, 2) as run:\n"
        "    run.phase('compiling train step'); time.sleep(.3); run.phase('')\n"
        "    for epoch in range(4):\n"
        "        for _ in range(2): time.sleep(.1); run.step()\n"
        "        run.epoch(epoch + 1, loss=.25, learning_rate=.1, test_accuracy=.9)\n"
        "print('over')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": ""}
    main, terminal = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    output = b""
    while True:
        try:
            if select.select([main], [], [], 0.05)[0]:
                output += os.read(main, 65536)
            elif b"compiling" in output and process.poll() is None:
                process.send_signal(signal.SIGWINCH)
        except OSError:  # the other end was closed
            break
    os.close(main)
    text = output.decode()
    assert process.wait() == 0
    assert "compiling train step…" in text and "test accuracy 90.00 %" in text and "100 %" in text
    # The cursor is hidden and given back, and what follows starts on its own line.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") >= 1
    assert text.rstrip().splitlines()[-1].removeprefix("\x1b[?25h") == "over"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600, "1 h 00 min"), (7650, "2 h 07 min")],
)
def test_durations(seconds, text):
    assert progress.format_duration(seconds) == text


def shown(table):
    stream = io.StringIO()
    Console(file=stream, width=140).print(table)
    return stream.getvalue()


def cells(table, label):
    line = next(line for line in shown(table).splitlines() if label in line)
    return [cell.strip() for cell in line.strip("│ ").split("│")][1:]


def summary(last, **final):
    return history.summarise([{"epoch": 0, "test_accuracy": 0.5}, {"epoch": 1, "test_accuracy": last, **final}])


def test_results_table_over_seeds():
    rows = [
        summary(0.40, per_class_accuracy=[0.1, None], guess_accuracy=0.8, my_trust_right=0.9, my_trust_wrong=None),
        summary(0.44, per_class_accuracy=[0.3, 0.7], guess_accuracy=0.9, my_trust_right=None, my_trust_wrong=None),
    ]
    found = table.results_table(rows, seeds=[7, 8], class_names=["cat", "dog"])
    text = shown(found)
    assert "seed 7" in text and "seed 8" in text
    assert cells(found, "last epoch") == ["40.00", "44.00", "42.00 ± 2.83"]
    assert cells(found, "mean of last 10") == ["45.00", "47.00", "46.00 ± 1.41"]
    assert cells(found, "best (chosen on the test set)") == ["50.00", "50.00", "50.00 ± 0.00"]
    assert cells(found, "guess: labels that are right") == ["80.00", "90.00", "85.00 ± 7.07"]
    assert cells(found, "my trust, mean on right labels") == ["90.00", "–", "–"]
    assert cells(found, "cat") == ["10.00", "30.00", "20.00 ± 14.14"]
    assert cells(found, "dog") == ["–", "70.00", "–"]
    assert "wrong labels" not in text and "trusted examples" not in text


def test_results_table_tells_counts_and_large_weights_as_they_are():
    rows = [{**summary(0.5, w_right=2.5, w_wrong=0.25, train_accuracy=0.9, noise_detection_auroc=0.75, margin=[1, 2]),
             "trusted_examples": count} for count in (100, 0)]  # fmt: skip
    found = table.results_table(rows)
    assert cells(found, "trusted examples consumed") == ["100", "0", "50 ± 70.7107"]
    assert cells(found, "w, mean on right labels") == ["2.5", "2.5", "2.5 ± 0"]
    assert cells(found, "w, mean on wrong labels") == ["25.00", "25.00", "25.00 ± 0.00"]
    assert cells(found, "AUROC of finding wrong labels, by loss")[:2] == ["75.00", "75.00"]
    assert "train" not in shown(found) and "margin" not in shown(found)
    assert "trusted" not in shown(table.results_table(rows[1:]))


def test_results_table_of_many_seeds_is_a_range():
    rows = [summary(share) for share in (0.5, 0.6, 0.7, 0.8)]
    found = table.results_table(rows)
    assert [str(column.header) for column in found.columns] == ["", "lowest", "highest", "mean ± std"]
    assert [next(iter(column.cells)) for column in found.columns[1:]] == ["50.00", "80.00", "65.00 ± 12.91"]


def test_results_table_of_one_seed_and_many_classes():
    accuracies = np.random.default_rng(0).permutation(100) / 100
    found = table.results_table([summary(0.6, per_class_accuracy=accuracies.tolist())])
    text = shown(found)
    assert "±" not in text and cells(found, "last epoch") == ["60.00"]
    classes = [int(c) for c in re.findall(r"class (\d+)", text)]
    assert accuracies[classes].tolist() == [0, 0.01, 0.02, 0.03, 0.04, 0.95, 0.96, 0.97, 0.98, 0.99]


def test_results_table_refuses_a_mismatch():
    with pytest.raises(ValueError):
        table.results_table([summary(0.5)], seeds=[0, 1])
    with pytest.raises(ValueError, match="at least one seed"):
        table.results_table([])


def test_environment_is_json_and_names_no_host():
    found = environment.environment()
    assert strict(json.dumps(found)) == found
    assert (found["backend"], found["device_count"]) == ("cpu", 4)
    assert found["jax"] and found["python"].startswith("3.") and found["flax"]
    assert os.uname().nodename not in ("", *found.values())


def make_repository(folder, tracked):
    def git(*command):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *identity, *command], cwd=folder, check=True, capture_output=True, text=True)

    folder.mkdir()
    (folder / "module.py").write_text("x = 1\n")
    (folder / "other.py").write_text("y = 1\n")
    git("init", "-q")
    git("add", "other.py", *(["module.py"] if tracked else []))
    git("commit", "-q", "-m", "first")
    return git("rev-parse", "HEAD").stdout.strip()


def test_commit_of_a_checkout(tmp_path, monkeypatch):
    commit = make_repository(tmp_path / "checkout", tracked=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "checkout" / "module.py"))
    assert (environment.environment()["git_commit"], environment.environment()["git_dirty"]) == (commit, False)
    (tmp_path / "checkout" / "other.py").write_text("y = 2\n")
    assert environment.environment()["git_dirty"] is True


def test_no_commit_when_installed_inside_another_repository(tmp_path, monkeypatch):
    make_repository(tmp_path / "foreign", tracked=False)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "foreign" / "module.py"))
    assert (environment.environment()["git_commit"], environment.environment()["git_dirty"]) == (None, None)
