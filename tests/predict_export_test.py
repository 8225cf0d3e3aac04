"""The model leaves the tool: networks without their data, what they refuse, predictions of files, exports."""

import csv
import io
import json
import os
import runpy
import types

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import export, predict, run
from experiments.pictures import of_runs
from experiments.runs import directory, form, records, restore
from robustjax import backend, data, methods
from robustjax.data import image_files
from tests import toys

CLASSES = ("=cat", "dog", "owl")  # the first would be a formula
SIDE = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`images/` with train and test images in folders, and `run/`, two seeds trained on them for an epoch."""
    root, rng = tmp_path_factory.mktemp("predict"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for number, name in enumerate(CLASSES):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (SIDE, SIDE)) + 80 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_runs, "draw_all", lambda *_: None)
        assert run.main([
            "--method=ce", "--model=mlp", f"--dataset=folder:{root / 'images'}", f"--cache-dir={root / 'cache'}",
            "--epochs=1", "--batch-size=8", "--seeds=2", "--seed=3", "--noise=none", "--imbalance=none",
            "--augmentation=none", "--weak-augmentation=none", "--track-every=0", "--parallel=single", "--quiet",
            f"--out={root / 'run'}",
        ]) == 0  # fmt: skip
    return root


@pytest.fixture(scope="module")
def trained(place):
    return restore.restore_model(place / "run")


@pytest.fixture
def restored(trained, monkeypatch):
    """Commands read the run in no time."""
    monkeypatch.setattr(restore, "restore_model", lambda *_, **__: trained)
    return trained


def pixels(place, count=7):
    files = image_files.list_files(place / "images" / "test")[:count]
    return np.stack([np.asarray(Image.open(file))[..., None] for file in files])


def softmax(logits):
    exponentials = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


# --- Without data -----------------------------------------------------------------------------------------------------


def test_networks_come_back_where_the_data_have_changed(place, trained):
    dataset = data.load(f"folder:{place / 'images'}", cache_dir=place / "cache")
    assert form.of(dataset, trained.task)._replace(num_tokens=None) == trained.form
    image = place / "images" / "train" / "dog" / "0.png"
    away = image.rename(place / "away.png")
    try:
        with pytest.raises(ValueError, match=r"other training labels.*restore_model, experiments\.predict"):
            restore.restore_run(place / "run", cache_dir=place / "cache")
        again = restore.restore_model(place / "run")
    finally:
        away.rename(image)
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    for k, line in enumerate(lines):
        logits = restore.predict(again, dataset.test_inputs, k)
        assert np.mean(logits.argmax(1) == dataset.test_labels) == pytest.approx(line["test_accuracy"])
    whole = restore.restore_run(place / "run", cache_dir=place / "cache")
    np.testing.assert_array_equal(logits, restore.predict(whole, dataset.test_inputs, k))


def test_a_run_without_data_json_needs_its_data(place, trained):
    file = place / "run" / "data.json"
    away = file.rename(place / "away.json")
    try:
        found = restore.restore_model(place / "run", cache_dir=place / "cache")
    finally:
        away.rename(file)
    assert found.form == trained.form and found.epoch == 1
    np.testing.assert_array_equal(restore.predict(found, pixels(place)), restore.predict(trained, pixels(place)))


def texts_of_ones_own():
    ids = np.array([[2, 3, 0], [3, 4, 2]], np.int32)
    return data.from_arrays(ids, [0, 1], ids, [0, 1], name="texts")._replace(
        vocabulary=("[PAD]", "[UNK]", "film", "caf\x85e\u2028", "bad"), train_ids=("a/é.txt", "b.txt")
    )


def test_words_and_ids_are_kept(tmp_path):
    dataset, task = texts_of_ones_own(), toys.task()._replace(num_groups=7)
    form.save(tmp_path, dataset, task)
    found = form.read(tmp_path)
    assert found == form.of(dataset, task) and (found.num_groups, found.num_tokens) == (7, 5)
    with np.load(tmp_path / "examples.npz") as file:
        assert tuple(file["ids"]) == dataset.train_ids
    assert form.stand_in(found).num_tokens == 5 and form.stand_in(found).vocabulary == dataset.vocabulary
    assert all(directory._WRITTEN.fullmatch(each.name) for each in tmp_path.iterdir())
    np.testing.assert_array_equal(form.as_stored(found, ["a bad film"]), [[1, 4, 2]])
    (tmp_path / "vocabulary.txt").write_text("[PAD]\n[UNK]")
    with pytest.raises(directory.RunDirectoryError, match=r"damaged: vocabulary\.txt has 2 words, not 5"):
        form.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"shape": [-1, 2]}, r"damaged: the inputs are 'uint8' of shape \(-1, 2\)"), ({"format": 9}, "format 9"),
     ({"dtype": "object"}, "the inputs are 'object'"), ({"num_examples": "many"}, "num_examples is 'many'"),
     ({"class_names": 3}, "damaged")],
)  # fmt: skip
def test_a_damaged_description_is_refused(tmp_path, place, change, told):
    found = json.loads((place / "run" / "data.json").read_text()) | change
    (tmp_path / "data.json").write_text(json.dumps(found))
    with pytest.raises(directory.RunDirectoryError, match=told):
        form.read(tmp_path)


def test_tokens_without_a_vocabulary_keep_their_number(trained):
    tokens = trained.form._replace(shape=(5,), dtype="int32", num_tokens=9)
    assert form.stand_in(tokens).num_tokens == 9
    assert form.stand_in(tokens._replace(num_tokens=None)).num_tokens is None
    with pytest.raises(ValueError, match="go from 0 to 9; 0 to 8 is accepted"):
        form.check_values(tokens, np.full((1, 5), [0, 1, 2, 3, 9]))


# --- What is refused --------------------------------------------------------------------------------------------------

GOOD = np.full((2, SIDE, SIDE, 1), 7, np.uint8)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (GOOD / 255.0, r"float64.*from 0 to 1: `np.round\(255 \* inputs\).astype\(np.uint8\)`"),
        (GOOD.astype(np.float32), r"float32.*`np.round\(inputs\).astype\(np.uint8\)`"),
        (GOOD - 100.0, "from -93 to -93: undo their normalisation"),
        (GOOD.astype(np.int64), r"int64.*`astype\(np.uint8\)`"),
        (np.zeros((2, 9, 8, 1), np.uint8), "images of 6×6 pixels, not 9×8"),
        (np.zeros((2, 9, 8), np.uint8), "images of 6×6 pixels, not 9×8"),
        (np.zeros((2, SIDE, SIDE, 3), np.uint8), r"1 channel\(s\) \(grey\), not 3 channel\(s\) \(RGB\)"),
        (np.zeros((2, 1, SIDE, SIDE), np.uint8), r"channels come last, `inputs.transpose\(0, 2, 3, 1\)`"),
        (GOOD[0], r"one example is `inputs\[None\]`"),
        (GOOD[:0], "at least one example"),
        (["text"], r"<U4 \[1\]"),
    ],
)
def test_other_inputs_are_refused_in_a_sentence(trained, inputs, told):
    with pytest.raises(ValueError, match=told):
        restore.predict(trained, inputs)


def test_one_channel_may_be_left_out_and_ones_of_255_are_noticed(trained):
    np.testing.assert_array_equal(restore.predict(trained, GOOD[..., 0]), restore.predict(trained, GOOD))
    with pytest.warns(UserWarning, match="no value above 1 of 255"):
        form.check_values(trained.form, GOOD // 7)


def test_features_must_be_finite_floats(trained):
    floats = trained.form._replace(shape=(4,), dtype="float32")
    with pytest.raises(ValueError, match=r"int64; .*float32 \[N, 4\], in the units"):
        form.as_stored(floats, np.zeros((2, 4), np.int64))
    with pytest.raises(ValueError, match=r"not finite: nan at \(1, 2\)"):
        form.check_values(floats, np.where(np.arange(8).reshape(2, 4) == 6, np.nan, 0.0))
    assert form.check_values(floats, np.zeros((2, 4))).dtype == np.float32


# --- Predictions ------------------------------------------------------------------------------------------------------


def told(capsys):
    out, err = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(out))), err


def test_predictions_of_files(place, restored, tmp_path, capsys, monkeypatch):
    test = place / "images" / "test"
    Image.open(test / "owl" / "0.png").convert("RGB").resize((9, 12)).save(tmp_path / "big.bmp")
    (tmp_path / "torn.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    Image.open(test / "owl" / "0.png").save("=1+1.png")
    assert predict.main([str(place / "run"), str(test), "=1+1.png", "big.bmp", "torn.png", "--skip-bad"]) == 0
    rows, err = told(capsys)
    assert "11 predicted; 1 of them resized to 6×6; 1 unreadable ones skipped" in err
    files = [str(test / name / f"{i}.png") for name in CLASSES for i in range(3)]
    assert [row["path"] for row in rows] == [*files, "'=1+1.png", "big.bmp"]
    assert list(rows[0]) == ["path", "label", "probability", "'=cat", "dog", "owl"]
    mean = np.mean([softmax(restore.predict(restored, pixels(place, 9), k)) for k in (0, 1)], axis=0)
    found = np.array([[float(row[name]) for name in ("'=cat", "dog", "owl")] for row in rows])
    np.testing.assert_allclose(found[:9], mean, atol=1e-5)
    np.testing.assert_array_equal(found[9], found[6])
    for row, share in zip(rows[:9], mean, strict=True):
        assert row["label"] == records.safe_cell(CLASSES[share.argmax()])
        assert float(row["probability"]) == pytest.approx(share.max(), abs=1e-5)

    assert predict.main([str(place / "run"), str(tmp_path), "--seed=4"]) == 2
    assert "torn.png': not a readable image" in told(capsys)[1]


def test_predictions_of_arrays(place, restored, tmp_path, capsys):
    inputs = pixels(place)
    np.save(tmp_path / "unit.npy", inputs / 255)
    np.savez(tmp_path / "two.npz", a=inputs, b=inputs[..., 0])
    names = [str(tmp_path / name) for name in ("unit.npy", "two.npz")]
    assert predict.main([str(place / "run"), *names, "--scale=255", "--key=b", "--seed=4"]) == 0
    rows, _ = told(capsys)
    assert [row["path"] for row in rows] == [f"{name}:{i}" for name in names for i in range(7)]
    expected = softmax(restore.predict(restored, inputs, 1))
    found = np.array([[float(row[name]) for name in ("'=cat", "dog", "owl")] for row in rows])
    np.testing.assert_allclose(found, np.concatenate([expected, expected]), atol=1e-5)
    for arguments, said in (
        ([names[0]], "from 0 to 1"), ([names[1]], "its arrays are a, b: --key=NAME"),
        ([names[0], "--scale=2000"], "--scale=2000 takes it from"), ([names[0], "--seed=7"], "--seed=7 is none"),
        ([str(tmp_path / "none.png")], "there is no such file"), ([names[0], "--best", "--epoch=1"], "contradict"),
    ):  # fmt: skip
        assert predict.main([str(place / "run"), *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert said in err and not out, arguments


def test_lines_of_texts(tmp_path):
    wanted = form.of(texts_of_ones_own(), toys.task())
    (tmp_path / "a.txt").write_text("bad film\nfilm\ngood")
    found = list(predict.batches(wanted, [tmp_path / "a.txt"], {}, size=2))
    assert [(batch.names, batch.inputs) for batch in found] == [
        ([f"{tmp_path}/a.txt:0", f"{tmp_path}/a.txt:1"], ["bad film", "film"]), ([f"{tmp_path}/a.txt:2"], ["good"])
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"trained on int32 3; \.npy, \.npz, \.txt and \.csv are accepted"):
        next(predict.batches(wanted, [tmp_path / "a.png"], {}))


def test_a_reader_that_leaves_ends_it_in_silence(place, restored, monkeypatch, capfd):
    made = []

    def endless(*_, **__):
        while len(made) < 50:
            made.append(1)
            yield predict.Batch(["x"] * 2, GOOD)

    monkeypatch.setattr(predict, "batches", endless)
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert predict.main([str(place / "run"), str(place)]) == 0
    assert len(made) == 1 and capfd.readouterr().err == ""


def test_columns_of_classes_that_are_called_like_others():
    assert predict.class_columns(("label", "@dog")) == ["class label", "class @dog"]
    assert predict.class_columns(("cat", "@dog")) == ["cat", "'@dog"]


# --- Exports ----------------------------------------------------------------------------------------------------------


def test_an_export_gives_what_the_run_gives(place, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_tried", lambda *_: {
        "largest_difference": 0.0, "tolerance": 1.0, "largest_difference_with_xlas_own_cpu_kernels": 0.0
    })  # fmt: skip
    out = tmp_path / "here" / "out"
    described = export.export(trained, out)
    assert sorted(file.name for file in out.iterdir()) == [
        "README.txt", "class_names.json", "load.py", "model.jax", "model.json"
    ]  # fmt: skip
    assert [each.name for each in out.parent.iterdir()] == ["out"]
    assert json.loads((out / "model.json").read_text()) == described
    assert described["needs"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert described["made_from"]["seeds"] == [3, 4] and described["inputs"]["shape"] == ["batch", SIDE, SIDE, 1]
    for folder in (os.fspath(place), os.path.dirname(os.path.dirname(os.path.abspath(export.__file__)))):
        assert folder.encode() not in (out / "model.jax").read_bytes()
    said = (out / "README.txt").read_text()
    assert "python load.py inputs.npy" in said and "silently" not in said

    loaded = runpy.run_path(os.fspath(out / "load.py"))
    assert loaded["class_names"] == list(CLASSES) and loaded["options"] == (backend.compiler_options() or {})
    inputs = pixels(place)
    for size in (1, 7):
        found = np.asarray(loaded["predict"](inputs[:size]))
        mean = np.mean([softmax(restore.predict(trained, inputs[:size], k)) for k in (0, 1)], axis=0)
        np.testing.assert_allclose(found, mean, atol=1e-6)

    folder, rng = tmp_path / "images", np.random.default_rng(0)
    export._draw_images(folder, trained.form.shape, rng)
    np.save(tmp_path / "a.npy", inputs)
    for names, read in loaded["batches"]([folder]):  # as the command tries it, but for its process
        np.save(tmp_path / "pixels.npy", read)
        assert names == [str(folder / name) for name in ("a.png", "b.png", "inner/c.png")]
    assert export._same_pixels(tmp_path, trained.form.shape)
    ((names, read),) = loaded["batches"]([folder / "a.png"])
    assert names == [str(folder / "a.png")] and read.shape == (1, SIDE, SIDE, 1)
    sizes = [(names[0], len(read)) for names, read in loaded["batches"]([tmp_path / "a.npy"], size=5)]
    assert sizes == [(f"{tmp_path / 'a.npy'}:0", 5), (f"{tmp_path / 'a.npy'}:5", 2)]
    np.save(tmp_path / "pixels.npy", read + 1)
    assert not export._same_pixels(tmp_path, trained.form.shape)
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export.export(trained, out)


def test_an_export_that_gives_something_else_is_none(trained, tmp_path, monkeypatch):
    def child(command, cwd, **_):
        for n in export._SIZES:
            right = restore.predictor(trained, 0)(np.load(cwd / f"inputs-{n}.npy"))
            np.save(cwd / f"found-{n}.npy", right + (0.1 if n == 7 else 0))
            np.save(cwd / f"own-{n}.npy", right)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(export, "subprocess", types.SimpleNamespace(run=child))
    monkeypatch.setattr(export, "_SIZES", (2, 7))
    monkeypatch.setattr(export, "_program", lambda *_: jax.export.export(jax.jit(lambda x: x))(GOOD))
    with pytest.raises(export.ExportError, match=r"differ by 0\.1 from the run's; 0\.0001"):
        export.export(trained, tmp_path / "out", 0)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(export, "_TOLERANCE", 0.2)
    with pytest.raises(export.ExportError, match="other pixels of image files"):
        export.export(trained, tmp_path / "out", 0)


def test_what_loads_networks_of_other_inputs_reads_arrays_alone(trained, tmp_path):
    features = export._load(trained.form._replace(shape=(4,), dtype="float32"))
    compile(features, "load.py", "exec")
    assert "read_image" not in features and "Pillow" not in features and "[N, 4]" in features


def test_exports_that_cannot_be_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match=r"platforms=cuda: .*cpu must be among them"):
        export.export(trained, tmp_path / "out", platforms=("cuda",))
    counting = trained.method._replace(predict=lambda state, inputs: np.zeros((len(inputs), 3)))
    with pytest.raises(export.ExportError, match=r"'mlp' cannot be exported for any number of inputs.*network of your"):
        export.export(trained._replace(method=counting), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_an_export_is_tried_without_robustjax(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert export.main([str(place / "run"), str(out), "--seed=4"]) == 0
    assert "out: seed 4, " in capsys.readouterr().out
    checked = json.loads((out / "model.json").read_text())["checked"]
    assert checked["largest_difference"] < 1e-5 and checked["numbers_of_inputs"] == [1, 2, 7, 500]
    assert export.main([str(place / "run"), str(out)]) == 2
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in methods.names() if name != "custom"])  # which needs a file
def test_every_methods_networks_export(trained, name):
    task = toys.task(**toys.needs(name))
    method = toys.method(name, task)
    state = method.init(jax.random.key(0), toys.given_labels(0))
    shape = tuple(task.example.shape[1:])
    run_of_it = trained._replace(method=method, states=[state], form=trained.form._replace(shape=shape))
    artefact = export._program(run_of_it, None, export.PLATFORMS)
    inputs = toys.images(5, 0)[0]
    found = artefact.call(inputs)
    np.testing.assert_allclose(found, softmax(np.asarray(method.predict(state, inputs))), atol=1e-5)
