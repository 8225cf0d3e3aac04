"""What must not get in: every number flag at its corners, and rows of flags, files and faults, with their sentences."""

import dataclasses
import errno
import math
import os
import pathlib
import signal
import threading
import warnings

import jax
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from experiments import complaints, run
from experiments.pictures import findings, of_runs, plots, style
from experiments.runs import table
from experiments.settings import build, catalogue, command_line, config, ranges, rates
from robustjax import data, filesystem, methods, user_code
from robustjax._checks import load_array
from robustjax.data import array_cache, image_files, labelling, tfds_source
from robustjax.methods import base
from robustjax.training import engine

BEYOND = ("nan", "inf", "-inf", "12345678901234567890", "-12345678901234567890")


def number_settings():
    """(name, kind, help text) of every setting that is a number."""
    return [
        (field.name, command_line.field_kind(field), field.metadata["help"])
        for field in dataclasses.fields(config.Config)
        if field.name in config.FIELDS and command_line.field_kind(field) in (int, float)
    ]


def number_options():
    """(method, name, kind, help text) of every option that is a number, once for each help text."""
    found = {}
    for known in methods.entries():
        for name, option in catalogue.options(known).items():
            if option.kind in (int, float):
                found.setdefault((name, option.help), (known.name, name, option.kind, option.help))
    return list(found.values())


def outside(kind, text):
    """Values just outside a flag's range."""
    accepted = ranges.read(text, kind)
    step = 1 if kind is int else 1e-3
    low = accepted.low - step if accepted.with_low else accepted.low
    high = accepted.high + step if accepted.with_high else accepted.high
    return [kind(value) for value in (low, high)]


def refused(flags, tmp_path, capsys):
    """What is said on stderr, in one line, of flags that must be refused before the run directory is touched."""
    out = tmp_path / "run"
    try:
        status = run.main([*flags, f"--out={out}"])
    except SystemExit as stopped:  # argparse's
        status = stopped.code
    said = capsys.readouterr()
    assert status == 2 and not out.exists()
    assert all(line.startswith("settings: ") for line in said.out.splitlines())
    assert "Traceback" not in said.err
    return said.err


def check_refusals(name, kind, text, flags, tmp_path, capsys):
    flag = f"--{name.replace('_', '-')}"
    for value in (*BEYOND, *map(str, outside(kind, text))):
        told = refused([*flags, f"{flag}={value}"], tmp_path, capsys)
        if kind is int and not value.lstrip("-").isdigit():
            assert f"{flag}" in told and "invalid int value" in told and value in told
        else:
            assert told.startswith(f"error: {flag}={kind(value)!r}: ")
            assert told.count("\n") == 1 and f"in {ranges.read(text, kind)} is accepted" in told


def test_every_number_says_its_range():
    """So that a flag that is yet to be made has one, too."""
    silent = [name for name, _, text in number_settings() if not ranges.says(text)]
    silent += [f"{method} --{name}" for method, name, _, text in number_options() if not ranges.says(text)]
    assert not silent


def test_defaults_are_in_their_ranges():
    for field in dataclasses.fields(config.Config):
        ranges.check(field.name, field.default, field.metadata.get("help", ""))
    for known in methods.entries():
        for name, option in catalogue.options(known).items():
            ranges.check(name, option.default, option.help)


@pytest.mark.parametrize(("name", "kind", "text"), number_settings(), ids=lambda value: str(value)[:20])
def test_settings_out_of_range(name, kind, text, tmp_path, capsys):
    check_refusals(name, kind, text, [], tmp_path, capsys)


@pytest.mark.parametrize(("method", "name", "kind", "text"), number_options(), ids=lambda value: str(value)[:20])
def test_options_out_of_range(method, name, kind, text, tmp_path, capsys):
    flags = [f"--method={method}"]
    if name in config._SPARSE and "regularizer" in catalogue.options(catalogue.entry(method)):
        flags.append("--regularizer=sparse")
    check_refusals(name, kind, text, flags, tmp_path, capsys)


@pytest.mark.parametrize(
    ("text", "kind", "inside", "beyond"),
    [
        ("a rate in [0, 1]", float, (0.0, 1.0, 0.5), (-1e-9, 1.1)),
        ("in (0, 1]: near 0 it is another", float, (1e-9, 1.0), (0.0, 1.1)),
        ("bias in [−20, 20.5].", float, (-20.0, 20.5), (-20.1, 20.6)),
        ("at least 1, at most ten", int, (1, 2**31 - 1), (0, 2**31)),
        ("positive; at least in words", float, (1e-30, 1e9), (0.0, -1.0, 2e9)),
        ("anything", float, (-1e9, 0.0, 1e9), (1.1e9,)),
    ],
)
def test_ranges_are_what_help_says(text, kind, inside, beyond):
    accepted = ranges.read(text, kind)
    assert all(value in accepted for value in inside)
    assert not any(value in accepted for value in (*beyond, math.nan, math.inf, -math.inf))


@pytest.mark.parametrize(
    "spec",
    [
        "exponential:-1", "exponential:nan", "exponential:inf", "exponential:0", "exponential:1e30",
        "multistep:40,80:nan", "multistep:-1:0.1", "multistep:12345678901234567890:0.1", "multistep:80,40:0.1",
        "cosine_restarts:0:0.1", "cosine_restarts:10:-1", "cosine_restarts:10:inf", "cosine_restarts:nan:0",
        "linear:-1", "linear:60", "linear:1e3", "constant:1", "cosine:", "",
    ],
)  # fmt: skip
def test_schedules_out_of_range(spec):
    with pytest.raises(ValueError, match=r"schedule=.*accepted"):
        rates.make_schedule(spec, 0.1, 60)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--schedule=exponential:-1"], "--schedule='exponential:-1'"),
        (["--seed=4294967295", "--seeds=2"], "--seeds=2: the last of them would be 4294967296"),
        (["--regularizer=sparse", "--strength=-1", "--method=gce"], "--strength=-1.0: a number in [0, 1000000000]"),
        (["--corrector-bias=inf", "--method=dynamic_loss"], "--corrector-bias=inf: a number in [-20, 20]"),
        (["--noise=symmetric", "--noise-rate=0"], "--noise-rate=0.0"),
        (["--validation-split=0", "--early-stopping=3"], "--early-stopping=3: it needs --validation-split"),
        (["--resume", "--overwrite"], "--resume=True"),
        (["--trusted=mine.npz"], "--trusted='mine.npz': npz:FILE, folder:DIR"),
        (["--model-options=hidden"], "--model-options='hidden'"),
        (
            ["--model=small_cnn", "--model-options=hidden=-1"],
            "hidden of small_cnn must be a whole number in [0, 100000]",
        ),
        (["--model=small_cnn", "--model-options=hidden=nan"], "hidden of small_cnn must be a whole number"),
        (["--model=mlp", "--model-options=widths=wide"], "widths of mlp must be a tuple"),
        (["--model=bilstm", "--model-options=dropout=nan"], "dropout of bilstm must be a number in [0, 1)"),
        (["--model=resnet20", "--model-options=tap_stem=1"], "tap_stem of resnet20 must be true or false"),
        (["--augmentation=crop-flop"], "flip"),
        (["--method=my.py:one"], "--method='my.py': there is no such file"),
        (["--dataset=cifar10", "--data-dir=nowhere/at/all"], "--data-dir='nowhere/at/all' for dataset 'cifar10'"),
        (["--train-examples=9"], "--train-examples=9 must be at least the 10 classes"),
        (["--labels=none.npy", "--noise=none"], "--labels='none.npy': there is no file"),
        (["--dataset=npz:none.npz"], "'none.npz' is not a file"),
    ],
)
def test_flags_that_are_refused(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in refused(flags, tmp_path, capsys)
    assert not list(tmp_path.iterdir())  # nothing was made for what is mistyped


# --- Images ---------------------------------------------------------------------------------------------------------

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def saved(image, path, **options):
    image.save(path, **options)
    return path


def colour(image, **to):
    return np.asarray(image.convert("RGB", **to))


def transparent():
    """Black, of which the left half is not there."""
    return Image.fromarray(
        np.stack([np.zeros((3, 4), np.uint8)] * 3 + [np.tile(np.uint8([0, 0, 255, 255]), (3, 1))], -1), "RGBA"
    )


def test_images_are_read_as_a_viewer_shows_them(tmp_path):
    grey = Image.fromarray(RAMP)
    rgb = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_180), grey])
    sixteen = saved(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "16.png")
    np.testing.assert_array_equal(image_files.pixels(sixteen, True)[..., 0], RAMP)
    np.testing.assert_array_equal(image_files.pixels(sixteen, False), np.stack([RAMP] * 3, -1))
    tiff = saved(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "16.tif")
    np.testing.assert_array_equal(image_files.pixels(tiff, True)[..., 0], RAMP)
    palette = saved(rgb.quantize(12), tmp_path / "palette.png")
    np.testing.assert_array_equal(image_files.pixels(palette, False), colour(rgb.quantize(12)))
    cmyk = saved(rgb.convert("CMYK"), tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(image_files.pixels(cmyk, False), np.asarray(rgb))
    white = np.repeat(np.tile(np.uint8([255, 255, 0, 0]), (3, 1))[..., None], 3, -1)
    np.testing.assert_array_equal(image_files.pixels(saved(transparent(), tmp_path / "rgba.png"), False), white)
    keyed = saved(transparent().convert("LA"), tmp_path / "la.png")
    np.testing.assert_array_equal(image_files.pixels(keyed, True), white[..., :1])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = saved(rgb, tmp_path / "exif.png", exif=exif)
    np.testing.assert_array_equal(image_files.pixels(turned, False), np.rot90(np.asarray(rgb), -1))


def test_images_without_a_meaning_in_eight_bits_are_refused_by_name(tmp_path, monkeypatch):
    refused = {
        "float.tif": Image.fromarray(RAMP.astype(np.float32)),
        "int32.tif": Image.fromarray(RAMP.astype(np.int32) * 10**6),
        "lab.tif": Image.merge("LAB", [Image.fromarray(RAMP)] * 3),
    }
    for name, image in refused.items():
        with pytest.raises(ValueError, match=r"^not a readable image: \w"):
            image_files.pixels(saved(image, tmp_path / name), False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # 12 pixels are too many, 24 a bomb
    for count in (3, 6):
        bomb = saved(Image.fromarray(np.tile(RAMP, (count // 3, 1))), tmp_path / f"bomb{count}.png")
        with pytest.raises(ValueError, match=r"^not a readable image: .*pixels"):
            image_files._look(bomb, deep=False)


# --- Sizes ----------------------------------------------------------------------------------------------------------


def test_labels_that_are_no_classes_are_refused_before_anything_is_made_of_them(tmp_path, capsys):
    arrays = {"train_inputs": np.zeros((40, 2)), "test_inputs": np.zeros((1, 2)), "test_labels": np.array([0])}
    np.savez(tmp_path / "mine.npz", train_labels=np.arange(40) * 5_000_000, **arrays)
    told = refused([f"--dataset=npz:{tmp_path / 'mine.npz'}"], tmp_path, capsys)
    assert "mine.npz" in told and "train_labels has 40 different labels for 40 examples" in told


def test_states_that_cannot_fit_are_refused_before_they_are_made():
    def init(key, labels):
        return {"weights": jax.random.normal(key, (10**6, 10**5)), "key": key}

    labels = labelling.Labels(np.arange(4), np.arange(4), np.arange(4))
    owns = [build.own(build.SeedLabels(labels), seed) for seed in range(2)]
    with pytest.raises(ValueError, match=r"seeds=2, .* takes 1.6e\+03 GB of"):
        build.check_memory(base.Method(init, (), None), owns)
    build.check_memory(base.Method(lambda key, labels: {"key": key}, (), None), owns)
    build.check_memory(base.Method(lambda key, labels: int(jax.random.bits(key)), (), None), owns)  # needs its numbers


# --- Caches ---------------------------------------------------------------------------------------------------------


def decode(folder, read):
    return array_cache.decode_once(
        folder, {"train": array_cache.Reader(2, read)}, what="mine", progress=lambda *_: None
    )


def records(start, stop):
    return [array_cache.Record(np.full((2, 2, 1), i, np.uint8), 0, i) for i in range(start, stop)]


def test_what_killed_decodes_leave_is_removed_and_what_is_under_way_is_not(tmp_path):
    dead, alive = (tmp_path / f".{name}.partial" for name in ("dead", "alive"))
    dead.mkdir()
    alive.mkdir()
    (dead / "train_images.npy").write_bytes(b"half")
    lock = filesystem.lock(alive)
    arrays, _, _ = decode(tmp_path / "set", records)
    np.testing.assert_array_equal(arrays["train_images"][:, 0, 0, 0], [0, 1])
    os.close(lock)
    assert {path.name for path in tmp_path.iterdir()} == {"set", ".alive.partial"}


def test_a_full_cache_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    """/dev/full takes what is opened for writing, and refuses what is written."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    opened = open
    monkeypatch.setattr(
        array_cache, "open", lambda path, mode: opened("/dev/full" if "w" in mode else path, mode), raising=False
    )
    with pytest.raises(OSError, match=r"cannot write the cache of mine .*No space left.*--cache-dir"):
        decode(tmp_path / "set", records)
    assert not list(tmp_path.iterdir())


def test_no_home_is_told(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", homeless)
    with pytest.raises(FileNotFoundError, match="XDG_CACHE_HOME"):
        array_cache.default_cache_dir()
    with pytest.raises(FileNotFoundError, match="XDG_CACHE_HOME"):
        data.load("folder:nowhere")


# --- No network -----------------------------------------------------------------------------------------------------


class Builder:
    """What is asked of a TFDS builder."""

    def __init__(self, root, *urls):
        self.data_dir_root, self.url_infos = root, dict.fromkeys(urls)


def test_no_network_is_found_out_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source.urllib.request, "getproxies", dict)
    closed = Builder(tmp_path, "http://127.0.0.1:9/data.zip")
    assert tfds_source._unreachable(closed) == "127.0.0.1: Connection refused"
    waiting = threading.Event()

    def silent(*_):
        waiting.wait(10)
        raise TimeoutError

    monkeypatch.setattr(tfds_source.socket, "create_connection", silent)
    assert "has not answered in 0.05 seconds" in tfds_source._unreachable(closed, 0.05)
    waiting.set()
    assert tfds_source._unreachable(Builder(tmp_path)) is None
    (tmp_path / "downloads").mkdir()  # what is there already needs no network
    assert tfds_source._unreachable(closed) is None


# --- Names ----------------------------------------------------------------------------------------------------------

NAMES = ("$\\frac{$", "[unknown]", "[/red]", "cost: $5", "100 %", "_hidden", "a\nb", "x" * 500, "", "\\$")


def left_of(names):
    """Findings of every kind that is drawn by class."""
    count = len(names)
    values = np.linspace(0, 1, count * 3).reshape(count, 3)
    kinds = {"weight": "PerClass", "strength": "PerGroup", "table": "Table"}
    history = [{"weight": values[:, 0], "strength": values[:, 1], "table": values}] * 2
    labels = labelling.Labels(np.arange(count), np.arange(count), np.arange(count))
    return findings.Left(kinds, [{"epoch": 1}], history, {}, labels, [style.plain(name) for name in names])


@pytest.mark.parametrize(
    "names", [NAMES, pytest.param(tuple(map(str, range(1000))), marks=pytest.mark.exhaustive)], ids=["odd", "many"]
)
def test_pictures_by_class_are_drawn_whatever_classes_are_called(names, tmp_path):
    drawn = []
    for kind in ("PerClass", "PerGroup", "Table"):
        drawn += [style.save(draw(), tmp_path / f"{name}.png") for name, draw in findings.figures(left_of(names), kind)]
    assert len(drawn) == 4
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.size > (200, 100)


def test_names_in_pictures_are_text():
    assert [style.plain(name) for name in ("$x$", r"\$", "a\nb", "é [b]")] == [r"\$x\$", r"\$", "a b", "é [b]"]
    figure = Figure()
    title = figure.suptitle(style.plain("$x^2$"))
    FigureCanvasAgg(figure).draw()
    assert title.get_text() == r"\$x^2\$" and not cbook.is_math_text(title.get_text())


def test_names_in_tables_are_text():
    shown = Console(width=80)
    summary = {"final": {"per_class_accuracy": [0.5] * len(NAMES)}}
    with shown.capture() as printed:
        shown.print(table.results_table([summary], class_names=NAMES[:6] + NAMES[8:] + NAMES[6:8]))
    assert all(name in printed.get() for name in NAMES[:6])


def test_a_picture_that_cannot_be_drawn_is_one_warning(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError("first line\nsecond line")

    def grumble(*_):
        warnings.warn("no such sign", UserWarning, stacklevel=1)
        warnings.warn("nor this", UserWarning, stacklevel=1)
        return Figure()

    np.savez(tmp_path / "findings-seed0.npz", names=np.array(["a"]), kinds=np.array(["PerClass"]))
    (tmp_path / "diagnostics").mkdir()
    (tmp_path / "diagnostics" / "seed0-epoch1.npz").write_bytes(b"damaged")
    monkeypatch.setattr(plots, "draw_learning_curves", fail)
    monkeypatch.setattr(plots, "draw_memorization", grumble)
    lines = [{"seed": 0, "epoch": 1, "wrong_memorized": 0.5}]
    labels = labelling.Labels(np.arange(2), np.arange(2), np.arange(2))
    made = of_runs.draw_all(tmp_path, config.Config(), data.load("digits"), [labels], [0], lines)
    told = capsys.readouterr().err.splitlines()
    assert [path.name for path in made] == ["memorization.png"] and len(told) == 3
    assert told[0].startswith("warning: no picture of findings: ")
    assert told[1:] == [
        "warning: no picture of learning_curves: MemoryError: first line",
        "warning: the picture of memorization: no such sign (1 more warnings)",
    ]


# --- What main makes of errors --------------------------------------------------------------------------------------

OWN = """
import sys

def wanders(logits, labels):
    return {}["nowhere"]

def leaves(logits, labels):
    sys.exit(0)

def mistakes(logits, labels):
    return logits + "text"

def opens(logits, labels):
    return open("/nowhere")
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def raising(monkeypatch, error):
    def execute(*_):
        raise error

    monkeypatch.setattr(run, "execute", execute)


@pytest.mark.parametrize(
    ("name", "line", "kind"),
    [("wanders", 5, "KeyError"), ("leaves", 8, "SystemExit"), ("mistakes", 11, "TypeError"), ("opens", 14, "FileNotF")],
)
def test_a_users_own_error_is_told_with_file_line_and_function(own, name, line, kind, monkeypatch, capsys):
    def execute(*_):
        user_code.load(f"{own}:{name}", "loss", "a function")(np.zeros((3, 2)), np.zeros(3, int))

    monkeypatch.setattr(run, "execute", execute)
    assert run.main([]) == 2
    told = capsys.readouterr().err
    assert f"{own}, line {line}, in {name}" in told and kind in told and told.count("\n") == 1


@pytest.mark.parametrize("text", ["import sys; sys.exit(0)", "raise SystemExit", "1 / 0", "def ("])
def test_a_file_that_cannot_be_imported_is_no_success(text, tmp_path, capsys):
    (tmp_path / "own.py").write_text(text)
    told = refused([f"--loss={tmp_path / 'own.py'}:mine"], tmp_path, capsys)
    assert "own.py' cannot be imported" in told and "line 1" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 2, "Permission denied: 'runs/x'."),
        (OSError(errno.ENOSPC, "No space left on device", "m.jsonl"), 1, "No space left on device: 'm.jsonl'."),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device."),
        (OSError("cannot write the cache"), 1, "cannot write the cache"),
        (MemoryError(), 1, "there is not enough memory."),
        (MemoryError("Unable to allocate 3 GiB"), 1, "there is not enough memory. Unable to allocate 3 GiB"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 GB\nmore"), 1, "RESOURCE_EXHAUSTED: 3 GB"),
        (ValueError("batch_size=9 is too large: limit=3"), 2, "--batch-size=9 is too large: --train-examples=3"),
        (engine.NonFiniteLossError("the loss is nan"), 1, "the loss is nan"),
    ],
)
def test_errors_become_sentences(error, status, message, monkeypatch, capsys):
    raising(monkeypatch, error)
    assert run.main([]) == status
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.endswith(f"{message}\n") and told.count("\n") == 1


@pytest.mark.parametrize("error", [TypeError("ours"), KeyError("ours"), SystemExit(3), jax.errors.JaxRuntimeError("x")])
def test_mistakes_of_ours_are_not_hidden(error, monkeypatch):
    raising(monkeypatch, error)
    with pytest.raises(type(error)):
        run.main([])


def test_interrupts_are_told(monkeypatch, capsys):
    raising(monkeypatch, KeyboardInterrupt())
    assert run.main([]) == 130
    assert "interrupted" in capsys.readouterr().err
    with run._signals() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == ["SIGINT"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_streams_forgive_a_reader_that_has_left_and_signs_that_they_cannot_spell(monkeypatch):
    reading, writing = os.pipe()
    with open(writing, "w", encoding="ascii", buffering=1) as stream:
        monkeypatch.setattr("sys.stdout", stream)
        with complaints.forgiving_streams():
            print("± first")
            assert os.read(reading, 100) == b"? first\n"
            os.close(reading)
            for _ in range(3):
                print("nobody reads this", flush=True)
        assert stream.errors == "strict"


# --- Files of one array ---------------------------------------------------------------------------------------------


def test_files_of_one_array_are_read_or_refused_by_name(tmp_path):
    np.save(tmp_path / "good.npy", np.arange(3))
    np.savez(tmp_path / "more.npz", wanted=np.arange(2), other=np.arange(5))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "more.npz").read_bytes()[:200])
    (tmp_path / "empty.npy").write_bytes(b"")
    np.testing.assert_array_equal(load_array("groups", str(tmp_path / "good.npy")), [0, 1, 2])
    np.testing.assert_array_equal(load_array("groups", str(tmp_path / "more.npz"), "wanted"), [0, 1])
    for name, member, message in (
        ("more.npz", None, "is an archive, only wanted, other"),
        ("more.npz", "absent", "has no absent, only wanted, other"),
        ("words.npy", None, "numbers are accepted"),
        ("pickled.npy", None, "no readable file"),
        ("damaged.npz", "wanted", "no readable file"),
        ("empty.npy", None, "no readable file"),
    ):
        with pytest.raises(ValueError, match=rf"^groups='.*{name}' .*{message}"):
            load_array("groups", str(tmp_path / name), member)
    with pytest.raises(FileNotFoundError, match=r"groups='nowhere.npy': there is no such file"):
        load_array("groups", "nowhere.npy")
