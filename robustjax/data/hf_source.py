"""A data set that Hugging Face's `datasets` has written to disk (`save_to_disk`); the package is an extra, `[hf]`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.data import tables
from robustjax.data.image_files import Listing


def list_examples(root: Path, columns: Mapping[str, str]) -> Listing:
    """The images, feature vectors or texts of a folder that `save_to_disk` wrote, with their labels.

    The image is the only column of images, or else the only one of lists of floats, or a column of strings, of a usual
    name or the only one; the label the only ClassLabel, or one of a usual name; `columns` says otherwise, as for CSV
    files (`tables.COLUMNS`; `path` is the image, `features` one column). Of a dictionary of data sets `train` and
    `test` or `validation` are taken. Raises FileNotFoundError where there is no such folder, and ValueError for one
    that is something else, or without the package.
    """
    root = root.resolve()
    what = repr(os.fspath(root))
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(f"'hf:{root.name}' needs the package datasets: pip install 'robustjax[hf]'") from error
    if not root.is_dir():
        raise FileNotFoundError(f"{what} is no folder; 'hf:PATH' expects one that a data set's save_to_disk wrote")
    try:
        loaded = datasets.load_from_disk(os.fspath(root))
    except Exception as error:  # Arrow raises its own kinds for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{what} is not what a data set's save_to_disk writes: {reason}") from error
    divided = isinstance(loaded, datasets.DatasetDict)
    parts = {str(key): part for key, part in loaded.items()} if divided else {"train": loaded}
    first = next(iter(parts.values()))
    found = _columns(datasets, first.features, columns, what)
    notes: tuple[str, ...] = ()
    is_test = None
    if divided:
        named = {key: tables.parts_of([key], what)[0] for key in parts}
        rows = np.concatenate([np.repeat(name, len(parts[key])) for key, name in named.items()])
        kept, is_test, notes = tables.choose_parts(rows, what)
        used = set(rows[kept].tolist())
        parts = {key: part for key, part in parts.items() if named[key] in used}
    whole = datasets.concatenate_datasets(list(parts.values()))
    feature = whole.features[found["label"]] if "label" in found else None
    names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    wanted = [name for key in ("label", "true_label", "group", "id", "reviewed") if (name := found.get(key))]
    wanted += found["annotators"].split("+") if "annotators" in found else []
    table: dict[str, list[Any]] = {name: list(whole[name]) for name in wanted}
    said = tables.answers(table, found, what, class_names=names)
    listing = Listing(
        f"hf:{root.name}",
        said.labels,
        said.class_names,
        is_test,
        ids=tuple(
            map(str, table[found["id"]] if "id" in found else (i for part in parts.values() for i in range(len(part))))
        ),
        true_labels=said.true_labels,
        groups=said.groups,
        annotations=said.annotations,
        reviewed=said.reviewed,
        notes=(f"columns of {root.name}: {', '.join(f'{k}={v}' for k, v in found.items())}.", *notes, *said.notes),
    )
    if "features" in found:
        return listing._replace(
            inputs=_vectors(whole.with_format("numpy")[found["features"]][:], f"{what} ({found['features']})")
        )
    places = [f"{root.name}, row {i}" for i in range(len(whole))]
    if "text" in found:
        return listing._replace(texts=tuple(each or "" for each in whole[found["text"]]), places=places)
    raw = whole.select_columns([found["path"]]).cast_column(found["path"], datasets.Image(decode=False))

    def fetch(i: int) -> str | bytes:
        image = raw[i][found["path"]]
        if image is None:
            raise ValueError("there is no image")
        return image["path"] if image["bytes"] is None else image["bytes"]

    prints = [f"{part._fingerprint} {i}" for part in parts.values() for i in range(len(part))]
    return listing._replace(fetch=fetch, places=places, stamps=prints)


def _vectors(column: Any, what: str) -> np.ndarray:
    """The feature vectors of a column, float32 [N, D]."""
    rows = [np.asarray(row, np.float32) for row in column]
    if bad := [i for i, row in enumerate(rows) if row.shape != rows[0].shape]:
        raise ValueError(f"{what} has {rows[bad[0]].size} numbers in row {bad[0]}, and {rows[0].size} in row 0")
    result = np.stack(rows)
    if (wrong := np.argwhere(~np.isfinite(result))).size:
        raise ValueError(f"{what} has {result[tuple(wrong[0])]} in row {wrong[0][0]}; finite numbers are expected")
    return result


def _columns(datasets: Any, features: Any, columns: Mapping[str, str], what: str) -> dict[str, str]:
    """Which column holds what: as said, else by the only one of the right type, else by name."""
    by_kind: dict[str, list[str]] = {"path": [], "features": [], "label": [], "text": []}
    for name, feature in features.items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.Image):
            by_kind["path"].append(name)
        elif isinstance(feature, datasets.ClassLabel):
            by_kind["label"].append(name)
        elif str(getattr(inner, "dtype", "")).startswith("float"):
            by_kind["features"].append(name)
        elif str(getattr(feature, "dtype", "")).endswith("string"):
            by_kind["text"].append(name)
    chosen = dict(columns)
    if "label" not in columns and len(by_kind["label"]) == 1:
        chosen["label"] = by_kind["label"][0]
    if not any(map(columns.get, tables.INPUTS)):
        by_kind["text"] = _texts(by_kind["text"], chosen)
        inputs = {key: by_kind[key] for key in tables.INPUTS if by_kind[key]}
        key, names = next(iter(inputs.items()), ("path", []))
        if len(names) != 1:
            kinds = ", ".join(f"{name}: {type(feature).__name__}" for name, feature in features.items())
            raise ValueError(
                f"{what} has {len(names) or 'no'} columns of images, of lists of floats or of texts; one is needed, or "
                f"columns=path=NAME (text=NAME of texts); it has {kinds}"
            )
        chosen[key] = names[0]
    found = tables.find_columns(list(features), {"path": "", **chosen}, what, ("label",))
    if "split" in found:
        del found["split"]  # the parts are data sets of their own
    return found


def _texts(strings: list[str], chosen: Mapping[str, str]) -> list[str]:
    """Of the columns of strings that which has a usual name for texts, or those that hold nothing else."""
    lower = {name.strip().lower(): name for name in reversed(strings)}
    if usual := [lower[name] for name in tables.COLUMNS["text"] if name in lower]:
        return usual[:1]
    others = {name for key, names in tables.COLUMNS.items() if key not in tables.INPUTS for name in names}
    return [name for name in strings if name.strip().lower() not in others and name not in chosen.values()]
