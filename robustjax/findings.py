"""What a method has learned, in a few kinds. A finding's type is its kind.

Whoever judges, tabulates or draws findings does so by kind (`experiments.runs.judge`, `experiments.pictures.findings`),
so a method that returns them from `Method.inspect` is judged against the truth where it is known, has its lines in the
table and its pictures, and adds nothing anywhere else. What is not known yet is nan throughout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LabelDistribution(NamedTuple):
    """What a method believes each example's label to be: `values` [N, C], non-negative; the largest entry is its class.

    Judged by the share of examples whose largest entry is the true class: "NAME_accuracy".
    """

    values: jax.Array


class LabelWeight(NamedTuple):
    """How much a method trusts each given label: `values` [N], higher is more.

    Judged by its mean on right and on wrong labels, "NAME_right" and "NAME_wrong", and by how well low weights find the
    wrong ones: "NAME_auroc".
    """

    values: jax.Array


class NoiseScore(NamedTuple):
    """How suspicious each given label is: `values` [N] in [0, 1], higher is more suspicious.

    Judged by the area under the ROC curve of finding wrong labels, "NAME_auroc".
    """

    values: jax.Array


class LogitGradient(NamedTuple):
    """What a method adds to the loss gradient at the logits: `values` [N, C] (ELR's λg, Lemma 2).

    Judged by its entry at the true class on right and on wrong labels, beside that of cross entropy:
    "NAME_coefficient_clean", "NAME_coefficient_wrong" and so on.
    """

    values: jax.Array


class PerClass(NamedTuple):
    """One number a class: `values` [C]."""

    values: jax.Array


class PerGroup(NamedTuple):
    """One number a group of examples: `values` [G]."""

    values: jax.Array


class Table(NamedTuple):
    """Numbers by class and bin: `values` [C, R], and the bin of each example, `bins` int32 [N] in 0 … R−1.

    Where the truth is known, the share of wrong labels in each cell is set beside it.
    """

    values: jax.Array
    bins: jax.Array


Finding = LabelDistribution | LabelWeight | NoiseScore | LogitGradient | PerClass | PerGroup | Table
Findings = dict[str, Finding]


def when_known(known: jax.Array, values: jax.Array) -> jax.Array:
    """`values`, or nan throughout until `known` (bool scalar).

    Examples:
      >>> when_known(jnp.asarray(False), jnp.ones(2)).tolist()
      [nan, nan]
    """
    return jnp.where(known, values, jnp.nan)
