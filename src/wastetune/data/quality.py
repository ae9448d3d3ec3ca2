"""Picture quality: blurred, dark and blank pictures, compared with the others of their data set."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
OUTLIER = -3.0  # robust standard deviations from the median
# In grey levels of 255. Darker than the others is not dark yet, and a picture of almost one colour has nothing to blur.
DARK, BLANK = 96.0, 4.0


@dataclass(frozen=True)
class Quality:
    """Measures of n pictures, (n,) each."""

    sharpness: NDArray[np.float32]  # variance of the Laplacian, relative to the variance of the grey levels
    brightness: NDArray[np.float32]  # the 95th percentile of the grey levels, 0 to 255
    contrast: NDArray[np.float32]  # standard deviation of the grey levels


def measure_quality(pictures: Iterable[NDArray[np.uint8]]) -> Quality:
    """The quality of RGB pictures of one size, (size, size, 3) each.

    The variance of the Laplacian alone would take a pale thing on a pale ground for a blurred one, and the mean grey
    level a well-lit thing on a black ground for a dark one.
    """
    rows = [_measure(picture.astype(np.float32) @ _GREY) for picture in pictures]
    return Quality(*np.array(rows, np.float32).reshape(-1, 3).T)


def find_blank(quality: Quality) -> NDArray[np.int64]:
    """The positions of pictures of almost one colour, the plainest first."""
    return _ascending(quality.contrast, quality.contrast < BLANK)


def find_blurred(quality: Quality) -> NDArray[np.int64]:
    """The positions of pictures that are far less sharp than the others, the most blurred first."""
    sharpness = np.log(np.maximum(quality.sharpness, 1e-6))
    return _ascending(sharpness, (_deviations(sharpness) < OUTLIER) & (quality.contrast >= BLANK))


def find_dark(quality: Quality) -> NDArray[np.int64]:
    """The positions of pictures that are dark, and far darker than the others, the darkest first."""
    brightness = quality.brightness
    return _ascending(brightness, (brightness < DARK) & (_deviations(brightness) < OUTLIER))


def _measure(grey: NDArray[np.float32]) -> tuple[float, float, float]:
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    contrast = float(grey.std())
    return float(laplacian.var()) / max(contrast, 1.0) ** 2, float(np.percentile(grey, 95)), contrast


def _deviations(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each value is from the median, in standard deviations that outliers do not inflate (MAD)."""
    centred = values - np.median(values)
    spread = 1.4826 * np.median(np.abs(centred))
    return np.asarray(centred / np.maximum(spread, 1e-6), np.float32)


def _ascending(values: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    order = np.argsort(values, kind="stable")
    return order[chosen[order]]
