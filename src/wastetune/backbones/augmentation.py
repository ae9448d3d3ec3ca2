"""Views of a picture: the original and augmented ones of increasing magnitude.

OpenCV computes them before the trunk: one affine map (flip, shift, zoom, rotation), one colour matrix
(brightness, contrast, saturation) and an erased rectangle. Keras's layers take longer than a small trunk;
`docs/log.md` has the images/s of the alternatives.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.seeding import seed_for

# In the key of every stored activation: change it whenever a view's pixels change.
RECIPE = "1"

# The ranges at magnitude 1; a view of magnitude m draws from m times these.
_ROTATION_DEGREES = 25.0
_ZOOM = 0.3
_SHIFT = 0.15
_BRIGHTNESS = 40.0
_CONTRAST = 0.4
_SATURATION = 0.5
_ERASED_SIDE = 0.4

_GREY = np.array([0.299, 0.587, 0.114])

PixelArray = npt.NDArray[np.uint8]


def view_magnitude(view: int, views: int) -> float:
    """The magnitude of view number `view` of `views`: 0 for the original picture, then in equal steps up to 1."""
    return 0.0 if view == 0 else view / (views - 1)


def usable_views(strength: float, views: int) -> int:
    """How many of the views a trial with this augmentation strength trains on: all up to the nearest magnitude."""
    return 1 + int(strength * (views - 1) + 0.5)


def snap_strength(strength: float, views: int) -> float:
    """The strength rounded to the magnitude of the strongest view that a trial trains on."""
    return view_magnitude(usable_views(strength, views) - 1, views)


def build_views(pixels: PixelArray, keys: Sequence[str], view: int, magnitude: float) -> PixelArray:
    """One view of each picture, (n, size, size, 3) uint8 like `pixels`.

    It depends only on the picture, its key, the view's number and the magnitude, not on the rest of the batch.
    """
    if magnitude == 0.0:
        return pixels
    return np.stack(
        [
            augment_picture(picture, magnitude, seed_for("view", RECIPE, key, view))
            for picture, key in zip(pixels, keys, strict=True)
        ]
    )


def augment_picture(picture: PixelArray, magnitude: float, seed: int) -> PixelArray:
    """A view of one picture (size, size, 3), which the magnitude and the seed determine."""
    rng = np.random.default_rng(seed)
    transformed = _transform(picture, magnitude, rng)
    coloured = _recolour(transformed, magnitude, rng)
    return _erase(coloured, magnitude, rng)


def _transform(picture: PixelArray, magnitude: float, rng: np.random.Generator) -> PixelArray:
    import cv2

    size = picture.shape[0]
    centre = ((size - 1) / 2, (size - 1) / 2)
    angle = magnitude * rng.uniform(-_ROTATION_DEGREES, _ROTATION_DEGREES)
    zoom = 1 + magnitude * rng.uniform(-_ZOOM, _ZOOM)
    affine = cv2.getRotationMatrix2D(centre, angle, zoom)
    if rng.random() < 0.5:  # mirror left and right: x -> size - 1 - x before the map
        affine[:, 2] += affine[:, 0] * (size - 1)
        affine[:, 0] *= -1
    affine[:, 2] += magnitude * rng.uniform(-_SHIFT, _SHIFT, 2) * size
    transformed: Any = cv2.warpAffine(
        picture, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(transformed, np.uint8)


def _recolour(picture: PixelArray, magnitude: float, rng: np.random.Generator) -> PixelArray:
    import cv2

    brightness = magnitude * rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    contrast = 1 + magnitude * rng.uniform(-_CONTRAST, _CONTRAST)
    saturation = 1 + magnitude * rng.uniform(-_SATURATION, _SATURATION)
    colours = contrast * (saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1)))
    offset = np.full((3, 1), brightness + (1 - contrast) * 127.5)
    recoloured: Any = cv2.transform(picture, np.hstack([colours, offset]))
    return np.asarray(recoloured, np.uint8)


def _erase(picture: PixelArray, magnitude: float, rng: np.random.Generator) -> PixelArray:
    size = picture.shape[0]
    height, width = (magnitude * rng.uniform(0, _ERASED_SIDE, 2) * size).astype(int)
    top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    picture[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return picture
