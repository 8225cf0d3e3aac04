"""Measured beside published: the arithmetic, what is never compared, and the text between a file's markers."""

import pytest

from experiments import report, reproduce, tables
from experiments.runs import records
from experiments.settings import config
from experiments.tables import Cell, commands
from experiments.tables.commands import Rule


def make_cell(method="cross_entropy", **changes):
    cell = Cell(
        paper="toy", table="1", dataset="digits", tested_on="", noise="symmetric", noise_rate=0.4, imbalance="none",
        imbalance_ratio=None, model="mlp", method=method, method_printed=method, metric="test_accuracy", mean=90.0,
        std=0.5, note="", id="",
    )  # fmt: skip
    return cell._replace(**changes)


CELLS = tables.with_ids(
    [
        make_cell(),
        make_cell("balanced_softmax", std=None, note="by hand; uncertain: smudged"),
        make_cell("nobody_has_this"),
        make_cell(table="2", noise_rate=0.2, mean=95.0),
        make_cell(table="2", noise_rate=0.4),
        make_cell(table="2", noise_rate="mean", mean=92.5, note="mean over symmetric {0.2,0.4}"),
    ]
)
ENVIRONMENT = {"git_commit": "abcdef0123456789", "git_dirty": True, "jax": "0.10.2", "device_kind": "H200"}


@pytest.fixture(autouse=True)
def toy_protocol(monkeypatch):
    rule = Rule({"paper": "toy"}, {"epochs": 50, "batch_size": 64}, "made up", "the augmentation is not recorded")
    monkeypatch.setattr(commands, "RULES", (rule,))


def make_row(cell, accuracies, first_seed=0, **overrides):
    settings = config.identity(config.resolve({**commands.plan(cell).settings, **overrides})[0])
    keys = [each.key for each in CELLS if not each.is_average and commands.plan(each) == commands.plan(cell)]
    seeds = [
        {"seed": first_seed + k, "test_accuracy_last": value, "test_accuracy_best": 1.0, "final": {}}
        for k, value in enumerate(accuracies)
    ]
    return {
        "cells": keys, "run_hash": reproduce.run_hash(settings), "settings": settings, "seeds": seeds,
        "environment": ENVIRONMENT, "seconds": 1800.0,
    }  # fmt: skip


def table_rows(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| digits")]


def test_a_full_scale_row_is_compared():
    row = make_row(CELLS[0], [0.90, 0.91, 0.92])
    text = report.report(CELLS, [row], "toy/1")
    assert "### toy/1" in text
    (line,) = table_rows(text)
    assert line == ["digits/sym0.4/cross_entropy", "90.00 ± 0.50", "91.00 ± 1.00", "3", "+1.00", "+2.0", "[1] [2]"]
    assert "[1] test accuracy, last epoch" in text and "[2] the augmentation is not recorded" in text
    assert "1 run(s), 30 min 00 s: H200, jax 0.10.2, abcdef012345 with changes." in text


def test_trusted_examples_are_noted():
    row = make_row(CELLS[0], [0.90]) | {"trusted_examples": 20}
    text = report.report(CELLS, [row], "toy/1")
    assert "[3] uses 20 trusted examples" in text and table_rows(text)[0][-1] == "[1] [2] [3]"
    apart = make_row(CELLS[0], [0.90], epochs=10) | {"trusted_examples": 20}
    (line,) = table_rows(report.report(CELLS, [apart], "toy/1"))
    assert line[1] == "smaller scale: 10 of 50 epochs; uses 20 trusted examples"


def test_without_a_published_std_and_with_a_doubt():
    text = report.report(CELLS, [make_row(CELLS[1], [0.88])], "toy/1")
    (line,) = table_rows(text)
    assert line[1:6] == ["90.00", "88.00", "1", "-2.00", "–"]
    assert "[3] uncertain: smudged" in text and "by hand" not in text


def test_a_smaller_run_is_marked_and_never_compared():
    small = make_row(CELLS[0], [0.80, 0.82], epochs=10, batch_size=32)
    text = report.report(CELLS, [small], "toy/1")
    assert "**Other settings than the paper's: not comparable with its numbers.**" in text
    (line,) = table_rows(text)
    assert line == [
        "digits/sym0.4/cross_entropy", "smaller scale: 10 of 50 epochs; batch_size 32 (64)", "81.00 ± 1.41", "2"
    ]  # fmt: skip
    assert "90.00" not in text and "difference" not in text and "-9" not in text

    both = report.report(CELLS, [small, make_row(CELLS[0], [0.90])], "toy/1")
    assert [line[-3] for line in table_rows(both)] == ["+0.00", "smaller scale: 10 of 50 epochs; batch_size 32 (64)"]


def test_the_scale_is_judged_by_the_recipe_as_it_is_now(monkeypatch):
    """A row that claims the paper's scale loses it when the paper's settings turn out to be others."""
    row = {**make_row(CELLS[0], [0.90]), "scale": "paper"}
    assert table_rows(report.report(CELLS, [row], "toy/1"))[0][4] == "+0.00"
    monkeypatch.setattr(commands, "RULES", (commands.RULES[0]._replace(settings={"epochs": 100, "batch_size": 64}),))
    text = report.report(CELLS, [row], "toy/1")
    assert "smaller scale: 50 of 100 epochs" in text and "90.00 |" in text and "difference" not in text


def test_seeds_of_several_rows_are_put_together():
    rows = [make_row(CELLS[0], [0.1, 0.90]), make_row(CELLS[0], [0.91, 0.92], first_seed=2), make_row(CELLS[0], [0.89])]
    (line,) = table_rows(report.report(CELLS, rows, "toy/1"))
    assert line[2:4] == ["90.50 ± 1.29", "4"]  # seed 0 was run twice: the later counts


def test_a_number_that_a_run_did_not_measure_is_left_out():
    row = make_row(CELLS[0], [0.9])
    train = CELLS[0]._replace(metric="top1_accuracy_train", noise="none", noise_rate=None)
    row["cells"] = [train.key]
    assert report.measurements(train, [row]) == []
    row["seeds"][0]["final"]["clean_true"] = 0.8
    assert report.measurements(train, [row])[0].values == (80.0,)


def test_an_average_needs_all_its_members():
    low, high = (make_row(cell, values) for cell, values in ((CELLS[3], [0.96, 0.98]), (CELLS[4], [0.90, 0.94, 0.1])))
    assert not any("mean" in line[0] for line in table_rows(report.report(CELLS, [low], "toy/2")))
    text = report.report(CELLS, [low, high], "toy/2")
    average = next(line for line in table_rows(text) if "mean" in line[0])
    assert average[:5] == ["digits/sym-mean/cross_entropy", "92.50 ± 0.50", "94.50 ± 2.12", "2", "+2.00"]
    small = make_row(CELLS[4], [0.5, 0.5], epochs=1)
    assert not any("mean" in line[0] for line in table_rows(report.report(CELLS, [low, small], "toy/2")))


def test_all_lists_what_is_not_measured_and_why():
    text = report.report(CELLS, [], "toy/1", show_all=True)
    why = {line[0]: line[-1] for line in table_rows(text)}
    assert why["digits/sym0.4/cross_entropy"] == "not run yet"
    assert why["digits/sym0.4/nobody_has_this"] == "method nobody_has_this is not registered"
    assert report.report(CELLS, [], "toy/1") == "Nothing measured yet.\n"


README = """# Title
<!-- results:toy/1 -->
old text
<!-- /results -->
between
<!-- results:toy/2 --><!-- /results -->
end
"""


def test_update_replaces_what_is_between_the_markers():
    rows = [make_row(CELLS[0], [0.90])]
    text = report.update(README, CELLS, rows)
    assert text.startswith("# Title\n<!-- results:toy/1 -->\n### toy/1") and text.endswith("<!-- /results -->\nend\n")
    assert "old text" not in text and "\nbetween\n<!-- results:toy/2 -->\n### toy/2" in text
    assert report.update(text, CELLS, rows) == text


@pytest.mark.parametrize(
    "text",
    [
        "no marker",
        "<!-- results:toy/1 -->",
        "<!-- /results -->",
        "<!-- results:toy/1 --> <!-- results:toy/2 --> <!-- /results -->",
    ],
)
def test_update_refuses_broken_markers(text):
    with pytest.raises(ValueError, match="each needs the other"):
        report.update(text, CELLS, [])


def test_update_names_the_nearest_table():
    with pytest.raises(ValueError, match="table='toy/11' matches none: did you mean toy/1"):
        report.update("<!-- results:toy/11 --><!-- /results -->", CELLS, [])


def test_command_line(tmp_path, capsys):
    results, readme, out = tmp_path / "results", tmp_path / "README.md", tmp_path / "out.md"
    results.mkdir()
    records.append_record(results / "toy.jsonl", make_row(CELLS[0], [0.90]))
    readme.write_text(README)
    assert report.main([f"--results={results}", "--table=toy/1"], CELLS) == 0
    printed = capsys.readouterr().out
    assert report.main([f"--results={results}", "--table=toy/1", f"--out={out}"], CELLS) == 0
    assert out.read_text() == printed and "+0.00" in printed
    assert report.main([f"--results={results}", f"--update={readme}"], CELLS) == 0
    assert printed.strip() in readme.read_text()
    assert report.main([f"--results={results}", "--table=tyo"], CELLS) == 2
    assert "table='tyo' matches none: did you mean toy/" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "out.md", "results"]


def test_the_papers_tables_can_all_be_reported(monkeypatch):
    monkeypatch.undo()
    text = report.report(tables.load(), [], show_all=True)
    assert sum(line.startswith("| ") and "---" not in line for line in text.splitlines()) == 1794 + len(
        tables.table_names(tables.load())
    )
