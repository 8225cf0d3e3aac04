"""A loss of your own: a function in a file of your own, `--loss=path/to/file.py:my_loss`.

It is (logits [B, C], labels int32 [B]) -> [B]: one value an example, each from that example alone, differentiable and
jittable. `robustjax.losses` and `jax.numpy` are its building blocks; the mean over the batch is the method's business.
What is not of that form is refused before training, with what was expected and what came instead.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import backend, user_code
from robustjax.methods import base, erm
from robustjax.methods.composable import composable

Loss = Callable[[jax.Array, jax.Array], jax.Array]

FORM = "a function (logits [B, C], labels int32 [B]) -> values [B]"


@composable
def custom(task: base.Task, *, loss: str = "", **terms: Any) -> base.Method:
    """A loss of your own.

    Args:
      loss: FILE.py:NAME of a function (logits [B, C], labels [B]) -> one value an example [B].

    Raises:
      ValueError: for a loss that is not of this form, see `check_loss`, or that changed since it was pinned.
      FileNotFoundError: if there is no such file.
    """
    function = user_code.load(loss, "loss", FORM)
    check_loss(function, task.num_classes, str(user_code.find(loss)))
    return erm.erm(task, function, **terms)


def check_loss(loss: Loss, num_classes: int, name: str = "loss") -> None:
    """Try a loss on a made-up batch: shape, independence of examples, finite values and gradients, jit.

    Logits are moderate, all equal, and ±50, where softmax is exactly 0 or 1 in float32.

    Args:
      loss: (logits [B, C], labels [B]) -> [B].
      num_classes: C.
      name: of the loss, for messages.

    Raises:
      ValueError: saying what was expected and what came instead.
    """

    def refuse(problem: str) -> None:
        raise ValueError(f"loss={name!r} {problem}")

    size = num_classes + 3  # not C, so that a mean over the wrong axis shows
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.permutation(size) % num_classes, jnp.int32)
    moderate = jnp.asarray(rng.normal(size=(size, num_classes)), jnp.float32)
    certain = 100.0 * jax.nn.one_hot(labels, num_classes) - 50
    cases = {
        "moderate logits": moderate,
        "logits that lean to the label": moderate + 3 * jax.nn.one_hot(labels, num_classes),
        "equal logits": jnp.zeros_like(moderate),
        "logits of +50 for the label and -50 for the others": certain,
        "logits of -50 for the label and +50 for the others": -certain,
        "logits of ±50": 50 * jnp.sign(moderate),
    }

    try:
        values = loss(moderate, labels)
    except Exception as error:
        raise ValueError(f"loss={name!r} must be {FORM}; called so, it raised {user_code.told(error)}") from error
    if not isinstance(values, jax.Array | np.ndarray | np.generic | float | int):
        refuse(f"must return an array of shape [B], got {type(values).__name__}.")
    if jnp.shape(values) != (size,):
        hint = "; it seems to reduce over the batch, which is the method's business" if jnp.ndim(values) == 0 else ""
        refuse(f"must return one value an example, shape ({size},) for {size} of them, got {jnp.shape(values)}{hint}.")
    if not jnp.issubdtype(jnp.result_type(values), jnp.floating):
        refuse(f"must return floating-point values, got {jnp.result_type(values)}.")

    def total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = loss(logits, labels)
        return jnp.sum(values), values

    try:
        compiled = backend.jit(jax.value_and_grad(total, has_aux=True))
        found = {case: compiled(logits) for case, logits in cases.items()}
    except Exception as error:
        raise ValueError(
            f"loss={name!r} must be differentiable and compile under jax.jit: jax.numpy in place of numpy, jnp.where "
            f"in place of if. It raised {user_code.told(error)}"
        ) from error
    (_, compiled_values), _ = found["moderate logits"]
    if not np.allclose(loss(moderate, labels), compiled_values, rtol=1e-4, atol=1e-5, equal_nan=True):
        refuse("must be a pure function: it gave other values under jax.jit, or when called again.")
    changed = moderate.at[0].multiply(-3.0), labels.at[0].set((labels[0] + 1) % num_classes)
    if not np.allclose(loss(*changed)[1:], compiled_values[1:], rtol=1e-4, atol=1e-5, equal_nan=True):
        refuse(
            "must give each example a value of its own; when the logits and the label of one example changed, those of "
            "others did too."
        )
    if not any(np.any(np.asarray(gradient)) for _, gradient in found.values()):
        refuse("must have a gradient; it is 0 for every example.")
    for case, ((_, values), gradient) in found.items():
        for what, array in (("values", values), ("gradients", gradient)):
            if not np.all(np.isfinite(array)):
                bad = np.asarray(array)[~np.isfinite(array)][0]
                refuse(f"must have finite {what}; at {case} it gives {bad}. jax.nn.log_softmax is safe, log p is not.")


ENTRIES = (base.Entry("custom", custom, ""),)
