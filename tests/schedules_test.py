"""Schedules: corners that the schedule oracles do not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import backend, schedules

ALL = {
    "constant": schedules.constant(0.1),
    "multistep": schedules.multistep(0.1, (3, 5), 0.5),
    "cosine": schedules.cosine(0.1, 10, 0.01),
    "cosine_restarts": schedules.cosine_restarts(0.1, 4, 0.01, per_epoch=False),
    "exponential": schedules.exponential(0.1, 0.9),
    "linear_decay": schedules.linear_decay(0.1, 2, 9),
    "linear_warmup": schedules.linear_warmup(schedules.constant(0.1), 5, 0.2),
    "ldam": schedules.ldam(0.1),
    "forget_rate": schedules.forget_rate(0.4, 5),
    "sigmoid_rampup": schedules.sigmoid_rampup(7),
    "cumulative_learning": schedules.cumulative_learning(9),
    "averaging_decay": schedules.averaging_decay(0.9, 6),
    "averaging_decay to the mean": schedules.averaging_decay(0.9, 0),
}


@pytest.mark.parametrize("name", ALL)
def test_jit_arrays_and_numbers_agree(name):
    schedule = ALL[name]
    times = np.array([0, 0.5, 1, 2.75, 3, 4.999, 5, 9, 30], np.float32)
    together = jax.jit(schedule)(times)
    assert (together.shape, together.dtype) == (times.shape, jnp.float32)
    np.testing.assert_allclose(together, [schedule(float(t)) for t in times], rtol=1e-6)
    np.testing.assert_allclose(together, jax.vmap(schedule)(times), rtol=1e-6)
    assert schedule(jnp.int32(3)).dtype == jnp.float32
    assert schedule(3) == schedule(3.0)
    with backend.enable_x64(True):
        assert schedule(np.float64(2.5)).dtype == schedule(2).dtype == jnp.float64


@pytest.mark.parametrize("name", ALL)
def test_no_dtype_is_promoted_unasked(name):
    schedule = ALL[name]
    for time in (2, 2.5, np.float32(3.7), np.int32(3), jnp.arange(9), np.linspace(0, 30, 7, dtype=np.float32)):
        expected = schedule(time)
        with jax.numpy_dtype_promotion("strict"):
            found, compiled = schedule(time), jax.jit(schedule)(time)
        assert found.dtype == compiled.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)


def test_exponential_drops_when_it_says_so_also_compiled():
    """Compiled, a division by 41 came out just below the whole number."""
    for every in (5, 41, 47, 55):
        rates = jax.jit(schedules.exponential(1.0, 0.5, every=every))(np.float32([every - 1, every, 2 * every]))
        np.testing.assert_array_equal(rates, [1, 0.5, 0.25])


def test_multistep_drops_at_the_start_of_a_milestone():
    schedule = schedules.multistep(1.0, (80, 100), 0.1)
    rates = schedule(jnp.array([0.0, 79.99, 80.0, 99.9, 100.0, 119.9]))
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    assert schedules.multistep(0.3, ())(50) == np.float32(0.3)


def test_cosine_by_epoch_and_by_step():
    by_epoch, by_step = schedules.cosine(2.0, 4, 1.0), schedules.cosine(2.0, 4, 1.0, per_epoch=False)
    np.testing.assert_allclose(by_epoch(jnp.array([0, 2, 2.9, 4, 7.0])), [2, 1.5, 1.5, 1, 1], rtol=1e-6)
    assert by_step(2.9) < by_step(2.0)
    np.testing.assert_allclose(by_step(1.0), by_epoch(1.5), rtol=1e-6)


def test_restarts_begin_anew():
    schedule = schedules.cosine_restarts(1.0, 10, 0.05)
    np.testing.assert_allclose(schedule(jnp.arange(10)), schedule(jnp.arange(10) + 30), rtol=1e-5)
    np.testing.assert_allclose(schedule(jnp.arange(10)), schedules.cosine(1.0, 10, 0.05)(jnp.arange(10)), rtol=1e-6)


def test_exponential_counts_whole_periods():
    schedule = schedules.exponential(4.0, 2.0, every=5)  # SR's weight on MNIST
    np.testing.assert_allclose(schedule(jnp.array([0, 4.9, 5, 9, 10, 49])), [4, 4, 8, 8, 16, 2048], rtol=1e-6)


def test_warm_up_moves_within_the_epoch_and_ends():
    schedule = schedules.linear_warmup(schedules.multistep(1.0, (7,), 0.1), 5, 0.1)
    times = jnp.array([0, 2.5, 5, 6, 7])
    np.testing.assert_allclose(schedule(times), [0.1, 0.55, 1, 1, 0.1], rtol=1e-6)


def test_forget_rate_reaches_the_noise_rate_and_stays():
    np.testing.assert_allclose(schedules.forget_rate(0.4, 1)(jnp.arange(3)), [0, 0.4, 0.4], rtol=1e-6)
    np.testing.assert_allclose(schedules.forget_rate(0.5, 3)(jnp.arange(5)), [0, 0.25, 0.5, 0.5, 0.5], rtol=1e-6)


def test_sigmoid_rampup():
    np.testing.assert_allclose(schedules.sigmoid_rampup(0)(jnp.arange(3)), 1)
    ramp = schedules.sigmoid_rampup(10)(jnp.array([0, 5, 10, 20]))
    np.testing.assert_allclose(ramp, [np.exp(-5), np.exp(-1.25), 1, 1], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 400, width=32), st.floats(0, 400, width=32))
def test_decays_never_rise(a, b):
    early, late = sorted((a, b))
    for schedule in (
        schedules.multistep(0.1, (80, 100)),
        schedules.cosine(0.1, 300, 0.001, per_epoch=False),
        schedules.exponential(0.4, 0.97),
        schedules.linear_decay(0.1, 80, 200, per_epoch=False),
    ):
        assert schedule(late) <= schedule(early) + 1e-8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.multistep(0.1, (100, 80)), "milestones must increase"),
        (lambda: schedules.cosine(0.1, 0), "epochs must be positive, got 0"),
        (lambda: schedules.cosine_restarts(0.1, -1), "period must be positive"),
        (lambda: schedules.exponential(0.1, 0.9, every=0), "every must be positive"),
        (lambda: schedules.linear_warmup(schedules.constant(1.0), 0), "epochs must be positive"),
        (lambda: schedules.linear_decay(0.1, 5, 5), "start=5 must be at least 0 and below epochs=5"),
        (lambda: schedules.forget_rate(1.5), "rate must be in"),
        (lambda: schedules.sigmoid_rampup(-1), "length must not be negative"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
