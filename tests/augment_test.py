"""Crop, flip, cutout, rotation, normalisation and the views made of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustjax.data import augment

MEAN, STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)
FULL = "crop-flip-autoaugment-cutout8-rotate"
SPECS = ["none", "crop", FULL]


@functools.cache
def _compiled(spec: str) -> augment.View:
    """The compiled view, shared by the tests: compiling AutoAugment is what takes time here."""
    return jax.jit(augment.make_view(spec, MEAN, STD))


def _images(count: int, height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8))


@settings(max_examples=12, deadline=None)
@given(
    mode=st.sampled_from(["constant", "reflect"]),
    padding=st.integers(0, 5),
    size=st.sampled_from([(8, 8), (6, 9)]),
    seed=st.integers(0, 2**31 - 1),
)
def test_crop_is_a_window_of_the_padded_image(mode, padding, size, seed):
    height, width = size
    images = np.asarray(_images(4, height, width, seed=seed))
    crops = np.asarray(augment.random_crop(jax.random.key(seed), jnp.asarray(images), padding, mode))
    assert crops.shape == images.shape and crops.dtype == np.uint8
    for image, crop in zip(images, crops, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(0, 1))
        assert (windows == np.moveaxis(crop, -1, 0)).all((-3, -2, -1)).any()


def test_crop_offsets_are_uniform_and_independent():
    """A coordinate image shows the offset at its centre: 5 x 5 offsets, each with probability 1/25."""
    rows, columns = np.meshgrid(np.arange(9), np.arange(9), indexing="ij")
    image = np.stack([rows, columns], -1).astype(np.uint8)
    crops = augment.random_crop(jax.random.key(1), jnp.broadcast_to(image, (20_000, 9, 9, 2)), 2)
    row, column = np.asarray(crops[:, 4, 4]).astype(int).T - 4
    counts = np.histogram2d(row, column, bins=[np.arange(-2.5, 3)] * 2)[0]
    assert counts.sum() == 20_000
    np.testing.assert_allclose(counts / 20_000, 1 / 25, atol=0.007)


def test_flip_mirrors_half_of_the_images():
    images = _images(4000, 4, 5)
    flipped = np.asarray(augment.random_flip(jax.random.key(0), images))
    same, mirrored = (flipped == images).all((1, 2, 3)), (flipped == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.035  # 4.4 standard deviations


@pytest.mark.parametrize("size", [1, 5, 12])
def test_cutout_fills_one_clipped_square(size):
    side, fill = 12, 128
    images = jnp.zeros((3000, side, side, 1), jnp.uint8)
    filled = np.asarray(augment.cutout(jax.random.key(size), images, size, fill))[..., 0] == fill
    heights, widths = filled.any(2).sum(1), filled.any(1).sum(1)
    np.testing.assert_array_equal(filled.sum((1, 2)), heights * widths)  # a rectangle: no gaps
    visible = np.array([min(c - size // 2 + size, side) - max(c - size // 2, 0) for c in range(side)])
    assert set(heights) == set(widths) == set(visible)  # all centres occur, and only squares clipped at the border
    assert abs(filled.mean() - (visible.mean() / side) ** 2) < 0.02


def test_cutout_leaves_the_rest():
    images = _images(64)
    out = augment.cutout(jax.random.key(0), images, 6, fill=7)
    changed = np.asarray(out != images).any(-1)
    assert np.asarray(out)[changed].tolist() == [[7, 7, 7]] * changed.sum()
    assert 0.05 < changed.mean() < 36 / 256


def test_rotation_equals_pillow_at_the_angles_drawn():
    """The angles are one uniform draw on the key; float32 coefficients may move a few border pixels."""
    images, key = _images(64, 32, 32), jax.random.key(4)
    angles = np.asarray(jax.random.uniform(key, (64,), jnp.float32, -20.0, 20.0), float)
    theirs = [
        np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.NEAREST, fillcolor=(0, 0, 0)))
        for image, angle in zip(np.asarray(images), angles, strict=True)
    ]
    ours = np.asarray(augment.random_rotation(key, images, 20.0))
    assert (ours == np.stack(theirs)).all(-1).mean() > 0.9995
    assert angles.min() < -15 and angles.max() > 15


def test_normalize_by_hand():
    images = jnp.asarray([[[[0, 128, 255]]]], jnp.uint8)
    out = augment.normalize(images, (100.0, 128.0, 5.0), (50.0, 2.0, 125.0))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out[0, 0, 0], [-2.0, 0.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(augment.normalize(images, [128.0], [2.0])[0, 0, 0], [-64.0, 0.0, 63.5], rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_view_range_determinism_and_jit(spec):
    view, images = _compiled(spec), _images(6)
    out = view(jax.random.key(0), images)
    assert out.shape == images.shape and out.dtype == jnp.float32
    low, high = (0 - np.array(MEAN)) / STD, (255 - np.array(MEAN)) / STD
    assert (out >= low - 1e-5).all() and (out <= high + 1e-5).all()
    np.testing.assert_array_equal(out, view(jax.random.key(0), images))
    assert (spec == "none") == bool((view(jax.random.key(1), images) == out).all())
    eager = augment.make_view(spec, MEAN, STD)(jax.random.key(0), images)
    np.testing.assert_allclose(out, eager, atol=1e-5)  # only the division may be compiled differently


def test_none_normalises_only():
    images = _images(3)
    expected = (np.asarray(images, float) - MEAN) / STD
    np.testing.assert_allclose(augment.make_view("none", MEAN, STD)(jax.random.key(0), images), expected, atol=1e-5)
    assert augment.make_view("none", [0.0], [1.0])(jax.random.key(0), jnp.ones((2, 7))).shape == (2, 7)


def test_vmap_over_seeds_equals_a_loop():
    view = augment.make_view(FULL, MEAN, STD)
    images = _images(3 * 6).reshape(3, 6, 16, 16, 3)
    keys = jax.random.split(jax.random.key(7), 3)
    together, single = jax.jit(jax.vmap(view))(keys, images), _compiled(FULL)
    np.testing.assert_allclose(together, jnp.stack([single(keys[i], images[i]) for i in range(3)]), atol=1e-5)


def test_vmap_over_seeds_with_a_shared_batch():
    view, images, keys = augment.make_view("crop-flip", MEAN, STD), _images(6), jax.random.split(jax.random.key(7), 3)
    shared, single = jax.jit(jax.vmap(view, in_axes=(0, None)))(keys, images), _compiled("crop-flip")
    np.testing.assert_allclose(shared, jnp.stack([single(key, images) for key in keys]), atol=1e-5)


def test_view_in_a_loop_equals_separate_calls():
    view, images, key = augment.make_view(FULL, MEAN, STD), _images(6), jax.random.key(0)
    step = lambda i, total: total + view(jax.random.fold_in(key, i), images)  # noqa: E731
    looped = jax.jit(lambda: jax.lax.fori_loop(0, 3, step, jnp.zeros(images.shape)))()
    single = _compiled(FULL)
    np.testing.assert_allclose(looped, sum(single(jax.random.fold_in(key, i), images) for i in range(3)), atol=1e-4)


def test_steps_of_a_view_use_their_own_keys_and_order():
    images, key = _images(6), jax.random.key(2)
    by_hand = augment.random_crop(jax.random.fold_in(key, 0), images, 4)
    by_hand = augment.random_flip(jax.random.fold_in(key, 1), by_hand)
    by_hand = augment.cutout(jax.random.fold_in(key, 2), by_hand, 8)
    view = augment.make_view("crop-flip-cutout8", [0.0], [1.0])
    np.testing.assert_array_equal(view(key, images), by_hand)


def test_view_options_reach_their_steps():
    images, key = _images(32), jax.random.key(2)
    reflected = augment.make_view("crop6", [0.0], [1.0], crop_mode="reflect")(key, images)
    expected = augment.random_crop(jax.random.fold_in(key, 0), images, 6, "reflect")
    np.testing.assert_array_equal(reflected, expected)
    black = augment.make_view("cutout", [0.0], [1.0], cutout_fill=0)(key, images)
    np.testing.assert_array_equal(black, augment.cutout(jax.random.fold_in(key, 0), images, 16, 0))


@pytest.mark.parametrize("spec", ["crop1-autoaugment-cutout4", "crop2-flip-rotate"])
def test_small_grey_images(spec):
    images = _images(5, 8, 8, 1)
    out = jax.jit(augment.make_view(spec, [120.0], [60.0]))(jax.random.key(0), images)
    assert out.shape == images.shape and bool(jnp.isfinite(out).all())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("crop-flop", "unknown augmentation 'flop'; nearest: flip"),
        ("autoaug", "nearest: autoaugment"),
        ("", "unknown augmentation ''"),
        ("crop-", "unknown augmentation ''"),
        ("crop4.5", "unknown augmentation 'crop4.5'"),
        ("flip2", "flip takes no size"),
        ("none-crop", "none stands alone"),
    ],
)
def test_bad_spec_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        augment.make_view(spec, MEAN, STD)


def test_bad_view_settings_are_refused():
    with pytest.raises(ValueError, match="crop_mode='mirror' is none of constant, reflect"):
        augment.make_view("crop", MEAN, STD, crop_mode="mirror")
    with pytest.raises(ValueError, match="std positive"):
        augment.make_view("none", MEAN, (1.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("crop8", (2, 8, 8, 3), "crop padding 8 does not fit images of 8x8"),
        ("cutout16", (2, 8, 8, 3), "cutout size 16 does not fit"),
        ("cutout0", (2, 8, 8, 3), "cutout size 0"),
        ("rotate181", (2, 8, 8, 3), "rotate degrees is 181"),
        ("flip", (2, 40), "flip needs two-dimensional images"),
        ("crop", (2, 8, 8), "crop needs two-dimensional images"),
        ("autoaugment", (2, 8, 8, 2), "autoaugment needs C in"),
        ("none", (2, 8, 8, 2), "mean has shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(spec, shape, message):
    with pytest.raises(ValueError, match=message):
        augment.make_view(spec, MEAN, STD)(jax.random.key(0), jnp.zeros(shape, jnp.uint8))


def test_float_images_are_refused():
    with pytest.raises(TypeError, match="flip needs uint8 images"):
        augment.make_view("flip", MEAN, STD)(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
