"""What a run is judged by: accuracy, calibration, memorization and the quality of corrected labels.

The array functions are pure and jit-able and return float32; a mean over nothing is nan. Clean labels are used only
here, never in training.
"""

import functools
import operator
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

GROUP_NAMES = ("head", "medium", "tail")


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the share of examples whose largest logit is at the label.

    Args:
      logits: [N, C].
      labels: integers [N].

    Examples:
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
      >>> float(accuracy(logits, jnp.array([0, 1, 1, 1])))
      0.75
    """
    _require_examples(logits, labels)
    return jnp.mean(_predictions(logits) == labels, dtype=jnp.float32)


def group_accuracy(logits: jax.Array, labels: jax.Array, groups: jax.Array, num_groups: int) -> jax.Array:
    """Return the accuracy of each group, [num_groups]; nan for a group without examples.

    Args:
      logits: [N, C].
      labels: integers [N].
      groups: the group of each example, integers [N] in 0..num_groups-1; for the groups of classes of
        ``head_medium_tail`` pass ``class_groups[labels]``.
      num_groups: static.

    Examples:
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
      >>> group_accuracy(logits, jnp.array([0, 1, 1, 1]), jnp.array([0, 0, 2, 2]), 3).tolist()
      [1.0, nan, 0.5]
    """
    _require_examples(logits, labels)
    _require_examples(logits, groups, "groups")
    correct = (_predictions(logits) == labels).astype(jnp.float32)
    hits = jax.ops.segment_sum(correct, groups, num_groups)
    return hits / jax.ops.segment_sum(jnp.ones_like(correct), groups, num_groups)


def per_class_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the accuracy (recall) of each class, [C]; nan for a class that no label names.

    Examples:
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
      >>> [round(share, 4) for share in per_class_accuracy(logits, jnp.array([0, 1, 1, 1])).tolist()]
      [1.0, 0.6667]
    """
    return group_accuracy(logits, labels, labels, logits.shape[-1])


def balanced_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean of the per-class accuracies over the classes present.

    Examples:
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
      >>> round(float(balanced_accuracy(logits, jnp.array([0, 1, 1, 1]))), 4)
      0.8333
    """
    return jnp.nanmean(per_class_accuracy(logits, labels))


def head_medium_tail(class_counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the group of each class, int32 [C]: 0 head, 1 medium, 2 tail (``GROUP_NAMES``).

    Classes are sorted by falling count (equal counts by index) and cut into thirds; where C is no multiple of 3 the
    head gets the first spare class and the medium group the second. The cut follows rank, not absolute counts, so that
    it means the same on every data set; with equal counts the groups say nothing.

    Args:
      class_counts: training examples of each class, [C].

    Examples:
      >>> head_medium_tail([500, 300, 200, 50, 20, 5]).tolist()
      [0, 0, 1, 1, 2, 2]
    """
    counts = np.asarray(class_counts)
    if counts.ndim != 1 or len(counts) < 3:
        raise ValueError(f"class_counts must be [C] with at least 3 classes, got shape {counts.shape}")
    order = np.argsort(-counts, kind="stable")
    groups = np.empty(len(counts), np.int32)
    for group, members in enumerate(np.array_split(order, 3)):
        groups[members] = group
    return groups


def expected_calibration_error(logits: jax.Array, labels: jax.Array, num_bins: int = 15) -> jax.Array:
    """Return the expected calibration error of the softmax confidences, in [0, 1].

    Bins ((b-1)/B, b/B] of equal width; the absolute gap between accuracy and mean confidence of each bin, weighted by
    its share of the examples (Guo et al. 2017, section 2).

    Args:
      logits: [N, C].
      labels: integers [N].
      num_bins: static.

    Examples:
      >>> logits = jnp.log(jnp.array([[0.75, 0.25]] * 4))  # three quarters sure each time
      >>> [round(float(expected_calibration_error(logits, jnp.array(y))), 4) for y in ([0, 0, 0, 1], [0, 0, 0, 0])]
      [0.0, 0.25]
    """
    share, confidence, hits = reliability(logits, labels, num_bins).T
    return jnp.sum(share * jnp.abs(hits - confidence))


def reliability(logits: jax.Array, labels: jax.Array, num_bins: int = 15) -> jax.Array:
    """Return how sure the softmax is and how often it is right, by bins of confidence: [num_bins, 3].

    Columns: share of the examples, mean confidence, accuracy; the latter are 0 in empty bins. The bins are those of
    ``expected_calibration_error``.

    Args:
      logits: [N, C].
      labels: integers [N].
      num_bins: static.

    Examples:
      >>> logits = jnp.log(jnp.array([[0.75, 0.25]] * 4))
      >>> reliability(logits, jnp.array([0, 0, 0, 1]), num_bins=2).round(4).tolist()
      [[0.0, 0.0, 0.0], [1.0, 0.75, 0.75]]
    """
    _require_examples(logits, labels)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
    correct = (_predictions(logits) == labels).astype(jnp.float32)
    bins = jnp.clip(jnp.ceil(confidence * num_bins).astype(jnp.int32) - 1, 0, num_bins - 1)
    columns = jnp.stack([jnp.ones_like(correct), confidence, correct], -1)
    count, *sums = jax.ops.segment_sum(columns, bins, num_bins).T
    return jnp.stack([count / len(labels), *(each / jnp.maximum(count, 1) for each in sums)], -1)


def memorization(logits: jax.Array, given: jax.Array, clean: jax.Array) -> dict[str, jax.Array]:
    """Return what the network predicts for rightly and for wrongly labelled training examples (ELR, Fig. 1).

    Args:
      logits: [N, C] of training examples.
      given: the labels trained on, integers [N].
      clean: the true labels, integers [N].

    Returns:
      shares in [0, 1] (nan where there is no such example): of the rightly labelled ``clean_true`` and ``clean_other``;
      of the wrongly labelled ``wrong_true`` (the true class is predicted in spite of the label), ``wrong_memorized``
      (the given class is) and ``wrong_other``. Each of the two families sums to 1.

    Examples:
      >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
      >>> found = memorization(logits, given=jnp.array([0, 1, 1, 1]), clean=jnp.array([0, 0, 0, 0]))
      >>> {name: round(float(share), 4) for name, share in found.items() if name.startswith("wrong")}
      {'wrong_true': 0.6667, 'wrong_memorized': 0.3333, 'wrong_other': 0.0}
    """
    _require_examples(logits, given, "given")
    _require_examples(logits, clean, "clean")
    predicted, wrong = _predictions(logits), given != clean
    return {
        "clean_true": _mean_where(predicted == clean, ~wrong),
        "clean_other": _mean_where(predicted != clean, ~wrong),
        "wrong_true": _mean_where(predicted == clean, wrong),
        "wrong_memorized": _mean_where(predicted == given, wrong),
        "wrong_other": _mean_where((predicted != clean) & (predicted != given), wrong),
    }


def gradient_coefficients(
    logits: jax.Array,
    given: jax.Array,
    clean: jax.Array,
    added: Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """Return the loss gradient at the logit of the *true* class, for right and for wrong labels (ELR, Figs. 2 and B.1).

    Cross entropy has p − y there: on right labels it vanishes as they are fitted; on wrong ones it is positive and
    pushes the true class down. What a method adds is negative there where it knows the true class (ELR's λ g, Lemma 2).

    Args:
      logits: [N, C] of training examples.
      given: the labels trained on, integers [N].
      clean: the true labels, integers [N].
      added: gradients at the logits [N, C] by name, beside that of cross entropy; None for none.

    Returns:
      means over the ``clean`` (rightly labelled) and the ``wrong`` examples, as ``ce_coefficient_clean`` and so on, and
      their standard deviations with ``_std`` at the end; the same of each added gradient, as ``NAME_coefficient_…``,
      and if there are any of the sum of all, as ``total_coefficient_…``. nan where there is no such example.

    Raises:
      ValueError: labels or gradients of another shape, or a gradient named ce or total.

    Examples:
      >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
      >>> found = gradient_coefficients(logits, given=jnp.array([0, 1]), clean=jnp.array([0, 0]))
      >>> round(float(found["ce_coefficient_clean"]), 4), round(float(found["ce_coefficient_wrong"]), 4)
      (-0.25, 0.75)
    """
    _require_examples(logits, given, "given")
    _require_examples(logits, clean, "clean")
    wrong = given != clean
    at_true = (jnp.arange(len(clean)), clean)
    parts = {"ce": jax.nn.softmax(logits.astype(jnp.float32))[at_true] - (~wrong).astype(jnp.float32)}
    for name, gradient in (added or {}).items():
        if gradient.shape != logits.shape or name in ("ce", "total"):
            raise ValueError(
                f"added[{name!r}] must have shape {logits.shape} and a name other than ce and total, "
                f"got shape {gradient.shape}"
            )
        parts[name] = gradient[at_true]
    if added:
        parts["total"] = functools.reduce(operator.add, parts.values())
    found = {}
    for part, values in parts.items():
        for kind, where in (("clean", ~wrong), ("wrong", wrong)):
            mean = _mean_where(values, where)
            found[f"{part}_coefficient_{kind}"] = mean
            found[f"{part}_coefficient_{kind}_std"] = jnp.sqrt(_mean_where((values - mean) ** 2, where))
    return found


def sparse_rate(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Return how near to one-hot the outputs are: the mean over examples of Σ_k s_k², s = softmax(logits/temperature).

    In [1/C, 1]: 1 where all outputs are one-hot (on any classes, right or wrong), 1/C where all are uniform. Zhou et
    al. (SR, ICCV 2021, Fig. 3) plot a sparse rate of sharpened outputs that is 1 where these are one-hot; this formula
    is ours. Temperature 1 judges the outputs as they are. A network trained on sharpened outputs need not be sparse
    there, only at the temperature that it was trained with; and sharpening lifts the rate of any network.

    Args:
      logits: [N, C].
      temperature: above 0; SR's τ.

    Examples:
      >>> logits = jnp.log(jnp.array([[0.75, 0.25]]))
      >>> round(float(sparse_rate(logits)), 4), round(float(sparse_rate(logits, temperature=0.1)), 4)
      (0.625, 1.0)
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must be [N, C], got shape {logits.shape}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return jnp.mean(jnp.sum(jax.nn.softmax(logits.astype(jnp.float32) / temperature) ** 2, axis=-1))


def correction_accuracy(corrected: jax.Array, clean: jax.Array) -> jax.Array:
    """Return the share of corrected labels whose largest entry is the true class (Dynamic Loss, Fig. 6).

    Args:
      corrected: corrected label distributions [N, C].
      clean: the true labels, integers [N].

    Examples:
      >>> float(correction_accuracy(jnp.array([[0.9, 0.1], [0.6, 0.4]]), jnp.array([0, 1])))
      0.5
    """
    return accuracy(corrected, clean)


def label_trust(weights: jax.Array, given: jax.Array, clean: jax.Array) -> dict[str, jax.Array]:
    """Return the mean weight put on the given labels that are ``right`` and on those that are ``wrong``.

    Args:
      weights: weight of each given label in its corrected label, [N].
      given: the labels trained on, integers [N].
      clean: the true labels, integers [N].

    Examples:
      >>> found = label_trust(jnp.array([1.0, 0.5, 0.25]), jnp.array([0, 1, 1]), jnp.array([0, 1, 0]))
      >>> float(found["right"]), float(found["wrong"])
      (0.75, 0.25)
    """
    _require_examples(weights, given, "given")
    _require_examples(weights, clean, "clean")
    weights = weights.astype(jnp.float32)
    return {"right": _mean_where(weights, given == clean), "wrong": _mean_where(weights, given != clean)}


def noise_detection_auroc(scores: jax.Array, is_wrong: jax.Array) -> jax.Array:
    """Return the area under the ROC curve of finding wrong labels by score.

    The probability that a wrongly labelled example scores higher than a rightly labelled one, ties counting one half
    (Mann-Whitney statistic). nan if either kind is absent or a score is nan.

    Args:
      scores: suspicion of each example (its loss, say), [N]; higher means more likely wrong.
      is_wrong: bool [N].

    Examples:
      >>> float(noise_detection_auroc(jnp.array([0.1, 0.7, 0.4, 0.9]), jnp.array([False, False, True, True])))
      0.75
    """
    _require_examples(scores, is_wrong, "is_wrong")
    is_wrong = is_wrong.astype(bool)
    order = jnp.argsort(scores)
    ranked = scores[order]
    # Counts of right labels among the k lowest scores: exact integers, where rank sums would overflow float32.
    right_below = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(~is_wrong[order], dtype=jnp.int32)])
    lower = right_below[jnp.searchsorted(ranked, scores, side="left")]
    lower_or_equal = right_below[jnp.searchsorted(ranked, scores, side="right")]
    share_beaten = (lower + lower_or_equal).astype(jnp.float32) / (2.0 * right_below[-1].astype(jnp.float32))
    return jnp.where(jnp.any(jnp.isnan(scores)), jnp.nan, _mean_where(share_beaten, is_wrong))


def _predictions(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1)


def _mean_where(values: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.mean(values, where=where, dtype=jnp.float32)


def _require_examples(values: jax.Array, labels: jax.Array, name: str = "labels") -> None:
    # Broadcasting [N, 1] against [N] would give a plausible wrong number.
    if labels.shape != values.shape[:1]:
        raise ValueError(f"{name} must have shape {values.shape[:1]} to go with {values.shape}, got {labels.shape}")
