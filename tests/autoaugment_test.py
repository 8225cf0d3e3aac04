"""Every AutoAugment operation, and the composed policy, against Pillow."""

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from robustjax.data import autoaugment as aa

# Pillow's blend is two rounded float32 operations on x86; compilers may fuse them elsewhere, and truncation then
# moves a grey level by one.
BLEND_TOLERANCE = 0 if platform.machine().lower() in ("x86_64", "amd64") else 1
SHAPES = [(8, 8, 3), (32, 32, 3), (9, 14, 1)]


def _batch(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Random images, narrow and natural-like histograms, two levels, constants, and all-equal channels."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    ramp = np.add.outer(np.arange(height) * 5, np.arange(width) * 3)[..., None] + np.arange(channels) * 20
    images = [rng.integers(0, 256, shape) for _ in range(3)]
    images += [
        rng.integers(low, high + 1, shape) for low, high in ((100, 120), (0, 9), (37, 201), (17, 102), (250, 255))
    ]
    images += [np.clip(ramp + rng.normal(0, 4, shape), 0, 255), rng.choice([3, 200], shape), np.full(shape, 255)]
    images += [np.full(shape, 77), np.zeros(shape), np.where(np.arange(width)[:, None] == 0, 0, 255) + np.zeros(shape)]
    return np.stack(images).astype(np.uint8)


def _pillow(operation, images) -> np.ndarray:
    """Apply a function of one Pillow image to each image of a batch."""
    out = []
    for image in np.asarray(images):
        mode = image[..., 0] if image.shape[-1] == 1 else image
        out.append(np.asarray(operation(Image.fromarray(mode))).reshape(image.shape))
    return np.stack(out)


def _transform(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    fill = 128 if image.mode == "L" else (128,) * 3
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=128 if image.mode == "L" else (128,) * 3)


PILLOW = {
    "shear_x": lambda image, v: _transform(image, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda image, v: _transform(image, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda image, v: _transform(image, (1, 0, v, 0, 1, 0)),
    "translate_y": lambda image, v: _transform(image, (1, 0, 0, 0, 1, v)),
    "rotate": _rotate,
    "posterize": ImageOps.posterize,
    "solarize": ImageOps.solarize,
    "invert": lambda image, _: ImageOps.invert(image),
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
}
FACTORS = [0.0, 0.1, 0.4, 0.8, 1.0, 1.1, 1.3, 1.7, 1.9]
BOTH_SIGNS = {
    "shear_x": [0.0, 0.1, 0.2, 0.3 * 7 / 9, 0.3],
    "shear_y": [0.0, 0.1, 0.2, 0.3 * 8 / 9, 0.3],
    "translate_x": [0.0, 0.4, 0.5, 1.5, 3.2, 150 / 331 * 32, 40.0],
    "translate_y": [0.0, 0.4, 0.5, 2.5, 6.7, 150 / 331 * 32, 40.0],
    "rotate": [0.0, 30 / 9, 60 / 9, 20.0, 30.0, 45.0, 180.0],
}
VALUES = {
    **{name: values + [-v for v in values if v] for name, values in BOTH_SIGNS.items()},
    "posterize": [1, 4, 5, 7, 8],
    "solarize": [0, 256 / 9, 128, 256 * 7 / 9, 255, 256],
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), FACTORS),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_operation_with_magnitude_equals_pillow(name, shape):
    images = _batch(shape)
    tolerance = BLEND_TOLERANCE if name in ("brightness", "contrast", "color", "sharpness") else 0
    for value in VALUES[name]:
        ours = np.asarray(getattr(aa, name)(jnp.asarray(images), value))
        theirs = _pillow(lambda image, v=value: PILLOW[name](image, v), images)
        assert ours.dtype == np.uint8
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= tolerance, f"{name}({value}): {np.count_nonzero(difference)} pixels differ"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["autocontrast", "equalize", "invert"])
def test_operation_without_magnitude_equals_pillow(name, shape):
    images = np.concatenate([_batch(shape, seed) for seed in range(3)])
    theirs = _pillow(lambda image: PILLOW[name](image, None), images)
    np.testing.assert_array_equal(getattr(aa, name)(jnp.asarray(images)), theirs)


def test_autocontrast_equals_pillow_for_every_range():
    """All pairs of darkest and brightest level, as two-pixel-wide images that hold every level between them."""
    low, high = np.triu_indices(256, k=1)
    chosen = slice(None, None, 11)
    low, high = low[chosen], high[chosen]
    images = np.clip(np.arange(256)[None, :], low[:, None], high[:, None]).astype(np.uint8).reshape(-1, 2, 128, 1)
    theirs = _pillow(ImageOps.autocontrast, images)
    assert np.any(theirs.max((1, 2, 3)) == 254)  # the rounding that the correction table is for
    np.testing.assert_array_equal(jax.jit(aa.autocontrast)(images), theirs)


@pytest.mark.parametrize("factor", np.round(np.linspace(0.1, 1.9, 19), 1))
def test_compiled_blend_equals_pillow_on_all_level_pairs(factor):
    """Every (degenerate, image) pair under jit, where a fused multiply-add would show."""
    degenerate, levels = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    theirs = np.asarray(Image.blend(Image.fromarray(degenerate), Image.fromarray(levels), factor))
    ours = jax.jit(aa._blend)(degenerate[None, ..., None], levels[None, ..., None], float(factor))[0, ..., 0]
    assert np.abs(np.asarray(ours, int) - theirs).max() <= BLEND_TOLERANCE


@pytest.mark.parametrize("name", ["translate_y", "rotate", "contrast"])
def test_one_magnitude_per_example(name):
    images = jnp.asarray(_batch((8, 8, 3))[:4])
    values = np.array(VALUES[name][1:5])
    single = [getattr(aa, name)(images[i : i + 1], values[i])[0] for i in range(4)]
    np.testing.assert_array_equal(getattr(aa, name)(images, values), jnp.stack(single))


def test_traced_angles_agree_with_host_angles():
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (64, 32, 32, 3), np.uint8))
    angles = np.random.default_rng(2).uniform(-30, 30, 64)
    same = np.asarray(jax.jit(aa.rotate)(images, jnp.asarray(angles, jnp.float32)) == aa.rotate(images, angles))
    assert same.all(-1).mean() > 0.9995


def _replay(image: Image.Image, sub_policy: int, applied, positive) -> Image.Image:
    """The policy on one Pillow image, from the published levels, written independently of the library's tables."""
    for stage, (name, _, level) in enumerate(aa.CIFAR10_POLICY[sub_policy]):
        if not applied[stage]:
            continue
        sign = 1 if positive[stage] else -1
        width, height = image.size
        value = {
            "shear_x": sign * np.linspace(0, 0.3, 10)[level],
            "shear_y": sign * np.linspace(0, 0.3, 10)[level],
            "translate_x": sign * np.linspace(0, 150 / 331, 10)[level] * width,
            "translate_y": sign * np.linspace(0, 150 / 331, 10)[level] * height,
            "rotate": sign * np.linspace(0, 30, 10)[level],
            "posterize": int(np.round(np.linspace(8, 4, 10))[level]),
            "solarize": np.linspace(256, 0, 10)[level],
        }.get(name, 1 + sign * np.linspace(0, 0.9, 10)[level])
        image = PILLOW[name](image, value)
    return image


@pytest.mark.skipif(BLEND_TOLERANCE > 0, reason="one grey level before equalize or solarize may become many")
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1)], ids=str)
def test_policy_equals_pillow_with_the_same_draw(shape):
    images = np.concatenate([_batch(shape, seed) for seed in range(40)])
    key = jax.random.key(3)
    draw = jax.tree.map(np.asarray, aa.draw_policy(key, len(images)))
    assert {(s, *a) for s, a in zip(draw.sub_policy, draw.applied.tolist(), strict=True)} >= {
        (21, True, True),
        (2, True, True),
    }
    theirs = []
    for image, sub_policy, applied, positive in zip(images, *draw, strict=True):
        replay = lambda pil, drawn=(sub_policy, applied, positive): _replay(pil, *drawn)  # noqa: E731
        theirs.append(_pillow(replay, image[None])[0])
    ours = np.asarray(jax.jit(aa.autoaugment_cifar10)(key, images))
    assert ours.dtype == np.uint8
    wrong = np.flatnonzero((ours != np.stack(theirs)).any((1, 2, 3)))
    assert wrong.size == 0, [aa.CIFAR10_POLICY[draw.sub_policy[i]] for i in wrong]


@pytest.mark.skipif(BLEND_TOLERANCE > 0, reason="one grey level before equalize or solarize may become many")
def test_each_sub_policy_equals_pillow_with_both_operations():
    images = _batch((32, 32, 3))[np.arange(50) % 9]
    draw = aa.PolicyDraw(jnp.arange(50) % 25, jnp.ones((50, 2), bool), jnp.stack([jnp.arange(50) < 25] * 2, -1))
    theirs = [
        _pillow(lambda pil, i=i: _replay(pil, i % 25, (True, True), (i < 25, i < 25)), image[None])[0]
        for i, image in enumerate(images)
    ]
    np.testing.assert_array_equal(jax.jit(aa.apply_policy)(images, draw), np.stack(theirs))


def test_unapplied_policy_is_the_identity():
    images = _batch((32, 32, 3))[np.arange(50) % 9]
    draw = aa.draw_policy(jax.random.key(0), 50)._replace(applied=jnp.zeros((50, 2), bool))
    np.testing.assert_array_equal(jax.jit(aa.apply_policy)(images, draw), images)


def test_draws_follow_the_published_probabilities():
    count = 50_000
    draw = jax.tree.map(np.asarray, aa.draw_policy(jax.random.key(5), count))
    frequency = np.bincount(draw.sub_policy, minlength=25) / count
    np.testing.assert_allclose(frequency, 1 / 25, atol=0.005)
    np.testing.assert_allclose(draw.positive.mean(0), 0.5, atol=0.01)
    probability = np.array([[p for _, p, _ in stages] for stages in aa.CIFAR10_POLICY])
    rate = np.stack([draw.applied[draw.sub_policy == s].mean(0) for s in range(25)])
    np.testing.assert_allclose(rate, probability, atol=0.05)  # 4.5 standard deviations of 2000 draws
    assert not draw.applied[draw.sub_policy == 14, 1].any()  # "invert" with probability 0


def test_policy_table_is_the_published_one():
    """Checksums of the 25 sub-policies: their number, and the sums of probabilities and levels."""
    operations = [operation for stages in aa.CIFAR10_POLICY for operation in stages]
    assert len(aa.CIFAR10_POLICY) == 25
    names = sorted({name for name, _, _ in operations})
    assert names == sorted(set(PILLOW) - {"shear_x"})
    np.testing.assert_allclose(sum(p for _, p, _ in operations), 26.5)
    assert sum(level for _, _, level in operations) == 267


def test_policy_refuses_wrong_input():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"autoaugment needs C in \(1, 3\)"):
        aa.autoaugment_cifar10(key, jnp.zeros((2, 8, 8, 4), jnp.uint8))
    with pytest.raises(ValueError, match="two-dimensional images"):
        aa.autoaugment_cifar10(key, jnp.zeros((2, 8), jnp.uint8))
    with pytest.raises(TypeError, match="uint8"):
        aa.autoaugment_cifar10(key, jnp.zeros((2, 8, 8, 3), jnp.float32))
