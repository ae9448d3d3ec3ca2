"""Pictures as they are at the lowest cut, the pixels: nothing is frozen below, so nothing is stored.

Augmented views are made anew in every epoch, while the optimizer works on the batch before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.augmentation import augment_picture
from wastetune.data.pixels import PictureSet


@dataclass(frozen=True)
class _PixelChunk:
    """The pixels of a picture set, in 0..255, which are read when rows are asked for."""

    pictures: PictureSet
    size: int  # pixels a side

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self.pictures.read(rows.tolist())


def pixel_activations(pictures: PictureSet, size: int) -> Activations:
    """What the cut at the pixels gives: the pictures themselves."""
    return Activations((_PixelChunk(pictures, size),))


def take_views(
    pixels: Activations, rows: npt.NDArray[np.int64], magnitude: float, seeds: Sequence[int]
) -> npt.NDArray[np.float32]:
    """These rows of pixels, each picture augmented at this magnitude with its seed, (len(rows), size, size, 3)."""
    pictures = zip(pixels.take(rows).astype(np.uint8), seeds, strict=True)
    return np.stack([augment_picture(picture, magnitude, seed) for picture, seed in pictures]).astype(np.float32)
