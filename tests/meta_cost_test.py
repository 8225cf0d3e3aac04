"""What the meta step costs, by the compiler's count of FLOPs: near the floor, and no more nested than by hand."""

import chex
import jax
import numpy as np
import pytest

from experiments.bench import meta_step
from robustjax import models

IMAGE, BATCH = (16, 16, 3), 8


@pytest.fixture(scope="module")
def measured():
    """{name: (executable, arguments, FLOPs)} for a residual network of 8 layers.

    Code generation is left unoptimised, which saves time and does not change what is computed.
    """
    model = models.get_model("resnet20", 10, blocks=(1, 1, 1))
    task = meta_step.make_task("resnet20", IMAGE, BATCH)._replace(model=model)
    found = {}
    for name, form in meta_step.forms(task, IMAGE).items():
        compiled, cost = meta_step.compile_form(form, {"xla_backend_optimization_level": 0})
        found[name] = compiled, form.args, cost.flops
    return found


@pytest.mark.parametrize("name", meta_step.BARS)
def test_iteration_stays_near_the_floor(measured, name):
    ratio = measured[name][2] / measured[meta_step.PLAIN][2]
    assert 0.98 * meta_step.FLOORS[name] < ratio <= meta_step.BARS[name]


def test_nesting_costs_no_more_than_the_form_by_hand(measured):
    assert measured[meta_step.NESTED][2] <= 1.02 * measured[meta_step.BY_HAND][2]


def test_both_forms_give_the_same_gradient(measured):
    nested, by_hand = (run(*args) for run, args, _ in (measured[meta_step.NESTED], measured[meta_step.BY_HAND]))
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(by_hand))
    assert largest > 1e-8
    chex.assert_trees_all_close(nested, by_hand, rtol=1e-3, atol=1e-4 * largest)
