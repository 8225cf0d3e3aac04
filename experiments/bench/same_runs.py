"""Whether runs are what they were: `python -m experiments.bench.same_runs --against=COMMIT [METHOD ...]`.

Each method is trained on digits by the present working tree and by that of a commit, in processes of their own on the
CPU, and what is recorded is compared byte for byte. One line a method: "same", or the first epoch that differs and in
which metrics.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

# The main command as it is, and one method of each kind, short.
METHODS = ("dynamic_loss", "cross_entropy", "ce_sr", "elr", "elr_plus", "har", "nlnl")
WHOLE = "dynamic_loss"


def difference(before: bytes, now: bytes) -> str:
    """How two runs' metrics.jsonl differ: "same", or the first difference in words.

    Examples:
      >>> difference(b'{"epoch": 1, "seed": 0, "a": 1}\\n', b'{"epoch": 1, "seed": 0, "a": 2, "b": 3}\\n')
      'epoch 1, seed 0: a (the first was 1 and is 2); b: new'
    """
    if before == now:
        return "same"
    pairs = list(zip(before.splitlines(), now.splitlines(), strict=False))
    for old, new in pairs:
        if old != new:
            return _of_records(json.loads(old), json.loads(new))
    counts = (len(text.splitlines()) for text in (before, now))
    return "{} records were and {} are".format(*counts)


def _of_records(old: dict[str, object], new: dict[str, object]) -> str:
    changed = [name for name in new if name in old and old[name] != new[name]]
    parts = [f"{', '.join(changed)} (the first was {old[changed[0]]} and is {new[changed[0]]})"] if changed else []
    for names, what in ((old.keys() - new.keys(), "gone"), (new.keys() - old.keys(), "new")):
        parts += [f"{', '.join(sorted(names))}: {what}"] if names else []
    where = f"epoch {old.get('epoch')}, seed {old.get('seed')}"
    return f"{where}: {'; '.join(parts) or 'the same numbers in another order or form'}"


def run(tree: pathlib.Path, out: pathlib.Path, method: str, epochs: int) -> bytes:
    """The metrics.jsonl of a run on digits by the code in `tree`.

    Raises:
      RuntimeError: if it fails, with the end of what it said.
    """
    length = [] if method == WHOLE else [f"--epochs={epochs}"]
    command = [sys.executable, "-m", "experiments.run", f"--method={method}", *length, f"--out={out}", "--quiet"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{method} in {tree} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return (out / "metrics.jsonl").read_bytes()


@contextlib.contextmanager
def tree_of(commit: str, here: pathlib.Path) -> Iterator[pathlib.Path]:
    """A worktree of `commit` of the repository at `here`, in a temporary folder that goes again.

    Raises:
      ValueError: if there is no such commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder) / "tree"
        made = _git(here, "worktree", "add", "--detach", str(tree), commit)
        if made.returncode:
            raise ValueError(f"against={commit!r}: {made.stderr.strip()}")
        try:
            yield tree
        finally:
            _git(here, "worktree", "remove", "--force", str(tree))


def _git(here: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 if anything differs or fails, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.same_runs", description=__doc__.split("\n")[0])
    parser.add_argument("--against", required=True, metavar="COMMIT", help="what is compared with")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help=f"of all but {WHOLE} (default: 10)")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"default: {', '.join(METHODS)}")
    options = parser.parse_args(argv)
    here = pathlib.Path(__file__).resolve().parents[2]
    differs = False
    try:
        with tree_of(options.against, here) as tree:
            for method in options.methods or METHODS:
                try:
                    before, now = (
                        run(each, tree.parent / name / method, method, options.epochs)
                        for each, name in ((tree, "before"), (here, "now"))
                    )
                    found = difference(before, now)
                except RuntimeError as error:
                    found = str(error)
                differs |= found != "same"
                print(f"{method}: {found}", flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
