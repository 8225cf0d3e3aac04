"""What a step of HAR costs, in multiples of a plain step: `python -m experiments.bench.har_step`.

Counting a forward pass as 1 and a backward pass as 2, a plain step is 3. The hidden gradients are a forward pass and a
backward pass by inputs alone (1 + 1); differentiating both again takes twice that (2 + 2): 6 in all. Where one stage of
three takes part, the backward pass and its derivative (3) are a third. This is the `floor`, exact for a network of
nothing but convolutions of equal cost; the first one has no input gradient, so real ones fall a little short of it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.bench.steps import PLAIN, Bench, Form, main, make_batch, start, step_of
from robustjax import methods
from robustjax.methods import erm

SUM, ROOT, LAST_STAGE = "HAR, sum of norms", "HAR, root of squares", "HAR, last stage only"
FLOORS = {PLAIN: 1.0, SUM: 2.0, ROOT: 2.0, LAST_STAGE: 4 / 3}
BARS = {SUM: 2.1, ROOT: 2.1}
OPTIONS: dict[str, dict[str, Any]] = {SUM: {}, ROOT: {"form": "paper"}, LAST_STAGE: {"layers": "stage3_*"}}


def forms(task: methods.Task, image: Sequence[int]) -> dict[str, Form]:
    """The step of the final stage, with all layers of residual networks and with those of the last stage."""
    batches = {"train": make_batch(task, image, np.random.default_rng(0))}
    labels, rest = np.asarray(batches["train"].labels), (batches, *start(task))
    plain = methods.get("cross_entropy")(task)
    regularised = {name: methods.get("unif_reg")(task, **options) for name, options in OPTIONS.items()}
    state = regularised[SUM].init(jax.random.key(0), labels)
    found = {PLAIN: Form(step_of(plain), (erm.ErmState(state.learner, {}), *rest))}
    return found | {name: Form(step_of(each), (state, *rest)) for name, each in regularised.items()}


BENCH = Bench("a HAR step", forms, FLOORS, BARS)

if __name__ == "__main__":
    main(BENCH)
