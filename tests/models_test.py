"""Networks: sizes, taps, statistics, initialisers, dtypes. Values are held to the reference by the arch.* oracles."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import export

from robustjax import backend
from robustjax.models import get_model, layers, names, reads_tokens

TINY = {"stem_width": 2, "widths": (4, 8), "blocks": (1, 1), "strides": (1, 2)}
# Compiling costs more than running here: spend less on it.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _shapes(model, shape):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@functools.cache
def _tiny(head="linear"):
    model = get_model("resnet32", 3, head=head, **TINY)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    params, stats = jit(model.init)(jax.random.key(0), images)
    # Scales and shifts away from 1 and 0, or half of what is tested here would hold by accident.
    params = jit(functools.partial(jax.tree.map, _perturb))(params)
    return model._replace(apply=jax.jit(model.apply, static_argnames="train")), params, stats, images


def _perturb(leaf):
    return leaf + 0.3 * jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)


@pytest.mark.parametrize(
    ("name", "num_classes", "shape", "options", "size"),
    [
        ("resnet20", 10, (1, 32, 32, 3), {}, 269_722),
        ("resnet32", 10, (1, 32, 32, 3), {}, 464_154),
        ("resnet32", 100, (1, 32, 32, 3), {}, 470_004),
        ("resnet34", 10, (1, 32, 32, 3), {}, 21_282_122),
        ("resnet34", 100, (1, 32, 32, 3), {}, 21_328_292),
        ("preact_resnet18", 10, (1, 32, 32, 3), {}, 11_171_274),
        ("cnn4", 10, (1, 28, 28, 1), {}, 422_090),
        ("cnn8", 10, (1, 32, 32, 3), {}, 1_639_794),
        ("resnet50", 1000, (1, 224, 224, 3), {}, 25_557_032),  # torchvision's, as the next
        ("vgg19_bn", 1000, (1, 224, 224, 3), {}, 143_678_248),
        ("inception_resnet_v2", 1000, (1, 299, 299, 3), {}, 55_843_464),  # timm's
        ("resnet18", 1000, (1, 224, 224, 3), {"stem": "imagenet"}, 11_689_512),  # torchvision's resnet18
        ("resnet32", 10, (1, 32, 32, 3), {"head": "cosine"}, 464_144),  # no bias
    ],
)
def test_number_of_parameters(name, num_classes, shape, options, size):
    assert _size(_shapes(get_model(name, num_classes, **options), shape).params) == size


@pytest.mark.parametrize("name", [name for name in names() if not reads_tokens(name)])
def test_every_model_maps_images_to_logits_and_features(name):
    side, fewer = (75, {"blocks": (1, 1, 1)}) if name == "inception_resnet_v2" else (32, {})
    model, images = get_model(name, 7, **fewer), jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    logits, stats = jax.eval_shape(
        lambda v, x: model.apply(*v, x, train=True, key=jax.random.key(0)), variables, images
    )
    features = jax.eval_shape(lambda v, x: model.features(*v, x)[0], variables, images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert features.shape == (2, variables.params["head"]["kernel"].shape[0])
    assert stats == variables.stats


def test_resnet32_is_tapped_at_both_norms_of_its_15_blocks():
    model = get_model("resnet32", 10)
    images = jnp.zeros((5, 32, 32, 3))
    variables = _shapes(model, images.shape)
    taps = model.tap_shapes(*variables, images)
    assert set(taps) == {f"stage{s}_block{b}/norm{n}" for s in (1, 2, 3) for b in range(1, 6) for n in (1, 2)}
    assert taps["stage3_block1/norm1"].shape == (5, 8, 8, 64)
    assert "stem_norm" in get_model("resnet32", 10, tap_stem=True).tap_shapes(*variables, images)


@pytest.mark.parametrize("train", [True, False])
def test_tap_gradients_agree_with_those_of_scale_and_shift(train):
    # A norm's output is scale·(normalised + tap) + shift, so Σ ∂/∂tap = scale·∂/∂shift and Σ hidden·∂/∂tap =
    # scale·∂/∂scale, sums over examples and positions.
    model, params, stats, images = _tiny()

    @jit
    def gradients(params, taps):
        def loss(params, taps):
            logits = model.apply(params, stats, images, train=train, taps=taps)[0]
            return jnp.sum(jnp.sin(logits))

        return jax.grad(loss, argnums=(0, 1))(params, taps)

    taps = jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), model.tap_shapes(params, stats, images))
    by_params, by_taps = gradients(params, taps)
    hidden = jit(model.hidden, static_argnames="train")(params, stats, images, train=train)
    assert len(by_taps) == 4  # two norms in each of two blocks, not the stem's; option A has none in shortcuts
    for name, gradient in by_taps.items():
        block, norm = name.split("/")
        scale, of = params[block][norm]["scale"], by_params[block][norm]
        np.testing.assert_allclose(jnp.sum(gradient, (0, 1, 2)), scale * of["bias"], rtol=1e-3, atol=1e-4)
        expected = jnp.sum(hidden[name] * gradient, (0, 1, 2))
        np.testing.assert_allclose(expected, scale * of["scale"], rtol=1e-3, atol=1e-4)


def test_taps_are_added_before_scale_and_shift():
    model, params, stats, images = _tiny()
    name = "stage1_block1/norm1"
    # A tap that is constant over the image is a change of the running mean.
    tap = jnp.broadcast_to(jnp.array([0.5, -1.0, 2.0, 0.0]), model.tap_shapes(params, stats, images)[name].shape)
    norm = stats["stage1_block1"]["norm1"]
    moved = {**stats["stage1_block1"], "norm1": {**norm, "mean": norm["mean"] - tap[0, 0, 0] * jnp.sqrt(1 + 1e-5)}}
    tapped, _ = model.apply(params, stats, images, train=False, taps={name: tap})
    expected, _ = model.apply(params, {**stats, "stage1_block1": moved}, images, train=False)
    np.testing.assert_allclose(tapped, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(tapped, model.apply(params, stats, images, train=False)[0], atol=1e-2)


def test_a_tap_without_a_layer_is_refused():
    model, params, stats, images = _tiny()
    with pytest.raises(ValueError, match=r"no layer \['stem_norm'\]"):
        model.apply(params, stats, images, train=True, taps={"stem_norm": jnp.zeros(())})


def test_statistics_change_in_train_mode_only():
    model, params, stats, images = _tiny()
    _, trained = model.apply(params, stats, images, train=True)
    assert jax.tree.structure(trained) == jax.tree.structure(stats)
    assert all(np.any(new != old) for new, old in zip(*map(jax.tree.leaves, (trained, stats)), strict=True))


def test_evaluation_returns_the_very_statistics_it_was_given():
    model, vectors = get_model("mlp", 3, normalize=True), jnp.ones((2, 4))
    variables = jit(model.init)(jax.random.key(0), vectors)
    assert model.apply(*variables, vectors, train=False)[1] is variables.stats


def test_features_are_what_the_classifier_sees():
    model, params, stats, images = _tiny()
    logits, _ = model.apply(params, stats, images, train=False)
    head = params["head"]
    features, kept = model.features(params, stats, images)
    assert kept is stats
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_apply_and_features_are_views_of_one_forward_pass(train):
    model, params, stats, images = _tiny()
    logits, features, changed = jit(model.outputs, static_argnames="train")(params, stats, images, train=train)
    for view, expected in ((model.apply, logits), (model.features, features)):
        actual, kept = jit(view, static_argnames="train")(params, stats, images, train=train)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), kept, changed)
    head = params["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-4)
    evaluated = jit(model.features)(params, stats, images)[0]
    assert np.allclose(features, evaluated, rtol=1e-4, atol=1e-4) != train


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["small_cnn", "resnet10", "preact_resnet18", "mlp", "bilstm", "bag_of_words"])
def test_networks_run_under_strict_promotion(name, dtype):
    options = {"mlp": {"normalize": True, "head": "cosine"}, "bilstm": {"vocabulary_size": 9, "units": 4}}.get(name, {})
    model = get_model(name, 3, dtype=dtype, **options)
    inputs = jax.ShapeDtypeStruct(*(((2, 5), jnp.int32) if reads_tokens(name) else ((2, 16, 16, 3), jnp.float32)))
    key = jax.random.key(0)

    def gradient(params, stats, x):
        return jax.grad(lambda p: jnp.sum(model.apply(p, stats, x, train=True, key=key)[0]))(params)

    with jax.numpy_dtype_promotion("strict"):
        variables = jax.eval_shape(model.init, key, inputs)
        model.tap_shapes(*variables, inputs)
        gradients = jax.eval_shape(gradient, *variables, inputs)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(gradients)} == {"float32"}


@pytest.mark.parametrize(
    "name", ["small_cnn", "cnn4", "resnet20", "preact_resnet18", "mlp", "linear", "bilstm", "bag_of_words"]
)
def test_networks_can_be_exported_for_any_number_of_inputs(name):
    options = {"mlp": {"normalize": True}, "bilstm": {"units": 4}}.get(name, {})
    options |= {"vocabulary_size": 9} if reads_tokens(name) else {}
    shape, dtype = ((5,), jnp.int32) if reads_tokens(name) else ((28, 28, 1), jnp.float32)
    model = get_model(name, 3, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), dtype))
    (count,) = export.symbolic_shape("count")
    inputs = jax.ShapeDtypeStruct((count, *shape), dtype)
    program = export.export(jax.jit(functools.partial(model.apply, train=False)))(*variables, inputs)
    assert program.out_avals[0].shape == (count, 3)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flax(train):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (6, 4, 5, 3))
    stats = {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([4.0, 3.0, 0.5])}
    variables = {"params": {"scale": jnp.array([1.0, -2, 0.5]), "bias": jnp.arange(3.0)}, "batch_stats": stats}
    flax = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    expected, expected_stats = flax.apply(variables, x, mutable=["batch_stats"])
    actual, actual_stats = layers.BatchNorm().apply(variables, x, train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    for name in stats:
        np.testing.assert_allclose(actual_stats["batch_stats"][name], expected_stats["batch_stats"][name], rtol=1e-6)


@pytest.mark.parametrize("batch", [5, 6, 8])  # on a CPU sums are taken in 1, 2 and 8 parts
@pytest.mark.parametrize("asked", [(), (layers.HIDDEN,)])  # whether anyone sees the normalised values
def test_batch_norm_has_right_gradients_of_first_and_second_order(batch, asked):
    def ours(params, x):
        stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
        variables = {"params": params, "batch_stats": stats}
        norm = layers.BatchNorm(dtype=jnp.float64)
        return norm.apply(variables, x, train=True, mutable=["batch_stats", *asked])[0]

    def textbook(params, x):
        return params["scale"] * (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) + params["bias"]

    def derivatives(norm):
        def value(params, x):
            return jnp.sum(jnp.sin(norm(params, x)) * direction)

        def slope(params, x):  # differentiated once more, as by HAR and virtual steps
            return jnp.sum(jnp.square(jax.grad(value, argnums=1)(params, x)))

        return [jax.grad(f, argnums=(0, 1))(params, x) for f in (value, slope)]

    with backend.enable_x64(True):
        params = {"scale": jnp.array([1.0, -2, 0.5]), "bias": jnp.arange(3.0)}
        x, direction = 3 + jax.random.normal(jax.random.key(0), (2, batch, 64, 69, 3), jnp.float64)
        assert backend.parts_of_sums(x.size) == (8 if jax.default_backend() == "cpu" else 1)
        chex.assert_trees_all_close(derivatives(ours), derivatives(textbook), rtol=1e-8, atol=1e-8)


def test_unbiased_running_variance():
    x = jnp.array([[1.0], [2.0], [6.0]])  # unbiased variance 7
    norm = layers.BatchNorm(unbiased_running_variance=True)
    variables = norm.init(jax.random.key(0), x, train=False)
    _, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["var"], [0.9 + 0.1 * 7], rtol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], [0.1 * 3], rtol=1e-6)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (2, 2, 1), (3, 2, 1), (3, 3, 0)])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_max_pool_equals_flax_with_its_gradient(window, stride, padding, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))  # no ties

    def ours(x):
        return layers.max_pool(x, window, stride, padding)

    def flax(x):
        return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding),) * 2)

    np.testing.assert_array_equal(ours(x), flax(x))
    gradients = [jax.grad(lambda x, pool=pool: jnp.sum(jnp.sin(pool(x))))(x) for pool in (ours, flax)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_flatten_goes_channel_by_channel():
    nchw = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(layers.flatten(jnp.asarray(nchw.transpose(0, 2, 3, 1))), nchw.reshape(2, -1))


@pytest.mark.parametrize(
    ("initializer", "bound"),
    [
        (layers.torch_default, 1 / 576**0.5),
        (layers.kaiming_uniform, (6 / 576) ** 0.5),
        (layers.xavier_uniform, (6 / (576 + 9 * 128)) ** 0.5),
    ],
)
def test_uniform_initialisers_have_torch_bounds(initializer, bound):
    weights = initializer(jax.random.key(0), (3, 3, 64, 128), jnp.float32)  # fan-in 576, fan-out 1152
    assert 0.999 * bound < np.abs(weights).max() <= bound
    assert abs(np.std(weights) / (bound / 3**0.5) - 1) < 0.01


def test_kaiming_normal_is_not_truncated():
    weights = np.asarray(layers.kaiming_normal(jax.random.key(0), (3, 3, 64, 128), jnp.float32))
    deviation = (2 / 576) ** 0.5
    assert abs(weights.std() / deviation - 1) < 0.01
    assert np.abs(weights).max() > 3 * deviation


@pytest.mark.parametrize(("name", "linear"), [("resnet34", "torch"), ("cnn4", "kaiming_xavier")])
def test_networks_start_as_in_their_papers(name, linear):
    model = get_model(name, 50, **({"blocks": (1,), "widths": (64,), "strides": (1,)} if name == "resnet34" else {}))
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, 12, 12, 3))).params
    fan_in = params["head"]["kernel"].shape[0]
    bounds = {"torch": fan_in**-0.5, "kaiming_xavier": (6 / (fan_in + 50)) ** 0.5}
    assert 0.95 * bounds[linear] < np.abs(params["head"]["kernel"]).max() <= bounds[linear]
    assert 0.8 * fan_in**-0.5 < np.abs(params["head"]["bias"]).max() <= fan_in**-0.5


def test_cosine_head():
    model, params, stats, images = _tiny("cosine")
    fresh = jit(get_model("mlp", 3, head="cosine").init)(jax.random.key(3), images).params["head"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(fresh, axis=0), 1, rtol=1e-5)
    logits, _ = model.apply(params, stats, images, train=False)
    assert np.abs(logits).max() <= 1 + 1e-6
    features, weight = model.features(params, stats, images)[0], params["head"]["kernel"]
    np.testing.assert_allclose(layers.cosine_logits(5 * features, 0.1 * weight), logits, rtol=1e-4, atol=1e-5)
    gradient = jax.grad(lambda f: jnp.sum(layers.cosine_logits(f, weight)))(jnp.zeros_like(features))
    assert np.all(np.isfinite(gradient))


def test_bfloat16_computes_coarsely_and_keeps_the_rest_in_float32():
    _, params, stats, images = _tiny()
    results = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        model = get_model("resnet32", 3, dtype=dtype, **TINY)
        shapes = model.tap_shapes(params, stats, images)
        taps = jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), shapes)

        @jit
        def run(taps, model=model):
            def loss(taps):
                logits, updated = model.apply(params, stats, images, train=True, taps=taps)
                return jnp.sum(logits), (logits, updated)

            return jax.grad(loss, has_aux=True)(taps)

        gradient, (logits, updated) = run(taps)
        kept = jax.tree.leaves((_shapes(model, images.shape), updated, logits))
        assert {str(leaf.dtype) for leaf in kept} == {"float32"}
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
        results[dtype] = np.asarray(logits)
    error = np.abs(results[jnp.bfloat16] - results[jnp.float32]).max()
    assert 0 < error < 0.1 * np.abs(results[jnp.float32]).max()


def test_seeds_by_vmap_equal_single_runs():
    model = get_model("small_cnn", 10)
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))

    def run(key):
        variables = model.init(key, images)
        return model.apply(*variables, images, train=True)

    keys = jax.random.split(jax.random.key(1), 3)
    together, single = jit(jax.vmap(run))(keys), jit(run)
    for i, key in enumerate(keys):
        alone = single(key)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), together, alone)


def test_perceptron_has_no_statistics_unless_normalised():
    vectors = jax.random.normal(jax.random.key(0), (5, 9))
    plain, normalised = get_model("mlp", 4, widths=[8]), get_model("mlp", 4, widths=[8], normalize=True)
    variables = jit(plain.init)(jax.random.key(0), vectors)
    assert variables.stats == {} == plain.apply(*variables, vectors, train=True)[1]
    assert plain.tap_shapes(*variables, vectors) == {}
    variables = jit(normalised.init)(jax.random.key(0), vectors)
    assert normalised.tap_shapes(*variables, vectors)["norm1"].shape == (5, 8)


def test_a_linear_classifier_is_tapped_at_its_inputs_and_a_number_is_one_width():
    vectors = jax.random.normal(jax.random.key(0), (5, 9))
    linear = get_model("linear", 4)
    params, stats = jit(linear.init)(jax.random.key(0), vectors)
    assert {path: leaf.shape for path, leaf in flatten_dict(params).items()} == {
        ("head", "kernel"): (9, 4), ("head", "bias"): (4,),
    }  # fmt: skip
    logits, features, _ = linear.outputs(params, stats, vectors, train=False)
    np.testing.assert_array_equal(features, vectors)
    moved, _ = linear.apply(params, stats, vectors, train=False, taps={"inputs": vectors})
    np.testing.assert_allclose(moved - logits, vectors @ params["head"]["kernel"], atol=1e-5)
    one = jax.eval_shape(get_model("mlp", 4, widths=7).init, jax.random.key(0), vectors)
    assert one.params["linear1"]["kernel"].shape == (9, 7) and "linear2" not in one.params


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 28, 28, 1), (2, 9, 7, 3)])
def test_small_cnn_takes_small_images_of_any_size(shape):
    model = get_model("small_cnn", 10, stages=((8,), (16,)), pooling="flatten")
    variables = _shapes(model, shape)
    assert variables.params["head"]["kernel"].shape == (16 * (shape[1] // 4) * (shape[2] // 4), 10)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match=r"unknown model 'resnet33'.*resnet32"):
        get_model("resnet33", 10)
    with pytest.raises(ValueError, match=r"unknown model 'zzz'.*cnn4.*small_cnn"):
        get_model("zzz", 10)
    with pytest.raises(ValueError, match=r"no option 'depth'.*blocks"):
        get_model("resnet32", 10, depth=3)
    with pytest.raises(ValueError, match="head must be one of linear, cosine, got 'norm'"):
        get_model("cnn4", 10, head="norm")
    with pytest.raises(ValueError, match="num_classes"):
        get_model("cnn4", 0)
    with pytest.raises(ValueError, match="floating"):
        get_model("cnn4", 10, dtype=jnp.int32)
    with pytest.raises(ValueError, match=r"\[B, H, W, C\], got shape \(2, 64\)"):
        _shapes(get_model("cnn4", 10), (2, 64))
    with pytest.raises(ValueError, match="too small"):
        _shapes(get_model("cnn8", 10), (2, 4, 4, 3))


def test_weights_of_every_norm_and_head_are_named_alike():
    leaves = {path[-1] for path in flatten_dict(_shapes(get_model("preact_resnet18", 10), (1, 32, 32, 3)).params)}
    assert leaves == {"kernel", "scale", "bias"}
