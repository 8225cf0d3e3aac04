"""AutoAugment's CIFAR-10 policy on the device, each operation equal to Pillow's.

Images are uint8 ``[B, H, W, C]`` with C = 3 (RGB) or C = 1 (Pillow's mode "L"). Every operation is one batched
expression (a gather, a table lookup or a blend) with a parameter per example, so a stage of the policy runs all
of them with the parameters of the drawn one and the identity's for the rest: no ``lax.switch``, which would
compute every branch under ``vmap`` anyway.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

FILL = 128  # what geometric operations put outside the image

# (operation, probability, level 0-9), two a sub-policy: Cubuk et al. 2019, appendix, CIFAR-10.
CIFAR10_POLICY = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)


def check_images(images: Array, caller: str, channels: tuple[int, ...] = ()) -> None:
    """Refuse anything but a batch of two-dimensional uint8 images ``[B, H, W, C]``.

    ``channels`` lists the accepted C (empty: any). Raises ValueError (rank, channels) or TypeError (dtype), naming
    ``caller``.
    """
    if images.ndim != 4:
        raise ValueError(f"{caller} needs two-dimensional images [B, H, W, C]; got shape {images.shape}")
    if images.dtype != jnp.uint8:
        raise TypeError(f"{caller} needs uint8 images (grey levels 0-255); got dtype {images.dtype}")
    if channels and images.shape[-1] not in channels:
        raise ValueError(f"{caller} needs C in {channels} channels; got shape {images.shape}")


def _per_example(value: ArrayLike, dtype: Any) -> Array:
    """A scalar or [B] parameter, shaped to broadcast against [B, H, W, C]."""
    return jnp.asarray(value, dtype).reshape(-1, 1, 1, 1)


# ---- geometry: nearest-neighbour gathers -------------------------------------------------------------------------


def sample_nearest(images: Array, rows: Array, columns: Array, fill: int) -> Array:
    """Pixels ``images[b, rows, columns]``, and ``fill`` where these lie outside the image.

    ``rows`` and ``columns`` are int32 and broadcast to ``[B, H', W']``; the result is ``[B, H', W', C]``.
    """
    height, width = images.shape[1:3]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    example = jnp.arange(images.shape[0])[:, None, None]
    taken = images.at[example, rows.clip(0, height - 1), columns.clip(0, width - 1)].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], taken, jnp.asarray(fill, images.dtype))


def _module(value: ArrayLike) -> Any:
    """NumPy (float64) for host values, so that they give Pillow's coefficients exactly; jax.numpy for arrays."""
    return jnp if isinstance(value, jax.Array) else np


def _fixed_point(xp: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Pillow's 16.16 coefficients of (x, y) -> (ax + by + c, dx + ey + f), shifted by half a pixel: int32 [..., 6]."""
    rows = xp.broadcast_arrays(*map(xp.asarray, (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)))
    return xp.floor(xp.stack(rows, -1) * 65536.0 + 0.5).astype(xp.int32)


def _shear(magnitude: Any, horizontal: bool) -> Any:
    b, d = (magnitude, 0.0) if horizontal else (0.0, magnitude)
    return _fixed_point(_module(magnitude), 1.0, b, 0.0, d, 1.0, 0.0)


def _translation(pixels: Any, horizontal: bool) -> Any:
    xp = _module(pixels)
    shift = xp.floor(xp.asarray(pixels) + 0.5)
    c, f = (shift, 0.0) if horizontal else (0.0, shift)
    return _fixed_point(xp, 1.0, 0.0, c, 0.0, 1.0, f)


def _rotation(degrees: Any, height: int, width: int) -> Any:
    xp = _module(degrees)
    radians = -xp.deg2rad(degrees)
    cos, sin = xp.cos(radians), xp.sin(radians)
    x, y = width / 2, height / 2
    return _fixed_point(xp, cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def _affine(images: Array, coefficients: ArrayLike, fill: int = FILL) -> Array:
    """Nearest-neighbour affine map; ``coefficients`` int32 [6] or [B, 6] from ``_fixed_point``."""
    a, b, c, d, e, f = jnp.moveaxis(jnp.asarray(coefficients, jnp.int32), -1, 0)[..., None, None].reshape(6, -1, 1, 1)
    y = jnp.arange(images.shape[1], dtype=jnp.int32)[:, None]
    x = jnp.arange(images.shape[2], dtype=jnp.int32)
    return sample_nearest(images, (d * x + e * y + f) >> 16, (a * x + b * y + c) >> 16, fill)


def shear_x(images: Array, magnitude: ArrayLike, fill: int = FILL) -> Array:
    """Shear along x: output pixel (x, y) shows (x + magnitude·y, y), nearest neighbour.

    ``magnitude`` is a scalar or [B], as for every operation here. Host numbers give exactly the pixels of Pillow's
    ``Image.transform(AFFINE)``; for traced values the coefficients are computed in float32, and a pixel whose source
    lies within about 1e-4 of a pixel border may differ. The same holds for ``shear_y`` and ``rotate``.
    """
    check_images(images, "shear_x")
    return _affine(images, _shear(magnitude, horizontal=True), fill)


def shear_y(images: Array, magnitude: ArrayLike, fill: int = FILL) -> Array:
    """Shear along y: output pixel (x, y) shows (x, y + magnitude·x), nearest neighbour."""
    check_images(images, "shear_y")
    return _affine(images, _shear(magnitude, horizontal=False), fill)


def translate_x(images: Array, pixels: ArrayLike, fill: int = FILL) -> Array:
    """Translate along x: output pixel (x, y) shows (x + pixels, y), a fractional shift rounded half up."""
    check_images(images, "translate_x")
    return _affine(images, _translation(pixels, horizontal=True), fill)


def translate_y(images: Array, pixels: ArrayLike, fill: int = FILL) -> Array:
    """Translate along y: output pixel (x, y) shows (x, y + pixels), a fractional shift rounded half up."""
    check_images(images, "translate_y")
    return _affine(images, _translation(pixels, horizontal=False), fill)


def rotate(images: Array, degrees: ArrayLike, fill: int = FILL) -> Array:
    """Rotate counter-clockwise about the centre, nearest neighbour, size kept (Pillow's ``Image.rotate``)."""
    check_images(images, "rotate")
    return _affine(images, _rotation(degrees, *images.shape[1:3]), fill)


# ---- tables: grey level to grey level ----------------------------------------------------------------------------


def posterize(images: Array, bits: ArrayLike) -> Array:
    """Keep the ``bits`` (0-8) highest bits of each grey level."""
    check_images(images, "posterize")
    return images & ((0xFF00 >> _per_example(bits, jnp.int32)) & 0xFF).astype(jnp.uint8)


def solarize(images: Array, threshold: ArrayLike) -> Array:
    """Invert the grey levels at or above ``threshold`` (0: all, 256: none)."""
    check_images(images, "solarize")
    return jnp.where(images.astype(jnp.float32) < _per_example(threshold, jnp.float32), images, 255 - images)


def invert(images: Array) -> Array:
    """Replace grey level v by 255 - v."""
    check_images(images, "invert")
    return 255 - images


_LEVELS = np.arange(256, dtype=np.int32)[:, None]  # axis 1 of the tables [B, 256, C]


@functools.cache
def _autocontrast_shortfall() -> np.ndarray:
    """Bits [low, high, level]: where Pillow's float64 stretch falls one below the exact quotient; uint8 [256, 256, 32].

    Pillow truncates ``v·scale - low·scale``; where the exact value is an integer, rounding may leave it just under.
    This concerns 18 % of the pairs (low, high), often the brightest level (254 and not 255).
    """
    packed = np.zeros((256, 256, 32), np.uint8)
    level = np.arange(256)
    for low in range(255):
        width = np.arange(1, 256 - low)[:, None]
        scale = 255.0 / width
        stretched = np.trunc(level * scale - low * scale).clip(0, 255)
        packed[low, low + 1 :] = np.packbits(stretched < ((level - low) * 255 // width).clip(0, 255), axis=-1)
    return packed


def _autocontrast_table(images: Array) -> Array:
    low, high = images.min((1, 2)).astype(jnp.int32), images.max((1, 2)).astype(jnp.int32)
    exact = ((_LEVELS - low[:, None]) * 255 // jnp.maximum(high - low, 1)[:, None]).clip(0, 255)
    shortfall = jnp.unpackbits(jnp.asarray(_autocontrast_shortfall())[low, high], axis=-1).swapaxes(1, 2)
    return jnp.where((high > low)[:, None], exact - shortfall.astype(jnp.int32), _LEVELS)


def _equalize_table(images: Array) -> Array:
    batch, height, width, channels = images.shape
    levels = images.astype(jnp.int32)
    counts = jnp.zeros((batch, 256, channels), jnp.int32)
    counts = counts.at[jnp.arange(batch)[:, None, None, None], levels, jnp.arange(channels)].add(1)
    brightest = (images == images.max((1, 2), keepdims=True)).sum((1, 2), dtype=jnp.int32)
    step = ((height * width - brightest) // 255)[:, None]
    below = jnp.cumsum(counts, axis=1) - counts
    return jnp.where(step > 0, jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255), _LEVELS)


def _lookup(images: Array, table: Array) -> Array:
    """Replace every grey level by its entry in ``table`` int32 [B, 256, C]."""
    pixels = images.reshape(images.shape[0], -1, images.shape[-1]).astype(jnp.int32)
    taken = jnp.take_along_axis(table.astype(jnp.uint8), pixels, axis=1, mode="promise_in_bounds")
    return taken.reshape(images.shape)


def autocontrast(images: Array) -> Array:
    """Stretch each channel's grey levels to 0-255 (a constant channel is kept)."""
    check_images(images, "autocontrast")
    return _lookup(images, _autocontrast_table(images))


def equalize(images: Array) -> Array:
    """Equalise each channel's histogram (kept where fewer than 255 pixels are below its brightest level)."""
    check_images(images, "equalize")
    return _lookup(images, _equalize_table(images))


# ---- enhancements: blends with a degenerate image ----------------------------------------------------------------


def _luminance(images: Array) -> Array:
    """Grey levels of Pillow's ``convert("L")`` (ITU-R 601-2 in 16.16 fixed point): int32 [B, H, W, 1]."""
    levels = images.astype(jnp.int32)
    if images.shape[-1] == 1:
        return levels
    red, green, blue = jnp.split(levels, 3, axis=-1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _mean_luminance(images: Array) -> Array:
    pixels = images.shape[1] * images.shape[2]
    total = _luminance(images).sum((1, 2, 3), keepdims=True, dtype=jnp.int32)
    return (2 * total + pixels) // (2 * pixels)


def _smooth(images: Array) -> Array:
    """Pillow's SMOOTH filter: 3x3 of ones with 5 in the middle over 13, the border kept; int32 [B, H, W, C]."""
    levels = images.astype(jnp.int32)
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels[:, 1:-1, 1:-1]
    return levels.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)


def _blend(degenerate: ArrayLike, images: Array, factor: ArrayLike) -> Array:
    """Pillow's blend: degenerate + factor·(images - degenerate) in float32, clipped to 0-255 and truncated."""
    degenerate = jnp.asarray(degenerate, jnp.float32)
    change = _per_example(factor, jnp.float32) * (images.astype(jnp.float32) - degenerate)
    # A compiler may fuse a product and a sum and so skip the product's rounding; truncation turns that into a whole
    # grey level (20 or 19 for 100 + 0.8·(0 - 100)). Clipping between the two changes no result and keeps them apart.
    blended = degenerate + change.clip(-255, 255)
    return blended.clip(0, 255).astype(jnp.uint8)


def brightness(images: Array, factor: ArrayLike) -> Array:
    """Blend with black: factor 0 is black, 1 the image, above 1 brighter."""
    check_images(images, "brightness")
    return _blend(0, images, factor)


def contrast(images: Array, factor: ArrayLike) -> Array:
    """Blend with the image's mean luminance: factor 0 is uniform grey, 1 the image."""
    check_images(images, "contrast", channels=(1, 3))
    return _blend(_mean_luminance(images), images, factor)


def color(images: Array, factor: ArrayLike) -> Array:
    """Blend with the grey image: factor 0 is grey, 1 the image (one channel: always the image)."""
    check_images(images, "color", channels=(1, 3))
    return _blend(_luminance(images), images, factor)


def sharpness(images: Array, factor: ArrayLike) -> Array:
    """Blend with the smoothed image: factor 0 is smooth, 1 the image, above 1 sharper; the border is kept."""
    check_images(images, "sharpness")
    return _blend(_smooth(images), images, factor)


# ---- the policy --------------------------------------------------------------------------------------------------


class PolicyDraw(NamedTuple):
    """What a key decides for a batch: pure data, so that a test or a plot can replay it."""

    sub_policy: Array  # int32 [B], row of CIFAR10_POLICY
    applied: Array  # bool [B, 2], whether each of its operations is applied
    positive: Array  # bool [B, 2], the sign of the magnitude (unused by operations without one)


class _Parameters(NamedTuple):
    """Everything one stage needs; the defaults of ``_parameters("identity", …)`` change nothing."""

    coefficients: ArrayLike  # int32 [..., 6]
    bits: ArrayLike
    threshold: ArrayLike
    factor: ArrayLike
    table: ArrayLike  # 0 none, 1 autocontrast, 2 equalize
    degenerate: ArrayLike  # index into _ENHANCEMENTS


_ENHANCEMENTS = ("brightness", "contrast", "color", "sharpness")
_TABLES = ("none", "autocontrast", "equalize")


def _parameters(name: str, level: int, positive: bool, height: int, width: int) -> _Parameters:
    """Parameters of one operation at ``level`` (0-9), as host values."""
    fraction = level / 9
    signed = fraction if positive else -fraction
    coefficients = {
        "shear_x": lambda: _shear(0.3 * signed, horizontal=True),
        "shear_y": lambda: _shear(0.3 * signed, horizontal=False),
        "translate_x": lambda: _translation(150 / 331 * width * signed, horizontal=True),
        "translate_y": lambda: _translation(150 / 331 * height * signed, horizontal=False),
        "rotate": lambda: _rotation(30.0 * signed, height, width),
    }.get(name, lambda: _shear(0.0, horizontal=True))
    return _Parameters(
        coefficients=coefficients(),
        bits=np.int32(round(8 - 4 * fraction) if name == "posterize" else 8),
        threshold=np.float32({"solarize": 256 * (1 - fraction), "invert": 0}.get(name, 256)),
        factor=np.float32(1 + 0.9 * signed if name in _ENHANCEMENTS else 1),
        table=np.int32(_TABLES.index(name) if name in _TABLES else 0),
        degenerate=np.int32(_ENHANCEMENTS.index(name) if name in _ENHANCEMENTS else 0),
    )


def _policy_parameters(height: int, width: int) -> _Parameters:
    """Parameters of the whole policy, leaves [25, 2, 3, ...]: sub-policy, stage, negative | positive | not applied."""
    variants = [
        _parameters(operation, level, positive, height, width)
        for stages in CIFAR10_POLICY
        for name, _, level in stages
        for operation, positive in ((name, False), (name, True), ("identity", True))
    ]
    shape = (len(CIFAR10_POLICY), 2, 3)
    return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(*shape, *leaves[0].shape), *variants)


def _stage(images: Array, parameters: _Parameters) -> Array:
    """Apply one operation an example; at most one of the four steps is not the identity."""
    images = _affine(images, parameters.coefficients)
    images = solarize(posterize(images, parameters.bits), parameters.threshold)
    table = jnp.select(
        [jnp.equal(parameters.table, index)[:, None, None] for index in (1, 2)],
        [_autocontrast_table(images), _equalize_table(images)],
        _LEVELS,
    )
    images = _lookup(images, table)
    degenerate = jnp.select(
        [_per_example(parameters.degenerate, jnp.int32) == index for index in (1, 2, 3)],
        [_mean_luminance(images), _luminance(images), _smooth(images)],
        0,
    )
    return _blend(degenerate, images, parameters.factor)


def draw_policy(key: Array, batch_size: int) -> PolicyDraw:
    """Draw for each example one of the 25 sub-policies, which of its two operations apply, and their signs."""
    sub_key, apply_key, sign_key = jax.random.split(key, 3)
    sub_policy = jax.random.randint(sub_key, (batch_size,), 0, len(CIFAR10_POLICY), jnp.int32)
    probability = np.array([[p for _, p, _ in stages] for stages in CIFAR10_POLICY], np.float32)
    applied = jax.random.uniform(apply_key, (batch_size, 2), jnp.float32) < jnp.asarray(probability)[sub_policy]
    return PolicyDraw(sub_policy, applied, jax.random.bernoulli(sign_key, 0.5, (batch_size, 2)))


def apply_policy(images: Array, draw: PolicyDraw) -> Array:
    """Apply a drawn AutoAugment policy to uint8 ``[B, H, W, C]``, C = 1 or 3; see ``autoaugment_cifar10``."""
    check_images(images, "autoaugment", channels=(1, 3))
    tables = _policy_parameters(*images.shape[1:3])
    choice = jnp.where(draw.applied, draw.positive.astype(jnp.int32), 2)
    for stage in (0, 1):
        drawn = (draw.sub_policy, stage, choice[:, stage])
        images = _stage(images, _Parameters(*(jnp.asarray(leaf)[drawn] for leaf in tables)))
    return images


def autoaugment_cifar10(key: Array, images: Array) -> Array:
    """AutoAugment with the CIFAR-10 policy: 25 sub-policies of two operations (Cubuk et al. 2019).

    ``images`` uint8 ``[B, H, W, C]``, C = 3, or 1 (the operations as Pillow defines them for mode "L": colour is
    the identity); returns the same shape and dtype. Each example draws its own sub-policy, both probabilities and
    both signs. Raises ValueError (rank, channels) or TypeError (dtype).

    Level m of 0-9 means m/9 of the range: shear 0.3; translation 150/331 of the side; rotation 30 degrees;
    posterize 8 to 4 bits (rounded); solarize threshold 256 to 0; colour, contrast, brightness and sharpness a factor
    1 ± 0.9 m/9. Shear, translation, rotation and the four factors take a random sign. Outside pixels are 128.
    This is the mapping of the common PyTorch re-implementation and of Dynamic Loss's training configuration; the
    paper's TensorFlow code takes the factors one-sided, 0.1 + 1.8 m/10. Resampling is nearest neighbour everywhere,
    as in that TensorFlow code; the other two shear with bicubic interpolation.
    """
    return apply_policy(images, draw_policy(key, images.shape[0]))
