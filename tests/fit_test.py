"""`robustjax.fit`, runs on arrays in memory, and cross-fitting. One tiny run serves them all."""

import dataclasses
import doctest
import os
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_matrix

import robustjax
from experiments import fitting, run
from experiments.runs import artefacts, cross_fit, directory, records, restore
from experiments.settings import build
from robustjax import backend
from robustjax.data import Dataset
from tests import toys

NAMES = np.array(["ant", "bee", "cat"])
SMALL = {
    "method": "cross_entropy", "model": "mlp", "epochs": 2, "batch_size": 16, "learning_rate": 0.05, "augmentation":
    "none", "parallel": "single", "quiet": True,
}  # fmt: skip
IMAGES, LABELS = toys.images(toys.N, 1)
GIVEN = NAMES[toys.given_labels(0)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "run"
    seen = []
    fitting.fit(IMAGES, GIVEN, out=out, on_epoch=seen.extend, **SMALL)
    assert seen == records.read_records(out / "metrics.jsonl") and [each["epoch"] for each in seen] == [1, 2]
    before = (out / "metrics.jsonl").read_bytes()
    found = fitting.fit(IMAGES, GIVEN, out=out, cross_fit=2, **SMALL)  # added to the finished run, which stays
    assert found.path == out and (out / "metrics.jsonl").read_bytes() == before
    assert found.summary["cross_fit"]["parts"] == 2 and len(found.summary["seeds"]) == 1
    return found


def test_what_a_fit_gives(fitted):
    assert fitted.class_names == tuple(NAMES) and fitted.settings.dataset.startswith("arrays:")
    probabilities = fitted.predict(IMAGES[:5])
    assert probabilities.shape == (5, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert fitted.predict_labels(IMAGES[:5]).tolist() == NAMES[probabilities.argmax(1)].tolist()
    assert fitted.history["epoch"] == [1, 2] and "held out" in repr(fitted)
    dataset = fitted._source.dataset
    assert dataset.test_held_out and len(dataset.test_labels) + len(fitted.positions) == toys.N
    np.testing.assert_array_equal(IMAGES[fitted.positions], dataset.train_inputs)
    assert [int(each) for each in dataset.train_ids] == fitted.positions.tolist()
    kept = fitted.out_of_sample()
    np.testing.assert_allclose(kept.sum(1), 1, rtol=1e-6)
    assert (
        kept.shape == (len(fitted.positions), 3)
        and "cross_fit" not in directory.read_description(fitted.path)["settings"]
    )
    with pytest.raises(FileNotFoundError, match=r"experiments\.audit"):
        fitted._file("nothing.csv")


def test_the_same_call_finds_the_run_and_other_data_do_not(fitted):
    before = os.stat(fitted.path / "metrics.jsonl").st_mtime_ns
    again = fitting.fit(IMAGES, GIVEN, out=fitted.path, **SMALL)
    assert again.summary == fitted.summary and os.stat(fitted.path / "metrics.jsonl").st_mtime_ns == before
    with pytest.raises(directory.RunDirectoryError, match=r"overwrite=True"):
        fitting.fit(IMAGES[::-1], GIVEN, out=fitted.path, **SMALL)
    with pytest.raises(ValueError, match="pass it as dataset"):
        restore.restore_run(fitted.path)


def test_every_example_is_predicted_by_a_network_that_has_not_seen_it(fitted):
    """Whatever its own label is, what is said of it stays the same to the bit; of others it does not."""
    settings, dataset = dataclasses.replace(fitted.settings, quiet=True, parallel="single"), fitted._source.dataset
    labels = build.corrupt(settings, dataset, 0)
    parts, before = cross_fit.split(labels.train.given, 3, 2, 0), fitted.out_of_sample()
    changed = labels.train.given.copy()
    changed[7] = (changed[7] + 1) % 3
    altered = labels._replace(train=labels.train._replace(given=changed))
    own = int(parts.part[7])
    numbers = [own, 1 - own]
    trained = cross_fit.predictions(settings, dataset, None, altered, parts, 0, numbers, epochs=2)
    for k, (of, (found,)) in zip(numbers, trained, strict=True):
        assert of == [k] and np.array_equal(found, before[parts.part == k]) == (k == own)


def test_a_run_killed_before_the_audit_of_its_cross_fit_audits_then(fitted, monkeypatch):
    summary = directory.read_summary(fitted.path)
    told = summary.pop("cross_fit")
    records.write_json_atomic(fitted.path / "summary.json", summary)  # as it is until the audit is done
    audited = []
    monkeypatch.setattr(run.audit, "after_run", lambda *args: audited.append(1) or "")
    monkeypatch.setattr(cross_fit, "predictions", lambda *args, **more: iter(()))  # none is trained again
    again = fitting.fit(IMAGES, GIVEN, out=fitted.path, cross_fit=2, **SMALL)
    assert audited == [1] and again.summary["cross_fit"]["agreement"] == told["agreement"]


def test_a_cross_fit_that_is_stopped_goes_on(fitted, tmp_path, monkeypatch):
    trained = []

    def predictions(config, dataset, pool, labels, parts, seed, numbers, *, epochs, stop):
        for k in numbers:
            if stop():
                return
            trained.append(k)
            yield [k], [np.full((np.sum(parts.part == k), 3), k, np.float32)]

    monkeypatch.setattr(cross_fit, "predictions", predictions)
    settings, dataset = dataclasses.replace(fitted.settings, cross_fit=3), fitted._source.dataset
    labels = build.corrupt(settings, dataset, 0)
    arguments = (tmp_path, settings, dataset, None, labels, 0)
    assert not cross_fit.complete(*arguments, epochs=2, stop=lambda: len(trained) == 2)
    assert cross_fit.read(tmp_path, 0) is None and cross_fit.missing(tmp_path, settings) == [0]
    assert cross_fit.complete(*arguments, epochs=2) and trained == [0, 1, 2]
    part = cross_fit.split(labels.train.given, 3, 3, 0).part
    np.testing.assert_array_equal(cross_fit.read(tmp_path, 0), np.repeat(part[:, None], 3, 1))
    assert not cross_fit.missing(tmp_path, settings)
    assert cross_fit.missing(tmp_path, dataclasses.replace(settings, cross_fit=2)) == [0]
    assert cross_fit.complete(*arguments[:1], dataclasses.replace(settings, cross_fit=2), *arguments[2:], epochs=2)
    assert trained == [0, 1, 2, 0, 1]  # other parts are another cross-fit
    (tmp_path / "cross-fit-seed0.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is damaged"):
        cross_fit.missing(tmp_path, settings)


@pytest.mark.parametrize("sizes", [(5, 2, 2), (40, 21, 2)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_are_alike(sizes, count):
    given = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], sizes))
    part, seen = cross_fit.split(given, 3, count, seed=1)
    assert len(set(seen.sum(1))) == 1 and not seen[part, np.arange(len(part))].any()
    assert seen[0].sum() == len(given) - -(-len(given) // count)
    assert all(given[row].min() == 0 and len(set(given[row])) == 3 for row in seen)
    for c in range(3):
        inside = np.bincount(part[given == c], minlength=count)
        assert inside.max() - inside.min() <= 1


def test_copies_stay_together():
    given = np.arange(40) % 2
    alike = np.where(np.arange(40) < 12, np.arange(40) % 3, np.arange(40))  # three examples four times, both classes
    part, seen = cross_fit.split(given, 2, 4, 0, alike)
    assert all(len(set(part[alike == number])) == 1 for number in range(3))
    assert len(set(seen.sum(1))) == 1 and not seen[part, np.arange(40)].any()


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match=r"cross_fit=3: .* of class 1, with 1, one network would see none"):
        cross_fit.split(np.array([0, 0, 0, 1]), 2, 3, 0)
    with pytest.raises(ValueError, match=r"cross_fit=3: .* there are 2 different examples"):
        cross_fit.split(np.array([0, 0, 1, 1]), 2, 3, 0, np.array([0, 0, 2, 2]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "epoch is no setting: did you mean epochs"),
        ({"epochs": 2.5}, "epochs=2.5: a whole number"),
        ({"model": len}, "model=<built-in function len>: a text is accepted; FILE.py:NAME"),
        ({"dataset": "digits"}, "takes no such setting"),
        ({"noise_rate": 0.1}, "needs noise=KIND"),
        ({"labels": None}, "one for each example"),
        ({"labels": GIVEN[:5]}, "labels has 5 entries for 60"),
        ({"labels": "label"}, "pandas.DataFrame"),
        ({"images": IMAGES.reshape(toys.N, 1, 2, 8)}, "transpose"),
        ({"class_names": ["ant", "bee"]}, "the classes are ant, bee"),
        ({"test": (IMAGES,)}, "expected a pair"),
        ({"test": (IMAGES[:2], ["ant", "dog"])}, "test_labels .* 'dog'"),
        ({"ids": ["a"] * toys.N}, "'a' twice"),
        ({"cross_fit": 1}, "at least 2"),
        ({"labels": np.where(toys.given_labels(0) > 1, np.nan, 1)}, r"labels has \d+ missing label\(s\), the first at"),
        ({"images": csr_matrix(IMAGES.reshape(toys.N, -1))}, "images is a sparse matrix; a dense one is accepted"),
        (
            {"images": IMAGES.reshape(toys.N, -1), "model": "resnet20"},
            "'resnet20' reads images .*: mlp or linear",
        ),
        ({"cross_fit": 2, "batch_size": 30}, "more parts or a smaller batch"),
    ],
)
def test_what_fit_refuses(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fitting.fit(**{"images": IMAGES, "labels": GIVEN, "out": tmp_path / "run", **SMALL, **given})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (IMAGES / 255, r"trained on uint8 \[N, 4, 4, 1\].*from 0 to 1: `np.round\(255"),
        (IMAGES[0], r"one example, .* `inputs\[None\]`"),
        (IMAGES[:, :2], r"uint8 \[60, 2, 4, 1\]"),
    ],
)
def test_what_prediction_refuses(fitted, inputs, message):
    with pytest.raises(ValueError, match=message):
        fitted.predict(inputs)


class Frame:
    """As much of a pandas.DataFrame as is used."""

    def __init__(self, columns):
        self.table, self.columns = columns, list(columns)

    def __getitem__(self, names):
        if isinstance(names, str):
            return self.table[names].view(Series)
        return np.stack([self.table[name] for name in names], 1).view(Series)


class Series(np.ndarray):
    def to_numpy(self, dtype=None):
        return np.asarray(self, dtype)


Frame.__module__ = Series.__module__ = "pandas.core"


def test_arrays_of_all_kinds_become_what_a_run_takes():
    made = fitting._source
    numbers = toys.given_labels(0)
    pixels = made(IMAGES[..., 0].astype(int), numbers + 3, true_labels=LABELS + 3, groups=numbers)
    assert pixels.dataset.train_inputs.shape[1:] == (4, 4, 1) and pixels.dataset.train_inputs.dtype == np.uint8
    assert pixels.classes.tolist() == [3, 4, 5] and pixels.dataset.class_names == ("3", "4", "5")
    held = np.setdiff1d(np.arange(toys.N), pixels.trained)
    np.testing.assert_array_equal(pixels.dataset.test_labels, LABELS[held])  # the true ones, where they are known
    np.testing.assert_array_equal(pixels.dataset.true_labels, LABELS[pixels.trained])
    np.testing.assert_array_equal(pixels.dataset.groups, numbers[pixels.trained])

    for kind in (float, object):  # as a division or a table's gaps leave them
        assert made(IMAGES, (numbers + 3).astype(kind)).classes.tolist() == [3, 4, 5]

    floats = made(IMAGES / 255, GIVEN, test=(IMAGES[:9] / 255, GIVEN[:9]))
    assert floats.dataset.train_inputs.dtype == np.float32 and not floats.dataset.test_held_out
    assert floats.trained.tolist() == list(range(toys.N))

    vectors = IMAGES.reshape(toys.N, -1)
    frame = Frame({"label": GIVEN, "name": np.array([f"n{i}" for i in range(toys.N)]), "b": vectors[:, 1],
                   "a": vectors[:, 0] / 2})  # fmt: skip
    table = made(frame, "label", ids="name")
    assert table.dataset.train_inputs.dtype == np.float32 and table.dataset.train_ids[0].startswith("n")
    np.testing.assert_array_equal(table.dataset.train_inputs, vectors[table.trained, 1::-1] / np.array([1, 2]))
    np.testing.assert_array_equal(table.read(Frame({"a": vectors[:, 0] / 2, "b": vectors[:, 1]})), table.read(frame))
    with pytest.raises(ValueError, match="'name' are no numbers"):
        made(frame, "label")
    with pytest.raises(ValueError, match="lacks the column 'b'"):
        table.read(Frame({"a": vectors[:, 0]}))

    dataset = table.dataset
    relabelled = made(dataset, np.roll(dataset.train_labels, 1))
    assert relabelled.dataset.train_inputs is dataset.train_inputs and relabelled.classes.tolist() == NAMES.tolist()
    with pytest.raises(ValueError, match="ids is given beside a Dataset"):
        made(dataset, None, ids=["a"])


def test_image_files_become_what_a_run_takes(tmp_path):
    paths, names = [], np.array(["ant", "bee"] * 5)
    for i in range(10):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((8, 8 + 4 * (i == 9), 3), 20 * i, np.uint8)).save(paths[i])
    made = fitting._source(paths, names)
    assert made.dataset.train_inputs.shape == (8, 8, 8, 3) and made.dataset.train_ids[0].endswith(".png")
    np.testing.assert_array_equal(made.dataset.train_inputs[:, 0, 0, 0], 20 * made.trained)
    np.testing.assert_array_equal(made.read(paths[:2])[1, 0, 0], [20] * 3)
    assert fitting._source(Frame({"path": np.array(paths, str), "y": names}), "y", image_size=4).read(
        [paths[9]]
    ).shape == (1, 4, 4, 3)
    paths[3].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 10 images .*3\.png.* skip_bad=True"):
        fitting._source(paths, names)
    left = fitting._source(paths, names, skip_bad=True, ids=range(100, 110))
    assert len(left.trained) == 7 and 3 not in left.trained
    assert [int(each) - 100 for each in left.dataset.train_ids] == left.trained.tolist()
    with pytest.raises(ValueError, match=r"robustjax\.load"):
        fitting._source(tmp_path, names)


@pytest.mark.parametrize("function", [cross_fit.split, fitting.in_keywords])
def test_examples(function):
    (example,) = doctest.DocTestFinder(recurse=False).find(
        function, globs=vars(sys.modules[function.__module__]).copy()
    )
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples)) and example.examples


def test_data_in_memory_are_called_by_all_that_a_run_makes_of_them(fitted):
    dataset: Dataset = fitted._source.dataset
    changed = {
        "train_labels": np.roll(dataset.train_labels, 1), "true_labels": dataset.train_labels,
        "class_names": tuple("abc"), "groups": dataset.train_labels, "test_inputs": dataset.test_inputs[::-1],
    }  # fmt: skip
    names = [artefacts.name_of(dataset)] + [artefacts.name_of(dataset._replace(**{k: v})) for k, v in changed.items()]
    assert len(set(names)) == len(names) and names[0] == fitted.settings.dataset
    assert robustjax.fit is fitting.fit


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["dynamic_loss", "elr_plus", "har", "nlnl", "dividemix", "co_teaching"])
def test_every_kind_of_method_is_cross_fitted(method, tmp_path):
    more = {"forget_rate": 0.2} if method == "co_teaching" else {}
    model = {"model_options": {"normalize": True}, "groups": LABELS} if method == "har" else {}
    settings = {**SMALL, "method": method, "seeds": 2, "cross_fit": 2, **more, **model}
    found = fitting.fit(IMAGES, GIVEN, out=tmp_path / "run", **settings)
    for seed in (0, 1):
        np.testing.assert_allclose(found.out_of_sample(seed).sum(1), 1, rtol=1e-5)
    assert len(found.summary["cross_fit"]["agreement"]) == 2


@pytest.mark.exhaustive
def test_networks_trained_at_once_are_those_trained_one_by_one(fitted, monkeypatch):
    settings, dataset = dataclasses.replace(fitted.settings, quiet=True, parallel="single"), fitted._source.dataset
    labels = build.corrupt(settings, dataset, 0)
    parts, before = cross_fit.split(labels.train.given, 3, 2, 0), fitted.out_of_sample()
    monkeypatch.setattr(backend, "gains_by_training_at_once", lambda: True)
    ((numbers, found),) = cross_fit.predictions(settings, dataset, None, labels, parts, 0, [0, 1], epochs=2)
    assert list(numbers) == [0, 1]
    for k in (0, 1):
        np.testing.assert_allclose(found[k], before[parts.part == k], atol=1e-4)
