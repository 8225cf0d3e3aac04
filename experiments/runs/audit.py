"""Which labels are wrong: what a run has gathered about its training examples, as files for people and for programs.

suspects.csv      the labels that are probably wrong, most suspicious first (`experiments.runs.suspects`)
labels.npy        int64 [N], the given labels, and
pred_probs.npy    float32 [N, C], the probabilities of the classes: what cleanlab takes
audit.json        how many labels are wrong, with an interval; noise by class; the transition matrix; …
report.html       all of it with pictures (`experiments.pictures.page`)

Row i of the arrays is example `kept[i]` of the training split (`labels-seedS.npz`). The probabilities are out of sample
where the run was cross-fitted. Nothing here sees a true label, but `judged` in audit.json where these are known.

Of seeds that trained on the same labels the evidence is averaged; else it is the first seed's.
"""

import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.pictures import of_runs, style
from experiments.runs import cross_fit, directory, records, suspects
from robustjax import auditing
from robustjax.data import Dataset, corruptions, duplicates, text
from robustjax.findings import LabelDistribution, LabelWeight, NoiseScore

FLOOR = 0.5  # labels that are more probably wrong than right are listed, however many there are,
MORE = 2.0  # and this many times the estimated number in any case
_MOST_READ = 4 * 2**30  # bytes of inputs that are searched for duplicates
_PAIRS = 1000  # of duplicates, told by name
_CONFUSED = 20  # pairs of classes
_LONGEST = 1000  # characters of a text


class Evidence(NamedTuple):
    """What a run has gathered about its training examples, N of them in C classes.

    Attributes:
      seeds: that it is averaged over.
      kept: int64 [N], positions in the training split.
      given: int32 [N], labels.
      pred_probs: float32 [N, C].
      in_sample: whether the networks were trained on the examples that these probabilities are of.
      mean_margin: float32 [N], logit of the given label less the largest other, mean over training; None if unknown.
      forgettings: float32 [N], how often a label was learned and lost again; None if unknown.
      kinds: of the findings by name.
      findings: by name, float32 or, of label distributions, int32 [S, N]: a row a seed.
    """

    seeds: list[int]
    kept: np.ndarray
    given: np.ndarray
    pred_probs: np.ndarray
    in_sample: bool
    mean_margin: np.ndarray | None = None
    forgettings: np.ndarray | None = None
    kinds: Mapping[str, str] = {}
    findings: Mapping[str, np.ndarray] = {}


class Found(NamedTuple):
    """An audit and what it is told with.

    Attributes:
      evidence: what it is from.
      audit: what `robustjax.auditing` makes of that.
      class_names: [C].
      ids: what the examples are called, [N].
      listed: int64 [K], positions of the rows of suspects.csv.
      rows: of suspects.csv.
      pairs: of duplicates with different labels, None if they were not looked for.
      facts: what audit.json says.
    """

    evidence: Evidence
    audit: auditing.Audit
    class_names: list[str]
    ids: list[str]
    listed: np.ndarray
    rows: list[suspects.Row]
    pairs: duplicates.Pairs | None
    facts: dict[str, Any]


def after_run(
    path: pathlib.Path, dataset: Dataset, clean: Sequence[np.ndarray | None], seeds: Sequence[int]
) -> str | None:
    """Write all files about the run in `path`; returns a sentence about it.

    What goes wrong is told on stderr, in a sentence, and the run is not lost. A run that never looked at its training
    set (`track_every=0`) has nothing to tell: None.

    Args:
      path: the run directory.
      dataset: what was trained on.
      clean: each seed's true labels int [N], None where nobody knows them.
      seeds: the run's.
    """
    if not (path / f"evidence-seed{seeds[0]}.npz").exists():
        return None
    try:
        found = write(path, seeds, dataset, clean[0])
        told = describe(found)
        write_report(path, found, dataset)
    except Exception as error:  # whatever it is, training is over and must not be lost
        first = str(error).strip().partition("\n")[0]
        print(f"warning: no audit of the labels: {type(error).__name__}: {first}", file=sys.stderr)
        return None
    return f"{told} {path / 'report.html'}"


def write_report(path: pathlib.Path, found: Found, dataset: Dataset | None) -> None:
    """Write report.html."""
    from experiments.pictures import page  # what makes it is needed for nothing else

    page.write(path, found, dataset)


def write(path: pathlib.Path, seeds: Sequence[int], dataset: Dataset | None, clean: np.ndarray | None = None) -> Found:
    """Audit the run in `path` and write suspects.csv, labels.npy, pred_probs.npy and audit.json.

    Args:
      path: the run directory.
      seeds: the run's.
      dataset: what was trained on; None where it is not there: then there are no ids but those that the run directory
        tells, no duplicates and no annotators.
      clean: the true labels int [N], None where nobody knows them.

    Raises:
      FileNotFoundError: the run has left no evidence.
      ValueError: what it has left does not fit together, or a suspects.csv there cannot be read.
    """
    evidence = read_evidence(path, seeds)
    names = class_names(path, dataset)
    ids = example_ids(path, evidence.kept, dataset)
    found = examine(
        evidence, names, ids, dataset=dataset, clean=clean, decided=suspects.decided_ids(path / "suspects.csv")
    )
    if dataset is None:
        found.facts["test_held_out"] = directory.read_description(path).get("test_held_out")
    write_tables(path, found)
    for name, array in (("labels", evidence.given.astype(np.int64)), ("pred_probs", evidence.pred_probs)):
        partial = path / f"{name}.npy.partial"
        with open(partial, "wb") as file:
            np.save(file, array)
        os.replace(partial, path / f"{name}.npy")
    records.write_json_atomic(path / "audit.json", found.facts)
    return found


def write_tables(path: pathlib.Path, found: Found) -> None:
    """Write suspects.csv; of an older one with other decisions it tells on stderr where that is now."""
    if aside := suspects.write(path / "suspects.csv", found.rows):
        print(f"warning: decisions about other examples or labels are in {str(aside)!r} now.", file=sys.stderr)


def describe(found: Found) -> str:
    """How many labels are wrong, in a sentence, and what was not audited, in another."""
    audit, total = found.audit, len(found.ids)
    unseen = " The held-out part is not audited." if found.facts["test_held_out"] else ""
    if audit.ranks_only:
        given, probs = found.evidence.given, found.evidence.pred_probs
        why = "may have learned wrong ones by heart (--cross-fit=5 counts them)"
        if auditing.guesses(given, probs):
            why = "so many agree by chance: it has learned nothing yet that tells labels apart"
        return (
            f"how many of the {total:,} labels are wrong this run cannot tell: its network gives back "
            f"{100 * np.mean(probs.argmax(1) == given):.1f} % of them, and {why}; the {len(found.rows):,} most "
            f"suspicious are listed in suspects.csv.{unseen}"
        )
    return (
        f"estimated: {audit.count:,.0f} of {total:,} labels are wrong, {100 * audit.count / total:.1f} % (95 %: "
        f"{interval(found)}); {len(found.rows):,} are listed in suspects.csv.{unseen}"
    )


def last_facts(path: pathlib.Path) -> dict[str, Any]:
    """What the last audit in `path` has found, `audit.json`; {} where there is none."""
    file = path / "audit.json"
    return dict(json.loads(file.read_bytes())) if file.exists() else {}


def interval(found: Found) -> str:
    """How many labels may be wrong, in words; in sample there is no lower limit."""
    if found.evidence.in_sample:
        return f"at most {found.audit.high:,.0f}"
    return f"{found.audit.low:,.0f} to {found.audit.high:,.0f}"


# --- What there is to know -------------------------------------------------------------------------------------------


def read_evidence(path: pathlib.Path, seeds: Sequence[int]) -> Evidence:
    """What a run has left.

    Raises:
      FileNotFoundError: there is no evidence, or no labels.
      ValueError: a file is damaged, or evidence and labels differ.
    """
    noise = {seed: corruptions.load_noise(path / f"labels-seed{seed}.npz") for seed in seeds}
    first = noise[seeds[0]]
    same = [
        seed
        for seed, own in noise.items()
        if np.array_equal(own.kept, first.kept) and np.array_equal(own.given, first.given)
    ]
    parts = [_read_evidence(path, seed, first.given) for seed in same]
    held_out = all("out_of_sample_probs" in part for part in parts)
    findings = [of_runs.read_findings(path, seed) for seed in same]
    kinds = {name: kind for name, kind in findings[0][0].items() if all(name in found for _, found in findings)}

    def mean(name: str) -> np.ndarray | None:
        arrays = [part[name] for part in parts if name in part]
        return np.stack(arrays).mean(0, dtype=np.float32) if len(arrays) == len(parts) else None

    probs = mean("out_of_sample_probs" if held_out else "pred_probs")
    assert probs is not None  # _read_evidence has looked
    return Evidence(
        same, first.kept, first.given, probs, not held_out, mean("mean_margin"), mean("forgettings"), kinds,
        {name: np.stack([found[name] for _, found in findings]) for name in kinds},
    )  # fmt: skip


def _read_evidence(path: pathlib.Path, seed: int, given: np.ndarray) -> dict[str, np.ndarray]:
    file = path / f"evidence-seed{seed}.npz"
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} has no {file.name}: the run never looked at its training set (track_every=0), or is of an "
            "older version; train it anew."
        )
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds for a damaged file
        raise ValueError(f"{str(file)!r} is damaged: {error}.") from error
    held_out = cross_fit.read(path, seed)
    if held_out is not None:
        found["out_of_sample_probs"] = held_out
    if "pred_probs" not in found or "given" not in found or not np.array_equal(found["given"], given):
        raise ValueError(f"{str(file)!r} is not about the labels of labels-seed{seed}.npz beside it; train anew.")
    return found


def class_names(path: pathlib.Path, dataset: Dataset | None) -> list[str]:
    """The names of the classes, from the data or from what the run has written of them."""
    if dataset is not None:
        return list(dataset.class_names)
    for name in ("data.json", "summary.json", "audit.json"):
        with_names = json.loads((path / name).read_bytes()) if (path / name).exists() else {}
        if "class_names" in with_names:
            return list(with_names["class_names"])
    raise ValueError(f"{str(path)!r} does not tell the classes' names, and the data are not there.")


def example_ids(path: pathlib.Path, kept: np.ndarray, dataset: Dataset | None) -> list[str]:
    """What the examples are called: a path or an id where there is one, else the number in the training split."""
    named: Sequence[str] | np.ndarray | None = None if dataset is None else dataset.train_ids
    if named is None and (path / "examples.npz").exists():
        with np.load(path / "examples.npz", allow_pickle=False) as arrays:
            named = arrays["ids"]
    if named is None:
        return [str(number) for number in kept.tolist()]
    return [str(named[number]) for number in kept.tolist()]


# --- What follows from it --------------------------------------------------------------------------------------------


def examine(
    evidence: Evidence,
    names: Sequence[str],
    ids: Sequence[str],
    *,
    dataset: Dataset | None = None,
    clean: np.ndarray | None = None,
    decided: set[str] = frozenset(),  # type: ignore[assignment]
) -> Found:
    """Find the labels that are probably wrong, and what is to be said of them.

    Args:
      evidence: what is known.
      names: of the classes [C].
      ids: of the examples [N].
      dataset: with the inputs, of which `evidence.kept` are meant; None for no duplicates and annotators.
      clean: the true labels int [N]; they only judge.
      decided: ids that are listed in any case.
    """
    audit = auditing.audit(
        evidence.given, evidence.pred_probs, in_sample=evidence.in_sample, mean_margin=evidence.mean_margin,
        scores=noise_scores(evidence),
    )  # fmt: skip
    if dataset is not None and dataset.reviewed is not None:
        audit = _trusting(audit, evidence.given, dataset.reviewed[evidence.kept])
    audit = audit._replace(proposed=np.where(audit.score >= FLOOR, audit.alternative, audit.proposed))
    order = audit.order
    count = min(int((audit.score > 0).sum()), max(int((audit.score >= FLOOR).sum()), math.ceil(MORE * audit.count)))
    listed = order[:count]
    if decided:
        rest = order[count:]
        listed = np.concatenate([listed, rest[[ids[i] in decided for i in rest.tolist()]]])
    inputs = None if dataset is None else dataset.train_inputs
    small = inputs is not None and inputs.nbytes <= _MOST_READ
    everything = inputs is not None and np.array_equal(evidence.kept, np.arange(len(inputs)))
    pairs = None
    if inputs is not None and small:
        pairs = duplicates.differently_labelled(inputs if everything else inputs[evidence.kept], evidence.given)
    annotations = None
    if dataset is not None and dataset.annotations is not None:
        annotations = np.asarray(dataset.annotations)[evidence.kept]
    told = _in_words(evidence, names, ids, listed, pairs, annotations)
    rows = [
        suspects.Row(
            ids[i],
            names[evidence.given[i]],
            names[audit.alternative[i]],
            float(audit.score[i]),
            float(audit.confidence[i]),
            "; ".join(words),
            text=excerpt(dataset, int(evidence.kept[i]), _LONGEST),
        )
        for i, words in zip(listed.tolist(), told, strict=True)
    ]
    facts = _facts(evidence, audit, names, ids, rows, pairs, annotations)
    facts["train_examples"] = None if dataset is None else len(dataset.train_labels)
    facts["test_held_out"] = None if dataset is None else bool(dataset.test_held_out)
    if clean is not None:
        facts["judged"] = judge(evidence.given != clean, audit.score, np.isin(np.arange(len(order)), audit.suspects))
    return Found(evidence, audit, list(names), list(ids), listed, rows, pairs, facts)


def excerpt(dataset: Dataset | None, at: int, longest: int) -> str:
    """What a person reads of training example `at`: of a text above `longest` characters both ends; "" for others."""
    if dataset is None or dataset.vocabulary is None:
        return ""
    if dataset.train_texts is not None:
        words = dataset.train_texts[at].split()
    else:
        ids = dataset.train_inputs[at]
        words = [dataset.vocabulary[number] for number in ids[ids != text.PADDING].tolist()]
    found = " ".join(words)
    return found if len(found) <= longest else f"{found[: longest // 2]} … {found[-longest // 2 :]}"


def _trusting(audit: auditing.Audit, given: np.ndarray, reviewed: np.ndarray) -> auditing.Audit:
    """The audit, where those of the labels `given` int [N] that somebody has `reviewed` (bool [N]) are right."""
    score = np.where(reviewed, 0, audit.score)
    of_reviewed = float(audit.score[reviewed].sum(dtype=np.float64))
    count = max(audit.count - of_reviewed, 0.0)
    order = audit.order[np.argsort(reviewed[audit.order], kind="stable")]  # these last
    return audit._replace(
        score=score,
        proposed=np.where(reviewed, given, audit.proposed),
        confidence=np.where(reviewed, 0, audit.confidence),
        count=count,
        low=max(audit.low - of_reviewed, 0.0),
        high=max(audit.high - of_reviewed, count),
        order=order,
        suspects=order[: 0 if audit.ranks_only else round(count)],
    )


def noise_scores(evidence: Evidence) -> dict[str, np.ndarray]:
    """A method's findings as scores float32 [N], higher for more suspicious labels, by their kinds.

    Noise scores as they are, label weights negated, and of label distributions the share of seeds in which the class
    differs from the given label; means over the seeds. What is not finite counts as the median.
    """
    found = {}
    for name, values in evidence.findings.items():
        kind = evidence.kinds[name]
        if kind == LabelDistribution.__name__:
            score = (values != evidence.given).mean(0, dtype=np.float32)
        elif kind in (LabelWeight.__name__, NoiseScore.__name__):
            score = values.mean(0, dtype=np.float32) * (-1 if kind == LabelWeight.__name__ else 1)
        else:
            continue
        known = np.isfinite(score)
        if known.any():
            found[name] = np.where(known, score, np.median(score[known])).astype(np.float32)
    return found


def relabelled(audit: auditing.Audit, given: np.ndarray) -> np.ndarray:
    """The labels `given` int [N] with the proposed ones where they are called wrong."""
    after = given.copy()
    after[audit.suspects] = audit.proposed[audit.suspects]
    return after


def judge(wrong: np.ndarray, score: np.ndarray, chosen: np.ndarray) -> dict[str, float | int | None]:
    """How well the wrong labels are found.

    Args:
      wrong: which labels are wrong, bool [N].
      score: higher for more suspicious ones, [N].
      chosen: which ones are called wrong, bool [N].

    Returns:
      `wrong`, how many are, and `found`, how many are called so; `auroc` and `average_precision` of the score;
      `precision`, `recall` and `f1` of those that are called wrong, and, with `_at_true_number` behind, of as many of
      the highest score as are wrong; None where a number is not defined.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # a second to import, and seldom wanted

    total = int(wrong.sum())
    told: dict[str, float | int | None] = {
        "wrong": total, "found": int(chosen.sum()), "auroc": None, "average_precision": None,
    }  # fmt: skip
    if 0 < total < len(wrong):
        told["auroc"] = float(roc_auc_score(wrong, score))
        told["average_precision"] = float(average_precision_score(wrong, score))
    for ending, called in (("", chosen), ("_at_true_number", np.argsort(-score, kind="stable")[:total])):
        among = wrong[called]
        hits, count = int(among.sum()), len(among)
        told[f"precision{ending}"] = hits / count if count else None
        told[f"recall{ending}"] = hits / total if total else None
        told[f"f1{ending}"] = 2 * hits / (count + total) if count + total else None
    return told


def _facts(
    evidence: Evidence,
    audit: auditing.Audit,
    names: Sequence[str],
    ids: Sequence[str],
    rows: Sequence[suspects.Row],
    pairs: duplicates.Pairs | None,
    annotations: np.ndarray | None,
) -> dict[str, Any]:
    """What audit.json says."""
    known = math.nan if audit.ranks_only else 1.0  # times which numbers are null in the file where they mean nothing
    prior, transition = known * np.asarray(audit.prior), known * np.asarray(audit.transition)
    total, joint = len(ids), prior[:, None] * transition
    with np.errstate(invalid="ignore", divide="ignore"):
        wrong_of_given = 1 - np.diag(joint) / joint.sum(0)
    after = relabelled(audit, evidence.given)
    between = joint * ~np.eye(len(names), dtype=bool)
    often = [place for place in np.argsort(-between, axis=None, kind="stable")[:_CONFUSED] if between.flat[place] > 0]
    confused = [divmod(int(place), len(names)) for place in often]
    return {
        "examples": total,
        "class_names": list(names),
        "seeds": list(evidence.seeds),
        "probabilities": "in sample" if evidence.in_sample else "out of sample",
        "ranks_only": bool(audit.ranks_only),
        "estimated_wrong": {"count": known * float(audit.count), "low": float(audit.low), "high": float(audit.high),
                            "share": known * float(audit.count) / total},
        "listed": len(rows),
        "class_counts_given": np.bincount(evidence.given, minlength=len(names)),
        "class_counts_proposed": None if audit.ranks_only else np.bincount(after, minlength=len(names)),
        "estimated_wrong_share_of_given_class": wrong_of_given,
        "estimated_mislabelled_share_of_true_class": 1 - np.diag(transition),
        "estimated_prior": prior,
        "estimated_transition": transition,
        "most_confused": [
            {"true": names[i], "given": names[j], "estimated_examples": total * between[i, j]} for i, j in confused
        ],
        "duplicates": None if pairs is None else {
            "pairs": len(pairs.first), "exact": int(pairs.exact.sum()),
            "listed": [
                {"first": ids[a], "second": ids[b], "given": [names[evidence.given[a]], names[evidence.given[b]]],
                 "exact": same}
                for a, b, same in zip(*(column[:_PAIRS].tolist() for column in pairs), strict=True)
            ],
        },
        "annotators": None if annotations is None else agreement(annotations, evidence.given),
    }  # fmt: skip


def agreement(annotations: np.ndarray, given: np.ndarray) -> dict[str, Any]:
    """How far annotators agree.

    Args:
      annotations: int [N, A], −1 for none.
      given: labels int [N].

    Returns:
      `unanimous`, the share of the examples with several annotations that have all the same; `pairwise` [A, A], how
      often two gave the same; `with_given` [A], how often each gave the label that was trained on. nan without any.
    """
    there = annotations >= 0
    several = there.sum(1) > 1
    highest = np.where(there, annotations, -1).max(1)
    lowest = np.where(there, annotations, np.iinfo(np.int32).max).min(1)
    pairwise = np.array([[_share(a == b, (a >= 0) & (b >= 0)) for b in annotations.T] for a in annotations.T])
    return {
        "unanimous": _share(highest == lowest, several),
        "pairwise": pairwise,
        "with_given": [_share(a == given, a >= 0) for a in annotations.T],
    }


def _share(of: np.ndarray, among: np.ndarray) -> float:
    return float(of[among].mean()) if among.any() else math.nan


def _in_words(
    evidence: Evidence,
    names: Sequence[str],
    ids: Sequence[str],
    listed: np.ndarray,
    pairs: duplicates.Pairs | None,
    annotations: np.ndarray | None,
) -> list[list[str]]:
    """Of each listed example what speaks against its label, most telling first."""
    kinds = evidence.kinds
    ranks = {}  # share of all examples that are less suspicious
    for name, score in noise_scores(evidence).items():
        if kinds[name] != LabelDistribution.__name__:
            ranks[name] = np.searchsorted(np.sort(score), score, side="left") / max(len(score) - 1, 1)
    other: dict[int, list[tuple[int, bool]]] = {}
    for first, second, exact in zip(*(column.tolist() for column in pairs), strict=True) if pairs else ():
        other.setdefault(first, []).append((second, exact))
        other.setdefault(second, []).append((first, exact))
    found = []
    for i in listed.tolist():
        given, words = int(evidence.given[i]), []
        for name, values in evidence.findings.items():
            if kinds[name] == LabelDistribution.__name__:
                believed = int(np.bincount(values[:, i].clip(0), minlength=len(names)).argmax())
                if believed != given:
                    words.append(f"the {style.words(name)} says {names[believed]}")
        for twin, exact in other.get(i, ())[:2]:
            words.append(
                f"{'same' if exact else 'nearly the same'} input as {ids[twin]}, labelled {names[evidence.given[twin]]}"
            )
        if annotations is not None:
            own = annotations[i][annotations[i] >= 0]
            if len(own) and (against := int((own != given).sum())):
                words.append(f"{against} of {len(own)} annotators say otherwise")
        share = float(evidence.pred_probs[i, given])
        words.append("given label below 0.1 %" if share < 0.001 else f"given label at {100 * share:.1f} %")
        if evidence.mean_margin is not None and evidence.mean_margin[i] < 0:
            words.append(f"mean margin {evidence.mean_margin[i]:.1f}")
        for name, rank in ranks.items():
            if rank[i] >= 0.9:
                low = kinds[name] == LabelWeight.__name__
                value = evidence.findings[name][:, i].mean()
                words.append(f"{'low' if low else 'high'} {style.words(name)} {value:.2f}")
        if evidence.forgettings is not None and evidence.forgettings[i] >= 0.5:
            times = max(round(float(evidence.forgettings[i])), 1)
            words.append("forgotten once" if times == 1 else f"forgotten {times} times")
        found.append(words)
    return found


def run_seeds(path: pathlib.Path) -> list[int]:
    """The seeds of the run in `path`, finished or not.

    Raises:
      directory.RunDirectoryError: there is no run.
    """
    settings = directory.read_description(path)["settings"]
    return [settings["seed"] + k for k in range(settings["seeds"])]
