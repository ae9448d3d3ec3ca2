"""Views that are made anew in every epoch, while the optimizer works on the batch before, instead of stored ones.

At the lowest cut, the pixels, nothing is frozen below, so nothing is stored. At any other the trunk runs on each view
as it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.augmentation import augment_picture
from wastetune.backbones.backbone import Backbone
from wastetune.backbones.cuts import PIXELS, Cut
from wastetune.backbones.runtime import TrunkRunner, open_trunk
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


@dataclass(frozen=True)
class LiveViews:
    """Pictures of which a new view is made whenever one is asked for."""

    pixels: Activations
    magnitude: float
    trunk: TrunkRunner | None = None  # from views to what is trained on; None: the views themselves are

    def __add__(self, other: "LiveViews") -> "LiveViews":
        return replace(self, pixels=self.pixels + other.pixels)

    def select(self, rows: npt.NDArray[np.int64]) -> "LiveViews":
        """These pictures alone."""
        return replace(self, pixels=self.pixels.select(rows))

    def take(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> npt.NDArray[np.float32]:
        """Activations (len(rows), ...) of a view of each of these pictures, which its seed determines."""
        pictures = zip(self.pixels.take(rows).astype(np.uint8), seeds, strict=True)
        views = np.stack([augment_picture(picture, self.magnitude, seed) for picture, seed in pictures])
        if self.trunk is None:
            return views.astype(np.float32)
        size = self.trunk.batch
        made = self.trunk.run(views[start : start + size] for start in range(0, len(views), size))
        return np.concatenate([activations for (activations,) in made]).astype(np.float32)


def open_live_views(backbone: Backbone, cut: Cut, pictures: PictureSet, magnitude: float) -> LiveViews:
    """Live views of these pictures at a cut. UserError as `open_trunk`."""
    trunk = None if cut == PIXELS else open_trunk(backbone, (cut,))
    return LiveViews(pixel_activations(pictures, backbone.size), magnitude, trunk)
