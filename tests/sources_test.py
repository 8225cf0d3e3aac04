import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from robustjax import data
from robustjax.data import array_cache, tfds_source
from robustjax.data.sources import Dataset
from tests import tfds_sets

ROOT = Path(__file__).parents[1]


def _arrays(num_classes=3, size=6, train=12, test=6, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (train + test, size, size, 3), dtype=np.uint8)
    labels = np.arange(train + test) % num_classes
    return images[:train], labels[:train], images[train:], labels[train:]


def _prepare_tiny(folder, sizes=(8,), test_split="test", ids=True, name="RobustjaxTiny", version="1.2.0"):
    """Writes a small TFDS set with TFDS's own writer; image i of a split is filled with its index."""

    def examples(count, prefix):
        for i in range(count):
            side = sizes[i % len(sizes)]
            image = Image.fromarray(np.full((side, side, 3), i, np.uint8))
            yield i, {"image": image, "label": i % 3} | ({"id": f"{prefix}_{i:05d}"} if ids else {})

    shape = (sizes[0], sizes[0], 3) if len(sizes) == 1 else (None, None, 3)
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
    }
    features |= {"id": tfds.features.Text()} if ids else {}
    splits = {"train": lambda: examples(12, "train"), test_split: lambda: examples(6, "test")}
    tfds_sets.prepare(folder, name, features, splits, version)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    _prepare_tiny(folder)
    return folder


def _load_tiny(tiny, cache, name="robustjax_tiny", **options):
    return data.load(name, tiny, cache, download=False, **options)


# The embedded set.


def test_digits_are_a_fixed_stratified_split():
    digits = data.load("digits")
    assert isinstance(digits, Dataset) and digits.name == "digits" and digits.num_classes == 10
    assert digits.train_inputs.shape == (1300, 8, 8, 1) and digits.test_inputs.shape == (497, 8, 8, 1)
    assert digits.train_inputs.dtype == np.uint8 and digits.train_inputs.max() == 255
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(digits.train_labels), [130] * 10)
    assert digits.class_names == tuple("0123456789")
    np.testing.assert_allclose(digits.mean, digits.train_inputs.mean(), rtol=1e-12)
    np.testing.assert_allclose(digits.std, digits.train_inputs.std(), rtol=1e-12)
    assert data.corruptions.label_hash(digits.train_labels)[:16] == "7fc757299b08e695"
    together = np.concatenate([digits.train_inputs, digits.test_inputs])
    assert len(np.unique(together.reshape(1797, -1), axis=0)) == 1797, "an image is in both splits"


def test_names_start_with_the_embedded_set_and_hold_those_of_tfds():
    assert data.names()[0] == "digits"
    assert {"mnist", "cifar10", "cifar100", "fashion_mnist", "imagenet_lt"} <= set(data.names())


# TFDS.


def test_tfds_set_is_read_in_its_order_with_everything(tiny, tmp_path):
    got = _load_tiny(tiny, tmp_path)
    assert got.train_inputs.shape == (12, 8, 8, 3) and got.train_inputs.dtype == np.uint8
    assert got.test_inputs.shape == (6, 8, 8, 3) and got.num_classes == 3 and got.class_names == ("ant", "bee", "cow")
    fill = got.train_inputs[:, 0, 0, 0]
    np.testing.assert_array_equal(got.train_inputs, np.broadcast_to(fill[:, None, None, None], (12, 8, 8, 3)))
    np.testing.assert_array_equal(got.train_labels, fill % 3)
    np.testing.assert_array_equal(got.train_order, fill)
    assert not np.array_equal(fill, np.arange(12)), "TFDS shuffles by the hash of the key"
    source = tfds.data_source("robustjax_tiny", split="train", data_dir=tiny, download=False)
    np.testing.assert_array_equal(fill, [record["image"][0, 0, 0] for record in source])
    np.testing.assert_allclose(got.mean, [5.5] * 3)
    np.testing.assert_allclose(got.std, [np.std(np.arange(12))] * 3)


def test_second_load_is_from_the_cache(tiny, tmp_path, monkeypatch, capsys):
    first = _load_tiny(tiny, tmp_path)
    assert "decoding robustjax_tiny once (18 examples)" in capsys.readouterr().err
    monkeypatch.setattr(tfds_source, "_read", lambda *_: pytest.fail("decoded twice"))
    second = _load_tiny(tiny, tmp_path)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not second.train_inputs.flags.writeable
    assert not list(tmp_path.rglob(".*")), "no partial folder is left"


def test_other_content_of_the_same_name_is_not_served(tiny, tmp_path):
    other = tmp_path / "other"
    _prepare_tiny(other, sizes=(4,))
    assert _load_tiny(tiny, tmp_path / "cache").train_inputs.shape[1] == 8
    assert _load_tiny(other, tmp_path / "cache").train_inputs.shape[1] == 4
    assert _load_tiny(tiny, tmp_path / "cache", image_size=5).train_inputs.shape[1] == 5
    assert _load_tiny(tiny, tmp_path / "cache").train_inputs.shape[1] == 8


@pytest.mark.parametrize("damage", ["truncated", "missing", "meta"])
def test_damaged_cache_is_decoded_again(tiny, tmp_path, damage):
    want = _load_tiny(tiny, tmp_path)
    expected = np.array(want.train_inputs)
    (path,) = tmp_path.rglob("train_images.npy")
    if damage == "truncated":
        os.truncate(path, 300)
    elif damage == "missing":
        path.unlink()
    else:
        (path.parent / "meta.json").write_text("{")
    np.testing.assert_array_equal(_load_tiny(tiny, tmp_path).train_inputs, expected)


def test_interrupted_decoding_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _load_tiny(tiny, tmp_path, progress=stop)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_progress_is_reported_instead_of_printed(tiny, tmp_path, capsys):
    calls = []
    _load_tiny(tiny, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(12, 18), (18, 18)]
    assert capsys.readouterr().err == ""


def test_cache_dir_defaults_to_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert array_cache.default_cache_dir() == tmp_path / "robustjax" / "datasets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert array_cache.default_cache_dir() == Path.home() / ".cache" / "robustjax" / "datasets"


def test_unwritable_cache_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="pass another cache_dir"):
        _load_tiny(tiny, tmp_path / "file")


def test_unequal_sizes_need_image_size(tmp_path):
    _prepare_tiny(tmp_path / "tfds", sizes=(8, 10), test_split="validation", ids=False)
    with pytest.raises(ValueError, match=r"differ in size.*pass image_size \(a side, or height and width\)"):
        _load_tiny(tmp_path / "tfds", tmp_path)
    got = _load_tiny(tmp_path / "tfds", tmp_path, image_size=(6, 5))
    assert got.train_inputs.shape == (12, 6, 5, 3) and got.train_order is None
    fill = got.train_inputs[:, 0, 0, 0]
    np.testing.assert_array_equal(got.train_inputs, np.broadcast_to(fill[:, None, None, None], got.train_inputs.shape))
    assert len(got.test_labels) == 6, "validation stands in for test"


def test_resize_is_bilinear_and_keeps_what_fits():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert array_cache.resize(image, (9, 7)) is image
    expected = np.asarray(Image.fromarray(image).resize((5, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(array_cache.resize(image, (4, 5)), expected)


def test_published_statistics_are_used_for_cifar10(tmp_path):
    _prepare_tiny(tmp_path / "tfds", name="Cifar10")
    got = data.load("cifar10:1.2.0", tmp_path / "tfds", tmp_path / "cache", download=False)
    assert got.mean == (125.307, 122.961, 113.8575) and got.std == (51.5865, 50.847, 51.255)


def test_tensorflow_is_not_imported_even_where_it_is_installed(tiny, tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise RuntimeError('tensorflow was imported')")
    code = (
        "import sys; from robustjax import data; "
        f"d = data.load('robustjax_tiny', {str(tiny)!r}, {str(tmp_path / 'cache')!r}, download=False); "
        "print(d.train_inputs.shape, 'tensorflow' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "(12, 8, 8, 3) False"


def test_unknown_names_get_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="dataset 'cifar_10' is unknown: did you mean cifar10"):
        data.load("cifar_10", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="did you mean digits"):
        data.load("digit", tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"names\(\) lists"):
        data.load("qqqqqqqq", tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"mnist.*9\.9\.9"):
        data.load("mnist:9.9.9", tmp_path, tmp_path)
    (tmp_path / "mine.npz").touch()
    with pytest.raises(ValueError, match=r"is a path: npz:.*mine\.npz is accepted"):
        data.load(str(tmp_path / "mine.npz"), tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"is a path: folder:.* or hf:.* is accepted"):
        data.load(str(tmp_path), tmp_path, tmp_path)


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        data.load("mnist", tmp_path, tmp_path, download=False)
    message = str(error.value)
    assert f"'mnist' is not prepared as array_record under data_dir '{tmp_path}'" in message
    assert f"python -m robustjax.data.tfds_prepare mnist {tmp_path}" in message


def test_other_versions_on_disk_are_named(tmp_path):
    (tmp_path / "mnist" / "2.9.9").mkdir(parents=True)
    (tmp_path / "mnist" / "2.9.9" / "dataset_info.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"version\(s\) 2\.9\.9: ask for 'mnist:2\.9\.9'"):
        data.load("mnist", tmp_path, tmp_path, download=False)


def test_tfrecord_on_disk_is_named(tmp_path):
    for kind, name in (("RobustjaxTiny", "robustjax_tiny"), ("Cifar10", "cifar10")):
        version = "3.0.2" if name == "cifar10" else "1.2.0"
        _prepare_tiny(tmp_path, name=kind, version=version)
        (info,) = tmp_path.glob(f"{name}/*/dataset_info.json")
        info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
        with pytest.raises(FileNotFoundError, match="there as tfrecord, which is not read here"):
            data.load(name, tmp_path, tmp_path)


def test_failed_download_is_one_clear_error(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\n  ...\nConnectionError: no route to host\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(tfds_source, "_unreachable", lambda builder: None)
    with pytest.raises(FileNotFoundError, match=r"(?s)tfds_prepare mnist.*not do it here: ConnectionError: no route"):
        data.load("mnist", tmp_path, tmp_path)


def test_sets_of_sixteen_bits_are_refused_by_name(tiny, tmp_path):
    shutil.copytree(tiny / "robustjax_tiny", tmp_path / "robustjax_tiny")
    (path,) = tmp_path.glob("robustjax_tiny/*/features.json")
    features = json.loads(path.read_text())
    features["featuresDict"]["features"]["image"]["image"]["dtype"] = "uint16"
    path.write_text(json.dumps(features))
    with pytest.raises(ValueError, match="dataset 'robustjax_tiny' has images of uint16; those of uint8"):
        data.load("robustjax_tiny", tmp_path, tmp_path)


def test_sets_of_neither_images_nor_texts_are_refused(tiny, tmp_path):
    shutil.copytree(tiny / "robustjax_tiny", tmp_path / "robustjax_tiny")
    (path,) = tmp_path.glob("robustjax_tiny/*/features.json")
    features = json.loads(path.read_text())
    content = features["featuresDict"]["features"]
    content["image"] = content["label"]
    path.write_text(json.dumps(features))
    with pytest.raises(ValueError, match=r"not image or text classification .*image: ClassLabel"):
        data.load("robustjax_tiny", tmp_path, tmp_path, download=False)


def test_cifar10_is_prepared_without_tensorflow(tmp_path):
    """From files in the layout of the original archive, in a child process, through TFDS's own builder."""
    batches = tmp_path / "cifar-10-batches-bin"
    batches.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (6, 20, 3073), dtype=np.uint8)
    rows[:, :, 0] = np.arange(20) % 10
    for name, batch in zip([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], rows, strict=True):
        (batches / f"{name}.bin").write_bytes(batch.tobytes())
    (batches / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    archive = shutil.make_archive(str(tmp_path / "cifar-10-binary"), "gztar", tmp_path, batches.name)
    code = f"""
import importlib.util, sys
from tensorflow_datasets.image_classification import cifar
from robustjax.data import tfds_prepare
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "tensorflow" else find(name, *rest)
info = cifar.Cifar10._cifar_info.fget
cifar.Cifar10._cifar_info = property(lambda self: info(self)._replace(url={archive!r}))
tfds_prepare.prepare("cifar10", {str(tmp_path / "tfds")!r})
assert "tensorflow" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    got = data.load("cifar10", tmp_path / "tfds", tmp_path / "cache", download=False)
    images = rows[:, :, 1:].reshape(6, 20, 3, 32, 32).transpose(0, 1, 3, 4, 2)
    original = np.empty_like(got.train_inputs)
    original[got.train_order] = got.train_inputs
    np.testing.assert_array_equal(original, images[:5].reshape(100, 32, 32, 3))
    np.testing.assert_array_equal(got.train_labels, got.train_order % 10)
    assert got.class_names == tuple("abcdefghij") and len(got.test_labels) == 20


# One's own data.


def test_from_arrays_keeps_what_it_is_given():
    train, y, test, z = _arrays()
    got = data.from_arrays(train, y, test, z, name="mine", class_names=["a", "b", "c"])
    assert got.name == "mine" and got.class_names == ("a", "b", "c") and got.train_order is None
    assert got.train_inputs is train and got.train_labels.dtype == np.int32
    np.testing.assert_allclose(got.mean, train.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(got.std, train.std((0, 1, 2)), rtol=1e-12)
    grey = data.from_arrays(train[..., 0], y, test[..., 0], z, mean=[3], std=[4])
    assert grey.train_inputs.shape == (12, 6, 6, 1) and grey.mean == (3.0,) and grey.std == (4.0,)


def test_from_arrays_takes_features_and_tokens():
    _, y, _, z = _arrays()
    rng = np.random.default_rng(0)
    features = data.from_arrays(rng.normal(size=(12, 5)), y, rng.normal(size=(6, 5)), z)
    assert features.train_inputs.dtype == np.float32 and len(features.mean) == len(features.std) == 5
    np.testing.assert_allclose(features.mean, features.train_inputs.mean(0), rtol=1e-4)
    series = data.from_arrays(rng.normal(size=(12, 5, 2)), y, rng.normal(size=(6, 5, 2)), z)
    assert series.mean == (0.0,) and series.std == (1.0,)
    tokens = data.from_arrays(rng.integers(0, 99, (12, 7)), y, rng.integers(0, 99, (6, 7)), z)
    assert tokens.train_inputs.dtype == np.int32 and tokens.num_classes == 3
    assert tokens.mean == (0.0,) and tokens.std == (1.0,)


def test_constant_channel_has_no_zero_deviation():
    train, y, test, z = _arrays()
    flat = np.where(np.arange(3) == 1, 7, train).astype(np.uint8)
    assert data.from_arrays(flat, y, test, z).std[1] == 1.0


def _nan_at(array, *index):
    array = array.astype(np.float32)
    array[index] = np.nan
    return array


_X, _Y, _U, _V = _arrays()
BAD = {
    "nan": ((_nan_at(_X, 3, 1, 2, 0), _Y, _U / 1.0, _V), {}, r"train_inputs has 1 non-finite.*index \(3, 1, 2, 0\)"),
    "nan test": ((_X / 1.0, _Y, _nan_at(_U, 0), _V), {}, r"test_inputs has 108 non-finite.*index \(0, 0, 0, 0\)"),
    "dtype": ((_X.astype(complex), _Y, _U, _V), {}, "train_inputs has dtype complex128"),
    "bool": ((_X > 3, _Y, _U > 3, _V), {}, "train_inputs has dtype bool"),
    "object": ((_X.astype(object), _Y, _U, _V), {}, "train_inputs has dtype object"),
    "large integers": ((_X.astype(np.int64) * 2**40, _Y, _U, _V), {}, "beyond 32 bits"),
    "empty": ((_X[:0], _Y[:0], _U, _V), {}, r"train_inputs has shape \(0, 6, 6, 3\)"),
    "one axis": ((_Y, _Y, _V, _V), {}, r"train_inputs has shape \(12,\)"),
    "shapes": (
        (_X, _Y, _U[:, :5], _V),
        {},
        r"test_inputs are uint8 \[5, 6, 3\] each and train_inputs uint8 \[6,",
    ),
    "dtypes": ((_X, _Y, _U / 255, _V), {}, r"test_inputs are float32 .* train_inputs uint8"),
    "label dtype": ((_X, _Y + 0.5, _U, _V), {}, "train_labels has .*5 at index 0; whole numbers or strings"),
    "label range": ((_X, _Y, _U, _V - 1), {}, "test_labels holds 2 value.*first -1 at index 0"),
    "one-hot": ((_X, np.eye(3, dtype=int)[_Y], _U, _V), {}, r"train_labels has shape \(12, 3\)"),
    "length": ((_X, _Y[:-1], _U, _V), {}, "train_labels has 11 entries for 12 examples"),
    "empty class": ((_X, _Y, _U, _V), {"class_names": list("abcd")}, r"no example of class\(es\) \['d'\] of 4"),
    "test class": (
        (_X, _Y, _U, _V + 1),
        {},
        "test_labels holds 2 label.*no class, the first '3' at index 2; .* 0, 1, 2",
    ),
    "no test labels": ((_X, _Y, _U), {}, "go together: give both or neither"),
    "truth": ((_X, _Y, _U, _V), {"true_labels": _Y[:-1]}, "true_labels has 11 entries for 12 examples"),
    "votes": ((_X, _Y, _U, _V), {"annotations": _Y[:, None] - 2}, "annotations plus 1 holds 4 .*first -1 at index 0"),
    "one class": ((_X, _Y * 0, _U, _V * 0), {}, "all of train_labels are '0'; expected at least 2 classes"),
    "names": ((_X, _Y, _U, _V), {"class_names": ["a", "b"]}, "train_labels holds 4 .*accepted are 0 to 1"),
    "same names": ((_X, _Y, _U, _V), {"class_names": ["a", "b", "b"]}, "distinct names"),
    "mean": ((_X, _Y, _U, _V), {"mean": [1, 2]}, "mean is .*expected 1 or 3 finite numbers"),
    "std": ((_X, _Y, _U, _V), {"std": [1, 0, 1]}, "std is .*positive"),
}


@pytest.mark.parametrize("case", BAD)
def test_from_arrays_names_what_is_wrong(case):
    arrays, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        data.from_arrays(*arrays, **options)


@pytest.mark.parametrize("word", ["inputs", "images"])
def test_npz_with_the_names_of_from_arrays_and_the_old_ones(tmp_path, word):
    keys = (f"train_{word}", "train_labels", f"test_{word}", "test_labels")
    arrays = dict(zip(keys, _arrays(), strict=True))
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays, class_names=["a", "b", "c"], mean=[1.0, 2.0, 3.0])
    got = data.load(f"npz:{path}")
    assert got.name == "mine" and got.class_names == ("a", "b", "c") and got.mean == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(got.test_inputs, arrays[f"test_{word}"])
    np.savez(path, **{f"train_{word}": arrays[f"train_{word}"]})
    with pytest.raises(ValueError, match=f"lacks train_labels; it has train_{word}"):
        data.load(f"npz:{path}")
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged or not an npz"):
        data.load(f"npz:{path}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.load(f"npz:{tmp_path / 'nowhere.npz'}")
    with pytest.raises(ValueError, match="image_size is 9"):
        data.load("digits", image_size=9)


def _write_folder(root, mode="RGB", sizes=(6,)):
    images, labels, tests, test_labels = _arrays()
    for part, xs, ys in (("train", images, labels), ("test", tests, test_labels)):
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            path = root / part / "xyz"[y] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            side = sizes[i % len(sizes)]
            Image.fromarray(x).convert(mode).resize((side, side)).save(path)
    return images, labels


def test_folder(tmp_path):
    images, labels = _write_folder(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "x" / "notes.txt").write_text("not an image")
    got = data.load(f"folder:{tmp_path / 'pets'}", cache_dir=tmp_path / "cache")
    by_class = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(got.train_inputs, images[by_class])
    np.testing.assert_array_equal(got.train_labels, labels[by_class])
    assert got.name == "folder:pets" and got.class_names == ("x", "y", "z") and got.train_order is None
    Image.new("RGB", (6, 6)).save(tmp_path / "pets" / "train" / "x" / "new.png")
    assert len(data.load(f"folder:{tmp_path / 'pets'}", cache_dir=tmp_path / "cache").train_labels) == 13


def test_grey_folder_of_unequal_sizes(tmp_path):
    _write_folder(tmp_path / "grey", "L", sizes=(6, 9))
    got = data.load(f"folder:{tmp_path / 'grey'}", cache_dir=tmp_path)
    assert got.train_inputs.shape == (12, 8, 8, 1) and len(got.mean) == 1
    assert got.notes == (
        "images differ in size (height×width from 6×6 to 9×9, median 7.5×7.5): all are resized to 8×8; image_size sets "
        "another size.",
    )
    got = data.load(f"folder:{tmp_path / 'grey'}", cache_dir=tmp_path, image_size=4)
    assert got.train_inputs.shape == (12, 4, 4, 1) and got.notes == ()


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks class folders; expected CLASS/ folders"):
        data.load(f"folder:{tmp_path}", cache_dir=tmp_path)
    _write_folder(tmp_path / "set")
    path = tmp_path / "set" / "train" / "x" / "000.png"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"cannot be read, .*000.png' \(not a readable.*; skip_bad leaves it out"):
        data.load(f"folder:{tmp_path / 'set'}", cache_dir=tmp_path)
    shutil.rmtree(path.parent)
    with pytest.raises(ValueError, match=r"class\(es\) x, which train has not"):
        data.load(f"folder:{tmp_path / 'set'}", cache_dir=tmp_path)
    path.parent.mkdir()
    with pytest.raises(ValueError, match=r"no images .* of x"):
        data.load(f"folder:{tmp_path / 'set'}", cache_dir=tmp_path)


@pytest.mark.parametrize("size", [0, -1, (3,), (3, 0), 2.5, "8"])
def test_bad_image_sizes_are_named(size):
    with pytest.raises(ValueError, match="image_size is"):
        data.load("mnist", image_size=size)
