"""The notebooks are made of their sources, start alike, and show progress in one display."""

import contextlib
import re
import sys
import types

import pytest

from experiments.notebooks import cells, make
from experiments.runs import progress

NAMES = make.names()


def test_there_are_notebooks_and_each_installs_alike():
    assert len(NAMES) == 5 and "cells" not in NAMES
    texts = [(make.FOLDER / f"{name}.py").read_text(encoding="utf-8") for name in NAMES]
    starts = {
        re.search(r'ROBUSTJAX = "".*?print\("small" if SMALL else "full size"\)', text, re.S)[0] for text in texts
    }
    assert len(starts) == 1, "the first cells differ"
    assert all("not been run on a TPU" in text for name, text in zip(NAMES, texts, strict=True) if "tpu" in name)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_cells_of_its_source(name):
    pytest.importorskip("jupytext", reason="pip install '.[notebook]'")
    make.check(name)
    assert (make.FOLDER / f"{name}.ipynb").stat().st_size < 400_000


def test_a_notebook_out_of_date_is_told(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jupytext", reason="pip install '.[notebook]'")
    import nbformat

    (tmp_path / "toy.py").write_text("# %% [markdown]\n# Title\n\n# %%\n1 + 1\n", encoding="utf-8")
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    assert make.main(["--check"]) == 1 and "toy.ipynb is missing" in capsys.readouterr().err
    notebook = make.read_source("toy")
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code"]
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    assert make.main(["--check"]) == 1 and "not executed" in capsys.readouterr().err
    notebook.cells[1].execution_count = 1
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    assert make.main(["--check"]) == 0
    (tmp_path / "toy.py").write_text("# %% [markdown]\n# Another\n\n# %%\n1 + 1\n", encoding="utf-8")
    assert make.main(["--check"]) == 1 and "other cells" in capsys.readouterr().err
    assert make.main(["--text"]) == 0 and make.main(["--check"]) == 0
    assert nbformat.read(tmp_path / "toy.ipynb", 4).cells[1].execution_count == 1
    (tmp_path / "toy.py").write_text("# %% [markdown]\n# Title\n\n# %%\n1 + 2\n", encoding="utf-8")
    assert make.main(["--check"]) == 1 and make.main(["--text"]) == 1
    assert "must be executed" in capsys.readouterr().err
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stderr", text="a warning")]
    with pytest.raises(make.NotebookError, match="stderr: a warning"):
        make.check_outputs(notebook, tmp_path)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"{tmp_path}/runs")]
    with pytest.raises(make.NotebookError, match="names"):
        make.check_outputs(notebook, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name):
    for package in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason="pip install '.[notebook]'")
    assert make.main([name, "--check", "--execute"]) == 0


def test_the_size_is_what_the_variable_says(monkeypatch):
    monkeypatch.setenv(cells.SMALL, "0")
    assert not cells.is_small()
    monkeypatch.setenv(cells.SMALL, "1")
    assert cells.is_small() and cells.device().startswith("CPU: ")
    monkeypatch.setenv(cells.SMALL, "yes")
    with pytest.raises(ValueError, match="'yes': 1 \\(small\\) or 0"):
        cells.is_small()


def test_progress_in_a_notebook_is_one_display_that_changes(monkeypatch, capsys):
    """Without ipywidgets, which rich's own display wants."""
    shown = []

    def display(bundle, *, raw, display_id):
        assert raw and display_id
        return types.SimpleNamespace(update=lambda bundle, raw: shown.append(bundle["text/plain"]))

    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=sys.modules["IPython.display"]))
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(progress.progress(4, 2, mode="notebook"))
        run.phase("compiling step")
        run.phase("")
        for _ in range(4):
            run.step(2)
            run.epoch(run.finished + 1, loss=0.5, test_accuracy=0.25)
    assert capsys.readouterr().out == ""
    assert "compiling step…" in shown[0] and shown[0].startswith("epoch 1/4 ▕ ")
    assert len(shown) <= 1 + 4 + 4 and shown[-1].startswith(f"epoch 4/4 ▕{'█' * 30}▏")
    assert "loss 0.5000   test accuracy 25.00 %" in shown[-1] and "compiling" not in shown[-1]
