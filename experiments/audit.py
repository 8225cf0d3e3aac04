"""Which labels are wrong: `python -m experiments.audit RUN_DIR`, and with `--apply=OUT` corrected labels to train on.

Without a run: `--pred-probs=FILE --labels=FILE` audits probabilities of any other program.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import complaints
from experiments.runs import artefacts, audit, corrected, directory, next_step, suspects
from experiments.settings import build, config, files
from robustjax import data
from robustjax._checks import check, load_array
from robustjax.data import corruptions
from robustjax.data.checks import check_labels

_NAMES = ("pred_probs", "labels", "true_labels", "apply", "accept_above", "out", "data_dir", "cache_dir", "run_dir")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.audit", allow_abbrev=False,
        usage="%(prog)s RUN_DIR [--apply=OUT]\n       %(prog)s --pred-probs=FILE --labels=FILE [--true-labels=FILE]",
        description="Which labels of a training set are probably wrong: suspects.csv, audit.json, report.html.",
        epilog="Written into RUN_DIR: suspects.csv, labels.npy and pred_probs.npy (what cleanlab takes), audit.json, "
               "report.html. suspects.csv lists every label that is more probably wrong than right, and twice as many "
               "as are estimated to be wrong in any case; write keep, relabel, remove or a class name into its column "
               "decision, and --apply honours that. Decisions are never overwritten.",
    )  # fmt: skip
    parser.add_argument("run_dir", nargs="?", type=pathlib.Path, metavar="RUN_DIR", help="of experiments.run")
    run = parser.add_argument_group("of a run")
    run.add_argument("--apply", type=pathlib.Path, metavar="OUT",
                     help="write corrected labels: FILE.npz for --noise-file, FILE.npy for --labels, FILE.csv for "
                          "--dataset=csv:FILE, or a folder of links for --dataset=folder:DIR")  # fmt: skip
    run.add_argument("--accept-above", type=float, metavar="SCORE",
                     help="with --apply: of listed rows without a decision whose score is at least this, those "
                          "whose confidence is too get the proposed label, the others go (all stay)")  # fmt: skip
    run.add_argument("--data-dir", metavar="DIR", help="of prepared TFDS data sets, as given to the run")
    run.add_argument("--cache-dir", metavar="DIR", help="of decoded data sets, as given to the run")
    alone = parser.add_argument_group("without a run; FILE.npy, or FILE.npz:KEY for one array of an archive")
    alone.add_argument("--pred-probs", metavar="FILE", help="probabilities [N, C], out of sample")
    alone.add_argument("--labels", metavar="FILE", help="given labels [N], integers from 0")
    alone.add_argument("--true-labels", metavar="FILE", help="true labels [N]: how well the wrong ones are found")
    alone.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where suspects.csv is written (here)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, that of `complaints.run_main`."""
    return complaints.run_main(_obey, argv, lambda: _NAMES)


def _obey(arguments: Sequence[str]) -> int:
    options = make_parser().parse_args(arguments)
    alone = {name: getattr(options, name) for name in ("pred_probs", "labels", "true_labels", "out")}
    of_run = {name: getattr(options, name) for name in ("apply", "accept_above", "data_dir", "cache_dir")}
    mixed = [name for name, value in (alone if options.run_dir else of_run).items() if value is not None]
    if mixed:
        instead = "a run" if options.run_dir else "probabilities alone"
        raise ValueError(f"{mixed[0]}={getattr(options, mixed[0])} is not for {instead}; see --help.")
    if options.run_dir is None:
        if options.pred_probs is None or options.labels is None:
            raise ValueError("a run directory, or --pred-probs=FILE and --labels=FILE are needed; see --help.")
        return _audit_alone(options.pred_probs, options.labels, options.true_labels, options.out or pathlib.Path())
    if options.accept_above is not None:
        if options.apply is None:
            raise ValueError(f"accept_above={options.accept_above} goes with --apply=OUT.")
        check("accept_above", options.accept_above, lambda score: (score >= 0) & (score <= 1), "in [0, 1]")
    settings = directory.read_settings(options.run_dir)
    dataset = _dataset(options.run_dir, settings, options.data_dir, options.cache_dir)
    if options.apply is None:
        return _audit_run(options.run_dir, settings, dataset)
    return _apply(options.run_dir, settings, dataset, options.apply, options.accept_above)


def _audit_run(path: pathlib.Path, settings: config.Config, dataset: data.Dataset | None) -> int:
    seeds = audit.run_seeds(path)
    truth = None if dataset is None else build.truth(settings, dataset)
    clean = None if truth is None else truth[corruptions.load_noise(path / f"labels-seed{seeds[0]}.npz").kept]
    found = audit.write(path, seeds, dataset, clean)
    audit.write_report(path, found, dataset)
    print(audit.describe(found))
    if clean is not None:
        print(judged_in_words(found.facts["judged"]))
    print(f"report: {path / 'report.html'}")
    return 0


def _apply(
    path: pathlib.Path, settings: config.Config, dataset: data.Dataset | None, out: pathlib.Path, above: float | None
) -> int:
    seed = audit.run_seeds(path)[0]
    if not (path / "suspects.csv").exists():
        _audit_run(path, settings, dataset)
    facts = audit.last_facts(path)
    if above is not None and facts.get("ranks_only"):
        command = directory.read_description(path).get("command")
        again = f"{command} --cross-fit=5" if command else "the same call of robustjax.fit with cross_fit=5"
        how = (
            "its networks have learned nothing yet that tells labels apart: train longer, or write decisions into "
            "suspects.csv."
            if facts.get("probabilities") == "out of sample"
            else "its networks may have learned wrong ones by heart, or nothing. Write decisions into suspects.csv, or "
            f"add an audit by networks that have not seen what they judge: {again}"
        )
        raise ValueError(
            f"accept_above={above}: the scores of {str(path)!r} rank labels and are no probabilities, as {how}"
        )
    examples = _examples(path, seed, settings, dataset)
    changes, reviewed, counts = suspects.decide(
        path / "suspects.csv", examples.ids, examples.given.tolist(), examples.class_names, above
    )
    if not any(counts[what] for what in ("kept", "relabelled", "removed")):
        raise ValueError(
            f"nothing is decided in {str(path / 'suspects.csv')!r}: write keep, relabel, remove or a class name into "
            f"its column decision, or decide by the scores with --accept-above={next_step.ACCEPT_ABOVE}, say."
        )
    flag = corrected.write(out, examples, changes, reviewed)
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    again = next_step.train_again(path, directory.read_description(path).get("command", ""), flag, out.stem)
    print(f"{told} of {sum(counts.values()):,} listed; undecided labels stay as they are.\nwritten: {out}")
    print(f"train on it: {again}")
    return 0


def _examples(
    path: pathlib.Path, seed: int, settings: config.Config, dataset: data.Dataset | None
) -> corrected.Examples:
    """What the run trained on, with what it held out to validate with: whoever trains again does that again."""
    parts = [corruptions.load_noise(path / f"labels-seed{seed}.npz")]
    if settings.validation_split:
        parts.append(corruptions.load_noise(path / f"validation-seed{seed}.npz"))
    kept, given = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(kept)
    kind, _, rest = settings.dataset.partition(":")
    place = pathlib.Path(rest).expanduser() if kind in ("folder", "csv") else None
    earlier = settings.noise_file is not None  # it has another choice of examples and other labels than the data
    gone = np.empty(0, np.int64)
    if earlier and dataset is not None:
        trusted = path / f"trusted-seed{seed}.npz"  # which are set apart, and not left out
        apart = corruptions.load_noise(trusted).kept if trusted.exists() and not settings.trusted else kept
        gone = np.setdiff1d(np.arange(len(dataset.train_labels)), np.concatenate([kept, apart]))
    return corrected.Examples(
        kept[order], given[order], audit.example_ids(path, kept[order], dataset), audit.class_names(path, dataset),
        total=None if dataset is None else len(dataset.train_labels),
        labels=None if dataset is None else dataset.train_labels,
        root=place.parent if place is not None and kind == "csv" else place, table=place if kind == "csv" else None,
        columns=files.parse_columns(settings.columns) or {}, gone=audit.example_ids(path, gone, dataset),
        anew=earlier or settings.labels is not None,
    )  # fmt: skip


def _dataset(
    path: pathlib.Path, settings: config.Config, data_dir: str | None, cache_dir: str | None
) -> data.Dataset | None:
    """The run's data; None, and a warning, where they are not there any more or have changed."""
    try:
        dataset = build.load_data(dataclasses.replace(settings, cache_dir=cache_dir), data_dir, download=False)
        artefacts.check_data(path, dataset, build.trusted_pool(settings, dataset))
        return dataset
    except (OSError, ValueError) as error:
        print(f"warning: without the data, so no pictures and duplicates: {error}", file=sys.stderr)
        return None


def judged_in_words(judged: Mapping[str, float | int | None]) -> str:
    """What `audit.judge` gives, in lines."""

    def shown(name: str) -> str:
        value = judged[name]
        return "–" if value is None else f"{value:.4f}"

    lines = [
        f"by the true labels {judged['wrong']:,} are wrong: AUROC {shown('auroc')}, average precision "
        f"{shown('average_precision')}"
    ]
    for ending, count in (("", "the estimated number"), ("_at_true_number", "the true number")):
        if not (ending or judged["found"]):
            continue  # nothing is called wrong
        numbers = ", ".join(f"{name} {shown(name + ending)}" for name in ("precision", "recall", "f1"))
        lines.append(f"  at {count}: {numbers}")
    return "\n".join(lines)


def _audit_alone(pred_probs: str, labels: str, true_labels: str | None, out: pathlib.Path) -> int:
    probs = _read("pred_probs", pred_probs)
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise ValueError(
            f"pred_probs={pred_probs!r} has shape {probs.shape}; [N, C] with at least 2 classes is accepted."
        )
    given = _read_labels("labels", labels, probs.shape)
    clean = None if true_labels is None else _read_labels("true_labels", true_labels, probs.shape)
    evidence = audit.Evidence([], np.arange(len(given)), given, probs.astype(np.float32), in_sample=False)
    names = [str(c) for c in range(probs.shape[1])]
    out.mkdir(parents=True, exist_ok=True)
    found = audit.examine(
        evidence,
        names,
        [str(i) for i in range(len(given))],
        clean=clean,
        decided=suspects.decided_ids(out / "suspects.csv"),
    )
    audit.write_tables(out, found)
    print(audit.describe(found))
    if clean is not None:
        print(judged_in_words(found.facts["judged"]))
    print(f"written: {out / 'suspects.csv'}")
    return 0


def _read(name: str, spec: str) -> np.ndarray:
    """An array from FILE.npy, or FILE.npz:KEY; of an archive without a key the array called like `name`."""
    place, colon, key = spec.rpartition(":")
    if colon and place.endswith(".npz"):
        return load_array(name, place, key)
    return load_array(name, spec, name if spec.endswith(".npz") else None)


def _read_labels(name: str, spec: str, shape: tuple[int, ...]) -> np.ndarray:
    labels = check_labels(_read(name, spec), shape[1], f"{name}={spec!r}")
    if len(labels) != shape[0]:
        raise ValueError(
            f"{name}={spec!r} has {len(labels):,} labels, for {shape[0]:,} rows of pred_probs; one for each."
        )
    return labels


if __name__ == "__main__":
    sys.exit(main())
