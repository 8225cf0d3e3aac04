"""What every method of the registry must do, whatever it is; a new entry is tested by being there.

One training a method serves most of it: its compiled programs are used again with other labels and from other states.
At every edit (`-m "not slow"`) one method of each file but the baselines' is trained once, and the first one is put
through everything. By default all of these are put through everything, and before a release every name is: `-m ""`.
"""

import functools
import json
from typing import Any, NamedTuple
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import findings, methods
from robustjax.methods import base
from robustjax.training import checkpoints, engine, parallel
from tests import toys

EPOCHS = 8
# "custom" is whatever its user's loss is; tests/custom_loss_test.py is about it.
NAMES = tuple(name for name in methods.names() if name != "custom")
# One for the losses and one a system of the four papers. The baselines have tests of their own; theirs here cost more
# compiling than all others, and wait for a release.
FIRST = ("cross_entropy", "elr", "har", "dynamic_loss")
ONE = ("cross_entropy",)


def each_method(fast: tuple[str, ...], names: tuple[str, ...] = NAMES, costly: tuple[str, ...] = ()):
    """One test a method, slow but for the `fast` ones. All tests of a method come one after the other.

    What is neither fast nor the first of its file's methods waits for `-m ""`: such methods differ in a loss or an
    option from one that is tested, and each costs half a minute of compiling. So do those too `costly` for this test.
    """

    def marks(name: str) -> list[pytest.MarkDecorator]:
        if name in fast:
            return []
        everyday = name in FIRST and name not in costly
        return [pytest.mark.slow] if everyday else [pytest.mark.slow, pytest.mark.exhaustive]

    marked = [pytest.param(name, marks=marks(name)) for name in names]
    return pytest.mark.parametrize("name", marked, scope="module")


class Trained(NamedTuple):
    """A method, its compiled programs, the state that it began with, and its epochs, with states on the host."""

    method: methods.Method
    task: methods.Task
    programs: engine.Programs
    fresh: Any
    epochs: list[engine.Epoch]

    def again(
        self, own: engine.Own, state: Any = None, start: int = 0, stop: int | None = None, **more: Any
    ) -> list[engine.Epoch]:
        """More epochs by the programs that are compiled already."""
        layout = self.programs.layout
        state = None if state is None else parallel.place_seeds(layout, [state])
        with mock.patch.object(engine, "Programs", lambda *arguments: self.programs):
            return toys.run(
                self.method, self.task, [own], layout, state=state, start_epoch=start, stop=stop or self.method.epochs,
                **more,
            )  # fmt: skip


def the_task(**more) -> methods.Task:
    """With batch normalisation for every method, so that statistics are part of every state."""
    return toys.task(epochs=EPOCHS, widths=(16, 16), normalize=True, **more)


@functools.lru_cache(maxsize=3)
def trained(name: str) -> Trained:
    task = the_task()
    method = toys.method(name, task)
    programs = engine.Programs(method, task, toys.single(task), lambda phase: None)
    (fresh,) = parallel.by_seed(programs.layout, engine.init_states(method, programs.layout, [toys.own(0)]))
    new = Trained(method, task, programs, fresh, [])
    return new._replace(epochs=new.again(toys.own(0)))


def first_epochs(method: methods.Method) -> list[int]:
    """The epochs with which the stages begin."""
    return sorted({method.stage_at(epoch)[1] for epoch in range(method.epochs)})


# --- What a run tells and keeps -------------------------------------------------------------------------------------


@each_method(fast=FIRST)
def test_metrics(name):
    run = trained(name)
    assert [epoch.epoch for epoch in run.epochs] == list(range(run.method.epochs))
    for epoch in run.epochs:
        number, start = run.method.stage_at(epoch.epoch)
        stage = run.method.stages[number]
        assert (epoch.stage, epoch.preliminary) == (number, stage.preliminary)
        (metrics,) = epoch.metrics
        assert {"loss", "train_accuracy", "learning_rate"} <= metrics.keys()
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        assert 0 <= metrics["train_accuracy"] <= 1
        schedule = run.task.schedule if stage.schedule is None else stage.schedule
        since = epoch.epoch - (0 if stage.schedule is None else start)
        rates = [float(schedule(since + part)) for part in np.arange(0, 1, 1 / 16)]
        assert min(rates) - 1e-6 <= metrics["learning_rate"] <= max(rates) + 1e-6
        assert epoch.test_logits[0].shape == (toys.TEST, toys.C) and epoch.test_logits[0].dtype == np.float32
        assert epoch.train_logits[0].shape == (toys.N, toys.C)


@each_method(fast=FIRST)
def test_findings(name):
    """Of known kinds, of the right shape, and finite unless nothing is known yet; known in the end."""
    shapes = {
        findings.LabelDistribution: (toys.N, toys.C),
        findings.LabelWeight: (toys.N,),
        findings.NoiseScore: (toys.N,),
        findings.LogitGradient: (toys.N, toys.C),
        findings.PerClass: (toys.C,),
        findings.PerGroup: (toys.C,),  # the groups are the classes
    }
    for epoch in trained(name).epochs:
        for told, finding in epoch.findings[0].items():
            assert isinstance(finding, findings.Finding), told
            values = np.asarray(finding.values)
            assert np.isfinite(values).all() or np.isnan(values).all(), told
            known = np.isfinite(values).all()
            if isinstance(finding, findings.Table):
                assert values.ndim == 2 and len(values) == toys.C
                assert finding.bins.shape == (toys.N,) and np.issubdtype(finding.bins.dtype, np.integer)
                assert finding.bins.min() >= 0 and finding.bins.max() < values.shape[1]
            else:
                assert values.shape == shapes[type(finding)], told
            if isinstance(finding, findings.LabelDistribution) and known:
                assert values.min() >= 0, told
            if isinstance(finding, findings.NoiseScore) and known:
                assert values.min() >= 0 and values.max() <= 1, told
            assert known or epoch is not trained(name).epochs[-1], told


@each_method(fast=FIRST)
def test_form_of_the_state(name):
    """It does not change, and what grows with the data is a `PerExample`."""
    run = trained(name)
    for epoch in run.epochs:
        chex.assert_trees_all_equal_shapes_and_dtypes(epoch.state[0], run.fresh)
    is_memory = lambda node: isinstance(node, base.PerExample)  # noqa: E731
    for path, leaf in jax.tree.leaves_with_path(run.fresh, is_leaf=is_memory):
        if not is_memory(leaf):
            assert max(np.shape(leaf), default=0) < toys.N, f"{jax.tree_util.keystr(path)} should be a PerExample"


# --- The same results whichever way --------------------------------------------------------------------------------


@each_method(fast=FIRST)
def test_going_on_from_any_epoch_is_not_stopping(name):
    run = trained(name)
    for start in range(1, run.method.epochs):
        (epoch,) = run.again(toys.own(0), run.epochs[start - 1].state[0], start, start + 1)
        whole = run.epochs[start]
        chex.assert_trees_all_equal(epoch.state, whole.state)
        assert epoch.metrics == whole.metrics
        np.testing.assert_array_equal(epoch.test_logits, whole.test_logits)


@each_method(fast=ONE)
def test_going_on_from_a_checkpoint_is_not_stopping(name, tmp_path):
    """From the end of the first stage, or from the middle, to the end."""
    run = trained(name)
    start = [*first_epochs(run.method), EPOCHS // 2][1]
    checkpoints.save(tmp_path, start, run.epochs[start - 1].state[0], {})
    # Another fresh state says what form it has, as when a run goes on in another process.
    fresh = engine.init_states(run.method, run.programs.layout, [toys.own(5)])
    state, _, _ = checkpoints.restore(tmp_path, fresh)
    rest = run.again(toys.own(0), jax.device_get(state), start)
    chex.assert_trees_all_equal(rest[-1].state, run.epochs[-1].state)
    assert [epoch.metrics for epoch in rest] == [epoch.metrics for epoch in run.epochs[start:]]


@each_method(fast=ONE)
def test_going_on_from_within_an_epoch_is_not_stopping(name):
    """Cut after every step of each stage's first epoch; what is kept has the form expected, and goes through JSON."""
    run, own = trained(name), toys.own(0)
    layout = run.programs.layout
    fresh = engine.init_states(run.method, layout, [toys.own(5)])
    engine.check_steps(run.method, run.task, layout, fresh, toys.own(5))
    for start in first_epochs(run.method):
        before = run.epochs[start - 1].state[0] if start else run.fresh
        like = engine.middle_like(run.method, run.task, layout, fresh, toys.own(5), start)
        epoch, middle, made, total = None, None, [], 0
        while epoch is None:
            try:
                (epoch,) = run.again(own, before, start, start + 1, middle=middle, cut=lambda share: True)
            except engine.Cut as cut:
                saved, numbers = engine.save_middle(layout, cut.middle)
                chex.assert_trees_all_equal_shapes_and_dtypes(saved, like)
                middle = engine.load_middle(layout, saved, json.loads(json.dumps(numbers)))
                total = cut.total
                made.append(cut.made)
        assert made == list(range(1, total)) and total > 1
        whole = run.epochs[start]
        chex.assert_trees_all_equal(epoch.state, whole.state)
        assert epoch.metrics == whole.metrics
        np.testing.assert_array_equal(epoch.test_logits, whole.test_logits)


def first_steps(task: methods.Task, name: str, start: int, state: Any) -> engine.Epoch:
    """The first epoch of a stage, op by op: nothing is compiled as a whole.

    Quicker than `jax.disable_jit`, which takes jax.numpy's functions and loops apart too.
    """
    made = toys.method(name, task)
    with mock.patch.object(parallel, "compile_program", lambda layout, program, *_: program):
        (epoch,) = toys.run(made, task, [toys.own(0)], state=state, start_epoch=start, stop=start + 1, track_every=0)
    return epoch


@each_method(fast=ONE, costly=("dynamic_loss",))
def test_compiled_equals_eager(name):
    run = trained(name)
    for start in first_epochs(run.method):
        state = jax.tree.map(jnp.asarray, run.epochs[start - 1].state[0] if start else run.fresh)
        eager, compiled = first_steps(run.task, name, start, state), run.epochs[start]
        chex.assert_trees_all_close(eager.state, compiled.state, rtol=5e-3, atol=5e-4)
        assert eager.metrics[0] == pytest.approx(compiled.metrics[0], rel=5e-3, abs=1e-4)


@each_method(fast=ONE)
def test_seeds_at_once_equal_one_alone(name):
    run = trained(name)
    together = toys.run(run.method, run.task, [toys.own(1), toys.own(0)])
    for epoch, alone in zip(together, run.epochs, strict=True):
        chex.assert_trees_all_close(epoch.state[1], alone.state[0], rtol=5e-3, atol=5e-4)
        assert epoch.metrics[1] == pytest.approx(alone.metrics[0], rel=5e-3, abs=1e-4)
        chex.assert_trees_all_close(epoch.findings[1], alone.findings[0], rtol=1e-2, atol=1e-3)
    assert not np.allclose(together[-1].test_logits[0], together[-1].test_logits[1])


@each_method(fast=ONE)
def test_four_devices_equal_one(name):
    """Each epoch, from the state that one device left before it: over many, the last bits of sums grow."""
    run = trained(name)
    layout = parallel.make_layout("data", batch_size=run.task.batch_size, devices=jax.devices()[:4])
    spread = run._replace(programs=engine.Programs(run.method, run.task, layout, lambda phase: None))
    for start, alone in enumerate(run.epochs):
        before = run.epochs[start - 1].state[0] if start else run.fresh
        (epoch,) = spread.again(toys.own(0), before, start, start + 1)
        chex.assert_trees_all_close(epoch.state, alone.state, rtol=5e-3, atol=5e-4)
        assert epoch.metrics[0] == pytest.approx(alone.metrics[0], rel=5e-3, abs=1e-4)


# --- What is learned ------------------------------------------------------------------------------------------------


@each_method(fast=ONE)
def test_half_precision_is_finite(name):
    """The first epoch of each stage."""
    run, task = trained(name), the_task(dtype=jnp.bfloat16)
    for start in first_epochs(run.method):
        state = jax.tree.map(jnp.asarray, run.epochs[start - 1].state[0] if start else run.fresh)
        epoch = first_steps(task, name, start, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(epoch.state[0], run.fresh)
        chex.assert_tree_all_finite((epoch.state, epoch.metrics, epoch.test_logits))
        assert epoch.test_logits[0].dtype == np.float32


@each_method(fast=FIRST)
def test_clean_labels_are_learned(name):
    (*_, last) = trained(name).again(toys.own(0, wrong=0.0))
    assert np.mean(last.test_logits[0].argmax(-1) == toys.test_labels()) >= 0.9


# --- Better than cross entropy --------------------------------------------------------------------------------------

MARGIN = 0.02  # of test accuracy, on `toys.problem`
# Where a method has to win, if not on noise with the options of its entry.
WHERE = {
    "phuber_ce": ("noise", {"tau": 2.0}),  # its own is for a hundred classes
    "mixup": ("noise", {"mixup": 4.0}),  # wrong labels take stronger mixtures
    "mw_net": ("noise", {"meta_learning_rate": 0.03, "meta_weight_decay": 0.0}),  # there are but 180 steps
    "ce_sr": ("noise", {"strength": 2.5}),  # there is little time for it to grow
    "incv": ("noise", {"selection_epochs": 8}),  # its network must learn something
    # Methods for unequal classes.
    "balanced_softmax": ("tail", {}),
    "cb_focal": ("tail", {}),
    "ldam": ("tail", {}),
    "bbn": ("tail", {}),
    "har": ("tail", {}),
    "har_drw": ("tail", {}),
    "dynamic_loss": ("tail", {}),
    "cmw_net": ("tail", {}),  # and on noise where there is more to go by: it learns from its own surest examples
}
NOT_EXPECTED = {
    "cross_entropy": "is what they are compared with",
    "label_smoothing": "spreads labels over all classes, which noise this even has done already",
    "bootstrap": "follows its own predictions, and these follow the labels within a few epochs of so small a set",
    "gjs": "compares views that differ by a little Gaussian noise: with no augmentation they agree anyway",
    "focal": "favours hard examples: with noise these are the wrong ones, and a tail of five gains little by it",
    "fl_sr": "gains on the focal loss, but that learns wrong labels faster than cross entropy",
    "dmi": "tunes a finished network, and what that has learned by heart stays, at 1e-3 as at 1e-2",
}
# Ablations are there to be worse.
WHOLE = tuple(name for name in NAMES if methods.entry(name).family in ("", name) and name not in NOT_EXPECTED)


@functools.lru_cache
def accuracy(name: str, kind: str, options: tuple[tuple[str, Any], ...] = ()) -> float:
    given = toys.problem(kind)
    return toys.accuracy(toys.method(name, given.task, **dict(options)), given)


@each_method(fast=("gce",), names=WHOLE, costly=("dividemix", "rolt_plus"))
def test_beats_cross_entropy_where_its_mechanism_acts(name):
    kind, options = WHERE.get(name, ("noise", {}))
    assert accuracy(name, kind, tuple(options.items())) > accuracy("cross_entropy", kind) + MARGIN


def test_the_exceptions_are_of_methods_that_there_are():
    assert {*WHERE, *NOT_EXPECTED} <= set(NAMES) and not WHERE.keys() & NOT_EXPECTED.keys()
