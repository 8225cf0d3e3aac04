"""Every public loss, regulariser and margin under strict dtype promotion: no two dtypes meet without a cast.

So a network's bfloat16 or float64 outputs never widen or narrow a loss by accident of an operand's dtype.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import backend, losses, margins, meta, mixup, regularizers, taps

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 4))
LABELS = np.array([0, 1, 2, 3, 1, 2], np.int32)
SOFT = RNG.dirichlet(np.ones(4), 6).astype(np.float32)
TARGETS = (0.9 * RNG.dirichlet(np.ones(4), 6)).astype(np.float32)
COUNTS = np.array([100, 20, 5, 1], np.int32)
WEIGHTS = np.array([0.3, 0.7, 1.2, 1.8], np.float32)
TRANSITION = np.array([[0.7, 0.2, 0.1, 0], [0, 0.8, 0.2, 0], [0.1, 0, 0.6, 0.3], [0, 0, 0, 1]], np.float32)
KEY = jax.random.key(0)
CLIP = (1e-4, 1 - 1e-4)


def case(function, **fixed):
    return functools.partial(function, **fixed)


# (logits, labels) -> array, by the name of the function and, after a colon, what is special.
LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "cross_entropy:clip": case(losses.cross_entropy, clip=CLIP),
    "label_smoothing": losses.label_smoothing,
    "label_smoothing:kl": case(losses.label_smoothing, form="kl", clip=CLIP),
    "label_smoothing:off_label": case(losses.label_smoothing, form="off_label"),
    "ldam": case(losses.ldam, margins=[0.1, 0.2, 0.3, 0.5]),
    "ldam:array": case(losses.ldam, margins=WEIGHTS, scale=np.float32(10)),
    "balanced_softmax": case(losses.balanced_softmax, class_counts=COUNTS),
    "focal": losses.focal,
    "focal:integer": case(losses.focal, gamma=2, detach=True),
    "class_balanced_focal": case(losses.class_balanced_focal, class_weights=WEIGHTS),
    "mae": losses.mae,
    "mae:integer": case(losses.mae, scale=1),
    "reverse_cross_entropy": losses.reverse_cross_entropy,
    "reverse_cross_entropy:clip": case(losses.reverse_cross_entropy, clip=CLIP, log_zero=-4),
    "symmetric_cross_entropy": case(losses.symmetric_cross_entropy, alpha=0.1, beta=1),
    "generalized_cross_entropy": losses.generalized_cross_entropy,
    "generalized_cross_entropy:epsilon": case(losses.generalized_cross_entropy, epsilon=1e-9, q=1),
    "truncation_weights": losses.truncation_weights,
    "truncated_generalized_cross_entropy": case(
        losses.truncated_generalized_cross_entropy, weights=np.array([1, 0, 1, 1, 0, 1], np.float32)
    ),
    "partially_huberised_cross_entropy": losses.partially_huberised_cross_entropy,
    "partially_huberised_cross_entropy:integer": case(losses.partially_huberised_cross_entropy, tau=2),
    "partially_huberised_generalized_cross_entropy": losses.partially_huberised_generalized_cross_entropy,
    "normalized_cross_entropy": losses.normalized_cross_entropy,
    "normalized_focal": losses.normalized_focal,
    "normalized_mae": losses.normalized_mae,
    "normalized_generalized_cross_entropy": case(losses.normalized_generalized_cross_entropy, clip=CLIP),
    "normalized_reverse_cross_entropy": losses.normalized_reverse_cross_entropy,
    "normalized_reverse_cross_entropy:code": case(losses.normalized_reverse_cross_entropy, form="code", clip=CLIP),
    "active_passive": case(losses.active_passive, active=losses.cross_entropy, passive=losses.mae, beta=2),
    "nce_mae": losses.nce_mae,
    "nce_rce": case(losses.nce_rce, clip=CLIP),
    "nfl_mae": losses.nfl_mae,
    "nfl_rce": losses.nfl_rce,
    "soft_bootstrap": case(losses.soft_bootstrap, clip=CLIP, clip_target=False),
    "soft_bootstrap:paper": losses.soft_bootstrap,
    "hard_bootstrap": losses.hard_bootstrap,
    "local_intrinsic_dimensionality": lambda z, y: losses.local_intrinsic_dimensionality(z, 3),
    "lid_paced": case(losses.lid_paced, alpha=0.6),
    "lid_paced:array": case(losses.lid_paced, alpha=np.float32(0.6)),
    "forward_correction": case(losses.forward_correction, transition=TRANSITION),
    "backward_correction": case(losses.backward_correction, transition=TRANSITION),
    "estimate_transition": lambda z, y: losses.estimate_transition(jax.nn.softmax(z), percentile=97.0),
    "generalized_jensen_shannon": case(losses.generalized_jensen_shannon, weights=(0.3, 0.7)),
    "generalized_jensen_shannon:views": lambda z, y: losses.generalized_jensen_shannon(
        [z, -z], y, weights=(0.3, 0.3, 0.4), consistency=False, clip=CLIP
    ),
    "complementary_labels": lambda z, y: losses.negative_learning(
        z, losses.complementary_labels(LABELS, np.array([[1, 2]] * 6, np.int32), num_classes=4)
    ),
    "negative_learning": losses.negative_learning,
    "dmi": losses.dmi,
    "dmi:normalize": case(losses.dmi, normalize=True),
    "dmi:mask": case(losses.dmi, normalize=True, mask=LABELS > 1),
    "joint_optimization:mask": case(losses.joint_optimization, mask=LABELS),
    "prior_matching": lambda z, y: losses.prior_matching(z),
    "prior_matching:prior": lambda z, y: losses.prior_matching(z, WEIGHTS / 4),
    "joint_optimization": losses.joint_optimization,
}
REGULARIZERS = {
    "sharpen": lambda z, y: regularizers.sharpen(z, 0.5),
    "sharpen:plain": lambda z, y: regularizers.sharpen(z, 2, normalize=False),
    "lp_sparsity": lambda z, y: regularizers.lp_sparsity(z, 0.1),
    "sparsity_strength": lambda z, y: (
        regularizers.sparsity_strength(LABELS, initial=4, growth=2, every=5) + 0 * jnp.sum(z).astype(float)
    ),
    "clipped_probabilities": lambda z, y: regularizers.clipped_probabilities(z),
    "early_learning": lambda z, y: regularizers.early_learning(z, TARGETS),
    "early_learning:paper": lambda z, y: regularizers.early_learning(z, TARGETS, clip=None),
    "early_learning_kl": lambda z, y: regularizers.early_learning_kl(z, TARGETS),
    "update_targets": lambda z, y: regularizers.update_targets(TARGETS, jax.nn.softmax(z), 0.7),
    "update_targets:array": lambda z, y: regularizers.update_targets(
        jnp.asarray(TARGETS, z.dtype), jax.nn.softmax(z), np.float32(0.7)
    ),
    "refine_labels": lambda z, y: regularizers.refine_labels(jax.nn.softmax(z), TARGETS),
    "early_learning_gradient": lambda z, y: regularizers.early_learning_gradient(z, TARGETS),
    "safe_norm": lambda z, y: regularizers.safe_norm(z, axis=-1),
    "layer_norms": lambda z, y: regularizers.layer_norms([z, z[:, :2]]),
    "layer_norms:dtypes": lambda z, y: regularizers.layer_norms([z, TARGETS]),
    "hidden_jacobian_norms": lambda z, y: regularizers.hidden_jacobian_norms({"a": z, "b": z[:, None]}),
    "hidden_jacobian_norms:sum": lambda z, y: regularizers.hidden_jacobian_norms([z, z], form="sum"),
    "hidden_jacobian_norms:code": lambda z, y: regularizers.hidden_jacobian_norms([z, z], form="code"),
}
# Here the floating argument stands for what the function is of: counts, errors, strengths, values.
MARGINS = {
    "ldam_margins": lambda z, y: margins.ldam_margins(jnp.exp(z[0])),
    "ldam_margins:counts": lambda z, y: margins.ldam_margins(COUNTS, 1) + 0 * jnp.sum(z).astype(float),
    "class_balanced_weights": lambda z, y: margins.class_balanced_weights(jnp.exp(z[0]), 0.9),
    "class_balanced_weights:counts": lambda z, y: (
        margins.class_balanced_weights(COUNTS, 0.9999) + 0 * jnp.sum(z).astype(float)
    ),
    "deferred_weights": lambda z, y: margins.deferred_weights(
        jnp.int32(3), jnp.exp(z[0]), start_epoch=jnp.float32(2), beta=0.99
    ),
    "inverse_frequency_weights": lambda z, y: margins.inverse_frequency_weights(jnp.exp(z[0])),
    "har_strengths": lambda z, y: margins.har_strengths(jax.nn.softmax(z[0]), COUNTS),
    "har_strengths:array": lambda z, y: margins.har_strengths(
        np.float32([0, 0.1, 0.2, 0.3]), jnp.exp(z[0]), max_strength=np.float32(0.5)
    ),
    "regression_strengths": lambda z, y: margins.regression_strengths(jnp.exp(z[0])),
    "regression_strengths:variances": lambda z, y: margins.regression_strengths(
        COUNTS, noise_variances=jnp.exp(z[0]), max_strength=2
    ),
    "inverse_strengths": lambda z, y: margins.inverse_strengths(jnp.exp(z[0])),
    "random_strengths": lambda z, y: margins.random_strengths(KEY, jnp.exp(z[0])),
    "example_weights": lambda z, y: margins.example_weights(LABELS, jnp.exp(z[0])),
    "example_weights:soft": lambda z, y: margins.example_weights(SOFT, jnp.exp(z[0])),
    "weighted_mean": lambda z, y: margins.weighted_mean(z[:, 0], LABELS),
    "weighted_mean:float": lambda z, y: margins.weighted_mean(z[:, 0], np.array([1, 0, 1, 0.5, 1, 0], np.float32)),
    "weighted_mean:mask": lambda z, y: margins.weighted_mean(z[:, 0], LABELS > 1),
}
CASES = LOSSES | REGULARIZERS | MARGINS


@pytest.mark.parametrize("cases, module", [(LOSSES, losses), (REGULARIZERS, regularizers), (MARGINS, margins)])
def test_every_public_function_is_here(cases, module):
    public = {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == {name.partition(":")[0] for name in cases}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_the_same_program(name, dtype):
    function = CASES[name]
    with backend.enable_x64(dtype == "float64"):
        logits = jnp.asarray(LOGITS, dtype)
        for labels in (LABELS, SOFT) if name in LOSSES else (LABELS,):

            def total(z, labels=labels):
                value = function(z, labels)
                return jnp.sum(value.astype(float)), value

            differentiate = jax.value_and_grad(total, has_aux=True)
            expected = jax.make_jaxpr(differentiate)(logits)
            with jax.numpy_dtype_promotion("strict"):  # traced only: the program is all that promotion decides
                actual = jax.make_jaxpr(differentiate)(logits)
            assert str(actual) == str(expected)
            _, value, gradient = actual.out_avals
            assert gradient.dtype == dtype
            if name in LOSSES:
                assert value.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_mixup(dtype):
    with backend.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        mix = jax.eval_shape(lambda key: mixup.draw_mix(key, 6, 0.4, keep_larger=True), KEY)
        assert jax.eval_shape(mixup.apply_mix, jnp.asarray(LOGITS, dtype), mix).dtype == dtype


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1, eps_root=1e-8)], ids=["sgd", "adam"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_taps_and_meta_gradients(dtype, optimizer):
    def found(params, theta):
        def train_loss(params, theta):
            loss = losses.cross_entropy(params["w"], LABELS)
            return jnp.sum(loss * theta.astype(loss.dtype)), None

        def tapped_loss(tap):
            return jnp.sum(losses.mae(params["w"] + tap["w"], LABELS)), None

        gradients = taps.value_and_gradients(tapped_loss, {"w": params["w"]}).gradients
        state = optimizer.init(params)
        result = meta.meta_gradient(
            train_loss, lambda p: (jnp.sum(losses.mae(p["w"], LABELS)), None), theta, params, state, optimizer
        )
        return gradients["w"], result.gradient, result.virtual_params["w"]

    with backend.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        params, theta = {"w": jnp.asarray(LOGITS, dtype)}, jnp.ones(6, dtype)
        assert {str(leaf.dtype) for leaf in jax.eval_shape(found, params, theta)} == {dtype}
