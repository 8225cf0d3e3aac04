"""`report.html`: what a run was, how it went, and which labels are probably wrong, in one file that needs no other."""

import base64
import datetime
import importlib.resources
import io
import itertools
import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from experiments.pictures import of_runs, plots, style
from experiments.runs import audit, directory, history, next_step, records
from robustjax.data import Dataset
from robustjax.training import evaluation

_THUMBNAILS, _PER_CLASS, _SIDE = 480, 12, 96  # in all, of a class, and pixels of the longer side
_GALLERY_BYTES, _PICTURES_BYTES = 1_500_000, 500_000
_ROWS, _PAIRS, _LETTERS, _CONFUSED = 100, 12, 400, 10


def write(path: pathlib.Path, found: audit.Found, dataset: Dataset | None) -> None:
    """Write report.html of the run in `path`.

    Args:
      path: the run directory.
      found: its audit.
      dataset: what was trained on; None leaves out what its examples look like.
    """
    partial = path / "report.html.partial"
    partial.write_text(render(gather(path, found, dataset)), encoding="utf-8")
    os.replace(partial, path / "report.html")


def render(facts: Mapping[str, Any]) -> str:
    """The page; all text in `facts` is escaped, but for what `Markup` says is markup already."""
    source = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "number": _number, "breakable": _breakable}
    return environment.from_string(source).render(facts)


def gather(path: pathlib.Path, found: audit.Found, dataset: Dataset | None) -> dict[str, Any]:
    """What the page tells."""
    description = directory.read_description(path)
    settings = description["settings"]
    metrics = path / "metrics.jsonl"
    lines = records.read_records(metrics) if metrics.exists() else []
    by_seed = [[line for line in lines if line["seed"] == seed] for seed in dict.fromkeys(r["seed"] for r in lines)]
    last = [seed[-1] for seed in by_seed]
    summary = json.loads((path / "summary.json").read_bytes()) if (path / "summary.json").exists() else {}
    names, facts = found.class_names, found.facts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of signs that matplotlib's font lacks: the page's will have them
        figures = {}
        if not facts["ranks_only"]:
            confusion = np.zeros((len(names), len(names)))
            after = audit.relabelled(found.audit, found.evidence.given)
            np.add.at(confusion, (found.evidence.given, after), 1)
            figures["confusion"] = _svg(plots.draw_confusion(confusion, names, "labelled", "proposed"), "confusion")
            figures["counts"] = _svg(
                plots.draw_class_counts(facts["class_counts_given"], facts["class_counts_proposed"], names), "counts"
            )
        if by_seed:
            method = pathlib.Path(settings["method"].rpartition(":")[0]).name or settings["method"]
            figures["curves"] = _svg(
                plots.draw_learning_curves({method: by_seed}, bool(facts["test_held_out"])), "curves"
            )
        if all(record.get("reliability") is not None for record in last) and last:
            figures["reliability"] = _svg(plots.draw_reliability([r["reliability"] for r in last]), "reliability")
    return {
        "title": f"{settings['method']} on {settings['dataset']}",
        "now": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "command": description.get("command") or "",
        "sources": description.get("sources") or [],
        "settings": {name: value for name, value in settings.items() if value not in (None, {}, "")},
        "versions": {name: value for name, value in description.get("environment", {}).items() if value is not None},
        "seeds": [record["seed"] for record in last],
        "epochs": max((record["epoch"] for record in last), default=0),
        "seconds": summary.get("seconds"),
        "accuracy": history.mean_std([r["test_accuracy"] for r in last]) if last else None,
        "calibration": np.mean([r["expected_calibration_error"] for r in last]) if "reliability" in figures else None,
        "held_out": bool(facts["test_held_out"]),
        "facts": facts,
        "interval": audit.interval(found),
        "confused": [pair for pair in facts["most_confused"][:_CONFUSED] if round(pair["estimated_examples"])],
        "total": len(found.ids),
        "num_rows": len(found.rows),
        "rows": [
            {**row._asdict(), "text": audit.excerpt(dataset, int(found.evidence.kept[at]), _LETTERS)}
            for row, at in zip(found.rows[:_ROWS], found.listed[:_ROWS].tolist(), strict=True)
        ],
        "with_text": dataset is not None and dataset.vocabulary is not None,
        "classes": _classes(found, last),
        "groups": _groups(found, last),
        "gallery": list(_gallery(found, dataset)),
        "pixels": _side(dataset) <= 32,
        "with_data": dataset is not None,
        "pairs": _pairs(found, dataset),
        "figures": figures,
        "pictures": list(_pictures(path / "plots", of_runs.read_findings(path, facts["seeds"][0])[0])),
        "commands": next_step.commands(
            path, settings["dataset"], description.get("command") or "", ranks_only=facts["ranks_only"]
        ),
        "accept_above": next_step.ACCEPT_ABOVE,
    }


# --- Numbers ---------------------------------------------------------------------------------------------------------


def _classes(found: audit.Found, last: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    facts, accuracy = found.facts, _per_class(last, len(found.class_names))
    return [
        {
            "name": name,
            "given": int(facts["class_counts_given"][c]),
            "proposed": None if facts["ranks_only"] else int(facts["class_counts_proposed"][c]),
            "wrong": float(facts["estimated_wrong_share_of_given_class"][c]),
            "mislabelled": float(facts["estimated_mislabelled_share_of_true_class"][c]),
            "accuracy": float(accuracy[c]),
        }
        for c, name in enumerate(found.class_names)
    ]


def _per_class(last: Sequence[Mapping[str, Any]], num_classes: int) -> np.ndarray:
    """Test accuracy of each class, mean over the seeds; nan where it is not known."""
    tables = [record["per_class_accuracy"] for record in last if record.get("per_class_accuracy") is not None]
    if not tables:
        return np.full(num_classes, np.nan)
    return np.array([[np.nan if value is None else value for value in each] for each in tables], float).mean(0)


def _groups(found: audit.Found, last: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Head, medium and tail; nothing where there are too few classes, or all are of one size."""
    counts, accuracy = found.facts["class_counts_given"], _per_class(last, len(found.class_names))
    if len(counts) < 3 or counts.max() < 1.5 * max(counts.min(), 1):
        return []
    group = evaluation.head_medium_tail(counts)
    rows = []
    for number, name in enumerate(evaluation.GROUP_NAMES):
        own = group == number
        known = accuracy[own][np.isfinite(accuracy[own])]
        rows.append({
            "name": name, "classes": int(own.sum()), "least": int(counts[own].min()), "most": int(counts[own].max()),
            "accuracy": float(known.mean()) if len(known) else float("nan"),
        })  # fmt: skip
    return rows


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None or not np.isfinite(share) else f"{100 * share:.{digits}f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _breakable(path: str) -> Markup:
    """A path that lines may break behind the slashes of."""
    return Markup("/<wbr>").join(escape(part) for part in path.split("/"))


# --- What examples look like -----------------------------------------------------------------------------------------


def _gallery(found: audit.Found, dataset: Dataset | None) -> Iterator[dict[str, Any]]:
    """The most suspicious images by given class, within what a page may weigh; nothing for what are no images."""
    if not _are_images(dataset):
        return
    assert dataset is not None
    by_class: dict[int, list[int]] = {}
    for place, at in enumerate(found.listed.tolist()):
        by_class.setdefault(int(found.evidence.given[at]), []).append(place)
    each = int(np.clip(_THUMBNAILS // max(len(by_class), 1), 2, _PER_CLASS))
    order = sorted(by_class)
    items: dict[int, list[dict[str, Any]]] = {c: [] for c in order}
    left = _GALLERY_BYTES
    for rank, c in itertools.product(range(each), order):  # each class's first image before any second one
        if rank < len(by_class[c]) and left > 0:
            place = by_class[c][rank]
            source = thumbnail(dataset.train_inputs[found.evidence.kept[found.listed[place]]])
            left -= len(source)
            items[c].append({**found.rows[place]._asdict(), "src": source})
    for c in order:
        if items[c]:
            yield {"name": found.class_names[c], "count": len(by_class[c]), "items": items[c]}


def _pairs(found: audit.Found, dataset: Dataset | None) -> list[dict[str, Any]]:
    """The first duplicates with different labels."""
    if found.pairs is None:
        return []
    shown = []
    for first, second, exact in zip(*(column[:_PAIRS].tolist() for column in found.pairs), strict=True):
        members = [
            {
                "id": found.ids[at],
                "given": found.class_names[found.evidence.given[at]],
                "src": thumbnail(dataset.train_inputs[found.evidence.kept[at]])
                if dataset is not None and _are_images(dataset)
                else None,
            }
            for at in (first, second)
        ]
        shown.append({"exact": exact, "members": members})
    return shown


def thumbnail(image: np.ndarray) -> str:
    """An image [H, W, C] as a data URI: small ones as they are in a PNG, others as a JPEG of 96 pixels.

    Floats are stretched over the image's own range.
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = np.round((pixels - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    small = max(picture.size) <= 32
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG" if small else "JPEG", optimize=True, **({} if small else {"quality": 80}))
    return _uri(file.getvalue(), "png" if small else "jpeg")


def _are_images(dataset: Dataset | None) -> bool:
    return dataset is not None and dataset.train_inputs.ndim == 4 and dataset.train_inputs.shape[-1] in (1, 3)


def _side(dataset: Dataset | None) -> int:
    return max(dataset.train_inputs.shape[1:3]) if dataset is not None and _are_images(dataset) else 0


# --- Pictures --------------------------------------------------------------------------------------------------------


def _svg(figure: Figure, name: str) -> Markup:
    return Markup(style.svg(figure, name))  # matplotlib has escaped the text in it


def _pictures(folder: pathlib.Path, kinds: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What has been drawn of the method's findings, of these kinds, as long as the page does not become too heavy."""
    left = _PICTURES_BYTES
    for file in sorted(folder.glob("*.png")):
        if file.stem.startswith("learning_curves") or file.stem.endswith("-dark"):
            continue
        if (left := left - file.stat().st_size) >= 0:
            told = of_runs.explain(file.stem, kinds)
            yield {"name": style.words(file.stem), "told": told, "src": _uri(file.read_bytes(), "png")}


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
