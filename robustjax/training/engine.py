"""The engine: any Method, on resident data, for any layout of seeds and devices.

The training set lies on the device as it is stored (uint8 images). An epoch is: survey the training set if the method
asks for it, let the method plan, then make its passes; a step shuffles, gathers and augments on the device. On GPU and
TPU a pass is one compiled loop, on CPU a Python loop over the same compiled step (`backend.loops_on_device`).

Order, augmentation and every other random draw are functions of (seed, epoch, pass, step) alone, and the state is one
pytree: a run that was cut and resumed is bit for bit the run that was not.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import backend
from robustjax.methods.base import Batch, Clock, Method, Pass, Plan, State, Stream, Survey, Task, surveys
from robustjax.training import parallel

# Salts that keep the random draws of an epoch's parts apart.
_PLAN, _PASS = 0, 1
_INIT = np.uint32(2**32 - 1)  # where others fold in the epoch


class Resident(NamedTuple):
    """What all seeds share, on the device: training inputs [M, …] and test inputs [T, …], as stored."""

    train_inputs: jax.Array
    test_inputs: jax.Array


class Own(NamedTuple):
    """What a seed has of its own.

    Attributes:
      key: of everything random in its training.
      kept: which training inputs it trains on, int32 [N].
      labels: the labels they are given, int32 [N].
      validation: which it holds out, int32 [V]; None for none.
      groups: the groups of `Survey`, int32 [N]; the given labels if None.
    """

    key: jax.Array
    kept: jax.Array
    labels: jax.Array
    validation: jax.Array | None = None
    groups: jax.Array | None = None

    def survey(self, logits: jax.Array | None) -> Survey:
        """What a method is shown of the training set."""
        return Survey(logits, self.labels, self.labels if self.groups is None else self.groups)


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
      test_logits: [T, C] each.
      train_logits: [N, C] each, or None where the training set was not surveyed.
      validation_logits: [V, C] each, or None where nothing is held out.
      inspected: what the method's `inspect` tells, or {}.
    """

    epoch: int
    state: State
    metrics: list[dict[str, float]]
    test_logits: list[np.ndarray]
    train_logits: list[np.ndarray] | None
    validation_logits: list[np.ndarray] | None
    inspected: list[dict[str, np.ndarray]]


class NonFiniteLossError(FloatingPointError):
    """The training loss became NaN or infinite."""


def draw(stream: Stream, t: jax.Array, batch_size: int, inputs: jax.Array, own: Own) -> Batch:
    """Batch number `t` of a stream, which is cycled; the last batch of a cycle is padded with its first examples."""
    size = jnp.maximum(stream.size, 1)
    batches = (size + batch_size - 1) // batch_size
    slots = (t % batches) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    index = stream.order[slots % size]
    return Batch(inputs[own.kept[index]], own.labels[index], index, (slots < stream.size).astype(jnp.float32))


def _in_chunks(apply: Callable[[jax.Array], jax.Array], count: int, chunk: int) -> jax.Array:
    """apply(index [chunk]) over 0 … count − 1, chunk by chunk, put together again: [count, …]."""
    padded = -(-count // chunk) * chunk
    results = jax.lax.map(apply, jnp.arange(padded, dtype=jnp.int32).reshape(-1, chunk) % count)
    return results.reshape(padded, *results.shape[2:])[:count]


class Programs:
    """The compiled programs of one (method, task, layout).

    A class only because it remembers what has been compiled; each program is a pure function.
    """

    def __init__(self, method: Method, task: Task, layout: parallel.Layout, on_phase: Callable[[str], None]):
        self.method, self.task, self.layout, self._on_phase = method, task, layout, on_phase
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._chunk = task.batch_size * max(1, 1024 // task.batch_size)

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

        def program(_, state, shared):
            def apply(index):
                return self.method.predict(state, parallel.split_batch(self.layout, shared.test_inputs[index]))

            return _in_chunks(apply, len(shared.test_inputs), self._chunk)

        return self.call("evaluation", program, None, state, shared)

    def validation_logits(self, state: State, own: Own, shared: Resident) -> Any:
        """Logits of what each seed holds out."""

        def program(_, seed, shared):
            state, held_out = seed

            def apply(index):
                inputs = shared.train_inputs[held_out[index]]
                return self.method.predict(state, parallel.split_batch(self.layout, inputs))

            return _in_chunks(apply, len(held_out), self._chunk)

        return self.call("validation", program, None, (state, own.validation), shared)

    def survey(self, state: State, own: Own, shared: Resident) -> Any:
        """Logits of the training set in evaluation mode."""
        look = self.method.survey or self.method.predict

        def program(_, seed, shared):
            state, own = seed

            def apply(index):
                return look(state, parallel.split_batch(self.layout, shared.train_inputs[own.kept[index]]))

            return parallel.replicate(self.layout, _in_chunks(apply, self.task.num_examples, self._chunk))

        return self.call("survey", program, None, (state, own), shared)

    def begin_epoch(self, state: State, own: Own, logits: Any, epoch: int) -> tuple[State, Plan]:
        """The method's plan for the epoch."""

        def program(state, seed, epoch):
            own, logits = seed
            key = jax.random.fold_in(jax.random.fold_in(own.key, epoch), _PLAN)
            if self.method.begin_epoch is None:
                order = jax.random.permutation(key, self.task.num_examples).astype(jnp.int32)
                return state, {"train": Stream(order, jnp.int32(self.task.num_examples))}
            clock = Clock(epoch, epoch.astype(jnp.float32))
            state, plan = self.method.begin_epoch(state, own.survey(logits), clock, key)
            return parallel.keep_state(self.layout, state), plan

        key = "epoch plan", logits is None
        return self.call("epoch plan", program, state, (own, logits), np.int32(epoch), key=key)

    def inspect(self, state: State, own: Own, logits: Any) -> list[dict[str, np.ndarray]]:
        """What the method has learned, one dict a seed."""

        def program(_, seed, shared):
            state, own, logits = seed
            return self.method.inspect(state, own.survey(logits))

        return parallel.by_seed(self.layout, self.call("inspection", program, None, (state, own, logits), ()))

    def run_pass(
        self,
        state: State,
        own: Own,
        plan: Plan,
        shared: Resident,
        epoch: int,
        number: int,
        spans: Sequence[Span],
        on_step: Callable[[int], None],
    ) -> tuple[State, list[Tally]]:
        """Make pass `number` of the epoch; returns the state and each seed's tally on the host."""
        work = self.passes(epoch)[number]
        uneven = len({span.steps for span in spans}) > 1
        advance = functools.partial(self._advance, work, number, uneven)
        seed = (own, plan, parallel.place_seeds(self.layout, [Span(*map(np.int32, span)) for span in spans]))
        carry = (state, self._zero_tally(work, number, state, seed, (shared, np.int32(0), np.int32(0))))
        last = max(span.steps for span in spans)
        if backend.loops_on_device():
            shared = (shared, np.int32(epoch), np.int32(last))
            carry = self.call(
                f"{_title(work.steps[0])} loop",
                functools.partial(_loop, advance, len(work.steps)),
                carry,
                seed,
                shared,
                key=(number, work, uneven),
            )
            on_step(last)
        else:
            first = {step: which for which, step in reversed(list(enumerate(work.steps)))}
            for t in range(last):
                step = work.steps[t % len(work.steps)]
                program = functools.partial(advance, first[step])
                place, key = (shared, np.int32(epoch), np.int32(t)), (number, step, uneven)
                carry = self.call(_title(step), program, carry, seed, place, key=key)
                jax.block_until_ready(carry[1])
                on_step(1)
        state, tally = carry
        return state, parallel.by_seed(self.layout, tally)

    def passes(self, epoch: int) -> tuple[Pass, ...]:
        """The passes of an epoch."""
        return self.method.passes(epoch) if self.method.passes else (Pass(("train",), (self.method.step,)),)

    def _apply_step(self, work: Pass, number: int, which: int, state: State, seed: Any, shared: Any):
        """One step of a pass: draw the batches, apply the method's step."""
        own, plan, span = seed
        resident, epoch, t = shared
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(own.key, epoch), _PASS + number), t)
        batches = {
            name: parallel.split_batch(
                self.layout, draw(plan[name], t, self.task.batch_size, resident.train_inputs, own)
            )
            for name in work.streams
        }
        progress = epoch + (span.before + t).astype(jnp.float32) / span.total
        return work.steps[which](state, batches, Clock(epoch, progress), key)

    def _advance(self, work: Pass, number: int, uneven: bool, which: int, carry: Any, seed: Any, shared: Any):
        """One step of a pass, with its metrics added to the tally; `uneven`: seeds differ in the length of the pass."""
        state, tally = carry
        t, span = shared[2], seed[2]
        new_state, metrics = self._apply_step(work, number, which, state, seed, shared)
        failed = (tally.bad_step < 0) & ~jnp.isfinite(metrics["loss"][0])
        new = (
            new_state,
            Tally(
                jax.tree.map(jnp.add, tally.metrics, metrics), jnp.where(failed, t, tally.bad_step).astype(jnp.int32)
            ),
        )
        if uneven:  # the shorter one waits
            new = jax.tree.map(functools.partial(jnp.where, t < span.steps), new, carry)
        return parallel.keep_state(self.layout, new)

    def _zero_tally(self, work: Pass, number: int, state: State, seed: Any, shared: Any) -> Tally:
        """An empty tally for each seed, in the shape of the step's metrics."""
        lead = len(self.layout.lead)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype), (state, seed))
        _, metrics = jax.eval_shape(functools.partial(self._apply_step, work, number, 0), *one, shared)
        zeros = Tally(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), metrics), np.int32(-1))
        return parallel.place_seeds(self.layout, [zeros] * self.layout.seeds)


def _title(step: Callable[..., Any]) -> str:
    return step.__name__.replace("_", " ")


def _loop(advance: Callable[..., Any], cycle: int, carry: Any, seed: Any, shared: Any) -> Any:
    """A whole pass as one program. Its length is an argument, so that it is compiled once for all epochs."""
    resident, epoch, last = shared

    def body(t, carry):
        branches = [lambda c, which=which: advance(which, c, seed, (resident, epoch, t)) for which in range(cycle)]
        return jax.lax.switch(t % cycle, branches, carry) if cycle > 1 else branches[0](carry)

    return jax.lax.fori_loop(0, last, body, carry)


def init_states(method: Method, layout: parallel.Layout, owns: Sequence[Own], example: np.ndarray) -> State:
    """A fresh state for every seed, placed on the devices.

    Args:
      method: the method.
      layout: how seeds and devices are arranged.
      owns: one `Own` a seed.
      example: stored inputs [1, …].
    """
    states = [method.init(jax.random.fold_in(own.key, _INIT), np.asarray(own.labels), example) for own in owns]
    return parallel.place_seeds(layout, states)


def train(
    method: Method,
    task: Task,
    layout: parallel.Layout,
    resident: Resident,
    owns: Sequence[Own],
    *,
    state: State | None = None,
    start_epoch: int = 0,
    track_every: int = 1,
    on_phase: Callable[[str], None] = lambda phase: None,
    on_step: Callable[[int], None] = lambda steps: None,
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
      track_every: survey the training set (and inspect the method) after every k-th epoch and after the last one;
        0 never. Methods that survey it for themselves are inspected after every epoch at no further cost.
      on_phase: told what is being compiled, and "" when that is over.
      on_step: told how many steps were made.

    Yields:
      An `Epoch`. Its `state` is only valid until the generator is advanced.

    Raises:
      NonFiniteLossError: naming the step, after the epoch in which the loss became NaN or infinite.
    """
    programs = Programs(method, task, layout, on_phase)
    state = init_states(method, layout, owns, np.asarray(resident.train_inputs[:1])) if state is None else state
    shared = parallel.place_shared(layout, resident)
    own = parallel.place_seeds(layout, owns)
    epochs = method.epochs or task.epochs
    logits = programs.survey(state, own, shared) if surveys(method, start_epoch) and start_epoch < epochs else None
    for epoch in range(start_epoch, epochs):
        state, plan = programs.begin_epoch(state, own, logits if surveys(method, epoch) else None, epoch)
        passes = programs.passes(epoch)
        sizes = parallel.by_seed(layout, {name: stream.size for name, stream in plan.items()})
        lengths = [[-(-int(size[work.streams[0]]) // task.batch_size) for work in passes] for size in sizes]
        metrics: list[dict[str, tuple[float, float]]] = [{} for _ in owns]
        for number in range(len(passes)):
            spans = [Span(each[number], sum(each[:number]), max(sum(each), 1)) for each in lengths]
            state, tallies = programs.run_pass(state, own, plan, shared, epoch, number, spans, on_step)
            for k, tally in enumerate(tallies):
                _check_finite(tally, epoch, sum(lengths[k][:number]), f" of seed number {k}" if len(owns) > 1 else "")
                for name, (total, count) in tally.metrics.items():
                    old = metrics[k].get(name, (0.0, 0.0))
                    metrics[k][name] = (old[0] + float(total), old[1] + float(count))
        tracked = bool(track_every) and ((epoch + 1) % track_every == 0 or epoch + 1 == epochs)
        logits = programs.survey(state, own, shared) if surveys(method, epoch + 1) or tracked else None
        inspects = method.inspect is not None and logits is not None
        held_out = None if own.validation is None else programs.validation_logits(state, own, shared)
        yield Epoch(
            epoch=epoch,
            state=state,
            metrics=[{name: total / count for name, (total, count) in m.items() if count} for m in metrics],
            test_logits=parallel.by_seed(layout, programs.test_logits(state, shared)),
            train_logits=None if logits is None else parallel.by_seed(layout, logits),
            validation_logits=None if held_out is None else parallel.by_seed(layout, held_out),
            inspected=programs.inspect(state, own, logits) if inspects else [{} for _ in owns],
        )


def _check_finite(tally: Tally, epoch: int, before: int, whose: str) -> None:
    if tally.bad_step >= 0:
        raise NonFiniteLossError(
            f"The training loss{whose} is not finite at step {before + int(tally.bad_step) + 1} of epoch {epoch + 1}."
        )
