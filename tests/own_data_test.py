"""Sources of one's own data: folders, CSV files, archives and arrays; what is held out, classes, duplicates."""

import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.settings import build, config, files, human_labels
from robustjax import data
from robustjax.data import encode_labels, encoding, folder_source, held_out, image_files, inspection

# Labels.


class NAType:
    """As pandas' value for what is missing: asked whether it equals anything, it does not say."""

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = object.__hash__


def test_labels_of_all_kinds_become_indices_with_their_names():
    for labels, indices, names in (
        (["10", "2", "2"], [1, 0, 0], ("2", "10")),
        (np.array([1, 3, 3], np.uint8), [0, 1, 1], ("1", "3")),
        (np.array([["b"], ["a"]]), [1, 0], ("a", "b")),
        (np.array([3, "x", " x "], object), [0, 1, 1], ("3", "x")),
        ([True, False], [1, 0], ("False", "True")),
        ([b"cat", b"ant"], [1, 0], ("ant", "cat")),
    ):
        found, found_names = encode_labels(labels)
        assert found.dtype == np.int32 and found.tolist() == indices and found_names == names
    assert encode_labels(["b", "a"], ["b", "c", "a"])[0].tolist() == [0, 2]
    assert encode_labels([2, 0], ["b", "c", "a"])[0].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        (["a", None, "b"], None, r"y has 1 missing label\(s\), the first None at index 1"),
        (["a", float("nan"), "b"], None, r"y has 1 missing label\(s\), the first nan at index 1"),
        (["a", NAType(), "b"], None, r"y has 1 missing label\(s\), the first .* at index 1"),
        (np.array(["a", float("nan")], object), None, "missing label.*nan at index 1"),
        (["a", ""], None, "missing label.*'' at index 1"),
        (["a", "zebu"], ["a", "b"], "y holds 1 label.*no class, the first .*'zebu'.* at index 1; the classes are a, b"),
        ([0, 2], ["a", "b"], "y holds 1 value.*first 2 at index 1; accepted are 0 to 1"),
        ([0, -1], None, "y holds 1 value.*first -1"),
        ([0.5, 1.0], None, "y has 0.5 at index 0; whole numbers or strings are accepted"),
        ([1.0, np.inf], None, "y has inf at index 1"),
        ([1.0, np.nan], None, r"y has 1 missing label\(s\), the first at index 1"),
        (np.eye(3, dtype=int), None, r"y has shape \(3, 3\)"),
        ([], None, r"y has shape \(0,\)"),
    ],
)
def test_labels_that_are_none_are_told(labels, names, told):
    with pytest.raises(ValueError, match=told):
        encode_labels(labels, names, name="y")


def test_majority_of_annotators():
    assert encoding.majority([[0, 1, 1], [2, 1, 0], [-1, -1, 3]]).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"1 example.*without a label, the first at index 1"):
        encoding.majority([[0, 1], [-1, -1]])


# What is held out.


def test_a_share_of_every_class_is_held_out_and_small_ones_keep_most():
    labels = np.repeat(np.arange(5), [400, 60, 4, 2, 1])
    held = held_out.hold_out_test(labels, 5)
    assert np.bincount(labels[held], minlength=5).tolist() == [80, 12, 1, 0, 0]
    ids = [f"{label}/{i}.png" for i, label in enumerate(labels)]
    named = held_out.hold_out_test(labels, 5, ids)
    assert named.sum() == held.sum() and not np.array_equal(named, held)
    # A tenth of the labels is corrected, their files move, and one is deleted: most of the test part stays.
    moved = np.where(np.arange(len(labels)) % 10 == 3, 1, labels)[1:]
    again = held_out.hold_out_test(moved, 5, [f"{label}/{i}.png" for i, label in enumerate(moved, 1)])
    assert (again & named[1:]).sum() > 0.85 * named.sum()


def test_arrays_without_a_test_part_give_some_up_and_say_so():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 3, 3), dtype=np.uint8), np.array(["cat", "dog"])[np.arange(40) % 2]
    got = data.from_arrays(x, y, groups=["s", "t"] * 20, annotations=np.arange(40)[:, None] % 2 - [[0, 1]])
    assert got.test_held_out and len(got.test_labels) == 8 and got.class_names == ("cat", "dog")
    assert "8 of 40 examples (20 %)" in got.notes[0] and "as given" in got.notes[0]
    rows = np.array(got.train_ids, int)
    np.testing.assert_array_equal(got.train_inputs[..., 0], x[rows])
    np.testing.assert_array_equal(got.train_labels, rows % 2)
    np.testing.assert_array_equal(got.groups, rows % 2)
    np.testing.assert_array_equal(got.annotations, rows[:, None] % 2 - [[0, 1]])
    held = np.setdiff1d(np.arange(40), rows)
    np.testing.assert_array_equal(got.test_inputs[..., 0], x[held])
    known = data.from_arrays(x, y, true_labels=["dog", "dog"] * 20, ids=[f"i{i}" for i in range(40)])
    assert not known.test_held_out and (known.test_labels == 1).all() and "the true ones" in known.notes[0]
    assert known.train_ids[0].startswith("i") and (known.true_labels == 1).all()
    whole = data.from_arrays(x, y, hold_out=False)
    assert len(whole.train_labels) == 40 and whole.test_inputs.shape == (0, 3, 3, 1) and not whole.test_held_out
    with pytest.raises(ValueError, match="no class has 3 examples"):
        data.from_arrays(x[:4], y[:4])


def test_features_are_normalised_one_by_one():
    x = np.random.default_rng(0).normal(size=(50, 3)) * [1, 10, 0] + [5, 0, 2]
    got = data.from_arrays(x, np.arange(50) % 2, x[:2], [0, 1])
    np.testing.assert_allclose(got.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(got.std, [*x.std(0)[:2], 1], rtol=1e-5)


# Archives.


def test_archives_of_other_peoples_names_are_understood(tmp_path):
    x, y = np.zeros((30, 2, 2), np.uint8), np.arange(30) % 3 + 1
    np.savez(tmp_path / "keras.npz", x_train=x, y_train=y[:, None], x_test=x[:3], y_test=y[:3, None], val_images=x)
    got = data.load(f"npz:{tmp_path / 'keras.npz'}")
    assert got.class_names == ("1", "2", "3") and got.test_labels.tolist() == [0, 1, 2] and not got.test_held_out
    assert got.notes == ("not used of keras.npz: val_images.",)
    np.savez(
        tmp_path / "lab.npz", features=np.arange(60.0).reshape(30, 2), annotations=np.stack([y - 1, y * 0, y - 1], 1)
    )
    got = data.load(f"npz:{tmp_path / 'lab.npz'}")
    assert got.train_inputs.dtype == np.float32 and got.annotations.shape == (24, 3) and got.test_held_out
    rows = np.array(got.train_ids, int)
    np.testing.assert_array_equal(got.train_labels, rows % 3)
    small = data.load(f"npz:{tmp_path / 'keras.npz'}", image_size=(4, 6))
    assert small.train_inputs.shape == (30, 4, 6, 1) and small.test_inputs.shape == (3, 4, 6, 1)
    with pytest.raises(ValueError, match=r"lab.npz' \(train_inputs\) is float32 \[30, 2\], no uint8 images"):
        data.load(f"npz:{tmp_path / 'lab.npz'}", image_size=4)
    np.savez(tmp_path / "no.npz", images=x)
    with pytest.raises(ValueError, match="lacks train_labels; it has images"):
        data.load(f"npz:{tmp_path / 'no.npz'}")


@pytest.mark.parametrize(
    ("kind", "factor", "stored"),
    [(np.uint8, 1, np.uint8), (np.int64, 1, np.uint8), (np.float64, 1.5, np.float32), (np.uint16, 257, np.int32)],
)
def test_grey_images_of_any_type_are_images(tmp_path, kind, factor, stored):
    """Of three axes, and normalised by their own mean; of integers that are no bytes also where one part looks so."""
    x = np.random.default_rng(0).integers(0, 200, (30, 5, 4)).astype(kind) * kind(factor)
    x[:, 0, 0] = 199 * factor
    tested = x[:3].copy()
    tested[:] = 7
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=np.arange(30) % 3 + 0.0, x_test=tested, y_test=np.arange(3.0))
    got = data.load(f"npz:{tmp_path / 'mine.npz'}")
    assert got.train_inputs.shape == (30, 5, 4, 1) and got.test_inputs.shape == (3, 5, 4, 1)
    assert got.train_inputs.dtype == got.test_inputs.dtype == stored and got.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(got.train_inputs[..., 0], x)
    np.testing.assert_allclose(got.mean, [x.mean()], rtol=1e-6)
    assert len(got.notes) == (stored != np.uint8) and all("without augmentation" in note for note in got.notes)


def test_archives_that_cannot_be_read_say_why(tmp_path):
    np.savez(tmp_path / "names.npz", x_train=np.zeros((4, 2)), y_train=np.array(["a", "b"] * 2, object))
    with pytest.raises(ValueError, match=r"an array of Python objects: save it as `array\.astype\(str\)`"):
        data.load(f"npz:{tmp_path / 'names.npz'}")
    np.savez(tmp_path / "first.npz", x_train=np.zeros((4, 3, 8, 8)), y_train=[0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"\(train_inputs\): images are float32 \[4, 3, 8, 8\]; channels come last"):
        data.load(f"npz:{tmp_path / 'first.npz'}")


# Folders.


def _image(path, side=(6, 6), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (*side, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def _flat(root, count=12):
    for i in range(count):
        _image(root / f"c{(9, 10)[i % 2]}" / f"{i:02d}.png")
    return root


def test_a_folder_of_class_folders(tmp_path):
    root = _flat(tmp_path / "mine")
    (root / ".cache").mkdir()
    (root / "__MACOSX").mkdir()
    got = data.load(f"folder:{root}", cache_dir=tmp_path / "cache")
    assert got.class_names == ("c9", "c10") and got.name == "folder:mine" and got.test_held_out
    assert len(got.train_ids) == len(got.train_labels) == 10 and len(got.test_labels) == 2
    for path, label, image in zip(got.train_ids, got.train_labels, got.train_inputs, strict=True):
        assert path.split("/")[0] == got.class_names[label]
        np.testing.assert_array_equal(image, np.asarray(Image.open(root / path)))
    again = data.load(f"folder:{root}", cache_dir=tmp_path / "cache")
    assert again.train_ids == got.train_ids


@pytest.mark.parametrize(
    ("train", "test"), [("train", "valid"), ("Train", "Test"), ("training", "testing"), ("train", "dev")]
)
def test_parts_of_a_folder_have_the_names_that_they_have_elsewhere(tmp_path, train, test):
    _flat(tmp_path / "mine" / train)
    _flat(tmp_path / "mine" / test, 4)
    got = data.load(f"folder:{tmp_path / 'mine'}", cache_dir=tmp_path / "cache")
    assert got.class_names == ("c9", "c10") and not got.test_held_out
    assert (len(got.train_labels), len(got.test_labels)) == (12, 4) and got.train_ids[0] == f"{train}/c9/00.png"
    _flat(tmp_path / "mine" / "Validation", 2)
    listing = folder_source.list_examples(tmp_path / "mine")
    if test.lower().startswith("test"):
        assert listing.notes == (f"Validation/ is not used, since there is {test}/.",)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train", "dev"):
        for i in range(4):
            _image(tmp_path / "mine" / name / f"{i}.png")
    listing = folder_source.list_examples(tmp_path / "mine")
    assert listing.class_names == ("bus", "dev", "train") and listing.is_test is None and len(listing.labels) == 12
    (tmp_path / "mine" / "test" / "bus").mkdir(parents=True)
    (tmp_path / "mine" / "train").rename(tmp_path / "mine" / "tram")
    with pytest.raises(FileNotFoundError, match=r"has test/CLASS/ and no train/CLASS/"):
        folder_source.list_examples(tmp_path / "mine")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_told(tmp_path):
    root = _flat(tmp_path / "mine")
    (root / "c9" / "00.png").rename(os.fsdecode(os.fsencode(root / "c9") + b"/caf\xe9.png"))
    with pytest.raises(ValueError, match=r"caf\\xe9.png': the name is not UTF-8; rename it"):
        folder_source.list_examples(root)


def test_ids_are_there_once():
    images, labels = np.zeros((6, 2, 2), np.uint8), [0, 1] * 3
    with pytest.raises(ValueError, match="ids has 'a' twice; expected each once"):
        data.from_arrays(images, labels, ids=list("abcdea"))


def test_sizes_are_chosen_kept_and_said(tmp_path):
    root = _flat(tmp_path / "mine")
    _image(root / "c9" / "tall.jpg", (500, 300), "CMYK")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "c9" / "turned.jpg", exif=exif)
    got = data.load(f"folder:{root}", cache_dir=tmp_path / "cache")
    assert got.train_inputs.shape[1:] == (6, 6, 3)
    assert "from 6×6 to 500×300, median 6×6): all are resized to 6×6; image_size sets another" in got.notes[1]
    assert image_files.choose_size(np.array([[30, 20]])) == (30, 20), "an image turned by its EXIF data"
    listing = folder_source.list_examples(root)
    turned = listing.places.index(str(root / "c9" / "turned.jpg"))
    assert image_files.survey(listing).sizes[turned].tolist() == [30, 20]
    for sizes, chosen in (
        ([[224, 224]] * 3, (224, 224)), ([[1000, 1000]] * 3, (64, 64)), ([[30, 31], [33, 30]], (32, 32)),
        ([[100, 400], [101, 400]], (16, 64)), ([[9, 9], [9, 10]], (9, 9)),
    ):  # fmt: skip
        assert image_files.choose_size(np.array(sizes)) == chosen


def test_images_that_cannot_be_read_are_named_or_left_out_and_counted(tmp_path):
    root = _flat(tmp_path / "mine")
    whole = (root / "c9" / "00.png").read_bytes()
    (root / "c9" / "00.png").write_bytes(whole[: len(whole) // 2])  # found only when it is decoded
    with pytest.raises(ValueError, match=r"an image cannot be read, .*c9/00.png' \(.*skip_bad leaves it out"):
        data.load(f"folder:{root}", cache_dir=tmp_path / "cache")
    (root / "c10" / "01.png").write_bytes(b"")
    (root / "c10" / "03.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"2 of 12 images cannot be read, the first .*c10/01.png' \(not a readable"):
        data.load(f"folder:{root}", cache_dir=tmp_path / "cache")
    got = data.load(f"folder:{root}", cache_dir=tmp_path / "cache", skip_bad=True)
    assert len(got.train_labels) + len(got.test_labels) == 9 and not {"c9/00.png", "c10/01.png"} & set(got.train_ids)
    assert "cannot be read: 3 of 12 images, the first" in got.notes[0]
    for file in (root / "c10").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no training example of the class.* c10: of 'c10' there is none at all"):
        data.load(f"folder:{root}", cache_dir=tmp_path / "cache", skip_bad=True)
    shutil.rmtree(root / "c10")
    with pytest.raises(ValueError, match="has 1 class folder, 'c9'; expected at least 2"):
        data.load(f"folder:{root}")


# CSV files.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve images, and what writes a CSV file beside them."""
    root = tmp_path_factory.mktemp("csv")
    for i in range(12):
        _image(root / "img" / f"{i:02d}.png", seed=1)

    def write(*header, rows=None, delimiter=","):
        rows = rows if rows is not None else [(f"img/{i:02d}.png", "ab"[i % 2]) for i in range(12)]
        lines = [delimiter.join(map(str, row)) for row in (header, *rows)]
        (root / "mine.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n")
        return f"csv:{root / 'mine.csv'}"

    return write


def _load(name, **options):
    return data.load(name, cache_dir=Path(name.partition(":")[2]).parent / "cache", **options)


def test_a_csv_file_with_everything(pictures):
    rows = [
        (f"img/{i:02d}.png", "ab"[i % 2], "ba"[i % 2], f"site{i % 3}", ("Train", "val")[i > 8], i % 2, "-1", 1)
        for i in range(12)
    ]
    rows = [(*row[:5], "ab"[row[5]], row[6], "ab"[row[7]]) for row in rows]
    name = pictures(
        "File",
        "Class",
        "clean",
        "hospital",
        "split",
        "annotator1",
        "annotator2",
        "annotator3",
        rows=rows,
        delimiter=";",
    )
    got = _load(name, columns={"group": "hospital"})
    assert got.name == "csv:mine" and got.class_names == ("a", "b") and not got.test_held_out
    assert got.train_ids == tuple(f"img/{i:02d}.png" for i in range(9))
    assert got.train_labels.tolist() == [i % 2 for i in range(9)]
    assert got.true_labels.tolist() == [1 - i % 2 for i in range(9)]
    assert got.test_labels.tolist() == [1 - i % 2 for i in range(9, 12)], "the true ones, where they are known"
    assert got.groups.tolist() == [i % 3 for i in range(9)]
    assert got.annotations.tolist() == [[i % 2, -1, 1] for i in range(9)]
    assert "path=File, label=Class, true_label=clean, group=hospital, split=split" in got.notes[0]
    image = np.asarray(Image.open(Path(name[4:]).parent / "img/05.png"))
    np.testing.assert_array_equal(got.train_inputs[5], image)
    votes = _load(name, columns={"label": "", "true_label": ""})
    assert votes.train_labels.tolist() == [i % 2 for i in range(9)] and votes.true_labels is None
    assert "most of the 3 annotators" in votes.notes[-1]


def test_a_csv_file_of_features(pictures):
    rows = [(i, -i, 10 * (i % 2) - 5) for i in range(12)]
    got = _load(pictures("feature_b", "feature_a", "target", rows=rows))
    assert got.class_names == ("-5", "5") and got.test_held_out and got.train_inputs.dtype == np.float32
    rows_used = np.array(got.train_ids, int) - 2
    np.testing.assert_array_equal(got.train_inputs, np.stack([rows_used, -rows_used], 1))
    with pytest.raises(ValueError, match="'x' in column 'feature_a' of row 3, which is no number"):
        _load(pictures("feature_a", "label", rows=[(1, 0), ("x", 1)]))
    capital = pictures("Feature0", "Feature1", "Feature_kind", rows=[(i, 2 * i, "ab"[i % 2]) for i in range(12)])
    for columns, width in (({"label": "Feature_kind"}, 2), ({"label": "Feature_kind", "features": "Feature1"}, 1)):
        assert _load(capital, columns=columns).train_inputs.shape[1] == width
    plain = pictures("sepal", "petal", "width", "species", rows=[(i, 2, 3, "ab"[i % 2]) for i in range(12)])
    got = _load(plain, columns={"label": "species", "features": "sepal+width"})
    assert got.train_inputs.shape[1] == 2 and set(got.train_inputs[:, 1]) == {3}
    with pytest.raises(ValueError, match="no column 'petals' \\(features\\)"):
        _load(plain, columns={"label": "species", "features": "sepal+petals"})
    with pytest.raises(ValueError, match="text=NAME or features=PREFIX names another"):
        _load(plain, columns={"label": "species"})
    with pytest.raises(ValueError, match="nan in column 'feature_a' of row 3"):
        _load(pictures("feature_a", "label", rows=[(1, 0), ("nan", 1)]))


_ROWS = [(f"img/{i:02d}.png", "ab"[i % 2]) for i in range(12)]
BAD_TABLES = {
    "no label": (("path", "kind"), _ROWS, {}, r"no column for the label, such as label, .*; it has path, kind"),
    "no path": (
        ("where", "label"), _ROWS, {}, r"no column for the path or the text, such as path, .*it has where, label"
    ),
    "named": (("path", "label"), _ROWS, {"label": "species"}, r"no column 'species' \(label\); it has path, label"),
    "kind": (("path", "label"), _ROWS, {"lable": "x"}, "columns has 'lable'; accepted are path"),
    "twice": (("path", "label"), [*_ROWS, ("./img/03.png", "a")], {}, r"1 path\(s\) twice.*in rows 5 and 14"),
    "blank": (("path", "label"), [*_ROWS[:3], ("img/03.png", "")], {}, r"1 row\(s\) without a label.*in row 5"),
    "same ids": (
        ("path", "label", "patient"), [(*row, i // 3) for i, row in enumerate(_ROWS)], {"id": "patient"},
        r"names 8 id\(s\) twice, the first '0', in rows 2 and 3"
    ),
    "no place": (("path", "label"), [("", "a"), *_ROWS], {}, "a row without its path: row 2"),
    "one class": (("path", "label"), [(path, "a") for path, _ in _ROWS], {}, "all labels are 'a'; expected at least 2"),
    "not there": (("path", "label"), [*_ROWS, ("img/x.png", "a")], {}, r"x.png' \(there is no such file\); skip_bad"),
    "fields": (("path", "label"), [*_ROWS, ("img/x.png",)], {}, "1 fields in row 14, and 2 columns: path, label"),
    "empty": (("path", "label"), [], {}, r"no rows below its header \(path, label\)"),
    "same names": (("path", "label", "label"), [], {}, "two columns of one name"),
    "split": (("path", "label", "split"), [(*row, "x") for row in _ROWS], {}, r"'x' in its split column \(row 2\)"),
    "only test": (("path", "label", "split"), [(*row, "test") for row in _ROWS], {}, "no row whose split is train"),
    "empty class": (
        ("path", "label", "split"),
        [(*row, "test" if row[1] == "b" else "train") for row in _ROWS],
        {},
        "no training example of the class.* b: of 'b' all 6 are in the test part",
    ),
    "truth": (
        ("path", "label", "true_label"), [(*row, "c") for row in _ROWS], {}, r"\(true_label\) holds 12 label.*are a, b"
    ),
    "names": (
        ("path", "label"), [(f"{i}.png", i) for i in range(30)], {}, "has 30 different labels for 30 examples"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_csv_files_are_told_in_a_sentence(pictures, case):
    header, rows, columns, told = BAD_TABLES[case]
    with pytest.raises(ValueError, match=told):
        _load(pictures(*header, rows=rows), columns=columns)


def test_what_is_no_csv_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file; 'csv:FILE'"):
        data.load(f"csv:{tmp_path / 'none.csv'}")
    (tmp_path / "bad.csv").write_bytes(b"path,label\n\xff\xfe")
    with pytest.raises(ValueError, match="is not a CSV file in UTF-8"):
        data.load(f"csv:{tmp_path / 'bad.csv'}")
    for name, options, told in (
        ("npz:x.npz", {"columns": {"label": "x"}}, "columns is .*no table"),
        ("digits", {"skip_bad": True}, "skip_bad is True; .*not files of images"),
    ):
        with pytest.raises(ValueError, match=told):
            data.load(name, **options)


# Hugging Face.


def test_hugging_face_folders_need_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the package datasets: pip install 'robustjax\[hf\]'"):
        data.load(f"hf:{tmp_path}")


# The package leaves files open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_hugging_face_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [Image.open(_image(tmp_path / f"{i}.png", (6, 6 + i % 2))) for i in range(20)]
    names = datasets.ClassLabel(names=["x", "y"])
    whole = datasets.Dataset.from_dict(
        {"picture": images, "kind": [i % 2 for i in range(20)]},
        features=datasets.Features({"picture": datasets.Image(), "kind": names}),
    )
    whole.save_to_disk(tmp_path / "one")
    got = data.load(f"hf:{tmp_path / 'one'}", cache_dir=tmp_path / "cache", image_size=6)
    assert got.class_names == ("x", "y") and got.test_held_out and got.train_inputs.shape == (16, 6, 6, 3)
    np.testing.assert_array_equal(got.train_labels, np.array(got.train_ids, int) % 2)
    parts = datasets.DatasetDict(train=whole.select(range(14)), validation=whole.select(range(14, 20)))
    parts.save_to_disk(tmp_path / "two")
    got = data.load(f"hf:{tmp_path / 'two'}", cache_dir=tmp_path / "cache", image_size=6)
    assert got.train_labels.tolist() == [i % 2 for i in range(14)] and len(got.test_labels) == 6
    np.testing.assert_array_equal(got.train_inputs[0], np.asarray(images[0]))
    with pytest.raises(ValueError, match="no column 'nope'"):
        data.load(f"hf:{tmp_path / 'one'}", columns={"label": "nope"})


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_hugging_face_sets_that_hold_other_things(tmp_path):
    datasets = pytest.importorskip("datasets")
    vectors = np.arange(40, dtype=np.float32).reshape(20, 2).tolist()

    def load(name, **columns):
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / name)
        return data.load(f"hf:{tmp_path / name}")

    labels = ["a", "b"] * 10
    got = load("reviewed", vector=vectors, label=labels, reviewed=["yes", ""] * 10)
    assert got.reviewed.sum() == (got.train_labels == 0).sum()
    with pytest.raises(ValueError, match=r"\['a'\]; expected one value an example"):
        load("lists", vector=vectors, label=[[each] for each in labels])
    with pytest.raises(ValueError, match=r"\(vector\) has nan in row 3"):
        load("nan", vector=[*vectors[:3], [1.0, float("nan")], *vectors[4:]], label=labels)
    with pytest.raises(ValueError, match=r"\(vector\) has 1 numbers in row 3, and 2 in row 0"):
        load("ragged", vector=[*vectors[:3], [1.0], *vectors[4:]], label=labels)


# What is said before a run.


def test_copies_are_found_in_every_kind_of_array():
    rng = np.random.default_rng(0)
    large = np.zeros((50, 60, 60, 3), np.uint8)  # of which the middle alone is not enough
    large[:, 0, 0, 0] = np.arange(50)
    for array in (
        rng.integers(0, 256, (50, 3, 3, 1), dtype=np.uint8), rng.normal(size=(50, 5)).astype(np.float32), large,
        np.asfortranarray(rng.integers(0, 256, (50, 8), dtype=np.uint8)),
    ):  # fmt: skip
        array[[7, 9, 30]] = array[2]
        array[40] = array[11]
        expected = np.arange(60)
        expected[[7, 9, 30]], expected[40], expected[50:] = 2, 11, [0, 1, 2, 3, 4, 5, 6, 2, 8, 2]
        np.testing.assert_array_equal(data.first_alike(array, array[:10]), expected)


def test_equal_hashes_of_other_content_are_no_copies(monkeypatch):
    monkeypatch.setattr(inspection, "_hashes", lambda array: np.zeros(len(array), np.uint64))
    array = np.array([[1], [2], [1], [3], [2]])
    assert data.first_alike(array).tolist() == [0, 1, 0, 3, 1]


def test_copies_and_small_classes_are_told():
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    y = np.arange(30) % 3
    y[y == 2] = [2, 2, *[0] * 8]
    x[5], x[6] = x[1], x[0]
    told = data.inspect(data.from_arrays(x, y, x[9:12], y[9:12], ids=[f"i{i}" for i in range(30)]))
    assert told == (
        "exact copies of another training example: 2, 1 of them with another label than it (i1 and i5).",
        "3 of the 3 test examples are also in the training part, which makes the test accuracy too high.",
        "classes with fewer than 5 training examples: 2 (2).",
    )
    assert data.inspect(data.from_arrays(x[7:], y[7:] % 2, x[:2], [0, 1])) == ()


# Flags.


def test_flags_reach_the_data(tmp_path, pictures):
    name = pictures("file", "kind")
    settings, _ = config.resolve(
        {"method": "cross_entropy", "dataset": name, "image_size": "4x5", "columns": "label=kind", "skip_bad": True,
         "cache_dir": str(tmp_path)}
    )  # fmt: skip
    dataset = build.load_data(settings)
    assert dataset.train_inputs.shape == (10, 4, 5, 3)
    assert config.identity(settings)["image_size"] == "4x5" and config.identity(settings)["columns"] == "label=kind"
    assert not {"image_size", "columns", "skip_bad"} & config.identity(config.Config()).keys()
    assert build.notes(settings, dataset._replace(notes=("image_size sets another size.",)))[0].startswith(
        "--image-size"
    )


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ({"image_size": "0"}, "image_size='0': pixels a side"),
        ({"image_size": "8x8x3"}, "HEIGHTxWIDTH"),
        ({"columns": "label"}, "columns='label': WHAT=NAME"),
        ({"columns": "lable=x"}, "WHAT is one of path"),
        ({"columns": "path=a,path=b"}, "WHAT=NAME"),
    ],
)
def test_flags_that_cannot_be_are_told_before_any_data_is_read(flag, told):
    with pytest.raises(ValueError, match=told):
        config.resolve({"method": "cross_entropy", **flag})


def test_trusted_examples_take_the_size_of_the_data_and_keep_all_of_theirs(tmp_path):
    for i in range(4):
        _image(tmp_path / "pool" / "ab"[i % 2] / f"{i}.png", (9, 8))
    x = np.zeros((6, 5, 4, 3), np.uint8)
    dataset = data.from_arrays(x, ["a", "b"] * 3, x[:2], ["a", "b"])
    pool = files.read_trusted(f"folder:{tmp_path / 'pool'}", dataset, str(tmp_path / "cache"))
    assert pool.train_inputs.shape == (4, 5, 4, 3) and pool.train_labels.tolist() == [0, 0, 1, 1]


def test_groups_that_came_with_the_data():
    dataset = data.from_arrays(np.zeros((6, 2)), ["a", "b"] * 3, np.zeros((1, 2)), ["a"], groups=list("xyzxyz"))
    assert files.read_groups("data", dataset, np.array([1, 5]), np.zeros(2, int)).tolist() == [1, 2]
    with pytest.raises(ValueError, match="arrays has no groups"):
        files.read_groups("data", dataset._replace(groups=None), np.arange(2), np.zeros(2, int))


# Labels that people gave.


def _human():
    clean = np.arange(12) % 3
    names = ("worse_label", "aggre_label", "random_label1", "random_label2", "random_label3")
    return {
        "clean_label": clean,
        **{name: (clean + (np.arange(12) % (i + 2) == 0)) % 3 for i, name in enumerate(names)},
    }


def _torch_file(path, arrays, legacy=False):
    """As `torch.save` writes a dictionary of arrays."""
    if legacy:
        path.write_bytes(b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}, arrays, [])))
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("human/data.pkl", pickle.dumps(arrays, 2))
        archive.writestr("human/version", "3\n")


@pytest.mark.parametrize("kind", ["npz", "zip.pt", "legacy.pt"])
def test_labels_of_cifar10n_are_read_in_either_order(tmp_path, kind):
    arrays, path = _human(), tmp_path / f"human.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        _torch_file(path, arrays, kind.startswith("legacy"))
    order = np.random.default_rng(0).permutation(12)
    x = np.zeros((12, 2), np.float32)
    for dataset, places in (
        (data.from_arrays(x, arrays["clean_label"], x[:1], [0]), np.arange(12)),
        (data.from_arrays(x, arrays["clean_label"][order], x[:1], [0])._replace(train_order=order), order),
    ):
        labels, annotations = human_labels.read(f"cifar10n:aggregate:{path}", dataset)
        assert labels.dtype == np.int32 and labels.tolist() == arrays["aggre_label"][places].tolist()
        assert annotations.shape == (12, 3)
        assert annotations[:, 1].tolist() == arrays["random_label2"][places].tolist()
    other = data.from_arrays(x, (arrays["clean_label"] + 1) % 3, x[:1], [0])
    with pytest.raises(ValueError, match=r"clean labels of human.* are not those of arrays"):
        human_labels.read(f"cifar10n:worse:{path}", other)
    with pytest.raises(ValueError, match="has no 'best'; it has clean_label, worse_label"):
        human_labels.read(f"cifar10n:best:{path}", dataset)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("it ran",))

    _torch_file(tmp_path / "evil.pt", {"clean_label": Evil()})
    with pytest.raises(ValueError, match=r"print, which is no array\); with torch: numpy.savez"):
        human_labels.read_arrays(tmp_path / "evil.pt")


def test_labels_of_several_annotators_and_by_name(tmp_path):
    dataset = data.from_arrays(np.zeros((4, 2)), ["a", "b", "a", "b"], np.zeros((1, 2)), ["a"])
    np.save(tmp_path / "votes.npy", np.array([[0, 1, 1], [1, 1, -1], [0, 0, 0], [-1, 0, 1]]))
    labels, votes = human_labels.read(str(tmp_path / "votes.npy"), dataset)
    assert labels.tolist() == [1, 1, 0, 0] and votes.shape == (4, 3)
    settings = config.Config(labels=str(tmp_path / "votes.npy"))
    np.testing.assert_array_equal(build.annotations(settings, dataset), votes)
    np.save(tmp_path / "names.npy", np.array(["b", "b", "a", "a"]))
    assert human_labels.read(str(tmp_path / "names.npy"), dataset)[0].tolist() == [1, 1, 0, 0]
    np.save(tmp_path / "names.npy", np.array(["b", "b", "a", "z"]))
    with pytest.raises(ValueError, match="no class, the first 'z' at index 3; the classes are a, b"):
        human_labels.read(str(tmp_path / "names.npy"), dataset)
