"""One device, a mesh, a vmap and a pmap must be the same mathematics; of each method: `tests/common_suite_test.py`."""

import chex
import jax
import numpy as np
import pytest

from robustjax.training import parallel
from tests import toys

BATCH_NORM = {"model": "small_cnn", "stages": ((8,), (8,)), "pools": 1}


@pytest.mark.parametrize("name", ["cross_entropy", pytest.param("dynamic_loss", marks=pytest.mark.exhaustive)])
def test_convolutions_on_a_mesh_equal_one_device(name, monkeypatch):
    """With batch normalisation, a padded last batch and (Dynamic Loss) the meta-gradient."""
    toys.with_emitters(monkeypatch)
    task = toys.task(epochs=2, **BATCH_NORM)
    single = toys.train(name, task, devices=jax.devices()[:1])[-1]
    split = toys.train(name, task, mode="data", devices=jax.devices()[:4])[-1]
    chex.assert_trees_all_close(split.state, single.state, rtol=2e-3, atol=2e-4)
    chex.assert_trees_all_close(split.metrics, single.metrics, rtol=1e-3)
    np.testing.assert_allclose(split.test_logits[0], single.test_logits[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["cross_entropy", pytest.param("dynamic_loss", marks=pytest.mark.exhaustive)])
def test_one_seed_a_device_equals_single_runs(name):
    task, seeds = toys.task(epochs=2), (3, 4, 5, 6)
    together = toys.train(name, task, seeds, "seeds", devices=jax.devices()[:4])[-1]
    for k, seed in enumerate(seeds):
        alone = toys.train(name, task, (seed,), devices=jax.devices()[:1])[-1]
        chex.assert_trees_all_close(together.state[k], alone.state[0], rtol=1e-4, atol=1e-5)
        assert together.metrics[k] == pytest.approx(alone.metrics[0], rel=1e-4)


def test_two_seeds_a_device():
    task, seeds = toys.task(epochs=1), (0, 1, 2, 3)
    spread = toys.train("cross_entropy", task, seeds, "seeds", devices=jax.devices()[:2])[-1]
    stacked = toys.train("cross_entropy", task, seeds, devices=jax.devices()[:1])[-1]
    chex.assert_trees_all_close(spread.state, stacked.state, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_seeds_of_unequal_meta_sets():
    """The smallest class differs between seeds, so passes differ in length: the shorter one must wait unchanged."""
    task = toys.task(epochs=2, batch_size=8)
    sizes = {min(np.bincount(toys.given_labels(seed, wrong=0.6), minlength=toys.C)) for seed in (0, 2)}
    assert len(sizes) == 2
    options = {"primary_ratio": 1.0, "meta_ratio": 1.0, "warmup_epochs": 0}
    together = toys.train("dynamic_loss", task, (0, 2), wrong=0.6, devices=jax.devices()[:1], **options)[-1]
    for k, seed in enumerate((0, 2)):
        alone = toys.train("dynamic_loss", task, (seed,), wrong=0.6, devices=jax.devices()[:1], **options)[-1]
        assert together.state[k].steps == alone.state[0].steps
        chex.assert_trees_all_close(together.state[k], alone.state[0], rtol=1e-3, atol=1e-4)


def test_place_and_unplace_are_inverse():
    trees = [{"a": np.arange(3.0) + k, "b": np.int32(k)} for k in range(4)]
    for mode, devices in (("single", 1), ("seeds", 2), ("seeds", 4)):
        layout = parallel.make_layout(mode, seeds=4, batch_size=8, devices=jax.devices()[:devices])
        for found, expected in zip(parallel.by_seed(layout, parallel.place_seeds(layout, trees)), trees, strict=True):
            chex.assert_trees_all_equal(found, expected)


def test_auto_layout():
    four = jax.devices()[:4]
    assert parallel.make_layout(batch_size=8, devices=four).mode == "data"
    assert parallel.make_layout(batch_size=6, devices=four).mode == "single"
    assert parallel.make_layout(seeds=8, batch_size=6, devices=four).lead == (4, 2)
    assert parallel.make_layout(seeds=6, batch_size=6, devices=four).lead == (3, 2)
    told = [parallel.describe_idle(parallel.make_layout(seeds=k, batch_size=b)) for k, b in ((8, 6), (6, 6), (1, 6))]
    assert told[0] == "" and told[1].startswith("1 of 4 devices are idle: seeds are spread")
    assert told[2] == "3 of 4 devices are idle: one seed's batch is split where they divide --batch-size."
    assert parallel.make_layout(seeds=3, batch_size=6, devices=four[:1]).lead == (3,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "data", "batch_size": 30}, "batch_size=30 does not divide over 4 devices.*28 or 32"),
        ({"mode": "data", "batch_size": 3}, "nearest that do are 4"),
        ({"mode": "data", "batch_size": 8, "seeds": 2}, "one seed at a time"),
        ({"mode": "seed", "batch_size": 8}, "seeds"),
        ({"seeds": 0, "batch_size": 8}, "seeds=0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        parallel.make_layout(**arguments, devices=jax.devices()[:4])
