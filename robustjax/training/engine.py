"""The engine: any Method, on resident data, for any layout of seeds and devices.

The training set lies on the device as it is stored (uint8 images). An epoch is: look at the training set if the stage
asks for it, let the stage plan, then make its passes; a step shuffles, gathers and augments on the device. On GPU and
TPU some seconds of a pass are one compiled loop, on CPU it is a Python loop over the same compiled step
(`backend.loops_on_device`).

Order, augmentation and every other random draw are functions of (seed, epoch, pass, step) alone, and the state is one
pytree: a run that was cut and resumed, after an epoch or between two of its steps (`Middle`), is bit for bit the run
that was not.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import backend
from robustjax.findings import Findings
from robustjax.methods.base import (
    Batch,
    Clock,
    Draw,
    Method,
    Metrics,
    Pass,
    Plan,
    Stage,
    State,
    Step,
    Survey,
    Task,
    everything,
)  # fmt: skip
from robustjax.training import parallel, streams

_T = TypeVar("_T")

# Salts that keep the random draws of an epoch's parts apart.
_PLAN, _PASS = 0, 1
_ENTER = np.uint32(2**32 - 2)
_CYCLES = np.uint32(2**32 - 1)  # where others fold in the step
_INIT = np.uint32(2**32 - 1)  # where others fold in the epoch

_LOOP_SECONDS = 2.0  # of a compiled loop, between which a run can be cut


class Resident(NamedTuple):
    """What all seeds share, on the device, as stored: training [M, …] and test inputs [T, …]; trusted ones if any."""

    train_inputs: jax.Array
    test_inputs: jax.Array
    trusted_inputs: jax.Array | None = None


class Own(NamedTuple):
    """What a seed has of its own.

    Attributes:
      key: of everything random in its training.
      kept: which training inputs it trains on, int32 [N].
      labels: the labels they are given, int32 [N].
      validation: which it holds out, int32 [V]; None for none.
      groups: the groups of `Survey`, int32 [N]; the given labels if None.
      trusted_kept: which of the trusted inputs are its trusted pool, int32 [K]; None for none.
      trusted_labels: their true labels, int32 [K].
    """

    key: jax.Array
    kept: jax.Array
    labels: jax.Array
    validation: jax.Array | None = None
    groups: jax.Array | None = None
    trusted_kept: jax.Array | None = None
    trusted_labels: jax.Array | None = None

    def survey(self, seen: Any) -> Survey:
        """What a method is shown of the training set."""
        return Survey(seen, self.labels, self.labels if self.groups is None else self.groups)


class Tally(NamedTuple):
    """Metrics of a pass so far as (sum, count), and the first step whose loss was not finite (−1: none)."""

    metrics: dict[str, tuple[jax.Array, jax.Array]]
    bad_step: jax.Array


class Span(NamedTuple):
    """A pass within its epoch, in steps, int32 scalars: its own `steps`, those `before` it, and the epoch's `total`."""

    steps: Any
    before: Any
    total: Any


class Epoch(NamedTuple):
    """What is known after an epoch; lists have one entry a seed, arrays are on the host.

    Attributes:
      epoch: 0 for the first.
      state: the method's state, on the device(s), laid out as `parallel.place_seeds` does.
      metrics: means of the step's metrics.
      test_logits: [T, C] each; none at all where nothing is evaluated.
      train_logits: [N, C] each, or None where the training set was not surveyed.
      validation_logits: [V, C] each, or None where nothing is held out.
      findings: what the method has learned, by its `inspect`, or {}.
      stage: the number of the epoch's stage, 0 for the first.
      preliminary: whether what this stage trains is thrown away.
    """

    epoch: int
    state: State
    metrics: list[dict[str, float]]
    test_logits: list[np.ndarray]
    train_logits: list[np.ndarray] | None
    validation_logits: list[np.ndarray] | None
    findings: list[Findings]
    stage: int
    preliminary: bool


Sums = dict[str, tuple[float, float]]


class Middle(NamedTuple):
    """A place between two steps of an epoch, and all that it takes to go on from there; `save_middle` keeps it.

    Attributes:
      state: the method's state, on the device(s).
      plan: the epoch's plan, on the device(s).
      passes: how many of the epoch's passes are over.
      steps: how many steps of the next one are made.
      metrics: each seed's (sum, count) of the passes that are over, by name.
      tallies: each seed's (sum, count) of the steps made of the next one.
    """

    state: State
    plan: Plan
    passes: int
    steps: int
    metrics: list[Sums]
    tallies: list[Sums]


class Cut(Exception):
    """Training was asked to stop and did, between two steps.

    Attributes:
      epoch: the epoch that is not over, 0 for the first.
      made: how many of its steps were made, of all passes.
      total: how many it has.
      middle: where to go on.
    """

    def __init__(self, epoch: int, made: int, total: int, middle: Middle):
        super().__init__(f"cut in epoch {epoch + 1}, after step {made} of {total}")
        self.epoch, self.made, self.total, self.middle = epoch, made, total, middle


class NonFiniteLossError(FloatingPointError):
    """The training loss became NaN or infinite."""


def _in_chunks(apply: Callable[[jax.Array], Any], count: int, chunk: int) -> Any:
    """apply(index [chunk]) over 0 … count − 1, chunk by chunk, put together again: a tree of [count, …]."""
    padded = -(-count // chunk) * chunk
    results = jax.lax.map(apply, jnp.arange(padded, dtype=jnp.int32).reshape(-1, chunk) % count)
    return jax.tree.map(lambda leaf: leaf.reshape(padded, *leaf.shape[2:])[:count], results)


class Programs:
    """The compiled programs of one (method, task, layout).

    A class only because it remembers what has been traced and compiled; each program is a pure function.
    """

    def __init__(self, method: Method, task: Task, layout: parallel.Layout, on_phase: Callable[[str], None]):
        self.method, self.task, self.layout, self._on_phase = method, task, layout, on_phase
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._tallies: dict[Any, Tally] = {}
        self._strides: dict[Any, int] = {}
        self._chunk = _chunk(task)

    def call(self, name: str, program: Callable[[Any, Any, Any], Any], *args: Any, key: Any = None) -> Any:
        """Run `program(state, own, shared)`, compiling it at its first use."""
        key = key or name
        if key not in self._compiled:
            self._on_phase(f"compiling {name}")
            self._compiled[key] = parallel.compile_program(self.layout, program, *args)
            self._on_phase("")
        return self._compiled[key](*args)

    # `state` is donated; programs that only look at it take it as part of `own`.

    def test_logits(self, state: State, shared: Resident) -> Any:
        """Logits of the test set."""

        def program(_: Any, state: State, shared: Resident) -> Any:
            def apply(index: jax.Array) -> jax.Array:
                return self.method.predict(state, parallel.split_batch(self.layout, shared.test_inputs[index]))

            return _in_chunks(apply, len(shared.test_inputs), self._chunk)

        return self.call("evaluation", program, None, state, shared)

    def validation_logits(self, state: State, own: Own, shared: Resident) -> Any:
        """Logits of what each seed holds out."""

        def program(_: Any, seed: Any, shared: Resident) -> Any:
            state, held_out = seed

            def apply(index: jax.Array) -> jax.Array:
                inputs = shared.train_inputs[held_out[index]]
                return self.method.predict(state, parallel.split_batch(self.layout, inputs))

            return _in_chunks(apply, len(held_out), self._chunk)

        return self.call("validation", program, None, (state, own.validation), shared)

    def survey(self, look: Callable[[State, jax.Array], Any], state: State, own: Own, shared: Resident) -> Any:
        """What `look` gives of each training example."""

        def program(_: Any, seed: Any, shared: Resident) -> Any:
            state, own = seed

            def apply(index: jax.Array) -> Any:
                return look(state, parallel.split_batch(self.layout, shared.train_inputs[own.kept[index]]))

            return parallel.replicate(self.layout, _in_chunks(apply, self.task.num_examples, self._chunk))

        return self.call("survey", program, None, (state, own), shared, key=("survey", look))

    def enter(self, stage: Stage, state: State, own: Own, seen: Any, epoch: int) -> State:
        """What a stage does once, before its first epoch."""
        enter = _there(stage.enter)

        def program(state: State, seed: Any, epoch: jax.Array) -> State:
            own, seen = seed
            key = jax.random.fold_in(jax.random.fold_in(own.key, epoch), _ENTER)
            return parallel.keep_state(self.layout, enter(state, own.survey(seen), key))

        return self.call("entry", program, state, (own, seen), np.int32(epoch), key=("entry", stage))

    def begin(self, state: State, own: Own, shared: Resident, epoch: int, logits: Any = None) -> tuple[State, Plan]:
        """What comes before the steps of an epoch: the look, the entry into a stage, the plan.

        `logits` are those of the training set, if known. An epoch beyond the last is one more of the last stage.
        """
        number, start = self.method.stage_at(min(epoch, self.method.epochs - 1))
        stage = self.method.stages[number]
        seen = None
        if _looks(stage, epoch == start):
            known = logits is not None and stage.look is self.method.predict
            seen = logits if known else self.survey(_there(stage.look), state, own, shared)
        if stage.enter is not None and epoch == start:
            state = self.enter(stage, state, own, seen, epoch)
            if stage.when == "epoch":  # what it has become
                seen = self.survey(_there(stage.look), state, own, shared)
        return self.plan(stage, state, own, seen if stage.when == "epoch" else None, epoch, start)

    def plan(self, stage: Stage, state: State, own: Own, seen: Any, epoch: int, start: int) -> tuple[State, Plan]:
        """The stage's plan for the epoch."""

        def program(state: State, seed: Any, now: Any) -> tuple[State, Plan]:
            own, seen = seed
            epoch, start = now
            key = jax.random.fold_in(jax.random.fold_in(own.key, epoch), _PLAN)
            if stage.plan is None:
                return state, parallel.replicate(self.layout, _draw_all(stage, self.task, key))
            clock = self._clock(stage, epoch, start, jnp.float32(0))
            state, plan = stage.plan(state, own.survey(seen), clock, key)
            return parallel.keep_state(self.layout, state), parallel.replicate(self.layout, plan)

        now = (np.int32(epoch), np.int32(start))
        return self.call("epoch plan", program, state, (own, seen), now, key=("epoch plan", stage))

    def _clock(self, stage: Stage, epoch: jax.Array, start: jax.Array, part: jax.Array) -> Clock:
        """The time at `part` of an epoch of a stage that began with epoch `start`."""
        progress, stage_progress = epoch.astype(jnp.float32) + part, (epoch - start).astype(jnp.float32) + part
        rate = self.task.schedule(progress) if stage.schedule is None else stage.schedule(stage_progress)
        return Clock(epoch, progress, epoch - start, stage_progress, jnp.asarray(rate))

    def inspect(self, state: State, own: Own, logits: Any) -> list[Findings]:
        """What the method has learned, one dict a seed."""
        inspect = _there(self.method.inspect)

        def program(_: Any, seed: Any, shared: Any) -> Findings:
            state, own, logits = seed
            return inspect(state, own.survey(logits))

        return parallel.by_seed(self.layout, self.call("inspection", program, None, (state, own, logits), ()))

    def run_pass(
        self,
        stage: Stage,
        number: int,
        state: State,
        own: Own,
        plan: Plan,
        shared: Resident,
        when: tuple[int, int],
        spans: Sequence[Span],
        on_step: Callable[[int], bool],
        begun: tuple[int, Sequence[Sums]] = (0, ()),
    ) -> tuple[State, list[Tally], int]:
        """Make pass `number` of a stage's epoch; returns the state, each seed's tally on the host, and the steps made.

        Args:
          stage: the stage.
          number: of the pass, from 0.
          state: given up.
          own: what the seeds have of their own.
          plan: the epoch's.
          shared: what they share.
          when: the epoch and the one in which the stage began.
          spans: each seed's length of the pass, and where it lies in the epoch.
          on_step: told how many steps were made, as often as the host can know; True: the pass is cut there.
          begun: how many steps were made before it was cut, and what they told.
        """
        work = stage.passes[number]
        uneven = len({span.steps for span in spans}) > 1
        advance = functools.partial(self._advance, stage, number, uneven)
        seed = (own, plan, parallel.place_seeds(self.layout, [Span(*map(np.int32, span)) for span in spans]))
        now = tuple(map(np.int32, when))
        t, told = begun
        carry = (state, self._tally_of(stage, number, state, seed, (shared, now, np.int32(0)), told))
        last, cut = max(span.steps for span in spans), False
        while t < last and not cut:
            if backend.loops_on_device():
                key: Any = (stage.schedule, number, work, uneven)
                stride = self._strides.setdefault(key, 1)
                name, program, until = f"{_title(work[0])} loop", functools.partial(_loop, advance, work), t + stride
                until = min(until, last)
                at: Any = (np.int32(t), np.int32(until))
            else:
                step, until = work[t % len(work)], t + 1
                key = (stage.schedule, number, work, step, uneven)
                name, program, at = _title(step), functools.partial(advance, step), np.int32(t)
            began = time.monotonic()
            carry = self.call(name, program, carry, seed, (shared, now, at), key=key)
            jax.block_until_ready(carry[1])
            if key in self._strides:
                self._strides[key] = _stride(stride, until - t, time.monotonic() - began)
            cut, t = on_step(until - t), until
        state, tally = carry
        return state, parallel.by_seed(self.layout, tally), t

    def _apply_step(
        self, stage: Stage, number: int, step: Step, state: State, seed: Any, shared: Any
    ) -> tuple[State, Metrics]:
        """One step of a pass: draw the batches, apply the method's step."""
        own, plan, span = seed
        resident, (epoch, start), t = shared
        of_pass = jax.random.fold_in(jax.random.fold_in(own.key, epoch), _PASS + number)
        batches = {
            draw.stream: self._batch(stage.passes[number], draw, plan, resident, own, of_pass, t) for draw in step.draws
        }
        part = (span.before + t).astype(jnp.float32) / span.total.astype(jnp.float32)
        return step.apply(state, batches, self._clock(stage, epoch, start, part), jax.random.fold_in(of_pass, t))

    def _batch(
        self, work: Pass, draw: Draw, plan: Plan, resident: Resident, own: Own, of_pass: jax.Array, t: jax.Array
    ) -> Batch:
        """What step `t` of a pass draws from one of its streams."""
        key, n = None, t
        if draw != work[0].draws[0]:  # the first stream is drawn once, by every step
            named = sorted({each.stream for step in work for each in step.draws}).index(draw.stream)
            key = jax.random.fold_in(jax.random.fold_in(of_pass, _CYCLES), named)
            drawn = np.cumsum([0, *(draw in step.draws for step in work)])
            n = t // len(work) * drawn[-1] + jnp.asarray(drawn[:-1], jnp.int32)[t % len(work)]
        found = streams.draw(plan[draw.stream], n, draw.batch_size or self.task.batch_size, key)
        if draw.pool == "trusted":
            stored, kept, true = map(_there, (resident.trusted_inputs, own.trusted_kept, own.trusted_labels))
            inputs, labels = stored[kept[found.index]], true[found.index]
        else:
            inputs, labels = resident.train_inputs[own.kept[found.index]], own.labels[found.index]
        return parallel.split_batch(self.layout, Batch(inputs, labels, found.index, found.mask))

    def _advance(
        self, stage: Stage, number: int, uneven: bool, step: Step, carry: Any, seed: Any, shared: Any
    ) -> tuple[State, Tally]:
        """One step of a pass, with its metrics added to the tally; `uneven`: seeds differ in the length of the pass."""
        state, tally = carry
        t, span = shared[2], seed[2]
        new_state, metrics = self._apply_step(stage, number, step, state, seed, shared)
        failed = (tally.bad_step < 0) & ~jnp.isfinite(metrics["loss"][0])
        new = (
            new_state,
            Tally(
                jax.tree.map(jnp.add, tally.metrics, {**_nothing(tally.metrics), **metrics}),
                jnp.where(failed, t, tally.bad_step).astype(jnp.int32),
            ),
        )
        if uneven:  # the shorter one waits
            new = jax.tree.map(functools.partial(jnp.where, t < span.steps), new, carry)
        return parallel.keep_state(self.layout, new)

    def _tally_of(self, stage: Stage, number: int, state: State, seed: Any, shared: Any, told: Sequence[Sums]) -> Tally:
        """A tally for each seed, of all metrics of the pass's steps: what they have `told` so far, or an empty one."""
        work = stage.passes[number]
        key = (stage.schedule, number, work)
        if key not in self._tallies:  # finding the metrics costs as much as tracing the steps
            one = _of_one_seed(self.layout, (state, seed))
            metrics: Metrics = {}
            for step in dict.fromkeys(work):
                _, found = jax.eval_shape(functools.partial(self._apply_step, stage, number, step), *one, shared)
                metrics |= found
            none: Any = np.int32(-1)
            zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), metrics)
            self._tallies[key] = Tally(zeros, none)
        empty = self._tallies[key]
        tallies = [
            empty._replace(metrics=jax.tree.map(lambda zero, sum_: np.asarray(sum_, zero.dtype), empty.metrics, sums))
            for sums in told
        ]
        return parallel.place_seeds(self.layout, tallies or [empty] * self.layout.seeds)


def _draw_all(stage: Stage, task: Task, key: jax.Array) -> Plan:
    """Each stream of the stage draws its whole pool."""
    sizes = {"train": task.num_examples, "trusted": task.num_trusted}
    draws = dict.fromkeys(draw for work in stage.passes for step in work for draw in step.draws)
    keys = [key, *(jax.random.fold_in(key, number) for number in range(1, len(draws)))]
    return {draw.stream: everything(key, sizes[draw.pool]) for draw, key in zip(draws, keys, strict=True)}


def _chunk(task: Task) -> int:
    """How many examples are looked at in one go."""
    return task.batch_size * max(1, 1024 // task.batch_size)


def _stride(stride: int, made: int, seconds: float) -> int:
    """How many steps the next compiled loop has, after one of `made` that took `seconds`; it changes no number."""
    if seconds > 2 * _LOOP_SECONDS:
        return max(1, stride // 2)
    return 2 * stride if made == stride and seconds < _LOOP_SECONDS / 2 else stride


def _of_one_seed(layout: parallel.Layout, tree: Any) -> Any:
    """Shapes and types of a tree of all seeds, as a program sees that of one."""
    lead = len(layout.lead)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype), tree)


def _there(value: _T | None) -> _T:
    """What a caller has made sure of."""
    assert value is not None
    return value


def _nothing(metrics: Metrics) -> Metrics:
    """Zeros for the metrics that a step does not tell."""
    return jax.tree.map(jnp.zeros_like, metrics)


def _title(step: Step) -> str:
    return getattr(step.apply, "__name__", "step").replace("_", " ")


def _loop(advance: Callable[..., Any], work: Pass, carry: Any, seed: Any, shared: Any) -> Any:
    """Steps of a pass as one program. Which ones is an argument, so that it is compiled once for all epochs."""
    resident, now, (first, last) = shared
    different = list(dict.fromkeys(work))
    turn = jnp.asarray([different.index(step) for step in work], jnp.int32)

    def body(t: jax.Array, carry: Any) -> Any:
        branches = [lambda c, step=step: advance(step, c, seed, (resident, now, t)) for step in different]
        return jax.lax.switch(turn[t % len(work)], branches, carry) if len(different) > 1 else branches[0](carry)

    return jax.lax.fori_loop(first, last, body, carry)


def init_states(method: Method, layout: parallel.Layout, owns: Sequence[Own]) -> State:
    """A fresh state for every seed, placed on the devices.

    Args:
      method: the method.
      layout: how seeds and devices are arranged.
      owns: one `Own` a seed.
    """
    states = [method.init(jax.random.fold_in(own.key, _INIT), np.asarray(own.labels)) for own in owns]
    # A method may have put one array into two places; each place needs a buffer of its own, since they are given up.
    return parallel.place_seeds(layout, jax.tree.map(jnp.copy, states))


def check_steps(method: Method, task: Task, layout: parallel.Layout, state: State, own: Own) -> None:
    """Trace all that a method is made of once and compute nothing: what cannot be compiled is known before a run.

    Args:
      method: the method.
      task: the static facts that `method` was made with.
      layout: how seeds and devices are arranged.
      state: what `init_states` gives; it is not used up.
      own: what one of the seeds has of its own.

    Raises:
      whatever a step, a stage's `look`, `enter` or `plan`, `method.predict` or `method.inspect` does.
    """
    one = _of_one_seed(layout, state)

    def batch(size: int) -> Batch:
        integers, shares = (jax.ShapeDtypeStruct((size,), dtype) for dtype in (jnp.int32, jnp.float32))
        return Batch(*(cast(jax.Array, each) for each in (_inputs(task, size), integers, integers, shares)))

    now, key = _no_time(), jax.random.key(0)
    for step in dict.fromkeys(step for stage in method.stages for work in stage.passes for step in work):
        batches = {draw.stream: batch(draw.batch_size or task.batch_size) for draw in step.draws}
        jax.eval_shape(step.apply, one, batches, now, key)
    for stage in method.stages:
        if stage.enter is not None:
            seen = None if stage.when == "never" else _seen(_there(stage.look), task, one)
            jax.eval_shape(stage.enter, one, own.survey(seen), key)
        _plan_like(stage, task, one, own)
    logits = _seen(method.predict, task, one)
    if method.inspect is not None:
        jax.eval_shape(method.inspect, one, own.survey(logits))


def _no_time() -> Clock:
    return Clock(jnp.int32(0), jnp.float32(0), jnp.int32(0), jnp.float32(0), jnp.float32(0))


def _inputs(task: Task, count: int) -> Any:
    """Shape and type of `count` inputs as stored."""
    return jax.ShapeDtypeStruct((count, *task.example.shape[1:]), task.example.dtype)


def _seen(look: Callable[[State, jax.Array], Any], task: Task, state: State) -> Any:
    """Shapes and types of what a look at the training set gives."""
    found = jax.eval_shape(look, state, _inputs(task, _chunk(task)))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((task.num_examples, *leaf.shape[1:]), leaf.dtype), found)


def _plan_like(stage: Stage, task: Task, state: State, own: Own) -> Any:
    """Shapes and types of a stage's plan for one seed."""
    key = jax.random.key(0)
    if stage.plan is None:
        return jax.eval_shape(functools.partial(_draw_all, stage, task), key)
    seen = _seen(_there(stage.look), task, state) if stage.when == "epoch" else None
    return jax.eval_shape(stage.plan, state, own.survey(seen), _no_time(), key)[1]


def save_middle(layout: parallel.Layout, middle: Middle) -> tuple[list[Any], dict[str, Any]]:
    """A cut epoch as what `checkpoints.save` takes: a tree on the host, and a JSON dictionary.

    Args:
      layout: how seeds and devices are arranged.
      middle: of `Cut`.
    """
    both = zip(parallel.by_seed(layout, middle.state), parallel.by_seed(layout, middle.plan), strict=True)
    numbers = {name: getattr(middle, name) for name in ("passes", "steps", "metrics", "tallies")}
    return [{"state": state, "plan": plan} for state, plan in both], numbers


def middle_like(
    method: Method, task: Task, layout: parallel.Layout, state: State, own: Own, epoch: int
) -> list[dict[str, Any]]:
    """Shapes and types of the tree that `save_middle` gives of an epoch.

    Args:
      method: the method.
      task: the static facts that `method` was made with.
      layout: how seeds and devices are arranged.
      state: what `init_states` gives; it is not used up.
      own: what one of the seeds has of its own.
      epoch: the epoch that was cut, 0 for the first.
    """
    one = _of_one_seed(layout, state)
    stage = method.stages[method.stage_at(epoch)[0]]
    return [{"state": one, "plan": _plan_like(stage, task, one, own)}] * layout.seeds


def load_middle(layout: parallel.Layout, saved: Sequence[Any], numbers: Mapping[str, Any]) -> Middle:
    """The inverse of `save_middle`, placed on the devices.

    Args:
      layout: how seeds and devices are arranged.
      saved: the tree.
      numbers: the dictionary, in which tuples may have become lists.
    """
    state, plan = (parallel.place_seeds(layout, [each[name] for each in saved]) for name in ("state", "plan"))
    metrics, tallies = (
        [{name: (total, count) for name, (total, count) in sums.items()} for sums in numbers[of]]
        for of in ("metrics", "tallies")
    )
    return Middle(state, plan, numbers["passes"], numbers["steps"], metrics, tallies)


def train(
    method: Method,
    task: Task,
    layout: parallel.Layout,
    resident: Resident,
    owns: Sequence[Own],
    *,
    state: State | None = None,
    start_epoch: int = 0,
    middle: Middle | None = None,
    track_every: int = 1,
    evaluates: bool = True,
    programs: Programs | None = None,
    on_phase: Callable[[str], None] = lambda phase: None,
    on_step: Callable[[int], None] = lambda steps: None,
    cut: Callable[[float], bool] = lambda share: False,
) -> Iterator[Epoch]:
    """Train from `start_epoch` to the method's last epoch, yielding after each one.

    Args:
      method: what to train.
      task: the static facts that `method` was made with.
      layout: how seeds and devices are arranged, see `parallel.make_layout`.
      resident: inputs, on the host or the device.
      owns: one `Own` a seed.
      state: the state to go on from (placed on the devices; its buffers are given up); fresh if None.
      start_epoch: the first epoch to train.
      middle: where in it to go on, in place of `state`; its buffers are given up. None: at its beginning.
      track_every: look at the training set (and inspect the method) after every k-th epoch and after the last one;
        0: only after the last one, and only for a method that has something to inspect. Where a method is about to look
        at its own predictions anyway, that serves both.
      evaluates: whether each epoch ends with the predictions for the test set and for what is held out.
      programs: those of another training with the same method, task and layout, whose owns have the same sizes; then
        nothing is compiled that it has compiled. It says itself what it compiles, whatever `on_phase`.
      on_phase: told what is being compiled, and "" when that is over.
      on_step: told how many steps were made; at first those that were before `middle`.
      cut: asked after each step (on GPU and TPU: some seconds of them) but an epoch's last, with the share of the
        epoch's steps that is made, whether to stop there.

    Yields:
      An `Epoch`. Its `state` is only valid until the generator is advanced.

    Raises:
      Cut: where `cut` said so; its `middle` leads to the same bits as if it had not been.
      NonFiniteLossError: naming the step, after the epoch in which the loss became NaN or infinite.
    """
    programs = Programs(method, task, layout, on_phase) if programs is None else programs
    if middle is None and state is None:
        state = init_states(method, layout, owns)
    shared = parallel.place_shared(layout, resident)
    own = parallel.place_seeds(layout, owns)
    logits = None
    for epoch in range(start_epoch, method.epochs):
        number = method.stage_at(epoch)[0]
        stage = method.stages[number]
        if middle is None:
            state, plan = programs.begin(state, own, shared, epoch, logits)
            middle = Middle(state, plan, 0, 0, [{} for _ in owns], [])
        state, metrics = _make_passes(programs, epoch, middle, own, shared, on_step, cut)
        middle = None
        last = epoch + 1 == method.epochs
        tracked = (track_every and (epoch + 1) % track_every == 0) or (last and (track_every or method.inspect))
        logits = (
            programs.survey(method.predict, state, own, shared) if tracked or _predicts(method, epoch + 1) else None
        )
        inspects = method.inspect is not None and logits is not None
        held_out = programs.validation_logits(state, own, shared) if evaluates and own.validation is not None else None
        yield Epoch(
            epoch=epoch,
            state=state,
            metrics=[{name: total / count for name, (total, count) in m.items() if count} for m in metrics],
            test_logits=parallel.by_seed(layout, programs.test_logits(state, shared)) if evaluates else [],
            train_logits=None if logits is None else parallel.by_seed(layout, logits),
            validation_logits=None if held_out is None else parallel.by_seed(layout, held_out),
            findings=programs.inspect(state, own, logits) if inspects else [{} for _ in owns],
            stage=number,
            preliminary=stage.preliminary,
        )


def _make_passes(
    programs: Programs,
    epoch: int,
    middle: Middle,
    own: Own,
    shared: Resident,
    on_step: Callable[[int], None],
    cut: Callable[[float], bool],
) -> tuple[State, list[Sums]]:
    """What is left of an epoch's passes; returns the state and each seed's metrics."""
    layout, task = programs.layout, programs.task
    number, start = programs.method.stage_at(epoch)
    stage, state, plan, metrics = programs.method.stages[number], middle.state, middle.plan, middle.metrics
    sizes = parallel.by_seed(layout, {name: stream.size for name, stream in plan.items()})
    lengths = [[_steps(work, size, task) for work in stage.passes] for size in sizes]
    longest = [max(each) for each in zip(*lengths, strict=True)]  # the seeds go on together
    made, total, asked = sum(longest[: middle.passes]) + middle.steps, sum(longest), False

    def note(steps: int) -> bool:
        nonlocal made, asked
        made += steps
        on_step(steps)
        asked = made < total and cut(made / total)
        return asked

    if made:
        on_step(made)
    for number in range(middle.passes, len(stage.passes)):
        begun = (middle.steps, middle.tallies) if number == middle.passes else (0, [])
        spans = [Span(each[number], sum(each[:number]), max(sum(each), 1)) for each in lengths]
        state, tallies, steps = programs.run_pass(
            stage, number, state, own, plan, shared, (epoch, start), spans, note, begun
        )
        sums: list[Sums] = []
        for k, tally in enumerate(tallies):
            whose = f" of seed number {k}" if len(tallies) > 1 else ""
            _check_finite(tally, epoch, sum(lengths[k][:number]), whose)
            sums.append({name: (float(total), float(count)) for name, (total, count) in tally.metrics.items()})
        if asked:
            raise Cut(epoch, made, total, Middle(state, plan, number, steps, metrics, sums))
        metrics = [_added(*both) for both in zip(metrics, sums, strict=True)]
    return state, metrics


def _added(old: Sums, new: Sums) -> Sums:
    """The sums of both."""
    none = (0.0, 0.0)
    return {
        name: (old.get(name, none)[0] + new.get(name, none)[0], old.get(name, none)[1] + new.get(name, none)[1])
        for name in dict.fromkeys((*old, *new))
    }


def _looks(stage: Stage, first: bool) -> bool:
    """Whether there is a look before an epoch of the stage, its first or not."""
    return stage.when == "epoch" or (stage.when == "entry" and first)


def _predicts(method: Method, epoch: int) -> bool:
    """Whether the epoch, if there is one, begins with a look at the method's own predictions."""
    if epoch >= method.epochs:
        return False
    number, start = method.stage_at(epoch)
    stage = method.stages[number]
    return stage.look is method.predict and _looks(stage, epoch == start)


def _steps(work: Pass, sizes: dict[str, np.ndarray], task: Task) -> int:
    """How many steps a pass has: as many as it takes to draw its first stream once."""
    first = work[0].draws[0]
    return -(-int(sizes[first.stream]) // (first.batch_size or task.batch_size))


def _check_finite(tally: Tally, epoch: int, before: int, whose: str) -> None:
    if tally.bad_step >= 0:
        raise NonFiniteLossError(
            f"The training loss{whose} is not finite at step {before + int(tally.bad_step) + 1} of epoch {epoch + 1}."
        )
