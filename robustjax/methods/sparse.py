"""Sparse regularisation (SR): a sharpened, sparse output distribution makes any loss robust to wrong labels.

Zhou et al., Learning with Noisy Labels via Sparse Regularization, ICCV 2021. The objective of a batch is

    mean_i L(v_i, y_i) + λ_t mean_i Σ_k s_ik^p,   v = z/(‖z‖₂ τ) or z/τ,   s = softmax(v),   λ_t = λ₀ ρ^⌊t/r⌋,

with t in epochs. It is no method but two terms that any loss can take: `robustjax.methods.composable` gives them to the
factories of `robustjax.methods.erm`. CE+SR, FL+SR and GCE+SR are cross entropy, focal loss and GCE with
`regularizer="sparse"`.
"""

import functools
from collections.abc import Callable
from typing import Any

from robustjax import regularizers
from robustjax._checks import check_choice

REGULARIZERS = ("none", "sparse")


def sparse_terms(
    *,
    regularizer: str = "none",
    temperature: float = 0.5,
    p: float = 0.1,
    strength: float = 1.2,
    growth: float = 1.03,
    every: int = 1,
    normalize: bool = True,
) -> dict[str, Callable[..., Any]]:
    """What SR adds to an ERM objective: `transform`, `regularizer` and `strength` of `erm`, or nothing.

    Defaults are SR's for CIFAR-10 (authors' code).

    Args:
      regularizer: "none", or "sparse" to add SR's sharpening and lp-norm term to the loss.
      temperature: SR's τ, positive; below 1 sharpens.
      p: exponent of SR's lp-norm, in (0, 1].
      strength: SR's λ₀, the weight of the term in the first epochs, at least 0.
      growth: SR's ρ, by which the weight is multiplied, at least 1.
      every: SR's r, epochs between two multiplications, at least 1.
      normalize: divide each example's logits by their 2-norm before sharpening.

    Raises:
      ValueError: `regularizer` is not one of `REGULARIZERS`.
    """
    check_choice("regularizer", regularizer, REGULARIZERS)
    if regularizer == "none":
        return {}
    return {
        "transform": functools.partial(regularizers.sharpen, temperature=temperature, normalize=normalize),
        "regularizer": functools.partial(regularizers.lp_sparsity, p=p),
        "strength": functools.partial(regularizers.sparsity_strength, initial=strength, growth=growth, every=every),
    }
