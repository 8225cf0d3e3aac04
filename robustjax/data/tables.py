"""Tables with a row for each example: which column holds what, and labels, truth, groups and parts out of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustjax.data.encoding import check_repeated, encode_labels, is_missing, majority

# What a column may be called, in any case, where nobody says which one it is; the first that is there is it.
_PATHS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file", "img",
    "img_path",
)  # fmt: skip
_LABELS = (
    "label", "labels", "given_label", "noisy_label", "class", "class_name", "target", "category", "sentiment", "y",
)  # fmt: skip
_TEXTS = (
    "text", "texts", "sentence", "review", "comment", "message", "content", "document", "body", "tweet", "title",
)  # fmt: skip
COLUMNS: Mapping[str, Sequence[str]] = {
    "path": _PATHS,
    "features": (),
    "text": _TEXTS,
    "label": _LABELS,
    "true_label": ("true_label", "clean_label", "true", "clean", "true_class"),
    "group": ("group", "groups"),
    "split": ("split", "subset", "partition"),
    "id": (),
    "annotators": (),
    "reviewed": ("reviewed",),
}
"""What a column can hold, and the names by which it is found."""
# What the columns of several annotators begin with, and those of the numbers of a feature vector.
_ANNOTATOR, _FEATURE = ("annotator", "rater"), "feature"
INPUTS = ("path", "features", "text")  # one of them is what the network sees
PARTS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
"""What the parts of a data set may be called, in lower case."""
_NONE = ("", "nan", "none", "<na>")  # where there is no label; an annotator may also have put down a −1
_NO = (*_NONE, "0", "false", "no", "n")  # of a column of yes and no


def check_columns(columns: Mapping[str, str]) -> None:
    """Raises ValueError for columns that are said to hold what none can."""
    if unknown := [key for key in columns if key not in COLUMNS]:
        raise ValueError(f"columns has {unknown[0]!r}; accepted are {', '.join(COLUMNS)}")


def find_columns(there: Sequence[str], columns: Mapping[str, str], what: str, needed: Sequence[str]) -> dict[str, str]:
    """Which column holds what, of the columns `there`.

    columns: what is said of it; "" takes none. The `annotators` are several columns, joined by "+"; `features` is what
    the names of all columns begin with whose numbers make up a feature vector, in place of an image ("feature", where
    there is no path), or these columns, joined by "+". Of path, features and text that which is said counts, else the
    first that is there.

    Raises ValueError for a column that is not there, for none that holds what is `needed`, or two kinds of inputs.
    """
    check_columns(columns)
    said = [key for key in INPUTS if columns.get(key)]
    if len(said) > 1:
        raise ValueError(f"columns has {said[0]} and {said[1]}; one of them is what the network sees")
    lower = {name.strip().lower(): name for name in reversed(there)}
    found = {}
    for key, names in COLUMNS.items():
        if key in INPUTS and said and key not in said:
            continue
        if key in columns:
            if columns[key]:
                found[key] = columns[key]
        elif (name := next((lower[each] for each in names if each in lower), None)) is not None:
            found[key] = name
    raters = [name for name in there if name.strip().lower().startswith(_ANNOTATOR)]
    if "annotators" not in columns and len(raters) > 1:
        found["annotators"] = "+".join(raters)
    if not said and "path" not in found and "features" not in columns and any(_begins(n, _FEATURE) for n in there):
        found["features"] = _FEATURE
    first = next((key for key in INPUTS if key in found), None)
    found = {key: name for key, name in found.items() if key == first or key not in INPUTS}
    has = f"it has {', '.join(there)}" if there else "it has none"
    for key, chosen in found.items():
        for name in chosen.split("+") if key in ("annotators", "features") else [chosen]:
            if name not in there and not (key == "features" and any(_begins(each, name) for each in there)):
                raise ValueError(f"{what} has no column {name!r} ({key}); {has}")
    for key in needed:
        others = {"path": INPUTS, "label": ("label", "annotators")}[key]
        if not any(other in found for other in others):
            which, such = key, COLUMNS[key][:4]
            if key == "path":
                which, such = "path or the text", [*_PATHS[:3], *_TEXTS[:3]]
            also = ", text=NAME or features=PREFIX" * (key == "path")
            raise ValueError(
                f"{what} has no column for the {which}, such as {', '.join(such)}; {has} "
                f"(columns={key}=NAME{also} names another)"
            )
    return found


def feature_columns(there: Sequence[str], found: Mapping[str, str]) -> list[str]:
    """The columns of a feature vector, in the table's order, but for those that hold something else."""
    parts = found["features"].split("+")
    others = {name for key, names in found.items() if key != "features" for name in names.split("+")}
    named = [name for name in there if (name in parts if len(parts) > 1 else _begins(name, parts[0]))]
    return [name for name in named if name not in others]


def _begins(name: str, prefix: str) -> bool:
    """Whether a column's name begins so, in letters of any case."""
    return name.strip().lower().startswith(prefix.strip().lower())


def parts_of(values: Sequence[str], what: str, first_row: int = 0) -> np.ndarray:
    """What each value of a split column says, str [N]: train, test or validation; messages count from `first_row`."""
    known = {value: PARTS.get(value.strip().lower(), "") for value in set(values)}
    if wrong := sorted(value for value, part in known.items() if not part):
        first = list(values).index(wrong[0])
        raise ValueError(
            f"{what} has {wrong[0]!r} in its split column (row {first + first_row}); accepted are {', '.join(PARTS)}"
        )
    return np.array([known[value] for value in values])


def choose_parts(parts: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Which rows are used, int [M], which of them are the test part, bool [M] or None, and what there is to say.

    The validation part is the test part where there is no other, and is not used beside one.
    """
    test = next((part for part in ("test", "validation") if (parts == part).any()), None)
    if not (parts == "train").any():
        raise ValueError(f"{what} has no row whose split is train; it has {', '.join(sorted(set(parts.tolist())))}")
    if test is None:
        return np.arange(len(parts)), None, ()
    kept = np.flatnonzero((parts == "train") | (parts == test))
    unused = len(parts) - len(kept)
    notes = (f"{unused:,} examples of the validation part are not used, since there is a test part.",) if unused else ()
    return kept, parts[kept] == test, notes


class Answers(NamedTuple):
    """What the columns of a table say of its N examples."""

    labels: np.ndarray
    """int32 [N]."""
    class_names: tuple[str, ...]
    true_labels: np.ndarray | None
    """int32 [N]."""
    annotations: np.ndarray | None
    """int32 [N, A], −1 where an annotator gave none."""
    groups: np.ndarray | None
    """int32 [N]."""
    reviewed: np.ndarray | None
    """bool [N]."""
    notes: tuple[str, ...]


def answers(
    table: Mapping[str, Sequence[Any]],
    found: Mapping[str, str],
    what: str,
    *,
    class_names: Sequence[str] | None = None,
    rows: np.ndarray | None = None,
) -> Answers:
    """Labels, truth, annotations and groups out of a table's columns, by name; `found` says which hold them.

    Without a column of labels they are those that most annotators gave. class_names: of labels that are numbers
    already. rows: the numbers by which messages call the rows, int [N], from 0 by default. Raises ValueError for a
    label that is missing, a true label that nobody gave, or labels that look like no classes.
    """
    notes: tuple[str, ...] = ()
    votes = None
    if "annotators" in found:
        votes = [list(table[name]) for name in found["annotators"].split("+")]
    if "label" in found:
        given = list(table[found["label"]])
        blank = np.flatnonzero(_missing(given, _NONE[:1]))
        if len(blank):
            raise ValueError(
                f"{what} has {len(blank):,} row(s) without a label ({found['label']}), the first in row "
                f"{blank[0] if rows is None else rows[blank[0]]}"
            )
        labels, names = encode_labels(given, class_names, name=f"{what} ({found['label']})")
        annotations = None if votes is None else _votes(votes, names, what)
    elif votes is not None:
        all_votes = [vote for column in votes for vote, none in zip(column, _missing(column), strict=True) if not none]
        if not all_votes:
            raise ValueError(f"{what} has no label of any annotator")
        names = encode_labels(all_votes, class_names, name=what)[1]
        annotations = _votes(votes, names, what)
        labels = majority(annotations)
        notes += (f"the labels are those that most of the {annotations.shape[1]} annotators gave.",)
    else:
        raise ValueError(f"{what} has neither labels nor annotators")
    if len(names) < 2:
        raise ValueError(f"{what}: all labels are {names[0]!r}; expected at least 2 classes")
    check_repeated(names, len(labels), f"{what} ({found.get('label', 'annotators')})")
    true_labels = None
    if "true_label" in found:
        truth = list(table[found["true_label"]])
        unknown = int(_missing(truth, _NONE).sum())
        if unknown:
            notes += (f"{unknown:,} of {len(truth):,} rows have no true label ({found['true_label']}): none is used.",)
        else:
            true_labels = encode_labels(truth, names, name=f"{what} ({found['true_label']})")[0]
    groups = encode_labels(table[found["group"]], name=f"{what} ({found['group']})")[0] if "group" in found else None
    reviewed = ~_missing(table[found["reviewed"]], _NO) if "reviewed" in found else None
    return Answers(labels, names, true_labels, annotations, groups, reviewed, notes)


def _missing(values: Sequence[Any], none: Sequence[str] = (*_NONE, "-1")) -> np.ndarray:
    """Where a table has no label, bool [N]: None, or one of the texts `none`."""
    try:
        kinds = set(values)
    except TypeError as error:
        first = next(i for i, value in enumerate(values) if isinstance(value, list | dict))
        raise ValueError(f"row {first} has {values[first]!r}; expected one value an example") from error
    blank = {value: is_missing(value) or str(value).strip().lower() in none for value in kinds}
    return np.fromiter((blank[value] for value in values), bool, len(values))


def _votes(columns: Sequence[Sequence[Any]], names: tuple[str, ...], what: str) -> np.ndarray:
    """The annotators' labels int32 [N, A] by class, −1 where there is none."""
    result = np.full((len(columns[0]), len(columns)), -1, np.int32)
    for votes, column in zip(result.T, columns, strict=True):
        there = np.flatnonzero(~_missing(column))
        if len(there):
            votes[there] = encode_labels([column[i] for i in there.tolist()], names, name=f"{what} (annotators)")[0]
    return result
