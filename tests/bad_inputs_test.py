"""What must not get in: every number flag at its corners, and rows of flags, files and faults, with their sentences."""

import dataclasses
import math

import pytest

from experiments import run
from experiments.settings import catalogue, command_line, config, ranges, rates
from robustjax import methods

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
    assert status == 2 and not out.exists() and not said.out
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
        (["--trusted=mine.npz"], "--trusted='mine.npz': npz:FILE or folder:DIR"),
        (["--model-options=hidden"], "--model-options='hidden'"),
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
