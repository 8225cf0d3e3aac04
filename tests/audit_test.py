"""Audits of runs and of probabilities alone: what is listed, the page, decisions, and corrected labels to train on."""

import csv
import html
import html.parser
import json
import os
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import audit as command
from experiments import run
from experiments.pictures import page, style
from experiments.runs import audit, corrected, next_step, suspects
from robustjax import auditing, data, findings
from robustjax.data import corruptions, csv_source, duplicates
from robustjax.training import evaluation

NAMES = ["<script>alert(1)</script>", "=cat", "naïve 猫"]
N, C = 60, len(NAMES)
TRUE = np.arange(N) % C
WRONG = np.arange(N) % 10 == 3  # 6 of 60
GIVEN = np.where(WRONG, (TRUE + 1) % C, TRUE).astype(np.int32)
IDS = tuple(f"train/{NAMES[c]}/{i:02}.png" for i, c in enumerate(GIVEN))


AFTER_RUN = audit.after_run  # conftest takes it away


def decision(labels, probs, *, in_sample=False, mean_margin=None, scores=None):
    """The plainest audit there is: what is listed and written must not wait for a better one."""
    score = 1 - probs[np.arange(len(labels)), labels]
    count = float((score > 0.5).sum())
    joint = np.array([[probs[labels == j, i].sum() for j in range(C)] for i in range(C)])
    order = np.argsort(-score, kind="stable")
    others = probs.copy()
    others[np.arange(len(labels)), labels] = -1
    return auditing.Audit(
        score, probs.argmax(1).astype(np.int32), count, count - 1, count + 1, order, order[: round(count)],
        joint / joint.sum(1, keepdims=True), joint.sum(1) / len(labels), others.argmax(1), others.max(1),
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def plain_audit():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditing, "audit", decision)
        patch.setattr(audit, "after_run", AFTER_RUN)
        yield


def dataset(**more):
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 1), np.uint8)
    images[7] = images[5]
    made = data.from_arrays(images, GIVEN, images[:6], TRUE[:6], class_names=NAMES)
    return made._replace(train_ids=IDS, **more)


def probabilities(seed=0):
    logits = np.random.default_rng(seed).normal(0, 0.3, (N, C))
    logits[np.arange(N), TRUE] += 4
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


def write_seed(path, seed, given=GIVEN):
    corruptions.save_noise(path / f"labels-seed{seed}.npz", given, np.arange(N))
    probs = probabilities(seed)
    np.savez(
        path / f"evidence-seed{seed}.npz", given=given, pred_probs=probs, surveys=np.int32(2),
        mean_margin=np.where(WRONG, -2.25, 4.0).astype(np.float32), forgettings=WRONG.astype(np.int32) * 3,
    )  # fmt: skip
    np.savez(
        path / f"findings-seed{seed}.npz", names=np.array(["correction", "label_weight"]), epoch=2,
        kinds=np.array([findings.LabelDistribution.__name__, findings.LabelWeight.__name__]),
        correction=probs.argmax(1).astype(np.int32), label_weight=np.where(WRONG, 0.01, 0.9).astype(np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run directory as two epochs of two seeds on the same labels leave it, audited."""
    path = tmp_path_factory.mktemp("audit") / "run"
    path.mkdir()
    for seed in (0, 1):
        write_seed(path, seed)
    bins = evaluation.reliability(np.log(probabilities()), TRUE)
    lines = [
        {"epoch": e, "seed": s, "train_loss": 1 / e, "test_accuracy": 0.5, "learning_rate": 0.1, "reliability": bins,
         "expected_calibration_error": 0.1, "per_class_accuracy": [0.5, 0.25, None]}
        for e in (1, 2) for s in (0, 1)
    ]  # fmt: skip
    for line in lines:
        run.records.append_record(path / "metrics.jsonl", line)
    settings = {"method": "elr", "dataset": "npz:mine.npz", "seed": 0, "seeds": 2, "noise": "none"}
    told = {"settings": settings, "command": "python -m experiments.run --method=elr --out=a", "environment": {}}
    run.records.write_json_atomic(path / "config.json", {**told, "labels": {}})
    run.records.write_json_atomic(path / "summary.json", {"class_names": NAMES})
    told = audit.after_run(path, dataset(), [None, None], [0, 1])
    assert told is not None and "6 of 60 labels are wrong" in told
    return path


@pytest.fixture
def copy(finished, tmp_path):
    for file in finished.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def decide(path, decisions):
    """Write decisions by row number into the file, as a person would."""
    with open(path / "suspects.csv", encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    for number, decision in decisions.items():
        rows[number][-1] = decision
    with open(path / "suspects.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return rows


def failed(capsys, *arguments):
    assert command.main(list(map(str, arguments))) == 2
    return capsys.readouterr().err


# --- What is written -------------------------------------------------------------------------------------------------


def test_the_wrong_labels_are_listed_with_their_evidence(finished):
    rows = suspects.read(finished / "suspects.csv")
    assert {row.id for row in rows[:6]} == {IDS[i] for i in np.flatnonzero(WRONG)}
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True) and rows[5].score > 0.5
    assert 12 <= len(rows) < N and all(row.decision == "" for row in rows)
    first = rows[0]
    at = IDS.index(first.id)
    assert (first.given, first.proposed) == (NAMES[GIVEN[at]], NAMES[TRUE[at]])
    assert f"the correction says {NAMES[TRUE[at]]}; " in first.evidence and "mean margin -2.2" in first.evidence
    assert "low label weight 0.01" in first.evidence and "forgotten 3 times" in first.evidence


def test_small_numbers_are_told_in_plain_words():
    probs = np.array([[5.75e-7, 1], [0.0011, 0.9989], [1, 0]], np.float32)
    evidence = audit.Evidence(
        [0, 1], np.arange(3), np.zeros(3, int), probs, True, forgettings=np.array([0.5, 1.5, 0.0]),
        kinds={"label_weight": "LabelWeight"}, findings={"label_weight": np.array([[2.7e-20, 0.5, 1]] * 2)},
    )  # fmt: skip
    told = audit._in_words(evidence, ["a", "b"], list("xyz"), np.arange(3), None, None)
    assert told == [
        ["given label below 0.1 %", "low label weight 0.00", "forgotten once"],
        ["given label at 0.1 %", "forgotten 2 times"], ["given label at 100.0 %"],
    ]  # fmt: skip


def test_the_sentence_has_a_lower_limit_only_out_of_sample_and_tells_what_is_not_audited(finished):
    facts = {"test_held_out": True}
    evidence = audit.read_evidence(finished, [0])
    found = audit.Found(evidence, decision(GIVEN, evidence.pred_probs), NAMES, list(IDS), [], [], None, facts)
    assert "(95 %: at most 7); 0 are listed" in audit.describe(found)
    assert audit.describe(found).endswith(" The held-out part is not audited.")
    found = found._replace(evidence=evidence._replace(in_sample=False), facts={"test_held_out": False})
    assert "(95 %: 5 to 7)" in audit.describe(found) and "not audited" not in audit.describe(found)


def test_arrays_are_in_cleanlabs_form_and_averaged_over_seeds(finished):
    labels, probs = np.load(finished / "labels.npy"), np.load(finished / "pred_probs.npy")
    assert labels.dtype == np.int64 and probs.dtype == np.float32
    np.testing.assert_array_equal(labels, GIVEN)
    np.testing.assert_allclose(probs, (probabilities(0) + probabilities(1)) / 2, rtol=1e-6)


def test_audit_json_tells_numbers_by_class(finished):
    facts = json.loads((finished / "audit.json").read_bytes())
    assert facts["estimated_wrong"]["low"] <= 6 <= facts["estimated_wrong"]["high"] and facts["seeds"] == [0, 1]
    assert facts["class_counts_given"] == np.bincount(GIVEN).tolist()
    assert facts["class_counts_proposed"] == np.bincount(TRUE).tolist()
    confused = facts["most_confused"][0]
    assert NAMES.index(confused["given"]) == (NAMES.index(confused["true"]) + 1) % C
    assert facts["duplicates"]["exact"] == 1 and "judged" not in facts
    np.testing.assert_allclose(np.sum(facts["estimated_transition"], 1), 1, rtol=1e-6)


def test_seeds_on_other_labels_are_left_out(copy):
    other = np.roll(GIVEN, 1)
    write_seed(copy, 1, other)
    found = audit.read_evidence(copy, [0, 1])
    assert found.seeds == [0] and found.in_sample
    np.testing.assert_array_equal(found.pred_probs, probabilities(0))


def test_out_of_sample_probabilities_are_preferred(copy):
    with np.load(copy / "evidence-seed0.npz") as arrays:
        np.savez(copy / "evidence-seed0.npz", **arrays, out_of_sample_probs=probabilities(7))
    found = audit.read_evidence(copy, [0])
    assert not found.in_sample
    np.testing.assert_array_equal(found.pred_probs, probabilities(7))


def test_what_fails_after_a_run_is_one_warning(copy, capsys):
    (copy / "evidence-seed0.npz").write_bytes(b"damaged")
    assert audit.after_run(copy, dataset(), [None], [0]) is None
    told = capsys.readouterr().err
    assert told.startswith("warning: no audit") and told.count("\n") == 1
    (copy / "evidence-seed0.npz").unlink()  # as with --track-every=0
    assert audit.after_run(copy, dataset(), [None], [0]) is None and not capsys.readouterr().err


def test_scores_by_kind_of_finding():
    kinds = {"a": "LabelDistribution", "b": "LabelWeight", "c": "NoiseScore", "d": "PerClass"}
    values = {
        "a": np.array([[0, 1], [1, 1]]), "b": np.array([[0.5, np.nan]]), "c": np.array([[0.1, 0.9]]),
        "d": np.zeros((1, 2)),
    }  # fmt: skip
    evidence = audit.Evidence([0, 1], np.arange(2), np.array([0, 0]), np.eye(2), True, kinds=kinds, findings=values)
    found = audit.noise_scores(evidence)
    assert {name: score.tolist() for name, score in found.items()} == {
        "a": [0.5, 1.0], "b": [-0.5, -0.5], "c": [np.float32(0.1), np.float32(0.9)]
    }  # fmt: skip


def test_what_is_probably_wrong_has_another_label_proposed(monkeypatch):
    def sure(labels, probs, **more):
        score, order = np.array([0.9, 0.1, 0.9], np.float32), np.array([0, 2, 1])
        proposed = np.array([0, 0, 1], np.int32)
        return decision(labels, probs)._replace(score=score, proposed=proposed, count=3.0, order=order)

    monkeypatch.setattr(auditing, "audit", sure)
    probs = np.array([[0.8, 0.05, 0.15], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1]], np.float32)
    found = audit.examine(audit.Evidence([0], np.arange(3), np.zeros(3, int), probs, True), NAMES, list("abc"))
    assert found.audit.proposed.tolist() == [2, 0, 1]
    assert [(row.id, row.proposed) for row in found.rows] == [("a", NAMES[2]), ("c", NAMES[1]), ("b", NAMES[1])]
    assert [row.confidence for row in found.rows] == pytest.approx([0.15, 0.3, 0.1])


def test_what_somebody_has_reviewed_is_not_listed_again():
    evidence = audit.Evidence([0], np.arange(N), GIVEN, probabilities(), True)
    before = audit.examine(evidence, NAMES, IDS).audit
    reviewed = np.isin(np.arange(N), [3, 13, 14])  # two of the six wrong ones, and a right one
    found = audit.examine(evidence, NAMES, IDS, dataset=dataset(reviewed=reviewed))
    assert sorted(found.audit.suspects) == [23, 33, 43, 53] and not {IDS[3], IDS[13]} & {row.id for row in found.rows}
    assert (found.audit.score[reviewed] == 0).all()
    assert before.high - found.audit.high == pytest.approx(before.count - found.audit.count)


def test_annotators_agreement():
    found = audit.agreement(np.array([[0, 0, 1], [1, 1, 1], [2, -1, -1]]), np.array([0, 1, 1]))
    assert found["unanimous"] == 0.5 and found["with_given"] == [2 / 3, 1.0, 0.5]
    np.testing.assert_allclose(found["pairwise"], [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])


# --- The page --------------------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_the_page_is_one_safe_and_accessible_file(finished):
    text = (finished / "report.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert "<script" not in text.lower() and "&lt;script&gt;alert(1)" in text and "naïve 猫" in text
    references = [each.get("src") or each.get("href") or each.get("xlink:href") for _, each in read.tags]
    assert all(ref.startswith(("data:", "#")) for ref in references if ref)
    assert not re.search(r"@import|url\((?!#)", text) and len(text) < 3_000_000
    ids = [each["id"] for _, each in read.tags if "id" in each]
    assert len(set(ids)) == len(ids)
    anchors = [each["href"] for each in read.of("a")]
    assert anchors[0] == "#content" and {ref[1:] for ref in anchors} <= set(ids)
    assert all(each.get("alt") for each in read.of("img")) and len(read.of("h1")) == 1
    assert all(each.get("aria-label") for _, each in read.tags if each.get("role") == "img")
    assert "prefers-color-scheme: dark" in text and ":focus-visible" in text
    assert "6 of 60" in text.replace("\n", " ") and "nan" not in re.sub(r"data:[^\"]*", "", text.lower())


def test_the_page_says_what_is_estimated_and_what_comes_next(finished):
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert "95 %: at most 7<" in text and "--cross-fit=5" in text and "95 %: 5" not in text
    assert 'loading="' not in text and "What is called test accuracy" not in text
    plain = html.unescape(text)
    for line in next_step.commands(finished, "npz:mine.npz", "python -m experiments.run --method=elr --out=a"):
        assert f"<pre>{line}</pre>" in plain and "fixed.npz" in line
    # In the order of the list of classes, each image with a button of its own.
    places = [plain.index(f"Labelled {name}:") for name in NAMES if f"Labelled {name}:" in plain]
    assert len(places) > 1 and places == sorted(places)
    images = [each for each in Reader(text).of("img") if "labelled" in each["alt"]]
    enlarge = [each["aria-label"] for each in Reader(text).of("input")]
    assert len(images) == len(enlarge) == len(set(enlarge))


def test_after_memorising_no_number_is_told_and_nothing_is_decided_by_scores(copy, capsys, monkeypatch):
    """Real runs on 3,000 digits gave 700 to 1,326 as their number, where 0 to 2,146 labels were wrong."""

    def by_heart(labels, probs, **more):
        return decision(labels, probs)._replace(ranks_only=True, low=0.0, high=float(N), count=17.0)

    monkeypatch.setattr(auditing, "audit", by_heart)
    monkeypatch.setattr(command, "_dataset", lambda *arguments: dataset())
    monkeypatch.setattr(command.build, "truth", lambda *arguments: None)
    assert command.main([str(copy)]) == 0
    told = capsys.readouterr().out
    assert "cannot tell" in told and "--cross-fit=5" in told and "estimated" not in told and "90.0 %" in told
    facts = json.loads((copy / "audit.json").read_bytes())
    assert facts["ranks_only"] and facts["estimated_wrong"] == {"count": None, "low": 0, "high": N, "share": None}
    assert facts["class_counts_proposed"] is None and not facts["most_confused"]
    assert not [n for n in np.ravel([facts["estimated_prior"], *facts["estimated_transition"]]) if n is not None]
    text = re.sub(r"data:[^\"]*", "", (copy / "report.html").read_text(encoding="utf-8"))
    assert "<dd>not known<small>of 60," in text and "Listed for review" in text and "nan" not in text.lower()
    assert "accept-above" not in text and "Given and proposed" not in text
    told = failed(capsys, copy, "--apply=fixed.npz", "--accept-above=0.9")
    assert "no probabilities" in told and "python -m experiments.run --method=elr --out=a --cross-fit=5" in told
    # Out of sample, where networks only guess, that would change nothing.
    (copy / "audit.json").write_text(json.dumps({**facts, "probabilities": "out of sample"}))
    told = failed(capsys, copy, "--apply=fixed.npz", "--accept-above=0.9")
    assert "no probabilities" in told and "train longer" in told and "--cross-fit" not in told


def test_pictures_are_told_in_a_sentence(tmp_path):
    for name in ("correction_changed", "learning_curves", "confusion-dark", "mine"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    told = {each["name"]: each["told"] for each in page._pictures(tmp_path, {"correction": "LabelDistribution"})}
    assert told.keys() == {"correction changed", "mine"} and told["mine"] == ""
    assert "(correction)" in told["correction changed"]


def test_names_break_behind_slashes_alone():
    assert page._breakable("a/<b>") == "a/<wbr>&lt;b&gt;"


def test_what_are_no_images_has_no_gallery(finished, monkeypatch):
    monkeypatch.setattr(style, "svg", lambda figure, name: "")
    found = audit.examine(audit.read_evidence(finished, [0]), NAMES, IDS)
    words = dataset()._replace(
        train_inputs=np.arange(N * 4, dtype=np.int32).reshape(N, 4), vocabulary=tuple(map(str, range(N * 4)))
    )
    facts = page.gather(finished, found, words)
    at = int(found.listed[0])
    assert not facts["gallery"] and facts["rows"][0]["text"].split()[-1] == str(4 * at + 3)
    assert str(4 * at + 3) in page.render(facts)
    assert "not where they were" in page.render(page.gather(finished, found, None))


def test_a_gallery_of_many_classes_is_light(finished):
    many, size = 100, 500
    rng = np.random.default_rng(0)
    given = np.arange(size) % many
    images = rng.integers(0, 256, (size, 64, 64, 3), np.uint8)
    names = [f"class {c}" for c in range(many)]
    rows = [suspects.Row(str(i), names[c], names[0], 0.9, 0.8, "") for i, c in enumerate(given)]
    found = audit.Found(
        audit.Evidence([0], np.arange(size), given, np.eye(many)[given], True), None, names, list(map(str, given)),
        np.arange(size), rows, None, {},
    )  # fmt: skip
    shown = list(page._gallery(found, data.from_arrays(images, given, images[:1], given[:1])))
    weight = sum(len(item["src"]) for each in shown for item in each["items"])
    assert len(shown) == many and 100_000 < weight < 1_600_000


def test_svg_text_is_text_in_the_pages_colours():
    figure, (ax,) = style.panels(1, columns=1)
    ax.set_title("<b>")
    drawn = style.svg(figure, "one")
    assert drawn.startswith("<svg") and "&lt;b&gt;" in drawn and "#000000" not in drawn and 'id="one-' in drawn


# --- Decisions -------------------------------------------------------------------------------------------------------


def test_cells_are_no_formulas_and_read_back(tmp_path):
    rows = [suspects.Row(f"{sign}x", "a", "b", 0.5, 0.25, "") for sign in "=+-@'\t"]
    suspects.write(tmp_path / "s.csv", rows)
    with open(tmp_path / "s.csv", encoding="utf-8", newline="") as file:
        assert all(row["id"][0] == "'" for row in csv.DictReader(file))
    assert suspects.read(tmp_path / "s.csv") == rows


def test_another_audit_keeps_decisions(copy):
    decide(
        copy, {0: "keep", 1: "relabel", 13: "remove"} if len(suspects.read(copy / "suspects.csv")) > 13 else {0: "keep"}
    )
    before = {row.id: row.decision for row in suspects.read(copy / "suspects.csv") if row.decision}
    found = audit.write(copy, [0, 1], dataset())
    after = {row.id: row.decision for row in suspects.read(copy / "suspects.csv") if row.decision}
    assert after == before and len(found.rows) >= 12
    # Another proposal: what was decided stays what it was.
    rows = [row._replace(proposed=NAMES[0] if row.proposed != NAMES[0] else NAMES[2]) for row in found.rows]
    suspects.write(copy / "suspects.csv", rows)
    again = {row.id: row.decision for row in suspects.read(copy / "suspects.csv") if row.decision}
    assert again == {id_: found.rows[1].proposed if word == "relabel" else word for id_, word in before.items()}


def test_decisions_about_other_labels_are_set_aside(copy):
    decide(copy, {0: "remove"})
    rows = [row._replace(given=row.proposed, decision="") for row in suspects.read(copy / "suspects.csv")]
    aside = suspects.write(copy / "suspects.csv", rows)
    assert aside.name == "suspects-reviewed-1.csv" and suspects.read(aside)[0].decision == "remove"
    assert not any(row.decision for row in suspects.read(copy / "suspects.csv"))


def test_decisions_stay_with_the_text_that_they_are_about(tmp_path):
    """Rows are called by their number: one more at the top of a table, and each is called as its neighbour was."""
    rows = [suspects.Row(str(i), "a", "b", 0.9, 0.9, "", text=f"text {i}") for i in range(3)]
    suspects.write(tmp_path / "s.csv", [rows[0], rows[1]._replace(decision="remove"), rows[2]])
    moved = [row._replace(text=f"text {i - 1}") for i, row in enumerate(rows)]
    aside = suspects.write(tmp_path / "s.csv", moved)
    assert suspects.read(aside)[1].decision == "remove"
    assert not any(row.decision for row in suspects.read(tmp_path / "s.csv"))


def test_an_audit_without_the_data_knows_what_was_held_out(copy):
    description = json.loads((copy / "config.json").read_text())
    for held_out in (True, False):
        (copy / "config.json").write_text(json.dumps(description | {"test_held_out": held_out}))
        assert audit.write(copy, [0, 1], None).facts["test_held_out"] is held_out


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_files_as_spreadsheets_save_them(copy, delimiter):
    rows = suspects.read(copy / "suspects.csv")
    with open(copy / "suspects.csv", "w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(suspects.COLUMNS)
        table.writerows([*row[:3], f"{row.score}".replace(".", ","), 0, row.evidence, "REMOVE"] for row in rows)
    changes, _, counts = suspects.decide(copy / "suspects.csv", IDS, GIVEN, NAMES)
    assert counts["removed"] == len(rows) == len(changes) and set(changes.values()) == {None}


def test_decisions_change_labels(copy):
    rows = suspects.read(copy / "suspects.csv")
    decide(copy, {0: "keep", 1: "Relabel", 2: "remove", 3: NAMES[2], 4: "'=cat", 5: "class:=cat"})
    changes, reviewed, counts = suspects.decide(copy / "suspects.csv", IDS, GIVEN, NAMES)
    at = [IDS.index(row.id) for row in rows[:6]]
    wanted = {at[1]: NAMES.index(rows[1].proposed), at[2]: None, at[3]: 2, at[4]: 1, at[5]: 1}
    assert changes == {place: label for place, label in wanted.items() if label is None or label != GIVEN[place]}
    assert sum(counts.values()) == len(rows) and counts["removed"] == 1 and counts["undecided"] == len(rows) - 6
    assert reviewed == {at[0], at[1], at[3], at[4], at[5]}
    above = suspects.decide(copy / "suspects.csv", IDS, GIVEN, NAMES, above=0.9)
    assert above.changes == changes and above.reviewed == reviewed  # all of these are decided
    decide(copy, dict.fromkeys(range(6), ""))
    above = suspects.decide(copy / "suspects.csv", IDS, GIVEN, NAMES, above=0.9)
    assert above.changes == {place: int(TRUE[place]) for place in at} and not above.reviewed
    # Wrong, but nobody knows what is right: it goes.
    unsure = [row._replace(confidence=0.5) if row.id == rows[0].id else row for row in rows]
    (copy / "suspects.csv").unlink()
    suspects.write(copy / "suspects.csv", [row._replace(decision="") for row in unsure])
    above = suspects.decide(copy / "suspects.csv", IDS, GIVEN, NAMES, above=0.9)
    assert above.changes == {place: int(TRUE[place]) if k else None for k, place in enumerate(at)}
    assert above.counts["removed"] == 1 and above.counts["relabelled"] == 5
    suspects.write(copy / "suspects.csv", [row._replace(confidence=float("nan")) for row in unsure])
    with pytest.raises(ValueError, match="has no confidence"):
        suspects.decide(copy / "suspects.csv", IDS, GIVEN, NAMES, above=0.9)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: [*row[:6], "dog"], "none of keep, relabel, remove and the classes"),
        (lambda row: ["nobody", *row[1:6], "keep"], "no such example"),
        (lambda row: [row[0], NAMES[2] if row[1] != NAMES[2] else NAMES[0], *row[2:6], "keep"], "audit anew"),
        (lambda row: [*row[:2], row[1], *row[3:6], "relabel"], "the given one"),
    ],
)
def test_decisions_that_cannot_be_are_refused(copy, change, sentence, capsys):
    rows = decide(copy, {})
    with open(copy / "suspects.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([suspects.COLUMNS, change(rows[0]), *rows[1:]])
    with pytest.raises(ValueError, match=sentence) as raised:
        suspects.decide(copy / "suspects.csv", IDS, GIVEN, NAMES)
    assert "row 2" in str(raised.value)


# --- Corrected labels ------------------------------------------------------------------------------------------------


def test_a_noise_file_leaves_out_what_goes(tmp_path):
    examples = corrected.Examples(np.array([2, 5, 7, 9]), np.array([0, 1, 0, 1]), list("abcd"), ["x", "y"])
    flag = corrected.write(tmp_path / "fixed.npz", examples, {0: 1, 2: None, 3: 0})
    noise = corruptions.load_noise(tmp_path / "fixed.npz")
    assert noise.kept.tolist() == [2, 5, 9] and noise.given.tolist() == [1, 1, 0]
    assert flag == f"--noise-file={tmp_path / 'fixed.npz'}"
    with pytest.raises(ValueError, match="trained on 4 of 4 examples"):
        corrected.write(tmp_path / "fixed.npy", examples, {})
    whole = examples._replace(kept=np.arange(4))
    corrected.write(tmp_path / "fixed.npy", whole, {0: 1})
    assert np.load(tmp_path / "fixed.npy").tolist() == [1, 1, 0, 1]
    with pytest.raises(FileExistsError, match="there already; nothing is written over"):
        corrected.write(tmp_path / "fixed.npy", whole, {0: 1})
    with pytest.raises(ValueError, match="1 examples are to be removed"):
        corrected.write(tmp_path / "other.npy", whole, {0: None})
    with pytest.raises(ValueError, match="no example of 'y'"):
        corrected.write(tmp_path / "other.npz", whole, {1: 0, 3: None})
    with pytest.raises(ValueError, match="no files"):
        corrected.write(tmp_path / "fixed.csv", whole, {})
    with pytest.raises(ValueError, match=r"ends in '\.txt'"):
        corrected.write(tmp_path / "fixed.txt", whole, {})


@pytest.fixture
def folder(tmp_path):
    """Images in train/x, train/y, test/x and test/y; two have the same name."""
    root = tmp_path / "images"
    for k, name in enumerate(("train/x/1.png", "train/x/2.png", "train/y/1.png", "train/y/3.png", "test/x/8.png",
                              "test/y/9.png")):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * k, np.uint8)).save(root / name)
    ids = ["train/x/1.png", "train/x/2.png", "train/y/1.png", "train/y/3.png"]
    return corrected.Examples(np.arange(4), np.array([0, 0, 1, 1]), ids, ["x", "y"], root=root)


def test_a_folder_of_links_can_be_trained_on(folder, tmp_path):
    out = tmp_path / "fixed"
    assert corrected.write(out, folder, {0: 1, 1: None, 3: 0}) == f"--dataset=folder:{out}"
    there = {str(p.relative_to(out)): os.path.realpath(p) for p in out.rglob("*.png")}
    root = os.path.realpath(folder.root)
    assert there == {
        "train/y/1.png": f"{root}/train/x/1.png", "train/y/1-2.png": f"{root}/train/y/1.png",
        "train/x/3.png": f"{root}/train/y/3.png", "test/x/8.png": f"{root}/test/x/8.png",
        "test/y/9.png": f"{root}/test/y/9.png",
    }  # fmt: skip
    read = data.load(f"folder:{out}", cache_dir=tmp_path / "cache")
    assert read.train_labels.tolist() == [0, 1, 1] and len(read.test_labels) == 2
    with pytest.raises(FileExistsError, match="there already"):
        corrected.write(out, folder, {})


def test_a_csv_file_of_a_folder_has_its_test_part(folder, tmp_path):
    corrected.write(tmp_path / "fixed.csv", folder, {0: 1, 1: None, 3: 0})
    with open(tmp_path / "fixed.csv", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("images/train/x/1.png", "y", "train"), ("images/train/y/1.png", "y", "train"),
        ("images/train/y/3.png", "x", "train"), ("images/test/x/8.png", "x", "test"),
        ("images/test/y/9.png", "y", "test"),
    ]  # fmt: skip
    corrected.write(tmp_path / "seen.csv", folder, {0: 1, 1: None, 3: 0}, {0, 2})
    read = data.load(f"csv:{tmp_path / 'seen.csv'}", cache_dir=tmp_path / "cache")
    assert read.train_ids[:2] == ("images/train/x/1.png", "images/train/y/1.png")
    assert read.reviewed.tolist() == [True, True, False] and read.train_labels.tolist() == [1, 1, 0]
    (folder.root / "train/x/1.png").unlink()
    with pytest.raises(ValueError, match="1 of the examples are not where they were"):
        corrected.write(tmp_path / "lost.csv", folder, {0: 1})


def test_a_csv_file_of_a_csv_file_keeps_its_columns(folder, tmp_path):
    table = folder.root / "all.csv"
    table.write_text(
        "species;file;note\nx;train/x/1.png;a\nx;train/x/2.png;b\ny;train/y/1.png;c\ny;train/y/3.png;d\n"
        "x;test/x/8.png;not trained on\n"
    )
    examples = folder._replace(table=table, columns={"label": "species"})
    corrected.write(tmp_path / "fixed.csv", examples, {0: 1, 2: None})
    with open(tmp_path / "fixed.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["species", "file", "note"], ["y", "images/train/x/1.png", "a"], ["x", "images/train/x/2.png", "b"],
        ["y", "images/train/y/3.png", "d"], ["x", "images/test/x/8.png", "not trained on"],
    ]  # fmt: skip
    corrected.write(tmp_path / "seen.csv", examples, {0: 1, 2: None}, {0})
    left = [row[1] for row in rows[1:4]]
    again = examples._replace(kept=np.arange(3), given=np.array([1, 0, 1]), ids=left, root=tmp_path,
                              table=tmp_path / "seen.csv")  # fmt: skip
    corrected.write(tmp_path / "again.csv", again, {}, {2})
    with open(tmp_path / "again.csv", newline="") as file:
        assert [row["reviewed"] for row in csv.DictReader(file)] == ["yes", "", "yes", ""]  # the first as it was


TEXTS = [("good", "x"), ("fine", "x"), ("bad", "y"), ("poor", "y"), ("great", "x"), ("dull", "y")]


def _of_texts(path, header, rows, **more):
    """Corrected labels' examples: the first four rows of a table, which are called by their number in the file."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    given = np.array([0, 0, 1, 1])
    return corrected.Examples(
        np.arange(4), given, ["2", "3", "4", "5"], ["x", "y"], labels=given, root=path.parent, table=path, **more
    )


def _changed(examples, out, changes, reviewed=()):
    """By row of the table, what it has become, of those that are another; the header too if it is."""
    corrected.write(out, examples, changes, reviewed)
    before, after = csv_source.read_rows(examples.table), csv_source.read_rows(out)
    return {i: now for i, (old, now) in enumerate(zip(before, after, strict=True), 1) if old != now}


def test_rows_are_found_by_their_number_whatever_columns_count_them(tmp_path):
    """A column of numbers from 1 up holds all the row numbers of the training part too."""
    rows = [(str(i), text, label, "train" if i < 5 else "test") for i, (text, label) in enumerate(TEXTS, 1)]
    examples = _of_texts(tmp_path / "t.csv", ("id", "text", "label", "split"), rows)
    assert _changed(examples, tmp_path / "a.csv", {1: 1}) == {3: ["2", "fine", "y", "train"]}
    unsaid = [["", *row[1:]] for row in rows]  # as pandas writes an index without a name, here an empty one
    examples = _of_texts(tmp_path / "u.csv", ("", "text", "label", "split"), unsaid)
    assert data.load(f"csv:{tmp_path / 'u.csv'}").train_ids == ("2", "3", "4", "5")
    assert _changed(examples, tmp_path / "b.csv", {2: 0}) == {4: ["", "bad", "x", "train"]}
    moved = examples._replace(labels=None)  # which is so where the data are not what the run read
    with pytest.raises(ValueError, match="is not as it was when the run read it, and its rows are told by their num"):
        corrected.write(tmp_path / "c.csv", moved, {2: 0})


def test_labels_are_corrected_where_training_reads_them(tmp_path):
    doubled = [(text, label, label) for text, label in TEXTS]
    examples = _of_texts(tmp_path / "t.csv", ("text", "old_label", "label"), doubled)
    assert _changed(examples, tmp_path / "a.csv", {0: 1}) == {2: ["good", "x", "y"]}
    raters = [(text, label, label, "y") for text, label in TEXTS]
    examples = _of_texts(tmp_path / "r.csv", ("text", "rater1", "rater2", "rater3"), raters)
    corrected.write(tmp_path / "b.csv", examples, {0: 1, 3: None}, {0})
    after = csv_source.read_rows(tmp_path / "b.csv")
    assert after[0] == ["text", "rater1", "rater2", "rater3", "label", "reviewed"]
    assert after[1] == ["good", "x", "x", "y", "y", "yes"] and after[2] == ["fine", "x", "x", "y", "x", ""]
    assert [row[0] for row in after[1:]] == ["good", "fine", "bad", "great", "dull"]
    again = data.load(f"csv:{tmp_path / 'b.csv'}", hold_out=False)
    assert again.train_labels.tolist() == [1, 0, 1, 0, 1] and again.annotations.shape == (5, 3)


def test_a_second_round_keeps_what_the_first_has_decided(tmp_path):
    examples = _of_texts(tmp_path / "t.csv", ("text", "label"), TEXTS)
    second = examples._replace(
        kept=np.array([0, 1, 3]), given=np.array([1, 0, 1]), ids=["2", "3", "5"], gone=["4"], anew=True
    )
    corrected.write(tmp_path / "b.csv", second, {2: 0})
    assert csv_source.read_rows(tmp_path / "b.csv")[1:] == [
        ["good", "y"], ["fine", "x"], ["poor", "x"], ["great", "x"], ["dull", "y"],
    ]  # fmt: skip


def test_files_are_listed_as_training_lists_them(folder, tmp_path):
    """A class folder that is a link has its held-out files, and what macOS leaves is not there."""
    elsewhere = tmp_path / "elsewhere"
    (folder.root / "train" / "x").rename(elsewhere)
    (folder.root / "train" / "x").symlink_to(elsewhere)
    (elsewhere / "._1.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(elsewhere / "held_out.png")
    corrected.write(tmp_path / "fixed.csv", folder, {0: 1})
    names = [row[0] for row in csv_source.read_rows(tmp_path / "fixed.csv")[1:]]
    assert sorted(name.removeprefix("images/") for name in names) == [
        "test/x/8.png", "test/y/9.png", "train/x/1.png", "train/x/2.png", "train/x/held_out.png", "train/y/1.png",
        "train/y/3.png",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["fixed.csv", "fixed"])
def test_a_folder_may_be_named_from_where_one_is(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    out = pathlib.Path(name)
    flag = corrected.write(out, folder._replace(root=pathlib.Path("images")), {0: 1}, {0})
    assert len(data.load(flag.removeprefix("--dataset="), cache_dir=tmp_path / "cache").train_labels) == 4
    if name == "fixed.csv":
        assert csv_source.read_rows(out)[1] == ["images/train/x/1.png", "y", "train", "yes"]


def test_links_of_a_table_of_images_have_its_test_part(folder, tmp_path):
    table = folder.root / "all.csv"
    table.write_text(
        "path,label,split\ntrain/x/1.png,x,train\ntrain/x/2.png,x,train\ntrain/y/1.png,y,train\n"
        "train/y/3.png,y,train\ntest/x/8.png,x,test\ntest/y/9.png,y,test\n"
    )
    corrected.write(tmp_path / "out", folder._replace(table=table), {0: 1})
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert found == ["test/x/8.png", "test/y/9.png", "train/x/2.png", "train/y/1-2.png", "train/y/1.png",
                     "train/y/3.png"]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "flag", "after"),
    [
        ("robustjax --noise symmetric --method=elr --overwrite --seeds 2", "--noise-file=a",
         "robustjax --method=elr --seeds 2 --noise-file=a"),
        ("robustjax --dataset=folder:a --noise-rate=0.2 --out=b", "--dataset=csv:c", "robustjax --dataset=csv:c"),
        ("", "--labels=a.npy", "python -m experiments.run --labels=a.npy"),
    ],
)  # fmt: skip
def test_the_command_that_trains_again(before, flag, after):
    assert corrected.next_command(before, flag) == after


def test_what_comes_next_overwrites_nothing(tmp_path):
    run = tmp_path / "runs" / "mine"
    command = "python -m experiments.run --dataset=csv:mine.csv --out=runs/mine"
    write, train = next_step.commands(run, "csv:mine.csv", command)
    assert write.endswith("mine --apply=fixed.csv --accept-above=0.9")
    assert train == f"python -m experiments.run --dataset=csv:fixed.csv --out={run.parent / 'fixed'}"
    (run.parent / "fixed").mkdir(parents=True)
    write, train = next_step.commands(run.parent / "fixed", "csv:fixed.csv", command)
    assert "--apply=fixed-2.csv" in write and train.endswith(f"csv:fixed-2.csv --out={run.parent / 'fixed-2'}")
    assert "--noise-file=fixed-2.npz" in next_step.commands(run, "cifar10", command)[1]


# --- The command -----------------------------------------------------------------------------------------------------


def test_probabilities_alone(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", pred_probs=probabilities(), given=GIVEN.astype(np.int8), true=TRUE)
    np.save(tmp_path / "labels.npy", GIVEN)
    file, out = tmp_path / "a.npz", tmp_path / "out"
    arguments = [f"--pred-probs={file}", f"--labels={file}:given", f"--true-labels={file}:true", f"--out={out}"]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "6 of 60 labels are wrong" in printed and "AUROC 1.0000" in printed and "f1 1.0000" in printed
    rows = suspects.read(out / "suspects.csv")
    assert {int(row.id) for row in rows[:6]} == set(np.flatnonzero(WRONG).tolist())
    assert "has no nothing, only" in failed(capsys, f"--pred-probs={file}:nothing", f"--labels={file}:given")
    assert "--labels=FILE are needed" in failed(capsys, f"--pred-probs={file}")
    np.save(tmp_path / "short.npy", GIVEN[:5])
    assert "5 labels, for 60 rows" in failed(capsys, f"--pred-probs={file}", f"--labels={tmp_path / 'short.npy'}")


def test_decisions_become_a_noise_file_and_a_command(copy, capsys, monkeypatch):
    monkeypatch.chdir(copy)
    np.savez("mine.npz", train_inputs=dataset().train_inputs, train_labels=GIVEN, test_inputs=dataset().test_inputs,
             test_labels=TRUE[:6], class_names=np.array(NAMES))  # fmt: skip
    rows = [row._replace(id=str(IDS.index(row.id))) for row in suspects.read(copy / "suspects.csv")]
    (copy / "suspects.csv").unlink()
    suspects.write(copy / "suspects.csv", rows)
    assert "nothing is decided" in failed(capsys, copy, "--apply=fixed.npz")
    assert "goes with --apply" in failed(capsys, copy, "--accept-above=0.9")
    assert "in [0, 1]" in failed(capsys, copy, "--apply=fixed.npz", "--accept-above=9")
    assert "is not for a run" in failed(capsys, copy, "--labels=a.npy")
    assert "no config.json" in failed(capsys, copy / "nowhere")
    assert command.main([str(copy)]) == 0
    assert "6 of 60 labels are wrong" in capsys.readouterr().out
    decide(copy, {0: "remove"})
    assert command.main([str(copy), "--apply=fixed.npz", "--accept-above=0.9"]) == 0
    printed = capsys.readouterr().out
    assert "5 relabelled, 1 removed" in printed
    assert shlex.split(printed.splitlines()[-1])[-2:] == ["--noise-file=fixed.npz", f"--out={copy.parent / 'fixed'}"]
    noise = corruptions.load_noise("fixed.npz", clean_labels=GIVEN)
    gone = int(rows[0].id)
    np.testing.assert_array_equal(noise.kept, np.delete(np.arange(N), gone))
    np.testing.assert_array_equal(noise.given, np.delete(TRUE, gone))


# --- Duplicates and calibration --------------------------------------------------------------------------------------


def test_near_duplicates_with_other_labels_are_found():
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (40, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    images = np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
    again = np.clip(images[:6].astype(int) + rng.integers(-3, 4, images[:6].shape), 0, 255).astype(np.uint8)
    labels = np.arange(46) % 4
    found = duplicates.differently_labelled(np.concatenate([images, again]), labels)
    wanted = [(i, 40 + i) for i in range(6) if labels[i] != labels[40 + i]]
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == wanted and not found.exact.any()
    same = duplicates.differently_labelled(np.concatenate([images, again]), np.zeros(46, int))
    assert len(same.first) == 0


def test_reliability_adds_up_to_the_calibration_error():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (200, 5)).astype(np.float32), rng.integers(0, 5, 200)
    bins = np.asarray(jax.jit(evaluation.reliability)(logits, labels))
    share, confidence, right = bins.T
    assert share.sum() == pytest.approx(1)
    assert (share * right).sum() == pytest.approx(float(evaluation.accuracy(logits, labels)), abs=1e-6)
    edges = np.linspace(0, 1, 16)
    there = share > 0
    assert ((confidence > edges[:-1]) & (confidence <= edges[1:]))[there].all()


def test_reviewed_labels_go_last_and_the_others_keep_their_order():
    score, order = np.array([1, 1, 1, 0.5], np.float32), np.array([2, 0, 1, 3])
    zeros = np.zeros(4, np.int32)
    found = auditing.Audit(score, zeros, 3.5, 1.0, 4.0, order, order, np.eye(2), np.full(2, 0.5), zeros + 1, score)
    trusted = audit._trusting(found, zeros, np.array([True, False, False, False]))
    assert trusted.order.tolist() == [2, 1, 3, 0] and trusted.suspects.tolist() == [2, 1]
    assert trusted.count == 2.5 and trusted.score.tolist() == [0, 1, 1, 0.5]
