"""The bag of words that HAR trains on texts in little time."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bag_of_words import bag_of_words, presence
from robustjax.models.custom import check_model


def test_a_word_counts_once_wherever_it_stands():
    tokens = jnp.array([[0, 1, 2, 3, 3, 6], [0, 0, 0, 0, 0, 0], [5, 5, 3, 2, 1, 0]])  # 6 is the first left out
    np.testing.assert_allclose(
        jax.jit(presence, static_argnums=1)(tokens, 4),
        [[2**0.5, 2**0.5, 0, 0], [0, 0, 0, 0], (4 / 3) ** 0.5 * np.array([1, 1, 0, 1])],
        rtol=1e-6,
    )


def test_the_network_is_a_model_with_two_norms_to_regularise():
    tokens = jax.ShapeDtypeStruct((3, 5), jnp.int32)
    model = bag_of_words(2, words=6, widths=(4, 3))
    check_model(model, tokens, 2)
    shapes = model.tap_shapes(*jax.eval_shape(model.init, jax.random.key(0), tokens), tokens)
    assert {name: shape.shape for name, shape in shapes.items()} == {"norm1": (3, 4), "norm2": (3, 3)}
