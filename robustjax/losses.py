"""Classification losses that resist wrong labels or unbalanced classes.

Every loss is `f(logits [..., C], labels, *, hyperparameters) -> [...]`: per example, never reduced, at least float32
inside whatever the input dtype (float64 stays), with finite value and gradients at logits of ±1e4. Labels are class
indices, int `[...]`, or distributions, floating `[..., C]`: the expected loss Σ_k y_k L(z, k), which is the loss
itself at one-hot labels, and through which gradients reach the labels (`ldam` and `generalized_jensen_shannon` say
what they do instead). `dmi` and `joint_optimization` are losses of
a whole batch and return a scalar.

At the corners: a logit of −inf takes its class out, with gradient 0 there and everything else finite, as long as no
label has weight on that class (it costs 1e30 then) and another class is left. Class indices out of range raise
ValueError, or give NaN where they are traced. Second derivatives are finite at finite logits in float32; what leaves
the range of float16 inputs (65504) becomes infinite there, in which NaN may follow.

p = softmax(logits) throughout. Where authors' code clips p and the paper does not, the paper's formula is the default
and `clip=(lower, upper)` gives the code's; beyond the limits the gradient is zero.

Wrong hyperparameters raise ValueError (traced ones are not checked), wrong dtypes TypeError.

To add a loss: form its value for every class from log-probabilities, `[..., C]`, and return `expect(values, labels)`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import entr
from jax.typing import ArrayLike

from robustjax._checks import check, check_class_vector, check_positive_counts
from robustjax._probabilities import (
    MASKED,
    Clip,
    as_distribution,
    check_transition,
    clip_log,
    clipped_log_softmax,
    expect,
    hyper,
    is_integer,
    promote,
)

Loss = Callable[..., Array]
LOG_ZERO = math.log(1e-4)  # what reverse cross entropy takes log 0 to be in every published implementation


# Cross entropy and its re-weightings.


def cross_entropy(logits: ArrayLike, labels: ArrayLike, *, clip: Clip | None = None) -> Array:
    """-log p_y. Equals `optax.softmax_cross_entropy` and its integer-label form.

    Args:
      clip: limits on p.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(cross_entropy(logits, labels)).round(2))
      [0.09 3.09]
    """
    return expect(-clipped_log_softmax(logits, clip), labels)


def label_smoothing(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float = 0.1,
    form: Literal["paper", "kl", "off_label"] = "paper",
    clip: Clip | None = None,
) -> Array:
    """Cross entropy to (1 - epsilon) y + epsilon / C.

    Szegedy et al., Rethinking the Inception Architecture, 2016, section 7. Equals `optax.softmax_cross_entropy` on
    `optax.smooth_labels`.

    Args:
      epsilon: in [0, 1].
      form: "paper"; "kl" subtracts the target's entropy (the GJS authors' code: a constant less, same gradient);
        "off_label" puts epsilon / C on the other classes only and 1 - epsilon on the label (the SCE authors' code:
        the target sums to 1 - epsilon / C).
      clip: limits on p.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(label_smoothing(logits, labels, epsilon=0.3)).round(2))
      [0.69 2.79]
    """
    check("epsilon", epsilon, lambda e: (e >= 0) & (e <= 1), "in [0, 1]")
    log_p = clipped_log_softmax(logits, clip)
    labels = as_distribution(labels, log_p)
    noise = epsilon / log_p.shape[-1]
    target = (1 - epsilon) * labels + noise * (1 - labels if form == "off_label" else 1)
    loss = -jnp.sum(target * log_p, axis=-1)
    if form == "kl":
        return loss - jnp.sum(entr(target), axis=-1)
    if form not in ("paper", "off_label"):
        raise ValueError(f"form must be 'paper', 'kl' or 'off_label', got {form!r}")
    return loss


def ldam(logits: ArrayLike, labels: ArrayLike, *, margins: ArrayLike, scale: float = 30.0) -> Array:
    """Label-distribution-aware margin loss: cross entropy of scale (z - m_y e_y).

    Cao et al., Learning Imbalanced Datasets with LDAM Loss, 2019; `scale` is from the authors' code, where
    logits are cosines. Under label distributions the margin is y_k m_k.

    Args:
      margins: `[C]`, from `robustjax.margins.ldam_margins`.
      scale: positive.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(ldam(logits, labels, margins=[0.1, 0.2, 0.5], scale=1.0)).round(2))
      [0.1  3.29]
    """
    logits = promote(logits)
    check_class_vector("margins", margins, logits.shape[-1])
    check("scale", scale, lambda s: s > 0, "positive")
    labels = as_distribution(labels, logits)
    scaled = hyper(scale, logits.dtype) * (logits - labels * jnp.asarray(margins, logits.dtype))
    return cross_entropy(scaled, labels)


def balanced_softmax(logits: ArrayLike, labels: ArrayLike, *, class_counts: ArrayLike) -> Array:
    """Cross entropy of z + log n: the softmax with the label prior n built in.

    Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, 2020.

    Args:
      class_counts: `[C]`, all positive.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(balanced_softmax(logits, labels, class_counts=[1000, 100, 10])).round(2))
      [0.01 5.31]
    """
    logits = promote(logits)
    check_positive_counts("class_counts", class_counts)
    check_class_vector("class_counts", class_counts, logits.shape[-1])
    return cross_entropy(logits + jnp.log(jnp.asarray(class_counts, logits.dtype)), labels)


def focal(logits: ArrayLike, labels: ArrayLike, *, gamma: float = 0.5, detach: bool = False) -> Array:
    """-(1 - p_y)^gamma log p_y.

    Lin et al., Focal Loss for Dense Object Detection, 2017, eq. 4, for softmax outputs.

    Args:
      gamma: at least 0, which is cross entropy.
      detach: no gradient through the factor (1 - p_y)^gamma, as in the SR and APL authors' code.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(focal(logits, labels, gamma=2.0)).round(2))
      [0.   2.82]
    """
    return expect(_focal_values(clipped_log_softmax(logits, None), gamma, detach), labels)


def class_balanced_focal(
    logits: ArrayLike, labels: ArrayLike, *, class_weights: ArrayLike, gamma: float = 1.0
) -> Array:
    """Focal loss of a weighted cross entropy, (1 - e^-l)^gamma l with l = -w_y log p_y, as LDAM's authors code it.

    The weight enters the probability too: e^-l = p_y^(w_y). Averaged plainly, not by the sum of weights.

    Args:
      class_weights: `[C]`, positive, e.g. `robustjax.margins.class_balanced_weights`.
      gamma: at least 0.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(class_balanced_focal(logits, labels, class_weights=[0.5, 2.0, 0.5])).round(2))
      [0.   6.18]
    """
    log_p = clipped_log_softmax(logits, None)
    check_class_vector("class_weights", class_weights, log_p.shape[-1])
    check("class_weights", class_weights, lambda w: w > 0, "positive for every class")
    return expect(_focal_values(jnp.asarray(class_weights, log_p.dtype) * log_p, gamma, detach=False), labels)


# Bounded and symmetric losses.


def mae(logits: ArrayLike, labels: ArrayLike, *, scale: float = 2.0) -> Array:
    """Mean absolute error ‖e_y - p‖₁ = 2 (1 - p_y).

    Ghosh et al., Robust Loss Functions under Label Noise for Deep Neural Networks, 2017. (A label
    distribution gives the expected loss, not ‖y - p‖₁.)

    Args:
      scale: positive; 2 is the norm, 1 the form of the APL authors.

    Returns:
      `[...]`, in [0, scale].

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(mae(logits, labels)).round(2))
      [0.18 1.91]
    """
    check("scale", scale, lambda s: s > 0, "positive")
    return scale * expect(_mae_values(clipped_log_softmax(logits, None)), labels)


def reverse_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, log_zero: float = LOG_ZERO, clip: Clip | None = None
) -> Array:
    """-Σ_k p_k log e_y,k with log 0 := log_zero, that is -log_zero (1 - p_y).

    Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, 2019.

    Args:
      log_zero: negative. The default log(1e-4) is that of the authors' and all later code, for which published
        (alpha, beta) hold; the paper's text names -4.
      clip: limits on p; the SR authors' code has (1e-7, 1).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(reverse_cross_entropy(logits, labels)).round(2))
      [0.83 8.79]
    """
    return expect(_reverse_values(clipped_log_softmax(logits, clip), log_zero, clip), labels)


def symmetric_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float,
    beta: float,
    log_zero: float = LOG_ZERO,
    clip: Clip | None = None,
    reverse_clip: Clip | None = None,
) -> Array:
    """alpha · cross entropy + beta · reverse cross entropy (Wang et al., 2019).

    Args:
      alpha: weight of cross entropy, at least 0.
      beta: weight of reverse cross entropy, at least 0.
      log_zero: as in `reverse_cross_entropy`.
      clip: limits on p in cross entropy.
      reverse_clip: limits on p in reverse cross entropy.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(symmetric_cross_entropy(logits, labels, alpha=0.1, beta=1.0)).round(2))
      [0.84 9.1 ]
    """
    active = functools.partial(cross_entropy, clip=clip)
    passive = functools.partial(reverse_cross_entropy, log_zero=log_zero, clip=reverse_clip)
    return active_passive(logits, labels, active=active, passive=passive, alpha=alpha, beta=beta)


def generalized_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, q: float = 0.7, clip: Clip | None = None, epsilon: float = 0.0
) -> Array:
    """(1 - p_y^q) / q: cross entropy as q → 0, 1 - p_y at q = 1.

    Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, 2018.

    Args:
      q: in (0, 1].
      clip: limits on p; the SR authors' code has (1e-7, 1).
      epsilon: added to p, at least 0; the PHuber authors' code has 1e-9.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(generalized_cross_entropy(logits, labels, q=0.7)).round(2))
      [0.09 1.26]
    """
    check("epsilon", epsilon, lambda e: e >= 0, "at least 0")
    log_p = clipped_log_softmax(logits, clip)
    # The test is on Python's zero: log 0 must not enter the graph, and a traced epsilon is meant.
    if not (isinstance(epsilon, int | float) and epsilon == 0):
        log_p = jnp.logaddexp(log_p, jnp.log(jnp.asarray(epsilon, log_p.dtype)))
    return expect(_generalized_values(log_p, q), labels)


def truncation_weights(logits: ArrayLike, labels: ArrayLike, *, q: float = 0.7, k: float = 0.5) -> Array:
    """1 where the generalized cross entropy is below that of p_y = k, else 0: the truncated loss's indicator.

    Zhang and Sabuncu, 2018, the truncated loss. The authors refresh a table of these, ones at the start,
    every 10 epochs from epoch 40.

    Args:
      q: in (0, 1].
      k: the threshold on p_y, in (0, 1).

    Returns:
      Weights `[...]`; no gradient.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(truncation_weights(logits, labels, k=0.5))
      [1. 0.]
    """
    return jnp.where(_truncated_excess(logits, labels, q, k) < 0, 1.0, 0.0)


def truncated_generalized_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, weights: ArrayLike, q: float = 0.7, k: float = 0.5
) -> Array:
    """w ((1 - p_y^q) / q - (1 - k^q) / q): generalized cross entropy on the examples that are kept.

    Zhang and Sabuncu, 2018, for given example weights.

    Args:
      weights: `[...]` in [0, 1], usually earlier `truncation_weights`.
      q: in (0, 1].
      k: the threshold on p_y, in (0, 1).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> weights = truncation_weights(logits, labels)
      >>> print(np.asarray(truncated_generalized_cross_entropy(logits, labels, weights=weights)).round(2))
      [-0.46  0.  ]
    """
    excess = _truncated_excess(logits, labels, q, k)
    if jnp.shape(weights) not in ((), excess.shape):
        raise ValueError(f"weights must have shape {excess.shape}, one for each example, got {jnp.shape(weights)}")
    return jnp.asarray(weights, excess.dtype) * excess


def partially_huberised_cross_entropy(logits: ArrayLike, labels: ArrayLike, *, tau: float = 10.0) -> Array:
    """-log p_y where p_y > 1/tau, else its tangent there, log tau + 1 - tau p_y: bounded.

    Menon et al., Can gradient clipping mitigate label noise?, 2020.

    Args:
      tau: at least 1; 2 on CIFAR-10 and 10 on MNIST and CIFAR-100 in the paper.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(partially_huberised_cross_entropy(logits, labels, tau=2.0)).round(2))
      [0.09 1.6 ]
    """
    check("tau", tau, lambda t: t >= 1, "at least 1")
    log_p = clipped_log_softmax(logits, None)
    log_tau = jnp.log(jnp.asarray(tau, log_p.dtype))
    return expect(jnp.where(log_p <= -log_tau, log_tau + 1 - tau * jnp.exp(log_p), -log_p), labels)


def partially_huberised_generalized_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, tau: float = 10.0, q: float = 0.7
) -> Array:
    """(1 - p_y^q) / q above the threshold tau^(1/(q-1)), else its tangent there, of slope -tau in p_y.

    Menon et al., 2020.

    Args:
      tau: at least 1.
      q: in (0, 1).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(partially_huberised_generalized_cross_entropy(logits, labels, tau=2.0)).round(2))
      [0.09 1.25]
    """
    check("tau", tau, lambda t: t >= 1, "at least 1")
    check("q", q, lambda q: (q > 0) & (q < 1), "in (0, 1)")
    log_p = clipped_log_softmax(logits, None)
    log_threshold = jnp.log(jnp.asarray(tau, log_p.dtype)) / (q - 1)
    threshold = jnp.exp(log_threshold)
    tangent = tau * (threshold - jnp.exp(log_p)) + _generalized_values(log_threshold, q)
    return expect(jnp.where(log_p <= log_threshold, tangent, _generalized_values(log_p, q)), labels)


# Normalised losses, L(p, y) / Σ_k L(p, k), and active + passive pairs.
# Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, 2020.


def normalized_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Log p_y / Σ_k log p_k (Ma et al., 2020).

    Returns:
      `[...]`, in [0, 1].

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(normalized_cross_entropy(logits, labels)).round(2))
      [0.02 0.49]
    """
    return expect(_normalized(-clipped_log_softmax(logits, None)), labels)


def normalized_focal(logits: ArrayLike, labels: ArrayLike, *, gamma: float = 0.5, detach: bool = False) -> Array:
    """Focal loss divided by its sum over all labels (Ma et al., 2020).

    Args:
      gamma: at least 0.
      detach: no gradient through the factors (1 - p_k)^gamma, as in the authors' code.

    Returns:
      `[...]`, in [0, 1].

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(normalized_focal(logits, labels)).round(2))
      [0.  0.5]
    """
    return expect(_normalized(_focal_values(clipped_log_softmax(logits, None), gamma, detach)), labels)


def normalized_mae(logits: ArrayLike, labels: ArrayLike, *, scale: float = 1.0) -> Array:
    """(1 - p_y) / (C - 1) (Ma et al., 2020).

    Args:
      scale: positive; 1 is the definition, 1/2 the form of the authors' code.

    Returns:
      `[...]`, in [0, scale].

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(normalized_mae(logits, labels)).round(2))
      [0.05 0.48]
    """
    check("scale", scale, lambda s: s > 0, "positive")
    return scale * expect(_normalized(_mae_values(clipped_log_softmax(logits, None))), labels)


def normalized_generalized_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, q: float = 0.7, clip: Clip | None = None
) -> Array:
    """(1 - p_y^q) / (C - Σ_k p_k^q).

    Args:
      q: in (0, 1].
      clip: limits on p; the SR authors' code has (1e-7, 1).

    Returns:
      `[...]`, in [0, 1].

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(normalized_generalized_cross_entropy(logits, labels)).round(2))
      [0.04 0.48]
    """
    return expect(_normalized(_generalized_values(clipped_log_softmax(logits, clip), q)), labels)


def normalized_reverse_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    form: Literal["paper", "code"] = "paper",
    log_zero: float = LOG_ZERO,
    clip: Clip | None = None,
) -> Array:
    """(1 - p_y) / (C - 1): reverse cross entropy divided by its sum over all labels (Ma et al., 2020).

    Args:
      form: "paper", or "code" for (C - 1) / 4 · reverse cross entropy, what the SR authors' code computes.
      log_zero: as in `reverse_cross_entropy`; without effect on the "paper" form.
      clip: limits on p; the SR authors' code has (1e-7, 1).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(normalized_reverse_cross_entropy(logits, labels)).round(2))
      [0.05 0.48]
    """
    values = _reverse_values(clipped_log_softmax(logits, clip), log_zero, clip)
    if form == "paper":
        return expect(_normalized(values), labels)
    if form == "code":
        return (values.shape[-1] - 1) / 4 * expect(values, labels)
    raise ValueError(f"form must be 'paper' or 'code', got {form!r}")


def active_passive(
    logits: ArrayLike, labels: ArrayLike, *, active: Loss, passive: Loss, alpha: float = 1.0, beta: float = 1.0
) -> Array:
    """alpha · active(logits, labels) + beta · passive(logits, labels) (Ma et al., 2020).

    An active loss only raises p_y; a passive one also lowers other probabilities explicitly.

    Args:
      active: a loss of this module, e.g. `normalized_cross_entropy`.
      passive: a loss of this module, e.g. `mae`.
      alpha: at least 0.
      beta: at least 0.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(active_passive(logits, labels, active=focal, passive=mae, beta=0.5)).round(2))
      [0.12 3.98]
    """
    check("alpha", alpha, lambda a: a >= 0, "at least 0")
    check("beta", beta, lambda b: b >= 0, "at least 0")
    return alpha * active(logits, labels) + beta * passive(logits, labels)


def nce_mae(logits: ArrayLike, labels: ArrayLike, *, alpha: float = 1.0, beta: float = 1.0) -> Array:
    """alpha · normalized cross entropy + beta (1 - p_y); arguments as in `active_passive`.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(nce_mae(logits, labels)).round(2))
      [0.11 1.45]
    """
    return active_passive(
        logits,
        labels,
        active=normalized_cross_entropy,
        passive=functools.partial(mae, scale=1.0),
        alpha=alpha,
        beta=beta,
    )


def nce_rce(
    logits: ArrayLike, labels: ArrayLike, *, alpha: float = 1.0, beta: float = 1.0, clip: Clip | None = None
) -> Array:
    """alpha · normalized + beta · reverse cross entropy; arguments as in `active_passive`, `clip` on the latter.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(nce_rce(logits, labels)).round(2))
      [0.85 9.29]
    """
    passive = functools.partial(reverse_cross_entropy, clip=clip)
    return active_passive(logits, labels, active=normalized_cross_entropy, passive=passive, alpha=alpha, beta=beta)


def nfl_mae(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.5,
    detach: bool = False,
) -> Array:
    """alpha · normalized focal + beta (1 - p_y); arguments as in `active_passive` and `normalized_focal`.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(nfl_mae(logits, labels)).round(2))
      [0.1  1.45]
    """
    active = functools.partial(normalized_focal, gamma=gamma, detach=detach)
    return active_passive(
        logits, labels, active=active, passive=functools.partial(mae, scale=1.0), alpha=alpha, beta=beta
    )


def nfl_rce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.5,
    detach: bool = False,
    clip: Clip | None = None,
) -> Array:
    """alpha · normalized focal + beta · reverse cross entropy; arguments as in `nfl_mae` and `nce_rce`.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(nfl_rce(logits, labels)).round(2))
      [0.84 9.29]
    """
    active = functools.partial(normalized_focal, gamma=gamma, detach=detach)
    passive = functools.partial(reverse_cross_entropy, clip=clip)
    return active_passive(logits, labels, active=active, passive=passive, alpha=alpha, beta=beta)


# Losses that change the target.


def soft_bootstrap(
    logits: ArrayLike, labels: ArrayLike, *, beta: float = 0.95, clip: Clip | None = None, clip_target: bool = True
) -> Array:
    """Cross entropy to beta y + (1 - beta) p, with gradient through the target as well.

    Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, 2015: beta · cross entropy
    plus (1 - beta) · entropy of p.

    Args:
      beta: in [0, 1].
      clip: limits on p; the SCE authors' code has (1e-7, 1 - 1e-7).
      clip_target: whether the limits also hold for p in the target (the GJS authors' code: no).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(soft_bootstrap(logits, labels, beta=0.5)).round(2))
      [0.23 1.73]
    """
    check("beta", beta, lambda b: (b >= 0) & (b <= 1), "in [0, 1]")
    log_p = clipped_log_softmax(logits, clip)
    p = jnp.exp(log_p if clip_target else clipped_log_softmax(logits, None))
    return -jnp.sum((beta * as_distribution(labels, log_p) + (1 - beta) * p) * log_p, axis=-1)


def hard_bootstrap(logits: ArrayLike, labels: ArrayLike, *, beta: ArrayLike = 0.8, clip: Clip | None = None) -> Array:
    """Cross entropy to beta y + (1 - beta) e_k, k = argmax p, the lowest at ties (Reed et al., 2015).

    Args:
      beta: in [0, 1].
      clip: limits on p; the SCE authors' code has (1e-7, 1 - 1e-7).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(hard_bootstrap(logits, labels, beta=0.5)).round(2))
      [0.09 1.59]
    """
    check("beta", beta, lambda b: (b >= 0) & (b <= 1), "in [0, 1]")
    values = -clipped_log_softmax(logits, clip)
    # From the logits: clipping would make ties of all probabilities beyond a limit.
    predicted = jnp.argmax(jnp.asarray(logits), axis=-1)
    beta = hyper(beta, values.dtype)
    return beta * expect(values, labels) + (1 - beta) * expect(values, predicted)


def local_intrinsic_dimensionality(features: ArrayLike, neighbours: int = 20) -> Array:
    """−k / Σ_j log(r_j / r_k), the dimension of the neighbourhood of each example, from which D2L paces `lid_paced`.

    Ma et al., Dimensionality-Driven Learning with Noisy Labels, 2018, eq. 4: the maximum-likelihood estimate from the
    distances r_1 … r_k to the k nearest other examples of the batch; 1e-8 in the logarithm is the authors' code.

    Args:
      features: `[B, D]`.
      neighbours: k, in 1 … B - 1.

    Returns:
      `[B]`, without gradient: it tells when to change course.

    Raises:
      ValueError: there are not so many neighbours.

    Examples:
      >>> features = jnp.array([[0.0], [1.0], [3.0], [7.0]])
      >>> print(np.asarray(local_intrinsic_dimensionality(features, 2)).round(2))
      [1.82 2.89 4.93 4.93]
    """
    features = jax.lax.stop_gradient(promote(features))
    if features.ndim != 2 or not 1 <= neighbours < len(features):
        raise ValueError(f"neighbours={neighbours} must be at least 1 and below B of features [B, D], {features.shape}")
    # Differences rather than inner products: of near neighbours these lose every digit.
    distances = jax.lax.map(lambda x: jnp.linalg.norm(features - x, axis=-1), features)
    near = jnp.sort(distances, axis=-1)[:, 1 : neighbours + 1]
    return -neighbours / jnp.sum(jnp.log(near / near[:, -1:] + 1e-8), axis=-1)


def lid_paced(logits: ArrayLike, labels: ArrayLike, *, alpha: ArrayLike, clip: Clip | None = None) -> Array:
    """D2L's loss: symmetric cross entropy (0.1, 1) while alpha = 1, then hard bootstrapping with beta = alpha.

    Ma et al., Dimensionality-Driven Learning with Noisy Labels, 2018; the first phase is that of the authors'
    later code (plain cross entropy in the paper).

    Args:
      alpha: scalar in [0, 1], falling once the local intrinsic dimensionality turns; may be traced.
      clip: limits on p in cross entropies.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(lid_paced(logits, labels, alpha=0.5)).round(2))
      [0.09 1.59]
    """
    early = symmetric_cross_entropy(logits, labels, alpha=0.1, beta=1.0, clip=clip)
    return jnp.where(jnp.asarray(alpha) == 1, early, hard_bootstrap(logits, labels, beta=alpha, clip=clip))


def forward_correction(
    logits: ArrayLike, labels: ArrayLike, *, transition: ArrayLike, clip: Clip | None = None
) -> Array:
    """-log (p T)_y: cross entropy of the noisy-label distribution that p implies.

    Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017, Theorem 2. Label
    distributions take `[..., C, C]` of memory.

    Args:
      transition: `[C, C]`, T_ij = P(given label j | true label i), rows summing to 1; a label that T never gives has
        infinite loss.
      clip: limits on p; the SCE authors' code has (1e-7, 1 - 1e-7).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> transition = [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]
      >>> print(np.asarray(forward_correction(logits, labels, transition=transition)).round(2))
      [0.57 1.52]
    """
    log_p = clipped_log_softmax(logits, clip)
    check_transition(transition, log_p.shape[-1])
    transition = jnp.asarray(transition, log_p.dtype)
    # log Σ_i p_i T_iy without leaving the log domain: finite also where every supported p_i underflows.
    if is_integer(labels):
        known = jnp.sum(as_distribution(labels, log_p), axis=-1)  # 1, or NaN for a traced label that is no class
        return -jax.nn.logsumexp(log_p, axis=-1, b=transition.T[jnp.asarray(labels)]) * known
    return -expect(jax.nn.logsumexp(log_p[..., :, None], axis=-2, b=transition), labels)


def backward_correction(
    logits: ArrayLike, labels: ArrayLike, *, transition: ArrayLike, clip: Clip | None = None
) -> Array:
    """Σ_k (T^-1)_yk (-log p_k): unbiased for the clean cross entropy, unbounded below.

    Patrini et al., 2017, Theorem 1.

    Args:
      transition: `[C, C]`, as in `forward_correction`, invertible.
      clip: limits on p; the SCE authors' code has (1e-7, 1 - 1e-7).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> transition = [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]
      >>> print(np.asarray(backward_correction(logits, labels, transition=transition)).round(2))
      [-2.91  4.59]
    """
    log_p = clipped_log_softmax(logits, clip)
    check_transition(transition, log_p.shape[-1])
    check("transition", transition, lambda t: np.linalg.cond(t) < 1e7, "well conditioned, to be inverted")
    inverse = jnp.linalg.inv(jnp.asarray(transition, log_p.dtype))
    return expect(-jnp.einsum("...k,yk->...y", log_p, inverse, precision="highest"), labels)


def estimate_transition(probs: ArrayLike, *, percentile: float = 100.0) -> Array:
    """Transition matrix from anchor points: row i is the prediction at the example surest of class i.

    Patrini et al., 2017, from a model trained on the given labels with cross entropy.

    Args:
      probs: `[N, C]`, that model's softmax outputs.
      percentile: in [0, 100]: which example counts as surest. 100 is the argmax (lowest index at ties); the authors'
        code takes 97, except on CIFAR-100, to avoid outliers.

    Returns:
      T `[C, C]` for `forward_correction` and `backward_correction`; rows sum to 1.

    Examples:
      >>> probs = jnp.array([[0.9, 0.1], [0.6, 0.4], [0.25, 0.75]])
      >>> estimate_transition(probs)  # the first example is surest of class 0, the last of class 1
      Array([[0.9 , 0.1 ],
             [0.25, 0.75]], dtype=float32)
    """
    check("percentile", percentile, lambda q: (q >= 0) & (q <= 100), "in [0, 100]")
    probs = promote(probs)
    if probs.ndim != 2:
        raise ValueError(f"probs must have shape [N, C], got {probs.shape}")
    position = math.ceil((1 - percentile / 100) * (probs.shape[0] - 1) - 1e-9)
    anchors = jnp.argsort(-probs, axis=0, stable=True)[position]
    return probs[anchors]


def generalized_jensen_shannon(
    logits: ArrayLike | Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    weights: Sequence[float] | Array,
    scaled: bool = True,
    consistency: bool = True,
    renormalize: bool = True,
    clip: Clip | None = None,
) -> Array:
    """Z Σ_j w_j KL(d_j ‖ Σ_i w_i d_i), d = (y, p of view 1, p of view 2, …), Z = -1 / ((1 - w_1) log(1 - w_1)).

    Englesson and Azizpour, Generalized Jensen-Shannon Divergence Loss for Learning with Noisy Labels, 2021.
    One view is their JS loss, cross entropy as w_1 → 0 and half of `mae` (scale 2) as w_1 → 1.

    Args:
      logits: `[..., C]`, or a sequence of them, one an augmented view of the same examples.
      labels: int `[...]` or distributions `[..., C]`, which take part as distributions (not as an expectation); where
        one is 0 its gradient, which is infinite, is taken to be 0.
      weights: one for the labels, then one a view: positive, summing to 1.
      scaled: multiply by Z.
      consistency: if False, the JS loss of the weighted mean prediction, which does not ask views to agree.
      renormalize: without consistency, divide that mean by 1 - w_1; the authors' code does not.
      clip: limits inside logarithms; the authors' code has (1e-7, 1).

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> views = [logits, 0.5 * logits]  # of two augmentations
      >>> print(np.asarray(generalized_jensen_shannon(views, labels, weights=[0.4, 0.3, 0.3])).round(2))
      [0.29 1.69]
    """
    views = tuple(logits) if isinstance(logits, list | tuple) else (logits,)
    check(
        "weights",
        weights,
        lambda w: w.shape == (len(views) + 1,) and np.all(w > 0) and abs(w.sum() - 1) < 1e-4,
        f"{len(views) + 1} positive numbers that sum to 1, for the labels and each of the {len(views)} views",
    )
    log_views = jnp.stack([clipped_log_softmax(view, None) for view in views])
    mixture = jnp.asarray(weights, log_views.dtype)
    label_weight = mixture[0]
    labels = as_distribution(labels, log_views[0])
    if not consistency:
        mean = jax.nn.logsumexp(log_views, axis=0, b=mixture[1:].reshape(-1, *[1] * labels.ndim))
        log_views = (mean - jnp.log1p(-label_weight) if renormalize else mean)[None]
        mixture = jnp.stack([label_weight, 1 - label_weight])
    divergence = _weighted_divergence(labels, log_views, mixture, clip)
    return divergence / (-(1 - label_weight) * jnp.log1p(-label_weight)) if scaled else divergence


def complementary_labels(labels: ArrayLike, offsets: ArrayLike, *, num_classes: int) -> Array:
    """(y + offset) mod C: labels that an example is said not to have.

    Args:
      labels: int `[...]`.
      offsets: int `[..., J]` in 1 … C-1, so that none is the label; uniform ones from `jax.random.randint`.
      num_classes: C.

    Returns:
      Complementary labels, int `[..., J]`.

    Examples:
      >>> complementary_labels(jnp.array([0, 2]), jnp.array([[1, 2], [1, 2]]), num_classes=3)
      Array([[1, 2],
             [0, 1]], dtype=int32)
    """
    check("offsets", offsets, lambda o: (o >= 1) & (o < num_classes), f"in [1, {num_classes})")
    wide = jnp.asarray(labels).astype(jnp.int32), jnp.asarray(offsets).astype(jnp.int32)  # of 8 bits, a sum might wrap
    return (wide[0][..., None] + wide[1]) % num_classes


def negative_learning(logits: ArrayLike, labels: ArrayLike, *, clip: Clip = (1e-5, 1.0)) -> Array:
    """NLNL's loss on complementary labels, Σ_j -log(1 - p_j).

    Kim et al., NLNL: Negative Learning for Noisy Labels, 2019.

    Args:
      logits: `[..., C]`.
      labels: complementary labels: int `[...]`, int `[..., J]` (summed over J), or floating weights `[..., C]`.
      clip: limits on 1 - p, the lower one positive: the loss is unbounded without. The authors' is the default.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # classes that the examples are said not to be of
      >>> print(np.asarray(negative_learning(logits, labels)).round(2))
      [2.4  0.05]
    """
    check("clip", clip, lambda c: 0 < c[0] < c[1] <= 1, "(lower, upper), 0 < lower < upper <= 1")
    log_p = clipped_log_softmax(logits, None)
    rest = -jnp.expm1(log_p)
    values = -jnp.log(jnp.where(rest < clip[0], clip[0], jnp.where(rest > clip[1], clip[1], rest)))
    if is_integer(labels) and jnp.ndim(labels) == log_p.ndim:
        return jnp.sum(
            expect(values[..., None, :] * jnp.ones((jnp.shape(labels)[-1], 1), values.dtype), labels), axis=-1
        )
    return expect(values, labels)


# Losses of a whole batch.


def dmi(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float = 1e-3,
    normalize: bool = False,
    mask: ArrayLike | None = None,
) -> Array:
    """-log(|det(Yᵀ P)| + epsilon): determinant-based mutual information, a loss of the batch.

    Xu et al., L_DMI: A Novel Information-theoretic Loss Function for Training Deep Nets Robust to Label Noise, 2019.
    Where the determinant is too small to matter beside `epsilon` (as when the batch lacks a class) the
    gradient is zero.

    Args:
      logits: `[N, C]`.
      labels: int `[N]` or distributions `[N, C]`.
      epsilon: positive; 1e-3 in the authors' code, absent from the paper.
      normalize: divide Yᵀ P by N, as the paper writes; the authors' code does not, and their `epsilon` presumes so.
      mask: `[N]`, 0 for padding, which takes no part (N counts the others); None for no padding. A batch of padding
        alone has a finite value and gradient 0.

    Returns:
      A scalar.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
      >>> labels, mask = jnp.array([0, 1, 1]), jnp.array([1, 1, 0])  # the last is padding
      >>> print(np.asarray(dmi(logits, labels, mask=mask)).round(3))
      0.099
    """
    check("epsilon", epsilon, lambda e: e > 0, "positive")
    logits, shares = _without_padding(logits, mask)
    log_p = clipped_log_softmax(logits, None)
    labels = as_distribution(labels, log_p)
    if shares is not None:
        labels = labels * shares[:, None]
    joint = jnp.einsum("ni,nj->ij", labels, jnp.exp(log_p), precision="highest")
    if normalize:
        joint = joint / (log_p.shape[0] if shares is None else jnp.sum(shares))
    log_epsilon = jnp.log(jnp.asarray(epsilon, log_p.dtype))
    # The gradient divides by the determinant. Below e^-30 epsilon it cannot be seen, so a safe matrix stands in.
    # (Negated, so that NaN passes through.)
    matters = ~(jnp.linalg.slogdet(jax.lax.stop_gradient(joint))[1] <= log_epsilon - 30)
    log_det = jnp.linalg.slogdet(jnp.where(matters, joint, jnp.eye(joint.shape[0], dtype=joint.dtype)))[1]
    return -jnp.where(matters, jnp.logaddexp(log_det, log_epsilon), log_epsilon)


def prior_matching(logits: ArrayLike, prior: ArrayLike | None = None, *, mask: ArrayLike | None = None) -> Array:
    """-Σ_c prior_c log(mean_i p_ic): KL from a class prior to the mean prediction, up to a constant.

    Args:
      logits: `[N, C]`.
      prior: `[C]`, summing to 1; uniform by default.
      mask: `[N]`, as in `dmi`.

    Returns:
      A scalar.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0], [3.0, 0.0]])  # all predicted to be of class 0
      >>> print(np.asarray(prior_matching(logits)).round(2))
      1.55
      >>> print(np.asarray(prior_matching(logits, jnp.array([0.95, 0.05]))).round(2))  # as they should be
      0.2
    """
    logits, shares = _without_padding(logits, mask)
    log_p = clipped_log_softmax(logits, None)
    count, num_classes = log_p.shape
    if prior is None:
        prior = jnp.full(num_classes, 1 / num_classes, log_p.dtype)
    check_class_vector("prior", prior, num_classes)
    check("prior", prior, lambda q: (q >= 0) & (abs(q.sum() - 1) < 1e-4), "non-negative and to sum to 1")
    if shares is None:
        log_mean = jax.nn.logsumexp(log_p, axis=0) - math.log(count)
    else:
        log_mean = jax.nn.logsumexp(log_p, axis=0, b=shares[:, None]) - jnp.log(jnp.sum(shares))
    return -jnp.sum(jnp.asarray(prior, log_p.dtype) * log_mean)


def joint_optimization(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float = 1.2,
    beta: float = 0.8,
    prior: ArrayLike | None = None,
    clip: Clip | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Mean cross entropy + alpha · `prior_matching` + beta · mean entropy of p, a loss of the batch.

    Tanaka et al., Joint Optimization Framework for Learning with Noisy Labels, 2018.

    Args:
      alpha: at least 0.
      beta: at least 0.
      prior: as in `prior_matching`.
      clip: limits on p in the logarithms of cross entropy and entropy; SCE's authors have (1e-7, 1 - 1e-7).
      mask: `[N]`, as in `dmi`.

    Returns:
      A scalar.

    Examples:
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])  # right and wrong
      >>> print(np.asarray(joint_optimization(logits, labels)).round(2))
      4.4
    """
    logits, shares = _without_padding(logits, mask)
    entropy = soft_bootstrap(logits, labels, beta=0.0, clip=clip, clip_target=False)
    values = cross_entropy(logits, labels, clip=clip) + beta * entropy
    mean = jnp.mean(values) if shares is None else jnp.sum(shares * values) / jnp.sum(shares)
    return mean + alpha * prior_matching(logits, prior, mask=shares)


def _without_padding(logits: ArrayLike, mask: ArrayLike | None) -> tuple[ArrayLike, Array | None]:
    """Logits `[N, C]` with zeros in place of padding's, whatever these are, and the shares of the examples."""
    if jnp.ndim(logits) != 2:
        raise ValueError(f"logits must have shape [N, C] in a batch loss, got {jnp.shape(logits)}")
    if mask is None:
        return logits, None
    logits = promote(logits)
    if jnp.shape(mask) != logits.shape[:1]:
        raise ValueError(f"mask must have shape {logits.shape[:1]} for these logits, got {jnp.shape(mask)}")
    check("mask", mask, lambda m: m >= 0, "0 for padding and positive for examples")
    shares = jnp.asarray(mask, logits.dtype)
    # Where all is padding, the zeros take its place: a constant rather than 0/0.
    return jnp.where(shares[:, None] > 0, logits, 0), jnp.where(jnp.any(shares > 0), shares, 1)


# Values for every class, [..., C], from (possibly clipped) log-probabilities.


def _focal_values(log_p: Array, gamma: ArrayLike, detach: bool) -> Array:
    check("gamma", gamma, lambda g: g >= 0, "at least 0")
    rest = -jnp.expm1(log_p)
    # (1 - p)^gamma has infinite slope at p = 1 for gamma < 1, yet its product with log p has slope 0.
    positive = rest > 0
    factor = jnp.where(positive, jnp.where(positive, rest, 1.0) ** hyper(gamma, log_p.dtype), 0.0)
    return -(jax.lax.stop_gradient(factor) if detach else factor) * log_p


def _mae_values(log_p: Array) -> Array:
    return -jnp.expm1(log_p)


def _generalized_values(log_p: Array, q: ArrayLike) -> Array:
    check("q", q, lambda q: (q > 0) & (q <= 1), "in (0, 1]")
    q = hyper(q, log_p.dtype)
    return -jnp.expm1(q * log_p) / q


def _reverse_values(log_p: Array, log_zero: ArrayLike, clip: Clip | None) -> Array:
    check("log_zero", log_zero, lambda a: a < 0, "negative")
    log_zero = hyper(log_zero, log_p.dtype)
    if clip is None:
        return -log_zero * _mae_values(log_p)
    # Clipped probabilities need not sum to 1: add up those of the other classes.
    p = jnp.exp(log_p)
    return -log_zero * (jnp.sum(p, axis=-1, keepdims=True) - p)


def _truncated_excess(logits: ArrayLike, labels: ArrayLike, q: float, k: float) -> Array:
    check("k", k, lambda k: (k > 0) & (k < 1), "in (0, 1)")
    loss = generalized_cross_entropy(logits, labels, q=q)
    return loss - _generalized_values(jnp.log(jnp.asarray(k, loss.dtype)), q)


def _normalized(values: Array) -> Array:
    """Values over their sum; a class that is masked takes no part in it, and of a class that is sure all are 0."""
    total = jnp.sum(jnp.where(values >= -MASKED / 10, 0, values), axis=-1, keepdims=True)
    return jnp.where(total > 0, values / jnp.where(total > 0, total, 1), 0)


def _weighted_divergence(labels: Array, log_views: Array, weights: Array, clip: Clip | None) -> Array:
    """Σ_j w_j KL(d_j ‖ m) = Σ_j w_j Σ_k d_jk log d_jk - Σ_k m_k log m_k, for d = (labels, exp(log_views))."""
    log_labels = jnp.where(labels > 0, jnp.log(jnp.where(labels > 0, labels, 1)), -jnp.inf)
    column = weights.reshape(-1, *[1] * labels.ndim)
    log_mixture = jax.nn.logsumexp(jnp.concatenate([log_labels[None], log_views]), axis=0, b=column)
    negative_entropy = jnp.sum(column[1:] * jnp.exp(log_views) * clip_log(log_views, clip), axis=0)
    negative_entropy -= weights[0] * entr(jnp.where(labels == 0, 1, labels))  # no slope at 0, where it is infinite
    return jnp.sum(negative_entropy - jnp.exp(log_mixture) * clip_log(log_mixture, clip), axis=-1)
