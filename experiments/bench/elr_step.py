"""What a step of ELR and of ELR+ costs, in multiples of a plain step: `python -m experiments.bench.elr_step`.

Counting a forward pass as 1 and a backward pass as 2, a plain step is 3. ELR's targets come from the step's own forward
pass, so that ELR costs what cross entropy does. ELR+ (and any of its elements alone) makes another forward pass for
them, 4 in all, and an epoch of two networks has two steps for each batch.

The memory of targets is not in the figures: it is N·C numbers a network, in float32 or bfloat16 (`--target-store`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.bench.steps import PLAIN, Bench, Form, main, make_batch, start, step_of
from robustjax import methods
from robustjax.methods import erm

ELR, NARROW, PLUS = "ELR", "ELR, bfloat16 targets", "ELR+, a step of one network"
FLOORS = {PLAIN: 1.0, ELR: 1.0, NARROW: 1.0, PLUS: 4 / 3}
BARS = {ELR: 1.02, NARROW: 1.02, PLUS: 1.36}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    ELR: ("elr", {}),
    NARROW: ("elr", {"target_store": "bfloat16"}),
    PLUS: ("elr_plus_one_network", {}),
}


def forms(task: methods.Task, image: Sequence[int]) -> dict[str, Form]:
    """The steps of cross entropy, of ELR with both stores, and of one network of ELR+."""
    batches = {"train": make_batch(task, image, np.random.default_rng(0))}
    labels, rest = np.asarray(batches["train"].labels), (batches, *start(task))
    found = {}
    for name, (method, options) in OPTIONS.items():
        made = methods.get(method)(task, **options)
        found[name] = Form(step_of(made), (made.init(jax.random.key(0), labels), *rest))
    learner = found[ELR].args[0].students[0].learner
    plain = Form(step_of(methods.get("cross_entropy")(task)), (erm.ErmState(learner, {}), *rest))
    return {PLAIN: plain} | found


BENCH = Bench("an ELR step", forms, FLOORS, BARS)

if __name__ == "__main__":
    main(BENCH)
