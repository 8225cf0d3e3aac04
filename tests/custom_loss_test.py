"""A loss of one's own: trained from the command line, and refused with a clear message when it is not of the form."""

import json
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run
from experiments.settings import config
from robustjax import losses, methods, user_code
from robustjax.methods import base, custom
from tests import toys

GOOD = """
    import jax
    import jax.numpy as jnp

    def my_loss(logits, labels):
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return f"{tmp_path / name}:my_loss"

    return write


def command(spec, out, *more):
    return [
        f"--loss={spec}", "--dataset=digits", "--model=mlp", "--epochs=1", "--batch-size=256", f"--out={out}",
        "--quiet", "--track-every=0", "--compilation-cache=off", "--parallel=single", *more,
    ]  # fmt: skip


def test_a_users_file_trains_from_the_command_line(write, tmp_path, capsys):
    spec = write(GOOD)
    assert run.main(command(spec, tmp_path / "own")) == 0
    (record,) = [json.loads(line) for line in (tmp_path / "own" / "metrics.jsonl").read_text().splitlines()]
    assert 1 < record["train_loss"] < 4  # cross entropy of ten classes
    settings = json.loads((tmp_path / "own" / "config.json").read_text())["settings"]
    assert settings["method"] == "custom" and settings["options"]["loss"].startswith(spec + "#sha256=")
    # The same run is recognised; with another text in the file it is another run.
    assert run.main(command(spec, tmp_path / "own")) == 0
    write(GOOD + "\n    # changed\n")
    assert run.main(command(spec, tmp_path / "own")) == 2
    assert "sha256" in capsys.readouterr().err


def test_a_users_cross_entropy_is_cross_entropy_also_with_the_sparse_regulariser(write):
    task = toys.task(epochs=1)
    for given in ({}, {"regularizer": "sparse"}):
        settings, _ = config.resolve({"method": "erm", "loss": write(GOOD), "dataset": "digits", **given})
        others = {name: value for name, value in settings.options.items() if name != "loss"}
        mine = toys.train("custom", task, **settings.options)[-1]
        theirs = toys.train("ce", task, **others)[-1]
        chex.assert_trees_all_close(mine.state, theirs.state, rtol=1e-5, atol=1e-7)
        chex.assert_trees_all_close(mine.metrics, theirs.metrics, rtol=1e-5)
        assert ("regularizer" in mine.metrics[0]) == bool(given)


def test_a_bad_loss_stops_the_command_before_training(write, tmp_path, capsys):
    spec = write("def my_loss(logits, labels):\n    return logits.mean()\n")
    assert run.main(command(spec, tmp_path / "run")) == 2
    assert "shape (13,) for 13 of them, got ()" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def loss_of(body):
    scope = {"jax": jax, "jnp": jnp, "np": np, "losses": losses}
    exec(f"def f(logits, labels):\n    ce = losses.cross_entropy(logits, labels)\n    return {body}", scope)
    return scope["f"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ce.mean()", r"shape \(13,\) for 13 of them, got \(\); it seems to reduce over the batch"),
        ("logits", r"shape \(13,\) for 13 of them, got \(13, 10\)"),
        ("logits.mean(0)", r"got \(10,\)"),
        ("(ce, ce)", "must return an array of shape .B., got tuple"),
        ("None", "got NoneType"),
        ("labels", "floating-point values, got int32"),
        ("ce / jnp.mean(ce)", "a value of its own"),
        ("ce[::-1]", "a value of its own"),
        ("ce - ce[jnp.argsort(logits[:, 0])].mean()", "a value of its own"),
        ("-jnp.log(jax.nn.softmax(logits)[jnp.arange(len(labels)), labels])", "finite values; at logits of -50"),
        ("jnp.sqrt(jnp.sum((logits - logits.mean(-1, keepdims=True)) ** 2, -1)) + ce", "finite gradients; at equal"),
        ("jnp.where(ce > 1, jnp.inf, 1.0) * ce", "finite values; at moderate"),
        ("jnp.asarray(np.asarray(ce))", "jax.jit"),
        ("ce if float(ce[0]) > 0 else -ce", "jax.jit"),
        ("(jnp.argmax(logits, -1) != labels).astype(float)", "must have a gradient"),
        ("ce + np.random.default_rng().normal()", "pure function"),
        ("logits[:, 17, 3]", "called so, it raised IndexError"),
    ],
)
def test_what_is_not_a_loss_is_refused(body, message):
    with pytest.raises(ValueError, match=message):
        custom.check_loss(loss_of(body), 10)


@pytest.mark.parametrize(
    ("loss", "num_classes"),
    [
        (losses.cross_entropy, 2), (losses.cross_entropy, 100), (losses.mae, 10), (losses.focal, 10),
        (losses.nce_rce, 3), (losses.generalized_cross_entropy, 10), (losses.hard_bootstrap, 10),
        (losses.soft_bootstrap, 10), (losses.partially_huberised_cross_entropy, 10),
        (loss_of("jax.nn.relu(1 - ce) ** 2"), 10),
    ],
)  # fmt: skip
def test_losses_are_accepted(loss, num_classes):
    custom.check_loss(loss, num_classes)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("", ValueError, "FILE.py:NAME"),
        ("losses.py", ValueError, "FILE.py:NAME"),
        ("losses.txt:f", ValueError, "FILE.py:NAME"),
        ("nowhere.py:f", FileNotFoundError, "no such file"),
    ],
)
def test_specs_that_name_no_function(spec, error, message):
    with pytest.raises(error, match=message):
        user_code.load(spec, "loss", custom.FORM)


def test_files_that_have_no_such_function(write):
    with pytest.raises(ValueError, match=r"has no function 'other'; it has my_loss"):
        user_code.load(write(GOOD).replace("my_loss", "other"), "loss", custom.FORM)
    with pytest.raises(ValueError, match="cannot be imported: ZeroDivisionError"):
        user_code.load(write("1 / 0\n", "broken.py"), "loss", custom.FORM)


def test_a_pinned_loss_that_changed_is_refused(write):
    pinned = user_code.pin(write(GOOD), "loss", custom.FORM)
    assert callable(user_code.load(pinned, "loss", custom.FORM))
    assert user_code.pin(pinned, "loss", custom.FORM) == pinned
    write(GOOD + "\n    x = 1\n")
    with pytest.raises(ValueError, match="has changed"):
        user_code.load(pinned, "loss", custom.FORM)


def test_dataclasses_work_in_a_users_file(write):
    text = """
        from __future__ import annotations
        import dataclasses
        from robustjax import losses

        @dataclasses.dataclass
        class Settings:
            q: float = 0.5

        def my_loss(logits, labels):
            return losses.generalized_cross_entropy(logits, labels, q=Settings().q)
    """
    custom.check_loss(user_code.load(write(text), "loss", custom.FORM), 10)


def test_loss_with_another_method_is_refused(write):
    with pytest.raises(ValueError, match="--loss belongs to custom"):
        config.resolve({"method": "gce", "loss": write(GOOD)})


def test_a_method_of_ones_own_by_registering_it(monkeypatch):
    monkeypatch.setattr(methods, "_REGISTRY", dict(methods._REGISTRY))

    def mine(task, *, power: float = 2.0):
        return methods.erm.erm(task, lambda logits, labels: losses.mae(logits, labels) ** power)

    # A name that begins like another's takes none of its constants: SCE has recipes on MNIST and CIFAR.
    new = base.Entry("sce_x", mine, "Nobody, NeurIPS 2030")
    methods.register(new)
    settings, sources = config.resolve({"method": "sce_x", "power": 1.5, "dataset": "mnist"})
    assert settings.options == {"power": 1.5}
    assert sources == config.resolve({"method": "cross_entropy", "dataset": "mnist"})[1]
    assert config.resolve({"method": "sce", "dataset": "mnist"})[1] != sources
    # An ablation says whose recipes it takes.
    part = base.Entry("sce_y", methods.get("sce"), "Nobody, NeurIPS 2030", family="sce")
    methods.register(part)
    assert config.resolve({"method": "sce_y", "dataset": "mnist"})[0].options["alpha"] == 0.01
    with pytest.raises(ValueError, match="is taken"):
        methods.register(new)
