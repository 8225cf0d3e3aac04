"""The bidirectional LSTM: values, padding, taps with second derivatives, dropout, size, dtypes."""

import functools

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import backend
from robustjax.models import get_model

SMALL = {"vocabulary_size": 12, "embedding": 3, "units": 4}
IDS = jnp.array([[3, 4, 5, 0, 0, 0], [1, 2, 3, 11, 5, 6], [7, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 0], [0] * 6], jnp.int32)
LENGTHS = (3, 6, 1, 5, 0)
TAPS = {"embedding": 3, "lstm1": 8, "lstm2": 8}
# Compiling costs more than running here: spend less on it, and do it seldom.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


@functools.cache
def _small(dtype=jnp.float32):
    """Model, parameters and compiled logits of ids and taps; the parameters are larger than at the start.

    So words many steps away still matter.
    """
    model = get_model("bilstm", 3, dtype=dtype, **SMALL)
    params = jit(model.init)(jax.random.key(0), IDS).params
    params = jax.tree.map(lambda leaf: 3 * leaf, params)

    @jit
    def logits(ids, taps):
        return model.apply(params, {}, ids, train=False, taps=taps)[0]

    return model, params, logits


def _logits(ids, taps=None):
    taps = _zero_taps(jnp.float32, ids.shape) if taps is None else taps
    return _small()[2](jnp.asarray(ids, jnp.int32), taps)


def _zero_taps(dtype, shape=IDS.shape):
    return {name: jnp.zeros((*shape, width), dtype) for name, width in TAPS.items()}


def _reference(params, ids):
    """Logits of one review without padding: the LSTM's equations, word by word, in NumPy."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def run(cell, xs):
        h = c = np.zeros(cell["hi"]["bias"].shape)
        outputs = []
        for x in xs:
            i, f, g, o = (
                x @ cell[f"i{gate}"]["kernel"] + h @ cell[f"h{gate}"]["kernel"] + cell[f"h{gate}"]["bias"]
                for gate in "ifgo"
            )
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs)

    head = params["head"]
    if not len(ids):
        return head["bias"]
    x = params["embedding"]["table"]["embedding"][np.asarray(ids)]
    for layer in (params["lstm1"], params["lstm2"]):
        x = np.concatenate([run(layer["forward"], x), run(layer["backward"], x[::-1])[::-1]], axis=1)
    return x.mean(0) @ head["kernel"] + head["bias"]


def test_logits_are_those_of_the_equations():
    expected = [_reference(_small()[1], row[:length]) for row, length in zip(IDS, LENGTHS, strict=True)]
    np.testing.assert_allclose(_logits(IDS), expected, rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing_however_much_and_wherever():
    longer = [np.pad(IDS, ((0, 0), sides)) for sides in ((0, 7), (7, 0), (2, 5))]
    torn = np.insert(np.asarray(IDS), [1, 2, 2, 3, 4, 4, 6], 0, axis=1)
    together = _logits(np.concatenate([*longer, torn])).reshape(4, *_logits(IDS).shape)
    for logits in together:
        np.testing.assert_allclose(logits, _logits(IDS), rtol=1e-5, atol=1e-6)


def test_order_of_reviews_and_words():
    order = np.array([2, 0, 4, 3, 1])
    np.testing.assert_allclose(_logits(IDS[order]), _logits(IDS)[order], rtol=1e-5, atol=1e-6)
    swapped = np.asarray(IDS).copy()
    swapped[1] = swapped[1, ::-1]
    assert np.abs(_logits(swapped) - _logits(IDS))[1].max() > 1e-3


def test_taps_are_the_embedding_and_both_layers():
    model, params, _ = _small()
    shapes = model.tap_shapes(params, {}, IDS)
    assert {name: shape.shape for name, shape in shapes.items()} == {n: (5, 6, d) for n, d in TAPS.items()}
    hidden = jit(functools.partial(model.hidden, train=False))(params, {}, IDS)
    assert hidden.keys() == shapes.keys()
    for value in hidden.values():
        for row, length in zip(np.asarray(value), LENGTHS, strict=True):
            assert np.all(row[length:] == 0) and np.all(np.any(row[:length] != 0, axis=1))
    with pytest.raises(ValueError, match=r"no layer \['lstm3'\], only \['embedding', 'lstm1', 'lstm2'\]"):
        model.apply(params, {}, IDS, train=False, taps={"lstm3": jnp.zeros(())})


def _tap_loss(model, params, taps, key=None):
    logits, _ = model.apply(params, {}, IDS, train=key is not None, key=key, taps=taps)
    return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - logits[:, 0])


def test_tap_gradients_stop_at_padding_and_agree_with_those_of_the_parameters():
    model, params, _ = _small()
    by_params, by_taps = jit(jax.grad(functools.partial(_tap_loss, model), argnums=(0, 1)))(
        params, _zero_taps(jnp.float32)
    )
    for gradient in by_taps.values():
        for row, length in zip(np.asarray(gradient), LENGTHS, strict=True):
            assert np.all(row[length:] == 0) and np.all(np.any(row[:length] != 0, axis=1))
    # A word's vector moves wherever the word stands.
    table = np.zeros((12, 3))
    np.add.at(table, np.asarray(IDS), np.asarray(by_taps["embedding"]))
    np.testing.assert_allclose(table, by_params["embedding"]["table"]["embedding"], rtol=1e-4, atol=1e-6)


def test_taps_on_padding_are_without_effect():
    mask = np.arange(6) >= np.array(LENGTHS)[:, None]
    taps = {name: jnp.asarray(5.0 * mask[..., None] * np.ones(d), jnp.float32) for name, d in TAPS.items()}
    np.testing.assert_array_equal(_logits(IDS, taps), _logits(IDS))
    assert not np.allclose(_logits(IDS, {name: tap + 1 for name, tap in taps.items()}), _logits(IDS), atol=1e-2)


@pytest.mark.exhaustive
def test_gradient_of_the_tap_gradients_norm():
    """HAR differentiates the squared length of the tap gradients: finite differences in float64, dropout included."""
    with backend.enable_x64(True):
        model = get_model("bilstm", 3, dtype=jnp.float64, **SMALL)
        key = jax.random.key(5)
        params = jax.tree.map(lambda leaf: 3 * leaf, jit(model.init)(jax.random.key(0), IDS).params)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float64)}

        def norm(params):
            by_taps = jax.grad(_tap_loss, argnums=2)(model, params, _zero_taps(jnp.float64), key)
            return sum(jnp.sum(gradient**2) for gradient in by_taps.values())

        norm = jit(jax.value_and_grad(norm))
        value, gradient = norm(params)
        assert value > 1e-4 and all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
        for seed in range(3):
            keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params)))
            direction = jax.tree.unflatten(
                jax.tree.structure(params),
                [jax.random.normal(k, leaf.shape, leaf.dtype)
                 for k, leaf in zip(keys, jax.tree.leaves(params), strict=True)],
            )  # fmt: skip
            slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            there, back = (norm(jax.tree.map(lambda p, d, e=e: p + e * d, params, direction))[0] for e in (1e-5, -1e-5))
            np.testing.assert_allclose((there - back) / 2e-5, slope, rtol=1e-6)


def test_dropout_follows_its_key():
    model, params, _ = _small()

    @jit
    def drop(keys):
        return jax.vmap(lambda key: model.apply(params, {}, IDS, train=True, key=key)[0])(keys)

    keys = jax.random.split(jax.random.key(7), 300)
    many = np.asarray(drop(keys))
    np.testing.assert_array_equal(many, drop(keys))
    assert not np.allclose(many[0], many[1], atol=1e-3)
    # Half is dropped and the rest doubled, so the mean stays.
    assert np.all(np.abs(many.mean(0) - _logits(IDS)) < 5 * many.std(0) / 300**0.5 + 1e-5)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(functools.partial(model.apply, train=True), params, {}, IDS)


def test_four_devices_equal_one():
    model, params, _ = _small()
    ids = jnp.tile(IDS[:4], (2, 1))
    gradient = jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(model.apply(p, {}, x, train=False)[0]))))
    mesh = jax.sharding.Mesh(jax.devices()[:4], ("batch",))
    split = jax.device_put(ids, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    whole = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    found, expected = gradient(whole, split), gradient(params, ids)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_number_of_parameters():
    def formula(tokens, width, units, depth, classes):
        cells = [2 * 4 * units * ((width if i == 0 else 2 * units) + units + 1) for i in range(depth)]
        return tokens * width + sum(cells) + 2 * units * classes + classes

    for options, sizes in (({}, (20_000, 128, 256, 2)), (SMALL | {"depth": 3}, (12, 3, 4, 3))):
        params = jax.eval_shape(get_model("bilstm", 2, **options).init, jax.random.key(0), IDS).params
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == formula(*sizes, 2)


def test_cells_start_as_in_pytorch():
    params = _small()[1]  # three times the start
    for layer in (params["lstm1"], params["lstm2"]):
        values = np.concatenate([np.ravel(leaf) / 3 for leaf in jax.tree.leaves(layer)])
        assert 0.49 < np.abs(values).max() <= 0.5 and abs(np.std(values) - 0.5 / 3**0.5) < 0.02  # U(±1/√4)


def test_features_are_what_the_classifier_sees():
    model, params, _ = _small()
    features, _ = jit(model.features)(params, {}, IDS)
    assert features.shape == (5, 8)
    np.testing.assert_allclose(
        features @ params["head"]["kernel"] + params["head"]["bias"], _logits(IDS), rtol=1e-5, atol=1e-6
    )


def test_bfloat16_computes_coarsely_and_keeps_the_rest_in_float32():
    _, params, coarse = _small(jnp.bfloat16)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}
    logits = coarse(IDS, _zero_taps(jnp.bfloat16))
    assert logits.dtype == jnp.float32
    error = np.abs(logits - _logits(IDS)).max()
    assert 0 < error < 0.1 * np.abs(_logits(IDS)).max()


@pytest.mark.parametrize("inputs", [jnp.zeros((2, 5)), jnp.zeros((2, 8, 8, 1), jnp.uint8), jnp.zeros(5, jnp.int32)])
def test_anything_but_tokens_is_refused(inputs):
    with pytest.raises(ValueError, match=r"inputs must be int token ids \[B, L\], got"):
        get_model("bilstm", 2).init(jax.random.key(0), inputs)
