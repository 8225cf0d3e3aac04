"""The method that CONTRIBUTING.md shows is one."""

import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import findings, methods
from robustjax.methods import Batch, Clock, Survey, entry, register
from tests import toys

TEXT = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def shown():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    module = types.ModuleType("trimmed")
    exec(compile(code, "CONTRIBUTING.md", "exec"), vars(module))
    return module


def batch(count, padding=0):
    positions = np.concatenate([np.arange(count), np.zeros(padding, int)])
    mask = jnp.asarray(np.arange(count + padding) < count, jnp.float32)
    inputs, labels = toys.images(toys.N, 1)[0][positions], toys.given_labels(0)[positions]
    return Batch(jnp.asarray(inputs), jnp.asarray(labels), jnp.asarray(positions), mask)


def test_it_learns_and_knows_what_is_suspicious(shown):
    (told,) = shown.ENTRIES
    method = told.make(toys.task(), **told.small)
    state = method.init(jax.random.key(0), toys.given_labels(0))
    step = jax.jit(method.stages[0].passes[0][0].apply)
    clock = Clock(*map(jnp.asarray, (0, 0.0, 0, 0.0, 0.1)))
    for number in range(40):
        state, metrics = step(state, {"train": batch(toys.N)}, clock, jax.random.key(number))
    inputs, clean = toys.images(toys.N, 1)
    logits = method.predict(state, jnp.asarray(inputs))
    assert np.mean(np.argmax(logits, -1) == clean) > 0.9
    assert metrics["loss"][0] / metrics["loss"][1] < 0.5
    given = jnp.asarray(toys.given_labels(0))
    found = method.inspect(state, Survey(logits, given, given))["suspicion"]
    assert isinstance(found, findings.NoiseScore)
    wrong = toys.given_labels(0) != clean
    assert found.values[wrong].mean() > 0.5 > found.values[~wrong].mean()


def test_its_options_are_checked_and_padding_takes_no_part(shown):
    with pytest.raises(ValueError, match=r"share=1.0 must be in \[0, 1\)"):
        shown.trimmed(toys.task(), share=1.0)
    task = toys.task()
    method = shown.trimmed(task._replace(strong=lambda key, inputs: task.plain(inputs)), share=0.3)
    state = method.init(jax.random.key(0), toys.given_labels(0))
    step = method.stages[0].passes[0][0].apply
    clock = Clock(*map(jnp.asarray, (0, 0.0, 0, 0.0, 0.1)))
    results = [step(state, {"train": batch(10, padding)}, clock, jax.random.key(0)) for padding in (0, 6)]
    for name in results[0][1]:
        np.testing.assert_allclose(results[0][1][name], results[1][1][name], rtol=1e-5)


def test_the_registry_takes_it(shown, monkeypatch):
    monkeypatch.setattr(methods, "_REGISTRY", dict(methods._REGISTRY))
    register(shown.ENTRIES[0]._replace(name="trimmed_of_contributing"))
    assert entry("trimmed-of-contributing").make is shown.trimmed


def test_the_files_that_it_names_exist():
    root = pathlib.Path(__file__).parents[1]
    for path in set(re.findall(r"`((?:robustjax|experiments|tests)/[a-z_/]+(?:\.py|/))`", TEXT)):
        assert (root / path).exists(), path
