"""Checkpoints: exact round trips, other devices, damage, foreign states, SIGKILL."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from robustjax.training import checkpoints

REPOSITORY = Path(__file__).resolve().parents[1]


class State(NamedTuple):
    params: Any
    optimizer: Any
    key: jax.Array
    memory: Any
    step: jax.Array


def make_state(seed: int, width: int = 300) -> State:
    weights = jax.random.normal(jax.random.key(seed), (8, width))
    params = {"dense": {"kernel": weights, "bias": jnp.full((3,), seed, jnp.bfloat16)}}
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    memory = {"targets": [jnp.arange(4) + seed], "none": None, "empty": {}, "tuple": (), "rows": jnp.ones((0, 3))}
    return State(params, optimizer.init(params), jax.random.split(jax.random.key(seed), 2), memory, jnp.int32(seed))


def raw(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(raw(a), raw(b))


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    for epoch in (1, 2):
        checkpoints.save(directory, epoch, make_state(epoch), {"epoch": epoch, "losses": [1.5, None]})
    return directory


@pytest.fixture
def damaged(two_epochs, tmp_path):
    return shutil.copytree(two_epochs, tmp_path / "copy")


def test_round_trip_of_every_kind_of_leaf(two_epochs):
    state, meta, epoch = checkpoints.restore(two_epochs, jax.eval_shape(make_state, 0))
    assert_same(state, make_state(2))
    assert (meta, epoch) == ({"epoch": 2, "losses": [1.5, None]}, 2)
    assert_same(checkpoints.restore(two_epochs, make_state(0), epoch=1)[0], make_state(1))


def test_relative_folder_and_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoints.latest_epoch("none") is None
    checkpoints.save("here", 0, {"x": jnp.ones(2)}, {})
    assert checkpoints.latest_epoch("here") == 0
    assert not (tmp_path / "none").exists()


def test_only_the_newest_are_kept(tmp_path):
    for epoch in range(5):
        checkpoints.save(tmp_path, epoch, {"x": jnp.full(2, epoch)}, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_background_writer_saves_what_the_state_was(tmp_path):
    update = jax.jit(lambda x: x + 1, donate_argnums=0)
    value = jnp.zeros((512, 512))
    with checkpoints.open_writer(tmp_path, keep=3, background=True) as save:
        for epoch in range(3):
            save(epoch, {"x": value}, {})
            value = update(value)
    for epoch in range(3):
        restored, _, _ = checkpoints.restore(tmp_path, {"x": value}, epoch)
        np.testing.assert_array_equal(restored["x"], np.full((512, 512), epoch))


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (4, 2), (2, 4)])
def test_restores_onto_another_number_of_devices(tmp_path, before, after):
    def sharding(count):
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    rows, replicated = sharding(before)
    state = {"memory": jax.device_put(jnp.arange(24.0).reshape(8, 3), rows), "key": jax.random.key(7)}
    state["key"] = jax.device_put(state["key"], replicated)
    checkpoints.save(tmp_path, 0, state, {})
    rows, replicated = sharding(after)
    target = {
        "memory": jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=rows),
        "key": jax.ShapeDtypeStruct((), state["key"].dtype, sharding=replicated),
    }
    restored, _, _ = checkpoints.restore(tmp_path, target)
    assert_same(restored, state)
    assert len(restored["memory"].sharding.device_set) == after
    assert restored["memory"].sharding == rows


def test_nothing_there(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="no complete checkpoint"):
        checkpoints.restore(tmp_path, make_state(0))


def test_epoch_not_there(two_epochs):
    with pytest.raises(checkpoints.CheckpointError, match=r"epoch 9 .*\[1, 2\]"):
        checkpoints.restore(two_epochs, make_state(0), epoch=9)


def foreign(change):
    state = make_state(0)
    return {
        "shape": make_state(0, width=301),
        "dtype": state._replace(step=jnp.float32(0)),
        "missing": state._replace(memory={**state.memory, "targets": []}),
        "extra": state._replace(memory={**state.memory, "margins": jnp.ones(10)}),
        "optimizer": state._replace(optimizer=optax.sgd(0.1).init(state.params)),
        "key": state._replace(key=jax.random.split(jax.random.key(0, impl="rbg"), 2)),
    }[change]


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        ("shape", r"'params/dense/kernel' is float32\[8,300\] there and float32\[8,301\] here"),
        ("dtype", r"'step' is int32\[\] there and float32\[\] here"),
        ("missing", r"'memory/targets/0' is int32\[4\] there and absent here"),
        ("extra", r"'memory/margins' is absent there and float32\[10\] here"),
        ("optimizer", r"'optimizer/1/0/count' is int32\[\] there and absent here"),
        ("key", r"'key' is key<fry>\[2\] there and key<rbg>\[2\] here"),
    ],
)
def test_foreign_checkpoint_is_refused_by_its_first_leaf(two_epochs, change, leaf):
    def contents():
        return {path: path.read_bytes() for path in two_epochs.rglob("*") if path.is_file()}

    before = contents()
    with pytest.raises(checkpoints.CheckpointError, match=leaf):
        checkpoints.restore(two_epochs, foreign(change))
    assert contents() == before


def test_a_leaf_must_be_an_array(tmp_path):
    with pytest.raises(TypeError, match="'a/b' must be an array, got str"):
        checkpoints.save(tmp_path, 0, {"a": {"b": "text"}}, {})


@pytest.mark.parametrize("item", ["meta/metadata", "leaves/metadata", "state/_METADATA", "state/manifest.ocdbt"])
@pytest.mark.parametrize("how", ["delete", "truncate"])
def test_damaged_newest_falls_back_to_the_one_before(damaged, item, how):
    path = damaged / "2" / item
    content = path.read_bytes()
    path.unlink()
    if how == "truncate":
        path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="epoch 2 .* is damaged"):
        state, meta, epoch = checkpoints.restore(damaged, make_state(0))
    assert_same(state, make_state(1))
    assert (epoch, meta["epoch"]) == (1, 1)


def test_lost_array_data_is_noticed(damaged):
    for path in (damaged / "2" / "state").rglob("d/*"):
        path.unlink()
    with pytest.warns(checkpoints.CheckpointWarning, match="epoch 2"):
        assert checkpoints.restore(damaged, make_state(0))[2] == 1


@pytest.mark.parametrize(
    ("item", "what"),
    [
        ("state", "leaf 'params/dense/bias' does not match"),
        ("meta", "meta data do not match"),
        ("leaves", "meta data do not match"),
    ],
)
def test_what_is_readable_and_not_what_was_saved_is_noticed(damaged, item, what):
    shutil.rmtree(damaged / "2" / item)
    shutil.copytree(damaged / "1" / item, damaged / "2" / item)
    with pytest.warns(
        checkpoints.CheckpointWarning, match=rf"epoch 2 .* damaged \(.*{what} .*\); the one before"
    ) as told:
        state, meta, epoch = checkpoints.restore(damaged, make_state(0))
    assert (len(told), epoch, meta["epoch"]) == (1, 1, 1)
    assert_same(state, make_state(1))


def test_a_flipped_bit_in_the_list_of_leaves_is_damage_and_no_other_model(damaged):
    file = damaged / "2" / "leaves" / "metadata"
    assert b"float32[8,300]" in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(b"float32[8,300]", b"float32[9,300]"))
    with pytest.warns(checkpoints.CheckpointWarning, match="list of its leaves does not match its checksum"):
        assert checkpoints.restore(damaged, make_state(0))[2] == 1


def test_flipped_bits_anywhere_give_what_was_saved_and_no_traceback(damaged, capfd):
    """The right state of epoch 2, or that of epoch 1 and a sentence; never another one, nor Orbax's own words."""
    files = sorted(path for path in (damaged / "2").rglob("*") if path.is_file() and path.stat().st_size)
    largest = max(files, key=lambda path: path.stat().st_size)
    passed_over = 0
    for file, place in ((damaged / "2" / "state" / "manifest.ocdbt", 0.5), *((largest, k / 5) for k in range(1, 5))):
        whole = file.read_bytes()
        at = int(place * len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            state, _, epoch = checkpoints.restore(damaged, make_state(0))
        assert_same(state, make_state(epoch))
        assert len(told) == (epoch == 1)
        passed_over += epoch == 1
        file.write_bytes(whole)
    assert passed_over >= 2
    assert capfd.readouterr() == ("", "")


def test_checkpoints_without_checksums_are_read(damaged):
    """As version 0.1.0 wrote them."""
    file = damaged / "2" / "leaves" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text())["leaves"]))
    assert_same(checkpoints.restore(damaged, make_state(0))[0], make_state(2))


def test_damage_with_nothing_before_it(damaged):
    (damaged / "2" / "meta" / "metadata").unlink()
    with pytest.raises(checkpoints.CheckpointError, match="epoch 2"):
        checkpoints.restore(damaged, make_state(0), epoch=2)
    shutil.rmtree(damaged / "1")
    with pytest.raises(checkpoints.CheckpointError, match=r"epoch 2 .* no earlier one"):
        checkpoints.restore(damaged, make_state(0))


def test_half_written_is_ignored_then_removed(damaged):
    shutil.copytree(damaged / "2", damaged / "3.orbax-checkpoint-tmp")
    (damaged / "3.orbax-checkpoint-tmp" / "state" / "_METADATA").unlink()
    assert checkpoints.latest_epoch(damaged) == 2
    with pytest.warns(UserWarning, match="half-written checkpoint 3"):
        assert checkpoints.restore(damaged, make_state(0))[2] == 2
    checkpoints.save(damaged, 3, make_state(3), {})
    assert sorted(path.name for path in damaged.iterdir()) == ["2", "3"]


def test_saving_never_replaces_an_epoch_until_it_is_discarded(damaged):
    for epoch in (1, 2):
        with pytest.raises(checkpoints.CheckpointError, match="already holds epoch 2"):
            checkpoints.save(damaged, epoch, make_state(9), {})
    (damaged / "2" / "meta" / "metadata").unlink()
    checkpoints.discard_after(damaged, 1)
    assert checkpoints.latest_epoch(damaged) == 1
    checkpoints.save(damaged, 2, make_state(9), {})
    assert_same(checkpoints.restore(damaged, make_state(0))[0], make_state(9))


def test_keep_is_checked(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        checkpoints.save(tmp_path, 0, {"x": jnp.ones(1)}, {}, keep=0)


def test_quiet(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoints.save(tmp_path, 0, make_state(0), {})
        checkpoints.restore(tmp_path, jax.eval_shape(make_state, 0))
    assert capfd.readouterr() == ("", "")


def test_killed_in_the_middle_of_a_save(tmp_path):
    """A process that saves without pause is killed: what is left restores to a state that it once had."""
    script = (
        "import sys, jax.numpy as jnp; from robustjax.training import checkpoints\n"
        "with checkpoints.open_writer(sys.argv[1]) as save:\n"
        "    for epoch in range(10**6): save(epoch, {'x': jnp.full((1000, 1000), epoch)}, {'epoch': epoch})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 60
        while (checkpoints.latest_epoch(tmp_path) or 0) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    newest = checkpoints.latest_epoch(tmp_path)
    assert newest >= 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, meta, epoch = checkpoints.restore(tmp_path, {"x": jnp.zeros((1000, 1000), jnp.int32)})
    assert epoch == meta["epoch"] and newest - epoch <= 1
    np.testing.assert_array_equal(state["x"], np.full((1000, 1000), epoch))
