"""What steps of Dynamic Loss, HAR and ELR cost by the compiler's count of FLOPs: near the floor, not above by hand."""

import chex
import jax
import numpy as np
import pytest

from experiments.bench import elr_step, har_step, meta_step, steps
from robustjax import models

pytestmark = pytest.mark.exhaustive  # all of it is compiling
IMAGE, BATCH = (16, 16, 3), 8


def compiled(bench):
    """{name: (executable, arguments, FLOPs)} for a residual network of 8 layers.

    Code generation is left unoptimised, which saves time and does not change what is computed.
    """
    model = models.get_model("resnet20", 10, blocks=(1, 1, 1))
    task = steps.make_task("resnet20", IMAGE, BATCH)._replace(model=model)
    found = {}
    for name, form in bench.forms(task, IMAGE).items():
        executable, cost = steps.compile_form(form, {"xla_backend_optimization_level": 0})
        found[name] = executable, form.args, cost.flops
    return found


@pytest.fixture(scope="module")
def measured():
    return compiled(meta_step.BENCH)


@pytest.mark.parametrize("name", meta_step.BARS)
def test_iteration_stays_near_the_floor(measured, name):
    ratio = measured[name][2] / measured[steps.PLAIN][2]
    assert 0.98 * meta_step.FLOORS[name] < ratio <= meta_step.BARS[name]


def test_nesting_costs_no_more_than_the_form_by_hand(measured):
    assert measured[meta_step.NESTED][2] <= 1.02 * measured[meta_step.BY_HAND][2]


def test_both_forms_give_the_same_gradient(measured):
    nested, by_hand = (run(*args) for run, args, _ in (measured[meta_step.NESTED], measured[meta_step.BY_HAND]))
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(by_hand))
    assert largest > 1e-8
    chex.assert_trees_all_close(nested, by_hand, rtol=1e-3, atol=1e-4 * largest)


def test_a_har_step_costs_two_plain_ones():
    """In a network this shallow the first convolution, which needs no input gradient, still counts."""
    flops = {name: each[2] for name, each in compiled(har_step.BENCH).items()}
    for name, bar in har_step.BARS.items():
        assert 0.85 * har_step.FLOORS[name] < flops[name] / flops[steps.PLAIN] <= bar
    assert flops[har_step.LAST_STAGE] < 0.75 * flops[har_step.SUM]


def test_elr_costs_nothing_and_elr_plus_a_forward_pass():
    """In batches this small the optimizer and the average of the weights still count."""
    flops = {name: each[2] for name, each in compiled(elr_step.BENCH).items()}
    for name, bar in elr_step.BARS.items():
        assert 0.97 * elr_step.FLOORS[name] < flops[name] / flops[steps.PLAIN] <= bar, name
