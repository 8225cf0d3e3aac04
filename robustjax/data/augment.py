"""Augmentation on the device: pure functions of a key and a uint8 batch, and views made of them.

A *view* is a function ``(key, images uint8 [B, H, W, C]) -> float32 [B, H, W, C]`` that augments and normalises.
Token ids, int32 [B, L], have the view "none" only, which leaves them alone.
Every example draws its own randomness, everything is a batched gather or an elementwise expression, and all of it
works under ``jit``, in loops and under an outer ``vmap`` over seeds (keys [S], images [S, B, H, W, C]).
"""

import difflib
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from robustjax._checks import check_choice
from robustjax.data.autoaugment import autoaugment_cifar10, check_images, rotate, sample_nearest

View = Callable[[Array, Array], Array]

CROP_MODES = ("constant", "reflect")
# token -> size where the token gives none (None: the token takes no size)
TOKENS = {"none": None, "crop": 4, "flip": None, "rotate": 20, "autoaugment": None, "cutout": 16}


def random_crop(key: Array, images: Array, padding: int, mode: str = "constant") -> Array:
    """Crop each image at a random offset after padding it by ``padding`` pixels on every side; size kept.

    ``images`` uint8 [B, H, W, C]; both offsets are uniform on 0 … 2·padding. ``mode`` says what the padding holds:
    "constant" (0) or "reflect" (the image mirrored at its border pixel, which is not repeated). Raises ValueError
    for a padding outside 0 … min(H, W) - 1, an unknown mode or a wrong rank, TypeError for another dtype.
    """
    check_images(images, "crop")
    check_choice("mode", mode, CROP_MODES)
    batch, height, width = images.shape[:3]
    if not 0 <= padding < min(height, width):
        raise ValueError(f"crop padding {padding} does not fit images of {height}x{width}; accepted: 0 to side - 1")
    offset = jax.random.randint(key, (2, batch, 1, 1), -padding, padding + 1, jnp.int32)
    rows = jnp.arange(height, dtype=jnp.int32)[:, None] + offset[0]
    columns = jnp.arange(width, dtype=jnp.int32) + offset[1]
    if mode == "reflect":
        rows, columns = (side - 1 - jnp.abs(side - 1 - jnp.abs(i)) for i, side in ((rows, height), (columns, width)))
    return sample_nearest(images, rows, columns, fill=0)


def random_flip(key: Array, images: Array) -> Array:
    """Mirror each image left to right with probability 1/2; uint8 [B, H, W, C]."""
    check_images(images, "flip")
    flipped = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def cutout(key: Array, images: Array, size: int, fill: int = 128) -> Array:
    """Fill a square of side ``size`` centred at a uniform pixel of each image, clipped at the border.

    ``images`` uint8 [B, H, W, C]; DeVries & Taylor 2017 (with ``fill`` the mean grey). An even side has its centre
    right of and below its middle. Raises ValueError for a size outside 1 … min(H, W) or a fill outside 0 … 255.
    mmcv, which Dynamic Loss's code calls, shifts a square that crosses the upper or left border inwards instead
    of clipping it there.
    """
    check_images(images, "cutout")
    batch, height, width = images.shape[:3]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"cutout size {size} does not fit images of {height}x{width}; accepted: 1 to the side")
    if not 0 <= fill <= 255:
        raise ValueError(f"cutout fill {fill} is not a grey level; accepted: 0 to 255")
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (batch, 1, 1, 1), 0, height, jnp.int32) - size // 2
    left = jax.random.randint(column_key, (batch, 1, 1, 1), 0, width, jnp.int32) - size // 2
    row = jnp.arange(height, dtype=jnp.int32)[:, None, None]
    column = jnp.arange(width, dtype=jnp.int32)[:, None]
    inside = (row >= top) & (row < top + size) & (column >= left) & (column < left + size)
    return jnp.where(inside, jnp.asarray(fill, images.dtype), images)


def random_rotation(key: Array, images: Array, degrees: float, fill: int = 0) -> Array:
    """Rotate each image by a uniform angle of ±``degrees`` about its centre, nearest neighbour, outside ``fill``.

    ``images`` uint8 [B, H, W, C]. SR's CIFAR-100 augmentation has ±20 degrees. Raises ValueError for degrees
    outside 0 … 180.
    """
    check_images(images, "rotate")
    if not 0 <= degrees <= 180:
        raise ValueError(f"rotate degrees is {degrees}; accepted: 0 to 180")
    return rotate(images, jax.random.uniform(key, images.shape[:1], jnp.float32, -degrees, degrees), fill)


def normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(images - mean) / std as float32; ``mean`` and ``std`` in grey levels (0-255), one a channel (last axis) or one.

    int32 with mean 0 and std 1 is no quantity but token ids, and stays as it is. Raises ValueError where they do not
    fit the channels.
    """
    center, spread = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    for name, value in (("mean", center), ("std", spread)):
        if value.shape not in ((), (1,), images.shape[-1:]):
            raise ValueError(f"{name} has shape {value.shape}; expected one value a channel for images {images.shape}")
    if images.dtype == jnp.int32 and not center.any() and (spread == 1).all():
        return images
    return (images.astype(jnp.float32) - center) / spread


def _parse(token: str) -> tuple[str, int | None]:
    """A token such as "crop4" as its name and size, or a ValueError with the nearest names."""
    match = re.fullmatch(r"([a-z_]+?)(\d+)?", token)
    name, digits = match.groups() if match else (token, None)
    if name not in TOKENS:
        nearest = difflib.get_close_matches(name, TOKENS, n=3, cutoff=0.4) or list(TOKENS)
        raise ValueError(f"unknown augmentation {token!r}; nearest: {', '.join(nearest)} (known: {', '.join(TOKENS)})")
    if digits is not None and TOKENS[name] is None:
        raise ValueError(f"augmentation {token!r}: {name} takes no size")
    return name, TOKENS[name] if digits is None else int(digits)


def make_view(
    spec: str, mean: Sequence[float], std: Sequence[float], crop_mode: str = "constant", cutout_fill: int = 128
) -> View:
    """A view from a text: augmentations joined by "-" and applied in that order, then normalisation.

    ``spec``: "none" (normalise only, any rank, key unused), or "crop" (zero padding 4), "flip", "rotate"
    (±20 degrees), "autoaugment" (CIFAR-10 policy, 1 or 3 channels), "cutout" (side 16), as in
    "crop-flip-autoaugment-cutout"; a number after crop, rotate or cutout replaces the default ("crop1", "cutout8").
    ``mean`` and ``std`` are in grey levels (0-255), one a channel or one for all. Raises ValueError for an unknown
    token (naming the nearest), a size for a token without one, "none" beside others, or a std that is not positive;
    the view raises where the images do not fit.
    """
    tokens = [_parse(token) for token in spec.split("-")]
    if len(tokens) > 1 and ("none", None) in tokens:
        raise ValueError(f"augmentation {spec!r}: none stands alone")
    check_choice("crop_mode", crop_mode, CROP_MODES)
    if not np.all(np.isfinite(mean)) or not np.all(np.isfinite(std)) or not np.all(np.asarray(std) > 0):
        raise ValueError(f"mean {mean} and std {std} must be finite, and std positive")

    operations = {
        "crop": lambda key, images, size: random_crop(key, images, size, crop_mode),
        "flip": lambda key, images, _: random_flip(key, images),
        "rotate": random_rotation,
        "autoaugment": lambda key, images, _: autoaugment_cifar10(key, images),
        "cutout": lambda key, images, size: cutout(key, images, size, cutout_fill),
    }
    steps = [(operations[name], size) for name, size in tokens if name != "none"]

    def view(key: Array, images: Array) -> Array:
        for index, (operation, size) in enumerate(steps):
            images = operation(jax.random.fold_in(key, index), images, size)
        return normalize(images, mean, std)

    return view
