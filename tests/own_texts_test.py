"""Texts of one's own: how they come in, the network that reads them, and a run, its audit and its correction."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robustjax
from experiments import audit, predict, run
from experiments.runs import audit as runs_audit
from experiments.settings import config, defaults, files
from robustjax import data
from robustjax.data import csv_source, tables
from robustjax.models import bag_of_words, get_model

AFTER_RUN = runs_audit.after_run  # before conftest.py puts it aside
GOOD, BAD = ("good", "fine", "great", "lovely"), ("bad", "poor", "awful", "dull")


def _written(rng, label):
    """A text whose words tell its label, with others that do not."""
    told = rng.choice(GOOD if label else BAD, 3)
    return " ".join(rng.permutation([*told, *rng.choice(("the", "film", "was", "and"), 5)]))


def _texts(count, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return [f"{_written(rng, label)}, {i}" for i, label in enumerate(labels)], labels


def _save(path, rows, header=("review", "sentiment")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return f"csv:{path}"


# What comes in.


def test_a_csv_file_of_texts_is_numbered_by_the_words_it_trains_on(tmp_path):
    rows = [("Good, GOOD film", "+", "train"), ("bad", "-", "train"), ("good new film", "+", "test")]
    got = data.load(_save(tmp_path / "t.csv", rows, ("Text", "label", "split")))
    assert got.vocabulary == ("[PAD]", "[UNK]", "good", ",", "bad", "film") and got.num_tokens == 6
    assert got.train_inputs.tolist() == [[2, 3, 2, 5], [4, 0, 0, 0]] and got.test_inputs.tolist() == [[2, 1, 5, 0]]
    assert got.train_inputs.dtype == np.int32 and (got.mean, got.std) == ((0.0,), (1.0,))
    assert got.train_texts == ("Good, GOOD film", "bad") and got.train_ids == ("2", "3")
    assert (
        got.notes[0].startswith("columns of t.csv: text=Text, label=label") and "the last 4 of a text" in got.notes[-1]
    )
    short = data.load(f"csv:{tmp_path / 't.csv'}", max_tokens=2, vocabulary_size=4)
    assert short.train_inputs.tolist() == [[2, 1], [1, 0]] and "(2 of 3 have as many or more" in short.notes[-1]
    mine = data.load(f"csv:{tmp_path / 't.csv'}", vocabulary=("[PAD]", "[UNK]", "new"), max_tokens=3)
    assert mine.test_inputs.tolist() == [[1, 2, 1]] and mine.num_tokens == 3


def test_the_text_column_is_the_one_said_or_the_one_there_is_no_other_input_beside():
    def found(header, **columns):
        return tables.find_columns(header, columns, "it", ("path", "label"))

    assert found(["comment", "class"]) == {"text": "comment", "label": "class"}
    assert found(["path", "text", "label"]) == {"path": "path", "label": "label"}
    assert found(["feature0", "feature1", "text", "label"]) == {"features": "feature", "label": "label"}
    assert found(["path", "words", "label"], text="words") == {"text": "words", "label": "label"}
    assert found(["path", "text", "label"], path="") == {"text": "text", "label": "label"}
    with pytest.raises(ValueError, match="columns has path and text; one of them is what the network sees"):
        found(["path", "text", "label"], path="path", text="text")
    with pytest.raises(ValueError, match=r"no column for the path or the text, .*text=NAME or features=PREFIX"):
        found(["words", "label"])


def test_an_empty_text_is_told_or_left_out_and_a_long_one_is_read(tmp_path):
    long = "word " * 40_000  # 200 kB, more than a field of Python's csv reader holds
    rows = [("good", "+"), (" \t", "-"), (long, "-"), ("bad", "-"), ("fine", "+")]
    spec = _save(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match=r"csv:t has 1 empty text\(s\), the first in t.csv, row 3; skip_bad leaves"):
        data.load(spec)
    before = csv.field_size_limit()
    got = data.load(spec, skip_bad=True, hold_out=False)
    assert csv.field_size_limit() == before
    assert got.train_ids == ("2", "4", "5", "6") and got.train_inputs.shape == (4, 512)
    assert got.notes[-2] == "left out, since they are empty: 1 text(s), the first in t.csv, row 3."
    with pytest.raises(ValueError, match=r"train_inputs has 1 empty text\(s\), the first at index 1"):
        data.from_arrays([row[0] for row in rows], [row[1] for row in rows])


def test_what_is_held_out_stays_where_rows_go(tmp_path):
    texts, labels = _texts(60)
    whole = data.load(_save(tmp_path / "a.csv", zip(texts, labels, strict=True)))
    less = data.load(_save(tmp_path / "b.csv", list(zip(texts, labels, strict=True))[2:]))
    assert whole.test_held_out and len(whole.test_labels) == 12 and whole.train_ids != less.train_ids
    held, again = (set(texts) - set(dataset.train_texts) - set(texts[:2]) for dataset in (whole, less))
    assert len(held & again) >= 9


def test_texts_are_for_text_options_and_no_others(tmp_path):
    texts, labels = _texts(20)
    spec = _save(tmp_path / "t.csv", zip(texts, labels, strict=True))
    with pytest.raises(ValueError, match=r"image_size is \(8, 8\); 'csv:t' data are texts: leave it out"):
        data.load(spec, image_size=8)
    rows = [(0.5, i % 2) for i in range(20)]
    with pytest.raises(ValueError, match="max_tokens is 4; 'csv:f' data are not texts"):
        data.load(_save(tmp_path / "f.csv", rows, ("feature", "label")), max_tokens=4)
    np.savez(tmp_path / "f.npz", features=np.zeros((20, 3)), labels=labels)
    with pytest.raises(ValueError, match="max_tokens is 4; 'f' data are not texts: leave it out"):
        data.load(f"npz:{tmp_path / 'f.npz'}", max_tokens=4)
    with pytest.raises(ValueError, match="max_tokens is 4; 'arrays' data are not texts"):
        data.from_arrays(np.zeros((20, 3)), labels, max_tokens=4)
    with pytest.raises(ValueError, match=r"vocabulary is .*; 'mnist' data are numbered by their own words"):
        data.load("mnist", vocabulary=("a", "b", "c"))


def test_archives_and_lists_of_texts_are_read_alike(tmp_path):
    texts, labels = _texts(30)
    np.savez(tmp_path / "t.npz", texts=np.array(texts), labels=labels)
    archive, listed = data.load(f"npz:{tmp_path / 't.npz'}"), data.from_arrays(tuple(texts), labels)
    assert archive.vocabulary == listed.vocabulary and archive.train_texts == listed.train_texts
    np.testing.assert_array_equal(archive.train_inputs, listed.train_inputs)
    assert set(listed.vocabulary[2:]) <= set(" ".join(listed.train_texts).split(" ")) | {","}
    given = data.from_arrays(texts[:20], labels[:20], texts[20:], labels[20:])
    assert len(given.test_inputs) == 10 and given.train_inputs.shape[1] == given.test_inputs.shape[1]


def _folder(root, texts, labels, parts=("train", "test")):
    """Text files below root/PART/neg or pos, every fifth of them of the second part."""
    for i, (each, label) in enumerate(zip(texts, labels, strict=True)):
        place = root / parts[i % 5 == 4] / ("pos" if label else "neg")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:03}.txt").write_text(each, encoding="utf-8")
    return f"folder:{root}"


def test_a_folder_of_text_files_and_a_table_of_them_are_read_alike(tmp_path):
    texts, labels = _texts(24)
    spec = _folder(tmp_path / "f", texts, labels)
    got = data.load(spec)
    assert got.class_names == ("neg", "pos") and not got.test_held_out and len(got.test_labels) == 4
    assert set(got.train_texts) == {each for i, each in enumerate(texts) if i % 5 != 4}
    places = [int(name[-7:-4]) for name in got.train_ids]
    assert got.train_ids[0] == "train/neg/000.txt" and got.train_labels.tolist() == labels[places].tolist()
    assert got.train_texts == tuple(texts[i] for i in places)
    rows = [
        (f"f/{name}", "neg" if label == 0 else "pos")
        for name, label in zip(got.train_ids, got.train_labels, strict=True)
    ]
    table = data.load(_save(tmp_path / "t.csv", rows, ("path", "label")), hold_out=False)
    assert table.train_texts == got.train_texts and table.vocabulary == got.vocabulary
    assert data.load(f"{_folder(tmp_path / 'held', texts, labels, ('', ''))}").test_held_out
    with pytest.raises(ValueError, match=r"image_size is .*are texts: leave it out"):
        data.load(spec, image_size=8)


def test_text_files_that_cannot_be_read_are_named_or_left_out(tmp_path):
    texts, labels = _texts(24)
    spec = _folder(tmp_path / "f", texts, labels)
    (tmp_path / "f" / "train" / "neg" / "000.txt").write_bytes("un café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"1 of 24 text files .*neg/000\.txt' is no text in UTF-8.*skip_bad leaves"):
        data.load(spec)
    got = data.load(spec, skip_bad=True)
    assert len(got.train_texts) == 19 and any("left out: 1 of 24 text files" in note for note in got.notes)
    (tmp_path / "f" / "train" / "neg" / "000.txt").write_text("")
    with pytest.raises(ValueError, match=r"1 empty text\(s\), the first in .*neg/000\.txt"):
        data.load(spec)
    (tmp_path / "none" / "a").mkdir(parents=True)
    (tmp_path / "none" / "b").mkdir()
    with pytest.raises(ValueError, match=r"has no images \(\.bmp, .*\) or no texts \(\.txt\) of a, b"):
        data.load(f"folder:{tmp_path / 'none'}")
    (tmp_path / "none" / "a" / "x.txt").write_text("good")
    with pytest.raises(ValueError, match=r"none' has no texts \(\.txt\) of b"):
        data.load(f"folder:{tmp_path / 'none'}")


def test_a_hugging_face_set_of_texts(tmp_path):
    datasets = pytest.importorskip("datasets")
    texts, labels = _texts(20)
    for name, columns in (
        ("usual", {"source": ["x"] * 20, "text": texts, "label": labels}),
        ("only", {"utterance": texts, "label": [BAD[0] if each else GOOD[0] for each in labels]}),
    ):
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / name)
        got = data.load(f"hf:{tmp_path / name}", hold_out=False)
        assert got.train_texts == tuple(texts) and got.num_classes == 2
    datasets.Dataset.from_dict({"a": texts, "b": texts, "label": labels}).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match=r"has 2 columns of images, of lists of floats or of texts; .*text=NAME"):
        data.load(f"hf:{tmp_path / 'two'}")
    assert data.load(f"hf:{tmp_path / 'two'}", columns={"text": "b"}, hold_out=False).train_texts == tuple(texts)


def test_trusted_texts_take_the_words_of_the_others(tmp_path):
    texts, labels = _texts(40)
    dataset = data.load(_save(tmp_path / "t.csv", zip(texts, labels, strict=True)))
    spec = _save(tmp_path / "trusted.csv", [("great unheard film", 1), ("dull", 0)])
    pool = files.read_trusted(spec, dataset)
    assert pool.vocabulary == dataset.vocabulary and pool.train_inputs.shape == (2, dataset.train_inputs.shape[1])
    words = [dataset.vocabulary[number] for number in pool.train_inputs[0] if number]
    assert words == ["great", "[UNK]", "film"]


# The network.


def test_a_word_counts_by_its_rank_once_wherever_it_stands():
    tokens = jnp.array([[2, 4, 4, 0], [0, 1, 0, 0], [9, 4, 0, 2]])  # 9 is no word
    weights = jnp.array([3.0, 2.0, 4.0])
    found = jax.jit(bag_of_words.presence)(tokens, weights)
    np.testing.assert_allclose(found, [[0.6, 0, 0.8], [0, 0, 0], [0.6, 0, 0.8]], rtol=1e-6)
    model = get_model("bag_of_words", 3, vocabulary_size=5)
    params, stats = model.init(jax.random.key(0), tokens)
    kernel = params["perceptron"]["head"]["kernel"]
    assert kernel.shape == (3, 3) and sum(leaf.size for leaf in jax.tree.leaves(params)) == 12
    seen, _ = model.features(params, stats, tokens)
    expected = np.log(2 + np.arange(3) / 10) * [1, 0, 1]
    np.testing.assert_allclose(seen[0], expected / np.linalg.norm(expected), rtol=1e-6)
    assert {tap: shape.shape for tap, shape in model.tap_shapes(params, stats, tokens).items()} == {
        "perceptron/inputs": (3, 3)
    }
    for wrong in (tokens[0], tokens.astype(jnp.float32)):
        with pytest.raises(ValueError, match=r"inputs must be int token ids \[B, L\], got"):
            model.init(jax.random.key(0), wrong)


def test_texts_get_a_network_that_a_laptop_trains():
    of = defaults.Size((512,), "int32", 20_000, 3_000, 2)
    asked = config.resolve({"dataset": "csv:t.csv"})[0]
    settings, reasons = config.fill(asked, of)
    assert (settings.model, settings.optimizer, settings.epochs) == ("bag_of_words", "sgd", 30)
    assert settings.learning_rate == 0.5 and reasons["model"].reason == "texts"
    lstm, _ = config.fill(config.resolve({"dataset": "csv:t.csv", "model": "bilstm"})[0], of)
    assert (lstm.optimizer, lstm.learning_rate, lstm.epochs) == ("adam", 1e-3, 20)


# A run.


@pytest.fixture(scope="module", autouse=True)
def audits():
    """Runs end with an audit, as they do outside tests (conftest.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_audit, "after_run", AFTER_RUN)
        yield


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A folder with texts of which some have wrong labels, which ones, and a finished run on them."""
    folder = tmp_path_factory.mktemp("texts")
    texts, labels = _texts(160)
    given = labels.copy()
    wrong = np.arange(0, 160, 7)
    given[wrong] = 1 - given[wrong]
    names = np.array(["negative", "positive"])
    _save(folder / "reviews.csv", [(each, names[label], "x") for each, label in zip(texts, given, strict=True)],
          ("review", "sentiment", "note"))  # fmt: skip
    flags = ["--method=cross_entropy", "--epochs=8", "--parallel=single", "--compilation-cache=off"]
    assert run.main([f"--dataset=csv:{folder / 'reviews.csv'}", *flags, f"--out={folder / 'run'}"]) == 0
    return folder, texts, labels, given


def test_a_run_on_texts_finds_wrong_labels_and_shows_the_texts(reviews):
    folder, texts, labels, given = reviews
    config_ = json.loads((folder / "run" / "config.json").read_text())
    assert config_["settings"]["model"] == "bag_of_words"
    with open(folder / "run" / "suspects.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(row["text"] == texts[int(row["id"]) - 2] for row in rows)
    first = [int(row["id"]) - 2 for row in rows[:12]]  # of 18 or so that are wrong
    assert np.mean(labels[first] != given[first]) > 0.9
    assert rows[0]["text"] in (folder / "run" / "report.html").read_text(encoding="utf-8")


def test_corrected_texts_are_the_same_table_with_other_labels(reviews, tmp_path, capsys):
    folder = reviews[0]
    suspects, out = folder / "run" / "suspects.csv", tmp_path / "fixed.csv"
    before = suspects.read_bytes()
    lines = before.decode().splitlines()
    place = int(lines[1].split(",")[0])
    with open(suspects, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    rows[0][header.index("decision")] = "relabel"
    try:
        _save(suspects, rows, header)
        assert audit.main([str(folder / "run"), f"--apply={out}"]) == 0
    finally:
        suspects.write_bytes(before)
    assert f"--dataset=csv:{out}" in capsys.readouterr().out
    old, new = csv_source.read_rows(folder / "reviews.csv"), csv_source.read_rows(out)
    changed = [line for line, (a, b) in enumerate(zip(old, new, strict=True), 1) if a[:3] != b[:3]]
    assert changed == [place] and new[place - 1][1] != old[place - 1][1] and new[place - 1][3] == "yes"
    assert data.load(f"csv:{out}").reviewed.sum() == 1


def test_other_texts_are_predicted_from_a_table(reviews, tmp_path, capsys):
    folder = reviews[0]
    _save(tmp_path / "new.csv", [(1, "good, great"), (2, "dull and poor")], ("number", "comment"))
    assert predict.main([str(folder / "run"), str(tmp_path / "new.csv")]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["label"] for row in rows] == ["positive", "negative"] and rows[1]["path"].endswith("new.csv:1")
    assert predict.main([str(folder / "run"), str(tmp_path / "new.csv"), "--key=number"]) == 0
    (tmp_path / "new.txt").write_text("good\x0cgreat\u2028fine\ndull\r\n", encoding="utf-8", newline="")
    capsys.readouterr()
    assert predict.main([str(folder / "run"), str(tmp_path / "new.txt")]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["path"][-5:] for row in rows] == ["txt:0", "txt:1"]
    _save(tmp_path / "none.csv", [(1, "good")], ("number", "words"))
    for flags, told in (
        ([], "no column of texts, such as text; it has number, words"),
        (["--key=no"], "no column 'no'"),
    ):
        capsys.readouterr()
        assert predict.main([str(folder / "run"), str(tmp_path / "none.csv"), *flags]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"")
    assert predict.main([str(folder / "run"), str(tmp_path / "a.png")]) == 2
    assert ".npy, .npz, .txt and .csv are accepted" in capsys.readouterr().err


def test_text_files_are_corrected_and_predicted_like_images(tmp_path, capsys):
    texts, labels = _texts(160)
    given = labels.copy()
    given[::7] = 1 - given[::7]
    spec, out = _folder(tmp_path / "f", texts, given), tmp_path / "run"
    flags = ["--method=cross_entropy", "--epochs=8", "--parallel=single", "--compilation-cache=off"]
    assert run.main([f"--dataset={spec}", *flags, f"--out={out}"]) == 0
    with open(out / "suspects.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["text"] == (tmp_path / "f" / rows[0]["id"]).read_text()
    for place in (tmp_path / "fixed.csv", tmp_path / "fixed"):
        assert audit.main([str(out), f"--apply={place}", "--accept-above=0"]) == 0
        kind = "csv" if place.suffix else "folder"
        again = data.load(f"{kind}:{place}")
        assert len(again.train_texts) == 128 and set(again.train_texts) <= set(texts)
        assert sum(labels[texts.index(each)] != label for each, label in
                   zip(again.train_texts, again.train_labels, strict=True)) < 6  # of 18  # fmt: skip
    new = tmp_path / "new"
    new.mkdir()
    (new / "b.txt").write_text("a good film\na lovely one")
    (new / "c.txt").write_text("dull and poor")
    capsys.readouterr()
    assert predict.main([str(out), str(new), str(new / "b.txt")]) == 0
    told = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["label"] for row in told] == ["pos", "neg", "pos", "pos"] and told[2]["path"].endswith("b.txt:0")
    (new / "a.txt").write_bytes(b"\xff")
    assert predict.main([str(out), str(new)]) == 2
    assert "is no text in UTF-8" in capsys.readouterr().err
    assert predict.main([str(out), str(new), "--skip-bad"]) == 0
    assert "2 predicted; 1 unreadable ones skipped" in capsys.readouterr().err


# From Python.


def test_fit_takes_texts_and_tells_them_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts, labels = _texts(80)
    quick = {"method": "cross_entropy", "epochs": 4, "quiet": True}
    fitted = robustjax.fit(texts, labels, **quick)
    assert fitted.settings.model == "bag_of_words"
    assert fitted.predict_labels(["good great film", "awful, dull"]).tolist() == [1, 0]
    length = fitted._source.dataset.train_inputs.shape[1]
    assert fitted.predict(["good"] * length).shape == (length, 2)  # as many texts as a text has words
    assert robustjax.fit(list(texts), labels, **quick).path == fitted.path
    assert robustjax.fit(texts, labels, max_tokens=3, **quick).predict(["good"]).shape == (1, 2)
    with pytest.raises(ValueError, match="inputs='good' is one example; a list of them is accepted"):
        fitted.predict("good")
    with pytest.raises(ValueError, match=r"2 of 2 images cannot be read, the first 'a\.png'"):
        robustjax.fit(["a.png", "b.PNG"], [0, 1], **quick)
    with pytest.raises(ValueError, match=r"empty text\(s\), the first at index 1"):
        robustjax.fit(["good", ""] * 8, [0, 1] * 8, **quick)
    with pytest.raises(ValueError, match="image_size=8: it is for paths of image files"):
        robustjax.fit(texts, labels, image_size=8, **quick)


def test_fit_takes_a_frame_of_texts(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    texts, labels = _texts(80)
    frame = pandas.DataFrame({"length": list(map(len, texts)), "text": texts, "label": labels})
    frame.loc[3, "text"] = None
    quick = {"method": "cross_entropy", "epochs": 4, "quiet": True}
    with pytest.raises(ValueError, match=r"empty text\(s\), the first at index 3"):
        robustjax.fit(frame, "label", **quick)
    fitted = robustjax.fit(frame, "label", skip_bad=True, **quick)
    assert 3 not in fitted.positions and fitted.predict_labels(frame.iloc[4:6]).tolist() == labels[4:6].tolist()
    assert set(fitted.suspects()["text"]) <= set(texts)
    only = robustjax.fit(frame[["text"]].iloc[4:].rename(columns={"text": "words"}), labels[4:], **quick)
    assert only.predict_labels(["good great"]).tolist() == [1]
    with pytest.raises(ValueError, match="the frame lacks the column 'text', of the texts"):
        fitted.predict(frame[["length"]])
