"""Schedules: pure functions of time in epochs.

Time counts the epochs done so far, so 0 is the first step, and its fraction is the progress within an epoch. It may be
a Python number, an array or a traced value; the result has its shape and floating dtype (the default float for
integers). What the papers step once per epoch looks at the whole epochs only, so pass exact integers at the start of an
epoch: `epoch + step / steps_per_epoch`, not a running sum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Schedule = Callable[[Any], jax.Array]


def constant(base: float) -> Schedule:
    """`base` at all times.

    Examples:
      >>> float(constant(0.5)(7))
      0.5
    """
    return lambda epochs: jnp.full_like(_time(epochs), base)


def multistep(base: float, milestones: Sequence[int], factor: float = 0.1) -> Schedule:
    """`base`, multiplied by `factor` at each of the `milestones` (0-based epochs) reached.

    Raises:
      ValueError: milestones that do not increase.

    Examples:
      >>> rate = multistep(1.0, (3, 5), factor=0.5)
      >>> [float(rate(epoch)) for epoch in (0, 2.9, 3, 5)]
      [1.0, 1.0, 0.5, 0.25]
    """
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones must increase, got {tuple(milestones)}")

    def schedule(epochs: Any) -> jax.Array:
        now = _time(epochs)
        drops = sum((jnp.floor(now) >= milestone).astype(now.dtype) for milestone in milestones)
        return jnp.full_like(now, base) * jnp.power(jnp.asarray(factor, now.dtype), drops)

    return schedule


def cosine(base: float, epochs: int, final: float = 0.0, *, per_epoch: bool = True) -> Schedule:
    """Half a cosine from `base` at 0 to `final` at `epochs`, and `final` from there on (Loshchilov & Hutter, 2017).

    Args:
      base: first value.
      epochs: where `final` is reached.
      final: last value.
      per_epoch: constant within an epoch; False moves with every step.

    Raises:
      ValueError: `epochs` is not positive.

    Examples:
      >>> cosine(1.0, 4)(jnp.array([0.0, 2.0, 2.9, 4.0, 9.0])).round(4).tolist()
      [1.0, 0.5, 0.5, 0.0, 0.0]
    """
    _positive("epochs", epochs)

    def schedule(now: Any) -> jax.Array:
        return _half_cosine(base, final, jnp.minimum(_steps(now, per_epoch), epochs) / epochs)

    return schedule


def cosine_restarts(base: float, period: int, final: float = 0.0, *, per_epoch: bool = True) -> Schedule:
    """`cosine`, started anew every `period` epochs.

    Raises:
      ValueError: `period` is not positive.

    Examples:
      >>> cosine_restarts(1.0, 4)(jnp.array([0.0, 2.0, 4.0, 6.0])).round(4).tolist()
      [1.0, 0.5, 1.0, 0.5]
    """
    _positive("period", period)
    return lambda epochs: _half_cosine(base, final, jnp.mod(_steps(epochs, per_epoch), period) / period)


def exponential(base: float, factor: float, *, every: int = 1) -> Schedule:
    """`base`, multiplied by `factor` after each `every` epochs; SR's weight λ₀ρ^⌊t/r⌋ (Zhou et al., 2021) is one.

    Raises:
      ValueError: `every` is not positive.

    Examples:
      >>> [float(exponential(1.0, 2.0, every=5)(epoch)) for epoch in (0, 4, 5, 10)]
      [1.0, 1.0, 2.0, 4.0]
    """
    _positive("every", every)

    def schedule(epochs: Any) -> jax.Array:
        now = _time(epochs)
        return base * jnp.power(jnp.asarray(factor, now.dtype), jnp.floor_divide(now, every))

    return schedule


def linear_decay(base: float, start: int, epochs: int, *, per_epoch: bool = True) -> Schedule:
    """`base` until `start`, then a line to 0 at `epochs`, and 0 from there on; co-teaching's (Han et al., 2018, code).

    Args:
      base: first value.
      start: where the line begins, at least 0.
      epochs: where 0 is reached, beyond `start`.
      per_epoch: constant within an epoch; False moves with every step.

    Raises:
      ValueError: `start` is negative or not before `epochs`.

    Examples:
      >>> [round(float(linear_decay(1.0, 80, 200)(epoch)), 3) for epoch in (0, 80, 140, 200)]
      [1.0, 1.0, 0.5, 0.0]
    """
    if not 0 <= start < epochs:
        raise ValueError(f"start={start} must be at least 0 and below epochs={epochs}.")
    return lambda now: base * jnp.clip((epochs - _steps(now, per_epoch)) / (epochs - start), 0, 1)


def linear_warmup(schedule: Schedule, epochs: float, start_factor: float = 0.0) -> Schedule:
    """`schedule` times a line from `start_factor` at 0 to 1 at `epochs`, moving with every step.

    Dynamic Loss multiplies its cosine by such a line, from 0.1, over 5 epochs.

    Raises:
      ValueError: `epochs` is not positive.

    Examples:
      >>> [float(linear_warmup(constant(1.0), 4)(now)) for now in (0, 1, 2.5, 9)]
      [0.0, 0.25, 0.625, 1.0]
    """
    _positive("epochs", epochs)

    def warmed(now: Any) -> jax.Array:
        done = jnp.minimum(_time(now) / epochs, 1)
        return schedule(now) * (start_factor + (1 - start_factor) * done)

    return warmed


def staircase_warmup(schedule: Schedule, epochs: int) -> Schedule:
    """`schedule` times 1/`epochs` in the first epoch, 2/`epochs` in the second, … and 1 from the last of them on.

    Raises:
      ValueError: `epochs` is not positive.

    Examples:
      >>> [float(staircase_warmup(constant(1.0), 4)(now)) for now in (0, 1, 2.5, 9)]
      [0.25, 0.5, 0.75, 1.0]
    """
    _positive("epochs", epochs)
    return lambda now: schedule(now) * jnp.minimum((jnp.floor(_time(now)) + 1) / epochs, 1)


def ldam(base: float = 0.1) -> Schedule:
    """LDAM's learning rate for 200 epochs: 5 epochs of warm-up, ×0.01 from epoch 160, again from 180.

    Source: the authors' code of Cao et al. (2019).

    Examples:
      >>> [round(float(ldam(0.1)(epoch)), 6) for epoch in (0, 4, 100, 160, 180)]
      [0.02, 0.1, 0.1, 0.001, 1e-05]
    """
    return staircase_warmup(multistep(base, (160, 180), 0.01), 5)


def forget_rate(rate: float, ramp_epochs: int = 10, exponent: float = 1.0) -> Schedule:
    """Co-teaching's share of examples to drop: a line from 0 to rate^exponent over `ramp_epochs`, then `rate`.

    With an exponent other than 1 it jumps at the end of the line, as the authors' code does (Han et al., 2018).

    Raises:
      ValueError: `rate` is outside [0, 1) or `ramp_epochs` is not positive.

    Examples:
      >>> [round(float(forget_rate(0.4, ramp_epochs=5)(epoch)), 4) for epoch in (0, 2, 4, 50)]
      [0.0, 0.2, 0.4, 0.4]
    """
    _positive("ramp_epochs", ramp_epochs)
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")

    def schedule(epochs: Any) -> jax.Array:
        epoch = jnp.floor(_time(epochs))
        return jnp.where(epoch < ramp_epochs, rate**exponent * epoch / max(ramp_epochs - 1, 1), rate)

    return schedule


def cumulative_learning(epochs: int, exponent: float = 2.0) -> Schedule:
    """BBN's share α = 1 − (t / T)^exponent of the conventional branch, t counted in whole epochs from 0.

    Zhou et al., BBN, 2020, eq. 3, whose exponent is 2.

    Raises:
      ValueError: `epochs` or `exponent` is not positive.

    Examples:
      >>> [float(cumulative_learning(4)(epoch)) for epoch in (0, 1.5, 3)]
      [1.0, 0.9375, 0.4375]
    """
    _positive("epochs", epochs)
    _positive("exponent", exponent)

    def schedule(progress: Any) -> jax.Array:
        return 1 - (jnp.floor(_time(progress)) / epochs) ** exponent

    return schedule


def sigmoid_rampup(length: float) -> Schedule:
    """exp(-5(1 - min(t, T)/T)²), which rises to 1 at T = `length`; 1 at all times for T = 0.

    ELR+ counts its argument in steps (Liu et al., 2020); any unit will do if `length` has the same.

    Raises:
      ValueError: `length` is negative.

    Examples:
      >>> [round(float(sigmoid_rampup(10)(now)), 4) for now in (0, 5, 10, 20)]
      [0.0067, 0.2865, 1.0, 1.0]
    """
    if length < 0:
        raise ValueError(f"length must not be negative, got {length}")

    def schedule(now: Any) -> jax.Array:
        missing = 1 - jnp.minimum(_time(now), length) / length if length else jnp.zeros_like(_time(now))
        return jnp.exp(-5 * missing**2)

    return schedule


def averaging_decay(decay: float, ramp: float) -> Schedule:
    """The memory γ of ELR+'s averaged weights, Θ̄ ← γ Θ̄ + (1 − γ) Θ, by the step's number t (Liu et al., 2020, code).

    It rises as `sigmoid_rampup` does at t + 1, to `decay`; or, for `ramp` = 0, as 1 − 1/(t + 1) until it meets `decay`
    (Clothing1M and WebVision in the authors' code). ELR+'s first step is 1, so that Θ̄ is then the plain mean of its
    start and all weights since; counted from 0, it is the mean of the weights alone.

    Raises:
      ValueError: `decay` is outside [0, 1) or `ramp` is negative.

    Examples:
      >>> [round(float(averaging_decay(0.75, ramp=0)(steps)), 4) for steps in (0, 1, 2, 9)]
      [0.0, 0.5, 0.6667, 0.75]
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    rise = sigmoid_rampup(ramp)

    def schedule(steps: Any) -> jax.Array:
        now = _time(steps)
        return decay * rise(now + 1) if ramp else jnp.minimum(1 - 1 / (now + 1), decay)

    return schedule


def _time(epochs: Any) -> jax.Array:
    now = jnp.asarray(epochs)
    return now if jnp.issubdtype(now.dtype, jnp.floating) else now.astype(jnp.result_type(float))


def _steps(epochs: Any, per_epoch: bool) -> jax.Array:
    return jnp.floor(_time(epochs)) if per_epoch else _time(epochs)


def _half_cosine(base: float, final: float, progress: jax.Array) -> jax.Array:
    return final + (base - final) * (1 + jnp.cos(jnp.pi * progress)) / 2


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
