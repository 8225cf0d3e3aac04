"""Texts: vocabulary and token ids, TFDS text sets and their cache, refusals, and runs from the command line."""

import json
import random
import re

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import run
from experiments.runs import restore
from experiments.settings import build, config
from robustjax import data, models
from robustjax.data import array_cache, text, tfds_source
from robustjax.models import lstm
from tests import tfds_sets

TEXTS = ["The cat sat.<br /><br />On the mat!", "a Cat isn't [PAD]", "the dog"]


# Words and ids.


def test_vocabulary_holds_the_most_frequent_words_ties_in_their_order():
    # twice or more: the (3), cat (2); once each: ! ' . [ ] a dog isn mat on pad sat t
    assert text.build_vocabulary(TEXTS) == (
        "[PAD]", "[UNK]", "the", "cat", *"!'.[]", "a", "dog", "isn", "mat", "on", "pad", "sat", "t"
    )  # fmt: skip
    assert text.build_vocabulary(TEXTS, 4) == ("[PAD]", "[UNK]", "the", "cat")


def test_vocabulary_does_not_depend_on_the_order_of_the_texts():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=20)) for _ in range(50)]
    first = text.build_vocabulary(texts, 15)
    for _ in range(3):
        rng.shuffle(texts)
        assert text.build_vocabulary(iter(texts), 15) == first


def test_encoding_keeps_the_end_and_pads_behind():
    words = text.build_vocabulary(TEXTS)
    ids = text.encode(["THE CAT sat\non the mat", "a zebra", "", "Mat!"], words, 4)
    assert ids.dtype == np.int32 and ids.shape == (4, 4)
    assert [[words[i] for i in row] for row in ids] == [
        ["sat", "on", "the", "mat"],
        ["a", "[UNK]", "[PAD]", "[PAD]"],
        ["[PAD]"] * 4,
        ["mat", "!", "[PAD]", "[PAD]"],
    ]


def test_spelling_out_a_special_token_gives_words():
    words = text.build_vocabulary(TEXTS)
    ids = text.encode(["[PAD] [UNK] cat"], words, 8)[0]
    assert [words[i] for i in ids if i] == ["[", "pad", "]", "[", "[UNK]", "]", "cat"]


def test_packed_vocabulary_comes_back():
    words = text.build_vocabulary(["naïve café 映画 \u2028 tab\tand\nline"])
    assert {"naïve", "café"} <= set(words)
    packed = text.pack(words)
    assert packed.dtype == np.uint8 and packed.ndim == 1 and text.unpack(packed) == words


def test_bad_sizes_and_wordless_texts_are_named():
    with pytest.raises(ValueError, match="vocabulary size is 2; expected at least 3"):
        text.build_vocabulary(TEXTS, 2)
    with pytest.raises(ValueError, match="max_tokens is 0; expected at least 1"):
        text.encode(TEXTS, text.SPECIAL, 0)
    with pytest.raises(ValueError, match="no word"):
        text.build_vocabulary(["", " \n"])


# TFDS.


def _review(label, i, rng):
    words = [*rng.choices(["one", "two", "three", "four", "five"], k=3), ["bad", "good"][label]]
    rng.shuffle(words)
    return " ".join(words) + (" unseen" if i is None else "")


def _prepare(folder, features=None, make=None, name="RobustjaxReviews", train=64, test=16):
    """A TFDS set of reviews whose class is the word good or bad; the test ones end in a word that train has not."""
    rng = random.Random(0)
    features = features or {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["neg", "pos"])}
    make = make or (lambda review, label: {"text": review, "label": label})

    def examples(count, is_test):
        for i in range(count):
            yield i, make(_review(i % 2, None if is_test else i, rng), i % 2)

    splits = {"train": lambda: examples(train, False), "test": lambda: examples(test, True)}
    tfds_sets.prepare(folder, name, features, splits)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    _prepare(folder)
    return folder


def _load(folder, cache, **options):
    return data.load("robustjax_reviews", folder, cache, download=False, **options)


def test_tfds_texts_become_tokens(reviews, tmp_path):
    got = _load(reviews, tmp_path, max_tokens=5)
    assert got.train_inputs.shape == (64, 5) and got.test_inputs.shape == (16, 5) and got.train_inputs.dtype == np.int32
    assert got.class_names == ("neg", "pos") and got.mean == (0.0,) and got.std == (1.0,)
    assert set(got.vocabulary) == {*text.SPECIAL, "one", "two", "three", "four", "five", "bad", "good"}
    assert got.num_tokens == 9
    source = tfds.data_source("robustjax_reviews", split="train", data_dir=reviews, download=False)
    texts = [record["text"].decode() for record in source]
    np.testing.assert_array_equal(got.train_inputs, text.encode(texts, got.vocabulary, 5))
    np.testing.assert_array_equal(got.train_labels, ["good" in t for t in texts])
    np.testing.assert_array_equal(got.test_inputs[:, 4], text.UNKNOWN)  # the vocabulary is that of the training texts
    np.testing.assert_array_equal(got.test_labels, (got.test_inputs == got.vocabulary.index("good")).any(1))


def test_tokens_come_from_the_cache_the_second_time(reviews, tmp_path, monkeypatch, capsys):
    first = _load(reviews, tmp_path)
    assert first.train_inputs.shape[1] == text.MAX_TOKENS
    assert "decoding robustjax_reviews once (80 examples)" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(tfds_source, "_texts", lambda *_: pytest.fail("read twice"))
        patch.setattr(text, "encode", lambda *_: pytest.fail("encoded twice"))
        second = _load(reviews, tmp_path, max_tokens=text.MAX_TOKENS, vocabulary_size=text.VOCABULARY_SIZE)
    assert capsys.readouterr().err == "" and first.vocabulary == second.vocabulary
    np.testing.assert_array_equal(first.train_inputs, second.train_inputs)
    assert _load(reviews, tmp_path, max_tokens=3).train_inputs.shape[1] == 3
    assert _load(reviews, tmp_path, vocabulary_size=4).num_tokens == 4
    (packed, *_) = tmp_path.rglob("vocabulary.npy")
    packed.unlink()
    for options in ({}, {"max_tokens": 3}, {"vocabulary_size": 4}):
        assert _load(reviews, tmp_path, **options).vocabulary[:2] == text.SPECIAL, "a damaged cache is made again"


def test_the_only_text_and_label_are_found_and_two_are_refused(tmp_path):
    label = tfds.features.ClassLabel(names=["neg", "pos"])
    _prepare(
        tmp_path / "one", {"sentence": tfds.features.Text(), "mood": label}, lambda t, y: {"sentence": t, "mood": y}
    )
    assert _load(tmp_path / "one", tmp_path, max_tokens=2).train_inputs.shape == (64, 2)
    _prepare(
        tmp_path / "two",
        {"first": tfds.features.Text(), "second": tfds.features.Text(), "label": label},
        lambda t, y: {"first": t, "second": t, "label": y},
    )
    with pytest.raises(ValueError, match=r"not image or text classification .*(first|second): Text"):
        _load(tmp_path / "two", tmp_path)


def test_options_for_another_kind_of_data_are_named(reviews, tmp_path):
    with pytest.raises(ValueError, match=r"image_size is .*'robustjax_reviews' data are texts: leave it out"):
        _load(reviews, tmp_path, image_size=8)
    with pytest.raises(ValueError, match=r"max_tokens is 8; .* data are not texts: leave it out"):
        data.load("digits", cache_dir=tmp_path, max_tokens=8)
    with pytest.raises(ValueError, match="vocabulary size is 1"):
        _load(reviews, tmp_path, vocabulary_size=1)
    assert not list(tmp_path.rglob("*.npy"))


def test_number_of_tokens_of_plain_arrays():
    labels = np.array([0, 1, 0])
    ids = np.array([[3, 4, 0], [5, 0, 0], [1, 2, 3]])
    assert data.from_arrays(ids, labels, ids + 2, labels).num_tokens == 8
    assert any("are read as token ids" in note for note in data.from_arrays(ids, labels, ids, labels).notes)
    assert data.from_arrays(ids, labels, ids - 1, labels).num_tokens is None
    for numbers in (ids - 1, ids.astype(np.uint8)):  # features: each has a mean and a spread
        got = data.from_arrays(numbers, labels, numbers, labels)
        assert got.train_inputs.dtype == np.float32 and len(got.mean) == 3 and not got.notes
    assert data.from_arrays(ids / 2, labels, ids / 2, labels).num_tokens is None
    grey = ids.astype(np.uint8)[..., None]
    assert data.from_arrays(grey, labels, grey, labels).num_tokens is None


def test_statistics_are_of_images_only():
    assert array_cache.channel_statistics(np.ones((3, 4), np.int32)) == ((0.0,), (1.0,))


# Runs.


def _run(dataset, *more):
    return run.main([
        "--method=cross_entropy", f"--dataset={dataset}", "--noise=none", "--noise-rate=0", "--imbalance=none",
        "--imbalance-ratio=1", "--quiet", "--parallel=single", "--optimizer=adam", "--schedule=constant",
        "--weight-decay=0", *more,
    ])  # fmt: skip


def test_a_run_on_texts_learns_and_comes_back(reviews, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(models._REGISTRY, "bilstm", (lstm.BiLstm, {"embedding": 16, "units": 16, "depth": 1}))
    out = tmp_path / "run"
    assert _run(
        "robustjax_reviews", f"--data-dir={reviews}", "--model=bilstm", "--max-tokens=6", "--epochs=12",
        "--batch-size=16", "--learning-rate=0.01", "--track-every=0", "--checkpoint-every=0", f"--out={out}",
    ) == 0  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["max_tokens"] == 6 and summary["class_names"] == ["neg", "pos"]
    assert summary["seeds"][0]["test_accuracy_last"] == 1
    restored = restore.restore_run(out, data_dir=reviews)
    ids = text.encode(["five good one", "five bad one"], restored.dataset.vocabulary, 6)
    np.testing.assert_array_equal(restore.predict(restored, ids).argmax(1), [1, 0])
    logits = restore.predict(restore.restore_model(out), ["five good one", "five bad one"])  # without the reviews
    np.testing.assert_array_equal(logits, restore.predict(restored, ids))


def test_tokens_of_ones_own_reach_the_network_as_they_are(tmp_path):
    ids, labels = np.arange(1, 13).reshape(4, 3), np.arange(4) % 2
    np.savez(tmp_path / "ids.npz", train_inputs=ids, train_labels=labels, test_inputs=ids, test_labels=labels)
    settings, _ = config.resolve({"method": "cross_entropy", "dataset": f"npz:{tmp_path / 'ids.npz'}",
                                  "model": "bilstm", "batch_size": 2})  # fmt: skip
    dataset = data.load(settings.dataset)
    task = build.make_task(settings, dataset, 4)
    views = [
        task.plain(dataset.train_inputs),
        *(v(jax.random.key(0), dataset.train_inputs) for v in (task.weak, task.strong)),
    ]
    for view in views:
        assert view.dtype == np.int32
        np.testing.assert_array_equal(view, ids)
    params = jax.eval_shape(task.model.init, jax.random.key(0), dataset.train_inputs).params
    assert params["embedding"]["table"]["embedding"].shape == (13, 128)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model=bilstm", "--augmentation=crop"], r"augmentation='crop' is for uint8 images .*int32 \[64, 256\]"),
        (
            ["--model=bilstm", "--method=dynamic_loss", "--weak-augmentation=flip"],
            "--weak-augmentation='flip' is for uint8 images",
        ),
        (
            ["--model=mlp", "--augmentation=none"],
            "model='mlp' does not read texts; .*: bag_of_words, bilstm is accepted",
        ),
        (["--model=bilstm", "--dataset=digits", "--augmentation=none"], "model='bilstm' reads token ids, .*uint8"),
        (["--model=bilstm", "--dataset=digits", "--max-tokens=9"], "--max-tokens is 9; 'digits' data are not texts"),
        (["--model=bilstm", "--max-tokens=0"], r"--max-tokens=0: a whole number in \[1, 100000\] is accepted"),
    ],
)
def test_what_cannot_go_together_is_named(reviews, tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    status = _run("robustjax_reviews", f"--data-dir={reviews}", "--batch-size=16", f"--out={tmp_path / 'run'}", *given)
    error = capsys.readouterr().err
    assert status == 2 and not (tmp_path / "run").exists()
    assert re.search(message, error), error


def test_which_networks_read_tokens():
    assert [name for name in models.names() if models.reads_tokens(name)] == ["bag_of_words", "bilstm"]
    assert not models.reads_tokens("nothing")
