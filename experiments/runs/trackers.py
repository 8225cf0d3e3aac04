"""Epochs and pictures for TensorBoard, Weights & Biases or MLflow, besides the run directory, which has everything.

Each tracker is its own package, an extra of this one, and one entry of `OPEN`: a function (run directory, settings, the
id that an earlier part of the run was given, or None) -> `Sink`. What it writes on this machine lies in `log/` of the
run directory: `log/ids.json` has the ids by which a resumed run goes on with the same one, and how far it was told.
"""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
import re
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.runs import records

PROJECT = "robustjax"  # of W&B and MLflow, where the environment names none
# What has to be importable. MLflow keeps what is not sent to a server in SQLite, through SQLAlchemy.
_NEEDED = {"tensorboard": ("tensorboardX",), "wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


class Sink(NamedTuple):
    """What a package does for us.

    Attributes:
      id: by which it knows the run.
      log: (seed, epoch, numbers by name) -> None.
      show: a picture's file -> None.
      close: whether the run has come to its end -> None.
    """

    id: str
    log: Callable[[int, int, Mapping[str, float]], None]
    show: Callable[[pathlib.Path], None]
    close: Callable[[bool], None]


_NOTHING = Sink("", lambda seed, epoch, found: None, lambda picture: None, lambda ended: None)


class Tracker(NamedTuple):
    """What a run calls.

    Attributes:
      log_epoch: the record of a seed and an epoch, as in metrics.jsonl -> None.
      log_figures: files of pictures -> None.
    """

    log_epoch: Callable[[Mapping[str, Any]], None]
    log_figures: Callable[[Sequence[pathlib.Path]], None]


def check(name: str) -> None:
    """Refuse a tracker whose packages are not there.

    Args:
      name: "none", or a key of `OPEN`.

    Raises:
      ValueError: naming them, and the command that installs them.
    """
    needed = _NEEDED.get(name, ())
    if name == "mlflow" and os.environ.get("MLFLOW_TRACKING_URI"):
        needed = needed[:1]
    if missing := [each for each in needed if importlib.util.find_spec(each) is None]:
        raise ValueError(f"log={name!r} needs the package {' and '.join(missing)}: pip install 'robustjax[{name}]'")


def numbers(record: Mapping[str, Any], class_names: Sequence[str] = ()) -> dict[str, float]:
    """The finite numbers of a record by name; those of a list as NAME/CLASS, or NAME/0, … if it is not one a class.

    Examples:
      >>> numbers({"epoch": 1, "seed": 0, "loss": 0.5, "rate": None, "margin": [1, 2], "table": [[3]]}, ["cat", "dog"])
      {'loss': 0.5, 'margin/cat': 1.0, 'margin/dog': 2.0}
    """
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, list):
            keys = class_names if len(class_names) == len(value) else range(len(value))
            found |= {f"{name}/{key}": each for key, each in zip(keys, value, strict=True)}
        elif name not in ("epoch", "seed"):
            found[name] = value
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}


@contextlib.contextmanager
def open_tracker(
    name: str, path: pathlib.Path, config: Mapping[str, Any], class_names: Sequence[str] = ()
) -> Iterator[Tracker]:
    """A run's tracker, for as long as the run lasts; a resumed run goes on with the one that it had.

    Each epoch is told once, also where a resumed run computes it again; a tracker that does not know the run yet is
    first told the epochs that are in metrics.jsonl. One that fails, since there is no network, say, is told of in one
    sentence on stderr and no longer used: it stops no run.

    Args:
      name: "none", or a key of `OPEN` (`check`).
      path: the run directory.
      config: the run's settings, which are kept with it.
      class_names: [C].
    """
    failed: list[str] = []

    def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
        if failed:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what the package deprecates, and the like
                return call(*arguments)
        except Exception as error:  # whatever it is, training goes on
            failed.append(name)
            first = str(error).strip().partition("\n")[0]
            print(
                f"warning: {name} takes no more of this run, which goes on without it (metrics.jsonl has everything): "
                f"{type(error).__name__}: {first}",
                file=sys.stderr,
            )
            return None

    if name == "none":
        yield Tracker(lambda record: None, lambda pictures: None)
        return
    file = path / "log" / "ids.json"
    told: dict[str, int] = {}  # the last epoch by seed

    def keep(known: Mapping[str, Any], sink: Sink) -> None:
        file.parent.mkdir(exist_ok=True)
        records.write_json_atomic(file, {**known, name: {"id": sink.id, "epochs": told}})

    def begin() -> tuple[Mapping[str, Any], Sink]:
        known = json.loads(file.read_bytes()) if file.exists() else {}
        own = known.get(name, {"id": None, "epochs": {}})
        told.update(own["epochs"])
        sink = OPEN[name](path, config, own["id"])
        keep(known, sink)
        return known, sink

    known, sink = attempt(begin) or ({}, _NOTHING)

    def log_epoch(record: Mapping[str, Any]) -> None:
        seed, epoch = str(record["seed"]), record["epoch"]
        last = told.get(seed, 0)
        missed: Sequence[Mapping[str, Any]] = ()
        if last < epoch - 1:
            before = records.read_records(path / "metrics.jsonl")
            missed = [r for r in before if r["seed"] == record["seed"] and last < r["epoch"] < epoch]
        for each in (*missed, record):
            if each["epoch"] > last:
                attempt(sink.log, each["seed"], each["epoch"], numbers(each, class_names))
        told[seed] = max(last, epoch)
        attempt(keep, known, sink)

    def log_figures(pictures: Sequence[pathlib.Path]) -> None:
        for picture in pictures:
            attempt(sink.show, picture)

    ended = False
    try:
        yield Tracker(log_epoch, log_figures)
        ended = True
    finally:
        attempt(sink.close, ended)


def _open_tensorboard(path: pathlib.Path, config: Mapping[str, Any], known: str | None) -> Sink:
    """A folder a seed, so that TensorBoard draws seeds over each other, and one of pictures."""
    import tensorboardX
    from PIL import Image

    folder, open_ones = path / "log" / "tensorboard", {}

    def writer(part: str, epoch: int) -> Any:
        if part not in open_ones:  # of a run that was cut later than it now goes on, later epochs do not count
            # The files of two parts of a run would else have one name where they begin within a second.
            own = tensorboardX.SummaryWriter(str(folder / part), purge_step=epoch, filename_suffix=f".{epoch}")
            open_ones[part] = own
        return open_ones[part]

    def log(seed: int, epoch: int, found: Mapping[str, float]) -> None:
        own = writer(f"seed{seed}", epoch)
        for name, value in found.items():
            own.add_scalar(name, value, epoch)
        own.flush()

    def show(picture: pathlib.Path) -> None:
        import numpy as np

        with Image.open(picture) as image:
            writer("pictures", 0).add_image(picture.stem, np.asarray(image.convert("RGB")), 0, dataformats="HWC")

    def close(ended: bool) -> None:
        for own in open_ones.values():
            own.close()

    if known is None:
        writer("pictures", 0).add_text("settings", f"```json\n{json.dumps(config, indent=2)}\n```", 0)
    return Sink(folder.name, log, show, close)


def _open_wandb(path: pathlib.Path, config: Mapping[str, Any], known: str | None) -> Sink:
    """A run of W&B, as its environment variables say (WANDB_MODE=offline, WANDB_PROJECT, …); `epoch` is its x axis."""
    import wandb

    folder = path / "log"
    folder.mkdir(exist_ok=True)
    limited: dict[str, Any] = {"finish_timeout": 60}  # seconds; not every version knows it
    limited = limited if "finish_timeout" in wandb.Settings.model_fields else {}
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT), name=path.name, dir=folder, id=known or secrets.token_hex(6),
        resume="allow" if known else None, config=dict(config),
        # Its own capture of the screen would be at odds with the progress display.
        settings=wandb.Settings(console="off", **limited),
    )  # fmt: skip
    run.define_metric("epoch", hidden=True)
    run.define_metric("*", step_metric="epoch")
    prefix = _prefix(config)
    return Sink(
        run.id,
        lambda seed, epoch, found: run.log({"epoch": epoch, **{prefix(seed) + k: v for k, v in found.items()}}),
        lambda picture: run.log({f"plots/{picture.stem}": wandb.Image(str(picture))}),
        lambda ended: run.finish(exit_code=0 if ended else 1),
    )


def _open_mlflow(path: pathlib.Path, config: Mapping[str, Any], known: str | None) -> Sink:
    """A run of MLflow, at MLFLOW_TRACKING_URI if that is set, else in log/mlflow.db and log/mlflow."""
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    folder = (path / "log").absolute()
    folder.mkdir(exist_ok=True)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    # By itself it would wait four minutes for a server that has gone, and training with it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    client = MlflowClient(server or f"sqlite:///{folder / 'mlflow.db'}")
    if known is None:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(title)
        where = None if server else (folder / "mlflow").as_uri()
        experiment = client.create_experiment(title, where) if found is None else found.experiment_id
        known = client.create_run(experiment, run_name=path.name).info.run_id
        named = [Param(key, str(value)[:500]) for key, value in _flat(config).items()]
        for first in range(0, len(named), 100):  # as many as it takes at once
            client.log_batch(known, params=named[first : first + 100])
    else:
        client.update_run(known, status="RUNNING")
    prefix, of_run = _prefix(config), known

    def log(seed: int, epoch: int, found: Mapping[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        named = [Metric(_plain(prefix(seed) + key), value, now, epoch) for key, value in found.items()]
        for first in range(0, len(named), 1000):
            client.log_batch(of_run, metrics=named[first : first + 1000])

    return Sink(
        of_run,
        log,
        lambda picture: client.log_artifact(of_run, str(picture), "plots"),
        lambda ended: client.set_terminated(of_run, "FINISHED" if ended else "KILLED"),
    )


def _prefix(config: Mapping[str, Any]) -> Callable[[int], str]:
    """What the names of a seed's numbers begin with: nothing where there is one seed, so that runs compare."""
    return (lambda seed: f"seed{seed}/") if config.get("seeds", 1) > 1 else (lambda seed: "")


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in config.items() if k != "options"}, **config.get("options", {})}


def _plain(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:250]


OPEN: dict[str, Callable[[pathlib.Path, Mapping[str, Any], str | None], Sink]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
}
