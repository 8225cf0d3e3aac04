"""What follows an audit, as commands: the same in README, in the report and on the terminal."""

import itertools
import pathlib
import shlex

from experiments.runs import corrected

ACCEPT_ABOVE = 0.9


def commands(run_dir: pathlib.Path, dataset: str, command: str, *, ranks_only: bool = False) -> tuple[str, str]:
    """The command that writes corrected labels, and the one that trains on them.

    Args:
      run_dir: of the run that was audited.
      dataset: its setting. Of files, in a folder or named by a CSV file, another CSV file is made, else a noise file.
      command: that of the run.
      ranks_only: whether the scores are no probabilities, which nothing is decided by.

    Examples:
      >>> write, train = commands(pathlib.Path("runs/mine"), "folder:a", "robustjax --dataset=folder:a --out=runs/mine")
      >>> write
      'python -m experiments.audit runs/mine --apply=fixed.csv --accept-above=0.9'
      >>> train
      'robustjax --dataset=csv:fixed.csv --out=runs/fixed'
    """
    name = _free(run_dir, "fixed")
    table = dataset.partition(":")[0] in ("folder", "csv")
    out = f"{name}.csv" if table else f"{name}.npz"
    write = shlex.join(["python", "-m", "experiments.audit", str(run_dir)])
    flag = f"--dataset=csv:{out}" if table else f"--noise-file={out}"
    by_score = "" if ranks_only else f" --accept-above={ACCEPT_ABOVE}"
    return f"{write} --apply={out}{by_score}", train_again(run_dir, command, flag, name)


def train_again(run_dir: pathlib.Path, command: str, flag: str, name: str) -> str:
    """The command that trains on corrected labels, beside the run that they are from.

    Args:
      run_dir: of that run.
      command: its own.
      flag: what names the corrected labels.
      name: what the new run directory is called, if nothing is yet.
    """
    place = run_dir.parent / _free(run_dir, name)
    return f"{corrected.next_command(command, flag)} --out={shlex.quote(str(place))}"


def _free(run_dir: pathlib.Path, name: str) -> str:
    """`name`, or with a number behind it, such that there is no run directory of that name beside `run_dir`."""
    tried = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in tried if not (run_dir.parent / each).exists())
