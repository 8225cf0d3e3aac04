"""Regularisers: SR's sparsity, ELR's early-learning term and its targets, HAR's hidden-layer Jacobian norms.

Like the losses: per example, never reduced over the batch, at least float32 inside, finite value and gradient at
logits of ±1e4. Reduction and the regulariser's weight are the step's business.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from robustjax._checks import check
from robustjax._probabilities import Clip, clipped_log_softmax, common_dtype, expect, hyper, promote


def sharpen(logits: ArrayLike, temperature: float, normalize: bool = True) -> Array:
    """Logits divided by a temperature, after L2 normalisation if asked: softmax of it is the sharpened output.

    Zhou et al., Learning with Noisy Labels via Sparse Regularization, 2021, eq. 7. Both the base loss and
    `lp_sparsity` see the result. Normalising (CIFAR; not MNIST) stops the network from undoing the temperature by
    scaling its logits, and bounds the largest probability: at temperature 0.5 and C = 10 by 0.478.

    Args:
      logits: `[..., C]`.
      temperature: positive; below 1 sharpens.
      normalize: divide each example's logits by max(‖z‖₂, 1e-12) first.

    Returns:
      Sharpened logits `[..., C]`.

    Examples:
      >>> import numpy as np
      >>> logits = jnp.array([[6.0, 0.0, 0.0], [0.6, 0.0, 0.0]])  # their size does not matter
      >>> print(np.asarray(jax.nn.softmax(sharpen(logits, 0.5))).round(2))
      [[0.79 0.11 0.11]
       [0.79 0.11 0.11]]
    """
    check("temperature", temperature, lambda t: t > 0, "positive")
    logits = promote(logits)
    if normalize:
        logits = logits / jnp.maximum(safe_norm(logits, axis=-1, keepdims=True), 1e-12)
    return logits / hyper(temperature, logits.dtype)


def lp_sparsity(logits: ArrayLike, p: float, *, clip: Clip | None = (1e-7, 1.0)) -> Array:
    """Sparsity of the output distribution: sum_k s_k^p with s = softmax(logits), no outer root.

    Zhou et al., 2021, eq. 9, on sharpened logits (`sharpen`). It is 1 at one-hot outputs (plus (C-1) 1e-7^p with the
    clip) and C^(1-p) at the uniform one.

    Args:
      logits: `[..., C]`.
      p: in (0, 1].
      clip: limits on s, zero gradient outside. The authors' (1e-7, 1) is the default because s^p has infinite slope
        at 0; `None` is the bare formula.

    Returns:
      The regulariser `[...]`.

    Examples:
      >>> import numpy as np
      >>> logits = jnp.array([[0.0, 0.0], [2.0, 0.0], [20.0, 0.0]])  # from uniform to one-hot
      >>> print(np.asarray(lp_sparsity(logits, 0.5, clip=None)).round(3))
      [1.414 1.284 1.   ]
    """
    check("p", p, lambda p: (p > 0) & (p <= 1), "in (0, 1]")
    return jnp.sum(jnp.exp(p * clipped_log_softmax(logits, clip)), axis=-1)


def sparsity_strength(epoch: ArrayLike, *, initial: float, growth: float, every: int) -> Array:
    """SR's regularisation weight, initial · growth^⌊epoch / every⌋.

    Args:
      epoch: `[...]`, from 0, also within an epoch; may be traced.
      initial: the weight at epoch 0.
      growth: the factor, at least 1.
      every: epochs between two multiplications, at least 1.

    Returns:
      The weight `[...]`.

    Examples:
      >>> sparsity_strength(jnp.arange(5), initial=2.0, growth=3.0, every=2)
      Array([ 2.,  2.,  6.,  6., 18.], dtype=float32)
    """
    check("growth", growth, lambda g: g >= 1, "at least 1")
    check("every", every, lambda r: r >= 1, "at least 1")
    # lax.pow takes an integer exponent; the operator ** would promote it, which strict promotion refuses.
    times = jnp.asarray(epoch) // every
    dtype = times.dtype if jnp.issubdtype(times.dtype, jnp.floating) else float
    return initial * jax.lax.pow(jnp.asarray(growth, dtype), times)


def clipped_probabilities(logits: ArrayLike, clip: Clip | None = (1e-4, 1 - 1e-4)) -> Array:
    """Softmax clipped to the limits of ELR's code, with zero gradient outside them.

    Args:
      logits: `[..., C]`.
      clip: lower and upper limit, or None for the plain softmax.

    Returns:
      Probabilities `[..., C]`; after clipping they need not sum to 1.

    Examples:
      >>> import numpy as np
      >>> print(np.asarray(clipped_probabilities(jnp.array([20.0, 0.0]), clip=(0.01, 0.99))).round(2))
      [0.99 0.01]
    """
    return jnp.exp(clipped_log_softmax(logits, clip))


def early_learning(logits: ArrayLike, targets: ArrayLike, *, clip: Clip | None = (1e-4, 1 - 1e-4)) -> Array:
    """ELR's regulariser, log(1 - ⟨p, t⟩), p = softmax(logits); minimising it keeps p near the targets.

    Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, 2020, eq. 6. No gradient reaches
    the targets.

    Args:
      logits: `[..., C]`.
      targets: `[..., C]`, non-negative, with sums of at most 1; zeros before the first update.
      clip: limits on p. The authors' code clips to (1e-4, 1 - 1e-4), which bounds the term from below; that is the
        default. `None` is the paper's formula, unbounded below as p and t approach the same one-hot vector.

    Returns:
      The regulariser `[...]`, never positive.

    Examples:
      >>> import numpy as np
      >>> logits = jnp.array([[3.0, 0.0], [0.0, 3.0]])
      >>> targets = jnp.array([[0.9, 0.1], [0.9, 0.1]])  # the first agrees
      >>> print(np.asarray(early_learning(logits, targets)).round(2))
      [-1.98 -0.15]
    """
    log_p = clipped_log_softmax(logits, clip)
    targets = _constant_targets(targets, log_p)
    if clip is not None:
        return jnp.log1p(-jnp.sum(jnp.exp(log_p) * targets, axis=-1))
    # 1 - ⟨p, t⟩ = Σ p_k (1 - t_k) since Σ p_k = 1: a sum without the cancellation that would lose the gradient.
    return jax.nn.logsumexp(log_p, axis=-1, b=jnp.maximum(1 - targets, 0))


def early_learning_kl(logits: ArrayLike, targets: ArrayLike) -> Array:
    """The alternative that ELR's appendix C rejects: cross entropy to the targets, -Σ_k t_k log p_k.

    Its gradient is that of KL(t‖p). It delays memorisation and does not prevent it.

    Args:
      logits: `[..., C]`.
      targets: `[..., C]`; no gradient reaches them.

    Returns:
      The regulariser `[...]`.

    Examples:
      >>> import numpy as np
      >>> logits = jnp.array([[3.0, 0.0], [0.0, 3.0]])
      >>> targets = jnp.array([[0.9, 0.1], [0.9, 0.1]])  # the first agrees
      >>> print(np.asarray(early_learning_kl(logits, targets)).round(2))
      [0.35 2.75]
    """
    log_p = clipped_log_softmax(logits, None)
    return expect(-log_p, _constant_targets(targets, log_p))


def update_targets(targets: ArrayLike, probs: ArrayLike, beta: ArrayLike) -> Array:
    """Temporal ensembling of targets, t ← beta t + (1 - beta) p / Σp, before the loss is formed.

    Liu et al., 2020, eq. 9. The division by Σp changes nothing for a distribution; for the clipped probabilities of
    the authors' code (`clipped_probabilities`) it is their re-normalisation.

    Args:
      targets: `[..., C]`: the batch's rows of the table, zeros at the start.
      probs: `[..., C]`; no gradient flows through them.
      beta: the memory, in [0, 1].

    Returns:
      New targets `[..., C]` in the dtype of `targets`.

    Examples:
      >>> import numpy as np
      >>> targets = jnp.zeros((1, 2))  # nothing is known yet
      >>> print(np.asarray(update_targets(targets, jnp.array([[0.75, 0.25]]), beta=0.7)).round(3))
      [[0.225 0.075]]
    """
    check("beta", beta, lambda b: (b >= 0) & (b <= 1), "in [0, 1]")
    targets, probs = jnp.asarray(targets), jax.lax.stop_gradient(promote(probs))
    stored = targets.dtype
    targets, probs = common_dtype(targets, probs)
    beta = hyper(beta, probs.dtype)
    new = beta * targets + (1 - beta) * probs / jnp.sum(probs, axis=-1, keepdims=True)
    return new.astype(stored)


def refine_labels(labels: ArrayLike, targets: ArrayLike) -> Array:
    """Labels corrected by targets, y_k t_k / Σ_j y_j t_j: ELR+'s authors' code does so on CIFAR-100.

    Liu et al., 2020, appendix. With a one-hot label it changes nothing; with a mixed one (mixup) it moves the weight
    towards the class that the targets believe.

    Args:
      labels: distributions `[..., C]`.
      targets: `[..., C]`, non-negative; no gradient flows through them.

    Returns:
      Distributions `[..., C]`; the labels themselves where no class has both label and target.

    Examples:
      >>> import numpy as np
      >>> labels = jnp.array([[0.5, 0.5, 0.0]])  # mixed of two classes
      >>> print(np.asarray(refine_labels(labels, targets=jnp.array([[0.6, 0.2, 0.2]]))).round(2))
      [[0.75 0.25 0.  ]]
    """
    labels = promote(labels)
    products = labels * jax.lax.stop_gradient(jnp.asarray(targets, labels.dtype))
    total = jnp.sum(products, axis=-1, keepdims=True)
    return jnp.where(total > 0, products / jnp.where(total > 0, total, 1), labels)


def early_learning_gradient(logits: ArrayLike, targets: ArrayLike) -> Array:
    """The gradient of ELR's regulariser at the logits: g_k = p_k (⟨p, t⟩ − t_k) / (1 − ⟨p, t⟩), without clipping.

    Liu et al., 2020, Lemma 2: the gradient of the whole loss is J(p − y + λ g). Its entry at the true class cancels the
    pull of a wrong label and keeps the push of a right one (their Fig. 2).

    Args:
      logits: `[..., C]`.
      targets: `[..., C]`; held constant.

    Returns:
      g `[..., C]`.

    Examples:
      >>> import numpy as np
      >>> logits, targets = jnp.array([0.0, 0.0]), jnp.array([0.8, 0.2])
      >>> print(np.asarray(early_learning_gradient(logits, targets)).round(2))  # descent raises the first logit
      [-0.3  0.3]
    """
    log_p = clipped_log_softmax(logits, None)
    targets = _constant_targets(targets, log_p)
    # As 1 − ⟨p, t⟩ = Σ_j p_j (1 − t_j), this is w − p with w_k = p_k (1 − t_k) / Σ_j p_j (1 − t_j), a softmax too:
    # nothing cancels, and nothing is divided by 0, when p and t meet in one class.
    return jax.nn.softmax(log_p + jnp.log(jnp.maximum(1 - targets, 0))) - jnp.exp(log_p)


def safe_norm(x: ArrayLike, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The 2-norm, with gradient (of any order) 0 at 0 where that of `jnp.linalg.norm` is NaN.

    Args:
      x: any shape.
      axis: the axes to reduce; all by default.
      keepdims: keep reduced axes with length 1.

    Returns:
      The norm, at least float32.

    Examples:
      >>> safe_norm(jnp.array([[3.0, 4.0], [0.0, 0.0]]), axis=-1)
      Array([5., 0.], dtype=float32)
      >>> jax.grad(safe_norm)(jnp.zeros(2))
      Array([0., 0.], dtype=float32)
    """
    squares = jnp.sum(jnp.square(promote(x)), axis=axis, keepdims=keepdims)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def layer_norms(grads: object) -> Array:
    """The 2-norm of every example's gradient at every layer.

    Args:
      grads: a pytree of L arrays `[B, ...]`: gradients at hidden layers.

    Returns:
      Norms `[B, L]`, layers in the pytree's order.

    Examples:
      >>> layer_norms({"norm1": jnp.ones((2, 4)), "norm2": jnp.ones((2, 3, 3))})
      Array([[2., 3.],
             [2., 3.]], dtype=float32)
    """
    leaves = jax.tree.leaves(grads)
    if not leaves:
        raise ValueError("grads must contain at least one array [B, ...], got an empty pytree")
    return jnp.stack(common_dtype(*(safe_norm(leaf, axis=tuple(range(1, jnp.ndim(leaf)))) for leaf in leaves)), axis=-1)


def hidden_jacobian_norms(grads: object, form: Literal["sum", "paper", "code"] = "paper") -> Array:
    """HAR's regulariser R(x): the size of the loss gradient at all hidden layers together.

    Cao et al., Heteroskedastic and Imbalanced Deep Learning with Adaptive Regularization, 2021, section 2.3 and
    appendix B. Twice differentiable, with gradient 0 where a gradient vanishes. The scale of `grads` is the caller's:
    the paper differentiates each example's own loss, the authors' code the batch mean (1/B of it).

    Args:
      grads: a pytree of L arrays `[B, ...]`: the loss differentiated at hidden layers.
      form: "paper" is eq. 6, sqrt(Σ_j ‖g_j‖²); "sum" (appendix B) and "code" (the authors') are both Σ_j ‖g_j‖,
        between 1 and sqrt(L) times the former, and differ in what the caller differentiates.

    Returns:
      R `[B]`.

    Examples:
      >>> grads = {"norm1": 3 * jnp.ones((2, 1)), "norm2": 4 * jnp.ones((2, 1))}
      >>> hidden_jacobian_norms(grads), hidden_jacobian_norms(grads, "sum")
      (Array([5., 5.], dtype=float32), Array([7., 7.], dtype=float32))
    """
    norms = layer_norms(grads)
    if form == "paper":
        return safe_norm(norms, axis=-1)
    if form in ("sum", "code"):
        return jnp.sum(norms, axis=-1)
    raise ValueError(f"form must be 'sum', 'paper' or 'code', got {form!r}")


def _constant_targets(targets: ArrayLike, log_p: Array) -> Array:
    targets = jax.lax.stop_gradient(jnp.asarray(targets, log_p.dtype))
    if targets.shape != log_p.shape:
        raise ValueError(f"targets must have the shape of the logits, {log_p.shape}, got {targets.shape}")
    return targets
