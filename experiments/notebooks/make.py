"""Make the notebooks of their sources: `python -m experiments.notebooks.make [NAME …]`.

NAME.py, cells as text (jupytext's percent format), is what is edited and reviewed; NAME.ipynb beside it is made of it,
executed from top to bottom on a CPU at the small setting. Nothing is written unless every cell went through.

--check      only compare: does every .ipynb have its source's cells?
--execute    with --check: execute them too, and throw the outputs away
--text       where only text cells have changed: bring them into the .ipynb, without executing it
"""

import argparse
import concurrent.futures
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
_NOT_SOURCES = ("__init__", "cells", "make")
_MOST_BYTES = 400_000
_TIMEOUT = 900  # seconds for a cell
# What Colab opens them with; the others ask for nothing.
_COLAB = {"dynamic_loss_tpu": {"accelerator": "TPU", "colab": {"gpuType": "V5E1"}}}


class NotebookError(Exception):
    """A notebook that is out of date, fails, or must not be kept as it is."""


def names() -> list[str]:
    """The notebooks that there are."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in _NOT_SOURCES)


def read_source(name: str) -> Any:
    """The notebook that `name`.py is the text of, without outputs."""
    import jupytext

    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{name.replace('_', '-')[:50]}-{number}", {}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        **_COLAB.get(name, {}),
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def check(name: str) -> None:
    """Compare `name`.ipynb with its source.

    Raises:
      NotebookError: it is not there, or has other cells, or cells without what they gave.
    """
    import nbformat

    file = FOLDER / f"{name}.ipynb"
    remedy = f"`python -m experiments.notebooks.make {name}` makes it"
    if not file.exists():
        raise NotebookError(f"{name}.ipynb is missing; {remedy}.")
    made, source = nbformat.read(file, 4), read_source(name)
    if [(c.cell_type, c.source) for c in made.cells] != [(c.cell_type, c.source) for c in source.cells]:
        raise NotebookError(f"{name}.ipynb has other cells than {name}.py; {remedy} anew.")
    if any(cell.cell_type == "code" and cell.execution_count is None for cell in made.cells):
        raise NotebookError(f"{name}.ipynb has cells that were not executed; {remedy} anew.")


def execute(notebook: Any, folder: pathlib.Path) -> Any:
    """Execute a notebook in a kernel of its own, whose folder is `folder`, on a CPU at the small setting.

    Raises:
      NotebookError: a cell has failed.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    said = {"ROBUSTJAX_SMALL": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1"}
    # It is talked to by files, not by ports, which others could reach.
    with tempfile.TemporaryDirectory(prefix="kernel-") as place:
        client = NotebookClient(
            notebook, timeout=_TIMEOUT, startup_timeout=_TIMEOUT, kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{place}/socket"}}),
        )  # fmt: skip
        try:
            return client.execute(env={**os.environ, **said})
        except CellExecutionError as error:
            raise NotebookError(f"a cell failed:\n{error}") from error


def tidy(notebook: Any) -> Any:
    """A notebook without what differs from one time to the next and tells nothing: when its cells ran."""
    for cell in notebook.cells:
        cell.metadata = {}
    return notebook


def check_outputs(notebook: Any, folder: pathlib.Path) -> str:
    """The text of the executed notebook's file.

    Raises:
      NotebookError: it names a folder of this machine, tells of a warning, or is too large.
    """
    import nbformat

    text = nbformat.writes(notebook)
    for place in {str(ROOT), str(folder), os.path.expanduser("~"), sys.prefix, tempfile.gettempdir()} - {"/"}:
        for line in text.splitlines():
            if f"{place}/" in line:
                raise NotebookError(f"its output names {place}: {line.strip()[:200]}")
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            told = output.get("text", "") if output.get("name") == "stderr" else ""
            if any(line and not line.startswith("robustjax: ") for line in told.splitlines()):
                raise NotebookError(f"cell {number} writes to stderr: {told[:500]}")
    if len(text) > _MOST_BYTES:
        raise NotebookError(
            f"its file has {len(text):,} bytes; {_MOST_BYTES:,} are accepted: fewer or smaller figures."
        )
    return text + "\n" * (not text.endswith("\n"))


def make(name: str, write: bool = True) -> str:
    """Execute the notebook `name`, write it unless told not to, and tell what it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="notebook-") as place:
        text = check_outputs(tidy(execute(read_source(name), pathlib.Path(place))), pathlib.Path(place))
    if write:
        (FOLDER / f"{name}.ipynb").write_text(text, encoding="utf-8")
    return f"{name}: executed in {time.monotonic() - began:.0f} s, {len(text) / 1000:.0f} kB"


def update_text(name: str) -> str:
    """Bring the source's text cells into `name`.ipynb, whose outputs stay; what was done.

    Raises:
      NotebookError: its code cells are not the source's, so that it must be executed.
    """
    import nbformat

    file = FOLDER / f"{name}.ipynb"
    if not file.exists():
        raise NotebookError("there is no .ipynb yet")
    made, source = nbformat.read(file, 4), read_source(name)
    if [c.source for c in made.cells if c.cell_type == "code"] != [
        c.source for c in source.cells if c.cell_type == "code"
    ]:
        raise NotebookError("code cells have changed: it must be executed")
    executed = iter([cell for cell in made.cells if cell.cell_type == "code"])
    for cell in source.cells:
        if cell.cell_type == "code":
            before = next(executed)
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
    file.write_text(nbformat.writes(source) + "\n", encoding="utf-8")
    return f"{name}: text cells as in its source"


def _do(name: str, only_check: bool, run: bool, only_text: bool) -> tuple[bool, str]:
    """Whether a notebook is as it should be, and what is to be said of it."""
    try:
        if only_text:
            return True, update_text(name)
        if only_check:
            check(name)
        return True, make(name, write=not only_check) if run else f"{name}: as its source"
    except NotebookError as error:
        return False, f"error: {name}: {error}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 1 for a notebook that is out of date or fails."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.notebooks.make", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all: {', '.join(names())}")
    parser.add_argument("--check", action="store_true", help="compare with the sources; write nothing")
    parser.add_argument("--execute", action="store_true", help="with --check: execute them too")
    parser.add_argument("--text", action="store_true", help="bring changed text cells into the .ipynb")
    parser.add_argument("--jobs", type=int, default=2, metavar="K", help="so many at once, default 2")
    given = parser.parse_args(argv)
    if given.jobs < 1:
        parser.error(f"argument --jobs: {given.jobs} is not at least 1")
    if given.text and (given.check or given.execute):
        parser.error("argument --text: not with --check or --execute")
    if unknown := [name for name in given.names if name not in names()]:
        parser.error(f"there is no notebook {unknown[0]!r}; there are {', '.join(names())}")
    began, failed = time.monotonic(), False
    execute_too = given.execute or not (given.check or given.text)
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:  # the work is done by the kernels
        todo = [pool.submit(_do, name, given.check, execute_too, given.text) for name in given.names or names()]
        for done in concurrent.futures.as_completed(todo):
            good, told = done.result()
            failed |= not good
            print(told, file=sys.stdout if good else sys.stderr, flush=True)
    if execute_too:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{time.monotonic() - began:.0f} s in all, {used.ru_utime + used.ru_stime:.0f} s of CPU")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
